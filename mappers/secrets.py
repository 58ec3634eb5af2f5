"""Secrets, when a pod uses them.

Direction: virtual to host.
Host name: ``NAME-x-NAMESPACE-x-TENANT``.
Rewritten: the type ``kubernetes.io/service-account-token`` becomes ``Opaque``, or the host's
    token controller would fill or delete the copy.
Read back: nothing.
Never copied: a secret that no virtual pod of its namespace names, unless its annotation
    ``vcluster.loft.sh/force-sync`` is ``true`` or ``--sync-all-secrets`` is set; the host copy
    goes with the last use.
Source: vcluster v0.16.4 ``pkg/controllers/resources/secrets``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mappers.configmaps import is_forced, users
from mappers.metadata import host_metadata
from syncer import ownership
from syncer.objects import Object, Resource, Side, key_of
from syncer.types import Context, Direction, Kind, Need, Skip, Trigger

CHILD_OF_INDEX: Final = "child-of"
"""Index on host secrets: the virtual pod (``namespace/name``) that a secret of ours serves."""

_TOKEN_TYPE: Final = "kubernetes.io/service-account-token"  # noqa: S105 - a type, no secret
_MUTABLE: Final = ("data", "immutable")


def _related(source: Object, _copy: Object | None, _ctx: Context) -> Iterable[Need]:
    return (users("secrets", key_of(source)),)


def _to_host(virtual: Object, ctx: Context) -> Object | Skip:
    used = ctx.settings.sync_all_secrets or is_forced(virtual)
    if not used and not ctx.queries.get(users("secrets", key_of(virtual))):
        return Skip("no pod uses it")
    kind = virtual.get("type", "Opaque")
    fields: Object = {name: virtual[name] for name in _MUTABLE if name in virtual}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": host_metadata(virtual, ctx),
        "type": "Opaque" if kind == _TOKEN_TYPE else kind,
        **fields,
    }


def child_of_pod(host: Object) -> tuple[str, ...]:
    """Index a host secret by the virtual pod it was made for.

    Args:
        host: a host secret.

    Returns:
        The pod's key as text; nothing for copies of virtual secrets, on which the mark means
        nothing, and for objects that are not ours.
    """
    metadata = host["metadata"]
    annotations = metadata.get("annotations") or {}
    if ownership.OBJECT_NAME in annotations or not (metadata.get("labels") or {}).get(
        ownership.MANAGED_BY
    ):
        return ()
    resource, _, key = annotations.get(ownership.CHILD_OF, "").partition(" ")
    return (key,) if resource == "pods" and key else ()


KIND = Kind(
    name="secrets",
    resource=Resource("", "v1", "secrets", "Secret"),
    direction=Direction.TO_HOST,
    component="secret-syncer",
    related=_related,
    to_host=_to_host,
    mutable=_MUTABLE,
    triggers=(Trigger(Side.VIRTUAL, "pods", "secrets"),),
    host_indexers={CHILD_OF_INDEX: child_of_pod},
)
