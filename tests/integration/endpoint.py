"""The tenant's endpoint as its users have it: kubectl, raw requests, terminals, WebSockets.

What is asked through the endpoint is asked straight of the virtual API server too, by the same
caller: that server is the oracle, and `same` compares the two answers.

    answer = await same(pair, "GET", "/api/v1/namespaces?limit=1")
    kubectl = Kubectl.of(pair, caller(pair, "jane", ["team"]))
    assert "hi" in (await kubectl.run("exec", "web", "--", "echo", "hi")).out
"""

import asyncio
import base64
import contextlib
import fcntl
import io
import os
import re
import signal
import ssl
import struct
import termios
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

from controlplane.certificates import Pair as Keys
from controlplane.syncer import parse_metrics
from tests.integration.harness import Cluster, Object, Pair, eventually, named, pod
from tests.integration.pod_steps import in_phase

SECONDS = 30.0
"""How long anything here may take: ten times what an idle machine needs."""

Header = tuple[str, str]


# -- who asks ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """Who a request is from; without anything, nobody.

    Attributes:
        certificate: client certificate.
        token: bearer token.
        headers: sent along with each request.
    """

    certificate: Keys | None = None
    token: str = ""
    headers: tuple[Header, ...] = ()

    def saying(self, *headers: Header) -> "Caller":
        """Return the same caller, sending these headers too."""
        return Caller(self.certificate, self.token, (*self.headers, *headers))


NOBODY = Caller()


def administrator(pair: Pair) -> Caller:
    """Return the virtual cluster's administrator."""
    return Caller(pair.virtual.plane.pki.admin)


def caller(pair: Pair, name: str, groups: Iterable[str] = ()) -> Caller:
    """Return a user of the virtual cluster by certificate."""
    return Caller(pair.virtual.plane.pki.user(name, list(groups)))


async def service_account(
    virtual: Cluster, name: str, namespace: str, **spec: Any
) -> tuple[Caller, Object]:
    """Return a service account's bearer, made when it isn't there, and the TokenRequest.

    Args:
        virtual: whose account.
        name: of the account.
        namespace: of the account.
        spec: of the TokenRequest.
    """
    if await virtual.find("serviceaccounts", name, namespace) is None:
        await virtual.create(named("ServiceAccount", name, namespace))
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    answer = await virtual.request("POST", path, body=request)
    return Caller(token=answer["status"]["token"]), answer


async def grant(
    virtual: Cluster, user: str, *rules: Object, namespace: str = "", kind: str = "User"
) -> None:
    """Let a user, group or `NAMESPACE:NAME` of an account do what RBAC rules say.

    It holds once the API server has noticed: look for it with `eventually`.
    """
    name = f"test-{uuid.uuid4().hex[:8]}"
    group = "rbac.authorization.k8s.io"
    scope = "" if namespace else "Cluster"
    version = f"{group}/v1"
    role = named(f"{scope}Role", name, namespace, apiVersion=version, rules=list(rules))
    subject: Object = {"kind": kind, "name": user, "apiGroup": group}
    if kind == "ServiceAccount":
        of, _, name_of = user.partition(":")
        subject = {"kind": kind, "namespace": of, "name": name_of}
    binding = named(
        f"{scope}RoleBinding",
        name,
        namespace,
        apiVersion=version,
        subjects=[subject],
        roleRef={"apiGroup": group, "kind": f"{scope}Role", "name": name},
    )
    await virtual.create(role)
    await virtual.create(binding)


# -- raw requests --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        status: HTTP status.
        headers: in order, names in lower case.
        body: as it was sent, but for the transfer's own coding.
    """

    status: int
    headers: tuple[Header, ...]
    body: bytes

    def header(self, name: str) -> str:
        """Return the value of a header, several joined by commas; "" without any."""
        return ", ".join(value for key, value in self.headers if key == name.lower())

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return orjson.loads(self.body)

    def told(self, ignoring: Iterable[str] = ()) -> tuple[int, tuple[Header, ...], bytes]:
        """All that has to be the same whichever way one asks, but for some headers.

        Not the words beside the status, which mean nothing (HTTP/2 has none), nor whether a body
        came in chunks: who has all of it may say its length.
        """
        ignored = _OF_ONE_ANSWER | set(ignoring) | (_FRAMING if self.body else set())
        steady = sorted(header for header in self.headers if header[0] not in ignored)
        return self.status, tuple(steady), self.body


_OF_ONE_ANSWER = frozenset({"date", "audit-id", "server", "connection", "keep-alive"})
_FRAMING = frozenset({"content-length", "transfer-encoding"})
_LARGE = 1 << 20  # bytes; aiohttp warns of larger bodies in one piece
_AUTOMATIC = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")


def tls_of(pair: Pair, who: Caller) -> ssl.SSLContext:
    """Return a TLS context that shows what the caller shows."""
    pki = pair.virtual.plane.pki
    return pki.client_context(who.certificate) if who.certificate else pki.anonymous_context()


def headers_of(who: Caller, headers: Iterable[Header] = ()) -> CIMultiDict[str]:
    """Return the headers of a caller's request."""
    own = [("Authorization", f"Bearer {who.token}")] if who.token else []
    return CIMultiDict([*own, *who.headers, *headers])


@asynccontextmanager
async def session(tls: ssl.SSLContext) -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a session that adds nothing to a request and changes nothing of an answer."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls, limit=0),
        auto_decompress=False,
        skip_auto_headers=_AUTOMATIC,
        timeout=aiohttp.ClientTimeout(),
        read_bufsize=1 << 20,
    ) as opened:
        yield opened


async def ask(
    pair: Pair,
    server: str,
    method: str,
    target: str,
    *,
    who: Caller | None = None,
    body: Any = None,
    headers: Iterable[Header] = (),
) -> Answer:
    """Ask a server, and return what it says.

    Args:
        pair: whose virtual cluster the server is, or leads to.
        server: URL, without a path.
        method: HTTP method.
        target: path and query, as they stand on the request line.
        who: the caller; the administrator if None.
        body: bytes, or whatever aiohttp takes.
        headers: of the request.
    """
    who = who or administrator(pair)
    if isinstance(body, bytes) and len(body) > _LARGE:
        body = io.BytesIO(body)
    async with (
        asyncio.timeout(SECONDS),
        session(tls_of(pair, who)) as opened,
        opened.request(
            method,
            URL(f"{server}{target}", encoded=True),
            data=body,
            headers=headers_of(who, headers),
            allow_redirects=False,
        ) as response,
    ):
        content = await response.read()
        found = tuple(
            (name.decode().lower(), value.decode()) for name, value in response.raw_headers
        )
        return Answer(response.status, found, content)


async def through(pair: Pair, method: str, target: str, **options: Any) -> Answer:
    """Ask the endpoint; options are those of `ask`."""
    return await ask(pair, pair.syncer.endpoint, method, target, **options)


async def straight(pair: Pair, method: str, target: str, **options: Any) -> Answer:
    """Ask the virtual API server; options are those of `ask`."""
    return await ask(pair, pair.virtual.plane.server, method, target, **options)


async def long_running(cluster: Cluster, *labels: str) -> float:
    """Return how many long requests an API server serves whose series has all these labels."""
    async with cluster.api.get("/metrics") as response:
        metrics = parse_metrics(await response.text())
    return sum(
        value
        for series, value in metrics.items()
        if series.startswith("apiserver_longrunning_requests{")
        and all(label in series for label in labels)
    )


async def same(
    pair: Pair,
    method: str,
    target: str,
    *,
    steady: Callable[[bytes], Any] = bytes,
    ignoring: Iterable[str] = (),
    **options: Any,
) -> Answer:
    """Ask both ways, see that the answers are the same to the byte, and return the endpoint's.

    Asks the virtual API server before and after, and takes the answer of either moment, for what
    changes meanwhile (the resource version of a list) may have changed already or not yet; what
    changed twice is asked again. So for requests that may be repeated.

    Args:
        pair: which.
        method: HTTP method.
        target: path and query.
        steady: takes out of a body what differs between two answers of one server.
        ignoring: names of headers that may differ.
        options: those of `ask`.
    """

    def told(answer: Answer) -> tuple[object, ...]:
        status, headers, body = answer.told(ignoring)
        return status, headers, steady(body)

    for _ in range(20):
        before = told(await straight(pair, method, target, **options))
        answer = await through(pair, method, target, **options)
        after = told(await straight(pair, method, target, **options))
        found = told(answer)
        if found in (before, after):
            return answer
        assert before != after, _difference(found, after)
        await asyncio.sleep(0.05)
    raise AssertionError(f"the server's own answers differ: {_difference(before, after)}")


def _difference(found: tuple[object, ...], expected: tuple[object, ...]) -> str:
    pairs = zip(found, expected, strict=True)
    return "; ".join(f"{str(a)[:1000]} != {str(b)[:1000]}" for a, b in pairs if a != b)


def without(*fields: str) -> Callable[[bytes], Any]:
    """Return what decodes a JSON body and drops fields, wherever they stand."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in fields}
        return [strip(item) for item in value] if isinstance(value, list) else value

    return lambda body: strip(orjson.loads(body))


def json_body(obj: Object) -> dict[str, Any]:
    """Return the options of `ask` that send an object as JSON."""
    return {"body": orjson.dumps(obj), "headers": (("Content-Type", "application/json"),)}


# -- kubectl -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Output:
    """What a command left.

    Attributes:
        status: exit status.
        out: standard output.
        err: standard error.
    """

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Kubectl:
    """kubectl for one user of one server.

    Attributes:
        binary: the command.
        kubeconfig: whose and where.
        namespace: "" for the default one.
        spdy: stream as kubectl of old did.
    """

    binary: Path
    kubeconfig: Path
    namespace: str = ""
    spdy: bool = False
    _environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pair: Pair,
        who: Caller | None = None,
        *,
        namespace: str = "",
        spdy: bool = False,
        straight: bool = False,
    ) -> Self:
        """Return the kubectl of a caller, the administrator if None.

        Args:
            pair: whose endpoint.
            who: the caller.
            namespace: where its commands work.
            spdy: stream as kubectl of old did.
            straight: ask the virtual API server itself.
        """
        plane = pair.virtual.plane
        server = plane.server if straight else pair.syncer.endpoint
        directory = plane.directory / "kubectl"
        directory.mkdir(exist_ok=True)
        path = directory / f"{uuid.uuid4().hex}.kubeconfig"
        path.write_bytes(kubeconfig(pair, server, who or administrator(pair)))
        websockets = str(not spdy).lower()
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(directory),
            "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": websockets,
            "KUBECTL_PORT_FORWARD_WEBSOCKETS": websockets,
        }
        return cls(plane.tools.kubectl, path, namespace, spdy, environment)

    async def run(self, *words: str, stdin: bytes = b"", fails: bool = False) -> Output:
        """Run a command to its end; fail the test unless it succeeds, or `fails`."""
        async with self.started(*words) as process, asyncio.timeout(SECONDS):
            out, err = await process.communicate(stdin)
        status = process.returncode or 0
        output = Output(status, out.decode(), err.decode())
        assert bool(status) == fails, output
        return output

    @asynccontextmanager
    async def started(
        self, *words: str, **streams: Any
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """Start a command; end it on exit if it still runs.

        Args:
            words: behind `kubectl`.
            streams: stdin, stdout and stderr in place of pipes.
        """
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
        process = await asyncio.create_subprocess_exec(
            self.binary,
            f"--kubeconfig={self.kubeconfig}",
            f"--cache-dir={self.kubeconfig.parent}/cache",
            *([f"--namespace={self.namespace}"] if self.namespace else []),
            *words,
            env=self._environment,
            **(pipes | streams),
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                # Reads what is left in the pipes, too, which otherwise nobody would close.
                await process.communicate()

    @asynccontextmanager
    async def terminal(
        self, *words: str, rows: int = 24, columns: int = 80
    ) -> AsyncIterator["Terminal"]:
        """Start a command in a terminal of its own; end it on exit if it still runs."""
        ours, theirs = os.openpty()
        try:
            _set_size(ours, rows, columns)
            streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
            async with self.started(*words, **streams) as process:
                with Terminal(ours, process).reading() as opened:
                    yield opened
        finally:
            os.close(ours)
            os.close(theirs)


def kubeconfig(pair: Pair, server: str, who: Caller) -> bytes:
    """Return a kubeconfig of a caller for a server."""
    pki = pair.virtual.plane.pki
    user: Object = {"token": who.token} if who.token else {}
    if who.certificate is not None:
        user["client-certificate-data"] = _encoded(who.certificate.certificate)
        user["client-key-data"] = _encoded(who.certificate.key)
    authority = _encoded(pki.server_ca.certificate)
    cluster = {"server": server, "certificate-authority-data": authority}
    return orjson.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": cluster}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "default", "context": {"cluster": "cluster", "user": "user"}}],
            "current-context": "default",
        }
    )


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


class Terminal:
    """A terminal with a command in it.

    Attributes:
        process: the command.
        seen: what it showed so far, line ends as they came.
    """

    def __init__(self, descriptor: int, process: asyncio.subprocess.Process) -> None:
        self._descriptor = descriptor
        self.process = process
        self.seen = ""

    @contextlib.contextmanager
    def reading(self) -> Any:
        """Read what the command shows while the body runs."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._descriptor, self._read)
        try:
            yield self
        finally:
            loop.remove_reader(self._descriptor)

    def type(self, text: str) -> None:
        """Type something."""
        os.write(self._descriptor, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Make the terminal's window another size."""
        _set_size(self._descriptor, rows, columns)
        self.process.send_signal(signal.SIGWINCH)

    async def shows(self, pattern: str) -> str:
        """Wait until it has shown what matches a pattern, and return the match."""

        def check() -> str:
            found = re.search(pattern, self.seen)
            assert found is not None, self.seen
            return found[0]

        return await eventually(check, timeout=SECONDS)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the command's end
            self.seen += os.read(self._descriptor, 65536).decode(errors="replace")


def _set_size(descriptor: int, rows: int, columns: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


# -- WebSockets ----------------------------------------------------------------------------------


@asynccontextmanager
async def websocket(
    pair: Pair,
    target: str,
    *protocols: str,
    who: Caller | None = None,
    straight: bool = False,
    headers: Iterable[Header] = (),
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Open a WebSocket.

    Args:
        pair: whose endpoint.
        target: path and query.
        protocols: subprotocols to choose from.
        who: the caller; the administrator if None.
        straight: ask the virtual API server itself.
        headers: of the request.

    Raises:
        aiohttp.WSServerHandshakeError: the server did not agree.
    """
    who = who or administrator(pair)
    server = pair.virtual.plane.server if straight else pair.syncer.endpoint
    fields = headers_of(who, headers)
    async with open_websocket(server + target, protocols, tls_of(pair, who), fields) as opened:
        yield opened


@asynccontextmanager
async def open_websocket(
    url: str, protocols: Iterable[str], tls: ssl.SSLContext, headers: Mapping[str, str]
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Open a WebSocket at any server; raises as `websocket`."""
    at = URL(url, encoded=True)
    async with (
        asyncio.timeout(SECONDS),
        session(tls) as made,
        made.ws_connect(at, protocols=protocols, headers=headers, max_msg_size=0) as opened,
    ):
        yield opened


# -- pods, memory, connections -------------------------------------------------------------------


@asynccontextmanager
async def running_pod(pair: Pair, name: str = "web", **fields: Any) -> AsyncIterator[str]:
    """Yield a new namespace with a pod that runs; delete it on exit.

    Args:
        pair: where.
        name: of the pod, which has the label `app` of that value.
        fields: of `harness.pod`.
    """
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    await pair.virtual.create(named("Namespace", namespace))
    try:
        await eventually(lambda: pair.virtual.get("serviceaccounts", "default", namespace))
        fields.setdefault("labels", {"app": name})
        await pair.virtual.create(pod(name, namespace, **fields))
        await in_phase(pair, name, namespace)
        yield namespace
    finally:
        await pair.virtual.delete("namespaces", namespace)


def open_connections(pid: int, server: str) -> int:
    """Return how many connections a process has to a server, by what the kernel says."""
    address = URL(server)
    host = struct.unpack("=I", bytes(map(int, str(address.host).split("."))))[0]
    remote = f"{host:08X}:{address.port:04X}"
    inodes = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2] == remote and fields[3] == "01":  # established
            inodes.add(f"socket:[{fields[9]}]")
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            count += str(descriptor.readlink()) in inodes
    return count
