"""Labels and annotations of a host pod.

Beside the tenant's own: the virtual values that the downward API shows (host ones would differ),
what the cluster autoscaler and fake nodes have to know of the pod's owner, and the labels of the
pod's namespace, by which selectors of namespaces work on the host.

Invariants:
* the downward values stay as they are when the virtual pod already carries them: it is then the
  copy of a pod of a tenant inside this tenant, whose values are meant;
* what steers a syncer is only ever ours;
* what stands where a token of this very pod is mounted from is never the tenant's.

Source: vcluster v0.16.4 ``pods/translate/translator.go``.
"""

from __future__ import annotations

import json
from typing import Final

from mappers.metadata import host_metadata
from mappers.pods import env, hosts, tokens
from syncer.naming import PREFIX
from syncer.objects import Object
from syncer.types import Context

OWNER_REFERENCES: Final = f"{PREFIX}owner-references"
OWNER_SET_KIND: Final = f"{PREFIX}owner-set-kind"
SCHEDULING_GATES: Final = f"{PREFIX}scheduling-gates"
"""Names of the tenant's gates at creation, comma-separated: those that may be taken away."""

SAFE_TO_EVICT: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict"
DAEMONSET_POD: Final = "cluster-autoscaler.kubernetes.io/daemonset-pod"

_SETS: Final = frozenset({"DaemonSet", "ReplicaSet", "StatefulSet"})
_OWNER_FIELDS: Final = (
    "apiVersion",
    "kind",
    "name",
    "uid",
    "controller",
    "blockOwnerDeletion",
)
_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def pod_metadata(virtual: Object, namespace: Object, host: Object | None, ctx: Context) -> Object:
    """Give labels and annotations of the host pod.

    Args:
        virtual: the virtual pod.
        namespace: its virtual Namespace.
        host: the host pod when it bears a record of scheduling gates, which must last.
        ctx: names and settings.

    Returns:
        ``{"labels": ..., "annotations": ...}`` in host terms.
    """
    metadata = host_metadata(virtual, ctx)
    labels, annotations = metadata["labels"], metadata["annotations"]
    for key, value in (namespace["metadata"].get("labels") or {}).items():
        labels[ctx.names.namespace_label_key(key)] = value
    _add_downward(annotations, virtual)
    _add_owners(annotations, virtual["metadata"].get("ownerReferences") or [])
    if any(key.startswith(tokens.ANNOTATION) for key in annotations):
        for token in tokens.wanted_tokens(virtual):
            annotations.pop(token.annotation, None)
    if hosts.wanted(virtual, ctx.settings):
        annotations[hosts.REWRITTEN] = "true"
    if gates := _gates(virtual, host):
        annotations[SCHEDULING_GATES] = gates
    return metadata


def _add_downward(annotations: dict[str, str], virtual: Object) -> None:
    """Add the values that the downward API shows."""
    metadata = virtual["metadata"]
    annotations.setdefault(env.NAME, metadata["name"])
    annotations.setdefault(env.NAMESPACE, metadata["namespace"])
    annotations.setdefault(env.UID, metadata["uid"])
    account = virtual["spec"].get("serviceAccountName") or ""
    annotations.setdefault(env.SERVICE_ACCOUNT_NAME, account)
    if env.LABELS not in annotations:
        annotations[env.LABELS] = labels_text(metadata.get("labels"))


def labels_text(labels: dict[str, str] | None) -> str:
    """Write labels as the downward API does: sorted lines ``key="value"``.

    Source: https://kubernetes.io/docs/tasks/inject-data-application/
        downward-api-volume-expose-pod-information/
    """
    if not labels:
        return ""
    return "\n".join([f'{key}="{labels[key]}"' for key in sorted(labels)])


def _add_owners(annotations: dict[str, str], owners: list[Object]) -> None:
    """Add what the pod's owners in the virtual cluster mean for its node."""
    controller = next((owner for owner in owners if owner.get("controller")), None)
    if SAFE_TO_EVICT not in annotations:
        annotations[SAFE_TO_EVICT] = "true" if controller else "false"
        if controller and controller.get("kind") == "DaemonSet":
            annotations[DAEMONSET_POD] = "true"
    if not owners:
        return
    annotations[OWNER_REFERENCES] = _encode(
        [{name: owner[name] for name in _OWNER_FIELDS if name in owner} for owner in owners]
    )
    for owner in owners:
        if owner.get("apiVersion") == "apps/v1" and owner.get("kind") in _SETS:
            annotations[OWNER_SET_KIND] = owner["kind"]
            return


def _gates(virtual: Object, host: Object | None) -> str:
    """Give the record of the tenant's scheduling gates: as made at creation."""
    if host is not None:
        recorded = (host["metadata"].get("annotations") or {}).get(SCHEDULING_GATES, "")
        return str(recorded)
    return ",".join(sorted(gate["name"] for gate in virtual["spec"].get("schedulingGates") or ()))
