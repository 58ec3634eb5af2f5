"""The listening side: what is read as a request, how long it may take, how many may come."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from contextlib import AsyncExitStack, suppress
from typing import cast

import pytest

from syncer.http1 import server as module
from syncer.http1.client import Pool, Server
from syncer.http1.server import MAX_FIELD, MAX_HEAD, Request, Response, UnreadableError
from syncer.kube.errors import ConfigError
from syncer.proxy import listener as module_of_listener
from syncer.proxy.listener import Listener
from syncer.settings import Address
from tests.unit.proxy_wire import GET, ask, caller, closing, echo, front, on_both_loops, tls_pair


async def hello(request: Request) -> Response:
    """Answer with what was read."""
    return Response(200, body=f"{request.method} {request.target}".encode())


# -- what is read --------------------------------------------------------------------------------

SECRET = b"c2VjcmV0LXRva2Vu"


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"\x16\x03\x01\x02\x00", id="TLS in TLS"),
        pytest.param(b"GET\r\n\r\n", id="half a line"),
        pytest.param(b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", id="another version"),
        pytest.param(b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", id="no method"),
        pytest.param(GET[:-2] + b"Bearer " + SECRET + b"\r\n\r\n", id="no header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", id="a space before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", id="a folded header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\x00c\r\n\r\n", id="NUL in a header"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n", id="CR in a header"),
        pytest.param(b"GET / HTTP/1.1\r\nA: b\r\n\r\n", id="no Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two Hosts"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="length and chunks",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            id="two lengths",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", id="no length"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", id="coding"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            id="unknown coding",
        ),
    ],
)  # fmt: skip
@on_both_loops
async def test_what_is_no_request_is_refused(
    request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """With a Status, once, then the connection is closed; nothing of it is repeated or logged."""
    caplog.set_level(logging.DEBUG)
    async with front(hello) as address:
        said = await ask(address, request_ + GET)
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 "))
    assert b'"kind":"Status"' in said
    assert said.count(b"HTTP/1.") == 1
    assert SECRET not in said
    assert SECRET.decode() not in caplog.text
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("end", [b"3\r\nabc\r\nzz\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"-1\r\n\r\n"])
@on_both_loops
async def test_a_body_that_is_none_is_no_request_either(end: bytes) -> None:
    """Chunks that can't be read end the connection, and are never taken for a request."""
    request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def whole(request: Request) -> Response:
        with pytest.raises(UnreadableError):
            return await echo(request)
        raise ConnectionResetError

    async with front(whole) as address, caller(address) as there:
        await there.say(request + end + GET)
        said = await there.gone()
    assert b"200 OK" not in said


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"GET /" + b"a" * (MAX_FIELD - 10) + GET[5:], b"200", id="a line that fits"),
        pytest.param(b"GET /" + b"a" * MAX_FIELD + GET[5:], b"431", id="an oversized line"),
        pytest.param(
            closing(GET).replace(b"\r\n\r\n", b"\r\nA: " + b"a" * (MAX_FIELD - 10) + b"\r\n\r\n"),
            b"200",
            id="a header that fits",
        ),
        pytest.param(
            GET.replace(b"\r\n\r\n", b"\r\nA: " + b"a" * (MAX_FIELD + 1) + b"\r\n\r\n"),
            b"431",
            id="an oversized header",
        ),
        pytest.param(
            GET.replace(b"\r\n\r\n", b"\r\nA: b" * 200 + b"\r\n\r\n"), b"431", id="too many headers"
        ),
    ],
)
@on_both_loops
async def test_a_head_has_limits(request_: bytes, status: bytes) -> None:
    """For its line, each header, and their number."""
    request = request_ if b"close" in request_ else closing(request_)
    async with front(hello) as address:
        assert (await ask(address, request)).split(b" ")[1] == status


@on_both_loops
async def test_a_head_has_a_limit_in_all() -> None:
    """Many headers that each would fit are too much together."""
    async with front(hello) as address, caller(address) as end:
        await end.say(GET[:-2])
        line = b"A: " + b"a" * 1000 + b"\r\n"
        for _ in range(MAX_HEAD // len(line) + 2):
            end.writer.write(line)
            await asyncio.sleep(0)
        assert (await end.gone()).startswith(b"HTTP/1.1 431 ")


# -- one after the other -------------------------------------------------------------------------


@on_both_loops
async def test_requests_come_one_after_the_other() -> None:
    """However they are cut, and however many come at once: answers come in their order."""
    request = b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(3))
    async with front(hello) as address, caller(address) as end:
        await end.say(request)
        for piece in (request[:5], request[5:40], request[40:]):
            await end.say(piece)
            await asyncio.sleep(0.01)
        for n in (0, 1, 2, 0, 1, 2):
            assert await end.until(b"GET /%d" % n)


@on_both_loops
async def test_what_a_handler_left_unread_is_no_request() -> None:
    """A body that nobody read ends the connection."""
    smuggled = b"GET /secret HTTP/1.1\r\nHost: a\r\n\r\n"
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + smuggled
    async with front(hello) as address, caller(address) as end:
        await end.say(request)
        said = await end.gone()
    assert said.count(b"HTTP/1.1 200") == 1
    assert b"GET /secret" not in said


@on_both_loops
async def test_nothing_is_unpacked() -> None:
    """A compressed body is the server's to unpack."""
    async with front(echo) as address:
        request = (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n"
        )
        assert (await ask(address, closing(request) + b"abc")).endswith(b"\r\n\r\nPOST / abc")


# -- time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", GET])
@on_both_loops
async def test_a_slow_head_is_not_waited_for(
    before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte gains nothing: the clock starts with the first."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.1)
    async with front(hello) as address, caller(address) as end:
        if before:
            await end.say(before)
            await end.until(b"GET /")
            await asyncio.sleep(0.15)  # idle is not slow

        async def trickle() -> None:
            with suppress(ConnectionError):
                for byte in GET * 99:
                    await end.say(bytes([byte]))
                    await asyncio.sleep(0.02)

        saying = asyncio.create_task(trickle())
        assert await end.gone() == b""  # a head of which all came would have been answered
        saying.cancel()
        await asyncio.wait([saying])


@on_both_loops
async def test_the_clock_stops_with_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may take its time, and so may the next request."""
    monkeypatch.setattr(module, "HEAD_SECONDS", 0.2)

    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.3)
        return await hello(request)

    async with front(slow) as address, caller(address) as end:
        for _ in range(2):
            await end.say(GET[:10])
            await end.say(GET[10:])
            await end.until(b"GET /")
            await asyncio.sleep(0.25)


@on_both_loops
async def test_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at first nor between requests."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.3)
    async with front(hello) as address:
        async with caller(address) as end:
            assert await end.gone() == b""
        async with caller(address) as end:
            await end.say(GET)
            assert (await end.gone()).endswith(b"GET /")


# -- who leaves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "cut"])
@on_both_loops
async def test_who_leaves_takes_the_request_along(how: str) -> None:
    """The handler is cancelled, with what it holds."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def endless(_: Request) -> Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with front(endless) as address, caller(address) as end:
        await end.say(GET)
        await begun.wait()
        getattr(end, how)()
        await asyncio.wait_for(ended.wait(), 5)


# -- how many ------------------------------------------------------------------------------------


@on_both_loops
async def test_there_are_only_so_many() -> None:
    """One more is turned away at once; who leaves makes room."""
    async with front(hello, most=2) as address, caller(address) as one:
        async with caller(address) as two:
            for end in (one, two):
                await end.say(GET)
                await end.until(b"GET /")
            async with caller(address) as three:
                assert await three.gone() == b""
        await asyncio.sleep(0.02)
        async with caller(address) as four:
            await four.say(GET)
            await four.until(b"GET /")


@on_both_loops
async def test_connections_are_counted() -> None:
    """Those that are there, and those that were turned away."""
    listener = Listener(most=1)
    one, two = listener.connect(hello), listener.connect(hello)
    assert [listener.admit(one), listener.admit(two)] == [True, False]
    assert (listener.connections, listener.turned_away) == (1, 1)
    listener.leave(two)
    assert listener.connections == 1
    listener.leave(one)
    assert listener.admit(two)


# -- listening -----------------------------------------------------------------------------------


@on_both_loops
async def test_an_address_that_is_taken_is_told() -> None:
    """With the flags that say where, in one line."""
    tls, _ = tls_pair()
    async with Listener(most=1).serve(Address("127.0.0.1", 0), tls, hello) as bound:
        assert bound.port
        with pytest.raises(ConfigError) as refused:
            async with Listener(most=1).serve(bound, tls, hello):
                pass
    why = "Address already in use"
    assert str(refused.value) == f"can't listen on {bound} (--bind-address and --port): {why}"
    assert cast("OSError", refused.value.__cause__).errno == errno.EADDRINUSE


@on_both_loops
async def test_a_stop_lets_short_requests_end() -> None:
    """What is under way has a moment, what lasts is cut, idle connections are closed."""
    server, client = tls_pair()
    begun = asyncio.Semaphore(0)

    async def slow(request: Request) -> Response:
        begun.release()
        await asyncio.sleep(60 if "endless" in request.target else 0.1)
        return await hello(request)

    async with AsyncExitStack() as stack:
        async with Listener(most=9).serve(Address("127.0.0.1", 0), server, slow) as bound:
            idle, short, long = [
                await stack.enter_async_context(caller(bound, client)) for _ in range(3)
            ]
            await short.say(GET)
            await long.say(GET.replace(b"/", b"/endless", 1))
            for _ in range(2):
                await begun.acquire()
            stopped = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - stopped < 20
        assert (await short.rest()).endswith(b"GET /")
        assert await idle.gone() == await long.gone() == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*bound)


@on_both_loops
async def test_a_handshake_that_ends_too_late_gets_no_connection() -> None:
    """Who was accepted before a stop is not served after it."""
    server, client = tls_pair()
    listener = Listener(most=9)
    async with listener.serve(Address("127.0.0.1", 0), server, hello) as bound:
        reader, writer = await asyncio.open_connection(*bound)
        await asyncio.sleep(0.02)
    said = b""
    with suppress(OSError):
        await writer.start_tls(client, server_hostname="localhost")
        writer.write(GET)
        said = await reader.read()
    writer.close()
    assert said == b""
    assert listener.connections == 0


@on_both_loops
async def test_callers_who_say_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room for another handshake, the oldest gives way and is counted."""
    monkeypatch.setattr(module_of_listener, "MAX_HANDSHAKES", 2)
    server, client = tls_pair()
    listener = Listener(most=9)
    async with (
        listener.serve(Address("127.0.0.1", 0), server, hello) as bound,
        caller(bound) as first,
        caller(bound) as second,
    ):
        for _ in range(3):  # each leaves before the next; only the first needs room
            async with caller(bound, client) as somebody:
                await somebody.say(GET)
                await somebody.until(b"GET /")
        assert await first.gone() == b""
        assert listener.turned_away == 1
        # It would be gone by now if each had needed the room of another.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await second.gone()


@on_both_loops
async def test_room_is_made_by_the_address_that_has_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens many connections at a time ends their own."""
    monkeypatch.setattr(module_of_listener, "MAX_HANDSHAKES", 3)
    server, _ = tls_pair()
    listener = Listener(most=9)
    async with AsyncExitStack() as stack:
        bound = await stack.enter_async_context(
            listener.serve(Address("127.0.0.1", 0), server, hello)
        )
        ends = []
        for source in ("127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.4", "127.0.0.3"):
            reader, writer = await asyncio.open_connection(*bound, local_addr=(source, 0))
            stack.callback(writer.close)
            ends.append(reader)
            await asyncio.sleep(0.02)
        assert await ends[1].read() == await ends[2].read() == b""
        assert [end.at_eof() for end in ends] == [False, True, True, False, False]
    assert listener.turned_away == 2


@on_both_loops
async def test_a_handshake_that_gave_way_as_it_ended_is_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its task hears of it only after the connection was made: nothing is done for it."""
    made = module_of_listener._Counted.connection_made
    listener, server, client = Listener(most=9), *tls_pair()
    asked: list[str] = []

    def gives_way(self: module_of_listener._Counted, transport: asyncio.BaseTransport) -> None:
        listener._make_room()
        made(self, transport)

    async def handler(request: Request) -> Response:
        asked.append(request.target)
        return await hello(request)

    monkeypatch.setattr(module_of_listener._Counted, "connection_made", gives_way)
    async with listener.serve(Address("127.0.0.1", 0), server, handler) as bound:
        with suppress(OSError):
            async with caller(bound, client) as end:
                await end.say(GET)
                assert await end.gone() == b""
        await asyncio.sleep(0.02)
        assert (asked, listener.connections, listener.turned_away) == ([], 0, 1)


@on_both_loops
async def test_a_handshake_may_take_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who says nothing, or only half of it, is cut off."""
    monkeypatch.setattr(module_of_listener, "HANDSHAKE_SECONDS", 0.1)
    server, _ = tls_pair()
    async with (
        Listener(most=9).serve(Address("127.0.0.1", 0), server, hello) as bound,
        caller(bound) as silent,
        caller(bound) as halting,
    ):
        await halting.say(b"\x16\x03\x01\x02\x00\x01")
        assert await silent.gone() == await halting.gone() == b""


class _Exhausted(socket.socket):
    """A listening socket of a process that may open no more files, at first."""

    def __init__(self, real: socket.socket) -> None:
        super().__init__(real.family, real.type, real.proto, real.detach())
        self.tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        """Fail the first time."""
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


@on_both_loops
async def test_when_no_more_files_can_be_opened_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel holds is accepted later, and until then nothing spins."""
    listen = module_of_listener._listen
    listening: list[_Exhausted] = []

    def exhausted(address: Address) -> socket.socket:
        listening.append(_Exhausted(listen(address)))
        return listening[0]

    monkeypatch.setattr(module_of_listener, "_listen", exhausted)
    monkeypatch.setattr(module_of_listener, "EXHAUSTED_SECONDS", 0.1)
    server, client = tls_pair()
    async with Listener(most=9).serve(Address("127.0.0.1", 0), server, hello) as bound:
        async with caller(bound, client) as patient:
            await patient.say(GET)
            await patient.until(b"GET /")
        assert listening[0].tries == 2


@on_both_loops
async def test_every_address_is_of_both_families() -> None:
    """`::` takes IPv4 too, as it does in Go's programs; a caller's address reads as its own."""
    server, client = tls_pair()
    seen = []

    async def handler(request: Request) -> Response:
        seen.append(request.connection.client)
        return await hello(request)

    async with Listener(most=9).serve(Address("::", 0), server, handler) as bound:
        for host in ("127.0.0.1", "::1"):
            async with caller(Address(host, bound.port), client) as end:
                await end.say(GET)
                await end.until(b"GET /")
    assert seen == ["127.0.0.1", "::1"]


@on_both_loops
async def test_dead_peers_are_found() -> None:
    """TCP looks after silent connections, the caller's and the servers'."""
    found = []

    def look(transport: asyncio.BaseTransport | None) -> None:
        assert transport is not None
        connection: socket.socket = transport.get_extra_info("socket")
        found.append(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    async def handler(request: Request) -> Response:
        look(request.connection.transport)
        return await hello(request)

    async with front(handler) as address:
        pool = Pool()
        reply = await pool.request(Server(f"http://{address}"), "GET", "/", ())
        look(reply._connection._transport)
        assert await reply.body.read() == b"GET /"
        await pool.close()
    assert found == [1, 1]
