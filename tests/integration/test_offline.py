"""What changed while no syncer ran is put right by the next one: nothing relies on having seen it.

Each test stops the one syncer, changes either cluster, starts it and looks.
"""

import uuid
from collections.abc import AsyncIterator

import pytest

from syncer.naming import PREFIX
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    Tenant,
    boot_pair,
    config_map,
    eventually,
    gone,
    named,
    pod,
    secret,
    service,
)
from tests.integration.pod_steps import in_phase, told

_CLAIMS = "persistentvolumeclaims"
_FORCED = {f"{PREFIX}force-sync": "true"}


@pytest.fixture(scope="module")
async def own(host: Cluster, worker_name: str) -> AsyncIterator[Pair]:
    """A pair whose syncer these tests stop and start."""
    async with boot_pair(host, Tenant(f"offline-{worker_name}")) as booted:
        yield booted


@pytest.fixture
async def space(own: Pair) -> AsyncIterator[str]:
    """A new virtual namespace; the syncer runs again after the test, however it ended."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    await own.virtual.create(named("Namespace", name))
    await eventually(lambda: own.virtual.get("serviceaccounts", "default", name))
    yield name
    await own.syncer.start()
    await own.virtual.delete("namespaces", name)


async def test_changes_and_deletions_are_caught_up(own: Pair, space: str) -> None:
    """Made, changed and deleted objects on the virtual side, touched ones on the host."""
    names = ("changed", "deleted", "touched", "lost", "renewed")
    for name in names:
        await own.virtual.create(config_map(name, space, {"a": "1"}, annotations=_FORCED))
    before = {}
    for name in names:
        before[name] = await _copy(own, "configmaps", name, space)
    assert await own.syncer.stop() == 0
    await own.virtual.patch("configmaps", "changed", space, {"data": {"a": "2"}})
    await own.virtual.delete("configmaps", "deleted", space)
    await own.virtual.delete("configmaps", "renewed", space)
    renewed = config_map("renewed", space, {"a": "3"}, annotations=_FORCED)
    await own.virtual.create(renewed)
    await own.virtual.create(config_map("made", space, {"a": "4"}, annotations=_FORCED))
    home = own.names.host_namespace
    await own.host.patch(
        "configmaps", own.host_name("touched", space), home, {"data": {"a": "5", "b": "6"}}
    )
    await own.host.delete("configmaps", own.host_name("lost", space), home)
    await own.syncer.start()

    async def check() -> None:
        found = {
            each["metadata"]["annotations"][f"{PREFIX}object-name"]: each
            for each in await own.copies("configmaps", space)
        }
        assert {name: each["data"]["a"] for name, each in found.items()} == {
            "changed": "2",
            "touched": "1",
            "lost": "1",
            "renewed": "3",
            "made": "4",
        }
        assert "b" not in found["touched"]["data"]
        for name in ("changed", "touched"):
            assert found[name]["metadata"]["uid"] == before[name]["metadata"]["uid"]
        assert found["renewed"]["metadata"]["uid"] != before["renewed"]["metadata"]["uid"]

    await eventually(check)


async def _copy(own: Pair, resource: str, name: str, space: str) -> Object:
    return await eventually(lambda: own.copy(resource, name, space))


async def test_a_claim_whose_copy_vanished_is_lost_until_it_is_made_again(
    own: Pair, space: str
) -> None:
    """Phase Lost and a Warning, no empty disk under the old name; a new claim gets a new one."""
    storage = f"class-{space}"
    volume = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "hostPath": {"path": "/tmp/claims"},
        "storageClassName": storage,
    }
    for each in ("first", "second"):
        await own.host.create(named("PersistentVolume", f"{each}-{space}", spec=volume))
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": storage,
    }
    claim = named("PersistentVolumeClaim", "disk", space, spec=spec)
    await own.virtual.create(claim)
    await _in_claim_phase(own, space, "Bound")
    first = await own.virtual.get(_CLAIMS, "disk", space)
    assert await own.syncer.stop() == 0
    copy = await own.copy(_CLAIMS, "disk", space)
    where = (_CLAIMS, copy["metadata"]["name"], own.names.host_namespace)
    await own.host.delete(*where)
    await gone(lambda: own.host.find(*where))
    await own.syncer.start()
    await _in_claim_phase(own, space, "Lost")
    event = await told(own.virtual, space, "disk", "its data is lost", "ClaimLost")
    assert event["type"] == "Warning"
    assert await own.host.find(*where) is None
    await own.virtual.delete(_CLAIMS, "disk", space)
    await gone(lambda: own.virtual.find(_CLAIMS, "disk", space))
    await own.virtual.create(claim)
    await _in_claim_phase(own, space, "Bound")
    second = await own.virtual.get(_CLAIMS, "disk", space)
    assert second["spec"]["volumeName"] != first["spec"]["volumeName"]
    for each in ("first", "second"):
        await own.host.delete("persistentvolumes", f"{each}-{space}")


async def _in_claim_phase(own: Pair, space: str, phase: str) -> None:
    async def check() -> None:
        found = await own.virtual.get(_CLAIMS, "disk", space)
        assert found["status"].get("phase") == phase

    await eventually(check)


async def test_a_service_that_was_made_again_keeps_its_copy(own: Pair, space: str) -> None:
    """Another object under the same name takes the copy over; addresses agree again."""
    await own.virtual.create(service("web", space))
    before = await _copy(own, "services", "web", space)
    assert await own.syncer.stop() == 0
    await own.virtual.delete("services", "web", space)
    made = await own.virtual.create(service("web", space, port=81))
    await own.syncer.start()

    async def check() -> None:
        copy = await own.copy("services", "web", space)
        assert copy["metadata"]["uid"] == before["metadata"]["uid"]
        assert copy["metadata"]["annotations"][f"{PREFIX}object-uid"] == made["metadata"]["uid"]
        virtual = await own.virtual.get("services", "web", space)
        assert virtual["metadata"]["uid"] == made["metadata"]["uid"]
        assert virtual["spec"]["clusterIP"] == copy["spec"]["clusterIP"]
        assert [port["port"] for port in copy["spec"]["ports"]] == [81]

    await eventually(check)


async def test_a_pod_that_ended_meanwhile_is_reported(own: Pair, space: str) -> None:
    """A copy deleted behind the syncer's back: the running virtual pod is gone too, and its node's.

    A pod that the tenant deleted meanwhile goes on both sides, with its secrets.
    """
    await own.virtual.create(secret("used", space, {"a": "b"}))
    volume = {"name": "secret", "secret": {"secretName": "used"}}
    for name in ("lost", "deleted", "kept"):
        await own.virtual.create(pod(name, space, volumes=[volume]))
    for name in ("lost", "deleted", "kept"):
        await in_phase(own, name, space)
    kept = await own.copy("pods", "kept", space)
    assert await own.syncer.stop() == 0
    await own.host.delete("pods", own.host_name("lost", space), own.names.host_namespace, grace=0)
    await own.virtual.delete("pods", "deleted", space, grace=0)
    await own.syncer.start()
    await gone(lambda: own.virtual.find("pods", "lost", space))
    await gone(lambda: own.find_copy("pods", "deleted", space))
    await gone(lambda: own.find_copy("secrets", "deleted-sa-token", space))
    after = await own.copy("pods", "kept", space)
    assert after["metadata"]["uid"] == kept["metadata"]["uid"]
    await in_phase(own, "kept", space)
