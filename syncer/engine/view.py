"""What the engine sees: the stores of both sides, and who must look again when one changes.

A change in a store becomes queue items by tables made once, at start, from the kinds: the
kind's own objects by key, host copies by the virtual key their marks give, index values that
are keys of another kind, and the objects that a reconcile declared it had looked at.

Invariant: `_wanted_by[ref]` holds an item exactly while `_looks_at[item]` holds that ref.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, overload

from syncer import ownership, paths
from syncer.engine.plan import Pair
from syncer.engine.queue import Level
from syncer.kube.store import Change, Lister, Meta, Store
from syncer.naming import Names
from syncer.objects import Indexer, Key, Object, Resource, Side
from syncer.settings import Settings
from syncer.types import Context, Direction, Kind, Need, OnHost, OnHostGone, Query, Ref

VIRTUAL_KEY_INDEX: Final = "virtual"
"""Built-in index on host stores: the virtual key that the marks of a host object name."""
NAMESPACE_INDEX: Final = "namespace"
"""Built-in index on virtual stores of namespaced resources."""


class Item(NamedTuple):
    """A unit of work: a kind's name and a key (virtual; host for kinds that come from there)."""

    kind: str
    key: Key


Enqueue = Callable[[Item, Level], None]
"""Queues an item; the level says how soon it is wanted."""


class _Found(Sequence[Object]):
    """The objects under an index value; counted without decoding, decoded when looked at."""

    def __init__(self, store: Lister, keys: list[Key]) -> None:
        self._store = store
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Object: ...
    @overload
    def __getitem__(self, index: slice) -> list[Object]: ...
    def __getitem__(self, index: int | slice) -> Object | list[Object]:
        return list(self)[index]

    def __iter__(self) -> Iterator[Object]:
        return (obj for key in self._keys if (obj := self._store.get(key)) is not None)


def indexers(kinds: Iterable[Kind], names: Names) -> dict[tuple[Side, str], dict[str, Indexer]]:
    """Join the indexes that the kinds need, by side and resource full name.

    Args:
        kinds: the kinds that are on.
        names: the tenant's names, for the ``virtual`` index.
    """
    result: dict[tuple[Side, str], dict[str, Indexer]] = {}
    for kind in kinds:
        resource = kind.resource
        if kind.on_host is not None:
            own = result.setdefault((Side.HOST, resource.full_name), {})
            own[VIRTUAL_KEY_INDEX] = _marked_key(kind.on_host, names)
            own.update(kind.host_indexers)
            continue
        virtual = result.setdefault((Side.VIRTUAL, resource.full_name), {})
        if resource.namespaced:
            virtual[NAMESPACE_INDEX] = _namespace_of
        for target in {reference.target for reference in kind.references}:
            virtual[target] = _references(kind, target)
        virtual.update(kind.indexers)
        if kind.direction in (Direction.TO_HOST, Direction.TO_VIRTUAL):
            host = result.setdefault((Side.HOST, resource.full_name), {})
            if kind.direction is Direction.TO_HOST:
                host[VIRTUAL_KEY_INDEX] = _virtual_key(names)
            host.update(kind.host_indexers)
    return result


def _namespace_of(obj: Object) -> tuple[str]:
    return (obj["metadata"]["namespace"],)


def _virtual_key(names: Names) -> Indexer:
    def index(obj: Object) -> tuple[str, ...]:
        key = ownership.virtual_key(obj, names)
        return (str(key),) if key else ()

    return index


def _marked_key(on_host: OnHost, names: Names) -> Indexer:
    def index(obj: Object) -> tuple[str, ...]:
        key = on_host.mark(obj, names)
        return (str(key),) if key else ()

    return index


def _references(kind: Kind, target: str) -> Indexer:
    rows = [reference.path for reference in kind.references if reference.target == target]

    def index(obj: Object) -> set[str]:
        namespace = obj["metadata"].get("namespace", "")
        return {
            str(Key(namespace, name))
            for path in rows
            for name in paths.values(obj, path)
            if isinstance(name, str)
        }

    return index


class View:
    """Reads pairs and contexts from the stores, and turns changes into queue items."""

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        names: Names,
        settings: Settings,
        enqueue: Enqueue,
    ) -> None:
        """Make an empty view; stores are added with :meth:`add_store`.

        Args:
            kinds: the kinds that are on, by name.
            names: the tenant's names.
            settings: for the mappers.
            enqueue: where items go.
        """
        self._kinds = kinds
        self._names = names
        self._settings = settings
        self._enqueue = enqueue
        self._stores: dict[tuple[Side, str], Store] = {}
        self._synced = {
            kind.resource.kind: kind.resource
            for kind in kinds.values()
            if kind.direction is Direction.TO_HOST
        }
        self._looks_at: dict[Item, frozenset[Ref]] = {}
        self._wanted_by: dict[Ref, set[Item]] = {}
        self.owner: Object | None = None
        self.server_version = ""

    # -- stores ----------------------------------------------------------------------------

    def add_store(
        self,
        side: Side,
        resource: str,
        indexes: Mapping[str, Indexer],
        listener: Callable[[Change], None] | None = None,
    ) -> Store:
        """Make the store of a side and resource, its changes routed to the queue.

        Args:
            side: which server.
            resource: full name, or one of the reserved names.
            indexes: its indexes.
            listener: told of each change too, before the queue.
        """
        store = Store(indexes, self._route(side, resource, listener))
        self._stores[side, resource] = store
        return store

    def store(self, side: Side, resource: str) -> Store:
        """Give a store; ``KeyError`` when no kind needs it."""
        return self._stores[side, resource]

    def side(self, side: Side) -> dict[str, Store]:
        """Give the stores of one side by resource full name."""
        return {resource: store for (at, resource), store in self._stores.items() if at is side}

    @property
    def stores(self) -> Mapping[tuple[Side, str], Store]:
        """All stores, by side and resource."""
        return self._stores

    # -- reading ---------------------------------------------------------------------------

    def pair(self, kind: Kind, key: Key) -> Pair:
        """Give the two sides of an item, as the stores have them now."""
        if kind.direction is Direction.TO_VIRTUAL:
            return self._mirrored(kind, key)
        if kind.on_host is not None:
            return self._made_on_host(kind, kind.on_host, key)
        virtual = self._stores[Side.VIRTUAL, kind.resource.full_name]
        if kind.direction is not Direction.TO_HOST:
            return Pair(key, lambda: virtual.get(key), lambda: None, key)
        host = self._stores[Side.HOST, kind.resource.full_name]
        host_key = self._names.host_key(key)

        known: Meta | None = None

        def owned() -> Object | None:
            nonlocal known
            obj = host.get(host_key)
            if obj is None:
                return None
            meta = host.meta(host_key)
            if meta != known:  # whose it is, is asked once for each state
                if ownership.virtual_key(obj, self._names) != key:
                    return None
                known = meta
            return obj

        return Pair(
            key,
            lambda: virtual.get(key),
            owned,
            host_key,
            virtual_deleted=virtual.deleted_uid(key),
            host_deleted=host.deleted_uid(host_key),
            children=lambda: tuple(self._children(kind, key)),
            owner=self.owner,
        )

    def _mirrored(self, kind: Kind, key: Key) -> Pair:
        host = self._stores[Side.HOST, kind.resource.full_name]
        virtual = self._stores[Side.VIRTUAL, kind.resource.full_name]

        def copy() -> Object | None:
            obj = host.get(key)
            if obj is None or kind.virtual_key is None:
                return None
            virtual_key = kind.virtual_key(obj, self.context(kind, obj, None))
            return virtual.get(virtual_key) if virtual_key else None

        return Pair(key, copy, lambda: host.get(key), key)

    def _made_on_host(self, kind: Kind, on_host: OnHost, key: Key) -> Pair:
        host = self._stores[Side.HOST, kind.resource.full_name]
        host_key = Key(self._settings.current_namespace, on_host.name(key, self._names))

        def owned() -> Object | None:
            obj = host.get(host_key)
            return obj if obj and on_host.mark(obj, self._names) == key else None

        return Pair(key, lambda: None, owned, host_key)

    def _children(self, kind: Kind, key: Key) -> Iterator[tuple[str, Key, str, str | None]]:
        for child in kind.children:
            store = self._stores.get((Side.HOST, child.resource))
            for child_key in store.by_index(child.index, str(key)) if store else ():
                obj = store.get(child_key) if store else None
                if obj is not None and "deletionTimestamp" not in obj["metadata"]:
                    uid = obj["metadata"]["uid"]
                    yield child.resource, child_key, uid, ownership.virtual_uid(obj)

    def context(self, kind: Kind, source: Object | None, copy: Object | None) -> Context:
        """Give what the kind declares that it wants to see.

        Args:
            kind: the kind.
            source: virtual object, host object (TO_VIRTUAL) or a bare one (DERIVED).
            copy: the other one, if any.
        """
        objects: dict[Ref, Object | None] = {}
        queries: dict[Query, Sequence[Object]] = {}
        ctx = Context(
            self._names,
            self._settings,
            self._synced,
            objects,
            queries,
            server_version=self.server_version,
        )
        if kind.related is not None and source is not None:
            for need in kind.related(source, copy, ctx):
                if isinstance(need, Ref):
                    objects[need] = self._one(need)
                else:
                    queries[need] = self._many(need)
        return ctx

    def _one(self, ref: Ref) -> Object | None:
        store = self._stores.get((ref.side, ref.resource))
        if store is None:
            return None
        if ref.key == Key("", "") and len(store):
            return store.get(next(iter(store.keys())))
        return store.get(ref.key)

    def _many(self, query: Query) -> Sequence[Object]:
        store = self._stores.get((query.side, query.resource))
        return _Found(store, list(store.by_index(query.index_name, query.value))) if store else ()

    def unexplained(self, side: Side, resource: str, namespace: str) -> Key | None:
        """Name an object that a side should have and doesn't, though nobody saw it go.

        A list may have been empty or cut short. The other side tells: a copy whose virtual object
        is missing, or a virtual object that must have had a copy. What follows for the object
        itself is its own reconcile's to find out; this is for others, who count on what is there.

        Args:
            side: where it is missing.
            resource: full name; resources that aren't copied to the host can't be judged.
            namespace: of the virtual objects; ``""`` for all.

        Returns:
            The virtual key, or ``None``: nothing is amiss.
        """
        for kind in self._kinds.values():
            if kind.resource.full_name == resource and kind.direction is Direction.TO_HOST:
                missing = self._missing(kind, side)
                return next((key for key in missing if namespace in ("", key.namespace)), None)
        return None

    def _missing(self, kind: Kind, side: Side) -> Iterator[Key]:
        virtual = self._stores[Side.VIRTUAL, kind.resource.full_name]
        host = self._stores[Side.HOST, kind.resource.full_name]
        if side is Side.VIRTUAL:
            for key in map(Key.parse, host.index_values(VIRTUAL_KEY_INDEX)):
                if key not in virtual and virtual.deleted_uid(key) is None:
                    copy = host.get(self._names.host_key(key))
                    if copy and _is_kept_by_its_object(copy):
                        yield key
            return
        for key in virtual.keys():  # noqa: SIM118 - no mapping
            host_key = self._names.host_key(key)
            if host_key not in host and host.deleted_uid(host_key) is None:
                obj = virtual.get(key)
                if obj and "deletionTimestamp" not in obj["metadata"] and _had_copy(kind, obj):
                    yield key

    # -- who must look again -----------------------------------------------------------------

    def looked_at(self, item: Item, needs: Iterable[Need]) -> None:
        """Remember which single objects an item's outcome depends on; replaces what was known."""
        refs = frozenset(need for need in needs if isinstance(need, Ref))
        before = self._looks_at.get(item, frozenset())
        if refs == before:
            return
        for ref in before - refs:
            waiting = self._wanted_by[ref]
            waiting.discard(item)
            if not waiting:
                del self._wanted_by[ref]
        for ref in refs - before:
            self._wanted_by.setdefault(ref, set()).add(item)
        if refs:
            self._looks_at[item] = refs
        else:
            del self._looks_at[item]

    def everything(self, kind: Kind) -> Iterator[Item]:
        """Give every item of a kind that the stores know of."""
        name = kind.name
        if kind.direction is Direction.WATCHED:
            return
        if kind.only is not None:
            yield Item(name, kind.only)
            return
        if kind.direction is Direction.TO_VIRTUAL:
            host = self._stores[Side.HOST, kind.resource.full_name]
            yield from (Item(name, key) for key in host.keys())  # noqa: SIM118 - no mapping
            return
        seen: set[Key] = set()
        if kind.on_host is None:
            seen.update(self._stores[Side.VIRTUAL, kind.resource.full_name].keys())
        if kind.direction is Direction.TO_HOST or kind.on_host is not None:
            host = self._stores[Side.HOST, kind.resource.full_name]
            seen.update(map(Key.parse, host.index_values(VIRTUAL_KEY_INDEX)))
        for trigger in kind.triggers:
            if (store := self._stores.get((trigger.side, trigger.resource))) is not None:
                seen.update(map(Key.parse, store.index_values(trigger.index)))
        yield from (Item(name, key) for key in seen)

    def _route(
        self, side: Side, resource: str, listener: Callable[[Change], None] | None
    ) -> Callable[[Change], None]:
        routes = list(self._routes(side, resource))

        def on_change(change: Change) -> None:
            if listener is not None:
                listener(change)
            for level, route in routes:
                for item in route(change):
                    self._enqueue(item, Level.LOW if change.initial else level)
            key = Key("", "") if resource.startswith("own-") else change.key
            for item in tuple(self._wanted_by.get(Ref(side, resource, key), ())):
                # It was begun and waits: whichever side this is, it is news as the host's are.
                level = _level(self._kinds[item.kind], Side.HOST)
                self._enqueue(item, Level.LOW if change.initial else level)

        return on_change

    def _routes(
        self, side: Side, resource: str
    ) -> Iterator[tuple[Level, Callable[[Change], Iterable[Item]]]]:
        for kind in self._kinds.values():
            level = _level(kind, side)
            own = _own_route(kind, side) if kind.resource.full_name == resource else None
            if own is not None:
                yield level, own
            for trigger in kind.triggers:
                if (trigger.side, trigger.resource) == (side, resource):
                    route = _index_route(kind.name, trigger.index, any_change=trigger.any_change)
                    yield level, route


def _is_kept_by_its_object(copy: Object) -> bool:
    """Say whether a host copy is there because of its virtual object alone, and to stay."""
    kept = ownership.annotation(copy, ownership.SKIP_BACKSYNC) == "true"
    kept = kept or ownership.reserved_until(copy) is not None
    return not kept and "deletionTimestamp" not in copy["metadata"]


def _had_copy(kind: Kind, virtual: Object) -> bool:
    """Say whether a virtual object can't be as it is without having had a host copy."""
    return kind.on_host_gone(virtual) is not OnHostGone.RECREATE


def _level(kind: Kind, side: Side) -> Level:
    """Give how soon a kind's items are wanted when something changes on a side.

    What was begun is finished first: what the host says of it, and what is made for it (a node
    that a pod waits for). What only comes from the host, its events, may yield.
    """
    if kind.direction is Direction.TO_VIRTUAL:
        return Level.LOW
    if side is Side.HOST or kind.direction is Direction.DERIVED:
        return Level.URGENT
    return Level.LIVE


def _own_route(kind: Kind, side: Side) -> Callable[[Change], Iterable[Item]] | None:
    """Give how a change of the kind's own objects on a side becomes items."""
    name, only = kind.name, kind.only
    if only is not None:
        item = (Item(name, only),)
        return lambda change: item if change.key == only else ()
    match kind.direction, side:
        case (Direction.TO_HOST, Side.VIRTUAL) if kind.quiet:
            return lambda change: () if change.own else (Item(name, change.key),)
        case (Direction.TO_HOST, Side.VIRTUAL) | (Direction.DERIVED, Side.VIRTUAL):
            return lambda change: (Item(name, change.key),)
        case Direction.TO_VIRTUAL, Side.HOST:
            return lambda change: (Item(name, change.key),)
        case Direction.DERIVED, Side.HOST if kind.on_host is not None:
            return lambda change: _copies(name, change)
        case Direction.TO_HOST, Side.HOST if kind.quiet or kind.to_virtual is None:
            return lambda change: () if change.own and change.old is None else _copies(name, change)
        case Direction.TO_HOST, Side.HOST:
            return lambda change: _copies(name, change)
        case _:
            return None


def _copies(name: str, change: Change) -> Iterator[Item]:
    for value in change.values.get(VIRTUAL_KEY_INDEX, ()):
        yield Item(name, Key.parse(value))


def _index_route(name: str, index: str, *, any_change: bool) -> Callable[[Change], Iterable[Item]]:
    def route(change: Change) -> Iterator[Item]:
        found = change.values if any_change else change.moved
        for value in found.get(index, ()):
            yield Item(name, Key.parse(value))

    return route


def resources(kinds: Iterable[Kind]) -> dict[tuple[Side, str], Resource]:
    """Give the resources that must be watched on each side for these kinds."""
    result: dict[tuple[Side, str], Resource] = {}
    for kind in kinds:
        if kind.on_host is None:
            result[Side.VIRTUAL, kind.resource.full_name] = kind.resource
        if kind.on_host is not None or kind.direction in (Direction.TO_HOST, Direction.TO_VIRTUAL):
            result[Side.HOST, kind.resource.full_name] = kind.resource
    return result
