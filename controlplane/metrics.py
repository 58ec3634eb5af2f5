"""The metrics API (metrics.k8s.io) of a host plane: metrics-server, beside the API server.

In a cluster it would run as pods behind a Service. Here the Service is an alias of this machine
(ExternalName), so the API server finds it as it finds all aggregated APIs.
"""

import base64

import aiohttp

from controlplane.certificates import Pair
from controlplane.pki import Pki
from controlplane.ports import LOOPBACK

NODE_PATH = "metrics.k8s.io/resource-metrics-path"
"""Annotation of a node: where its kubelet has what metrics-server reads at `/metrics/resource`."""

_NAMESPACE, _NAME = "kube-system", "metrics-server"
_API = "v1beta1.metrics.k8s.io"
_API_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"


def certificate(pki: Pki) -> Pair:
    """Return the certificate that metrics-server serves with."""
    return pki.server(f"{_NAME}.{_NAMESPACE}.svc", LOOPBACK)


async def register(api: aiohttp.ClientSession, port: int, authority: Pair) -> None:
    """Tell the API server that the metrics API is served at a port of this machine.

    Args:
        api: an admin's session.
        port: where metrics-server listens.
        authority: vouches for its certificate.

    Raises:
        aiohttp.ClientResponseError: it is refused.
    """
    service = {
        "metadata": {"name": _NAME},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    }
    registration = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": _API},
        "spec": {
            "group": "metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"namespace": _NAMESPACE, "name": _NAME, "port": port},
            "caBundle": base64.b64encode(authority.certificate.read_bytes()).decode(),
        },
    }
    services = f"/api/v1/namespaces/{_NAMESPACE}/services"
    for path, body in ((services, service), (_API_SERVICES, registration)):
        async with api.post(path, json=body) as response:
            response.raise_for_status()


async def available(api: aiohttp.ClientSession) -> bool:
    """Return whether the API server has found the metrics API; it may have no metrics yet.

    As long as it has not, namespaces cannot be deleted.
    """
    async with api.get(f"{_API_SERVICES}/{_API}") as response:
        conditions = (await response.json()).get("status", {}).get("conditions", ())
    return any(each["type"] == "Available" and each["status"] == "True" for each in conditions)
