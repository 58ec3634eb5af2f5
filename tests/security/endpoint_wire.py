"""The tenant's endpoint under attack: raw bytes go in, and what both API servers are sent is seen.

    async with guarded_pair(host, Tenant("t")) as pair:
        answer = await say(pair, "GET", "/api/v1/../secrets", who=administrator(pair))
        assert not pair.to_host.since(mark)

Requests are written byte by byte as a test wants them: no library corrects them on the way. Behind
the endpoint, a recorder stands before each API server and reads what is sent to it.
"""

import asyncio
import re
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import httptools
from aiohttp import web
from yarl import URL

from controlplane import ControlPlane
from controlplane.certificates import Pair as Keys
from controlplane.kubeconfig import write_kubeconfig
from controlplane.ports import LOOPBACK
from controlplane.syncer import Syncer
from syncer.naming import Names
from tests.integration.endpoint import NOBODY, Answer, Caller, Header, tls_of
from tests.integration.harness import Cluster, Pair, Tenant, cluster, pod, service
from tests.integration.pod_steps import in_phase

SECONDS: Final = 30.0
"""How long an answer may take."""

METADATA: Final = "169.254.169.254"
"""Where clouds tell machines their secrets."""

WEBSOCKET: Final = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
    ("Origin", "https://localhost"),
)
"""Headers that ask for a WebSocket."""

EXEC: Final = (*WEBSOCKET, ("Sec-WebSocket-Protocol", "v5.channel.k8s.io"))
"""Headers of kubectl exec."""

SPDY: Final = (
    ("Connection", "Upgrade"),
    ("Upgrade", "SPDY/3.1"),
    ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
)
"""Headers of an older kubectl's exec."""

_OF_THE_ENDPOINT = re.compile(
    r"/(log|exec|attach|portforward|proxy)([/?]|$)|metrics\.k8s\.io|selfsubjectaccessreviews"
    r"|/api/v1/nodes/[^?]"
)


# -- what an API server is sent ------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A request that came to an API server.

    Attributes:
        method: of HTTP.
        target: as it stood on the request line.
        headers: as they were written, in order.
        behind: what came on the same connection after a request to upgrade it.
    """

    method: str
    target: str
    headers: tuple[Header, ...]
    behind: bytearray = field(default_factory=bytearray)

    def header(self, name: str) -> list[str]:
        """Return the values of a header, whatever its case."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Recorder:
    """Passes bytes on to an API server and reads the requests in them; get one from `recording`.

    Attributes:
        server: URL of the recorder.
        seen: every request so far, oldest first.
    """

    def __init__(self, plane: ControlPlane, port: int) -> None:
        """Stand before `plane`, at `port`."""
        self.server = f"https://{LOOPBACK}:{port}"
        self.kubeconfig = write_kubeconfig(
            plane.directory / f"recorder-{port}.kubeconfig",
            self.server,
            plane.pki.server_ca.certificate,
            plane.pki.admin,
        )
        self.seen: list[Seen] = []
        self._url = URL(plane.server)
        # A client without a certificate must not get ours.
        self._tls = {True: plane.pki.client_context(), False: plane.pki.anonymous_context()}

    @property
    def mark(self) -> int:
        """The present moment, for `since`."""
        return len(self.seen)

    def since(self, mark: int) -> list[Seen]:
        """Return the requests since then that only the endpoint makes, none of the syncer's own."""
        return [each for each in self.seen[mark:] if _OF_THE_ENDPOINT.search(each.target)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on, both ways, until either end is closed."""
        tls = self._tls[bool(writer.get_extra_info("peercert"))]
        there, back = await asyncio.open_connection(
            self._url.host, self._url.port, ssl=tls, limit=1 << 20
        )
        requests = _Requests(self.seen)
        copies = [
            asyncio.create_task(_copy(reader, back, requests)),
            asyncio.create_task(_copy(there, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            for each in (writer, back):
                await _close(each)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: "_Requests | None" = None
) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := await reader.read(1 << 16):
            if requests is not None:
                requests.feed(data)
            writer.write(data)
            await writer.drain()


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close a connection once what was written is sent."""
    writer.close()
    with suppress(OSError, ssl.SSLError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
    writer.transport.abort()


class _Requests:
    """Reads the requests of one connection."""

    def __init__(self, seen: list[Seen]) -> None:
        self._seen = seen
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[Header] = []
        self._upgrade: Seen | None = None

    def feed(self, data: bytes) -> None:
        """Take what was sent."""
        if self._upgrade is not None:
            self._upgrade.behind.extend(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade = self._seen[-1]
            self._upgrade.behind.extend(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._seen.append(Seen("no request", repr((error, data)), ()))

    def on_message_begin(self) -> None:
        self._target, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        method = self._parser.get_method().decode()
        self._seen.append(Seen(method, self._target.decode("latin-1"), tuple(self._headers)))


@asynccontextmanager
async def recording(plane: ControlPlane) -> AsyncIterator[Recorder]:
    """Stand before a plane's API server with a recorder."""
    keys = plane.pki.server(LOOPBACK, "localhost")
    tls = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(plane.pki.client_ca.certificate)
    )
    tls.verify_mode = ssl.CERT_OPTIONAL
    tls.load_cert_chain(keys.certificate, keys.key)
    serving: set[asyncio.Task[None]] = set()
    recorders: list[Recorder] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(recorders[0].serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, LOOPBACK, 0, ssl=tls, limit=1 << 20)
    recorders.append(Recorder(plane, server.sockets[0].getsockname()[1]))
    try:
        yield recorders[0]
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


@dataclass(frozen=True)
class GuardedPair(Pair):
    """A pair whose syncer reaches both API servers through recorders.

    Attributes:
        to_host: sees what the host is sent.
        to_virtual: sees what the virtual API server is sent, but for what tests ask it straight.
    """

    to_host: Recorder
    to_virtual: Recorder

    def leaks(self, text: str | bytes, asked: str = "") -> list[str]:
        """Return what a text tells of the host that a tenant must not know.

        Args:
            text: what the tenant is shown.
            asked: what the tenant wrote itself, and so knows already.
        """
        shown = text if isinstance(text, str) else text.decode(errors="replace")
        secrets = (
            self.names.host_namespace,
            f"-x-{self.names.tenant}",
            URL(self.host.plane.server).authority,
            URL(self.to_host.server).authority,
        )
        return [secret for secret in secrets if secret in shown and secret not in asked]


@asynccontextmanager
async def guarded_pair(host: Cluster, tenant: Tenant) -> AsyncIterator[GuardedPair]:
    """As `boot_pair` of the integration harness, with a recorder before each API server."""
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(ControlPlane.virtual())
        virtual = await stack.enter_async_context(cluster(plane))
        await virtual.apply(service("kube-dns", "kube-system"))
        to_host = await stack.enter_async_context(recording(host.plane))
        to_virtual = await stack.enter_async_context(recording(plane))
        flags = (
            f"--host-kube-config={to_host.kubeconfig}",
            f"--kube-config={to_virtual.kubeconfig}",
            *tenant.flags,
        )
        syncer = await stack.enter_async_context(
            Syncer(
                host.plane,
                plane,
                tenant=tenant.name,
                namespace=tenant.host_namespace,
                flags=flags,
                environment=dict(tenant.environment),
            )
        )
        names = Names(tenant.name, tenant.host_namespace)
        yield GuardedPair(host, virtual, syncer, names, to_host, to_virtual)


# -- raw requests --------------------------------------------------------------------------------


class Wire:
    """A TLS connection to the endpoint; get one from `connected`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use an open connection."""
        self._reader = reader
        self._writer = writer
        self._answers = _Answers()

    @property
    def upgraded(self) -> bool:
        """Whether the server agreed to an upgrade."""
        return self._answers.upgraded

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._writer.write(data)

    async def answer(self, seconds: float = SECONDS, *, bodiless: bool = False) -> Answer:
        """Return the next answer.

        Args:
            seconds: how long to wait for it.
            bodiless: it is to a HEAD, and there is no second one.

        Raises:
            ConnectionResetError: the server closed the connection instead.
            TimeoutError: it says nothing.
        """
        self._answers.bodiless = bodiless
        async with asyncio.timeout(seconds):
            while not self._answers.found:
                if not await self._read():
                    raise ConnectionResetError("the server closed the connection")
        return self._answers.found.pop(0)

    async def closed(self, seconds: float = SECONDS) -> list[Answer]:
        """Wait until the server closes the connection; return the answers that came meanwhile.

        Raises:
            TimeoutError: it does not.
        """
        async with asyncio.timeout(seconds):
            while await self._read():
                pass
        found, self._answers.found = self._answers.found, []
        return found

    async def _read(self) -> bool:
        data = b""
        with suppress(OSError, ssl.SSLError):
            data = await self._reader.read(1 << 16)
        self._answers.feed(data)
        return bool(data)


class _Answers:
    """Reads the answers of one connection."""

    def __init__(self) -> None:
        self.found: list[Answer] = []
        self.upgraded = False
        self.bodiless = False
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[Header] = []
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what was answered; b"" at its end."""
        if not self.upgraded:
            with suppress(httptools.HttpParserUpgrade):
                self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers, self._body = [], bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.upgraded = self._parser.get_status_code() == 101
        if self.bodiless:  # of which the parser knows nothing
            self.on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status, headers = self._parser.get_status_code(), tuple(self._headers)
        self.found.append(Answer(status, headers, bytes(self._body)))


@asynccontextmanager
async def connected(pair: Pair, who: Caller = NOBODY) -> AsyncIterator[Wire]:
    """Connect to the endpoint as a caller, whose certificate, if any, is shown."""
    reader, writer = await asyncio.open_connection(
        LOOPBACK, pair.syncer.port, ssl=tls_of(pair, who), limit=1 << 20
    )
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)  # the transport's own last step


def head(
    pair: Pair,
    method: str,
    target: str,
    *,
    who: Caller = NOBODY,
    headers: Iterable[Header] = (),
    host: str = "",
) -> bytes:
    """Return a request without a body, the caller's token in it, nothing checked or escaped."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host or f'{LOOPBACK}:{pair.syncer.port}'}"]
    own = [("Authorization", f"Bearer {who.token}")] if who.token else []
    lines += [f"{name}: {value}" for name, value in (*own, *who.headers, *headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def say(
    pair: Pair,
    method: str,
    target: str,
    *,
    who: Caller = NOBODY,
    headers: Iterable[Header] = (),
    body: bytes = b"",
    host: str = "",
) -> Answer:
    """Make one request on a connection of its own, and return the answer.

    Raises:
        ConnectionResetError: the endpoint closed the connection instead.
    """
    given = list(headers)
    if body:
        given.append(("Content-Length", str(len(body))))
    if not any(name.lower() == "connection" for name, _ in given):
        given.append(("Connection", "close"))
    async with connected(pair, who) as wire:
        wire.send(head(pair, method, target, who=who, headers=given, host=host) + body)
        return await wire.answer(bodiless=method == "HEAD")


async def shout(
    pair: Pair, data: bytes, *, who: Caller = NOBODY, quiet: float = 0.5
) -> list[Answer]:
    """Send bytes; return the answers until the connection is closed or quiet for so long."""
    found = []
    async with connected(pair, who) as wire:
        wire.send(data)
        seconds = SECONDS
        while True:
            try:
                found.append(await wire.answer(seconds))
            except (ConnectionResetError, TimeoutError):
                return found
            seconds = quiet


# -- where nothing must arrive -------------------------------------------------------------------


class Sentinel:
    """A server that nobody has any business with.

    Attributes:
        port: on loopback.
        hits: what was sent on each connection that came.
    """

    def __init__(self) -> None:
        self.port = 0
        self.hits: list[bytes] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://{LOOPBACK}:{self.port}/secrets"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Sentinel"]:
        """Listen while the body runs, and see at its end that nobody came."""
        server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
            assert not self.hits
        finally:
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.hits.append(b"")
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                self.hits[-1] = await reader.read(1 << 16)
        writer.close()


# -- what answers behind the API servers ---------------------------------------------------------


class Backend:
    """A server of a test's own, as a pod, a kubelet or an aggregated API.

    Attributes:
        port: on loopback.
        seen: each request that came.
    """

    def __init__(self, answer: Callable[[web.BaseRequest], web.Response]) -> None:
        """Answer every request with what `answer` returns."""
        self._answer = answer
        self.port = 0
        self.seen: list[Seen] = []

    @asynccontextmanager
    async def listening(self, keys: Keys | None = None) -> AsyncIterator["Backend"]:
        """Serve while the body runs, over TLS if given a certificate."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if keys else None
        if tls and keys:
            tls.load_cert_chain(keys.certificate, keys.key)
        runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, LOOPBACK, 0, ssl_context=tls)
            await site.start()
            self.port = runner.addresses[0][1]
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        headers = tuple((name.decode(), value.decode()) for name, value in request.raw_headers)
        self.seen.append(Seen(request.method, request.raw_path, headers))
        await request.read()
        return self._answer(request)


@asynccontextmanager
async def kubelet(
    pair: Pair,
    namespace: str,
    address: str,
    answer: Callable[[web.BaseRequest], web.Response],
) -> AsyncIterator[tuple[str, Backend]]:
    """Yield a new host node, with a pod of the tenant's on it, and the server that is its kubelet.

    Args:
        pair: whose host.
        namespace: virtual namespace of the pod, which is called like the node.
        address: of the node; one of `controlplane.pki.NODE_RANGE`, never used before.
        answer: what the kubelet says.
    """
    name = f"node-{uuid.uuid4().hex[:8]}"
    keys = pair.host.plane.pki.server(address)
    async with Backend(answer).listening(keys) as server:
        at = (LOOPBACK, server.port)
        async with pair.host.plane.node(name, address, kubelet=at):
            expression = {"key": "metadata.name", "operator": "In", "values": [name]}
            terms = {"nodeSelectorTerms": [{"matchFields": [expression]}]}
            affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
            tolerations = [{"operator": "Exists"}]
            await pair.virtual.create(
                pod(name, namespace, affinity=affinity, tolerations=tolerations)
            )
            try:
                await in_phase(pair, name, namespace)
                yield name, server
            finally:
                await pair.virtual.delete("pods", name, namespace, grace=0)
