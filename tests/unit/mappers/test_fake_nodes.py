"""Fake nodes: there while a pod keeps them, and telling nothing of the host."""

from dataclasses import replace
from typing import Any

import pytest

from mappers.fake_nodes import KIND
from mappers.kept_nodes import FAKE_NODE
from syncer.engine.plan import Delete
from syncer.objects import Key, Object, Side
from syncer.types import Query, Ref

KEY = Key("", "worker-1.example")
KEEPING = Query(Side.HOST, "pods", "node-keeping", KEY.name)
POD = {"metadata": {"name": "p"}}
HOST_NAME = {"type": "Hostname", "address": "worker-1-example.nodes.vcluster.com"}
SERVICE = Ref(Side.HOST, "node-services", Key("default", "vc-node-worker-1-example"))


def _service(**spec: Any) -> Object:
    """Return the host Service of the node, as the host has it."""
    labels = {"vcluster.loft.sh/belongs-to": "vc", "vcluster.loft.sh/node": KEY.name}
    return {
        "metadata": {
            "name": SERVICE.key.name,
            "namespace": SERVICE.key.namespace,
            "labels": labels,
        },
        "spec": {"clusterIP": "10.96.3.4", **spec},
    }


@pytest.fixture
def node(world: Any, tools: Any) -> Any:
    """Give the fake node of one pod, as the virtual server stores it at first."""
    world.queries[KEEPING] = [POD]
    made = tools.created(world.derived(KIND, KEY, None))
    made["metadata"] |= {"uid": "n1", "resourceVersion": "1"}
    for condition in made["status"]["conditions"]:
        condition |= {"lastHeartbeatTime": None, "lastTransitionTime": None}
    return made


def test_a_settled_node_is_left_alone(world: Any, node: Any) -> None:
    """While a pod keeps it nothing is written: there are no heartbeats."""
    assert world.derived(KIND, KEY, node) == []


def test_no_pod_no_node(world: Any) -> None:
    """Nothing is made for a node that no pod keeps; a DaemonSet's pod alone can't bring it."""
    world.queries[Query(Side.HOST, "pods", "node", KEY.name)] = [POD]
    assert world.derived(KIND, KEY, None) == []


def test_nodes_of_others_are_never_touched(world: Any, node: Any) -> None:
    """A node without our label is somebody else's, kept or not."""
    del node["metadata"]["labels"][FAKE_NODE]
    node["status"]["capacity"] = {}
    assert world.derived(KIND, KEY, node) == []
    world.queries.clear()
    assert world.derived(KIND, KEY, node) == []


def test_what_is_made(node: Any) -> None:
    """Only the name is the host's; sizes are made up, the node is ready and has no taint."""
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "fake-worker-1.example"
    assert node["status"]["addresses"] == [HOST_NAME]
    assert node["status"]["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}
    assert node["status"]["capacity"] == node["status"]["allocatable"]
    assert node["status"]["capacity"]["pods"] == "110"
    conditions = {item["type"]: item["status"] for item in node["status"]["conditions"]}
    assert conditions == {
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
        "Ready": "True",
    }
    assert node["spec"] == {}


@pytest.mark.parametrize(
    ("server", "shown"), [("v1.36.3", "v1.36.3"), ("", "v0.0.0-fake")], ids=["known", "not yet"]
)
def test_the_version_is_the_virtual_api_servers(world: Any, server: str, shown: str) -> None:
    """A node is no newer than its API server, whatever the host's is; the ids are its own."""
    world.queries[KEEPING] = [POD]
    assert KIND.derive
    made = KIND.derive(KEY, None, replace(world.ctx(), server_version=server))
    assert isinstance(made, dict)
    info = made["status"]["nodeInfo"]
    assert (info["kubeletVersion"], info["kubeProxyVersion"]) == (shown, shown)
    assert len({info["machineID"], info["bootID"], info["systemUUID"]}) == 1


def test_long_names_still_make_a_label(world: Any, tools: Any) -> None:
    """The hostname label stays within what a label may have."""
    name = "n" * 63
    world.queries[Query(Side.HOST, "pods", "node-keeping", name)] = [POD]
    made = tools.created(world.derived(KIND, Key("", name), None))
    assert len(made["metadata"]["labels"]["kubernetes.io/hostname"]) <= 63


@pytest.mark.parametrize(
    ("taints", "left"),
    [
        pytest.param(["node.kubernetes.io/not-ready"], [], id="of-admission"),
        pytest.param(["node.kubernetes.io/not-ready", "mine"], ["mine"], id="with-a-tenants"),
    ],
)
def test_the_taint_of_a_new_node_is_taken_off(
    world: Any, tools: Any, node: Any, taints: list[str], left: list[str]
) -> None:
    """Admission taints each new node, and nobody else would take it off; a tenant's stay."""
    node["spec"]["taints"] = [{"key": key, "effect": "NoSchedule"} for key in taints]
    actions = world.derived(KIND, KEY, node)
    after = tools.applied(node, actions, Side.VIRTUAL)
    assert [taint["key"] for taint in after["spec"].get("taints", ())] == left
    assert world.derived(KIND, KEY, after) == []


def test_what_a_tenant_spoils_is_mended(world: Any, tools: Any, node: Any) -> None:
    """Readiness and sizes come back; what the tenant added stays."""
    node["status"]["conditions"][-1]["status"] = "Unknown"
    node["status"]["capacity"] |= {"cpu": "1", "example.com/gpu": "2"}
    after = tools.applied(node, world.derived(KIND, KEY, node), Side.VIRTUAL)
    assert after["status"]["conditions"][-1]["status"] == "True"
    assert after["status"]["capacity"]["cpu"] == "16"
    assert after["status"]["capacity"]["example.com/gpu"] == "2"


def test_a_node_nobody_keeps_goes(world: Any, node: Any) -> None:
    """With the last pod that keeps it, the node is deleted."""
    world.queries.clear()
    (delete,) = world.derived(KIND, KEY, node)
    assert isinstance(delete, Delete)
    assert delete.uid == "n1"


@pytest.mark.parametrize(
    ("spec", "ips"),
    [
        pytest.param({}, ["10.96.3.4"], id="one"),
        pytest.param(
            {"clusterIPs": ["10.96.3.4", "FD00:0::4"]}, ["10.96.3.4", "fd00::4"], id="both families"
        ),
        pytest.param({"clusterIP": "None", "clusterIPs": ["None"]}, [], id="headless"),
        pytest.param({"clusterIP": ""}, [], id="none yet"),
    ],
)
def test_the_service_gives_the_addresses(
    world: Any, tools: Any, node: Any, spec: Any, ips: list[str]
) -> None:
    """A node has the addresses of its Service, whether it was there before or not."""
    world.know(SERVICE, _service(**spec))
    wanted = [HOST_NAME, *({"type": "InternalIP", "address": ip} for ip in ips)]
    assert tools.created(world.derived(KIND, KEY, None))["status"]["addresses"] == wanted
    after = tools.applied(node, world.derived(KIND, KEY, node), Side.VIRTUAL)
    assert after["status"]["addresses"] == wanted
    assert world.derived(KIND, KEY, after) == []


def test_an_address_goes_with_its_service(world: Any, tools: Any, node: Any) -> None:
    """An address that is no longer ours is taken off, as is one that a tenant wrote."""
    node["status"]["addresses"].append({"type": "InternalIP", "address": "169.254.169.254"})
    node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] = 22
    after = tools.applied(node, world.derived(KIND, KEY, node), Side.VIRTUAL)
    assert after["status"]["addresses"] == [HOST_NAME]
    assert after["status"]["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10250}}


def test_a_service_that_is_not_seen_leaves_the_node_its_address(
    world: Any, tools: Any, node: Any
) -> None:
    """A list that came back without the Service changes nothing; no other address is kept so."""
    world.service_network("10.96.0.0/16")
    node["status"]["addresses"] = [HOST_NAME, {"type": "InternalIP", "address": "10.96.3.4"}]
    after = tools.applied(node, world.derived(KIND, KEY, node), Side.VIRTUAL)
    assert after["status"]["addresses"] == node["status"]["addresses"]
    node["status"]["addresses"].append({"type": "InternalIP", "address": "192.0.2.1"})
    after = tools.applied(node, world.derived(KIND, KEY, node), Side.VIRTUAL)
    assert after["status"]["addresses"] == node["status"]["addresses"][:2]


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param({}, id="unmarked"),
        pytest.param({"vcluster.loft.sh/belongs-to": "other"}, id="another tenant's"),
        pytest.param({"vcluster.loft.sh/node": "worker-1-example"}, id="another node's"),
    ],
)
def test_a_service_of_others_gives_no_address(world: Any, labels: dict[str, str]) -> None:
    """Only a Service that was made for this very node says where its kubelet is."""
    world.queries[KEEPING] = [POD]
    service = _service()
    service["metadata"]["labels"] = {**service["metadata"]["labels"], **labels} if labels else {}
    world.know(SERVICE, service)
    (create,) = world.derived(KIND, KEY, None)
    assert create.wanted["status"]["addresses"] == [HOST_NAME]


@pytest.mark.parametrize(
    ("options", "addresses", "port"),
    [
        pytest.param({"fake_kubelet_ips": False}, [HOST_NAME], 10250, id="no-ips"),
        pytest.param(
            {"disable_fake_kubelets": True},
            [{"type": "Hostname", "address": KEY.name}],
            0,
            id="no-kubelets",
        ),
    ],
)
def test_flags_take_the_addresses_off(
    world: Any, tools: Any, node: Any, options: dict[str, Any], addresses: Any, port: int
) -> None:
    """What a flag turned off is not there, even while the Service still is."""
    world.know(SERVICE, _service())
    node = tools.applied(node, world.derived(KIND, KEY, node), Side.VIRTUAL)
    world.options |= options
    after = tools.applied(node, world.derived(KIND, KEY, node), Side.VIRTUAL)
    assert after["status"]["addresses"] == addresses
    assert after["status"]["daemonEndpoints"] == {"kubeletEndpoint": {"Port": port}}
    assert world.derived(KIND, KEY, after) == []
