"""Events as a real API server stores them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from syncer.kube.client import Client
from syncer.kube.config import load_kubeconfig
from syncer.kube.recorder import EventRecorder
from tests.integration.harness import Cluster, Object, config_map, eventually, named


@pytest.fixture
async def client(virtual: Cluster) -> AsyncIterator[Client]:
    """A client of the virtual cluster."""
    client = Client(load_kubeconfig(virtual.plane.kubeconfig))
    yield client
    await client.close()


@asynccontextmanager
async def running(recorder: EventRecorder) -> AsyncIterator[EventRecorder]:
    """Run a recorder for as long as the block."""
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def the_event(virtual: Cluster, about: Object, count: int) -> Object:
    """Wait until one Event about an object has a count, and give it."""
    metadata = about["metadata"]

    async def check() -> Object:
        events = await virtual.events(metadata.get("namespace") or "default", metadata["name"])
        assert [event["count"] for event in events] == [count]
        return events[0]

    return await eventually(check)


def warn(recorder: EventRecorder, about: Object, message: str = "no such secret") -> None:
    """Record a warning."""
    recorder.event(about, "Warning", "SyncError", message, "configmap-syncer")


async def test_event_appears_and_a_repeat_raises_its_count(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """The tenant reads one Event, however often its cause comes again."""
    about = await virtual.create(config_map("web", namespace, {}))
    async with running(EventRecorder(client)) as recorder:
        warn(recorder, about)
        first = await the_event(virtual, about, 1)
        warn(recorder, about)
        second = await the_event(virtual, about, 2)
    assert first["metadata"]["uid"] == second["metadata"]["uid"]
    assert second["involvedObject"]["uid"] == about["metadata"]["uid"]
    assert second["message"] == "no such secret"
    assert second["source"] == {"component": "configmap-syncer"}
    assert second["reportingComponent"] == "configmap-syncer"


async def test_expired_event_is_made_anew(virtual: Cluster, namespace: str, client: Client) -> None:
    """A repeat after the Event's hour has passed is seen all the same."""
    about = await virtual.create(config_map("web", namespace, {}))
    async with running(EventRecorder(client)) as recorder:
        warn(recorder, about)
        first = await the_event(virtual, about, 1)
        await virtual.delete("events", first["metadata"]["name"], namespace)
        warn(recorder, about)
        second = await the_event(virtual, about, 2)
    assert first["metadata"]["name"] != second["metadata"]["name"]


async def test_event_about_a_cluster_scoped_object(virtual: Cluster, client: Client) -> None:
    """The Event of an object without a namespace lives in `default`."""
    about = await virtual.create(
        named("PriorityClass", "event-test", apiVersion="scheduling.k8s.io/v1", value=1)
    )
    try:
        async with running(EventRecorder(client)) as recorder:
            warn(recorder, about)
            event = await the_event(virtual, about, 1)
        assert event["metadata"]["namespace"] == "default"
    finally:
        await virtual.delete("scheduling.k8s.io/v1/priorityclasses", "event-test")


@pytest.mark.parametrize("message", ["x" * 5000, "é" * 3000, 'a "quoted"\nline\x00'])
async def test_any_message_is_taken(
    virtual: Cluster, namespace: str, client: Client, message: str
) -> None:
    """Long and strange messages are cut, not refused."""
    about = await virtual.create(config_map("web", namespace, {}))
    async with running(EventRecorder(client)) as recorder:
        warn(recorder, about, message)
        await the_event(virtual, about, 1)


async def test_event_that_no_namespace_takes_is_dropped(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """A namespace that is gone holds up no other Event."""
    about = await virtual.create(config_map("web", namespace, {}))
    lost: Any = {**about, "metadata": {**about["metadata"], "namespace": "no-such-namespace"}}
    async with running(EventRecorder(client)) as recorder:
        warn(recorder, lost)
        warn(recorder, about)
        await the_event(virtual, about, 1)

        def counted() -> None:  # the answer comes after the event is there
            assert (recorder.written, recorder.dropped) == (1, 1)

        await eventually(counted)


async def test_nothing_is_written_while_the_gate_is_closed(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """Events noted while this process may not write come once it may."""
    about = await virtual.create(config_map("web", namespace, {}))
    leader = False

    async def nap(_: float) -> None:
        await asyncio.sleep(0.01)

    recorder = EventRecorder(client, may_write=lambda: leader, sleep=nap)
    async with running(recorder):
        warn(recorder, about)
        await asyncio.sleep(0.1)
        assert await virtual.events(namespace, "web") == []
        leader = True
        await the_event(virtual, about, 1)
