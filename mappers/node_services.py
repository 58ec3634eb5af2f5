"""Addresses at which the syncer answers as the kubelet of a fake node.

Direction: made on the host, in the syncer's own namespace, for each fake node that a pod keeps.
Host name: ``TENANT-node-NODE``, with dashes for the dots of the node's name; what is over 63
    characters is shortened.
Rewritten: nothing; the Service leads port 10250 to the endpoint on the syncer's own pods, found
    by the selector of its own Service.
Changed later: labels, owner, type, ports and selector are put back; annotations of others stay.
Read back: ``clusterIPs``, the fake node's InternalIP.
Never copied: everything of the tenant's, who has no say in these Services.
Source: vcluster v0.16.4 ``pkg/controllers/resources/nodes/nodeservice``.

A Service goes only after its node, so that no node ever names an address that is somebody else's.
A Service of that name that isn't marked as ours is left as it is; the node then has no address.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mappers.kept_nodes import KEEPING_INDEX, is_fake, keeping
from mappers.servicecidrs import parse_address
from syncer import ownership
from syncer.naming import PREFIX, Names, safe_concat
from syncer.objects import Key, Object, Resource, Side
from syncer.settings import Settings
from syncer.types import (
    OWN_SERVICE,
    Blocked,
    Context,
    Direction,
    Kind,
    Need,
    OnHost,
    Ref,
    Skip,
    Trigger,
)

BELONGS_TO: Final = f"{PREFIX}belongs-to"
"""Label: the tenant."""

NODE: Final = f"{PREFIX}node"
"""Label: the node; shortened when its name is too long for a label."""

NODE_NAME: Final = f"{PREFIX}node-name"
"""Annotation: the node's name, when the label can't hold it."""

KUBELET_PORT: Final = 10250
"""Port of these Services, and the one that the nodes name."""

ADDRESS_INDEX: Final = "address"
"""Index on these Services: each of their IP addresses; a Service under another name than the one we
give has none, for it was somebody else who made it."""

RESOURCE: Final = Resource("", "v1", "services", "Service", part="node-services")

_ENDPOINT_PORT: Final = 8443
"""Where the syncer's pods have the endpoint when ``--port`` leaves it open."""


# -- whose they are ----------------------------------------------------------------------------


def service_name(node: Key, names: Names) -> str:
    """Give the name of a node's Service.

    Args:
        node: its key.
        names: of the tenant.
    """
    return safe_concat(names.tenant, "node", node.name.replace(".", "-"))


def service_ref(node: str, ctx: Context) -> Ref:
    """Name the Service of a node.

    Args:
        node: its name.
        ctx: names and settings of the tenant.
    """
    name = service_name(Key("", node), ctx.names)
    return Ref(Side.HOST, RESOURCE.full_name, Key(ctx.settings.current_namespace, name))


def node_of(service: Object) -> str:
    """Give the name of the node that a Service of ours is for."""
    labels = service["metadata"].get("labels") or {}
    return ownership.annotation(service, NODE_NAME) or labels.get(NODE, "")


def made_for(service: Object, names: Names) -> Key | None:
    """Give the key of the node that a host Service was made for; ``None``: it is not ours.

    Args:
        service: any host Service.
        names: of the tenant.
    """
    node = Key("", node_of(service))
    metadata = service["metadata"]
    labels = metadata.get("labels") or {}
    agree = (
        labels.get(BELONGS_TO) == names.tenant
        and labels.get(NODE) == safe_concat(node.name)
        and metadata["name"] == service_name(node, names)
    )
    return node if node.name and agree else None


def _selector(names: Names) -> str:
    return f"{BELONGS_TO}={names.tenant}"


def addresses(service: Object) -> tuple[str, ...]:
    """Give the IP addresses of a Service, in their short forms; none of a headless one."""
    spec = service["spec"]
    given = spec.get("clusterIPs") or (spec.get("clusterIP", ""),)
    return tuple(str(address) for address in map(parse_address, given) if address)


def _indexed_addresses(service: Object) -> tuple[str, ...]:
    tenant = (service["metadata"].get("labels") or {}).get(BELONGS_TO, "")
    return addresses(service) if made_for(service, Names(tenant, "")) else ()


# -- what they are -----------------------------------------------------------------------------


def _related(source: Object, _copy: Object | None, _ctx: Context) -> Iterable[Need]:
    key = Key("", source["metadata"]["name"])
    return (keeping(key.name), Ref(Side.VIRTUAL, "nodes", key), OWN_SERVICE)


def _derive(key: Key, service: Object | None, ctx: Context) -> Object | Blocked | Skip:
    if not _is_wanted(key, service, ctx):
        return Skip("no fake node has this address")
    own = ctx.objects.get(OWN_SERVICE)
    if own is None:
        return service or Blocked("the syncer's own Service is not there", OWN_SERVICE)
    return _complete(service or _fresh(key, ctx), own, key, ctx)


def _is_wanted(key: Key, service: Object | None, ctx: Context) -> bool:
    """Say whether a node is to have an address of its own.

    One is made for a node that is there and kept, and given back when it is neither.
    """
    if ctx.settings.disable_fake_kubelets or not ctx.settings.fake_kubelet_ips:
        return False
    node = ctx.objects.get(Ref(Side.VIRTUAL, "nodes", key))
    there = node is not None and is_fake(node)
    kept = bool(ctx.queries.get(keeping(key.name)))
    return there and kept if service is None else there or kept


def _fresh(key: Key, ctx: Context) -> Object:
    metadata = {
        "namespace": ctx.settings.current_namespace,
        "name": service_name(key, ctx.names),
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}}


def _complete(service: Object, own: Object, key: Key, ctx: Context) -> Object:
    metadata, spec = service["metadata"], service["spec"]
    label = safe_concat(key.name)
    metadata["labels"] = {
        **(metadata.get("labels") or {}),
        BELONGS_TO: ctx.names.tenant,
        NODE: label,
    }
    if label != key.name:
        metadata["annotations"] = {**(metadata.get("annotations") or {}), NODE_NAME: key.name}
    if ctx.settings.set_owner:
        owner = {"apiVersion": "v1", "kind": "Service"}
        owner |= {field: own["metadata"][field] for field in ("name", "uid")}
        present = metadata.get("ownerReferences") or ()
        metadata["ownerReferences"] = ownership.with_owner(present, owner)
    spec["type"] = "ClusterIP"
    spec["ports"] = [_port(ctx.settings)]
    if selector := own["spec"].get("selector"):
        spec["selector"] = dict(selector)
    else:
        spec.pop("selector", None)
    return service


def _port(settings: Settings) -> Object:
    target = settings.port or _ENDPOINT_PORT
    return {"name": "kubelet", "protocol": "TCP", "port": KUBELET_PORT, "targetPort": target}


KIND = Kind(
    name="node-services",
    resource=RESOURCE,
    direction=Direction.DERIVED,
    optional=False,
    related=_related,
    derive=_derive,
    on_host=OnHost(service_name, made_for, _selector),
    triggers=(Trigger(Side.HOST, "pods", KEEPING_INDEX),),
    host_indexers={ADDRESS_INDEX: _indexed_addresses},
)
