"""The client's side: what an answer is, what is used again, and what is asked twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.http1 import client as module
from syncer.http1.client import MAX_HEAD, NoAnswerError, Pool, Reply, Server
from tests.unit.proxy_wire import (
    SECONDS,
    Backend,
    End,
    Script,
    always,
    backend,
    eventually,
    hanging,
    on_both_loops,
    tls_pair,
)

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKS = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Asking:
    """A pool and the one server it asks."""

    def __init__(self, server: Backend, pool: Pool) -> None:
        """Make it."""
        self.server = server
        self.pool = pool

    async def begin(self, method: str = "GET", target: str = "/") -> Reply:
        """Ask, and give the answer when its head is there."""
        body = b"x" if method in ("POST", "PUT") else None
        async with asyncio.timeout(SECONDS):
            where = Server(self.server.config.server)
            return await self.pool.request(where, method, target, (), body)

    async def ask(self, method: str = "GET", target: str = "/") -> bytes:
        """Ask, and give the answer's body."""
        reply, body = await self.begin(method, target), b""
        async with asyncio.timeout(SECONDS):
            while piece := await reply.body.read():
                body += piece
        return body


@asynccontextmanager
async def asking(script: Script) -> AsyncIterator[Asking]:
    """Serve by a script, and ask it."""
    async with backend(script) as server:
        pool = Pool()
        try:
            yield Asking(server, pool)
        finally:
            await pool.close()
            await server.idle()


# -- answers -------------------------------------------------------------------------------------

ANSWERS = [
    pytest.param(HELLO, id="sized"),
    pytest.param(CHUNKS + b"2;a\r\nhe\r\n3\r\nllo\r\n0\r\nSum: 1\r\n\r\n", id="in chunks"),
    pytest.param(b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + HELLO, id="an interim one first"),
    pytest.param(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", id="without a body"),
]


@pytest.mark.parametrize("answer", ANSWERS)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
@on_both_loops
async def test_cuts_mean_nothing(answer: bytes, data: st.DataObject) -> None:
    """However an answer is cut into packets it is the same, and its connection is kept."""
    cuts = data.draw(st.sets(st.integers(1, len(answer) - 1), max_size=6))

    async def script(end: End) -> None:
        for places in ((), cuts):
            await end.head()
            await end.in_pieces(answer, places)
        await end.gone()

    async with asking(script) as asked:
        got = []
        for _ in range(2):
            reply, body = await asked.begin(), b""
            while piece := await reply.body.read():
                body += piece
            got.append((reply.status, reply.headers, reply.length, body))
    assert got[0] == got[1]
    assert asked.server.connections == 1


@pytest.mark.parametrize("size", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"A: b"])
@on_both_loops
async def test_head_has_no_body(size: bytes) -> None:
    """Whatever its headers speak of, the connection takes the next request."""
    async with asking(always(OK + size + b"\r\n\r\n", HELLO)) as asked:
        assert await asked.ask("HEAD") == b""
        assert await asked.ask() == b"hello"
    assert asked.server.connections == 1


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(OK + b"A: " + b"a" * 4 * MAX_HEAD, id="a header"),
        pytest.param(OK + b"A: b\r\n" * MAX_HEAD, id="headers"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_HEAD, id="interim answers"),
        pytest.param(b"HTTP/1.1 200 " + b"a" * 4 * MAX_HEAD, id="a reason"),
        pytest.param(CHUNKS + b"0\r\nA: " + b"a" * 8 * MAX_HEAD, id="a header behind the body"),
        pytest.param(CHUNKS + b"1;" + b"a" * 8 * MAX_HEAD, id="an extension of a chunk"),
    ],
)
@on_both_loops
async def test_what_has_no_end_is_given_up(flood: bytes) -> None:
    """A head and what is between the pieces of a body have limits."""

    async def script(end: End) -> None:
        await end.head()
        for start in range(0, len(flood), 32768):
            end.writer.write(flood[start : start + 32768])
            await asyncio.sleep(0.001)
            if end.writer.is_closing():
                return
        await end.gone()

    async with asking(script) as asked:
        with pytest.raises(ConnectionError):
            await asked.ask()
        await asked.server.idle()


# -- which connections are used again ------------------------------------------------------------


@on_both_loops
async def test_requests_at_once_have_connections_of_their_own() -> None:
    """As many as are needed at a time, each answered by its own answer."""

    async def script(end: End) -> None:
        while not end.reader.at_eof():
            try:
                target = (await end.head()).split(b" ")[1]
            except asyncio.IncompleteReadError:
                return
            await end.say(OK + b"Content-Length: %d\r\n\r\n%b" % (len(target), target))

    async def several(asked: Asking, who: int) -> None:
        for n in range(20):
            target = f"/{who}/{n}"
            assert await asked.ask(target=target) == target.encode()

    async with asking(script) as asked, asyncio.TaskGroup() as group:
        for who in range(20):
            group.create_task(several(asked, who))
    assert 1 < asked.server.connections <= 20


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("GET", HELLO + b"more"),
        ("GET", HELLO + b"HTTP/1.1 200 OK\r\nSecond: 1\r\nContent-Length: 0\r\n\r\n"),
        ("HEAD", HELLO),
        ("HEAD", CHUNKS + b"5\r\nhello\r\n0\r\n\r\n"),
        ("HEAD", OK + b"Content-Length: 0\r\n\r\n" + HELLO),
        ("GET", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        ("HEAD", b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("GET", HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")),
        ("HEAD", OK + b"Connection: close\r\n\r\n"),
    ],
)
@on_both_loops
async def test_a_connection_that_said_more_or_is_to_end_is_not_kept(
    method: str, answer: bytes
) -> None:
    """What nobody asked for is no part of this answer, and never the next request's."""
    async with asking(always(answer)) as asked:
        reply = await asked.begin(method)
        got = await reply.body.read()
        await asked.server.idle()
        assert got == (b"hello" if method == "GET" else b"")
        assert not reply.header("second")


@on_both_loops
async def test_bytes_that_nobody_asked_for_end_a_kept_connection() -> None:
    """They can't become the answer to what is asked next."""
    late = asyncio.Event()

    async def script(end: End) -> None:
        await end.head()
        await end.say(HELLO)
        if not late.is_set():
            await late.wait()
            await end.say(HELLO.replace(b"hello", b"wrong"))
        await end.gone()

    async with asking(script) as asked:
        assert await asked.ask() == b"hello"
        late.set()
        await asked.server.idle()
        assert await asked.ask() == b"hello"
    assert asked.server.connections == 2


@on_both_loops
async def test_what_nobody_reads_stops_no_other_answer() -> None:
    """An answer that is here as a whole, and longer than what may wait, holds nothing back."""
    long = OK + b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000
    async with asking(always(long, HELLO)) as asked:
        reply = await asked.begin()
        await asyncio.sleep(0.02)
        reply.close()
        assert await asked.ask() == b"hello"


@on_both_loops
async def test_what_is_unused_for_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the server does."""
    monkeypatch.setattr(module, "IDLE_SECONDS", 0.05)
    async with asking(always(HELLO)) as asked:
        assert await asked.ask() == b"hello"
        await asked.server.idle()
    assert asked.server.connections == 1


# -- what is asked twice -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "again"),
    [
        ("GET", True),
        ("HEAD", True),
        ("POST", False),
        ("PUT", False),
        ("PATCH", False),
        ("DELETE", False),
    ],
)
@on_both_loops
async def test_who_is_asked_again(method: str, again: bool) -> None:
    """A server closes what was kept as it is asked: that is asked anew, unless it is a write."""
    asked_for = []

    async def script(end: End) -> None:
        while True:
            asked_for.append((await end.head()).split(b" ")[0].decode())
            if len(asked_for) == 2:
                return
            await end.say(
                HELLO if method != "HEAD" or len(asked_for) == 1 else OK + b"A: b\r\n\r\n"
            )
            if len(asked_for) > 2:
                await end.gone()
                return

    async with asking(script) as asked:
        assert await asked.ask() == b"hello"
        if again:
            assert await asked.ask(method) == (b"hello" if method == "GET" else b"")
        else:
            with pytest.raises(NoAnswerError):
                await asked.ask(method)
    assert asked_for == ["GET", method, *([method] if again else [])]


@on_both_loops
async def test_a_new_connection_that_ends_is_the_answer() -> None:
    """Nobody is asked for ever."""

    async def script(end: End) -> None:
        await end.head()

    async with asking(script) as asked:
        with pytest.raises(NoAnswerError):
            await asked.ask()
    assert asked.server.connections == 1


@on_both_loops
async def test_what_was_closed_meanwhile_is_not_tried() -> None:
    """A write goes over a new connection when the kept one is known to be gone."""
    async with asking(_once) as asked:
        for _ in range(3):
            assert await asked.ask("POST") == b"hello"
            await eventually(lambda: not asked.pool._all)
    assert asked.server.connections == 3


async def _once(end: End) -> None:
    await end.head()
    await end.say(HELLO)


@on_both_loops
async def test_half_an_answer_is_not_asked_for_again() -> None:
    """It broke off, which whoever reads it is told."""
    async with asking(_half) as asked:
        with pytest.raises(ConnectionResetError):
            await asked.ask()
    assert asked.server.connections == 1


async def _half(end: End) -> None:
    await end.head()
    await end.say(HELLO[:-2])


# -- who leaves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", OK, OK + b"Content-Length: 5\r\n\r\nhe"])
@on_both_loops
async def test_what_is_cancelled_is_not_used_again(said: bytes) -> None:
    """Before an answer, in its head and in its body: the connection ends."""
    heard = asyncio.Event()
    async with asking(hanging(said, heard)) as asked:
        task = asyncio.create_task(asked.ask())
        await heard.wait()
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if b"he" in said:  # what is left of it is its reader's to close
            await asked.pool.close()
        await asked.server.idle()
    assert asked.server.connections == 1


@on_both_loops
async def test_who_is_cancelled_as_the_answer_comes_takes_no_other_along() -> None:
    """The connection may be somebody else's by then."""
    going = asyncio.Event()

    async def script(end: End) -> None:
        await going.wait()
        await always(HELLO, HELLO)(end)

    async with asking(script) as asked:
        tasks = list[asyncio.Task[bytes]]()

        async def first() -> bytes:
            reply = await asked.begin()
            raise AssertionError(reply)

        one = asyncio.create_task(first())
        await eventually(lambda: bool(asked.pool._all))
        connection = next(iter(asked.pool._all))
        complete = connection._complete

        def and_then(reply: Reply) -> None:
            complete(reply)
            if not tasks:
                tasks.append(asyncio.create_task(asked.ask()))
                one.cancel()

        connection._complete = and_then  # type: ignore[method-assign]
        going.set()
        with pytest.raises(asyncio.CancelledError):
            await one
        assert await tasks[0] == b"hello"


@on_both_loops
async def test_a_closed_pool_asks_nobody() -> None:
    """What is under way ends, and is not asked again."""
    heard = asyncio.Event()

    async def script(end: End) -> None:
        await end.head()
        await end.say(HELLO)
        await end.head()
        heard.set()
        await end.gone()

    async with asking(script) as asked:
        assert await asked.ask() == b"hello"
        task = asyncio.create_task(asked.ask())
        await heard.wait()
        await asked.pool.close()
        with pytest.raises(ConnectionError):
            await task
        with pytest.raises(ConnectionError):
            await asked.ask()
    assert asked.server.connections == 1


# -- bodies --------------------------------------------------------------------------------------


@on_both_loops
async def test_an_empty_piece_is_no_end() -> None:
    """In chunks, it would be."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"he", b"", b"llo"):
            yield piece

    bodies = []

    async def script(end: End) -> None:
        bodies.append(await end.body(await end.head()))
        await end.say(HELLO)
        await end.gone()

    async with asking(script) as asked:
        where = Server(asked.server.config.server)
        reply = await asked.pool.request(where, "POST", "/", (), pieces())
        assert await reply.body.read() == b"hello"
    assert bodies == [b"hello"]


# -- another protocol ----------------------------------------------------------------------------

AGREED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Heir(asyncio.Protocol):
    """Goes on with a connection."""

    def __init__(self) -> None:
        """Have heard nothing."""
        self.heard = b""
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Hear something."""
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that there is no more."""
        self.lost.set_result(None)


@asynccontextmanager
async def speaking(said: bytes, *, secured: bool) -> AsyncIterator[Server]:
    """Serve one answer to every connection, and end it at once, as servers in Go do.

    An event loop's server would wait for the other side to end it too.
    """
    tls, client = tls_pair()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                accepted, _ = listening.accept()
                with tls.wrap_socket(accepted, server_side=True) if secured else accepted as one:
                    one.recv(1 << 16)
                    one.sendall(said)

    serving = asyncio.create_task(asyncio.to_thread(serve))
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    try:
        if secured:
            yield Server(f"https://{address}", client, "localhost")
        else:
            yield Server(f"http://{address}")
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        await serving


WORDS = [pytest.param(size, id=f"{size} bytes") for size in (3, 50_000, 200_000, 3_000_000)]


@pytest.mark.parametrize("size", WORDS)
@pytest.mark.parametrize("pause", [0.0, 0.1], ids=["at once", "later"])
@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
@on_both_loops
async def test_who_takes_a_connection_over_hears_its_last_words(
    secured: bool, pause: float, size: int
) -> None:
    """Even if the server closed it in the same breath, before anybody took it over."""
    pool, words = Pool(), b"w" * size
    async with speaking(AGREED + words, secured=secured) as server:
        for _ in range(5):
            reply = await pool.request(server, "GET", "/", (), protocol="websocket")
            assert (reply.status, reply.agreed) == (101, True)
            await asyncio.sleep(pause)
            transport, early = reply.detach(heir := Heir())
            if not transport.is_closing():
                transport.resume_reading()
            async with asyncio.timeout(SECONDS):
                await heir.lost
            assert len(early + heir.heard) == size
            reply.close()
    await pool.close()


@pytest.mark.parametrize("size", WORDS)
@pytest.mark.parametrize("length", [True, False], ids=["with a length", "until the end"])
@on_both_loops
async def test_a_late_reader_loses_nothing(length: bool, size: int) -> None:
    """The server closes while nobody reads; what it said over TLS is heard nevertheless."""
    pool = Pool()
    header = b"Content-Length: %d\r\n" % size if length else b""
    said = OK + header + b"Connection: close\r\n\r\n" + b"w" * size
    async with speaking(said, secured=True) as server:
        reply = await pool.request(server, "GET", "/", ())
        await asyncio.sleep(0.1)
        async with asyncio.timeout(SECONDS):
            heard = 0
            while piece := await reply.body.read():
                heard += len(piece)
        assert heard == size
    await pool.close()


@on_both_loops
async def test_only_what_was_agreed_on_is_handed_over() -> None:
    """The connection of any other answer is not the caller's to have."""
    async with asking(always(HELLO)) as asked:
        reply = await asked.begin()
        with pytest.raises(ConnectionError):
            reply.detach(Heir())


async def greeting(end: End) -> None:
    """Answer every request, if there is one."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while await end.head():
            await end.say(HELLO)


@on_both_loops
async def test_who_leaves_while_it_connects_leaves_the_connection_to_others() -> None:
    """No handshake is broken off, of which uvloop would complain; a tunnel's is of no use."""
    async with asking(greeting) as asked:
        for protocol in ("", "websocket"):
            where = Server(asked.server.config.server)
            request = asked.pool.request(where, "GET", "/", (), protocol=protocol)
            leaving = asyncio.create_task(request)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.wait([leaving])
            assert leaving.cancelled()
            await eventually(lambda: not asked.pool._dialling)
            assert await asked.ask() == b"hello"
    assert asked.server.connections == 2


@on_both_loops
async def test_a_pool_that_is_closed_connects_no_more() -> None:
    """Who is waiting for a connection learns of it."""
    async with asking(greeting) as asked:
        waiting = asyncio.create_task(asked.ask())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asked.pool.close()
        with pytest.raises(ConnectionError):
            await waiting


@on_both_loops
async def test_an_agreement_that_nobody_asked_for_is_the_end() -> None:
    """What would come behind it is no answer to anything."""
    async with asking(always(AGREED + HELLO)) as asked:
        for _ in range(2):
            reply = await asked.begin()
            assert (reply.status, reply.agreed) == (101, False)
            assert await reply.body.read() == b""
    assert asked.server.connections == 2
