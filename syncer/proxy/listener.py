"""The listening side: a TLS session is a connection, and there may be only so many.

Connections are accepted here and not by the event loop, which would tell of them only after their
handshake. Handshakes under way are bounded, before anybody is known: where there is no room for
another, one gives way: of the address that has most of them, the one that has taken longest. So
callers who say nothing keep nobody out who comes from another address or is quick.

What can't be read as HTTP is refused with a Status, and not logged: it may hold a secret.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import structlog

from syncer.http1.server import Connection, Handler, Response, UnreadableError
from syncer.kube.errors import ConfigError
from syncer.proxy.refusal import RefusalError
from syncer.settings import Address

HANDSHAKE_SECONDS: Final = 10.0
MAX_HANDSHAKES: Final = 256
"""Most handshakes at a time; each takes some 50 kB."""

BACKLOG: Final = 512
"""Connections that the kernel holds for us to accept."""

EXHAUSTED_SECONDS: Final = 1.0
"""How long none are accepted after one could not be, for want of files or memory."""

DRAIN_SECONDS: Final = 0.5
"""How long short requests may take once the syncer stops."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy")


class _Counted(Connection):
    """A caller's connection that the listener knows of."""

    def __init__(self, listener: Listener, handler: Handler) -> None:
        super().__init__(handler, _refused)
        self._listener = listener
        self.unwanted = False  # it had to give way before its handshake was done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.unwanted or not self._listener.admit(self):
            self.abort()

    def left(self) -> None:
        self._listener.leave(self)


class _Handshake(NamedTuple):
    """A handshake that is under way, with whom."""

    address: str
    task: asyncio.Task[None]


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
        self._arriving: dict[_Counted, _Handshake] = {}  # the oldest first
        self.turned_away = 0

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def admit(self, connection: _Counted) -> bool:
        """Count a connection whose handshake is done; ``False`` when there are too many."""
        self._arriving.pop(connection, None)
        if len(self._connections) >= self._most:
            self.turned_away += 1
            return False
        self._connections.add(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """Count a connection no more, if it was."""
        self._connections.discard(connection)

    def connect(self, handler: Handler) -> _Counted:
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
            listening = _listen(address)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(
                f"can't listen on {address} (--bind-address and --port): {reason}"
            ) from error
        self._wait(listening, tls, handler)
        bound = Address(address.host, listening.getsockname()[1])
        log.info("listening", address=str(bound), paths=["/"])
        try:
            yield bound
        finally:
            asyncio.get_running_loop().remove_reader(listening)
            listening.close()
            await self.close(DRAIN_SECONDS)

    async def close(self, seconds: float) -> None:
        """End all connections; those whose handshake is not done yet are turned away.

        Args:
            seconds: that what is under way has to end by itself.
        """
        for arriving in tuple(self._arriving):
            self._turn_away(arriving)
        for connection in tuple(self._connections):
            connection.stop()
        busy = [task for each in self._connections if (task := each.task) is not None]
        if busy:
            await asyncio.wait(busy, timeout=seconds)
        for connection in tuple(self._connections):
            connection.cancel()
        if busy:
            await asyncio.wait(busy, timeout=seconds)

    def _wait(self, listening: socket.socket, tls: ssl.SSLContext, handler: Handler) -> None:
        """Accept who comes from now on; a listener that was closed meanwhile accepts nobody."""
        if listening.fileno() >= 0:
            loop = asyncio.get_running_loop()
            loop.add_reader(listening, self._accept, listening, tls, handler)

    def _accept(self, listening: socket.socket, tls: ssl.SSLContext, handler: Handler) -> None:
        """Accept a connection and begin its handshake."""
        loop = asyncio.get_running_loop()
        try:
            accepted, address = listening.accept()
        except (BlockingIOError, ConnectionError):
            return  # the caller did not wait
        except OSError as error:
            log.warning("no connection can be accepted", reason=error.strerror)
            loop.remove_reader(listening)
            loop.call_later(EXHAUSTED_SECONDS, self._wait, listening, tls, handler)
            return
        accepted.setblocking(False)
        connection = self.connect(handler)
        handshake = loop.create_task(self._shake_hands(accepted, connection, tls))
        # One that ends before it began has not taken the socket over.
        handshake.add_done_callback(lambda task: accepted.close() if task.cancelled() else None)
        self._arriving[connection] = _Handshake(address[0], handshake)
        if len(self._arriving) > MAX_HANDSHAKES:
            self._make_room()

    def _make_room(self) -> None:
        """End one handshake: of the address that has most, the one that has taken longest."""
        [(busiest, _)] = Counter(each.address for each in self._arriving.values()).most_common(1)
        oldest = next(one for one, each in self._arriving.items() if each.address == busiest)
        self.turned_away += 1
        self._turn_away(oldest)

    def _turn_away(self, connection: _Counted) -> None:
        """End a handshake; it may be done by the time that its task hears of it."""
        connection.unwanted = True
        self._arriving.pop(connection).task.cancel()

    async def _shake_hands(
        self, accepted: socket.socket, connection: _Counted, tls: ssl.SSLContext
    ) -> None:
        try:
            with suppress(OSError):  # the caller's trouble, of which TLS tells it
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: connection, accepted, ssl=tls, ssl_handshake_timeout=HANDSHAKE_SECONDS
                )
        finally:
            self._arriving.pop(connection, None)


def _listen(address: Address) -> socket.socket:
    """Give a listening socket; ``::`` is every address, of IPv4 too, as Go programs have it.

    Raises:
        OSError: it can't be listened on.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    both = address.host == "::" and socket.has_dualstack_ipv6()
    listening = socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    listening.setblocking(False)
    return listening


def _refused(error: UnreadableError) -> Response:
    return RefusalError(error.status, str(error)).answer(close=True)
