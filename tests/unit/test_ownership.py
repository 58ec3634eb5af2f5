"""Marks: who owns a host object, and what an update may change on it."""

from typing import Any

import pytest

from syncer import ownership
from syncer.naming import Names
from syncer.objects import Key

NAMES = Names("tenant-1", "host-ns")
OWNER = {"apiVersion": "v1", "kind": "Service", "name": "tenant-1", "uid": "owner-uid"}


def virtual(**metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": "web", "namespace": "default", "uid": "v-uid", **metadata}}


def stamped(**metadata: Any) -> dict[str, Any]:
    return ownership.stamp({"metadata": metadata}, virtual(), NAMES, OWNER)


def test_a_stamped_object_is_ours() -> None:
    """What stamp() marks, virtual_key() recognises."""
    assert Key("default", "web") == ownership.virtual_key(stamped(), NAMES)
    assert ownership.virtual_uid(stamped()) == "v-uid"


def test_a_cluster_scoped_object_has_no_namespaced_marks() -> None:
    """Nor an owner: a namespaced one can't own it, and it would be collected at once."""
    source = {"metadata": {"name": "fast", "uid": "v-uid"}}
    made = ownership.stamp({"metadata": {}}, source, NAMES, OWNER)
    metadata = made["metadata"]
    assert ownership.virtual_key(made, NAMES) == Key("", "fast")
    assert not metadata.get("namespace")
    assert ownership.NAMESPACE not in metadata["labels"]
    assert ownership.OBJECT_NAMESPACE not in metadata["annotations"]
    assert "ownerReferences" not in metadata


def _without_label(host: dict[str, Any]) -> None:
    del host["metadata"]["labels"][ownership.MANAGED_BY]


def _of_another_tenant(host: dict[str, Any]) -> None:
    host["metadata"]["labels"][ownership.MANAGED_BY] = "tenant-2"


def _without_name(host: dict[str, Any]) -> None:
    del host["metadata"]["annotations"][ownership.OBJECT_NAME]


def _other_name(host: dict[str, Any]) -> None:
    host["metadata"]["name"] = "web-x-default-x-tenant-1-abcde"


def _in_another_namespace(host: dict[str, Any]) -> None:
    host["metadata"]["namespace"] = "other"


def _claimed(host: dict[str, Any]) -> None:
    host["metadata"]["labels"][ownership.CONTROLLED_BY] = "someone"


@pytest.mark.parametrize(
    "spoil",
    [
        _without_label,
        _of_another_tenant,
        _without_name,
        _other_name,
        _in_another_namespace,
        _claimed,
    ],
)
def test_any_missing_mark_makes_it_somebody_elses(spoil: Any) -> None:
    """One mark that does not agree is enough to leave an object alone."""
    host = stamped()
    spoil(host)
    assert ownership.virtual_key(host, NAMES) is None


def test_forged_marks_are_overwritten() -> None:
    """A mapper's output can't carry marks of its own."""
    forged = dict.fromkeys(ownership.MARK_ANNOTATIONS, "forged")
    host = stamped(annotations=forged, labels={ownership.MANAGED_BY: "forged"})
    assert Key("default", "web") == ownership.virtual_key(host, NAMES)
    assert "forged" not in host["metadata"]["annotations"].values()


MADE = "2026-01-01T00:00:00Z"
MADE_SECONDS = 1767225600.0


def reserved(**metadata: Any) -> dict[str, Any]:
    host = ownership.reserve({"metadata": metadata}, Key("default", "web"), NAMES, OWNER)
    host["metadata"]["creationTimestamp"] = MADE
    return host


def test_a_reserved_object_is_ours_without_a_uid() -> None:
    """Made before its virtual object, a copy has every mark but the UID, which nobody knows yet."""
    host = reserved(annotations={"note": "x", ownership.OBJECT_UID: "forged"})
    assert Key("default", "web") == ownership.virtual_key(host, NAMES)
    assert ownership.virtual_uid(host) is None
    plain = stamped(annotations={"note": "x"})["metadata"]
    del plain["annotations"][ownership.OBJECT_UID]
    metadata = host["metadata"]
    assert metadata.pop("creationTimestamp") == MADE
    assert metadata["annotations"].pop(ownership.BLOCK_DELETION) == "true"
    assert plain == metadata


@pytest.mark.parametrize(
    ("host", "until"),
    [
        pytest.param(stamped(), None, id="an ordinary copy"),
        pytest.param(
            stamped(annotations={ownership.BLOCK_DELETION: "true"}),
            None,
            id="a mapper's output reserves nothing",
        ),
        pytest.param(reserved(), MADE_SECONDS + 120, id="two minutes by the host's clock"),
    ],
)
def test_a_reservation_ends(host: dict[str, Any], until: float | None) -> None:
    """A copy waits for its virtual object for as long, and for no other reason."""
    assert ownership.reserved_until(host) == until


@pytest.mark.parametrize("spoil", [_of_another_tenant, _other_name, _without_name, _claimed])
def test_a_reservation_makes_nothing_ours(spoil: Any) -> None:
    """Whose a reserved copy is, all its marks say together, as with any other."""
    host = reserved()
    spoil(host)
    assert ownership.virtual_key(host, NAMES) is None


def test_an_adopted_copy_is_as_one_made_in_the_usual_order() -> None:
    """The UID comes, the reservation goes; what others put on it meanwhile stays."""
    host = reserved(annotations={"note": "x"}, labels={NAMES.label_key("app"): "a"})
    host["metadata"]["annotations"]["injected"] = "by a webhook"
    wanted = stamped(annotations={"note": "x"}, labels={NAMES.label_key("app"): "a"})
    ownership.merge_metadata(wanted, host)
    annotations = host["metadata"]["annotations"]
    assert annotations.pop("injected") == "by a webhook"
    del host["metadata"]["creationTimestamp"]
    again = stamped(annotations={"note": "x"}, labels={NAMES.label_key("app"): "a"})
    assert again == host


def test_merging_the_same_changes_nothing() -> None:
    """A host object that has all that is wanted stays as it is, to the byte."""
    host = stamped(labels={NAMES.label_key("app"): "a"}, annotations={"note": "x"})
    before = repr(host)
    ownership.merge_metadata(
        stamped(labels={NAMES.label_key("app"): "a"}, annotations={"note": "x"}), host
    )
    assert before == repr(host)


def test_foreign_keys_stay_and_ours_go() -> None:
    """Three-way: what others put on is kept, what the tenant removed is removed."""
    host = stamped(labels={NAMES.label_key("app"): "a"}, annotations={"note": "x"})
    host["metadata"]["labels"]["injected"] = "by a webhook"
    host["metadata"]["annotations"]["injected"] = "by a controller"
    ownership.merge_metadata(stamped(), host)
    metadata = host["metadata"]
    assert {"injected", ownership.MANAGED_BY, ownership.NAMESPACE} == set(metadata["labels"])
    assert metadata["annotations"]["injected"] == "by a controller"
    assert "note" not in metadata["annotations"]
    assert ownership.MANAGED_ANNOTATIONS not in metadata["annotations"]


def test_a_verbatim_label_is_removed_with_the_tenants() -> None:
    """Labels copied verbatim are recorded by key, so that they can go again."""
    host = stamped(labels={"team": "a"})
    host["metadata"]["labels"]["zone"] = "foreign"
    ownership.merge_metadata(stamped(), host)
    assert "team" not in host["metadata"]["labels"]
    assert host["metadata"]["labels"]["zone"] == "foreign"


def test_a_record_in_another_order_is_no_change() -> None:
    """Objects taken over keep their records of keys when these say the same."""
    host = stamped(annotations={"a": "1", "b": "2"})
    host["metadata"]["annotations"][ownership.MANAGED_ANNOTATIONS] = "b\na"
    before = repr(host)
    ownership.merge_metadata(stamped(annotations={"a": "1", "b": "2"}), host)
    assert before == repr(host)


def test_a_record_alone_is_no_reason_to_write() -> None:
    """Objects taken over without records of keys get them with the next change of a key."""
    host = stamped(annotations={"a": "1"}, labels={"team": "a"})
    for record in (ownership.MANAGED_ANNOTATIONS, ownership.MANAGED_LABELS):
        del host["metadata"]["annotations"][record]
    before = repr(host)
    ownership.merge_metadata(stamped(annotations={"a": "1"}, labels={"team": "a"}), host)
    assert before == repr(host)
    ownership.merge_metadata(stamped(annotations={"a": "2"}, labels={"team": "a"}), host)
    assert host["metadata"]["annotations"][ownership.MANAGED_ANNOTATIONS] == "a"
    assert host["metadata"]["annotations"][ownership.MANAGED_LABELS] == "team"


def test_a_new_owner_uid_is_restamped_and_other_owners_kept() -> None:
    """An owner Service made again gets its objects back; foreign owners stay."""
    host = stamped()
    foreign = {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": "u"}
    host["metadata"]["ownerReferences"] = [foreign, {**OWNER, "uid": "old"}]
    ownership.merge_metadata(stamped(), host)
    assert [foreign, {**OWNER, "controller": False}] == host["metadata"]["ownerReferences"]


def test_tokens_that_vcluster_left_stay() -> None:
    """Its record of managed annotations names them; the host pod still mounts them."""
    host = stamped(annotations={"a/own": "1"})
    annotations = host["metadata"]["annotations"]
    annotations[f"{ownership.TOKEN}abc"] = "secret"
    annotations[ownership.MANAGED_ANNOTATIONS] += f"\n{ownership.TOKEN}abc"
    ownership.merge_metadata(stamped(), host)
    assert host["metadata"]["annotations"][f"{ownership.TOKEN}abc"] == "secret"
    assert "a/own" not in host["metadata"]["annotations"]
