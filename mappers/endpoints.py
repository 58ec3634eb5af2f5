"""Endpoints of services without a selector.

Direction: virtual to host.
Host name: ``NAME-x-NAMESPACE-x-TENANT``.
Rewritten: ``targetRef`` of a pod (name and namespace; UID and version cleared). The label
    ``endpointslice.kubernetes.io/skip-mirror`` stays as it is.
Read back: nothing.
Never copied: ``default/kubernetes``; endpoints of services with a selector, which the host makes
    itself (those it leaves behind when the selector goes give way to the tenant's); target
    references to anything but pods; the annotations
    ``control-plane.alpha.kubernetes.io/leader`` and
    ``endpoints.kubernetes.io/last-change-trigger-time``. Refused: addresses of the node itself,
    link-local and multicast ones, and those of the service network, by which the host's service
    proxy would be made to reach what the tenant can't.
Source: vcluster v0.16.4 ``pkg/controllers/resources/endpoints``; CVE-2021-25740, CVE-2021-25737.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from mappers.metadata import host_metadata
from mappers.servicecidrs import SERVICE_CIDR, Network, networks, parse_address
from mappers.services import KUBERNETES, SELECTORLESS
from syncer import ownership
from syncer.naming import Names
from syncer.objects import Key, Object, Resource, Side, key_of
from syncer.types import Context, Direction, Kind, Need, Ref, Refused, Skip, Trigger

IGNORED_ANNOTATIONS: Final = frozenset(
    {
        "control-plane.alpha.kubernetes.io/leader",
        "endpoints.kubernetes.io/last-change-trigger-time",
    }
)

_ADDRESS_LISTS: Final = ("addresses", "notReadyAddresses")
_ADDRESS: Final = ("ip", "hostname", "nodeName")

SKIP_MIRROR: Final = "endpointslice.kubernetes.io/skip-mirror"
"""Label by which a tenant, who makes the slices as well, keeps controllers from making them."""


def service(key: Key) -> Ref:
    """Name the virtual Service of that key."""
    return Ref(Side.VIRTUAL, "services", key)


def host_makes_them(key: Key, ctx: Context) -> Skip | None:
    """Say why the endpoints of a Service need no copy of the tenant's, if so.

    Args:
        key: of the virtual Service, which was declared.
        ctx: the context it was declared in.
    """
    if key == KUBERNETES:
        return Skip("the API server's endpoints have no copy")
    found = ctx.objects.get(service(key))
    if found is None:
        return Skip("there is no service of that name")
    if found["spec"].get("selector"):
        return Skip("the host makes the endpoints of services with a selector")
    return None


def refusal(text: str, service_networks: tuple[Network, ...]) -> str | None:
    """Say why an address may not be an endpoint; ``None`` when it may.

    Args:
        text: the address.
        service_networks: where services have their addresses, as far as known.

    Source: Kubernetes' own validation of Endpoints, made sure of here since an older or newer
    host may check less; CVE-2021-25737.
    """
    address = parse_address(text)
    if address is None:
        return f"{text!r} is not an IP address"
    if address.is_loopback or address.is_unspecified:
        return f"{text} is an address of the node itself"
    if address.is_link_local or address.is_multicast:
        return f"{text} is a link-local or multicast address"
    if any(address in network for network in service_networks):
        return f"{text} is an address of the service network; name the pods instead"
    return None


def host_target(target: Object | None, names: Names) -> Object | None:
    """Translate a ``targetRef``; only references to pods cross."""
    if not target or target.get("kind") != "Pod" or not target.get("name"):
        return None
    host = names.host_key(Key(target.get("namespace", ""), target["name"]))
    if not host.namespace:
        return None
    return {"kind": "Pod", "name": host.name, "namespace": host.namespace}


def _host_service(key: Key, names: Names) -> Ref:
    return Ref(Side.HOST, "services", names.host_key(key))


def _related(source: Object, _copy: Object | None, ctx: Context) -> Iterable[Need]:
    key = key_of(source)
    return (service(key), _host_service(key, ctx.names), SERVICE_CIDR)


def _to_host(virtual: Object, ctx: Context) -> Object | Skip | Refused:
    if skip := host_makes_them(key_of(virtual), ctx):
        return skip
    subsets = virtual.get("subsets") or ()
    within = networks(ctx)
    for address in _addresses(subsets):
        if reason := refusal(address["ip"], within):
            return Refused(f"endpoints are not synced: {reason}")
    metadata = host_metadata(virtual, ctx, IGNORED_ANNOTATIONS)
    if (virtual["metadata"].get("labels") or {}).get(SKIP_MIRROR) == "true":
        metadata["labels"][SKIP_MIRROR] = "true"
    wanted: Object = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}
    if subsets:
        wanted["subsets"] = [_host_subset(subset, ctx.names) for subset in subsets]
    return wanted


def _addresses(subsets: Iterable[Object]) -> Iterator[Object]:
    for subset in subsets:
        for field in _ADDRESS_LISTS:
            yield from subset.get(field) or ()


def _host_subset(subset: Object, names: Names) -> Object:
    result: Object = {
        field: [_host_address(address, names) for address in subset[field]]
        for field in _ADDRESS_LISTS
        if subset.get(field)
    }
    if ports := subset.get("ports"):
        result["ports"] = ports
    return result


def _host_address(address: Object, names: Names) -> Object:
    result: Object = {name: address[name] for name in _ADDRESS if name in address}
    if target := host_target(address.get("targetRef"), names):
        result["targetRef"] = target
    return result


def _leftover(host: Object, ctx: Context) -> bool:
    """Say whether the host made these endpoints when our Service there had a selector.

    Its controller leaves them behind when the selector goes. They bear the labels of our Service,
    which is ours by all its marks, and no marks of a copy.
    """
    labels = host["metadata"].get("labels") or {}
    ref = Ref(Side.HOST, "services", key_of(host))
    owner = ctx.objects.get(ref)
    return (
        labels.get(ownership.MANAGED_BY) == ctx.names.marker
        and ownership.annotation(host, ownership.OBJECT_NAME) is None
        and owner is not None
        and ownership.virtual_key(owner, ctx.names) is not None
        and not owner["spec"].get("selector")
    )


KIND = Kind(
    name="endpoints",
    resource=Resource("", "v1", "endpoints", "Endpoints"),
    direction=Direction.TO_HOST,
    component="endpoints-syncer",
    related=_related,
    to_host=_to_host,
    mutable=("subsets",),
    leftover=_leftover,
    triggers=(Trigger(Side.VIRTUAL, "services", SELECTORLESS),),
    ignored_annotations=IGNORED_ANNOTATIONS,
)
