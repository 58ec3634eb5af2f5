"""Fake volumes: made for the claims that name them, gone with the last."""

from typing import Any

import pytest

from mappers.fake_persistentvolumes import FAKE_PV, KIND
from syncer.engine.plan import Delete
from syncer.objects import Key, Side
from syncer.types import Query

KEY = Key("", "pvc-1")
CLAIMS = Query(Side.VIRTUAL, "persistentvolumeclaims", "volume", "pvc-1")


def claim(name: str = "data", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}"},
        "spec": {
            "volumeName": "pvc-1",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
            **spec,
        },
    }


@pytest.fixture
def volume(world: Any, tools: Any) -> Any:
    """Give the fake volume of one claim, as the virtual server stores it."""
    world.queries[CLAIMS] = [claim(storageClassName="fast")]
    made = tools.created(world.derived(KIND, KEY, None))
    made["metadata"] |= {"uid": "p1", "resourceVersion": "1"}
    made["metadata"]["finalizers"] = ["kubernetes.io/pv-protection"]
    made["status"] = {"phase": "Pending"}
    (update,) = world.derived(KIND, KEY, made)
    assert update.subresource == "status"
    return tools.applied(made, [update], Side.VIRTUAL)


def test_a_settled_volume_is_left_alone(world: Any, volume: Any) -> None:
    """While a claim names it nothing is written."""
    assert world.derived(KIND, KEY, volume) == []


def test_no_claim_no_volume(world: Any) -> None:
    """Nothing is made for a name that no claim has."""
    assert world.derived(KIND, KEY, None) == []


def test_volumes_of_others_are_never_touched(world: Any, volume: Any) -> None:
    """A volume without our label is the tenant's, claimed or not."""
    del volume["metadata"]["labels"][FAKE_PV]
    world.queries[CLAIMS] = [claim(storageClassName="other")]
    assert world.derived(KIND, KEY, volume) == []
    world.queries[CLAIMS] = []
    assert world.derived(KIND, KEY, volume) == []


def test_what_is_made(world: Any, volume: Any) -> None:
    """A volume bound to its claim, with a source that nobody can mount."""
    assert volume["metadata"]["labels"] == {"vcluster.loft.sh/fake-pv": "true"}
    assert volume["status"] == {"phase": "Bound"}
    assert volume["spec"] == {
        "flexVolume": {"driver": "fake"},
        "persistentVolumeReclaimPolicy": "Delete",
        "volumeMode": "Filesystem",
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": "default",
            "name": "data",
            "uid": "uid-data",
        },
        "storageClassName": "fast",
    }


def test_capacity_follows_the_claim(world: Any, tools: Any, volume: Any) -> None:
    """A claim that grew has a volume that grew."""
    larger = {**claim(storageClassName="fast"), "status": {"capacity": {"storage": "2Gi"}}}
    world.queries[CLAIMS] = [larger]
    (update,) = world.derived(KIND, KEY, volume)
    assert update.patch.body["spec"] == {"capacity": {"storage": "2Gi"}}


def test_several_claims_agree_on_one(world: Any, tools: Any) -> None:
    """Whatever the order, the same claim is named: no two passes undo each other."""
    claims = [claim("b"), claim("a")]
    world.queries[CLAIMS] = claims
    first = tools.created(world.derived(KIND, KEY, None))
    world.queries[CLAIMS] = claims[::-1]
    assert tools.created(world.derived(KIND, KEY, None)) == first


def test_a_volume_nobody_names_goes(world: Any, tools: Any, volume: Any) -> None:
    """Released first, since its protection holds a Bound one; then deleted; then left to go."""
    world.queries[CLAIMS] = []
    (update,) = world.derived(KIND, KEY, volume)
    assert update.patch.body["status"] == {"phase": "Released"}
    released = tools.applied(volume, [update], Side.VIRTUAL)
    (delete,) = world.derived(KIND, KEY, released)
    assert isinstance(delete, Delete)
    released["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert world.derived(KIND, KEY, released) == []


def test_a_volume_deleted_by_hand_is_released_with_its_claim(
    world: Any, tools: Any, volume: Any
) -> None:
    """A Bound volume that someone deletes stays until its claim goes, and then is let go."""
    volume["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert world.derived(KIND, KEY, volume) == []
    world.queries[CLAIMS] = []
    (update,) = world.derived(KIND, KEY, volume)
    assert update.patch.body["status"] == {"phase": "Released"}
