"""The queue of keys to reconcile: fair, deduplicated, with backoff and delays.

Contract:
* an item is handed to one worker at a time; added meanwhile, it is queued again at ``done()``;
* an item waits once however often it is added; it keeps its earliest time and highest level;
* within a level, groups (virtual namespaces) with waiting items take turns, one item a turn;
  within a group it is first in, first out;
* a :class:`Level` goes before those below it, but each level that waits gets one pick in
  :data:`TURN`, so that none starves;
* a delayed or failed item blocks nobody: it waits in a heap and is added when due.

Everything is O(1), but for delays: O(log n). One timer serves all delays; there is no polling
and no task per item. The queue lives in one event loop and one thread, and never looks into an
item beyond its hash and its group.

Source: the contract of client-go ``util/workqueue`` and controller-runtime's priority queue;
fairness between groups is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random as random_module
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Level(IntEnum):
    """How soon an item is wanted; the smaller the number, the sooner."""

    URGENT = 0
    """What the host says of work already begun: a pod that runs is shown to be running before
    the next hundred are created."""
    LIVE = 1
    """The tenant's changes."""
    LOW = 2
    """Initial lists, and what may yield."""


TURN: Final = 8
"""In this many picks, each level below the highest goes before all others once."""

_FIRST: Final = (Level.URGENT,) * (TURN - 2) + (Level.LIVE, Level.LOW)
"""The level that goes before all others, by pick; the others follow in their own order."""

TIMER_STEP: Final = 0.001
"""Shortest timer in seconds: event loops round to milliseconds and may fire that much early."""

MAX_DOUBLINGS: Final = 60
"""Bounds the exponent of the backoff; the cap is reached long before."""


class QueueClosed(Exception):  # noqa: N818 - a state, not an error
    """Raised by :meth:`WorkQueue.get` once the queue is closed; a worker ends on it."""


@dataclass(slots=True)
class _Wanted:
    """An item that waits to be handed out.

    Attributes:
        since: clock time of the first add since it was last handed out.
        level: the highest of the adds since then.
    """

    since: float
    level: Level


@dataclass(slots=True)
class _Delayed:
    """An item's place in the heap of delays.

    Attributes:
        due: clock time; heap entries with another time are leftovers.
        level: it will be added with.
    """

    due: float
    level: Level


class _Lane(Generic[T]):
    """The items of one level, ready to be handed out; groups take turns."""

    def __init__(self) -> None:
        # Groups with at least one item, next turn first; the items of each in order of arrival.
        # OrderedDict, because a plain dict takes ever longer to find its first key once many
        # first keys were deleted.
        self._turns: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._turns)

    def add(self, group: str, item: T) -> None:
        """Append an item; a group that had none gets the last turn."""
        items = self._turns.get(group)
        if items is None:
            items = self._turns[group] = OrderedDict()
        items[item] = None

    def discard(self, group: str, item: T) -> None:
        """Take an item out that moves to another lane."""
        items = self._turns[group]
        del items[item]
        if not items:
            del self._turns[group]

    def pop(self) -> T:
        """Take the first item of the group whose turn it is; its next turn is the last."""
        group, items = next(iter(self._turns.items()))
        item, _ = items.popitem(last=False)
        if items:
            self._turns.move_to_end(group)
        else:
            del self._turns[group]
        return item


class WorkQueue(Generic[T]):
    """Hands out items to workers; see the module for the contract.

    A worker's life is ``item = await get()``, work, then ``retry(item)`` on failure or
    ``forget(item)`` on success, and ``done(item)`` always.

    Args:
        group: names the group of an item; constant for an item.
        clock: monotonic seconds.
        random: uniform number in [0, 1) for the jitter.
        base: delay in seconds after a first failure.
        cap: longest delay in seconds after failures.
        on_wait: told, for each item handed out, the seconds it waited (delays and backoff not
            counted); must not raise.
    """

    def __init__(
        self,
        *,
        group: Callable[[T], str],
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = random_module.random,
        base: float = 0.005,
        cap: float = 300.0,
        on_wait: Callable[[float], None] | None = None,
    ) -> None:
        self._group = group
        self._clock = clock
        self._random = random
        self._base = base
        self._cap = cap
        self._on_wait = on_wait
        # Added and not handed out since, oldest first. An item that is in `_processing` too was
        # added while worked on and is in no lane; every other one is in the lane of its level.
        self._wanted: OrderedDict[T, _Wanted] = OrderedDict()
        self._lanes: tuple[_Lane[T], ...] = tuple(_Lane() for _ in Level)
        # The lanes in the order in which they are asked, for each pick of a turn, and which pick
        # of the turn is next.
        self._orders = tuple(
            tuple(self._lanes[level] for level in sorted(Level, key=lambda level: level != first))
            for first in _FIRST
        )
        self._next_pick = 0
        # Handed out and not done; the value is the level it was handed out with.
        self._processing: dict[T, Level] = {}
        # Failures since the last forget(); no zeros.
        self._failures: dict[T, int] = {}
        # The one delay of an item. `_heap` has an entry (due, number, item) for each, and
        # leftovers of delays that were made shorter.
        self._delayed: dict[T, _Delayed] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._number = 0
        # While a worker waits and something is delayed: fires when the heap's first entry is
        # due. Busy workers need none, as take() looks at the heap.
        self._timer: asyncio.TimerHandle | None = None
        # Workers waiting in get(), first come first; futures that are done were woken.
        self._getters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    @property
    def depth(self) -> int:
        """How many items wait to be handed out; delayed ones don't count."""
        return len(self._wanted)

    @property
    def delayed(self) -> int:
        """How many items have a delay to run out."""
        return len(self._delayed)

    @property
    def processing(self) -> int:
        """How many items are with workers."""
        return len(self._processing)

    def oldest_age(self) -> float:
        """Give the seconds that the longest waiting item has waited; 0 when none waits."""
        for wanted in self._wanted.values():
            return max(0.0, self._clock() - wanted.since)
        return 0.0

    def failures(self, item: T) -> int:
        """Give how often an item was retried since it was last forgotten."""
        return self._failures.get(item, 0)

    def add(self, item: T, *, level: Level = Level.LIVE) -> None:
        """Queue an item at once.

        Args:
            item: queued once, however often it is added; a closed queue ignores it.
            level: how soon it is wanted. An item that waits moves up to it, never down.
        """
        if self._closed:
            return
        wanted = self._wanted.get(item)
        if wanted is None:
            self._wanted[item] = _Wanted(self._clock(), level)
            if item not in self._processing:
                self._enter_lane(item, level)
        elif level < wanted.level:
            if item not in self._processing:
                self._lanes[wanted.level].discard(self._group(item), item)
                self._lanes[level].add(self._group(item), item)
            wanted.level = level

    def add_after(self, item: T, seconds: float, *, level: Level = Level.LIVE) -> None:
        """Queue an item after a delay.

        An item has one delay, the shortest asked for; its run is what asks for a later one. An
        add meanwhile neither waits for the delay nor ends it.

        Args:
            item: what to queue.
            seconds: the delay; 0 or less adds at once.
            level: to add with; of several, the highest.
        """
        if seconds <= 0:
            self.add(item, level=level)
            return
        if self._closed:
            return
        due = self._clock() + seconds
        delayed = self._delayed.get(item)
        if delayed is not None:
            delayed.level = min(delayed.level, level)
            if delayed.due <= due:
                return
            delayed.due = due
        else:
            self._delayed[item] = _Delayed(due, level)
        self._number += 1
        heapq.heappush(self._heap, (due, self._number, item))
        if self._heap[0][2] == item:
            self._set_timer()

    def is_delayed(self, item: T) -> bool:
        """Say whether an item has a delay to run out, whoever asked for it."""
        return item in self._delayed

    def retry(self, item: T, cap: float | None = None) -> float:
        """Queue a failed item again after its backoff, at the level it was handed out with.

        The delay doubles with each failure from ``base`` to ``cap`` and is then shortened by
        up to a half at random, so that what failed together doesn't come back together.

        Args:
            item: what failed.
            cap: a lower cap for this time, in seconds; ``None``: the queue's.

        Returns:
            The delay in seconds, between ``base`` and the cap.
        """
        failures = self._failures.get(item, 0)
        self._failures[item] = failures + 1
        most = self._cap if cap is None else min(cap, self._cap)
        full = min(most, self._base * 2.0 ** min(failures, MAX_DOUBLINGS))
        delay = max(self._base, full * (0.5 + 0.5 * self._random()))
        self.add_after(item, delay, level=self._processing.get(item, Level.LIVE))
        return delay

    def forget(self, item: T) -> None:
        """Reset an item's failures: after a success, or when it no longer matters."""
        self._failures.pop(item, None)

    def take(self) -> T | None:
        """Hand out the next item without waiting: the decision behind :meth:`get`.

        Returns:
            The item, now with the caller until :meth:`done`; ``None`` when nothing is ready or
            the queue is closed.
        """
        self._add_due()
        item = None if self._closed else self._pick()
        if item is None:
            return None
        wanted = self._wanted.pop(item)
        self._processing[item] = wanted.level
        if self._on_wait is not None:
            self._on_wait(max(0.0, self._clock() - wanted.since))
        return item

    async def get(self) -> T:
        """Wait for the next item.

        A cancelled call takes nothing: its turn goes to the next waiting worker.

        Returns:
            The item, with the caller until :meth:`done`.

        Raises:
            QueueClosed: the queue was closed, before or while waiting.
        """
        while True:
            item = self.take()
            if item is not None:
                return item
            if self._closed:
                raise QueueClosed
            await self._wait()

    def done(self, item: T) -> None:
        """Give an item back; added while it was out, it is queued again.

        Raises:
            KeyError: the item is not with a worker.
        """
        del self._processing[item]
        wanted = self._wanted.get(item)
        if wanted is not None:
            self._enter_lane(item, wanted.level)

    def close(self) -> None:
        """Hand out nothing more and wake every waiting worker with :class:`QueueClosed`.

        Items that wait or are delayed stay counted and are never handed out; ``done`` still
        works. Closing twice is the same as once.
        """
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._getters:
            self._wake()

    def _enter_lane(self, item: T, level: Level) -> None:
        self._lanes[level].add(self._group(item), item)
        self._wake()

    def _pick(self) -> T | None:
        for lane in self._orders[self._next_pick]:
            if lane:
                self._next_pick = (self._next_pick + 1) % TURN
                return lane.pop()
        return None

    async def _wait(self) -> None:
        getter = asyncio.get_running_loop().create_future()
        self._getters.append(getter)
        self._set_timer()
        try:
            await getter
        except asyncio.CancelledError:
            if getter.done() and not getter.cancelled():
                # Woken and cancelled in the same turn of the loop: pass the wake on.
                self._wake()
            else:
                # _wake() may have met the cancelled future first and dropped it.
                with contextlib.suppress(ValueError):
                    self._getters.remove(getter)
            raise

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _add_due(self) -> None:
        """Move what is due from the heap to the queue and drop leftovers from its top."""
        if not self._heap or self._closed:
            return
        now = self._clock()
        while self._heap:
            due, _, item = self._heap[0]
            delayed = self._delayed.get(item)
            if delayed is not None and delayed.due == due:
                if due > now:
                    return
                del self._delayed[item]
                self.add(item, level=delayed.level)
            heapq.heappop(self._heap)

    def _set_timer(self) -> None:
        """Let the timer fire when the next delay ends; only while someone waits for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap and self._getters and not self._closed:
            seconds = max(TIMER_STEP, self._heap[0][0] - self._clock())
            self._timer = self._getters[0].get_loop().call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._add_due()
        self._set_timer()
