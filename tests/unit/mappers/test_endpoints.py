"""Endpoints: whose are copied, which addresses may be in them, and what they point at."""

from typing import Any

import pytest

from mappers.endpoints import KIND, host_target, refusal, service
from mappers.servicecidrs import networks
from mappers.services import KIND as SERVICES
from syncer.naming import Names
from syncer.objects import Key, Side
from syncer.ownership import MANAGED_BY, OBJECT_NAME
from syncer.types import Ref, Refused, Skip

KEY = Key("default", "db")
SELECTORLESS = {"metadata": {"namespace": "default", "name": "db"}, "spec": {}}
SELECTING = {**SELECTORLESS, "spec": {"selector": {"app": "db"}}}
PORTS = [{"port": 5432, "protocol": "TCP"}]
POD = {
    "kind": "Pod",
    "name": "db-0",
    "namespace": "default",
    "uid": "virtual-uid",
    "resourceVersion": "12",
}


def endpoints(*addresses: str, name: str = "db", **metadata: Any) -> dict[str, Any]:
    own = {"namespace": "default", "name": name, "uid": "u1"} | metadata
    subset = {"addresses": [{"ip": address} for address in addresses], "ports": PORTS}
    return {"metadata": own, **({"subsets": [subset]} if addresses else {})}


@pytest.fixture
def world(world: Any) -> Any:
    """Give a tenant with a service without selector and a known service network."""
    world.service_network("10.0.0.0/16", "fd00::/108")
    world.know(service(KEY), SELECTORLESS)
    return world


@pytest.mark.parametrize("addresses", [(), ("192.0.2.1", "192.0.2.2")], ids=["empty", "two"])
def test_a_settled_pair_is_left_alone(world: Any, addresses: tuple[str, ...]) -> None:
    """On an unchanged pair nothing is written."""
    virtual = endpoints(*addresses)
    assert world.actions(KIND, virtual, world.made(KIND, virtual)) == []


@pytest.mark.parametrize(
    ("found", "name"),
    [
        pytest.param(None, "db", id="no-service"),
        pytest.param(SELECTING, "db", id="selector"),
        pytest.param(SELECTORLESS, "kubernetes", id="api-server"),
    ],
)
def test_only_what_the_tenant_provides_is_copied(world: Any, found: Any, name: str) -> None:
    """Endpoints of services with a selector are the host's to make."""
    world.know(service(Key("default", name)), found)
    assert isinstance(world.wanted(KIND, endpoints("192.0.2.1", name=name)), Skip)


def test_a_service_that_gains_a_selector_loses_our_copy(world: Any) -> None:
    """Our copy goes, so that the host's controller makes its own."""
    virtual = endpoints("192.0.2.1")
    host = world.made(KIND, virtual)
    world.know(service(KEY), SELECTING)
    (delete,) = world.actions(KIND, virtual, host)
    assert delete.uid == "host-u1"


def test_targets_are_translated(world: Any) -> None:
    """A pod is named as its copy; its virtual UID and version stay inside, other fields too."""
    address = {"ip": "192.0.2.1", "hostname": "a", "nodeName": "n1", "novelty": 1, "targetRef": POD}
    virtual = endpoints()
    virtual["subsets"] = [{"notReadyAddresses": [address], "ports": PORTS}]
    assert world.wanted(KIND, virtual)["subsets"] == [
        {
            "notReadyAddresses": [
                {
                    "ip": "192.0.2.1",
                    "hostname": "a",
                    "nodeName": "n1",
                    "targetRef": {
                        "kind": "Pod",
                        "name": "db-0-x-default-x-vc",
                        "namespace": "host-ns",
                    },
                }
            ],
            "ports": PORTS,
        }
    ]


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(None, id="none"),
        pytest.param({"kind": "Node", "name": "n1"}, id="node"),
        pytest.param({"kind": "Pod", "namespace": "default"}, id="no-name"),
        pytest.param({"kind": "Pod", "name": "db-0"}, id="no-namespace"),
    ],
)
def test_other_targets_stay_inside(target: Any) -> None:
    """Only a pod that has a copy can be pointed at."""
    assert host_target(target, Names("vc", "host-ns")) is None


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        pytest.param("192.0.2.1", True, id="elsewhere"),
        pytest.param("10.1.0.9", True, id="pod"),
        pytest.param("2001:db8::1", True, id="elsewhere-ipv6"),
        pytest.param("127.0.0.1", False, id="loopback"),
        pytest.param("127.255.0.1", False, id="loopback-network"),
        pytest.param("::1", False, id="loopback-ipv6"),
        pytest.param("::ffff:127.0.0.1", False, id="loopback-mapped"),
        pytest.param("::ffff:169.254.169.254", False, id="metadata-mapped"),
        pytest.param("0.0.0.0", False, id="unspecified"),  # noqa: S104
        pytest.param("169.254.169.254", False, id="cloud-metadata"),
        pytest.param("fe80::1", False, id="link-local-ipv6"),
        pytest.param("224.0.0.1", False, id="multicast"),
        pytest.param("10.0.0.1", False, id="host-api"),
        pytest.param("10.0.200.1", False, id="service"),
        pytest.param("fd00::a", False, id="service-ipv6"),
        pytest.param("example.com", False, id="no-address"),
        pytest.param("", False, id="empty"),
    ],
)
def test_addresses(world: Any, address: str, allowed: bool) -> None:
    """Threat 21: no address of a node itself, of its link or of the service network."""
    assert (refusal(address, networks(world.ctx())) is None) is allowed
    answer = world.wanted(KIND, endpoints("192.0.2.1", address))
    assert isinstance(answer, Refused) is not allowed


def test_a_refusal_leaves_what_is_there(world: Any, tools: Any) -> None:
    """A copy with good addresses stays as it is when a bad one comes in; the tenant reads why."""
    host = world.made(KIND, endpoints("192.0.2.1"))
    actions = world.actions(KIND, endpoints("127.0.0.1"), host)
    assert tools.writes(actions) == []
    assert tools.told(actions) == ["SyncError"]


SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"


@pytest.mark.parametrize("value", ["true", "false", None])
def test_what_the_tenant_slices_itself_is_not_mirrored(
    world: Any, tools: Any, value: str | None
) -> None:
    """The label that keeps controllers from making slices works on the host, and goes again."""
    labels = {} if value is None else {SKIP_MIRROR: value}
    host = world.made(KIND, endpoints("192.0.2.1", labels=labels))
    assert host["metadata"]["labels"].get(SKIP_MIRROR) == ("true" if value == "true" else None)
    assert world.actions(KIND, endpoints("192.0.2.1", labels=labels), host) == []
    after = tools.applied(host, world.actions(KIND, endpoints("192.0.2.1"), host), Side.HOST)
    assert SKIP_MIRROR not in after["metadata"]["labels"]


def test_marks_of_leader_election_stay_inside(world: Any) -> None:
    """Annotations that change every few seconds are not copied."""
    annotations = {
        "control-plane.alpha.kubernetes.io/leader": "{}",
        "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z",
        "note": "x",
    }
    wanted = world.wanted(KIND, endpoints("192.0.2.1", annotations=annotations))
    assert wanted["metadata"]["annotations"] == {"note": "x"}


@pytest.mark.parametrize(
    ("labels", "annotations", "selector", "expected"),
    [
        pytest.param("vc", {}, None, True, id="left-behind"),
        pytest.param("vc", {}, {"a": "b"}, False, id="still-kept-by-the-host"),
        pytest.param("other", {}, None, False, id="another-tenants"),
        pytest.param("vc", {OBJECT_NAME: "c"}, None, False, id="copy-of-something"),
    ],
)
def test_what_the_host_left_behind_of_our_service_gives_way(
    world: Any, labels: str, annotations: Any, selector: Any, expected: bool
) -> None:
    """Endpoints in the way are removed only if made from our own service, now selectorless."""
    assert KIND.leftover
    own = world.made(
        SERVICES, {**SELECTORLESS, "metadata": {**SELECTORLESS["metadata"], "uid": "u"}}
    )
    if selector:
        own["spec"]["selector"] = selector
    host_key = world.names.host_key(KEY)
    world.know(Ref(Side.HOST, "services", host_key), own)
    found = {
        "metadata": {
            "namespace": host_key.namespace,
            "name": host_key.name,
            "labels": {MANAGED_BY: labels},
            "annotations": annotations,
        }
    }
    assert KIND.leftover(found, world.ctx()) is expected
