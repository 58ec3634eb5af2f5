"""Row 10: two objects whose copies would have one name are told apart, never merged."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from syncer.naming import PREFIX
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    config_map,
    eventually,
    gone,
    named,
    pod,
    secret,
    service,
)
from tests.integration.pod_steps import told

_FORCED = {f"{PREFIX}force-sync": "true"}


def _object(resource: str, name: str, namespace: str, value: str) -> Object:
    made = {
        "secrets": lambda: secret(name, namespace, {"a": value}),
        "configmaps": lambda: config_map(name, namespace, {"a": value}),
        "services": lambda: service(name, namespace),
        "pods": lambda: pod(name, namespace),
    }[resource]()
    made["metadata"]["annotations"] = _FORCED | {"value": value}
    return made


@pytest.fixture
async def spaces(virtual: Cluster) -> AsyncIterator[tuple[str, str]]:
    """Two virtual namespaces, S and b-x-S: `a-x-b` in one and `a` in the other share a name."""
    first = f"s-{uuid.uuid4().hex[:6]}"
    both = (first, f"b-x-{first}")
    for name in both:
        await virtual.create(named("Namespace", name))
        await _admits_pods(virtual, name)
    yield both
    for name in both:
        await virtual.delete("namespaces", name)


async def _admits_pods(virtual: Cluster, namespace: str) -> None:
    await eventually(lambda: virtual.get("serviceaccounts", "default", namespace))


@pytest.mark.parametrize("resource", ["secrets", "configmaps", "services", "pods"])
async def test_the_second_of_two_colliding_objects_is_refused(
    pair: Pair, spaces: tuple[str, str], resource: str
) -> None:
    """The first one's copy stays as it is, the second is told; it gets its turn when that goes."""
    one, two = spaces
    await pair.virtual.create(_object(resource, "a-x-b", one, "first"))
    copy = await eventually(lambda: pair.copy(resource, "a-x-b", one))
    assert copy["metadata"]["name"] == pair.host_name("a", two)
    await pair.virtual.create(_object(resource, "a", two, "second"))
    event = await told(pair.virtual, two, "a", f"{one}/a-x-b")
    assert "same name on the host" in event["message"]
    change = {"metadata": {"annotations": {"value": "third"}}}
    await pair.virtual.patch(resource, "a", two, change)
    await asyncio.sleep(0.3)
    after = await pair.copy(resource, "a-x-b", one)
    assert after["metadata"]["uid"] == copy["metadata"]["uid"]
    assert after["metadata"]["annotations"]["value"] == "first"
    assert after["metadata"]["annotations"][f"{PREFIX}object-name"] == "a-x-b"
    await pair.virtual.delete(resource, "a", two, grace=0)
    await gone(lambda: pair.virtual.find(resource, "a", two))
    await asyncio.sleep(0.3)
    assert (await pair.copy(resource, "a-x-b", one))["metadata"]["uid"] == copy["metadata"]["uid"]
