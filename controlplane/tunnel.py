"""Upgraded requests (exec, attach, port-forward) passed on by a web server of aiohttp.

aiohttp parses what it serves, so a connection that has left HTTP is taken from it: its transport
gets another protocol, and bytes are copied from there on. That needs two things which aiohttp calls
private, both here.

Before the API server has said 101, nothing is taken: a refusal is an ordinary response, after which
the connection serves further requests.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

_TIMEOUT = 30.0  # seconds to be answered
_CHUNK = 1 << 16  # bytes
_SWITCHING = 101
_FRAMING = ("content-length", "transfer-encoding", "connection")

Gate = Callable[[], Awaitable[None]]
"""Awaited before bytes are handed on; holds them up as long as it likes."""


class UpgradeError(Exception):
    """The server closed the connection, or did not answer in time."""


@dataclass(frozen=True)
class _Stream:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class _Taken(web.Response):
    """What a handler returns whose connection is no longer the web server's: sends nothing."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send no head."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send no body."""


class Tunnel:
    """A connection that has switched protocols, client's and server's halves; `run` joins them."""

    def __init__(self, request: web.BaseRequest, server: _Stream, head: bytes) -> None:
        """Take the client's connection from the web server and pass on `head`, the 101."""
        transport = request.transport
        if transport is None:
            raise UpgradeError("the client has gone")
        self.transport = transport
        """The client's half, to be cut by `abort`."""
        self._server = server
        self._request = request
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        protocol.connection_made(transport)
        transport.set_protocol(protocol)
        loop = asyncio.get_running_loop()
        self._client = _Stream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        reader.feed_data(request.protocol._message_tail)  # noqa: SLF001 - see above
        transport.resume_reading()
        self._client.writer.write(head)

    async def run(self, gate: Gate) -> web.Response:
        """Copy bytes both ways until one side ends; return what the handler has to return.

        TLS knows no half-closed connections, so the end of one direction is the end of both.
        """
        copies = [
            asyncio.create_task(_copy(self._client.reader, self._server.writer, gate)),
            asyncio.create_task(_copy(self._server.reader, self._client.writer, gate)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            self._client.writer.close()
            self._server.writer.close()
            self._request.protocol.connection_lost(None)  # or the web server would wait for it
        return _Taken()


async def upgrade(
    request: web.BaseRequest, server: URL, tls: ssl.SSLContext
) -> Tunnel | web.Response:
    """Pass a request for an upgrade on; return the tunnel, or the response that refuses it.

    Args:
        request: without a body that matters.
        server: scheme, host and port to pass it on to.
        tls: for the connection to it.

    Raises:
        UpgradeError: there was no whole answer.
    """
    try:
        reader, writer = await asyncio.open_connection(server.host, server.port, ssl=tls)
    except OSError as error:
        raise UpgradeError(str(error)) from error
    taken = False
    try:
        async with asyncio.timeout(_TIMEOUT):
            writer.write(_head(request))
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(maxsplit=2)[1])
            if status != _SWITCHING:
                return await _refusal(status, head, reader)
        tunnel = Tunnel(request, _Stream(reader, writer), head)
        taken = True
        return tunnel
    except (OSError, EOFError, asyncio.LimitOverrunError) as error:  # a TimeoutError is an OSError
        raise UpgradeError(str(error)) from error
    finally:
        if not taken:
            writer.close()


def _head(request: web.BaseRequest) -> bytes:
    """Return the request as it came; repeated headers (SPDY has them) stay so."""
    lines = [f"{request.method} {request.raw_path} HTTP/1.1".encode()]
    lines += [name + b": " + value for name, value in request.raw_headers]
    return b"\r\n".join([*lines, b"", b""])


async def _refusal(status: int, head: bytes, reader: asyncio.StreamReader) -> web.Response:
    lines = head.decode("latin-1").split("\r\n")[1:-2]
    headers = CIMultiDict([cast("tuple[str, str]", line.split(": ", 1)) for line in lines])
    if headers.get("Transfer-Encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    for name in _FRAMING:
        headers.popall(name, None)
    return web.Response(status=status, headers=headers, body=body or None)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: Gate) -> None:
    while chunk := await reader.read(_CHUNK):
        await gate()
        writer.write(chunk)
        await writer.drain()
