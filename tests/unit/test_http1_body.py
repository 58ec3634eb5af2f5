"""A body between a connection and its reader: in order, whole, bounded."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syncer.http1.body import HIGH, Body
from tests.unit.proxy_wire import on_both_loops


class Counting:
    """Counts who holds."""

    def __init__(self) -> None:
        """Nobody does."""
        self.holds = 0

    def hold(self) -> None:
        """One more."""
        self.holds += 1

    def release(self) -> None:
        """One less."""
        self.holds -= 1


class Fed(RuleBasedStateMachine):
    """A body that is fed, taken from and ended in any order."""

    def __init__(self) -> None:
        """Begin with nothing in it."""
        super().__init__()
        self.valve = Counting()
        self.body = Body(self.valve)
        self.waits = b""

    @precondition(lambda self: not self.body.ended)
    @rule(size=st.sampled_from([1, 10, HIGH, HIGH + 1]), byte=st.sampled_from([b"a", b"b"]))
    def feed(self, size: int, byte: bytes) -> None:
        """Add bytes."""
        self.body.feed(byte * size)
        self.waits += byte * size

    @rule()
    def take(self) -> None:
        """Take all that waits."""
        assert self.body.take() == self.waits
        self.waits = b""

    @rule(fails=st.booleans())
    def end(self, fails: bool) -> None:
        """End it, maybe again."""
        self.body.end(ConnectionResetError() if fails else None)

    @invariant()
    def held_while_too_much_waits(self) -> None:
        """Only while more may come: what ended holds nothing back."""
        assert self.valve.holds == (len(self.waits) > HIGH and not self.body.ended)


TestFed = Fed.TestCase


@pytest.mark.parametrize("error", [None, ConnectionResetError("gone")])
@on_both_loops
async def test_what_came_is_read_before_the_end(error: Exception | None) -> None:
    """Then the end, or what went wrong, however often it is read."""
    body = Body(Counting())
    reading = asyncio.create_task(body.read())
    await asyncio.sleep(0)
    body.feed(b"a")
    assert await reading == b"a"
    body.feed(b"b")
    body.end(error)
    body.end()
    assert await body.read() == b"b"
    for _ in range(2):
        if error is None:
            assert await body.read() == b""
        else:
            with pytest.raises(ConnectionResetError, match="gone"):
                await body.read()
    assert body.whole == (error is None)


@on_both_loops
async def test_a_reader_that_left_takes_nothing_along() -> None:
    """What comes after it was cancelled is there for the next."""
    body = Body(Counting())
    reading = asyncio.create_task(body.read())
    await asyncio.sleep(0)
    reading.cancel()
    body.feed(b"a")
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await body.read() == b"a"
