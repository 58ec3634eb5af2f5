"""Labels and annotations of a copy: what every mapper to the host starts from.

Invariants:
* label keys are translated, so that no tenant's selector can pick another tenant's objects;
* a key that steers a syncer never crosses, whatever the tenant wrote under it;
* the virtual object is not changed and shares nothing that is written to later.

Never here: name, namespace, marks and owner, which :func:`syncer.ownership.stamp` puts on.
"""

from __future__ import annotations

from typing import Final

from syncer import ownership
from syncer.naming import PREFIX
from syncer.objects import Object
from syncer.types import Context

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
"""A full copy of the tenant's object, secrets included; never leaves the virtual cluster."""

STEERING: Final = (
    ownership.MARK_ANNOTATIONS
    | {ownership.CONTROLLED_BY, ownership.SKIP_BACKSYNC, ownership.CHILD_OF}
    | {ownership.MANAGED_BY}
    | {
        f"{PREFIX}{name}"
        for name in (
            "belongs-to",
            "host-ip",
            "host-ips",
            "host-pv",
            "host-volumesnapshotcontent",
            "lock",
            "original-taints",
            "owner-references",
            "owner-set-kind",
            "scheduling-gates",
        )
    }
)
"""Annotation keys that tell a syncer what to do; only ever written by us.

Not among them: ``name``, ``namespace``, ``uid``, ``labels``, ``service-account-name`` and
``token-*``, which a tenant inside a tenant puts on its pods for the downward API, and the
switches meant for users (``force-sync``, ``skip-translate``, ``disable-subdomain-rewrite``).
"""

_NEVER: Final = STEERING | {LAST_APPLIED}


def host_metadata(virtual: Object, ctx: Context, ignored: frozenset[str] = frozenset()) -> Object:
    """Give the labels and annotations that a host copy gets from the tenant.

    Args:
        virtual: the virtual object.
        ctx: names of the tenant.
        ignored: annotation keys that don't cross for this kind.

    Returns:
        ``{"labels": ..., "annotations": ...}``: fresh dicts, in host terms.

    Source: vcluster v0.16.4 ``pkg/util/translate`` (``TranslateMetadata``, label keys).
    """
    metadata = virtual["metadata"]
    if metadata.get("namespace"):
        labels = ctx.names.labels(metadata.get("labels"))
    else:
        labels = _cluster_labels(metadata.get("labels"), ctx)
    annotations = metadata.get("annotations")
    if not annotations:
        return {"labels": labels, "annotations": {}}
    never = _NEVER | ignored if ignored else _NEVER
    return {
        "labels": labels,
        "annotations": {key: value for key, value in annotations.items() if key not in never},
    }


def _cluster_labels(labels: dict[str, str] | None, ctx: Context) -> dict[str, str]:
    """Translate the labels of a cluster-scoped object."""
    result: dict[str, str] = {}
    for key, value in (labels or {}).items():
        result[ctx.names.cluster_label_key(key)] = value
        if not key.startswith(PREFIX) and ctx.names.is_synced_label(key):
            result[key] = value
    return result
