"""Events about the tenant's objects.

Direction: host to virtual.
Host name: the host event's own; inside, the host object's name at its start is the virtual one's.
Rewritten: ``involvedObject`` (name, namespace, UID), host names and UIDs in the message.
Read back: reason, type, counts, times, series, source, reporting component, action.
Never copied: events about anything that is not a copy of the tenant's; ``related``; the
    resource version of the involved object; a reporting instance that names a host machine
    other than the node the event is about. No event goes from the virtual cluster to the host.
Source: vcluster v0.16.4 ``pkg/controllers/resources/events``; Kubernetes API, Event v1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from syncer import ownership
from syncer.naming import Names, hide_host_names
from syncer.objects import Key, Object, Resource, Side
from syncer.types import Context, Direction, Kind, Need, Ref, Skip

_MAX_NAME = 253
_DIGEST = 10
_SHORTENED: Final = re.compile(r".{50,52}-[0-9a-f]{10}")
"""What names look like that were too long to be translated in full."""

_FIELDS: Final = (
    "reason",
    "type",
    "count",
    "firstTimestamp",
    "lastTimestamp",
    "eventTime",
    "series",
    "action",
    "source",
    "reportingComponent",
    "reportingInstance",
)


# -- whose it is -------------------------------------------------------------------------------


def keep(host: Object, names: Names) -> bool:
    """Say whether a host event could be about a copy of this tenant's.

    Looks at names alone, so that other tenants' events are not even stored; whose the object
    really is, its marks tell later.
    """
    involved = host.get("involvedObject") or {}
    name = involved.get("name") or ""
    if involved.get("namespace") != names.host_namespace:
        return False
    return name.endswith(f"-x-{names.tenant}") or bool(_SHORTENED.fullmatch(name))


def _involved(host: Object, ctx: Context) -> Ref | None:
    """Name the host object that an event is about, when its kind is one that is copied."""
    involved = host.get("involvedObject") or {}
    resource = ctx.synced.get(involved.get("kind", ""))
    if resource is None or not involved.get("name"):
        return None
    group = involved.get("apiVersion", "").rpartition("/")[0]
    if group != resource.group:
        return None
    return Ref(Side.HOST, resource.full_name, Key(involved.get("namespace", ""), involved["name"]))


def _related(source: Object, _copy: Object | None, ctx: Context) -> Iterable[Need]:
    ref = _involved(source, ctx)
    return (ref,) if ref else ()


def _subject(host: Object, ctx: Context) -> tuple[Object, Key] | None:
    """Give the host object that an event is about and the virtual key of it, when it is ours."""
    ref = _involved(host, ctx)
    found = ctx.objects.get(ref) if ref else None
    if found is None or found["metadata"]["uid"] != host["involvedObject"].get("uid"):
        return None
    key = ownership.virtual_key(found, ctx.names)
    return (found, key) if key else None


def _virtual_key(host: Object, ctx: Context) -> Key | None:
    subject = _subject(host, ctx)
    if subject is None:
        return None
    found, key = subject
    name = _virtual_name(host["metadata"]["name"], found["metadata"]["name"], key.name)
    return Key(key.namespace, name)


def _virtual_name(name: str, host_object: str, virtual_object: str) -> str:
    """Swap the object's name at the start of an event's name, within what a name may have."""
    rest = name.removeprefix(host_object)
    if rest == name or not rest.startswith("."):
        rest = f".{_digest(name)}"
    swapped = f"{virtual_object}{rest}"
    if len(swapped) <= _MAX_NAME:
        return swapped
    return f"{swapped[: _MAX_NAME - _DIGEST - 1].rstrip('.-')}-{_digest(swapped)}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_DIGEST]


# -- what it says ------------------------------------------------------------------------------


def _to_virtual(virtual: Object, host: Object | None, ctx: Context) -> Object | Skip:
    subject = _subject(host, ctx) if host else None
    if host is None or subject is None:
        return Skip("the event is not about an object of the tenant's")
    found, key = subject
    metadata = virtual["metadata"]
    metadata["labels"] = {
        **(metadata.get("labels") or {}),
        ownership.MANAGED_BY: ctx.names.marker,
    }
    virtual["involvedObject"] = _virtual_reference(host["involvedObject"], found, key)
    virtual["message"] = _message(host.get("message") or "", found, key, ctx.names)
    for field in _FIELDS:
        if field in host:
            virtual[field] = host[field]
        else:
            virtual.pop(field, None)
    if instance := host.get("reportingInstance"):
        node = (host.get("source") or {}).get("host")
        component = host.get("reportingComponent") or "host"
        virtual["reportingInstance"] = instance if instance == node else component
    return virtual


def _virtual_reference(involved: Object, found: Object, key: Key) -> Object:
    result: Object = {
        name: involved[name] for name in ("apiVersion", "kind", "fieldPath") if name in involved
    }
    result |= {"name": key.name, "uid": ownership.virtual_uid(found) or ""}
    if key.namespace:
        result["namespace"] = key.namespace
    return result


def _message(text: str, found: Object, key: Key, names: Names) -> str:
    metadata = found["metadata"]
    text = text.replace(metadata["uid"], ownership.virtual_uid(found) or key.name)
    return hide_host_names(text, names, {metadata["name"]: key})


KIND = Kind(
    name="events",
    resource=Resource("", "v1", "events", "Event"),
    direction=Direction.TO_VIRTUAL,
    component="event-syncer",
    bookmarks=False,
    related=_related,
    virtual_key=_virtual_key,
    keep=keep,
    to_virtual=_to_virtual,
)
