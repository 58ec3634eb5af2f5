"""The host secret that holds a tenant's kubeconfig: what it should be, and what it takes.

The secret is the virtual cluster's when its annotation :data:`KUBECONFIG_OF` says so. One that
vcluster wrote is taken over: it is ``Opaque``, has exactly the four keys, and either its owner is
our owner Service, or it has none but Services and the CA in it is that of our virtual cluster. Any
other secret of that name is somebody else's and stays as it is.

It carries no label of ours: it is no copy of anything, and the engine neither lists nor removes it.

Never holds a decision about a secret that was deleted and made again: each change carries UID and
resource version.

Source: vcluster v0.16.4 ``pkg/util/kubeconfig`` (names and keys).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Final

from syncer.kubeconfig.document import Kubeconfig, certificates
from syncer.naming import PREFIX
from syncer.objects import Key, Object, Resource, key_of
from syncer.ownership import annotation, with_owner

SECRETS: Final = Resource("", "v1", "secrets", "Secret")

KUBECONFIG_OF: Final = f"{PREFIX}kubeconfig-of"
"""Annotation: the syncer's ``namespace/name`` whose kubeconfig this is."""

CONFIG: Final = "config"
AUTHORITY: Final = "certificate-authority"
CERTIFICATE: Final = "client-certificate"
PRIVATE_KEY: Final = "client-key"
KEYS: Final = frozenset({CONFIG, AUTHORITY, CERTIFICATE, PRIVATE_KEY})


@dataclass(frozen=True, slots=True)
class Create:
    """There is none: make it.

    Attributes:
        body: all of it.
    """

    body: Object


@dataclass(frozen=True, slots=True)
class Change:
    """It differs.

    Attributes:
        patch: merge patch with UID and resource version.
        what: what differs, by the name of key or field.
    """

    patch: Object
    what: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """It can't be written.

    Attributes:
        reason: one line for operators: why, and what to do.
        wait: it is only being deleted.
    """

    reason: str
    wait: bool = False


def secret_name(tenant: str) -> str:
    """Name the secret that holds a virtual cluster's kubeconfig."""
    return f"vc-{tenant}"


def secret(key: Key, kubeconfig: Kubeconfig, *, of: Key, owner: Object | None) -> Object:
    """Give the secret as it should be.

    Args:
        key: where it is.
        kubeconfig: what it holds; without a certificate, those keys are there and empty.
        of: the syncer's own namespace and the virtual cluster's name.
        owner: the owner reference, or ``None``.
    """
    data = {
        CONFIG: kubeconfig.text().encode(),
        AUTHORITY: kubeconfig.authority,
        CERTIFICATE: kubeconfig.certificate,
        PRIVATE_KEY: kubeconfig.key,
    }
    metadata: Object = {
        "name": key.name,
        "namespace": key.namespace,
        "annotations": {KUBECONFIG_OF: str(of)},
    }
    if owner is not None:
        metadata["ownerReferences"] = [{**owner, "controller": False}]
    return {
        "apiVersion": SECRETS.api_version,
        "kind": SECRETS.kind,
        "metadata": metadata,
        "type": "Opaque",
        "data": {name: b64encode(value).decode() for name, value in data.items()},
    }


def decide(found: Object | None, wanted: Object) -> Create | Change | Leave | None:
    """Say what it takes to bring the host's secret to what is wanted.

    Args:
        found: the host's, ``None`` if there is none.
        wanted: what :func:`secret` gave.

    Returns:
        What to do; ``None`` when nothing. Keys, annotations and owners that others added stay.
    """
    if found is None:
        return Create(wanted)
    metadata = found["metadata"]
    if "deletionTimestamp" in metadata:
        return Leave(f"secret {key_of(found)} is being deleted", wait=True)
    if not _is_ours(found, wanted):
        return Leave(_foreign(found, wanted))
    return _change(found, wanted)


def _change(found: Object, wanted: Object) -> Change | None:
    metadata = found["metadata"]
    changed: Object = {}
    mark = annotation(wanted, KUBECONFIG_OF)
    if annotation(found, KUBECONFIG_OF) != mark:
        changed["annotations"] = {KUBECONFIG_OF: mark}
    present = metadata.get("ownerReferences") or []
    for owner in wanted["metadata"].get("ownerReferences") or ():
        if (owners := with_owner(present, owner)) != present:
            changed["ownerReferences"] = owners
    data = found.get("data") or {}
    differing = {name: text for name, text in wanted["data"].items() if data.get(name) != text}
    if not changed and not differing:
        return None
    identity = {key: metadata[key] for key in ("uid", "resourceVersion")}
    patch: Object = {"metadata": {**identity, **changed}}
    if differing:
        patch["data"] = differing
    return Change(patch, (*changed, *differing))


def _is_ours(found: Object, wanted: Object) -> bool:
    if found.get("type") != wanted["type"]:
        return False
    mark = annotation(found, KUBECONFIG_OF)
    if mark is not None:
        return mark == annotation(wanted, KUBECONFIG_OF)
    data = found.get("data") or {}
    if data.keys() != KEYS:
        return False
    owners = found["metadata"].get("ownerReferences") or []
    ours = wanted["metadata"].get("ownerReferences") or []
    if owners and {owner.get("uid") for owner in owners} == {owner["uid"] for owner in ours}:
        return True
    authority = _authority(found)
    same = bool(authority) and authority == _authority(wanted)
    return same and all(owner.get("kind") == "Service" for owner in owners)


def _authority(holder: Object) -> bytes:
    return certificates(b64decode(holder["data"][AUTHORITY]))


def _foreign(found: Object, wanted: Object) -> str:
    key, mark = key_of(found), annotation(found, KUBECONFIG_OF)
    whose = f"that of virtual cluster {mark}" if mark else "not ours"
    if mark == annotation(wanted, KUBECONFIG_OF):
        whose = f"of type {found.get('type')}, not {wanted['type']},"
    return (
        f"secret {key} is {whose} and stays as it is; the kubeconfig is written once it is gone: "
        f"kubectl -n {key.namespace} delete secret {key.name}"
    )
