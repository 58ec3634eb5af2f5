"""Row 27, through the endpoint: nothing that is answered names the host's namespace or objects.

Errors above all, in every form that a caller may ask for them: the host tells them of its copies.
"""

import asyncio
import gzip
import uuid
import zlib
from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
from aiohttp import web

from tests.integration.endpoint import Answer, Caller, Header
from tests.integration.harness import Object, eventually, gone, named, service
from tests.security.conftest import Scene
from tests.security.endpoint_wire import EXEC, SPDY, WEBSOCKET, Backend, say

_FORMS = (
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/cbor",
    "text/html",
    "*/*",
    "",
)
_PODS = "/api/v1/namespaces/red/pods"
_SERVICES = "/api/v1/namespaces/red/services"

_Asked = tuple[str, str, tuple[Header, ...]]


def _failing(scene: Scene) -> Iterator[_Asked]:
    """Give requests that the host answers with an error, or that fail on the way to it."""
    for query in (
        "container=none",
        "previous=true",
        "tailLines=-1",
        "tailLines=x",
        "sinceSeconds=0",
        "sinceTime=never",
        "limitBytes=0",
        "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
        "stream=Nothing",
        "stream=Stdout&tailLines=1",
        "timestamps=7",
    ):
        yield "GET", f"{_PODS}/web/log?{query}", ()
        yield "GET", f"{_PODS}/waiting/log?{query}", ()
    for name in ("waiting", "none"):
        yield "GET", f"{_PODS}/{name}/log", ()
        yield "GET", f"{_PODS}/{name}/log?follow=1", ()
        yield "GET", f"{_PODS}/{name}:80/proxy/", ()
        yield "GET", f"{_PODS}/{name}:80/proxy/", WEBSOCKET
    for method, headers in (("GET", EXEC), ("POST", SPDY), ("POST", ()), ("GET", ())):
        for name in ("waiting", "none"):
            for what in ("exec?command=id&stdout=1", "attach?stdout=1", "portforward?ports=80"):
                yield method, f"{_PODS}/{name}/{what}", headers
        for what in ("exec?container=none&command=id", "exec?stdout=1", "portforward?ports=x"):
            yield method, f"{_PODS}/web/{what}", headers
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        for target in (
            f"{_PODS}/web:9/proxy/",
            f"{_PODS}/https:web:9/proxy/",
            f"{_PODS}/web:x/proxy/",
            f"{_PODS}/web:99999/proxy/",
            f"{_SERVICES}/web:9/proxy/",
            f"{_SERVICES}/web:none/proxy/",
            f"{_SERVICES}/none:80/proxy/",
            f"{_SERVICES}/empty:80/proxy/",
            f"{_SERVICES}/empty/proxy/",
        ):
            yield method, target, ()
    for page in ("metrics", "metrics/cadvisor", "stats/summary", "configz", "logs/", "x"):
        yield "GET", f"/api/v1/nodes/{scene.node}/proxy/{page}", ()
        yield "GET", f"/api/v1/nodes/none/proxy/{page}", ()
    base = "/apis/metrics.k8s.io/v1beta1"
    for path in ("pods", "nodes", f"nodes/{scene.node}", "namespaces/red/pods/web"):
        yield "GET", f"{base}/{path}", ()


@pytest.fixture(scope="module", autouse=True)
async def empty(scene: Scene) -> AsyncIterator[None]:
    """A service that nothing answers for."""
    pair = scene.pair
    await pair.virtual.create(service("empty", "red", port=80))
    await eventually(lambda: pair.copy("services", "empty", "red"))
    yield
    await pair.virtual.delete("services", "empty", "red")


def _tells_nothing(scene: Scene, answer: Answer, uids: set[str], asked: str) -> None:
    shown = f"{answer.headers} {answer.body.decode(errors='replace')}"
    assert not scene.pair.leaks(shown, asked), (asked, answer)
    assert not [uid for uid in uids if uid in shown], (asked, answer)
    for token in ("eyJ", "BEGIN CERTIFICATE", "PRIVATE KEY"):
        assert token not in shown, (asked, answer)
    assert not answer.header("set-cookie")


async def _uids(scene: Scene) -> set[str]:
    """Return the UIDs of the host's objects that the tenant's are copied to."""
    found = [*await scene.pair.copies("pods"), *await scene.pair.copies("services")]
    return {each["metadata"]["uid"] for each in found}


@pytest.mark.parametrize("form", _FORMS, ids=lambda form: form or "none")
@pytest.mark.parametrize("kind", ["reader", "robot", "admin"])
async def test_errors_name_nothing_of_the_host(scene: Scene, kind: str, form: str) -> None:
    """Missing containers, waiting pods, closed ports, bad parameters: in the tenant's names."""
    who: Caller = {"reader": scene.reader, "robot": scene.robot, "admin": scene.admin}[kind]
    accept = (("Accept", form),) if form else ()
    uids = await _uids(scene)
    slots = asyncio.Semaphore(6)

    async def one(method: str, target: str, headers: tuple[Header, ...]) -> None:
        async with slots:
            answer = await say(scene.pair, method, target, who=who, headers=(*headers, *accept))
        _tells_nothing(scene, answer, uids, target)
        assert "aiohttp" not in answer.header("server")

    async with asyncio.TaskGroup() as tasks:
        for asked in _failing(scene):
            tasks.create_task(one(*asked))


_PAGE = """<html><head><base href="/"></head><body><a href="/next">1</a><a href="here">2</a>
<img src="/image.png"><form action="/send?x=1"></form><a href='http://elsewhere.example/x'>3</a>
<a href="//elsewhere.example/y">4</a><script src="/script.js"></script></body></html>"""


def _pages(request: web.BaseRequest) -> web.Response:
    """Answer with links of all kinds, in HTML compressed if that is asked for, and in headers."""
    path = request.path
    if path.startswith("/moved"):
        to = {"/moved/path": "/next", "/moved/here": "next", "/moved/self": ""}[path]
        to = to or f"http://{request.headers['Host']}/next"
        return web.Response(status=302, headers={"Location": to})
    body, headers = _PAGE.encode(), {"Content-Type": "text/html; charset=utf-8"}
    if path == "/packed":  # unasked; API servers themselves ask for gzip alone
        raw = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = raw.compress(body) + raw.flush()
        headers = {**headers, "Content-Encoding": "deflate"}
    elif "gzip" in request.headers.get("Accept-Encoding", ""):
        body, headers = gzip.compress(body), {**headers, "Content-Encoding": "gzip"}
    return web.Response(body=body, headers=headers, status=404 if path == "/missing" else 200)


@pytest.mark.parametrize("encoding", ["", "gzip", "gzip, deflate, br", "identity"])
@pytest.mark.parametrize("what", [f"{_PODS}/web:80", f"{_PODS}/http:web:80", f"{_SERVICES}/web:80"])
async def test_pages_that_are_proxied_link_to_the_tenants_paths(
    scene: Scene, what: str, encoding: str
) -> None:
    """Links and redirects that the host's API server rewrote lead through the endpoint."""
    pair = scene.pair
    ip = (await pair.virtual.get("pods", "web", "red"))["status"]["podIP"]
    headers = (("Accept", "text/html,*/*"), *((("Accept-Encoding", encoding),) if encoding else ()))
    uids = await _uids(scene)
    async with Backend(_pages).listening() as server:
        with pair.host.plane.egress.route(ip, ("127.0.0.1", server.port)):

            async def page(path: str) -> Answer:
                answer = await say(
                    pair, "GET", f"{what}/proxy{path}", who=scene.robot, headers=headers
                )
                assert answer.status in (200, 302, 404), answer
                return answer

            for path in ("/", "/missing", "/deep/er"):
                answer = await eventually(lambda path=path: page(path))
                body = answer.body
                if answer.header("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert not pair.leaks(body)
                _tells_nothing(scene, answer, uids, "")
                assert f'href="{what}/proxy/next"' in body.decode()
                assert b"http://elsewhere.example/x" in body
            for path in ("/moved/path", "/moved/here", "/moved/self"):
                answer = await page(path)
                assert answer.status == 302
                _tells_nothing(scene, answer, uids, "")
            moved = (await page("/moved/path")).header("location")
            assert moved == f"{what}/proxy/next"
            data = (("Accept", "application/json"), ("Accept-Encoding", "gzip"))
            for path, asked in (("/packed", headers), ("/", data)):
                target = f"{what}/proxy{path}"
                packed = await say(pair, "GET", target, who=scene.robot, headers=asked)
                assert packed.status == 502  # the host rewrote its links, and packed it again
                _tells_nothing(scene, packed, uids, "")


async def test_what_a_pod_and_its_node_say_is_the_tenants(scene: Scene) -> None:
    """Logs, lists of pods and metrics are without a name, namespace or UID of the host's."""
    uids = await _uids(scene)
    for who, targets in (
        (scene.reader, (f"{_PODS}/web/log", _PODS, _SERVICES, "/api/v1/namespaces/red/events")),
        (
            scene.admin,
            (
                "/api/v1/nodes",
                f"/api/v1/nodes/{scene.node}",
                f"/api/v1/nodes/{scene.node}/proxy/pods",
                f"/api/v1/nodes/{scene.node}/proxy/runningpods/",
                f"/api/v1/nodes/{scene.node}/proxy/healthz",
                f"/api/v1/nodes/{scene.node}/proxy/containerLogs/red/web/main",
                "/readyz?verbose",
            ),
        ),
    ):
        for target in targets:
            answer = await say(scene.pair, "GET", target, who=who)
            assert answer.status == 200, answer
            shown = answer.body.decode().replace('"vcluster.loft.sh/managed-by":', "")
            home, mark = scene.pair.names.host_namespace, f"-x-{scene.pair.names.tenant}"
            assert home not in shown, target
            assert mark not in shown, target
            lists_pods = target == _PODS or target.endswith(("/pods", "/events"))
            if not lists_pods:  # kwok makes a container's ID of the copy's UID
                assert not [uid for uid in uids if uid in shown], target


async def test_a_quota_of_the_hosts_is_told_in_the_tenants_terms(scene: Scene) -> None:
    """A service that the host refuses says why, and not where."""
    pair, home = scene.pair, scene.pair.names.host_namespace
    quota: Object = named("ResourceQuota", "full", home, spec={"hard": {"services": "0"}})
    await pair.host.create(quota)
    uids = await _uids(scene)
    try:

        async def refused() -> None:
            name = f"more-{uuid.uuid4().hex[:6]}"
            body = orjson.dumps(service(name, "red", port=80))
            kind = (("Content-Type", "application/json"),)
            answer = await say(pair, "POST", _SERVICES, who=scene.boss, headers=kind, body=body)
            await pair.virtual.delete("services", name, "red")
            _tells_nothing(scene, answer, uids, "")
            assert answer.status == 403, answer
            assert "quota" in answer.json["message"]

        await eventually(refused)
    finally:
        await pair.host.delete("resourcequotas", "full", home)
        await gone(lambda: pair.host.find("resourcequotas", "full", home))


async def test_a_name_that_is_taken_on_the_host_is_not_told(scene: Scene) -> None:
    """Somebody's host object under a copy's name is a conflict without its name."""
    pair, home, name = scene.pair, scene.pair.names.host_namespace, f"taken-{uuid.uuid4().hex[:6]}"
    theirs = service(pair.host_name(name, "red"), home, port=80)
    await pair.host.create(theirs)
    try:
        body, kind = orjson.dumps(service(name, "red", port=80)), "application/json"
        answer = await say(
            pair, "POST", _SERVICES, who=scene.boss, headers=(("Content-Type", kind),), body=body
        )
        assert answer.status == 409, answer
        _tells_nothing(scene, answer, await _uids(scene), "")
    finally:
        await pair.host.delete("services", theirs["metadata"]["name"], home)
