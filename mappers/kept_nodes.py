"""Which nodes a tenant has: those of the host's that its pods are on.

A pod of a DaemonSet neither brings a node nor keeps it: it is there because the node is, and
would otherwise hold on to it, or call it back, for ever.
"""

from __future__ import annotations

from typing import Final

from syncer.naming import PREFIX
from syncer.objects import Object, Side
from syncer.types import Query

FAKE_NODE: Final = f"{PREFIX}fake-node"
"""Label on the virtual nodes that are ours."""

KEEPING_INDEX: Final = "node-keeping"
"""Index on host pods: the node that a pod, unless it is a DaemonSet's, is on."""


def keeping(name: str) -> Query:
    """Ask for the host pods that keep a node.

    Args:
        name: of the node, the same on both sides.
    """
    return Query(Side.HOST, "pods", KEEPING_INDEX, name)


def is_fake(virtual: Object) -> bool:
    """Say whether a virtual node is one of ours."""
    return (virtual["metadata"].get("labels") or {}).get(FAKE_NODE) == "true"
