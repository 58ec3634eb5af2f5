"""The names and addresses that the endpoint's certificate has to be good for.

Pure; knows the settings and the Services that lead to the endpoint, looks nothing up.

Invariants:
* whatever is no DNS name or IP address is left out: one bad value must not cost the certificate;
* a wildcard is ours or the operator's own, never an object's.

Source: vcluster v0.16.4 ``pkg/server/cert``; added to it: ``SERVICE.NAMESPACE.svc``, ``::1``, and
from v0.19 the Service of the metrics API.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from syncer.naming import NODE_DOMAIN
from syncer.objects import Object
from syncer.settings import Settings, certificate_name

MAX_NAMES: Final = 1000
"""Most names in one certificate; a client takes some 64 KB of it in a handshake."""

METRICS_SERVICE: Final = "metrics-service.kube-system.svc"
"""Where the virtual API server finds metrics.k8s.io: at this endpoint."""


def certificate_names(
    settings: Settings,
    *,
    pod_ip: str = "",
    services: Iterable[Object] = (),
    node_addresses: Iterable[str] = (),
) -> frozenset[str]:
    """Give the names and addresses by which clients reach the endpoint.

    Node names need nothing here: their host names are one label below a wildcard.

    Args:
        settings: of the syncer.
        pod_ip: address of the syncer's pod; ``""`` if unknown.
        services: host Services that lead here, from other names or from outside.
        node_addresses: IP addresses of the Services that stand for nodes' kubelets.

    Returns:
        DNS names in lower case, and IP addresses in their shortest form: at most
        :data:`MAX_NAMES`, those of nodes being the first that are left out.
    """
    words = [
        *_fixed(settings, pod_ip),
        *settings.tls_san,
        *(word for service in services for word in _of_service(service)),
        *sorted(node_addresses),
    ]
    valid = dict.fromkeys(name for word in words if (name := certificate_name(word)))
    return frozenset(islice(valid, MAX_NAMES))


def _fixed(settings: Settings, pod_ip: str) -> Iterator[str]:
    yield from ("localhost", "127.0.0.1", "::1")
    yield from ("kubernetes", "kubernetes.default", "kubernetes.default.svc")
    yield f"kubernetes.default.svc.{settings.cluster_domain}"
    yield METRICS_SERVICE
    namespace = settings.current_namespace
    for service in (settings.service_name, f"{settings.service_name}-lb"):
        yield from (service, f"{service}.{namespace}", f"{service}.{namespace}.svc")
    yield f"*.{NODE_DOMAIN}"
    yield f"*.{settings.name}.{namespace}.{NODE_DOMAIN}"
    yield from (pod_ip, settings.bind_address)


def _of_service(service: Object) -> Iterator[str]:
    spec = service.get("spec") or {}
    for address in (spec.get("clusterIP"), *(spec.get("clusterIPs") or ())):
        yield "" if address in (None, "None") else address  # a headless one has "None"
    balancer = (service.get("status") or {}).get("loadBalancer") or {}
    for ingress in balancer.get("ingress") or ():
        yield ingress.get("ip") or ""
        hostname = ingress.get("hostname") or ""
        yield "" if "*" in hostname else hostname
