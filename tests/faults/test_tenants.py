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
    """Another tenant in the same host namespace, whose name ends as the first one's."""
    first = shared_pair.names
    tenant = Tenant(f"n-{first.tenant}", namespace=first.host_namespace)
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


async def test_names_that_meet_are_a_conflict(pair: BrokenPair) -> None:
    """Who comes second to a host name is told so; the first one's object is not touched.

    Between tenants the rules for their names rule it out. Within one, pod p in namespace n-x-m and
    pod p-x-n in namespace m have one name on the host.
    """
    places = (("p", "n-x-m"), ("p-x-n", "m"))
    assert len({pair.host_name(*place) for place in places}) == 1
    for _, namespace in places:
        await pair.virtual.create(named("Namespace", namespace))
        await eventually(partial(pair.virtual.get, "serviceaccounts", "default", namespace))
    try:
        await pair.virtual.create(pod(*places[0]))
        await eventually(lambda: _runs(pair, *places[0]))
        first = await pair.copy("pods", *places[0])
        await pair.virtual.create(pod(*places[1]))
        await eventually(lambda: _told(pair, *places[1]))
        await pair.virtual.delete("pods", *places[1])
        await gone(lambda: pair.virtual.find("pods", *places[1]))
        still = await pair.copy("pods", *places[0])
        assert still["metadata"]["uid"] == first["metadata"]["uid"]
        assert "deletionTimestamp" not in still["metadata"]
        await _runs(pair, *places[0])
    finally:
        for _, namespace in places:
            await pair.virtual.delete("namespaces", namespace)


async def _runs(pair: BrokenPair, name: str, namespace: str) -> None:
    found = await pair.virtual.get("pods", name, namespace)
    assert found["status"].get("phase") == "Running"


async def _told(pair: BrokenPair, name: str, namespace: str) -> None:
    assert await pair.virtual.events(namespace, name, "SyncError")
