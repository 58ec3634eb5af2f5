"""What a request to a node's kubelet asks for, read from its method, path and query alone.

The endpoint answers as the kubelet of each node that the tenant sees (at ``NODE:10250``, and behind
``nodes/NODE/proxy/...``). Here a request becomes one of a few things that can be done for a tenant
without showing more than the tenant's own; whatever isn't listed is :class:`Refused`.

Invariants:
* a path is taken only in its plain spelling: nothing is decoded, so nothing can be read twice;
* which node is meant is told by addresses that the syncer gave, never by what a tenant may write;
* running something in a container needs the verb ``create``, whatever the HTTP method: a WebSocket
  is a GET, and whoever may read must not run.

Pure: no I/O, nothing is looked up.

Source: k8s.io/kubernetes v1.36 ``pkg/kubelet/server/{server,auth}.go`` (paths, subresources),
``pkg/registry/core/node/strategy.go`` (node names in URLs), k8s.io/cri-streaming v0.36
``pkg/streaming/remotecommand`` (query parameters).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl, urlencode

from syncer.kube.store import Lister
from syncer.naming import NODE_DOMAIN, node_host_name
from syncer.objects import Object

KUBELET_PORT: Final = 10250
"""The port that nodes say their kubelet is at."""

LOG_PARAMETERS: Final = frozenset(
    {
        "follow",
        "limitBytes",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "stream",
        "tailLines",
        "timestamps",
    }
)
"""Of ``pods/log``, but for the container: kubelets take the same."""

_MAX_HOST: Final = 300  # characters: a DNS name has 253
_SEGMENT: Final = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,252})")
_NODE: Final = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_VERBS: Final = {
    "POST": "create",
    "GET": "get",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_FINE: Final = {"pods": "pods", "healthz": "healthz", "configz": "configz", "runningpods": "pods"}
_COARSE: Final = {
    "stats": "stats",
    "metrics": "metrics",
    "logs": "log",
    "checkpoint": "checkpoint",
    "statusz": "statusz",
    "flagz": "configz",
}
_PAGES: Final = frozenset(
    {
        "/metrics",
        "/metrics/cadvisor",
        "/metrics/probes",
        "/metrics/resource",
        "/stats/summary",
    }
)
_HEALTH: Final = frozenset({"/healthz", "/healthz/log", "/healthz/ping", "/healthz/syncloop"})
_UNSERVED: Final = {
    "run": "is not served; use exec",
    "configz": "would show the host's",
    "flagz": "would show the host's",
    "statusz": "would show the host's",
    "logs": "would show the host's",
    "debug": "would show the host's",
    "checkpoint": "would leave the container's memory on the host",
    "cri": "is a container runtime's own",
}


# -- what can be asked for ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PodLog:
    """A container's log.

    Attributes:
        namespace: virtual namespace.
        pod: virtual name.
        container: its name.
        query: for ``pods/log`` of the API, encoded; the container is in it.
    """

    namespace: str
    pod: str
    container: str
    query: str


@dataclass(frozen=True, slots=True)
class PodStream:
    """A tunnel into a pod.

    Attributes:
        subresource: of the API's pods.
        namespace: virtual namespace.
        pod: virtual name.
        container: ``""`` for portforward.
        uid: virtual UID that the pod must have; ``""`` for any.
        query: for that subresource of the API, encoded; the container is in it.
    """

    subresource: Literal["exec", "attach", "portforward"]
    namespace: str
    pod: str
    container: str
    uid: str
    query: str


@dataclass(frozen=True, slots=True)
class NodePage:
    """A page of the host's kubelet, of which the tenant is shown its own part.

    Attributes:
        path: one of ``/stats/summary``, ``/metrics``, ``/metrics/cadvisor``, ``/metrics/probes``
            and ``/metrics/resource``, without a slash at the end.
        query: for it, encoded: ``only_cpu_and_memory=true`` or nothing.
    """

    path: str
    query: str = ""


@dataclass(frozen=True, slots=True)
class NodePods:
    """The tenant's pods on the node; see :func:`pod_list`.

    Attributes:
        running: only what runs, as ``/runningpods/`` has it.
    """

    running: bool = False


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """Whether the kubelet is well: the endpoint answers ``ok`` of itself."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Not served.

    Attributes:
        reason: one line, in the tenant's terms.
        code: HTTP status.
    """

    reason: str
    code: int = 403


Target: TypeAlias = PodLog | PodStream | NodePage | NodePods | NodeHealth | Refused


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to a kubelet.

    Attributes:
        verb: what the user must be allowed on the node; ``""`` only with a refusal.
        subresources: of ``nodes``: being allowed any one of them is enough.
        target: what is wanted.
    """

    verb: str
    subresources: tuple[str, ...]
    target: Target


# -- reading -----------------------------------------------------------------------------------


def read(method: str, path: str, query: str = "") -> Asked:
    """Read a request to a kubelet.

    Args:
        method: HTTP method, upper case.
        path: as it was written, from the kubelet's root on.
        query: as it was written, without the question mark.

    Returns:
        What is asked for. The rights are checked first, a refusal told only after that.
    """
    verb = _VERBS.get(method, "")
    segments = _segments(path)
    if segments is None:
        refused = Refused("the path must be plain: no empty, dotted or encoded segments", 400)
        return Asked(verb, ("proxy",), refused)
    target = _target(method, segments, query)
    if segments[0] in ("exec", "attach", "portForward", "run"):
        verb = verb and "create"
    return Asked(verb, subresources(segments[0]), target)


def subresources(first: str) -> tuple[str, ...]:
    """Give the subresources of ``nodes`` by which a kubelet authorises a path.

    Args:
        first: segment of the path.
    """
    fine = (_FINE[first],) if first in _FINE else ()
    return (*fine, _COARSE.get(first, "proxy"))


def _segments(path: str) -> list[str] | None:
    """Split a plain path; one slash at its end doesn't count."""
    segments = path.removeprefix("/").removesuffix("/").split("/")
    plain = path.startswith("/") and all(map(_SEGMENT.fullmatch, segments))
    return segments if plain else None


def _target(method: str, segments: list[str], query: str) -> Target:
    parameters = parse_qsl(query, keep_blank_values=True)
    match segments:
        case ["containerLogs", namespace, pod, container]:
            log = PodLog(namespace, pod, container, _log_query(container, parameters))
            return _only(("GET",), method, log)
        case ["exec" | "attach" as what, namespace, pod, container]:
            stream = _stream(what, namespace, pod, "", container, parameters)
        case ["exec" | "attach" as what, namespace, pod, uid, container]:
            stream = _stream(what, namespace, pod, uid, container, parameters)
        case ["portForward", namespace, pod]:
            stream = PodStream("portforward", namespace, pod, "", "", _ports_query(parameters))
        case ["portForward", namespace, pod, uid]:
            stream = PodStream("portforward", namespace, pod, "", uid, _ports_query(parameters))
        case _:
            return _node_target(method, segments, parameters)
    return _only(("GET", "POST"), method, stream)


def _node_target(method: str, segments: list[str], parameters: list[tuple[str, str]]) -> Target:
    path = f"/{'/'.join(segments)}"
    if path == "/stats/summary":
        small = [value for name, value in parameters if name == "only_cpu_and_memory"] == ["true"]
        page = NodePage(path, "only_cpu_and_memory=true" if small else "")
        return _only(("GET", "POST"), method, page)
    if path in _PAGES:
        return _only(("GET",), method, NodePage(path))
    if path in ("/pods", "/runningpods"):
        return _only(("GET",), method, NodePods(running=path == "/runningpods"))
    if path in _HEALTH:
        return _only(("GET",), method, NodeHealth())
    if segments[0] in _UNSERVED:
        return Refused(f'"/{segments[0]}" of a node {_UNSERVED[segments[0]]}')
    return Refused("the kubelet has no such page", 404)


def _only(methods: tuple[str, ...], method: str, target: Target) -> Target:
    if method in methods:
        return target
    return Refused(f"the method must be {' or '.join(methods)}", 405)


# -- the query ---------------------------------------------------------------------------------


def _log_query(container: str, parameters: list[tuple[str, str]]) -> str:
    """Give the query of ``pods/log``; ``tail``, of old, is ``tailLines`` or ``all``."""
    given = {name: value for name, value in reversed(parameters) if name in LOG_PARAMETERS}
    tail = next((value for name, value in parameters if name == "tail"), "")
    if tail:
        given["tailLines"] = tail
    if tail == "all":
        del given["tailLines"]
    return urlencode([("container", container), *sorted(given.items())])


def _stream(
    what: str,
    namespace: str,
    pod: str,
    uid: str,
    container: str,
    parameters: list[tuple[str, str]],
) -> Target:
    first = dict(reversed(parameters))
    on = {name: first.get(name) == "1" for name in ("input", "output", "error", "tty")}
    if not on["input"] and not on["output"] and not on["error"]:
        return Refused("at least one of input, output and error must be 1", 400)
    on["error"] = on["error"] and not on["tty"]
    pairs = [("container", container)]
    for name, theirs in (("stdin", "input"), ("stdout", "output"), ("stderr", "error")):
        pairs.append((name, "true" if on[theirs] else "false"))
    pairs.append(("tty", "true" if on["tty"] else "false"))
    if what == "attach":
        return PodStream("attach", namespace, pod, container, uid, urlencode(pairs))
    pairs += (pair for pair in parameters if pair[0] == "command")
    return PodStream("exec", namespace, pod, container, uid, urlencode(pairs))


def _ports_query(parameters: list[tuple[str, str]]) -> str:
    """Give the query of ``pods/portforward``; SPDY clients name ports only in their streams."""
    return urlencode(
        [
            ("ports", port)
            for name, ports in parameters
            if name == "port"
            for port in ports.split(",")
        ]
    )


# -- which node --------------------------------------------------------------------------------


def node_name(text: str) -> str | Refused:
    """Read a node's name as URLs have it: ``NAME``, ``NAME:PORT`` or ``SCHEME:NAME:PORT``.

    Args:
        text: decoded name out of ``nodes/NAME/proxy``.

    Returns:
        The name alone; a refusal where another port than the kubelet's is meant. The scheme says
        nothing: an API server takes the kubelet's own, too, when the port is the kubelet's.
    """
    parts = text.split(":")
    if len(parts) == 1:
        parts.append("")
    if len(parts) == 2:
        parts.insert(0, "")
    if len(parts) != 3 or parts[0] not in ("", "http", "https") or not _NODE.fullmatch(parts[1]):
        return Refused("the node must be NAME, NAME:PORT or SCHEME:NAME:PORT", 400)
    if parts[2] not in ("", str(KUBELET_PORT)):
        return Refused(f"only the kubelet's port, {KUBELET_PORT}, of a node can be reached")
    return parts[1]


@lru_cache(maxsize=256)
def address_of(host: str) -> str:
    """Give a ``Host`` header, or a TLS server name, as addresses of nodes are written.

    Args:
        host: DNS name or IP address (IPv6 in brackets), with or without a port.

    Returns:
        An IP address in its short form, or a DNS name in lower case and without a dot at its
        end; ``""`` for what is neither.
    """
    name, port = host, ""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")) or ":" not in name:
            return ""
        port = port[1:]
    elif host.count(":") == 1:
        name, _, port = host.partition(":")
    if port and not _PORT.fullmatch(port):
        return ""
    try:
        return str(ip_address(name))
    except ValueError:
        plain = name.lower().removesuffix(".")
        return plain if _NODE.fullmatch(plain) else ""


class NodeAddresses:
    """Which node has an address: as the host's own objects say, which no tenant can write."""

    def __init__(
        self,
        services: Lister,
        index: str,
        node: Callable[[Object], str],
        nodes: Callable[[], Iterable[str]],
    ) -> None:
        """Look things up in live stores.

        Args:
            services: the host's Services of the tenant's nodes.
            index: on them: their IP addresses.
            node: gives the name of the node that such a Service is for.
            nodes: gives the names of the host's nodes that the tenant's pods are on.
        """
        self._services = services
        self._index = index
        self._node = node
        self._nodes = nodes

    def __call__(self, address: str) -> str | None:
        """Give the node that has an address.

        Args:
            address: as :func:`address_of` writes it.

        Returns:
            The node's name; ``None`` when there is none, or several share a host name.
        """
        if address.endswith(f".{NODE_DOMAIN}"):
            named = [node for node in self._nodes() if node_host_name(node) == address]
            return named[0] if len(named) == 1 else None
        for key in self._services.by_index(self._index, address):
            if (service := self._services.get(key)) is not None:
                return self._node(service) or None
        return None

    def ips(self) -> tuple[str, ...]:
        """Give all IP addresses of nodes, sorted: those that the certificate must be good for."""
        return tuple(sorted(self._services.index_values(self._index)))


def node_of(host: str, nodes: Callable[[str], str | None]) -> str | None:
    """Say as which node's kubelet the endpoint was called.

    Args:
        host: ``Host`` header.
        nodes: gives the node that has an address (as :func:`address_of` writes them), or ``None``;
            it must know only addresses that the syncer itself gave: :class:`NodeAddresses`.

    Returns:
        The node's name, or ``None``: the API server is meant.
    """
    address = address_of(host) if len(host) <= _MAX_HOST else ""
    return nodes(address) if address else None


# -- the node's pods ---------------------------------------------------------------------------


def pod_list(node: str, pods: Iterable[Object], *, running: bool = False) -> Object:
    """Build what a kubelet answers on ``/pods`` and ``/runningpods/``.

    Args:
        node: name of the node.
        pods: the tenant's, out of the virtual cluster; those of other nodes are left out.
        running: what the container runtime would know: running containers by name and image.

    Returns:
        A ``v1.PodList``.
    """
    here = [pod for pod in pods if (pod.get("spec") or {}).get("nodeName") == node]
    items = [item for pod in here if (item := _running(pod))] if running else map(_item, here)
    return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": list(items)}


def _item(pod: Object) -> Object:
    """Give a pod as an item of a list, which says its kind once."""
    return {field: value for field, value in pod.items() if field not in ("kind", "apiVersion")}


def _running(pod: Object) -> Object | None:
    statuses: Iterable[Mapping[str, object]] = (pod.get("status") or {}).get(
        "containerStatuses"
    ) or ()
    names = {status["name"] for status in statuses if "running" in _mapping(status.get("state"))}
    containers = [
        {"name": container["name"], "image": container.get("image", ""), "resources": {}}
        for container in pod["spec"].get("containers") or ()
        if container["name"] in names
    ]
    if not containers:
        return None
    metadata = {
        field: pod["metadata"][field]
        for field in ("name", "namespace", "uid")
        if field in pod["metadata"]
    }
    return {"metadata": metadata, "spec": {"containers": containers}, "status": {}}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
