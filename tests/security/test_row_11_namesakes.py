"""Row 11: somebody's host object under a copy's name is neither read, changed nor deleted."""

import asyncio

import pytest

from syncer.naming import PREFIX
from tests.integration.harness import Object, Pair, config_map, named, pod, secret, service
from tests.integration.pod_steps import told

_CLAIM = {
    "accessModes": ["ReadWriteOnce"],
    "resources": {"requests": {"storage": "1Gi"}},
    "storageClassName": "none",
}


def _object(resource: str, name: str, namespace: str) -> Object:
    return {
        "secrets": lambda: secret(name, namespace, {"a": namespace}),
        "configmaps": lambda: config_map(name, namespace, {"a": namespace}),
        "services": lambda: service(name, namespace),
        "pods": lambda: pod(name, namespace),
        "persistentvolumeclaims": lambda: named(
            "PersistentVolumeClaim", name, namespace, spec=_CLAIM
        ),
    }[resource]()


@pytest.mark.parametrize(
    "resource", ["secrets", "configmaps", "services", "pods", "persistentvolumeclaims"]
)
@pytest.mark.parametrize("marks", ["unmarked", "another tenant's", "half of the marks"])
async def test_a_namesake_is_left_alone(
    pair: Pair, namespace: str, resource: str, marks: str
) -> None:
    """Whatever the tenant does with its own object, theirs stays as it was, and unseen."""
    home = pair.names.host_namespace
    host_name = pair.host_name("clash", namespace)
    theirs = _object(resource, host_name, home)
    annotations = {f"{PREFIX}object-name": "clash", f"{PREFIX}object-namespace": namespace}
    if marks == "another tenant's":
        theirs["metadata"] |= {
            "labels": {f"{PREFIX}managed-by": "another"},
            "annotations": annotations,
        }
    elif marks == "half of the marks":
        theirs["metadata"]["annotations"] = annotations
    made = await pair.host.create(theirs)
    mine = _object(resource, "clash", namespace)
    mine["metadata"]["annotations"] = {f"{PREFIX}force-sync": "true"}
    created = await pair.virtual.create(mine)
    event = await told(pair.virtual, namespace, "clash", "unmanaged physical object")
    assert home not in event["message"]
    touch = {"metadata": {"annotations": {"touched": "yes"}}}
    await pair.virtual.patch(resource, "clash", namespace, touch)
    await asyncio.sleep(0.2)
    virtual = await pair.virtual.get(resource, "clash", namespace)
    for field in ("data", "spec"):
        assert virtual.get(field) == created.get(field), "copied up"
    await pair.virtual.delete(resource, "clash", namespace, grace=0)
    await asyncio.sleep(0.3)
    after = await pair.host.get(resource, host_name, home)
    for field in ("data", "spec"):
        if resource != "pods":  # the host's scheduler has a pod to place
            assert after.get(field) == made.get(field)
    for field in ("uid", "labels", "annotations", "deletionTimestamp"):
        assert _without_place(after, field) == _without_place(made, field)
    await pair.host.delete(resource, host_name, home, grace=0)


def _without_place(obj: Object, field: str) -> object:
    """Return a field of the metadata, but for the labels that the host gives a placed pod."""
    value = obj["metadata"].get(field) or {}
    if not isinstance(value, dict):
        return value
    return {key: each for key, each in value.items() if not key.startswith("topology.")}
