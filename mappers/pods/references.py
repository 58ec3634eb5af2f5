"""The fields of a pod that name objects of its namespace, as one table, and the walk over it.

The table is used for renaming here, for the needed-by indexes of the engine, for the docs and
for the tests that look for leaks. Two names can't be a row and are code: the claim of a generic
ephemeral volume (:func:`claims`) and the service account (its own rule in the package).

Invariant: no walk changes what it is given; :func:`renamed` copies what it changes and the way to
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeAlias

from mappers.pods.fields import CONTAINER_LISTS
from syncer.objects import Object
from syncer.types import Reference

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

PULL_SECRETS: Final = Reference("spec.imagePullSecrets[].name", "secrets")
"""Kubelets go without those that are missing."""

RENAMED: Final = (
    *(
        Reference(f"spec.{containers}[].{path}", target)
        for containers in CONTAINER_LISTS
        for path, target in _CONTAINER
    ),
    *(Reference(f"spec.volumes[].{path}", target) for path, target in _VOLUME),
    PULL_SECRETS,
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


_Tree: TypeAlias = dict[str, tuple[bool, "_Tree | Reference"]]
"""Step -> (walks a list, what is below or, at a name, its row)."""


def _tree(rows: Iterable[Reference]) -> _Tree:
    """Fold paths into one tree, so that a spec is walked once for all rows."""
    root: _Tree = {}
    for row in rows:
        here = root
        *way, last = row.path.split(".")[1:]
        for step in way:
            below = here.setdefault(step.removesuffix("[]"), (step.endswith("[]"), {}))[1]
            here = {} if isinstance(below, Reference) else below
        here[last] = (False, row)
    return root


_SPEC: Final = _tree(RENAMED)
_CREATED: Final = _tree(row for row in RENAMED if "ephemeralContainers" not in row.path)
_EPHEMERAL: Final = _tree(row for row in RENAMED if "ephemeralContainers" in row.path)


class Mention(NamedTuple):
    """One place where a pod names an object.

    Attributes:
        target: full name of the resource.
        name: in the pod's namespace.
        optional: whether the pod runs without that object.
        made: whether the object is made because of the pod: the claim of an ephemeral volume.
    """

    target: str
    name: str
    optional: bool = False
    made: bool = False


def mentions(virtual: Object, longest: int) -> list[Mention]:
    """Find the long names that a pod holds from its creation on.

    Args:
        virtual: a virtual pod; its ephemeral containers are left out: they are added later.
        longest: in characters; names up to it are left out.
    """
    found: list[Mention] = []
    spec = virtual["spec"]
    _find(spec, _CREATED, longest, found)
    for volume in spec.get("volumes") or ():
        if "ephemeral" in volume:
            name = claim_name(virtual["metadata"]["name"], volume["name"])
            if len(name) > longest:
                found.append(Mention("persistentvolumeclaims", name, made=True))
    return found


def ephemeral_mentions(container: Object, longest: int) -> list[Mention]:
    """Find the long names that an ephemeral container holds; as :func:`mentions`."""
    found: list[Mention] = []
    _find({"ephemeralContainers": [container]}, _EPHEMERAL, longest, found)
    return found


def _find(value: Object, tree: _Tree, longest: int, found: list[Mention]) -> None:
    for step in tree.keys() & value.keys():
        inner = value[step]
        if not inner:
            continue
        is_list, below = tree[step]
        if isinstance(below, Reference):
            if len(inner) > longest:
                optional = below is PULL_SECRETS or value.get("optional") is True
                found.append(Mention(below.target, inner, optional))
        elif is_list:
            for item in inner:
                _find(item, below, longest, found)
        else:
            _find(inner, below, longest, found)


def renamed(spec: Object, rename: Callable[[str, str], str]) -> Object:
    """Translate every name of the table in a pod spec.

    Args:
        spec: a pod's ``spec``; not changed.
        rename: gets a name in the pod's namespace and the full name of its resource; gives the
            host name.

    Returns:
        ``spec`` itself when it names nothing, else a copy that shares what is unchanged.
    """
    return _walk(spec, _SPEC, rename)


def _walk(value: Object, tree: _Tree, rename: Callable[[str, str], str]) -> Object:
    result = value
    for step in tree.keys() & value.keys():
        inner = value[step]
        if not inner:
            continue
        is_list, below = tree[step]
        new: Any
        if isinstance(below, Reference):
            new = rename(inner, below.target)
        elif is_list:
            new = _walk_list(inner, below, rename)
        else:
            new = _walk(inner, below, rename)
        if new is not inner:
            if result is value:
                result = dict(value)
            result[step] = new
    return result


def _walk_list(items: list[Object], tree: _Tree, rename: Callable[[str, str], str]) -> list[Object]:
    new = [_walk(item, tree, rename) for item in items]
    changed = any(a is not b for a, b in zip(new, items, strict=True))
    return new if changed else items
