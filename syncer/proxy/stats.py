"""A kubelet's ``/stats/summary`` in the tenant's terms and of its own pods only.

Pure: bytes in, bytes out. Of each part only the listed members are kept, and in those only the
listed figures and times: what kubelets to come add is left out until it is decided on here.

Kept of the node: all its sums, its file systems, and the kubelet's fixed groups of system
processes (``kubelet``, ``runtime``, ``misc``, ``pods``). Left out: interfaces made for pods. Of a
pod: containers and volumes that the virtual pod doesn't have (the host injected them), user
defined metrics (gone since Kubernetes 1.25) and accelerators.

Source: k8s.io/kubelet v0.36 ``pkg/apis/stats/v1alpha1``. vcluster v0.16
``pkg/server/filters/metrics.go`` renames ``podRef`` only: ``pvcRef`` and injected containers stay.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
import orjson

from syncer.objects import Object
from syncer.proxy.node_metrics import (
    HostAnswerError,
    Lookup,
    PodView,
    is_hardware_interface,
)

_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}(?:Z|[-+][0-9:]{4,5})")
_INTERFACE: Final = re.compile(r"[!-.0-~]{1,15}")
_FIGURE_NAMES: Final = """
    time startTime usageNanoCores usageCoreNanoSeconds psi full some total avg10 avg60 avg300
    availableBytes usageBytes workingSetBytes rssBytes pageFaults majorPageFaults
    capacityBytes usedBytes inodesFree inodes inodesUsed imageFs containerFs maxpid curproc
    swapAvailableBytes swapUsageBytes process_count rxBytes rxErrors txBytes txErrors
    volumeHealthStats abnormal
"""
"""Everything in the members below that is a number or a time, or holds some."""
_FIGURES: Final = frozenset(_FIGURE_NAMES.split())
_NODE: Final = ("cpu", "memory", "io", "fs", "runtime", "rlimit", "swap")
_POD: Final = ("cpu", "memory", "io", "ephemeral-storage", "process_stats", "swap")
_CONTAINER: Final = ("cpu", "memory", "io", "rootfs", "logs", "swap")
_SYSTEM_CONTAINERS: Final = frozenset({"kubelet", "runtime", "misc", "pods"})


class _PodReference(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""


class _Pod(msgspec.Struct):
    """As much of a pod as says whose it is."""

    pod_ref: _PodReference = msgspec.field(name="podRef", default_factory=_PodReference)


class _Summary(msgspec.Struct):
    node: dict[str, Any] = {}
    pods: list[msgspec.Raw] = []


_summary_decoder: Final = msgspec.json.Decoder(_Summary)
_pod_decoder: Final = msgspec.json.Decoder(_Pod)


def summary(body: bytes, lookup: Lookup) -> bytes:
    """Translate a summary.

    Args:
        body: the kubelet's whole answer; a pod makes some 4 kB. Only the tenant's own pods in it
            are decoded.
        lookup: whose pods and claims may be seen.

    Returns:
        The summary for the tenant, as JSON.

    Raises:
        HostAnswerError: it is no summary.
    """
    try:
        answer = _summary_decoder.decode(body)
        pods = [pod for raw in answer.pods if (pod := _pod(raw, lookup)) is not None]
        translated = {"node": _node(answer.node), "pods": pods}
    except (msgspec.DecodeError, RecursionError):
        raise HostAnswerError("the kubelet's answer is no stats summary") from None
    try:
        return orjson.dumps(translated)
    except orjson.JSONEncodeError:
        raise HostAnswerError("the kubelet's stats summary has numbers over 64 bits") from None


def _figures(source: Object) -> Object:
    """Give the numbers and times of a part, at any depth; all else is left out."""
    kept: Object = {}
    for name, value in source.items():
        if name not in _FIGURES:
            continue
        if isinstance(value, dict):
            kept[name] = _figures(value)
        elif isinstance(value, int | float) or (isinstance(value, str) and _TIME.fullmatch(value)):
            kept[name] = value
    return kept


def _members(source: Object, names: tuple[str, ...]) -> Object:
    """Give the listed members of a part."""
    kept = _figures(source)
    kept |= {name: _figures(value) for name in names if isinstance(value := source.get(name), dict)}
    return kept


def _node(node: Object) -> Object:
    name = node.get("nodeName")
    kept: Object = {"nodeName": name if isinstance(name, str) else ""}
    systems = [
        {"name": system["name"], **_members(system, _CONTAINER)}
        for system in _named(node.get("systemContainers"))
        if system["name"] in _SYSTEM_CONTAINERS
    ]
    if systems:
        kept["systemContainers"] = systems
    kept |= _members(node, _NODE)
    if isinstance(network := node.get("network"), dict):
        kept["network"] = _network(network, hardware=True)
    return kept


def _pod(raw: msgspec.Raw, lookup: Lookup) -> Object | None:
    """Translate a pod's part; ``None`` when it is not the tenant's."""
    reference = _pod_decoder.decode(raw).pod_ref
    view = lookup.pod(reference.namespace, reference.name)
    if view is None or reference.uid != view.host_uid:
        return None
    pod: Object = msgspec.json.decode(raw)
    kept: Object = {"podRef": {"name": view.name, "namespace": view.namespace, "uid": view.uid}}
    kept["containers"] = [
        {"name": container["name"], **_members(container, _CONTAINER)}
        for container in _named(pod.get("containers"))
        if container["name"] in view.containers
    ]
    kept |= _members(pod, _POD)
    if isinstance(network := pod.get("network"), dict):
        kept["network"] = _network(network, hardware=False)
    if volumes := _volumes(pod, view, lookup):
        kept["volume"] = volumes
    return kept


def _network(network: Object, *, hardware: bool) -> Object:
    """Give the figures of a network, of all of its interfaces or the machine's own only."""
    kept = _interface(network, hardware=hardware)
    if kept is None:
        kept = {name: time for name, time in _figures(network).items() if name == "time"}
    listed = [_interface(one, hardware=hardware) for one in _named(network.get("interfaces"))]
    if interfaces := [interface for interface in listed if interface is not None]:
        kept["interfaces"] = interfaces
    return kept


def _interface(interface: Object, *, hardware: bool) -> Object | None:
    """Give an interface with its figures; ``None`` when it may not be named."""
    name = interface.get("name")
    if not isinstance(name, str) or not _INTERFACE.fullmatch(name):
        return None
    if hardware and not is_hardware_interface(name):
        return None
    return {"name": name, **_figures(interface)}


def _volumes(pod: Object, view: PodView, lookup: Lookup) -> list[Object]:
    """Give the virtual pod's volumes, their claims in virtual names."""
    kept = []
    for volume in _named(pod.get("volume")):
        if volume["name"] not in view.volumes:
            continue
        translated = {**_figures(volume), "name": volume["name"]}
        translated.pop("pvcRef", None)
        if isinstance(claim := volume.get("pvcRef"), dict):
            key = lookup.claim(str(claim.get("namespace", "")), str(claim.get("name", "")))
            if key is not None:
                translated["pvcRef"] = {"name": key.name, "namespace": key.namespace}
        kept.append(translated)
    return kept


def _named(value: Any) -> list[Object]:
    """Give the objects of a list that have a name; none when it is no list."""
    if not isinstance(value, list):
        return []
    return [one for one in value if isinstance(one, dict) and isinstance(one.get("name"), str)]
