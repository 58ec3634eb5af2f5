"""Endpoint slices: whose are copied, so that nothing is mirrored twice, and what is in them."""

from typing import Any

import pytest

from mappers.endpoints import service
from mappers.endpointslices import KIND
from syncer.objects import Key
from syncer.types import Refused, Skip

KEY = Key("default", "db")
SELECTORLESS = {"metadata": {"namespace": "default", "name": "db"}, "spec": {}}
LABELS = {"kubernetes.io/service-name": "db", "app": "db"}
ENDPOINT = {
    "addresses": ["192.0.2.1"],
    "conditions": {"ready": True},
    "nodeName": "n1",
    "zone": "z",
    "deprecatedTopology": {"x": "y"},
    "targetRef": {"kind": "Pod", "name": "db-0", "namespace": "default", "uid": "u9"},
}


def piece(labels: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    metadata = {"namespace": "default", "name": "db-1", "uid": "u1"}
    return {
        "metadata": {**metadata, "labels": LABELS if labels is None else labels},
        "addressType": "IPv4",
        "endpoints": [ENDPOINT],
        "ports": [{"name": "pg", "port": 5432, "protocol": "TCP"}],
        **fields,
    }


@pytest.fixture
def world(world: Any) -> Any:
    """Give a tenant with a service without selector and a known service network."""
    world.service_network("10.0.0.0/16")
    world.know(service(KEY), SELECTORLESS)
    return world


@pytest.mark.parametrize("fields", [{}, {"endpoints": None, "ports": None}], ids=["full", "empty"])
def test_a_settled_pair_is_left_alone(world: Any, fields: dict[str, Any]) -> None:
    """On an unchanged pair nothing is written; empty lists are null on both sides."""
    virtual = piece(**fields)
    assert world.actions(KIND, virtual, world.made(KIND, virtual)) == []


def test_what_goes_to_the_host(world: Any) -> None:
    """The service label is a reference, the manager is ours, pods are named as their copies."""
    assert world.wanted(KIND, piece()) == {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "labels": {
                **world.names.labels(LABELS),
                "kubernetes.io/service-name": "db-x-default-x-vc",
                "endpointslice.kubernetes.io/managed-by": "vcluster-syncer",
            },
            "annotations": {},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["192.0.2.1"],
                "conditions": {"ready": True},
                "nodeName": "n1",
                "zone": "z",
                "targetRef": {"kind": "Pod", "name": "db-0-x-default-x-vc", "namespace": "host-ns"},
            }
        ],
        "ports": [{"name": "pg", "port": 5432, "protocol": "TCP"}],
    }


MANAGER = "endpointslice.kubernetes.io/managed-by"


@pytest.mark.parametrize(
    ("labels", "found", "copied"),
    [
        pytest.param({"app": "db"}, SELECTORLESS, False, id="no-service-label"),
        pytest.param(LABELS, None, False, id="no-service"),
        pytest.param(
            LABELS, {**SELECTORLESS, "spec": {"selector": {"a": "b"}}}, False, id="selector"
        ),
        pytest.param(
            {**LABELS, MANAGER: "endpointslicemirroring-controller.k8s.io"},
            SELECTORLESS,
            False,
            id="mirrored-from-endpoints",
        ),
        pytest.param(
            {**LABELS, MANAGER: "endpointslice-controller.k8s.io"},
            SELECTORLESS,
            False,
            id="made-by-controller",
        ),
        pytest.param(
            {"kubernetes.io/service-name": "kubernetes"}, SELECTORLESS, False, id="api-server"
        ),
        pytest.param({**LABELS, MANAGER: "my-operator"}, SELECTORLESS, True, id="own-manager"),
        pytest.param(LABELS, SELECTORLESS, True, id="by-hand"),
    ],
)
def test_nothing_is_mirrored_twice(
    world: Any, labels: dict[str, str], found: Any, copied: bool
) -> None:
    """Only slices that no controller of the host makes by itself are copied."""
    world.know(service(KEY), found)
    assert isinstance(world.wanted(KIND, piece(labels)), Skip) is not copied


@pytest.mark.parametrize(
    ("family", "address"),
    [
        pytest.param("IPv4", "127.0.0.1", id="loopback"),
        pytest.param("IPv4", "169.254.169.254", id="cloud-metadata"),
        pytest.param("IPv4", "10.0.0.1", id="host-api"),
        pytest.param("IPv6", "::1", id="loopback-ipv6"),
        pytest.param("IPv6", "fe80::1", id="link-local-ipv6"),
        pytest.param("FQDN", "metadata.google.internal", id="name"),
    ],
)
def test_addresses(world: Any, family: str, address: str) -> None:
    """Threat 21: the same addresses are refused as in Endpoints, and names."""
    endpoints = [ENDPOINT, {"addresses": [address]}]
    assert isinstance(world.wanted(KIND, piece(addressType=family, endpoints=endpoints)), Refused)


def test_a_change_replaces_the_lists(world: Any) -> None:
    """Endpoints and ports follow; the address type is the one thing that can't."""
    after = piece(endpoints=[{**ENDPOINT, "addresses": ["192.0.2.2"]}], ports=None)
    (update,) = world.actions(KIND, after, world.made(KIND, piece()))
    assert update.patch.body["endpoints"][0]["addresses"] == ["192.0.2.2"]
    assert update.patch.body["ports"] is None
