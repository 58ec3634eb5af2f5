"""Services: what goes to the host, what comes back, and the way of the cluster IP."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mappers.cluster_ip import CHANGING, NOWHERE
from mappers.services import KIND, selectorless
from syncer.naming import Names
from syncer.objects import Side
from syncer.settings import Settings
from syncer.types import Context, Skip

SETTINGS = Settings()
APP = "vcluster.loft.sh/label-vc-x-a172cedcae"
MARKS = {"vcluster.loft.sh/managed-by": "vc", "vcluster.loft.sh/namespace": "default"}


def service(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    own = {"namespace": "default", "name": "web", "uid": "u1", "resourceVersion": "3"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": own | metadata,
        "spec": spec,
        "status": {"loadBalancer": {}},
    }


def port(number: int = 80, **fields: Any) -> dict[str, Any]:
    return {"port": number, "targetPort": number, "protocol": "TCP", **fields}


def cluster_ip(address: str = "10.0.1.1", **fields: Any) -> dict[str, Any]:
    return {
        "type": "ClusterIP",
        "clusterIP": address,
        "clusterIPs": [address],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "selector": {"app": "web"},
        "ports": [port()],
        **fields,
    }


HEADLESS = cluster_ip("None")
EXTERNAL = {"type": "ExternalName", "externalName": "example.com", "sessionAffinity": "None"}
NODE_PORT = cluster_ip(
    type="NodePort", externalTrafficPolicy="Cluster", ports=[port(nodePort=30001)]
)
BALANCER = cluster_ip(
    type="LoadBalancer",
    externalTrafficPolicy="Local",
    healthCheckNodePort=30100,
    allocateLoadBalancerNodePorts=True,
    loadBalancerClass="example.com/class",
    loadBalancerSourceRanges=["192.0.2.0/24"],
    ports=[port(nodePort=30001)],
)
ALL = {
    "cluster-ip": cluster_ip(),
    "headless": HEADLESS,
    "external-name": EXTERNAL,
    "node-port": NODE_PORT,
    "load-balancer": BALANCER,
    "no-selector": {k: v for k, v in cluster_ip().items() if k != "selector"},
    "no-ports": {k: v for k, v in HEADLESS.items() if k != "ports"},
}
each_form = pytest.mark.parametrize("spec", ALL.values(), ids=ALL.keys())


def host_defaults(spec: dict[str, Any], address: str = "10.0.1.1", node_port: int = 30001) -> Any:
    """What a host server adds to a service of that form."""
    if spec["type"] == "ExternalName":
        return {}
    address = "None" if spec.get("clusterIP") == "None" else address
    added: dict[str, Any] = {
        "clusterIP": address,
        "clusterIPs": [address],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
    }
    if spec["type"] in ("NodePort", "LoadBalancer"):
        added["ports"] = [{**item, "nodePort": node_port} for item in spec["ports"]]
    return added


def pair(world: Any, spec: dict[str, Any], **added: Any) -> tuple[Any, Any]:
    virtual = service(spec)
    fields = {"spec": host_defaults(spec, **added), "status": {"loadBalancer": {}}}
    return virtual, world.made(KIND, virtual, **fields)


# -- no-ops ------------------------------------------------------------------------------------


@each_form
def test_a_settled_pair_is_left_alone(world: Any, tools: Any, spec: dict[str, Any]) -> None:
    """On an unchanged pair nothing is written, whatever the host's server filled in."""
    world.service_network("10.0.0.0/16")
    virtual, host = pair(world, spec)
    assert tools.writes(world.actions(KIND, virtual, host)) == []


@each_form
def test_a_settled_pair_is_left_alone_by_an_old_server(
    world: Any, tools: Any, spec: dict[str, Any]
) -> None:
    """Nor is anything written where the service network is not known."""
    virtual, host = pair(world, spec)
    assert tools.writes(world.actions(KIND, virtual, host)) == []


def test_the_api_servers_own_service_has_no_copy(world: Any) -> None:
    """default/kubernetes stays in the virtual cluster."""
    virtual = service(cluster_ip(), name="kubernetes")
    assert isinstance(world.wanted(KIND, virtual), Skip)


# -- to the host -------------------------------------------------------------------------------


def test_what_goes_to_the_host(world: Any) -> None:
    """Only listed fields go, the selector in host terms, and no node port is asked for."""
    wanted = world.wanted(KIND, service({**BALANCER, "novelty": "x"}))
    assert wanted["spec"] == {
        "type": "LoadBalancer",
        "internalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "externalTrafficPolicy": "Local",
        "allocateLoadBalancerNodePorts": True,
        "loadBalancerClass": "example.com/class",
        "loadBalancerSourceRanges": ["192.0.2.0/24"],
        "ports": [port()],
        "selector": {APP: "web", **MARKS},
    }


@pytest.mark.parametrize(
    ("spec", "networks", "asked"),
    [
        pytest.param(cluster_ip("10.0.1.1"), (), None, id="network-unknown"),
        pytest.param(cluster_ip("10.0.1.1"), ("10.0.0.0/16",), "10.0.1.1", id="handed-out"),
        pytest.param(cluster_ip("10.0.0.10"), ("10.0.0.0/16",), None, id="chosen-by-people"),
        pytest.param(cluster_ip("10.9.1.1"), ("10.0.0.0/16",), None, id="outside"),
        pytest.param(HEADLESS, (), "None", id="headless"),
        pytest.param(EXTERNAL, ("10.0.0.0/16",), None, id="external-name"),
        pytest.param(BALANCER, ("10.0.0.0/16",), "10.0.1.1", id="load-balancer"),
    ],
)
def test_the_address_asked_for(
    world: Any, spec: dict[str, Any], networks: tuple[str, ...], asked: str | None
) -> None:
    """The host is asked for the same address when the virtual server handed it out itself."""
    world.service_network(*networks)
    assert world.wanted(KIND, service(spec))["spec"].get("clusterIP") == asked


@pytest.mark.parametrize(
    ("address", "message", "tried_again"),
    [
        pytest.param("10.0.1.1", "exceeded quota", False, id="something-else"),
        pytest.param("None", "spec.clusterIPs: Invalid value", False, id="headless"),
        pytest.param(
            "10.0.1.1",
            'spec.clusterIPs: Invalid value: ["10.0.1.1"]: failed to allocate IP 10.0.1.1: '
            "provided IP is already allocated",
            True,
            id="taken",
        ),
    ],
)
def test_a_taken_address_is_left_to_the_host(
    world: Any, address: str, message: str, tried_again: bool
) -> None:
    """When the host refuses the address, the service is made without asking for one."""
    wanted = {"metadata": {}, "spec": {"type": "ClusterIP", "clusterIP": address}}
    assert KIND.refused is not None
    second = KIND.refused(wanted, message, world.ctx())
    assert (second == {"metadata": {}, "spec": {"type": "ClusterIP"}}) is tried_again
    assert wanted["spec"]["clusterIP"] == address


@pytest.mark.parametrize("field", ["externalIPs", "loadBalancerIP"])
def test_addresses_that_a_tenant_chooses_stay_inside(world: Any, field: str) -> None:
    """Threat 20: neither external IPs nor a load balancer's IP go to the host; an event tells."""
    value = ["192.0.2.7"] if field == "externalIPs" else "192.0.2.7"
    virtual = service({**BALANCER, field: value})
    assert "192.0.2.7" not in orjson.dumps(world.wanted(KIND, virtual)).decode()
    (notice,) = world.notices(KIND, virtual)
    assert field in notice.message


def test_annotations_of_others_stay_where_they_are(world: Any) -> None:
    """Rancher's endpoints annotation and our own switch don't cross."""
    annotations = {"field.cattle.io/publicEndpoints": "[]", CHANGING: "{}", "note": "x"}
    virtual = service(cluster_ip(), annotations=annotations)
    assert world.wanted(KIND, virtual)["metadata"]["annotations"] == {"note": "x"}


labels = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["1", "2"]), max_size=3)


@settings(deadline=None)
@given(labels.filter(bool), labels, st.sampled_from(["vc", "other"]), st.sampled_from("ab"))
def test_a_selector_picks_the_same_pods_on_both_sides(
    selector: dict[str, str], pod: dict[str, str], tenant: str, namespace: str
) -> None:
    """Threat 13: a host selector picks a pod's copy exactly when the virtual one picks the pod."""
    names = Names("vc", "host-ns")
    virtual = service({"type": "ClusterIP", "selector": selector})
    virtual["metadata"]["namespace"] = "a"
    assert KIND.to_host is not None
    wanted = KIND.to_host(virtual, Context(names, SETTINGS))
    assert isinstance(wanted, dict)
    host_pod = {
        **Names(tenant, "host-ns").labels(pod),
        "vcluster.loft.sh/managed-by": tenant,
        "vcluster.loft.sh/namespace": namespace,
    }
    inside = tenant == "vc" and namespace == "a" and selector.items() <= pod.items()
    assert (wanted["spec"]["selector"].items() <= host_pod.items()) is inside


# -- changes ------------------------------------------------------------------------------------


def changed(world: Any, tools: Any, before: Any, after: Any) -> Any:
    """The host object after the virtual one changed, as patches make it."""
    _, host = pair(world, before)
    actions = world.actions(KIND, service(after), host)
    return tools.applied(host, actions, Side.HOST)["spec"]


def test_a_node_port_survives_other_changes(world: Any) -> None:
    """Changing a port keeps the node port that the host gave it."""
    host_spec = {"type": "NodePort", "ports": [port(nodePort=31000)], "clusterIP": "10.0.1.1"}
    asked = {"type": "NodePort", "ports": [port(81)]}
    assert KIND.update is not None
    host = KIND.update({"spec": asked}, {"spec": host_spec}, world.ctx())
    assert host["spec"]["ports"] == [port(81, nodePort=31000)]


def test_node_ports_are_never_given_twice(world: Any) -> None:
    """Ports that swap names and numbers don't end up with one node port for two."""
    before = [port(80, name="a", nodePort=31000), port(90, name="b", nodePort=31001)]
    asked = {"type": "NodePort", "ports": [port(81, name="a"), port(80, name="c")]}
    assert KIND.update is not None
    host = KIND.update({"spec": asked}, {"spec": {"ports": before}}, world.ctx())
    assert host["spec"]["ports"] == [port(81, name="a", nodePort=31000), port(80, name="c")]


@pytest.mark.parametrize("before", ALL.values(), ids=ALL.keys())
@pytest.mark.parametrize("after", ALL.values(), ids=ALL.keys())
def test_types_change_both_ways(
    world: Any, tools: Any, before: dict[str, Any], after: dict[str, Any]
) -> None:
    """Whatever a service was, update reaches what is wanted now, in two writes at most."""
    _, host = pair(world, before)
    assert KIND.update is not None
    for _ in range(2):
        wanted = world.wanted(KIND, service(after))
        for path in KIND.mutable:
            name = path.rstrip("?").removeprefix("spec.")
            if name in wanted["spec"]:
                host["spec"][name] = wanted["spec"][name]
            elif not path.endswith("?"):
                host["spec"].pop(name, None)
        host = KIND.update(wanted, host, world.ctx())
        if host["spec"]["type"] == "ExternalName":
            assert "clusterIP" not in host["spec"]
            assert all("nodePort" not in item for item in host["spec"].get("ports", ()))
    spec = host["spec"]
    assert spec["type"] == after["type"]
    assert spec.get("externalName") == after.get("externalName")
    assert (spec.get("clusterIP") == "None") is (after.get("clusterIP") == "None")
    assert bool(spec.get("selector")) is bool(after.get("selector"))


def test_a_service_that_lost_its_selector_loses_it_on_the_host(world: Any, tools: Any) -> None:
    """A field that the tenant removed is removed."""
    spec = changed(world, tools, cluster_ip(), ALL["no-selector"])
    assert "selector" not in spec


# -- back --------------------------------------------------------------------------------------


def test_node_ports_come_back(world: Any) -> None:
    """The virtual service shows the node ports that lead to it."""
    virtual, host = pair(world, NODE_PORT, node_port=31000)
    assert KIND.to_virtual is not None
    back = KIND.to_virtual(virtual, host, world.ctx())
    assert isinstance(back, dict)
    assert [item["nodePort"] for item in back["spec"]["ports"]] == [31000]


def test_the_load_balancers_address_comes_back(world: Any, tools: Any) -> None:
    """status.loadBalancer is the host's, written through the status subresource."""
    virtual, host = pair(world, BALANCER)
    host["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}]}}
    (update,) = world.actions(KIND, virtual, host)
    assert update.subresource == "status"
    assert update.patch.body["status"] == host["status"]


def test_a_foreign_address_outside_of_the_network_is_told(world: Any, tools: Any) -> None:
    """An address that the virtual server could not take is told, and nothing is parked."""
    world.service_network("10.0.0.0/16")
    virtual, host = pair(world, cluster_ip(), address="172.20.0.9")
    actions = world.actions(KIND, virtual, host)
    assert tools.writes(actions) == []
    assert tools.told(actions) == ["SyncWarning"]


def test_a_host_of_another_type_says_nothing_yet(world: Any) -> None:
    """While the host copy is of another type than the virtual one, nothing is taken from it."""
    virtual = service(cluster_ip("10.0.1.1"))
    host = world.made(KIND, service(EXTERNAL))
    assert KIND.to_virtual is not None
    assert KIND.to_virtual(world_copy(virtual), host, world.ctx()) == virtual


def world_copy(obj: Any) -> Any:
    return orjson.loads(orjson.dumps(obj))


def _server_update(before: Any, after: Any) -> Any:
    """What the API server lets happen to a service's address on a write."""
    old, new = before["spec"].get("clusterIP"), after["spec"].get("clusterIP")
    if after["spec"]["type"] == "ExternalName":
        assert not new, "ExternalName with an address is refused"
        for name in ("externalTrafficPolicy", "loadBalancerClass", "healthCheckNodePort"):
            assert name not in after["spec"]
        assert all("nodePort" not in item for item in after["spec"].get("ports", ()))
    elif before["spec"]["type"] != "ExternalName":
        assert old == new, "spec.clusterIP is immutable"
    return after


@pytest.mark.parametrize(
    "spec", [cluster_ip(), NODE_PORT, BALANCER], ids=["cluster-ip", "node-port", "load-balancer"]
)
@pytest.mark.parametrize("networks", [(), ("10.0.0.0/16",)], ids=["unknown", "known"])
def test_the_hosts_address_is_taken_over_in_two_writes(
    world: Any, spec: dict[str, Any], networks: tuple[str, ...]
) -> None:
    """ClusterIP, ExternalName, ClusterIP: the address is the host's, all else is as before."""
    if networks:
        world.service_network(*networks)
    virtual, host = pair(world, spec, address="10.0.7.7", node_port=31000)
    assert KIND.to_virtual is not None
    parked = KIND.to_virtual(world_copy(virtual), host, world.ctx())
    assert isinstance(parked, dict)
    _server_update(virtual, parked)
    assert parked["spec"]["type"] == "ExternalName"
    assert parked["spec"]["externalName"] == NOWHERE
    stored = world_copy(parked)
    done = KIND.to_virtual(world_copy(stored), host, world.ctx())
    assert isinstance(done, dict)
    _server_update(stored, done)
    again = KIND.to_virtual(world_copy(done), host, world.ctx())
    assert again == done
    expected = world_copy(virtual)
    expected["spec"]["clusterIP"] = "10.0.7.7"
    if networks:
        expected["spec"]["clusterIPs"] = ["10.0.7.7"]
    else:
        for name in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            del expected["spec"][name]  # the server fills them in
    expected["spec"].pop("healthCheckNodePort", None)  # and allocates this one anew
    for item in expected["spec"]["ports"]:
        if "nodePort" in item:
            item["nodePort"] = 31000
    assert done["spec"] == expected["spec"]
    assert CHANGING not in done["metadata"].get("annotations", {})


@pytest.mark.parametrize(
    "spec", [cluster_ip(), NODE_PORT, BALANCER], ids=["cluster-ip", "node-port", "load-balancer"]
)
def test_the_host_does_not_see_the_change_of_type(
    world: Any, tools: Any, spec: dict[str, Any]
) -> None:
    """A parked service wants the same on the host as before: a crash in between is harmless."""
    virtual, host = pair(world, spec, address="10.0.7.7")
    before = world.wanted(KIND, virtual)
    assert KIND.to_virtual is not None
    parked = KIND.to_virtual(world_copy(virtual), host, world.ctx())
    assert world.wanted(KIND, parked) == before


@pytest.mark.parametrize(
    "annotation",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"type": "ExternalName"}',
        '{"type": []}',
        '{"type": "ClusterIP", "externalIPs": ["192.0.2.1"]}',
        '{"type": "LoadBalancer", "loadBalancerSourceRanges": [{}]}',
        '{"type": "LoadBalancer", "allocateLoadBalancerNodePorts": "yes"}',
        "[" * 100_000,
    ],
    ids=[
        "empty", "cut", "list", "nothing", "no-change", "type-list", "forbidden-field",
        "wrong-item", "wrong-type", "deep",
    ],
)  # fmt: skip
def test_a_forged_change_is_the_tenants_own_external_name(world: Any, annotation: str) -> None:
    """What a tenant writes under our annotation is taken for nothing unless it could be ours."""
    spec = {"type": "ExternalName", "externalName": NOWHERE}
    virtual = service(spec, annotations={CHANGING: annotation})
    assert world.wanted(KIND, virtual)["spec"] == spec


def test_a_tenants_change_in_between_wins(world: Any) -> None:
    """A parked service that the tenant pointed elsewhere is theirs; our annotation goes."""
    saved = json.dumps({"type": "ClusterIP"})
    virtual = service(EXTERNAL, annotations={CHANGING: saved})
    host = world.made(KIND, virtual)
    assert KIND.to_virtual is not None
    back = KIND.to_virtual(world_copy(virtual), host, world.ctx())
    assert isinstance(back, dict)
    assert back["spec"] == EXTERNAL
    assert CHANGING not in back["metadata"]["annotations"]


def test_source_ranges_in_an_annotation_are_parked_too(world: Any) -> None:
    """An annotation that only load balancers may have goes and comes with the type."""
    key = "service.beta.kubernetes.io/load-balancer-source-ranges"
    virtual, host = pair(world, BALANCER, address="10.0.7.7")
    virtual["metadata"]["annotations"] = {key: "192.0.2.0/24"}
    assert KIND.to_virtual is not None
    parked = KIND.to_virtual(world_copy(virtual), host, world.ctx())
    assert isinstance(parked, dict)
    assert key not in parked["metadata"]["annotations"]
    assert world.wanted(KIND, parked) == world.wanted(KIND, virtual)
    done = KIND.to_virtual(world_copy(parked), host, world.ctx())
    assert isinstance(done, dict)
    assert done["metadata"]["annotations"] == {key: "192.0.2.0/24"}


@pytest.mark.parametrize(
    ("inside", "outside"), [("10.0.1.1", "None"), ("None", "10.0.1.1")], ids=["host", "virtual"]
)
def test_headlessness_is_the_tenants(world: Any, inside: str, outside: str) -> None:
    """A difference in headlessness is mended on the host; the virtual address stays."""
    virtual = service(cluster_ip(inside))
    host = world.made(KIND, virtual, spec={"clusterIP": outside, "clusterIPs": [outside]})
    assert KIND.to_virtual is not None
    assert KIND.to_virtual(world_copy(virtual), host, world.ctx()) == virtual


# -- indexes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        pytest.param(cluster_ip(), (), id="selector"),
        pytest.param(cluster_ip(selector=None), ("default/web",), id="null"),
        pytest.param(EXTERNAL, ("default/web",), id="external-name"),
    ],
)
def test_services_whose_endpoints_the_tenant_provides(
    spec: dict[str, Any], keys: tuple[str, ...]
) -> None:
    """The index holds services without a selector, parked ones among them."""
    assert selectorless(service(spec)) == keys
