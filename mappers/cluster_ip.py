"""Gives a virtual Service the cluster IP that the host allocated, and keeps its UID.

``spec.clusterIP`` can't be changed, but a Service of type ExternalName has none, and one that
stops being ExternalName may say which it wants. So the change takes two writes, and between
them the Service is *parked*: type ExternalName, a name that resolves to nothing, and an
annotation with the fields that an ExternalName can't have.

Invariants:
* a crash between the writes heals: the annotation says all that the second one needs;
* parked is never mistaken for the tenant's wish: :func:`as_meant` gives what was before;
* a Service that the tenant changes meanwhile is the tenant's: only what is parked by type,
  name and annotation together counts as parked.

Source: Kubernetes ``pkg/registry/core/service`` (fields that depend on the type are dropped
when it changes); vcluster v0.16.4 deletes and makes the Service again instead.
"""

from __future__ import annotations

import json
from typing import Final

from mappers.servicecidrs import Network, contains
from syncer.naming import PREFIX
from syncer.objects import Object

CHANGING: Final = f"{PREFIX}changing-cluster-ip"
"""Annotation on a parked virtual Service: its fields from before, as JSON."""

NOWHERE: Final = "changing-cluster-ip.invalid"
"""The external name of a parked Service (RFC 2606: never resolves)."""

EXTERNAL_NAME: Final = "ExternalName"
NODE_PORT_TYPES: Final = frozenset({"NodePort", "LoadBalancer"})

_TYPES: Final = ("ClusterIP", *sorted(NODE_PORT_TYPES))
_ADDRESSES: Final = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
_DEPENDENT: Final[dict[str, type]] = {
    "externalTrafficPolicy": str,
    "allocateLoadBalancerNodePorts": bool,
    "loadBalancerClass": str,
    "loadBalancerSourceRanges": list,
}
"""Fields that the tenant chose and that an ExternalName can't have, with their JSON types."""

_SOURCE_RANGES: Final = "service.beta.kubernetes.io/load-balancer-source-ranges"
"""Annotation form of ``loadBalancerSourceRanges``; refused on other types, so it is parked too."""


def as_meant(service: Object) -> Object:
    """Give a Service as its tenant knows it: as before, when it is parked."""
    saved = _saved(service)
    if saved is None:
        return service
    meant = {**service, "metadata": dict(service["metadata"]), "spec": dict(service["spec"])}
    _restore(meant, saved)
    return meant


def follow(service: Object, host: Object, within: tuple[Network, ...]) -> bool:
    """Take one step towards the host's cluster IP.

    Args:
        service: a fresh copy of a virtual Service; changed.
        host: spec of the host Service whose addresses it is to have.
        within: the virtual service networks, if known.

    Returns:
        Whether the Service is as it should be, but for an address that the virtual server could
        not take; ``False``: it is parked now and is to be looked at again.
    """
    saved = _saved(service)
    if saved is not None:
        _restore(service, saved)
        service["spec"].update(_addresses(host, within))
        return True
    _forget(service)
    spec = service["spec"]
    mine, theirs = spec.get("clusterIP", ""), host.get("clusterIP", "")
    if spec.get("type") == EXTERNAL_NAME or not theirs or "None" in (mine, theirs):
        return True
    if mine == theirs:
        spec.update(_addresses(host, within))
        return True
    if within and not contains(theirs, within):
        return True
    _park(service)
    return False


def shed(spec: Object) -> None:
    """Take off a spec what an ExternalName can't have."""
    for name in (*_ADDRESSES, *_DEPENDENT, "healthCheckNodePort"):
        spec.pop(name, None)
    if "ports" in spec:
        spec["ports"] = [
            {name: value for name, value in port.items() if name != "nodePort"}
            for port in spec["ports"]
        ]


def _park(service: Object) -> None:
    metadata, spec = service["metadata"], service["spec"]
    annotations = dict(metadata.get("annotations") or {})
    saved = {name: spec[name] for name in _DEPENDENT if name in spec}
    saved["type"] = spec.get("type", "ClusterIP")
    if "externalName" in spec:
        saved["externalName"] = spec["externalName"]
    if _SOURCE_RANGES in annotations:
        saved[_SOURCE_RANGES] = annotations.pop(_SOURCE_RANGES)
    annotations[CHANGING] = json.dumps(saved, sort_keys=True)
    metadata["annotations"] = annotations
    shed(spec)
    spec["type"], spec["externalName"] = EXTERNAL_NAME, NOWHERE


def _saved(service: Object) -> Object | None:
    """Give the fields from before, when the Service is parked; a tenant may have written them."""
    spec = service["spec"]
    text = (service["metadata"].get("annotations") or {}).get(CHANGING)
    if not text or (spec.get("type"), spec.get("externalName")) != (EXTERNAL_NAME, NOWHERE):
        return None
    try:
        saved = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(saved, dict) or saved.get("type") not in _TYPES:
        return None
    types: dict[str, type] = {**_DEPENDENT, "type": str, "externalName": str, _SOURCE_RANGES: str}
    if not all(name in types and isinstance(saved[name], types[name]) for name in saved):
        return None
    ranges = saved.get("loadBalancerSourceRanges", ())
    return saved if all(isinstance(item, str) for item in ranges) else None


def _restore(service: Object, saved: Object) -> None:
    spec = service["spec"]
    _forget(service)
    del spec["externalName"]
    if _SOURCE_RANGES in saved:
        annotations = service["metadata"]["annotations"]
        service["metadata"]["annotations"] = {**annotations, _SOURCE_RANGES: saved[_SOURCE_RANGES]}
    spec.update({name: value for name, value in saved.items() if name != _SOURCE_RANGES})


def _forget(service: Object) -> None:
    annotations = service["metadata"].get("annotations") or {}
    if CHANGING in annotations:
        kept = {name: value for name, value in annotations.items() if name != CHANGING}
        service["metadata"]["annotations"] = kept


def _addresses(host: Object, within: tuple[Network, ...]) -> Object:
    """Give the address fields of a virtual Service.

    All the host's, where the virtual server is known to serve the families of all of them; else
    the first alone, and the server keeps the families it has.
    """
    first = host.get("clusterIP")
    if not first:
        return {}
    every = host.get("clusterIPs") or [first]
    if all(contains(address, within) for address in every):
        return {name: host[name] for name in _ADDRESSES if name in host}
    return {"clusterIP": first}
