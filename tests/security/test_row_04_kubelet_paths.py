"""Row 4: a kubelet's pages, as the endpoint serves them, show the tenant's own or are refused."""

import uuid
from collections.abc import AsyncIterator, Iterator

import orjson
import pytest
from aiohttp import web

from syncer.naming import PREFIX
from tests.integration.endpoint import Answer
from tests.integration.harness import Pair, eventually, named, path_of, pod
from tests.integration.pod_steps import add_debug_container
from tests.security.conftest import Scene
from tests.security.endpoint_wire import EXEC, SPDY, kubelet, say

_OWN_PORT = ("{}", "{}:10250", "https:{}:10250", "http:{}:10250", "https:{}:", ":{}:")
_OTHER_PORT = ("{}:22", "https:{}:22", "http:{}:6443", "{}:0", "{}:010250", "{}:10250x")
_CLOSED = (
    "run/red/web/main",
    "run/red/web/main?cmd=id",
    "configz",
    "flagz",
    "statusz",
    "logs",
    "logs/",
    "logs/../../etc/passwd",
    "logs/syslog",
    "debug/pprof/",
    "debug/flags/v",
    "checkpoint/red/web/main",
    "cri/exec/abc",
    "spec/",
    "runningPods",
    "pods/x",
    "metrics/cadvisor/x",
    "stats/container",
    "",
)


async def _asked(scene: Scene, page: str, spelled: str) -> Answer:
    """Ask for a page of the node by a spelling of it; `at` means at the node's own address."""
    if spelled == "at":
        host = f"{scene.node}.nodes.vcluster.com:10250"
        return await say(scene.pair, "GET", f"/{page}", who=scene.admin, host=host)
    name = spelled.format(scene.node)
    target = f"/api/v1/nodes/{name}/proxy/{page}"
    return await say(scene.pair, "GET", target, who=scene.admin)


@pytest.mark.parametrize("spelled", [*_OWN_PORT, "at"])
async def test_lists_of_pods_hold_the_tenants_own(
    scene: Scene, neighbour: Pair, foreign: str, spelled: str
) -> None:
    """/pods and /runningpods of a node that others use too, by every spelling of its name."""
    pair = scene.pair
    own = {
        (each["metadata"]["namespace"], each["metadata"]["name"])
        for each in await pair.virtual.list("pods", fields=f"spec.nodeName={scene.node}")
    }
    for page in ("pods", "pods/", "runningpods", "runningpods/"):
        answer = await _asked(scene, page, spelled)
        assert answer.status == 200, answer
        items = answer.json["items"]
        found = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in items}
        assert (scene.red, "web") in found
        assert found <= own
        assert not pair.leaks(answer.body)
        for other in ("theirs", foreign, neighbour.names.tenant):
            assert f'"{other}"' not in answer.body.decode()


@pytest.mark.parametrize("spelled", [*_OWN_PORT, *_OTHER_PORT, "at"])
async def test_other_pages_are_closed(scene: Scene, spelled: str) -> None:
    """What a kubelet shows of its machine is refused by every spelling, the host never asked."""
    mark = scene.pair.to_host.mark
    for page in _CLOSED:
        answer = await _asked(scene, page, spelled)
        assert answer.status in (400, 403, 404, 405), (page, answer)
        assert not scene.pair.leaks(answer.body)
    assert not scene.pair.to_host.since(mark)


@pytest.mark.parametrize("spelled", _OTHER_PORT)
async def test_other_ports_of_a_node_are_closed(scene: Scene, spelled: str) -> None:
    """A node's name with another port than the kubelet's leads nowhere."""
    mark = scene.pair.to_host.mark
    for page in ("pods", "metrics", "healthz", "stats/summary", "containerLogs/red/web/main"):
        answer = await _asked(scene, page, spelled)
        assert answer.status in (400, 403), answer
    assert not scene.pair.to_host.since(mark)


@pytest.mark.parametrize("by", ["proxy", "address"])
async def test_other_tenants_pods_are_not_there(
    scene: Scene, neighbour: Pair, foreign: str, by: str
) -> None:
    """Logs and streams by a kubelet's paths: the tenant's own by its own name, nothing else."""
    pair = scene.pair
    home = pair.names.host_namespace
    copy, theirs = pair.host_name("web", "red"), neighbour.host_name("theirs", "red")
    uid = (await neighbour.virtual.get("pods", "theirs", "red"))["metadata"]["uid"]
    host_uid = (await pair.copy("pods", "web", "red"))["metadata"]["uid"]
    mark = pair.to_host.mark
    for where in (
        "red/theirs",
        f"{home}/{theirs}",
        f"red/{theirs}",
        f"{home}/{copy}",
        f"red/{copy}",
        f"{home}/{foreign}",
        f"red/{foreign}",
        f"{neighbour.names.tenant}/web",
        "red/waiting",
        "kube-system/web",
        "/web",
        "red/..%2f..%2fweb",
    ):
        for page in (
            f"containerLogs/{where}/main",
            f"exec/{where}/main?command=id&output=1",
            f"exec/{where}/{uid}/main?command=id&output=1",
            f"attach/{where}/main?output=1",
            f"portForward/{where}?port=80",
            f"portForward/{where}/{uid}?port=80",
        ):
            for headers in ((), EXEC):
                target, host = f"/{page}", f"{scene.node}.nodes.vcluster.com"
                if by == "proxy":
                    target, host = f"/api/v1/nodes/{scene.node}/proxy/{page}", ""
                answer = await say(pair, "GET", target, who=scene.admin, headers=headers, host=host)
                assert answer.status in (400, 403, 404), (page, answer)
                assert not pair.leaks(answer.body, page)
    for page in (f"exec/red/web/{host_uid}/main?command=id&output=1", "containerLogs/red/web/x"):
        answer = await say(
            pair, "GET", f"/api/v1/nodes/{scene.node}/proxy/{page}", who=scene.admin, headers=EXEC
        )
        assert answer.status in (400, 404), answer
    assert not pair.to_host.since(mark)
    own = await say(
        pair,
        "GET",
        f"/api/v1/nodes/{scene.node}/proxy/containerLogs/red/web/main",
        who=scene.admin,
    )
    assert own.status == 200


# -- containers that somebody else put into the copy ---------------------------------------------

_ADMISSION = "admissionregistration.k8s.io/v1"
_SIDECAR = """
Object{spec: Object.spec{
  containers: [Object.spec.containers{name: "mesh-proxy", image: "mesh:1"}]
}}
"""


@pytest.fixture
async def mesh(scene: Scene) -> AsyncIterator[str]:
    """A virtual namespace into whose pods' copies the host puts a container."""
    pair, name = scene.pair, f"mesh-{uuid.uuid4().hex[:6]}"
    labels = {f"{PREFIX}namespace": name}
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    constraints = {"resourceRules": [rule], "objectSelector": {"matchLabels": labels}}
    expression = {"expression": _SIDECAR}
    policy = {
        "matchConstraints": constraints,
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": expression}],
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
    }
    probe = pod("probe", pair.names.host_namespace, labels=labels)

    async def at_work() -> None:
        path = path_of("pods", pair.names.host_namespace)
        made = await pair.host.request("POST", path, body=probe, params={"dryRun": "All"})
        assert "mesh-proxy" in str(made["spec"]["containers"])

    try:
        for kind, spec in (("", policy), ("Binding", {"policyName": name})):
            kind = f"MutatingAdmissionPolicy{kind}"
            await pair.host.create(named(kind, name, apiVersion=_ADMISSION, spec=spec))
        await eventually(at_work)
        await pair.virtual.create(named("Namespace", name))
        await eventually(lambda: pair.virtual.get("serviceaccounts", "default", name))
        yield name
    finally:
        for resource in ("mutatingadmissionpolicybindings", "mutatingadmissionpolicies"):
            await pair.host.delete(f"{_ADMISSION}/{resource}", name)
        await pair.virtual.delete("namespaces", name)


class _Kubelet:
    """A kubelet that measures two containers of a pod, and whose logs tell which one is read.

    Attributes:
        pod: host name of the pod.
        namespace: of the pod.
        uid: of the pod.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace, self.pod, self.uid = namespace, "", ""

    def __call__(self, request: web.BaseRequest) -> web.Response:
        path = request.path
        if path.startswith("/containerLogs/"):
            return web.Response(text=f"log of {path.rpartition('/')[2]}")
        if path == "/stats/summary":
            names = ("main", "mesh-proxy")
            containers = [{"name": name, "cpu": {"usageNanoCores": 4711}} for name in names]
            where = {"name": self.pod, "namespace": self.namespace, "uid": self.uid}
            summary = {"node": {}, "pods": [{"podRef": where, "containers": containers}]}
            return web.Response(body=orjson.dumps(summary), content_type="application/json")
        if path.startswith("/metrics"):
            lines = [
                f'container_memory_working_set_bytes{{container="{name}",'
                f'namespace="{self.namespace}",pod="{self.pod}"}} 4711'
                for name in ("main", "mesh-proxy")
            ]
            text = "# TYPE container_memory_working_set_bytes gauge\n" + "\n".join(lines) + "\n"
            return web.Response(text=text)
        return web.Response(status=404, text="no such page")


async def test_an_injected_container_is_out_of_reach(
    scene: Scene, mesh: str, addresses: Iterator[str]
) -> None:
    """It can't be read, entered or measured; not even by a debug container of its name."""
    pair = scene.pair
    serving = _Kubelet(pair.names.host_namespace)
    async with kubelet(pair, mesh, next(addresses), serving) as (name, backend):
        copy = await pair.copy("pods", name, mesh)
        serving.pod, serving.uid = copy["metadata"]["name"], copy["metadata"]["uid"]
        assert "mesh-proxy" in str(copy["spec"]["containers"])
        await _can_not_be_reached(scene, name, mesh)
        debug = {"name": "mesh-proxy", "image": "busybox"}
        await add_debug_container(pair, name, mesh, debug)
        for _ in range(10):  # until long after the endpoint's syncer has seen it
            await _can_not_be_reached(scene, name, mesh)
        assert "mesh-proxy" not in str([each.target for each in backend.seen])


async def _can_not_be_reached(scene: Scene, name: str, namespace: str) -> None:
    pair, here = scene.pair, f"/api/v1/namespaces/{namespace}/pods/{name}"
    node = f"/api/v1/nodes/{name}/proxy"
    named_so = "container=mesh-proxy"
    for target, headers in (
        (f"{here}/log?{named_so}", ()),
        (f"{here}/log?container=main&{named_so}&container=mesh-proxy", ()),
        (f"{here}/exec?command=id&stdout=1&{named_so}", EXEC),
        (f"{here}/exec?command=id&stdout=1&{named_so}", SPDY),
        (f"{here}/attach?stdout=1&{named_so}", EXEC),
        (f"{node}/containerLogs/{namespace}/{name}/mesh-proxy", ()),
        (f"{node}/exec/{namespace}/{name}/mesh-proxy?command=id&output=1", EXEC),
        (f"{node}/attach/{namespace}/{name}/mesh-proxy?output=1", EXEC),
    ):
        method = "POST" if headers is SPDY else "GET"
        answer = await say(pair, method, target, who=scene.admin, headers=headers)
        first = target.partition("?")[2].startswith("container=main")  # the first one counts
        assert answer.status == 200 if first else answer.status in (400, 404), (target, answer)
        assert b"mesh-proxy" not in answer.body.replace(b"container mesh-proxy is not valid", b"")
    for page in ("metrics/resource", "metrics/cadvisor", "stats/summary"):
        answer = await say(pair, "GET", f"{node}/{page}", who=scene.admin)
        assert answer.status == 200, answer
        assert b"main" in answer.body
        assert b"mesh-proxy" not in answer.body
    assert (await say(pair, "GET", f"{here}/log", who=scene.admin)).body == b"log of main"
