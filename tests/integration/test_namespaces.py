"""Virtual namespaces: what they hold goes with them, what they are called selects pods."""

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
from tests.integration.pod_steps import condition, in_phase

_COPIED = ("pods", "services", "configmaps", "secrets", "endpoints")


@pytest.fixture
async def other(virtual: Cluster) -> AsyncIterator[str]:
    """Another virtual namespace."""
    name = f"other-{uuid.uuid4().hex[:8]}"
    await virtual.create(named("Namespace", name))
    await eventually(lambda: virtual.get("serviceaccounts", "default", name))
    yield name
    await virtual.delete("namespaces", name)


async def test_a_deleted_namespace_leaves_nothing_on_the_host(pair: Pair, other: str) -> None:
    """Pods, services, endpoints, config maps and secrets go, and then the namespace."""
    forced = {f"{PREFIX}force-sync": "true"}
    subsets = [{"addresses": [{"ip": "10.99.4.1"}], "ports": [{"port": 80}]}]
    for each in (
        pod("web", other, terminationGracePeriodSeconds=1),  # the namespace waits for half of it
        service("web", other),
        service("legacy", other, selector=None),
        named("Endpoints", "legacy", other, subsets=subsets),
        config_map("config", other, {"a": "b"}, annotations=forced),
        secret("secret", other, {"a": "b"}, annotations=forced),
    ):
        await pair.virtual.create(each)
    await in_phase(pair, "web", other)

    async def left() -> list[int]:
        found = await asyncio.gather(*(pair.copies(each, other) for each in _COPIED))
        return [len(each) for each in found]

    async def all_there() -> None:
        assert all(await left())

    await eventually(all_there)
    await pair.virtual.delete("namespaces", other)
    # Its own controller takes its time when the namespaces of other tests go as well.
    await gone(lambda: pair.virtual.find("namespaces", other), timeout=180)

    async def nothing() -> None:
        assert await left() == [0] * len(_COPIED)

    await eventually(nothing, timeout=60)  # Endpoints go when the host's controllers get to them


async def test_a_namespace_that_lingers_is_no_trouble(pair: Pair, other: str) -> None:
    """What a terminating namespace takes no more (tokens, bindings) is neither told nor logged."""
    held = pod("held", other)
    held["metadata"]["finalizers"] = ["example.com/hold"]
    await pair.virtual.create(held)
    await pair.virtual.create(pod("web", other))
    await asyncio.gather(*(in_phase(pair, name, other) for name in ("held", "web")))
    await eventually(lambda: _no_other_goes(pair), timeout=120)
    seen, errors = len(pair.syncer.log_lines()), await _errors(pair)
    controllers = pair.virtual.plane.components["kube-controller-manager"]
    await controllers.pause()  # the namespace terminates, and nothing in it does yet
    try:
        await pair.syncer.pause()
        await pair.virtual.create(pod("new", other))
        await pair.virtual.delete("namespaces", other)
        await pair.syncer.resume()
        # A running pod's tokens are made anew when their Secret is gone.
        home, tokens = pair.names.host_namespace, pair.host_name("web-sa-token", other)
        await pair.host.delete("secrets", tokens, home)
        await pair.virtual.patch("pods", "web", other, {"metadata": {"labels": {"a": "b"}}})
        await asyncio.sleep(2.0)
        assert await pair.find_copy("pods", "new", other) is None
        assert await pair.host.find("secrets", tokens, home) is None
    finally:
        await pair.syncer.resume()
        await controllers.resume()

    async def none_left() -> None:
        assert not await pair.copies("pods", other)

    await eventually(none_left, timeout=60)
    assert await pair.virtual.find("pods", "held", other)
    finalizers = {"metadata": {"finalizers": None}}
    await pair.virtual.patch("pods", "held", other, finalizers)
    await gone(lambda: pair.virtual.find("namespaces", other), timeout=180)
    ours = [each for each in pair.syncer.log_lines()[seen:] if each.get("namespace") == other]
    assert [each for each in ours if each["level"] not in ("debug", "info")] == []
    assert await _errors(pair) == errors


async def _no_other_goes(pair: Pair) -> None:
    """Assert that no namespace of an earlier test is still going, with errors of its own."""
    phases = [each["status"]["phase"] for each in await pair.virtual.list("namespaces")]
    assert "Terminating" not in phases


async def _errors(pair: Pair) -> float:
    """Return how often anything was found wrong with an object."""
    samples = await pair.syncer.metrics()
    return sum(each for name, each in samples.items() if name.startswith("syncer_sync_errors"))


def _near(name: str, namespace: str, selector: Object) -> Object:
    """Return a pod that runs only where a pod `app: db` of the selected namespaces runs."""
    term = {
        "labelSelector": {"matchLabels": {"app": "db"}},
        "namespaceSelector": selector,
        "topologyKey": "kubernetes.io/hostname",
    }
    terms = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    return pod(name, namespace, affinity={"podAffinity": terms})


async def test_labels_of_a_namespace_select_its_pods_on_the_host(
    pair: Pair, namespace: str, other: str
) -> None:
    """A term with a `namespaceSelector` finds pods of such namespaces; a new label does at once."""
    await pair.virtual.patch("namespaces", other, "", {"metadata": {"labels": {"team": "one"}}})
    await pair.virtual.create(pod("db", other, labels={"app": "db"}))
    there = await in_phase(pair, "db", other)
    await pair.virtual.create(_near("near", namespace, {"matchLabels": {"team": "one"}}))
    await pair.virtual.create(_near("waits", namespace, {"matchLabels": {"team": "two"}}))
    near = await in_phase(pair, "near", namespace)
    assert near["spec"]["nodeName"] == there["spec"]["nodeName"]

    async def waits() -> None:
        waiting = await pair.virtual.get("pods", "waits", namespace)
        assert condition(waiting, "PodScheduled")["reason"] == "Unschedulable"

    await eventually(waits)
    before = await pair.copy("pods", "db", other)
    await pair.virtual.patch("namespaces", other, "", {"metadata": {"labels": {"team": "two"}}})
    waited = await in_phase(pair, "waits", namespace)
    assert waited["spec"]["nodeName"] == there["spec"]["nodeName"]
    after = await pair.copy("pods", "db", other)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    key = pair.names.namespace_label_key("team")
    assert (before["metadata"]["labels"][key], after["metadata"]["labels"][key]) == ("one", "two")


async def test_a_namespace_label_that_goes_is_taken_off_the_pods(
    pair: Pair, namespace: str
) -> None:
    """Labels of the namespace are copied while they are there."""
    await pair.virtual.patch("namespaces", namespace, "", {"metadata": {"labels": {"a": "b"}}})
    await pair.virtual.create(pod("web", namespace))
    key = pair.names.namespace_label_key("a")

    async def labelled(*, expected: bool) -> None:
        copy = await pair.copy("pods", "web", namespace)
        assert (key in copy["metadata"]["labels"]) is expected

    await eventually(lambda: labelled(expected=True))
    await pair.virtual.patch("namespaces", namespace, "", {"metadata": {"labels": {"a": None}}})
    await eventually(lambda: labelled(expected=False))
