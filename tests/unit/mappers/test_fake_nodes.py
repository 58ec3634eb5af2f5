"""Fake nodes: there while a pod keeps them, and telling nothing of the host."""

from typing import Any

import pytest

from mappers.fake_nodes import FAKE_NODE, KIND
from syncer.engine.plan import Delete
from syncer.types import Key, Query, Side

KEY = Key("", "worker-1.example")
KEEPING = Query(Side.HOST, "pods", "node-keeping", KEY.name)
POD = {"metadata": {"name": "p"}}


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
    assert node["status"]["addresses"] == [{"type": "Hostname", "address": KEY.name}]
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
