"""The objects of one resource on one API server, held as compact JSON bytes.

A reader gets its own fresh decode, so nothing is copied and nothing is shared. What indexes need
is computed once, when an object comes in.

Invariants:
* an object never goes back in time: an older or equal resource version is ignored;
* a key that the watch saw deleted stays deleted for everything older than that deletion, and an
  answer to an own write that the watch is already past brings no key back;
* a change is reported once, after the whole store is consistent, deletions found by a list too;
* a callback or an indexer that raises is logged with the object's name and counted; the store
  and its other readers go on.

The two ways time may go backwards, a restored datastore and a live answer that contradicts a
list, are explicit: ``begin(rewound=True)`` and ``apply(live=True)``.

The store never does I/O and never decides whether an object should exist.

Resource versions are compared as integers of one resource on one API server.
Source: KEP-5504 (comparable resource versions, stable in Kubernetes 1.35; true of etcd and kine
before).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from sys import intern
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import orjson
import structlog

from syncer.objects import Indexer, Key, Object, key_of

TOMBSTONES: Final = 4096
"""Witnessed deletions remembered at most."""

TOMBSTONE_SECONDS: Final = 600.0
"""How long a witnessed deletion is remembered."""

_NOTHING: Final[Mapping[str, frozenset[str]]] = MappingProxyType({})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Meta:
    """Which state of which object the store holds.

    Attributes:
        uid: ``metadata.uid``.
        version: ``metadata.resourceVersion`` as an integer.
    """

    uid: str
    version: int


class Change(NamedTuple):
    """What became of one key.

    Attributes:
        key: the key.
        old: what was held before; ``None`` when nothing was.
        new: what is held now; ``None`` when the object is gone.
        values: by index, the values of the old and the new object together; only indexes that
            have any.
        moved: by index, the values which the key joined or left; only indexes that have any.
        initial: it came with the first list.
        own: it came with the answer to our own write.
    """

    key: Key
    old: Meta | None
    new: Meta | None
    values: Mapping[str, frozenset[str]]
    moved: Mapping[str, frozenset[str]]
    initial: bool
    own: bool


class Lister(Protocol):
    """What readers see of a store."""

    @property
    def size(self) -> int:
        """Bytes of JSON held."""

    def get(self, key: Key) -> Object | None:
        """Give the reader's own copy of an object, or ``None``."""

    def meta(self, key: Key) -> Meta | None:
        """Say which state of the object is held, without decoding it."""

    def __contains__(self, key: object) -> bool: ...

    def __len__(self) -> int: ...

    def keys(self) -> Iterable[Key]:
        """Give all keys, in no order worth relying on."""

    def by_index(self, index: str, value: str) -> list[Key]:
        """Give the keys of the objects that have a value in an index, oldest arrival first."""

    def index_values(self, index: str) -> Iterable[str]:
        """Give all the values that an index has."""

    def deleted_uid(self, key: Key) -> str | None:
        """Give the UID of the object under this key whose deletion the watch lately witnessed."""


class _Entry(NamedTuple):
    """A held object; ``values`` holds a tuple per index, in the store's order of indexes."""

    meta: Meta
    data: bytes
    values: tuple[tuple[str, ...], ...]


class _Tombstone(NamedTuple):
    meta: Meta
    time: float


def version_of(metadata: Mapping[str, Any]) -> int:
    """Read ``metadata.resourceVersion``.

    Raises:
        ValueError: it is missing or no number, so nothing can be said about its age.
    """
    text = metadata.get("resourceVersion", "")
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"metadata.resourceVersion {text!r} is not a number") from None


class Snapshot:
    """A list while it comes in: what it holds that the store doesn't, and which keys it has seen.

    Made by :meth:`Store.begin`, handed back to :meth:`Store.replace`; dropping it instead leaves
    the store as it was.

    Attributes:
        floor: the highest version known when the list was begun; a list of the present can't be
            older, so a lower version means that the datastore was put back.
        rewound: everything is replaced without looking at versions.
        seen: keys the list has.
        pending: objects the store didn't hold in that state when they came.
        gone: deletions that a streaming list reported before it was complete.
    """

    __slots__ = ("_encode", "_lister", "floor", "gone", "pending", "rewound", "seen")

    def __init__(
        self,
        lister: Lister,
        encode: Callable[[Object], tuple[Key, _Entry]],
        floor: int,
        *,
        rewound: bool,
    ) -> None:
        self._lister = lister
        self._encode = encode
        self.floor = floor
        self.rewound = rewound
        self.seen: set[Key] = set()
        self.pending: dict[Key, _Entry] = {}
        self.gone: dict[Key, Meta] = {}

    def holds(self, key: Key, meta: Meta) -> bool:
        """Note that the list has this state, if the store has it too.

        Returns:
            Whether it has; otherwise the object must be decoded and given to :meth:`add`. Never
            after a rewind, because the datastore may have given the same version again.
        """
        if self.rewound or self._lister.meta(key) != meta:
            return False
        self.keep(key)
        self.pending.pop(key, None)
        return True

    def keep(self, key: Key) -> None:
        """Note that the list has the key, in whatever state the store may have it."""
        self.seen.add(key)
        self.gone.pop(key, None)

    def add(self, obj: Object) -> None:
        """Take an object of the list.

        Raises:
            ValueError, KeyError: the object lacks a name, a UID or a numeric resource version.
        """
        key, entry = self._encode(obj)
        self.keep(key)
        self.pending[key] = entry

    def remove(self, key: Key, meta: Meta) -> None:
        """Note a deletion that was reported after the key had been listed."""
        self.seen.discard(key)
        self.pending.pop(key, None)
        self.gone[key] = meta


class Store:
    """Reader's and writer's side of the objects of one resource.

    The writers are the resource's informer and, for answers to own writes, the engine.
    """

    def __init__(
        self,
        indexers: Mapping[str, Indexer],
        on_change: Callable[[Change], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        tombstones: int = TOMBSTONES,
    ) -> None:
        """Make an empty store.

        Args:
            indexers: by index name, the function that gives an object's values.
            on_change: called for each change, synchronously; it may read the store, not write it.
            clock: monotonic seconds, for forgetting deletions.
            tombstones: how many witnessed deletions are remembered at most.
        """
        self._names = tuple(indexers)
        self._indexers = tuple(indexers.values())
        self._on_change = on_change
        self._clock = clock
        self._limit = tombstones
        self._no_values: tuple[tuple[str, ...], ...] = ((),) * len(self._names)
        self._entries: dict[Key, _Entry] = {}
        # A value with one key, the usual case, holds just the key: a dict would cost 230 bytes.
        self._index: dict[str, dict[str, Key | dict[Key, None]]] = {n: {} for n in self._names}
        self._tombstones: dict[Key, _Tombstone] = {}  # oldest first
        self._size = 0
        self._version = 0
        self._highest = 0
        self._errors = 0

    @property
    def size(self) -> int:
        """Bytes of JSON held."""
        return self._size

    @property
    def version(self) -> int:
        """The resource version up to which the view is complete; a watch resumes from it."""
        return self._version

    @property
    def highest(self) -> int:
        """The highest resource version known, those of own writes included."""
        return self._highest

    @property
    def errors(self) -> int:
        """How often a callback or an indexer has raised."""
        return self._errors

    def get(self, key: Key) -> Object | None:
        """Give the reader's own copy of an object, or ``None``."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        obj: Object = orjson.loads(entry.data)
        return obj

    def meta(self, key: Key) -> Meta | None:
        """Say which state of the object is held, without decoding it."""
        entry = self._entries.get(key)
        return entry.meta if entry is not None else None

    def newest(self) -> tuple[Key, Meta] | None:
        """Give the object with the highest version held, or ``None``; looks at all of them."""
        newest = max(self._entries.items(), key=lambda item: item[1].meta.version, default=None)
        return (newest[0], newest[1].meta) if newest is not None else None

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> list[Key]:
        """Give all keys, in no order worth relying on."""
        return list(self._entries)

    def by_index(self, index: str, value: str) -> list[Key]:
        """Give the keys of the objects that have a value in an index, oldest arrival first.

        Raises:
            KeyError: there is no such index.
        """
        keys = self._index[index].get(value)
        if keys is None:
            return []
        return list(keys) if isinstance(keys, dict) else [keys]

    def index_values(self, index: str) -> list[str]:
        """Give all the values that an index has, in no order worth relying on.

        Raises:
            KeyError: there is no such index.
        """
        return list(self._index[index])

    def deleted_uid(self, key: Key) -> str | None:
        """Give the UID of the object under this key whose deletion the watch lately witnessed.

        An object that leaves the watch's selector looks the same as a deleted one to any watcher.
        The key may be taken by a successor meanwhile; when that is gone unseen, there is no answer.
        """
        tombstone = self._tombstones.get(key)
        if tombstone is None or self._clock() - tombstone.time > TOMBSTONE_SECONDS:
            return None
        return tombstone.meta.uid

    def apply(
        self, obj: Object, *, own: bool = False, initial: bool = False, live: bool = False
    ) -> bool:
        """Take a state of an object, if it is news.

        Args:
            obj: the object; not changed.
            own: it is the answer to our own write. Such an answer may be late: when the view is
                already complete up to its version and lacks the key, the object is gone again.
            initial: passed on to the change.
            live: it is the answer to a read that was sent because the view may be wrong, so only
                a newer state or a witnessed deletion outweighs it. Send the read after the list
                that it is to contradict.

        Returns:
            Whether it was taken.

        Raises:
            ValueError, KeyError: the object lacks a name, a UID or a numeric resource version.
        """
        key = key_of(obj)
        version = version_of(obj["metadata"])
        self._highest = max(self._highest, version)
        old = self._entries.get(key)
        if old is not None and old.meta.version >= version:
            return False
        if old is None and own and not live and version <= self._version:
            return False
        tombstone = self._tombstones.get(key)
        if tombstone is not None and tombstone.meta.version >= version:
            return False
        _, new = self._encode(obj)
        self._put(key, new)
        self._report(key, old, new, initial=initial, own=own)
        return True

    def remove(self, key: Key, *, uid: str = "", version: int = 0, witnessed: bool) -> bool:
        """Drop an object.

        Args:
            key: the key.
            uid: drop only the object with this UID.
            version: drop only a state that is not newer; the version of the deletion.
            witnessed: the watch reported the deletion, so it is remembered, whether or not the
                object is (still) held.

        Returns:
            Whether it was held and is dropped.
        """
        self._highest = max(self._highest, version)
        old = self._entries.get(key)
        same = old is not None and uid in ("", old.meta.uid)
        if old is not None and same and version and old.meta.version > version:
            return False
        if witnessed and (buried := uid or (old.meta.uid if old else "")):
            self._bury(key, Meta(buried, version))
        if old is None or not same:
            return False
        self._drop(key)
        self._report(key, old, None, initial=False, own=False)
        return True

    def advance(self, version: int) -> None:
        """Note that everything up to a resource version has been applied."""
        self._version = max(self._version, version)
        self._highest = max(self._highest, version)

    def begin(self, *, rewound: bool = False) -> Snapshot:
        """Start to take in a list; call it before the list is asked for.

        Args:
            rewound: the datastore was put back: versions mean nothing until the list is complete.
        """
        return Snapshot(self, self._encode, self._highest, rewound=rewound)

    def replace(self, snapshot: Snapshot, version: int, *, initial: bool = False) -> int:
        """Make the store equal to a complete list, and report what differs.

        What is newer than the list stays: it came with answers to own writes.

        Args:
            snapshot: the list.
            version: the list's resource version.
            initial: passed on to the changes.

        Returns:
            How many objects were dropped only because the list lacks them.
        """
        rewound = snapshot.rewound
        if rewound:
            self._tombstones.clear()
            self._version = self._highest = 0
        dropped = self._sweep(snapshot, version)
        changes = [*self._take(snapshot, version), *dropped]
        for key, meta in snapshot.gone.items():
            self._bury(key, meta)
        self.advance(version)
        for key, old, new in changes:
            self._report(key, old, new, initial=initial, own=False)
        return sum(key not in snapshot.gone for key, _, _ in dropped)

    def _take(
        self, snapshot: Snapshot, version: int
    ) -> list[tuple[Key, _Entry | None, _Entry | None]]:
        """Put the list's objects in; give what differs."""
        changes: list[tuple[Key, _Entry | None, _Entry | None]] = []
        for key, new in snapshot.pending.items():
            old = self._entries.get(key)
            if old is not None and not snapshot.rewound:
                answered_later = old.meta.version > max(version, new.meta.version)
                if answered_later or old.meta == new.meta:
                    continue
            if old == new:
                continue
            self._put(key, new)
            changes.append((key, old, new))
        return changes

    def _sweep(
        self, snapshot: Snapshot, version: int
    ) -> list[tuple[Key, _Entry | None, _Entry | None]]:
        """Drop what the list would have, were it there; give what was dropped."""
        missing = [
            (key, entry)
            for key, entry in self._entries.items()
            if key not in snapshot.seen and (snapshot.rewound or entry.meta.version <= version)
        ]
        for key, _ in missing:
            self._drop(key)
        return [(key, entry, None) for key, entry in missing]

    def _encode(self, obj: Object) -> tuple[Key, _Entry]:
        """Make the entry of an object: strip, index, and copy the bytes to their exact size."""
        metadata = obj["metadata"]
        key = Key(intern(metadata.get("namespace", "")), metadata["name"])
        meta = Meta(metadata["uid"], version_of(metadata))
        if "managedFields" in metadata:
            metadata = {k: v for k, v in metadata.items() if k != "managedFields"}
            obj = {**obj, "metadata": metadata}
        # orjson keeps an over-sized buffer alive (8 KB for 1.2 KB); the copy has the right size.
        data = bytes(memoryview(orjson.dumps(obj)))
        return key, _Entry(meta, data, self._values(key, obj))

    def _values(self, key: Key, obj: Object) -> tuple[tuple[str, ...], ...]:
        """Compute the index values; an index whose function raises has none for the object."""
        values = []
        for name, indexer in zip(self._names, self._indexers, strict=True):
            try:
                values.append(tuple(dict.fromkeys(map(intern, indexer(obj)))))
            except Exception:
                self._errors += 1
                log.exception("indexer failed", index=name, object=str(key), kind=obj.get("kind"))
                values.append(())
        return tuple(values) if any(values) else self._no_values

    def _put(self, key: Key, new: _Entry) -> None:
        self._forget_revived(key, new.meta)
        old = self._entries.get(key)
        self._entries[key] = new
        self._size += len(new.data) - (len(old.data) if old else 0)
        before = old.values if old else self._no_values
        for name, had, has in zip(self._names, before, new.values, strict=True):
            if had != has:
                for value in had:
                    if value not in has:
                        self._leave(name, value, key)
                for value in has:
                    if value not in had:
                        self._join(name, value, key)

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key)
        tombstone = self._tombstones.get(key)
        if tombstone is not None and tombstone.meta.uid != entry.meta.uid:
            del self._tombstones[key]  # a predecessor's: it does not explain why this one is gone
        self._size -= len(entry.data)
        for name, values in zip(self._names, entry.values, strict=True):
            for value in values:
                self._leave(name, value, key)

    def _join(self, name: str, value: str, key: Key) -> None:
        index = self._index[name]
        keys = index.get(value)
        if keys is None:
            index[value] = key
        elif isinstance(keys, dict):
            keys[key] = None
        else:
            index[value] = {keys: None, key: None}

    def _leave(self, name: str, value: str, key: Key) -> None:
        index = self._index[name]
        keys = index[value]
        if isinstance(keys, dict) and len(keys) > 1:
            del keys[key]
        else:
            del index[value]

    def _bury(self, key: Key, meta: Meta) -> None:
        """Remember a witnessed deletion; forget the oldest ones over the limits."""
        now = self._clock()
        self._tombstones.pop(key, None)
        self._tombstones[key] = _Tombstone(meta, now)
        while self._tombstones:
            oldest = next(iter(self._tombstones))
            young = now - self._tombstones[oldest].time <= TOMBSTONE_SECONDS
            if young and len(self._tombstones) <= self._limit:
                break
            del self._tombstones[oldest]

    def _forget_revived(self, key: Key, meta: Meta) -> None:
        """Forget a deletion that is disproved: the object only left the selector for a while."""
        tombstone = self._tombstones.get(key)
        if tombstone is not None and (
            tombstone.meta.uid == meta.uid or tombstone.meta.version >= meta.version
        ):
            del self._tombstones[key]

    def _report(
        self, key: Key, old: _Entry | None, new: _Entry | None, *, initial: bool, own: bool
    ) -> None:
        values, moved = self._difference(old, new)
        change = Change(
            key, old.meta if old else None, new.meta if new else None, values, moved, initial, own
        )
        try:
            self._on_change(change)
        except Exception:
            self._errors += 1
            log.exception("change handler failed", object=str(key))

    def _difference(
        self, old: _Entry | None, new: _Entry | None
    ) -> tuple[Mapping[str, frozenset[str]], Mapping[str, frozenset[str]]]:
        """Give the index values of both states, and those that only one of them has."""
        before = old.values if old else self._no_values
        after = new.values if new else self._no_values
        if before is after is self._no_values:
            return _NOTHING, _NOTHING
        values: dict[str, frozenset[str]] = {}
        moved: dict[str, frozenset[str]] = {}
        for name, had, has in zip(self._names, before, after, strict=True):
            if had or has:
                values[name] = frozenset(had) | frozenset(has)
            if had != has and (difference := frozenset(had) ^ frozenset(has)):
                moved[name] = difference
        return values, moved
