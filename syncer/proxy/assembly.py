"""Builds the endpoint of its parts and runs them together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from syncer.kube.client import Client
from syncer.kube.config import ConnectionConfig
from syncer.kube.store import Lister
from syncer.naming import Names
from syncer.objects import Key, Object, Side
from syncer.proxy import kubelet_paths
from syncer.proxy.authorize import Authorizer
from syncer.proxy.endpoint import Endpoint, Handler, Observer
from syncer.proxy.host import ToHost
from syncer.proxy.kubelet_paths import NodeAddresses
from syncer.proxy.lookup import StoreLookup
from syncer.proxy.metrics_api import MetricsApi
from syncer.proxy.names import certificate_names
from syncer.proxy.nodes import Kubelets, NodePages
from syncer.proxy.routes import Route
from syncer.proxy.services import Copying, ServiceCreate
from syncer.proxy.targets import Targets
from syncer.proxy.tls import ServingTls, TlsFiles
from syncer.proxy.upstream import Upstream
from syncer.proxy.virtual import ToVirtual
from syncer.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """What the endpoint is built on.

    Attributes:
        settings: of the syncer.
        names: the tenant's names.
        configs: connections to both API servers.
        clients: the same for single requests, as the syncer.
        stores: of both sides, by resource.
        synced: says whether a store is complete.
        nodes: gives the names of the host's nodes that the tenant has.
        pods_on: gives the keys of the virtual pods on a node; asked only when pods are synced.
        addresses: gives the node that has an address.
        version: gives the virtual API server's version, ``""`` while unknown.
        services: how services are copied; ``None``: they are not.
    """

    settings: Settings
    names: Names
    configs: Mapping[Side, ConnectionConfig]
    clients: Mapping[Side, Client]
    stores: Mapping[tuple[Side, str], Lister]
    synced: Callable[[Side, str], bool]
    nodes: Callable[[], Iterable[str]]
    pods_on: Callable[[str], Iterable[Key]]
    addresses: NodeAddresses
    version: Callable[[], str]
    services: Copying | None = None


class Proxy:
    """The endpoint with all that it needs.

    Attributes:
        endpoint: what answers.
        port: that it listens on; 0 until it does.
    """

    def __init__(self, parts: Parts, *, observer: Observer | None = None) -> None:
        """Build it; nothing listens yet.

        Args:
            parts: what it is built on.
            observer: told of each request.
        """
        self._parts = parts
        self._tls = ServingTls(TlsFiles.of(parts.settings))
        self._virtual = Upstream(
            parts.configs[Side.VIRTUAL], name="the virtual cluster's API server"
        )
        self._host = Upstream(parts.configs[Side.HOST], name="the host cluster's API server")
        self._pages = NodePages(
            parts.clients[Side.HOST],
            self._host,
            insecure=parts.settings.host_kubelet_insecure_tls,
        )
        self._creates: ServiceCreate | None = None
        self.port = 0
        self.endpoint = Endpoint(
            parts.settings,
            self._handlers(),
            self._tls,
            node_of=lambda host: kubelet_paths.node_of(host, parts.addresses),
            observer=observer,
        )

    def set_services(self, services: Iterable[Object]) -> None:
        """Tell which host Services lead here, for the certificate's sake.

        Args:
            services: the syncer's own.
        """
        self._tls.set_names(self._names(services))

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen while the body runs.

        Raises:
            ConfigError: a CA's file is no use, or the address can't be listened on.
        """
        await self._tls.start(self._names(()))
        try:
            async with AsyncExitStack() as stack:
                for part in (self._virtual, self._host, self._pages):
                    stack.push_async_callback(part.close)
                if self._creates is not None:
                    stack.push_async_callback(self._creates.close)
                # Should it fail, which is a bug, the body is cancelled: it is not to serve old CAs.
                tasks = await stack.enter_async_context(asyncio.TaskGroup())
                stack.callback(tasks.create_task(self._tls.run()).cancel)
                bound = await stack.enter_async_context(self.endpoint.serve())
                self.port = bound.port
                yield
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from None  # what the body raised, as it was

    def _names(self, services: Iterable[Object]) -> frozenset[str]:
        return certificate_names(
            self._parts.settings,
            pod_ip=os.environ.get("POD_IP", ""),
            services=services,
            node_addresses=self._parts.addresses.ips(),
        )

    def _handlers(self) -> dict[Route, Handler]:
        parts = self._parts
        authorizer = Authorizer(parts.clients[Side.VIRTUAL], self._virtual, parts.version)
        lookup = StoreLookup(parts.names, parts.stores, parts.nodes)
        virtual = ToVirtual(self._virtual, authorizer)
        host = ToHost(self._host, authorizer, Targets(parts.names, parts.stores, parts.synced))
        kubelets = Kubelets(
            authorizer, host, self._pages, lookup, parts.stores, parts.pods_on, self._knows_pods
        )
        return {
            Route.HEALTH: virtual.health,
            Route.PASS: virtual,
            Route.SERVICE_CREATE: self._service_create(virtual),
            Route.POD_LOG: host.log,
            Route.POD_STREAM: host.stream,
            Route.POD_PROXY: host.pod_proxy,
            Route.SERVICE_PROXY: host.service_proxy,
            Route.NODE_PROXY: kubelets.node_proxy,
            Route.KUBELET: kubelets.kubelet,
            Route.METRICS: MetricsApi(authorizer, parts.clients[Side.HOST], parts.names, lookup),
        }

    def _service_create(self, virtual: ToVirtual) -> Handler:
        parts = self._parts
        if parts.services is None:
            return virtual
        store = parts.stores[Side.VIRTUAL, parts.services.kind.resource.full_name]
        self._creates = ServiceCreate(
            self._virtual,
            virtual,
            parts.clients[Side.HOST],
            parts.names,
            parts.services,
            lambda key: key in store,
        )
        return self._creates

    def _knows_pods(self) -> bool:
        return all((side, "pods") in self._parts.stores for side in Side) and all(
            self._parts.synced(side, "pods") for side in Side
        )
