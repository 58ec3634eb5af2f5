"""Requests that turn their connection into a tunnel: exec, attach, port-forward, WebSockets.

The request goes over a connection of its own. Only when the server has agreed (101) do both
connections become one pipe; anything else is an ordinary answer, after which both are closed: what
a caller sent behind a refused upgrade is never taken for a request (CVE-2018-1002105).

A pipe copies bytes and knows nothing of what they mean. When one side is full, the other is not
read; when one side closes, so does the other, after what it had to say was written.

Source: RFC 9110 section 7.8; https://kubernetes.io/blog/2024/08/20/websockets-transition/
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final, cast

import httptools
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from syncer.kube.config import ConnectionConfig
from syncer.kube.errors import ConfigError
from syncer.proxy.identity import Header
from syncer.proxy.refusal import RefusalError
from syncer.proxy.upstream import headers_of

CONNECT_SECONDS: Final = 10.0
AGREE_SECONDS: Final = 60.0
"""How long a server may take to agree; a kubelet may have to start something first."""

IDLE_SECONDS: Final = 4 * 3600.0
"""A tunnel without a byte for so long is closed; kubelets do the same."""

FLUSH_SECONDS: Final = 30.0
"""How long a side that is closed may take to read what is left for it."""

_PROTOCOLS: Final = frozenset({"websocket", "spdy/3.1"})
_MAX_HEAD: Final = 64 * 1024
_MAX_REFUSAL: Final = 1 << 20
_LENGTHS: Final = frozenset({"content-length", "transfer-encoding"})
_CONNECTION: Final = frozenset({"connection", "upgrade", *_LENGTHS})


def wants_upgrade(headers: Iterable[Header]) -> str:
    """Give the protocol that a request wants to go on with, or ``""``.

    Other protocols than the two of Kubernetes' clients are none: a server may ignore them, and
    behind an upgrade to HTTP/2 there would be requests of ours that nobody has looked at.

    Args:
        headers: of the request.
    """
    wanted, protocol = False, ""
    for name, value in headers:
        match name.lower():
            case "connection":
                wanted = wanted or "upgrade" in value.lower().replace(" ", "").split(",")
            case "upgrade":
                protocol = value.strip()
    return protocol if wanted and protocol.lower() in _PROTOCOLS else ""


class Tunnelled(web.Response):
    """What a handler returns when the connection has been used up."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send nothing: aiohttp's part ended with the upgrade."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""


class _Pipe(asyncio.Protocol):
    """One end of a tunnel: what comes in here goes out at the other end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _Pipe | None = None
        self.lost = asyncio.get_running_loop().create_future()
        self.last = 0.0
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by descent

    def data_received(self, data: bytes) -> None:
        self.last = self._loop.time()
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        """Pass the end on; over TLS, which has no half-closed connections, all of it ends."""
        peer = self.peer.transport if self.peer is not None else None
        if peer is None or not peer.can_write_eof():
            return False
        peer.write_eof()
        return True

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.close()  # once what it holds is written

    def close(self) -> None:
        """Close this end, losing what was not written."""
        if self.transport is not None:
            self.transport.abort()


class _Agreement(_Pipe):
    """The server's end: reads its answer first, then is a pipe."""

    def __init__(self) -> None:
        super().__init__()
        self.answered: asyncio.Future[None] = self._loop.create_future()
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self.status = 0
        self.reason = ""
        self.headers: list[Header] = []
        self.body = bytearray()
        self.held = b""
        self._parser = httptools.HttpResponseParser(self)
        self._size = 0
        self._agreed = False

    # -- called by the parser --------------------------------------------------------------

    def on_status(self, status: bytes) -> None:
        self.reason = status.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1"), value.decode(errors="replace")))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200 and self.status != 101:
            self.headers = []
        elif not self.answered.done():
            self.answered.set_result(None)

    def on_body(self, body: bytes) -> None:
        self.body += body
        if len(self.body) > _MAX_REFUSAL:
            self._fail(OSError("the answer to an upgrade is too long"))

    def on_message_complete(self) -> None:
        if self.status != 101 and self.answered.done() and not self.finished.done():
            self.finished.set_result(None)

    # -- called by the transport -----------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._agreed:
            if self.peer is None:
                self.held += data
            else:
                super().data_received(data)
            return
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgraded:
            self._agreed = True
            self.held = data[upgraded.args[0] :]
            if self.transport is not None and self.held:
                self.transport.pause_reading()
        except httptools.HttpParserError as error:
            self._fail(OSError(f"not an HTTP answer: {error}"))
        if not self.answered.done() and self._size > _MAX_HEAD:
            self._fail(OSError("the head of the answer is too long"))

    def eof_received(self) -> bool:
        if self._agreed:
            return super().eof_received()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        error = exc or ConnectionResetError("the server closed the connection")
        if not self.answered.done():
            self.answered.set_exception(error)
        if not self.finished.done():
            self.finished.set_result(None)  # an answer without a length ends with its connection
        super().connection_lost(exc)

    def _fail(self, error: OSError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
        self.close()


async def tunnel(
    request: web.BaseRequest,
    config: ConnectionConfig,
    target: str,
    headers: Iterable[Header],
    *,
    admin: bool,
    refused: Callable[[int, bytes], bytes] | None = None,
    opened: Callable[[], None] | None = None,
) -> web.StreamResponse:
    """Pass an upgrade on and, when the server agrees, be a pipe until one side closes.

    Cancelled, it closes both connections.

    Args:
        request: the caller's, without a body.
        config: where the server is and who we are.
        target: path and query, escaped.
        headers: what to send, without those of the connection.
        admin: with our own credentials; else with none but those in ``headers``.
        refused: rewrites the body of an answer that is no agreement.
        opened: called when the tunnel begins.

    Returns:
        :class:`Tunnelled`, or the server's answer when it did not agree.

    Raises:
        RefusalError: no answer came, or the request has a body.
    """
    if request.can_read_body:
        raise RefusalError(400, "a request that upgrades its connection must not have a body")
    protocol = wants_upgrade(headers_of(request))
    server = await _connect(config, admin=admin)
    try:
        head = await _head(request.method, config, target, headers, protocol, admin=admin)
        if server.transport is None:
            raise ConnectionResetError
        server.transport.write(head)
        async with asyncio.timeout(AGREE_SECONDS):
            await server.answered
        if server.status != 101:
            return await _refusal(server, refused)
        if opened is not None:
            opened()
        return await _join(request, server)
    except TimeoutError as error:
        raise RefusalError(504, "the server did not agree in time") from error
    except OSError as error:
        raise RefusalError(503, "the connection can't be upgraded: no answer came") from error
    finally:
        server.close()


async def _connect(config: ConnectionConfig, *, admin: bool) -> _Agreement:
    try:
        credentials = await (config.credentials() if admin else config.bare())
        url = URL(config.server)
        name = (config.server_name or url.host) if credentials.ssl_context else None
        async with asyncio.timeout(CONNECT_SECONDS):
            _, protocol = await asyncio.get_running_loop().create_connection(
                _Agreement,
                url.host or "",
                url.port or 443,
                ssl=credentials.ssl_context,
                server_hostname=name,
            )
    except (OSError, ConfigError) as error:  # TimeoutError is an OSError
        raise RefusalError(
            503, "the server can't be reached", headers={"Retry-After": "1"}
        ) from error
    return protocol


async def _head(
    method: str,
    config: ConnectionConfig,
    target: str,
    headers: Iterable[Header],
    protocol: str,
    *,
    admin: bool,
) -> bytes:
    url = URL(config.server)
    ours = dict((await config.credentials()).headers) if admin else {}
    fields = [
        ("Host", url.authority),
        *((name, value) for name, value in headers if name.lower() not in _CONNECTION),
        *ours.items(),
        ("Connection", "Upgrade"),
        ("Upgrade", protocol),
    ]
    if method not in ("GET", "HEAD"):
        fields.append(("Content-Length", "0"))
    if any(mark in f"{name}{value}" for name, value in fields for mark in "\r\n\0"):
        raise RefusalError(400, "headers must not have control characters")
    path = f"{url.raw_path.rstrip('/')}{target}"
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode()


async def _refusal(
    server: _Agreement, refused: Callable[[int, bytes], bytes] | None
) -> web.StreamResponse:
    """Give an answer that is no agreement; both connections end with it."""
    async with asyncio.timeout(AGREE_SECONDS):
        await server.finished
    body = bytes(server.body)
    headers = CIMultiDict((name, value) for name, value in _answer_headers(server.headers))
    if refused is not None:
        body = refused(server.status, body)
        headers = CIMultiDict({"Content-Type": headers.get("Content-Type", "text/plain")})
    response = web.Response(status=server.status, reason=server.reason, headers=headers, body=body)
    response.force_close()
    return response


def _answer_headers(headers: Iterable[Header]) -> Iterator[Header]:
    dropped = {*_CONNECTION, "keep-alive", "trailer", "te", "proxy-authenticate"}
    return ((name, value) for name, value in headers if name.lower() not in dropped)


async def _join(request: web.BaseRequest, server: _Agreement) -> web.StreamResponse:
    """Make one pipe of both connections and wait until it ends."""
    protocol, transport = request.protocol, request.transport
    if transport is None or server.transport is None:
        raise ConnectionResetError
    client = _Pipe()
    client.transport = transport
    transport.set_protocol(client)  # aiohttp sees no more bytes
    # What came right behind the head; aiohttp would take it for the next request.
    early, protocol._message_tail = protocol._message_tail, b""  # noqa: SLF001
    lines = [f"HTTP/1.1 101 {server.reason or 'Switching Protocols'}"]
    agreed = [
        h for h in server.headers if h[0].lower() not in ("content-length", "transfer-encoding")
    ]
    lines += [f"{name}: {value}" for name, value in agreed]
    transport.write("\r\n".join([*lines, "", ""]).encode() + server.held)
    server.peer, client.peer = client, server
    if early:
        server.transport.write(early)
    server.transport.resume_reading()
    transport.resume_reading()
    try:
        await _until_lost(client, server)
    finally:
        client.close()
        server.close()
        # Else the server would count the connection for ever: it has not seen it end.
        protocol.connection_lost(None)
    return Tunnelled()


async def _until_lost(client: _Pipe, server: _Pipe) -> None:
    """Wait until one end is lost and the other has had a moment to write, or nothing moves."""
    loop = asyncio.get_running_loop()
    client.last = server.last = loop.time()
    while True:
        left = max(client.last, server.last) + IDLE_SECONDS - loop.time()
        if left <= 0:
            return
        ends = {client.lost, server.lost}
        done, _ = await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if done:
            # The other one was told to close; it does once all is written or its peer is gone.
            await asyncio.wait(ends, timeout=FLUSH_SECONDS)
            return
