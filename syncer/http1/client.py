"""The client's side: sends requests and reads their answers, over connections that are kept.

A connection is for one request at a time and kept when its answer came to an end; there is one
pool for each server and SSL context. No redirect is followed, nothing is decoded. A request to go
on in another protocol has a connection of its own, which is not kept.

Invariants:
* who does not read an answer stops the server;
* what was cancelled, or broke off, or came with more than was asked for, is not used again;
* a request is sent a second time only if it changes nothing and the connection, kept from before,
  was closed before a byte of an answer: a deletion sent twice could meet an object made anew.

Source: RFC 9112; RFC 9110 section 9.2.1; Go ``net/http``, ``Request.isReplayable``.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httptools

from syncer.http1.body import Body, TransportValve
from syncer.http1.head import Header, head, value_of
from syncer.http1.transport import prepare

CONNECT_SECONDS: Final = 10.0
IDLE_SECONDS: Final = 60.0
"""How long a connection is kept unused; kube-apiserver closes them after 90 s."""
MAX_HEAD: Final = 64 * 1024
"""Bytes of an answer's line and headers."""

_IN_CHUNKS: Final[Header] = ("Transfer-Encoding", "chunked")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class NoConnectionError(ConnectionError):
    """The server can't be connected to, for the error that this one is raised from.

    Nothing was sent.
    """


class NoAnswerError(ConnectionError):
    """The server closed the connection without an answer."""


class Origin(NamedTuple):
    """Where a server is.

    Attributes:
        host: name or address.
        port: TCP.
        authority: for the ``Host`` header.
        prefix: path before all others, without a slash at its end.
        secure: whether it is asked over TLS.
    """

    host: str
    port: int
    authority: str
    prefix: str
    secure: bool


@lru_cache(maxsize=64)
def origin(url: str) -> Origin:
    """Read where a server is.

    Args:
        url: with scheme and host, maybe port and path.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    return Origin(parts.hostname or "", port, parts.netloc, parts.path.rstrip("/"), secure)


class Server(NamedTuple):
    """A server, and how it is connected to.

    Attributes:
        url: with scheme and host, maybe port and path.
        tls: for connections to a URL that wants it; ``None``: whom the system trusts.
        name: that its certificate must have, ``""``: its host's.
    """

    url: str
    tls: ssl.SSLContext | None = None
    name: str = ""


class Reply:
    """A server's answer; its body may still be coming.

    Attributes:
        status: HTTP status.
        headers: in order; names as Latin-1, values as UTF-8 with what is none replaced.
        body: as it comes.
        length: of the body in bytes, if the server said so.
        framed: whether the body has an end of its own, before its connection's.
        agreed: whether the server goes on in another protocol, as it was asked to.
    """

    def __init__(self, connection: _Connection, status: int, headers: list[Header]) -> None:
        """Make it, with nothing of its body."""
        self.status = status
        self.headers = headers
        self.body = Body(connection.valve)
        self.length: int | None = None
        self.framed = status in (204, 304)
        self.agreed = False
        for name, value in headers:
            match name.lower():
                case "content-length":
                    self.length, self.framed = int(value), True
                case "transfer-encoding":
                    self.framed = True
        self._connection = connection

    def header(self, name: str) -> str:
        """Give a header's value, ``""`` when there is none.

        Args:
            name: in lower case.
        """
        return value_of(self.headers, name)

    @property
    def content_type(self) -> str:
        """Media type of the body, in lower case, without parameters."""
        return self.header("content-type").partition(";")[0].strip().lower()

    def detach(self, protocol: asyncio.BaseProtocol) -> tuple[asyncio.Transport, bytes]:
        """Give the connection to another protocol; the server has agreed to that.

        Args:
            protocol: gets what comes from now on, and is told of the connection's end even if
                that was before.

        Returns:
            The transport, which is not read from just now, and what came behind the head.

        Raises:
            ConnectionError: it has not, or was given away before.
        """
        return self._connection.detach(protocol)

    def close(self) -> None:
        """Have no more of it; its connection is lost unless the answer is at its end."""
        self._connection.leave(self)


class _Connection(asyncio.Protocol):
    """A connection to a server.

    ``upgrades`` is one that is asked to go on in another protocol, and nothing else.
    """

    def __init__(self, pool: Pool, server: Server, *, upgrades: bool) -> None:
        self.server = server
        self._upgrades = upgrades
        self._early = bytearray()  # what came behind an agreement
        self._heir: asyncio.BaseProtocol | None = None
        self._lost = False
        self.idle_since = 0.0
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = self._new_parser()
        self._headers: list[Header] = []
        self._seen = 0  # bytes of its head, or between pieces of its body
        self._moved = False  # a piece of the body was among the bytes just read
        self._size = 0  # bytes of its headers
        self._method = ""
        self._answer: asyncio.Future[Reply] | None = None
        self._reply: Reply | None = None
        self._ends = True  # the answer has an end of its own, before its connection's
        self._lasts = True  # the server keeps the connection
        self._sending: asyncio.Task[None] | None = None
        self._full: asyncio.Future[None] | None = None
        self.valve = TransportValve()

    async def exchange(
        self, method: str, data: bytes, body: AsyncIterator[bytes] | None, *, chunked: bool
    ) -> Reply:
        """Send a request and wait for the head of its answer.

        Args:
            method: HTTP method.
            data: the head, and the body if it is short.
            body: the rest of it.
            chunked: whether that goes in chunks.

        Raises:
            NoAnswerError: there was none.
            OSError: it can't be read.
            Exception: what ``body`` raised.
        """
        transport = self._transport
        if transport is None or not self.usable:
            raise NoAnswerError("the server closed the connection")
        self._method, self._headers, self._ends = method, [], True
        self._seen = self._size = 0
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self._answer = answer
        transport.write(data)
        if body is not None:
            self._sending = self._loop.create_task(self._send(body, chunked=chunked))
        try:
            return await answer
        except BaseException:
            if answer is self._answer or answer.cancelled() or answer.exception() is not None:
                self.abort()
            else:  # it came nevertheless, and its connection may be somebody else's by now
                self.leave(answer.result())
            raise

    @property
    def usable(self) -> bool:
        """Whether it is open."""
        return self._transport is not None and not self._transport.is_closing()

    def leave(self, reply: Reply) -> None:
        """Have no more of an answer."""
        if self._reply is reply:
            self.abort()

    def detach(self, protocol: asyncio.BaseProtocol) -> tuple[asyncio.Transport, bytes]:
        """Give the connection to another protocol; it is none of the pool's any more."""
        transport, reply = self._transport, self._reply
        if transport is None or reply is None or not reply.agreed:
            raise ConnectionError("the server did not agree to another protocol")
        self._pool.forget(self)
        self._transport = self.valve.transport = self._reply = None
        self._heir = protocol
        transport.set_protocol(protocol)
        if self._lost:
            self._loop.call_soon(protocol.connection_lost, None)
        return transport, bytes(self._early)

    def release(self) -> None:
        """Have no use for it before anything was asked."""
        if self._upgrades or not self.usable:
            self.abort()
        else:
            self._pool.keep(self)

    def abort(self) -> None:
        """End the connection."""
        self._pool.forget(self)
        if self._sending is not None:
            self._sending.cancel()
        if self._transport is not None:
            self._transport.abort()

    # -- called by the transport -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self.valve.transport = prepare(transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None and self._reply is None:
            self.abort()  # nothing was asked
            return
        if self._reply is not None and self._reply.agreed:
            self._early += data
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._agree(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not an HTTP answer: {error}"))
            self.abort()
        else:
            self._seen = 0 if self._moved else self._seen + len(data)
            self._moved = False
            if self._seen > MAX_HEAD and (self._answer is not None or self._reply is not None):
                self._fail(ConnectionError("the head of the answer is too long"))
                self.abort()

    def pause_writing(self) -> None:
        self._full = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._full is not None and not self._full.done():
            self._full.set_result(None)
        self._full = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._heir is not None:
            self._heir.connection_lost(exc)  # it was on its way already
            return
        if self._reply is not None and self._reply.agreed:
            self._lost = True  # its last words are still to be heard
            return
        self._transport = self.valve.transport = None
        self._pool.forget(self)
        self.resume_writing()
        if self._reply is not None and exc is None and not self._ends:
            self._complete(self._reply)
        elif self._reply is not None or self._seen:
            self._fail(ConnectionResetError("the answer broke off"))
        else:
            self._fail(NoAnswerError("the server closed the connection"))
        if self._sending is not None:
            self._sending.cancel()

    def _agree(self, early: bytes) -> None:
        """Hold what follows back, until it is somebody's."""
        if self._upgrades and self._reply is not None:
            self._reply.agreed = True
            self._early += early
            self.valve.hold()
        else:
            self.abort()  # nobody asked for that

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        # Servers behind other servers let control characters in, which are for others to clean.
        parser.set_dangerous_leniencies(lenient_headers=True)
        return parser

    # -- called by the parser --------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._answer is None:
            self.abort()  # more than was asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is None:  # those behind a body are nobody's
            self._size += len(name) + len(value) + 4
            if self._size > MAX_HEAD:
                raise ConnectionError("the head of the answer is too long")
            self._headers.append((name.decode("latin-1"), value.decode(errors="replace")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._headers = []
            return
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return  # of no request; the connection ends
        self._moved = True
        reply = self._reply = Reply(self, status, self._headers)
        self._headers = []  # what may follow is not its
        self._ends = reply.framed
        self._lasts = self._parser.should_keep_alive()
        answer.set_result(reply)
        if self._method == "HEAD":
            # The parser would wait for the body that the headers speak of.
            current = self._parser.get_http_version() == "1.1"
            self._lasts = current and "close" not in reply.header("connection").lower()
            self._parser = self._new_parser()
            self._ends = True
            self._complete(reply)

    def on_body(self, body: bytes) -> None:
        if self._reply is None:
            self.abort()  # more than was asked for: behind the head that HEAD asks for
        elif body:
            self._moved = True
            self._reply.body.feed(body)

    def on_message_complete(self) -> None:
        if self._reply is not None and self._reply.status >= 200:
            self._complete(self._reply)

    # -- the answer ------------------------------------------------------------------------

    def _complete(self, reply: Reply) -> None:
        """End an answer; keep the connection if it can be used again."""
        self._reply = None
        reply.body.end()
        sent = self._sending is None or self._sending.done()
        lasts = self._lasts and not self._upgrades
        if sent and self._ends and lasts and self._transport is not None:
            self._sending = None
            self._pool.keep(self)
        else:
            self.abort()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        if self._reply is not None:
            self._reply.body.end(error)
            self._reply = None

    # -- the request -----------------------------------------------------------------------

    async def _send(self, body: AsyncIterator[bytes], *, chunked: bool) -> None:
        """Send a body, while the answer may be on its way already."""
        try:
            async for piece in body:
                if not piece:
                    continue  # as a chunk it would be the end
                self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                if self._full is not None:
                    await self._full
            if chunked:
                self._write(b"0\r\n\r\n")
        except Exception as error:  # noqa: BLE001 - the caller's, for whoever waits for the answer
            self._fail(error)
            self.abort()

    def _write(self, data: bytes) -> None:
        if self._transport is None or not self.usable:
            raise NoAnswerError("the server closed the connection")
        self._transport.write(data)


class Pool:
    """Connections to servers, those that are kept and those in use."""

    def __init__(self) -> None:
        """Make it; it connects when it is used."""
        self._kept: dict[Server, list[_Connection]] = {}
        self._all: set[_Connection] = set()
        self._dialling: set[asyncio.Task[_Connection]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def request(
        self,
        server: Server,
        method: str,
        target: str,
        headers: Iterable[Header],
        body: bytes | AsyncIterator[bytes] | None = None,
        *,
        length: int | None = None,
        protocol: str = "",
    ) -> Reply:
        """Send a request and wait for the head of its answer.

        Args:
            server: to whom.
            method: HTTP method.
            target: path and query, escaped.
            headers: in order, without ``Host``, the body's length and those of an upgrade.
            body: whole or in pieces; ``b""`` says that it is empty.
            length: of a body in pieces, if it is known: all of it must come.
            protocol: to go on in, if the server agrees.

        Returns:
            The answer; whoever gets it reads it to its end, detaches or closes it.

        Raises:
            BadHeaderError: a header can't be sent.
            NoConnectionError: the server can't be reached.
            ConnectionError: it gave no answer.
            Exception: what reading ``body`` raised.
        """
        where = origin(server.url)
        fields = [("Host", where.authority), *headers]
        if protocol:
            fields += (("Connection", "Upgrade"), ("Upgrade", protocol))
        pieces = None if body is None or isinstance(body, bytes) else body
        if isinstance(body, bytes):
            fields.append(("Content-Length", str(len(body))))
        elif body is not None:
            whole = length is not None
            fields.append(("Content-Length", str(length)) if whole else _IN_CHUNKS)
        data = head(f"{method} {where.prefix}{target} HTTP/1.1", fields)
        if isinstance(body, bytes):
            data += body
        connection = None if protocol else self._take(server)
        if connection is not None:
            try:
                return await connection.exchange(method, data, pieces, chunked=length is None)
            except NoAnswerError:
                if pieces is not None or method not in _SAFE:
                    raise
        connection = await self._connect(server, upgrades=bool(protocol))
        return await connection.exchange(method, data, pieces, chunked=length is None)

    def keep(self, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._kept.setdefault(connection.server, []).append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(IDLE_SECONDS, self._close_idle)

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that has ended."""
        self._all.discard(connection)
        kept = self._kept.get(connection.server)
        if kept is not None and connection in kept:
            kept.remove(connection)

    async def close(self) -> None:
        """End all connections; there will be no others."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for dialling in tuple(self._dialling):
            dialling.cancel()
        for connection in tuple(self._all):
            connection.abort()
        await asyncio.sleep(0)

    def _take(self, server: Server) -> _Connection | None:
        kept = self._kept.get(server)
        while kept:
            if (connection := kept.pop()).usable:
                return connection
        return None

    async def _connect(self, server: Server, *, upgrades: bool) -> _Connection:
        """Connect; who leaves meanwhile leaves the connection to others.

        A handshake that is broken off makes uvloop log an error, and callers come and go.
        """
        self._check_open()
        dialling = asyncio.create_task(self._dial(server, upgrades=upgrades))
        self._dialling.add(dialling)
        dialling.add_done_callback(self._dialling.discard)
        try:
            return await asyncio.shield(dialling)
        except asyncio.CancelledError:
            if dialling.cancelled():
                self._check_open()
            dialling.add_done_callback(self._keep_dialled)
            raise

    def _keep_dialled(self, dialling: asyncio.Task[_Connection]) -> None:
        if not dialling.cancelled() and dialling.exception() is None:
            dialling.result().release()

    async def _dial(self, server: Server, *, upgrades: bool) -> _Connection:
        where = origin(server.url)
        tls = (server.tls or ssl.create_default_context()) if where.secure else None
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self, server, upgrades=upgrades),
                    where.host,
                    where.port,
                    ssl=tls,
                    server_hostname=(server.name or where.host) if tls else None,
                )
        except OSError as error:  # TimeoutError is one
            raise NoConnectionError("the server can't be connected to") from error
        self._all.add(connection)
        return connection

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionError("nothing is asked of servers any more")

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = None
        oldest = loop.time() - IDLE_SECONDS
        for server, kept in tuple(self._kept.items()):
            for connection in [each for each in kept if each.idle_since <= oldest]:
                connection.abort()
            if not kept:
                del self._kept[server]
        if self._kept:
            first = min(each.idle_since for kept in self._kept.values() for each in kept)
            wait = max(first - oldest, 1.0)
            self._sweep = loop.call_later(wait, self._close_idle)
