"""Servers of a test that an API server is led to, and API groups that they serve."""

import base64
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from tests.integration.harness import Cluster, Object, Pair, eventually, named, service

_REGISTRATION = "apiregistration.k8s.io/v1"
_DISCOVERY = "discovery.k8s.io/v1"


@asynccontextmanager
async def serving(
    handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Run a web server on loopback; yield its port."""
    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def service_for(pair: Pair, name: str, namespace: str = "default") -> Object:
    """Create a service that `aggregated` can take, and return it once it has the IP of its copy."""
    await pair.virtual.create(service(name, namespace, port=443, selector=None))

    async def settled() -> Object:
        found = await pair.virtual.get("services", name, namespace)
        copy = await pair.copy("services", name, namespace)
        assert found["spec"]["clusterIP"] == copy["spec"]["clusterIP"]
        return found

    return await eventually(settled)


@asynccontextmanager
async def aggregated(cluster: Cluster, at: Object, port: int) -> AsyncIterator[str]:
    """Have a server serve an API group `NAME.example.com`; yield the path of its version `v1`.

    Args:
        cluster: whose API server asks it.
        at: a service of the cluster's, called NAME, with port 443 and no selector; deleted on exit.
        port: of the server on loopback; it answers below `/apis`, and its certificate is for
            `NAME.NAMESPACE.svc`, by the CA of the cluster's servers.
    """
    name, namespace = at["metadata"]["name"], at["metadata"]["namespace"]
    group = f"{name}.example.com"
    authority = cluster.plane.pki.server_ca.certificate.read_bytes()
    spec = {
        "group": group,
        "version": "v1",
        "groupPriorityMinimum": 1000,
        "versionPriority": 10,
        "caBundle": base64.b64encode(authority).decode(),
        "service": {"name": name, "namespace": namespace, "port": 443},
    }
    endpoints = named(  # without them it wouldn't be asked; where they are does not matter
        "EndpointSlice",
        name,
        namespace,
        apiVersion=_DISCOVERY,
        labels={"kubernetes.io/service-name": name},
        addressType="IPv4",
        endpoints=[{"addresses": ["10.245.200.1"]}],
        ports=[{"name": "main", "port": 443}],
    )
    address = at["spec"]["clusterIP"]
    try:
        with cluster.plane.egress.route(f"{address}:443", ("127.0.0.1", port)):
            await cluster.create(endpoints)
            await cluster.create(
                named("APIService", f"v1.{group}", apiVersion=_REGISTRATION, spec=spec)
            )
            await eventually(lambda: cluster.request("GET", f"/apis/{group}/v1"))
            yield f"/apis/{group}/v1"
    finally:
        await cluster.delete(f"{_REGISTRATION}/apiservices", f"v1.{group}")
        await cluster.delete(f"{_DISCOVERY}/endpointslices", name, namespace)
        await cluster.delete("services", name, namespace)
