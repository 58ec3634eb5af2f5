"""Row 12: marks that a tenant writes on its objects mean nothing on the host."""

import asyncio

import pytest

from mappers.metadata import STEERING
from syncer import ownership
from syncer.naming import PREFIX
from tests.integration.harness import (
    Object,
    Pair,
    config_map,
    eventually,
    gone,
    named,
    pod,
    secret,
    service,
)

_FORGED = "forged-by-the-tenant"
_ALL = sorted(
    STEERING
    | ownership.MARK_ANNOTATIONS
    | {ownership.MANAGED_BY, ownership.NAMESPACE, ownership.CONTROLLED_BY}
)
_CLAIM = {
    "accessModes": ["ReadWriteOnce"],
    "resources": {"requests": {"storage": "1Gi"}},
    "storageClassName": "none",
}


def _objects(namespace: str) -> dict[str, Object]:
    subsets = [{"addresses": [{"ip": "10.99.6.1"}], "ports": [{"port": 80}]}]
    return {
        "secrets": secret("forged", namespace, {"a": "b"}),
        "configmaps": config_map("forged", namespace, {"a": "b"}),
        "services": service("forged", namespace, selector=None),
        "endpoints": named("Endpoints", "forged", namespace, subsets=subsets),
        "pods": pod("forged", namespace),
        "persistentvolumeclaims": named("PersistentVolumeClaim", "forged", namespace, spec=_CLAIM),
    }


async def test_forged_marks_are_dropped(pair: Pair, namespace: str) -> None:
    """Each mark as label and annotation on each kind: the copy has ours alone, and goes with it."""
    excluded = {ownership.CONTROLLED_BY}  # as a label it excludes an object from syncing, by design
    marks = {key: _FORGED for key in _ALL if key not in excluded}
    objects = _objects(namespace)
    made = {}
    for resource, asked in objects.items():
        asked["metadata"]["labels"] = dict(marks)
        # As an annotation this one is no mark: pods show it to tenants inside of tenants.
        mere = {key: value for key, value in marks.items() if key != ownership.NAMESPACE}
        asked["metadata"]["annotations"] = mere | {f"{PREFIX}force-sync": "true"}
        made[resource] = await pair.virtual.create(asked)
    for resource in objects:
        await _check(pair, namespace, resource, made[resource])
    await pair.virtual.delete("pods", "forged", namespace, grace=0)
    for resource in objects:
        await pair.virtual.delete(resource, "forged", namespace)
    await asyncio.gather(*(_gone(pair, namespace, resource) for resource in objects))


async def _check(pair: Pair, namespace: str, resource: str, made: Object) -> None:
    copy = await eventually(lambda: pair.copy(resource, "forged", namespace))
    metadata = copy["metadata"]
    assert metadata["labels"][ownership.MANAGED_BY] == pair.names.tenant
    assert metadata["labels"][ownership.NAMESPACE] == namespace
    annotations = metadata["annotations"]
    assert annotations[ownership.OBJECT_NAME] == "forged"
    assert annotations[ownership.OBJECT_NAMESPACE] == namespace
    assert annotations[ownership.OBJECT_UID] == made["metadata"]["uid"]
    text = f"{PREFIX}labels"  # what the downward API shows a pod of its own labels
    assert [key for key, value in annotations.items() if _FORGED in value and key != text] == []
    labels = {key for key, value in metadata["labels"].items() if value == _FORGED}
    assert all(key.startswith(f"{PREFIX}label-") for key in labels), (
        "hashed, so they select nothing"
    )


async def _gone(pair: Pair, namespace: str, resource: str) -> None:
    await gone(lambda: pair.find_copy(resource, "forged", namespace))


@pytest.mark.parametrize("mark", ["skip-backsync", "block-deletion"])
async def test_a_mark_does_not_keep_a_copy_alive(pair: Pair, namespace: str, mark: str) -> None:
    """What tells a syncer to leave a host object behind never crosses."""
    annotations = {f"{PREFIX}{mark}": "true", f"{PREFIX}force-sync": "true"}
    await pair.virtual.create(secret("stays", namespace, {}, annotations=annotations))
    await eventually(lambda: pair.copy("secrets", "stays", namespace))
    await pair.virtual.delete("secrets", "stays", namespace)
    await gone(lambda: pair.find_copy("secrets", "stays", namespace))
