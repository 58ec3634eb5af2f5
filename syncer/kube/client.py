"""Sends requests to one API server and gives bytes back: no objects, no retries, no policy.

Over one pool of kept-alive HTTP/1.1 connections. How many requests are under way at once is the
caller's business, as are retries, with one exception: a request answered 401 was not executed, so
it is sent once more if there are fresh credentials.

Invariants:
* every await has a deadline; what comes out is an answer, :class:`ApiError` or
  :class:`TransportError`, or whatever a caller's ``check`` raises;
* cancelling a request or leaving a stream closes its connection, unless the answer was complete; no
  connection with an unread answer goes back to the pool;
* redirects are answers like any other, cookies are not kept, proxies and ``.netrc`` of the
  environment are not used: credentials go to the configured server only.

Which verb the observer is told: ``get`` (of one or a list), ``create``, ``update``, ``patch``,
``delete`` by the HTTP method, and ``watch`` for streams, until their first byte.

aiohttp repeats GET, PUT and DELETE once by itself when a kept-alive connection turns out to be
closed; ``check`` is called again then. A repeated DELETE may so answer 404 to its own success.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from syncer.kube.config import ConnectionConfig, Credentials
from syncer.kube.errors import ApiError, ConfigError, TransportError, api_error
from syncer.objects import Object

Observer = Callable[[str, int, float], None]
"""Told of each answer: verb, status code (0: none came) and seconds."""

KEEP_ALIVE_SECONDS: Final = 60.0
"""An idle connection is kept so long; kube-apiserver closes them after 90 s."""

MAX_ERROR_BODY: Final = 64 * 1024
"""Bytes read of an answer that is no success; of a longer one, the rest is not waited for."""

_MAX_PIECE: Final = 1 << 20
"""Bytes of a body that go in one piece; aiohttp warns of more."""

_VERBS: Final = {
    "GET": "get",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_NETWORK: Final = (aiohttp.ClientError, OSError)  # TimeoutError and ssl.SSLError are OSErrors


@dataclass(frozen=True, slots=True)
class _Call:
    """One request, to be sent once or, after a 401, twice."""

    verb: str
    method: str
    path: str
    params: Mapping[str, str] | None
    data: bytes | None = None
    content_type: str = ""
    check: Callable[[], None] | None = None

    @property
    def attempt(self) -> str:
        return f"{self.method} {self.path}"

    def url(self, server: str) -> URL:
        query = f"?{urlencode(self.params, quote_via=quote)}" if self.params else ""
        return URL(f"{server}{self.path}{query}", encoded=True)


class Client:
    """Requests and streams of one API server."""

    def __init__(
        self,
        config: ConnectionConfig,
        *,
        observer: Observer | None = None,
        user_agent: str = "vcluster-syncer",
        now: Callable[[], float] = time.time,
    ) -> None:
        """Make a client; it connects when it is used.

        Args:
            config: where the server is and who we are.
            observer: told of each request when it ends, of a stream when it begins.
            user_agent: ``User-Agent`` header.
            now: seconds since the epoch, for ``Retry-After`` dates.
        """
        self._config = config
        self._observer = observer
        self._user_agent = user_agent
        self._now = now
        # Made at the first request: it belongs to the loop that is running then.
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        # The Date of the last answer of success, and the loop's time when it came.
        self._dated: tuple[str, float] | None = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Object | list[Any] | bytes | None = None,
        content_type: str = "application/json",
        timeout: float = 30.0,
        check: Callable[[], None] | None = None,
    ) -> bytes:
        """Send a request and wait for the whole answer.

        Cancelled, or out of time, it closes the connection; the server may have done it.

        Args:
            method: HTTP method, upper case.
            path: escaped path, without query.
            params: query; values are escaped here.
            body: what to send: bytes as they are, or something to encode as JSON.
            content_type: of the body.
            timeout: seconds for all of it: credentials, connection, answer.
            check: called at the last moment before the bytes go, each time they go; when it
                raises, they don't, and that exception comes out.

        Returns:
            The body of an answer with a status of 2xx.

        Raises:
            ApiError: the server answered with another status.
            TransportError: no complete answer came.
        """
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        verb = _VERBS.get(method, method.lower())
        call = _Call(verb, method, path, params, data, content_type, check)
        try:
            async with asyncio.timeout(timeout):
                response = await self._authorized(call, whole=True)
                return await response.read()  # it has been read, this gives it
        except TimeoutError as error:
            cause = TimeoutError(f"not complete after {timeout:g} s")
            raise TransportError(call.attempt, cause) from error
        except (*_NETWORK, ConfigError) as error:
            raise TransportError(call.attempt, _plain(error)) from error

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        read_timeout: float,
        total: float | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a GET whose answer comes bit by bit, such as a watch or a log.

        Leaving it, or being cancelled, closes the connection unless the answer has ended.

        Args:
            path: escaped path, without query.
            params: query; values are escaped here.
            read_timeout: seconds without a byte, the first one included, until it counts as lost.
            total: seconds it may last at all; ``None``: without end.

        Yields:
            An iterator of chunks as they come, not split at anything; it ends with the answer.

        Raises:
            ApiError: the server answered with a status that is not 2xx.
            TransportError: the connection was lost or silent, or lasted too long; from the
                iterator too.
        """
        call = _Call("watch", "GET", path, params)
        ends = asyncio.get_running_loop().time() + (float("inf") if total is None else total)
        try:
            async with asyncio.timeout(read_timeout):
                response = await self._authorized(call, whole=False)
        except TimeoutError as error:
            cause = TimeoutError(f"no answer after {read_timeout:g} s")
            raise TransportError(call.attempt, cause) from error
        except (*_NETWORK, ConfigError) as error:
            raise TransportError(call.attempt, _plain(error)) from error
        try:
            yield _Chunks(response.content, call.attempt, read_timeout, ends)
        finally:
            response.close()

    def server_time(self) -> float | None:
        """Tell the time by the server's own clock, to compare with the times it puts on objects.

        Goes on from the last answer's ``Date``, which is in whole seconds: a second late, and the
        way of the answer, but never ahead. Our own wall clock has no part in it.

        Returns:
            Seconds since the epoch; ``None`` when no answer has said it yet.

        Source: RFC 9110, 6.6.1.
        """
        if self._dated is None:
            return None
        date, came = self._dated
        try:
            then = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return None
        return then + asyncio.get_running_loop().time() - came

    async def close(self) -> None:
        """Close all connections; what is under way ends with :class:`TransportError`."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _authorized(self, call: _Call, *, whole: bool) -> aiohttp.ClientResponse:
        """Send a request and, when it is answered 401 and there are new credentials, once more."""
        credentials = await self._config.credentials()
        try:
            return await self._observed(call, credentials, whole=whole)
        except ApiError as error:
            if not error.unauthorized:
                raise
            fresh = await self._config.refresh(credentials)
            if fresh == credentials:
                raise
        return await self._observed(call, fresh, whole=whole)

    async def _observed(
        self, call: _Call, credentials: Credentials, *, whole: bool
    ) -> aiohttp.ClientResponse:
        started = time.perf_counter()
        try:
            response = await self._exchange(call, credentials, whole=whole)
        except ApiError as error:
            self._observe(call, error.status, started)
            raise
        except (*_NETWORK, asyncio.CancelledError):  # out of time is a cancellation here
            self._observe(call, 0, started)
            raise
        self._observe(call, response.status, started)
        return response

    def _observe(self, call: _Call, code: int, started: float) -> None:
        if self._observer is not None:
            self._observer(call.verb, code, time.perf_counter() - started)

    async def _exchange(
        self, call: _Call, credentials: Credentials, *, whole: bool
    ) -> aiohttp.ClientResponse:
        data: bytes | io.BytesIO | None = call.data
        headers = dict(credentials.headers)
        if call.data is not None:
            headers["Content-Type"] = call.content_type
            if len(call.data) > _MAX_PIECE:
                data = io.BytesIO(call.data)
        response = await self._opened().request(
            call.method,
            call.url(self._config.server),
            data=data,
            headers=headers,
            allow_redirects=False,
            ssl=credentials.ssl_context or True,
            server_hostname=self._config.server_name or None,
            trace_request_ctx=call.check,
        )
        if not 200 <= response.status < 300:
            raise await self._error(call, response)
        if (date := response.headers.get("Date")) is not None:
            self._dated = date, asyncio.get_running_loop().time()
        if whole:
            await response.read()
        return response

    async def _error(self, call: _Call, response: aiohttp.ClientResponse) -> ApiError:
        body = bytearray()
        try:
            while len(body) < MAX_ERROR_BODY and (chunk := await response.content.readany()):
                body += chunk
        finally:
            response.close()  # of a complete answer, the connection is in the pool already
        retry_after = response.headers.get("Retry-After")
        return api_error(call.attempt, response.status, bytes(body), retry_after, self._now())

    def _opened(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ConnectionAbortedError("the client is closed")
        if self._session is None:
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_check)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": self._user_agent,
                },
                skip_auto_headers=["Content-Type"],  # no body has no type
                timeout=aiohttp.ClientTimeout(total=None),  # ours cover more than aiohttp's
                trace_configs=[trace],
            )
        return self._session


class _Chunks:
    """Iterates over the chunks of an answer, under deadlines."""

    def __init__(
        self, content: aiohttp.StreamReader, attempt: str, read_timeout: float, ends: float
    ) -> None:
        self._content = content
        self._attempt = attempt
        self._read_timeout = read_timeout
        self._ends = ends
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if not (chunk := await self._next()):
            raise StopAsyncIteration
        return chunk

    async def _next(self) -> bytes:
        now = self._loop.time()
        try:
            if now >= self._ends:
                raise TimeoutError
            if chunk := self._content.read_nowait():
                return chunk
            async with asyncio.timeout_at(min(now + self._read_timeout, self._ends)):
                return await self._content.readany()
        except TimeoutError as error:
            silent = f"silent for {self._read_timeout:g} s"
            cause = TimeoutError(silent if self._loop.time() < self._ends else "lasts too long")
            raise TransportError(self._attempt, cause) from error
        except _NETWORK as error:
            raise TransportError(self._attempt, _plain(error)) from error


def _plain(error: Exception) -> Exception:
    """Give what aiohttp wrapped: its own texts name Python objects and say less."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return error.certificate_error
        case aiohttp.ClientConnectorError():
            return error.os_error
        case _:
            return error


async def _check(
    _session: aiohttp.ClientSession,
    context: SimpleNamespace,
    _params: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    # aiohttp calls this when it has a connection and built the head, before a byte is written.
    if context.trace_request_ctx is not None:
        context.trace_request_ctx()
