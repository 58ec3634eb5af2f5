"""The benchmark's load: frames and events however they are cut, and requests over a real socket."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.frames import STATUS, STDERR, STDOUT, Frames
from bench.load import Audience
from bench.wire import Repeater, Target, Watcher, WireError, exec_request, request

_Kind = TypeVar("_Kind", Repeater, Watcher)

_TARGET = Target("https://127.0.0.1:6443", authority="ca", certificate="crt", key="key")
_SUCCESS = b'{"metadata":{},"status":"Success"}'
_CUTS = st.lists(st.integers(0, 200), max_size=12)


# -- frames --------------------------------------------------------------------------------------


def _frame(payload: bytes, *, kind: int = 2, final: bool = True) -> bytes:
    """Return a frame as servers send it: not masked."""
    head = bytes([kind | 0x80 * final])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 1 << 16:
        return head + b"\x7e" + len(payload).to_bytes(2) + payload
    return head + b"\x7f" + len(payload).to_bytes(8) + payload


def _read(data: bytes, cuts: Sequence[int] = ()) -> Frames:
    frames, last = Frames(), 0
    for cut in sorted({min(cut, len(data)) for cut in cuts} | {len(data)}):
        frames.feed(data[last:cut])
        last = cut
    return frames


@pytest.mark.parametrize(
    ("data", "out", "err"),
    [
        pytest.param(b"", 0, 0, id="nothing"),
        pytest.param(_frame(b"\x01"), 0, 0, id="an empty message of a channel"),
        pytest.param(_frame(b"\x01abc"), 3, 0, id="a short frame"),
        pytest.param(_frame(b"\x01" + bytes(300)), 300, 0, id="a length in two bytes"),
        pytest.param(_frame(b"\x01" + bytes(70_000)), 70_000, 0, id="a length in eight bytes"),
        pytest.param(_frame(b"\x02ab") + _frame(b"\x01c"), 1, 2, id="two channels"),
        pytest.param(
            _frame(b"\x01ab", final=False) + _frame(b"\x02cd", kind=0),
            5,
            0,
            id="a message in two frames names its channel once",
        ),
        pytest.param(
            _frame(b"\x01ab", final=False) + _frame(b"hi", kind=9) + _frame(b"c", kind=0),
            3,
            0,
            id="a ping between them is part of neither",
        ),
    ],
)
def test_frames_are_counted_by_channel(data: bytes, out: int, err: int) -> None:
    """Each channel's bytes are counted, without the one that names it."""
    received = _read(data).received
    assert (received[STDOUT], received[STDERR]) == (out, err)


@given(_CUTS)
def test_frames_are_the_same_however_they_are_cut(cuts: list[int]) -> None:
    """Where the network cuts the bytes makes no difference."""
    data = b"".join(
        [
            _frame(b"\x01" + bytes(130)),
            _frame(b"\x02x", final=False),
            _frame(b"pong", kind=10),
            _frame(b"yz", kind=0),
            _frame(bytes([STATUS]) + _SUCCESS),
            _frame(b"\x03\xe8", kind=8),
        ]
    )
    frames = _read(data, cuts)
    assert (frames.received[STDOUT], frames.received[STDERR]) == (130, 3)
    assert (frames.succeeded, frames.closed) == (True, True)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(b"", False, id="none came"),
        pytest.param(_SUCCESS, True, id="success"),
        pytest.param(b'{"status":"Failure"}', False, id="failure"),
        pytest.param(b"no JSON", False, id="not JSON"),
        pytest.param(b"[]", False, id="not an object"),
    ],
)
def test_only_a_status_of_success_is_one(status: bytes, expected: bool) -> None:
    """A command has succeeded when the status channel says so, and not otherwise."""
    assert _read(_frame(bytes([STATUS]) + status)).succeeded is expected


# -- requests ------------------------------------------------------------------------------------


def test_a_request_has_a_body_when_it_is_given_one() -> None:
    """A body comes with its type and length; without one neither is sent."""
    plain = request(_TARGET, "GET", "/a?b=c").decode()
    assert plain.startswith("GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:6443\r\n")
    assert "Content-" not in plain
    patch = request(_TARGET, "PATCH", "/a", b"{}", "application/merge-patch+json").decode()
    assert patch.endswith(
        "\r\nContent-Type: application/merge-patch+json\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_an_exec_asks_for_the_streams_of_today() -> None:
    """It is a WebSocket with the subprotocol that kubectl uses."""
    lines = exec_request(_TARGET, "/exec").decode().split("\r\n")
    assert "Upgrade: websocket" in lines
    assert "Sec-WebSocket-Protocol: v5.channel.k8s.io" in lines


@asynccontextmanager
async def _connected(answers: Sequence[bytes], make: Callable[[], _Kind]) -> AsyncIterator[_Kind]:
    """Yield a connection to a server that gives these answers, one a request, and then closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        _, connection = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
        try:
            async with asyncio.timeout(30):
                yield connection
        finally:
            connection.close()


_GET = request(_TARGET, "GET", "/a")
_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n"
_FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"


async def test_answers_end_by_length_or_by_chunks() -> None:
    """The next request goes out when an answer is over, whichever way it says so."""
    async with _connected([_LENGTH, _CHUNKED, _LENGTH], Repeater) as repeater:
        assert [len(await repeater.run(_GET)) for _ in range(3)] == [1, 1, 1]


async def test_requests_are_made_until_the_time_is_over() -> None:
    """Each answer is followed by another request until then, and each has its latency."""
    async with _connected([_LENGTH] * 100_000, Repeater) as repeater:
        latencies = await repeater.run(_GET, time.perf_counter() + 0.3)
    assert len(latencies) > 1
    assert min(latencies) > 0


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        pytest.param([_FORBIDDEN], "403 b'no'", id="a refusal"),
        pytest.param([b"SSH-2.0\r\n\r\n"], "not an HTTP answer", id="no HTTP"),
        pytest.param([], "the connection broke", id="no answer"),
        pytest.param([_LENGTH[:-1]], "the connection broke", id="half an answer"),
    ],
)
async def test_anything_but_an_answer_ends_it(answers: list[bytes], said: str) -> None:
    """What isn't a whole answer of 200 is never counted."""
    async with _connected(answers, Repeater) as repeater:
        with pytest.raises(WireError, match=said):
            await repeater.run(_GET)


async def test_a_connection_that_broke_says_so_later_too() -> None:
    """What went wrong before a request is told at the request."""
    async with _connected([_LENGTH], Repeater) as repeater:
        await repeater.run(_GET)
        await asyncio.sleep(0.05)
        with pytest.raises(WireError, match="closed by the server"):
            await repeater.run(_GET)


# -- watches -------------------------------------------------------------------------------------

_EVENTS = b'{"type":"ADDED"}\n{"type":"MODIFIED","mark":"1"}\n'


def _chunked(parts: Sequence[bytes]) -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks


@pytest.mark.parametrize("cut", [1, 16, 17, 30, len(_EVENTS) - 1])
async def test_events_are_whole_lines(cut: int) -> None:
    """An event is handed on once it is whole, however its bytes are cut."""
    lines: list[bytes] = []
    both = asyncio.Event()

    def seen(line: bytes) -> None:
        lines.append(line)
        if len(lines) == 2:
            both.set()

    answer = _chunked([_EVENTS[:cut], _EVENTS[cut:]])
    async with _connected([answer], lambda: Watcher(seen)) as watcher:
        await watcher.open(_GET)
        await both.wait()
    assert lines == _EVENTS.splitlines()


async def test_a_watch_that_is_refused_is_an_error() -> None:
    """A watch is open only when the server says 200."""
    async with _connected([_FORBIDDEN], lambda: Watcher(lambda _line: None)) as watcher:
        with pytest.raises(WireError, match="403"):
            await watcher.open(_GET)


async def test_an_audience_waits_for_everybody_and_for_one_write() -> None:
    """Events of other writes don't count, and the wait ends with the last watcher."""
    audience = Audience(2)
    audience.seen(b'{"mark":"0"}')
    audience.expect(b'"mark":"1"')
    audience.seen(b'{"mark":"0"}')
    audience.seen(b'{"mark":"1"}')
    waiting = asyncio.create_task(audience.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    audience.seen(b'{"mark":"1"}')
    await waiting
    assert len(audience.times) == 2
