"""Writer and queue against a real API server: what they promise, with the server in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from controlplane import ControlPlane
from controlplane.faults import FaultProxy, fault_proxy
from syncer.engine.flow import Limiter
from syncer.engine.gate import Gate, GateClosedError
from syncer.engine.patch import is_stale, make_patch
from syncer.engine.queue import QueueClosed, WorkQueue
from syncer.engine.writer import Writer
from syncer.kube.client import Client
from syncer.kube.config import load_kubeconfig
from syncer.kube.errors import ApiError, TransportError
from syncer.kube.store import Store
from syncer.objects import Key, Resource
from tests.integration.harness import Cluster, Object, cluster, config_map, eventually

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")


@dataclass
class Desk:
    """A writer and the parts around it."""

    writer: Writer
    store: Store
    gate: Gate
    limiter: Limiter


@asynccontextmanager
async def desk(kubeconfig: Path) -> AsyncIterator[Desk]:
    """Give a writer of its own connections."""
    client, gate, limiter = Client(load_kubeconfig(kubeconfig)), Gate(), Limiter()
    store = Store({}, lambda _change: None)
    try:
        stores = {"configmaps": store}
        yield Desk(Writer(client, limiter, gate, stores), store, gate, limiter)
    finally:
        await client.close()


@pytest.fixture
async def proxy(virtual: Cluster) -> AsyncIterator[FaultProxy]:
    """A proxy before the virtual API server."""
    async with fault_proxy(virtual.plane) as proxy:
        yield proxy


def changed(obj: Object, data: dict[str, str]) -> Object:
    return {**obj, "data": data}


async def test_answers_are_in_the_store_at_once(virtual: Cluster, namespace: str) -> None:
    """A write's answer can be read before any watch brings it, and a successor is not hit."""
    async with desk(virtual.plane.kubeconfig) as at:
        key = Key(namespace, "web")
        made = await at.writer.create(CONFIG_MAPS, config_map("web", namespace, {"a": "1"}))
        first = at.store.get(key)
        assert first is not None
        assert (first["metadata"]["uid"], first["data"]) == (made["metadata"]["uid"], {"a": "1"})
        patch = make_patch(made, changed(made, {"a": "2"}))
        assert patch is not None
        await at.writer.patch(CONFIG_MAPS, key, patch)
        seen = at.store.get(key)
        assert seen is not None
        assert seen["data"] == {"a": "2"}
        await virtual.delete("configmaps", "web", namespace)
        again = await virtual.create(config_map("web", namespace, {"a": "3"}))
        with pytest.raises(ApiError) as stale:
            await at.writer.patch(CONFIG_MAPS, key, patch)
        assert is_stale(stale.value)
        with pytest.raises(ApiError) as other:
            await at.writer.delete(CONFIG_MAPS, key, made["metadata"]["uid"])
        assert other.value.conflict
        assert (await virtual.get("configmaps", "web", namespace))["data"] == {"a": "3"}
        await at.writer.delete(CONFIG_MAPS, key, again["metadata"]["uid"])
        assert await virtual.find("configmaps", "web", namespace) is None
        await at.writer.delete(CONFIG_MAPS, key, again["metadata"]["uid"])  # gone is no error


async def test_a_closed_gate_sends_nothing(proxy: FaultProxy, namespace: str) -> None:
    """Writes meet the gate when their connection is there; reads pass."""
    async with desk(proxy.kubeconfig) as at:
        at.gate.close("guard", "restored")
        with pytest.raises(GateClosedError, match="restored"):
            await at.writer.create(CONFIG_MAPS, config_map("web", namespace, {}))
        assert await at.writer.get(CONFIG_MAPS, Key(namespace, "web")) is None
        assert proxy.writes == []
        assert at.limiter.in_flight == 0


async def test_a_lost_answer_is_no_second_object(
    proxy: FaultProxy, virtual: Cluster, namespace: str
) -> None:
    """A create whose answer was lost counts as unknown; the next one says that it is there."""
    async with desk(proxy.kubeconfig) as at:
        proxy.lose_answers({"POST"}, "/configmaps", times=1)
        wanted = config_map("web", namespace, {"a": "1"})
        with pytest.raises(TransportError):
            await at.writer.create(CONFIG_MAPS, wanted)
        await eventually(lambda: virtual.get("configmaps", "web", namespace))
        with pytest.raises(ApiError) as there:
            await at.writer.create(CONFIG_MAPS, wanted)
        assert there.value.already_exists


async def test_flow_yields_to_a_server_that_says_too_much(
    proxy: FaultProxy, namespace: str
) -> None:
    """429 halves what may be in flight and Retry-After holds new requests back."""
    async with desk(proxy.kubeconfig) as at:
        before = at.limiter.limit
        proxy.fail(429, {"POST"}, retry_after=1, times=1)
        with pytest.raises(ApiError) as refused:
            await at.writer.create(CONFIG_MAPS, config_map("web", namespace, {}))
        assert refused.value.throttled
        assert at.limiter.limit == before // 2
        assert 0 < at.limiter.pause <= 1
        await at.writer.create(CONFIG_MAPS, config_map("web", namespace, {}))
        assert at.limiter.pause == 0


@pytest.fixture
async def breakable() -> AsyncIterator[Cluster]:
    """A virtual cluster of the test's own: others would meet the one they share half back."""
    async with ControlPlane.virtual() as plane, cluster(plane) as booted:
        yield booted


async def test_the_queue_brings_all_through_an_outage(breakable: Cluster) -> None:
    """What fails while the server answers 503, cuts or restarts is retried until it is done."""
    namespace = "default"
    names = [f"cm-{number}" for number in range(40)]
    queue: WorkQueue[str] = WorkQueue(group=lambda _item: namespace, cap=1.0)
    done: set[str] = set()
    async with fault_proxy(breakable.plane) as proxy, desk(proxy.kubeconfig) as at:

        async def work() -> None:
            while True:
                try:
                    name = await queue.get()
                except QueueClosed:
                    return
                try:
                    await at.writer.create(CONFIG_MAPS, config_map(name, namespace, {}))
                except ApiError as error:
                    if error.already_exists:
                        done.add(name)
                    else:
                        queue.retry(name)
                except TransportError:
                    queue.retry(name)
                else:
                    done.add(name)
                    queue.forget(name)
                finally:
                    queue.done(name)

        proxy.fail(503, {"POST"}, times=15)
        proxy.lose_answers({"POST"}, times=5)
        workers = [asyncio.create_task(work()) for _ in range(8)]
        for name in names[:20]:
            queue.add(name)
        await eventually(lambda: _all(done, names[:20]), timeout=60)
        await breakable.plane.components["kube-apiserver"].restart()
        for name in names[20:]:
            queue.add(name)
        await eventually(lambda: _all(done, names), timeout=60)
        queue.close()
        await asyncio.gather(*workers)
    live = {each["metadata"]["name"] for each in await breakable.list("configmaps", namespace)}
    assert set(names) <= live
    assert (queue.depth, queue.processing, queue.delayed) == (0, 0, 0)


def _all(done: set[str], names: list[str]) -> None:
    assert done >= set(names)
