"""EndpointSlices that a tenant makes for services without a selector.

Direction: virtual to host.
Host name: ``NAME-x-NAMESPACE-x-TENANT``.
Rewritten: the label ``kubernetes.io/service-name``, which is a reference; ``targetRef`` of a pod
    (name and namespace; UID and version cleared).
Read back: nothing.
Never copied: slices of ``default/kubernetes``; slices of services with a selector, and those
    that the virtual cluster's own controllers made, since the host's controllers make the same
    from the host's Service or from our copy of the Endpoints; target references to anything but
    pods. Refused: addresses as for endpoints, and domain names as addresses.
Source: Kubernetes API, EndpointSlice v1 and its controllers; CVE-2021-25740, CVE-2021-25737.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mappers.endpoints import host_makes_them, host_target, refusal, service
from mappers.metadata import host_metadata
from mappers.servicecidrs import SERVICE_CIDR, networks
from syncer.naming import Names
from syncer.objects import Key, Object, Resource
from syncer.types import Context, Direction, Kind, Need, Refused, Skip

SERVICE_NAME: Final = "kubernetes.io/service-name"
MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
OUR_CONTROLLER: Final = "vcluster-syncer"
"""Value of :data:`MANAGED_BY` on our copies: the host's controllers keep off other values."""

CONTROLLERS: Final = frozenset(
    {"endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"}
)

_ENDPOINT: Final = ("addresses", "conditions", "hostname", "nodeName", "zone", "hints")
_TRIGGER_TIME: Final = frozenset({"endpoints.kubernetes.io/last-change-trigger-time"})


def _service_key(virtual: Object) -> Key | None:
    metadata = virtual["metadata"]
    name = (metadata.get("labels") or {}).get(SERVICE_NAME)
    return Key(metadata["namespace"], name) if name else None


def _related(source: Object, _copy: Object | None, _ctx: Context) -> Iterable[Need]:
    if (key := _service_key(source)) is None or _is_made_by_controller(source):
        return ()
    return (service(key), SERVICE_CIDR)


def _is_made_by_controller(virtual: Object) -> bool:
    return (virtual["metadata"].get("labels") or {}).get(MANAGED_BY) in CONTROLLERS


def _to_host(virtual: Object, ctx: Context) -> Object | Skip | Refused:
    if _is_made_by_controller(virtual):
        return Skip("the host's controllers make it")
    key = _service_key(virtual)
    if key is None:
        return Skip("it belongs to no service")
    if skip := host_makes_them(key, ctx):
        return skip
    endpoints = virtual.get("endpoints") or ()
    if reason := _refusal(virtual["addressType"], endpoints, ctx):
        return Refused(f"the endpoint slice is not synced: {reason}")
    metadata = host_metadata(virtual, ctx, _TRIGGER_TIME)
    metadata["labels"] |= {
        SERVICE_NAME: ctx.names.host_name(key.name, key.namespace),
        MANAGED_BY: OUR_CONTROLLER,
    }
    # Both lists are null when empty, as the API server writes them.
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": virtual["addressType"],
        "endpoints": [_host_endpoint(endpoint, ctx.names) for endpoint in endpoints] or None,
        "ports": virtual.get("ports") or None,
    }


def _refusal(family: str, endpoints: Iterable[Object], ctx: Context) -> str | None:
    if family not in ("IPv4", "IPv6"):
        return f"addressType {family} names hosts that nobody can check; use IPv4 or IPv6"
    within = networks(ctx)
    for endpoint in endpoints:
        for address in endpoint.get("addresses") or ():
            if reason := refusal(address, within):
                return reason
    return None


def _host_endpoint(endpoint: Object, names: Names) -> Object:
    result: Object = {name: endpoint[name] for name in _ENDPOINT if name in endpoint}
    if target := host_target(endpoint.get("targetRef"), names):
        result["targetRef"] = target
    return result


KIND = Kind(
    name="endpointslices",
    resource=Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    direction=Direction.TO_HOST,
    component="endpointslice-syncer",
    related=_related,
    to_host=_to_host,
    mutable=("endpoints", "ports"),
    ignored_annotations=_TRIGGER_TIME,
)
