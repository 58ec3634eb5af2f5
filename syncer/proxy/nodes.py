"""Answers as the kubelet of each of the tenant's nodes: by ``nodes/N/proxy`` and at its address.

What is asked of a node leads to a pod's log or stream, as it would by the API; to the tenant's own
pods; or to a page of the host's kubelet, of which the tenant is shown its own part. The rest is
refused.

A page comes through the host API server where the syncer may use ``nodes/proxy`` there, else from
the kubelet itself where it may read ``nodes/metrics`` or ``nodes/stats``: kubelets take just these.
(``nodes/proxy`` is also the right to run anything in any pod, so it is better not granted.)

Source: https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import parse_qsl, quote

import orjson

from syncer.http1.client import Pool, Reply, Server
from syncer.http1.server import Answer, Response
from syncer.kube.client import Client
from syncer.kube.errors import ApiError, ConfigError, TransportError
from syncer.kube.store import Lister
from syncer.objects import Key, Object, Side
from syncer.proxy import kubelet_paths, stats
from syncer.proxy.authorize import Authorizer
from syncer.proxy.call import Call
from syncer.proxy.host import ToHost
from syncer.proxy.kubelet_paths import (
    KUBELET_PORT,
    Asked,
    NodeHealth,
    NodePage,
    NodePods,
    PodLog,
    PodStream,
    Refused,
)
from syncer.proxy.lookup import StoreLookup
from syncer.proxy.node_metrics import HostAnswerError, Translation
from syncer.proxy.refusal import RefusalError, json_answer, not_found
from syncer.proxy.request import RequestInfo
from syncer.proxy.upstream import AGENT, Upstream, read_answer, relay

RIGHTS_SECONDS: Final = 300.0
"""How long the host's word on what the syncer may do is believed."""

PAGE_SECONDS: Final = 30.0
MAX_SUMMARY: Final = 32 << 20
"""Bytes of a stats summary; a pod makes some 4 kB."""

MAX_NODE_PAGES: Final = 4
"""Pages of one node's kubelet that are read at a time, for all callers together."""

MAX_PAGES: Final = 16
"""Pages of all kubelets that are read at a time: each may be a summary, held whole in memory."""

_REVIEWS: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_HEADERS: Final = (AGENT, ("Accept", "*/*"))
"""Kubelets then answer in Prometheus' plain text."""

_NETWORK: Final = (OSError, ConfigError)
_TURN: Final = 200  # pods decoded before others have their turn


class NodePages:
    """Gets pages of the host's kubelets."""

    def __init__(self, client: Client, upstream: Upstream, *, insecure: bool) -> None:
        """Make it.

        Args:
            client: of the host.
            upstream: the host API server; kubelets take the same credentials.
            insecure: whether kubelets' certificates are believed unseen.
        """
        self._client = client
        self._upstream = upstream
        self._unverified = _unverified() if insecure else None
        self._pool = Pool()
        self._rights: dict[str, tuple[float, bool]] = {}

    async def open(self, node: str, page: NodePage) -> Reply:
        """Ask for a page.

        Args:
            node: name of the host's node, which is the tenant's.
            page: which.

        Raises:
            RefusalError: the syncer has no right to it, or no answer came.
        """
        query = f"?{page.query}" if page.query else ""
        if await self._may("proxy"):
            path = f"/api/v1/nodes/{quote(node, safe='')}/proxy{page.path}{query}"
            info = RequestInfo("GET", path, path)
            return await self._upstream.send(info, _HEADERS, target=path, admin=True)
        right = "stats" if page.path.startswith("/stats") else "metrics"
        if not await self._may(right):
            raise RefusalError(
                403,
                f"the syncer may not read nodes/{right} on the host: its operator has to grant it, "
                "and nodes",
            )
        return await self._dial(await self._address(node), f"{page.path}{query}")

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()

    async def _may(self, subresource: str) -> bool:
        """Say whether the host lets the syncer ``get`` a subresource of nodes."""
        until, allowed = self._rights.get(subresource, (0.0, False))
        if time.monotonic() < until:
            return allowed
        attributes = {"verb": "get", "resource": "nodes", "subresource": subresource}
        body = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
        review = {**body, "spec": {"resourceAttributes": attributes}}
        answer = await self._ask("POST", _REVIEWS, review)
        allowed = bool((answer.get("status") or {}).get("allowed"))
        self._rights[subresource] = (time.monotonic() + RIGHTS_SECONDS, allowed)
        return allowed

    async def _address(self, node: str) -> str:
        """Give where a node's kubelet is, as the host's own Node object says."""
        answer = await self._ask("GET", f"/api/v1/nodes/{quote(node, safe='')}", None)
        status = answer.get("status") or {}
        endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
        for address in status.get("addresses") or ():
            if address.get("type") == "InternalIP":
                host = str(address["address"])
                port = endpoint.get("Port") or KUBELET_PORT
                return f"https://{f'[{host}]' if ':' in host else host}:{port}"
        raise RefusalError(503, "the node has no address on the host")

    async def _ask(self, method: str, path: str, body: Object | None) -> Object:
        try:
            answer = await self._client.request(method, path, body=body, timeout=10.0)
        except ApiError as error:
            if error.forbidden:
                raise RefusalError(
                    403, "the syncer may not read nodes on the host: its operator has to grant it"
                ) from error
            raise self._upstream.unreachable() from error
        except TransportError as error:
            raise self._upstream.unreachable() from error
        try:
            decoded = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise self._upstream.unreachable() from error
        if not isinstance(decoded, dict):
            raise self._upstream.unreachable()
        return decoded

    async def _dial(self, server: str, target: str) -> Reply:
        try:
            async with asyncio.timeout(PAGE_SECONDS):
                credentials = await self._upstream.config.credentials()
                tls = self._unverified or credentials.ssl_context
                headers = [*credentials.headers.items(), *_HEADERS]
                return await self._pool.request(Server(server, tls), "GET", target, headers)
        except _NETWORK as error:
            why = "the node's kubelet can't be reached"
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                why = (
                    "the certificate of the node's kubelet is not signed by the host's CA: "
                    "an operator can set --host-kubelet-insecure-tls"
                )
            raise RefusalError(503, why) from error


class Kubelets:
    """Answers for the kubelets of the tenant's nodes."""

    def __init__(
        self,
        authorizer: Authorizer,
        to_host: ToHost,
        pages: NodePages,
        lookup: StoreLookup,
        stores: Mapping[tuple[Side, str], Lister],
        pods_on: Callable[[str], Iterable[Key]],
        ready: Callable[[], bool],
    ) -> None:
        """Make it.

        Args:
            authorizer: asks the virtual API server who may do what.
            to_host: serves logs and streams.
            pages: gets pages of the host's kubelets.
            lookup: says what is the tenant's.
            stores: of both sides, by resource.
            pods_on: gives the keys of the virtual pods on a node.
            ready: says whether the stores of pods are complete.
        """
        self._authorizer = authorizer
        self._to_host = to_host
        self._pages = pages
        self._lookup = lookup
        self._stores = stores
        self._pods_on = pods_on
        self._ready = ready
        self._reading: Counter[str] = Counter()  # pages that are being read, by node

    async def node_proxy(self, call: Call) -> Answer:
        """Answer ``nodes/N/proxy/...``, by the right to it.

        Raises:
            RefusalError: not allowed, not the tenant's node, or not served.
            ConnectionError: one of both ends broke off.
        """
        asked = kubelet_paths.read(call.info.method, call.info.tail or "/", call.info.query)
        verb = asked.verb or call.info.verb
        await self._authorizer.require(await self._authorizer.user(call), call.info, verb)
        name = kubelet_paths.node_name(call.info.name)
        if isinstance(name, Refused):
            raise RefusalError(name.code, name.reason)
        return await self._serve(call, name, asked)

    async def kubelet(self, call: Call) -> Answer:
        """Answer at a node's own address, by the rights that a kubelet asks for.

        Raises:
            RefusalError: not allowed, or not served.
            ConnectionError: one of both ends broke off.
        """
        asked = kubelet_paths.read(call.info.method, call.info.raw_path, call.info.query)
        node = call.node or self._node_of(asked.target)
        user = await self._authorizer.user(call)
        refusal: RefusalError | None = None
        for subresource in asked.subresources:
            needed = RequestInfo(
                call.info.method, "", "", is_resource=True, verb=asked.verb or "get",
                version="v1", resource="nodes", name=node, subresource=subresource,
            )  # fmt: skip
            try:
                await self._authorizer.require(user, needed)
            except RefusalError as error:
                refusal = error
            else:
                return await self._serve(call, node, asked)
        raise refusal or RefusalError(403, "not allowed")

    async def _serve(self, call: Call, node: str, asked: Asked) -> Answer:
        if not self._ready():
            raise RefusalError(503, "pods are not known yet", headers={"Retry-After": "1"})
        if not self._lookup.has_node(node):
            raise not_found("nodes", node)
        match asked.target:
            case PodLog() as log:
                pod = Key(log.namespace, log.pod)
                self._on_node(pod, node)
                return await self._to_host.read_log(call, pod, _parameters(log.query))
            case PodStream() as stream:
                pod = Key(stream.namespace, stream.pod)
                self._on_node(pod, node, stream.uid)
                return await self._to_host.open_stream(
                    call, pod, stream.subresource, _parameters(stream.query)
                )
            case NodePage() as page:
                with self._counted(node):
                    return await self._page(call, node, page)
            case NodePods() as pods:
                body = kubelet_paths.pod_list(node, await self._pods(node), running=pods.running)
                return json_answer(orjson.dumps(body))
            case NodeHealth():
                return Response(200, (("Content-Type", "text/plain; charset=utf-8"),), b"ok")
            case Refused() as refused:
                raise RefusalError(refused.code, refused.reason)

    def _node_of(self, target: kubelet_paths.Target) -> str:
        """Give the node that a stream's pod is on, where nothing else tells which is asked."""
        pods = self._stores.get((Side.VIRTUAL, "pods"))
        if pods is None or not isinstance(target, PodStream):
            return ""
        pod = pods.get(Key(target.namespace, target.pod))
        return str(pod["spec"].get("nodeName", "")) if pod else ""

    def _on_node(self, key: Key, node: str, uid: str = "") -> None:
        """Make sure that a kubelet is asked for its own pods only."""
        pod = self._stores[Side.VIRTUAL, "pods"].get(key)
        if pod is None or pod["spec"].get("nodeName") != node:
            raise not_found("pods", key.name)
        if uid and uid != pod["metadata"]["uid"]:
            raise not_found("pods", key.name)

    async def _pods(self, node: str) -> Iterable[Object]:
        store = self._stores[Side.VIRTUAL, "pods"]
        found = []
        for count, key in enumerate(self._pods_on(node), 1):
            if (pod := store.get(key)) is not None:
                found.append(pod)
            if not count % _TURN:
                await asyncio.sleep(0)
        return found

    @contextmanager
    def _counted(self, node: str) -> Iterator[None]:
        """Count a page while the body runs; the host's kubelets are not the tenant's alone.

        Raises:
            RefusalError: 429, too many are being read.
        """
        if self._reading[node] >= MAX_NODE_PAGES or self._reading.total() >= MAX_PAGES:
            raise RefusalError(
                429,
                f"too many pages of kubelets at a time: at most {MAX_NODE_PAGES} of a node, "
                f"{MAX_PAGES} in all",
                headers={"Retry-After": "1"},
            )
        self._reading[node] += 1
        try:
            yield
        finally:
            self._reading[node] -= 1
            if not self._reading[node]:
                del self._reading[node]

    async def _page(self, call: Call, node: str, page: NodePage) -> Answer:
        response = await self._pages.open(node, page)
        try:
            if response.status != 200:
                raise RefusalError(
                    503 if response.status != 404 else 404,
                    f"the node's kubelet does not give {page.path}: {response.status}",
                )
            if page.path.startswith("/stats"):
                return await self._summary(response)
            return await self._metrics(call, response)
        finally:
            response.close()

    async def _metrics(self, call: Call, response: Reply) -> Answer:
        translation = Translation(self._lookup)
        headers = (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),)
        try:
            async with asyncio.timeout(PAGE_SECONDS):
                return await relay(
                    call.request,
                    response,
                    headers,
                    lambda piece: translation.feed(piece) if piece else translation.close(),
                )
        except TimeoutError as error:
            raise RefusalError(504, "the node's kubelet gave no metrics in time") from error

    async def _summary(self, response: Reply) -> Answer:
        try:
            body = await read_answer(response, MAX_SUMMARY + 1, PAGE_SECONDS)
            if len(body) > MAX_SUMMARY:
                raise RefusalError(503, "the node's summary is too long")
            translated = stats.summary(body, self._lookup)
        except (HostAnswerError, TimeoutError, ConnectionError) as error:
            raise RefusalError(503, "the node's kubelet gave no summary") from error
        return json_answer(translated)


def _unverified() -> ssl.SSLContext:
    """Give a context by which any certificate is believed, and none of ours is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _parameters(query: str) -> list[tuple[str, str]]:
    return parse_qsl(query, keep_blank_values=True)
