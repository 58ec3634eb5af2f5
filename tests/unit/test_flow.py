"""Flow control: rules of the limit, simulated servers, and slots that never leak."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.engine.flow import MAX_PAUSE, AdaptiveLimit, Limiter, Outcome


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def play_round(limit: AdaptiveLimit, clock: Clock, latency: float, *, full: bool = True) -> None:
    """Begin as many requests as the limit allows and complete them after one latency."""
    clock.now += 1.001 * latency
    for _ in range(limit.limit):
        limit.completed(Outcome.OK, latency, full=full)


# -- the limit -----------------------------------------------------------------------------------


def test_unused_limit_stays(clock: Clock) -> None:
    """A limit that was not the bottleneck tells nothing and stays."""
    limit = AdaptiveLimit(start=16, clock=clock)
    for _ in range(50):
        play_round(limit, clock, 0.01, full=False)
    assert limit.limit == 16


def test_grows_by_one_per_round(clock: Clock) -> None:
    """A used limit grows by one each time as many requests as it allows are done."""
    limit = AdaptiveLimit(start=16, clock=clock)
    for _ in range(15):
        limit.completed(Outcome.OK, 0.01, full=True)
    assert limit.limit == 16
    limit.completed(Outcome.OK, 0.01, full=True)
    assert limit.limit == 17


def test_never_above_the_cap(clock: Clock) -> None:
    """With latency flat the limit works at the cap, but for a short look lower now and then."""
    limit = AdaptiveLimit(start=16, cap=20, clock=clock)
    seen = []
    for _ in range(200):
        play_round(limit, clock, 0.01)
        seen.append(limit.limit)
    assert max(seen) == 20
    assert sum(seen[20:]) / len(seen[20:]) > 18.5


@pytest.mark.parametrize("outcome", [Outcome.THROTTLED, Outcome.FAILED])
def test_halves_once_per_round_trip(clock: Clock, outcome: Outcome) -> None:
    """All requests of one round trip that fail together halve the limit once."""
    limit = AdaptiveLimit(start=16, clock=clock)
    for _ in range(16):
        limit.completed(outcome, 0.5, full=True)
    assert limit.limit == 8
    clock.now += 1
    limit.completed(outcome, 0.5, full=True)
    assert limit.limit == 4


def test_never_below_the_floor(clock: Clock) -> None:
    """However much fails, the floor stays."""
    limit = AdaptiveLimit(start=16, floor=2, clock=clock)
    for _ in range(20):
        clock.now += 1
        limit.completed(Outcome.FAILED, 0.1, full=True)
    assert limit.limit == 2


def test_grows_back_after_failures(clock: Clock) -> None:
    """When the server is well again, the limit finds its way up."""
    limit = AdaptiveLimit(start=16, clock=clock)
    for _ in range(10):
        clock.now += 1
        limit.completed(Outcome.FAILED, 0.1, full=True)
    assert limit.limit == 1
    for _ in range(40):
        play_round(limit, clock, 0.01)
    assert limit.limit > 16


def test_refusals_are_no_failures(clock: Clock) -> None:
    """A 4xx is an answer: its latency counts and the limit grows."""
    limit = AdaptiveLimit(start=4, clock=clock)
    for _ in range(4):
        limit.completed(Outcome.REFUSED, 0.01, full=True)
    assert limit.limit == 5


def test_what_was_not_sent_teaches_nothing(clock: Clock) -> None:
    """Requests that a closed gate held back look quick; the limit and its line stay as they are."""
    limit, same = AdaptiveLimit(start=16, clock=clock), AdaptiveLimit(start=16, clock=clock)
    for turn in range(20):
        play_round(limit, clock, 0.01)
        play_round(same, clock, 0.01)
        if turn == 10:
            for _ in range(200):
                limit.completed(Outcome.UNSENT, 0.000001, full=True)
        assert limit.limit == same.limit


def test_shrinks_gently_when_others_load_the_server(clock: Clock) -> None:
    """Latency far above what it was at this limit takes a step down, not a half."""
    limit = AdaptiveLimit(start=16, clock=clock)
    for _ in range(10):
        play_round(limit, clock, 0.01)
    before = limit.limit
    play_round(limit, clock, 0.05)
    assert before // 2 < limit.limit < before


def test_shrinks_when_latency_jumps_below_the_known_limits(clock: Clock) -> None:
    """A server that answers much later than it did with more in flight is loaded by others."""
    limit = AdaptiveLimit(start=16, clock=clock)
    for _ in range(20):
        play_round(limit, clock, 0.01)
    limit.completed(Outcome.FAILED, 0.01, full=True)
    before = limit.limit
    play_round(limit, clock, 0.05)
    assert before // 2 < limit.limit < before


def test_new_latency_becomes_the_baseline(clock: Clock) -> None:
    """A server that became slower for good does not hold the limit down for ever."""
    limit = AdaptiveLimit(start=16, clock=clock)
    for _ in range(30):
        play_round(limit, clock, 0.01)
    for _ in range(200):
        play_round(limit, clock, 0.05)
    assert limit.limit > 50


@pytest.mark.parametrize(
    ("asked", "obeyed"),
    [(None, 0), (0, 0), (2.5, 2.5), (86400, MAX_PAUSE)],
    ids=["none", "zero", "seconds", "a day"],
)
def test_retry_after_pauses(clock: Clock, asked: float | None, obeyed: float) -> None:
    """Retry-After is obeyed, within reason."""
    limiter = Limiter(clock=clock)
    limiter.release(Outcome.THROTTLED, 0.1, asked)
    assert limiter.pause == obeyed


@pytest.mark.parametrize(("floor", "cap"), [(0, 10), (6, 5)], ids=["floor 0", "floor above cap"])
def test_impossible_bounds_are_refused(floor: int, cap: int) -> None:
    """Bounds in the wrong order are a mistake of ours, told at once."""
    with pytest.raises(ValueError, match="does not hold"):
        Limiter(floor=floor, cap=cap)


@pytest.mark.parametrize(
    ("floor", "cap", "start"), [(1, 64, 16), (1, 4, 4), (32, 64, 32)], ids=["in", "above", "below"]
)
def test_start_keeps_to_the_bounds(floor: int, cap: int, start: int) -> None:
    """An operator who lowers the cap need not know where the limit starts."""
    assert Limiter(floor=floor, cap=cap).limit == start


# -- simulated servers ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A server model: ``latency(n)`` with n requests in flight, all sharing it fairly."""

    latency: Callable[[int], float]
    start: int = 16
    seconds: float = 30.0

    def run(self, seed: int) -> tuple[float, list[int]]:
        """Keep every slot busy; give requests per second and the limits seen, warm-up left out."""
        chance, clock = random.Random(seed), Clock()  # noqa: S311 - a seeded simulation
        limit = AdaptiveLimit(start=self.start, clock=clock)
        begin, warm = clock.now, clock.now + self.seconds / 3
        progress, running, done, limits = 0.0, list[tuple[float, float]](), 0, list[int]()
        while clock.now < begin + self.seconds:
            while len(running) < limit.limit:
                work = chance.gammavariate(4, 0.25)
                heapq.heappush(running, (progress + work, clock.now))
            in_flight = len(running)
            target, begun = heapq.heappop(running)
            clock.now += (target - progress) * self.latency(in_flight)
            progress = target
            limit.completed(Outcome.OK, clock.now - begun, full=in_flight >= limit.limit)
            if clock.now > warm:
                done += 1
                limits.append(limit.limit)
        return done / (clock.now - warm), sorted(limits)

    def most(self) -> float:
        """Give the most requests per second it can do with up to the cap in flight."""
        return max(in_flight / self.latency(in_flight) for in_flight in range(1, 65))


def workers(count: int, seconds: float) -> Callable[[int], float]:
    """Latency of a server that works on ``count`` requests at once, each for ``seconds``."""
    return lambda in_flight: seconds * max(1.0, in_flight / count)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("server", "low", "high"),
    [
        (Server(workers(1, 0.01)), 1, 4),
        (Server(workers(4, 0.01)), 4, 20),
        (Server(workers(8, 0.01)), 7, 24),
        (Server(workers(20, 0.01)), 18, 40),
        (Server(workers(40, 0.02), start=4), 34, 64),
        (Server(workers(8, 0.01), start=64), 7, 24),
        (Server(lambda n: 0.0011 + 0.00068 * n), 8, 32),
        (Server(lambda n: 0.01 + 0.00001 * n), 55, 64),
    ],
    ids=["1", "4", "8", "20", "40 from below", "8 from above", "2 cores, measured", "no end"],
)
def test_settles_where_the_server_is_saturated(
    server: Server, low: int, high: int, seed: int
) -> None:
    """The median limit lies in a band around saturation, at little cost in throughput."""
    rate, limits = server.run(seed)
    assert rate >= 0.85 * server.most()
    assert low <= limits[len(limits) // 2] <= high


# -- slots ---------------------------------------------------------------------------------------


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_never_more_in_flight_than_the_limit(clock: Clock) -> None:
    """Callers beyond the limit wait, and go on first come, first served."""
    limiter = Limiter(start=2, clock=clock)
    order: list[int] = []

    async def caller(number: int) -> None:
        await limiter.acquire()
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(caller(number))
        await settle()
        assert (order, limiter.in_flight, limiter.waiting) == ([0, 1], 2, 2)
        limiter.release(Outcome.OK, 0.01)
        await settle()
        assert order == [0, 1, 2]
        limiter.release(Outcome.OK, 0.01)
    assert order == [0, 1, 2, 3]


async def test_newcomers_do_not_overtake(clock: Clock) -> None:
    """A slot that was given to a waiter is not taken by a caller that comes in between."""
    limiter = Limiter(start=1, clock=clock)
    await limiter.acquire()
    waiter = asyncio.create_task(limiter.acquire())
    await settle()
    limiter.release(Outcome.REFUSED, 0.01)
    newcomers = [asyncio.create_task(limiter.acquire()) for _ in range(2)]
    await settle()
    assert waiter.done()
    assert limiter.in_flight == limiter.limit
    assert limiter.waiting == 3 - limiter.limit
    for newcomer in newcomers:
        newcomer.cancel()


async def test_nobody_starts_before_retry_after() -> None:
    """After a Retry-After no slot is given until its time is over, then all go on."""
    limiter = Limiter(start=4)
    await limiter.acquire()
    limiter.release(Outcome.THROTTLED, 0.01, retry_after=0.4)
    waiter = asyncio.create_task(limiter.acquire())
    await settle()
    assert (limiter.in_flight, limiter.waiting) == (0, 1)
    async with asyncio.timeout(30):
        await waiter
    assert limiter.pause == 0


async def test_newcomers_do_not_overtake_when_a_pause_ends(clock: Clock) -> None:
    """Who waited through a Retry-After goes first, even if its timer is late."""
    limiter = Limiter(start=1, clock=clock)
    await limiter.acquire()
    limiter.release(Outcome.THROTTLED, 0.01, retry_after=30)
    waiter = asyncio.create_task(limiter.acquire())
    await settle()
    clock.now += 31
    newcomer = asyncio.create_task(limiter.acquire())
    await settle()
    assert waiter.done()
    assert not newcomer.done()
    newcomer.cancel()


@pytest.mark.parametrize("given", [False, True], ids=["while waiting", "as it is given the slot"])
async def test_cancelled_acquire_holds_nothing(clock: Clock, given: bool) -> None:
    """A cancelled acquire leaves its slot to the next, at whatever point it is cancelled."""
    limiter = Limiter(start=1, clock=clock)
    await limiter.acquire()
    first, second = (asyncio.create_task(limiter.acquire()) for _ in range(2))
    await settle()
    if given:
        limiter.release(Outcome.REFUSED, 0.01)
    first.cancel()
    await settle()
    if not given:
        limiter.release(Outcome.REFUSED, 0.01)
    async with asyncio.timeout(30):
        await second
    assert first.cancelled()
    assert (limiter.in_flight, limiter.waiting) == (1, 0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "cancel", "release", "fail", "turn"]), st.integers(0, 1000)
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(steps=STEPS, start=st.integers(1, 4))
async def test_no_schedule_leaks_a_slot(steps: list[tuple[str, int]], start: int) -> None:
    """Whatever is acquired, cancelled and released, in any order, the books balance."""
    clock = Clock()
    limiter = Limiter(start=start, cap=8, clock=clock)
    tasks: list[asyncio.Task[None]] = []
    for action, number in steps:
        clock.now += 0.01
        owners = [task for task in tasks if task.done() and not task.cancelled()]
        before, most = limiter.in_flight, limiter.limit
        match action:
            case "acquire":
                tasks.append(asyncio.create_task(limiter.acquire()))
            case "cancel" if tasks:
                tasks[number % len(tasks)].cancel()
            case "release" | "fail" if owners:
                tasks.remove(owners[number % len(owners)])
                limiter.release(Outcome.OK if action == "release" else Outcome.FAILED, 0.005)
            case "turn":
                await asyncio.sleep(0)
        assert limiter.in_flight <= max(limiter.limit, most, before)
    await settle()
    owners = [task for task in tasks if task.done() and not task.cancelled()]
    assert limiter.in_flight == len(owners)
    assert limiter.waiting == sum(not task.done() for task in tasks)
    assert limiter.waiting == 0 or limiter.in_flight >= limiter.limit
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert limiter.waiting == 0
