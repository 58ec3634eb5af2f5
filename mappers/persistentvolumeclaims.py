"""PersistentVolumeClaims.

Direction: virtual to host, binding and status back; deletion both ways.
Host name: ``NAME-x-NAMESPACE-x-TENANT``.
Rewritten: names in ``dataSource`` and ``dataSourceRef``, unless the annotation
    ``vcluster.loft.sh/skip-translate`` is ``true`` and what is named is neither a claim nor a
    snapshot (those could be another tenant's).
Read back: ``volumeName``, status, the annotations ``pv.kubernetes.io/bind-completed``,
    ``pv.kubernetes.io/bound-by-controller``, ``volume.beta.kubernetes.io/storage-provisioner``.
    A bound claim whose host copy is gone gets phase ``Lost`` and an event; nothing is made anew
    until the tenant makes the claim anew. A volume that differs is told, nothing is destroyed.
Never copied: ``volumeName`` and ``selector``, which name host volumes (with an event). Refused:
    a data source in another namespace.
Source: vcluster v0.16.4 ``pkg/controllers/resources/persistentvolumeclaims``; Kubernetes API,
    PersistentVolumeClaim v1.
"""

from __future__ import annotations

from typing import Final

from mappers.metadata import host_metadata
from syncer.naming import PREFIX, Names, hide_host_names
from syncer.objects import Object, Resource, key_of
from syncer.types import Context, Direction, Kind, Notice, OnHostGone, Part, Refused

VOLUME_INDEX: Final = "volume"
"""Index on virtual claims: the volume they name."""

SKIP_TRANSLATE: Final = f"{PREFIX}skip-translate"

BIND_COMPLETED: Final = "pv.kubernetes.io/bind-completed"
FROM_HOST: Final = (
    BIND_COMPLETED,
    "pv.kubernetes.io/bound-by-controller",
    "volume.beta.kubernetes.io/storage-provisioner",
)
"""Annotations that the host's volume controllers write."""

IGNORED_ANNOTATIONS: Final = frozenset(
    {
        *FROM_HOST,
        "volume.kubernetes.io/storage-provisioner",
        "pv.kubernetes.io/migrated-to",
        "volume.kubernetes.io/storage-resizer",
    }
)

_SPEC: Final = (
    "accessModes",
    "resources",
    "volumeMode",
    "storageClassName",
    "volumeAttributesClassName",
)
_STATUS: Final = (
    "phase",
    "accessModes",
    "capacity",
    "allocatedResources",
    "allocatedResourceStatuses",
    "currentVolumeAttributesClassName",
    "modifyVolumeStatus",
)
_TENANTS_OWN: Final = frozenset({"PersistentVolumeClaim", "VolumeSnapshot"})
"""Kinds of data sources that hold tenants' data in the shared namespace."""


# -- to the host -------------------------------------------------------------------------------


def _to_host(virtual: Object, ctx: Context) -> Object | Refused:
    spec = virtual["spec"]
    wanted: Object = {name: spec[name] for name in _SPEC if name in spec}
    if "resources" in wanted:
        wanted["resources"] = {
            name: wanted["resources"][name]
            for name in ("requests", "limits")
            if name in wanted["resources"]
        }
    for field in ("dataSource", "dataSourceRef"):
        if source := spec.get(field):
            if source.get("namespace", namespace := virtual["metadata"]["namespace"]) != namespace:
                return Refused(
                    f"the claim is not synced: spec.{field}.namespace {source['namespace']!r} is "
                    f"not the claim's own, {namespace!r}"
                )
            wanted[field] = _host_source(source, virtual, ctx.names)
    _tell_stripped(virtual, ctx)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": host_metadata(virtual, ctx, IGNORED_ANNOTATIONS),
        "spec": wanted,
    }


def _host_source(source: Object, virtual: Object, names: Names) -> Object:
    result: Object = {name: source[name] for name in ("apiGroup", "kind", "name") if name in source}
    annotations = virtual["metadata"].get("annotations") or {}
    kept = annotations.get(SKIP_TRANSLATE) == "true" and source.get("kind") not in _TENANTS_OWN
    if not kept:
        result["name"] = names.host_name(source.get("name", ""), virtual["metadata"]["namespace"])
    return result


def _tell_stripped(virtual: Object, ctx: Context) -> None:
    spec = virtual["spec"]
    bound = BIND_COMPLETED in (virtual["metadata"].get("annotations") or {})
    stripped = [
        f"spec.{field}"
        for field in ("volumeName", "selector")
        if spec.get(field) and not (bound and field == "volumeName")
    ]
    if stripped:
        ctx.notices.append(
            Notice(
                "SyncWarning",
                f"{' and '.join(stripped)} can't choose a volume of the host; it provides one "
                "for the storage class (volumes are not synced: --sync=persistentvolumes)",
            )
        )


# -- back --------------------------------------------------------------------------------------


def _to_virtual(virtual: Object, host: Object | None, ctx: Context) -> Object:
    if host is None:
        return _lost(virtual, ctx)
    _take_annotations(virtual, host)
    volume, named = host["spec"].get("volumeName"), virtual["spec"].get("volumeName")
    if volume and not named:
        virtual["spec"]["volumeName"] = volume
    elif volume and named != volume:
        ctx.notices.append(
            Notice(
                "VolumeNameDiffers",
                f"the claim names volume {named} but its data is on {volume}; nothing was "
                "changed: to take that volume, delete the claim and make it without volumeName",
            )
        )
    virtual["status"] = _status(virtual, host, ctx.names)
    return virtual


def _lost(virtual: Object, ctx: Context) -> Object:
    """Report a bound claim whose host copy vanished, as the volume controller would."""
    status = virtual.get("status") or {}
    ctx.notices.append(
        Notice(
            "ClaimLost",
            "the host's claim was deleted and its data is lost; delete this claim and make it "
            "again to get an empty volume",
        )
    )
    virtual["status"] = {**status, "phase": "Lost"}
    return virtual


def _take_annotations(virtual: Object, host: Object) -> None:
    theirs = host["metadata"].get("annotations") or {}
    before = virtual["metadata"].get("annotations") or {}
    after = {name: value for name, value in before.items() if name not in FROM_HOST}
    after |= {name: theirs[name] for name in FROM_HOST if name in theirs}
    if after != before:
        virtual["metadata"]["annotations"] = after


def _status(virtual: Object, host: Object, names: Names) -> Object:
    before, theirs = virtual.get("status") or {}, host.get("status") or {}
    status = {name: value for name, value in before.items() if name not in _STATUS}
    status.pop("conditions", None)
    status |= {name: theirs[name] for name in _STATUS if name in theirs}
    if conditions := theirs.get("conditions"):
        known = {host["metadata"]["name"]: key_of(virtual)}
        status["conditions"] = [
            {**condition, "message": hide_host_names(condition["message"], names, known)}
            if condition.get("message")
            else condition
            for condition in conditions
        ]
    return status


def _on_host_gone(virtual: Object) -> OnHostGone:
    """A claim that was bound had data: making it again would hand out an empty volume."""
    return OnHostGone.REPORT if _is_bound(virtual) else OnHostGone.RECREATE


def _is_bound(virtual: Object) -> bool:
    annotations = virtual["metadata"].get("annotations") or {}
    return bool(virtual["spec"].get("volumeName") and BIND_COMPLETED in annotations)


def volume_of(virtual: Object) -> tuple[str, ...]:
    """Index a claim by the volume it names."""
    volume = virtual["spec"].get("volumeName")
    return (volume,) if volume else ()


KIND = Kind(
    name="persistentvolumeclaims",
    resource=Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    direction=Direction.TO_HOST,
    component="persistent-volume-claim-syncer",
    to_host=_to_host,
    mutable=("spec.resources.requests.storage", "spec.volumeAttributesClassName?"),
    to_virtual=_to_virtual,
    virtual_parts=(Part("status", ("status",)),),
    indexers={VOLUME_INDEX: volume_of},
    on_host_gone=_on_host_gone,
    mirror_deletion=True,
    graceful=True,
    restamp=True,
    ignored_annotations=IGNORED_ANNOTATIONS,
)
