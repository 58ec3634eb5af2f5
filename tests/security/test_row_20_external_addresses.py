"""Row 20: a tenant can't have the host send it traffic for addresses it chooses (CVE-2020-8554)."""

import pytest

from tests.integration.harness import Object, Pair, eventually, service
from tests.integration.pod_steps import told

_CHOSEN = "203.0.113.53"


async def _copy(pair: Pair, name: str, namespace: str) -> Object:
    return await eventually(lambda: pair.copy("services", name, namespace))


@pytest.mark.parametrize("kind", ["ClusterIP", "NodePort", "LoadBalancer"])
async def test_chosen_addresses_never_reach_the_host(pair: Pair, namespace: str, kind: str) -> None:
    """At creation and with a change, on every type; the tenant is told."""
    chosen: dict[str, object] = {"externalIPs": [_CHOSEN]}
    if kind == "LoadBalancer":
        chosen["loadBalancerIP"] = _CHOSEN
    at_once = service("at-once", namespace, type=kind)
    at_once["spec"] |= chosen
    await pair.virtual.create(at_once)
    await pair.virtual.create(service("later", namespace, type=kind))
    await eventually(lambda: pair.copy("services", "later", namespace))
    await pair.virtual.patch(
        "services", "later", namespace, {"spec": chosen | {"sessionAffinity": "ClientIP"}}
    )

    async def changed() -> None:
        copy = await pair.copy("services", "later", namespace)
        assert copy["spec"]["sessionAffinity"] == "ClientIP"

    await eventually(changed)
    for name in ("at-once", "later"):
        await told(pair.virtual, namespace, name, "spec.externalIPs", "SyncWarning")
        assert _CHOSEN not in str(await _copy(pair, name, namespace))


async def test_a_status_that_the_tenant_writes_stays_inside(pair: Pair, namespace: str) -> None:
    """A load balancer's address comes from the host alone: what the tenant writes is put right."""
    await pair.virtual.create(service("web", namespace, type="LoadBalancer"))
    await eventually(lambda: pair.copy("services", "web", namespace))
    forged = {"status": {"loadBalancer": {"ingress": [{"ip": _CHOSEN}]}}}
    await pair.virtual.patch("services", "web", namespace, forged, subresource="status")

    async def right() -> None:
        virtual = await pair.virtual.get("services", "web", namespace)
        assert not virtual["status"]["loadBalancer"].get("ingress")

    await eventually(right)
    assert _CHOSEN not in str(await pair.copy("services", "web", namespace))
