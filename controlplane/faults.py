"""A reverse proxy before an API server that misbehaves on demand, for fault tests and benchmarks.

    async with fault_proxy(plane) as proxy:
        ...                                       # run a client with proxy.kubeconfig
        with proxy.fail(503, path="/pods"):       # while the block runs
            ...
        proxy.lose_answers({"POST"}, times=1)     # once

A request meets the newest rule that matches its verb and path, or none and is passed on as it came,
with the admin's certificate. Verbs are HTTP methods, but a watch is "WATCH", never "GET". Every
write is recorded, and a hook is awaited at each of its stages, so that a harness can kill the
client right there; a write that was passed on is carried through even when its client is gone.

Upgrades (exec, attach, port-forward) are passed on as bytes. They are no writes, whatever their
verb, and no hook sees them; rules meet them as any request, and a stall holds up open ones too.
"""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import orjson
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from controlplane.certificates import Authority
from controlplane.kubeconfig import write_kubeconfig
from controlplane.plane import ControlPlane
from controlplane.ports import LOOPBACK
from controlplane.rules import NOT_SYNCING, WRITES, Action, Hook, Rule, Rules, Stage, Write
from controlplane.tunnel import Tunnel, UpgradeError, upgrade

__all__ = ["NOT_SYNCING", "WRITES", "FaultProxy", "Hook", "Rule", "Stage", "Write", "fault_proxy"]

_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "host", "keep-alive", "te", "transfer-encoding", "upgrade"}
)
_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}
_LIST_END = b'"k8s.io/initial-events-end":"true"'
_SHUTDOWN_TIMEOUT = 1.0  # seconds


@dataclass(frozen=True)
class _Answer:
    """A whole response of the API server, or one in its place."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class _Call:
    """What a request asks for, as rules see it."""

    verb: str
    path: str
    streams: bool
    upgrades: bool

    @classmethod
    def of(cls, request: web.BaseRequest) -> "_Call":
        """Read a request's line."""
        watch = request.method == "GET" and request.query.get("watch") in ("true", "1")
        follow = request.query.get("follow") in ("true", "1")
        upgrade = "Upgrade" in request.headers
        verb = "WATCH" if watch else request.method
        return cls(verb, request.path, watch or follow or upgrade, upgrade)


class FaultProxy:
    """Passes requests on to one API server; get one from `fault_proxy`.

    Attributes:
        server: URL of the proxy.
        kubeconfig: admin kubeconfig whose server is the proxy.
        writes: every write so far, oldest first.
        latency: seconds by which each request is delayed.
        hook: awaited at each stage of each write.
    """

    def __init__(
        self,
        server: str,
        kubeconfig: Path,
        upstream: aiohttp.ClientSession,
        upgrade: Callable[[web.BaseRequest], Awaitable[Tunnel | web.Response]],
    ) -> None:
        self.server = server
        self.kubeconfig = kubeconfig
        self.writes: list[Write] = []
        self.latency = 0.0
        self.hook: Hook | None = None
        self._upstream = upstream
        self._rules = Rules()
        self._upgrade = upgrade
        self._watches: dict[asyncio.Transport, str] = {}
        self._tunnels: dict[asyncio.Transport, str] = {}
        # Writes under way, held here because a client's end cancels its handler but not these.
        self._forwarding: set[asyncio.Task[_Answer]] = set()

    def fail(
        self,
        status: int = 503,
        verbs: Collection[str] | None = None,
        path: str = "",
        *,
        retry_after: int | None = None,
        times: int | None = None,
    ) -> Rule:
        """Answer with an error instead of passing the request on.

        Args:
            status: HTTP status, told in a Kubernetes Status object too.
            verbs: which requests; None for all.
            path: regular expression searched for in the path; empty for all.
            retry_after: seconds for the Retry-After header, or None for no header.
            times: how many requests; None until the rule is removed.
        """
        return self._add("fail", verbs, path, times, status=status, retry_after=retry_after)

    def empty_lists(self, path: str = "", *, times: int | None = None) -> Rule:
        """Let lists, streaming ones too, come back without items but a good resource version."""
        return self._add("empty", {"GET", "WATCH"}, path, times)

    def expire_watches(self, path: str = "", *, times: int | None = None) -> Rule:
        """Answer watches with the event that says their resource version is too old (410)."""
        return self._add("expire", {"WATCH"}, path, times)

    def drop_requests(
        self, verbs: Collection[str] | None = None, path: str = "", *, times: int | None = None
    ) -> Rule:
        """Close the connection without passing the request on."""
        return self._add("drop", verbs, path, times)

    def lose_answers(
        self, verbs: Collection[str] | None = None, path: str = "", *, times: int | None = None
    ) -> Rule:
        """Pass the request on, then close the connection instead of answering."""
        return self._add("lose", verbs, path, times)

    def stall(
        self, verbs: Collection[str] | None = None, path: str = "", *, times: int | None = None
    ) -> Rule:
        """Say nothing more, on open watches and tunnels too, until the rule is removed.

        Nothing is lost.
        """
        return self._add("stall", verbs, path, times)

    def cut_watches(self, path: str = "") -> int:
        """Break the connections of open watches whose path matches; return how many."""
        return _cut(self._watches, path)

    def open_watches(self, path: str = "") -> int:
        """Return how many open watches have a matching path."""
        return len(_matching(self._watches, path))

    def cut_tunnels(self, path: str = "") -> int:
        """Break open upgraded connections (exec and the like) whose path matches; return how many.

        The API server's half ends, too.
        """
        return _cut(self._tunnels, path)

    def open_tunnels(self, path: str = "") -> int:
        """Return how many upgraded connections have a matching path."""
        return len(_matching(self._tunnels, path))

    def heal(self) -> None:
        """Remove all rules, the hook and the latency."""
        self._rules.clear()
        self.latency, self.hook = 0.0, None

    async def writes_during(
        self, seconds: float, ignore: re.Pattern[str] = NOT_SYNCING
    ) -> list[Write]:
        """Wait `seconds` and return the writes that came meanwhile, but for ignored paths."""
        before = len(self.writes)
        await asyncio.sleep(seconds)
        return [write for write in self.writes[before:] if not ignore.search(write.path)]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve one request; what the web server calls."""
        call = _Call.of(request)
        body = await request.content.read()
        write = await self._receive(call, body)
        if self.latency:
            await asyncio.sleep(self.latency)
        rule = self._rules.find(call.verb, call.path)
        if rule is not None:
            rule.hit()
            if rule.action == "stall":
                await rule.removed()
        action = rule.action if rule is not None else None
        if action == "drop" or (action == "lose" and call.streams):
            return _abort(request)
        if call.upgrades and action not in ("fail", "expire"):
            return await self._tunnel(request, call)
        if call.streams and action not in ("fail", "expire"):
            return await self._stream(request, call, empty=action == "empty")
        try:
            answer = await self._answer(request, body, rule, write)
        except aiohttp.ClientError:  # the API server is gone: so are we, for this client
            return _abort(request)
        if action == "lose":
            return _abort(request)
        return await self._send(request, answer, write)

    async def _receive(self, call: _Call, body: bytes) -> Write | None:
        if call.verb not in WRITES or call.upgrades:
            return None
        write = Write(len(self.writes) + 1, call.verb, call.path, body, time.monotonic())
        self.writes.append(write)
        await self._reach("received", write)
        return write

    async def _reach(self, stage: Stage, write: Write | None) -> None:
        if self.hook is not None and write is not None:
            await self.hook(stage, write)

    async def _answer(
        self, request: web.BaseRequest, body: bytes, rule: Rule | None, write: Write | None
    ) -> _Answer:
        """Return what to answer, by rule or from the API server."""
        if rule is not None and rule.action == "fail":
            return _failure(rule.status, rule.retry_after)
        if rule is not None and rule.action == "expire":
            return _expiry()
        if write is not None:
            task = asyncio.create_task(self._write(request, body, write))
            self._forwarding.add(task)
            task.add_done_callback(self._forwarded)
            return await asyncio.shield(task)
        answer = await self._forward(request, body)
        if rule is not None and rule.action == "empty":
            return _without_items(answer)
        return answer

    async def _write(self, request: web.BaseRequest, body: bytes, write: Write) -> _Answer:
        answer = await self._forward(request, body)
        write.processed, write.status = True, answer.status
        await self._reach("processed", write)
        return answer

    def _forwarded(self, task: asyncio.Task[_Answer]) -> None:
        self._forwarding.discard(task)
        if not task.cancelled():
            task.exception()  # the handler saw it, or was cancelled and nobody asks

    async def _forward(self, request: web.BaseRequest, body: bytes) -> _Answer:
        async with self._request(request, body) as upstream:
            return _Answer(upstream.status, _end_to_end(upstream.headers), await upstream.read())

    def _request(
        self, request: web.BaseRequest, body: bytes
    ) -> "aiohttp.client._RequestContextManager":
        # Uncompressed, so that a list can be emptied, and for less work on both sides.
        headers = _end_to_end(request.headers)
        headers["Accept-Encoding"] = "identity"
        url = URL(request.raw_path, encoded=True)
        return self._upstream.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        )

    async def _send(
        self, request: web.BaseRequest, answer: _Answer, write: Write | None
    ) -> web.StreamResponse:
        response = web.Response(
            status=answer.status, headers=answer.headers, body=answer.body or None
        )
        if write is None:
            return response
        write.status = answer.status
        await response.prepare(request)
        await response.write_eof()
        write.answered = True
        await self._reach("answered", write)
        return response

    async def _stream(
        self, request: web.BaseRequest, call: _Call, *, empty: bool
    ) -> web.StreamResponse:
        """Pass a watch or a followed log on as it comes, until either side or a fault ends it."""
        transport = request.transport
        try:
            async with self._request(request, b"") as upstream:
                response = web.StreamResponse(
                    status=upstream.status, headers=_end_to_end(upstream.headers)
                )
                await response.prepare(request)
                if call.verb == "WATCH" and transport is not None:
                    self._watches[transport] = call.path
                events = _after_initial(upstream.content) if empty else upstream.content.iter_any()
                async for chunk in events:
                    await self._stalled(call)
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (aiohttp.ClientError, ConnectionError):
            return _abort(request)
        finally:
            if transport is not None:
                self._watches.pop(transport, None)

    async def _tunnel(self, request: web.BaseRequest, call: _Call) -> web.StreamResponse:
        """Pass an upgraded connection on, until either side or a fault ends it."""
        try:
            answer = await self._upgrade(request)
        except UpgradeError:
            return _abort(request)
        if not isinstance(answer, Tunnel):
            return answer
        self._tunnels[answer.transport] = call.path
        try:
            return await answer.run(partial(self._stalled, call))
        finally:
            del self._tunnels[answer.transport]

    async def _stalled(self, call: _Call) -> None:
        """Wait as long as a rule stalls what a request has begun."""
        while stall := self._rules.find(call.verb, call.path, "stall"):
            await stall.removed()

    def _add(
        self,
        action: Action,
        verbs: Collection[str] | None,
        path: str,
        times: int | None,
        status: int = 0,
        retry_after: int | None = None,
    ) -> Rule:
        chosen = None if verbs is None else frozenset(verbs)
        return self._rules.add(Rule(action, chosen, re.compile(path), times, status, retry_after))


@asynccontextmanager
async def fault_proxy(plane: ControlPlane) -> AsyncIterator[FaultProxy]:
    """Run a fault proxy before `plane`'s API server, in this process; stop it on exit.

    It listens on a free loopback port, with a certificate of the plane's server authority, and asks
    for one of its client authority.
    """
    with socket.create_server((LOOPBACK, 0)) as listener:
        port = listener.getsockname()[1]
        server = f"https://{LOOPBACK}:{port}"
        name = f"fault-proxy-{port}"
        context = _server_context(plane, name)
        kubeconfig = write_kubeconfig(
            plane.directory / f"{name}.kubeconfig",
            server,
            plane.pki.server_ca.certificate,
            plane.pki.admin,
        )
        tls = plane.pki.client_context()
        connector = aiohttp.TCPConnector(limit=0, ssl=tls)
        async with aiohttp.ClientSession(
            plane.server,
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        ) as upstream:
            upgrading = partial(upgrade, server=URL(plane.server), tls=tls)
            proxy = FaultProxy(server, kubeconfig, upstream, upgrading)
            # A client that leaves takes its handler with it, else its watch would stay open.
            runner = web.ServerRunner(
                web.Server(proxy.handle, handler_cancellation=True, access_log=None),
                shutdown_timeout=_SHUTDOWN_TIMEOUT,
            )
            await runner.setup()
            await web.SockSite(runner, listener, ssl_context=context).start()
            try:
                yield proxy
            finally:
                proxy.heal()
                proxy.cut_watches()
                proxy.cut_tunnels()
                await runner.cleanup()


def _server_context(plane: ControlPlane, name: str) -> ssl.SSLContext:
    authority = Authority.load(plane.pki.server_ca)
    pair = authority.server(plane.pki.directory, name, [LOOPBACK, "localhost"])
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(plane.pki.client_ca.certificate)
    )
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(pair.certificate, pair.key)
    return context


def _matching(connections: Mapping[asyncio.Transport, str], path: str) -> list[asyncio.Transport]:
    pattern = re.compile(path)
    return [each for each, target in connections.items() if pattern.search(target)]


def _cut(connections: Mapping[asyncio.Transport, str], path: str) -> int:
    found = _matching(connections, path)
    for transport in found:
        transport.abort()
    return len(found)


def _abort(request: web.BaseRequest) -> web.Response:
    """Break the client's connection; return a response that goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _end_to_end(headers: Mapping[str, str]) -> CIMultiDict[str]:
    # Repeated ones stay: groups to impersonate come so.
    return CIMultiDict(pair for pair in headers.items() if pair[0].lower() not in _HOP_BY_HOP)


def _status(code: int, details: dict[str, int]) -> dict[str, object]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "injected by the fault proxy",
        "reason": _REASONS.get(code, ""),
        "details": details,
        "code": code,
    }


def _failure(code: int, retry_after: int | None) -> _Answer:
    headers = {"Content-Type": "application/json"}
    details = {}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
        details["retryAfterSeconds"] = retry_after
    return _Answer(code, headers, orjson.dumps(_status(code, details)))


def _expiry() -> _Answer:
    event = {"type": "ERROR", "object": _status(410, {})}
    return _Answer(200, {"Content-Type": "application/json"}, orjson.dumps(event) + b"\n")


def _without_items(answer: _Answer) -> _Answer:
    try:
        content = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return answer
    for key in ("items", "rows"):  # rows: the table form that kubectl asks for
        if content.get(key):
            content[key] = []
    for key in ("continue", "remainingItemCount"):
        content.get("metadata", {}).pop(key, None)
    return _Answer(answer.status, answer.headers, orjson.dumps(content))


async def _after_initial(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield a streaming list's chunks from the bookmark on that ends its initial events."""
    held = b""
    async for chunk in content.iter_any():
        held += chunk
        end = held.find(_LIST_END)
        if end >= 0:
            yield held[held.rfind(b"\n", 0, end) + 1 :]
            break
        held = held[held.rfind(b"\n") + 1 :]
    async for chunk in content.iter_any():
        yield chunk
