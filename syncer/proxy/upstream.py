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
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Final

import aiohttp
from aiohttp import HttpVersion11, web
from multidict import CIMultiDict
from yarl import URL

from syncer.kube.client import KEEP_ALIVE_SECONDS
from syncer.kube.config import ConnectionConfig, Credentials
from syncer.kube.errors import ConfigError
from syncer.proxy.identity import Header
from syncer.proxy.keepalive import detecting_socket
from syncer.proxy.refusal import RefusalError
from syncer.proxy.request import RequestInfo

SERVER: Final = "vcluster-syncer"
"""What answers name as their server where they name none; aiohttp would tell its version."""

CONNECT_SECONDS: Final = 10.0

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
_NETWORK: Final = (aiohttp.ClientError, OSError, ConfigError)
_AUTOMATIC: Final = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def end_to_end(headers: Sequence[Header]) -> Iterator[Header]:
    """Give the headers that are not about the connection.

    Args:
        headers: of a request or an answer.
    """
    named = {
        word.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for word in value.split(",")
    }
    for header in headers:
        plain = header[0].lower()
        if plain not in _HOP_BY_HOP and plain not in named:
            yield header


def headers_of(request: web.BaseRequest) -> list[Header]:
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
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self,
        info: RequestInfo,
        headers: Iterable[Header],
        *,
        request: web.BaseRequest | None = None,
        body: bytes | None = None,
        target: str = "",
        admin: bool,
        head_seconds: float | None = HEAD_SECONDS,
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the head of the answer.

        Args:
            info: gives method and, unless ``target`` does, path and query.
            headers: what to send, already without those of the connection.
            request: whose body is passed on.
            body: a body in its place.
            target: path and query, escaped.
            admin: with our own credentials; else with none but those in ``headers``.
            head_seconds: how long the answer may take to begin; ``None``: for ever.

        Returns:
            The answer; whoever gets it reads or closes it.

        Raises:
            RefusalError: no answer came, or the caller's body broke off.
        """
        try:
            if head_seconds is None:
                return await self._answered(info, headers, request, body, target, admin)
            async with asyncio.timeout(head_seconds):
                return await self._answered(info, headers, request, body, target, admin)
        except TimeoutError as error:
            raise RefusalError(504, f"{self._name} did not answer in time") from error
        except _NETWORK as error:
            if isinstance(error.__cause__, RefusalError):  # out of the caller's body
                raise error.__cause__ from error
            if request is not None and info.subresource != "proxy" and _goes_on(request):
                raise _too_large(MAX_OBJECT) from error  # the server's own refusal got lost
            raise self.unreachable() from error

    async def _answered(
        self,
        info: RequestInfo,
        headers: Iterable[Header],
        request: web.BaseRequest | None,
        body: bytes | None,
        target: str,
        admin: bool,
    ) -> aiohttp.ClientResponse:
        """Send a request and, when our own credentials were old, once more."""
        fields, method, target = CIMultiDict(headers), info.method, target or info.target
        data = await _body(request, fields) if body is None else body
        credentials = await (self._config.credentials() if admin else self._config.bare())
        response = await self._exchange(method, target, fields, data, credentials)
        if response.status != 401 or not admin or not isinstance(data, bytes | None):
            return response
        try:
            fresh = await self._config.refresh(credentials)
        except BaseException:
            response.close()
            raise
        if fresh == credentials:
            return response
        response.close()
        return await self._exchange(method, target, fields, data, fresh)

    def unreachable(self) -> RefusalError:
        """Say that the server can't be reached, without saying where it is."""
        return RefusalError(503, f"{self._name} can't be reached", headers={"Retry-After": "1"})

    @property
    def config(self) -> ConnectionConfig:
        """Where the server is and who we are."""
        return self._config

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _exchange(
        self,
        method: str,
        target: str,
        headers: CIMultiDict[str],
        data: bytes | AsyncIterator[bytes] | None,
        credentials: Credentials,
    ) -> aiohttp.ClientResponse:
        if credentials.headers:
            headers = headers.copy()
            headers.update(credentials.headers)
        return await self._opened().request(
            method,
            URL(f"{self._config.server}{target}", encoded=True),
            data=data,
            headers=headers,
            allow_redirects=False,
            ssl=credentials.ssl_context or True,
            server_hostname=self._config.server_name or None,
        )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS, socket_factory=detecting_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=_AUTOMATIC,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                max_line_size=64 * 1024,
                max_field_size=64 * 1024,
                read_bufsize=64 * 1024,
            )
        return self._session


async def _body(
    request: web.BaseRequest | None, headers: CIMultiDict[str]
) -> bytes | AsyncIterator[bytes] | None:
    """Give a request's body: small ones whole, others in pieces; none when there is none."""
    if request is None:
        return None
    if not request.can_read_body:
        return b"" if request.method in ("POST", "PUT", "PATCH") else None
    length = request.content_length
    if length is None:
        return _pieces(request, MAX_BODY)
    if length > MAX_BODY:
        raise _too_large(MAX_BODY)
    if length <= _SMALL:
        return await read_body(request, _SMALL)
    headers["Content-Length"] = str(length)
    return _pieces(request, MAX_BODY)


async def read_body(request: web.BaseRequest, limit: int) -> bytes:
    """Read a request's body whole.

    Args:
        request: the caller's.
        limit: bytes that it may have.

    Raises:
        RefusalError: it is longer, or did not come in time.
    """
    return b"".join([piece async for piece in _pieces(request, limit)])


async def _pieces(request: web.BaseRequest, limit: int) -> AsyncIterator[bytes]:
    """Give a request's body as it comes."""
    if "100-continue" in request.headers.get("Expect", "").lower() and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    left = limit
    while True:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                piece = await request.content.readany()
        except TimeoutError:
            raise RefusalError(408, "the request's body did not come in time") from None
        if not piece:
            return
        left -= len(piece)
        if left < 0:
            raise _too_large(limit)
        yield piece


def _goes_on(request: web.BaseRequest) -> bool:
    """Say whether a body is longer than an object may be, and not at its end."""
    content = request.content
    return content.total_bytes > MAX_OBJECT and not content.at_eof()


def _too_large(limit: int) -> RefusalError:
    return RefusalError(413, f"Request entity too large: limit is {limit}")


# -- answers -------------------------------------------------------------------------------------


async def relay(
    request: web.BaseRequest,
    response: aiohttp.ClientResponse,
    headers: Iterable[Header],
    feed: Callable[[bytes], bytes] | None = None,
) -> web.StreamResponse:
    """Stream an answer to the caller, as fast as the caller reads.

    Cancelled, which happens when the caller goes away, it closes the server's connection.

    Args:
        request: the caller's.
        response: the server's answer; read to its end, or closed.
        headers: what the caller gets of its headers.
        feed: rewrites the body piece by piece; called with ``b""`` at its end.

    Raises:
        RefusalError: it is no answer to such a request.
        ConnectionError: one of both ends broke off; the caller's connection is closed.
    """
    try:
        if response.status < 200:
            raise RefusalError(503, "the server changed the protocol unasked")
        return await _relayed(request, response, CIMultiDict(headers), feed)
    except aiohttp.ClientError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer broke off") from error
    finally:
        response.close()


async def _relayed(
    request: web.BaseRequest,
    response: aiohttp.ClientResponse,
    fields: CIMultiDict[str],
    feed: Callable[[bytes], bytes] | None,
) -> web.StreamResponse:
    length = response.content_length if feed is None else None
    small = length is not None and length <= _SMALL
    # In chunks, as API servers write all lists, a short answer is here as soon as its head is.
    here = feed is None and response.content.is_eof()
    if (small or here) and request.method != "HEAD":
        body = await response.read()
        whole = web.Response(status=response.status, headers=fields, body=body)
        if length is None and request.version >= HttpVersion11:
            whole.enable_chunked_encoding()
        return whole
    fields.setdefault("Server", SERVER)
    answer = web.StreamResponse(status=response.status, headers=fields)
    if length is not None:
        answer.content_length = length
    await answer.prepare(request)
    if request.method == "HEAD":  # whatever was asked of the server: a body would be taken for
        await answer.write_eof()  # the beginning of the next answer
        return answer
    while piece := await response.content.read(_SMALL):  # all there is may be a lot
        if piece := piece if feed is None else feed(piece):
            await answer.write(piece)
    if feed is not None and (rest := feed(b"")):
        await answer.write(rest)
    await answer.write_eof()
    return answer


async def read_answer(response: aiohttp.ClientResponse, limit: int, seconds: float) -> bytes:
    """Read an answer's body, or the beginning of a longer one; the answer is closed afterwards.

    Args:
        response: the server's answer.
        limit: bytes that are read at most.
        seconds: how long it may take.

    Raises:
        TimeoutError: it took longer.
        aiohttp.ClientError: it broke off.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while piece := await response.content.read(limit - len(body)):
                body += piece
    finally:
        response.close()
    return bytes(body)


def answer_headers(response: aiohttp.ClientResponse) -> Iterator[Header]:
    """Give the headers of an answer that go back to the caller."""
    return end_to_end(
        [
            (name.decode("latin-1"), _printable(value.decode(errors="replace")))
            for name, value in response.raw_headers
        ]
    )


def _printable(value: str) -> str:
    """Put spaces where control characters were: a server let them in, none is to be written."""
    return value if value.isprintable() else _CONTROLS.sub(" ", value)
