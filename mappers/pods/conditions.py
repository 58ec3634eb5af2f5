"""Conditions of a pod, and who sets them.

The kubelet and the control plane set the core types: they come from the host. All others are set
by controllers: the tenant's on the virtual pod (they go to the host: its kubelet makes readiness
gates of them), the host's on the host pod (the tenant doesn't see them).

Invariant: conditions that differ in their times only are the same; the ones already there stay.

Source: KEP-580 pod readiness gates; Kubernetes API reference, PodCondition.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from syncer.objects import Object

CORE: Final = frozenset(
    {
        "AllContainersRestarting",
        "ContainersReady",
        "DisruptionTarget",
        "Initialized",
        "PodHasNetwork",
        "PodReadyToStartContainers",
        "PodResizeInProgress",
        "PodResizePending",
        "PodScheduled",
        "Ready",
    }
)
"""Types that Kubernetes itself sets."""

DISRUPTION_TARGET: Final = "DisruptionTarget"
"""A core type that the virtual API server sets too, when it evicts; Jobs look at it."""


def of_tenant(virtual: Object) -> list[Object]:
    """Give the tenant's own conditions of a virtual pod, as the host should have them."""
    given = (virtual.get("status") or {}).get("conditions") or ()
    return [
        {key: value for key, value in condition.items() if key != "observedGeneration"}
        for condition in given
        if condition.get("type") not in CORE
    ]


def on_host(wanted: Iterable[Object], host: Iterable[Object], gates: Iterable[str]) -> list[Object]:
    """Merge the tenant's conditions into those of a host pod.

    Args:
        wanted: what :func:`of_tenant` gave.
        host: the host pod's conditions.
        gates: the tenant's readiness gates; such a condition goes when the tenant removed it.

    Returns:
        The host's, in their order, then new ones.
    """
    missing = {condition["type"]: condition for condition in wanted}
    removable = frozenset(gates) - missing.keys() - CORE
    result: list[Object] = []
    for condition in host:
        kind = condition.get("type")
        own = missing.pop(kind, None)
        if own is not None:
            result.append(condition if _same(own, condition) else own)
        elif kind not in removable:
            result.append(condition)
    return [*result, *missing.values()]


def on_virtual(
    host: Iterable[Object], virtual: Iterable[Object], generation: Generations
) -> list[Object]:
    """Merge a host pod's conditions into those of its virtual pod.

    Args:
        host: the host pod's conditions.
        virtual: the virtual pod's conditions.
        generation: translates ``observedGeneration``.

    Returns:
        The core ones of the host, in its order; then the tenant's own.
    """
    present = {condition.get("type"): condition for condition in virtual}
    result: list[Object] = []
    for condition in host:
        kind = condition.get("type")
        if kind not in CORE:
            continue
        before = present.pop(kind, None)
        result.append(_translated(condition, before, generation))
    result += [
        condition
        for kind, condition in present.items()
        if kind not in CORE or kind == DISRUPTION_TARGET
    ]
    return result


class Generations:
    """Translates ``observedGeneration``: host generations mean nothing in the virtual cluster.

    What the host has observed at its newest generation is the newest virtual one; what it has
    observed at an older one is left as the virtual object says.
    """

    __slots__ = ("_host", "_virtual")

    def __init__(self, virtual: Object, host: Object, *, pending: bool = False) -> None:
        """Read both generations.

        Args:
            virtual: the virtual object.
            host: its host copy.
            pending: the copy lacks something of the virtual object still, so that what the host
                has observed is not the newest virtual generation.
        """
        self._virtual: Any = None if pending else virtual["metadata"].get("generation")
        self._host: Any = host["metadata"].get("generation")

    def translate(self, source: Object, target: Object, before: Object | None) -> None:
        """Set or remove ``observedGeneration`` in ``target``.

        Args:
            source: the host's status or condition.
            target: what goes to the virtual object; changed.
            before: what the virtual object has.
        """
        observed = source.get("observedGeneration")
        if observed is not None and self._virtual is not None and observed == self._host:
            target["observedGeneration"] = self._virtual
        elif before is not None and "observedGeneration" in before:
            target["observedGeneration"] = before["observedGeneration"]
        else:
            target.pop("observedGeneration", None)


def _translated(condition: Object, before: Object | None, generation: Generations) -> Object:
    """Give a core condition for the virtual pod; the one it has when only times differ."""
    result = dict(before if before is not None and _same(before, condition) else condition)
    generation.translate(condition, result, before)
    return result


def _same(one: Object, other: Object) -> bool:
    """Compare two conditions of one type, but for times and generation."""
    return (
        one.get("status") == other.get("status")
        and one.get("reason") == other.get("reason")
        and one.get("message") == other.get("message")
    )
