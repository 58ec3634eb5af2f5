"""The endpoint: each request is read, named, counted, handled, and told of."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
import pytest
from structlog.testing import capture_logs

from syncer.http1.server import Answer, Response
from syncer.proxy import endpoint as module
from syncer.proxy.call import Call
from syncer.proxy.endpoint import Endpoint, Handler
from syncer.proxy.peer import Peer, PeerKind
from syncer.proxy.refusal import RefusalError
from syncer.proxy.routes import Route
from syncer.settings import Address, load
from tests.unit.proxy_wire import (
    GET,
    End,
    ask,
    caller,
    closing,
    eventually,
    on_both_loops,
    tls_pair,
)

FAR = 4e9
ALICE = Peer(PeerKind.CLIENT, "alice", ("devs",), "", "f", FAR, b"a")
WEBSOCKET = b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Tls:
    """Says that every caller is one and the same."""

    def __init__(self, context: ssl.SSLContext, peer: Peer | None) -> None:
        """Say it is this one."""
        self.context = context
        self._peer = peer

    def peer(self, _connection: ssl.SSLObject) -> Peer | None:
        """Say it."""
        return self._peer


class Serving:
    """An endpoint that listens.

    Attributes:
        calls: what handlers were given.
        seen: what the observer was told.
    """

    def __init__(self, address: Address, tls: ssl.SSLContext, made: Endpoint) -> None:
        """Begin with nothing."""
        self.address, self.tls, self.endpoint = address, tls, made
        self.calls: list[Call] = []
        self.seen: list[tuple[str, int]] = []

    async def ask(self, request: bytes) -> bytes:
        """Send a request on a connection of its own."""
        return await ask(self.address, closing(request), self.tls)

    async def status(self, request: bytes) -> int:
        """Send one and give the status of the answer."""
        return int((await self.ask(request)).split(b" ")[1])

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[End]:
        """Connect."""
        async with caller(self.address, self.tls) as end:
            yield end

    async def told(self) -> list[tuple[str, int]]:
        """Wait until the observer was told something, and give it."""
        await eventually(lambda: bool(self.seen))
        return self.seen


@asynccontextmanager
async def serving(
    handlers: Mapping[Route, Handler] | None = None,
    peer: Peer | None = ALICE,
    node: str | None = None,
    **settings: Any,
) -> AsyncIterator[Serving]:
    """Serve these handlers; by default, everything is answered with a word."""

    async def hello(call: Call) -> Answer:
        made.calls.append(call)
        return Response(200, body=b"hello")

    server, client = tls_pair()
    options = {"bind_address": "127.0.0.1", "port": "0", **settings}
    endpoint = Endpoint(
        load(options, {}).settings,
        handlers if handlers is not None else dict.fromkeys(Route, hello),
        cast("Any", Tls(server, peer)),
        node_of=lambda _host: node,
        observer=lambda route, status, _seconds: made.seen.append((route, status)),
    )
    made = Serving(Address("127.0.0.1", 0), client, endpoint)
    async with endpoint.serve() as made.address:
        yield made


def get(target: str, *headers: str, method: str = "GET") -> bytes:
    """Write a request."""
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *headers]
    return ("\r\n".join([*lines, "", ""])).encode()


POD = "/api/v1/namespaces/ns/pods/p"


# -- the way of a request ------------------------------------------------------------------------


@on_both_loops
async def test_a_handler_is_given_all_that_was_read() -> None:
    """What is asked for, by whom, from where, and the headers as they were written."""
    async with serving() as served:
        said = await served.ask(get(f"{POD}?a=b", "X-A: 1", "X-a: 2", "Impersonate-User: bob"))
    (call,) = served.calls
    assert said.endswith(b"hello")
    assert (call.info.target, call.info.name) == (f"{POD}?a=b", "p")
    assert call.caller.user is not None
    assert (call.caller.name, call.caller.user.groups) == (
        "alice",
        ("devs", "system:authenticated"),
    )
    assert call.caller.impersonated is not None
    assert call.headers[1:3] == [("X-A", "1"), ("X-a", "2")]
    assert (call.client, call.node, call.upgrade) == ("127.0.0.1", "", "")
    assert served.seen == [("pass", 200)]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        pytest.param(get("/api/v1/../pods"), 400, id="a path that reads in two ways"),
        pytest.param(get("http://a/api"), 400, id="an absolute target"),
        pytest.param(get("/", method="TRACE"), 405, id="TRACE"),
        pytest.param(get("a:443", method="CONNECT"), 405, id="CONNECT"),
        pytest.param(get("/", method="PROPFIND"), 405, id="another method"),
        pytest.param(get("/").replace(b"Host: a", b"Host: a\r\nX: \xff"), 400, id="no text"),
        pytest.param(get("/", "Authorization: a", "Authorization: b"), 400, id="two tokens"),
        pytest.param(get("/", "Impersonate-Group: g"), 400, id="a group of nobody"),
    ],
)
@on_both_loops
async def test_what_can_t_be_read_reaches_nobody(request_: bytes, code: int) -> None:
    """It is refused with a Status, before any handler is asked."""
    async with serving() as served:
        said = await served.ask(request_)
    assert said.startswith(b"HTTP/1.1 %d " % code)
    status = orjson.loads(said.partition(b"\r\n\r\n")[2])
    assert (status["kind"], status["code"]) == ("Status", code)
    assert served.calls == []
    assert served.seen == [("pass", code)]


@on_both_loops
async def test_a_certificate_that_proves_nothing_reaches_nobody() -> None:
    """Not even health."""
    nobody = Peer(PeerKind.NOBODY, "", (), "", "f", FAR, b"")
    async with serving(peer=nobody) as served:
        for path in ("/healthz", "/api/v1/pods", "/version"):
            assert await served.status(get(path)) == 401
    assert served.calls == []


@pytest.mark.parametrize(
    ("request_", "route"),
    [
        (get("/version"), Route.PASS),
        (get("/healthz"), Route.HEALTH),
        (get(f"{POD}/log"), Route.POD_LOG),
        (get(f"{POD}/exec", method="POST"), Route.POD_STREAM),
        (get("/apis/metrics.k8s.io"), Route.PASS),
    ],
)
@on_both_loops
async def test_requests_go_their_ways(request_: bytes, route: Route) -> None:
    """By the table; the observer is told which it was."""
    async with serving() as served:
        assert await served.status(request_) == 200
    assert served.seen == [(route, 200)]


@on_both_loops
async def test_metrics_are_served_by_flag() -> None:
    """--proxy-metrics-server."""
    async with serving(proxy_metrics_server="true") as served:
        await served.ask(get("/apis/metrics.k8s.io"))
    assert served.seen == [(Route.METRICS, 200)]


@pytest.mark.parametrize("path", ["/healthz", "/metrics", f"{POD}/exec", "/api/v1/pods"])
@on_both_loops
async def test_at_a_nodes_address_everything_is_asked_of_its_kubelet(path: str) -> None:
    """Nothing of it goes to the API server."""
    async with serving(node="n1") as served:
        await served.ask(get(path))
    assert served.seen == [(Route.KUBELET, 200)]
    assert served.calls[0].node == "n1"


@on_both_loops
async def test_a_route_without_a_handler_is_not_there() -> None:
    """As a path that no API server knows."""
    async with serving({}) as served:
        assert await served.status(get("/version")) == 404


@pytest.mark.parametrize(
    ("method", "upgrade"),
    [("GET", "websocket"), ("POST", "websocket"), ("PUT", ""), ("HEAD", "")],
)
@on_both_loops
async def test_who_wants_a_tunnel_is_known(method: str, upgrade: str) -> None:
    """By the methods that have tunnels; others ask for an ordinary answer."""
    async with serving() as served, served.connected() as end:
        await end.say(get("/", method=method)[:-4] + WEBSOCKET)
        await end.head()
    assert [call.upgrade for call in served.calls] == [upgrade]


# -- health --------------------------------------------------------------------------------------


@on_both_loops
async def test_who_stops_is_not_ready() -> None:
    """/readyz alone says so, that nothing new is sent here; requests are still answered."""
    async with serving() as served:
        served.endpoint.stop()
        codes = [await served.status(get(path)) for path in ("/readyz", "/livez", "/api/v1/pods")]
    assert codes == [503, 200, 200]


# -- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "rest", "stream"),
    [
        ("/api/v1/pods", b"", False),
        ("/api/v1/pods?watch=1", b"", True),
        (f"{POD}/log", b"", True),
        ("/apis/a.b/v1/vnc", WEBSOCKET[2:-2], True),
    ],
)
@on_both_loops
async def test_users_are_held_to_their_limits(target: str, rest: bytes, stream: bool) -> None:
    """Short requests and streams are counted apart, and counted no more once they end."""
    going, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(_call: Call) -> Response:
        begun.release()
        await going.wait()
        return Response(200)

    limit = {"proxy_max_streams_per_user" if stream else "proxy_max_requests_per_user": "1"}
    request = get(target)[:-2] + rest + b"\r\n"
    async with serving(dict.fromkeys(Route, wait), ALICE, **limit) as served:
        async with served.connected() as one, served.connected() as two:
            await one.say(request)
            await begun.acquire()
            await two.say(request)
            head = await two.head()
            assert head.startswith(b"HTTP/1.1 429 ")
            assert b"Retry-After: 1" in head
            going.set()
            assert (await one.head()).startswith(b"HTTP/1.1 200 ")
        assert await served.status(get(target)) == 200
        assert not served.endpoint._limits._counts


@on_both_loops
async def test_who_leaves_is_counted_no_more() -> None:
    """And told of: status 0, for nobody heard an answer."""
    begun = asyncio.Event()

    async def endless(_call: Call) -> Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving({Route.PASS: endless}) as served:
        async with served.connected() as end:
            await end.say(get("/api/v1/pods?watch=1"))
            await begun.wait()
        assert await served.told() == [("pass", 0)]
        assert not served.endpoint._limits._counts


# -- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "rest", "lasts"),
    [
        ("/api/v1/pods", b"", False),
        ("/api/v1/pods?watch=1", b"", True),
        (f"{POD}/log", b"", True),
        ("/apis/a.b/v1/vnc", WEBSOCKET[2:-2], True),
    ],
)
@on_both_loops
async def test_what_is_no_stream_has_its_time(
    target: str, rest: bytes, lasts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever it is that is slow: a server, or the caller."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)

    async def slow(_call: Call) -> Response:
        await asyncio.sleep(0.15)
        return Response(200)

    async with serving(dict.fromkeys(Route, slow)) as served, served.connected() as end:
        await end.say(get(target)[:-2] + rest + b"\r\n")
        assert (await end.head()).startswith(b"HTTP/1.1 200 " if lasts else b"HTTP/1.1 504 ")


@on_both_loops
async def test_a_kubelets_log_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked at a node's address may be followed for ever."""
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.05)

    async def slow(_call: Call) -> Response:
        await asyncio.sleep(0.15)
        return Response(200)

    async with serving({Route.KUBELET: slow}, node="n1") as served:
        assert await served.status(get("/containerLogs/a/b/c?follow=true")) == 200


# -- what goes wrong -----------------------------------------------------------------------------


async def begun_answer(call: Call) -> None:
    """Begin an answer that is never ended here."""
    await call.request.begin(200, ()).write(b"half")


@pytest.mark.parametrize(
    ("error", "code"),
    [(RefusalError(409, "no"), 409), (ValueError("secret"), 500), (TimeoutError("late"), 504)],
)
@on_both_loops
async def test_a_handler_that_fails_is_told(error: Exception, code: int) -> None:
    """With a Status that has none of the error's own words, and the next request is answered."""

    async def failing(_call: Call) -> Response:
        raise error

    with capture_logs() as logs:
        async with serving({Route.PASS: failing}) as served, served.connected() as end:
            for _ in range(2):
                await end.say(get("/version"))
                head = await end.head()
                length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
                status = orjson.loads(await end.read(length))
                assert (status["code"], "secret" in status["message"]) == (code, False)
    failed = [each for each in logs if each["event"] == "request failed"]
    assert len(failed) == (2 if code == 500 else 0)


@pytest.mark.parametrize("error", [RefusalError(409, "no"), ValueError("secret"), TimeoutError()])
@on_both_loops
async def test_an_answer_that_has_begun_is_broken_off(error: Exception) -> None:
    """No second answer is written into the first, and it is not ended as if it were whole."""

    async def failing(call: Call) -> Answer:
        await begun_answer(call)
        raise error

    with capture_logs():
        async with serving({Route.PASS: failing}) as served, served.connected() as end:
            await end.say(get("/version"))
            said = await end.gone()
    assert said.endswith(b"4\r\nhalf\r\n")
    assert said.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("begun", [False, True])
@on_both_loops
async def test_a_connection_that_broke_is_told(begun: bool) -> None:
    """Status 0: there was nobody to answer, or nothing to answer with."""

    async def broken(call: Call) -> Response:
        if begun:
            await begun_answer(call)
        raise ConnectionResetError

    async with serving({Route.PASS: broken}) as served, served.connected() as end:
        await end.say(get("/version"))
        await end.gone()
        assert await served.told() == [("pass", 0)]


# -- what answers say ----------------------------------------------------------------------------


@on_both_loops
async def test_answers_do_not_tell_what_they_are_made_with() -> None:
    """Neither short ones nor streams, nor refusals; a workload's own word stays."""

    async def named(_call: Call) -> Response:
        return Response(200, [("Server", "nginx")])

    async with serving({Route.PASS: named, Route.HEALTH: named}) as served:
        assert b"Server: nginx\r\n" in await served.ask(get("/version"))
        for request in (get("/none", method="TRACE"), get(f"{POD}/log"), GET[:3] + b"\x00" + GET):
            said = await served.ask(request)
            assert b"aiohttp" not in said
            assert b"Python" not in said


@on_both_loops
async def test_the_rest_of_a_refused_request_is_no_request() -> None:
    """A body that nobody read ends the connection."""
    behind = get("/secret")
    async with serving({}) as served, served.connected() as end:
        await end.say(get("/", "Content-Length: 500", method="POST") + behind)
        said = await end.gone()
    assert said.count(b"HTTP/1.1") == 1
    assert b"Connection: close" in said
    assert len(served.seen) == 1


# -- the access log ------------------------------------------------------------------------------


@on_both_loops
async def test_requests_are_logged_on_request() -> None:
    """Who asked for what, from where, and what came of it; no query and no header's value."""
    with capture_logs() as logs:
        async with serving(access_log="true") as served:
            headers = ("User-Agent: kubectl", "Impersonate-User: bob", "Cookie: secret")
            await served.ask(get(f"{POD}?token=secret", *headers))
            await served.ask(get("/", "Authorization: Bearer secret", method="TRACE"))
    lines = [each for each in logs if each["event"] == "request"]
    assert [{**each, "seconds": 0} for each in lines] == [
        {
            "event": "request",
            "log_level": "info",
            "client": "127.0.0.1",
            "route": "pass",
            "user": "alice",
            "verb": "get",
            "path": POD,
            "impersonated": "bob",
            "agent": "kubectl",
            "status": 200,
            "seconds": 0,
        },
        {
            "event": "request",
            "log_level": "info",
            "client": "127.0.0.1",
            "route": "pass",
            "method": "TRACE",
            "user": "",
            "status": 405,
            "seconds": 0,
        },
    ]


@on_both_loops
async def test_nothing_is_logged_unasked() -> None:
    """Without --access-log, requests leave no line."""
    with capture_logs() as logs:
        async with serving() as served:
            await served.ask(get("/version"))
    assert [each["event"] for each in logs if each["event"] == "request"] == []


@on_both_loops
async def test_a_token_is_never_logged() -> None:
    """It is named by a digest; nor is one in a subprotocol."""
    with capture_logs() as logs:
        async with serving(access_log="true", peer=None) as served:
            await served.ask(get("/version", "Authorization: Bearer secret-token"))
    (line,) = (each for each in logs if each["event"] == "request")
    assert line["user"].startswith("token:")
    assert "secret" not in str(logs)
