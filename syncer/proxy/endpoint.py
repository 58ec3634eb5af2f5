"""The endpoint itself: reads each request, says whom it is from, and hands it to its route.

The way of a request: target read, route found, caller named, counted, handled; refused wherever
one of these fails. What may be done is decided by the handlers, each before it asks a server for
more than its opinion.

Serves on every replica and before the syncer's own lists are complete: only what needs the host's
objects waits for those. Trouble with the host is never trouble with the virtual API server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import structlog

from syncer.http1.server import Answer, Request, Sent
from syncer.proxy.authenticate import caller_of
from syncer.proxy.call import Call
from syncer.proxy.limits import Limits
from syncer.proxy.listener import Listener
from syncer.proxy.refusal import RefusalError
from syncer.proxy.request import BadTargetError, read
from syncer.proxy.routes import Route, is_stream, route_of
from syncer.proxy.tls import ServingTls
from syncer.proxy.upgrade import wants_upgrade
from syncer.proxy.upstream import headers_of
from syncer.settings import Address, Settings

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_AGGREGATORS: Final = frozenset({"system:aggregator", "system:kube-aggregator"})
"""Whom an API server says it is when it asks the server of metrics.k8s.io, which is this one, for
its schemas and groups: given its own, it would never be done with them."""

ANSWER_SECONDS: Final = 75.0
"""How long a request may take that is no stream; API servers give up after 60 s themselves."""

Handler = Callable[[Call], Awaitable[Answer]]
Observer = Callable[[str, int, float], None]
"""Told of each request: route, status and seconds; of a stream when it ends."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy")
access_log: structlog.stdlib.BoundLogger = structlog.get_logger("access")


class Endpoint:
    """Answers the tenant's requests.

    Attributes:
        listener: its connections.
    """

    def __init__(
        self,
        settings: Settings,
        handlers: Mapping[Route, Handler],
        tls: ServingTls,
        *,
        node_of: Callable[[str], str | None] = lambda _host: None,
        observer: Observer | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Make it; it listens once it is served.

        Args:
            settings: of the syncer.
            handlers: for each route; one that is missing is not found.
            tls: started; says whose certificate a connection showed.
            node_of: gives the node whose kubelet a ``Host`` header means.
            observer: told of each request.
            now: seconds since the epoch.
        """
        self._settings = settings
        self._handlers = handlers
        self._tls = tls
        self.listener = Listener(most=settings.proxy_max_connections)
        self._node_of = node_of
        self._observer = observer
        self._now = now
        self._limits = Limits(
            requests=settings.proxy_max_requests_per_user,
            streams=settings.proxy_max_streams_per_user,
        )
        self._stopping = False

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Address]:
        """Listen while the body runs; give the address with the port it got.

        Raises:
            ConfigError: the address can't be listened on.
        """
        address = Address(self._settings.bind_address, self._settings.port)
        async with self.listener.serve(address, self._tls.context, self.answer) as bound:
            yield bound

    def stop(self) -> None:
        """Tell probes that this process is about to stop, so that nothing new is sent here."""
        self._stopping = True

    async def answer(self, request: Request) -> Answer:
        """Answer one request; never raises but for connections that broke."""
        started = time.perf_counter()
        route, call = Route.PASS, None
        try:
            route, call = self._read(request)
            answer = await self._handled(route, call)
        except RefusalError as refusal:
            answer = _refused(refusal, request)
        except (ConnectionError, asyncio.CancelledError):  # the latter: the caller is gone
            self._saw(request, route, call, 0, started)
            raise
        except Exception:
            log.exception("request failed", route=route, method=request.method)
            answer = _refused(RefusalError(500, "the endpoint failed"), request)
        self._saw(request, route, call, answer.status, started)
        return answer

    def _read(self, request: Request) -> tuple[Route, Call]:
        if request.method not in METHODS:
            raise RefusalError(405, "the server does not know this method")
        try:
            info = read(request.method, request.target)
        except BadTargetError as error:
            raise RefusalError(400, str(error)) from None
        headers = headers_of(request)
        connection = request.connection
        if connection.transport is None:
            raise ConnectionResetError("the caller is gone")
        caller = caller_of(
            self._tls.peer(connection.transport.get_extra_info("ssl_object")),
            headers,
            proxies=self._settings.request_header_allowed_names,
            now=self._now(),
        )
        upgrades = request.upgrades and request.method in ("GET", "POST")
        upgrade = wants_upgrade(headers) if upgrades else ""
        node = self._node_of(request.host) or ""
        call = Call(request, info, caller, headers, upgrade, connection.client, node)
        if node:
            return Route.KUBELET, call
        route = route_of(info, metrics=self._settings.proxy_metrics_server)
        if route is Route.PASS and caller.user is not None and caller.user.name in _AGGREGATORS:
            raise RefusalError(404, "the server could not find the requested resource")
        return route, call

    async def _handled(self, route: Route, call: Call) -> Answer:
        handler = self._handlers.get(route)
        if handler is None:
            raise RefusalError(404, "the server could not find the requested resource")
        if route is Route.HEALTH:
            if self._stopping and call.info.path == "/readyz":
                raise RefusalError(503, "stopping")
            return await handler(call)
        stream = bool(call.upgrade) or route is Route.KUBELET or is_stream(call.info)
        with self._limits.one(call.caller.name, stream=stream):
            if stream:
                return await handler(call)
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await handler(call)
            except TimeoutError as error:
                raise RefusalError(504, "the request took too long") from error

    def _saw(
        self,
        request: Request,
        route: Route,
        call: Call | None,
        status: int,
        started: float,
    ) -> None:
        seconds = time.perf_counter() - started
        if self._observer is not None:
            self._observer(route, status, seconds)
        if self._settings.access_log:
            access_log.info("request", **_told(request, route, call), status=status,
                            seconds=round(seconds, 4))  # fmt: skip


def _told(request: Request, route: Route, call: Call | None) -> dict[str, object]:
    """Give what the access log says: no query and no header but the client's name for itself."""
    told: dict[str, object] = {"client": request.connection.client, "route": str(route)}
    if call is None:
        return {**told, "method": request.method, "user": ""}
    info, impersonated = call.info, call.caller.impersonated
    told |= {"user": call.caller.name, "verb": info.verb, "path": info.path}
    if impersonated is not None:
        told["impersonated"] = impersonated.name
    return told | {"agent": call.header("user-agent")[:200]}


def _refused(refusal: RefusalError, request: Request) -> Answer:
    """Give a refusal as an answer; where one has begun, all that can be done is to break it off."""
    if request.begun:
        request.abort()
        return Sent(refusal.code)
    return refusal.answer(close=refusal.code in (400, 413))
