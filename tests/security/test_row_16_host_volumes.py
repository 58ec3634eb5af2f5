"""Rows 16 and 17, claims: no volume, claim or snapshot of the host's can be chosen by a tenant."""

import uuid
from collections.abc import AsyncIterator

import pytest

from syncer.naming import PREFIX
from tests.integration.harness import Cluster, Object, Pair, eventually, named
from tests.integration.pod_steps import first_seen, latest_version, told

_CLAIMS = "persistentvolumeclaims"


@pytest.fixture
async def victim(host: Cluster) -> AsyncIterator[str]:
    """A host volume that is free to be claimed, as another tenant's retained one would be."""
    name = f"victim-{uuid.uuid4().hex[:8]}"
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/etc"},
        "storageClassName": name,  # claims of other tests without a class would take one of none
        "persistentVolumeReclaimPolicy": "Retain",
    }
    await host.create(named("PersistentVolume", name, spec=spec))
    yield name
    await host.delete("persistentvolumes", name)


def _claim(name: str, namespace: str, **spec: object) -> Object:
    default = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": f"none-{namespace}",
    }
    return named("PersistentVolumeClaim", name, namespace, spec=default | spec)


async def test_a_volume_of_the_hosts_can_not_be_named(
    pair: Pair, namespace: str, victim: str
) -> None:
    """Neither at once nor through a volume of the tenant's with that name, or a change later."""
    home = pair.names.host_namespace
    fake = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/"},
        "storageClassName": f"none-{namespace}",
    }
    await pair.virtual.create(named("PersistentVolume", victim, spec=fake))
    since = await latest_version(pair.host, _CLAIMS, home)
    await pair.virtual.create(_claim("direct", namespace, volumeName=victim))
    await pair.virtual.create(_claim("later", namespace))
    await eventually(lambda: pair.copy(_CLAIMS, "later", namespace))
    await pair.virtual.patch(_CLAIMS, "later", namespace, {"spec": {"volumeName": victim}})
    for name in ("direct", "later"):
        host_name = pair.host_name(name, namespace)
        made = await first_seen(pair.host, _CLAIMS, home, host_name, since)
        assert "volumeName" not in made["spec"]
        await told(pair.virtual, namespace, name, "spec.volumeName", "SyncWarning")
        assert "volumeName" not in (await pair.copy(_CLAIMS, name, namespace))["spec"]
    assert "claimRef" not in (await pair.host.get("persistentvolumes", victim))["spec"]
    assert await pair.host.list("persistentvolumes", labels=f"{PREFIX}managed-by") == []
    await pair.virtual.delete("persistentvolumes", victim)


@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "VolumeSnapshot"])
@pytest.mark.parametrize("skip", [False, True], ids=["plain", "skip-translate"])
async def test_a_data_source_is_always_the_tenants_own(
    pair: Pair, namespace: str, kind: str, skip: bool
) -> None:
    """Another tenant's claim or snapshot by its host name: translated, so it names nothing."""
    theirs = "data-x-prod-x-another"
    source: Object = {"kind": kind, "name": theirs}
    if kind == "VolumeSnapshot":
        source["apiGroup"] = "snapshot.storage.k8s.io"
    claim = _claim("thief", namespace, dataSource=source)
    claim["metadata"]["annotations"] = {f"{PREFIX}skip-translate": str(skip).lower()}
    await pair.virtual.create(claim)
    copy = await eventually(lambda: pair.copy(_CLAIMS, "thief", namespace))
    for field in ("dataSource", "dataSourceRef"):
        assert copy["spec"][field]["name"] == pair.host_name(theirs, namespace)
