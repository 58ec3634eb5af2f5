"""Where a request goes: by the table for what is asked of objects, by its path for the rest.

Whatever would make an API server dial an address (logs, exec, proxies) never reaches the virtual
API server: addresses in virtual objects are the tenant's to write.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from syncer.proxy.request import RequestInfo


class Route(StrEnum):
    """What is done with a request."""

    HEALTH = "health"
    """Asked of the virtual API server by the syncer itself."""
    POD_LOG = "pod log"
    POD_STREAM = "pod stream"
    """exec, attach and port-forward."""
    POD_PROXY = "pod proxy"
    SERVICE_PROXY = "service proxy"
    NODE_PROXY = "node proxy"
    METRICS = "metrics"
    """metrics.k8s.io, where the host's is served."""
    SERVICE_CREATE = "service create"
    PASS = "pass"  # noqa: S105 - not a password
    """Passed on to the virtual API server."""
    KUBELET = "kubelet"
    """What a fake kubelet is asked."""


KUBELET_STREAMS: Final = frozenset({"exec", "attach", "portForward"})
"""What an API server passes on to a kubelet with its own caller's ``Host`` header, so that only the
path tells that a kubelet is meant. No API server has these paths."""

STREAMS: Final = ("exec", "attach", "portforward")
METRICS_GROUP: Final = "metrics.k8s.io"
_METRICS: Final = f"/apis/{METRICS_GROUP}/"
_OLD_VERBS: Final = ("watch", "proxy")
_LONG: Final = frozenset({*STREAMS, "log", "proxy"})
_HEALTH: Final = frozenset({"/healthz", "/livez", "/readyz"})

TABLE: Final = {
    ("pods", "log"): Route.POD_LOG,
    **{("pods", stream): Route.POD_STREAM for stream in STREAMS},
    ("pods", "proxy"): Route.POD_PROXY,
    ("services", "proxy"): Route.SERVICE_PROXY,
    ("nodes", "proxy"): Route.NODE_PROXY,
}
"""Resource and subresource of the core group -> where what is asked of one object goes."""


def route_of(info: RequestInfo, *, metrics: bool) -> Route:
    """Say where a request goes.

    Args:
        info: the request.
        metrics: whether metrics.k8s.io is served from the host.
    """
    if metrics and f"{info.path}/".startswith(_METRICS):
        return Route.METRICS
    if not info.is_resource:
        return _route_of_path(info)
    if info.group or info.version != "v1":
        return Route.PASS
    if info.resource == "services" and not info.subresource:
        return Route.SERVICE_CREATE if _may_create(info) else Route.PASS
    found = TABLE.get((info.resource, info.subresource))
    return found if found is not None and _is_of_one_object(info) else Route.PASS


def _route_of_path(info: RequestInfo) -> Route:
    if info.path in _HEALTH and not info.query:
        return Route.HEALTH
    return Route.KUBELET if info.path.split("/", 2)[1] in KUBELET_STREAMS else Route.PASS


def _may_create(info: RequestInfo) -> bool:
    """Say whether a service comes of it, perhaps: applying and replacing make what isn't there."""
    creates = info.verb in ("patch", "update") or (info.verb == "create" and not info.name)
    return creates and bool(info.namespace)


def _is_of_one_object(info: RequestInfo) -> bool:
    """Say whether one object of the core group is meant, by its real path only.

    ``namespaces/NS/nodes/N/proxy`` or ``watch/.../pods/P/proxy`` is no API server's path, but
    would be authorised by the rights in that namespace, or by that verb.
    """
    cluster_wide = info.resource == "nodes"
    return bool(info.name) and bool(info.namespace) != cluster_wide and info.verb not in _OLD_VERBS


def is_stream(info: RequestInfo) -> bool:
    """Say whether a request may take as long as it likes: watches, logs, tunnels, proxies.

    Args:
        info: the request.

    Source: k8s.io/apiserver v0.36, ``BasicLongRunningRequestCheck`` as kube-apiserver sets it.
    """
    if not info.is_resource:
        return info.path.startswith("/debug/pprof/")
    return info.verb in _OLD_VERBS or info.subresource in _LONG
