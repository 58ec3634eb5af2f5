"""Two tenants in one host namespace: neither is disturbed by what becomes of the other."""

from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.faults.broken import BrokenPair, broken_pair
from tests.faults.life import Dump, application
from tests.integration.harness import (
    Cluster,
    Tenant,
    eventually,
    gone,
    named,
    pod,
)


@pytest.fixture(scope="module")
async def neighbour(shared_pair: BrokenPair, host: Cluster) -> AsyncIterator[BrokenPair]:
    """Another tenant in the same host namespace, whose name nests with the first one's."""
    first = shared_pair.names
    tenant = Tenant(f"x-{first.tenant}", namespace=first.host_namespace)
    async with broken_pair(host, tenant) as booted:
        yield booted


async def test_a_neighbour_lives_and_dies_unnoticed(
    pair: BrokenPair, neighbour: BrokenPair, reference: dict[str, Dump]
) -> None:
    """The same names in two tenants, one of which is killed, changed and removed meanwhile."""
    async with application(pair) as app:
        await app.create()
        await app.reaches(reference["created"])
        async with application(neighbour, app.namespace) as other:
            await other.create()
            await eventually(other.runs)
            await app.agrees(reference["created"])
            await neighbour.syncer.restart(graceful=False)
            await other.change()
            await neighbour.settled()
            _, before = await other.look()
            await app.agrees(reference["created"])
            await pair.syncer.restart(graceful=False)
            await pair.settled()
            _, after = await other.look()
            assert after == before
            await other.delete()
            await eventually(other.is_gone)
            await app.agrees(reference["created"])
        await app.change()
        await app.reaches(reference["changed"])
        await app.delete()
        await app.reaches(reference["deleted"])


async def test_names_that_meet_are_a_conflict(pair: BrokenPair, neighbour: BrokenPair) -> None:
    """Who comes second to a host name is told so; the first one's object is not touched.

    Pod p in namespace n of tenant x-T and pod p in namespace n-x of tenant T have one name.
    """
    await neighbour.virtual.create(named("Namespace", "n"))
    await pair.virtual.create(named("Namespace", "n-x"))
    for where, namespace in ((neighbour, "n"), (pair, "n-x")):
        await eventually(partial(where.virtual.get, "serviceaccounts", "default", namespace))
    assert neighbour.host_name("p", "n") == pair.host_name("p", "n-x")
    await neighbour.virtual.create(pod("p", "n"))
    first = await eventually(lambda: neighbour.copy("pods", "p", "n"))
    await eventually(lambda: _runs(neighbour, "n"))
    await pair.virtual.create(pod("p", "n-x"))
    await eventually(lambda: _told(pair, "n-x"))
    await pair.virtual.delete("pods", "p", "n-x")
    await gone(lambda: pair.virtual.find("pods", "p", "n-x"))
    still = await neighbour.copy("pods", "p", "n")
    assert still["metadata"]["uid"] == first["metadata"]["uid"]
    assert "deletionTimestamp" not in still["metadata"]
    await _runs(neighbour, "n")
    for where, namespace in ((neighbour, "n"), (pair, "n-x")):
        await where.virtual.delete("namespaces", namespace)
    await gone(lambda: neighbour.find_copy("pods", "p", "n"))


async def _runs(pair: BrokenPair, namespace: str) -> None:
    found = await pair.virtual.get("pods", "p", namespace)
    assert found["status"].get("phase") == "Running"


async def _told(pair: BrokenPair, namespace: str) -> None:
    assert await pair.virtual.events(namespace, "p", "SyncError")
