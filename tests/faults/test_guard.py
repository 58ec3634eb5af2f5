"""The mass-deletion guard: a datastore that is not the one the copies came from deletes nothing.

Each test has one pair of its own kind of disaster; the virtual plane is this module's own, because
its datastore is put back and emptied.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane import ControlPlane
from syncer.naming import PREFIX
from tests.faults.broken import BrokenPair, broken_pair
from tests.integration.harness import (
    Cluster,
    RefusedError,
    Tenant,
    cluster,
    eventually,
    gone,
    named,
    pod,
    secret,
    service,
)

HELD = 3.0
"""Seconds for which nothing must happen."""

KINDS = ("pods", "services", "configmaps", "secrets")


@pytest.fixture(scope="module")
async def doomed(
    host: Cluster, worker_name: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[BrokenPair, Path]]:
    """A pair, and a snapshot of the virtual datastore from before any tenant's object."""
    tenant = Tenant(f"g-{worker_name}")
    async with (
        ControlPlane.virtual() as plane,
        cluster(plane) as virtual,
        broken_pair(host, tenant, virtual) as pair,
    ):
        young = tmp_path_factory.mktemp("guard") / "young.db"
        plane.snapshot(young)
        yield pair, young


async def test_an_older_snapshot_is_refused_until_accepted(
    doomed: tuple[BrokenPair, Path],
) -> None:
    """A virtual cluster that went back in time deletes nothing, nor after a restart.

    Once an operator accepts it, what it no longer knows is removed.
    """
    pair, young = doomed
    await _populate(pair)
    before = await _copies(pair)
    await _recorded(pair)
    await pair.virtual.plane.restore(young)
    await pair.reason("went back from resource version")
    await _held(pair, before)
    await pair.syncer.kill()
    await pair.syncer.start(ready=False)
    reason = await pair.reason("went back from resource version")
    assert "configmap vc-state-" in reason
    await _held(pair, before)
    await _accept(pair)
    await pair.syncer.wait_ready()
    await eventually(lambda: _none_left(pair, before))


async def test_another_virtual_cluster_is_refused_until_accepted(
    doomed: tuple[BrokenPair, Path], tmp_path: Path
) -> None:
    """An emptied datastore is another cluster: kube-system has another UID. As above."""
    pair, _ = doomed
    await _populate(pair)
    before = await _copies(pair)
    empty = tmp_path / "empty.db"
    empty.touch()
    await pair.virtual.plane.restore(empty)
    await pair.reason("gate")
    await _held(pair, before)
    await pair.syncer.kill()
    await eventually(lambda: pair.virtual.get("namespaces", "kube-system"))
    await pair.syncer.start(ready=False)
    await pair.reason("another virtual cluster")
    await _held(pair, before)
    await _accept(pair)
    await pair.syncer.wait_ready()
    await eventually(lambda: _none_left(pair, before))


async def test_a_host_without_any_copy_is_refused_until_accepted(
    doomed: tuple[BrokenPair, Path],
) -> None:
    """Started pods are not reported gone because the whole host namespace was emptied."""
    pair, _ = doomed
    await pair.virtual.apply(service("kube-dns", "kube-system"))
    await _populate(pair)
    await pair.syncer.kill()
    for kind in KINDS:
        for copy in await pair.copies(kind):
            await pair.host.delete(
                kind, copy["metadata"]["name"], copy["metadata"]["namespace"], grace=0
            )
    await eventually(lambda: _empty(pair))
    started = await pair.virtual.get("pods", "web", "tenant")
    await pair.syncer.start(ready=False)
    await pair.reason("was the host restored?")
    await _held(pair, {})
    still = await pair.virtual.get("pods", "web", "tenant")
    assert still["metadata"] == started["metadata"]
    await _accept(pair)
    await pair.syncer.wait_ready()
    await gone(lambda: pair.virtual.find("pods", "web", "tenant"))
    await eventually(lambda: pair.copy("services", "web", "tenant"))


async def _populate(pair: BrokenPair) -> None:
    """Let the tenant have a running pod with a secret, and a service."""
    virtual = pair.virtual
    await virtual.apply(named("Namespace", "tenant"))
    await eventually(lambda: virtual.get("serviceaccounts", "default", "tenant"))
    await virtual.apply(secret("password", "tenant", {"word": "one"}))
    await virtual.apply(service("web", "tenant"))
    mounts = [{"name": "password", "secret": {"secretName": "password"}}]
    await virtual.apply(pod("web", "tenant", volumes=mounts))
    await eventually(lambda: _runs(pair), timeout=30.0)
    await pair.settled()


async def _runs(pair: BrokenPair) -> None:
    found = await pair.virtual.get("pods", "web", "tenant")
    assert found["status"].get("phase") == "Running"


async def _copies(pair: BrokenPair) -> dict[str, str]:
    """Return `kind name` -> UID of all that the host has of this tenant's namespace."""
    labels = f"{PREFIX}managed-by={pair.names.marker},{PREFIX}namespace=tenant"
    return {
        f"{kind} {item['metadata']['name']}": item["metadata"]["uid"]
        for kind in KINDS
        for item in await pair.host.list(kind, pair.names.host_namespace, labels=labels)
        if "deletionTimestamp" not in item["metadata"]
    }


async def _empty(pair: BrokenPair) -> None:
    left = [item for kind in KINDS for item in await pair.copies(kind)]
    assert not left


async def _none_left(pair: BrokenPair, before: dict[str, str]) -> None:
    now = await _copies(pair)
    left = [name for name, uid in now.items() if before.get(name) == uid]
    assert not left


async def _held(pair: BrokenPair, before: dict[str, str]) -> None:
    """Check that for a while nothing is written and no copy goes."""
    await pair.silent(HELD)
    assert await _copies(pair) == before


async def _recorded(pair: BrokenPair) -> None:
    """Wait until the host has a record of a version as late as the secret's."""
    made = await pair.virtual.get("secrets", "password", "tenant")

    async def check() -> None:
        name = f"vc-state-{pair.names.tenant}"
        state = await pair.host.get("configmaps", name, pair.names.host_namespace)
        assert int(state["data"]["virtual-version"]) > int(made["metadata"]["resourceVersion"])

    await eventually(check, timeout=20.0)


async def _accept(pair: BrokenPair) -> None:
    """Do what the reason tells an operator to do."""
    uid = (await pair.virtual.get("namespaces", "kube-system"))["metadata"]["uid"]
    name, namespace = f"vc-state-{pair.names.tenant}", pair.names.host_namespace
    try:
        await pair.host.patch("configmaps", name, namespace, {"data": {"accept": uid}})
    except RefusedError:
        await pair.host.create(named("ConfigMap", name, namespace, data={"accept": uid}))
