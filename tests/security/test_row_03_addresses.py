"""Row 3: no address that a tenant can write leads the endpoint, or an API server, anywhere.

(CVE-2022-3294, CVE-2020-8562.)
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from tests.integration.endpoint import Answer, Caller
from tests.integration.harness import Object, Pair, eventually, gone, named, pod, service
from tests.security.conftest import Scene
from tests.security.endpoint_wire import EXEC, METADATA, SPDY, WEBSOCKET, Sentinel, say

_FORWARD = (*WEBSOCKET, ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"))


@asynccontextmanager
async def _out_of_reach(scene: Scene, *addresses: str) -> AsyncIterator[Sentinel]:
    """Yield a server that nobody must reach; see that neither API server dialled an address.

    Args:
        scene: whose API servers.
        addresses: further ones that nobody must dial.
    """
    planes = (scene.pair.host.plane, scene.pair.virtual.plane)
    before = [len(plane.egress.dials) for plane in planes]
    async with Sentinel().listening() as sentinel:
        yield sentinel
        await asyncio.sleep(0.1)
    never = (METADATA, *addresses)
    for plane, count in zip(planes, before, strict=True):
        dialled = [dial.target for dial in plane.egress.dials[count:]]
        # A port of a pod's own is the tenant's to choose; the address is not.
        assert not [each for each in dialled if each == f"127.0.0.1:{sentinel.port}"]
        assert not [each for each in dialled if each.partition(":")[0] in never], dialled


async def _all_ways(scene: Scene, pod_name: str, node: str, port: int) -> dict[str, Answer]:
    """Ask for all that leads to a pod and its node, as the administrator."""
    base = f"/api/v1/namespaces/{scene.red}"
    here = f"{base}/pods/{pod_name}"
    asked: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
        "log": (f"{here}/log", ()),
        "exec": (f"{here}/exec?command=true&stdout=1", EXEC),
        "exec by SPDY": (f"{here}/exec?command=true&stdout=1", SPDY),
        "attach": (f"{here}/attach?stdout=1", EXEC),
        "portforward": (f"{here}/portforward?ports={port}", _FORWARD),
        "pod proxy": (f"{base}/pods/{pod_name}:{port}/proxy/", ()),
        "pod proxy, https": (f"{base}/pods/https:{pod_name}:{port}/proxy/", ()),
        "node page": (f"/api/v1/nodes/{node}/proxy/metrics", ()),
        "node port": (f"/api/v1/nodes/{node}:{port}/proxy/", ()),
        "node stats": (f"/api/v1/nodes/{node}/proxy/stats/summary", ()),
        "node exec": (
            f"/api/v1/nodes/{node}/proxy/exec/{scene.red}/{pod_name}/main?command=true&output=1",
            EXEC,
        ),
    }

    async def ask(target: str, headers: tuple[tuple[str, str], ...]) -> Answer:
        method = "POST" if headers is SPDY else "GET"
        return await say(scene.pair, method, target, who=scene.admin, headers=headers)

    answers = await asyncio.gather(*(ask(*each) for each in asked.values()))
    return dict(zip(asked, answers, strict=True))


def _addressed(address: str, port: int) -> Object:
    """Return a node's status that claims an address."""
    addresses = [{"type": kind, "address": address} for kind in ("InternalIP", "Hostname")]
    endpoint = {"kubeletEndpoint": {"Port": port}}
    return {"status": {"addresses": addresses, "daemonEndpoints": endpoint}}


def _targets(scene: Scene, sentinel: Sentinel, neighbour: str) -> list[tuple[str, int]]:
    api = URL(scene.pair.host.plane.server)
    return [
        ("127.0.0.1", sentinel.port),
        (METADATA, 80),
        (str(api.host), api.port or 443),
        (neighbour, 80),
    ]


async def test_forged_addresses_of_a_real_pod_lead_to_the_host_copy(
    scene: Scene, neighbour: Pair
) -> None:
    """Patch podIP, hostIP and the node's addresses: what is served is still the host's own."""
    pair = scene.pair
    theirs = (await neighbour.virtual.get("pods", "theirs", "red"))["status"]["podIP"]
    async with _out_of_reach(scene, theirs) as sentinel:
        for address, port in _targets(scene, sentinel, theirs):
            status = {
                "podIP": address,
                "podIPs": [{"ip": address}],
                "hostIP": address,
                "hostIPs": [{"ip": address}],
            }
            where = ("pods", "web", scene.red)
            await asyncio.gather(
                pair.virtual.patch(*where, {"status": status}, subresource="status"),
                pair.virtual.patch(
                    "nodes", scene.node, "", _addressed(address, port), subresource="status"
                ),
            )
            answers = await _all_ways(scene, "web", scene.node, port)
            assert answers["log"].status == 200
            assert b"hello from a fake pod" in answers["log"].body
            for way in ("exec", "exec by SPDY", "attach", "portforward", "node exec"):
                assert answers[way].status == 101, (way, answers[way])
            for way in ("pod proxy", "pod proxy, https", "node page", "node port", "node stats"):
                assert answers[way].status >= 400, (way, answers[way])
    copy = await pair.copy("pods", "web", scene.red)

    async def put_right() -> None:
        found = await pair.virtual.get("pods", "web", scene.red)
        assert found["status"]["podIP"] == copy["status"]["podIP"]

    await eventually(put_right)


async def test_a_pod_of_the_tenants_making_leads_nowhere(scene: Scene, neighbour: Pair) -> None:
    """A pod with an address and no host copy: everything is refused, and the host hears nothing.

    What has the name that its copy would have is somebody else's.
    """
    pair, name = scene.pair, f"ghost-{uuid.uuid4().hex[:6]}"
    taken = pod(pair.host_name(name, scene.red), pair.names.host_namespace)
    await pair.host.create(taken)
    theirs = (await neighbour.virtual.get("pods", "theirs", "red"))["status"]["podIP"]
    await pair.virtual.create(pod(name, scene.red))
    try:
        async with _out_of_reach(scene, theirs) as sentinel:
            for address, port in _targets(scene, sentinel, theirs):
                main = {
                    "name": "main",
                    "state": {"running": {}},
                    "ready": True,
                    "restartCount": 0,
                    "image": "nginx",
                    "imageID": "",
                }
                status = {
                    "phase": "Running",
                    "podIP": address,
                    "podIPs": [{"ip": address}],
                    "hostIP": address,
                    "hostIPs": [{"ip": address}],
                    "containerStatuses": [main],
                }
                where = ("pods", name, scene.red)
                await pair.virtual.patch(*where, {"status": status}, subresource="status")
                mark = pair.to_host.mark
                for way, answer in (await _all_ways(scene, name, "no-such-node", port)).items():
                    assert answer.status in (400, 403, 404), (way, answer)
                assert not pair.to_host.since(mark)
    finally:
        await pair.virtual.delete("pods", name, scene.red, grace=0)
        await pair.host.delete(
            "pods", taken["metadata"]["name"], pair.names.host_namespace, grace=0
        )


async def test_nodes_of_the_tenants_making_lead_nowhere(scene: Scene) -> None:
    """Neither a made-up node nor one called like a host's that the tenant is not on is there."""
    pair = scene.pair
    kept = {each["metadata"]["name"] for each in await pair.virtual.list("nodes")}
    others = [
        name
        for each in await pair.host.list("nodes")
        if (name := each["metadata"]["name"]) not in kept
    ]
    made = [f"made-{uuid.uuid4().hex[:6]}", METADATA, *others[:1]]
    assert len(made) == 3
    async with _out_of_reach(scene) as sentinel:
        for name in made:
            await pair.virtual.create(named("Node", name))
            try:
                for address, port in _targets(scene, sentinel, METADATA):
                    patch = _addressed(address, port)
                    await pair.virtual.patch("nodes", name, "", patch, subresource="status")
                    mark = pair.to_host.mark
                    for page in ("metrics", "stats/summary", "pods", "containerLogs/red/web/main"):
                        for spelled in (name, f"{name}:{port}", f"https:{name}:10250"):
                            target = f"/api/v1/nodes/{spelled}/proxy/{page}"
                            answer = await say(pair, "GET", target, who=scene.admin)
                            assert answer.status in (403, 404), (target, answer)
                    assert not pair.to_host.since(mark)
            finally:
                await pair.virtual.delete("nodes", name)


async def test_hand_made_endpoints_lead_no_service_proxy_anywhere(
    scene: Scene, neighbour: Pair
) -> None:
    """Neither another tenant's pod, whatever it is said to be, nor any other address is dialled."""
    pair, name = scene.pair, f"made-{uuid.uuid4().hex[:6]}"
    theirs = (await neighbour.virtual.get("pods", "theirs", "red"))["status"]["podIP"]
    elsewhere = "198.51.100.7"
    own = {"kind": "Pod", "name": "web", "namespace": scene.red}
    told = {"kind": "Pod", "name": "theirs", "namespace": "red"}
    by_host_name = {
        "kind": "Pod",
        "name": neighbour.host_name("theirs", "red"),
        "namespace": neighbour.names.host_namespace,
    }
    await pair.virtual.create(service(name, scene.red, port=80, selector=None))
    try:
        async with _out_of_reach(scene, theirs, elsewhere):
            for address in (theirs, elsewhere):
                for reference in (None, own, told, by_host_name):
                    subset: Object = {
                        "addresses": [{"ip": address}],
                        "ports": [{"name": "main", "port": 80}],
                    }
                    if reference:
                        subset["addresses"][0]["targetRef"] = reference
                    await pair.virtual.apply(named("Endpoints", name, scene.red, subsets=[subset]))
                    await eventually(_copied(pair, name, scene.red, address))
                    for spelled in (name, f"{name}:80", f"https:{name}:main"):
                        target = f"/api/v1/namespaces/{scene.red}/services/{spelled}/proxy/"
                        answer = await say(pair, "GET", target, who=scene.admin)
                        assert answer.status == 503, answer
                        assert not pair.leaks(answer.body)
    finally:
        await pair.virtual.delete("services", name, scene.red)
        await gone(lambda: pair.find_copy("services", name, scene.red))


def _copied(pair: Pair, name: str, namespace: str, address: str) -> Callable[[], object]:
    async def check() -> None:
        found = await pair.copy("endpoints", name, namespace)
        assert found["subsets"][0]["addresses"][0]["ip"] == address

    return check


@pytest.mark.parametrize("where", [METADATA, "127.0.0.1.example.com", "kubernetes.default.svc"])
async def test_a_service_that_is_a_name_is_not_proxied_to(scene: Scene, where: str) -> None:
    """An ExternalName service has no endpoints, so nothing is dialled for it."""
    pair, name = scene.pair, f"named-{uuid.uuid4().hex[:6]}"
    spec = {"type": "ExternalName", "externalName": where, "selector": None}
    await pair.virtual.create(service(name, scene.red, port=80, **spec))
    try:
        await eventually(lambda: pair.copy("services", name, scene.red))
        async with _out_of_reach(scene, where):
            for who in (scene.admin, scene.boss):
                answer = await _proxied(scene, name, who)
                assert answer.status in (404, 503), answer
                assert not pair.leaks(answer.body)
    finally:
        await pair.virtual.delete("services", name, scene.red)


async def _proxied(scene: Scene, name: str, who: Caller) -> Answer:
    target = f"/api/v1/namespaces/{scene.red}/services/{name}:80/proxy/"
    return await say(scene.pair, "GET", target, who=who)
