"""Where a request goes: a table, read from top to bottom.

Whatever would make an API server dial an address (logs, exec, proxies) never reaches the virtual
API server: addresses in virtual objects are the tenant's to write.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

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


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        route: where to.
        matches: which requests.
    """

    route: Route
    matches: Callable[[RequestInfo], bool]


def _core(info: RequestInfo, resource: str, *subresources: str) -> bool:
    """Say whether a subresource of one object of the core group is meant, by its real path only.

    ``namespaces/NS/nodes/N/proxy`` or ``watch/.../pods/P/proxy`` is no API server's path, but
    would be authorised by the rights in that namespace, or by that verb.
    """
    return (
        info.is_resource
        and (info.group, info.version, info.resource) == ("", "v1", resource)
        and bool(info.namespace) == (resource != "nodes")
        and info.verb not in ("watch", "proxy")
        and bool(info.name)
        and info.subresource in subresources
    )


KUBELET_STREAMS: Final = frozenset({"exec", "attach", "portForward"})
"""What an API server passes on to a kubelet with its own caller's ``Host`` header, so that only the
path tells that a kubelet is meant. No API server has these paths."""

STREAMS: Final = ("exec", "attach", "portforward")
METRICS_GROUP: Final = "metrics.k8s.io"
_LONG: Final = frozenset({*STREAMS, "log", "proxy"})
_HEALTH: Final = frozenset({"/healthz", "/livez", "/readyz"})

TABLE: Final = (
    Row(Route.HEALTH, lambda info: info.path in _HEALTH and not info.query),
    Row(Route.KUBELET, lambda info: info.path.split("/")[1] in KUBELET_STREAMS),
    Row(Route.POD_LOG, lambda info: _core(info, "pods", "log")),
    Row(Route.POD_STREAM, lambda info: _core(info, "pods", *STREAMS)),
    Row(Route.POD_PROXY, lambda info: _core(info, "pods", "proxy")),
    Row(Route.SERVICE_PROXY, lambda info: _core(info, "services", "proxy")),
    Row(Route.NODE_PROXY, lambda info: _core(info, "nodes", "proxy")),
    Row(
        Route.SERVICE_CREATE,
        lambda info: (
            info.is_resource
            and (info.group, info.resource, info.subresource) == ("", "services", "")
            and bool(info.namespace)
            and ((info.verb == "create" and not info.name) or info.verb == "patch")
        ),
    ),
)
"""Without ``metrics.k8s.io``, which is served by flag only."""


def route_of(info: RequestInfo, *, metrics: bool) -> Route:
    """Say where a request goes.

    Args:
        info: the request.
        metrics: whether metrics.k8s.io is served from the host.
    """
    if metrics and info.path.split("/")[1:3] == ["apis", METRICS_GROUP]:
        return Route.METRICS
    return next((row.route for row in TABLE if row.matches(info)), Route.PASS)


def is_stream(info: RequestInfo) -> bool:
    """Say whether a request may take as long as it likes: watches, logs, tunnels, proxies.

    Args:
        info: the request.

    Source: k8s.io/apiserver v0.36, ``BasicLongRunningRequestCheck`` as kube-apiserver sets it.
    """
    if not info.is_resource:
        return info.path.startswith("/debug/pprof/")
    return info.verb in ("watch", "proxy") or info.subresource in _LONG
