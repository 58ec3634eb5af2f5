"""What needs a host of one's own, because more is broken than the syncer's view of it."""

from collections.abc import AsyncIterator
from functools import partial

import aiohttp
import pytest

from controlplane import boot_pair
from tests.faults.broken import BrokenPair, broken_pair
from tests.faults.life import App, application, steady
from tests.faults.test_owner import anew
from tests.integration.harness import Cluster, Tenant, cluster, eventually


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[BrokenPair]:
    """A pair that nobody else uses."""
    async with (
        boot_pair() as (host_plane, virtual_plane),
        cluster(host_plane) as host,
        cluster(virtual_plane) as virtual,
        broken_pair(host, Tenant("own"), virtual) as booted,
    ):
        yield booted


async def test_api_servers_restart(pair: BrokenPair) -> None:
    """Both API servers are killed and come back: every object stays and work goes on."""
    async with application(pair) as app:
        await app.create()
        await eventually(app.runs)
        await eventually(partial(app.serves, 80))
        before = await eventually(partial(steady, app), timeout=30.0)
        _, app.uids = await app.look()
        for where in (pair.host, pair.virtual):
            await where.plane.components["kube-apiserver"].restart()
            await eventually(partial(_answers, where))
        await pair.syncer.wait_ready()
        await app.reaches(before, timeout=30.0)
        await pair.virtual.patch("secrets", "password", app.namespace, {"data": {"word": "dHdv"}})
        await eventually(lambda: _has(pair, app.namespace, "dHdv"))


async def test_a_new_owner_is_put_on_copies_that_are_still_there(pair: BrokenPair) -> None:
    """An owner that is replaced before the collector comes costs no object: all are restamped."""
    namespace, tenant = pair.names.host_namespace, pair.names.tenant
    async with application(pair) as app:
        await app.create()
        await eventually(app.runs)
        await pair.settled()
        _, before = await app.look()
        owner = await pair.host.get("services", tenant, namespace)
        await pair.host.plane.components["kube-controller-manager"].pause()
        try:
            await pair.host.delete("services", tenant, namespace)
            await pair.reason("the owner Service")
            made = await pair.host.create(anew(owner))
            await pair.syncer.wait_ready()
            await eventually(lambda: _owned_by(app, made["metadata"]["uid"]))
        finally:
            await pair.host.plane.components["kube-controller-manager"].resume()
        await pair.settled(1.0)
        _, after = await app.look()
        assert {name: after.get(name) for name in before} == before


async def _owned_by(app: App, uid: str) -> None:
    """Check that all copies have that owner, but for those that an earlier test's end takes."""
    for resource in ("pods", "services", "secrets", "configmaps", "persistentvolumeclaims"):
        for item in await app.pair.copies(resource):
            if "deletionTimestamp" in item["metadata"]:
                continue
            owners = [each["uid"] for each in item["metadata"].get("ownerReferences", ())]
            assert owners == [uid], f"{resource} {item['metadata']['name']}"


async def _answers(where: Cluster) -> None:
    try:
        await where.list("namespaces")
    except aiohttp.ClientError as error:
        raise AssertionError("not back yet") from error


async def _has(pair: BrokenPair, namespace: str, word: str) -> None:
    assert (await pair.copy("secrets", "password", namespace))["data"]["word"] == word
