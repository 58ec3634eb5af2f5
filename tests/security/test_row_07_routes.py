"""Row 7: nothing is done before it is known who asks, and what they may do; made from the table."""

from collections.abc import Iterator

import orjson
import pytest

from syncer.proxy.request import read
from syncer.proxy.routes import Route, route_of
from tests.integration.endpoint import NOBODY, Header
from tests.security.conftest import Scene
from tests.security.endpoint_wire import EXEC, METADATA, SPDY, WEBSOCKET, say

_PODS = "/api/v1/namespaces/red/pods"
_SERVICES = "/api/v1/namespaces/red/services"
_METRICS = "/apis/metrics.k8s.io/v1beta1"

_Asked = tuple[str, str, tuple[Header, ...], bytes]


def _service(dry: bool) -> _Asked:
    body = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "unwanted"},
        "spec": {"ports": [{"port": 80}]},
    }
    headers = (("Content-Type", "application/json"),)
    return "POST", f"{_SERVICES}{'?dryRun=All' if dry else ''}", headers, orjson.dumps(body)


def _requests() -> dict[Route, list[_Asked]]:
    """Return requests of each route; `NODE` stands for the node of the pods."""
    get = [("GET", target, (), b"") for target in (f"{_PODS}/web/log", f"{_PODS}/web/log?follow=1")]
    streams = [
        (method, f"{_PODS}/web/{what}", headers, b"")
        for what in ("exec?command=id&stdout=1", "attach?stdout=1", "portforward?ports=80")
        for method, headers in (("GET", EXEC), ("GET", WEBSOCKET), ("POST", SPDY), ("POST", ()))
    ]
    verbs = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    node_pages = (
        "metrics", "metrics/cadvisor", "stats/summary", "pods", "runningpods/", "healthz",
        "containerLogs/red/web/main", "exec/red/web/main?command=id&output=1", "configz",
        "run/red/web/main",
    )  # fmt: skip
    return {
        Route.POD_LOG: get,
        Route.POD_STREAM: streams,
        Route.POD_PROXY: [
            *((verb, f"{_PODS}/web:80/proxy/x", (), b"") for verb in verbs),
            ("GET", f"{_PODS}/https:web:443/proxy/", WEBSOCKET, b""),
        ],
        Route.SERVICE_PROXY: [
            *((verb, f"{_SERVICES}/web:80/proxy/x", (), b"") for verb in verbs),
            ("GET", f"{_SERVICES}/web/proxy/", WEBSOCKET, b""),
        ],
        Route.NODE_PROXY: [
            ("GET", f"/api/v1/nodes/NODE/proxy/{page}", headers, b"")
            for page in node_pages
            for headers in ((), EXEC)
        ],
        Route.KUBELET: [
            ("GET", f"/{page}", (*headers, ("Host", "NODE.nodes.vcluster.com:10250")), b"")
            for page in node_pages
            for headers in ((), EXEC)
        ],
        Route.METRICS: [
            ("GET", target, (), b"")
            for target in (
                f"{_METRICS}/pods",
                f"{_METRICS}/nodes",
                f"{_METRICS}/nodes/NODE",
                f"{_METRICS}/namespaces/red/pods",
                f"{_METRICS}/namespaces/red/pods/web",
            )
        ],
        Route.SERVICE_CREATE: [_service(dry=False), _service(dry=True)],
        Route.PASS: [
            ("GET", "/api/v1/namespaces/red/secrets", (), b""),
            ("GET", "/api/v1/namespaces/red/secrets?watch=1", WEBSOCKET, b""),
            ("DELETE", f"{_PODS}/web", (), b""),
            ("GET", "/metrics", (), b""),
        ],
    }


_PUBLIC = {Route.HEALTH: [("GET", path, (), b"") for path in ("/healthz", "/livez", "/readyz")]}
_ALL = {**_requests(), **_PUBLIC}


def _cases() -> Iterator[tuple[Route, _Asked]]:
    for route, asked in _requests().items():
        for each in asked:
            yield route, each


def test_each_route_is_walked() -> None:
    """Each row of the table, and what isn't in it, has requests here that lead to it."""
    assert set(_ALL) == set(Route)
    for route, requests in _ALL.items():
        for method, target, headers, _ in requests:
            found = route_of(read(method, target), metrics=True)
            at_node = any(name == "Host" for name, _ in headers)  # which goes before the table
            assert at_node if route is Route.KUBELET else found is route, (method, target)


@pytest.mark.parametrize("kind", ["nobody", "a bad token", "a token of another's", "stranger"])
@pytest.mark.parametrize("route", _requests(), ids=str)
async def test_without_a_right_nothing_is_done(scene: Scene, route: Route, kind: str) -> None:
    """Anonymous and unknown callers get what the virtual server says, strangers 403; no host."""
    pair = scene.pair
    who = {
        "nobody": NOBODY,
        "a bad token": type(NOBODY)(token="nonsense"),
        "a token of another's": type(NOBODY)(token="eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."),
        "stranger": scene.stranger,
    }[kind]
    allowed = (401,) if "token" in kind else (403,)
    mark = pair.to_host.mark
    for method, target, headers, body in _requests()[route]:
        target = target.replace("NODE", scene.node)
        hosts = [value.replace("NODE", scene.node) for name, value in headers if name == "Host"]
        rest = tuple(header for header in headers if header[0] != "Host")
        answer = await say(
            pair, method, target, who=who, headers=rest, body=body, host="".join(hosts)
        )
        assert answer.status in allowed, (method, target, answer)
        assert not pair.leaks(answer.body)
        assert METADATA not in answer.body.decode()
    after = pair.to_host.seen[mark:]
    assert not pair.to_host.since(mark)
    assert not [each for each in after if "unwanted" in each.target or (each.method == "POST"
                and each.target.endswith("/services"))]  # fmt: skip
    assert await pair.find_copy("services", "unwanted", "red") is None


async def test_health_is_for_all_and_asks_no_host(scene: Scene) -> None:
    """What probes ask needs no name, is only read, and tells nothing of the host."""
    pair, mark = scene.pair, scene.pair.to_host.mark
    for method, target, _, _ in _PUBLIC[Route.HEALTH]:
        answer = await say(pair, method, target)
        assert (answer.status, answer.body) == (200, b"ok")
        for verb in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert (await say(pair, verb, target)).status == 405
        for more in ("?verbose", "/etcd", "/x"):
            answer = await say(pair, method, f"{target}{more}")
            assert not pair.leaks(answer.body)
    assert not pair.to_host.since(mark)
