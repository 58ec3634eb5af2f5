"""Services of fake nodes: whose they are, what they are, and when they are there."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mappers.kept_nodes import FAKE_NODE
from mappers.node_services import (
    ADDRESS_INDEX,
    BELONGS_TO,
    KIND,
    NODE,
    NODE_NAME,
    addresses,
    made_for,
    node_of,
    service_name,
)
from syncer.engine.plan import Create, Delete, Wait
from syncer.kube.store import Store
from syncer.naming import Names
from syncer.objects import Key, Object, Side
from syncer.proxy.kubelet_paths import NodeAddresses
from syncer.types import OWN_SERVICE, Query, Ref

KEY = Key("", "worker-1.example")
KEEPING = Query(Side.HOST, "pods", "node-keeping", KEY.name)
NODE_REF = Ref(Side.VIRTUAL, "nodes", KEY)
FAKE = {"metadata": {"name": KEY.name, "labels": {FAKE_NODE: "true"}}}
OWN: Object = {
    "metadata": {"name": "vc", "namespace": "default", "uid": "own-1"},
    "spec": {"selector": {"app": "vcluster", "release": "vc"}, "ports": [{"port": 443}]},
}
OWNER = {"apiVersion": "v1", "kind": "Service", "name": "vc", "uid": "own-1"}


@pytest.fixture
def service(world: Any, tools: Any) -> Any:
    """Give the Service of one kept node, as the host stores it."""
    world.queries[KEEPING] = [{"metadata": {"name": "p"}}]
    world.know(NODE_REF, FAKE)
    world.know(OWN_SERVICE, OWN)
    made = tools.created(world.derived(KIND, KEY, None))
    made["metadata"] |= {"uid": "s1", "resourceVersion": "1"}
    made["spec"] |= {
        "clusterIP": "10.96.3.4",
        "clusterIPs": ["10.96.3.4"],
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "sessionAffinity": "None",
    }
    return made


def test_a_settled_service_is_left_alone(world: Any, service: Any) -> None:
    """While the node is there and kept, nothing is written."""
    assert world.derived(KIND, KEY, service) == []


def test_what_is_made(service: Any) -> None:
    """It leads the kubelet's port to the endpoint, on the pods that the own Service selects."""
    assert service["metadata"]["name"] == "vc-node-worker-1-example"
    assert service["metadata"]["namespace"] == "default"
    assert service["metadata"]["labels"] == {BELONGS_TO: "vc", NODE: KEY.name}
    assert "annotations" not in service["metadata"]
    assert service["metadata"]["ownerReferences"] == [OWNER]
    assert service["spec"]["type"] == "ClusterIP"
    assert service["spec"]["selector"] == OWN["spec"]["selector"]
    assert service["spec"]["ports"] == [
        {"name": "kubelet", "protocol": "TCP", "port": 10250, "targetPort": 8443}
    ]


def test_what_the_original_made_is_taken_over(world: Any, service: Any) -> None:
    """A Service of vcluster v0.16 differs in nothing but what others may have put on it."""
    service["metadata"]["annotations"] = {"of/others": "x"}
    service["metadata"]["labels"]["of/others"] = "x"
    assert made_for(service, world.names) == KEY
    assert world.derived(KIND, KEY, service) == []


def test_a_long_name_leaves_annotations_of_others(world: Any, tools: Any) -> None:
    """Where the node's name is an annotation, those that others put there stay."""
    key = Key("", "n" * 64)
    world.queries[Query(Side.HOST, "pods", "node-keeping", key.name)] = [{"metadata": {}}]
    world.know(Ref(Side.VIRTUAL, "nodes", key), FAKE)
    world.know(OWN_SERVICE, OWN)
    made = tools.created(world.derived(KIND, key, None))
    made["metadata"] |= {"uid": "s1", "resourceVersion": "1"}
    made["metadata"]["annotations"]["of/others"] = "x"
    assert world.derived(KIND, key, made) == []


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        pytest.param({"port": 9443}, "targetPort", 9443, id="given"),
        pytest.param({"port": 0}, "targetPort", 8443, id="any"),
    ],
)
def test_the_port_is_the_endpoints(
    world: Any, tools: Any, service: Any, options: dict[str, Any], field: str, value: int
) -> None:
    """Where ``--port`` says another one, the Service leads there."""
    world.options |= options
    after = tools.applied(service, world.derived(KIND, KEY, service), Side.HOST)
    assert after["spec"]["ports"][0][field] == value


def test_without_an_owner(world: Any, tools: Any, service: Any) -> None:
    """With ``--set-owner=false`` nothing owns it."""
    world.options |= {"set_owner": False}
    assert "ownerReferences" not in tools.created(world.derived(KIND, KEY, None))["metadata"]


def test_an_own_service_without_selector(world: Any, tools: Any, service: Any) -> None:
    """Where people provide the endpoints of the own Service, nothing is selected here either."""
    world.know(OWN_SERVICE, {**OWN, "spec": {}})
    after = tools.applied(service, world.derived(KIND, KEY, service), Side.HOST)
    assert "selector" not in after["spec"]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("spec", "selector"), {"app": "another"}),
        (("spec", "ports"), [{"name": "x", "port": 1, "protocol": "TCP", "targetPort": 1}]),
        (("spec", "type"), "NodePort"),
        (("metadata", "ownerReferences"), [{**OWNER, "uid": "its predecessor"}]),
    ],
    ids=["selector", "ports", "type", "owner made again"],
)
def test_what_somebody_changed_is_put_back(
    world: Any, tools: Any, service: Any, where: tuple[str, str], value: Any
) -> None:
    """A Service of ours is kept as it should be, by one write that holds only for it."""
    before = tools.copied(service)
    service[where[0]][where[1]] = value
    (update,) = world.derived(KIND, KEY, service)
    assert (update.side, update.key) == (Side.HOST, Key("default", "vc-node-worker-1-example"))
    assert update.patch.body["metadata"]["uid"] == "s1"
    assert tools.applied(service, [update], Side.HOST) == before


@pytest.mark.parametrize(
    ("kept", "node", "there", "expected"),
    [
        pytest.param(True, FAKE, True, [], id="in use"),
        pytest.param(True, None, True, [], id="kept, its node made again"),
        pytest.param(False, FAKE, True, [], id="its node is still to go"),
        pytest.param(False, None, True, [Delete], id="not needed any more"),
        pytest.param(True, FAKE, False, [Create], id="needed"),
        pytest.param(True, None, False, [], id="the node comes first"),
        pytest.param(False, FAKE, False, [], id="a node that only a tenant made"),
        pytest.param(True, {"metadata": {"name": KEY.name}}, False, [], id="a node of others"),
        pytest.param(False, None, False, [], id="nothing"),
    ],
)
def test_it_is_there_while_it_is_needed(
    world: Any, service: Any, kept: bool, node: Object | None, there: bool, expected: list[type]
) -> None:
    """It comes after its node and goes after it, and only if the host itself keeps the node."""
    if not kept:
        world.queries.clear()
    world.know(NODE_REF, node)
    actions = world.derived(KIND, KEY, service if there else None)
    assert expected == [type(action) for action in actions]


def test_a_deletion_is_careful(world: Any, service: Any) -> None:
    """It is of this very Service, from a cluster that is still the same, on a whole view."""
    world.queries.clear()
    world.know(NODE_REF, None)
    (delete,) = world.derived(KIND, KEY, service)
    assert (delete.side, delete.uid, delete.identity) == (Side.HOST, "s1", True)
    world.queries[KEEPING] = []
    (delete,) = world.derived(KIND, KEY, service)
    assert delete.based_on == (KEEPING,)


@pytest.mark.parametrize(
    "options",
    [{"fake_kubelet_ips": False}, {"disable_fake_kubelets": True}],
    ids=["no-ips", "no-kubelets"],
)
def test_flags_take_it_off(world: Any, service: Any, options: dict[str, Any]) -> None:
    """None is made with these flags, and one that is left from before goes."""
    world.options |= options
    assert world.derived(KIND, KEY, None) == []
    (delete,) = world.derived(KIND, KEY, service)
    assert isinstance(delete, Delete)


def test_without_the_own_service_it_waits(world: Any, service: Any) -> None:
    """Nobody knows then which pods to lead to; what is there stays as it is."""
    world.know(OWN_SERVICE, None)
    (wait,) = world.derived(KIND, KEY, None)
    assert isinstance(wait, Wait)
    assert wait.blocked.on == OWN_SERVICE
    assert world.derived(KIND, KEY, service) == []


def test_one_that_is_leaving_is_left_alone(world: Any, service: Any) -> None:
    """Whatever is to be made is made once it is gone."""
    service["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z"
    world.queries.clear()
    assert world.derived(KIND, KEY, service) == []


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        pytest.param({}, "vc-node-n", id="no marks"),
        pytest.param({BELONGS_TO: "other", NODE: "n"}, "vc-node-n", id="of another tenant"),
        pytest.param({BELONGS_TO: "vc"}, "vc-node-n", id="of no node"),
        pytest.param({BELONGS_TO: "vc", NODE: "n"}, "vc-node-m", id="under another name"),
        pytest.param({BELONGS_TO: "vc", NODE: "n"}, "vc", id="the own Service"),
    ],
)
def test_services_of_others_are_not_ours(labels: dict[str, str], name: str) -> None:
    """Labels and name must agree, as with every copy."""
    service = {"metadata": {"name": name, "labels": labels}, "spec": {}}
    assert made_for(service, Names("vc", "host-ns")) is None


def test_nodes_whose_names_collide_are_told_apart() -> None:
    """``a.b`` and ``a-b`` have one name on the host; what is there is one node's only."""
    names = Names("vc", "host-ns")
    labels = {BELONGS_TO: "vc", NODE: "a.b"}
    name = service_name(Key("", "a-b"), names)
    assert name == service_name(Key("", "a.b"), names)
    assert made_for({"metadata": {"name": name, "labels": labels}}, names) == Key("", "a.b")


def test_tenants_whose_names_nest_are_told_apart() -> None:
    """``vc`` with node ``node-n`` and ``vc-node`` with node ``n`` have one name on the host."""
    labels = {BELONGS_TO: "vc", NODE: "node-n"}
    service = {"metadata": {"name": "vc-node-node-n", "labels": labels}}
    assert service_name(Key("", "n"), Names("vc-node", "host-ns")) == "vc-node-node-n"
    assert made_for(service, Names("vc-node", "host-ns")) is None
    assert made_for(service, Names("vc", "host-ns")) == Key("", "node-n")


_LABEL = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?", fullmatch=True)


@given(st.lists(_LABEL, min_size=1, max_size=4).map(".".join), st.integers(1, 63))
def test_any_node_has_a_service_of_its_own(node: str, length: int) -> None:
    """Names and labels fit, however long the node's name; the node is found again by them."""
    names, key = Names("t" * length, "host-ns"), Key("", node)
    wanted = _made(names, key)
    assert len(wanted["metadata"]["name"]) <= 63
    assert len(wanted["metadata"]["labels"][NODE]) <= 63
    assert made_for(wanted, names) == key
    assert node_of(wanted) == node
    assert (NODE_NAME in (wanted["metadata"].get("annotations") or {})) == (len(node) > 63)


def _made(names: Names, key: Key) -> Object:
    from tests.unit.mappers.conftest import World

    world = World(names)
    world.queries[Query(Side.HOST, "pods", "node-keeping", key.name)] = [{"metadata": {}}]
    world.know(Ref(Side.VIRTUAL, "nodes", key), FAKE)
    world.know(OWN_SERVICE, OWN)
    (create,) = world.derived(KIND, key, None)
    assert isinstance(create, Create)
    return create.wanted


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({"clusterIP": "10.96.3.4"}, ("10.96.3.4",)),
        (
            {"clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4", "fd00::4"]},
            ("10.96.3.4", "fd00::4"),
        ),
        ({"clusterIPs": ["FD00:0:0::4"]}, ("fd00::4",)),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, ()),
        ({}, ()),
    ],
)
def test_addresses_are_in_their_short_form(spec: Object, found: tuple[str, ...]) -> None:
    """A Service's addresses are written as a request's are read."""
    assert addresses({"spec": spec}) == found


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"name": "mine"}, id="another name"),
        pytest.param({"name": "vc-node-other"}, id="another node's name"),
        pytest.param({"labels": {BELONGS_TO: "vc"}}, id="no node"),
        pytest.param({"labels": {BELONGS_TO: "vc", NODE: "n"}}, id="another node"),
        pytest.param({"labels": {BELONGS_TO: "other", NODE: KEY.name}}, id="another tenant's"),
    ],
)
def test_a_service_that_we_did_not_make_lends_no_node_its_address(
    service: Any, tools: Any, changed: Object
) -> None:
    """Neither is the endpoint its kubelet there, nor is the certificate good for it."""
    foreign = tools.copied(service)
    foreign["metadata"] |= {"uid": "s2", "resourceVersion": "2", **changed}
    foreign["spec"] |= {"clusterIP": "10.96.6.6", "clusterIPs": ["10.96.6.6"]}
    store = Store(KIND.host_indexers, lambda _change: None)
    found = NodeAddresses(store, ADDRESS_INDEX, node_of, lambda: ())
    store.apply(service)
    if changed.get("name"):
        store.apply(foreign)
    else:
        store.apply({**foreign, "metadata": {**foreign["metadata"], "namespace": "elsewhere"}})
    assert (found("10.96.3.4"), found("10.96.6.6")) == (KEY.name, None)
    assert found.ips() == ("10.96.3.4",)
