"""kill -9 in the middle of a burst of pods, while they come and while they go."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.broken import BrokenPair, Death
from tests.faults.life import comparable
from tests.integration.harness import Object, eventually, named, path_of, pod

PODS = 300
AT_ONCE = 20
"""Requests of the tenant's under way."""

PATIENCE = 120.0
"""Seconds for all pods to run, or to go."""

Pods = dict[str, Object]


async def test_a_burst_survives_kill_9(pair: BrokenPair) -> None:
    """300 pods with a death amid their creation and one amid their deletion end as without any.

    No pod is made a second time, and once they run nothing is written.
    """
    async with _namespace(pair) as namespace:
        await _create(pair, namespace)
        await eventually(lambda: _all_run(pair, namespace), timeout=PATIENCE, poll=0.5)
        await pair.settled(1.0)
        undisturbed = await _steady(pair, namespace)
    async with _namespace(pair) as namespace:
        with Death(pair, PODS // 2, "lost") as death:
            creating = asyncio.create_task(_create(pair, namespace))
            await death.killed.wait()
        await pair.syncer.kill()
        before = await _uids(pair, namespace)
        await pair.syncer.start()
        await creating
        await eventually(lambda: _all_run(pair, namespace), timeout=PATIENCE, poll=0.5)
        await pair.settled(3.0, timeout=60.0)  # the host's events of 300 pods come for a while
        assert await _steady(pair, namespace) == undisturbed
        after = await _uids(pair, namespace)
        assert {name: after.get(name) for name in before} == before
        with Death(pair, PODS // 2, "lost") as death:
            path = path_of("pods", namespace)
            await pair.virtual.request("DELETE", path, body={"propagationPolicy": "Background"})
            await death.killed.wait()
        await pair.syncer.restart(graceful=False)
        await eventually(lambda: _none(pair, namespace), timeout=PATIENCE, poll=0.5)
        await pair.settled(1.0)


@asynccontextmanager
async def _namespace(pair: BrokenPair) -> AsyncIterator[str]:
    name = f"burst-{uuid.uuid4().hex[:8]}"
    await pair.virtual.create(named("Namespace", name))
    await eventually(lambda: pair.virtual.get("serviceaccounts", "default", name))
    yield name
    await pair.virtual.request("DELETE", path_of("pods", name), body={"gracePeriodSeconds": 0})
    await pair.virtual.delete("namespaces", name)
    await eventually(lambda: _none(pair, name), timeout=PATIENCE, poll=0.5)


async def _create(pair: BrokenPair, namespace: str) -> None:
    """Make the pods, some at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def create(number: int) -> None:
        async with places:
            await pair.virtual.create(pod(f"pod-{number}", namespace))

    await asyncio.gather(*map(create, range(PODS)))


async def _pods(pair: BrokenPair, namespace: str) -> Pods:
    """Return the pods of both clusters by side and name."""
    virtual = await pair.virtual.list("pods", namespace)
    host = await pair.copies("pods", namespace)
    return {f"virtual {each['metadata']['name']}": each for each in virtual} | {
        f"host {each['metadata']['name']}": each for each in host
    }


async def _steady(pair: BrokenPair, namespace: str) -> Pods:
    pods = await _pods(pair, namespace)
    return {name.replace(namespace, ""): comparable(each, namespace) for name, each in pods.items()}


async def _all_run(pair: BrokenPair, namespace: str) -> None:
    pods = await _pods(pair, namespace)
    running = [name for name, each in pods.items() if each["status"].get("phase") == "Running"]
    assert len(running) == 2 * PODS, f"{len(running)} of {2 * PODS} run"


async def _none(pair: BrokenPair, namespace: str) -> None:
    left = await _pods(pair, namespace)
    assert not left, f"{len(left)} pods are left"
    assert not await pair.copies("secrets", namespace)


async def _uids(pair: BrokenPair, namespace: str) -> dict[str, str]:
    pods = await _pods(pair, namespace)
    return {name: each["metadata"]["uid"] for name, each in pods.items()}
