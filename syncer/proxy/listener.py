"""The listening side: a TLS session is a connection, and there may be only so many.

What can't be read as HTTP is refused with a Status, and not logged: it may hold a secret.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from syncer.http1.server import Connection, Handler, Response, UnreadableError
from syncer.kube.errors import ConfigError
from syncer.proxy.refusal import RefusalError
from syncer.settings import Address

HANDSHAKE_SECONDS: Final = 10.0
DRAIN_SECONDS: Final = 0.5
"""How long short requests may take once the syncer stops."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy")


class _Counted(Connection):
    """A caller's connection that the listener knows of."""

    def __init__(self, listener: Listener, handler: Handler) -> None:
        super().__init__(handler, _refused)
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._listener.admit(self):
            self.abort()

    def left(self) -> None:
        self._listener.leave(self)


class Listener:
    """Listens, and counts who is there.

    Attributes:
        turned_away: connections for which there was no room.
    """

    def __init__(self, *, most: int) -> None:
        """Make it.

        Args:
            most: how many connections there may be.
        """
        self._most = most
        self._connections: set[Connection] = set()
        self.turned_away = 0

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; ``False`` when there are too many."""
        if len(self._connections) >= self._most:
            self.turned_away += 1
            return False
        self._connections.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Count a connection no more, if it was."""
        self._connections.discard(connection)

    def connect(self, handler: Handler) -> Connection:
        """Give the protocol of a new connection.

        Args:
            handler: answers its requests.
        """
        return _Counted(self, handler)

    @asynccontextmanager
    async def serve(
        self, address: Address, tls: ssl.SSLContext, handler: Handler
    ) -> AsyncIterator[Address]:
        """Listen while the body runs.

        Args:
            address: where.
            tls: the server's context.
            handler: answers requests; cancelled when the caller goes away.

        Yields:
            Where it listens, with the port it got.

        Raises:
            ConfigError: the address can't be listened on.
        """
        try:
            listening = await asyncio.get_running_loop().create_server(
                lambda: self.connect(handler),
                address.host,
                address.port,
                ssl=tls,
                backlog=512,
                reuse_address=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(
                f"can't listen on {address} (--bind-address and --port): {reason}"
            ) from error
        bound = Address(address.host, listening.sockets[0].getsockname()[1])
        log.info("listening", address=str(bound), paths=["/"])
        try:
            yield bound
        finally:
            listening.close()
            await self.close(DRAIN_SECONDS)

    async def close(self, seconds: float) -> None:
        """End all connections; those whose handshake is not done yet are turned away.

        Args:
            seconds: that what is under way has to end by itself.
        """
        self._most = 0
        for connection in tuple(self._connections):
            connection.stop()
        busy = [task for each in self._connections if (task := each.task) is not None]
        if busy:
            await asyncio.wait(busy, timeout=seconds)
        for connection in tuple(self._connections):
            connection.cancel()
        if busy:
            await asyncio.wait(busy, timeout=seconds)


def _refused(error: UnreadableError) -> Response:
    return RefusalError(error.status, str(error)).answer(close=True)
