"""What an API server dials leads where a test says, and shows there who it is."""

import asyncio
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from controlplane import ControlPlane, Egress
from controlplane.certificates import Pair
from controlplane.egress_proxy import EgressProxy, parse
from tests.integration.aggregated import aggregated, serving
from tests.integration.harness import (
    Cluster,
    eventually,
    named,
    pod,
    service,
)


class Server:
    """A web server of a test, on loopback.

    Attributes:
        port: where it listens.
        paths: what was asked for.
        certificate: subject of the certificate that the last client showed.
    """

    def __init__(self) -> None:
        self.port = 0
        self.paths: list[str] = []
        self.certificate: dict[str, list[str]] = {}

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, as routes want it."""
        return "127.0.0.1", self.port

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer anything, an API group's discovery with an empty one."""
        self.paths.append(request.path)
        shown = (request.get_extra_info("peercert") or {}).get("subject", ())
        self.certificate = {}
        for ((key, value),) in shown:
            self.certificate.setdefault(key, []).append(value)
        if request.path.startswith("/apis"):
            answer: dict[str, Any] = {"kind": "APIResourceList", "resources": []}
            return web.json_response(answer | {"groupVersion": "example.com/v1"})
        return web.Response(text="hello from a test")


@asynccontextmanager
async def running_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Run a web server."""
    server = Server()
    async with serving(server.handle, tls) as server.port:
        yield server


def server_context(certificate: Pair, clients: Pair) -> ssl.SSLContext:
    """Return a TLS context for a server that demands a client certificate of `clients`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(clients.certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context


@pytest.fixture
async def place(host: Cluster) -> AsyncIterator[str]:
    """A new namespace of the host; deleted after the test."""
    name = f"egress-{uuid.uuid4().hex[:8]}"
    await host.create(named("Namespace", name))
    await eventually(lambda: host.get("serviceaccounts", "default", name))
    yield name
    await host.delete("namespaces", name)


async def running(cluster: Cluster, name: str, namespace: str) -> str:
    """Return the IP of a pod once it is ready."""

    async def check() -> str:
        status = (await cluster.get("pods", name, namespace))["status"]
        assert status["phase"] == "Running", status
        return str(status["podIP"])

    return await eventually(check)


# Through the API server


async def test_a_pod_and_its_service_can_be_a_server_of_a_test(host: Cluster, place: str) -> None:
    """What the API server proxies to a pod's IP goes where the route for it leads."""
    await host.create(pod("web", place, labels={"app": "web"}))
    await host.create(service("web", place, port=80))
    address = await running(host, "web", place)
    async with running_server() as server:
        with host.plane.egress.route(f"{address}:80", server.address):
            for path in ("pods/http:web:80", "services/http:web:80", "services/web:main"):
                await eventually(partial(get, host, place, f"{path}/proxy/{path}"))
        assert set(server.paths) >= {
            "/pods/http:web:80",
            "/services/http:web:80",
            "/services/web:main",
        }


async def get(cluster: Cluster, namespace: str, path: str) -> None:
    async with cluster.api.get(f"/api/v1/namespaces/{namespace}/{path}") as response:
        text = await response.text()
        assert (response.status, text) == (200, "hello from a test")


async def test_all_ports_of_a_host_can_be_routed_at_once(host: Cluster, place: str) -> None:
    """A route for a host keeps the port when none is given; one for a port goes before it."""
    await host.create(pod("web", place))
    address = await running(host, "web", place)
    egress = host.plane.egress
    async with running_server() as one, running_server() as other:
        with (
            egress.route(address, "127.0.0.1"),
            egress.route(f"{address}:81", other.address),
        ):
            await get(host, place, f"pods/http:web:{one.port}/proxy/")
            await get(host, place, "pods/http:web:81/proxy/")
        assert one.paths == other.paths == ["/"]


async def test_an_address_without_a_route_is_refused_and_remembered(
    host: Cluster, place: str
) -> None:
    """Nothing but loopback and routes is dialled, not even an address that may exist."""
    await host.create(pod("web", place))
    address = await running(host, "web", place)
    egress = host.plane.egress
    async with running_server() as server:
        with egress.route(f"{address}:82", server.address):
            await get(host, place, "pods/http:web:82/proxy/")
        for port in (83, server.port):
            async with host.api.get(
                f"/api/v1/namespaces/{place}/pods/http:web:{port}/proxy/"
            ) as response:
                assert response.status == 503
    assert {f"{address}:83", f"{address}:{server.port}"} <= set(egress.refused)
    outcomes = {dial.target: dial.outcome for dial in egress.dials}
    assert outcomes[f"{address}:82"] == "routed"


async def test_kubelets_know_the_virtual_api_server_as_k3s_has_it(virtual: Cluster) -> None:
    """A node at a service's IP can be a server of a test; it is shown a client certificate."""
    address, pki = "10.96.200.1", virtual.plane.pki
    node = named("Node", f"node-{uuid.uuid4().hex[:8]}")
    async with running_server(server_context(pki.server(address), pki.client_ca)) as kubelet:
        with virtual.plane.egress.route(f"{address}:10250", kubelet.address):
            name = (await virtual.create(node))["metadata"]["name"]
            status = {
                "addresses": [
                    {"type": "Hostname", "address": f"{name}.nodes.example.com"},
                    {"type": "InternalIP", "address": address},
                ],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            }
            await virtual.patch("nodes", name, "", {"status": status}, subresource="status")
            path = f"/api/v1/nodes/{name}/proxy/stats/summary"
            async with virtual.api.get(path) as response:
                assert (response.status, await response.text()) == (200, "hello from a test")
            await virtual.delete("nodes", name)
    assert kubelet.paths == ["/stats/summary"]
    assert kubelet.certificate == {
        "organizationName": ["system:masters"],
        "commonName": ["system:apiserver"],
    }


@pytest.mark.parametrize("kind", ["host", "virtual"])
async def test_an_aggregated_api_can_be_a_server_of_a_test(
    host: Cluster, virtual: Cluster, kind: str
) -> None:
    """At the IP of its service; the API server shows a front proxy's certificate by k3s's name."""
    cluster = host if kind == "host" else virtual
    name = f"api-{uuid.uuid4().hex[:8]}"
    pki = cluster.plane.pki
    certificate = pki.server(f"{name}.default.svc")
    made = await cluster.create(service(name, "default", port=443, selector=None))
    async with (
        running_server(server_context(certificate, pki.request_header_ca)) as server,
        aggregated(cluster, made, server.port) as path,
    ):
        assert (await cluster.request("GET", path))["resources"] == []
    assert server.certificate == {"commonName": ["system:auth-proxy"]}


# Users


async def test_users_are_made_as_tests_need_them(virtual: Cluster) -> None:
    """A certificate says name and groups; without one a caller is anonymous."""
    pki = virtual.plane.pki
    jane = pki.user("jane", ["developers", "testers"])
    assert ControlPlane.attach(virtual.plane.directory).pki.user(*_JANE) == jane
    assert pki.user("jane") != jane
    who = await self_review(virtual, pki.client_context(jane))
    assert who["username"] == "jane"
    assert set(who["groups"]) == {"developers", "testers", "system:authenticated"}
    who = await self_review(virtual, pki.anonymous_context())
    assert who["username"] == "system:anonymous"


_JANE = ("jane", ["developers", "testers"])


async def self_review(cluster: Cluster, context: ssl.SSLContext) -> dict[str, Any]:
    """Return who the API server takes a client for."""
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(cluster.plane.server, connector=connector) as session:
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        async with session.post(path, json={}) as response:
            answer = await response.json()
    if response.status == 403:  # the anonymous may not ask
        return {"username": answer["message"].split('"')[1]}
    user: dict[str, Any] = answer["status"]["userInfo"]
    return user


# The proxy itself


@pytest.mark.parametrize(
    ("target", "parsed"),
    [
        pytest.param("10.96.0.7", ("10.96.0.7", None), id="address"),
        pytest.param("10.96.0.7:443", ("10.96.0.7", 443), id="address-port"),
        pytest.param("Web.default.svc:443", ("web.default.svc", 443), id="name-port"),
        pytest.param("fd00::7", ("fd00::7", None), id="ipv6"),
        pytest.param("[fd00::7]:443", ("fd00::7", 443), id="ipv6-port"),
        pytest.param("[fd00::7]", ("fd00::7", None), id="ipv6-brackets"),
    ],
)
def test_a_target_is_a_host_with_or_without_port(
    target: str, parsed: tuple[str, int | None]
) -> None:
    """In all forms that Go and people write."""
    assert parse(target) == parsed


@pytest.mark.parametrize(
    "target",
    [
        "",
        "..",
        "../x",
        "a/b:80",
        "[..]:80",
        "host:",
        "host:65536",
        "host:http",
        "fd00::7%lo",
        "a b",
    ],
)
def test_no_other_target_is_taken(target: str) -> None:
    """None can name a file elsewhere."""
    with pytest.raises(ValueError, match="is not HOST"):
        parse(target)


@asynccontextmanager
async def proxy(directory: Path, kept: int = 100) -> AsyncIterator[Path]:
    """Run an egress proxy in this process; yield its socket's path."""
    socket = directory / "sock"
    serve = EgressProxy(directory, kept).serve
    server = await asyncio.start_unix_server(serve, socket)
    yield socket
    server.close()
    await server.wait_closed()


async def connect(
    socket: Path, target: str
) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for a connection; return the answer's status and the streams."""
    reader, writer = await asyncio.open_unix_connection(socket)
    writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1]), reader, writer


async def test_bytes_and_ends_go_both_ways(tmp_path: Path) -> None:
    """An answer to all that came before the end of the sending side arrives whole."""
    sent = b"x" * 3_000_000

    async def reverse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"before" + await reader.read() + b"after")
        writer.close()

    server = await asyncio.start_server(reverse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with proxy(tmp_path) as socket, asyncio.timeout(10):
        with Egress(tmp_path).route("pod.example.com:80", ("127.0.0.1", port)):
            for target in ("pod.example.com:80", f"127.0.0.1:{port}"):
                status, reader, writer = await connect(socket, target)
                assert status == 200
                writer.write(sent)
                writer.write_eof()
                assert await reader.read() == b"before" + sent + b"after"
                writer.close()
    server.close()
    await server.wait_closed()


async def test_only_so_many_dials_are_remembered(tmp_path: Path) -> None:
    """The newest; each outcome is told apart."""
    egress = Egress(tmp_path)
    assert egress.dials == []
    async with proxy(tmp_path, kept=3) as socket:
        egress.route("gone.example.com:80", ("127.0.0.1", 1))
        for target, expected in [
            *((f"10.0.0.{number}:80", "refused") for number in range(7)),
            ("127.0.0.1:1", "failed"),
            ("gone.example.com:80", "failed"),
        ]:
            status, reader, writer = await connect(socket, target)
            assert (status, await reader.read()) == (502, b"")
            writer.close()
            assert (egress.dials[-1].target, egress.dials[-1].outcome) == (target, expected)
            assert len(egress.dials) < 6
    assert egress.refused[-1] == "10.0.0.6:80"


async def test_what_is_no_dial_is_refused(tmp_path: Path) -> None:
    """The proxy speaks CONNECT only."""
    async with proxy(tmp_path) as socket:
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
