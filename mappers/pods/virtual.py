"""What comes back from the host pod: its node and its status.

Invariants:
* the virtual pod is bound only to a Node that exists there (a pod on an unknown node is
  deleted by the virtual cluster's garbage collector);
* the status shows the tenant's containers, images, volumes and names only, and the address of
  the virtual Node instead of the host's;
* a status that differs in times of conditions only is the same: nothing is written;
* fields that the virtual API server is too old to keep are not sent, again and again.

Source: vcluster v0.16.4 ``pods/syncer.go``, v0.19 (addresses of fake nodes); Kubernetes API
    reference, PodStatus; kubernetes/kubernetes ``status.qosClass`` (immutable).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from mappers.pods import conditions
from mappers.pods.placement import node_ref
from syncer.naming import hide_host_names
from syncer.objects import Object, key_of
from syncer.types import Blocked, Context, Gone, OnHostGone

PASSED: Final = frozenset(
    {
        "allocatedResources",
        "message",
        "phase",
        "podIP",
        "podIPs",
        "reason",
        "resize",
        "resources",
        "startTime",
    }
)
"""Status fields that come back as they are (texts with host names put back)."""

BUILT: Final = frozenset(
    {
        "conditions",
        "containerStatuses",
        "ephemeralContainerStatuses",
        "hostIP",
        "hostIPs",
        "initContainerStatuses",
        "observedGeneration",
    }
)
"""Status fields that come back in virtual terms."""

KEPT: Final = frozenset({"nominatedNodeName", "qosClass"})
"""Status fields of the virtual pod that the host doesn't touch: immutable, or its scheduler's."""

DROPPED: Final = frozenset(
    {
        "extendedResourceClaimStatus",
        "nodeAllocatableResourceClaimStatuses",
        "resourceClaimStatuses",
    }
)
"""Status fields about the host's device claims."""

_STATUS_SINCE: Final = {"allocatedResources": 36, "observedGeneration": 34, "resources": 36}
_CONDITION_SINCE: Final = {"observedGeneration": 34}
_CONTAINER_SINCE: Final = {
    "allocatedResources": 33,
    "allocatedResourcesStatus": 36,
    "resources": 33,
    "user": 33,
}
"""Fields of a status, its conditions and its containers, by the minor version of Kubernetes 1
since which API servers keep them (unless set up otherwise): those of the oldest supported on."""

_BY_RUNTIME: Final = frozenset({"ContainerCannotRun", "StartError"})
"""Reasons of a termination whose message is the container runtime's, not the container's."""

_KEEPS_ALL: Final = max(
    *_STATUS_SINCE.values(), *_CONDITION_SINCE.values(), *_CONTAINER_SINCE.values()
)
_VERSION: Final = re.compile(r"v1\.(\d+)")

_STATUSES: Final = (
    ("initContainerStatuses", "initContainers"),
    ("containerStatuses", "containers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
)


def to_virtual(virtual: Object, host: Object | None, ctx: Context) -> Object | Blocked | Gone:
    """Give the virtual pod with the host pod's node and status.

    Args:
        virtual: the virtual pod; not changed.
        host: its host copy.
        ctx: with the virtual Node of the host pod.

    Returns:
        The wanted virtual pod, :class:`Blocked` while its Node is missing, or
        :class:`Gone` when it claims another node than the one it runs on.
    """
    if host is None:
        return virtual
    spec = virtual["spec"]
    node_name = host["spec"].get("nodeName")
    own_node = spec.get("nodeName")
    node: Object | None = None
    if node_name:
        ref = node_ref(node_name)
        node = ctx.objects.get(ref)
        if own_node and own_node != node_name:
            return Gone(f"is on node {own_node}, its host copy on {node_name}")
        if not own_node:
            if node is None:
                return Blocked(f"waiting for Node {node_name}", on=ref)
            spec = {**spec, "nodeName": node_name}
    status = virtual_status(virtual, host, node, ctx)
    before = virtual.get("status") or {}
    if spec is not virtual["spec"] and _unscheduled(status) == _unscheduled(before):
        status = before  # the Binding says that much itself
    return {**virtual, "spec": spec, "status": status}


def _unscheduled(status: Object) -> Object:
    """Give a status without what it says of scheduling."""
    others = [item for item in status.get("conditions") or () if item["type"] != "PodScheduled"]
    return {**status, "conditions": others}


def virtual_status(virtual: Object, host: Object, node: Object | None, ctx: Context) -> Object:
    """Translate the host pod's status.

    Args:
        virtual: the virtual pod.
        host: its host copy.
        node: the virtual Node it runs on, if there is one.
        ctx: names and settings.
    """
    given: Object = host.get("status") or {}
    before: Object = virtual.get("status") or {}
    clean = _cleaner(virtual, host, ctx)
    generation = conditions.Generations(virtual, host, pending=ctx.pending)
    status = {key: value for key, value in given.items() if key in PASSED}
    if "message" in status:
        status["message"] = clean(status["message"])
    for key in KEPT & before.keys():
        status[key] = before[key]
    _add_conditions(status, given, before, generation, clean)
    volumes = frozenset(volume["name"] for volume in virtual["spec"].get("volumes") or ())
    for statuses, containers in _STATUSES:
        if items := given.get(statuses):
            own = {item["name"]: item for item in virtual["spec"].get(containers) or ()}
            shown = [
                _container_status(item, own[item["name"]], volumes, ctx, clean)
                for item in items
                if item["name"] in own
            ]
            if shown:
                status[statuses] = shown
    _add_host_address(status, given, node)
    generation.translate(given, status, before)
    _drop_unkept(status, _minor(ctx.server_version))
    return status


@lru_cache(maxsize=16)
def _minor(version: str) -> int | None:
    """Give the minor version of a server of Kubernetes 1; ``None`` when it isn't known."""
    match = _VERSION.match(version)
    return int(match[1]) if match else None


def _drop_unkept(status: Object, minor: int | None) -> None:
    """Drop what a virtual API server of that version would drop.

    Source: Kubernetes ``pkg/api/pod.dropDisabledPodStatusFields`` and
    ``pkg/features/kube_features.go`` (1.36).
    """
    if minor is None or minor >= _KEEPS_ALL:
        return
    for name in _unkept(_STATUS_SINCE, minor) & status.keys():
        del status[name]
    in_containers = ((statuses, _CONTAINER_SINCE) for statuses, _ in _STATUSES)
    for field, since in (("conditions", _CONDITION_SINCE), *in_containers):
        if (items := status.get(field)) and (unkept := _unkept(since, minor)):
            status[field] = [
                {key: value for key, value in item.items() if key not in unkept} for item in items
            ]


def _unkept(since: Mapping[str, int], minor: int) -> frozenset[str]:
    return frozenset(name for name, first in since.items() if minor < first)


def _add_conditions(
    status: Object,
    given: Object,
    before: Object,
    generation: conditions.Generations,
    clean: Callable[[str], str],
) -> None:
    """Merge conditions into ``status``; messages with host names put back first."""
    host = [
        {**condition, "message": clean(condition["message"])}
        if condition.get("message")
        else condition
        for condition in given.get("conditions") or ()
    ]
    merged = conditions.on_virtual(host, before.get("conditions") or (), generation)
    if merged:
        status["conditions"] = merged


def _container_status(
    given: Object,
    container: Object,
    volumes: frozenset[str],
    ctx: Context,
    clean: Callable[[str], str],
) -> Object:
    """Translate one container's status; shares what is unchanged.

    Args:
        given: the host's.
        container: the virtual container.
        volumes: names of the virtual pod's volumes; mounts of others are ours or the host's.
        ctx: the map of images.
        clean: puts virtual names into a text.
    """
    changed: Object = {}
    image = container.get("image")
    if image in ctx.settings.translate_image:
        changed["image"] = image
    if mounts := given.get("volumeMounts"):
        shown = [mount for mount in mounts if mount.get("name") in volumes]
        if len(shown) != len(mounts):
            changed["volumeMounts"] = shown
    for key in ("state", "lastState"):
        for name, state in (given.get(key) or {}).items():
            if not (state or {}).get("message"):
                continue
            if name == "waiting" or state.get("reason") in _BY_RUNTIME:
                text = clean(state["message"])
                changed[key] = {**given[key], name: {**state, "message": text}}
    return {**given, **changed} if changed else given


def _add_host_address(status: Object, given: Object, node: Object | None) -> None:
    """Show the address of the virtual Node, never the host's; none when that has none."""
    addresses = ((node or {}).get("status") or {}).get("addresses") or ()
    shown = [address["address"] for address in addresses if address["type"] == "InternalIP"]
    if given.get("hostIP") and shown:
        status["hostIP"] = shown[0]
        if given.get("hostIPs"):
            status["hostIPs"] = [{"ip": address} for address in shown]


def _cleaner(virtual: Object, host: Object, ctx: Context) -> Callable[[str], str]:
    """Give a function that says a message of the host's in the tenant's names.

    Texts of the containers themselves (termination messages) are not passed here.
    """
    names, host_uid = ctx.names, host["metadata"].get("uid", "")
    known = {host["metadata"].get("name", ""): key_of(virtual)}

    def clean(text: str) -> str:
        if host_uid and host_uid in text:
            text = text.replace(host_uid, virtual["metadata"]["uid"])
        return hide_host_names(text, names, known)

    return clean


def binding(virtual: Object, wanted: Object) -> Object:
    """Build the Binding that puts a virtual pod on its node, and only this very pod.

    Args:
        virtual: the pod as it is.
        wanted: the pod as wanted, with its ``nodeName``.

    Source: Kubernetes API reference, Binding (``metadata.uid`` is a precondition).
    """
    metadata: dict[str, Any] = virtual["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {key: metadata[key] for key in ("name", "namespace", "uid")},
        "target": {"apiVersion": "v1", "kind": "Node", "name": wanted["spec"]["nodeName"]},
    }


def on_host_gone(virtual: Object) -> OnHostGone:
    """Say what follows when the host pod was deleted by someone else.

    A pod that had started is gone, as it would be after a node failure: its controller makes
    another. One that had not is made again.
    """
    started = (virtual.get("status") or {}).get("startTime")
    return OnHostGone.DELETE_VIRTUAL if started else OnHostGone.RECREATE
