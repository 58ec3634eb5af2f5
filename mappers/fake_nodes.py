"""Nodes that stand in for the host's, which a tenant doesn't see.

Direction: made in the virtual cluster, for each host node that a pod of the tenant's is on.
Host name: the node's own; nothing is written on the host.
Rewritten: nothing.
Read back: nothing but the name; sizes are made up, the version is the virtual API server's, the
    node is always ready. Its kubelet is the syncer: the addresses are
    ``NODE.nodes.vcluster.com`` and, with ``--fake-kubelet-ips``, that of a Service on the host
    (``node-services``); with ``--disable-fake-kubelets`` it has its name and no kubelet.
Never copied: labels, taints, addresses, images and everything else of the host's node.
Source: vcluster v0.16.4 ``pkg/controllers/resources/nodes/fake_syncer.go``. Needs the virtual
    controller manager without ``nodelifecycle``, since nobody sends heartbeats.

A pod of a DaemonSet neither brings a node nor keeps it: it is there because the node is, and
would otherwise hold on to it, or call it back, for ever.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Final

from mappers.kept_nodes import FAKE_NODE, KEEPING_INDEX, is_fake, keeping
from mappers.node_services import KUBELET_PORT, addresses, made_for, service_ref
from mappers.servicecidrs import SERVICE_CIDR, contains, networks
from syncer.naming import node_host_name, safe_concat
from syncer.objects import Key, Object, Resource, Side
from syncer.types import Context, Direction, Kind, Need, Part, Skip, Trigger

KUBELET_VERSION: Final = "v0.0.0-fake"
"""For a node made while the API server's own version is not known."""

_NOT_READY: Final = "node.kubernetes.io/not-ready"
"""The taint that admission puts on every new node, and that nobody else would take off."""

_SIZE: Final = {
    "cpu": "16",
    "ephemeral-storage": "100Gi",
    "hugepages-1Gi": "0",
    "hugepages-2Mi": "0",
    "memory": "32Gi",
    "pods": "110",
}
_CONDITIONS: Final = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
)


def _related(source: Object, _copy: Object | None, ctx: Context) -> Iterable[Need]:
    name = source["metadata"]["name"]
    return keeping(name), service_ref(name, ctx), SERVICE_CIDR


def _derive(key: Key, virtual: Object | None, ctx: Context) -> Object | Skip:
    if not ctx.queries.get(keeping(key.name)):
        return Skip("no pod keeps the node")
    kubelet = _kubelet(key.name, virtual, ctx)
    if virtual is None:
        return _fresh(key.name, ctx.server_version or KUBELET_VERSION, kubelet)
    _untaint(virtual.get("spec", {}))
    status = virtual.get("status") or {}
    for field in ("capacity", "allocatable"):
        status[field] = {**(status.get(field) or {}), **_SIZE}
    status["conditions"] = _with_conditions(status.get("conditions") or ())
    virtual["status"] = {**status, **kubelet}
    return virtual


def _kubelet(name: str, virtual: Object | None, ctx: Context) -> Object:
    """Give the fields of the status that say where the node's kubelet is.

    While its Service isn't seen, the node keeps the address of a Service: a list may have come back
    without it, and where it is really gone another one is about to be made.
    """
    if ctx.settings.disable_fake_kubelets:
        return _reached_at([("Hostname", name)], 0)
    found = [("Hostname", node_host_name(name))]
    if ctx.settings.fake_kubelet_ips:
        found += (("InternalIP", address) for address in _addresses(name, virtual, ctx))
    return _reached_at(found, KUBELET_PORT)


def _addresses(name: str, virtual: Object | None, ctx: Context) -> Iterable[str]:
    service = ctx.objects.get(service_ref(name, ctx))
    if service is None:
        present = ((virtual or {}).get("status") or {}).get("addresses") or ()
        known = networks(ctx)
        shown = (each["address"] for each in present if each["type"] == "InternalIP")
        return (address for address in shown if contains(address, known))
    return addresses(service) if made_for(service, ctx.names) == Key("", name) else ()


def _reached_at(found: Iterable[tuple[str, str]], port: int) -> Object:
    return {
        "addresses": [{"type": type_, "address": address} for type_, address in found],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }


def _fresh(name: str, version: str, kubelet: Object) -> Object:
    labels = {
        FAKE_NODE: "true",
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": safe_concat("fake", name),
        "kubernetes.io/os": "linux",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {
            **kubelet,
            "allocatable": dict(_SIZE),
            "capacity": dict(_SIZE),
            "conditions": _with_conditions(()),
            "nodeInfo": _node_info(name, version),
        },
    }


def _node_info(name: str, version: str) -> Object:
    """Give what the API demands of a node; the ids are made from the name, so they stay."""
    identity = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
    return {
        "architecture": "amd64",
        "bootID": identity,
        "containerRuntimeVersion": "docker://19.3.12",
        "kernelVersion": "4.19.76-fakelinux",
        "kubeProxyVersion": version,
        "kubeletVersion": version,
        "machineID": identity,
        "operatingSystem": "linux",
        "osImage": "Fake Kubernetes Image",
        "systemUUID": identity,
    }


def _with_conditions(present: Iterable[Object]) -> list[Object]:
    """Give the conditions there are, ours as they should be; times are left as they are."""
    by_type = {condition["type"]: condition for condition in present}
    for type_, status, reason, message in _CONDITIONS:
        wanted = {"type": type_, "status": status, "reason": reason, "message": message}
        by_type[type_] = {**by_type.get(type_, {}), **wanted}
    return list(by_type.values())


def _untaint(spec: Object) -> None:
    taints = [taint for taint in spec.get("taints") or () if taint.get("key") != _NOT_READY]
    if taints:
        spec["taints"] = taints
    else:
        spec.pop("taints", None)


KIND = Kind(
    name="fake-nodes",
    resource=Resource("", "v1", "nodes", "Node", namespaced=False),
    direction=Direction.DERIVED,
    component="fake-node-syncer",
    related=_related,
    derive=_derive,
    derived_mark=is_fake,
    virtual_parts=(Part("status", ("status",)),),
    triggers=(Trigger(Side.HOST, "pods", KEEPING_INDEX),),
)
