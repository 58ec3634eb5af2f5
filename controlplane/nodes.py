"""Fake nodes of a host plane: made here, brought to life by kwok."""

import ipaddress
from itertools import islice
from typing import Any

import aiohttp

from controlplane.tools import KUBERNETES_VERSION

_POD_RANGE = ipaddress.ip_network("10.244.0.0/16")
_PODS_PER_NODE = 20  # prefix length: 16 nodes of 4094 pods
_ZONES = 3
_CAPACITY = {"cpu": "64", "memory": "256Gi", "ephemeral-storage": "1Ti", "pods": "4000"}
_UNKNOWN = ("bootID", "kubeProxyVersion", "machineID", "systemUUID")
MAX_NODES = 16


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


async def add_nodes(api: aiohttp.ClientSession, count: int) -> None:
    """Create nodes 0 to `count` - 1; raises aiohttp.ClientResponseError if one is refused."""
    for index in range(count):
        async with api.post("/api/v1/nodes", json=node(index)) as response:
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


def _takes_pods(item: dict[str, Any]) -> bool:
    conditions = item["status"].get("conditions", ())
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return ready and not item["spec"].get("taints")
