"""Services.

Direction: virtual to host, addresses and status back.
Host name: ``NAME-x-NAMESPACE-x-TENANT``.
Rewritten: selector keys, limited to pods of the namespace and the tenant.
Read back: ``clusterIP`` and the families (in place, by way of ExternalName, so that the UID
    stays), ``nodePort`` of each port, ``status.loadBalancer``.
Never copied: ``default/kubernetes``; ``externalIPs`` and ``loadBalancerIP`` (with an event);
    node ports and health check ports that the tenant wants; a ``clusterIP`` that the virtual
    server did not hand out itself; ``ipFamilies`` and ``ipFamilyPolicy``, which are the host's
    to decide; the annotation ``field.cattle.io/publicEndpoints``.
Source: vcluster v0.16.4 ``pkg/controllers/resources/services``; Kubernetes API, ServiceSpec;
    CVE-2020-8554 (external IPs).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from mappers import cluster_ip, metrics_api
from mappers.cluster_ip import EXTERNAL_NAME, NODE_PORT_TYPES
from mappers.metadata import host_metadata
from mappers.servicecidrs import SERVICE_CIDR, is_handed_out, networks
from syncer import ownership
from syncer.naming import Names
from syncer.objects import Key, Object, Resource, key_of
from syncer.types import Context, Direction, Kind, Need, Notice, Part, Skip

KUBERNETES: Final = Key("default", "kubernetes")
"""The virtual API server's own Service."""

SELECTORLESS: Final = "selectorless"
"""Index on virtual services: the own key of a Service whose endpoints the tenant provides."""

RESOURCE: Final = Resource("", "v1", "services", "Service")

IGNORED_ANNOTATIONS: Final = frozenset({cluster_ip.CHANGING, "field.cattle.io/publicEndpoints"})

_ALWAYS: Final = (
    "type",
    "internalTrafficPolicy",
    "publishNotReadyAddresses",
    "sessionAffinity",
    "sessionAffinityConfig",
    "trafficDistribution",
)
_REACHABLE: Final = (*_ALWAYS, "externalTrafficPolicy")
_BY_TYPE: Final = {
    EXTERNAL_NAME: (*_ALWAYS, "externalName"),
    "NodePort": _REACHABLE,
    "LoadBalancer": (
        *_REACHABLE,
        "allocateLoadBalancerNodePorts",
        "loadBalancerClass",
        "loadBalancerSourceRanges",
    ),
}
"""Spec fields that go to the host, by type; the API refuses them on the other types."""

_PORT: Final = ("name", "protocol", "port", "targetPort", "appProtocol")
_STRIPPED: Final = ("externalIPs", "loadBalancerIP")


# -- to the host -------------------------------------------------------------------------------


def _related(_source: Object, _copy: Object | None, _ctx: Context) -> Iterable[Need]:
    return (SERVICE_CIDR,)


def _to_host(virtual: Object, ctx: Context) -> Object | Skip:
    if key_of(virtual) == KUBERNETES:
        return Skip("the virtual API server's own service has no copy")
    if metrics_api.leads_here(virtual):
        return Skip("it leads to the syncer, from inside its own pod")
    meant = cluster_ip.as_meant(virtual)
    spec = meant["spec"]
    kind = spec.get("type", "ClusterIP")
    wanted: Object = {name: spec[name] for name in _BY_TYPE.get(kind, _ALWAYS) if name in spec}
    wanted["type"] = kind
    if ports := spec.get("ports"):
        wanted["ports"] = [_without_node_port(port) for port in ports]
    if selector := spec.get("selector"):
        wanted["selector"] = _selector(selector, virtual["metadata"]["namespace"], ctx.names)
    if kind != EXTERNAL_NAME and (address := _asked_address(spec, ctx)):
        wanted["clusterIP"] = address
    ctx.notices.extend(_stripped(spec))
    metadata = host_metadata(meant, ctx, IGNORED_ANNOTATIONS)
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": wanted}


def _without_node_port(port: Object) -> Object:
    return {name: port[name] for name in _PORT if name in port}


def _selector(selector: dict[str, str], namespace: str, names: Names) -> dict[str, str]:
    """Translate a plain selector; the two marks keep it off everybody else's pods."""
    translated = {names.label_key(key): value for key, value in selector.items()}
    return {**translated, ownership.MANAGED_BY: names.marker, ownership.NAMESPACE: namespace}


def _asked_address(spec: Object, ctx: Context) -> str:
    """Give the cluster IP to ask the host for: the same as inside, if that was handed out.

    Then both agree after one write. A headless Service stays one. Else the host decides, and
    the virtual Service follows.
    """
    address: str = spec.get("clusterIP", "")
    if address == "None" or is_handed_out(address, networks(ctx)):
        return address
    return ""


def _stripped(spec: Object) -> Iterator[Notice]:
    for name in _STRIPPED:
        if spec.get(name):
            yield Notice(
                "SyncWarning",
                f"spec.{name} is not synced: an address that a tenant chooses could catch other "
                "tenants' traffic; use type LoadBalancer and let the host allocate one",
            )


def _refused(wanted: Object, message: str, _ctx: Context) -> Object | None:
    """Leave the choice of the cluster IP to the host when it refused the one asked for."""
    spec = wanted["spec"]
    if "spec.clusterIP" not in message or spec.get("clusterIP", "None") == "None":
        return None
    return {**wanted, "spec": {name: spec[name] for name in spec if name != "clusterIP"}}


def _update(wanted: Object, host: Object, _ctx: Context) -> Object:
    """Set ports, keeping the host's node ports, and follow a change of type or headlessness."""
    spec, asked = host["spec"], wanted["spec"]
    kind, headless = asked["type"], asked.get("clusterIP") == "None"
    if "ports" in asked:
        keep = kind in NODE_PORT_TYPES
        spec["ports"] = _with_node_ports(asked["ports"], spec.get("ports") or () if keep else ())
    else:
        spec.pop("ports", None)
    address = spec.get("clusterIP")
    if kind == EXTERNAL_NAME:
        cluster_ip.shed(spec)
    elif address and headless != (address == "None"):
        # The address is immutable: it goes with this write, and the next pass sets the type.
        cluster_ip.shed(spec)
        spec["type"], spec["externalName"] = EXTERNAL_NAME, cluster_ip.NOWHERE
    elif headless:
        spec["clusterIP"] = "None"
    return host


# -- back --------------------------------------------------------------------------------------


def _to_virtual(virtual: Object, host: Object | None, ctx: Context) -> Object:
    if host is None:
        return virtual
    theirs = host["spec"]
    kind = cluster_ip.as_meant(virtual)["spec"].get("type", "ClusterIP")
    if theirs.get("type", "ClusterIP") != kind:
        return virtual
    if not cluster_ip.follow(virtual, theirs, networks(ctx)):
        return virtual
    spec = virtual["spec"]
    if _can_not_follow(spec, theirs):
        ctx.notices.append(
            Notice(
                "SyncWarning",
                f"pods reach this service under {theirs['clusterIP']}, which is outside of this "
                "cluster's service network; both clusters need the same service network",
            )
        )
    if kind in NODE_PORT_TYPES:
        spec["ports"] = _with_node_ports(spec.get("ports") or (), theirs.get("ports") or ())
    if kind == "LoadBalancer":
        _take_status(virtual, host)
    return virtual


def _can_not_follow(spec: Object, theirs: Object) -> bool:
    mine, wanted = spec.get("clusterIP"), theirs.get("clusterIP")
    return bool(mine and wanted and mine != wanted and "None" not in (mine, wanted))


def _take_status(virtual: Object, host: Object) -> None:
    balancer = (host.get("status") or {}).get("loadBalancer") or {}
    status = virtual.get("status") or {}
    if balancer != (status.get("loadBalancer") or {}):
        virtual["status"] = {**status, "loadBalancer": balancer}


# -- ports -------------------------------------------------------------------------------------


def _with_node_ports(ports: Sequence[Object], others: Sequence[Object]) -> list[Object]:
    """Give the ports with the node ports that their counterparts have.

    Counterparts have the same name (unique in a Service), or else protocol and number; no node
    port is given twice.
    """
    by_name = {port.get("name", ""): port for port in others}
    by_number = {(port.get("protocol"), port["port"]): port for port in others}
    used: set[int] = set()
    result = []
    for port in ports:
        other = by_name.get(port.get("name", ""))
        if other is None:
            other = by_number.get((port.get("protocol"), port["port"]), {})
        fields = {name: value for name, value in port.items() if name != "nodePort"}
        if (number := other.get("nodePort")) and number not in used:
            used.add(number)
            fields["nodePort"] = number
        result.append(fields)
    return result


# -- indexes -----------------------------------------------------------------------------------


def selectorless(virtual: Object) -> tuple[str, ...]:
    """Index a Service by its own key when the tenant provides its endpoints."""
    return () if virtual["spec"].get("selector") else (str(key_of(virtual)),)


KIND = Kind(
    name="services",
    resource=RESOURCE,
    direction=Direction.TO_HOST,
    component="service-syncer",
    related=_related,
    to_host=_to_host,
    mutable=(
        "spec.type",
        "spec.selector",
        "spec.externalName",
        "spec.externalTrafficPolicy?",
        "spec.internalTrafficPolicy?",
        "spec.sessionAffinity?",
        "spec.sessionAffinityConfig",
        "spec.publishNotReadyAddresses",
        "spec.trafficDistribution",
        "spec.allocateLoadBalancerNodePorts?",
        "spec.loadBalancerClass?",
        "spec.loadBalancerSourceRanges",
    ),
    update=_update,
    to_virtual=_to_virtual,
    virtual_parts=(Part("status", ("status.loadBalancer",)),),
    refused=_refused,
    indexers={SELECTORLESS: selectorless},
    restamp=True,
    versioned=True,
    ignored_annotations=IGNORED_ANNOTATIONS,
)
