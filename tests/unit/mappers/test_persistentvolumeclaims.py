"""Claims: what goes down, what comes back, and what follows when either side goes."""

from typing import Any

import pytest

from mappers.persistentvolumeclaims import BIND_COMPLETED, KIND, volume_of
from syncer.engine.plan import Delete
from syncer.objects import Side
from syncer.types import Refused

BOUND = {BIND_COMPLETED: "yes", "pv.kubernetes.io/bound-by-controller": "yes"}
STATUS = {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}
SPEC = {
    "accessModes": ["ReadWriteOnce"],
    "resources": {"requests": {"storage": "1Gi"}},
    "storageClassName": "fast",
    "volumeMode": "Filesystem",
}


def claim(spec: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    metadata = {"namespace": "default", "name": "data", "uid": "u1", "resourceVersion": "1"}
    metadata |= fields.pop("metadata", {})
    return {"metadata": metadata, "spec": {**SPEC, **(spec or {})}, **fields}


PENDING = claim(status={"phase": "Pending"})
DONE = claim({"volumeName": "pvc-1"}, metadata={"annotations": BOUND}, status=STATUS)


def host_of(world: Any, virtual: dict[str, Any], **fields: Any) -> Any:
    bound = {"spec": {"volumeName": "pvc-1"}, "metadata": {"annotations": BOUND}, "status": STATUS}
    return world.made(KIND, virtual, **(fields or bound))


# -- no-ops ------------------------------------------------------------------------------------


def test_a_pending_pair_is_left_alone(world: Any) -> None:
    """Nothing is written while both wait for a volume."""
    host = host_of(world, PENDING, status={"phase": "Pending"})
    assert world.actions(KIND, PENDING, host) == []


def test_a_bound_pair_is_left_alone(world: Any) -> None:
    """Nothing is written, and nothing told, once both are bound to the same volume."""
    assert world.actions(KIND, DONE, host_of(world, DONE)) == []


# -- to the host -------------------------------------------------------------------------------


def test_what_goes_to_the_host(world: Any) -> None:
    """Listed fields only; neither the volume nor the binding marks, which would make it Lost."""
    metadata = {"annotations": {**BOUND, "note": "x"}}
    virtual = claim({"novelty": 1, "volumeName": "pvc-1"}, metadata=metadata)
    assert world.wanted(KIND, virtual) == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"labels": {}, "annotations": {"note": "x"}},
        "spec": SPEC,
    }


SNAPSHOT = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"}
CLONE = {"kind": "PersistentVolumeClaim", "name": "other"}
POPULATOR = {"apiGroup": "example.com", "kind": "Image", "name": "disk"}


@pytest.mark.parametrize(
    ("source", "skip", "name"),
    [
        pytest.param(CLONE, False, "other-x-default-x-vc", id="claim"),
        pytest.param(SNAPSHOT, False, "s-x-default-x-vc", id="snapshot"),
        pytest.param(POPULATOR, False, "disk-x-default-x-vc", id="populator"),
        pytest.param(POPULATOR, True, "disk", id="populator-untranslated"),
        pytest.param(CLONE, True, "other-x-default-x-vc", id="another-tenants-claim"),
        pytest.param(SNAPSHOT, True, "s-x-default-x-vc", id="another-tenants-snapshot"),
    ],
)
@pytest.mark.parametrize("field", ["dataSource", "dataSourceRef"])
def test_data_sources(
    world: Any, field: str, source: dict[str, str], skip: bool, name: str
) -> None:
    """Threat 17: a data source is the tenant's own; only a populator may stay untranslated."""
    virtual = claim({field: source})
    if skip:
        virtual["metadata"]["annotations"] = {"vcluster.loft.sh/skip-translate": "true"}
    assert world.wanted(KIND, virtual)["spec"][field] == {**source, "name": name}


@pytest.mark.parametrize(
    ("namespace", "refused"),
    [
        pytest.param("default", False, id="own"),
        pytest.param("other", True, id="another"),
        pytest.param("host-ns", True, id="hosts"),
    ],
)
def test_data_sources_of_other_namespaces(world: Any, namespace: str, refused: bool) -> None:
    """Threat 17: a data source outside of the claim's namespace is refused."""
    answer = world.wanted(KIND, claim({"dataSourceRef": {**CLONE, "namespace": namespace}}))
    assert isinstance(answer, Refused) is refused
    if not refused:
        assert "namespace" not in answer["spec"]["dataSourceRef"]


@pytest.mark.parametrize(
    ("virtual", "field"),
    [
        pytest.param(claim(), None, id="nothing"),
        pytest.param(DONE, None, id="bound"),
        pytest.param(claim({"volumeName": "pv-of-another"}), "spec.volumeName", id="volume"),
        pytest.param(
            claim({"selector": {"matchLabels": {"a": "b"}}}), "spec.selector", id="labels"
        ),
    ],
)
def test_host_volumes_cannot_be_chosen(
    world: Any, virtual: dict[str, Any], field: str | None
) -> None:
    """Threat 17: volumeName and selector don't go to the host; an event tells so."""
    assert not {"volumeName", "selector"} & world.wanted(KIND, virtual)["spec"].keys()
    assert [field in notice.message for notice in world.notices(KIND, virtual)] == (
        [True] if field else []
    )


def test_a_claim_grows(world: Any, tools: Any) -> None:
    """A larger request is all that is sent."""
    host = host_of(world, DONE)
    larger = tools.merged(DONE, {"spec": {"resources": {"requests": {"storage": "2Gi"}}}})
    (update,) = world.actions(KIND, larger, host)
    assert update.patch.body["spec"] == {"resources": {"requests": {"storage": "2Gi"}}}


# -- back --------------------------------------------------------------------------------------


def test_the_binding_comes_back(world: Any, tools: Any) -> None:
    """Volume, annotations and status come back in two writes: the object and its status."""
    actions = world.actions(KIND, PENDING, host_of(world, PENDING))
    assert [action.subresource for action in actions] == ["", "status"]
    bound = tools.applied(PENDING, actions, Side.VIRTUAL)
    assert bound["spec"]["volumeName"] == "pvc-1"
    assert bound["metadata"]["annotations"] == BOUND
    assert bound["status"] == STATUS
    assert world.actions(KIND, bound, host_of(world, bound)) == []


def test_conditions_are_told_in_the_tenants_names(world: Any, tools: Any) -> None:
    """A message about the host's claim names the tenant's."""
    condition = {"type": "Resizing", "status": "True", "message": "host-ns/data-x-default-x-vc"}
    fields = {
        "spec": {"volumeName": "pvc-1"},
        "metadata": {"annotations": BOUND},
        "status": {**STATUS, "conditions": [condition]},
    }
    actions = world.actions(KIND, DONE, host_of(world, DONE, **fields))
    (told,) = tools.applied(DONE, actions, Side.VIRTUAL)["status"]["conditions"]
    assert told["message"] == "default/data"


def test_a_volume_that_differs_is_told(world: Any, tools: Any) -> None:
    """Nothing is destroyed or renamed: the tenant reads which volume the data is on."""
    other = tools.merged(DONE, {"spec": {"volumeName": "pv-chosen"}})
    actions = world.actions(KIND, other, host_of(world, other))
    assert tools.writes(actions) == []
    assert tools.told(actions) == ["VolumeNameDiffers"]


# -- when either side goes -----------------------------------------------------------------------


def test_a_bound_claim_whose_copy_vanished_is_lost(world: Any, tools: Any) -> None:
    """No new, empty volume is handed out silently: phase Lost and a Warning."""
    actions = world.actions(KIND, DONE, None)
    lost = tools.applied(DONE, actions, Side.VIRTUAL)
    assert lost["status"] == {**STATUS, "phase": "Lost"}
    assert tools.told(actions) == ["ClaimLost"]
    assert tools.writes(world.actions(KIND, lost, None)) == []


@pytest.mark.parametrize(
    "virtual", [PENDING, claim({"volumeName": "pv-chosen"})], ids=["pending", "volume-chosen"]
)
def test_a_claim_that_was_never_bound_is_made_again(
    world: Any, tools: Any, virtual: dict[str, Any]
) -> None:
    """There was no data to lose, so the copy is simply made."""
    created = tools.created(tools.writes(world.actions(KIND, virtual, None)))
    assert created["metadata"]["name"] == "data-x-default-x-vc"


def test_a_leaving_host_claim_takes_the_virtual_one_along(world: Any) -> None:
    """A host claim that terminates deletes the virtual claim, with the same grace."""
    host = host_of(world, DONE)
    host["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    host["metadata"]["deletionGracePeriodSeconds"] = 0
    (delete, *_) = world.actions(KIND, DONE, host)
    assert isinstance(delete, Delete)
    assert (delete.side, delete.uid, delete.grace) == (Side.VIRTUAL, "u1", 0)


def test_a_claim_made_again_keeps_the_hosts(world: Any) -> None:
    """Another UID restamps the copy: its volume is not thrown away."""
    host = host_of(world, DONE)
    again = claim(metadata={"uid": "u2"})
    (update, *_) = world.actions(KIND, again, host)
    body = update.patch.body
    assert body["metadata"]["annotations"] == {"vcluster.loft.sh/object-uid": "u2"}


def test_claims_are_found_by_their_volume() -> None:
    """The index holds the volume that a claim names."""
    assert volume_of(DONE) == ("pvc-1",)
    assert volume_of(PENDING) == ()
