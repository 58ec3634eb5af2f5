"""The server's side: reads requests, one after the other, and writes their answers.

Each request is handled by a task of its own, which is cancelled when the caller goes away. A head
must come within :data:`HEAD_SECONDS` of its first byte and have its limits; between requests a
connection may be idle for :data:`IDLE_SECONDS`.

Invariants:
* bytes that are no request end the connection; so does a body that its handler left unread, and
  an answer to a request to upgrade: what follows them is never taken for a request;
* a caller who does not read is not read from either.

Source: RFC 9112; RFC 6585 section 5 (431).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

import httptools

from syncer.http1.body import Body, TransportValve
from syncer.http1.head import Header, head
from syncer.http1.transport import prepare

SERVER: Final = "vcluster-syncer"
"""What answers name as their server where they name none."""

HEAD_SECONDS: Final = 15.0
IDLE_SECONDS: Final = 120.0
FLUSH_SECONDS: Final = 30.0
"""How long a connection that is closed may take to read what is left for it."""
MAX_FIELD: Final = 56 * 1024
"""Bytes of a request's line, and of each of its headers; commands are in the line, tokens in one of
the headers."""
MAX_HEAD: Final = 96 * 1024
"""Bytes of a request's line and headers together."""
MAX_FIELDS: Final = 128
MAX_UNSENT: Final = 64 * 1024
"""Bytes that wait for a slow reader; TLS would hold half a megabyte for each."""

_MAX_EARLY: Final = 64 * 1024  # bytes held back behind a request to upgrade
_MAX_WAITING: Final = 100  # requests sent before the answer to the one before them
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_CONTROLS: Final = bytes(sorted({*range(0x20), 0x7F} - {0x09}))


class UnreadableError(Exception):
    """Bytes are no HTTP, or too much of it; the message does not repeat them.

    Attributes:
        status: that says so.
    """

    def __init__(self, status: int, message: str) -> None:
        """Make it."""
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Response:
    """An answer that is here as a whole.

    Attributes:
        status: HTTP status.
        headers: without length; ``Date`` and ``Server`` are added where they are missing.
        body: maybe nothing.
        close: whether the connection ends with it.
    """

    status: int
    headers: Sequence[Header] = ()
    body: bytes = b""
    close: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """Stands for an answer that has been written already, or whose connection is used up.

    Attributes:
        status: HTTP status, for those who count.
    """

    status: int


Answer = Response | Sent


@dataclass(slots=True, eq=False)
class Request:
    """A request; its body may still be coming.

    Attributes:
        connection: that it came by.
        method: upper case.
        target: what stood behind it on the request's line.
        raw_headers: as they were written, in order.
        body: as it comes; read it by :meth:`read`.
        has_body: whether there is one.
        length: of the body in bytes, ``None`` when it comes in chunks.
        lasts: whether the connection outlives the request.
        in_chunks: whether the caller understands answers in chunks.
        begun: whether an answer has begun.
        waits: whether the caller sends the body only when asked to (``100-continue``).
        upgrades: whether the connection is to go on with another protocol.
        host: the ``Host`` header, ``""`` for none.
    """

    connection: Connection
    method: str
    target: str
    raw_headers: list[tuple[bytes, bytes]]
    body: Body
    has_body: bool = False
    length: int | None = 0
    lasts: bool = True
    in_chunks: bool = True
    begun: bool = False
    waits: bool = False
    upgrades: bool = False
    host: str = ""

    async def read(self) -> bytes:
        """Give the body's next piece, ``b""`` at its end; who waits to be asked for it is asked.

        Raises:
            UnreadableError: it is no body.
            ConnectionError: it broke off.
        """
        if self.waits:
            self.waits = False
            if not self.begun:
                self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await self.body.read()

    def begin(self, status: int, headers: Sequence[Header], length: int | None = None) -> Writer:
        """Begin an answer that is written in pieces; its head goes with the first of them.

        Args:
            status: HTTP status.
            headers: as those of a :class:`Response`.
            length: of its body in bytes, if that is known.

        Raises:
            BadHeaderError: one can't be written.
        """
        return Writer(self, status, headers, length)

    def abort(self) -> None:
        """Break the connection off, so that nobody takes what was written for a whole answer."""
        self.connection.abort()


class Writer:
    """Writes an answer in pieces."""

    def __init__(
        self, request: Request, status: int, headers: Sequence[Header], length: int | None
    ) -> None:
        """Make it; see :meth:`Request.begin`."""
        self._connection = request.connection
        bare = status in (204, 304)
        empty = self._empty = bare or request.method == "HEAD"
        self._chunked = length is None and not empty and request.in_chunks
        fields = list(headers)
        if self._chunked:
            fields.append(("Transfer-Encoding", "chunked"))
        elif length is not None and not bare:
            fields.append(("Content-Length", str(length)))
        elif not empty:
            request.lasts = False  # its end is the connection's
        self._head = _head(status, fields, close=not request.lasts)
        self._request = request

    async def write(self, piece: bytes) -> None:
        """Write a piece of the body, which may be nothing; wait while the caller is behind.

        Where an answer has no body, pieces are not written: they would be taken for the next.

        Raises:
            ConnectionError: the caller is gone.
        """
        if len(piece) <= MAX_UNSENT:
            self._put(self._framed(piece))
            await self._connection.drain()
            return
        whole = memoryview(piece)
        for start in range(0, len(whole), MAX_UNSENT):  # else all of it would wait twice over
            self._put(self._framed(bytes(whole[start : start + MAX_UNSENT])))
            await self._connection.drain()

    def end(self) -> None:
        """Write the end."""
        self._put(b"0\r\n\r\n" if self._chunked else b"")

    def _framed(self, piece: bytes) -> bytes:
        if self._empty:
            return b""
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked and piece else piece

    def _put(self, data: bytes) -> None:
        if self._head:
            data, self._head, self._request.begun = self._head + data, b"", True
        if data:
            self._connection.write(data)


Handler = Callable[[Request], Awaitable[Answer]]
Refuse = Callable[[UnreadableError], Response]


class Connection(asyncio.Protocol):
    """One caller's connection.

    Attributes:
        transport: to the caller; for whoever takes the connection over.
        client: the caller's IP address.
        task: answers a request; ``None``: there is none.
    """

    def __init__(self, handler: Handler, refuse: Refuse) -> None:
        """Make it; nothing is connected yet.

        Args:
            handler: answers requests.
            refuse: gives the answer to what is no request.
        """
        self._handler = handler
        self._refuse = refuse
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.client = ""
        # What is being read.
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._in_head = False
        self._seen = 0  # bytes of a head that is not whole yet, or between pieces of a body
        self._moved = False  # the bytes just read had more: a piece of a body, or a request's end
        self._reading: Request | None = None
        # What is being answered.
        self._waiting: deque[Request | UnreadableError] = deque()
        self.task: asyncio.Task[None] | None = None
        self._full: asyncio.Future[None] | None = None
        self._stuffed = False
        self._ahead = False  # the caller sends requests without waiting for answers
        self._over = False  # nothing more is read
        self._stopping = False
        self._upgrading = False
        self._early = bytearray()  # what came behind a request to upgrade
        self._detached = False
        self._valve = TransportValve()
        self._idle_since = 0.0
        self._idle_check: asyncio.TimerHandle | None = None
        self._deadline: asyncio.TimerHandle | None = None

    # -- called by the transport -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = self._valve.transport = prepare(transport)
        self.transport.set_write_buffer_limits(high=MAX_UNSENT)
        peer = transport.get_extra_info("peername") or ("",)
        self.client = str(peer[0]).removeprefix("::ffff:")  # IPv4, where both families come
        self._idle_since = self._loop.time()
        self._idle_check = self._loop.call_later(IDLE_SECONDS, self._look_if_idle)

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        if self._over:
            return
        if self._upgrading:
            self._keep(data)
            return
        self._moved = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrading = True
            self._keep(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            if not isinstance(cause, UnreadableError):
                cause = UnreadableError(400, "the request can't be read")
            self._unreadable(cause)
            return
        if self._in_head or self._reading is not None:
            self._count(len(data))

    def pause_writing(self) -> None:
        """Wait for a caller who is behind."""
        self._stuffed = True

    def resume_writing(self) -> None:
        """Go on."""
        self._stuffed = False
        if self._full is not None and not self._full.done():
            self._full.set_result(None)
        if self.task is None:
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, with all that was under way."""
        self.transport = self._valve.transport = None
        self._over = True
        self._waiting.clear()
        self._stop_clocks()
        if self._reading is not None:
            self._reading.body.end(ConnectionResetError("the caller is gone"))
        if self.task is not None:
            self.task.cancel()
            self.task.add_done_callback(lambda _: self.left())  # even if it never began
        elif not self._detached:
            self.left()

    # -- called by the parser --------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_head = True
        self._url, self._headers, self._seen = b"", [], 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._url += url
        if len(self._url) > MAX_FIELD:
            raise UnreadableError(431, "the request's line is too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind a body are nobody's."""
        if not self._in_head:
            return
        self._headers.append((name, value))
        if len(name) + len(value) > MAX_FIELD or len(self._headers) > MAX_FIELDS:
            raise UnreadableError(431, "the request's headers are too long, or too many")

    def on_headers_complete(self) -> None:
        """Hand the request to its handler; the body may follow."""
        self._in_head, self._moved = False, True
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        request = self._read_head()
        self._reading = request
        self._waiting.append(request)
        if self.task is None and not self._stuffed:
            self._next()
        elif len(self._waiting) == 1:
            self._ahead = True
            self._valve.hold()  # until its turn has come
        elif len(self._waiting) > _MAX_WAITING:
            raise UnreadableError(400, "too many requests at once")

    def on_body(self, piece: bytes) -> None:
        """Pass a part of the body on."""
        if self._reading is not None and piece:
            self._moved = True
            self._reading.body.feed(piece)

    def on_message_complete(self) -> None:
        """End the body."""
        if self._reading is not None:
            self._reading.body.end()
            self._reading = None

    def _count(self, size: int) -> None:
        """Bound what the parser gathers: heads, extensions of chunks, headers behind a body.

        Args:
            size: bytes read.
        """
        self._seen = 0 if self._moved else self._seen + size  # of what came before, none count
        if self._seen > MAX_HEAD:
            self._unreadable(UnreadableError(431, "the request's head is too long"))
        elif self._in_head and self._deadline is None:
            self._deadline = self._loop.call_later(HEAD_SECONDS, self._too_slow)

    def _read_head(self) -> Request:
        """Read what a head says of the connection and the body.

        Raises:
            UnreadableError: it says nothing, or more than one thing.
        """
        parser = self._parser
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise UnreadableError(400, "the request has another version of HTTP than 1.1")
        request = Request(
            self,
            parser.get_method().decode("ascii"),
            self._url.decode("latin-1"),
            self._headers,
            Body(self._valve),
            in_chunks=version == "1.1",
            upgrades=parser.should_upgrade(),
            lasts=version == "1.1" and parser.should_keep_alive() and not parser.should_upgrade(),
        )
        text = b"".join([part for header in self._headers for part in header])
        if len(text.translate(None, _CONTROLS)) != len(text):
            raise UnreadableError(400, "the request's headers have control characters")
        if len(self._url) + len(text) > MAX_HEAD:
            raise UnreadableError(431, "the request's head is too long")
        hosts = 0
        for name, value in self._headers:
            match name.lower():
                case b"host":
                    hosts += 1
                    request.host = value.decode("latin-1")
                case b"content-length":
                    request.length = int(value)
                    request.has_body = request.length > 0
                case b"transfer-encoding":
                    if value.lower() != b"chunked" or request.has_body or version != "1.1":
                        raise UnreadableError(400, "the request's body does not come in chunks")
                    request.length, request.has_body = None, True
                case b"expect":
                    request.waits = request.in_chunks and value.lower() == b"100-continue"
        if hosts > 1 or (not hosts and request.in_chunks):
            raise UnreadableError(400, "the request must have one Host header")
        if request.has_body and request.upgrades:  # the parser reads no such body
            raise UnreadableError(400, "a request to upgrade must not have a body")
        return request

    # -- answering -------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write; to a caller who is gone, nothing."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait while the caller is behind.

        Raises:
            ConnectionError: the caller is gone.
        """
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the caller is gone")
        if self._stuffed:
            self._full = self._loop.create_future()
            await self._full

    def abort(self) -> None:
        """Break off, losing what was not written."""
        if self.transport is not None:
            self.transport.abort()

    def detach(self, protocol: asyncio.BaseProtocol) -> tuple[asyncio.Transport, bytes]:
        """Give the connection to another protocol while a request to upgrade is being answered.

        Args:
            protocol: gets what comes from now on.

        Returns:
            The transport, which may not be read from just now, and what came behind the head.

        Raises:
            ConnectionError: the caller is gone.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the caller is gone")
        self._stop_clocks()
        self._detached = self._over = True
        self._valve.transport = None
        transport.set_protocol(protocol)
        return transport, bytes(self._early)

    def stop(self) -> None:
        """Let what is under way end, then close."""
        self._stopping = True
        if self.task is None:
            self._close()

    def cancel(self) -> None:
        """End what is under way, and the connection."""
        if self.task is not None:
            self.task.cancel()
        self.abort()

    def left(self) -> None:
        """Called once, when the connection has ended with all that was under way."""

    def _next(self) -> None:
        """Begin with the next request, if there is one."""
        if not self._waiting:
            return
        request = self._waiting.popleft()
        if self._ahead and not self._waiting:
            self._ahead = False
            self._valve.release()
        if isinstance(request, UnreadableError):
            self._write_whole(self._refuse(request), "", lasts=False)
            self._close()
        else:
            self.task = self._loop.create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        """Answer a request, and go on to the next."""
        try:
            known = request.body.error
            if isinstance(known, UnreadableError):  # in the packet that the head came in
                answer: Answer = self._refuse(known)
            else:
                answer = await self._handler(request)
            if isinstance(answer, Response):
                lasts = request.lasts and not self._stopping and not answer.close
                request.lasts = lasts and request.body.whole
                self._write_whole(answer, request.method, lasts=request.lasts)
        except (ConnectionError, asyncio.CancelledError):
            self.abort()
        except BaseException:
            self.abort()
            raise
        finally:
            self._answered(request)

    def _answered(self, request: Request) -> None:
        self.task = None
        self._idle_since = self._loop.time()
        if self._detached:
            self.left()
        elif self.transport is None:
            return
        elif not request.lasts or not request.body.whole or self._stopping:
            self._close()
        elif not self._stuffed:
            self._next()

    def _write_whole(self, answer: Response, method: str, *, lasts: bool) -> None:
        headers = list(answer.headers)
        if answer.status not in (204, 304):
            headers.append(("Content-Length", str(len(answer.body))))
        first = _head(answer.status, headers, close=not lasts)
        empty = method == "HEAD" or answer.status in (204, 304)
        self.write(first if empty else first + answer.body)

    def _unreadable(self, error: UnreadableError) -> None:
        """Answer what is no request, once those before it are answered, and read no more."""
        self._over = True
        self._in_head = False
        if self._reading is not None:  # its answer, if it still comes, is the last
            self._reading.body.end(error)
            self._reading = None
            return
        self._waiting.append(error)
        if self.task is None and not self._stuffed:
            self._next()

    def _keep(self, data: bytes) -> None:
        """Hold back what comes behind a request to upgrade."""
        self._early += data
        if len(self._early) > _MAX_EARLY and not self._valve.held:
            self._valve.hold()

    def _close(self) -> None:
        """Close, once all is written."""
        self._over = True
        self._waiting.clear()
        if self.transport is not None:
            self._stop_clocks()
            self._idle_check = self._loop.call_later(FLUSH_SECONDS, self.abort)
            self.transport.close()

    # -- time ------------------------------------------------------------------------------

    def _look_if_idle(self) -> None:
        """End a connection that has been idle for too long.

        Setting a clock for each request would cost more than looking now and then.
        """
        self._idle_check = None
        left = IDLE_SECONDS
        if self.task is None:
            left += self._idle_since - self._loop.time()
        if left <= 0:
            self._close()
        else:
            self._idle_check = self._loop.call_later(left, self._look_if_idle)

    def _too_slow(self) -> None:
        self._deadline = None
        if self._valve.held:  # it is we who are slow
            self._deadline = self._loop.call_later(HEAD_SECONDS, self._too_slow)
        elif self.task is None:
            self._close()
        else:
            self._over, self._stopping = True, True

    def _stop_clocks(self) -> None:
        for clock in (self._idle_check, self._deadline):
            if clock is not None:
                clock.cancel()
        self._idle_check = self._deadline = None


def _head(status: int, headers: list[Header], *, close: bool) -> bytes:
    names = [name.lower() for name, _ in headers]
    if "date" not in names:
        headers.append(("Date", formatdate(usegmt=True)))
    if "server" not in names:
        headers.append(("Server", SERVER))
    if close:
        headers.append(("Connection", "close"))
    return head(f"HTTP/1.1 {status} {_PHRASES.get(status, '')}", headers)
