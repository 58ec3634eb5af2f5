"""Claims: the tenant's wish on the host, the host's volume and its fate in the virtual cluster."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from syncer.naming import PREFIX
from tests.integration.harness import Cluster, Object, Pair, eventually, gone, named, pod
from tests.integration.pod_steps import first_seen, in_phase, latest_version, settled, told

_CLAIMS = "persistentvolumeclaims"
_VOLUMES = "persistentvolumes"
_CLASSES = "storage.k8s.io/v1/storageclasses"


@pytest.fixture
async def volumes(host: Cluster, virtual: Cluster) -> AsyncIterator[str]:
    """Three host volumes in a storage class of their own, which grows: its name."""
    name = f"class-{uuid.uuid4().hex[:8]}"
    asked = named(
        "StorageClass",
        name,
        apiVersion="storage.k8s.io/v1",
        provisioner="kubernetes.io/no-provisioner",
        allowVolumeExpansion=True,
    )
    for side in (host, virtual):
        await side.create(asked)
    for number in range(3):
        spec = {
            "capacity": {"storage": "5Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/tmp/claims"},
            "storageClassName": name,
            "persistentVolumeReclaimPolicy": "Retain",
        }
        await host.create(named("PersistentVolume", f"{name}-{number}", spec=spec))

    async def available() -> None:
        for number in range(3):
            found = await host.get(_VOLUMES, f"{name}-{number}")
            assert found["status"].get("phase") == "Available"

    # A claim that finds none available is not looked at again for 15 s.
    await eventually(available)
    yield name
    for number in range(3):
        await host.delete(_VOLUMES, f"{name}-{number}")
    for side in (host, virtual):
        await side.delete(_CLASSES, name)


def _claim(name: str, namespace: str, storage_class: str, **spec: object) -> Object:
    default = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": storage_class,
    }
    return named("PersistentVolumeClaim", name, namespace, spec=default | spec)


def _mounting(name: str, namespace: str, claim: str) -> Object:
    volume = {"name": "disk", "persistentVolumeClaim": {"claimName": claim}}
    return pod(name, namespace, volumes=[volume])


async def _bound(pair: Pair, name: str, namespace: str) -> tuple[Object, Object]:
    """Wait until a claim is bound on both sides; return them."""

    async def check() -> tuple[Object, Object]:
        virtual = await pair.virtual.get(_CLAIMS, name, namespace)
        host = await pair.copy(_CLAIMS, name, namespace)
        for each in (virtual, host):
            assert each["status"]["phase"] == "Bound", each
        assert virtual["status"] == host["status"]
        return virtual, host

    return await eventually(check)


async def _release(pair: Pair, volume: str) -> None:
    """Let a host volume be claimed again."""
    await pair.host.patch(_VOLUMES, volume, "", {"spec": {"claimRef": None}})


async def test_a_pod_with_a_claim_runs(pair: Pair, namespace: str, volumes: str) -> None:
    """Volume, capacity and binding come back, a fake volume stands for the host's."""
    await pair.virtual.create(_claim("disk", namespace, volumes))
    await pair.virtual.create(_mounting("web", namespace, "disk"))
    await in_phase(pair, "web", namespace)
    virtual, host = await _bound(pair, "disk", namespace)
    name = host["spec"]["volumeName"]
    assert virtual["spec"]["volumeName"] == name
    assert virtual["status"]["capacity"] == {"storage": "5Gi"}
    assert virtual["metadata"]["annotations"]["pv.kubernetes.io/bind-completed"] == "yes"

    async def shown() -> Object:
        found = await pair.virtual.get(_VOLUMES, name)
        assert found["status"]["phase"] == "Bound"
        return found

    fake = await eventually(shown)
    assert fake["metadata"]["labels"][f"{PREFIX}fake-pv"] == "true"
    assert fake["spec"]["claimRef"]["uid"] == virtual["metadata"]["uid"]
    assert fake["spec"]["capacity"] == {"storage": "5Gi"}
    assert "hostPath" not in fake["spec"]
    await settled(pair, namespace, 1, [_CLAIMS, "pods"])
    await pair.virtual.delete("pods", "web", namespace, grace=0)
    await pair.virtual.delete(_CLAIMS, "disk", namespace)
    await gone(lambda: pair.virtual.find(_CLAIMS, "disk", namespace))
    await gone(lambda: pair.find_copy(_CLAIMS, "disk", namespace))
    await gone(lambda: pair.virtual.find(_VOLUMES, name))


async def test_a_claim_grows(pair: Pair, namespace: str, volumes: str) -> None:
    """A larger request goes to the host; the capacity comes back when it is there."""
    await pair.virtual.create(_claim("disk", namespace, volumes))
    _, host = await _bound(pair, "disk", namespace)
    more = {"spec": {"resources": {"requests": {"storage": "7Gi"}}}}
    await pair.virtual.patch(_CLAIMS, "disk", namespace, more)

    async def asked() -> None:
        copy = await pair.copy(_CLAIMS, "disk", namespace)
        assert copy["spec"]["resources"] == more["spec"]["resources"]

    await eventually(asked)
    grown = {"status": {"capacity": {"storage": "7Gi"}}}
    where = (_CLAIMS, host["metadata"]["name"], pair.names.host_namespace)
    await pair.host.patch(*where, grown, subresource="status")

    async def told_back() -> None:
        virtual = await pair.virtual.get(_CLAIMS, "disk", namespace)
        assert virtual["status"]["capacity"] == {"storage": "7Gi"}
        fake = await pair.virtual.get(_VOLUMES, host["spec"]["volumeName"])
        assert fake["spec"]["capacity"] == {"storage": "7Gi"}

    await eventually(told_back)


async def test_a_volume_that_the_tenant_names_is_not_taken(
    pair: Pair, namespace: str, volumes: str
) -> None:
    """`volumeName` and `selector` choose nothing on the host; an event says so."""
    home = pair.names.host_namespace
    since = await latest_version(pair.host, _CLAIMS, home)
    await pair.virtual.create(
        _claim(
            "disk",
            namespace,
            volumes,
            volumeName=f"{volumes}-1",
            selector={"matchLabels": {"a": "b"}},
        )
    )
    made = await first_seen(pair.host, _CLAIMS, home, pair.host_name("disk", namespace), since)
    assert not {"volumeName", "selector"} & made["spec"].keys()
    await told(pair.virtual, namespace, "disk", "spec.volumeName and spec.selector", "SyncWarning")


async def test_data_sources_are_the_tenants(pair: Pair, namespace: str, volumes: str) -> None:
    """A claim to clone is named as its copy, so that nobody else's can be."""
    source = {"kind": "PersistentVolumeClaim", "name": "origin"}
    await pair.virtual.create(_claim("clone", namespace, volumes, dataSource=source))
    copy = await eventually(lambda: pair.copy(_CLAIMS, "clone", namespace))
    host = pair.host_name("origin", namespace)
    for field in ("dataSource", "dataSourceRef"):
        assert (copy["spec"][field]["kind"], copy["spec"][field]["name"]) == (source["kind"], host)


async def test_a_deletion_waits_for_the_pod_on_both_sides(
    pair: Pair, namespace: str, volumes: str
) -> None:
    """Protection holds a used claim's copy and the claim; both go with the pod."""
    await pair.virtual.create(_claim("disk", namespace, volumes))
    await pair.virtual.create(_mounting("web", namespace, "disk"))
    await in_phase(pair, "web", namespace)
    await _bound(pair, "disk", namespace)
    await pair.virtual.delete(_CLAIMS, "disk", namespace)

    async def leaving() -> None:
        for each in (
            await pair.virtual.get(_CLAIMS, "disk", namespace),
            await pair.copy(_CLAIMS, "disk", namespace),
        ):
            assert "deletionTimestamp" in each["metadata"]

    await eventually(leaving)
    await in_phase(pair, "web", namespace)
    await pair.virtual.delete("pods", "web", namespace, grace=0)
    await gone(lambda: pair.find_copy(_CLAIMS, "disk", namespace))
    await gone(lambda: pair.virtual.find(_CLAIMS, "disk", namespace))


async def test_a_copy_that_is_deleted_takes_the_claim_along(
    pair: Pair, namespace: str, volumes: str
) -> None:
    """The data goes with the host's claim: the tenant's claim does not pretend it were there."""
    await pair.virtual.create(_claim("disk", namespace, volumes))
    await pair.virtual.create(_mounting("web", namespace, "disk"))
    await in_phase(pair, "web", namespace)
    _, host = await _bound(pair, "disk", namespace)
    await pair.host.delete(_CLAIMS, host["metadata"]["name"], pair.names.host_namespace)

    async def leaving() -> None:
        virtual = await pair.virtual.get(_CLAIMS, "disk", namespace)
        assert "deletionTimestamp" in virtual["metadata"]

    await eventually(leaving)
    await pair.virtual.delete("pods", "web", namespace, grace=0)
    await gone(lambda: pair.virtual.find(_CLAIMS, "disk", namespace))
    await gone(lambda: pair.find_copy(_CLAIMS, "disk", namespace))


async def test_a_stateful_set_runs_on_its_claims(pair: Pair, namespace: str, volumes: str) -> None:
    """Each replica gets the claim of its template, bound to a volume of its own."""
    mount = {"name": "data", "mountPath": "/data"}
    template = {
        "metadata": {"labels": {"app": "db"}},
        "spec": {"containers": [{"name": "db", "image": "nginx", "volumeMounts": [mount]}]},
    }
    claim = _claim("data", namespace, volumes)
    spec = {
        "replicas": 2,
        "serviceName": "db",
        "selector": {"matchLabels": {"app": "db"}},
        "template": template,
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim["spec"]}],
    }
    await pair.virtual.create(
        named("StatefulSet", "db", namespace, apiVersion="apps/v1", spec=spec)
    )
    await asyncio.gather(*(in_phase(pair, f"db-{each}", namespace) for each in range(2)))
    bound = [await _bound(pair, f"data-db-{each}", namespace) for each in range(2)]
    assert len({host["spec"]["volumeName"] for _, host in bound}) == 2
    await pair.virtual.delete("apps/v1/statefulsets", "db", namespace)
