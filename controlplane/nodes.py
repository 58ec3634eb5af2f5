"""Fake nodes of a host plane: made here, brought to life by kwok.

All are at kwok's one address, on loopback, where the API server reaches them for logs, exec and the
like. Not for `nodes/N/proxy`, which it refuses for loopback; a node for that gets an address of a
range for documentation (`add_node`, `set_address`), and the plane's egress a route from there.
"""

import asyncio
import ipaddress
from itertools import islice
from typing import Any

import aiohttp
import orjson

from controlplane.commands import NODE_METRICS
from controlplane.metrics import NODE_PATH
from controlplane.tools import KUBERNETES_VERSION

_POD_RANGE = ipaddress.ip_network("10.244.0.0/16")
_PODS_PER_NODE = 20  # prefix length: 16 nodes of 4094 pods
_ZONES = 3
_CAPACITY = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "4000"}
_READY_TIMEOUT = 30.0  # seconds
_POLL = 0.05  # seconds
_UNKNOWN = ("bootID", "kubeProxyVersion", "machineID", "systemUUID")
MAX_NODES = 16
KUBELET_PORT = 10250

ADDRESS = "fake-node/address"
"""Annotation of a node: its InternalIP, in place of kwok's own."""

PORT = "fake-node/kubelet-port"
"""Annotation of a node: the port of its kubelet there."""

RESERVED = "fake-node/reserved"
"""Key of the taint (NoSchedule) of a node for chosen pods: those that tolerate it or name it."""


def node(index: int) -> dict[str, Any]:
    """Return the Node object number `index` (from 0), its zone taken in turn."""
    name = f"node-{index}"
    pod_range = next(islice(_POD_RANGE.subnets(new_prefix=_PODS_PER_NODE), index, None))
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/region": "local",
                "topology.kubernetes.io/zone": f"zone-{index % _ZONES}",
            },
        },
        "status": {
            "capacity": _CAPACITY,
            "allocatable": _CAPACITY,
            "nodeInfo": {
                **dict.fromkeys(_UNKNOWN, ""),
                "architecture": "amd64",
                "operatingSystem": "linux",
                "osImage": "fake",
                "kernelVersion": "fake",
                "containerRuntimeVersion": "fake://1.0.0",
                "kubeletVersion": KUBERNETES_VERSION,
            },
        },
        "spec": {"podCIDR": str(pod_range), "podCIDRs": [str(pod_range)]},
    }


async def add_nodes(api: aiohttp.ClientSession, count: int, *, metrics: bool = False) -> None:
    """Create nodes 0 to `count` - 1.

    Args:
        api: an admin's session.
        count: how many.
        metrics: whether the nodes tell metrics-server where kwok has what it reads.

    Raises:
        aiohttp.ClientResponseError: one is refused.
    """
    for index in range(count):
        made = node(index)
        if metrics:
            path = NODE_METRICS.format(nodeName=made["metadata"]["name"])
            made["metadata"]["annotations"] = {NODE_PATH: path}
        async with api.post("/api/v1/nodes", json=made) as response:
            response.raise_for_status()


async def add_node(api: aiohttp.ClientSession, name: str, address: str, port: int) -> None:
    """Create a reserved node whose kubelet is at `address` and `port`, and wait for it.

    Raises:
        aiohttp.ClientResponseError: it is refused.
        TimeoutError: it does not become ready.
    """
    made = node(0)
    made["metadata"]["name"] = made["metadata"]["labels"]["kubernetes.io/hostname"] = name
    made["metadata"]["annotations"] = {ADDRESS: address, PORT: str(port)}
    made["spec"] = {"taints": [{"key": RESERVED, "effect": "NoSchedule"}]}
    async with api.post("/api/v1/nodes", json=made) as response:
        response.raise_for_status()
    async with asyncio.timeout(_READY_TIMEOUT):
        while not await _is_ready(api, name):  # noqa: ASYNC110 - the API server tells when asked
            await asyncio.sleep(_POLL)


async def set_address(api: aiohttp.ClientSession, name: str, address: str, port: int) -> None:
    """Move the kubelet of a node that is there; it keeps to the address in later heartbeats.

    Raises:
        aiohttp.ClientResponseError: it is refused, or there is no such node.
    """
    annotations = {ADDRESS: address, PORT: str(port)}
    status = {
        "addresses": [{"type": "InternalIP", "address": address}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    for path, patch in (
        ("", {"metadata": {"annotations": annotations}}),
        ("/status", {"status": status}),
    ):
        url = f"/api/v1/nodes/{name}{path}"
        async with api.patch(url, data=orjson.dumps(patch), headers=headers) as response:
            response.raise_for_status()


async def nodes_ready(api: aiohttp.ClientSession, count: int) -> bool:
    """Return whether `count` nodes take pods: ready, and free of the taint they begin with."""
    if count == 0:
        return True
    async with api.get("/api/v1/nodes") as response:
        if response.status != 200:
            return False
        items = (await response.json())["items"]
    return sum(_takes_pods(item) for item in items) >= count


async def _is_ready(api: aiohttp.ClientSession, name: str) -> bool:
    async with api.get(f"/api/v1/nodes/{name}") as response:
        response.raise_for_status()
        found = await response.json()
    # The node lifecycle controller's own taints go a moment after the node became ready.
    reserved = [each["key"] for each in found["spec"].get("taints", ())] == [RESERVED]
    return _has_started(found) and reserved


def _takes_pods(item: dict[str, Any]) -> bool:
    return _has_started(item) and not item["spec"].get("taints")


def _has_started(item: dict[str, Any]) -> bool:
    conditions = item["status"].get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
