"""Fake kubelets: the tenant's own pods of the tenant's own nodes, and nothing of others."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

import orjson
import pytest

from mappers.pods import NODE_INDEX, nodes
from syncer import ownership
from syncer.http1.server import Answer, Request, Response
from syncer.kube.client import Client
from syncer.kube.store import Store
from syncer.naming import Names
from syncer.objects import Key, Object, Side
from syncer.proxy import kubelet_paths
from syncer.proxy.call import Call, Caller
from syncer.proxy.kubelet_paths import Asked, NodePage
from syncer.proxy.lookup import StoreLookup
from syncer.proxy.nodes import Kubelets, NodePages
from syncer.proxy.refusal import RefusalError
from syncer.proxy.request import read
from syncer.proxy.upstream import Upstream
from tests.unit.proxy_wire import (
    GET,
    SECONDS,
    End,
    ask,
    backend,
    closing,
    eventually,
    front,
    on_both_loops,
)

NAMES = Names("t", "host-1")
NODES = ["n1", "n2"]


def pod(name: str, node: str, uid: str = "1") -> Object:
    """Give a virtual pod on a node."""
    metadata = {"name": name, "namespace": "default", "uid": uid, "resourceVersion": "5"}
    spec = {"nodeName": node, "containers": [{"name": "main", "image": "i"}]}
    running = {"containerStatuses": [{"name": "main", "state": {"running": {}}}]}
    return {"metadata": metadata, "spec": spec, "status": running}


def stores(*pods: Object) -> dict[tuple[Side, str], Store]:
    """Give both stores, the host's with copies and somebody else's pod."""
    virtual, host = (Store({NODE_INDEX: nodes}, lambda _change: None) for _ in range(2))
    for each in pods:
        virtual.apply(each)
        copy = orjson.loads(orjson.dumps(each))
        ownership.stamp(copy, each, NAMES, None)
        host.apply(copy)
    foreign = pod("foreign", "n1")
    foreign["metadata"]["namespace"] = "host-1"
    host.apply(foreign)
    return {(Side.VIRTUAL, "pods"): virtual, (Side.HOST, "pods"): host}


class Streams:
    """Stands where logs and streams are served; remembers what was asked for."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.asked: list[tuple[Any, ...]] = []

    async def read_log(self, _call: Call, key: Key, parameters: list[tuple[str, str]]) -> object:
        """Remember a log."""
        self.asked.append(("log", key, parameters))
        return Response(200)

    async def open_stream(
        self, _call: Call, key: Key, subresource: str, parameters: list[tuple[str, str]]
    ) -> object:
        """Remember a stream."""
        self.asked.append((subresource, key, parameters))
        return Response(200)


def kubelets(
    *pods: Object, ready: bool = True, pages: NodePages | None = None
) -> tuple[Kubelets, Streams]:
    """Give the kubelets of a tenant with these pods, on n1 and n2."""
    kept = stores(*pods)
    streams = Streams()
    lookup = StoreLookup(NAMES, kept, lambda: NODES)
    nothing = cast("Any", None)
    return Kubelets(
        nothing,
        cast("Any", streams),
        pages or nothing,
        lookup,
        kept,
        lambda node: kept[Side.VIRTUAL, "pods"].by_index(NODE_INDEX, node),
        lambda: ready,
    ), streams


def call(method: str = "GET", path: str = "/") -> Call:
    """Give a call; nobody looks at its request here."""
    return Call(cast("Any", None), read(method, path), Caller())


async def served(
    found: Kubelets, path: str, *, node: str = "n1", method: str = "GET", query: str = ""
) -> Any:
    """Serve a path of a node's kubelet; give the decoded body."""
    asked = kubelet_paths.read(method, path, query)
    response = await found._serve(call(method), node, asked)
    assert isinstance(response, Response)
    body = response.body
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(body)
    return body.decode()


# -- which node ----------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["n3", "", "N1", "localhost", "127.0.0.1"])
async def test_only_the_tenants_nodes_are_known(node: str) -> None:
    """Another node of the host is not there, whatever is asked of it."""
    found, streams = kubelets(pod("web", "n1"))
    for path in ("/healthz", "/pods", "/metrics", "/containerLogs/default/web/main"):
        with pytest.raises(RefusalError) as refused:
            await served(found, path, node=node)
        assert (refused.value.code, refused.value.message) == (404, f'nodes "{node}" not found')
    assert streams.asked == []


async def test_nothing_is_told_before_the_pods_are_known() -> None:
    """An empty list would be taken for the truth."""
    found, _ = kubelets(ready=False)
    with pytest.raises(RefusalError) as refused:
        await served(found, "/pods")
    assert (refused.value.code, refused.value.headers) == (503, {"Retry-After": "1"})


@pytest.mark.parametrize(
    ("target", "node"),
    [
        ("/exec/default/web/main", "n2"),
        ("/portForward/default/web", "n2"),
        ("/exec/default/none/main", ""),
        ("/exec/host-1/foreign/main", ""),
        ("/metrics", ""),
        ("/pods", ""),
    ],
)
def test_a_streams_pod_tells_the_node(target: str, node: str) -> None:
    """Where an API server asks without saying which node it means."""
    found, _ = kubelets(pod("web", "n2"))
    asked = kubelet_paths.read("POST", target, "input=1")
    assert found._node_of(asked.target) == node


# -- its pods ------------------------------------------------------------------------------------


async def test_a_node_has_the_tenants_own_pods() -> None:
    """Those on it, by their virtual names; not the tenant's others, nor anybody else's."""
    found, _ = kubelets(pod("web", "n1"), pod("db", "n2", "2"), pod("new", "", "3"))
    for path in ("/pods", "/runningpods/"):
        told = await served(found, path)
        assert [each["metadata"]["name"] for each in told["items"]] == ["web"]
    assert (await served(found, "/healthz")) == "ok"


async def test_only_the_nodes_own_pods_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many others the tenant has: a list is asked for every few seconds."""
    found, _ = kubelets(pod("web", "n1"), pod("db", "n2", "2"), pod("new", "", "3"))
    decoded, get = [], Store.get

    def noted(store: Store, key: Key) -> Object | None:
        decoded.append(key.name)
        return get(store, key)

    monkeypatch.setattr(Store, "get", noted)
    await served(found, "/pods")
    assert decoded == ["web"]


async def test_many_pods_let_others_have_their_turn() -> None:
    """A long list is read in several steps, and is complete."""
    found, _ = kubelets(*(pod(f"p{n}", f"n{n % 2 + 1}", str(n)) for n in range(450)))
    assert len((await served(found, "/pods"))["items"]) == 225


@pytest.mark.parametrize(
    ("path", "method", "asked"),
    [
        pytest.param(
            "/containerLogs/default/web/main",
            "GET",
            ("log", Key("default", "web"), [("container", "main")]),
            id="a log",
        ),
        pytest.param(
            "/portForward/default/web",
            "POST",
            ("portforward", Key("default", "web"), []),
            id="ports",
        ),
        pytest.param(
            "/portForward/default/web/1",
            "POST",
            ("portforward", Key("default", "web"), []),
            id="ports, by UID",
        ),
    ],
)
async def test_what_is_asked_of_a_pod_leads_to_its_stream(
    path: str, method: str, asked: tuple[Any, ...]
) -> None:
    """As by the API, with the API's parameters."""
    found, streams = kubelets(pod("web", "n1"))
    await served(found, path, method=method)
    assert streams.asked == [asked]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        pytest.param("/containerLogs/default/db/main", "db", id="of another node"),
        pytest.param("/containerLogs/default/none/main", "none", id="not there"),
        pytest.param("/containerLogs/host-1/foreign/main", "foreign", id="somebody else's"),
        pytest.param(
            "/containerLogs/host-1/web-x-default-x-t/main", "web-x-default-x-t", id="by the host's"
        ),
        pytest.param("/exec/default/web/2/main?input=1", "web", id="of another UID"),
    ],
)
async def test_a_kubelet_knows_its_own_pods_only(path: str, name: str) -> None:
    """Another node's pod is not there, nor one before it, nor anything by the host's names."""
    found, streams = kubelets(pod("web", "n1"), pod("db", "n2", "2"))
    path, _, query = path.partition("?")
    with pytest.raises(RefusalError) as refused:
        await served(found, path, query=query)
    assert (refused.value.code, refused.value.message) == (404, f'pods "{name}" not found')
    assert streams.asked == []


@pytest.mark.parametrize(
    "path", ["/configz", "/logs/", "/debug/pprof/", "/run/a/b/c", "/checkpoint"]
)
async def test_the_rest_is_refused(path: str) -> None:
    """With the reason, and only after the node is known to be the tenant's."""
    found, _ = kubelets()
    with pytest.raises(RefusalError) as refused:
        await served(found, path)
    assert refused.value.code in (403, 404)
    assert refused.value.message


# -- pages of the host's kubelets ----------------------------------------------------------------


class OnePage(NodePages):
    """Gives every page from one back end."""

    def __init__(self, upstream: Upstream) -> None:
        """Ask this one."""
        self.upstream = upstream

    async def open(self, node: str, page: NodePage) -> Any:
        """Ask for a page."""
        return await self.upstream.send(read("GET", page.path), (), admin=False)


async def asked_for(answer: bytes, path: str, *, hangs: bool = False) -> bytes:
    """Ask for a page of which the host's kubelet says this, and then no more or nothing."""

    async def script(end: End) -> None:
        await end.head()
        await end.say(answer)
        if hangs:
            await end.gone()

    async with backend(script) as server:
        upstream = Upstream(server.config, name="the host")
        found, _ = kubelets(pod("web", "n1"), pages=OnePage(upstream))

        async def handler(request: Request) -> Answer:
            made = Call(request, read("GET", path), Caller())
            asked = kubelet_paths.read("GET", path, "")
            assert isinstance(asked, Asked)
            return await found._serve(made, "n1", asked)

        async with front(handler) as address:
            said = await ask(address, closing(GET))
        await upstream.close()
        await server.idle()
    return said


SERIES = b"""# TYPE kubelet_running_pods gauge
kubelet_running_pods 2
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="main",namespace="host-1",pod="web-x-default-x-t"} 1
container_cpu_usage_seconds_total{container="main",namespace="host-1",pod="foreign"} 2
container_cpu_usage_seconds_total{container="main",namespace="other",pod="web-x-default-x-t"} 3
"""


def answer(body: bytes, code: bytes = b"200 OK") -> bytes:
    """Give an answer with a body."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (code, len(body)) + body


@on_both_loops
async def test_a_page_has_the_tenants_own_series() -> None:
    """By the tenant's names; other pods' are not there."""
    said = await asked_for(answer(SERIES), "/metrics/cadvisor")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert b'container="main",namespace="default",pod="web"} 1' in said
    for hidden in (b"foreign", b"host-1", b"-x-", b'"other"'):
        assert hidden not in said


@pytest.mark.parametrize(
    ("said", "path", "code"),
    [
        (answer(b"", b"404 No"), "/metrics/probes", 404),
        (answer(b"secret", b"403 No"), "/metrics", 503),
        (answer(b"secret", b"500 No"), "/stats/summary", 503),
        (answer(b"", b"302 Found"), "/metrics", 503),
        (answer(b"no JSON secret"), "/stats/summary", 503),
        (answer(b"[]"), "/stats/summary", 503),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "/stats/summary", 503),
    ],
)
@on_both_loops
async def test_what_is_no_page_is_told(said: bytes, path: str, code: int) -> None:
    """Without the host's own words."""
    told = await asked_for(said, path)
    assert told.startswith(b"HTTP/1.1 %d " % code)
    assert b"secret" not in told


@pytest.mark.parametrize("path", ["/metrics", "/stats/summary"])
@on_both_loops
async def test_a_page_that_hangs_is_given_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its connection is closed."""
    monkeypatch.setattr("syncer.proxy.nodes.PAGE_SECONDS", 0.1)
    told = await asked_for(answer(SERIES)[:-20], path, hangs=True)
    assert not told.endswith(b"0\r\n\r\n")
    assert told.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 "))


class HeldPages(NodePages):
    """Gives no page before it is told to, and then none; counts those who wait."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self.waiting = 0
        self.over = asyncio.Event()

    async def open(self, node: str, page: NodePage) -> Any:
        """Wait."""
        self.waiting += 1
        try:
            await self.over.wait()
        finally:
            self.waiting -= 1
        raise RefusalError(503, "over")


async def test_few_pages_are_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one node and in all, whoever asks; what ended, in whatever way, makes room."""
    monkeypatch.setattr("syncer.proxy.nodes.MAX_PAGES", 6)
    pages = HeldPages()
    found, _ = kubelets(pages=pages)

    async def code(node: str) -> int:
        with pytest.raises(RefusalError) as refused:
            await served(found, "/stats/summary", node=node)
        assert refused.value.headers == ({"Retry-After": "1"} if refused.value.code == 429 else {})
        return refused.value.code

    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        first = [tasks.create_task(code("n1")) for _ in range(4)]
        await eventually(lambda: pages.waiting == 4)
        assert await code("n1") == 429
        second = [tasks.create_task(code("n2")) for _ in range(2)]
        await eventually(lambda: pages.waiting == 6)
        assert await code("n2") == 429
        second[0].cancel()
        await eventually(lambda: pages.waiting == 5)
        assert await code("n1") == 429
        third = tasks.create_task(code("n2"))
        await eventually(lambda: pages.waiting == 6)
        pages.over.set()
    assert [task.result() for task in (*first, second[1], third)] == [503] * 6
    assert await code("n1") == 503


@pytest.mark.parametrize("body", [b"no JSON", b"", b"[]", b"null"])
async def test_what_the_host_says_of_rights_may_be_nothing(body: bytes) -> None:
    """Something in front of its API server answers in its place: it is not there, then."""

    async def script(end: End) -> None:
        await end.body(await end.head())
        await end.say(answer(body))
        await end.gone()

    async with backend(script) as server:
        client = Client(server.config)
        pages = NodePages(client, Upstream(server.config, name="the host"), insecure=False)
        with pytest.raises(RefusalError) as refused:
            await pages.open("n1", NodePage("/metrics"))
        await client.close()
    assert (refused.value.code, refused.value.message) == (503, "the host can't be reached")
