"""The virtual cluster's own API server, as pods find it: ``default/kubernetes``.

Direction: made in the virtual cluster from the host's own Service of this virtual cluster.
Host name: that Service's; nothing is written on the host.
Rewritten: nothing.
Read back: the Service's ``clusterIP`` (in place, by way of ExternalName, so that the UID stays)
    and ports, but for a port named ``kubelet``; the addresses and the ``https`` port of its
    endpoints, as Endpoints and as one EndpointSlice.
Never copied: node names, target references, node ports.
Source: vcluster v0.16.4 ``pkg/controllers/k8sdefaultendpoint``, ``pkg/specialservices``. Needs
    ``--endpoint-reconciler-type=none`` on the virtual API server, which would write its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mappers import cluster_ip
from mappers.endpoints import SKIP_MIRROR
from mappers.servicecidrs import SERVICE_CIDR, networks
from mappers.services import KUBERNETES, RESOURCE
from syncer.objects import Key, Object, Resource, Side
from syncer.types import (
    OWN_ENDPOINTS,
    OWN_SERVICE,
    Blocked,
    Context,
    Derive,
    Direction,
    Kind,
    Need,
    Ref,
    Related,
    Skip,
)

SERVICE_NAME: Final = "kubernetes.io/service-name"

_PORT: Final = ("name", "protocol", "port", "targetPort", "appProtocol")
_SERVICE: Final = Ref(Side.VIRTUAL, "services", KUBERNETES)
_NO_ENDPOINTS: Final = Blocked("the host has no endpoints of the API server", OWN_ENDPOINTS)


# -- the Service -------------------------------------------------------------------------------


def _service_related(_source: Object, _copy: Object | None, _ctx: Context) -> Iterable[Need]:
    return (OWN_SERVICE, SERVICE_CIDR)


def _service(_key: Key, virtual: Object | None, ctx: Context) -> Object | Blocked | Skip:
    if virtual is None:
        return Blocked("the virtual API server has not made its service yet", _SERVICE)
    own = ctx.objects.get(OWN_SERVICE)
    if own is None or not cluster_ip.follow(virtual, own["spec"], networks(ctx)):
        return virtual
    ports = [
        {name: port[name] for name in _PORT if name in port}
        for port in own["spec"].get("ports") or ()
        if port.get("name") != "kubelet"
    ]
    if ports:
        virtual["spec"]["ports"] = ports
    return virtual


# -- its endpoints -----------------------------------------------------------------------------


def _endpoints_related(_source: Object, _copy: Object | None, _ctx: Context) -> Iterable[Need]:
    return (OWN_ENDPOINTS,)


def _subsets(own: Object) -> list[Object]:
    """Give the host's subsets with bare addresses and the ``https`` port alone."""
    subsets = []
    for subset in own.get("subsets") or ():
        ports = [
            {"name": "https", "port": port["port"], "protocol": port.get("protocol", "TCP")}
            for port in subset.get("ports") or ()
            if port.get("name", "https") == "https"
        ]
        bare = {
            field: [{"ip": address["ip"]} for address in subset[field]]
            for field in ("addresses", "notReadyAddresses")
            if subset.get(field)
        }
        if ports and bare:
            subsets.append({**bare, "ports": ports[:1]})
    return subsets


def _endpoints(_key: Key, virtual: Object | None, ctx: Context) -> Object | Blocked | Skip:
    own = ctx.objects.get(OWN_ENDPOINTS)
    if own is None:
        return virtual or _NO_ENDPOINTS
    subsets = _subsets(own)
    if virtual is None and not subsets:
        return _NO_ENDPOINTS
    result = virtual or _bare("v1", "Endpoints")
    _label(result, SKIP_MIRROR, "true")
    if subsets:
        result["subsets"] = subsets
    else:
        result.pop("subsets", None)
    return result


def _slice(_key: Key, virtual: Object | None, ctx: Context) -> Object | Blocked | Skip:
    own = ctx.objects.get(OWN_ENDPOINTS)
    if own is None:
        return virtual or _NO_ENDPOINTS
    subsets = _subsets(own)
    found = [
        (address["ip"], field == "addresses")
        for subset in subsets
        for field in ("addresses", "notReadyAddresses")
        for address in subset.get(field, ())
    ]
    if virtual is None and not found:
        return _NO_ENDPOINTS
    result = virtual or {
        **_bare("discovery.k8s.io/v1", "EndpointSlice"),
        "addressType": _family(found[0][0]),
    }
    _label(result, SERVICE_NAME, KUBERNETES.name)
    # Both lists are null when empty, as the API server writes them.
    result["endpoints"] = [
        {"addresses": [ip], "conditions": {"ready": ready}}
        for ip, ready in found
        if _family(ip) == result["addressType"]
    ] or None
    result["ports"] = subsets[0]["ports"] if subsets else None
    return result


def _family(ip: str) -> str:
    return "IPv6" if ":" in ip else "IPv4"


def _bare(version: str, kind: str) -> Object:
    metadata = {"namespace": KUBERNETES.namespace, "name": KUBERNETES.name}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _label(obj: Object, key: str, value: str) -> None:
    obj["metadata"]["labels"] = {**(obj["metadata"].get("labels") or {}), key: value}


def _kind(
    name: str, resource: Resource, related: Related, derive: Derive, *, versioned: bool = False
) -> Kind:
    return Kind(
        name=name,
        resource=resource,
        direction=Direction.DERIVED,
        related=related,
        derive=derive,
        only=KUBERNETES,
        optional=False,
        versioned=versioned,
    )


KINDS = (
    _kind("kubernetes-service", RESOURCE, _service_related, _service, versioned=True),
    _kind(
        "kubernetes-endpoints",
        Resource("", "v1", "endpoints", "Endpoints"),
        _endpoints_related,
        _endpoints,
    ),
    _kind(
        "kubernetes-endpointslice",
        Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
        _endpoints_related,
        _slice,
    ),
)
