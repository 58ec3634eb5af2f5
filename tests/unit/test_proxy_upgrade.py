"""Tunnels: agreed on by the server, then bytes both ways; refused, then the end of both."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from syncer.http1 import client
from syncer.http1.head import Header
from syncer.http1.server import Answer, Request
from syncer.http1.transport import prepare
from syncer.proxy import upgrade as module
from syncer.proxy.listener import Listener
from syncer.proxy.request import read
from syncer.proxy.upgrade import tunnel, wants_upgrade
from syncer.proxy.upstream import Upstream, headers_of
from syncer.settings import Address
from tests.unit.proxy_wire import (
    RENEWALS,
    SECONDS,
    Backend,
    End,
    Renewing,
    Script,
    always,
    ask,
    backend,
    by_token,
    caller,
    front,
    hanging,
    on_both_loops,
    tls_pair,
)

AGREED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: x\r\n\r\n"
)
WEBSOCKET = (
    b"GET /exec?a=b HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
)
AGREED_SPDY = AGREED.replace(b"websocket", b"SPDY/3.1")
SPDY = (
    b"POST /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class Tunnels:
    """A handler that makes tunnels."""

    def __init__(self, server: Backend, **options: Any) -> None:
        """Make it; options are for `tunnel`."""
        self.upstream = Upstream(server.config, name="the server")
        self.options = {"admin": False, **options}
        self.done: list[int] = []

    async def __call__(self, request: Request) -> Answer:
        """Pass an upgrade on."""
        headers = headers_of(request)
        sent = [h for h in headers if h[0].startswith("Sec-")]
        info = read(request.method, request.target)
        response = await tunnel(
            request, self.upstream, info, sent, wants_upgrade(headers), **self.options
        )
        self.done.append(response.status)
        return response


def agreeing(then: Script, agreed: bytes = AGREED) -> Script:
    """Agree, then go on."""

    async def script(end: End) -> None:
        await end.head()
        await end.say(agreed)
        await then(end)

    return script


@asynccontextmanager
async def tunnelled(script: Script) -> AsyncIterator[tuple[Backend, End]]:
    """Serve by a script, and call it through the endpoint."""
    async with (
        backend(script) as server,
        front(Tunnels(server)) as address,
        caller(address) as end,
    ):
        yield server, end


async def echo(end: End) -> None:
    """Give back what comes."""
    while piece := await end.reader.read(1 << 16):
        await end.say(piece)


# -- who wants one -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "protocol"),
    [
        pytest.param([], "", id="nothing"),
        pytest.param([("Upgrade", "websocket")], "", id="without Connection"),
        pytest.param([("Connection", "Upgrade")], "", id="without Upgrade"),
        pytest.param([("Connection", "keep-alive"), ("Upgrade", "websocket")], "", id="not named"),
        pytest.param([("Connection", "Upgraded"), ("Upgrade", "websocket")], "", id="another word"),
        pytest.param([("Connection", "Upgrade"), ("Upgrade", "h2c")], "", id="HTTP/2"),
        pytest.param([("Connection", "Upgrade"), ("Upgrade", "TLS/1.2")], "", id="TLS"),
        pytest.param(
            [("Connection", "Upgrade"), ("Upgrade", "websocket")], "websocket", id="WebSocket"
        ),
        pytest.param(
            [("upgrade", " SPDY/3.1 "), ("connection", "UPGRADE")], "SPDY/3.1", id="SPDY, case"
        ),
        pytest.param(
            [("Connection", "keep-alive,\tupgrade ,x"), ("Upgrade", "websocket")],
            "websocket",
            id="one of several words",
        ),
        pytest.param(
            [("Connection", "a"), ("Connection", "upgrade"), ("Upgrade", "websocket")],
            "websocket",
            id="in the second of two headers",
        ),
    ],
)
def test_who_wants_a_tunnel(headers: list[Header], protocol: str) -> None:
    """Both headers must say so, and only for the two protocols of Kubernetes' clients."""
    assert wants_upgrade(headers) == protocol


# -- agreed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "agreed"),
    [(WEBSOCKET, AGREED), (SPDY, AGREED_SPDY)],
    ids=["websocket", "spdy"],
)
@on_both_loops
async def test_bytes_go_both_ways(request_: bytes, agreed: bytes) -> None:
    """After the agreement, whatever one side says the other hears; then both ends are closed."""
    async with (
        backend(agreeing(echo, agreed)) as server,
        front(handler := Tunnels(server)) as address,
    ):
        async with caller(address) as end:
            await end.say(request_)
            head = await end.head()
            for piece in (
                b"\x00\xff\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                b"z" * 300_000,
            ):
                await end.say(piece)
                assert await end.read(len(piece)) == piece
        await server.idle()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert head.count(b"\r\nUpgrade: ") == 1
    assert agreed.split(b"\r\n")[2] in head.split(b"\r\n")
    assert head.count(b"Connection: Upgrade\r\n") == 1
    assert b"Sec-WebSocket-Accept: x\r\n" in head
    assert handler.done == [101]


@on_both_loops
async def test_the_server_is_asked_in_the_callers_words() -> None:
    """Method, target and the headers given; those of the connection are our own."""
    heads = []

    async def script(end: End) -> None:
        heads.append(await end.head())
        await end.say(AGREED_SPDY if b"SPDY" in heads[-1] else AGREED)

    async with backend(script) as server, front(Tunnels(server)) as address:
        for request in (WEBSOCKET, SPDY):
            assert (await ask(address, request)).startswith(b"HTTP/1.1 101 ")
    host = server.config.server.removeprefix("http://").encode()
    assert heads == [
        b"GET /exec?a=b HTTP/1.1\r\nHost: " + host + b"\r\nSec-WebSocket-Key: k\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST /exec HTTP/1.1\r\nHost: " + host + b"\r\n"
        b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n",
    ]


@pytest.mark.parametrize("cut", range(len(AGREED) - 4, len(AGREED) + 6, 3))
@on_both_loops
async def test_what_comes_right_behind_the_agreement_is_not_lost(cut: int) -> None:
    """Wherever the server's first bytes are cut."""
    said = AGREED + b"early"

    async def script(end: End) -> None:
        await end.head()
        await end.say(said[:cut])
        await asyncio.sleep(0.02)
        await end.say(said[cut:] + b", late")

    async with backend(script) as server, front(Tunnels(server)) as address:
        assert (await ask(address, WEBSOCKET)).endswith(b"\r\n\r\nearly, late")


@on_both_loops
async def test_what_a_caller_sends_before_the_agreement_is_not_lost() -> None:
    """The first bytes of a WebSocket may come with its request, or while the server thinks."""
    asked = asyncio.Event()

    async def script(end: End) -> None:
        await end.head()
        asked.set()
        await asyncio.sleep(0.05)
        await end.say(AGREED)
        await echo(end)

    async with tunnelled(script) as (_, end):
        await end.say(WEBSOCKET + b"early, ")
        await asked.wait()
        await end.say(b"soon")
        await end.head()
        assert await end.read(11) == b"early, soon"


@on_both_loops
async def test_an_interim_answer_is_not_the_answer() -> None:
    """100 and 103 may come first; their headers are not the agreement's."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: a\r\n\r\n"
    async with tunnelled(agreeing(echo, interim + AGREED)) as (_, end):
        await end.say(WEBSOCKET)
        assert b"Link" not in await end.head()


@pytest.mark.parametrize("how", ["close", "cut"])
@pytest.mark.parametrize("side", ["server", "caller"])
@on_both_loops
async def test_when_one_side_goes_so_does_the_other(side: str, how: str) -> None:
    """Closed or broken, neither connection is left, and what was said first is heard."""

    async def then(end: End) -> None:
        await end.say(b"bye")
        if side == "server":
            await end.read(2)
            getattr(end, how)()
        await end.gone()

    async with (
        backend(agreeing(then)) as server,
        front(handler := Tunnels(server)) as address,
        caller(address) as end,
    ):
        await end.say(WEBSOCKET + b"hi")
        await end.head()
        assert await end.read(3) == b"bye"
        if side == "caller":
            getattr(end, how)()
        else:
            assert await end.gone() == b""
        await server.idle()
    assert handler.done == [101]


@on_both_loops
async def test_the_last_words_are_heard() -> None:
    """A server that says much and closes is heard to the end."""
    words = b"w" * 3_000_000

    async def then(end: End) -> None:
        await end.say(words)

    async with backend(agreeing(then)) as server, front(Tunnels(server)) as address:
        said = await ask(address, WEBSOCKET)
    assert said.endswith(b"\r\n\r\n" + words)


@on_both_loops
async def test_half_a_connection_may_end() -> None:
    """Over plain TCP, who has nothing more to say still hears the answer; then all ends."""

    async def then(end: End) -> None:
        said = await end.rest()
        await end.say(said[::-1])
        end.end()
        await end.gone()

    async with backend(agreeing(then)) as server, front(Tunnels(server)) as address:
        async with caller(address) as end:
            await end.say(WEBSOCKET)
            await end.head()
            await end.say(b"abc")
            end.end()
            assert await end.rest() == b"cba"
        await server.idle()


@on_both_loops
async def test_the_servers_half_may_end_first() -> None:
    """The other way round."""
    heard = []

    async def then(end: End) -> None:
        await end.say(b"done")
        end.end()
        heard.append(await end.rest())

    async with tunnelled(agreeing(then)) as (server, end):
        await end.say(WEBSOCKET)
        await end.head()
        assert await end.rest() == b"done"
        await end.say(b"thanks")
        end.end()
        await server.idle()
    assert heard == [b"thanks"]


@on_both_loops
async def test_a_stalled_caller_stops_the_server() -> None:
    """What nobody reads is not fetched."""
    sent = asyncio.get_running_loop().create_future()

    async def then(end: End) -> None:
        sent.set_result(await end.flood(200 << 20))

    async with tunnelled(agreeing(then)) as (_, end):
        await end.say(WEBSOCKET)
        await end.head()
        end.stall()
        assert await sent < 40 << 20


@on_both_loops
async def test_a_stalled_server_stops_the_caller() -> None:
    """And goes on when the server does."""
    going = asyncio.Event()
    heard = []

    async def then(end: End) -> None:
        end.stall()
        await going.wait()
        end.go_on()
        size = 0
        while piece := await end.reader.read(1 << 20):
            size += len(piece)
        heard.append(size)

    async with tunnelled(agreeing(then)) as (server, end):
        await end.say(WEBSOCKET)
        await end.head()
        sent = await end.flood(200 << 20)
        assert sent < 40 << 20
        going.set()
        await end.say(b"")
        end.close()
        await end.writer.wait_closed()
        await server.idle()
    assert heard == [sent]


def cramped(transport: asyncio.BaseTransport) -> asyncio.Transport:
    """Prepare a transport that the kernel holds little for."""
    connection: socket.socket = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return prepare(transport)


@on_both_loops
async def test_a_flood_before_the_agreement_is_stopped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a caller sent early may fill the server's end at once: no more is fetched then."""
    monkeypatch.setattr(client, "prepare", cramped)

    async def script(end: End) -> None:
        await end.head()
        end.stall()
        await asyncio.sleep(0.05)
        await end.say(AGREED)
        await asyncio.sleep(SECONDS)

    async with tunnelled(script) as (_, end):
        await end.say(WEBSOCKET + b"x" * 250_000)
        await end.head()
        assert await end.flood(200 << 20) < 40 << 20


@on_both_loops
async def test_a_tunnel_that_is_idle_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only when neither side says anything for so long."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.6)
    async with tunnelled(agreeing(echo)) as (server, end):
        await end.say(WEBSOCKET)
        await end.head()
        for _ in range(8):
            await asyncio.sleep(0.1)
            await end.say(b"x")
            assert await end.read(1) == b"x"
        assert await end.gone() == b""
        await server.idle()


@on_both_loops
async def test_a_late_reader_hears_the_last_words() -> None:
    """The server is gone long before its words are read: none is lost."""
    sent = asyncio.get_running_loop().create_future()

    async def then(end: End) -> None:
        sent.set_result(await end.flood(200 << 20))
        end.close()

    async with tunnelled(agreeing(then)) as (_, end):
        await end.say(WEBSOCKET)
        await end.head()
        end.stall()
        await sent
        end.go_on()
        assert len(await end.gone()) == await sent


@pytest.mark.parametrize("size", range(100_000, 600_000, 100_000))
@on_both_loops
async def test_a_late_server_hears_the_last_words(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round, over TLS: the caller is gone, what it said is not."""
    monkeypatch.setattr(client, "prepare", cramped)
    heard = []

    async def then(end: End) -> None:
        end.stall()
        await asyncio.sleep(0.3)
        end.go_on()
        heard.append(len(await end.gone()))

    def speak(address: Address) -> None:
        """Say it and end the connection at once, as clients in Go do."""
        with (
            socket.create_connection(address) as connection,
            tls.wrap_socket(connection, server_hostname="localhost") as one,
        ):
            one.sendall(WEBSOCKET)
            assert one.recv(1 << 16).startswith(b"HTTP/1.1 101 ")
            one.sendall(b"w" * size)

    certified, tls = tls_pair()
    async with backend(agreeing(then)) as server:
        listener = Listener(most=9)
        async with listener.serve(Address("127.0.0.1", 0), certified, Tunnels(server)) as address:
            await asyncio.to_thread(speak, address)
            await server.idle()
    assert heard == [size]


@on_both_loops
async def test_what_the_caller_hears_may_be_chosen() -> None:
    """The headers of an agreement are translated as those of a refusal."""
    seen: list[tuple[int, list[Header], bytes]] = []

    def translate(status: int, headers: list[Header], body: bytes) -> tuple[list[Header], bytes]:
        seen.append((status, headers, body))
        return [("X-Ours", "1")], b"ours"

    agreed = AGREED.replace(b"\r\n\r\n", b"\r\nX-Theirs: 1\r\n\r\n")
    no = b"HTTP/1.1 403 No\r\nX-Theirs: 2\r\nContent-Length: 6\r\n\r\ntheirs"
    said = []
    for answer in (agreed, no):

        async def script(end: End, answer: bytes = answer) -> None:
            await end.head()
            await end.say(answer)

        async with (
            backend(script) as server,
            front(Tunnels(server, translate=translate)) as address,
        ):
            said.append(await ask(address, WEBSOCKET))
    assert said[0] == (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"X-Ours: 1\r\n\r\n"
    )
    assert said[1].startswith(b"HTTP/1.1 403 ")
    assert said[1].endswith(b"\r\n\r\nours")
    assert b"X-Ours: 1\r\n" in said[1]
    assert b"Theirs" not in b"".join(said)
    assert [(status, body) for status, _, body in seen] == [(101, b""), (403, b"theirs")]


@pytest.mark.parametrize(("admin", "tokens", "wanted", "good"), RENEWALS)
@on_both_loops
async def test_old_credentials_are_read_again(
    admin: bool, tokens: list[str], wanted: list[bytes], good: bool
) -> None:
    """Ours once more after a 401 when there are others; a caller's own 401 is the answer."""
    got: list[bytes] = []
    async with backend(by_token(got, AGREED)) as server:
        server.config = Renewing(server.config.server, tokens)
        async with front(Tunnels(server, admin=admin)) as address:
            said = await ask(address, WEBSOCKET)
        await server.idle()
    assert said.startswith(b"HTTP/1.1 101 " if good else b"HTTP/1.1 401 ")
    assert got == wanted


# -- refused -------------------------------------------------------------------------------------

NO = b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nX-Why: a\r\nKeep-Alive: 1\r\n"


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        pytest.param(NO + b"Content-Length: 2\r\n\r\nno", 403, b"no", id="sized"),
        pytest.param(
            NO + b"Transfer-Encoding: chunked\r\n\r\n1\r\nn\r\n1\r\no\r\n0\r\n\r\n",
            403,
            b"no",
            id="in chunks",
        ),
        pytest.param(NO + b"\r\nno", 403, b"no", id="until the end"),
        pytest.param(NO + b"Content-Length: 0\r\n\r\n", 403, b"", id="empty"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nX-Why: a\r\nContent-Length: 2\r\n\r\nno", 200, b"no", id="ignored"
        ),
        pytest.param(
            NO + b"Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nno",
            403,
            b"no",
            id="with the words of an agreement",
        ),
        pytest.param(
            NO + b"Content-Length: 2\r\n\r\nnoHTTP/1.1 200 OK\r\nX-Second: 1\r\n\r\n",
            403,
            b"no",
            id="with a second answer",
        ),
    ],
)
@pytest.mark.parametrize("request_", [WEBSOCKET, SPDY], ids=["websocket", "spdy"])
@on_both_loops
async def test_a_refusal_is_an_answer_and_the_end(
    request_: bytes, answer: bytes, status: int, body: bytes
) -> None:
    """The caller gets it whole; what was sent behind it is no request (CVE-2018-1002105)."""
    heads = []

    async def script(end: End) -> None:
        heads.append(await end.head())
        await end.say(answer)
        if b"Content-Length" not in answer and b"chunked" not in answer:
            end.close()
        heads.append(await end.gone())

    async with backend(script) as server, front(handler := Tunnels(server)) as address:
        said = await ask(address, request_ + b"GET /secret HTTP/1.1\r\nHost: a\r\n\r\n")
        await server.idle()
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert said.endswith(b"\r\n\r\n" + body)
    assert b"X-Why: a\r\n" in said
    assert b"Connection: close\r\n" in said
    assert b"X-Second" not in said
    assert b"Keep-Alive" not in said
    assert said.count(b"HTTP/1.1") == 1
    assert server.connections == 1
    assert heads[1:] == [b""]
    assert handler.done == [status]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="none"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 101 Switch", id="half a status line"),
        pytest.param(AGREED[:-2], id="half a head"),
        pytest.param(b"HTTP/1.1 101 Switching\r\n\r\nraw", id="an agreement on nothing"),
        pytest.param(
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\nraw", id="half an agreement"
        ),
        pytest.param(AGREED_SPDY + b"raw", id="an agreement on another protocol"),
        pytest.param(NO + b"Content-Length: 20\r\n\r\nno", id="a refusal that breaks off"),
        pytest.param(
            NO + b"Transfer-Encoding: chunked\r\n\r\n5\r\nno", id="a chunk that breaks off"
        ),
        pytest.param(NO + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", id="no chunk"),
        pytest.param(NO + b"A: " + b"b" * 70_000, id="an oversized head"),
        pytest.param(NO + b"A: b\r\n" * 20_000, id="too many headers"),
        pytest.param(
            NO + b"Content-Length: 2000000\r\n\r\n" + b"n" * 1_999_999, id="an oversized refusal"
        ),
        pytest.param(NO + b"\r\n" + b"n" * 2_000_000, id="an endless refusal"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, id="never an answer"),
    ],
)
@pytest.mark.parametrize("how", ["close", "cut"])
@on_both_loops
async def test_what_is_no_answer_is_told(answer: bytes, how: str) -> None:
    """The caller gets a Status, never a part of something, and nothing is left open."""

    async def script(end: End) -> None:
        await end.head()
        await end.say(answer)
        await asyncio.sleep(0.03)
        getattr(end, how)()

    async with backend(script) as server, front(Tunnels(server)) as address:
        said = await ask(address, WEBSOCKET)
        await server.idle()
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b'"reason":"ServiceUnavailable"' in said
    assert b"raw" not in said
    assert b"127.0.0.1" not in said
    assert b"Retry-After" not in said  # nobody knows what was done of it


@pytest.mark.parametrize("said", [b"", AGREED[:30], NO + b"Content-Length: 5\r\n\r\nno"])
@on_both_loops
async def test_a_server_that_hangs_is_given_up(
    said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, in and behind the head of its answer."""
    monkeypatch.setattr(module, "AGREE_SECONDS", 0.1)
    async with backend(always(said)) as server, front(Tunnels(server)) as address:
        answer = await ask(address, WEBSOCKET)
        await server.idle()
    assert answer.startswith(b"HTTP/1.1 504 ")


@on_both_loops
async def test_a_server_that_is_not_there_is_told() -> None:
    """Without saying where it would be."""
    async with backend(echo) as server:
        pass
    async with front(Tunnels(server)) as address:
        said = await ask(address, WEBSOCKET)
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"127.0.0.1" not in said


@pytest.mark.parametrize("said", [b"", NO + b"Content-Length: 5\r\n\r\nno"])
@on_both_loops
async def test_who_leaves_takes_the_request_along(said: bytes) -> None:
    """While the server thinks, and while it refuses."""
    asked = asyncio.Event()
    async with (
        backend(hanging(said, asked)) as server,
        front(handler := Tunnels(server)) as address,
    ):
        async with caller(address) as end:
            await end.say(SPDY)
            await asked.wait()
        await server.idle()
    assert handler.done == []


@on_both_loops
async def test_a_request_with_a_body_is_refused() -> None:
    """Its end could be taken for the tunnel's beginning."""
    async with backend(echo) as server, front(Tunnels(server)) as address:
        for body in (b"Content-Length: 2\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n"):
            request = SPDY.replace(b"Content-Length: 0\r\n\r\n", body)
            assert (await ask(address, request)).startswith(b"HTTP/1.1 400 ")
    assert server.connections == 0


@on_both_loops
async def test_no_header_breaks_the_head() -> None:
    """A line break in what is to be sent is refused; no second header comes of it."""
    async with backend(echo) as server:

        async def handler(request: Request) -> Answer:
            upstream = Upstream(server.config, name="the server")
            info, headers = read("GET", "/"), [("A", "b\r\nC: d")]
            return await tunnel(request, upstream, info, headers, "websocket", admin=False)

        async with front(handler) as address:
            assert (await ask(address, WEBSOCKET)).startswith(b"HTTP/1.1 400 ")
    assert server.connections == 0
