"""Carries out plans: one item at a time per key, many keys at once.

A worker takes an item, makes a plan from what the stores have (:mod:`syncer.engine.plan`), and
carries its actions out in order. Whatever goes wrong stays with the item: it is logged, counted,
told to the tenant where the host refused, and tried again with backoff; other items go on.

What it never does: retry in place, hold a lock across items, or delete on an unwitnessed absence
without having looked at the live server and made sure that it is the same cluster.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, Protocol

import structlog

from syncer import ownership
from syncer.engine.gate import Gate, GateClosedError
from syncer.engine.patch import is_stale, make_patch
from syncer.engine.plan import Action, Create, Delete, Pair, Post, Tell, Update, Wait, plan
from syncer.engine.progress import Progress, StuckError
from syncer.engine.queue import Level, QueueClosed, WorkQueue
from syncer.engine.view import Item, View
from syncer.engine.writer import Writer
from syncer.kube.errors import ApiError, TransportError
from syncer.kube.recorder import EventRecorder
from syncer.naming import Names, hide_host_names
from syncer.objects import Key, Object, Resource, Side, key_of
from syncer.types import Direction, Kind, Notice, Query, Ref

PASSING_SECONDS: Final = 15.0
"""Longest pause after troubles of a whole server, which end for all objects at once."""
SETTLE_SECONDS: Final = 1.0
"""How long an object that is copied up may change before it is looked at."""
_REMEMBERED: Final = 4096
_LEAVING: Final = ("deletionTimestamp", "deletionGracePeriodSeconds", "finalizers")

log: structlog.stdlib.BoundLogger = structlog.get_logger("reconcile")


class Observer(Protocol):
    """Counts what the engine does; see docs/metrics.md."""

    def reconciled(self, kind: str, direction: str, result: str) -> None:
        """One item was worked on."""

    def latency(self, kind: str, side: Side, seconds: float) -> None:
        """Seconds from the first change seen to the write on ``side`` that it caused."""

    def sync_error(self, kind: str, reason: str) -> None:
        """A tenant's object could not be synced."""


class Attendant(Protocol):
    """I/O that a kind needs around its host copy (a pod's tokens); supplied by the app."""

    async def before_create(self, virtual: Object, wanted: Object) -> Object:
        """Make ready what the copy needs; gives the copy as it is to be created."""

    async def attend(self, virtual: Object, host: Object, item: Item) -> None:
        """Keep up what an existing copy needs."""


class Confirm(Protocol):
    """Says whether a side is still the cluster that the stores were filled from."""

    async def __call__(self, side: Side) -> bool:
        """Ask the live server."""


class NotConfirmedError(Exception):
    """A deletion was not carried out: the live servers say otherwise; look again later."""


class NotReadyError(Exception):
    """What a copy needs can't be had yet; the text is told to the tenant, in its own names."""


class Reconciler:
    """Works items off the queue."""

    def __init__(
        self,
        *,
        kinds: Mapping[str, Kind],
        names: Names,
        view: View,
        queue: WorkQueue[Item],
        writers: Mapping[Side, Writer],
        gate: Gate,
        recorder: EventRecorder,
        observer: Observer,
        confirm: Confirm,
        relist: Callable[[Side, str], None],
        ready: Callable[[Kind], bool],
        attendants: Mapping[str, Attendant],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Join the parts.

        Args:
            kinds: by name.
            names: the tenant's names.
            view: the stores.
            queue: where items come from.
            writers: by side.
            gate: no item is begun while it is closed.
            recorder: for the tenant's events.
            observer: metrics.
            confirm: asks whether a side is still the same cluster.
            relist: asks for a fresh list of a side's resource whose view was found wrong.
            ready: whether all that a kind looks at has synced.
            attendants: by kind name.
            clock: monotonic seconds.
        """
        self._kinds = kinds
        self._names = names
        self._view = view
        self._queue = queue
        self._writers = writers
        self._gate = gate
        self._recorder = recorder
        self._observer = observer
        self._confirm = confirm
        self._relist = relist
        self._ready = ready
        self._attendants = attendants
        self._clock = clock
        self._resources: dict[str, Resource] = {
            kind.resource.full_name: kind.resource for kind in kinds.values()
        }
        self._seen: dict[Item, float] = {}
        self._progress = Progress(clock)
        self._told: OrderedDict[Item, frozenset[Notice]] = OrderedDict()

    def enqueue(self, item: Item, level: Level = Level.LIVE) -> None:
        """Queue an item because something it looks at has changed.

        What only comes up from the host (events) settles for a moment first: repeats become one
        write, and a burst's workloads go before the tales of them.
        """
        self._seen.setdefault(item, self._clock())
        if self._kinds[item.kind].direction is Direction.TO_VIRTUAL:
            self._queue.add_after(item, SETTLE_SECONDS, level=level)
        else:
            self._queue.add(item, level=level)

    async def work(self) -> None:
        """Work until the queue is closed; several of these run side by side.

        Cancellation abandons the item in work between two writes: it is decided anew at the
        next start.
        """
        while True:
            await self._gate.wait_open()
            try:
                item = await self._queue.get()
            except QueueClosed:
                return
            try:
                await self._work_on(item)
            except Exception:  # while another error was told: no object's trouble ends a worker
                log.exception("reconcile failed", **_fields(item))
                self._queue.retry(item)
            finally:
                self._queue.done(item)

    async def _work_on(self, item: Item) -> None:
        kind = self._kinds[item.kind]
        direction = kind.direction.value
        if not self._ready(kind):
            self._queue.forget(item)
            self._seen.pop(item, None)
            return
        try:
            result = await self._reconcile(kind, item)
        except GateClosedError:
            self._queue.add(item)
            return
        except (NotConfirmedError, TransportError) as error:
            result = "retry"
            self._log("info", item, error)
            self._queue.retry(item, PASSING_SECONDS)
        except ApiError as error:
            result = self._refused(kind, item, error)
            if result == "dropped":
                self._queue.forget(item)
            else:
                self._queue.retry(item, PASSING_SECONDS if result == "retry" else None)
        except StuckError as error:
            result = "error"
            self._log("warning", item, error)
            self._tell(kind, item, (Notice("SyncError", str(error)),))
            self._queue.add_after(item, error.seconds)
        except NotReadyError as error:
            result = "error"
            self._log("warning", item, error)
            self._failed(kind, item, Notice("SyncError", str(error)))
            self._queue.retry(item)
        except Exception:
            result = "bug"
            log.exception("reconcile failed", **_fields(item))
            self._queue.retry(item)
        else:
            if result == "waiting":
                self._queue.retry(item)
            else:
                self._queue.forget(item)
        self._observer.reconciled(item.kind, direction, result)

    # -- one item ------------------------------------------------------------------------------

    async def _reconcile(self, kind: Kind, item: Item) -> str:
        """Make a plan and carry it out.

        Returns:
            ``written``, ``unchanged``, or ``waiting`` for something that will not queue it.
        """
        seen = self._seen.pop(item, None)
        pair = self._view.pair(kind, item.key)
        virtual, host = pair.virtual_seen, pair.host_seen
        source = host if kind.direction is Direction.TO_VIRTUAL else virtual
        if kind.direction is Direction.DERIVED and source is None:
            source = {"metadata": {"namespace": item.key.namespace, "name": item.key.name}}
        copy = virtual if kind.direction is Direction.TO_VIRTUAL else host
        ctx = self._view.context(kind, source, copy)
        actions = plan(kind, pair, ctx)
        waits = [action.blocked.on for action in actions if isinstance(action, Wait)]
        settled = kind.direction is Direction.TO_VIRTUAL and virtual is not None
        needs: list[Ref] = [*ctx.objects, *(ref for ref in waits if ref)]
        self._view.looked_at(item, () if source is None or settled else needs)
        digest = self._progress.check(item, actions)
        wrote, refusal = False, None
        for action in actions:
            try:
                wrote |= await self._carry_out(kind, item, pair, ctx, action, seen)
            except ApiError as error:
                if not _is_refused_change(kind, action, error):
                    raise
                refusal = refusal or error  # what comes back, and tokens, don't wait for it
        if refusal is None:
            self._progress.sent(item, digest)
        self._tell(kind, item, _notices(actions))
        attendant = self._attendants.get(kind.name)
        if attendant and virtual and host and _lives(virtual, host):
            await attendant.attend(virtual, host, item)
        if refusal is not None:
            raise refusal
        if None in waits:
            return "waiting"
        return "written" if wrote else "unchanged"

    async def _carry_out(
        self,
        kind: Kind,
        item: Item,
        pair: Pair,
        ctx: Any,
        action: Action,
        seen: float | None,
    ) -> bool:
        """Carry out one action; give whether it was a write."""
        match action:
            case Create(side=Side.HOST):
                await self._create_on_host(kind, pair, ctx, action)
            case Create():
                await self._create_on_virtual(kind, action)
            case Update():
                await self._update(kind, item, pair, action)
            case Post() if self._progress.is_posted(item, action):
                return False
            case Post():
                await self._writers[action.side].post(
                    kind.resource, action.key, action.subresource, action.body
                )
                self._progress.posted(item, action)
            case Delete() if (seconds := self._too_early(action)) > 0:
                self._queue.add_after(item, seconds, level=Level.LOW)
                return False
            case Delete():
                await self._delete(kind, pair, action)
            case Tell():
                return False
            case Wait(blocked):
                log.debug("waiting", why=blocked.reason, on=str(blocked.on), **_fields(item))
                return False
        if seen is not None:
            self._observer.latency(kind.name, action.side, self._clock() - seen)
        log.debug("written", action=type(action).__name__, side=action.side, **_fields(item))
        return True

    async def _update(self, kind: Kind, item: Item, pair: Pair, action: Update) -> None:
        if action.confirm:
            await self._confirm_lost(kind, pair, action.side, absent=True, identity=True)
        answer = await self._writers[action.side].patch(
            kind.resource, action.key, action.patch, action.subresource
        )
        if kind.quiet and not _says(answer, action.target):
            self.enqueue(item)

    async def _create_on_host(self, kind: Kind, pair: Pair, ctx: Any, action: Create) -> None:
        wanted, writer = action.wanted, self._writers[Side.HOST]
        if (attendant := self._attendants.get(kind.name)) is not None:
            virtual = pair.virtual()
            if virtual is None:
                return
            wanted = await attendant.before_create(virtual, wanted)
        try:
            await writer.create(kind.resource, wanted)
        except ApiError as error:
            if error.already_exists:
                await self._adopt(kind, pair, ctx, error)
                return
            second = kind.refused(wanted, error.message, ctx) if kind.refused else None
            if second is None:
                raise
            await writer.create(kind.resource, second)

    async def _create_on_virtual(self, kind: Kind, action: Create) -> None:
        """Create; an object that the store did not know of is taken into it instead.

        Raises:
            NotConfirmedError: there is such an object.
        """
        try:
            await self._writers[Side.VIRTUAL].create(kind.resource, action.wanted)
        except ApiError as error:
            if not error.already_exists:
                raise
            key = key_of(action.wanted)
            live = await self._writers[Side.VIRTUAL].get(kind.resource, key)
            if live is not None:
                self._view.store(Side.VIRTUAL, kind.resource.full_name).apply(live, live=True)
                self._relist(Side.VIRTUAL, kind.resource.full_name)
            raise NotConfirmedError(f"{kind.resource.kind} {key} was already there") from error

    async def _adopt(self, kind: Kind, pair: Pair, ctx: Any, error: ApiError) -> None:
        """The wanted name is taken: by our own copy that the store did not know of, or not.

        Raises:
            NotConfirmedError: the copy is there already, or what was in the way is gone now.
            ApiError: the conflict, told to the tenant; the object there stays as it is.
        """
        live = await self._writers[Side.HOST].get(kind.resource, pair.host_key)
        if live is None:
            raise NotConfirmedError("the object in the way has just gone")
        owner = self._made_for(kind, live)
        if owner == pair.key:
            self._view.store(Side.HOST, kind.resource.full_name).apply(live, live=True)
            raise NotConfirmedError("the copy was already there")
        if owner is None and kind.leftover is not None and kind.leftover(live, ctx):
            uid = live["metadata"]["uid"]
            await self._writers[Side.HOST].delete(kind.resource, pair.host_key, uid)
            raise NotConfirmedError("what the host's controllers had left there was removed")
        raise _in_the_way(kind, owner, error.attempt)

    def _too_early(self, action: Delete) -> float:
        """Give the seconds until a deletion may be looked at again; 0 when its time has come.

        By the clock of the server that has the object, whatever ours says. It is taken to have
        come only when that server tells the time; one that doesn't is asked again later.
        """
        if action.not_before is None:
            return 0.0
        now = self._writers[action.side].server_time()
        return ownership.RESERVED_SECONDS if now is None else action.not_before - now

    def _made_for(self, kind: Kind, host: Object) -> Key | None:
        """Give the key that a host object's marks name, or ``None``: it is not ours."""
        if kind.on_host is not None:
            return kind.on_host.mark(host, self._names)
        return ownership.virtual_key(host, self._names)

    async def _delete(self, kind: Kind, pair: Pair, action: Delete) -> None:
        """Delete, after the looks at the live servers that the plan asks for.

        Raises:
            NotConfirmedError: the live servers contradict the plan; nothing was deleted.
        """
        for query in action.based_on:
            self._confirm_whole(pair, query)
        if action.instead_of:
            await self._confirm_present(kind, pair, action.instead_of)
        await self._confirm_lost(
            kind, pair, action.side, absent=action.confirm, identity=action.identity
        )
        resource = self._resources[action.resource] if action.resource else kind.resource
        writer = self._writers[action.side]
        left = await writer.delete(resource, action.key, action.uid, action.grace)
        grace = left.get("deletionGracePeriodSeconds") if left is not None else action.grace
        if kind.quiet and grace != action.grace:
            self.enqueue(Item(kind.name, pair.key))  # somebody else's deletion came before

    def _confirm_whole(self, pair: Pair, query: Query) -> None:
        """Make sure that what a query looks through lacks nothing that the other side knows of.

        Raises:
            NotConfirmedError: it does.
        """
        if missing := self._view.unexplained(query.side, query.resource, pair.key.namespace):
            self._relist(query.side, query.resource)
            raise NotConfirmedError(f"{query.resource} {missing} is not to be seen on {query.side}")

    async def _confirm_present(self, kind: Kind, pair: Pair, uid: str) -> None:
        """Make sure that the virtual object is the one that the store has.

        Raises:
            NotConfirmedError: it is another one, or none: the store is behind.
        """
        live = await self._writers[Side.VIRTUAL].get(kind.resource, pair.key)
        if live is not None and live["metadata"]["uid"] == uid:
            return
        self._put_right(kind, Side.VIRTUAL, live)
        raise NotConfirmedError(f"{kind.resource.kind} {pair.key} is another one meanwhile")

    async def _confirm_lost(
        self, kind: Kind, pair: Pair, side: Side, *, absent: bool, identity: bool
    ) -> None:
        """Make sure that the other side of ``side`` has lost what a write there follows from.

        Args:
            kind: the kind.
            pair: the objects.
            side: where the write goes.
            absent: the object is not on the other side.
            identity: the other side is the cluster that it was.

        Raises:
            NotConfirmedError: the live server says otherwise.
        """
        other = _other(side)
        if absent:
            await self._confirm_absent(kind, pair, other)
        if identity and not await self._confirm(other):
            raise NotConfirmedError(f"the {other} cluster can't be confirmed to be the same")

    async def _confirm_absent(self, kind: Kind, pair: Pair, side: Side) -> None:
        """Look on the live server for what the store says is not there.

        A host object of that name which plainly is somebody else's doesn't count.

        Raises:
            NotConfirmedError: it is there: the store is put right.
            ApiError: it may be there, but its marks no longer say so.
        """
        key = pair.key if side is Side.VIRTUAL else pair.host_key
        live = await self._writers[side].get(kind.resource, key)
        if live is None:
            return
        if side is Side.HOST:
            owner = ownership.virtual_key(live, self._names)
            if owner != pair.key:
                if ownership.annotation(live, ownership.OBJECT_NAME) is None:
                    return
                raise _in_the_way(kind, owner, f"GET {kind.resource.path(key.namespace, key.name)}")
        self._put_right(kind, side, live)
        raise NotConfirmedError(f"{kind.resource.kind} {key} is there after all on {side}")

    def _put_right(self, kind: Kind, side: Side, live: Object | None) -> None:
        """Let a store that was found wrong have what the live server says, and list anew."""
        name = kind.resource.full_name
        if live is not None:
            self._view.store(side, name).apply(live, live=True)
        self._relist(side, name)

    # -- telling -------------------------------------------------------------------------------

    def _tell(self, kind: Kind, item: Item, notices: Collection[Notice]) -> None:
        """Emit notices as events on the virtual object, each once as long as it stands."""
        before = self._told.pop(item, frozenset())
        if not notices:
            return
        told = self._told[item] = frozenset(notices)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)
        news = told - before
        virtual = self._virtual(kind, item) if news else None
        if virtual is None:
            return
        for notice in news:
            self._observer.sync_error(kind.name, notice.reason)
            self._emit(kind, virtual, notice)

    def _emit(self, kind: Kind, virtual: Object, notice: Notice) -> None:
        component = kind.component or f"{kind.name}-syncer"
        self._recorder.event(virtual, notice.type, notice.reason, notice.message, component)
        for owner in virtual["metadata"].get("ownerReferences") or ():
            if owner.get("controller") and kind.graceful:
                involved = {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "metadata": {
                        "namespace": virtual["metadata"].get("namespace", ""),
                        "name": owner["name"],
                        "uid": owner["uid"],
                    },
                }
                message = f"{virtual['kind']} {virtual['metadata']['name']}: {notice.message}"
                self._recorder.event(involved, notice.type, notice.reason, message, component)

    def _refused(self, kind: Kind, item: Item, error: ApiError) -> str:
        """Log a refusal as its sort asks for, and tell the tenant of what is the tenant's to read.

        Returns:
            The sort, see :func:`_sort`.
        """
        sort = _sort(kind, error)
        match sort:
            case "retry":
                self._log("info", item, error)
            case "error":
                self._log("warning", item, error)
                words = hide_host_names(_words(error), self._names, self._known(kind, item))
                text = f"Error syncing to physical cluster: {words}"
                self._failed(kind, item, Notice("SyncError", text))
            case _:
                log.debug("not synced", why=sort, error=error.attempt, **_fields(item))
        return sort

    def _failed(self, kind: Kind, item: Item, notice: Notice) -> None:
        self._observer.sync_error(kind.name, notice.reason)
        virtual = self._virtual(kind, item)
        if virtual is not None:
            self._emit(kind, virtual, notice)

    def _known(self, kind: Kind, item: Item) -> dict[str, Key]:
        return {self._names.host_key(item.key).name: item.key}

    def _virtual(self, kind: Kind, item: Item) -> Object | None:
        obj = self._view.pair(kind, item.key).virtual()
        if obj is not None:
            obj.setdefault("apiVersion", kind.resource.api_version)
            obj.setdefault("kind", kind.resource.kind)
        return obj

    def _log(self, level: str, item: Item, error: Exception) -> None:
        failures = self._queue.failures(item)
        if level == "info" and failures & (failures - 1):
            level = "debug"  # a long outage is told at the 1st, 2nd, 3rd, 5th, 9th ... failure
        reason = str(error)
        if isinstance(error, ApiError) and _quotes_object(error):
            reason = f"{error.attempt}: {error.status} {_words(error)}"
        getattr(log, level)("not synced", reason=reason, failures=failures, **_fields(item))


def _other(side: Side) -> Side:
    return Side.VIRTUAL if side is Side.HOST else Side.HOST


def _sort(kind: Kind, error: ApiError) -> str:
    """Sort an API server's refusal.

    Returns:
        ``conflict``: ordinary, decided anew in a moment; ``waiting``: its namespace terminates, on
        either side, so that the item's deletion is on its way, and ``dropped``: the same for what
        only the host's next change can bring again; ``retry``: trouble of the whole server;
        ``error``: the tenant's to read.
    """
    if is_stale(error) or _vanished(kind, error):
        return "conflict"
    if _terminating(error):
        return "dropped" if kind.direction is Direction.TO_VIRTUAL else "waiting"
    if error.throttled or error.server_error or error.unauthorized:
        return "retry"
    return "error"


def _terminating(error: ApiError) -> bool:
    """Say whether the namespace is going away and takes nothing new: objects, bindings, tokens.

    Source: Kubernetes ``plugin/pkg/admission/namespace/lifecycle`` (cause NamespaceTerminating).
    """
    causes = error.details.get("causes") or ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def _says(answer: Object, target: Object) -> bool:
    """Say whether the answer to a patch shows what was written and no change of others.

    Others' changes that the answer holds come no more as news: the store is past them.
    """
    theirs, ours = answer["metadata"], target["metadata"]
    same = all(theirs.get(name) == ours.get(name) for name in _LEAVING)
    return same and make_patch(answer, target) is None


def _lives(virtual: Object, host: Object) -> bool:
    """Say whether a host copy is to be kept up: its very virtual object is there and stays."""
    metadata = virtual["metadata"]
    if "deletionTimestamp" in metadata:
        return False
    return ownership.virtual_uid(host) in (None, metadata["uid"])


def _notices(actions: Sequence[Action]) -> list[Notice]:
    """Give what a plan has to tell the tenant, its waits among it."""
    told = [action.notice for action in actions if isinstance(action, Tell)]
    waits = [action.blocked for action in actions if isinstance(action, Wait)]
    return told + [Notice("SyncError", blocked.reason) for blocked in waits if blocked.event]


def _words(error: ApiError) -> str:
    """Give a refusal's words, for the tenant and the log; never those that quote the object."""
    if _quotes_object(error):
        return f"{error.reason}: the server does not understand the change"
    return error.message


def _quotes_object(error: ApiError) -> bool:
    """Say whether a refusal is about a patch that the server can't decode.

    Then it quotes the whole object, host names and the data of secrets included.
    """
    causes = error.details.get("causes") or ()
    return any(cause.get("field") == "patch" for cause in causes)


def _in_the_way(kind: Kind, owner: Key | None, attempt: str) -> ApiError:
    """Give the conflict of a host object that has a copy's name and isn't that copy."""
    if owner is not None:
        message = (
            f"conflict: {kind.resource.kind} {owner} of this virtual cluster has the same name on "
            "the host; rename one of them"
        )
        return ApiError(409, "NameCollision", message, attempt=attempt)
    message = (
        "conflict: cannot sync virtual object as unmanaged physical object exists with desired name"
    )
    return ApiError(409, "UnmanagedObject", message, attempt=attempt)


def _vanished(kind: Kind, error: ApiError) -> bool:
    """Say whether a write failed only because its object has gone meanwhile (404)."""
    if kind.direction is not Direction.TO_HOST:
        return error.not_found
    return error.not_found and error.details.get("kind") == kind.resource.plural


def _is_refused_change(kind: Kind, action: Action, error: ApiError) -> bool:
    """Say whether a server will not have a change (policy, quota, no such subresource).

    The virtual one too: after a lost race inside of it, it calls a node port or an address that
    it gave to nobody "already allocated", for the minutes until its repair loop comes by.
    """
    if not isinstance(action, Update):
        return False
    passing = error.throttled or error.server_error or error.unauthorized
    return not (passing or is_stale(error) or _vanished(kind, error))


def _fields(item: Item) -> dict[str, str]:
    return {"kind": item.kind, "namespace": item.key.namespace, "name": item.key.name}
