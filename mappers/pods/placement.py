"""Where a host pod may run: what the operator enforces on every pod of the tenant.

Invariant: with an enforced node selector no pod leaves the selected nodes, named node or not:
the selector is always added, and a named node must be one that the tenant can see.

Source: vcluster v0.16.4 ``pods/syncer.go`` (flags ``--enforce-toleration``, ``--node-selector``,
    ``--enforce-node-selector``); differs: the selector is added beside a named node too.
"""

from __future__ import annotations

from syncer.objects import Key, Object, Side
from syncer.settings import Settings
from syncer.types import Blocked, Context, Ref


def enforces_selector(settings: Settings) -> bool:
    """Say whether pods are held to the nodes of ``--node-selector``."""
    return bool(settings.enforce_node_selector and settings.node_selector)


def node_ref(name: str) -> Ref:
    """Name a virtual Node."""
    return Ref(Side.VIRTUAL, "nodes", Key("", name))


def blocked(virtual: Object, ctx: Context) -> Blocked | None:
    """Say whether the pod names a node that it may not have."""
    name = virtual["spec"].get("nodeName")
    if not name or not enforces_selector(ctx.settings):
        return None
    ref = node_ref(name)
    if ctx.objects.get(ref) is not None:
        return None
    return Blocked(f"Given nodeName {name} does not exist in virtual cluster", on=ref, event=True)


def enforce(spec: Object, settings: Settings) -> None:
    """Add enforced tolerations and node labels to a wanted host spec.

    Args:
        spec: changed; its lists and maps are replaced, not changed.
        settings: what is enforced.
    """
    if settings.enforce_toleration:
        given = spec.get("tolerations") or []
        enforced = [toleration.as_object() for toleration in settings.enforce_toleration]
        spec["tolerations"] = [*given, *(item for item in enforced if item not in given)]
    if enforces_selector(settings):
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **settings.node_selector}
