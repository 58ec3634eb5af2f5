"""References of a pod whose host name is shortened, and so may be another tenant's object's.

A kubelet looks a reference up by its host name alone. A whole host name can be one tenant's only;
a shortened one ends in 40 bits of a hash, and who tries long enough finds a name whose
translation is that of another tenant's object in the same host namespace. So a pod gets such a
reference only while the host object of that name is seen to be our copy of what the pod means.

Invariants:
* a pod, and an ephemeral container, is made with a shortened reference only then; until then it
  waits, or, when it can do without the object and that is missing, names an object nobody has;
* short names cost nothing but a look at their length.

Known limit: an optional object with so long a name is not seen by a pod made before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Final

from mappers.pods.references import Mention, ephemeral_mentions, mentions
from syncer import ownership
from syncer.objects import Key, Object, Side
from syncer.types import Blocked, Context, Ref

_KINDS: Final = {
    "configmaps": "ConfigMap",
    "endpoints": "Endpoints",
    "persistentvolumeclaims": "PersistentVolumeClaim",
    "secrets": "Secret",
}


def needs(virtual: Object, host: Object | None, ctx: Context) -> Iterator[Ref]:
    """Declare both sides of each object that a shortened reference names.

    Args:
        virtual: the virtual pod.
        host: its host copy; with one, only the ephemeral containers that it lacks count.
        ctx: names.
    """
    namespace = virtual["metadata"]["namespace"]
    longest = ctx.names.longest(namespace)
    if host is None:
        found = mentions(virtual, longest)
    else:
        present = {item["name"] for item in host["spec"].get("ephemeralContainers") or ()}
        found = [
            mention
            for item in virtual["spec"].get("ephemeralContainers") or ()
            if item["name"] not in present
            for mention in ephemeral_mentions(item, longest)
        ]
    for mention in found:
        yield from _sides(mention.target, Key(namespace, mention.name), ctx)


def _sides(target: str, key: Key, ctx: Context) -> tuple[Ref, Ref]:
    return Ref(Side.VIRTUAL, target, key), Ref(Side.HOST, target, ctx.names.host_key(key))


def hindrance(virtual: Object, ctx: Context) -> Blocked | None:
    """Say which object a new pod has to wait for, or ``None``.

    Args:
        virtual: the virtual pod.
        ctx: with what :func:`needs` declared.
    """
    if not any(ref.side is Side.HOST and ref.resource in _KINDS for ref in ctx.objects):
        return None
    namespace = virtual["metadata"]["namespace"]
    return _first(mentions(virtual, ctx.names.longest(namespace)), namespace, ctx)


def ephemeral_hindrance(container: Object, namespace: str, ctx: Context) -> Blocked | None:
    """Say which object a new ephemeral container has to wait for, or ``None``.

    ``None`` also for one that is on the host already: nothing was declared for it.
    """
    return _first(ephemeral_mentions(container, ctx.names.longest(namespace)), namespace, ctx)


def _first(found: Iterable[Mention], namespace: str, ctx: Context) -> Blocked | None:
    for mention in found:
        key = Key(namespace, mention.name)
        own, theirs = _sides(mention.target, key, ctx)
        if theirs not in ctx.objects:
            continue
        if ctx.objects.get(own) is None:
            if not mention.optional:
                reason = f"waiting for {_KINDS[mention.target]} {key}"
                return Blocked(reason, on=own, event=not mention.made)
            continue
        copy = ctx.objects[theirs]
        if copy is None or ownership.virtual_key(copy, ctx.names) != key:
            return Blocked(f"waiting for the copy of {_KINDS[mention.target]} {key}", on=theirs)
    return None


def host_name(target: str, key: Key, uid: str, ctx: Context) -> str:
    """Give the host name for a reference.

    Args:
        target: full name of the resource.
        key: the virtual object named.
        uid: the virtual pod's.
        ctx: with what :func:`needs` declared.

    Returns:
        The translated name; for a missing object (one the pod can do without, else it had to
        wait) a name that is no copy's: those hold ``-x-`` or have 62 or 63 characters.
    """
    if ctx.names.is_shortened(key.name, key.namespace):
        own, theirs = _sides(target, key, ctx)
        if theirs in ctx.objects and ctx.objects.get(own) is None:
            digest = sha256(f"{uid}/{target}/{key.name}".encode()).hexdigest()
            return f"missing-{digest[:32]}"
    return ctx.names.host_name(key.name, key.namespace)
