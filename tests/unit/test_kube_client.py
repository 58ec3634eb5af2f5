"""The client on the wire: what goes out, and what comes of every kind of answer and of none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from controlplane.certificates import Authority
from syncer.kube.access import Access, Files, Tls
from syncer.kube.client import MAX_ERROR_BODY, Client
from syncer.kube.config import ConnectionConfig
from syncer.kube.errors import ApiError, TransportError
from syncer.objects import Object

PATH = "/api/v1/namespaces/a/configmaps"
SECRET = "s3cr3t"


@dataclass
class Request:
    """A request as it came: the head's first line, headers (lower case) and body."""

    line: str
    headers: dict[str, str]
    body: bytes


Answer = bytes | Callable[["Wire"], Awaitable[None]]


@dataclass
class Wire:
    """A TCP server that answers the n-th request with the n-th answer, byte for byte.

    An answer is bytes, or a function that does with the connection as it likes.
    """

    answers: list[Answer]
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    peer: dict[str, object] | None = None
    writer: asyncio.StreamWriter | None = None
    reader: asyncio.StreamReader | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        self.reader, self.writer = reader, writer
        self.peer = writer.get_extra_info("peercert")
        try:
            while True:
                self.requests.append(await self._request(reader))
                answer = self.answers[len(self.requests) - 1]
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(self)
                if writer.is_closing():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended.set()
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> Request:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.rstrip().split("\r\n")
        headers = {key.lower(): value for key, value in (each.split(": ", 1) for each in rest)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Request(line, headers, body)

    async def send(self, *chunks: bytes) -> None:
        """Send chunks of an answer to a GET."""
        assert self.writer is not None
        for chunk in chunks:
            self.writer.write(chunk)
            await self.writer.drain()

    async def hang(self) -> None:
        """Keep silent until the client closes the connection."""
        assert self.reader is not None
        await self.reader.read()
        raise ConnectionError


@asynccontextmanager
async def wire(*answers: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    made = Wire(list(answers))
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


def answer(
    status: int, body: bytes | dict[str, object] = b"", *headers: str, length: int | None = None
) -> bytes:
    """Give the bytes of an answer; ``length`` is a lie about the body."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    size = len(content) if length is None else length
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {size}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def status(code: int, reason: str, message: str = "because") -> bytes:
    return answer(code, {"kind": "Status", "reason": reason, "message": message})


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


@dataclass
class Observed:
    """Remembers what the observer was told."""

    seen: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, verb: str, code: int, seconds: float) -> None:
        """Take one observation."""
        assert 0 <= seconds < 60
        self.seen.append((verb, code))


@asynccontextmanager
async def client_of(
    port: int, *tokens: str, observer: Observed | None = None, path: str = ""
) -> AsyncIterator[Client]:
    """Give a client whose configuration has a further token each time it is read anew."""
    left = list(tokens)

    def read(files: Files) -> Access:
        token = left.pop(0) if left else ""
        return Access(f"http://127.0.0.1:{port}{path}", authorization=token and f"Bearer {token}")

    class Changing(Files):
        def changed(self) -> bool:
            return bool(left)

    config = ConnectionConfig(read)
    config._files = Changing()
    client = Client(config, observer=observer, now=lambda: 1_790_000_000.0)
    try:
        yield client
    finally:
        await client.close()


async def drain(
    client: Client, read_timeout: float, total: float | None = None, pause: float = 0.0
) -> bytes:
    """Read a stream to its end, with a pause after each chunk."""
    found = b""
    async with client.stream(PATH, read_timeout=read_timeout, total=total) as chunks:
        async for each in chunks:
            found += each
            await asyncio.sleep(pause)
    return found


# -- what goes out ----------------------------------------------------------------------------


async def test_request_on_the_wire() -> None:
    """A write carries its body as compact JSON, its type, the token, and nothing unasked for."""
    async with wire(answer(200, b"{}")) as server, client_of(server.port, "t") as client:
        body = {"data": {"k": "ü"}}
        params = {"fieldManager": "a b&c", "dryRun": "All"}
        kind = "application/merge-patch+json"
        found = await client.request(
            "PATCH", f"{PATH}/a%2Fb", params=params, body=body, content_type=kind
        )
    assert found == b"{}"
    (request,) = server.requests
    assert request.line == f"PATCH {PATH}/a%2Fb?fieldManager=a%20b%26c&dryRun=All HTTP/1.1"
    assert request.body == '{"data":{"k":"ü"}}'.encode()
    assert request.headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "vcluster-syncer",
        "authorization": "Bearer t",
        "content-type": kind,
        "content-length": str(len(request.body)),
    }


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        pytest.param(None, b"", id="none"),
        pytest.param(b"as it is", b"as it is", id="bytes"),
        pytest.param([{"op": "test"}], b'[{"op":"test"}]', id="list"),
        pytest.param({}, b"{}", id="empty map"),
        pytest.param(b"x" * (3 << 20), b"x" * (3 << 20), id="3 MB"),
    ],
)
async def test_bodies(body: bytes | list[object] | None, sent: bytes) -> None:
    """Bodies go out as they are or as JSON, large ones too; without one there is no type."""
    async with wire(answer(201)) as server, client_of(server.port) as client:
        await client.request("POST", PATH, body=body)
    (request,) = server.requests
    assert sent == request.body
    assert ("content-type" in request.headers) == (body is not None)


async def test_server_with_a_path() -> None:
    """Paths are below the path of the server's URL."""
    async with wire(answer(200)) as server, client_of(server.port, path="/k8s/c") as client:
        await client.request("GET", "/version")
    assert server.requests[0].line == "GET /k8s/c/version HTTP/1.1"


async def test_connections_are_kept() -> None:
    """Requests one after the other, refused ones too, use one connection; cookies are not kept."""
    answers = (answer(200, b"a", "Set-Cookie: a=b"), status(404, "NotFound"), answer(200, b"c"))
    async with wire(*answers) as server, client_of(server.port) as client:
        assert await client.request("GET", PATH) == b"a"
        with pytest.raises(ApiError):
            await client.request("GET", PATH)
        assert await client.request("GET", PATH) == b"c"
        assert server.connections == 1
        assert "cookie" not in server.requests[2].headers


async def test_the_servers_clock_is_its_answers() -> None:
    """Its time is the last good answer's date and what has passed since; ours is no part of it."""
    answers = (
        answer(200),
        answer(200, b"", "Date: Thu, 01 Jan 2026 00:00:00 GMT"),
        answer(404, b"", "Date: Fri, 02 Jan 2026 00:00:00 GMT"),
        answer(200, b"", "Date: yesterday"),
    )
    async with wire(*answers) as server, client_of(server.port) as client:
        assert client.server_time() is None
        await client.request("GET", PATH)
        assert client.server_time() is None
        for succeeds in (True, False):
            with nullcontext() if succeeds else pytest.raises(ApiError):
                await client.request("GET", PATH)
            await asyncio.sleep(0.01)
            now = client.server_time()
            assert now is not None
            assert 0.01 <= now - 1767225600 < 60
        await client.request("GET", PATH)
        assert client.server_time() is None


async def test_environment_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Proxies and passwords of the environment are not used."""
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with wire(answer(200)) as server, client_of(server.port) as client:
        await client.request("GET", PATH)
    assert "authorization" not in server.requests[0].headers


# -- the last moment --------------------------------------------------------------------------


class StopError(Exception):
    """Raised by a check."""


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "kept connection"])
async def test_check_stops_a_write(warm: bool) -> None:
    """When the check raises, no byte of the request goes, and what it raised comes out."""
    observer = Observed()

    def check() -> None:
        raise StopError

    async with wire(answer(200), answer(200)) as server:
        async with client_of(server.port, observer=observer) as client:
            if warm:
                await client.request("GET", PATH)
            body: Object | None
            for body in ({}, None):
                with pytest.raises(StopError):
                    await client.request("POST", PATH, body=body, check=check)
        assert server.connections >= 1
        await asyncio.sleep(0.05)
    assert len(server.requests) == warm
    assert observer.seen == [("get", 200)] * warm


async def test_check_is_last() -> None:
    """The check comes after the wait for a connection, and again before a second sending."""
    moments: list[int] = []
    answers = (status(401, "Unauthorized"), answer(200))
    async with wire(*answers) as server, client_of(server.port, "a", "b") as client:
        await client.request(
            "POST", PATH, body={}, check=lambda: moments.append(server.connections)
        )
    # The server may not have taken notice of the new connection yet.
    assert len(moments) == 2
    assert moments[1] == 1


async def test_check_before_a_hidden_repetition() -> None:
    """Where aiohttp repeats a DELETE whose connection was closed, the check comes again."""
    moments: list[int] = []
    observer = Observed()
    async with (
        wire(close, answer(200)) as server,
        client_of(server.port, observer=observer) as client,
    ):
        await client.request("DELETE", PATH, check=lambda: moments.append(len(server.requests)))
    assert moments == [0, 1]
    assert observer.seen == [("delete", 200)]


# -- what comes back --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code", "reason", "message", "wait"),
    [
        pytest.param(
            status(409, "AlreadyExists", 'configmaps "x" already exists'),
            409, "AlreadyExists", 'configmaps "x" already exists', None, id="Status",
        ),
        pytest.param(answer(404, b"404 page not found\n"), 404, "", "404 page not found", None,
                     id="text"),
        pytest.param(answer(503), 503, "", "", None, id="nothing"),
        pytest.param(answer(429, b"", "Retry-After: 3"), 429, "", "", 3.0, id="Retry-After"),
        pytest.param(
            answer(503, b"", "Retry-After: Mon, 21 Sep 2026 14:13:50 GMT"),
            503, "", "", 30.0, id="Retry-After as a date",
        ),
        pytest.param(
            answer(302, b"Found", "Location: http://127.0.0.1:1/x"),
            302, "", "redirects are not followed; is the URL of the server right?", None,
            id="redirect",
        ),
        pytest.param(answer(304), 304, "", "redirects are not followed; is the URL of the server "
                     "right?", None, id="not modified"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streaming", [False, True], ids=["request", "stream"])
async def test_refusals(
    sent: bytes, code: int, reason: str, message: str, wait: float | None, streaming: bool
) -> None:
    """Whatever is no 2xx is an ApiError with status, reason, message and wait; sent once."""
    observer = Observed()
    async with wire(sent) as server, client_of(server.port, observer=observer) as client:
        with pytest.raises(ApiError) as caught:
            await (drain(client, 5) if streaming else client.request("GET", PATH))
    error = caught.value
    found = (error.status, error.reason, error.message, error.retry_after, error.attempt)
    assert (code, reason, message, wait, f"GET {PATH}") == found
    assert observer.seen == [("watch" if streaming else "get", code)]
    assert len(server.requests) == 1


async def test_huge_error() -> None:
    """Of a huge refusal only the beginning is read, and its connection is not used again."""
    huge = answer(500, b"x" * MAX_ERROR_BODY * 8, length=1 << 40)
    async with wire(huge, answer(200)) as server, client_of(server.port) as client:
        with pytest.raises(ApiError) as caught:
            await client.request("GET", PATH)
        assert len(str(caught.value)) < 1000
        await client.request("GET", PATH)
        assert server.connections == 2


async def test_errors_show_no_secret() -> None:
    """Neither body nor query nor token of a request is in an error."""
    answers = (answer(500), answer(200, b"", length=9))
    async with wire(*answers) as server, client_of(server.port, SECRET) as client:
        for kind in (ApiError, TransportError):
            with pytest.raises(kind) as caught:
                await client.request(
                    "POST", PATH, body={"a": SECRET}, params={"p": SECRET}, timeout=1
                )
            assert SECRET not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "PUT", "DELETE"])
async def test_unauthorized_is_repeated(method: str) -> None:
    """A 401 is sent once more with fresh credentials, a write too: it was not executed."""
    observer = Observed()
    answers = (status(401, "Unauthorized"), answer(200, b"{}"))
    async with (
        wire(*answers) as server,
        client_of(server.port, "old", "new", observer=observer) as client,
    ):
        assert await client.request(method, PATH, body={"a": 1}) == b"{}"
    assert [each.headers["authorization"] for each in server.requests] == [
        "Bearer old",
        "Bearer new",
    ]
    assert [each.body for each in server.requests] == [b'{"a":1}'] * 2
    assert [code for _, code in observer.seen] == [401, 200]


@pytest.mark.parametrize(
    ("tokens", "sent"),
    [
        pytest.param(("same",), 1, id="nothing new: not repeated"),
        pytest.param(("old", "new", "newer"), 2, id="refused again: not repeated again"),
    ],
)
async def test_unauthorized_stays(tokens: tuple[str, ...], sent: int) -> None:
    """A 401 that stays comes out as an ApiError, after one repetition at most."""
    answers = [status(401, "Unauthorized")] * 3
    async with wire(*answers) as server, client_of(server.port, *tokens) as client:
        with pytest.raises(ApiError) as caught:
            await client.request("GET", PATH)
    assert caught.value.unauthorized
    assert len(server.requests) == sent


# -- no answer --------------------------------------------------------------------------------


async def reset(server: Wire) -> None:
    assert server.writer is not None
    server.writer.transport.abort()


async def close(server: Wire) -> None:
    assert server.writer is not None
    server.writer.close()


async def trickle(server: Wire) -> None:
    """Send a byte of the body from time to time, for ever."""
    await server.send(answer(200, b"", length=1 << 30))
    while True:
        await server.send(b"x")
        await asyncio.sleep(0.02)


def cut(content: bytes) -> Answer:
    async def send(server: Wire) -> None:
        await server.send(content)
        await close(server)

    return send


ENDLESS = (Wire.hang, trickle)
NO_ANSWERS = [
    pytest.param(reset, id="reset"),
    pytest.param(close, id="closed"),
    pytest.param(Wire.hang, id="silence"),
    pytest.param(cut(b"HTTP/1.1 200 OK\r\nContent-"), id="cut head"),
    pytest.param(cut(answer(200, b"{", length=10)), id="cut body"),
    pytest.param(cut(CHUNKED + chunk(b"{")), id="cut chunks"),
    pytest.param(cut(answer(500, b"{", length=10)), id="cut refusal"),
    pytest.param(cut(b"220 mail.example ESMTP\r\n\r\n"), id="no HTTP"),
    pytest.param(cut(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 99999 + b"\r\n\r\n"), id="long head"),
    pytest.param(trickle, id="byte by byte"),
]


@pytest.mark.parametrize("lost", NO_ANSWERS)
async def test_no_complete_answer(lost: Answer) -> None:
    """Without a complete answer in time a write is a TransportError, and not sent again."""
    observer = Observed()
    async with wire(lost, lost) as server, client_of(server.port, observer=observer) as client:
        with pytest.raises(TransportError) as caught:
            await client.request("POST", PATH, body={}, timeout=1 if lost in ENDLESS else 30)
    assert caught.value.attempt == f"POST {PATH}"
    assert observer.seen == [("create", 0)]
    assert len(server.requests) == 1


async def test_late_answer() -> None:
    """Out of time says so, is a TimeoutError inside, and closes the connection."""
    async with wire(Wire.hang) as server, client_of(server.port) as client:
        with pytest.raises(TransportError) as caught:
            await client.request("GET", PATH, timeout=1)
        assert str(caught.value) == (f"GET {PATH}: no answer: TimeoutError: not complete after 1 s")
        assert isinstance(caught.value.cause, TimeoutError)
        async with asyncio.timeout(30):
            await server.ended.wait()


async def test_nobody_listens() -> None:
    """A server that isn't there is a TransportError; so is a client that was closed."""
    async with wire() as server:
        pass
    async with client_of(server.port) as client:
        with pytest.raises(TransportError, match="Connect call failed"):
            await client.request("GET", PATH)
    for _ in range(2):
        with pytest.raises(TransportError, match="the client is closed"):
            await client.request("GET", PATH)


async def test_cancelled_request() -> None:
    """Cancelling a request closes its connection and is not made into another error."""
    async with wire(Wire.hang) as server, client_of(server.port) as client:
        task = asyncio.create_task(client.request("POST", PATH, body={}))
        async with asyncio.timeout(30):
            while not server.requests:  # noqa: ASYNC110 - the other end of a socket
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.ended.wait()


async def test_outer_deadline() -> None:
    """A caller's own deadline comes out as its TimeoutError, not as a TransportError."""
    async with wire(Wire.hang) as server, client_of(server.port) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.request("GET", PATH)


# -- streams ----------------------------------------------------------------------------------


async def test_stream() -> None:
    """A stream gives all bytes in order, as they come, and ends with the answer."""

    async def send(server: Wire) -> None:
        await server.send(CHUNKED, chunk(b'{"a":'))
        await asyncio.sleep(0.05)
        await server.send(chunk(b"1}\n"), chunk(b"x" * 500_000), b"0\r\n\r\n")

    observer = Observed()
    params = {"watch": "1", "labelSelector": "a=b"}
    async with (
        wire(send, answer(200)) as server,
        client_of(server.port, observer=observer) as client,
    ):
        async with client.stream(PATH, params=params, read_timeout=5) as chunks:
            found = [each async for each in chunks]
        await client.request("GET", PATH)
        assert server.connections == 1
    assert server.requests[0].line == f"GET {PATH}?watch=1&labelSelector=a%3Db HTTP/1.1"
    assert b"".join(found) == b'{"a":1}\n' + b"x" * 500_000
    assert len(found) > 1
    assert observer.seen == [("watch", 200), ("get", 200)]


@pytest.mark.parametrize("lost", NO_ANSWERS[:3] + NO_ANSWERS[4:6])
async def test_lost_stream(lost: Answer) -> None:
    """A stream that breaks, or is silent for too long, ends with a TransportError."""
    async with wire(lost, lost) as server, client_of(server.port) as client:
        with pytest.raises(TransportError) as caught:
            await drain(client, 0.2)
    assert caught.value.attempt == f"GET {PATH}"


async def test_silent_stream() -> None:
    """Silence in a stream is a TransportError with a TimeoutError inside."""

    async def send(server: Wire) -> None:
        await server.send(CHUNKED)
        for _ in range(8):  # longer in all than the deadline
            await server.send(chunk(b"x"))
            await asyncio.sleep(0.1)
        await server.hang()

    async with wire(send) as server, client_of(server.port) as client:
        started = asyncio.get_running_loop().time()
        with pytest.raises(TransportError, match=r"silent for 0\.6 s") as caught:
            await drain(client, 0.6)
    assert asyncio.get_running_loop().time() - started > 1.2
    assert isinstance(caught.value.cause, TimeoutError)


@pytest.mark.parametrize("slow", [False, True], ids=["quick reader", "slow reader"])
async def test_stream_that_lasts_too_long(slow: bool) -> None:
    """A stream is cut after its total time, even while bytes come."""
    async with wire(trickle) as server, client_of(server.port) as client:
        with pytest.raises(TransportError, match="lasts too long") as caught:
            await drain(client, 5, total=0.3, pause=0.1 * slow)
    assert isinstance(caught.value.cause, TimeoutError)


async def test_slow_reader_is_no_silence() -> None:
    """The time that the reader takes between two chunks doesn't count as silence."""

    async def send(server: Wire) -> None:
        await server.send(CHUNKED, chunk(b"a"))
        await asyncio.sleep(0.1)
        await server.send(chunk(b"b"), b"0\r\n\r\n")

    async with wire(send) as server, client_of(server.port) as client:
        assert await drain(client, 0.5, pause=0.6) == b"ab"


@pytest.mark.parametrize("how", ["left", "raised", "cancelled"])
async def test_left_stream(how: str) -> None:
    """Leaving a stream in the middle closes its connection; it is never used again."""
    reading = asyncio.Event()

    async def read(client: Client) -> None:
        async with client.stream(PATH, read_timeout=5) as chunks:
            async for _ in chunks:
                reading.set()
                if how == "left":
                    break
                if how == "raised":
                    raise StopError

    async with wire(trickle, answer(200)) as server, client_of(server.port) as client:
        task = asyncio.create_task(read(client))
        await reading.wait()
        if how == "cancelled":
            task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(
            result,
            {"left": type(None), "raised": StopError, "cancelled": asyncio.CancelledError}[how],
        )
        async with asyncio.timeout(30):
            await server.ended.wait()
            await client.request("GET", PATH)
        assert server.connections == 2


async def test_unauthorized_stream_is_repeated() -> None:
    """A stream answered 401 is opened once more with fresh credentials."""
    answers = (status(401, "Unauthorized"), answer(200, b"x"))
    async with wire(*answers) as server, client_of(server.port, "old", "new") as client:
        assert await drain(client, 5) == b"x"
    assert server.requests[1].headers["authorization"] == "Bearer new"


# -- TLS --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the authorities ca and other, a server named there, and two clients."""
    directory = tmp_path_factory.mktemp("pki")
    authority = Authority.create(directory, "ca")
    Authority.create(directory, "other")
    authority.server(directory, "there", ["there.example"])
    authority.client(directory, "first", "first")
    authority.client(directory, "second", "second")
    return directory


def served(pki: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "there.crt", pki / "there.key")
    context.load_verify_locations(pki / "ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@asynccontextmanager
async def tls_client(
    port: int, name: str, pki: Path, authority: str, *users: str
) -> AsyncIterator[Client]:
    left = list(users)

    def read(files: Files) -> Access:
        user = left.pop(0) if left else ""
        certificate, key = ((pki / f"{user}.{end}").read_bytes() for end in ("crt", "key"))
        tls = Tls((pki / f"{authority}.crt").read_bytes(), True, certificate, key)
        return Access(f"https://127.0.0.1:{port}", name, tls)

    class Changing(Files):
        def changed(self) -> bool:
            return bool(left)

    config = ConnectionConfig(read)
    config._files = Changing()
    client = Client(config)
    try:
        yield client
    finally:
        await client.close()


async def test_tls_server_name(pki: Path) -> None:
    """The server's certificate is checked against the configured name, and we are who we are."""
    async with (
        wire(answer(200), tls=served(pki)) as server,
        tls_client(server.port, "there.example", pki, "ca", "first") as client,
    ):
        await client.request("GET", PATH)
        assert server.peer is not None
        assert "first" in str(server.peer["subject"])
        assert server.writer is not None
        ssl_object = server.writer.get_extra_info("ssl_object")
        assert ssl_object.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize(
    ("name", "authority", "words"),
    [
        pytest.param("", "ca", "IP address mismatch", id="not the name"),
        pytest.param("there.example", "other", "self-signed certificate in", id="other authority"),
    ],
)
async def test_wrong_server(pki: Path, name: str, authority: str, words: str) -> None:
    """A server that isn't the one configured gets no request."""
    async with (
        wire(answer(200), tls=served(pki)) as server,
        tls_client(server.port, name, pki, authority, "first") as client,
    ):
        with pytest.raises(TransportError, match=f"no answer: SSLCertVerificationError: .*{words}"):
            await client.request("GET", PATH)
    assert server.requests == []


async def test_rotated_certificate_gets_a_new_connection(pki: Path) -> None:
    """After a 401 with a new certificate there, the request goes over a new connection with it."""
    answers = (status(401, "Unauthorized"), answer(200))
    async with (
        wire(*answers, tls=served(pki)) as server,
        tls_client(server.port, "there.example", pki, "ca", "first", "second") as client,
    ):
        await client.request("POST", PATH, body={})
        assert server.connections == 2
        assert server.peer is not None
        assert "second" in str(server.peer["subject"])
