"""ConfigMaps, when a pod uses them.

Direction: virtual to host.
Host name: ``NAME-x-NAMESPACE-x-TENANT``.
Rewritten: nothing but labels and annotations.
Read back: nothing.
Never copied: a config map that no virtual pod of its namespace names, unless its annotation
    ``vcluster.loft.sh/force-sync`` is ``true`` or ``--sync-all-configmaps`` is set; the host
    copy goes with the last use. ``kube-root-ca.crt`` follows the same rule.
Source: vcluster v0.16.4 ``pkg/controllers/resources/configmaps``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mappers.metadata import host_metadata
from syncer.naming import PREFIX
from syncer.objects import Key, Object, Resource, Side, key_of
from syncer.types import Context, Direction, Kind, Need, Query, Skip, Trigger

FORCE_SYNC: Final = f"{PREFIX}force-sync"
"""Annotation by which a tenant asks for a copy of a config map or secret that nothing uses."""

_FIELDS: Final = ("data", "binaryData", "immutable")


def users(resource: str, key: Key) -> Query:
    """Name the virtual pods that use an object.

    Args:
        resource: ``configmaps`` or ``secrets``: the index that the pods' references make.
        key: the virtual object.
    """
    return Query(Side.VIRTUAL, "pods", resource, str(key))


def is_forced(virtual: Object) -> bool:
    """Say whether the tenant asks for a copy whether it is used or not."""
    annotations = virtual["metadata"].get("annotations") or {}
    return bool(annotations.get(FORCE_SYNC) == "true")


def _related(source: Object, _copy: Object | None, _ctx: Context) -> Iterable[Need]:
    return (users("configmaps", key_of(source)),)


def _to_host(virtual: Object, ctx: Context) -> Object | Skip:
    used = ctx.settings.sync_all_configmaps or is_forced(virtual)
    if not used and not ctx.queries.get(users("configmaps", key_of(virtual))):
        return Skip("no pod uses it")
    fields: Object = {name: virtual[name] for name in _FIELDS if name in virtual}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": host_metadata(virtual, ctx),
        **fields,
    }


KIND = Kind(
    name="configmaps",
    resource=Resource("", "v1", "configmaps", "ConfigMap"),
    direction=Direction.TO_HOST,
    component="configmap-syncer",
    related=_related,
    to_host=_to_host,
    mutable=_FIELDS,
    triggers=(Trigger(Side.VIRTUAL, "pods", "configmaps"),),
)
