"""Streams through the endpoint, byte by byte: WebSockets of every version, SPDY, raw upgrades."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from multidict import CIMultiDict

from tests.integration.endpoint import (
    SECONDS,
    Caller,
    administrator,
    caller,
    grant,
    open_connections,
    open_websocket,
    running_pod,
    service_account,
    through,
    tls_of,
    websocket,
)
from tests.integration.harness import Pair, eventually

STDIN, STDOUT, STDERR, STATUS, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
KEY = "AQIDBAUGBwgJCgsMDQ4PEA=="
ACCEPTED = "C/0nmHhBztSRGR1CwL6Tf4ZjwpY="  # what RFC 6455 makes of that key
TUNNELS = 12
LEFT = 5


@pytest.fixture(scope="module")
async def place(pair: Pair) -> AsyncIterator[str]:
    """A namespace with a pod `web` that runs."""
    async with running_pod(pair) as namespace:
        yield namespace


@pytest.fixture(scope="module", autouse=True)
async def nothing_failed(pair: Pair) -> AsyncIterator[None]:
    """See that whatever the tests here did, no request failed for a reason of the syncer's own."""
    before = len(pair.syncer.log_lines())
    yield
    lines = pair.syncer.log_lines()[before:]
    assert [line for line in lines if line.get("event") == "request failed"] == []


def path(namespace: str, subresource: str, name: str = "web", **parameters: Any) -> str:
    """Return path and query of a pod's stream; a parameter may have several values."""
    query = urlencode(parameters, doseq=True)
    return f"/api/v1/namespaces/{namespace}/pods/{name}/{subresource}?{query}"


def command(namespace: str, *words: str, name: str = "web", **parameters: str) -> str:
    """Return path and query of an exec."""
    streams = {"stdout": "1", "stderr": "1"} | parameters
    return path(namespace, "exec", name, command=words, **streams)


@dataclass
class Heard:
    """What came over a WebSocket until it ended.

    Attributes:
        parts: bytes by channel.
        protocol: the subprotocol that the server chose.
    """

    parts: dict[int, bytes] = field(default_factory=dict)
    protocol: str | None = None

    def take(self, message: aiohttp.WSMessage) -> None:
        """Add a message, in whichever of the two codings."""
        data = message.data
        if isinstance(data, str):  # the channel is a digit
            channel, content = int(data[0]), base64.b64decode(data[1:])
        else:
            channel, content = data[0], data[1:]
        self.parts[channel] = self.parts.get(channel, b"") + content

    @property
    def told(self) -> tuple[object, ...]:
        """All that has to be the same whichever way one asks."""
        return self.protocol, {key: value for key, value in self.parts.items() if value}


async def hear(opened: aiohttp.ClientWebSocketResponse) -> Heard:
    """Read a WebSocket to its end."""
    heard = Heard(protocol=opened.protocol)
    async for message in opened:
        heard.take(message)
    return heard


# WebSockets


OFFERS: dict[str, tuple[str, ...]] = {
    "v5": ("v5.channel.k8s.io",),
    "v4": ("v4.channel.k8s.io",),
    "v1": ("channel.k8s.io",),
    "v4-base64": ("v4.base64.channel.k8s.io",),
    "v1-base64": ("base64.channel.k8s.io",),
    "several": ("v5.channel.k8s.io", "v4.channel.k8s.io"),
    "old-first": ("v4.channel.k8s.io", "v5.channel.k8s.io"),
    "none": (),
}


@pytest.mark.parametrize("offered", OFFERS.values(), ids=OFFERS.keys())
async def test_each_subprotocol_is_spoken_as_by_the_host(
    pair: Pair, place: str, offered: tuple[str, ...]
) -> None:
    """Choice of subprotocol, output, errors and status are those of the host's API server."""
    name, namespace = pair.host_name("web", place), pair.names.host_namespace
    words = ("sh", "-c", "echo out; echo err >&2")
    headers = CIMultiDict({"Origin": "http://localhost"})
    host = pair.host.plane
    heard = []
    for url, tls in (
        (host.server + command(namespace, *words, name=name), host.pki.client_context()),
        (pair.syncer.endpoint + command(place, *words), tls_of(pair, administrator(pair))),
    ):
        async with open_websocket(url, offered, tls, headers) as opened:
            heard.append(await hear(opened))
    assert heard[0].told == heard[1].told
    assert heard[1].parts[STDOUT] == b"out\n"
    assert heard[1].parts[STDERR] == b"err\n"
    if STATUS in heard[1].parts:
        assert json.loads(heard[1].parts[STATUS])["status"] == "Success"


async def test_standard_input_can_be_closed(pair: Pair, place: str) -> None:
    """Version 5 closes one channel while the others go on."""
    target = command(place, "sh", "-c", "head -c 5; echo; sleep 0.3; echo after", stdin="1")
    async with websocket(pair, target, "v5.channel.k8s.io") as opened:
        await opened.send_bytes(bytes([STDIN]) + b"hello")
        await opened.send_bytes(bytes([CLOSE, STDIN]))
        heard = await hear(opened)
    assert heard.parts[STDOUT] == b"hello\nafter\n"
    assert json.loads(heard.parts[STATUS])["status"] == "Success"


async def test_base64_takes_standard_input(pair: Pair, place: str) -> None:
    """Browsers' coding: a digit for the channel, then text."""
    target = command(place, "head", "-c", "5", stdin="1")
    async with websocket(pair, target, "v4.base64.channel.k8s.io") as opened:
        await opened.send_str(f"{STDIN}{base64.b64encode(bytes(range(250, 255))).decode()}")
        heard = await hear(opened)
    assert heard.parts[STDOUT] == bytes(range(250, 255))


async def test_a_failure_is_told_on_the_status_channel(pair: Pair, place: str) -> None:
    """A command that fails, and one that is not there."""
    for words in (("sh", "-c", "exit 7"), ("no-such-command",)):
        async with websocket(pair, command(place, *words), "v4.channel.k8s.io") as opened:
            status = json.loads((await hear(opened)).parts[STATUS])
        assert status["status"] == "Failure"
        assert words[0] in status["message"]
        assert pair.names.host_namespace not in status["message"]


async def test_a_terminal_is_resized_over_its_channel(pair: Pair, place: str) -> None:
    """Sizes go on a channel of their own."""
    words = ("sh", "-c", "while read go; do stty size; done")
    target = command(place, *words, stdin="1", tty="1", stderr="0")
    async with websocket(pair, target, "v5.channel.k8s.io") as opened:
        size = json.dumps({"Width": 123, "Height": 45}).encode()
        await opened.send_bytes(bytes([RESIZE]) + size)
        seen = b""
        while b"45 123" not in seen:  # it may read before it is resized
            await opened.send_bytes(bytes([STDIN]) + b"go\n")
            async with asyncio.timeout(SECONDS):
                seen += (await opened.receive_bytes())[1:]


async def test_a_browser_brings_its_token_as_a_subprotocol(pair: Pair, place: str) -> None:
    """The token authenticates, and neither the host nor the answer shows it."""
    robot, _ = await service_account(pair.virtual, "browser", place)
    rule = {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}
    await grant(pair.virtual, f"{place}:browser", rule, namespace=place, kind="ServiceAccount")
    coded = base64.urlsafe_b64encode(robot.token.encode()).decode().rstrip("=")
    bearer = f"base64url.bearer.authorization.k8s.io.{coded}"
    nobody = Caller()

    async def spoken() -> Heard:
        try:
            async with websocket(
                pair, command(place, "echo", "hi"), bearer, "v4.channel.k8s.io", who=nobody
            ) as opened:
                return await hear(opened)
        except aiohttp.WSServerHandshakeError as error:  # until the right is there
            raise AssertionError(str(error)) from error

    heard = await eventually(spoken)
    assert (heard.protocol, heard.parts[STDOUT]) == ("v4.channel.k8s.io", b"hi\n")
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with websocket(
            pair, command(place, "echo"), f"{bearer}x", "v4.channel.k8s.io", who=nobody
        ):
            pass
    assert refused.value.status == 401


async def test_a_port_is_forwarded_over_a_websocket(pair: Pair, place: str) -> None:
    """Data and error channels, each led in by the port's number, as the host has them."""
    target = path(place, "portforward", ports="80")
    async with websocket(pair, target, "v4.channel.k8s.io") as opened:
        for channel in (0, 1):
            assert (await opened.receive_bytes()) == bytes([channel, 80, 0])
        sent = b"to and fro" * 1000
        await opened.send_bytes(b"\x00" + sent)
        back = b""
        while len(back) < len(sent):
            message = await opened.receive_bytes()
            assert message[0] == 0
            back += message[1:]
    assert back == sent


@pytest.mark.parametrize("offered", [(), ("binary.k8s.io",), ("base64.binary.k8s.io",)])
async def test_a_log_can_be_a_websocket(pair: Pair, place: str, offered: tuple[str, ...]) -> None:
    """As browsers read logs; the messages are those of the host's API server."""
    name, namespace = pair.host_name("web", place), pair.names.host_namespace
    headers = CIMultiDict({"Origin": "http://localhost"})
    host = pair.host.plane

    async def same_log() -> None:  # of which the host's other tenants may get lines meanwhile
        heard = []
        for url, tls in (
            (host.server + path(namespace, "log", name, tailLines=1), host.pki.client_context()),
            (
                pair.syncer.endpoint + path(place, "log", tailLines=1),
                tls_of(pair, administrator(pair)),
            ),
        ):
            async with open_websocket(url, offered, tls, headers) as opened:
                messages = [message.data async for message in opened]
                heard.append((opened.protocol, messages))
        assert heard[0] == heard[1]
        assert any(heard[1][1])

    await eventually(same_log)
    for wrong in ("v4.channel.k8s.io", "v9"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with websocket(pair, path(place, "log"), wrong):
                pass
        assert refused.value.status == 400


async def test_many_streams_at_once_keep_apart(pair: Pair, place: str) -> None:
    """Each of a dozen execs gets its own output, whole."""

    async def one(number: int) -> None:
        words = ("sh", "-c", f"for n in $(seq 2000); do echo {number}; done")
        async with websocket(pair, command(place, *words), "v5.channel.k8s.io") as opened:
            heard = await hear(opened)
        assert heard.parts[STDOUT] == f"{number}\n".encode() * 2000

    await asyncio.gather(*(one(number) for number in range(TUNNELS)))


# Ends


async def test_a_tunnel_ends_with_its_caller(pair: Pair, place: str) -> None:
    """Closed in order or broken off, no connection to the host is left of it."""
    assert pair.syncer.pid is not None
    host = pair.host.plane.server
    before = open_connections(pair.syncer.pid, host)
    target = command(place, "sh", "-c", "echo begun; sleep 20")
    for _ in range(LEFT):
        async with websocket(pair, target, "v5.channel.k8s.io") as opened:
            while b"begun" not in await opened.receive_bytes():  # each channel begins with nothing
                pass
    for _ in range(LEFT):
        async with raw(pair) as (reader, writer):
            writer.write(handshake(target))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert pair.syncer.running

    async def over() -> None:  # the syncer's own work opens one or two, and keeps them a while
        assert open_connections(pair.syncer.pid or 0, host) < before + LEFT

    await eventually(over)


async def test_endless_output_that_nobody_reads_costs_little(pair: Pair, place: str) -> None:
    """A tunnel holds what fits into its buffers; the command waits, and others go on."""
    await through(pair, "GET", "/version")
    before = pair.syncer.rss_bytes()
    stalled = []
    try:
        for _ in range(TUNNELS):
            reader, writer = await connect(pair)
            writer.write(handshake(command(place, "timeout", "20", "yes")))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            stalled.append(writer)
        for _ in range(10):
            async with websocket(pair, command(place, "echo", "hi"), "v5.channel.k8s.io") as opened:
                assert (await hear(opened)).parts[STDOUT] == b"hi\n"
            await asyncio.sleep(0.1)
        grown = pair.syncer.rss_bytes() - before
        assert grown < TUNNELS * 2_000_000, f"{grown / 1e6:.0f} MB"
    finally:
        for writer in stalled:
            writer.transport.abort()


# Raw upgrades


@asynccontextmanager
async def raw(
    pair: Pair, who: Caller | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the endpoint; break off on exit."""
    async with asyncio.timeout(SECONDS):
        reader, writer = await connect(pair, who)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


async def connect(
    pair: Pair, who: Caller | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the endpoint, as the administrator if nobody else."""
    tls = tls_of(pair, who or administrator(pair))
    return await asyncio.open_connection("127.0.0.1", pair.syncer.port, ssl=tls, limit=65536)


def handshake(target: str, *lines: str, method: str = "GET") -> bytes:
    """Return the head of an upgrade to a WebSocket, or to what the lines say."""
    fixed = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: Upgrade"]
    usual = ("Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")
    own = lines or (*usual, "Sec-WebSocket-Protocol: v5.channel.k8s.io")
    return "\r\n".join([*fixed, *own, "", ""]).encode()


def frame(content: bytes) -> bytes:
    """Return a client's binary frame, masked with zeros."""
    assert len(content) < 126
    return bytes([0x82, 0x80 | len(content)]) + b"\0\0\0\0" + content


async def test_what_follows_an_upgrade_at_once_is_not_lost(pair: Pair, place: str) -> None:
    """Frames in the same packet as the request reach the command."""
    target = command(place, "head", "-c", "5", stdin="1", stderr="0")
    async with raw(pair) as (reader, writer):
        writer.write(handshake(target) + frame(b"\0hello"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert f"Sec-Websocket-Accept: {ACCEPTED}".lower() in head.decode().lower()
        seen = b""
        while b"\x01hello" not in seen:
            piece = await reader.read(1000)
            assert piece, seen
            seen += piece


@pytest.mark.parametrize(
    ("lines", "target", "status"),
    [
        pytest.param((), "missing/exec?command=true&stdout=1", 404, id="no-such-pod"),
        pytest.param((), "web/exec?container=x&command=true", 400, id="no-such-container"),
        pytest.param(
            (
                "Upgrade: websocket",
                f"Sec-WebSocket-Key: {KEY}",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Protocol: v9.channel.k8s.io",
            ),
            "web/exec?command=true&stdout=1",
            400,
            id="no-such-subprotocol",
        ),
        pytest.param(
            ("Upgrade: h2c",), "web/exec?command=true&stdout=1", 400, id="no-such-protocol"
        ),
        pytest.param(
            ("Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v9.channel.k8s.io"),
            "web/exec?command=true&stdout=1",
            400,
            id="no-such-stream-version",
        ),
    ],
)
async def test_a_refused_upgrade_ends_the_connection(
    pair: Pair, place: str, lines: tuple[str, ...], target: str, status: int
) -> None:
    """The answer is a Status, and what was sent behind it is never taken for a request."""
    target = f"/api/v1/namespaces/{place}/pods/{target}"
    second = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with raw(pair) as (reader, writer):
        writer.write(handshake(target, *lines) + second)
        answer = await reader.read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert json.loads(body)["kind"] == "Status"
    assert pair.names.host_namespace.encode() not in answer


async def test_a_stream_needs_an_upgrade(pair: Pair, place: str) -> None:
    """Without one, exec, attach and port-forward are refused as API servers do."""
    for subresource, query in (
        ("exec", "command=true&stdout=1"),
        ("attach", "stdout=1"),
        ("portforward", "ports=80"),
    ):
        target = f"/api/v1/namespaces/{place}/pods/web/{subresource}?{query}"
        for method in ("GET", "POST"):
            answer = await through(pair, method, target)
            assert (answer.status, answer.json["message"]) == (400, "Upgrade request required")
        for method in ("PUT", "DELETE", "PATCH"):
            assert (await through(pair, method, target)).status == 405


async def test_old_kubectls_upgrade_is_agreed_to(pair: Pair, place: str) -> None:
    """SPDY: of the versions that a client repeats, the host's choice comes back."""
    target = command(place, "true")
    versions = [f"X-Stream-Protocol-Version: v{number}.channel.k8s.io" for number in (4, 3, 2)]
    async with raw(pair) as (reader, writer):
        lines = ("Upgrade: SPDY/3.1", *versions, "Content-Length: 0")
        writer.write(handshake(target, *lines, method="POST"))
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.startswith("http/1.1 101 ")
    assert "x-stream-protocol-version: v4.channel.k8s.io" in head
    assert "upgrade: spdy/3.1" in head


async def test_streams_need_the_right_to_create(pair: Pair, place: str) -> None:
    """To get `pods/exec` is not enough, whatever the method; to create it is."""
    rules = {
        f"getter-{place}": ["get", "list", "watch", "update", "patch"],
        f"creator-{place}": ["create"],
    }
    subresources = ["pods/exec", "pods/attach", "pods/portforward"]
    for user, verbs in rules.items():
        rule = {"apiGroups": [""], "resources": subresources, "verbs": verbs}
        await grant(pair.virtual, user, rule, namespace=place)
    targets = {
        "exec": command(place, "echo", "hi"),
        "attach": path(place, "attach", stdout="1"),
        "portforward": path(place, "portforward", ports="80"),
    }
    getter, creator = (caller(pair, user) for user in rules)

    async def agreed() -> None:
        for target in targets.values():
            async with raw(pair, creator) as (reader, writer):
                writer.write(handshake(target, *_UPGRADE_V4))
                assert (await reader.readline()).startswith(b"HTTP/1.1 101 ")

    await eventually(agreed)
    for subresource, target in targets.items():
        for method in ("GET", "POST"):
            async with raw(pair, getter) as (reader, writer):
                writer.write(handshake(target, *_UPGRADE_V4, method=method))
                answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 403 ")
            words = f'cannot create resource \\"pods/{subresource}\\"'
            assert words in answer.decode()


_UPGRADE_V4 = (
    "Upgrade: websocket",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: v4.channel.k8s.io",
)
