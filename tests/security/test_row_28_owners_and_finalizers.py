"""Row 28: a tenant's owners and finalizers neither block nor cause deletions on the host."""

import pytest

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

_FINALIZER = "example.com/never"
_CLAIM = {
    "accessModes": ["ReadWriteOnce"],
    "resources": {"requests": {"storage": "1Gi"}},
    "storageClassName": "none",
}


def _object(resource: str, namespace: str) -> Object:
    return {
        "secrets": lambda: secret("held", namespace, {"a": "b"}),
        "configmaps": lambda: config_map("held", namespace, {"a": "b"}),
        "services": lambda: service("held", namespace),
        "pods": lambda: pod("held", namespace),
        "persistentvolumeclaims": lambda: named(
            "PersistentVolumeClaim", "held", namespace, spec=_CLAIM
        ),
    }[resource]()


@pytest.mark.parametrize(
    "resource", ["secrets", "configmaps", "services", "pods", "persistentvolumeclaims"]
)
async def test_owners_and_finalizers_stay_inside(pair: Pair, namespace: str, resource: str) -> None:
    """The copy is owned by our Service alone and goes at once, while the tenant's is held."""
    home = pair.names.host_namespace
    own = await pair.host.get("services", pair.names.tenant, home)
    owner = await pair.virtual.create(config_map("owner", namespace, {}))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner"}
    reference |= {"uid": owner["metadata"]["uid"]}
    asked = _object(resource, namespace)
    asked["metadata"] |= {
        "annotations": {f"{PREFIX}force-sync": "true"},
        "finalizers": [_FINALIZER],
        "ownerReferences": [reference | {"blockOwnerDeletion": True, "controller": True}],
    }
    await pair.virtual.create(asked)
    copy = await eventually(lambda: pair.copy(resource, "held", namespace))
    assert _FINALIZER not in (copy["metadata"].get("finalizers") or [])
    [found] = copy["metadata"]["ownerReferences"]
    assert (found["kind"], found["uid"]) == ("Service", own["metadata"]["uid"])
    assert "blockOwnerDeletion" not in found
    await pair.virtual.delete(resource, "held", namespace, grace=1)
    await gone(lambda: pair.find_copy(resource, "held", namespace))
    held = await pair.virtual.get(resource, "held", namespace)
    assert "deletionTimestamp" in held["metadata"]
    await pair.virtual.patch(resource, "held", namespace, {"metadata": {"finalizers": None}})
    await gone(lambda: pair.virtual.find(resource, "held", namespace))
