"""The marks on host objects, and what they permit.

A host object is ours when three things agree: its ``managed-by`` label names this tenant, its
annotations name a virtual object, and its own name is the translation of that object's name.
Anything less is somebody else's and is neither changed, deleted nor copied up. (The label alone
is not enough: the host's controllers copy a Service's labels to its Endpoints and slices.)

Marks are always written by us; what a tenant writes under the same keys never crosses.

Keys that we own on an object are recorded on it by name (never by value: values may be secret),
so that a key the tenant removed is removed, and a key that a webhook or a host controller added
is left alone. Objects taken over from vcluster v0.16-v0.19 carry the same records.

Source: vcluster v0.16.4 ``pkg/util/translate`` (marks); threats 10, 11, 12 of docs/security.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from syncer.naming import PREFIX, Names
from syncer.objects import Key, Object, key_of

MANAGED_BY: Final = f"{PREFIX}managed-by"
NAMESPACE: Final = f"{PREFIX}namespace"
OBJECT_NAME: Final = f"{PREFIX}object-name"
OBJECT_NAMESPACE: Final = f"{PREFIX}object-namespace"
OBJECT_UID: Final = f"{PREFIX}object-uid"
MANAGED_ANNOTATIONS: Final = f"{PREFIX}managed-annotations"
MANAGED_LABELS: Final = f"{PREFIX}managed-labels"
CONTROLLED_BY: Final = f"{PREFIX}controlled-by"
SKIP_BACKSYNC: Final = f"{PREFIX}skip-backsync"
BLOCK_DELETION: Final = f"{PREFIX}block-deletion"
"""``true`` on a copy made before its virtual object: see :func:`reserve`."""

RESERVED_SECONDS: Final = 120.0
"""How long a reserved copy waits for its virtual object.

Source: vcluster v0.19.10 ``pkg/controllers/resources/services`` (v0.16 waits for ever).
"""

CHILD_OF: Final = f"{PREFIX}child-of"
"""On host objects without a virtual namesake: the ``plural.group namespace/name`` they serve."""

TOKEN: Final = f"{PREFIX}token-"
"""Start of the annotation keys that hold tokens; whoever renews tokens keeps them."""

MARK_LABELS: Final = frozenset({MANAGED_BY, NAMESPACE})
MARK_ANNOTATIONS: Final = frozenset(
    {
        OBJECT_NAME,
        OBJECT_NAMESPACE,
        OBJECT_UID,
        MANAGED_ANNOTATIONS,
        MANAGED_LABELS,
        BLOCK_DELETION,
    }
)

_OWN_LABELS: Final = (f"{PREFIX}label-", f"{PREFIX}ns-label-")


def annotation(obj: Object, key: str) -> str | None:
    """Give an annotation's value, or ``None``."""
    annotations = obj["metadata"].get("annotations") or {}
    value: str | None = annotations.get(key)
    return value


def virtual_key(host: Object, names: Names) -> Key | None:
    """Say whose copy a host object is.

    Args:
        host: any host object.
        names: the tenant's names.

    Returns:
        The virtual object's key when all marks agree, else ``None``: not ours.
    """
    metadata = host["metadata"]
    annotations = metadata.get("annotations") or {}
    name = annotations.get(OBJECT_NAME)
    if not name or is_excluded(host):
        return None
    key = Key(annotations.get(OBJECT_NAMESPACE, ""), name)
    marker = names.marker if key.namespace else names.cluster_marker
    if (metadata.get("labels") or {}).get(MANAGED_BY) != marker:
        return None
    return key if names.host_key(key) == key_of(host) else None


def is_excluded(obj: Object) -> bool:
    """Say whether another controller of the tenant claims the object (``controlled-by``)."""
    metadata = obj["metadata"]
    return CONTROLLED_BY in (metadata.get("labels") or {}) or CONTROLLED_BY in (
        metadata.get("annotations") or {}
    )


def virtual_uid(host: Object) -> str | None:
    """Give the UID of the virtual object that a copy was made for; ``None`` on v0.7 copies."""
    return annotation(host, OBJECT_UID)


def selector(names: Names) -> str:
    """Give the label selector under which the tenant's namespaced host objects are listed."""
    return f"{MANAGED_BY}={names.marker}"


def stamp(wanted: Object, virtual: Object, names: Names, owner: Object | None) -> Object:
    """Put name, namespace, marks and owner on a wanted host object.

    Args:
        wanted: what the mapper made; its labels and annotations are in host terms. Changed.
        virtual: the virtual object it is a copy of.
        names: the tenant's names.
        owner: the owner reference for namespaced copies, or ``None``. As in vcluster, it says
            ``controller`` when the virtual object has a controller itself.

    Returns:
        ``wanted``.
    """
    source = virtual["metadata"]
    controlled = any(ref.get("controller") for ref in source.get("ownerReferences") or ())
    _mark(wanted, key_of(virtual), names, owner, controlled=controlled)
    wanted["metadata"]["annotations"][OBJECT_UID] = source["uid"]
    return wanted


def reserve(wanted: Object, key: Key, names: Names, owner: Object | None) -> Object:
    """Put all marks on a host object whose virtual object is about to be made, but for its UID.

    Who lets the host decide something first (an address) makes the copy so, and the virtual
    object afterwards, within :data:`RESERVED_SECONDS`. Until then the copy is no orphan; when the
    object is there the engine adopts the copy: it writes the UID and takes the reservation off.

    Args:
        wanted: what the mapper made; its labels and annotations are in host terms. Changed.
        key: of the virtual object to come.
        names: the tenant's names.
        owner: the owner reference for namespaced copies, or ``None``.

    Returns:
        ``wanted``.
    """
    _mark(wanted, key, names, owner, controlled=False)
    wanted["metadata"]["annotations"][BLOCK_DELETION] = "true"
    return wanted


def reserved_until(host: Object) -> float | None:
    """Say until when a copy without virtual object is to be left alone.

    Args:
        host: a host object that is ours, as the host has it.

    Returns:
        Seconds since the epoch by the host's clock, which stamped the copy; ``None``: it is not
        reserved.
    """
    if annotation(host, BLOCK_DELETION) != "true":
        return None
    made = datetime.fromisoformat(host["metadata"]["creationTimestamp"])
    return made.timestamp() + RESERVED_SECONDS


def _mark(
    wanted: Object, key: Key, names: Names, owner: Object | None, *, controlled: bool
) -> None:
    host_key = names.host_key(key)
    metadata = wanted.setdefault("metadata", {})
    labels = dict(metadata.get("labels") or {})
    annotations = dict(metadata.get("annotations") or {})
    for mark in MARK_ANNOTATIONS:
        annotations.pop(mark, None)
    plain = sorted(label for label in labels if not _is_own_label(label))
    managed = sorted(annotations)
    labels[MANAGED_BY] = names.marker if key.namespace else names.cluster_marker
    annotations[OBJECT_NAME] = key.name
    if key.namespace:
        labels[NAMESPACE] = key.namespace
        annotations[OBJECT_NAMESPACE] = key.namespace
    if managed:
        annotations[MANAGED_ANNOTATIONS] = "\n".join(managed)
    if plain:
        annotations[MANAGED_LABELS] = "\n".join(plain)
    metadata["name"] = host_key.name
    if host_key.namespace:
        metadata["namespace"] = host_key.namespace
    metadata["labels"] = labels
    metadata["annotations"] = annotations
    if owner is not None and host_key.namespace:
        metadata["ownerReferences"] = [{**owner, "controller": controlled}]


def merge_metadata(wanted: Object, host: Object) -> None:
    """Bring the labels, annotations and owner of a host object to what is wanted, three-way.

    Keys we own and no longer want go, keys of others stay. The records of owned keys are written
    along with a change, never for their own sake: objects taken over are not changed for them.

    Args:
        wanted: a stamped object.
        host: the host object; changed in place.
    """
    metadata, target = host["metadata"], wanted["metadata"]
    labels: dict[str, str] = dict(metadata.get("labels") or {})
    annotations: dict[str, str] = dict(metadata.get("annotations") or {})
    owned_labels = _lines(annotations.get(MANAGED_LABELS))
    owned_annotations = _lines(annotations.get(MANAGED_ANNOTATIONS))
    for label in [key for key in labels if key in owned_labels or _is_own_label(key)]:
        if label not in target["labels"]:
            del labels[label]
    labels.update(target["labels"])
    for record in (MANAGED_ANNOTATIONS, MANAGED_LABELS):
        if _lines(annotations.get(record)) == _lines(target["annotations"].get(record)):
            target["annotations"].pop(record, None)
            if record in annotations:
                target["annotations"][record] = annotations[record]
    for key in (owned_annotations | MARK_ANNOTATIONS) & annotations.keys():
        if key not in target["annotations"] and not key.startswith(TOKEN):
            del annotations[key]
    annotations.update(target["annotations"])
    if labels != (metadata.get("labels") or {}):
        metadata["labels"] = labels
        metadata["annotations"] = annotations
    elif _unrecorded(annotations) != _unrecorded(metadata.get("annotations") or {}):
        metadata["annotations"] = annotations
    if owners := target.get("ownerReferences"):
        metadata["ownerReferences"] = with_owner(metadata.get("ownerReferences") or [], owners[0])


def _unrecorded(annotations: dict[str, str]) -> dict[str, str]:
    """Give annotations without the records of owned keys."""
    records = (MANAGED_ANNOTATIONS, MANAGED_LABELS)
    return {key: value for key, value in annotations.items() if key not in records}


def with_owner(present: Iterable[Object], owner: Object) -> list[Object]:
    """Replace the reference to the same Service by name, keep those of others.

    Args:
        present: an object's owner references.
        owner: the reference it should have.
    """
    others = [
        ref
        for ref in present
        if (ref.get("kind"), ref.get("name")) != (owner["kind"], owner["name"])
    ]
    same = [ref for ref in present if ref.get("uid") == owner["uid"]]
    return [*others, same[0] if same else owner]


def _is_own_label(key: str) -> bool:
    return key in MARK_LABELS or key.startswith(_OWN_LABELS)


def _lines(text: str | None) -> frozenset[str]:
    return frozenset(text.split("\n")) - {""} if text else frozenset()
