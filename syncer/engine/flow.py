"""How many requests to have in flight to one API server: as many as it profits from.

The limit grows by one per round (``limit`` requests begun and done under it) while more in flight
means more done, shrinks gently once it only means a longer wait, and halves when the server says
it is too much (429, 5xx, timeouts), at most once per round trip. ``Retry-After`` stops new
requests for as long.

Whether the server profits is read off the latency. With n in flight and latency L it does n/L a
second, so L stays while the server has room and grows in proportion to n once it is saturated.
Comparing L with the lowest ever seen would stop far too early: a kube-apiserver on two cores
answers a create in 2 ms alone and in 15 ms with 20 in flight, and yet does 2.4 times as much. So
the baseline is a line, not a number: the logarithm of the latency over that of the limit, fitted
through the recent rounds, older ones counting less and less. Its slope is 0 with room to spare
and 1 when saturated. Latency far above the line means that others load the server.

Invariants:
* never more than ``limit`` in flight, but for those begun before it shrank;
* slots are given first come, first served; a cancelled ``acquire`` holds none;
* the limit stays between floor and cap; it grows only by rounds in which it was the bottleneck.

:class:`AdaptiveLimit` decides and does no I/O; :class:`Limiter` waits. Watches and leases stay
outside. It never retries: that is the queue's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

START: Final = 16
CAP: Final = 64

SATURATED: Final = 0.8
"""Slope of log latency over log limit from which more in flight is taken to be only queueing."""

SURGE: Final = 2.0
"""A round this many times slower than the line says means that others load the server."""

SHRINK: Final = 0.9
"""Factor of a gentle step down; at least one."""

MEMORY: Final = 0.95
"""Weight of a round after the next one: the line remembers some twenty rounds."""

MIN_WEIGHT: Final = 5.0
"""Rounds (weighted) before the line is believed."""

MIN_SPREAD: Final = 0.03
"""Standard deviation of log limit before the slope is believed: about 3 % of the limit, which
one gentle step down and the way back up give."""

MAX_PAUSE: Final = 60.0
"""Longest Retry-After obeyed, in seconds; a wrong header must not stop us for hours."""


class Outcome(Enum):
    """How a request ended, as far as flow control cares."""

    OK = "ok"
    THROTTLED = "throttled"
    """429."""
    FAILED = "failed"
    """5xx, a timeout or a lost connection."""
    REFUSED = "refused"
    """Any other 4xx: the server worked and said no; its latency counts."""
    UNSENT = "unsent"
    """Nothing went, or nobody waited for the answer: nothing can be learnt."""


@dataclass(slots=True)
class _Line:
    """Weighted least squares of log latency over log limit; older rounds fade."""

    weight: float = 0.0
    mean_x: float = 0.0
    mean_y: float = 0.0
    var_x: float = 0.0
    cov: float = 0.0

    def add(self, limit: int, latency: float) -> None:
        """Take in one round."""
        x, y = math.log(limit), math.log(latency)
        self.weight = self.weight * MEMORY + 1.0
        share = 1.0 / self.weight
        dx, dy = x - self.mean_x, y - self.mean_y
        self.mean_x += share * dx
        self.mean_y += share * dy
        self.var_x = (1.0 - share) * (self.var_x + share * dx * dx)
        self.cov = (1.0 - share) * (self.cov + share * dx * dy)

    def slope(self) -> float:
        """Give the slope, between 0 and 1; 0 while there is too little to tell."""
        if self.weight < MIN_WEIGHT or not self.spread:
            return 0.0
        return min(1.0, max(0.0, self.cov / self.var_x))

    @property
    def spread(self) -> bool:
        """Whether the rounds' limits differ enough for a slope."""
        return self.var_x >= MIN_SPREAD * MIN_SPREAD

    def expected(self, limit: int) -> float:
        """Give the latency in seconds that the line has for a limit; infinite if unknown."""
        if self.weight < MIN_WEIGHT:
            return math.inf
        # The line is followed upwards only: a steep noisy slope must not promise low latency.
        ahead = max(0.0, math.log(limit) - self.mean_x)
        return math.exp(self.mean_y + self.slope() * ahead)


class AdaptiveLimit:
    """Decides the limit from the outcomes of requests; plain state, no I/O.

    Args:
        start: first limit, brought between floor and cap.
        floor: lowest limit, at least 1.
        cap: highest limit.
        clock: monotonic seconds.

    Raises:
        ValueError: not ``1 <= floor <= cap``.
    """

    def __init__(
        self,
        *,
        start: int = START,
        floor: int = 1,
        cap: int = CAP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 1 <= floor <= cap:
            raise ValueError(f"1 <= floor {floor} <= cap {cap} does not hold")
        self._floor = floor
        self._cap = cap
        self._clock = clock
        self._line = _Line()
        # floor <= limit <= cap.
        self.limit = min(max(start, floor), cap)
        # No request starts before this clock time.
        self.paused_until = -math.inf
        # Failures of requests begun before this are of the round trip that was cut for already.
        self._last_cut = -math.inf
        # A round counts what began in it: what began earlier may have run under another limit.
        # Every round, as the first to end are the quick ones, and rounds must be comparable.
        self._round_begun = -math.inf
        # This round: completions that count, those that met a full limit, sum of latencies.
        self._count = 0
        self._full = 0
        self._seconds = 0.0

    def completed(
        self, outcome: Outcome, latency: float, *, full: bool, retry_after: float | None = None
    ) -> None:
        """Take in the end of a request and adapt the limit.

        Args:
            outcome: how it ended.
            latency: seconds from the start of the request to its end, without waiting for a
                slot.
            full: whether every slot was taken while it ran (as of its end).
            retry_after: seconds the server asked to wait, if it did.
        """
        now = self._clock()
        if retry_after is not None and retry_after > 0:
            self.paused_until = max(self.paused_until, now + min(retry_after, MAX_PAUSE))
        if outcome in (Outcome.THROTTLED, Outcome.FAILED):
            self._cut(now, now - latency)
            return
        if outcome is Outcome.UNSENT:
            return
        if now - latency < self._round_begun:
            return
        self._count += 1
        self._full += full
        self._seconds += latency
        if self._count >= self.limit:
            self._end_round(now)

    def _cut(self, now: float, begun: float) -> None:
        if begun < self._last_cut:
            return
        self._last_cut = now
        self.limit = max(self._floor, self.limit // 2)
        self._begin_round(now)

    def _end_round(self, now: float) -> None:
        latency = max(self._seconds / self._count, 1e-6)
        used = 2 * self._full >= self._count
        self._begin_round(now)
        if not used:
            return
        surge = latency > SURGE * self._line.expected(self.limit)
        self._line.add(self.limit, latency)
        # A limit that rests at the cap teaches nothing: now and then it goes lower to see.
        blind = self.limit == self._cap and not self._line.spread
        if surge or blind or self._line.slope() > SATURATED:
            self.limit = max(self._floor, min(self.limit - 1, int(self.limit * SHRINK)))
        else:
            self.limit = min(self._cap, self.limit + 1)

    def _begin_round(self, now: float) -> None:
        self._round_begun = now
        self._count = self._full = 0
        self._seconds = 0.0


class Limiter:
    """Hands out slots for requests to one API server, first come, first served.

    ``await acquire()``, make the request, then ``release(...)`` always, exactly once.

    Args:
        clock: monotonic seconds.
        bounds: ``start``, ``floor`` and ``cap`` of the :class:`AdaptiveLimit`.

    Raises:
        ValueError: not ``1 <= floor <= cap``.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, **bounds: int) -> None:
        self._decision = AdaptiveLimit(clock=clock, **bounds)
        self._clock = clock
        # Slots held by callers, and by waiters that were given one and have not run yet.
        self._in_flight = 0
        # First come first; a future with a result holds a slot and is no longer in here.
        self._waiters: deque[asyncio.Future[None]] = deque()
        # Set while a pause holds waiters back.
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return self._decision.limit

    @property
    def in_flight(self) -> int:
        """How many slots are taken."""
        return self._in_flight

    @property
    def waiting(self) -> int:
        """How many callers wait for a slot."""
        return sum(not waiter.done() for waiter in self._waiters)

    @property
    def pause(self) -> float:
        """Seconds until requests may start again after a Retry-After; 0 when they may."""
        return max(0.0, self._decision.paused_until - self._clock())

    async def acquire(self) -> None:
        """Wait for a slot. A cancelled call holds none."""
        if not self._waiters and self._may_start():
            self._in_flight += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._hand_out()
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                # Given a slot and cancelled in the same turn of the loop.
                self._in_flight -= 1
                self._hand_out()
            else:
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
            raise

    def release(self, outcome: Outcome, latency: float, retry_after: float | None = None) -> None:
        """Give a slot back and say how the request went.

        Args:
            outcome: how it ended.
            latency: seconds from the start of the request to its end.
            retry_after: seconds the server asked to wait, if it did.
        """
        full = self._in_flight >= self._decision.limit
        self._in_flight -= 1
        self._decision.completed(outcome, latency, full=full, retry_after=retry_after)
        self._hand_out()

    def _may_start(self) -> bool:
        return self._in_flight < self._decision.limit and self.pause == 0

    def _hand_out(self) -> None:
        """Give free slots to the first waiters; during a pause, come back when it ends."""
        while self._waiters and self._may_start():
            waiter = self._waiters.popleft()
            if not waiter.done():
                self._in_flight += 1
                waiter.set_result(None)
        if self._waiters and self.pause > 0 and self._timer is None:
            loop = self._waiters[0].get_loop()
            self._timer = loop.call_later(max(0.001, self.pause), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._hand_out()
