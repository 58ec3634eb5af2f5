"""Services and their endpoints: one address in both clusters, the tenant's own pods behind it."""

import asyncio
from ipaddress import ip_network

import pytest

from tests.integration.harness import Object, Pair, eventually, gone, named, pod, service
from tests.integration.pod_steps import in_phase, settled, told

_SLICES = "discovery.k8s.io/v1/endpointslices"
_SERVICE_NAME = "kubernetes.io/service-name"
_PATIENCE = 60.0  # seconds for the clusters' own controllers of endpoints, busy after a burst


async def _agreed(pair: Pair, name: str, namespace: str) -> tuple[Object, Object]:
    """Wait until both sides have the service with the same type and address; return them."""

    async def check() -> tuple[Object, Object]:
        virtual = await pair.virtual.get("services", name, namespace)
        host = await pair.copy("services", name, namespace)
        for field in ("type", "clusterIP", "externalName"):
            assert virtual["spec"].get(field) == host["spec"].get(field), (virtual, host)
        return virtual, host

    return await eventually(check)


async def _retyped(pair: Pair, name: str, namespace: str, spec: Object) -> tuple[Object, Object]:
    """Change fields of a virtual service and return both sides once they agree on its type."""
    await pair.virtual.patch("services", name, namespace, {"spec": spec})

    async def check() -> None:
        host = await pair.copy("services", name, namespace)
        assert host["spec"]["type"] == spec["type"]
        virtual = await pair.virtual.get("services", name, namespace)
        assert virtual["spec"]["type"] == spec["type"]

    await eventually(check)
    return await _agreed(pair, name, namespace)


async def _addresses(pair: Pair, name: str, namespace: str) -> set[str]:
    """Return the addresses that the host's slices list behind a virtual service."""
    label = f"{_SERVICE_NAME}={pair.host_name(name, namespace)}"
    slices = await pair.host.list(_SLICES, pair.names.host_namespace, labels=label)
    return {
        address
        for each in slices
        for endpoint in each.get("endpoints") or ()
        for address in endpoint["addresses"]
    }


async def _endpoints_made(pair: Pair, names: list[str], namespace: str) -> None:
    """Assert that each cluster's own controllers have made what belongs to the services.

    They work through a burst at a rate of their own, long after the services agree.
    """
    home = pair.names.host_namespace
    hosted = {pair.host_name(each, namespace) for each in names}
    for side, wanted, where in ((pair.virtual, set(names), namespace), (pair.host, hosted, home)):
        endpoints = {each["metadata"]["name"] for each in await side.list("endpoints", where)}
        assert wanted <= endpoints
        slices = await side.list(_SLICES, where)
        labels = [each["metadata"].get("labels") or {} for each in slices]
        assert wanted <= {each.get(_SERVICE_NAME) for each in labels}


# -- addresses -------------------------------------------------------------------------------------


async def test_many_services_at_once_have_one_address_each_on_both_sides(
    pair: Pair, namespace: str
) -> None:
    """The address that the virtual server handed out is the host's too; the UID stays."""
    names = [f"svc-{number}" for number in range(20)]
    made = await asyncio.gather(*(pair.virtual.create(service(each, namespace)) for each in names))
    agreed = await asyncio.gather(*(_agreed(pair, each, namespace) for each in names))
    assert [virtual["metadata"]["uid"] for virtual, _ in agreed] == [
        each["metadata"]["uid"] for each in made
    ]
    assert len({host["spec"]["clusterIP"] for _, host in agreed}) == len(names)
    await eventually(lambda: _endpoints_made(pair, names, namespace), timeout=_PATIENCE)
    await settled(pair, namespace, 1, ["services", "endpoints", _SLICES])


async def test_an_address_taken_on_the_host_is_replaced_by_the_hosts_choice(
    pair: Pair, namespace: str
) -> None:
    """A tenant gets neither somebody's address nor one of the band people choose from."""
    taken = await pair.host.create(service("taken", pair.names.host_namespace))
    theirs = taken["spec"]["clusterIP"]
    chosen = str(ip_network(pair.virtual.plane.service_cidr)[197])
    uids = {}
    for name, address in (("conflict", theirs), ("chosen", chosen)):
        made = await pair.virtual.create(service(name, namespace, clusterIP=address))
        uids[name] = made["metadata"]["uid"]
    for name, address in (("conflict", theirs), ("chosen", chosen)):
        virtual, host = await _agreed(pair, name, namespace)
        assert host["spec"]["clusterIP"] != address
        assert virtual["metadata"]["uid"] == uids[name]
        assert virtual["spec"]["selector"] == {"app": name}
        assert not virtual["metadata"].get("annotations")
    await pair.host.delete("services", "taken", pair.names.host_namespace)


async def test_a_headless_service_stays_headless(pair: Pair, namespace: str) -> None:
    """`clusterIP: None` is the same on both sides."""
    await pair.virtual.create(service("headless", namespace, clusterIP="None"))
    _, host = await _agreed(pair, "headless", namespace)
    assert host["spec"]["clusterIP"] == "None"


async def test_the_dns_service_has_a_copy_with_its_address(pair: Pair) -> None:
    """`kube-system/kube-dns` is a service as any other: pods resolve names under its address."""
    virtual, host = await _agreed(pair, "kube-dns", "kube-system")
    assert virtual["spec"]["clusterIP"] == host["spec"]["clusterIP"] != ""


async def test_default_kubernetes_is_the_hosts_own_service(pair: Pair) -> None:
    """Address, ports and endpoints of `default/kubernetes` are those of the owner service."""
    owner, home = pair.names.tenant, pair.names.host_namespace
    subsets = [{"addresses": [{"ip": "10.99.0.1"}], "ports": [{"name": "https", "port": 8443}]}]
    await pair.host.apply(named("Endpoints", owner, home, subsets=subsets))
    own = await pair.host.get("services", owner, home)

    async def check() -> None:
        virtual = await pair.virtual.get("services", "kubernetes", "default")
        assert virtual["spec"]["clusterIP"] == own["spec"]["clusterIP"]
        assert virtual["spec"]["type"] == "ClusterIP"
        assert [(port["name"], port["port"]) for port in virtual["spec"]["ports"]] == [
            ("https", 443)
        ]
        endpoints = await pair.virtual.get("endpoints", "kubernetes", "default")
        assert endpoints["subsets"] == [
            {
                "addresses": [{"ip": "10.99.0.1"}],
                "ports": [{"name": "https", "port": 8443, "protocol": "TCP"}],
            }
        ]
        label = f"{_SERVICE_NAME}=kubernetes"
        [each] = await pair.virtual.list(_SLICES, "default", labels=label)
        assert [one["addresses"] for one in each["endpoints"]] == [["10.99.0.1"]]

    await eventually(check)
    assert await pair.find_copy("services", "kubernetes", "default") is None


# -- types -----------------------------------------------------------------------------------------


async def test_a_service_changes_its_type_both_ways(pair: Pair, namespace: str) -> None:
    """Through every type and back both objects stay the same ones and agree after each change."""
    made = await pair.virtual.create(service("web", namespace))
    _, host = await _agreed(pair, "web", namespace)
    uids = made["metadata"]["uid"], host["metadata"]["uid"]
    away = {"type": "ExternalName", "externalName": "example.com", "clusterIP": None}
    steps: list[Object] = [
        away | {"clusterIPs": None},
        {"type": "ClusterIP", "externalName": None},
        {"type": "NodePort"},
        {"type": "LoadBalancer"},
        {"type": "ClusterIP"},
        away | {"clusterIPs": None},
        {"type": "LoadBalancer", "externalName": None},
    ]
    for step in steps:
        virtual, host = await _retyped(pair, "web", namespace, step)
        assert (virtual["metadata"]["uid"], host["metadata"]["uid"]) == uids
        assert host["spec"].get("externalName") == step.get("externalName")
        assert bool(host["spec"].get("clusterIP")) == (step["type"] != "ExternalName")
        assert not virtual["metadata"].get("annotations"), "parked no more"


async def test_node_ports_are_the_hosts(pair: Pair, namespace: str) -> None:
    """The tenant reads the node ports that the host gave, whatever it asked for."""
    ports = [{"name": "a", "port": 80, "nodePort": 30057}, {"name": "b", "port": 81}]
    await pair.virtual.create(service("web", namespace, type="NodePort", ports=ports))

    async def same() -> list[int]:
        virtual = await pair.virtual.get("services", "web", namespace)
        host = await pair.copy("services", "web", namespace)
        mine, theirs = (
            [port.get("nodePort") for port in each["spec"]["ports"]] for each in (virtual, host)
        )
        assert mine == theirs
        return theirs

    before = await eventually(same)
    assert all(before)
    ports.append({"name": "c", "port": 82})

    async def add() -> None:
        # With its version: else an API server that tries it on an older state, and then again on
        # the newest, finds the port that is asked for taken, by its own first attempt.
        virtual = await pair.virtual.get("services", "web", namespace)
        version = {"resourceVersion": virtual["metadata"]["resourceVersion"]}
        change = {"metadata": version, "spec": {"ports": ports}}
        await pair.virtual.patch("services", "web", namespace, change)

    await eventually(add)

    async def three() -> list[int]:
        found = await same()
        assert len(found) == 3
        return found

    assert (await eventually(three))[:2] == before, "those in use stay"


async def test_a_load_balancers_address_comes_back_and_goes(pair: Pair, namespace: str) -> None:
    """What the cloud writes into the host copy's status is the virtual service's status."""
    await pair.virtual.create(service("web", namespace, type="LoadBalancer"))
    _, host = await _agreed(pair, "web", namespace)
    where = ("services", host["metadata"]["name"], pair.names.host_namespace)
    for ingress in ([{"ip": "203.0.113.7"}, {"hostname": "lb.example.com"}], None):
        status = {"status": {"loadBalancer": {"ingress": ingress}}}
        await pair.host.patch(*where, status, subresource="status")

        async def check(expected: object = ingress) -> None:
            status = (await pair.virtual.get("services", "web", namespace))["status"]
            found = [
                {key: value for key, value in each.items() if key in ("ip", "hostname")}
                for each in status["loadBalancer"].get("ingress", ())
            ]
            assert found == (expected or [])

        await eventually(check)


# -- changes ---------------------------------------------------------------------------------------


async def test_a_change_of_ports_keeps_what_others_put_on_the_copy(
    pair: Pair, namespace: str
) -> None:
    """Labels and annotations of the host's own controllers stay; the tenant's follow."""
    asked = service("web", namespace)
    asked["metadata"] |= {"labels": {"app": "web"}, "annotations": {"note": "one"}}
    await pair.virtual.create(asked)
    _, host = await _agreed(pair, "web", namespace)
    where = ("services", host["metadata"]["name"], pair.names.host_namespace)
    foreign = {"labels": {"cloud": "yes"}, "annotations": {"cloud/id": "7"}}
    await pair.host.patch(*where, {"metadata": foreign})
    await pair.virtual.patch(
        "services",
        "web",
        namespace,
        {
            "metadata": {"labels": {"app": None, "tier": "1"}, "annotations": {"note": None}},
            "spec": {"ports": [{"name": "other", "port": 8080, "targetPort": "http"}]},
        },
    )

    async def check() -> None:
        copy = await pair.host.get(*where)
        [port] = copy["spec"]["ports"]
        assert (port["name"], port["port"], port["targetPort"]) == ("other", 8080, "http")
        labels, annotations = copy["metadata"]["labels"], copy["metadata"]["annotations"]
        assert labels["cloud"] == "yes"
        assert annotations["cloud/id"] == "7"
        assert pair.names.label_key("app") not in labels
        assert labels[pair.names.label_key("tier")] == "1"
        assert "note" not in annotations

    await eventually(check)


async def test_a_deleted_copy_is_made_again(pair: Pair, namespace: str) -> None:
    """Services are declarations: the tenant's object outlives its copy, UID and all."""
    made = await pair.virtual.create(service("web", namespace))
    _, host = await _agreed(pair, "web", namespace)
    await pair.host.delete("services", host["metadata"]["name"], pair.names.host_namespace)

    async def check() -> None:
        again = await pair.copy("services", "web", namespace)
        assert again["metadata"]["uid"] != host["metadata"]["uid"]

    await eventually(check)
    virtual, _ = await _agreed(pair, "web", namespace)
    assert virtual["metadata"]["uid"] == made["metadata"]["uid"]
    await pair.virtual.delete("services", "web", namespace)
    await gone(lambda: pair.find_copy("services", "web", namespace))


# -- endpoints -------------------------------------------------------------------------------------


async def test_a_selector_finds_the_tenants_own_pods_only(pair: Pair, namespace: str) -> None:
    """The host lists the pods of that namespace: not of another one, nor another tenant's."""
    home = pair.names.host_namespace
    labels = {"app": "web"}
    await pair.virtual.create(pod("mine", namespace, labels=labels))
    await pair.virtual.create(pod("elsewhere", "default", labels=labels))
    marks = {"vcluster.loft.sh/managed-by": "other", "vcluster.loft.sh/namespace": namespace}
    hashed = {pair.names.label_key("app"): "web"}
    await pair.host.create(pod(f"theirs-{namespace}", home, labels=labels | hashed | marks))
    await pair.virtual.create(service("web", namespace))
    running = await in_phase(pair, "mine", namespace)
    await in_phase(pair, "elsewhere", "default")

    async def check() -> None:
        assert await _addresses(pair, "web", namespace) == {running["status"]["podIP"]}

    await eventually(check, timeout=_PATIENCE)
    await pair.virtual.delete("pods", "elsewhere", "default", grace=0)
    await pair.host.delete("pods", f"theirs-{namespace}", home, grace=0)


def _subsets(*addresses: str) -> list[Object]:
    return [{"addresses": [{"ip": each} for each in addresses], "ports": [{"port": 80}]}]


def _slice(name: str, namespace: str, owner: str, *addresses: str) -> Object:
    return named(
        "EndpointSlice",
        name,
        namespace,
        apiVersion="discovery.k8s.io/v1",
        labels={_SERVICE_NAME: owner},
        addressType="IPv4",
        endpoints=[{"addresses": [each]} for each in addresses],
        ports=[{"name": "", "port": 80}],
    )


async def test_endpoints_of_a_service_without_selector_are_mirrored_once(
    pair: Pair, namespace: str
) -> None:
    """The tenant's Endpoints get a copy; slices are the host's own of it, changes follow."""
    await pair.virtual.create(service("legacy", namespace, selector=None))
    await pair.virtual.create(
        named("Endpoints", "legacy", namespace, subsets=_subsets("10.99.1.1", "10.99.1.2"))
    )

    async def slices(*addresses: str) -> None:
        assert await _addresses(pair, "legacy", namespace) == set(addresses)
        label = f"{_SERVICE_NAME}={pair.host_name('legacy', namespace)}"
        found = await pair.host.list(_SLICES, pair.names.host_namespace, labels=label)
        assert len(found) == 1, "mirrored twice"

    await eventually(lambda: slices("10.99.1.1", "10.99.1.2"), timeout=_PATIENCE)
    change = {"subsets": _subsets("10.99.1.3")}
    await pair.virtual.patch("endpoints", "legacy", namespace, change)
    await eventually(lambda: slices("10.99.1.3"), timeout=_PATIENCE)
    await asyncio.sleep(0.5)
    await slices("10.99.1.3")


async def test_slices_of_a_service_without_selector_have_copies(pair: Pair, namespace: str) -> None:
    """A tenant's slice names the host's service and goes when the tenant deletes it."""
    await pair.virtual.create(service("modern", namespace, selector=None))
    await pair.virtual.create(_slice("modern-1", namespace, "modern", "10.99.2.1"))

    async def check() -> None:
        assert await _addresses(pair, "modern", namespace) == {"10.99.2.1"}

    await eventually(check)
    await pair.virtual.delete(_SLICES, "modern-1", namespace)
    await gone(lambda: pair.find_copy(_SLICES, "modern-1", namespace))
    assert await _addresses(pair, "modern", namespace) == set()


async def test_a_service_gains_and_loses_its_selector(pair: Pair, namespace: str) -> None:
    """With a selector the host's own endpoints count, without one the tenant's, both ways."""
    await pair.virtual.create(pod("web", namespace, labels={"app": "web"}))
    await pair.virtual.create(service("web", namespace, selector=None))
    await pair.virtual.create(named("Endpoints", "web", namespace, subsets=_subsets("10.99.3.1")))

    async def lists(address: str) -> None:
        assert await _addresses(pair, "web", namespace) == {address}

    await eventually(lambda: lists("10.99.3.1"), timeout=_PATIENCE)
    running = await in_phase(pair, "web", namespace)
    selector = {"spec": {"selector": {"app": "web"}}}
    await pair.virtual.patch("services", "web", namespace, selector)
    address = running["status"]["podIP"]
    await eventually(lambda: lists(address), timeout=_PATIENCE)

    async def listed() -> None:
        endpoints = await pair.virtual.get("endpoints", "web", namespace)
        assert [each["ip"] for each in endpoints["subsets"][0]["addresses"]] == [address]

    # Else the virtual controller, when it gets to it, would write over what the tenant writes next.
    await eventually(listed, timeout=_PATIENCE)
    await pair.virtual.patch("services", "web", namespace, {"spec": {"selector": None}})
    await pair.virtual.apply(named("Endpoints", "web", namespace, subsets=_subsets("10.99.3.2")))

    async def own() -> None:
        addresses = await _addresses(pair, "web", namespace)
        assert "10.99.3.2" in addresses
        endpoints = await pair.host.get(
            "endpoints", pair.host_name("web", namespace), pair.names.host_namespace
        )
        assert [each["ip"] for each in endpoints["subsets"][0]["addresses"]] == ["10.99.3.2"]

    await eventually(own, timeout=_PATIENCE)


# -- refusals --------------------------------------------------------------------------------------


async def test_addresses_that_a_tenant_chooses_are_left_out(pair: Pair, namespace: str) -> None:
    """`externalIPs` and `loadBalancerIP` don't reach the host; an event says so."""
    await pair.virtual.create(
        service(
            "greedy",
            namespace,
            type="LoadBalancer",
            externalIPs=["203.0.113.9"],
            loadBalancerIP="203.0.113.9",
        )
    )
    _, host = await _agreed(pair, "greedy", namespace)
    assert "externalIPs" not in host["spec"]
    assert "loadBalancerIP" not in host["spec"]
    for field in ("externalIPs", "loadBalancerIP"):
        await told(pair.virtual, namespace, "greedy", f"spec.{field}", "SyncWarning")


@pytest.mark.parametrize("form", ["endpoints", "slice"])
async def test_endpoints_in_the_service_network_are_refused(
    pair: Pair, namespace: str, form: str
) -> None:
    """A service's own address behind another service would go around policies: no copy, an event.

    Loopback and link-local addresses don't get so far: the virtual API server refuses them.
    """
    inside = str(ip_network(pair.virtual.plane.service_cidr)[300])
    await pair.virtual.create(service("bad", namespace, selector=None))
    if form == "endpoints":
        await pair.virtual.create(named("Endpoints", "bad", namespace, subsets=_subsets(inside)))
        resource = "endpoints"
    else:
        await pair.virtual.create(_slice("bad", namespace, "bad", inside))
        resource = _SLICES
    await told(pair.virtual, namespace, "bad", "is an address of the service network")
    assert await pair.find_copy(resource, "bad", namespace) is None
    assert await _addresses(pair, "bad", namespace) == set()
