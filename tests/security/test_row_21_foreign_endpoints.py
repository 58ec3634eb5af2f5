"""Row 21: endpoints that would make the host's service proxy reach what the tenant can't."""

import asyncio
from ipaddress import ip_network

import pytest

from tests.integration.harness import Object, Pair, RefusedError, eventually, named, service
from tests.integration.pod_steps import told

_SLICES = "discovery.k8s.io/v1/endpointslices"


def _slice(name: str, namespace: str, kind: str, *addresses: str) -> Object:
    return named(
        "EndpointSlice",
        name,
        namespace,
        apiVersion="discovery.k8s.io/v1",
        labels={"kubernetes.io/service-name": "proxy"},
        addressType=kind,
        endpoints=[{"addresses": [each]} for each in addresses],
        ports=[{"name": "", "port": 6443}],
    )


def _endpoints(namespace: str, *addresses: str) -> Object:
    found = [{"ip": each} for each in addresses]
    subsets = [{"addresses": found, "ports": [{"port": 6443}]}]
    return named("Endpoints", "proxy", namespace, subsets=subsets)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "224.0.0.1"])
async def test_addresses_of_the_node_do_not_get_in(
    pair: Pair, namespace: str, address: str
) -> None:
    """The API server of today refuses them itself; one that would not is made up for by ours."""
    await pair.virtual.create(service("proxy", namespace, selector=None))
    for asked in (_endpoints(namespace, address), _slice("proxy", namespace, "IPv4", address)):
        with pytest.raises(RefusedError, match="422"):
            await pair.virtual.create(asked)


@pytest.mark.parametrize("form", ["endpoints", _SLICES])
async def test_a_service_address_is_refused_also_as_a_change(
    pair: Pair, namespace: str, form: str
) -> None:
    """What was fine stays on the host, the change doesn't get there, and an event tells why."""
    inside = str(ip_network(pair.virtual.plane.service_cidr)[1])
    await pair.virtual.create(service("proxy", namespace, selector=None))
    changed: Object
    if form == "endpoints":
        asked, changed = _endpoints(namespace, "10.99.7.1"), _endpoints(namespace, inside)
    else:
        asked = _slice("proxy", namespace, "IPv4", "10.99.7.1")
        changed = _slice("proxy", namespace, "IPv4", "10.99.7.1", inside)
    await pair.virtual.create(asked)
    await eventually(lambda: pair.copy(form, "proxy", namespace))
    await pair.virtual.update(changed)
    await told(pair.virtual, namespace, "proxy", "is an address of the service network")
    await asyncio.sleep(0.3)
    home = pair.names.host_namespace
    slices = await pair.host.list(_SLICES, home, labels=f"vcluster.loft.sh/namespace={namespace}")
    copy = await pair.find_copy(form, "proxy", namespace)
    assert f"'{inside}'" not in str(copy)
    assert f"'{inside}'" not in str(slices)


async def test_names_as_addresses_are_refused(pair: Pair, namespace: str) -> None:
    """Nobody can check what a domain name will resolve to."""
    await pair.virtual.create(service("proxy", namespace, selector=None))
    await pair.virtual.create(_slice("proxy", namespace, "FQDN", "metadata.google.internal"))
    await told(pair.virtual, namespace, "proxy", "addressType FQDN")
    assert await pair.find_copy(_SLICES, "proxy", namespace) is None


async def test_a_slice_can_not_serve_somebody_elses_service(pair: Pair, namespace: str) -> None:
    """The label that names the service is translated, whatever it says."""
    home = pair.names.host_namespace
    theirs = pair.names.tenant  # the host's own service of the virtual cluster
    await pair.virtual.create(service(theirs, namespace, selector=None))
    asked = _slice("proxy", namespace, "IPv4", "10.99.7.2")
    asked["metadata"]["labels"] = {"kubernetes.io/service-name": theirs}
    await pair.virtual.create(asked)
    await eventually(lambda: pair.copy(_SLICES, "proxy", namespace))
    found = await pair.host.list(_SLICES, home, labels=f"kubernetes.io/service-name={theirs}")
    assert "10.99.7.2" not in str(found)
