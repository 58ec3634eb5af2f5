"""A virtual pod to start from, and a context with what the mapper declares to need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mappers.pods import KIND
from syncer import ownership
from syncer.naming import Names
from syncer.objects import Key, Object, Resource, Side
from syncer.settings import Settings
from syncer.types import Context, Query, Ref

NAMES = Names("vc", "host-ns")
NAMESPACE = "shop"
KUBERNETES_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
_DEFAULTS = Settings()


def pod(spec: Object | None = None, status: Object | None = None, **metadata: Any) -> Object:
    """Give a virtual pod as an API server stores it, with changed fields."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web",
            "namespace": NAMESPACE,
            "uid": "virtual-uid",
            "generation": 1,
            "labels": {"app": "web"},
            **metadata,
        },
        "spec": {
            "containers": [{"name": "main", "image": "nginx"}],
            "dnsPolicy": "Default",
            "restartPolicy": "Always",
            "serviceAccountName": "default",
            **(spec or {}),
        },
        "status": {"phase": "Pending", "qosClass": "BestEffort", **(status or {})},
    }


def service(name: str, ip: str, *ports: Object) -> Object:
    """Give a Service."""
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": "s"},
        "spec": {"clusterIP": ip, "ports": list(ports)},
    }


def namespace(name: str, **labels: str) -> Object:
    """Give a Namespace."""
    return {"metadata": {"name": name, "labels": labels}}


def ref(side: Side, resource: str, name: str, in_namespace: str = "") -> Ref:
    """Name an object."""
    return Ref(side, resource, Key(in_namespace, name))


DNS = Ref(Side.HOST, "services", NAMES.host_key(Key("kube-system", "kube-dns")))
WORLD: Mapping[Ref, Object | None] = {
    ref(Side.VIRTUAL, "namespaces", NAMESPACE): namespace(NAMESPACE, team="a"),
    ref(Side.VIRTUAL, "services", "kubernetes", "default"): service(
        "kubernetes", KUBERNETES_IP, {"name": "https", "port": 443, "protocol": "TCP"}
    ),
    DNS: service("dns", DNS_IP, {"port": 53}),
}


def context(
    virtual: Object,
    host: Object | None = None,
    world: Mapping[Ref, Object | None] | None = None,
    found: Mapping[str, Sequence[Object]] | None = None,
    synced: Mapping[str, Resource] | None = None,
    names: Names = NAMES,
    server_version: str = "",
    **settings: Any,
) -> Context:
    """Give the context that the engine would: exactly what ``related`` declares."""
    chosen = Settings(**settings) if settings else _DEFAULTS
    bare = Context(names, chosen, synced or {})
    objects: dict[Ref, Object | None] = {}
    queries: dict[Query, Sequence[Object]] = {}
    everything = {**WORLD, **(world or {})}
    for need in KIND.related(virtual, host, bare) if KIND.related else ():
        if isinstance(need, Ref):
            objects[need] = everything.get(need)
        else:
            queries[need] = (found or {}).get(need.resource, ())
    return Context(
        names, bare.settings, bare.synced, objects, queries, server_version=server_version
    )


def wanted(virtual: Object, host: Object | None = None, **rest: Any) -> Object:
    """Give the host pod that the mapper makes; checks that the virtual one is not changed."""
    before = json.dumps(virtual)
    made = answer(virtual, host, **rest)
    assert isinstance(made, dict), made
    assert json.dumps(virtual) == before, "the virtual pod was changed"
    return made


def answer(virtual: Object, host: Object | None = None, **rest: Any) -> Any:
    """Give whatever ``to_host`` answers."""
    assert KIND.to_host is not None
    return KIND.to_host(virtual, context(virtual, host, **rest))


def on_host(virtual: Object, **rest: Any) -> Object:
    """Give the host pod as the host would have it after the creation."""
    made = copy(wanted(virtual, **rest))
    ownership.stamp(made, virtual, NAMES, None)
    made["metadata"] |= {"uid": "host-uid", "generation": 1}
    made["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
    return made


def updated(virtual: Object, host: Object, **rest: Any) -> Object:
    """Give the host pod that an update of the virtual one wants, as the engine does."""
    made = wanted(virtual, host, world={_host_ref(host): host}, **rest)
    ownership.stamp(made, virtual, NAMES, None)
    target = copy(host)
    ownership.merge_metadata(made, target)
    assert KIND.update is not None
    return KIND.update(made, target, context(virtual, host))


def back(virtual: Object, host: Object, node: Object | None = None, **rest: Any) -> Any:
    """Give what ``to_virtual`` answers."""
    assert KIND.to_virtual is not None
    name = host["spec"].get("nodeName", "")
    world = {ref(Side.VIRTUAL, "nodes", name): node}
    return KIND.to_virtual(virtual, host, context(virtual, host, world=world, **rest))


def _host_ref(host: Object) -> Ref:
    return ref(Side.HOST, "pods", host["metadata"]["name"], host["metadata"]["namespace"])


def copy(obj: Object) -> Object:
    """Give a fresh copy, as a store would."""
    fresh: Object = json.loads(json.dumps(obj))
    return fresh


def synced(resource: str, name: str) -> dict[Ref, Object | None]:
    """Give an object of the pod's namespace and its host copy, for a context's world."""
    key = Key(NAMESPACE, name)
    virtual = {"metadata": {"name": name, "namespace": NAMESPACE, "uid": "u"}}
    made = ownership.stamp({}, virtual, NAMES, None)
    return {
        Ref(Side.VIRTUAL, resource, key): virtual,
        Ref(Side.HOST, resource, NAMES.host_key(key)): made,
    }


def host_name(name: str) -> str:
    """Translate a name in the pod's namespace."""
    return NAMES.host_name(name, NAMESPACE)
