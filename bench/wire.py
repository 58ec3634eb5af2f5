"""HTTP/1.1 for measuring: a connection is a protocol with a parser in C, and nothing else.

A client library's own cost would be half of what a request takes here and hide what is measured.
So requests are bytes made beforehand, answers are counted and dropped, and the next request is sent
from where the last answer ended. No redirects, no retries, no pool: whatever isn't the expected
answer ends the measurement.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Self, TypeVar, cast
from urllib.parse import urlsplit

import httptools
import msgspec

from bench.frames import STDOUT, Frames

_OK, _SWITCHING = 200, 101
_KEY = "AAAAAAAAAAAAAAAAAAAAAA=="  # any 16 bytes; what the server makes of them is not looked at
_SHOWN = 300  # bytes of a refusal


class WireError(Exception):
    """A server did not answer as it should; the message says what it did."""


class Target(msgspec.Struct, frozen=True):
    """A server, and as whom to talk to it.

    Attributes:
        server: URL, without a path.
        authority: file with the CA that the server is trusted by.
        certificate: file with the client's.
        key: file with the client's.
    """

    server: str
    authority: str
    certificate: str
    key: str


def request(
    target: Target, method: str, path: str, body: bytes = b"", content_type: str = ""
) -> bytes:
    """Return a request's bytes."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {urlsplit(target.server).netloc}",
        "Accept: application/json",
        "User-Agent: bench",
    ]
    if body:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def exec_request(target: Target, path: str) -> bytes:
    """Return the bytes that ask for an exec over a WebSocket."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {urlsplit(target.server).netloc}",
        "User-Agent: bench",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {_KEY}",
        "Sec-WebSocket-Protocol: v5.channel.k8s.io",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class _Client(asyncio.Protocol):
    """A connection that reads answers; what they mean is for others."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[None] | None = None
        self._failure: WireError | None = None
        self._refusal = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(WireError(f"not an HTTP answer: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._fail(WireError(f"the connection broke: {exc or 'closed by the server'}"))

    def on_body(self, body: bytes) -> None:
        """Keep the beginning of a refusal; an answer's body goes to `_received`."""
        if self._parser.get_status_code() == _OK:
            self._received(body)
        elif len(self._refusal) < _SHOWN:
            self._refusal += body

    def on_message_complete(self) -> None:
        """End an answer."""
        status = self._parser.get_status_code()
        if status == _OK:
            self._answered()
        elif status != _SWITCHING:
            self._fail(WireError(f"{status} {self._refusal[:_SHOWN]!r}"))

    def close(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _received(self, body: bytes) -> None:
        """Take a part of an answer's body."""

    def _answered(self) -> None:
        """Take an answer's end."""

    def _write(self, data: bytes) -> None:
        assert self._transport is not None  # noqa: S101 - connections are handed out connected
        self._transport.write(data)

    async def _over(self) -> None:
        """Wait for `_finish`, or raise what went wrong, now or before."""
        if self._failure is not None:
            raise self._failure
        self._waiting = asyncio.get_running_loop().create_future()
        await self._waiting

    def _finish(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def _fail(self, error: WireError) -> None:
        self._failure = self._failure or error
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(self._failure)


class Repeater(_Client):
    """Makes the same request again and again, the next one as soon as the last is answered."""

    def __init__(self) -> None:
        """Make it; it is connected by :func:`connect`."""
        super().__init__()
        self._request = b""
        self._latencies: list[float] = []
        self._until = self._sent = 0.0

    async def run(self, request: bytes, until: float = 0.0) -> list[float]:
        """Make a request, and again until some time.

        Args:
            request: its bytes.
            until: `time.perf_counter()` from which no further one begins.

        Returns:
            Seconds that each took, from its first byte written until its answer's last was read.

        Raises:
            WireError: an answer was not 200, or none.
        """
        self._request, self._latencies, self._until = request, [], until
        self._send(time.perf_counter())
        await self._over()
        return self._latencies

    def _send(self, now: float) -> None:
        self._sent = now
        self._write(self._request)

    def _answered(self) -> None:
        now = time.perf_counter()
        self._latencies.append(now - self._sent)
        if now < self._until:
            self._send(now)
        else:
            self._finish()


class Watcher(_Client):
    """Follows a watch, and hands on each event's line."""

    def __init__(self, seen: Callable[[bytes], None]) -> None:
        """Make it; `seen` gets each whole line, without its end."""
        super().__init__()
        self._seen = seen
        self._line = b""

    async def open(self, request: bytes) -> None:
        """Begin the watch and wait until the server has; raises WireError if it refuses."""
        self._write(request)
        await self._over()

    def check(self) -> None:
        """Raise WireError if the watch has ended."""
        if self._failure is not None:
            raise self._failure

    def on_headers_complete(self) -> None:
        """Tell that it has begun."""
        if self._parser.get_status_code() == _OK:
            self._finish()

    def _received(self, body: bytes) -> None:
        *lines, self._line = (self._line + body).split(b"\n")
        for line in lines:
            self._seen(line)

    def _answered(self) -> None:
        self._fail(WireError("the server ended the watch"))


class Exec(_Client):
    """Runs a command in a pod and counts its output."""

    def __init__(self) -> None:
        """Make it; it is connected by :func:`connect`."""
        super().__init__()
        self._frames = Frames()
        self._agreed = False

    async def run(self, request: bytes) -> int:
        """Run the command to its end and return how many bytes it wrote to standard output.

        Raises:
            WireError: the server refused, or the command failed.
        """
        self._write(request)
        await self._over()
        if not self._frames.succeeded:
            raise WireError(f"the command failed: {self._frames.status[:_SHOWN]!r}")
        return self._frames.received[STDOUT]

    def data_received(self, data: bytes) -> None:
        """Count what came once the server has agreed."""
        if not self._agreed:
            try:
                super().data_received(data)
            except httptools.HttpParserUpgrade as upgraded:
                self._agreed = True
                data = data[upgraded.args[0] :]
        if self._agreed:
            self._frames.feed(data)
            if self._frames.closed:
                self._finish()


_Kind = TypeVar("_Kind", bound=_Client)


class Connections:
    """Opens connections to one server, and closes them all at the end of the block."""

    def __init__(self, target: Target) -> None:
        """Make it; nothing is connected."""
        self._url = urlsplit(target.server)
        self._tls = ssl.create_default_context(cafile=target.authority)
        self._tls.load_cert_chain(target.certificate, target.key)
        self._open: list[_Client] = []

    async def repeater(self) -> Repeater:
        """Open one that makes requests; raises OSError."""
        return await self._connect(Repeater)

    async def watcher(self, seen: Callable[[bytes], None]) -> Watcher:
        """Open one for a watch; raises OSError."""
        return await self._connect(lambda: Watcher(seen))

    async def exec(self) -> Exec:
        """Open one for an exec; raises OSError."""
        return await self._connect(Exec)

    async def __aenter__(self) -> Self:
        """Begin."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close them."""
        for connection in self._open:
            connection.close()

    async def _connect(self, make: Callable[[], _Kind]) -> _Kind:
        loop, url = asyncio.get_running_loop(), self._url
        _, connection = await loop.create_connection(
            make, url.hostname or "", url.port or 443, ssl=self._tls, server_hostname=url.hostname
        )
        self._open.append(connection)
        return connection
