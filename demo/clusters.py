"""What the two clusters hold, read at one moment."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from syncer.naming import Names

Object = dict[str, Any]

TENANT = "tenant-1"
HOST_NAMESPACE = "host-tenant-1"
NAMES = Names(TENANT, HOST_NAMESPACE)

APPLICATION = "shop"
"""Virtual namespace of the application."""

_PATHS = {
    "namespaces": "/api/v1/namespaces",
    "nodes": "/api/v1/nodes",
    "configmaps": "/api/v1/configmaps",
    "secrets": "/api/v1/secrets",
    "services": "/api/v1/services",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    "pods": "/api/v1/pods",
    "deployments": "/apis/apps/v1/deployments",
}


@dataclass(frozen=True)
class Cluster:
    """A cluster at one moment.

    Attributes:
        objects: plural -> (namespace, name) -> object.
    """

    objects: Mapping[str, Mapping[tuple[str, str], Object]]

    def get(self, plural: str, namespace: str, name: str) -> Object | None:
        """Return an object, or None when there is none."""
        return self.objects[plural].get((namespace, name))

    def within(self, plural: str, namespace: str) -> list[Object]:
        """Return the objects of a namespace, in the order of their names."""
        found = self.objects[plural]
        return [found[key] for key in sorted(found) if key[0] == namespace]


async def read(api: aiohttp.ClientSession) -> Cluster:
    """Read a cluster; raises aiohttp.ClientError."""
    objects: dict[str, dict[tuple[str, str], Object]] = {}
    for plural, path in _PATHS.items():
        async with api.get(path, raise_for_status=True) as response:
            items = (await response.json())["items"]
        objects[plural] = {(namespace_of(item), name_of(item)): item for item in items}
    return Cluster(objects)


def name_of(obj: Object) -> str:
    """Return an object's name."""
    name: str = obj["metadata"]["name"]
    return name


def namespace_of(obj: Object) -> str:
    """Return an object's namespace, "" if it has none."""
    namespace: str = obj["metadata"].get("namespace", "")
    return namespace


def copy_of(host: Cluster, plural: str, obj: Object) -> Object | None:
    """Return the host's copy of a virtual object, or None."""
    return host.get(plural, HOST_NAMESPACE, NAMES.host_name(name_of(obj), namespace_of(obj)))


def state(plural: str, obj: Object) -> str:
    """Return the state of an object in a few words."""
    match plural:
        case "pods":
            status, spec = obj["status"], obj["spec"]
            words = [status.get("phase", ""), status.get("podIP", ""), spec.get("nodeName", "")]
            return " ".join(word for word in words if word)
        case "services":
            return str(obj["spec"].get("clusterIP", ""))
        case "deployments":
            return f"{obj['status'].get('readyReplicas', 0)}/{obj['spec']['replicas']} ready"
        case "secrets":
            data = obj.get("data") or {}
            return f"{sum(len(base64.b64decode(value)) for value in data.values())} bytes"
        case _:
            return f"{sum(len(value) for value in (obj.get('data') or {}).values())} bytes"


def addresses(cluster: Cluster, namespace: str, service: str) -> set[str]:
    """Return the addresses to which a service's slices send."""
    label = "kubernetes.io/service-name"
    return {
        address
        for each in cluster.within("endpointslices", namespace)
        if each["metadata"].get("labels", {}).get(label) == service
        for endpoint in each.get("endpoints") or ()
        for address in endpoint["addresses"]
    }
