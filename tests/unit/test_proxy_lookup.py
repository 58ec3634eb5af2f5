"""What a host object stands for: one of the tenant's own, as both stores agree, or nothing."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from syncer import ownership
from syncer.kube.store import Store
from syncer.naming import Names
from syncer.objects import Key, Object, Side
from syncer.proxy.lookup import StoreLookup
from syncer.proxy.node_metrics import PodView

NAMES = Names("t", "host-1")
OTHERS = Names("u", "host-1")
WEB = ("host-1", "web-x-default-x-t")


def pod(name: str = "web", uid: str = "v1", **spec: Any) -> Object:
    """Give a virtual pod."""
    metadata = {"name": name, "namespace": "default", "uid": uid, "resourceVersion": "5"}
    containers = {"containers": [{"name": "main"}], "initContainers": [{"name": "init"}]}
    return {
        "metadata": {**metadata, "labels": {"app": name}},
        "spec": {**containers, "volumes": [{"name": "data"}], **spec},
    }


def copy_of(virtual: Object, names: Names = NAMES, **marks: str | None) -> Object:
    """Give the copy of an object, with some annotations other than they should be."""
    copy = deepcopy(virtual)
    ownership.stamp(copy, virtual, names, None)
    copy["metadata"] |= {"uid": "h1", "resourceVersion": "9"}
    annotations = copy["metadata"]["annotations"]
    for mark, value in marks.items():
        key = f"vcluster.loft.sh/{mark.replace('_', '-')}"
        annotations.pop(key) if value is None else annotations.update({key: value})
    return copy


def store(*objects: Object) -> Store:
    """Give a store with these."""
    made = Store({}, lambda _change: None)
    for each in objects:
        made.apply(each)
    return made


def lookup(
    virtual: list[Object], host: list[Object], resource: str = "pods", nodes: tuple[str, ...] = ()
) -> StoreLookup:
    """Give what looks through stores with these."""
    stores = {(Side.VIRTUAL, resource): store(*virtual), (Side.HOST, resource): store(*host)}
    return StoreLookup(NAMES, stores, lambda: nodes)


def test_a_pod_is_told_of_in_virtual_terms() -> None:
    """Only its host UID is the host's."""
    assert lookup([pod()], [copy_of(pod())]).pod(*WEB) == PodView(
        "default", "web", "v1", "h1", frozenset({"main", "init"}), frozenset({"data"}),
        {"app": "web"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("virtual", "host"),
    [
        pytest.param([pod()], [], id="no copy"),
        pytest.param([], [copy_of(pod())], id="no virtual pod"),
        pytest.param([pod()], [copy_of(pod(), OTHERS)], id="another tenant's"),
        pytest.param([pod()], [copy_of(pod(), object_name=None)], id="no mark"),
        pytest.param([pod(), pod("db")], [copy_of(pod(), object_name="db")], id="of another one"),
        pytest.param([pod()], [copy_of(pod(), object_uid="v0")], id="of the one before"),
        pytest.param([pod()], [copy_of(pod(), controlled_by="x")], id="another controller's"),
    ],
)
def test_what_is_not_surely_the_tenants_is_nobodys(
    virtual: list[Object], host: list[Object]
) -> None:
    """Both objects must be there, and all marks agree."""
    for each in host:
        each["metadata"]["name"] = WEB[1]
    assert lookup(virtual, host).pod(*WEB) is None
    assert lookup(virtual, host, "persistentvolumeclaims").claim(*WEB) is None


def test_virtual_names_find_nothing() -> None:
    """A host's series is the host's, whatever its pod is called."""
    found = lookup([pod()], [copy_of(pod())])
    assert found.pod("default", "web") is None
    assert found.pod("host-1", "web") is None
    assert found.pod("default", WEB[1]) is None


def test_a_container_that_the_host_put_in_is_not_the_tenants() -> None:
    """Nor does a debug container of its name make it so."""
    virtual = pod(ephemeralContainers=[{"name": "mesh"}])
    copy = copy_of(virtual)
    copy["spec"]["containers"].append({"name": "mesh"})
    del copy["spec"]["ephemeralContainers"]
    found = lookup([virtual], [copy]).pod(*WEB)
    assert found is not None
    assert found.containers == {"main", "init"}


def test_a_claim_is_found_by_its_host_name() -> None:
    """And is told by its virtual one."""
    found = lookup([pod()], [copy_of(pod())], "persistentvolumeclaims")
    assert found.claim(*WEB) == Key("default", "web")


def test_what_is_not_synced_is_nobodys() -> None:
    """Without stores there is nothing to see."""
    found = StoreLookup(NAMES, {}, lambda: ["n1"])
    assert found.pod(*WEB) is None
    assert found.claim(*WEB) is None
    assert found.node_labels("n1") is None


def test_nodes_are_those_that_the_hosts_pods_keep() -> None:
    """A virtual node of the same name as another of the host's, which anybody can make, is none."""
    names = ("kept", "made-up")
    nodes = [
        {"metadata": {"name": name, "uid": name, "resourceVersion": "1", "labels": {"a": name}}}
        for name in names
    ]
    found = lookup(nodes, [], "nodes", nodes=("kept", "unseen"))
    assert [found.has_node(name) for name in ("kept", "made-up", "unseen")] == [True, False, True]
    assert found.node_labels("kept") == {"a": "kept"}
    assert found.node_labels("made-up") is None
    assert found.node_labels("unseen") is None
