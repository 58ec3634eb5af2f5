"""kill -9 after each write of an application's life: a restart must heal whatever was half done."""

from typing import get_args

import pytest

from tests.faults.broken import Answer, BrokenPair
from tests.faults.life import Dump, interrupted

STRIDE = 6
"""Into so many tests the writes are dealt, so that workers share them."""

MOST = 80
"""A life of more writes than this is a bug in itself (a life has about 35)."""


@pytest.mark.parametrize("first", range(1, STRIDE + 1))
@pytest.mark.parametrize("answer", get_args(Answer))
async def test_death_after_each_write(
    pair: BrokenPair, reference: dict[str, Dump], answer: Answer, first: int
) -> None:
    """After a death at write k and a restart both clusters are as if nothing had happened.

    No object is made twice, none is left behind and nothing is written in the quiet time after.
    """
    for after in range(first, MOST, STRIDE):
        try:
            if not await interrupted(pair, reference, after, answer):
                return
        except AssertionError as failure:
            failure.add_note(f"(death after write {after}, its answer {answer})")
            raise
    pytest.fail(f"a life has more than {MOST} writes")
