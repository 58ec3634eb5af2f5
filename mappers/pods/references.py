"""The fields of a pod that name objects of its namespace, as one table, and the walk over it.

The table is used for renaming here, for the needed-by indexes of the engine, for the docs and
for the tests that look for leaks. Two names can't be a row and are code: the claim of a generic
ephemeral volume (:func:`claims`) and the service account (its own rule in the package).

Invariant: the walk never changes what it is given; it copies what it changes and the way to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from mappers.pods.fields import CONTAINER_LISTS
from syncer.types import Object, Reference

_CONTAINER: Final = (
    ("env[].valueFrom.configMapKeyRef.name", "configmaps"),
    ("env[].valueFrom.secretKeyRef.name", "secrets"),
    ("envFrom[].configMapRef.name", "configmaps"),
    ("envFrom[].secretRef.name", "secrets"),
)
_VOLUME: Final = (
    ("configMap.name", "configmaps"),
    ("projected.sources[].configMap.name", "configmaps"),
    ("secret.secretName", "secrets"),
    ("projected.sources[].secret.name", "secrets"),
    ("azureFile.secretName", "secrets"),
    ("cephfs.secretRef.name", "secrets"),
    ("cinder.secretRef.name", "secrets"),
    ("csi.nodePublishSecretRef.name", "secrets"),
    ("flexVolume.secretRef.name", "secrets"),
    ("iscsi.secretRef.name", "secrets"),
    ("rbd.secretRef.name", "secrets"),
    ("scaleIO.secretRef.name", "secrets"),
    ("storageos.secretRef.name", "secrets"),
    ("persistentVolumeClaim.claimName", "persistentvolumeclaims"),
    ("glusterfs.endpoints", "endpoints"),
)

SERVICE_ACCOUNT: Final = Reference("spec.serviceAccountName", "serviceaccounts")
"""Indexed like the rows, renamed by its own rule: the host account is a setting by default."""

RENAMED: Final = (
    *(
        Reference(f"spec.{containers}[].{path}", target)
        for containers in CONTAINER_LISTS
        for path, target in _CONTAINER
    ),
    *(Reference(f"spec.volumes[].{path}", target) for path, target in _VOLUME),
    Reference("spec.imagePullSecrets[].name", "secrets"),
)
"""The rows whose names are translated one for one."""

REFERENCES: Final = (*RENAMED, SERVICE_ACCOUNT)
"""Every field of a pod that names an object of its namespace."""


def claim_name(pod_name: str, volume_name: str) -> str:
    """Give the name of the claim that is made for a generic ephemeral volume.

    Source: https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/, "naming".
    """
    return f"{pod_name}-{volume_name}"


def claims(pod: Object) -> Iterable[str]:
    """Index a pod by its claims, those of generic ephemeral volumes among them.

    Returns:
        Keys, ``namespace/name``.
    """
    metadata = pod["metadata"]
    namespace = metadata.get("namespace", "")
    for volume in pod["spec"].get("volumes") or ():
        if claim := volume.get("persistentVolumeClaim"):
            yield f"{namespace}/{claim['claimName']}"
        elif "ephemeral" in volume:
            yield f"{namespace}/{claim_name(metadata['name'], volume['name'])}"


_Tree: TypeAlias = dict[str, tuple[bool, "_Tree | None"]]
"""Step -> (walks a list, what is below or ``None`` at a name)."""


def _tree(rows: Iterable[Reference]) -> _Tree:
    """Fold paths into one tree, so that a spec is walked once for all rows."""
    root: _Tree = {}
    for row in rows:
        here = root
        *way, last = row.path.split(".")[1:]
        for step in way:
            below = here.setdefault(step.removesuffix("[]"), (step.endswith("[]"), {}))[1]
            here = below if below is not None else {}
        here[last] = (False, None)
    return root


_SPEC: Final = _tree(RENAMED)


def renamed(spec: Object, rename: Callable[[str], str]) -> Object:
    """Translate every name of the table in a pod spec.

    Args:
        spec: a pod's ``spec``; not changed.
        rename: gives the host name for a name in the pod's namespace.

    Returns:
        ``spec`` itself when it names nothing, else a copy that shares what is unchanged.
    """
    return _walk(spec, _SPEC, rename)


def _walk(value: Object, tree: _Tree, rename: Callable[[str], str]) -> Object:
    result = value
    for step in tree.keys() & value.keys():
        inner = value[step]
        if not inner:
            continue
        is_list, below = tree[step]
        new: Any
        if below is None:
            new = rename(inner)
        elif is_list:
            new = _walk_list(inner, below, rename)
        else:
            new = _walk(inner, below, rename)
        if new is not inner:
            if result is value:
                result = dict(value)
            result[step] = new
    return result


def _walk_list(items: list[Object], tree: _Tree, rename: Callable[[str], str]) -> list[Object]:
    new = [_walk(item, tree, rename) for item in items]
    changed = any(a is not b for a, b in zip(new, items, strict=True))
    return new if changed else items
