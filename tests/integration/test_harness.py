"""The harness itself: what other integration tests rely on must hold on a real pair."""

import asyncio

import pytest

from tests.integration.harness import (
    Pair,
    RefusedError,
    eventually,
    gone,
    pod,
    secret,
    service,
)


async def test_a_copy_is_found_by_the_virtual_name(pair: Pair, namespace: str) -> None:
    """`copy` translates names, `copies` selects by the marks, `gone` waits for an end."""
    await pair.virtual.apply(pod("web", namespace))
    copy = await eventually(lambda: pair.copy("pods", "web", namespace))
    assert copy["metadata"]["name"] == pair.host_name("web", namespace)
    assert [each["metadata"]["uid"] for each in await pair.copies("pods", namespace)] == [
        copy["metadata"]["uid"]
    ]
    await pair.virtual.delete("pods", "web", namespace)
    await gone(lambda: pair.find_copy("pods", "web", namespace))
    await gone(lambda: pair.virtual.find("pods", "web", namespace))


async def test_quiet_sees_a_write_that_is_undone(pair: Pair, namespace: str) -> None:
    """`quiet` passes on a pair at rest and names each write otherwise."""
    await pair.virtual.apply(service("web", namespace))
    await eventually(lambda: pair.copy("services", "web", namespace))
    await eventually(lambda: pair.quiet(1.0, namespace=namespace))

    async def disturb(watching: asyncio.Task[str]) -> None:
        while not watching.done():  # the first may come before the watches are open
            await pair.virtual.apply(secret("odd", namespace, {"a": "b"}))
            await pair.virtual.delete("secrets", "odd", namespace)
            await asyncio.sleep(0.4)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(_failure(pair, namespace))
        group.create_task(disturb(watching))
    assert f"virtual: ADDED secrets {namespace}/odd" in watching.result()


async def _failure(pair: Pair, namespace: str) -> str:
    with pytest.raises(AssertionError) as failure:
        await pair.quiet(2.0, namespace=namespace)
    return str(failure.value)


async def test_a_dump_does_not_differ_between_two_objects_made_alike(
    pair: Pair, namespace: str
) -> None:
    """`dump` leaves out what the server alone decides."""

    async def settled() -> None:  # its type changes for a moment, to give it the copy's address
        found = await pair.virtual.get("services", "web", namespace)
        copy = await pair.copy("services", "web", namespace)
        assert found["spec"].get("clusterIP") == copy["spec"]["clusterIP"]

    await pair.virtual.apply(service("web", namespace))
    await eventually(settled)
    first = await pair.virtual.dump(["services"], namespace)
    await pair.virtual.delete("services", "web", namespace)
    await pair.virtual.apply(service("web", namespace))
    await eventually(settled)
    assert await pair.virtual.dump(["services"], namespace) == first != {}


async def test_eventually_raises_the_last_failure(pair: Pair, namespace: str) -> None:
    """The failure that is reported is the check's own, not a bare timeout."""
    with pytest.raises(RefusedError, match="404 NotFound"):
        await eventually(lambda: pair.virtual.get("pods", "none", namespace), timeout=0.2)
