"""The server's side: what is a request, what is not, and what is read when, over real sockets."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.http1.server import (
    MAX_HEAD,
    Answer,
    Connection,
    Request,
    Response,
    Sent,
    UnreadableError,
)
from syncer.proxy.listener import Listener
from syncer.settings import Address
from tests.unit.proxy_wire import (
    GET,
    SECONDS,
    End,
    ask,
    caller,
    closing,
    echo,
    eventually,
    front,
    on_both_loops,
    tls_pair,
)

PUT = b"PUT /a HTTP/1.1\r\nHost: a\r\n"
CHUNKS = PUT + b"Transfer-Encoding: chunked\r\n\r\n"


# -- one after the other -------------------------------------------------------------------------


@on_both_loops
async def test_bodies_in_one_packet_are_told_apart() -> None:
    """Each of several requests gets its own, whatever its form."""
    sized = PUT + b"Content-Length: 3\r\n\r\none"
    chunked = CHUNKS + b"2;a=b\r\ntw\r\n1\r\no\r\n0\r\nSum: 1\r\n\r\n"
    async with front(echo) as address, caller(address) as end:
        await end.say(sized + GET + chunked + GET + sized)
        bodies = [await end.body(await end.head()) for _ in range(5)]
    assert bodies == [b"PUT /a one", b"GET / ", b"PUT /a two", b"GET / ", b"PUT /a one"]


@on_both_loops
async def test_who_does_not_wait_for_an_answer_is_not_read_on() -> None:
    """Of what comes behind a second request, only a packet is here."""
    going = asyncio.Event()

    async def slow(request: Request) -> Answer:
        await going.wait()
        return await echo(request)

    async with front(slow) as address, caller(address) as end:
        await end.say(GET + PUT + b"Content-Length: 60000000\r\n\r\n")
        assert await end.flood(60_000_000) < 40 << 20
        going.set()
        assert await end.body(await end.head()) == b"GET / "


@on_both_loops
async def test_who_does_not_read_is_not_served_on() -> None:
    """The next request is begun once the answer before it has gone out."""
    begun = []

    async def large(request: Request) -> Response:
        begun.append(request)
        return Response(200, body=b"x" * (40 << 20))

    async with front(large) as address, caller(address) as end:
        end.stall()
        await end.say(GET)
        await eventually(lambda: bool(begun))
        await end.say(GET * 2)
        await asyncio.sleep(0.1)
        assert len(begun) == 1
        end.go_on()
        for _ in range(3):
            assert len(await end.body(await end.head())) == 40 << 20
    assert len(begun) == 3


@on_both_loops
async def test_a_head_behind_a_long_body_is_not_too_long() -> None:
    """What comes in one packet with it does not count."""
    body = b"x" * (2 * MAX_HEAD)
    async with front(echo) as address, caller(address) as end:
        for _ in range(3):
            await end.say(PUT + b"Content-Length: %d\r\n\r\n" % len(body))
            await end.say(body + GET[:9])
            assert await end.body(await end.head()) == b"PUT /a " + body
            await end.say(GET[9:])
            assert await end.body(await end.head()) == b"GET / "


@on_both_loops
async def test_over_tls_it_is_the_same() -> None:
    """Callers are held back and let go on, and what they sent meanwhile is not lost."""
    server, client = tls_pair()
    body = b"x" * 1_000_000
    request = PUT + b"Content-Length: 1000000\r\n\r\n" + body

    async def slow(request: Request) -> Answer:
        await asyncio.sleep(0.02)
        return await echo(request)

    async with (
        Listener(most=9).serve(Address("127.0.0.1", 0), server, slow) as address,
        caller(address, client) as end,
    ):
        end.writer.write((request + GET) * 3)
        bodies = [await end.body(await end.head()) for _ in range(6)]
    assert bodies == [b"PUT /a " + body, b"GET / "] * 3


_BODIES = st.one_of(st.none(), st.binary(max_size=40))
_REQUESTS = st.lists(st.tuples(_BODIES, st.integers(0, 5)), min_size=1, max_size=6)


def _written(number: int, body: bytes | None, size: int) -> bytes:
    """Write a request: without a body, with a length, or in chunks of so many bytes."""
    line = b"%b /%d HTTP/1.1\r\nHost: a\r\n" % (b"GET" if body is None else b"PUT", number)
    if body is None:
        return line + b"\r\n"
    if not size:
        return line + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return line + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@settings(deadline=None, max_examples=60)
@given(requests=_REQUESTS, data=st.data())
@on_both_loops
async def test_cuts_mean_nothing(
    requests: list[tuple[bytes | None, int]], data: st.DataObject
) -> None:
    """However a stream of requests is cut into packets, requests and answers are the same."""
    stream = b"".join(_written(n, body, size) for n, (body, size) in enumerate(requests))
    async with front(echo) as address, caller(address) as end:
        await end.in_pieces(stream, data.draw(st.sets(st.integers(1, len(stream)), max_size=8)))
        got = [await end.body(await end.head()) for _ in requests]
    assert got == [
        b"GET /%d " % n if body is None else b"PUT /%d %b" % (n, body)
        for n, (body, _) in enumerate(requests)
    ]


# -- what is no request, or the last -------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(GET.replace(b"a\r\n", b"a\n"), id="LF alone"),
        pytest.param(GET.replace(b"1.1\r\n", b"1.1\n"), id="LF alone behind the line"),
        pytest.param(GET[:-2] + b"\n", id="LF alone at the end"),
        pytest.param(GET[:-2] + b": b\r\n\r\n", id="a header without a name"),
        pytest.param(GET.replace(b"Host", b" Host"), id="a space before the first header"),
        pytest.param(b"GET /\r\n\r\n", id="HTTP/0.9"),
        pytest.param(GET.replace(b"1.1", b"2.0"), id="HTTP/2"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2's preface"),
        pytest.param(GET.replace(b"/ ", b"/a b "), id="a space in the target"),
        pytest.param(GET.replace(b"/ ", b"/\xff "), id="no ASCII in the target"),
        pytest.param(GET.replace(b"1.1", b"1.1 "), id="a space behind the line"),
        pytest.param(PUT + b"Content-Length:\r\n\r\n", id="an empty length"),
        pytest.param(PUT + b"Content-Length: 3, 3\r\n\r\nabc", id="a list of lengths"),
        pytest.param(PUT + b"Content-Length: 3\r\n" * 2 + b"\r\nabc", id="one length twice"),
        pytest.param(PUT + b"Content-Length: 99999999999999999999\r\n\r\n", id="a huge length"),
        pytest.param(
            PUT + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="no length, and chunks",
        ),
        pytest.param(
            PUT + b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
            id="chunks, and no length",
        ),
        pytest.param(CHUNKS.replace(b": c", b": ,c"), id="an empty coding before chunks"),
        pytest.param(CHUNKS.replace(b": c", b":\r\n c"), id="a folded coding"),
        pytest.param(
            PUT + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", id="chunks, twice"
        ),
        pytest.param(CHUNKS.replace(b"1.1", b"1.0") + b"0\r\n\r\n", id="HTTP/1.0 in chunks"),
        pytest.param(
            PUT + b"Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\nabc",
            id="an upgrade with a body",
        ),
    ],
)  # fmt: skip
@on_both_loops
async def test_what_could_be_read_in_two_ways_is_refused(request_: bytes) -> None:
    """No handler sees it, nor what follows it."""
    seen = []

    async def handler(request: Request) -> Answer:
        seen.append(request)
        return await echo(request)

    async with front(handler) as address, caller(address) as end:
        await end.say(request_ + GET)
        said = await end.gone()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1 ") == 1
    assert not seen


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"3\nabc\r\n0\r\n\r\n", id="LF alone behind a size"),
        pytest.param(b"3;a\nabc\r\n0\r\n\r\n", id="LF alone behind an extension"),
        pytest.param(b"3;a\rb\r\nabc\r\n0\r\n\r\n", id="CR in an extension"),
        pytest.param(b"3\r\nabc\n0\r\n\r\n", id="LF alone behind a chunk"),
        pytest.param(b"0x3\r\nabc\r\n0\r\n\r\n", id="a size in C"),
        pytest.param(b"3 \r\nabc\r\n0\r\n\r\n", id="a size and a space"),
        pytest.param(b"10000000000000003\r\nabc\r\n0\r\n\r\n", id="a huge size"),
        pytest.param(b"0\r\nContent-Length: 5\r\n\r\n", id="a length behind the chunks"),
        pytest.param(b"0\r\nA: " + b"a" * 300_000, id="an endless header behind the chunks"),
        pytest.param(b"0\r\n" + b"A: b\r\n" * 50_000, id="endless headers behind the chunks"),
        pytest.param(b"3;" + b"a" * 300_000, id="an endless extension"),
        pytest.param(b"0" * 300_000, id="endless zeros"),
    ],
)
@on_both_loops
async def test_a_body_that_can_t_be_read_ends_it_all(piece: bytes) -> None:
    """Its handler is told; what follows is no request."""
    begun, told = asyncio.Event(), []

    async def handler(request: Request) -> Answer:
        begun.set()
        try:
            return await echo(request)
        except UnreadableError as error:
            told.append(error.status)
            return Response(error.status)

    async with front(handler) as address, caller(address) as end:
        await end.say(CHUNKS + b"1\r\nx\r\n")
        await begun.wait()
        for start in range(0, len(piece), 50_000):
            if not end.writer.is_closing():
                end.writer.write(piece[start : start + 50_000])
                await asyncio.sleep(0.005)
        if not end.writer.is_closing():
            end.writer.write(GET)
        said = await end.gone()
    assert told in ([400], [431])
    assert b"200 OK" not in said


@on_both_loops
async def test_requests_at_once_are_limited() -> None:
    """So many that wait are one caller's mistake; those that were taken are answered."""
    async with front(echo) as address, caller(address) as end:
        await end.say(GET * 1000)
        said = await end.gone()
    assert 100 <= said.count(b"HTTP/1.1 200 OK") <= 110


@on_both_loops
async def test_the_last_request_is_the_last() -> None:
    """Behind ``close``, and behind one to upgrade, nothing is a request."""
    for last in (
        closing(GET),
        GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        async with front(echo) as address, caller(address) as end:
            await end.say(GET + last + GET)
            said = await end.gone()
        assert said.count(b"HTTP/1.1 200 OK") == 2
        assert said.count(b"Connection: close") == 1


# -- old and cautious callers --------------------------------------------------------------------


@on_both_loops
async def test_an_old_caller_has_one_request_a_connection() -> None:
    """HTTP/1.0 needs no Host, is not asked for its body, and ends with the answer."""
    request = (
        b"PUT /a HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\n"
        b"Content-Length: 5\r\n\r\nhello"
    )
    async with front(echo) as address:
        head, _, body = (await ask(address, request + request)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in head
    assert body == b"PUT /a hello"


EXPECTING = PUT + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n"


@on_both_loops
async def test_a_body_is_asked_for_once() -> None:
    """However often it is read."""
    async with front(echo) as address, caller(address) as end:
        await end.say(EXPECTING)
        assert await end.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        for piece in (b"hello", b"world"):
            await end.say(piece)
            await asyncio.sleep(0.01)
        assert await end.body(await end.head()) == b"PUT /a helloworld"


@on_both_loops
async def test_a_body_that_nobody_wants_is_not_asked_for() -> None:
    """Neither when it is not read nor within an answer; the connection ends, it may yet come."""

    async def refuse(_: Request) -> Response:
        return Response(403)

    async def answer(request: Request) -> Sent:
        writer = request.begin(200, ())
        await writer.write(b"well")
        await request.read()
        writer.end()
        return Sent(200)

    async with front(refuse) as address:
        said = await ask(address, EXPECTING)
        assert said.startswith(b"HTTP/1.1 403 ")
    async with front(answer) as address, caller(address) as end:
        await end.say(EXPECTING)
        await end.until(b"well\r\n")
        await end.say(b"helloworld")
        said += await end.until(b"0\r\n\r\n")
    assert b"100 Continue" not in said


# -- answers -------------------------------------------------------------------------------------


async def _pieces(request: Request, status: int) -> Answer:
    writer = request.begin(status, (), None)
    for piece in (b"hel", b"lo"):
        await writer.write(piece)
    writer.end()
    return Sent(status)


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize(
    ("method", "status"), [(b"HEAD", 200), (b"HEAD", 404), (b"GET", 204), (b"GET", 304)]
)
@on_both_loops
async def test_where_there_is_no_body_none_is_written(
    method: bytes, status: int, in_pieces: bool
) -> None:
    """Whatever the handler says: it would be taken for the next answer."""

    async def handler(request: Request) -> Answer:
        if request.target == "/last":
            return Response(200)
        return await _pieces(request, status) if in_pieces else Response(status, body=b"hello")

    async with front(handler) as address, caller(address) as end:
        await end.say(GET.replace(b"GET", method))
        head = await end.head()
        await end.say(closing(GET.replace(b"/", b"/last", 1)))
        assert (await end.rest()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert (b"Content-Length: 5" in head) == (method == b"HEAD" and not in_pieces)


# -- who leaves ----------------------------------------------------------------------------------


class _Hasty(Connection):
    """Ends as soon as something is read."""

    lost = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.cancel()

    def left(self) -> None:
        self.lost += 1


@on_both_loops
async def test_a_request_that_never_began_ends_too() -> None:
    """A connection is counted off once, though its task was cancelled before its first step."""
    loop, hasty = asyncio.get_running_loop(), list[_Hasty]()

    def connect() -> _Hasty:
        hasty.append(_Hasty(echo, lambda error: Response(error.status)))
        return hasty[-1]

    listening = await loop.create_server(connect, "127.0.0.1", 0)
    end = End(*await asyncio.open_connection(*listening.sockets[0].getsockname()))
    await end.say(GET)
    assert await end.gone() == b""
    await eventually(lambda: bool(hasty[0].lost))
    await asyncio.sleep(0.01)
    assert hasty[0].lost == 1
    end.close()
    listening.close()


@pytest.mark.parametrize(
    "request_", [PUT + b"Content-Length: 10\r\n\r\nhello", CHUNKS + b"5\r\nhel"]
)
@on_both_loops
async def test_half_a_body_is_told(request_: bytes) -> None:
    """Who reads it learns that it broke off, or is cancelled; it is never taken for the whole."""
    ended = asyncio.get_running_loop().create_future()

    async def handler(request: Request) -> Answer:
        try:
            return await echo(request)
        except BaseException as error:
            ended.set_result(type(error))
            raise

    async with front(handler) as address, caller(address) as end:
        await end.say(request_)
        await asyncio.sleep(0.01)
        end.close()
        async with asyncio.timeout(SECONDS):
            assert await ended in (ConnectionResetError, asyncio.CancelledError)
