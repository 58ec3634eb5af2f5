"""Steps that tests of pods share: wait for a phase, read what a server saw first, give events."""

import asyncio
from collections.abc import Sequence

import aiohttp
import orjson

from tests.integration.harness import SYNCED, Cluster, Object, Pair, eventually, path_of

__all__ = [
    "condition",
    "container",
    "first_event",
    "first_seen",
    "in_phase",
    "latest_version",
    "settled",
    "told",
]


async def in_phase(pair: Pair, name: str, namespace: str, phase: str = "Running") -> Object:
    """Wait until the virtual pod is in a phase, and return it."""

    async def check() -> Object:
        found = await pair.virtual.get("pods", name, namespace)
        assert found["status"].get("phase") == phase, found["status"]
        return found

    return await eventually(check)


async def settled(
    pair: Pair, namespace: str, seconds: float, resources: Sequence[str] = SYNCED
) -> None:
    """Wait until a namespace and its copies come to rest, and see that they stay so.

    What the clusters' own controllers still have to write has to be waited for before.
    """

    async def addressed() -> None:
        for pod in await pair.virtual.list("pods", namespace, fields="status.phase=Running"):
            assert pod["status"].get("hostIP"), "its node has an address only after a while"

    await eventually(addressed)
    await eventually(lambda: pair.quiet(1, namespace=namespace, resources=resources))
    await pair.quiet(seconds, namespace=namespace, resources=resources)


async def told(
    cluster: Cluster, namespace: str, name: str, text: str, reason: str = "SyncError"
) -> Object:
    """Wait for an event about an object whose message has `text`, and return it."""

    async def check() -> Object:
        messages = {}
        for event in await cluster.events(namespace, name, reason):
            messages[event["message"]] = event
            if text in event["message"]:
                return event
        raise AssertionError(f"no event with {text!r} among {list(messages)}")

    return await eventually(check)


async def latest_version(cluster: Cluster, resource: str, namespace: str) -> str:
    """Return the resource version of now, for `first_seen`."""
    answer = await cluster.request("GET", path_of(resource, namespace))
    version: str = answer["metadata"]["resourceVersion"]
    return version


async def first_seen(
    cluster: Cluster, resource: str, namespace: str, name: str, since: str
) -> Object:
    """Return an object as it was created, read back from the server's history.

    Args:
        cluster: where.
        resource: plural.
        namespace: its namespace.
        name: its name.
        since: a resource version from before the creation.
    """
    event = await first_event(cluster, resource, namespace, name, since)
    assert event["type"] == "ADDED", event
    found: Object = event["object"]
    return found


async def first_event(
    cluster: Cluster, resource: str, namespace: str, name: str, since: str
) -> Object:
    """Return the first event about an object after a resource version, from the server's history.

    Args: as for `first_seen`.
    """
    params = {
        "watch": "1",
        "resourceVersion": since,
        "fieldSelector": f"metadata.name={name}",
        "timeoutSeconds": "20",
    }
    path = path_of(resource, namespace)
    async with (
        asyncio.timeout(15),
        cluster.api.get(path, params=params, timeout=aiohttp.ClientTimeout()) as response,
    ):
        event: Object = orjson.loads(await response.content.readline(max_line_length=8 << 20))
    return event


def condition(pod: Object, kind: str) -> Object:
    """Return a pod's condition of a type; raises LookupError when it has none."""
    for each in pod["status"].get("conditions") or ():
        if each["type"] == kind:
            found: Object = each
            return found
    raise LookupError(f"no condition {kind}: {pod['status']}")


def container(pod: Object, name: str, among: str = "containers") -> Object:
    """Return a pod's container by name; raises LookupError when it has none."""
    for each in pod["spec"].get(among) or ():
        if each["name"] == name:
            found: Object = each
            return found
    raise LookupError(f"no container {name} in {among}")


async def add_debug_container(pair: Pair, name: str, namespace: str, container: Object) -> None:
    """Add an ephemeral container to a virtual pod, as `kubectl debug` does."""
    body = {"spec": {"ephemeralContainers": [container]}}
    await pair.virtual.patch(
        "pods", name, namespace, body, kind="strategic", subresource="ephemeralcontainers"
    )
