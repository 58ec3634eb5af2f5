"""The informer against real API servers: whatever breaks, its store becomes the server's state."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from controlplane import ControlPlane
from controlplane.faults import FaultProxy, fault_proxy
from syncer.kube import informer as module
from syncer.kube.client import Client
from syncer.kube.config import load_kubeconfig
from syncer.kube.informer import Informer
from syncer.kube.store import Change, Store
from syncer.objects import Key, Resource
from tests.integration.harness import Cluster, Object, cluster, config_map, eventually

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
PATH = "/configmaps"


async def becomes(condition: Callable[[], object], *, timeout: float = 60.0) -> None:
    """Wait until something is true."""

    def check() -> None:
        assert condition()

    await eventually(check, timeout=timeout)


class Follower:
    """An informer of one namespace's config maps, and what it told."""

    def __init__(self, client: Client, namespace: str, **options: Any) -> None:
        self.changes: list[Change] = []
        self.rewinds: list[tuple[int, int]] = []
        self.namespace = namespace
        self.store = Store({}, self.changes.append)
        self.informer = Informer(
            client,
            CONFIG_MAPS,
            self.store,
            namespace=namespace,
            on_rewound=lambda old, new: self.rewinds.append((old, new)),
            **options,
        )

    def restarts(self, why: str) -> int:
        """Say how often a list or watch ended for a reason."""
        return self.informer.status().restarts.get(why, 0)

    def deleted(self) -> set[str]:
        """Give the names that were reported gone."""
        return {change.key.name for change in self.changes if change.new is None}

    async def agrees(self, server: Cluster) -> dict[Key, Object]:
        """Wait until the store is the server's state; give it."""

        async def check() -> dict[Key, Object]:
            live = {
                Key(self.namespace, each["metadata"]["name"]): without_managed_fields(each)
                for each in await server.list("configmaps", self.namespace)
            }
            assert {key: self.store.get(key) for key in self.store.keys()} == live  # noqa: SIM118
            return live

        return await eventually(check, timeout=60.0)


def without_managed_fields(item: Object) -> Object:
    """Give a list's item as a watch would tell it, without ``managedFields``."""
    metadata = {k: v for k, v in item["metadata"].items() if k != "managedFields"}
    return {**item, "kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}


@asynccontextmanager
async def following(kubeconfig: Path, namespace: str, **options: Any) -> AsyncIterator[Follower]:
    """Run an informer until the end of the block; yield it when it has synced."""
    client = Client(load_kubeconfig(kubeconfig))
    follower = Follower(client, namespace, **options)
    task = asyncio.create_task(follower.informer.run())
    try:
        async with asyncio.timeout(60):
            await follower.informer.wait_synced()
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


@pytest.fixture
async def namespace(namespace: str, virtual: Cluster) -> str:
    """A new namespace that nobody but the test puts config maps into, any more."""
    await eventually(lambda: virtual.get("configmaps", "kube-root-ca.crt", namespace))
    return namespace


@pytest.fixture
async def proxy(virtual: Cluster) -> AsyncIterator[FaultProxy]:
    """A proxy before the virtual API server, to misbehave."""
    async with fault_proxy(virtual.plane) as running:
        yield running


async def fill(server: Cluster, namespace: str, *names: str) -> None:
    """Make config maps."""
    for name in names:
        await server.create(config_map(name, namespace, {"k": name}))


async def test_stream_and_pages_give_the_same_store(
    virtual: Cluster, proxy: FaultProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server without streaming lists is listed in pages, to the same objects in every byte."""
    monkeypatch.setattr(module, "PAGE", 4)
    await fill(virtual, namespace, *(f"cm-{i}" for i in range(10)))
    refused = proxy.fail(422, {"WATCH"}, PATH, times=1)
    async with (
        following(virtual.plane.kubeconfig, namespace) as streaming,
        following(proxy.kubeconfig, namespace) as paged,
    ):
        assert refused.hits == 1
        assert paged.restarts("unsupported") == 1
        await streaming.agrees(virtual)
        await paged.agrees(virtual)
        bytes_held = [
            {key: entry.data for key, entry in each.store._entries.items()}
            for each in (streaming, paged)
        ]
        assert bytes_held[0] == bytes_held[1]
        assert all(change.initial for change in paged.changes)
        await fill(virtual, namespace, "later")
        await paged.agrees(virtual)
        assert not paged.changes[-1].initial


async def test_cut_watches_lose_nothing(
    virtual: Cluster, proxy: FaultProxy, namespace: str
) -> None:
    """However often the connection breaks while objects change, the store catches up."""
    async with following(proxy.kubeconfig, namespace) as follower:
        for i in range(12):
            await fill(virtual, namespace, f"cm-{i}")
            if i % 3 == 0:
                proxy.cut_watches(PATH)
            if i % 2 == 0:
                await virtual.delete("configmaps", f"cm-{i}", namespace)
        await follower.agrees(virtual)
        assert follower.restarts("lost") >= 1
        assert follower.restarts("expired") == 0
        assert follower.rewinds == []


async def test_own_writes_amid_reconnects_are_no_rewind(
    virtual: Cluster, proxy: FaultProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list asked for after a write's answer is never older: no false alarm, nothing out of order.

    The alarm would stop all writes until an operator says how to go on.
    """
    monkeypatch.setattr(module, "RELIST_SPACING", 0.0)

    async def short_pause(_seconds: float) -> None:
        await asyncio.sleep(0.01)

    async with following(proxy.kubeconfig, namespace, sleep=short_pause) as follower:

        def often_enough() -> bool:
            return min(follower.restarts("asked"), follower.restarts("lost")) > 5

        async def write(number: int) -> None:
            """Write until both have happened often enough: a busy machine makes few of many."""
            for i in itertools.count():
                await asyncio.sleep(0.03)
                body = config_map(f"cm-{number}-{i}", namespace, {})
                follower.store.apply(await virtual.create(body), own=True)
                if i % 2:
                    proxy.cut_watches(PATH)
                else:
                    follower.informer.relist()
                if i >= 19 and often_enough():
                    return

        async with asyncio.timeout(60):
            await asyncio.gather(*(write(number) for number in range(6)))
        await follower.agrees(virtual)
        assert often_enough()
        assert follower.rewinds == []
        assert follower.restarts("disordered") == 0
        assert follower.deleted() == set()
        assert len({change.key for change in follower.changes}) == len(follower.store)


async def test_a_deletion_while_disconnected_is_noticed(
    virtual: Cluster, proxy: FaultProxy, namespace: str
) -> None:
    """What is deleted and made again while nobody watches is reported when the watch is back."""
    await fill(virtual, namespace, "stays", "goes", "again")
    async with following(proxy.kubeconfig, namespace) as follower:
        live = await follower.agrees(virtual)
        with proxy.drop_requests(path=PATH):
            proxy.cut_watches(PATH)
            await virtual.delete("configmaps", "goes", namespace)
            await virtual.delete("configmaps", "again", namespace)
            await fill(virtual, namespace, "again")
            await becomes(lambda: follower.informer.status().last_error)
        await follower.agrees(virtual)
        assert {"goes"} <= follower.deleted()
        goes = Key(namespace, "goes")
        assert follower.store.deleted_uid(goes) == live[goes]["metadata"]["uid"]
        again = follower.store.meta(Key(namespace, "again"))
        assert again is not None
        assert again.uid != live[Key(namespace, "again")]["metadata"]["uid"]


async def test_a_deletion_during_an_expired_watch_is_noticed(
    virtual: Cluster, proxy: FaultProxy, namespace: str
) -> None:
    """After 410 the new list is compared with the store, so a missed deletion is reported."""
    await fill(virtual, namespace, "stays", "goes")
    async with following(proxy.kubeconfig, namespace) as follower:
        await follower.agrees(virtual)
        known = len(follower.changes)
        with proxy.drop_requests(path=PATH):
            proxy.cut_watches(PATH)
            await virtual.delete("configmaps", "goes", namespace)
            proxy.expire_watches(PATH, times=1)
            await becomes(lambda: follower.informer.status().last_error)
        await follower.agrees(virtual)
        assert follower.restarts("expired") == 1
        assert [change.key.name for change in follower.changes[known:]] == ["goes"]
        assert follower.store.deleted_uid(Key(namespace, "goes")) is None, "nobody saw it"


async def test_an_empty_list_is_put_right(
    virtual: Cluster, proxy: FaultProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a live answer contradicts a list, the object is back at once, and all by a relist."""
    monkeypatch.setattr(module, "RELIST_SPACING", 0.2)
    await fill(virtual, namespace, "one", "two")
    async with following(proxy.kubeconfig, namespace) as follower:
        await follower.agrees(virtual)
        with proxy.empty_lists(PATH):
            follower.informer.relist()
            await becomes(lambda: {"one", "two"} <= follower.deleted())
        live = await virtual.get("configmaps", "one", namespace)
        assert follower.store.apply(live, live=True)
        assert Key(namespace, "one") in follower.store
        follower.informer.relist()
        await follower.agrees(virtual)


async def test_silence_is_noticed(virtual: Cluster, proxy: FaultProxy, namespace: str) -> None:
    """A connection that stays open and says nothing is given up; nothing is lost."""
    async with following(proxy.kubeconfig, namespace, silence=1.0) as follower:
        with proxy.stall({"WATCH"}, PATH):
            await fill(virtual, namespace, "unheard")
            await becomes(lambda: follower.restarts("silent"))
        await follower.agrees(virtual)


@pytest.fixture
async def breakable() -> AsyncIterator[Cluster]:
    """A virtual cluster of the test's own, to break."""
    async with ControlPlane.virtual() as plane, cluster(plane) as booted:
        yield booted


async def test_an_api_server_that_pauses_dies_and_forgets(breakable: Cluster) -> None:
    """Frozen or killed, the server is waited for; what it forgot meanwhile is listed anew."""
    server = breakable.plane.components["kube-apiserver"]
    await fill(breakable, "default", "stays", "goes")
    async with following(breakable.plane.kubeconfig, "default", silence=2.0) as follower:
        await follower.agrees(breakable)

        await server.pause()
        await becomes(lambda: follower.restarts("silent"))
        await server.resume()
        await fill(breakable, "default", "after-pause")
        await follower.agrees(breakable)

        # A new server's memory begins with its start: older versions to resume from are gone.
        await server.kill()
        await becomes(lambda: follower.informer.status().last_error)
        before = len(follower.changes)
        assert len(follower.store) == 4, "an unreachable server removes nothing"
        await server.start()
        await breakable.delete("configmaps", "goes", "default")
        await follower.agrees(breakable)
        assert [each.key.name for each in follower.changes[before:]] == ["goes"]
        assert follower.rewinds == []


async def test_a_compacted_version_is_listed_anew(breakable: Cluster) -> None:
    """A watch that was away while its version was compacted finds all it missed, and once."""
    server = breakable.plane.components["kube-apiserver"]
    await fill(breakable, "default", "stays", "goes")
    async with (
        fault_proxy(breakable.plane) as proxy,
        following(proxy.kubeconfig, "default") as follower,
    ):
        await follower.agrees(breakable)
        before = len(follower.changes)
        with proxy.drop_requests(path=PATH):
            proxy.cut_watches(PATH)
            await breakable.delete("configmaps", "goes", "default")
            await fill(breakable, "default", "comes")
            await server.restart()
        await follower.agrees(breakable)
        assert follower.restarts("expired") >= 1
        assert sorted(each.key.name for each in follower.changes[before:]) == ["comes", "goes"]


async def test_a_restored_datastore_is_told_and_followed(
    breakable: Cluster, tmp_path: Path
) -> None:
    """A server whose past is shorter than ours is told of, and its state replaces the store."""
    await fill(breakable, "default", "kept")
    breakable.plane.snapshot(tmp_path / "saved.db")
    await fill(breakable, "default", *(f"lost-{i}" for i in range(100)))
    async with following(breakable.plane.kubeconfig, "default") as follower:
        await follower.agrees(breakable)
        old = follower.store.highest
        await breakable.plane.restore(tmp_path / "saved.db")
        await becomes(lambda: follower.rewinds)
        before, now = follower.rewinds[0]
        assert before >= old > now, "a bookmark may have told of a higher one since"
        await follower.agrees(breakable)
        assert {f"lost-{i}" for i in range(100)} <= follower.deleted()
        await fill(breakable, "default", "new")
        await follower.agrees(breakable)
