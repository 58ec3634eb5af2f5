"""Fake nodes: one for each host node that runs a pod of the tenant's, and nothing of the host's."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import orjson
import pytest

from controlplane.nodes import node as fake_node
from syncer.naming import PREFIX
from tests.integration.harness import Cluster, Object, Pair, eventually, gone, named, pod
from tests.integration.pod_steps import in_phase

_SECRET = "rack-7-of-the-host"
_IMAGE = "registry.internal/secret-image:1"


@pytest.fixture
async def node(host: Cluster) -> AsyncIterator[str]:
    """A host node of the test's own, with labels, a taint and images; gone after the test."""
    name = f"node-{uuid.uuid4().hex[:8]}"
    made = fake_node(9)
    made["metadata"] |= {"name": name, "annotations": {"secret": _SECRET}}
    made["metadata"]["labels"] |= {"rack": _SECRET, "kubernetes.io/hostname": name}
    made["spec"]["taints"] = [{"key": "own", "value": name, "effect": "NoSchedule"}]
    await host.create(made)

    async def ready() -> None:
        found = await host.get("nodes", name)
        conditions = found["status"].get("conditions") or ()
        assert any((each["type"], each["status"]) == ("Ready", "True") for each in conditions)
        assert [each["key"] for each in found["spec"].get("taints") or ()] == ["own"]

    await eventually(ready)
    images = {"status": {"images": [{"names": [_IMAGE], "sizeBytes": 7}]}}
    await host.patch("nodes", name, "", images, subresource="status")
    yield name
    await host.delete("nodes", name)


def _on(name: str, namespace: str, node: str) -> Object:
    """Return a pod that the host's scheduler puts on a node and no other."""
    expression = {"key": "metadata.name", "operator": "In", "values": [node]}
    terms = {"nodeSelectorTerms": [{"matchFields": [expression]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    toleration = {"key": "own", "operator": "Exists"}
    return pod(name, namespace, affinity={"nodeAffinity": required}, tolerations=[toleration])


async def test_a_node_is_there_while_a_pod_runs_on_it(
    pair: Pair, namespace: str, node: str
) -> None:
    """It comes before the first pod is bound, is ready, and goes with the last pod."""
    assert await pair.virtual.find("nodes", node) is None
    for name in ("one", "two"):
        await pair.virtual.create(_on(name, namespace, node))
    for name in ("one", "two"):
        running = await in_phase(pair, name, namespace)
        assert running["spec"]["nodeName"] == node

    async def whole() -> Object:
        found = await pair.virtual.get("nodes", node)
        assert found["metadata"]["labels"][f"{PREFIX}fake-node"] == "true"
        [ready] = [each for each in found["status"]["conditions"] if each["type"] == "Ready"]
        assert ready["status"] == "True"
        assert "InternalIP" in [each["type"] for each in found["status"]["addresses"]]
        assert not found["spec"].get("taints")
        return found

    fake = await eventually(whole)
    theirs = await pair.host.get("nodes", node)
    text = orjson.dumps(fake).decode()
    addresses = [each["address"] for each in theirs["status"]["addresses"]]
    [internal] = [each for each in addresses if each != node]
    for secret in (_SECRET, _IMAGE, theirs["metadata"]["uid"], f'"{internal}"', '"own"'):
        assert secret not in text
    await pair.virtual.delete("pods", "one", namespace, grace=0)
    await gone(lambda: pair.virtual.find("pods", "one", namespace))
    await asyncio.sleep(0.3)
    again = await pair.virtual.get("nodes", node)
    assert again["metadata"]["uid"] == fake["metadata"]["uid"]
    await pair.virtual.delete("pods", "two", namespace, grace=0)
    await gone(lambda: pair.virtual.find("nodes", node))


async def test_a_node_that_the_host_lost_goes_with_its_pods(
    pair: Pair, namespace: str, node: str
) -> None:
    """The host's garbage collector removes the pods of a lost node; then nothing keeps ours.

    That collector waits 40 s before it believes that a node is gone; its deletion is done here.
    """
    await pair.virtual.create(_on("web", namespace, node))
    await in_phase(pair, "web", namespace)
    await pair.host.delete("nodes", node)
    copy = pair.host_name("web", namespace)
    await pair.host.delete("pods", copy, pair.names.host_namespace, grace=0)
    await gone(lambda: pair.virtual.find("pods", "web", namespace))
    await gone(lambda: pair.virtual.find("nodes", node))


async def test_a_daemon_set_does_not_keep_a_node(pair: Pair, namespace: str, node: str) -> None:
    """Its pod runs while the node is there and goes with it, once no other pod is left."""
    await pair.virtual.create(_on("web", namespace, node))
    await in_phase(pair, "web", namespace)
    labels = {"app": "agent"}
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [{"name": "agent", "image": "nginx"}],
            "tolerations": [{"operator": "Exists"}],
        },
    }
    spec = {"selector": {"matchLabels": labels}, "template": template}
    await pair.virtual.create(
        named("DaemonSet", "agent", namespace, apiVersion="apps/v1", spec=spec)
    )

    async def running() -> str:
        for each in await pair.virtual.list("pods", namespace, labels="app=agent"):
            if each["spec"].get("nodeName") == node:
                assert each["status"]["phase"] == "Running", each["status"]
                return str(each["metadata"]["name"])
        raise AssertionError("no pod of the daemon set on the node")

    agent = await eventually(running)
    await pair.virtual.delete("pods", "web", namespace, grace=0)
    await gone(lambda: pair.virtual.find("nodes", node))
    await pair.virtual.delete("apps/v1/daemonsets", "agent", namespace)
    await gone(lambda: pair.virtual.find("pods", agent, namespace))
    await gone(lambda: pair.find_copy("pods", agent, namespace))
