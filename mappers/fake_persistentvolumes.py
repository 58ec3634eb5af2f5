"""PersistentVolumes that stand in for the host's, which a tenant doesn't see.

Direction: made in the virtual cluster, for each volume that a claim names.
Host name: none; nothing is written on the host.
Rewritten: nothing.
Read back: capacity, access modes, volume mode and storage class of the claim.
Never copied: everything of the host's volume; the source is a FlexVolume driver ``fake``.
Source: vcluster v0.16.4 ``pkg/controllers/resources/persistentvolumes/fake_syncer.go``;
    Kubernetes ``pkg/controller/volume/pvprotection`` (a volume's finalizer goes when the volume
    is deleted and its phase is not Bound).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mappers.persistentvolumeclaims import VOLUME_INDEX
from syncer.naming import PREFIX
from syncer.objects import Key, Object, Resource, Side
from syncer.types import Context, Direction, Kind, Need, Part, Query, Skip, Trigger

FAKE_PV: Final = f"{PREFIX}fake-pv"
"""Label on the volumes that are ours."""

_ANNOTATIONS: Final = {
    "kubernetes.io/createdby": "fake-pv-provisioner",
    "pv.kubernetes.io/bound-by-controller": "true",
    "pv.kubernetes.io/provisioned-by": "fake-pv-provisioner",
}


def _claims(name: str) -> Query:
    return Query(Side.VIRTUAL, "persistentvolumeclaims", VOLUME_INDEX, name)


def _related(source: Object, _copy: Object | None, _ctx: Context) -> Iterable[Need]:
    return (_claims(source["metadata"]["name"]),)


def is_fake(virtual: Object) -> bool:
    """Say whether a virtual volume is one of ours."""
    return (virtual["metadata"].get("labels") or {}).get(FAKE_PV) == "true"


def _derive(key: Key, virtual: Object | None, ctx: Context) -> Object | Skip:
    claims = ctx.queries.get(_claims(key.name)) or ()
    if not claims:
        return _release(virtual)
    claim = min(claims, key=_order)
    volume = virtual if virtual is not None else _fresh(key.name, claim)
    spec = volume["spec"]
    spec["capacity"] = _capacity(claim)
    spec["accessModes"] = claim["spec"].get("accessModes") or []
    spec["claimRef"] = {**(spec.get("claimRef") or {}), **_claim_ref(claim)}
    if storage_class := claim["spec"].get("storageClassName"):
        spec["storageClassName"] = storage_class
    volume["status"] = {**(volume.get("status") or {}), "phase": "Bound"}
    return volume


def _release(virtual: Object | None) -> Object | Skip:
    """Say that a volume nobody names should go.

    Its protection holds on while its phase is Bound, so that changes first.
    """
    if virtual is None:
        return Skip("no claim names the volume")
    status = virtual.get("status") or {}
    if status.get("phase") == "Bound":
        virtual["status"] = {**status, "phase": "Released"}
        return virtual
    return virtual if "deletionTimestamp" in virtual["metadata"] else Skip("released")


def _order(claim: Object) -> tuple[str, str]:
    """Prefer the same claim always, when several name the volume."""
    return claim["metadata"]["namespace"], claim["metadata"]["name"]


def _fresh(name: str, claim: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {FAKE_PV: "true"}, "annotations": dict(_ANNOTATIONS)},
        "spec": {
            "flexVolume": {"driver": "fake"},
            "persistentVolumeReclaimPolicy": "Delete",
            "volumeMode": claim["spec"].get("volumeMode", "Filesystem"),
        },
    }


def _capacity(claim: Object) -> Object:
    capacity: Object = (claim.get("status") or {}).get("capacity") or (
        claim["spec"].get("resources") or {}
    ).get("requests", {})
    return {name: value for name, value in capacity.items() if name == "storage"}


def _claim_ref(claim: Object) -> Object:
    metadata = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
    }


KIND = Kind(
    name="fake-persistentvolumes",
    resource=Resource("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False),
    direction=Direction.DERIVED,
    component="fake-persistent-volume-syncer",
    related=_related,
    derive=_derive,
    derived_mark=is_fake,
    virtual_parts=(Part("status", ("status.phase",)),),
    triggers=(Trigger(Side.VIRTUAL, "persistentvolumeclaims", VOLUME_INDEX, any_change=True),),
    mirror_deletion=True,
)
