"""Builds the endpoint of its parts and runs them together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from syncer.kube.client import Client
from syncer.kube.config import ConnectionConfig
from syncer.kube.store import Lister
from syncer.naming import Names
from syncer.proxy.authorize import Authorizer
from syncer.proxy.endpoint import Endpoint, Handler, Observer
from syncer.proxy.host import ToHost
from syncer.proxy.names import certificate_names
from syncer.proxy.routes import Route
from syncer.proxy.targets import Targets
from syncer.proxy.tls import ServingTls, TlsFiles
from syncer.proxy.upstream import Upstream
from syncer.proxy.virtual import ToVirtual
from syncer.settings import Settings
from syncer.types import Object, Side


class Proxy:
    """The endpoint with all that it needs."""

    def __init__(
        self,
        settings: Settings,
        names: Names,
        configs: Mapping[Side, ConnectionConfig],
        client: Client,
        stores: Mapping[tuple[Side, str], Lister],
        synced: Callable[[Side, str], bool],
        *,
        observer: Observer | None = None,
    ) -> None:
        """Build it; nothing listens yet.

        Args:
            settings: of the syncer.
            names: the tenant's names.
            configs: connections to both API servers.
            client: of an administrator of the virtual cluster.
            stores: of both sides, by resource.
            synced: says whether a store is complete.
            observer: told of each request.
        """
        self._settings = settings
        virtual = Upstream(configs[Side.VIRTUAL], name="the virtual cluster's API server")
        host = Upstream(configs[Side.HOST], name="the host cluster's API server")
        self._upstreams = (virtual, host)
        authorizer = Authorizer(client, virtual)
        targets = Targets(names, stores, synced)
        self._tls = ServingTls(TlsFiles.of(settings))
        self.endpoint = Endpoint(
            settings, _handlers(virtual, host, authorizer, targets), self._tls, observer=observer
        )

    def set_services(self, services: list[Object], nodes: list[Object]) -> None:
        """Tell which host Services lead here, for the certificate's sake.

        Args:
            services: the syncer's own.
            nodes: those that stand for nodes' kubelets.
        """
        self._tls.set_names(self._names(services, nodes))

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen while the body runs.

        Raises:
            ConfigError: a CA's file is no use, or the address can't be listened on.
        """
        await self._tls.start(self._names([], []))
        async with AsyncExitStack() as stack:
            for upstream in self._upstreams:
                stack.push_async_callback(upstream.close)
            fresh = asyncio.create_task(self._tls.run())
            stack.push_async_callback(_ended, fresh)
            await stack.enter_async_context(self.endpoint.serve())
            yield

    def _names(self, services: list[Object], nodes: list[Object]) -> frozenset[str]:
        return certificate_names(
            self._settings,
            pod_ip=os.environ.get("POD_IP", ""),
            services=services,
            node_services=nodes,
        )


def _handlers(
    virtual: Upstream, host: Upstream, authorizer: Authorizer, targets: Targets
) -> dict[Route, Handler]:
    passed = ToVirtual(virtual, authorizer)
    redirected = ToHost(host, authorizer, targets)
    return {
        Route.HEALTH: passed.health,
        Route.PASS: passed,
        Route.SERVICE_CREATE: passed,
        Route.POD_LOG: redirected.log,
        Route.POD_STREAM: redirected.stream,
        Route.POD_PROXY: redirected.pod_proxy,
        Route.SERVICE_PROXY: redirected.service_proxy,
    }


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
