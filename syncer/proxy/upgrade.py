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
from collections.abc import Callable, Iterable
from typing import Final, cast

import httptools

from syncer.http1.client import NoConnectionError, Server, connect, origin
from syncer.http1.head import BadHeaderError, Header, head
from syncer.http1.keepalive import detect
from syncer.http1.server import Answer, Request, Response, Sent
from syncer.kube.config import ConnectionConfig, Credentials
from syncer.kube.errors import ConfigError
from syncer.proxy.refusal import RefusalError
from syncer.proxy.upstream import end_to_end

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

Translate = Callable[[int, list[Header], bytes], tuple[list[Header], bytes]]
"""Takes status, headers and body of an answer and gives what the caller gets of the last two; of an
agreement (101), the body is empty."""


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
                words = (word.strip().lower() for word in value.split(","))
                wanted = wanted or "upgrade" in words
            case "upgrade":
                protocol = value.strip()
    return protocol if wanted and protocol.lower() in _PROTOCOLS else ""


class _Pipe(asyncio.Protocol):
    """One end of a tunnel: what comes in here goes out at the other end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _Pipe | None = None
        self.lost = asyncio.get_running_loop().create_future()
        self.last = 0.0
        self.ended = False
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by descent

    def data_received(self, data: bytes) -> None:
        self.last = self._loop.time()
        if (other := self._other()) is not None:
            other.write(data)

    def eof_received(self) -> bool:
        """Pass the end on; over TLS, which has no half-closed connections, all of it ends."""
        self.ended = True
        other = self._other()
        if other is None or not other.can_write_eof() or (self.peer and self.peer.ended):
            return False
        other.write_eof()
        return True

    def pause_writing(self) -> None:
        if (other := self._other()) is not None:
            other.pause_reading()

    def resume_writing(self) -> None:
        if (other := self._other()) is not None:
            other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        if (other := self._other()) is not None:
            other.close()  # once what it holds is written

    def close(self) -> None:
        """Close this end, losing what was not written."""
        if self.transport is not None:
            self.transport.abort()

    def _other(self) -> asyncio.Transport | None:
        """Give the other end's connection while it is open."""
        other = self.peer.transport if self.peer is not None else None
        return None if other is None or other.is_closing() else other


class _Agreement(_Pipe):
    """The server's end: reads its answer first, then is a pipe.

    Attributes:
        answered: done when the answer's head is there; fails when none came.
        finished: done when there is no more of an answer that is no agreement; then ``complete``
            says whether that was its end.
        agreed: whether the protocol was changed; from then on bytes are for the other end.
        held: bytes of the new protocol that came before there was another end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answered: asyncio.Future[None] = self._loop.create_future()
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self.complete = False
        self.agreed = False
        self.status = 0
        self.headers: list[Header] = []
        self.body = bytearray()
        self.held = b""
        self._parser = httptools.HttpResponseParser(self)
        self._size = 0

    # -- called by the parser --------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.answered.done():
            self.headers.append((name.decode("latin-1"), value.decode(errors="replace")))

    def on_headers_complete(self) -> None:
        if self.answered.done():
            return  # a second answer, to no request
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200 and self.status != 101:
            self.headers = []
        else:
            self.answered.set_result(None)

    def on_body(self, body: bytes) -> None:
        if not self.finished.done():
            self.body += body
        if len(self.body) > _MAX_REFUSAL:
            self._fail(OSError("the answer to an upgrade is too long"))

    def on_message_complete(self) -> None:
        if self.answered.done() and not self.finished.done():
            self.complete = True
            self.finished.set_result(None)

    # -- called by the transport -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        detect(transport)

    def data_received(self, data: bytes) -> None:
        if self.agreed:
            if self.peer is None:
                self.held += data
            else:
                super().data_received(data)
            return
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgraded:
            self.agreed = True
            self.held = data[upgraded.args[0] :]
            if self.transport is not None and self.held:
                self.transport.pause_reading()
        except httptools.HttpParserError as error:
            self._fail(OSError(f"not an HTTP answer: {error}"))
        if not self.answered.done() and self._size > _MAX_HEAD:
            self._fail(OSError("the head of the answer is too long"))

    def eof_received(self) -> bool:
        return super().eof_received() if self.agreed else False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_exception(exc or ConnectionResetError("the server closed it"))
        if not self.finished.done():
            # An answer without a length ends with its connection.
            self.complete = exc is None and not any(h[0].lower() in _LENGTHS for h in self.headers)
            self.finished.set_result(None)
        super().connection_lost(exc)

    def close(self) -> None:
        self.answered.cancel()  # nobody waits for it any more
        super().close()

    def _fail(self, error: OSError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
        if not self.finished.done():
            self.finished.set_result(None)
        self.close()


async def tunnel(
    request: Request,
    config: ConnectionConfig,
    target: str,
    headers: Iterable[Header],
    protocol: str,
    *,
    admin: bool,
    translate: Translate | None = None,
) -> Answer:
    """Pass an upgrade on and, when the server agrees, be a pipe until one side closes.

    Cancelled, it closes both connections.

    Args:
        request: the caller's, without a body.
        config: where the server is and who we are.
        target: path and query, escaped.
        headers: what to send, without those of the connection.
        protocol: what to upgrade to.
        admin: with our own credentials; else with none but those in ``headers``.
        translate: says what the caller gets of an answer; else all of it that is not about the
            connection.

    Returns:
        :class:`Sent`, or the server's answer when it did not agree.

    Raises:
        RefusalError: no answer came, or the request has a body.
        ConnectionError: the caller is gone.
    """
    if request.has_body:
        raise RefusalError(400, "a request that upgrades its connection must not have a body")
    fields = (*headers, ("Connection", "Upgrade"), ("Upgrade", protocol))
    try:
        credentials = await (config.credentials() if admin else config.bare())
        server = await _asked(request.method, config, credentials, target, fields)
        if server.status == 401 and admin:
            fresh = await _refreshed(config, credentials, server)
            if fresh != credentials:
                server.close()
                server = await _asked(request.method, config, fresh, target, fields)
    except ConfigError as error:
        raise _unreachable() from error
    try:
        if server.status == 101:
            return await _join(request, server, translate)
        return await _refusal(server, translate)
    finally:
        server.close()


async def _refreshed(
    config: ConnectionConfig, credentials: Credentials, server: _Agreement
) -> Credentials:
    try:
        return await config.refresh(credentials)
    except BaseException:
        server.close()
        raise


async def _asked(
    method: str,
    config: ConnectionConfig,
    credentials: Credentials,
    target: str,
    fields: Iterable[Header],
) -> _Agreement:
    """Send the request over a connection of its own and wait for the head of the answer."""
    asked = _head(method, config.server, target, credentials, fields)
    where = Server(config.server, credentials.ssl_context, config.server_name)
    try:
        server = await connect(where, _Agreement)
    except NoConnectionError as error:
        raise _unreachable() from error
    try:
        if server.transport is not None:
            server.transport.write(asked)
        async with asyncio.timeout(AGREE_SECONDS):
            await server.answered
        if server.status == 101 and not server.agreed:
            raise ConnectionResetError("it agreed without changing the protocol")
    except BaseException as error:
        server.close()
        if isinstance(error, TimeoutError):
            raise RefusalError(504, "the server did not agree in time") from error
        if isinstance(error, OSError):
            why = "the connection can't be upgraded: no answer came"
            raise RefusalError(503, why) from error
        raise
    return server


def _unreachable() -> RefusalError:
    return RefusalError(503, "the server can't be reached", headers={"Retry-After": "1"})


def _head(
    method: str, url: str, target: str, credentials: Credentials, fields: Iterable[Header]
) -> bytes:
    where = origin(url)
    lines = [("Host", where.authority), *fields, *credentials.headers.items()]
    if method != "GET":
        lines.append(("Content-Length", "0"))
    try:
        return head(f"{method} {where.prefix}{target} HTTP/1.1", lines)
    except BadHeaderError as error:
        raise RefusalError(400, str(error)) from None


async def _refusal(server: _Agreement, translate: Translate | None) -> Answer:
    """Give an answer that is no agreement; both connections end with it."""
    try:
        async with asyncio.timeout(AGREE_SECONDS):
            await server.finished
    except TimeoutError as error:
        raise RefusalError(504, "the server's answer did not come in time") from error
    if not server.complete:
        raise RefusalError(503, "the connection can't be upgraded: the answer broke off")
    headers, body = end_to_end(server.headers), bytes(server.body)
    if translate is not None:
        headers, body = translate(server.status, headers, body)
    return Response(server.status, headers, body, close=True)


async def _join(request: Request, server: _Agreement, translate: Translate | None) -> Answer:
    """Make one pipe of both connections and wait until it ends."""
    if server.transport is None:
        raise ConnectionResetError("the server is gone")
    client, request.begun = _Pipe(), True
    transport, early = request.connection.detach(client)
    client.transport = transport
    try:
        server.peer, client.peer = client, server
        agreement = _agreement(server, translate)
        server.transport.resume_reading()
        transport.resume_reading()
        # Only now, for either may fill the end it goes to, which then must stop the other.
        transport.write(agreement + server.held)
        if early:
            server.transport.write(early)
        await _until_lost(client, server)
    finally:
        client.close()
        server.close()
    return Sent(101)


def _agreement(server: _Agreement, translate: Translate | None) -> bytes:
    """Give the head of the answer by which the caller learns that the server agrees."""
    headers = end_to_end(server.headers)
    if translate is not None:
        headers, _ = translate(101, headers, b"")
    agreed = [(name, value) for name, value in server.headers if name.lower() == "upgrade"]
    fields = (("Connection", "Upgrade"), *agreed, *headers)
    return head("HTTP/1.1 101 Switching Protocols", fields)


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
