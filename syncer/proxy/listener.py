"""The listening side: connections, how long they may take, how many there may be.

A connection is one TLS session. It must show the whole head of a request, of :data:`MAX_HEAD` at
most, within :data:`HEAD_SECONDS` of its first byte, and may be idle between requests for
:data:`IDLE_SECONDS`. A caller that goes away takes what it had under way along. Dead peers are
found by TCP itself.

What can't be read as HTTP is refused with a Status, and not logged: it may hold a secret.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from syncer.kube.errors import ConfigError
from syncer.proxy.keepalive import detect
from syncer.proxy.refusal import RefusalError
from syncer.proxy.upstream import SERVER
from syncer.settings import Address

HEAD_SECONDS: Final = 15.0
IDLE_SECONDS: Final = 120.0
HANDSHAKE_SECONDS: Final = 10.0
MAX_FIELD: Final = 56 * 1024
"""Bytes of a request's line, and of each of its headers; commands are in the line, tokens in one of
the headers."""
MAX_HEAD: Final = 96 * 1024
"""Bytes of a request's line and headers together."""
MAX_FIELDS: Final = 128
MAX_UNSENT: Final = 64 * 1024
"""Bytes that wait for a slow reader; TLS would hold half a megabyte for each."""
DRAIN_SECONDS: Final = 0.5
"""How long short requests may take once the syncer stops."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy")


class Connection(web.RequestHandler):
    """One caller's connection."""

    __slots__ = ("_counted", "_deadline", "_head", "_listener")

    def __init__(self, listener: Listener, manager: web.Server, **options: Any) -> None:
        """Make it; nothing is connected yet."""
        super().__init__(manager, **options)
        self._listener = listener
        self._deadline: asyncio.TimerHandle | None = None
        self._counted = False
        self._head = 0  # bytes of a head that is not whole yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many."""
        super().connection_made(transport)
        self._counted = self._listener.admit()
        if not self._counted:
            self.force_close()
            return
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=MAX_UNSENT)
        if (connection := transport.get_extra_info("socket")) is not None:
            detect(connection)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the first of a request's head start its clock."""
        super().data_received(data)
        if self._waiter is None or self._waiter.done():
            self._head = 0
            self._stop_clock()
            return
        self._head += len(data)
        if self._head > MAX_HEAD:
            self.force_close()
        elif self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(HEAD_SECONDS, self._too_slow)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._stop_clock()
        if self._counted:
            self._counted = False
            self._listener.leave()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Refuse what is no HTTP.

        Args:
            request: of no use, but for the connection.
            status: for the answer.
            exc: what is wrong; its text repeats what was sent.
            message: the same.

        Raises:
            ConnectionError: an answer has begun already.
        """
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer has begun already")
        if isinstance(exc, LineTooLong):
            refusal = RefusalError(431, "the request's head is too long")
        else:
            refusal = RefusalError(status, "the request can't be read")
        response = web.Response(
            status=refusal.code,
            body=refusal.body(),
            content_type="application/json",
            headers={"Server": SERVER},
        )
        response.force_close()
        return response

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self._waiter is not None and not self._waiter.done():
            self.force_close()


class _Server(web.Server):
    """Makes a :class:`Connection` for each caller."""

    def __init__(self, listener: Listener, handler: Handler) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._listener = listener

    def __call__(self) -> Connection:
        return Connection(
            self._listener,
            self,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=IDLE_SECONDS,
            access_log=None,
            max_line_size=MAX_FIELD,
            max_field_size=MAX_FIELD,
            max_headers=MAX_FIELDS,
            auto_decompress=False,
            lingering_time=0,
            tcp_keepalive=False,
        )


class Listener:
    """Listens, and counts who is there."""

    def __init__(self, *, most: int) -> None:
        """Make it.

        Args:
            most: how many connections there may be.
        """
        self._most = most
        self.connections = 0
        self.turned_away = 0

    def admit(self) -> bool:
        """Count a new connection; ``False`` when there are too many."""
        if self.connections >= self._most:
            self.turned_away += 1
            return False
        self.connections += 1
        return True

    def leave(self) -> None:
        """Count one less."""
        self.connections -= 1

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
        server = _Server(self, handler)
        loop = asyncio.get_running_loop()
        try:
            listening = await loop.create_server(
                server,
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
            server.pre_shutdown()
            await server.shutdown(DRAIN_SECONDS)
