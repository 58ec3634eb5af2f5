"""Decides what to do about one object; does nothing itself.

:func:`plan` reads as the specification of a sync: who is missing, who is leaving, who differs.
It looks only at the two objects and at what the kind's pure functions say, never at the event
that queued the key, and returns actions in the order in which they must happen. On a pair that
agrees it returns nothing.

What it never does: touch a host object that is not ours, delete on the strength of an absence
that nobody witnessed (such deletions are marked ``confirm``, and the executor looks again), or
act on a predecessor (every action carries the UID it was decided on).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from syncer import ownership, paths
from syncer.engine.patch import Patch, make_patch
from syncer.objects import Key, Object, Side
from syncer.types import (
    Blocked,
    Context,
    Direction,
    Gone,
    Kind,
    Notice,
    OnHostGone,
    Query,
    Refused,
    Skip,
)


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object; on the host ``wanted`` is complete with marks."""

    side: Side
    wanted: Object


@dataclass(frozen=True, slots=True)
class Update:
    """Patch an object or one of its subresources.

    Attributes:
        side: where.
        key: what.
        patch: the difference.
        target: the object as it should be after this write; what others write stays visible as a
            difference between it and the answer.
        subresource: through which it goes.
        confirm: it reports that the copy on the other side is gone: make sure of that first, and
            that it is still the same cluster.
    """

    side: Side
    key: Key
    patch: Patch
    target: Object
    subresource: str = ""
    confirm: bool = False


@dataclass(frozen=True, slots=True)
class Post:
    """POST an own object to a subresource (such as ``binding``)."""

    side: Side
    key: Key
    subresource: str
    body: Object


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object.

    Attributes:
        side: where.
        key: what.
        uid: the precondition.
        reason: why, for logs.
        grace: seconds; ``None`` leaves it to the server.
        confirm: the absence on the other side was not witnessed: look there first.
        identity: deletes on the strength of what the other side lost: be sure first that it is
            still the same cluster, neither reset nor restored nor giving up our objects.
        resource: full name of another resource than the kind's (a child), or ``""``.
        based_on: deletes because these queries find too little: be sure first that what they look
            through lacks nothing.
        not_before: seconds since the epoch, by the clock of ``side``: until then nothing is done,
            and then it is decided anew.
        instead_of: the copy is another virtual object's than the one with this UID. Usually its
            predecessor's; its successor's when the view of the virtual cluster is behind, and it
            was another syncer that copied it: be sure first which object is there.
    """

    side: Side
    key: Key
    uid: str
    reason: str
    grace: int | None = None
    confirm: bool = False
    identity: bool = False
    resource: str = ""
    based_on: tuple[Query, ...] = ()
    not_before: float | None = None
    instead_of: str = ""


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the tenant, as an event on the virtual object."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing more can be done until something changes."""

    blocked: Blocked


Action: TypeAlias = Create | Update | Post | Delete | Tell | Wait


@dataclass(frozen=True)
class Pair:
    """What a plan is made from; the objects are decoded when they are asked for.

    Attributes:
        key: the item's key (the virtual key; the host key for TO_VIRTUAL kinds).
        virtual: gives a fresh copy of the virtual object, to be changed, or ``None``.
        host: gives a fresh copy of the host object if it is ours, to be changed, or ``None``.
        host_key: where the host copy is or would be.
        virtual_deleted: UID of the virtual object whose deletion the watch witnessed, or ``None``.
        host_deleted: the same for the host object.
        children: gives host children: (resource, key, uid, UID mark of the owner).
        owner: owner reference for host objects, or ``None``.
    """

    key: Key
    virtual: Callable[[], Object | None]
    host: Callable[[], Object | None]
    host_key: Key
    virtual_deleted: str | None = None
    host_deleted: str | None = None
    children: Callable[[], tuple[tuple[str, Key, str, str | None], ...]] = tuple
    owner: Object | None = None

    @cached_property
    def virtual_seen(self) -> Object | None:
        """The virtual object as it was at the first look; shared, so it is never changed."""
        return self.virtual()

    @cached_property
    def host_seen(self) -> Object | None:
        """The host object as it was at the first look; shared, so it is never changed."""
        return self.host()


def plan(kind: Kind, pair: Pair, ctx: Context) -> list[Action]:
    """Decide what to do about one key.

    Args:
        kind: the kind.
        pair: the objects.
        ctx: what the kind's functions may look at.

    Returns:
        Actions, in order; empty when all is as it should be.
    """
    if kind.only not in (None, pair.key):
        return []
    match kind.direction:
        case Direction.TO_HOST:
            actions = _to_host(kind, pair, ctx)
        case Direction.TO_VIRTUAL:
            actions = _to_virtual(kind, pair, ctx)
        case Direction.DERIVED:
            actions = _derived(kind, pair, ctx)
        case Direction.WATCHED:
            actions = []
    return [*actions, *(Tell(notice) for notice in ctx.notices)]


# -- the tenant's objects, copied to the host ------------------------------------------------


def _to_host(kind: Kind, pair: Pair, ctx: Context) -> list[Action]:
    virtual, host = pair.virtual_seen, pair.host_seen
    if virtual is None:
        return _orphan(kind, pair, host)
    if _leaving(virtual):
        return _deleting(kind, pair, virtual, host, ctx)
    if host is None:
        return _absent(kind, pair, virtual, ctx)
    if other := _of_another(host, virtual):
        if _leaving(host):
            return []  # its end, and what it says till then, is its predecessor's
        if not kind.restamp:
            old = _delete_host(pair, host, "the virtual object was made again", identity=True)
            return [replace(old, instead_of=other)]
    return _present(kind, pair, virtual, host, ctx)


def _orphan(kind: Kind, pair: Pair, host: Object | None) -> list[Action]:
    """The virtual object is gone: so must the copy be, and then its children."""
    if host is None:
        return _children(pair, alive=None)
    if _leaving(host) or ownership.annotation(host, ownership.SKIP_BACKSYNC) == "true":
        return []
    witnessed = pair.virtual_deleted is not None and pair.virtual_deleted == (
        ownership.virtual_uid(host)
    )
    look = not witnessed
    gone = _delete_host(pair, host, "the virtual object was deleted", confirm=look, identity=look)
    # A witnessed end was this very copy's object's; else the object may only be about to be made.
    return [gone if witnessed else replace(gone, not_before=ownership.reserved_until(host))]


def _deleting(
    kind: Kind, pair: Pair, virtual: Object, host: Object | None, ctx: Context
) -> list[Action]:
    """Virtual deleting -> host deleted with the same grace -> host gone -> virtual finalised.

    Resolves no references, so nothing that is missing can hold a deletion up.
    """
    metadata = virtual["metadata"]
    grace = metadata.get("deletionGracePeriodSeconds") if kind.graceful else None
    if host is None:
        done: list[Action] = []
        if kind.graceful and grace != 0:
            started = kind.on_host_gone(virtual) is not OnHostGone.RECREATE
            look = started and pair.host_deleted is None
            gone = _delete_virtual(pair, virtual, "its host copy is gone", grace=0, confirm=look)
            done.append(gone)
        return done + _children(pair, alive=None)
    actions: list[Action] = []
    host_grace = host["metadata"].get("deletionGracePeriodSeconds")
    other = _of_another(host, virtual)
    if not _leaving(host):
        gone = _delete_host(pair, host, "the virtual object is being deleted", grace=grace)
        actions.append(replace(gone, instead_of=other))
    elif other or grace is None or host_grace is None:
        pass  # nothing to agree on: another's grace is its own
    elif grace < host_grace:
        actions.append(_delete_host(pair, host, "the virtual grace was shortened", grace=grace))
    elif host_grace < grace:
        actions.append(
            _delete_virtual(pair, virtual, "the host's grace was shortened", grace=host_grace)
        )
    if kind.to_virtual and not other:
        actions += _back(kind, pair, virtual, host, ctx)
    return actions


def _absent(kind: Kind, pair: Pair, virtual: Object, ctx: Context) -> list[Action]:
    """No host copy: it was never made, or someone deleted it."""
    match kind.on_host_gone(virtual):
        case OnHostGone.DELETE_VIRTUAL:
            gone = _delete_virtual(
                pair, virtual, "its host copy was deleted", grace=0, confirm=True, identity=True
            )
            return [gone, *_children(pair, alive=None)]
        case OnHostGone.REPORT:
            return [
                replace(action, confirm=True) if isinstance(action, Update) else action
                for action in _back(kind, pair, virtual, None, ctx)
            ]
        case OnHostGone.RECREATE:
            pass
    wanted = _wanted(kind, virtual, ctx)
    if not isinstance(wanted, dict):
        return _unwilling(wanted)
    return [Create(Side.HOST, ownership.stamp(wanted, virtual, ctx.names, pair.owner))]


def _present(kind: Kind, pair: Pair, virtual: Object, host: Object, ctx: Context) -> list[Action]:
    """Both are there: the tenant's wishes go down, the host's truth comes up."""
    if _leaving(host):
        actions: list[Action] = []
        grace = host["metadata"].get("deletionGracePeriodSeconds") if kind.graceful else None
        # Without grace it is gone in a moment, seen or not; what then is to be made again stays.
        restored = grace == 0 and kind.on_host_gone(virtual) is OnHostGone.RECREATE
        if kind.mirror_deletion and not restored:
            actions.append(
                _delete_virtual(
                    pair, virtual, "its host copy is being deleted", grace=grace, identity=True
                )
            )
        return actions + _back(kind, pair, virtual, host, ctx)
    wanted = _wanted(kind, virtual, ctx)
    if isinstance(wanted, Skip):
        unused = _delete_host(pair, host, wanted.reason, identity=True)
        return [replace(unused, based_on=tuple(ctx.queries))]
    if not isinstance(wanted, dict):
        return [*_unwilling(wanted), *_back(kind, pair, virtual, host, ctx)]
    target = pair.host()
    if target is None:
        return []
    ownership.stamp(wanted, virtual, ctx.names, pair.owner)
    forward = _forward(kind, pair, wanted, target, ctx)
    if forward:
        ctx = replace(ctx, pending=True)
    return [*forward, *_back(kind, pair, virtual, target, ctx)]


def _wanted(kind: Kind, virtual: Object, ctx: Context) -> Object | Blocked | Skip | Refused:
    if kind.to_host is None:
        raise TypeError(f"kind {kind.name} is synced to the host but has no to_host")
    return kind.to_host(virtual, ctx)


def _unwilling(answer: Blocked | Skip | Refused) -> list[Action]:
    match answer:
        case Blocked():
            return [Wait(answer)]
        case Refused():
            return [Tell(Notice("SyncError", answer.reason))]
        case Skip():
            return []


def _forward(kind: Kind, pair: Pair, wanted: Object, target: Object, ctx: Context) -> list[Action]:
    """Bring the host copy to what is wanted, leaving alone what others put on it.

    Args:
        kind: the kind.
        pair: the objects.
        wanted: the stamped object, as it would be created.
        target: the host object; brought to what is wanted.
        ctx: what the kind's functions may look at.
    """
    actual = pair.host_seen
    if actual is None:
        return []
    ownership.merge_metadata(wanted, target)
    for path in kind.mutable:
        optional = path.endswith("?")
        value = paths.get(wanted, path.rstrip("?"))
        if value is not paths.MISSING or not optional:
            paths.put(target, path.rstrip("?"), value)
    if kind.update is not None:
        target = kind.update(wanted, target, ctx)
    return _updates(kind, Side.HOST, pair.host_key, actual, target)


def _back(
    kind: Kind, pair: Pair, virtual: Object, host: Object | None, ctx: Context
) -> list[Action]:
    """Bring the virtual object to the host's truth."""
    if kind.to_virtual is None:
        return []
    target = pair.virtual()
    if target is None:
        return []
    answer = kind.to_virtual(target, host, ctx)
    match answer:
        case Blocked():
            return [Wait(answer)]
        case Skip():
            return []
        case Gone():
            return [_delete_virtual(pair, virtual, answer.reason, grace=0)]
        case _:
            return _updates(kind, Side.VIRTUAL, pair.key, virtual, answer)


# -- the host's objects, copied to the virtual cluster ------------------------------------------


def _to_virtual(kind: Kind, pair: Pair, ctx: Context) -> list[Action]:
    host = pair.host_seen
    if host is None or kind.virtual_key is None or kind.to_virtual is None:
        return []
    key = kind.virtual_key(host, ctx)
    if key is None:
        return []
    actual = pair.virtual_seen
    target = None if actual is None else pair.virtual()
    bare: Object = {
        "apiVersion": kind.resource.api_version,
        "kind": kind.resource.kind,
        "metadata": {"name": key.name, "namespace": key.namespace},
    }
    answer = kind.to_virtual(target or bare, host, ctx)
    match answer:
        case Blocked():
            return [Wait(answer)]
        case Skip() | Gone():
            return []
        case _ if actual is None:
            return [Create(Side.VIRTUAL, answer)]
        case _:
            return _updates(kind, Side.VIRTUAL, key, actual, answer)


# -- objects made from others ---------------------------------------------------------------------


def _derived(kind: Kind, pair: Pair, ctx: Context) -> list[Action]:
    if kind.derive is None:
        raise TypeError(f"kind {kind.name} is derived but has no derive")
    on_host = kind.on_host is not None
    actual = pair.host_seen if on_host else pair.virtual_seen
    if actual is not None and kind.derived_mark is not None and not kind.derived_mark(actual):
        return []
    if actual is not None and _leaving(actual) and not kind.mirror_deletion:
        return []
    side, key = (Side.HOST, pair.host_key) if on_host else (Side.VIRTUAL, pair.key)
    target = pair.host() if on_host else pair.virtual()
    answer = kind.derive(pair.key, target, ctx)
    match answer:
        case Blocked():
            return [Wait(answer)]
        case Skip():
            if actual is None:
                return []
            delete = _delete_host if on_host else _delete_virtual
            unused = delete(pair, actual, answer.reason, identity=True)
            return [replace(unused, based_on=tuple(ctx.queries))]
        case _ if actual is None:
            return [Create(side, answer)]
        case _:
            return _updates(kind, side, key, actual, answer)


# -- parts ----------------------------------------------------------------------------------------


def _updates(kind: Kind, side: Side, key: Key, actual: Object, target: Object) -> list[Action]:
    """Split a difference into one write for the object and one for each subresource it touches.

    Each write's target builds on the one before.
    """
    actions: list[Action] = []
    if actual == target:  # the usual case, and much the cheapest to find
        return actions
    parts = kind.host_parts if side is Side.HOST else kind.virtual_parts
    state = target
    for path in (path for part in parts for path in part.paths):
        state = graft(state, actual, path)
    if patch := make_patch(actual, state, version=kind.versioned):
        actions.append(Update(side, key, patch, state))
    for part in parts:
        before, changed = state, state
        for path in part.paths:
            changed = graft(changed, target, path)
        patch = make_patch(before, changed, roots=part.paths, version=part.versioned)
        if patch is None:
            continue
        state = changed
        if part.body is not None:
            actions.append(Post(side, key, part.subresource, part.body(before, changed)))
        else:
            actions.append(Update(side, key, patch, changed, part.subresource))
    return actions


def graft(base: Object, donor: Object, path: str) -> Object:
    """Give a copy of ``base`` with the field at ``path`` as ``donor`` has it.

    Args:
        base: an object; not changed, but shared where the path doesn't lead.
        donor: where the value comes from; a field it doesn't have is absent in the result.
        path: dotted; ``[]`` after a step goes into those elements of a list that have the same
            ``name`` in both.
    """
    step, _, rest = path.partition(".")
    name = step.removesuffix("[]")
    result = dict(base)
    if step != name:
        by_name = {item.get("name"): item for item in donor.get(name) or ()}
        if name in base:
            result[name] = [
                graft(item, by_name[item.get("name")], rest)
                if item.get("name") in by_name
                else item
                for item in base[name]
            ]
    elif rest:
        inner = graft(base.get(name) or {}, donor.get(name) or {}, rest)
        if inner or name in base:
            result[name] = inner
    elif name in donor:
        result[name] = donor[name]
    else:
        result.pop(name, None)
    return result


def _children(pair: Pair, alive: str | None) -> list[Action]:
    """Remove the children that no living owner (by UID) keeps."""
    return [
        Delete(Side.HOST, key, uid, "its owner is gone", resource=resource)
        for resource, key, uid, owner in pair.children()
        if owner is None or owner != alive
    ]


def _delete_host(
    pair: Pair,
    host: Object,
    reason: str,
    *,
    grace: int | None = None,
    confirm: bool = False,
    identity: bool = False,
) -> Delete:
    uid = host["metadata"]["uid"]
    return Delete(
        Side.HOST, pair.host_key, uid, reason, grace=grace, confirm=confirm, identity=identity
    )


def _delete_virtual(
    pair: Pair,
    virtual: Object,
    reason: str,
    *,
    grace: int | None = None,
    confirm: bool = False,
    identity: bool = False,
) -> Delete:
    uid = virtual["metadata"]["uid"]
    return Delete(
        Side.VIRTUAL, pair.key, uid, reason, grace=grace, confirm=confirm, identity=identity
    )


def _of_another(host: Object, virtual: Object) -> str:
    """Give the virtual object's UID if the copy was made for another one, else ``""``."""
    uid: str = virtual["metadata"]["uid"]
    return "" if ownership.virtual_uid(host) in (None, uid) else uid


def _leaving(obj: Object) -> bool:
    return "deletionTimestamp" in obj["metadata"]
