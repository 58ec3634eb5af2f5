"""How much one user may have under way."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from syncer.proxy.limits import Limits
from syncer.proxy.refusal import RefusalError

MOST = {False: 3, True: 2}
USERS = st.sampled_from(["a", "b", "system:anonymous"])


def test_one_too_many_is_told_to_wait() -> None:
    """With the number, and when to come again."""
    limits = Limits(requests=1, streams=1)
    with (
        limits.one("a", stream=False),
        limits.one("a", stream=True),
        limits.one("b", stream=False),
        pytest.raises(RefusalError) as refused,
        limits.one("a", stream=False),
    ):
        raise AssertionError
    assert (refused.value.code, refused.value.reason) == (429, "TooManyRequests")
    assert refused.value.message == "too many requests at a time: at most 1 for each user"
    assert refused.value.headers == {"Retry-After": "1"}


@pytest.mark.parametrize("error", [ValueError, GeneratorExit, KeyboardInterrupt])
def test_a_request_that_fails_is_over(error: type[BaseException]) -> None:
    """However it ends, it counts no more."""
    limits = Limits(requests=1, streams=1)
    for _ in range(3):
        with pytest.raises(error), limits.one("a", stream=True):
            raise error
    assert not limits._counts


class Users(RuleBasedStateMachine):
    """Users who begin and end requests in any order."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.limits = Limits(requests=MOST[False], streams=MOST[True])
        self.open: list[tuple[tuple[str, bool], ExitStack]] = []

    @rule(user=USERS, stream=st.booleans())
    def begin(self, user: str, stream: bool) -> None:
        """Is let in exactly while there is room."""
        had = sum(at == (user, stream) for at, _ in self.open)
        stack = ExitStack()
        try:
            stack.enter_context(self.limits.one(user, stream=stream))
        except RefusalError:
            assert had == MOST[stream]
        else:
            assert had < MOST[stream]
            self.open.append(((user, stream), stack))

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """One of them is done."""
        if self.open:
            at = data.draw(st.integers(0, len(self.open) - 1))
            self.open.pop(at)[1].close()

    @invariant()
    def counts_are_right(self) -> None:
        """Nobody is remembered who has nothing under way."""
        assert self.limits._counts == Counter(at for at, _ in self.open)


Users.TestCase.settings = settings(deadline=None, max_examples=50)
TestUsers = Users.TestCase
