"""Fake kubelets: each fake node has an address of the syncer's, and shows none of the host's."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from functools import partial

import aiohttp
import orjson
import pytest

from controlplane.nodes import RESERVED
from controlplane.nodes import node as fake_node
from syncer.naming import PREFIX, node_host_name
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    Tenant,
    boot_pair,
    eventually,
    gone,
    named,
    pod,
    service,
)
from tests.integration.pod_steps import in_phase

_RESERVED = {"key": RESERVED, "effect": "NoSchedule"}


@pytest.fixture
async def node(host: Cluster) -> AsyncIterator[str]:
    """A host node of the test's own; its name has a dot. Gone after the test."""
    name = f"node-{uuid.uuid4().hex[:8]}.example"
    made = fake_node(9)
    made["metadata"]["name"] = name
    made["metadata"]["labels"]["kubernetes.io/hostname"] = name
    made["spec"]["taints"] = [_RESERVED]  # for this test's pods; others' would go with the node
    await host.create(made)

    async def ready() -> None:
        found = await host.get("nodes", name)
        conditions = found["status"].get("conditions") or ()
        assert any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)
        assert found["spec"]["taints"] == [_RESERVED]

    await eventually(ready)
    yield name
    await host.delete("nodes", name)


def _on(node: str, name: str, namespace: str, operator: str = "In") -> Object:
    """Return a pod that the host's scheduler puts on a node and no other, or with NotIn never."""
    expression = {"key": "metadata.name", "operator": operator, "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchFields": [expression]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    tolerations = [{"key": RESERVED, "operator": "Exists"}]
    return pod(name, namespace, affinity={"nodeAffinity": required}, tolerations=tolerations)


def _service_name(pair: Pair, node: str) -> str:
    return f"{pair.names.tenant}-node-{node.replace('.', '-')}"


async def _service(pair: Pair, node: str) -> Object:
    """Return the Service of a node."""
    return await pair.host.get("services", _service_name(pair, node), pair.names.host_namespace)


async def _no_service(pair: Pair, node: str) -> None:
    """Wait until a node has no Service."""
    where = ("services", _service_name(pair, node), pair.names.host_namespace)
    await gone(lambda: pair.host.find(*where))


async def _addressed(pair: Pair, node: str, ip: str | None, port: int = 10250) -> None:
    """Wait until a node of the tenant's has just this address besides its name."""
    name = node_host_name(node) if port else node
    wanted = [{"type": "Hostname", "address": name}]
    if ip is not None:
        wanted.append({"type": "InternalIP", "address": ip})

    async def check() -> None:
        status = (await pair.virtual.get("nodes", node))["status"]
        assert status["addresses"] == wanted
        assert status["daemonEndpoints"] == {"kubeletEndpoint": {"Port": port}}

    await eventually(check)


async def _told(pair: Pair, name: str, namespace: str, ip: str | None) -> None:
    """Wait until a pod's status says that its node has this address, or none."""

    async def check() -> None:
        status = (await pair.virtual.get("pods", name, namespace))["status"]
        assert status["phase"] == "Running"
        assert status.get("hostIP") == ip
        assert status.get("hostIPs") == ([{"ip": ip}] if ip else None)

    await eventually(check)


async def test_a_node_has_an_address_of_its_own(pair: Pair, namespace: str, node: str) -> None:
    """It is that of a Service which leads to the syncer, and comes and goes with the node."""
    home, tenant = pair.names.host_namespace, pair.names.tenant
    selector = {"app": "syncer-of-this-test"}
    await pair.host.patch("services", tenant, home, {"spec": {"selector": selector}})
    await pair.virtual.create(_on(node, "web", namespace))
    await in_phase(pair, "web", namespace)

    async def selecting() -> Object:
        found = await _service(pair, node)
        assert found["spec"].get("selector") == selector
        return found

    made = await eventually(selecting)
    ip = made["spec"]["clusterIP"]
    await _addressed(pair, node, ip)
    await _told(pair, "web", namespace, ip)
    owner = await pair.host.get("services", tenant, home)
    labels = {f"{PREFIX}belongs-to": tenant, f"{PREFIX}node": node}
    assert made["metadata"]["labels"] == labels
    assert made["metadata"]["ownerReferences"][0]["uid"] == owner["metadata"]["uid"]
    [port] = made["spec"]["ports"]
    assert (port["port"], port["protocol"]) == (10250, "TCP")
    assert pair.syncer.endpoint.endswith(f":{port['targetPort']}")
    await pair.host.patch("services", tenant, home, {"spec": {"selector": None}})

    async def follows() -> None:
        assert "selector" not in (await _service(pair, node))["spec"]

    await eventually(follows)
    quiet = partial(pair.quiet, resources=["services", "pods"], namespace=namespace)
    await eventually(lambda: quiet(1.0))  # what the pod's start left to do is done
    await quiet(2.0)
    assert (await _service(pair, node))["metadata"]["uid"] == made["metadata"]["uid"]
    await pair.virtual.delete("pods", "web", namespace, grace=0)
    await gone(lambda: pair.virtual.find("nodes", node))
    await _no_service(pair, node)


async def test_both_addresses_lead_to_the_kubelet_of_that_node(
    pair: Pair, namespace: str, node: str
) -> None:
    """The endpoint's certificate is good for them, and what is asked there is asked of the node."""
    await pair.virtual.create(_on(node, "web", namespace))
    await pair.virtual.create(_on(node, "elsewhere", namespace, "NotIn"))
    for name in ("web", "elsewhere"):
        await in_phase(pair, name, namespace)
    ip = (await eventually(lambda: _service(pair, node)))["spec"]["clusterIP"]
    pki = pair.virtual.plane.pki
    tls = pki.client_context(pki.admin)

    async def pods(address: str) -> list[str]:
        url, host = f"{pair.syncer.endpoint}/pods", {"Host": f"{address}:10250"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers=host, ssl=tls, server_hostname=address) as response,
        ):
            assert response.status == 200, await response.text()
            items = (await response.json())["items"]
            return [each["metadata"]["name"] for each in items]

    async def found() -> None:
        for address in (ip, node_host_name(node)):
            try:
                assert await pods(address) == ["web"]
            except aiohttp.ClientConnectorCertificateError as error:
                raise AssertionError(f"no certificate for {address} yet") from error

    await eventually(found)


async def test_nothing_shows_an_address_of_the_host(pair: Pair, namespace: str, node: str) -> None:
    """Neither the node nor its pods name where the host's node really is."""
    await pair.virtual.create(_on(node, "web", namespace))
    await in_phase(pair, "web", namespace)
    real = (await pair.host.get("nodes", node))["status"]["addresses"]
    [internal] = [each["address"] for each in real if each["type"] == "InternalIP"]
    copy = await pair.copy("pods", "web", namespace)
    assert copy["status"]["hostIP"] == internal
    ip = (await eventually(lambda: _service(pair, node)))["spec"]["clusterIP"]
    await _addressed(pair, node, ip)
    await _told(pair, "web", namespace, ip)
    for shown in (
        await pair.virtual.get("nodes", node),
        await pair.virtual.get("pods", "web", namespace),
    ):
        assert f'"{internal}"' not in orjson.dumps(shown).decode()


async def test_a_service_is_put_back(pair: Pair, namespace: str, node: str) -> None:
    """What others changed is mended in place; one that they deleted is made again."""
    home = pair.names.host_namespace
    await pair.virtual.create(_on(node, "web", namespace))
    await in_phase(pair, "web", namespace)
    before = await eventually(lambda: _service(pair, node))
    name = before["metadata"]["name"]
    changes = {
        "metadata": {"annotations": {"of/others": "stays"}, "labels": {f"{PREFIX}node": node}},
        "spec": {"ports": [{"name": "mine", "port": 22}], "selector": {"app": "mine"}},
    }
    await pair.host.patch("services", name, home, changes)

    async def mended() -> None:
        found = await _service(pair, node)
        assert found["spec"] == before["spec"]
        assert found["metadata"]["annotations"] == {"of/others": "stays"}
        assert found["metadata"]["uid"] == before["metadata"]["uid"]

    await eventually(mended)
    await pair.host.delete("services", name, home)

    async def again() -> str:
        found = await _service(pair, node)
        assert found["metadata"]["uid"] != before["metadata"]["uid"]
        ip: str = found["spec"]["clusterIP"]
        return ip

    ip = await eventually(again)
    await _addressed(pair, node, ip)
    await _told(pair, "web", namespace, ip)


async def test_a_tenant_can_not_say_where_its_node_is(
    pair: Pair, namespace: str, node: str
) -> None:
    """Addresses and port of a fake node are written back as they were."""
    await pair.virtual.create(_on(node, "web", namespace))
    await in_phase(pair, "web", namespace)
    ip = (await eventually(lambda: _service(pair, node)))["spec"]["clusterIP"]
    await _addressed(pair, node, ip)
    forged = {
        "addresses": [{"type": "InternalIP", "address": "169.254.169.254"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 443}},
    }
    await pair.virtual.patch("nodes", node, "", {"status": forged}, subresource="status")
    await _addressed(pair, node, ip)
    await pair.virtual.delete("nodes", node)
    await _addressed(pair, node, ip)


async def test_a_service_of_others_is_left_alone(pair: Pair, namespace: str, node: str) -> None:
    """Where its name is taken a node has no address, and its pods run; until the name is free."""
    home, name = pair.names.host_namespace, _service_name(pair, node)
    foreign = await pair.host.create(service(name, home, ports=[{"port": 80}]))
    await pair.virtual.create(_on(node, "web", namespace))
    await in_phase(pair, "web", namespace)
    await _addressed(pair, node, None)
    await _told(pair, "web", namespace, None)
    await asyncio.sleep(1.0)
    assert await _service(pair, node) == foreign
    await pair.host.delete("services", name, home)

    async def ours() -> str:
        found = await _service(pair, node)
        assert found["metadata"]["labels"][f"{PREFIX}node"] == node
        ip: str = found["spec"]["clusterIP"]
        return ip

    await _addressed(pair, node, await eventually(ours))


async def test_what_was_left_behind_goes_at_a_start(pair: Pair, namespace: str, node: str) -> None:
    """Services of nodes that went while nobody looked are removed; those of others are not."""
    home, tenant = pair.names.host_namespace, pair.names.tenant
    await pair.virtual.create(_on(node, "web", namespace))
    await in_phase(pair, "web", namespace)
    kept = await eventually(lambda: _service(pair, node))
    await _addressed(pair, node, kept["spec"]["clusterIP"])
    await pair.syncer.kill()

    def left(of: str, name: str, lost: str) -> Object:
        labels = {f"{PREFIX}belongs-to": of, f"{PREFIX}node": lost}
        return named("Service", name, home, labels=labels, spec={"ports": [{"port": 10250}]})

    others = [left(f"{tenant}-2", f"{tenant}-2-node-lost", "lost"), left(tenant, "mine", "lost")]
    try:
        for each in (left(tenant, f"{tenant}-node-lost", "lost"), *others):
            await pair.host.create(each)
    finally:
        await pair.syncer.start()
    await _no_service(pair, "lost")
    for each in others:
        name = each["metadata"]["name"]
        assert await pair.host.find("services", name, home)
        await pair.host.delete("services", name, home)
    assert await _service(pair, node) == kept


async def _restarted(pair: Pair, *flags: str) -> None:
    """Start the syncer anew with other flags."""
    pair.syncer.flags = flags
    await pair.syncer.restart()


async def test_tenants_of_one_namespace_and_their_flags(
    pair: Pair, namespace: str, node: str, host: Cluster
) -> None:
    """Each has Services of its own; what one turns off or gives up stays with the other."""
    await pair.virtual.create(_on(node, "web", namespace))
    await in_phase(pair, "web", namespace)
    mine = await eventually(lambda: _service(pair, node))
    name = f"{pair.names.tenant}-node"  # with a name that could be one of the other's Services
    async with boot_pair(host, Tenant(name, pair.names.host_namespace)) as other:
        await eventually(lambda: other.virtual.get("serviceaccounts", "default", "default"))
        await other.virtual.create(_on(node, "web", "default"))
        await in_phase(other, "web", "default")
        theirs = await eventually(lambda: _service(other, node))
        assert theirs["spec"]["clusterIP"] != mine["spec"]["clusterIP"]
        await _addressed(other, node, theirs["spec"]["clusterIP"])
        await _told(other, "web", "default", theirs["spec"]["clusterIP"])
        await _restarted(other, "--fake-kubelet-ips=false")
        await _no_service(other, node)
        await _addressed(other, node, None)
        await _told(other, "web", "default", None)
        await _restarted(other, "--disable-fake-kubelets")
        await _addressed(other, node, None, port=0)
        await _restarted(other)
        theirs = await eventually(lambda: _service(other, node))
        await _addressed(other, node, theirs["spec"]["clusterIP"])
        await other.virtual.delete("pods", "web", "default", grace=0)
        await gone(lambda: other.virtual.find("nodes", node))
        await _no_service(other, node)
    assert await _service(pair, node) == mine
    await _addressed(pair, node, mine["spec"]["clusterIP"])
