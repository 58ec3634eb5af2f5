"""Passes requests on to an API server and streams the answers back.

Bodies go through in pieces, in both directions, as fast as the slower side takes them; nothing is
decoded, and no redirect is followed. Two pools of connections: the administrator's, with the
client certificate, and a bare one for requests that carry their caller's own credentials.

Invariants:
* headers that mean something for one connection only are never passed on;
* what came from a caller's headers about who they are goes to the virtual API server only, over
  the bare pool, and never together with credentials of ours;
* an answer that breaks off breaks off for the caller too.

Source: RFC 9110 section 7.6.1 (hop-by-hop headers); CVE-2020-8559 (redirects).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final, NamedTuple

from syncer.http1.body import Body
from syncer.http1.client import NoConnectionError, Pool, Reply, Server
from syncer.http1.head import BadHeaderError, Header
from syncer.http1.server import Answer, Request, Response, Sent, UnreadableError
from syncer.kube.config import ConnectionConfig, Credentials
from syncer.kube.errors import ConfigError
from syncer.proxy.refusal import RefusalError
from syncer.proxy.request import RequestInfo

HEAD_SECONDS: Final = 75.0
"""How long a server may take to begin its answer; API servers give up after 60 s themselves."""

BODY_SECONDS: Final = 60.0
"""How long a caller may pause within a request's body."""

MAX_BODY: Final = 64 << 20
"""Bytes of a request's body; API servers take 3 MiB for objects themselves."""

AGENT: Final[Header] = ("User-Agent", "vcluster-syncer")
"""How requests to the host name their sender; the tenant's own clients are none of its business."""

MAX_OBJECT: Final = 3 << 20
"""Bytes of an object that API servers take; they hang up on who goes on sending.

Source: k8s.io/apiserver v0.36 ``pkg/server/config.go``, ``MaxRequestBodyBytes``.
"""

_SMALL: Final = 64 * 1024
"""Bodies up to here go in one piece."""

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
        "expect",
        "host",
        "content-length",
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
    }
)
_NETWORK: Final = (OSError, ConfigError)
_SAFE: Final = frozenset({"GET", "HEAD"})
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def end_to_end(headers: Sequence[Header]) -> list[Header]:
    """Give the headers that are not about the connection.

    Args:
        headers: of a request or an answer.
    """
    names = [name.lower() for name, _ in headers]
    dropped = _HOP_BY_HOP
    if "connection" in names:
        dropped = dropped.union(
            word.strip().lower()
            for name, (_, value) in zip(names, headers, strict=True)
            if name == "connection"
            for word in value.split(",")
        )
    return [each for name, each in zip(names, headers, strict=True) if name not in dropped]


def headers_of(request: Request) -> list[Header]:
    """Give a request's headers as they were written, in order.

    Raises:
        RefusalError: one is not UTF-8.
    """
    try:
        return [(name.decode(), value.decode()) for name, value in request.raw_headers]
    except UnicodeDecodeError:
        raise RefusalError(400, "headers must be UTF-8") from None


class Upstream:
    """One API server to pass requests on to."""

    def __init__(self, config: ConnectionConfig, *, name: str) -> None:
        """Make it; it connects when it is used.

        Args:
            config: where the server is and who we are.
            name: for messages, such as ``the virtual cluster's API server``.
        """
        self._config = config
        self._name = name
        self._pool = Pool()

    async def send(
        self,
        info: RequestInfo,
        headers: Iterable[Header],
        *,
        request: Request | None = None,
        body: bytes | None = None,
        target: str = "",
        admin: bool,
        head_seconds: float | None = HEAD_SECONDS,
        protocol: str = "",
    ) -> Reply:
        """Send a request and wait for the head of the answer.

        Args:
            info: gives method and, unless ``target`` does, path and query.
            headers: what to send, already without those of the connection.
            request: whose body is passed on.
            body: a body in its place.
            target: path and query, escaped.
            admin: with our own credentials; else with none but those in ``headers``.
            head_seconds: how long the answer may take to begin; ``None``: for ever.
            protocol: to upgrade to.

        Returns:
            The answer; whoever gets it reads or closes it.

        Raises:
            RefusalError: no answer came, or the caller's body broke off.
        """
        try:
            async with asyncio.timeout(head_seconds):
                data = await _body(request) if body is None else body
                length = request.length if request is not None else None
                asked = _Asked(
                    info.method, target or info.target, list(headers), data, length, protocol
                )
                return await self._answered(asked, admin=admin)
        except TimeoutError as error:
            raise RefusalError(504, f"{self._name} did not answer in time") from error
        except BadHeaderError as error:
            raise RefusalError(400, str(error)) from None
        except _NETWORK as error:
            if request is not None and info.subresource != "proxy" and _goes_on(request):
                raise _too_large(MAX_OBJECT) from error  # the server's own refusal got lost
            nothing_done = isinstance(error, NoConnectionError | ConfigError)
            safe = info.method in _SAFE and not protocol
            raise self.unreachable(again=nothing_done or safe) from error

    async def _answered(self, asked: _Asked, *, admin: bool) -> Reply:
        """Send a request and, when our own credentials were old, once more."""
        credentials = await (self._config.credentials() if admin else self._config.bare())
        reply = await self._exchange(asked, credentials)
        if reply.status != 401 or not admin or not isinstance(asked.body, bytes | None):
            return reply
        try:
            fresh = await self._config.refresh(credentials)
        except BaseException:
            reply.close()
            raise
        if fresh == credentials:
            return reply
        reply.close()
        return await self._exchange(asked, fresh)

    def unreachable(self, *, again: bool = True) -> RefusalError:
        """Say that the server can't be reached, without saying where it is.

        Args:
            again: whether the same may be asked again. Clients do so by themselves, whatever they
                asked for: so only where nothing can have been done.
        """
        headers = {"Retry-After": "1"} if again else None
        return RefusalError(503, f"{self._name} can't be reached", headers=headers)

    @property
    def config(self) -> ConnectionConfig:
        """Where the server is and who we are."""
        return self._config

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def _exchange(self, asked: _Asked, credentials: Credentials) -> Reply:
        method, target, headers, body, length, protocol = asked
        if ours := {name.lower() for name in credentials.headers}:
            headers = [each for each in headers if each[0].lower() not in ours]
            headers += credentials.headers.items()
        server = Server(self._config.server, credentials.ssl_context, self._config.server_name)
        return await self._pool.request(
            server, method, target, headers, body, length=length, protocol=protocol
        )


class _Asked(NamedTuple):
    """What is sent, but for credentials."""

    method: str
    target: str
    headers: list[Header]
    body: bytes | AsyncIterator[bytes] | None
    length: int | None
    protocol: str


async def _body(request: Request | None) -> bytes | AsyncIterator[bytes] | None:
    """Give a request's body: small ones whole, others in pieces; none when there is none."""
    if request is None:
        return None
    if not request.has_body:
        return b"" if request.method in ("POST", "PUT", "PATCH") else None
    if request.length is not None:
        if request.length > MAX_BODY:
            raise _too_large(MAX_BODY)
        if request.length <= _SMALL:
            return await read_body(request, _SMALL)
    return _pieces(request, MAX_BODY)


async def read_body(request: Request, limit: int) -> bytes:
    """Read a request's body whole.

    Args:
        request: the caller's.
        limit: bytes that it may have.

    Raises:
        RefusalError: it is longer, or did not come in time.
    """
    return b"".join([piece async for piece in _pieces(request, limit)])


async def _pieces(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Give a request's body as it comes."""
    left = limit
    while True:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                piece = await request.read()
        except TimeoutError:
            raise RefusalError(408, "the request's body did not come in time") from None
        except UnreadableError as error:
            raise RefusalError(error.status, "the request's body can't be read") from None
        if not piece:
            return
        left -= len(piece)
        if left < 0:
            raise _too_large(limit)
        yield piece


def _goes_on(request: Request) -> bool:
    """Say whether a body is longer than an object may be, and not at its end."""
    return request.body.received > MAX_OBJECT and not request.body.ended


def _too_large(limit: int) -> RefusalError:
    return RefusalError(413, f"Request entity too large: limit is {limit}")


# -- answers -------------------------------------------------------------------------------------


async def relay(
    request: Request,
    reply: Reply,
    headers: Iterable[Header],
    feed: Callable[[bytes], bytes] | None = None,
) -> Answer:
    """Stream an answer to the caller, as fast as the caller reads.

    Cancelled, which happens when the caller goes away, it closes the server's connection.

    Args:
        request: the caller's.
        reply: the server's answer; read to its end, or closed.
        headers: what the caller gets of its headers.
        feed: rewrites the body piece by piece; called with ``b""`` at its end.

    Raises:
        RefusalError: it is no answer to such a request.
        ConnectionError: one of both ends broke off; the caller's connection is closed.
    """
    try:
        if reply.status < 200:
            raise RefusalError(503, "the server changed the protocol unasked")
        return await _relayed(request, reply, list(headers), feed)
    except ConnectionError:
        request.abort()
        raise
    finally:
        reply.close()


async def _relayed(
    request: Request,
    reply: Reply,
    fields: list[Header],
    feed: Callable[[bytes], bytes] | None,
) -> Answer:
    body, status, length = reply.body, reply.status, reply.length
    if feed is None and request.method != "HEAD":
        if length is not None and length <= _SMALL and not body.ended:
            return Response(status, fields, await _all(body))
        if body.whole:  # a short answer is here as soon as its head is
            return Response(status, fields, body.take())
    writer = request.begin(status, fields, length if feed is None else None)
    if request.method == "HEAD":  # whatever was asked of the server: a body would be taken for
        writer.end()  # the beginning of the next answer
        return Sent(status)
    piece = body.take()
    while True:
        await writer.write(piece if feed is None or not piece else feed(piece))
        if not (piece := await body.read()):
            break
    if feed is not None:
        await writer.write(feed(b""))
    writer.end()
    return Sent(status)


async def _all(body: Body) -> bytes:
    pieces = []
    while piece := await body.read():
        pieces.append(piece)
    return b"".join(pieces)


async def read_answer(reply: Reply, limit: int, seconds: float) -> bytes:
    """Read an answer's body, or the beginning of a longer one; the answer is closed afterwards.

    Args:
        reply: the server's answer.
        limit: bytes that are given at most.
        seconds: how long it may take.

    Raises:
        TimeoutError: it took longer.
        ConnectionError: it broke off.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while len(body) < limit and (piece := await reply.body.read()):
                body += piece
    finally:
        reply.close()
    return bytes(body[:limit])


def answer_headers(reply: Reply) -> list[Header]:
    """Give the headers of an answer that go back to the caller."""
    headers = reply.headers
    if not "".join([value for _, value in headers]).isprintable():
        # A server let control characters in, none is to be written.
        headers = [(name, _CONTROLS.sub(" ", value)) for name, value in headers]
    return end_to_end(headers)
