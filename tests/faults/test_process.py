"""The process: how it stops, what it says when it is refused, and that it is quiet."""

import asyncio
import time
import uuid

import pytest

from controlplane.faults import Write
from syncer.objects import Side
from tests.faults.broken import BrokenPair
from tests.faults.life import Dump, application
from tests.integration.harness import (
    eventually,
    named,
    pod,
    service,
)

QUIET = 60.0
"""Seconds without a write."""

RECORD = 12.0
"""Seconds after which the guard has recorded the last write at the latest."""

SURE = 30.0
"""Seconds of refused credentials after which a start gives up."""

STOP = 5.0
"""Seconds in which a stop is over."""


async def test_no_write_in_60_quiet_seconds(pair: BrokenPair, reference: dict[str, Dump]) -> None:
    """On a pair where nobody does anything the syncer sends no write at all, no record either."""
    async with application(pair) as app:
        await app.create()
        await app.reaches(reference["created"])
        await eventually(lambda: _no_namespace_ends(pair), timeout=60.0)
        await asyncio.sleep(RECORD)
        seen = await asyncio.gather(*(proxy.writes_during(QUIET) for proxy in pair.proxies))
        assert seen == [[], []]
        await app.agrees(reference["created"])


async def _no_namespace_ends(pair: BrokenPair) -> None:
    """Check that nothing is left to do after earlier tests."""
    namespaces = await pair.virtual.list("namespaces")
    assert all(each["status"]["phase"] == "Active" for each in namespaces)


async def test_sigterm_under_load_ends_in_order(pair: BrokenPair) -> None:
    """Amid a burst a stop lets the writes under way finish, begins none, and exits with 0."""
    namespace = f"load-{uuid.uuid4().hex[:8]}"
    await pair.virtual.create(named("Namespace", namespace))
    await eventually(lambda: pair.virtual.get("serviceaccounts", "default", namespace))
    before = len(pair.writes)
    try:
        pods = [pod(f"pod-{number}", namespace) for number in range(60)]
        pair.to_host.latency = 0.2  # so that there is something under way
        burst = asyncio.gather(*map(pair.virtual.create, pods))
        await eventually(lambda: _some_under_way(pair.writes[before:]), poll=0.01)
        started = time.monotonic()
        assert await pair.syncer.stop(timeout=15.0) == 0
        assert time.monotonic() - started < STOP
        await burst
        assert all(write.answered for write in pair.writes[before:]), "cut off while under way"
        assert pair.syncer.log_lines()[-1]["event"] == "stopped"
        pair.to_host.latency = 0.0
        await pair.syncer.start()
        await eventually(lambda: _all_there(pair, namespace, len(pods)), timeout=30.0, poll=0.3)
    finally:
        await pair.virtual.delete("namespaces", namespace)


def _some_under_way(writes: list[Write]) -> None:
    pods = [write for write in writes if write.path.endswith("/pods")]
    assert len(pods) > 5
    assert not all(write.answered for write in pods)


async def _all_there(pair: BrokenPair, namespace: str, number: int) -> None:
    assert len(await pair.copies("pods", namespace)) == number


@pytest.mark.parametrize("side", Side, ids=str)
async def test_refused_credentials_end_a_start(pair: BrokenPair, side: Side) -> None:
    """After 30 s of 401 from either server the process gives up, with one line that says whose."""
    await pair.syncer.stop()
    proxy = pair.to_virtual if side is Side.VIRTUAL else pair.to_host
    with proxy.fail(401):
        started = time.monotonic()
        await pair.syncer.start(ready=False)
        status = await pair.syncer.wait_exit(timeout=SURE + 20.0)
        seconds = time.monotonic() - started
    assert status == 1
    assert SURE <= seconds < SURE + 10.0
    said = pair.syncer.tail(1)
    assert f"the {side} API server refuses the credentials" in said


async def test_credentials_refused_for_a_while_are_survived(
    pair: BrokenPair, reference: dict[str, Dump]
) -> None:
    """A running syncer takes 401 for an outage: it reloads, waits and goes on."""
    async with application(pair) as app:
        await app.create()
        await app.reaches(reference["created"])
        with pair.to_host.fail(401):
            pair.to_host.cut_watches()
            await app.change()
            await asyncio.sleep(3.0)
        await app.reaches(reference["changed"], timeout=30.0)


async def test_a_forbidden_kind_leaves_the_others_working(pair: BrokenPair) -> None:
    """403 for one kind: `/readyz` names it, other kinds are synced; with the rights it joins."""
    namespace = f"rights-{uuid.uuid4().hex[:8]}"
    await pair.virtual.create(named("Namespace", namespace))
    await pair.syncer.stop()
    try:
        with pair.to_host.fail(403, path="/persistentvolumeclaims"):
            await pair.syncer.start(ready=False)
            await pair.reason("persistentvolumeclaims")
            await pair.virtual.create(service("web", namespace))
            await eventually(lambda: pair.copy("services", "web", namespace))
            status, body = await pair.readyz()
            assert status != 200
            assert "informer-host-persistentvolumeclaims" in body
            assert "[-]informer-host-services" not in body
        await pair.syncer.restart()
    finally:
        await pair.virtual.delete("namespaces", namespace)
