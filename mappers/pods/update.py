"""What changes on a host pod after creation, as Kubernetes permits it.

Images, ``activeDeadlineSeconds``, tolerations (added, never removed), scheduling gates (removed,
never added) and, while there is one, demands on nodes (added to the node selector and the node
affinity), ephemeral containers (added), container and pod resources (cpu and memory, by resize),
the tenant's own conditions. Everything else of a pod is immutable on both sides.

Invariants:
* what the host added (sidecars, tolerations, gates, default resources, conditions) stays;
* on a host pod that has all that is wanted nothing changes.

Source: https://kubernetes.io/docs/concepts/workloads/pods/#pod-update-and-replacement; KEP-1287
    in-place resize; KEP-3838 mutable scheduling directives.
"""

from __future__ import annotations

from typing import Any, Final

from mappers.pods import conditions
from mappers.pods.metadata import SCHEDULING_GATES
from syncer.objects import Object
from syncer.types import Context

_RESIZABLE: Final = ("cpu", "memory")
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def update(wanted: Object, host: Object, _ctx: Context) -> Object:
    """Bring a host pod to what is wanted.

    Args:
        wanted: what ``to_host`` gave for a pod that is on the host.
        host: the host pod, a fresh copy; changed.

    Returns:
        ``host``.
    """
    want, have = wanted["spec"], host["spec"]
    for name in ("containers", "initContainers"):
        _update_containers(want.get(name) or (), have.get(name) or ())
    if "resources" in have:  # a pod made without can't get any, nor can one of an older host
        _resize(want.get("resources"), have)
    _shorten_deadline(want, have)
    _add_tolerations(want, have)
    _direct(want, have)
    _remove_gates(want, host)
    _add_ephemeral(want, have)
    gates = [gate["conditionType"] for gate in want.get("readinessGates") or ()]
    own = (wanted.get("status") or {}).get("conditions") or ()
    if own or gates:
        status = host.setdefault("status", {})
        present = status.get("conditions") or []
        merged = conditions.on_host(own, present, gates)
        if merged != present:
            status["conditions"] = merged
    return host


def _update_containers(wanted: Any, host: Any) -> None:
    """Set images and resources of containers by name; others' containers stay."""
    by_name = {container["name"]: container for container in wanted}
    for container in host:
        want = by_name.get(container["name"])
        if want is None:
            continue
        if "image" in want and want["image"] != container.get("image"):
            container["image"] = want["image"]
        _resize(want.get("resources"), container)


def _resize(wanted: Object | None, holder: Object) -> None:
    """Set the cpu and memory that the tenant set; what the host set beside them stays.

    Args:
        wanted: the tenant's ``resources``.
        holder: a host container, or the host pod's spec.
    """
    for kind, amounts in (wanted or {}).items():
        if kind not in ("requests", "limits"):
            continue
        for resource in _RESIZABLE:
            amount = (amounts or {}).get(resource)
            if amount is not None:
                resources = holder.setdefault("resources", {})
                resources.setdefault(kind, {})[resource] = amount


def _shorten_deadline(wanted: Object, host: Object) -> None:
    """Set or shorten ``activeDeadlineSeconds``; it can't grow or go."""
    deadline = wanted.get("activeDeadlineSeconds")
    present = host.get("activeDeadlineSeconds")
    if deadline is not None and (present is None or deadline < present):
        host["activeDeadlineSeconds"] = deadline


def _toleration_key(toleration: Object) -> tuple[str, str, str, str]:
    """Give what makes two tolerations the same; their seconds may be changed."""
    return (
        toleration.get("key") or "",
        toleration.get("operator") or "Equal",
        toleration.get("value") or "",
        toleration.get("effect") or "",
    )


def _add_tolerations(wanted: Object, host: Object) -> None:
    """Add missing tolerations, and follow the tenant's seconds."""
    given, present = wanted.get("tolerations"), host.get("tolerations") or []
    if not given or given == present:
        return
    result = list(present)
    for toleration in given:
        if toleration in result:
            continue
        key = _toleration_key(toleration)
        same = [index for index, other in enumerate(result) if _toleration_key(other) == key]
        if same and result[same[0]] not in given:
            result[same[0]] = toleration
        else:
            result.append(toleration)
    host["tolerations"] = result


def _direct(wanted: Object, host: Object) -> None:
    """Add the demands on nodes that the tenant added, as long as the host pod has a gate.

    Kubernetes lets them only be added to, and the host's own may be among them.
    """
    if not host.get("schedulingGates"):
        return
    if given := wanted.get("nodeSelector"):
        present = host.get("nodeSelector") or {}
        missing = {key: value for key, value in given.items() if key not in present}
        if missing:
            host["nodeSelector"] = {**present, **missing}
    if affinity := (wanted.get("affinity") or {}).get("nodeAffinity"):
        present = (host.get("affinity") or {}).get("nodeAffinity") or {}
        merged = _node_affinity(affinity, present)
        if merged != present:
            host["affinity"] = {**(host.get("affinity") or {}), "nodeAffinity": merged}


def _node_affinity(wanted: Object, present: Object) -> Object:
    """Add to a host pod's ``nodeAffinity`` what the tenant's has more."""
    result = dict(present)
    if preferred := wanted.get(_PREFERRED):
        before = present.get(_PREFERRED) or []
        result[_PREFERRED] = [*before, *(term for term in preferred if term not in before)]
    if required := wanted.get(_REQUIRED):
        terms = (present.get(_REQUIRED) or {}).get("nodeSelectorTerms") or []
        asked = required.get("nodeSelectorTerms") or []
        if not terms:
            result[_REQUIRED] = required
        elif len(terms) == len(asked):
            pairs = zip(terms, asked, strict=True)
            result[_REQUIRED] = {"nodeSelectorTerms": [_node_term(*pair) for pair in pairs]}
    return result


def _node_term(present: Object, asked: Object) -> Object:
    """Add to a node selector term the demands that it lacks."""
    result = dict(present)
    for field in ("matchExpressions", "matchFields"):
        before = present.get(field) or []
        if missing := [demand for demand in asked.get(field) or () if demand not in before]:
            result[field] = [*before, *missing]
    return result


def _remove_gates(wanted: Object, host: Object) -> None:
    """Remove the tenant's gates that the tenant has removed; those of others stay."""
    present = host["spec"].get("schedulingGates")
    if not present:
        return
    record = (host["metadata"].get("annotations") or {}).get(SCHEDULING_GATES) or ""
    kept = {gate["name"] for gate in wanted.get("schedulingGates") or ()}
    removable = set(record.split(",")) - kept
    left = [gate for gate in present if gate["name"] not in removable]
    if left:
        host["spec"]["schedulingGates"] = left
    else:
        del host["spec"]["schedulingGates"]


def _add_ephemeral(wanted: Object, host: Object) -> None:
    """Append the ephemeral containers that the host pod doesn't have yet."""
    given = wanted.get("ephemeralContainers")
    if not given:
        return
    present = host.get("ephemeralContainers") or []
    names = {container["name"] for container in present}
    missing = [container for container in given if container["name"] not in names]
    if missing:
        host["ephemeralContainers"] = [*present, *missing]
