"""Writes that don't last are sent less and less often; writes that do are never held up."""

from __future__ import annotations

import pytest

from syncer.engine.patch import make_patch
from syncer.engine.plan import Action, Post, Update
from syncer.engine.progress import POSTED_SECONDS, REMEMBERED, Progress, StuckError
from syncer.engine.view import Item
from syncer.objects import Key, Object, Side

ITEM = Item("things", Key("default", "web"))


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Give the time."""
        return self.now


class World:
    """What is written to one object, over time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.progress = Progress(self.clock)

    def write(self, *actions: Action, item: Item = ITEM) -> bool:
        """Carry out a pass; give whether its patches went."""
        try:
            self.progress.sent(item, self.progress.check(item, actions))
        except StuckError:
            return False
        return True


@pytest.fixture
def world() -> World:
    return World()


def update(size: int, uid: str = "h1") -> Update:
    actual: Object = {"metadata": {"uid": uid}, "spec": {"size": 0}}
    wanted: Object = {**actual, "spec": {"size": size}}
    patch = make_patch(actual, wanted)
    assert patch is not None
    return Update(Side.HOST, ITEM.key, patch, wanted)


def test_different_patches_go_at_once(world: World) -> None:
    """However quickly an object changes, and back again, each change is written."""
    assert all(world.write(update(1 + turn % 2)) for turn in range(50))


def test_the_same_patch_goes_twice_then_waits(world: World) -> None:
    """A server that alters what is sent gets two writes, then pauses that double."""
    assert world.write(update(1))
    assert world.write(update(1))
    with pytest.raises(StuckError, match=r"does not keep what is written to spec\.size") as stuck:
        world.progress.check(ITEM, [update(1)])
    assert stuck.value.seconds == 5.0
    world.clock.now += 5.0
    assert world.write(update(1))
    world.clock.now += 9.9
    assert not world.write(update(1))
    world.clock.now += 0.5
    assert world.write(update(1))


def test_a_pass_in_which_all_looks_well_proves_nothing_yet(world: World) -> None:
    """Another controller that changes it back a moment later is not fought without pauses."""
    writes = 0
    for _ in range(1000):
        writes += world.write(update(1))
        world.clock.now += 0.005
        assert world.write()
        world.clock.now += 0.005
    assert writes == 3


def test_pauses_have_an_upper_end(world: World) -> None:
    """A fight that never ends costs a write in five minutes."""
    times = []
    while world.clock.now < 5000:
        if world.write(update(1)):
            times.append(world.clock.now)
        world.clock.now += 1.0
    assert times[-1] - times[-2] == 300.0


def test_what_held_for_a_while_begins_anew(world: World) -> None:
    """The same correction now and then is no fight, with or without a pass in between."""
    for turn in range(20):
        assert world.write(update(1))
        if turn % 2:
            assert world.write()
        world.clock.now += 10.0


def test_an_object_made_again_begins_anew(world: World) -> None:
    """The same patch of another object under the same name is another patch."""
    assert all(world.write(update(1, uid=f"h{turn}")) for turn in range(10))


def test_items_that_settled_are_forgotten(world: World) -> None:
    """What is remembered is bounded, and dropped by a pass without patches after a while."""
    world.write(update(1))
    world.clock.now += 100.0
    world.write()
    assert not world.progress._repeats
    for number in range(REMEMBERED + 10):
        world.write(update(1), item=Item("things", Key("default", str(number))))
    assert len(world.progress._repeats) == REMEMBERED


def post(uid: str = "v1", node: str = "n1") -> Post:
    return Post(Side.VIRTUAL, ITEM.key, "binding", {"metadata": {"uid": uid}, "target": node})


@pytest.mark.parametrize(
    ("wanted", "later", "known"),
    [
        pytest.param(post(), 0.0, True, id="the same"),
        pytest.param(post("v2"), 0.0, False, id="of an object made again"),
        pytest.param(post(node="n2"), 0.0, False, id="something else"),
        pytest.param(post(), POSTED_SECONDS, False, id="the same, after the news should be here"),
    ],
)
def test_what_was_posted_is_not_posted_again(
    world: World, wanted: Post, later: float, known: bool
) -> None:
    """Until its news comes, the object looks as if nothing had been posted."""
    assert not world.progress.is_posted(ITEM, post())
    world.progress.posted(ITEM, post())
    world.progress.check(ITEM, [wanted])
    world.clock.now += later
    assert world.progress.is_posted(ITEM, wanted) == known


def test_posts_are_forgotten(world: World) -> None:
    """What was posted is remembered until a pass doesn't want it, and of so many items at most."""
    world.progress.posted(ITEM, post())
    world.progress.check(ITEM, [])
    assert not world.progress.is_posted(ITEM, post())
    for number in range(REMEMBERED + 1):
        world.progress.posted(Item("things", Key("default", str(number))), post())
    assert len(world.progress._posts) == REMEMBERED
