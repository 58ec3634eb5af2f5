"""The words that the engine and the mappers share.

A *kind* is described by one frozen :class:`Kind` record of plain functions; the engine drives
those functions and never knows which kind it holds. Everything here is data: no I/O, no clock.

Invariants:
* an :data:`~syncer.objects.Object` is a fresh decode that its holder may change, nobody else sees
  it; but what a kind's function gets to read (all except for what it may change and return) is
  shared;
* waiting, skipping and refusing are values (:class:`Blocked`, :class:`Skip`, :class:`Refused`)
  with a reason that feeds events and metrics; an exception out of a mapper is a bug.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from syncer.naming import Names
from syncer.objects import Indexer, Key, Object, Resource, Side
from syncer.settings import Settings


class Ref(NamedTuple):
    """Names one object on one side: what a mapper asks for and waits for.

    ``resource`` is the :attr:`Resource.full_name`.
    """

    side: Side
    resource: str
    key: Key

    def __str__(self) -> str:
        return f"{self.side} {self.resource} {self.key}"


OWN_SERVICE: Final = Ref(Side.HOST, "own-service", Key("", ""))
"""The virtual cluster's own Service on the host: pods reach the API server under its address.

What it is called there is a setting; mappers see it under this name, as the engine's store has it.
"""

OWN_ENDPOINTS: Final = Ref(Side.HOST, "own-endpoints", Key("", ""))
"""The host Endpoints of that Service."""


class Query(NamedTuple):
    """Names the objects of one side that an index lists under a value."""

    side: Side
    resource: str
    index_name: str
    value: str


Need: TypeAlias = Ref | Query


@dataclass(frozen=True, slots=True)
class Blocked:
    """Can't be done yet; tried again when ``on`` changes (or, without it, with backoff).

    Attributes:
        reason: one line for people, in the tenant's names.
        on: the object waited for.
        event: whether the tenant should read the reason as an event on the object.
    """

    reason: str
    on: Ref | None = None
    event: bool = False


@dataclass(frozen=True, slots=True)
class Skip:
    """Should not be on the other side; a copy of ours that is there is removed.

    Attributes:
        reason: one line for logs.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The virtual object can't be what the host has: it is deleted, for its owner to make anew.

    Attributes:
        reason: one line for logs.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Will not be done for this object as it is; the tenant reads why in an event.

    Attributes:
        reason: one line in the tenant's names: the field, its value, what would be right.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """An event for the tenant on the virtual object.

    Attributes:
        reason: CamelCase reason.
        message: one line in the tenant's names.
        type: ``Warning`` or ``Normal``.
    """

    reason: str
    message: str
    type: str = "Warning"


@dataclass(frozen=True, slots=True)
class Context:
    """What a mapper may look at besides the object: names, settings and the objects it declared.

    Attributes:
        names: virtual <-> host names and label keys of this tenant.
        settings: the validated settings.
        synced: the resources that are copied to the host, by ``kind`` (``Pod``).
        objects: the answer to each :class:`Ref` the kind's ``related`` declared.
        queries: the answer to each :class:`Query` it declared.
        notices: a mapper appends what the tenant should be told; sent once per change.
        server_version: what the virtual API server calls its version, such as ``v1.36.3``.
        pending: for ``to_virtual``: the host copy does not have all of the virtual object yet.
    """

    names: Names
    settings: Settings
    synced: Mapping[str, Resource] = field(default_factory=dict)
    objects: Mapping[Ref, Object | None] = field(default_factory=dict)
    queries: Mapping[Query, Sequence[Object]] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    server_version: str = ""
    pending: bool = False


class Direction(Enum):
    """Where a kind's truth is."""

    TO_HOST = "to host"
    """The tenant's object is copied to the host; its status comes back."""
    TO_VIRTUAL = "to virtual"
    """The host's object is copied to the virtual cluster."""
    DERIVED = "derived"
    """Made from other objects, in the virtual cluster unless the kind says :class:`OnHost`; key =
    the virtual key."""
    WATCHED = "watched"
    """Only looked at, for the sake of other kinds."""


class OnHostGone(Enum):
    """What follows when the host copy was deleted by someone else."""

    RECREATE = "recreate"
    """Declarative kinds: made again."""
    DELETE_VIRTUAL = "delete virtual"
    """As its own controllers would: the virtual object is reported gone (grace 0)."""
    REPORT = "report"
    """Only the virtual status tells it: ``to_virtual(virtual, None, ctx)`` says how."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A field that names another object of the same namespace (or a cluster-scoped one).

    Attributes:
        path: dotted path; ``[]`` after a step walks a list, ``{}`` a map's values. Example:
            ``spec.volumes[].configMap.name``.
        target: :attr:`Resource.full_name` of what is named.
    """

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """A change of index membership elsewhere that queues objects of this kind.

    Attributes:
        side: where the other object is.
        resource: its :attr:`Resource.full_name`.
        index: name of the index on that store; its values are keys of this kind.
        any_change: queue on every change of the other object, not only of membership.
    """

    side: Side
    resource: str
    index: str
    any_change: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """Fields that are written through a subresource.

    Attributes:
        subresource: such as ``status``, ``binding``, ``ephemeralcontainers``, ``resize``.
        paths: dotted paths of the fields.
        body: for subresources that take an own object by POST (``binding``): builds it from
            the object as it is and as it is wanted. ``None``: a patch of the paths.
        versioned: the patch holds only for the resource version it was made from: others write
            the same list.
    """

    subresource: str
    paths: tuple[str, ...]
    body: Callable[[Object, Object], Object] | None = None
    versioned: bool = False


@dataclass(frozen=True, slots=True)
class Child:
    """Host objects of another resource that live and die with the host copy of this kind.

    Attributes:
        resource: :attr:`Resource.full_name` of the children.
        index: index on that resource's host store whose value is the owner's virtual key.
    """

    resource: str
    index: str


@dataclass(frozen=True, slots=True)
class OnHost:
    """How objects that are derived on the host, in the syncer's own namespace, are told apart.

    Attributes:
        name: gives the host name that belongs to a key.
        mark: gets a host object; gives the key it was made for, or ``None``: it is not ours.
        selector: gives the label selector under which all of the tenant's are listed.
    """

    name: Callable[[Key, Names], str]
    mark: Callable[[Object, Names], Key | None]
    selector: Callable[[Names], str]


Related: TypeAlias = Callable[[Object, Object | None, Context], Iterable[Need]]
ToHost: TypeAlias = Callable[[Object, Context], Object | Blocked | Skip | Refused]
ToVirtual: TypeAlias = Callable[[Object, Object | None, Context], Object | Blocked | Skip | Gone]
Derive: TypeAlias = Callable[[Key, Object | None, Context], Object | Blocked | Skip]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Everything the engine has to know of a kind; plain data and pure functions.

    Attributes:
        name: the ``--sync`` name, and the name in logs and metrics, such as ``configmaps``.
        resource: what is synced.
        direction: where the truth is.
        default: whether it is on unless ``--sync`` says otherwise.
        only: the one key this kind is about, when it is about a single object.
        required: whether readiness waits for it; older API servers may lack the resource.
        bookmarks: whether watches of it bear signs of life; API servers don't cache events, so
            theirs may be silent for as long as nothing happens.
        optional: whether ``--sync`` may name it; other kinds serve those and are always on.
        component: event source component, such as ``configmap-syncer``.
        references: fields that name other objects; each target resource becomes an index of
            that name on the virtual store, with ``namespace/name`` values.
        related: declares the other objects that the functions below want to see; called with
            the source object (virtual for TO_HOST, host for TO_VIRTUAL) and the copy if any;
            for DERIVED with the virtual object or a bare one with only metadata.
        to_host: TO_HOST: the host object as it would be created: spec-like fields, labels and
            annotations in host terms, built from an allow-list. Name, namespace, marks and
            owner reference are put on by the engine.
        mutable: TO_HOST: dotted paths that are made equal on an existing host object. A field
            absent in the wanted object is removed there, unless the path ends with ``?``.
        update: TO_HOST: for what ``mutable`` can't say. Gets (wanted, host, ctx) and returns the
            host object as it should be; it may change and return ``host``, a fresh copy on
            which metadata and ``mutable`` have been applied.
        virtual_to_host: TO_HOST: for kinds whose virtual status partly flows to the host.
        to_virtual: gets (virtual, host, ctx), returns the virtual object as it should be; it may
            change and return ``virtual``, a fresh copy. For TO_VIRTUAL kinds ``virtual`` is a
            bare object with the wanted metadata when there is none yet.
        virtual_key: TO_VIRTUAL: virtual key for a host object, or ``None`` when not the tenant's.
        keep: TO_VIRTUAL: which host objects are kept in the store at all (they carry no label
            of ours to select by); gets (host, names).
        derive: DERIVED: gets (key, the object there or None, ctx), returns the object as it should
            be, or :class:`Skip` when there should be none.
        derived_mark: DERIVED: says whether an existing virtual object is one of ours; others
            are never changed or deleted.
        on_host: DERIVED: it is made on the host; ``resource`` then names a part of its own.
        host_parts, virtual_parts: fields that go through subresources, in order of writing.
        refused: TO_HOST: gets (wanted, status message of the host's refusal, ctx); may give a
            second object to try at once (such as without the asked-for cluster IP).
        leftover: TO_HOST: gets (host object in the way of a copy, ctx); says whether the host's
            own controllers made it out of our objects and no longer keep it: it is removed.
        triggers: index changes elsewhere that queue objects of this kind.
        children: host objects removed with this kind's host copy.
        indexers: extra indexes on the virtual store of the resource.
        host_indexers: extra indexes on the host store of the resource.
        on_host_gone: what follows when the host copy vanished; a function decides by the
            virtual object.
        mirror_deletion: a terminating host copy deletes the virtual object too.
        graceful: deletions carry ``gracePeriodSeconds`` both ways.
        restamp: a virtual object made again under the same name keeps the host copy (its UID
            mark is rewritten); otherwise the host copy is deleted and made again.
        ignored_annotations: annotation keys that never cross.
        versioned: patches of the object itself hold only for the resource version they were made
            from: for what the API server gives out numbers to (addresses, node ports). It tries a
            patch on what it last heard of the object, and gives the number out; when that was not
            the latest, it tries again, finds the number taken, by itself, and for minutes refuses
            all who ask for it. With a version it sees before that it is late.
        quiet: an answer to a write of ours that says what was written needs no second look, and
            a fresh host copy has nothing to tell. For kinds whose every change is one step.
    """

    name: str
    resource: Resource
    direction: Direction
    default: bool = True
    only: Key | None = None
    required: bool = True
    bookmarks: bool = True
    optional: bool = True
    component: str = ""
    references: tuple[Reference, ...] = ()
    related: Related | None = None
    to_host: ToHost | None = None
    mutable: tuple[str, ...] = ()
    update: Callable[[Object, Object, Context], Object] | None = None
    to_virtual: ToVirtual | None = None
    virtual_key: Callable[[Object, Context], Key | None] | None = None
    keep: Callable[[Object, Names], bool] | None = None
    derive: Derive | None = None
    derived_mark: Callable[[Object], bool] | None = None
    on_host: OnHost | None = None
    host_parts: tuple[Part, ...] = ()
    virtual_parts: tuple[Part, ...] = ()
    refused: Callable[[Object, str, Context], Object | None] | None = None
    leftover: Callable[[Object, Context], bool] | None = None
    triggers: tuple[Trigger, ...] = ()
    children: tuple[Child, ...] = ()
    indexers: Mapping[str, Indexer] = field(default_factory=dict)
    host_indexers: Mapping[str, Indexer] = field(default_factory=dict)
    on_host_gone: Callable[[Object], OnHostGone] = lambda _virtual: OnHostGone.RECREATE
    mirror_deletion: bool = False
    graceful: bool = False
    restamp: bool = False
    ignored_annotations: frozenset[str] = frozenset()
    versioned: bool = False
    quiet: bool = False
