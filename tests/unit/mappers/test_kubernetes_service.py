"""default/kubernetes: its address, ports and endpoints are those of our own host service."""

from typing import Any

import pytest

from mappers.kubernetes_service import KINDS
from mappers.services import KUBERNETES
from syncer.objects import Key, Side
from syncer.types import OWN_ENDPOINTS, OWN_SERVICE

SERVICE, ENDPOINTS, SLICE = KINDS
META = {"namespace": "default", "name": "kubernetes", "uid": "u1", "resourceVersion": "1"}
OWN = {
    "metadata": {"namespace": "host-ns", "name": "vc"},
    "spec": {
        "type": "NodePort",
        "clusterIP": "10.0.7.7",
        "clusterIPs": ["10.0.7.7"],
        "ports": [
            {"name": "https", "port": 443, "targetPort": 8443, "protocol": "TCP", "nodePort": 31},
            {"name": "kubelet", "port": 10250, "targetPort": 8443, "protocol": "TCP"},
        ],
    },
}
OWN_POD = {
    "ip": "10.1.0.5",
    "nodeName": "host-node",
    "targetRef": {"kind": "Pod", "name": "vc-0", "namespace": "host-ns"},
}
OWN_SUBSETS = [
    {
        "addresses": [OWN_POD],
        "notReadyAddresses": [{"ip": "10.1.0.6"}],
        "ports": [
            {"name": "kubelet", "port": 8443, "protocol": "TCP"},
            {"name": "https", "port": 8443, "protocol": "TCP"},
        ],
    }
]


def virtual_service(address: str) -> dict[str, Any]:
    port = {"name": "https", "port": 443, "targetPort": 6443, "protocol": "TCP"}
    spec = {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ports": [port]}
    return {"metadata": META, "spec": spec}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_other_objects_are_never_touched(world: Any, kind: Any) -> None:
    """Services, endpoints and slices of any other name are none of these kinds' business."""
    world.know(OWN_SERVICE, OWN)
    key = Key("default", "web")
    other = {"metadata": {**META, "name": "web"}, "spec": {"type": "ClusterIP"}}
    assert world.derived(kind, key, other) == []
    assert world.derived(kind, key, None) == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_without_our_own_service_all_stays(world: Any, tools: Any, kind: Any) -> None:
    """When the host's own service or endpoints are gone, nothing is changed or deleted."""
    obj = virtual_service("10.0.0.1") if kind is SERVICE else {"metadata": META}
    assert world.derived(kind, KUBERNETES, obj) == []


def test_the_service_follows_in_place(world: Any, tools: Any) -> None:
    """The address changes by way of ExternalName; then the ports, but for the kubelet's."""
    world.know(OWN_SERVICE, OWN)
    obj = virtual_service("10.0.0.1")
    seen = []
    for _ in range(4):
        obj = tools.applied(obj, world.derived(SERVICE, KUBERNETES, obj), Side.VIRTUAL)
        seen.append((obj["spec"]["type"], obj["spec"].get("clusterIP")))
    assert seen == [("ExternalName", None), *[("ClusterIP", "10.0.7.7")] * 3]
    assert obj["spec"]["ports"] == [
        {"name": "https", "port": 443, "targetPort": 8443, "protocol": "TCP"}
    ]
    assert obj["metadata"]["uid"] == "u1"
    assert world.derived(SERVICE, KUBERNETES, obj) == []


def test_endpoints_are_made(world: Any, tools: Any) -> None:
    """Bare addresses and the https port: no host node, pod or namespace shows."""
    world.know(OWN_ENDPOINTS, {"metadata": {}, "subsets": OWN_SUBSETS})
    made = tools.created(world.derived(ENDPOINTS, KUBERNETES, None))
    assert made == {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "namespace": "default",
            "name": "kubernetes",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [
            {
                "addresses": [{"ip": "10.1.0.5"}],
                "notReadyAddresses": [{"ip": "10.1.0.6"}],
                "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
            }
        ],
    }
    made["metadata"] |= META
    assert world.derived(ENDPOINTS, KUBERNETES, made) == []


def test_a_slice_is_made(world: Any, tools: Any) -> None:
    """The same as an EndpointSlice that belongs to the service."""
    world.know(OWN_ENDPOINTS, {"metadata": {}, "subsets": OWN_SUBSETS})
    made = tools.created(world.derived(SLICE, KUBERNETES, None))
    assert made["addressType"] == "IPv4"
    assert made["metadata"]["labels"] == {"kubernetes.io/service-name": "kubernetes"}
    assert made["endpoints"] == [
        {"addresses": ["10.1.0.5"], "conditions": {"ready": True}},
        {"addresses": ["10.1.0.6"], "conditions": {"ready": False}},
    ]
    assert made["ports"] == [{"name": "https", "port": 8443, "protocol": "TCP"}]
    made["metadata"] |= META
    assert world.derived(SLICE, KUBERNETES, made) == []


@pytest.mark.parametrize("kind", [ENDPOINTS, SLICE], ids=["endpoints", "slice"])
def test_no_address_yet_is_waited_out(world: Any, tools: Any, kind: Any) -> None:
    """Nothing is made while the host has no address; what is there loses its addresses."""
    world.know(OWN_ENDPOINTS, {"metadata": {}, "subsets": OWN_SUBSETS})
    made = tools.created(world.derived(kind, KUBERNETES, None))
    world.know(OWN_ENDPOINTS, {"metadata": {}})
    (wait,) = world.derived(kind, KUBERNETES, None)
    assert wait.blocked.on == OWN_ENDPOINTS
    made["metadata"] |= META
    emptied = tools.applied(made, world.derived(kind, KUBERNETES, made), Side.VIRTUAL)
    assert not emptied.get("subsets")
    assert not emptied.get("endpoints")
    assert world.derived(kind, KUBERNETES, emptied) == []


def test_only_the_one_service_is_looked_at() -> None:
    """No other service, endpoints or slice of the tenant's is ever made or changed by these."""
    assert {KUBERNETES} == {kind.only for kind in KINDS}
