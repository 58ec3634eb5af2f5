"""Keeps a store equal to what an API server has of one resource: list, watch, and heal.

A list comes as a stream (``sendInitialEvents``) where the server has that, else in pages. It is
collected beside the store and put in at once, as a difference: a list that breaks off changes
nothing, and what was deleted while nobody watched is reported like any other change.

What follows what is decided in :mod:`syncer.kube.phases`; here is what awaits and obeys.

Invariants:
* :meth:`Informer.run` ends by cancellation only; cancelling it leaves the store consistent;
* objects leave the store only by a watched deletion or a complete list, never because a server
  can't be reached, refuses or errs (a kind that is not served any more deletes nothing);
* a resource version that went backwards is told to ``on_rewound`` before the store changes, but
  not when the server has an object of a higher version: then only its answer calls itself too old.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/ (resource versions, streaming
lists, 410); KEP-3157 (streaming lists); KEP-956 (bookmarks).
"""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec
import orjson
import structlog

from syncer.kube.client import Client
from syncer.kube.errors import ApiError
from syncer.kube.phases import (
    PROGRESS,
    Checking,
    End,
    Listing,
    State,
    Watching,
    Why,
    classify,
    following,
    meaning,
    pause,
)
from syncer.kube.store import Snapshot, Store, version_of
from syncer.kube.watch import (
    Bookmark,
    DecodeError,
    Decoder,
    Event,
    Failure,
    ObjectEvent,
    Verb,
    peek,
)
from syncer.objects import Key, Object, Resource

PAGE: Final = 500
"""Objects in a page of a paged list."""

WATCH_SECONDS: Final = (240.0, 480.0)
"""A watch is asked to end after a time between these; spread, so that not all end at once."""

WATCH_SLACK: Final = 5.0
"""Seconds a watch may outlive the end that was asked for before it is cut."""

SILENCE: Final = 100.0
"""A watch without a byte for so many seconds is cut. Bookmarks come every 60 to 75 s."""

LIST_SECONDS: Final = 120.0
"""A streaming list, or a page, has to be complete after so many seconds."""

ANSWER_SECONDS: Final = 15.0
"""A watch has to be open, and the question for the version answered, after so many seconds."""

HEALTHY_AFTER: Final = 10.0
"""A watch that lived so many seconds, or told anything, ends a row of failures."""

RELIST_SPACING: Final = 10.0
"""Lists that :meth:`Informer.relist` asks for start at least so many seconds apart."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """What an informer is doing, for readiness, metrics and debugging.

    Attributes:
        state: ``listing``, ``checking`` or ``watching``.
        synced: a first list is complete.
        last_error: the last failure, ``""`` once a watch is open or a list complete again.
        error_status: its HTTP status, 0 when there was none (401: credentials, 403: rights).
        failing_since: when the row of failures began, by the informer's clock; ``None``: none.
        version: resource version up to which the store is complete.
        objects: how many objects are held.
        size: bytes of JSON held.
        restarts: how often a list or watch ended, by reason (:class:`Why`).
        errors: exceptions of callbacks, indexers and our own code.
    """

    state: str
    synced: bool
    last_error: str
    error_status: int
    failing_since: float | None
    version: int
    objects: int
    size: int
    restarts: Mapping[str, int]
    errors: int


class _Page(msgspec.Struct):
    metadata: _PageMetadata
    items: list[msgspec.Raw] | None = None


class _PageMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


_PAGE: Final = msgspec.json.Decoder(_Page)


class Informer:
    """Feeds one store from one API server; one :meth:`run` for its lifetime."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        store: Store,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        keep: Callable[[Object], bool] | None = None,
        on_rewound: Callable[[int, int], None] = lambda _old, _new: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
        watch_seconds: tuple[float, float] = WATCH_SECONDS,
        silence: float = SILENCE,
    ) -> None:
        """Prepare an informer; nothing is sent before :meth:`run`.

        Args:
            client: the API server's client.
            resource: what to watch.
            store: where it goes; nobody else feeds it but with answers to own requests.
            namespace: only this namespace; ``""`` for all, and for cluster-scoped resources.
            label_selector: only objects with these labels, selected by the server.
            field_selector: only objects with these fields, selected by the server.
            keep: which of the arriving objects are held at all; others are dropped.
            on_rewound: called with the highest version seen and the lower one that the server
                gave, before the store follows it.
            clock: monotonic seconds.
            sleep: waits for seconds.
            random: gives numbers from 0 to 1.
            watch_seconds: bounds of the time that a watch is asked to last.
            silence: a watch without a byte for so many seconds is cut.
        """
        self._client = client
        self._resource = resource
        self._store = store
        self._path = resource.path(namespace)
        self._selectors = _present(labelSelector=label_selector, fieldSelector=field_selector)
        self._keep = keep
        self._on_rewound = on_rewound
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._watch_seconds = watch_seconds
        self._silence = silence
        self._logger = log.bind(resource=resource.full_name, namespace=namespace)

        self._state: State = Listing()
        self._streaming = True  # until the server says that it has no streaming lists
        self._synced = asyncio.Event()
        self._settled = asyncio.Event()
        self._listed_at = float("-inf")
        self._asked = False  # a list newer than the last one is wanted
        self._deadline: asyncio.Timeout | None = None  # of the open connection
        self._snapshot: Snapshot | None = None  # a list that is coming in
        self._opened = False  # the server has begun to answer the watch
        self._proved = False  # the open watch has told something
        self._failures = 0
        self._error: End | None = None
        self._failing_since: float | None = None
        self._ends: Counter[str] = Counter()
        self._errors = 0

    @property
    def synced(self) -> bool:
        """Whether a first list is complete."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Wait until a first list is complete."""
        await self._synced.wait()

    async def wait_settled(self) -> None:
        """Wait until a first list is complete, or refused (no rights, or not served)."""
        await self._settled.wait()

    def relist(self) -> None:
        """Ask for a fresh list, because the view was found to be wrong.

        Any number of calls makes one list, at the earliest :data:`RELIST_SPACING` after the start
        of the last one; changes are watched until then.
        """
        self._asked = True
        self._schedule_relist()

    def status(self) -> Status:
        """Give a record of what the informer is doing."""
        return Status(
            state=type(self._state).__name__.lower(),
            synced=self.synced,
            last_error=self._error.message if self._error else "",
            error_status=self._error.status if self._error else 0,
            failing_since=self._failing_since,
            version=self._store.version,
            objects=len(self._store),
            size=self._store.size,
            restarts=MappingProxyType(dict(self._ends)),
            errors=self._errors + self._store.errors,
        )

    async def run(self) -> None:
        """Keep the store equal to the server until cancelled.

        Nothing but cancellation ends it. A connection that is open then is closed; a list that
        is half in is dropped.
        """
        while True:
            started = self._clock()
            self._opened = self._proved = False
            end = await self._phase()
            lived = self._clock() - started
            if wait := self._conclude(end, lived):
                await self._sleep(wait)

    async def _phase(self) -> End:
        """Do what the state asks for; errors become values."""
        try:
            match self._state:
                case Listing(rewound):
                    end = await self._list(rewound=rewound)
                case Checking():
                    end = await self._check()
                case Watching():
                    end = await self._watch()
            if end.why is Why.REWOUND and await self._understated(end.version):
                return End(Why.UNDERSTATED, end.message)
            return end
        except Exception as error:
            streaming = isinstance(self._state, Listing) and self._streaming
            end = classify(error, streaming_list=streaming)
            if end.why is Why.BUG:
                self._errors += 1
                self._logger.exception("informer failed")
            return end
        finally:
            self._snapshot = None

    def _conclude(self, end: End, lived: float) -> float:
        """Move on to the next state; give the seconds to wait before it."""
        self._ends[end.why.value] += 1
        healthy = isinstance(self._state, Watching) and (self._proved or lived >= HEALTHY_AFTER)
        if healthy:
            self._failures = 0
        if end.why is Why.UNSUPPORTED:
            self._streaming = False
        if end.why is Why.REWOUND:
            self._tell_rewound(end)
        self._state = following(self._state, end.why)
        if end.why in PROGRESS or (end.why is Why.CLOSED and healthy):
            return 0.0
        self._failures += 1
        if end.why is Why.REFUSED:
            self._settled.set()
        self._note(end)
        return pause(end, self._failures, self._random)

    def _note(self, end: End) -> None:
        """Remember a failure, and log the first of a row."""
        if self._failing_since is None:
            self._failing_since = self._clock()
            self._logger.warning("watch interrupted", why=end.why.value, error=end.message)
        self._error = end

    def _recovered(self) -> None:
        if self._failing_since is not None:
            self._logger.info(
                "watch recovered", seconds=round(self._clock() - self._failing_since, 1)
            )
        self._failing_since = None
        self._error = None

    def _tell_rewound(self, end: End) -> None:
        try:
            self._on_rewound(self._store.highest, end.version)
        except Exception:
            self._errors += 1
            self._logger.exception("rewind handler failed")

    # Listing

    async def _list(self, *, rewound: bool) -> End:
        self._asked = False
        self._listed_at = self._clock()
        self._snapshot = self._store.begin(rewound=rewound)
        if self._streaming:
            params = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            return await self._follow(params)
        return await self._list_pages(self._snapshot)

    async def _list_pages(self, snapshot: Snapshot) -> End:
        params = {**self._selectors, "limit": str(PAGE)}
        while True:
            page = await self._page(params, LIST_SECONDS)
            version = _version(page)
            for item in page.items or ():
                self._collect(snapshot, item)
            if not page.metadata.continue_:
                return self._complete(snapshot, version) or End(Why.LISTED)
            params["continue"] = page.metadata.continue_

    async def _page(self, params: Mapping[str, str], timeout: float) -> _Page:
        answer = await self._client.request("GET", self._path, params=params, timeout=timeout)
        try:
            return _PAGE.decode(answer)
        except ValueError as error:
            raise DecodeError(f"the answer is no list: {error}") from error

    def _collect(self, snapshot: Snapshot, item: msgspec.Raw) -> None:
        """Take an object of a page. Typed lists leave out what all their items share."""
        try:
            key, meta = peek(item)
        except ValueError as error:
            raise DecodeError(f"an item of the list is no object: {error}") from error
        if not snapshot.holds(key, meta):
            shared = {"kind": self._resource.kind, "apiVersion": self._resource.api_version}
            self._admit(snapshot, key, lambda: shared | orjson.loads(memoryview(item)))

    def _admit(self, snapshot: Snapshot, key: Key, decode: Callable[[], Object]) -> None:
        """Add an object to a list that is coming in, unless it is not to be kept."""
        try:
            obj = decode()
            if self._keeps(key, obj):
                snapshot.add(obj)
        except Exception:  # one object's trouble must neither stop the list nor delete it here
            self._errors += 1
            self._logger.exception("object not understood", object=str(key))
            snapshot.keep(key)

    def _complete(self, snapshot: Snapshot, version: int) -> End | None:
        """Put a complete list into the store, if it is of the present."""
        if version < snapshot.floor and not snapshot.rewound:
            return _rewound(version, snapshot.floor)
        if self._store.replace(snapshot, version, initial=not self.synced):
            self._asked = True  # nobody saw these objects go: was the list whole?
        self._snapshot = None
        self._synced.set()
        self._settled.set()
        self._recovered()
        return None

    # Checking

    async def _check(self) -> End:
        """Compare the server's version with the highest known.

        A watch from a version that the server hasn't reached yet, as after a restore, stays open
        and silent: only a list tells.
        """
        highest = self._store.highest
        version = _version(await self._page({**self._selectors, "limit": "1"}, ANSWER_SECONDS))
        return _rewound(version, highest) if version < highest else End(Why.CHECKED)

    async def _understated(self, version: int) -> bool:
        """Ask whether the server has an object of a higher version than its answer told.

        No datastore that was put back has: it knows nothing of what came later.
        Source: seen with kine 0.16.4 amid writes and broken watches; in its
        ``pkg/logstructured/sqllog/sql.go`` a read without rows is told a remembered revision,
        which inserts at the same time do not all move.
        """
        newest = self._store.newest()
        if newest is None or newest[1].version <= version:
            return False
        key, held = newest
        path = self._resource.path(key.namespace, key.name)
        try:
            answer = await self._client.request("GET", path, timeout=ANSWER_SECONDS)
        except ApiError as error:
            if error.not_found or error.forbidden:
                return False
            raise
        _, live = peek(msgspec.Raw(answer))
        return live.uid == held.uid and live.version >= held.version

    # Watching

    async def _watch(self) -> End:
        return await self._follow({"resourceVersion": str(self._store.version)})

    async def _follow(self, params: Mapping[str, str]) -> End:
        """Hold a watch open until it ends; the first part of it may be a streaming list."""
        shortest, longest = self._watch_seconds
        seconds = shortest + (longest - shortest) * self._random()
        params = {
            **self._selectors,
            **params,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(round(seconds)),
        }
        decoder = Decoder()
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS) as self._deadline,
                self._client.stream(
                    self._path,
                    params=params,
                    read_timeout=self._silence,
                    total=seconds + WATCH_SLACK,
                ) as chunks,
            ):
                self._begin_reading()
                async for chunk in chunks:
                    for event in decoder.feed(chunk):
                        if end := self._take(event):
                            return end
        except TimeoutError:
            if self._opened and self._snapshot is None:
                return End(Why.ASKED)
            raise
        finally:
            self._deadline = None
        return End(Why.CLOSED, "the server ended the watch early")

    def _begin_reading(self) -> None:
        """Note that a watch is open: from here on, other deadlines count."""
        self._opened = True
        if self._snapshot is not None:
            self._end_after(LIST_SECONDS)
        else:
            self._end_after(None)
            self._recovered()
            self._schedule_relist()

    def _schedule_relist(self) -> None:
        """Let the open watch end when the list that was asked for is due."""
        if self._asked and self._opened and self._snapshot is None:
            self._end_after(max(0.0, self._listed_at + RELIST_SPACING - self._clock()))

    def _end_after(self, seconds: float | None) -> None:
        """Set after how many seconds the open connection, if any, is ended; ``None``: never."""
        if self._deadline is not None and not self._deadline.expired():
            now = asyncio.get_running_loop().time()
            self._deadline.reschedule(None if seconds is None else now + seconds)

    def _take(self, event: Event) -> End | None:
        """Take an event; give a reason to end the watch, if it is one."""
        match event:
            case Failure(code, reason, message):
                return End(meaning(code, reason), f"{code} {reason}: {message}", code)
            case _ if self._snapshot is not None:
                return self._take_listed(self._snapshot, event)
            case Bookmark(version):
                if version < self._store.version:
                    return _disordered(version, self._store.version)
            case ObjectEvent():
                version = event.meta.version
                if version < self._store.version:
                    return _disordered(version, self._store.version)
                self._take_change(event)
        self._proved = True
        self._store.advance(version)
        return None

    def _take_listed(self, snapshot: Snapshot, event: ObjectEvent | Bookmark) -> End | None:
        """Take an event of a streaming list; they come in no order of versions."""
        if isinstance(event, Bookmark):
            if not event.initial_end:
                return None
            if end := self._complete(snapshot, event.version):
                return end
            self._state = Watching()
            self._end_after(None)
            self._schedule_relist()
        elif event.verb is Verb.DELETED:
            snapshot.remove(event.key, event.meta)
        elif not snapshot.holds(event.key, event.meta):
            self._admit(snapshot, event.key, event.decode)
        return None

    def _take_change(self, event: ObjectEvent) -> None:
        """Bring a watched change into the store."""
        key, meta = event.key, event.meta
        held = self._store.meta(key)
        if event.verb is Verb.DELETED:
            if held is not None or self._keep is None:  # deletions of foreign objects are no news
                self._store.remove(key, uid=meta.uid, version=meta.version, witnessed=True)
            return
        if held is not None and held.version >= meta.version:
            return  # the echo of our own write, whose answer was here first
        try:
            obj = event.decode()
            if self._keeps(key, obj):
                self._store.apply(obj)
            else:
                self._store.remove(key, version=meta.version, witnessed=False)
        except Exception:
            self._errors += 1
            self._logger.exception("object not understood", object=str(key))

    def _keeps(self, key: Key, obj: Object) -> bool:
        """Ask whether to hold an object; when in doubt, hold it."""
        try:
            return self._keep is None or self._keep(obj)
        except Exception:
            self._errors += 1
            self._logger.exception("keep failed", object=str(key))
            return True


def _present(**params: str) -> dict[str, str]:
    return {name: value for name, value in params.items() if value}


def _version(page: _Page) -> int:
    try:
        return version_of({"resourceVersion": page.metadata.resource_version})
    except ValueError as error:
        raise DecodeError(f"a list without a version: {error}") from error


def _rewound(version: int, highest: int) -> End:
    message = f"the server is at version {version}, but has given {highest}: restored or stale"
    return End(Why.REWOUND, message, version=version)


def _disordered(version: int, reached: int) -> End:
    return End(Why.DISORDERED, f"the watch told of version {version} after {reached}")
