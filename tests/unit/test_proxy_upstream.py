"""Passing requests on and answers back, as bytes on the wire."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.http1.head import Header
from syncer.http1.server import Answer, Handler, Request, Response
from syncer.proxy import upstream as module
from syncer.proxy.request import read
from syncer.proxy.upstream import (
    Upstream,
    answer_headers,
    end_to_end,
    headers_of,
    read_answer,
    read_body,
    relay,
)
from syncer.settings import Address
from tests.unit.proxy_wire import (
    GET,
    RENEWALS,
    Backend,
    End,
    Renewing,
    Script,
    always,
    ask,
    backend,
    by_token,
    caller,
    closing,
    front,
    hanging,
    on_both_loops,
)

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"


class Passing:
    """A handler that passes each request on."""

    def __init__(self, server: Backend, **options: Any) -> None:
        """Make it; options are for `Upstream.send`."""
        self.upstream = Upstream(server.config, name="the server")
        self.options = {"admin": False, "head_seconds": 3.0, **options}
        self.feed: Callable[[bytes], bytes] | None = None

    async def __call__(self, request: Request) -> Answer:
        """Pass a request on."""
        response = await self.upstream.send(
            read(request.method, request.target),
            end_to_end(headers_of(request)),
            request=request,
            **self.options,
        )
        return await relay(request, response, answer_headers(response), self.feed)

    async def __aenter__(self) -> Handler:
        """Give it as a handler."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close its connections."""
        await self.upstream.close()


@asynccontextmanager
async def passed(script: Script, **options: Any) -> AsyncIterator[tuple[Backend, Address]]:
    """Serve by a script, and pass requests on to it."""
    async with (
        backend(script) as server,
        Passing(server, **options) as passing,
        front(passing) as address,
    ):
        yield server, address


@asynccontextmanager
async def called(script: Script) -> AsyncIterator[tuple[Backend, End]]:
    """Serve by a script, and call it through the endpoint."""
    async with passed(script) as (server, address), caller(address) as end:
        yield server, end


def names_of(head: bytes) -> list[str]:
    """Give the names of the headers in a head."""
    return [line.partition(b":")[0].decode() for line in head.split(b"\r\n")[1:] if line]


# -- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "left"),
    [
        pytest.param([], [], id="none"),
        pytest.param(
            [("Accept", "a"), ("accept", "b")], [("Accept", "a"), ("accept", "b")], id="kept"
        ),
        pytest.param([("connection", "close"), ("Keep-Alive", "5")], [], id="of the connection"),
        pytest.param(
            [("X-A", "1"), ("Connection", "x-a, X-B"), ("x-b", "2"), ("X-C", "3")],
            [("X-C", "3")],
            id="named by it",
        ),
        pytest.param(
            [("Connection", "X-A"), ("CONNECTION", ",X-B ,"), ("X-A", "1"), ("X-B", "2")],
            [],
            id="named by two of it",
        ),
        pytest.param(
            [("TE", "trailers"), ("Trailer", "A"), ("Transfer-Encoding", "chunked")],
            [],
            id="coding",
        ),
        pytest.param([("Host", "a"), ("Content-Length", "1")], [], id="written anew"),
        pytest.param([("Proxy-Authorization", "a"), ("Upgrade", "h2c")], [], id="for proxies"),
        pytest.param([("X-Forwarded-For", "a"), ("Forwarded", "b")], [], id="of proxies before us"),
    ],
)
def test_headers_of_a_connection_end_with_it(given: list[Header], left: list[Header]) -> None:
    """Those that RFC 9110 names, and those that the Connection header names."""
    assert list(end_to_end(given)) == left


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "B", "x-c", "Accept", "te", "Connection"]), max_size=4),
    st.lists(st.tuples(st.sampled_from(["A", "b", "X-C", "accept", "D"]), st.text("xyz"))),
)
def test_what_is_named_is_gone(words: list[str], headers: list[Header]) -> None:
    """Whatever Connection names is gone, everything else is there in its order."""
    given = [("Connection", ", ".join(words)), *headers]
    named = {word.lower() for word in words}
    assert list(end_to_end(given)) == [h for h in headers if h[0].lower() not in named]


@on_both_loops
async def test_a_request_goes_on_as_it_came() -> None:
    """Method, target and headers are the caller's, nothing is added but Host."""
    heads = []

    async def script(end: End) -> None:
        heads.append(await end.head())
        await end.say(HELLO)
        await end.gone()

    request = (
        b"GET /api/v1/pods?a=%2F&b=+&&c HTTP/1.1\r\nHost: tenant\r\nAccept: a\r\nAccept: b\r\n"
        b"X-Named: 1\r\nConnection: close, x-named\r\nX-Utf: \xc3\xa4\r\nCookie: c=1\r\n\r\n"
    )
    async with passed(script) as (_, address):
        answer = await ask(address, request)
    head = heads[0]
    assert head.startswith(b"GET /api/v1/pods?a=%2F&b=+&&c HTTP/1.1\r\n")
    assert names_of(head) == ["Host", "Accept", "Accept", "X-Utf", "Cookie"]
    assert b"Host: 127.0.0.1:" in head
    assert b"X-Utf: \xc3\xa4\r\n" in head
    assert answer.endswith(b"\r\n\r\nhello")


@on_both_loops
async def test_an_answer_comes_back_as_it_was() -> None:
    """Status and headers are the server's but for those of its connection; none hides another."""
    answer = (
        b"HTTP/1.1 418 Short and stout\r\nServer: nginx\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        b"Connection: x-named\r\nX-Named: 1\r\nKeep-Alive: 3\r\nX-Odd: a\x01b\tc\r\n"
        b"Content-Type: a/b\r\nContent-Length: 5\r\n\r\nhello"
    )
    async with passed(always(answer)) as (_, address):
        head, _, body = (await ask(address, closing(GET))).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 418 ")
    assert b"Set-Cookie: a=1\r\nSet-Cookie: b=2" in head
    assert b"X-Odd: a b\tc" in head
    assert b"Server: nginx" in head
    assert {"X-Named", "Keep-Alive"} & set(names_of(head)) == set()
    assert body == b"hello"


@on_both_loops
async def test_a_header_that_is_no_text_is_refused() -> None:
    """Bytes that are not UTF-8 could be read in several ways."""
    async with passed(always(HELLO)) as (server, address):
        answer = await ask(address, GET.replace(b"\r\n\r\n", b"\r\nX: \xff\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert server.connections == 0


# -- answers of all forms ------------------------------------------------------------------------

LARGE = b"y" * 200_000
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "answer", "body"),
    [
        pytest.param(b"GET", HELLO, b"hello", id="a small one"),
        pytest.param(b"GET", OK + b"Content-Length: 0\r\n\r\n", b"", id="an empty one"),
        pytest.param(
            b"GET", OK + b"Content-Length: 200000\r\n\r\n" + LARGE, LARGE, id="a large one"
        ),
        pytest.param(b"GET", CHUNKED, b"hello", id="in chunks"),
        pytest.param(
            b"GET",
            OK + b"Transfer-Encoding: chunked\r\n\r\n30d40\r\n" + LARGE + b"\r\n0\r\n\r\n",
            LARGE,
            id="in a large chunk",
        ),
        pytest.param(
            b"GET",
            CHUNKED.replace(b"0\r\n\r\n", b"0\r\nX-Sum: 1\r\n\r\n"),
            b"hello",
            id="with trailers",
        ),
        pytest.param(
            b"GET",
            OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"",
            id="no chunk",
        ),
        pytest.param(b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="204"),
        pytest.param(b"GET", b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n", b"", id="304"),
        pytest.param(
            b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", id="304, sized"
        ),
        pytest.param(b"HEAD", OK + b"Content-Length: 5\r\n\r\n", b"", id="HEAD"),
        pytest.param(
            b"HEAD", OK + b"Content-Length: 200000\r\n\r\n", b"", id="HEAD of a large one"
        ),
        pytest.param(b"HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n", b"", id="HEAD in chunks"),
        pytest.param(b"GET", b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO, b"hello", id="100 first"),
        pytest.param(
            b"GET", b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + HELLO, b"hello", id="103 first"
        ),
        pytest.param(b"DELETE", HELLO, b"hello", id="DELETE"),
        pytest.param(b"OPTIONS", HELLO, b"hello", id="OPTIONS"),
    ],
)
@on_both_loops
async def test_connections_are_used_again(method: bytes, answer: bytes, body: bytes) -> None:
    """After an answer of any form both connections take the next request."""
    request = GET.replace(b"GET", method)
    async with called(always(answer, HELLO)) as (server, end):
        await end.say(request)
        head = await end.head()
        assert (await end.body(head) if method != b"HEAD" else b"") == body
        await end.say(closing(GET))
        assert (await end.rest()).endswith(b"\r\n\r\nhello")
    assert server.connections == 1
    if method == b"HEAD" and b"Content-Length" in answer:
        assert answer.split(b"\r\n")[1] in head


@on_both_loops
async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    """The caller sees a clean end; the server's connection is not used again."""

    async def script(end: End) -> None:
        await end.head()
        await end.say(b"HTTP/1.0 200 OK\r\n\r\nhello")
        end.close()

    async with called(script) as (server, end):
        for _ in range(2):
            await end.say(GET)
            assert await end.body(await end.head()) == b"hello"
    assert server.connections == 2


@on_both_loops
async def test_what_comes_goes_on_at_once() -> None:
    """The head before any body, each piece of a watch before the next."""
    said = asyncio.Queue[bytes]()

    async def script(end: End) -> None:
        await end.head()
        await end.say(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while piece := await said.get():
            await end.say(b"%x\r\n%s\r\n" % (len(piece), piece))
        await end.say(b"0\r\n\r\n")

    async with called(script) as (_, end):
        await end.say(GET)
        await end.head()
        for piece in (b"one\n", b"two\n"):
            said.put_nowait(piece)
            assert piece in await end.until(b"\n\r\n")
        said.put_nowait(b"")
        await end.until(b"0\r\n\r\n")


@on_both_loops
async def test_nothing_is_unpacked() -> None:
    """A compressed answer stays so, with its header."""
    packed = gzip.compress(b"hello")
    answer = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    async with passed(always(answer)) as (_, address):
        head, _, body = (await ask(address, closing(GET))).partition(b"\r\n\r\n")
    assert b"Content-Encoding: gzip" in head
    assert body == packed


@on_both_loops
async def test_an_old_client_gets_no_chunks() -> None:
    """HTTP/1.0 has none: the answer ends with the connection."""
    async with passed(always(CHUNKED)) as (_, address):
        head, _, body = (await ask(address, b"GET / HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b"hello"


@on_both_loops
async def test_a_redirect_is_an_answer() -> None:
    """It is the caller's to follow: nobody is asked where it leads."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with passed(always(answer)) as (server, address):
        said = await ask(address, closing(GET))
    assert said.startswith(b"HTTP/1.1 302 ")
    assert b"Location: http://127.0.0.1:1/\r\n" in said
    assert server.connections == 1


# -- answers that go wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(b"", 503, id="none"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", 503, id="another protocol"),
        pytest.param(b"\x00\x01\x02", 503, id="garbage"),
        pytest.param(b"HTTP/1.1 2", 503, id="half a status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b\r\n", 503, id="half a head"),
        pytest.param(OK + b"A: " + b"b" * 70_000 + b"\r\n\r\n", 503, id="an oversized header"),
        pytest.param(OK + b"A: b\r\n" * 70_000 + b"\r\n", 503, id="too many headers"),
        pytest.param(
            OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 503, id="two lengths"
        ),
        pytest.param(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\nraw",
            503,
            id="another protocol unasked",
        ),
    ],
)
@on_both_loops
async def test_what_is_no_answer_is_told(answer: bytes, code: int) -> None:
    """The caller gets a Status that says no more than that the server can't be reached."""

    async def script(end: End) -> None:
        await end.head()
        await end.say(answer)
        end.close()

    async with passed(script) as (server, address):
        said = await ask(address, closing(GET.replace(b"GET", b"POST")))
        await server.idle()
    assert said.startswith(b"HTTP/1.1 %d " % code)
    assert b"127.0.0.1" not in said
    assert b"raw" not in said


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(OK + b"Content-Length: 50\r\n\r\nhello", id="a small one"),
        pytest.param(OK + b"Content-Length: 200000\r\n\r\n" + LARGE[:-1], id="a large one"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", id="in chunks"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", id="in a chunk"),
        pytest.param(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", id="no chunk"),
        pytest.param(CHUNKED[:-2], id="in the end"),
    ],
)
@pytest.mark.parametrize("how", ["close", "cut"])
@on_both_loops
async def test_an_answer_that_breaks_off_breaks_off(answer: bytes, how: str) -> None:
    """The caller never takes a part of an answer for the whole of it."""

    async def script(end: End) -> None:
        await end.head()
        await end.say(answer)
        await asyncio.sleep(0.05)
        getattr(end, how)()

    async with called(script) as (server, end):
        await end.say(closing(GET))
        said = await end.gone()
        await server.idle()
    assert not said.endswith(b"0\r\n\r\n")
    head, _, body = said.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 200 ") and b"chunked" not in head:
        assert len(body) < int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])


@on_both_loops
async def test_a_server_that_says_nothing_is_given_up() -> None:
    """After the time for a head the caller is told, and the connection is closed."""
    async with passed(always(b""), head_seconds=0.1) as (server, address):
        said = await ask(address, closing(GET))
        await server.idle()
    assert said.startswith(b"HTTP/1.1 504 ")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE"])
@on_both_loops
async def test_only_what_was_not_done_is_asked_again(method: bytes) -> None:
    """Clients repeat whatever an answer with Retry-After was for, so a lost answer has none."""

    async def script(end: End) -> None:
        await end.head()
        end.close()

    async with passed(script) as (_, address):
        said = await ask(address, closing(GET.replace(b"GET", method)))
    assert said.startswith(b"HTTP/1.1 503 ")
    assert (b"Retry-After" in said) == (method in (b"GET", b"HEAD"))


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@on_both_loops
async def test_a_server_that_is_not_there_is_told(method: bytes) -> None:
    """Without saying where it would be; nothing was done, so it may be asked again."""
    async with backend(always()) as server:
        pass
    async with Passing(server) as passing, front(passing) as address:
        said = await ask(address, closing(GET.replace(b"GET", method)))
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in said
    assert b"the server can't be reached" in said
    assert b"127.0.0.1" not in said


# -- who leaves and who stalls -------------------------------------------------------------------


@pytest.mark.parametrize("said", [b"", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"])
@on_both_loops
async def test_who_leaves_takes_the_request_along(said: bytes) -> None:
    """Before the answer and within it, the server's connection is closed."""
    asked = asyncio.Event()
    async with passed(hanging(said, asked)) as (server, address):
        async with caller(address) as end:
            await end.say(GET)
            await asked.wait()
            await asyncio.sleep(0.02)
        await server.idle()


@on_both_loops
async def test_a_stalled_reader_stops_the_server() -> None:
    """What nobody reads is not fetched: all buffers on the way are bounded."""
    sent = asyncio.get_running_loop().create_future()

    async def script(end: End) -> None:
        await end.head()
        await end.say(OK + b"\r\n")
        sent.set_result(await end.flood(200 << 20))

    async with called(script) as (_, end):
        await end.say(GET)
        await end.head()
        end.stall()
        assert await sent < 40 << 20  # nearly all of it in the kernel's


@on_both_loops
async def test_a_stalled_server_stops_the_caller() -> None:
    """A body that nobody takes is not fetched either."""

    async def script(end: End) -> None:
        await end.head()
        end.stall()
        await asyncio.sleep(3)

    async with called(script) as (_, end):
        await end.say(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000\r\n\r\n")
        assert await end.flood(60_000_000) < 40 << 20


# -- bodies of requests --------------------------------------------------------------------------


def body_of(sent: bytes) -> bytes:
    """Give what is behind a head, chunks joined."""
    head, _, body = sent.partition(b"\r\n\r\n")
    if b"chunked" not in head:
        return body
    joined = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        joined += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return joined


@pytest.mark.parametrize(
    ("method", "fields", "body"),
    [
        pytest.param(b"POST", b"Content-Length: 0\r\n", b"", id="an empty one"),
        pytest.param(b"POST", b"", b"", id="none, where one is usual"),
        pytest.param(b"POST", b"Content-Length: 5\r\n", b"hello", id="a small one"),
        pytest.param(b"DELETE", b"Content-Length: 5\r\n", b"hello", id="of a DELETE"),
        pytest.param(b"PUT", b"Content-Length: 200000\r\n", LARGE, id="a large one"),
        pytest.param(
            b"PATCH", b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", id="in chunks"
        ),
        pytest.param(
            b"POST",
            b"Content-Encoding: gzip\r\nContent-Length: 5\r\n",
            b"hello",
            id="said to be packed",
        ),
    ],
)
@on_both_loops
async def test_a_body_goes_on(method: bytes, fields: bytes, body: bytes) -> None:
    """Whatever its form, the server gets the bytes, and knows when they end."""
    got = bytearray()
    wanted = b"hello" if b"chunked" in fields else body

    async def script(end: End) -> None:
        got.extend(await end.head())
        head = bytes(got)
        if b"chunked" in head:
            got.extend(await end.until(b"0\r\n\r\n"))
        else:
            got.extend(await end.read(len(wanted)))
        await end.say(HELLO)
        await end.gone()

    request = closing(method + b" / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n") + body
    async with passed(script) as (_, address):
        assert (await ask(address, request)).endswith(b"\r\n\r\nhello")
    assert body_of(bytes(got)) == wanted
    head = bytes(got).partition(b"\r\n\r\n")[0]
    assert (b"Content-Length: %d" % len(wanted) in head) != (b"chunked" in head)


@pytest.mark.parametrize("size", [5, 100_000])
@on_both_loops
async def test_who_waits_is_asked_for_the_body(size: int) -> None:
    """Expect: 100-continue is answered, once, and not passed on."""
    heads = []

    async def script(end: End) -> None:
        heads.append(await end.head())
        await end.read(size)
        await end.say(HELLO)
        await end.gone()

    async with called(script) as (_, end):
        await end.say(
            b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: %d\r\n\r\n"
            % size
        )
        assert await end.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await end.say(b"x" * size)
        assert (await end.head()).startswith(b"HTTP/1.1 200 ")
        assert await end.read(5) == b"hello"
    assert b"Expect" not in heads[0]


@pytest.mark.parametrize(
    ("fields", "body", "code"),
    [
        pytest.param(b"Content-Length: 1001", b"", 413, id="said to be too long"),
        pytest.param(
            b"Transfer-Encoding: chunked", b"3e9\r\n" + b"x" * 1001 + b"\r\n", 413, id="too long"
        ),
        pytest.param(b"Content-Length: 900", b"x", 408, id="too slow"),
        pytest.param(b"Transfer-Encoding: chunked", b"1\r\nx\r\n", 408, id="too slow in chunks"),
    ],
)
@on_both_loops
async def test_a_body_has_limits(
    fields: bytes, body: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long is 413 and too slow is 408; the server never takes a part for the whole."""
    monkeypatch.setattr(module, "MAX_BODY", 1000)
    monkeypatch.setattr(module, "_SMALL", 100)
    monkeypatch.setattr(module, "BODY_SECONDS", 0.1)
    got = []

    async def script(end: End) -> None:
        got.append(await end.gone())

    request = b"PUT / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n" + body
    async with passed(script) as (server, address):
        said = await ask(address, request)
        await server.idle()
    assert said.startswith(b"HTTP/1.1 %d " % code)
    assert not any(each.endswith(b"0\r\n\r\n") for each in got)


@pytest.mark.parametrize("fields", [b"Content-Length: 200000", b"Transfer-Encoding: chunked"])
@on_both_loops
async def test_a_body_that_breaks_off_breaks_off(fields: bytes) -> None:
    """The server never takes a part of a body for the whole."""
    got = []
    begun = asyncio.Event()

    async def script(end: End) -> None:
        head = await end.head()
        begun.set()
        got.append(head + await end.gone())

    async with passed(script) as (server, address):
        async with caller(address) as end:
            await end.say(b"PUT / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n5\r\nhello\r\n")
            await begun.wait()
        await server.idle()
    assert len(got) == 1
    assert not got[0].endswith(b"0\r\n\r\n")


@on_both_loops
async def test_a_body_comes_but_once() -> None:
    """A kept connection turns out to be closed: what is left of a body is not sent as the whole."""
    got = []

    async def script(end: End) -> None:
        head = await end.head()
        if head.startswith(b"GET"):
            await end.say(HELLO)
            head = await end.head()
            await end.until(b"hello")
            end.cut()
        else:
            got.append(head + await end.gone())

    async with called(script) as (_, end):
        await end.say(GET)
        await end.head()
        await end.read(5)
        await end.say(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await end.say(b"5\r\nhello\r\n")
        assert (await end.head()).startswith(b"HTTP/1.1 503 ")
    assert got == []


@on_both_loops
async def test_an_answer_may_come_before_the_body() -> None:
    """A server that refuses a body need not read it; the caller is told, then closed."""
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
    async with called(always(refusal)) as (server, end):
        await end.say(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\nx")
        said = await end.gone()
        await server.idle()
    assert said.startswith(b"HTTP/1.1 413 ")
    assert said.endswith(b"no")


@on_both_loops
async def test_a_body_is_read_whole() -> None:
    """For those who must look into it, up to a limit."""
    bodies = []

    async def handler(request: Request) -> Response:
        bodies.append(await read_body(request, 10))
        return Response(200)

    async with front(handler) as address:
        for size, code in ((10, 200), (11, 413)):
            request = closing(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
            said = await ask(address, request + b"x" * size)
            assert said.startswith(b"HTTP/1.1 %d " % code)
    assert bodies == [b"x" * 10]


# -- credentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("admin", "tokens", "wanted", "good"), RENEWALS)
@on_both_loops
async def test_old_credentials_are_read_again(
    admin: bool, tokens: list[str], wanted: list[bytes], good: bool
) -> None:
    """Ours once more after a 401 when there are others; a caller's own 401 is the answer."""
    got: list[bytes] = []
    async with backend(by_token(got, HELLO)) as server:
        server.config = Renewing(server.config.server, tokens)
        async with Passing(server, admin=admin) as passing, front(passing) as address:
            said = await ask(address, closing(GET))
    assert said.startswith(b"HTTP/1.1 200 " if good else b"HTTP/1.1 401 ")
    assert got == wanted


# -- rewriting -----------------------------------------------------------------------------------


@on_both_loops
async def test_an_answer_may_be_rewritten() -> None:
    """Piece by piece, with a last word; its length is not the server's any more."""
    async with backend(always(HELLO)) as server, Passing(server) as passing:
        assert isinstance(passing, Passing)
        passing.feed = lambda piece: piece.upper() if piece else b"!"
        async with front(passing) as address:
            said = await ask(address, closing(GET))
    assert said.endswith(b"\r\n\r\n5\r\nHELLO\r\n1\r\n!\r\n0\r\n\r\n")


@on_both_loops
async def test_an_answer_is_read_up_to_a_limit() -> None:
    """In time, and its connection is closed when there is more."""
    got: list[bytes] = []

    async def handler(request: Request) -> Response:
        response = await upstream.send(read("GET", "/"), (), admin=False)
        got.append(await read_answer(response, 1000, 3.0))
        return Response(200)

    answers = always(OK + b"Content-Length: 200000\r\n\r\n" + LARGE)
    async with backend(answers) as server, front(handler) as address:
        upstream = Upstream(server.config, name="the server")
        await ask(address, closing(GET))
        await server.idle()
        await upstream.close()
    assert got == [LARGE[:1000]]
