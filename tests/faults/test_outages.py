"""An API server that can't be reached, errs, or shows empty lists: nothing is lost on either side.

While it lasts the tenant and the host's owner go on working, so that there is something to catch up
with afterwards.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from controlplane.faults import FaultProxy, Rule
from syncer.objects import Side
from tests.faults.broken import BrokenPair
from tests.faults.life import App, Dump, application
from tests.integration.harness import eventually

OUTAGE = 3.0
"""Seconds."""

MANY = 10
"""Lists of one side that a syncer makes, at least."""


@contextmanager
def down(proxy: FaultProxy) -> Iterator[None]:
    """No connection is answered."""
    with proxy.drop_requests():
        proxy.cut_watches()
        yield


@contextmanager
def erring(proxy: FaultProxy) -> Iterator[None]:
    """Every request is answered 503."""
    with proxy.fail(503):
        proxy.cut_watches()
        yield


@contextmanager
def throttling(proxy: FaultProxy) -> Iterator[None]:
    """Every request is answered 429."""
    with proxy.fail(429, retry_after=1):
        proxy.cut_watches()
        yield


@contextmanager
def silent(proxy: FaultProxy) -> Iterator[None]:
    """Connections stay open and nothing comes."""
    with proxy.stall():
        yield


FAULTS = (down, erring, throttling, silent)


@pytest.mark.parametrize("side", Side, ids=str)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_an_outage_loses_nothing(
    pair: BrokenPair,
    reference: dict[str, Dump],
    fault: Callable[[FaultProxy], AbstractContextManager[None]],
    side: Side,
) -> None:
    """What was there stays the same object; what changed meanwhile is caught up with afterwards."""
    async with application(pair) as app:
        await app.create()
        await app.reaches(reference["created"])
        with fault(_proxy(pair, side)):
            await app.change()
            await asyncio.sleep(OUTAGE)
            await _untouched(app)
        await app.reaches(reference["changed"], timeout=30.0)
        with fault(_proxy(pair, side)):
            await app.delete(grace=0)
            await asyncio.sleep(OUTAGE)
        await app.reaches(reference["deleted"], timeout=30.0)


@pytest.mark.parametrize("side", Side, ids=str)
async def test_lists_that_come_back_empty_delete_nothing(
    pair: BrokenPair, reference: dict[str, Dump], side: Side
) -> None:
    """A list without items is no proof: each object is looked for before its twin is deleted."""
    async with application(pair) as app:
        await app.create()
        await app.reaches(reference["created"])
        writes = len(pair.writes)
        await _see_nothing(pair, side)
        await app.agrees(reference["created"])
        deleted = [each for each in pair.writes[writes:] if each.verb == "DELETE"]
        assert not deleted
        await app.change()
        await app.reaches(reference["changed"], timeout=30.0)
        await app.delete()
        await app.reaches(reference["deleted"], timeout=30.0)


@pytest.mark.parametrize("side", Side, ids=str)
async def test_a_start_with_empty_lists_deletes_nothing(
    pair: BrokenPair, reference: dict[str, Dump], side: Side
) -> None:
    """A syncer that starts while a server's lists are empty does no harm, nor once they heal."""
    async with application(pair) as app:
        await app.create()
        await app.reaches(reference["created"])
        await pair.syncer.kill()
        with _proxy(pair, side).empty_lists():
            await pair.syncer.start(ready=False)
            await asyncio.sleep(OUTAGE)
            await app.agrees(reference["created"])
        await pair.syncer.kill()
        await pair.syncer.start()
        await app.reaches(reference["created"], timeout=30.0)
        await app.change()
        await app.reaches(reference["changed"], timeout=30.0)


async def _see_nothing(pair: BrokenPair, side: Side) -> None:
    """Let the syncer list everything of a side anew and get nothing, for a while."""
    proxy = _proxy(pair, side)
    with proxy.empty_lists() as lists:
        with proxy.expire_watches() as expired:
            watches = proxy.cut_watches()
            await eventually(lambda: _hit(expired, watches))
            await asyncio.sleep(1.0)
        await eventually(lambda: _hit(lists, MANY))
        await asyncio.sleep(OUTAGE)


def _hit(rule: Rule, times: int) -> None:
    assert rule.hits >= times


async def _untouched(app: App) -> None:
    _, uids = await app.look()
    assert uids == app.uids


def _proxy(pair: BrokenPair, side: Side) -> FaultProxy:
    return pair.to_virtual if side is Side.VIRTUAL else pair.to_host
