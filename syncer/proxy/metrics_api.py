"""Serves ``metrics.k8s.io`` (kubectl top) from the host's, of which each tenant sees its own.

Every request is authorised in the virtual cluster first, discovery too.

Source: k8s.io/metrics v0.36 ``pkg/apis/metrics/v1beta1``; vcluster v0.16.4
``pkg/server/filters/metrics_server.go``, which asks nobody whether the caller may.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import orjson

from syncer.dns1123 import is_label
from syncer.http1.server import Answer
from syncer.kube.client import Client
from syncer.kube.errors import ApiError, TransportError
from syncer.naming import Names
from syncer.objects import Key, Object
from syncer.proxy import resource_metrics
from syncer.proxy.authorize import Authorizer
from syncer.proxy.call import Call
from syncer.proxy.lookup import StoreLookup
from syncer.proxy.node_metrics import HostAnswerError
from syncer.proxy.refusal import RefusalError, json_answer, not_found
from syncer.proxy.request import RequestInfo
from syncer.proxy.resource_metrics import GROUP_VERSION, RESOURCES, BadSelectorError, Selection
from syncer.proxy.routes import METRICS_GROUP

_BASE: Final = f"/apis/{GROUP_VERSION}"
_VERSION: Final = {"groupVersion": GROUP_VERSION, "version": GROUP_VERSION.partition("/")[2]}
_GROUP: Final[Object] = {
    "kind": "APIGroup",
    "apiVersion": "v1",
    "name": METRICS_GROUP,
    "versions": [_VERSION],
    "preferredVersion": _VERSION,
}


class MetricsApi:
    """Answers requests for ``metrics.k8s.io``."""

    def __init__(
        self, authorizer: Authorizer, host: Client, names: Names, lookup: StoreLookup
    ) -> None:
        """Make it.

        Args:
            authorizer: asks the virtual API server who may do what.
            host: client of the host.
            names: the tenant's names.
            lookup: says what is the tenant's.
        """
        self._authorizer = authorizer
        self._host = host
        self._names = names
        self._lookup = lookup

    async def __call__(self, call: Call) -> Answer:
        """Answer a request.

        Raises:
            RefusalError: not allowed, not there, or the host can't answer.
        """
        info = call.info
        await self._authorizer.require(await self._authorizer.user(call), info)
        if call.request.method not in ("GET", "HEAD") or info.verb == "watch":
            raise RefusalError(
                405, "metrics are only read and listed", headers={"Allow": "GET, HEAD"}
            )
        if not resource_metrics.accepts_json(call.header("accept")):
            raise RefusalError(406, "only application/json is served here")
        return json_answer(await self._body(info))

    async def _body(self, info: RequestInfo) -> bytes:
        try:
            match info.path.removeprefix(f"/apis/{METRICS_GROUP}").strip("/").split("/"):
                case [""]:
                    return orjson.dumps(_GROUP)
                case ["v1beta1"]:
                    return orjson.dumps(RESOURCES)
                case ["v1beta1", "pods"] | ["v1beta1", "namespaces", _, "pods"]:
                    return await self._pods(info)
                case ["v1beta1", "namespaces", namespace, "pods", name]:
                    return await self._pod(Key(namespace, name))
                case ["v1beta1", "nodes"]:
                    selection = _selection(info, namespaced=False)
                    body = await self._ask(f"{_BASE}/nodes")
                    return resource_metrics.nodes(body, selection, self._lookup.node_labels)
                case ["v1beta1", "nodes", name]:
                    return await self._node(name)
                case _:
                    raise RefusalError(404, "the server could not find the requested resource")
        except HostAnswerError as error:
            raise RefusalError(503, "the host's metrics can't be read") from error

    async def _pods(self, info: RequestInfo) -> bytes:
        selection = _selection(info, namespaced=True)
        if selection.namespace and not is_label(selection.namespace):
            return resource_metrics.no_pods()  # the host would refuse to select by such a label
        body = await self._ask(self._pods_path(), selector=selection.host_selector(self._names))
        return resource_metrics.pods(body, selection, self._lookup)

    async def _pod(self, key: Key) -> bytes:
        name = self._names.host_key(key).name
        missing = not_found("pods", key.name, METRICS_GROUP)
        if self._lookup.pod(self._names.host_namespace, name) is None:
            raise missing
        body = await self._ask(f"{self._pods_path()}/{quote(name, safe='')}", missing)
        found = resource_metrics.pod(body, self._lookup)
        if found is None:
            raise missing
        return found

    async def _node(self, name: str) -> bytes:
        missing = not_found("nodes", name, METRICS_GROUP)
        if not self._lookup.has_node(name):
            raise missing
        body = await self._ask(f"{_BASE}/nodes/{quote(name, safe='')}", missing)
        found = resource_metrics.node(body, self._lookup.node_labels)
        if found is None:
            raise missing
        return found

    def _pods_path(self) -> str:
        return f"{_BASE}/namespaces/{quote(self._names.host_namespace, safe='')}/pods"

    async def _ask(
        self, path: str, missing: RefusalError | None = None, *, selector: str = ""
    ) -> bytes:
        parameters = {"labelSelector": selector} if selector else None
        try:
            return await self._host.request("GET", path, params=parameters, timeout=20.0)
        except ApiError as error:
            if error.not_found and missing is not None:
                raise missing from error
            if error.forbidden:
                raise RefusalError(
                    403, "the syncer may not read metrics on the host: its operator has to grant it"
                ) from error
            raise RefusalError(503, "the host has no metrics: is metrics-server there?") from error
        except TransportError as error:
            raise RefusalError(503, "the host cluster's API server can't be reached") from error


def _selection(info: RequestInfo, *, namespaced: bool) -> Selection:
    try:
        return Selection.read(
            info.namespace if namespaced else "",
            info.parameter("labelSelector"),
            info.parameter("fieldSelector"),
            namespaced=namespaced,
        )
    except BadSelectorError as error:
        raise RefusalError(400, str(error)) from None
