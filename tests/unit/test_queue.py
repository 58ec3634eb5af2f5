"""The queue's contract: rules one by one, then a machine that compares it with a plain model."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syncer.engine.queue import TURN, Level, QueueClosed, WorkQueue


class Clock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


def group(item: str) -> str:
    """Items are ``group/name``."""
    return item.partition("/")[0]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(group=group, clock=clock, random=lambda: 1.0)


def drain(queue: WorkQueue[str]) -> Iterator[str]:
    """Take and finish items until none is ready."""
    while (item := queue.take()) is not None:
        yield item
        queue.done(item)


def test_empty_queue_gives_nothing(queue: WorkQueue[str]) -> None:
    """A queue without items has nothing to take, no depth and no age."""
    assert queue.take() is None
    assert (queue.depth, queue.delayed, queue.processing, queue.oldest_age()) == (0, 0, 0, 0.0)


def test_added_often_handed_out_once(queue: WorkQueue[str]) -> None:
    """An item that waits already is not queued a second time."""
    for _ in range(3):
        queue.add("a/1")
    assert list(drain(queue)) == ["a/1"]


def test_never_with_two_workers(queue: WorkQueue[str]) -> None:
    """An item added while it is worked on is handed out again only after done()."""
    queue.add("a/1")
    assert queue.take() == "a/1"
    queue.add("a/1")
    assert queue.take() is None
    assert queue.depth == 1
    queue.done("a/1")
    assert queue.take() == "a/1"


def test_done_without_add_ends_it(queue: WorkQueue[str]) -> None:
    """An item not added while it was worked on does not come again."""
    queue.add("a/1")
    assert list(drain(queue)) == ["a/1"]
    assert queue.processing == 0


def test_done_of_an_item_not_handed_out_is_a_bug(queue: WorkQueue[str]) -> None:
    """done() without get() raises."""
    queue.add("a/1")
    with pytest.raises(KeyError):
        queue.done("a/1")


def test_first_in_first_out_within_a_group(queue: WorkQueue[str]) -> None:
    """Items of one group come in the order in which they were added."""
    names = [f"a/{number}" for number in range(5)]
    for name in names:
        queue.add(name)
    assert list(drain(queue)) == names


def test_groups_take_turns(queue: WorkQueue[str]) -> None:
    """A group with many items delays another one's by no more than one item a turn."""
    for number in range(1000):
        queue.add(f"noisy/{number}")
    queue.add("quiet/1")
    queue.add("quiet/2")
    order = list(drain(queue))
    assert order.index("quiet/1") == 1
    assert order.index("quiet/2") == 3


def test_levels_in_order(queue: WorkQueue[str]) -> None:
    """What the host says goes before the tenant's changes, and those before the initial list."""
    queue.add("a/low", level=Level.LOW)
    queue.add("a/live")
    queue.add("a/urgent", level=Level.URGENT)
    assert list(drain(queue)) == ["a/urgent", "a/live", "a/low"]


LIVE_TURNS = [TURN - 2, 2 * TURN - 2, 3 * TURN - 2]
LOW_TURNS = [TURN - 1, 2 * TURN - 1, 3 * TURN - 1]


@pytest.mark.parametrize(
    ("busy", "waiting", "turns"),
    [
        (Level.LIVE, [Level.LOW], LOW_TURNS),
        (Level.URGENT, [Level.LOW], LOW_TURNS),
        (Level.URGENT, [Level.LIVE], LIVE_TURNS),
        (Level.URGENT, [Level.LIVE, Level.LOW], sorted(LIVE_TURNS + LOW_TURNS)),
    ],
    ids=["low behind live", "low behind urgent", "live behind urgent", "both behind urgent"],
)
def test_no_level_starves(
    queue: WorkQueue[str], busy: Level, waiting: list[Level], turns: list[int]
) -> None:
    """With items of a higher level always waiting, one pick in TURN is for each lower one."""
    for number in range(100):
        queue.add(f"a/busy{number}", level=busy)
    for level in waiting:
        for number in range(3):
            queue.add(f"b/waiting{level}{number}", level=level)
    order = list(drain(queue))
    assert [index for index, item in enumerate(order) if "waiting" in item] == turns


HIGHER_AND_LOWER = pytest.mark.parametrize(
    ("higher", "lower"),
    [
        (Level.URGENT, Level.LIVE),
        (Level.URGENT, Level.LOW),
        (Level.LIVE, Level.LOW),
    ],
    ids=lambda level: level.name.lower(),
)


@HIGHER_AND_LOWER
def test_adding_higher_raises_an_item(queue: WorkQueue[str], higher: Level, lower: Level) -> None:
    """An item that is added at a higher level than it waits at moves up."""
    queue.add("a/1", level=lower)
    queue.add("a/2", level=lower)
    queue.add("a/2", level=higher)
    assert list(drain(queue)) == ["a/2", "a/1"]


@HIGHER_AND_LOWER
def test_adding_lower_never_lowers_an_item(
    queue: WorkQueue[str], higher: Level, lower: Level
) -> None:
    """An item stays where it is when it is added at a lower level too."""
    queue.add("a/1", level=higher)
    queue.add("a/1", level=lower)
    queue.add("a/2", level=lower)
    assert list(drain(queue)) == ["a/1", "a/2"]


@HIGHER_AND_LOWER
def test_raised_while_worked_on(queue: WorkQueue[str], higher: Level, lower: Level) -> None:
    """The highest level of the adds during its work counts for the next run."""
    queue.add("a/1")
    queue.take()
    queue.add("a/1", level=lower)
    queue.add("a/1", level=higher)
    queue.add("a/1", level=lower)
    queue.add("a/0", level=lower)
    queue.done("a/1")
    assert list(drain(queue)) == ["a/1", "a/0"]


def test_waits_count_from_the_first_add(clock: Clock) -> None:
    """Re-adding and raising keep the earliest time; on_wait and oldest_age tell it."""
    waits: list[float] = []
    queue: WorkQueue[str] = WorkQueue(group=group, clock=clock, on_wait=waits.append)
    queue.add("a/1", level=Level.LOW)
    clock.now += 2
    queue.add("a/1")
    clock.now += 3
    assert queue.oldest_age() == 5
    queue.take()
    assert waits == [5]
    assert queue.oldest_age() == 0


def test_wait_of_an_item_added_while_worked_on_counts_from_that_add(clock: Clock) -> None:
    """The time behind its own earlier run is waiting too."""
    waits: list[float] = []
    queue: WorkQueue[str] = WorkQueue(group=group, clock=clock, on_wait=waits.append)
    queue.add("a/1")
    queue.take()
    clock.now += 1
    queue.add("a/1")
    clock.now += 4
    assert queue.oldest_age() == 4
    queue.done("a/1")
    queue.take()
    assert waits == [0, 4]


def test_delayed_until_due(queue: WorkQueue[str], clock: Clock) -> None:
    """A delayed item is handed out when due, not before, and others pass it."""
    queue.add_after("a/1", 10)
    queue.add("a/2")
    assert list(drain(queue)) == ["a/2"]
    clock.now += 9.99
    assert queue.take() is None
    clock.now += 0.01
    assert queue.take() == "a/1"
    assert queue.delayed == 0


@pytest.mark.parametrize("delays", [(10, 3), (3, 10)], ids=["shorter later", "longer later"])
def test_shortest_delay_counts(
    queue: WorkQueue[str], clock: Clock, delays: tuple[int, int]
) -> None:
    """An item has one delay, the shortest, and comes once."""
    for delay in delays:
        queue.add_after("a/1", delay)
    assert queue.delayed == 1
    clock.now += 3
    assert list(drain(queue)) == ["a/1"]
    clock.now += 100
    assert list(drain(queue)) == []


def test_shortened_delay_leaves_nothing_behind(queue: WorkQueue[str], clock: Clock) -> None:
    """The end of a delay that was made shorter ends no later delay of the item."""
    queue.add_after("a/1", 10)
    queue.add_after("a/1", 3)
    queue.add_after("b/1", 5)
    clock.now += 3
    assert list(drain(queue)) == ["a/1"]
    queue.add_after("a/1", 20)
    clock.now += 7
    assert list(drain(queue)) == ["b/1"]
    clock.now += 13
    assert list(drain(queue)) == ["a/1"]


def test_a_delay_can_be_asked_after(queue: WorkQueue[str], clock: Clock) -> None:
    """An item is delayed from the asking until it is due, whether or not it was made shorter."""
    assert not queue.is_delayed("a/1")
    queue.add_after("a/1", 10)
    queue.add_after("a/1", 3)
    assert queue.is_delayed("a/1")
    clock.now += 3
    assert queue.take() == "a/1"
    assert not queue.is_delayed("a/1")


@HIGHER_AND_LOWER
def test_highest_level_of_delays_counts(
    queue: WorkQueue[str], clock: Clock, higher: Level, lower: Level
) -> None:
    """Of two delays of an item at two levels, the higher level counts."""
    queue.add_after("a/1", 3, level=lower)
    queue.add_after("a/1", 5, level=higher)
    queue.add_after("a/1", 4, level=lower)
    queue.add_after("a/0", 2, level=lower)
    clock.now += 5
    assert list(drain(queue)) == ["a/1", "a/0"]


@pytest.mark.parametrize("seconds", [0, -1])
def test_no_delay_is_an_add(queue: WorkQueue[str], seconds: float) -> None:
    """A delay of nothing queues at once."""
    queue.add_after("a/1", seconds)
    assert queue.take() == "a/1"


def test_backoff_doubles_to_the_cap(queue: WorkQueue[str]) -> None:
    """Failures of one item wait 5 ms, then twice as long each time, up to 5 minutes."""
    delays = [queue.retry("a/1") for _ in range(100)]
    assert delays[:4] == [0.005, 0.01, 0.02, 0.04]
    assert delays[-1] == 300
    assert queue.failures("a/1") == 100


def test_a_retry_may_have_a_lower_cap_of_its_own(queue: WorkQueue[str]) -> None:
    """What failed for a reason that soon ends for all is not left waiting for the queue's cap."""
    delays = [queue.retry("a/1", 1.0) for _ in range(20)]
    assert max(delays) == 1.0
    assert queue.retry("a/1") > 1.0


def test_jitter_shortens_within_bounds(clock: Clock) -> None:
    """The random part takes up to half of the delay, never going below the base."""
    queue: WorkQueue[str] = WorkQueue(group=group, clock=clock, random=lambda: 0.0)
    assert [queue.retry("a/1") for _ in range(4)] == [0.005, 0.005, 0.01, 0.02]


def test_forget_resets_the_backoff(queue: WorkQueue[str]) -> None:
    """After a success the next failure waits the base again."""
    queue.retry("a/1")
    queue.retry("a/1")
    queue.forget("a/1")
    assert queue.failures("a/1") == 0
    assert queue.retry("a/1") == 0.005


def test_failed_items_block_nobody(queue: WorkQueue[str], clock: Clock) -> None:
    """Others go on while a failed item waits for its retry."""
    queue.add("a/bad")
    queue.add("a/good")
    item = queue.take()
    assert item == "a/bad"
    queue.retry(item)
    queue.done(item)
    assert list(drain(queue)) == ["a/good"]
    clock.now += 0.005
    assert queue.take() == "a/bad"


@HIGHER_AND_LOWER
def test_retries_keep_their_level(
    queue: WorkQueue[str], clock: Clock, higher: Level, lower: Level
) -> None:
    """A failing item does not overtake those of a higher level when it comes again."""
    queue.add("a/bad", level=lower)
    queue.take()
    queue.retry("a/bad")
    queue.done("a/bad")
    clock.now += 1
    assert queue.take() == "a/bad"
    queue.retry("a/bad")
    queue.done("a/bad")
    queue.add_after("a/good", 0.5, level=higher)
    clock.now += 1
    assert list(drain(queue)) == ["a/good", "a/bad"]


def test_due_while_worked_on_comes_after_done(queue: WorkQueue[str], clock: Clock) -> None:
    """A delay that ends during the item's own work does not give it to a second worker."""
    queue.add("a/1")
    queue.take()
    queue.add_after("a/1", 1)
    clock.now += 2
    assert queue.take() is None
    queue.done("a/1")
    assert queue.take() == "a/1"


async def test_waiting_worker_gets_what_is_added(queue: WorkQueue[str]) -> None:
    """get() waits for an add."""
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a/1")
    assert await worker == "a/1"


async def test_one_timer_wakes_workers_when_delays_end() -> None:
    """Waiting workers get delayed items in the order of their ends, without polling."""
    queue: WorkQueue[str] = WorkQueue(group=group)
    queue.add_after("a/later", 0.03)
    queue.add_after("a/sooner", 0.01)
    async with asyncio.timeout(30):
        assert await queue.get() == "a/sooner"
        assert await queue.get() == "a/later"


async def test_delay_asked_for_while_workers_wait() -> None:
    """A shorter delay than the one that the timer is set for sets it anew."""
    queue: WorkQueue[str] = WorkQueue(group=group)
    queue.add_after("a/far", 100)
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add_after("a/near", 0.005)
    async with asyncio.timeout(30):
        assert await worker == "a/near"
    queue.close()


async def test_cancelled_worker_takes_nothing(queue: WorkQueue[str]) -> None:
    """A worker cancelled while waiting leaves the next item to the others."""
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    queue.add("a/1")
    assert await second == "a/1"
    assert first.cancelled()


@pytest.mark.parametrize("cancel_first", [False, True], ids=["add, cancel", "cancel, add"])
async def test_cancelled_in_the_turn_of_its_wake(queue: WorkQueue[str], cancel_first: bool) -> None:
    """An item added in the same turn of the loop as its worker is cancelled goes to another."""
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    if cancel_first:
        first.cancel()
        queue.add("a/1")
    else:
        queue.add("a/1")
        first.cancel()
    async with asyncio.timeout(30):
        assert await second == "a/1"
    assert first.cancelled()
    assert queue.processing == 1


async def test_close_wakes_every_worker(queue: WorkQueue[str]) -> None:
    """Workers that wait, and those that come later, are told that the queue is closed."""
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.close()
    results = await asyncio.gather(*workers, return_exceptions=True)
    assert [type(result) for result in results] == [QueueClosed] * 3
    queue.add("a/1")
    with pytest.raises(QueueClosed):
        await queue.get()


async def test_close_hands_out_nothing_more(queue: WorkQueue[str]) -> None:
    """What waits when the queue is closed stays; what is out may still be given back."""
    queue.add("a/1")
    queue.add("a/2")
    item = await queue.get()
    queue.close()
    queue.add(item)
    queue.done(item)
    with pytest.raises(QueueClosed):
        await queue.get()
    assert queue.depth == 1


GROUPS = "abc"
ITEMS = st.sampled_from([f"{space}/{name}" for space in GROUPS for name in range(4)])
LEVELS = st.sampled_from(Level)


class QueueMachine(RuleBasedStateMachine):
    """Drives a queue as its users do and keeps plain sets beside it.

    The model knows what must still be handed out and how soon (``wanted``), what is out
    (``out``) and the end of each delay (``delays``); order is checked by counting how often
    others went first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue: WorkQueue[str] = WorkQueue(group=group, clock=self.clock)
        self.wanted: dict[str, Level] = {}
        self.out: dict[str, Level] = {}
        self.delays: dict[str, tuple[float, Level]] = {}
        # By level, or level and group, the picks that went to others since it began to wait.
        self.passed: Counter[Level | tuple[Level, str]] = Counter()
        # By level, the picks since one of its items went before one of a higher level.
        self.since_first: dict[Level, int] = {}

    def want(self, item: str, level: Level) -> None:
        """Note that an item must be handed out; one that moves up leaves a place to no one."""
        before = self.wanted.get(item, level)
        self.wanted[item] = min(before, level)
        if level < before:
            del self.passed[before], self.passed[before, group(item)]

    def delay(self, item: str, seconds: float, level: Level) -> None:
        """Note the end of an item's delay: the soonest counts, and the highest level."""
        due, before = self.delays.get(item, (float("inf"), Level.LOW))
        self.delays[item] = (min(due, self.clock.now + seconds), min(before, level))

    def settle(self) -> None:
        """Let the model's delays end, as take() does."""
        for item, (due, level) in list(self.delays.items()):
            if due <= self.clock.now:
                del self.delays[item]
                self.want(item, level)

    @rule(item=ITEMS, level=LEVELS)
    def add(self, item: str, level: Level) -> None:
        """Add at once."""
        self.queue.add(item, level=level)
        self.want(item, level)

    @rule(item=ITEMS, seconds=st.integers(1, 20), level=LEVELS)
    def add_after(self, item: str, seconds: int, level: Level) -> None:
        """Add later."""
        self.queue.add_after(item, seconds, level=level)
        self.delay(item, seconds, level)

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        """Let delays end."""
        self.clock.now += seconds

    @rule(level=LEVELS, name=st.integers(0, 3))
    def busy(self, level: Level, name: int) -> None:
        """Work on a level whose groups all have more: that's when others could starve."""
        for _ in range(TURN):
            for space in GROUPS:
                self.add(f"{space}/{name}", level)
            self.take()
            self.give_back(next(reversed(self.out)))

    @rule()
    def take(self) -> None:
        """Take an item: it was added, is with nobody else, and nobody starves for it."""
        self.settle()
        ready = {item: level for item, level in self.wanted.items() if item not in self.out}
        item = self.queue.take()
        if item is None:
            assert not ready, "something added was lost"
            return
        assert item not in self.out, "two workers on one key"
        assert item in ready, "handed out without being added"
        self.check_levels(ready[item], set(ready.values()))
        self.check_groups(ready[item], group(item), ready)
        self.out[item] = self.wanted.pop(item)

    def check_levels(self, picked: Level, waiting: set[Level]) -> None:
        """Higher levels go first, but for one pick in TURN of each lower one that waits."""
        for level in self.since_first:
            self.since_first[level] += 1
        if picked > min(waiting):
            assert self.since_first.get(picked, TURN) >= TURN, "a higher level is kept waiting"
            self.since_first[picked] = 0
        del self.passed[picked]
        for level in waiting - {picked}:
            self.passed[level] += 1
            assert self.passed[level] < TURN, "a level starves"

    def check_groups(self, level: Level, picked: str, ready: dict[str, Level]) -> None:
        """Of those that wait at a level, no group goes twice before another went once."""
        del self.passed[level, picked]
        for other in {group(item) for item, at in ready.items() if at == level} - {picked}:
            self.passed[level, other] += 1
            assert self.passed[level, other] < len(GROUPS), "a group starves"

    @precondition(lambda self: self.out)
    @rule(data=st.data(), failed=st.booleans())
    def finish(self, data: st.DataObject, failed: bool) -> None:
        """Give any of the items back after a success or a failure."""
        self.give_back(data.draw(st.sampled_from(sorted(self.out))), failed=failed)

    def give_back(self, item: str, *, failed: bool = False) -> None:
        """Give an item back."""
        if failed:
            seconds = self.queue.retry(item)
            assert 0.005 <= seconds <= 300
            self.delay(item, seconds, self.out[item])
        else:
            self.queue.forget(item)
            assert self.queue.failures(item) == 0
        self.queue.done(item)
        del self.out[item]

    @invariant()
    def counts_agree(self) -> None:
        """The queue counts what the model holds."""
        assert self.queue.processing == len(self.out)
        assert self.queue.depth + self.queue.delayed >= len(self.wanted)

    def teardown(self) -> None:
        """In the end everything that was added is handed out."""
        for item in list(self.out):
            self.queue.done(item)
            del self.out[item]
        self.clock.now += 1000
        self.settle()
        assert set(drain(self.queue)) == set(self.wanted)
        assert (self.queue.depth, self.queue.delayed, self.queue.processing) == (0, 0, 0)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("groups", [2, 7])
def test_no_group_starves_behind_busy_ones(queue: WorkQueue[str], groups: int) -> None:
    """With every other group re-adding without end, an item waits one turn of each at most."""
    for number in range(groups):
        queue.add(f"busy{number}/1")
    queue.add("quiet/1")
    for picks in range(groups + 1):
        item = queue.take()
        assert item is not None
        if item == "quiet/1":
            assert picks <= groups
            return
        queue.add(item)
        queue.done(item)
    pytest.fail("the quiet group's item was not handed out")
