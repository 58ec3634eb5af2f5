"""The informer's decisions as tables, and its behaviour on a scripted wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.access import Access
from syncer.kube.client import Client
from syncer.kube.config import ConnectionConfig
from syncer.kube.errors import ApiError, TransportError
from syncer.kube.informer import RELIST_SPACING, Informer
from syncer.kube.phases import (
    BACKOFF,
    REFUSED_PAUSE,
    Checking,
    End,
    Listing,
    State,
    Watching,
    Why,
    classify,
    following,
    pause,
)
from syncer.kube.store import Change, Meta, Store
from syncer.kube.watch import DecodeError
from syncer.objects import Key, Object, Resource

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
A, B, C = Key("ns", "a"), Key("ns", "b"), Key("ns", "c")

# Decisions


@pytest.mark.parametrize(
    ("state", "why", "next_state"),
    [
        pytest.param(Listing(), Why.LISTED, Watching(), id="a list is followed by a watch"),
        pytest.param(Checking(), Why.CHECKED, Watching(), id="the same past: resume"),
        pytest.param(Watching(), Why.CLOSED, Checking(), id="an ended watch is followed by a look"),
        pytest.param(Watching(), Why.LOST, Checking(), id="a lost one too"),
        pytest.param(Watching(), Why.SILENT, Checking(), id="a silent one too"),
        pytest.param(Watching(), Why.REFUSED, Checking(), id="rights taken away: nothing is lost"),
        pytest.param(Checking(), Why.LOST, Checking(), id="an unanswered look is repeated"),
        pytest.param(Watching(), Why.EXPIRED, Listing(), id="410: list"),
        pytest.param(Watching(), Why.ASKED, Listing(), id="asked for a list"),
        pytest.param(Watching(), Why.DISORDERED, Listing(), id="versions out of order: list"),
        pytest.param(Checking(), Why.REWOUND, Listing(rewound=True), id="restored: start anew"),
        pytest.param(Listing(), Why.REWOUND, Listing(rewound=True), id="found by a list"),
        pytest.param(Listing(), Why.LOST, Listing(), id="a broken list is repeated"),
        pytest.param(Listing(), Why.EXPIRED, Listing(), id="so is one whose token expired"),
        pytest.param(Listing(), Why.UNSUPPORTED, Listing(), id="and one in a form unknown there"),
        pytest.param(
            Listing(rewound=True), Why.EXPIRED, Listing(rewound=True), id="still a new past"
        ),
    ],
)
def test_what_follows_what(state: State, why: Why, next_state: State) -> None:
    """A view that may be resumed is kept; one that may be wrong is listed anew."""
    assert following(state, why) == next_state


def refusal(status: int, reason: str = "", retry_after: float | None = None) -> ApiError:
    return ApiError(status, reason, "because", retry_after=retry_after, attempt="GET /x")


@pytest.mark.parametrize(
    ("error", "streaming", "why"),
    [
        pytest.param(refusal(410, "Expired"), False, Why.EXPIRED, id="410"),
        pytest.param(refusal(422, "Invalid"), True, Why.UNSUPPORTED, id="422 to a streaming list"),
        pytest.param(refusal(400), True, Why.UNSUPPORTED, id="400 to a streaming list"),
        pytest.param(refusal(422), False, Why.FAILED, id="422 to anything else"),
        pytest.param(refusal(401), True, Why.UNAUTHORIZED, id="401"),
        pytest.param(refusal(403), True, Why.REFUSED, id="403"),
        pytest.param(refusal(404), False, Why.REFUSED, id="404: not served"),
        pytest.param(refusal(429), False, Why.FAILED, id="429"),
        pytest.param(refusal(503), True, Why.FAILED, id="503"),
        pytest.param(TransportError("GET /x", ConnectionError()), True, Why.LOST, id="no answer"),
        pytest.param(TransportError("GET /x", TimeoutError()), False, Why.SILENT, id="silence"),
        pytest.param(TimeoutError(), True, Why.SILENT, id="a list that takes too long"),
        pytest.param(DecodeError("no watch"), False, Why.FAILED, id="not a watch"),
        pytest.param(ZeroDivisionError(), False, Why.BUG, id="our own mistake"),
    ],
)
def test_what_an_error_means(error: Exception, streaming: bool, why: Why) -> None:
    """Every error becomes a reason; a server's own words and wishes are kept."""
    end = classify(error, streaming_list=streaming)
    assert end.why is why
    assert end.message
    assert end.status == (error.status if isinstance(error, ApiError) else 0)


def test_pauses_by_reason() -> None:
    """Success waits for nothing, a first failure hardly, missing rights for long."""
    assert pause(End(Why.LOST), 0, lambda: 1.0) == 0.0
    assert pause(End(Why.LOST), 1, lambda: 1.0) == BACKOFF[0]
    assert pause(End(Why.REFUSED), 1, lambda: 0.5) == REFUSED_PAUSE
    assert pause(End(Why.FAILED, retry_after=70.0), 1, lambda: 0.5) == 70.0
    assert pause(End(Why.FAILED, retry_after=0.01), 3, lambda: 1.0) == 4 * BACKOFF[0]


@given(failures=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_pauses_grow_to_a_limit(failures: int, chance: float) -> None:
    """However many failures: between half and all of the doubled pause, at most the limit."""
    wait = pause(End(Why.LOST), failures, lambda: chance)
    assert BACKOFF[0] / 2 <= wait <= BACKOFF[1]
    assert wait <= BACKOFF[0] * 2.0 ** min(failures - 1, 16)


# The wire


def config_map(key: Key, version: int, **data: str) -> Object:
    metadata = {"namespace": key.namespace, "name": key.name, "uid": f"u-{key.name}"}
    return {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {**metadata, "resourceVersion": str(version)},
        "data": data,
    }


def event(verb: str, obj: Object) -> bytes:
    return orjson.dumps({"type": verb, "object": obj}) + b"\n"


def mark(version: int, *, end: bool = False) -> bytes:
    metadata: Object = {"resourceVersion": str(version)}
    if end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return event("BOOKMARK", {"kind": "ConfigMap", "metadata": metadata})


def error_status(code: int, reason: str) -> Object:
    return {"kind": "Status", "code": code, "reason": reason, "message": "because"}


def initial(version: int, *objects: Object) -> bytes:
    """A streaming list."""
    return b"".join(event("ADDED", obj) for obj in objects) + mark(version, end=True)


def page(version: int, *objects: Object, token: str = "") -> Object:
    """A list, whose items lack what they share, as the API server's do."""
    items = [{k: v for k, v in obj.items() if k not in ("kind", "apiVersion")} for obj in objects]
    metadata = {"resourceVersion": str(version), "continue": token}
    return {"kind": "ConfigMapList", "metadata": metadata, "items": items}


class Talk:
    """One request, and what can be done with its connection."""

    def __init__(self, target: str, writer: asyncio.StreamWriter) -> None:
        split = urlsplit(target)
        self.path = split.path
        self.params = dict(parse_qsl(split.query))
        self._writer = writer
        self._begun = False

    @property
    def kind(self) -> str:
        """What the request is for."""
        if "watch" in self.params:
            return "stream" if "sendInitialEvents" in self.params else "watch"
        if not self.path.endswith("/configmaps"):
            return "object"
        return "check" if self.params.get("limit") == "1" else "list"

    async def answer(self, body: Object, status: int = 200, *headers: str) -> None:
        """Answer at once."""
        content = orjson.dumps(body)
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", *headers]
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        await self._writer.drain()

    async def send(self, data: bytes) -> None:
        """Send a part of a watch."""
        if not self._begun:
            self._begun = True
            self._writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self._writer.drain()

    async def end(self) -> None:
        """End a watch in order."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def cut(self) -> None:
        """Break the connection."""
        self._writer.transport.abort()


class Scene:
    """An informer, its store, and the requests that reached the server so far."""

    def __init__(self, port: int, informer: Callable[[Client, Store], Informer]) -> None:
        self.changes: list[tuple[Key, int | None, int | None]] = []
        self.indexed = 0
        self.requests: asyncio.Queue[Talk] = asyncio.Queue()
        self.store = Store({"count": self._count}, self._changed)
        access = Access(f"http://127.0.0.1:{port}")
        self.client = Client(ConnectionConfig(lambda _files: access))
        self.informer = informer(self.client, self.store)

    async def request(self, kind: str) -> Talk:
        """Wait for the next request, which must be of a kind."""
        async with asyncio.timeout(30):
            talk = await self.requests.get()
        assert talk.kind == kind, talk.params
        return talk

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is true."""
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def listed(self, version: int, *objects: Object) -> Talk:
        """Serve a streaming list; give its connection, which goes on as a watch."""
        talk = await self.request("stream")
        await talk.send(initial(version, *objects))
        await self.until(lambda: self.store.version == version)
        return talk

    async def resumed(self, version: int) -> Talk:
        """Serve the check after a lost connection; give the watch that follows it."""
        await (await self.request("check")).answer(page(version))
        return await self.request("watch")

    def told(self) -> list[tuple[Key, int | None, int | None]]:
        """Give and forget the changes, sorted: key, old version, new version."""
        changes = sorted(self.changes, key=str)
        self.changes.clear()
        return changes

    def _count(self, _obj: Object) -> list[str]:
        self.indexed += 1
        return []

    def _changed(self, change: Change) -> None:
        old, new = change.old, change.new
        self.changes.append((change.key, old and old.version, new and new.version))  # type: ignore[arg-type]


@asynccontextmanager
async def scene(**options: Any) -> AsyncIterator[Scene]:
    """Run an informer against a server that does what the test says, without pauses."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await set_up.requests.put(Talk(head.split(b" ")[1].decode(), writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            connections.discard(task)
            writer.close()

    def informer(client: Client, store: Store) -> Informer:
        return Informer(
            client, CONFIG_MAPS, store, **{"sleep": no_pause, "namespace": "ns", **options}
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    set_up = Scene(server.sockets[0].getsockname()[1], informer)
    running = asyncio.create_task(set_up.informer.run())
    try:
        yield set_up
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled(), "run() ends by cancellation only"
        await set_up.client.close()
        server.close()
        await asyncio.gather(*connections)


async def no_pause(_seconds: float) -> None:
    await asyncio.sleep(0)


class Pauses:
    """Remembers the pauses asked for and makes none."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        """Note a pause."""
        self.seconds.append(seconds)
        await asyncio.sleep(0)


async def test_a_streaming_list_goes_on_as_a_watch() -> None:
    """One request lists and watches; the changes of the list arrive at its end, together."""
    async with scene(label_selector="a=b", watch_seconds=(300.0, 300.0)) as s:
        talk = await s.request("stream")
        assert talk.path == "/api/v1/namespaces/ns/configmaps"
        assert talk.params == {
            "labelSelector": "a=b",
            "watch": "true",
            "sendInitialEvents": "true",
            "resourceVersionMatch": "NotOlderThan",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": "300",
        }
        await talk.send(event("ADDED", config_map(B, 7)) + event("ADDED", config_map(A, 5)))
        assert (len(s.store), s.informer.synced) == (0, False)
        await talk.send(mark(9, end=True))
        await s.informer.wait_synced()
        assert s.told() == [(A, None, 5), (B, None, 7)]
        deletion = event("DELETED", config_map(B, 12))
        await talk.send(event("MODIFIED", config_map(A, 11)) + deletion + mark(15))
        await s.until(lambda: s.store.version == 15)
        assert s.told() == [(A, 5, 11), (B, 7, None)]
        assert s.store.deleted_uid(B) == "u-b"
        assert s.informer.status().state == "watching"


async def test_a_list_cut_halfway_changes_nothing() -> None:
    """Objects of a list that never ended are not in the store, nor are missing ones removed."""
    async with scene() as s:
        first = await s.listed(9, config_map(A, 5))
        s.told()
        await first.send(event("ERROR", error_status(410, "Expired")))
        second = await s.request("stream")
        await second.send(event("ADDED", config_map(B, 12)))
        second.cut()
        await s.request("stream")
        assert s.told() == []
        assert s.store.keys() == [A]


async def test_a_server_without_streaming_lists_gets_pages() -> None:
    """A 422 is remembered; pages, continued by token, end in the same store."""
    async with scene() as s:
        await (await s.request("stream")).answer(error_status(422, "Invalid"), 422)
        first = await s.request("list")
        assert first.params == {"limit": "500"}
        await first.answer(page(20, config_map(A, 5, x="y"), token="more"))
        second = await s.request("list")
        assert second.params == {"limit": "500", "continue": "more"}
        assert len(s.store) == 0
        await second.answer(page(20, config_map(B, 7)))
        watch = await s.request("watch")
        assert watch.params["resourceVersion"] == "20"
        assert s.store.get(A) == config_map(A, 5, x="y")
        await watch.send(event("ERROR", error_status(410, "Expired")))
        await s.request("list")


async def test_an_expired_token_restarts_the_list() -> None:
    """A list whose continue token expires begins anew, and none of it is kept."""
    async with scene() as s:
        await (await s.request("stream")).answer(error_status(400, "BadRequest"), 400)
        await (await s.request("list")).answer(page(20, config_map(A, 5), token="more"))
        await (await s.request("list")).answer(error_status(410, "Expired"), 410)
        again = await s.request("list")
        assert "continue" not in again.params
        await again.answer({**page(30), "items": None})
        await s.informer.wait_synced()
        assert s.told() == []


async def test_a_relist_after_410_reports_what_was_missed() -> None:
    """Deletions and changes that no watch told are found by the list, and only those."""
    async with scene() as s:
        watch = await s.listed(9, config_map(A, 5), config_map(B, 6), config_map(C, 7))
        s.told()
        indexed = s.indexed
        await watch.send(event("ERROR", error_status(410, "Expired")))
        await s.listed(30, config_map(A, 5), config_map(B, 20))
        assert s.told() == [(B, 6, 20), (C, 7, None)]
        assert s.indexed == indexed + 1, "what is held already was decoded again"


@pytest.mark.parametrize("how", ["cut", "end"])
async def test_a_lost_watch_is_resumed_from_its_last_version(how: str) -> None:
    """After any end, a look at the server's version comes first, then the watch goes on."""
    async with scene() as s:
        watch = await s.listed(9, config_map(A, 5))
        await watch.send(mark(15) + event("ADDED", config_map(B, 99))[:40])
        await s.until(lambda: s.store.version == 15)
        if how == "cut":
            watch.cut()
        else:
            await watch.end()
        again = await s.resumed(40)
        assert again.params["resourceVersion"] == "15"
        await again.send(event("ADDED", config_map(B, 16)))
        await s.until(lambda: B in s.store)


async def test_silence_ends_a_watch() -> None:
    """A connection that says nothing for too long is cut and resumed."""
    async with scene(silence=0.5) as s:
        await s.listed(9)
        again = await s.resumed(10)
        assert again.params["resourceVersion"] == "9"
        assert s.informer.status().restarts["silent"] == 1


MADE_AGAIN = config_map(B, 61)["metadata"] | {"uid": "u-b2"}


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param((error_status(404, "NotFound"), 404), id="gone"),
        pytest.param((config_map(B, 54),), id="as it was"),
        pytest.param((config_map(B, 61) | {"metadata": MADE_AGAIN},), id="made again"),
    ],
)
async def test_a_restored_server_is_noticed_at_the_reconnect(gone: tuple[Any, ...]) -> None:
    """A lower version than seen: it is told first, then the list replaces everything."""
    rewinds: list[tuple[int, int, int]] = []

    def rewound(old: int, new: int) -> None:
        rewinds.append((old, new, len(s.store)))

    async with scene(on_rewound=rewound) as s:
        watch = await s.listed(90, config_map(A, 50, x="old"), config_map(B, 60))
        s.told()
        watch.cut()
        await (await s.request("check")).answer(page(55))
        await (await s.request("object")).answer(*gone)
        again = await s.request("stream")
        assert rewinds == [(90, 55, 2)]
        await again.send(initial(57, config_map(A, 50, x="new")))
        await s.until(lambda: s.store.version == 57)
        assert s.told() == [(A, 50, 50), (B, 60, None)]
        assert s.store.get(A) == config_map(A, 50, x="new")
        await again.send(event("ADDED", config_map(C, 58)))
        await s.until(lambda: C in s.store)
    assert len(rewinds) == 1


async def test_a_list_older_than_our_own_write_is_a_rewind() -> None:
    """What a write's answer told counts as seen, if it came before the list was asked for."""
    rewinds: list[tuple[int, int]] = []
    async with scene(on_rewound=lambda old, new: rewinds.append((old, new))) as s:
        watch = await s.listed(9)
        s.store.apply(config_map(A, 30), own=True)
        await watch.send(event("ERROR", error_status(410, "Expired")))
        again = await s.request("stream")
        s.store.apply(config_map(B, 40), own=True)
        await again.send(initial(31, config_map(A, 30)))
        await s.until(lambda: s.store.version == 31)
        assert rewinds == []
        assert s.store.meta(B) == Meta("u-b", 40), "newer than the list"


async def test_an_answer_that_calls_itself_too_old_is_no_rewind() -> None:
    """The server has an object of a higher version, so it has not gone back: it is asked again."""
    rewinds: list[tuple[int, int]] = []
    async with scene(on_rewound=lambda old, new: rewinds.append((old, new))) as s:
        watch = await s.listed(9, config_map(A, 5))
        s.store.apply(config_map(B, 30), own=True)
        await watch.send(event("ERROR", error_status(410, "Expired")))
        await (await s.request("stream")).send(initial(28, config_map(A, 5), config_map(B, 30)))
        await (await s.request("object")).answer(config_map(B, 30))
        watch = await s.listed(31, config_map(A, 5), config_map(B, 30))
        s.store.apply(config_map(C, 40), own=True)
        watch.cut()
        await (await s.request("check")).answer(page(39))
        asked = await s.request("object")
        assert asked.path.endswith("/configmaps/c")
        await asked.answer(config_map(C, 42))
        await s.resumed(42)
        assert s.informer.status().restarts["understated"] == 2
    assert rewinds == []


async def test_disorder_is_settled_by_a_list() -> None:
    """A version lower than the last one proves nothing yet: a list is asked for."""
    rewinds: list[tuple[int, int]] = []
    async with scene(on_rewound=lambda old, new: rewinds.append((old, new))) as s:
        watch = await s.listed(9, config_map(A, 5))
        s.told()
        await watch.send(mark(20) + event("MODIFIED", config_map(A, 15)))
        await s.listed(21, config_map(A, 15))
        assert s.told() == [(A, 5, 15)]
        assert rewinds == []


async def test_echoes_of_own_writes_are_not_decoded() -> None:
    """The watch's news of a state that its write's answer brought is dropped."""
    async with scene() as s:
        watch = await s.listed(9)
        s.store.apply(config_map(A, 12), own=True)
        s.told()
        indexed = s.indexed
        await watch.send(event("ADDED", config_map(A, 12)) + mark(13))
        await s.until(lambda: s.store.version == 13)
        assert (s.told(), s.indexed) == ([], indexed)


async def test_foreign_objects_are_not_held() -> None:
    """What ``keep`` refuses never comes in; what it refuses later goes, as not ours any more."""

    def ours(obj: Object) -> bool:
        return bool(obj["data"].get("ours"))

    async with scene(keep=ours) as s:
        watch = await s.listed(9, config_map(A, 5, ours="y"), config_map(B, 6))
        assert s.told() == [(A, None, 5)]
        await watch.send(event("MODIFIED", config_map(B, 10)) + event("DELETED", config_map(B, 11)))
        await watch.send(event("MODIFIED", config_map(A, 12)) + mark(13))
        await s.until(lambda: s.store.version == 13)
        assert s.told() == [(A, 5, None)]
        assert (s.store.deleted_uid(A), s.store.deleted_uid(B)) == (None, None)


async def test_trouble_with_one_object_stops_nothing() -> None:
    """A ``keep`` that raises is logged with the object's name; in doubt the object is held."""

    def ours(obj: Object) -> bool:
        return bool(obj["data"]["ours"])

    with structlog.testing.capture_logs() as logs:
        async with scene(keep=ours) as s:
            watch = await s.listed(9, config_map(A, 5), config_map(B, 6, ours="y"))
            await watch.send(event("ADDED", config_map(C, 10)) + mark(11))
            await s.until(lambda: s.store.version == 11)
            assert sorted(s.store.keys()) == [A, B, C]
            assert s.informer.status().errors == 2
    assert [log["object"] for log in logs if log["event"] == "keep failed"] == ["ns/a", "ns/c"]


async def test_missing_rights_are_told_and_wait_long() -> None:
    """A 403 settles what waits for lists, is in the status, and doesn't empty the store."""
    pauses = Pauses()
    async with scene(sleep=pauses) as s:
        await (await s.request("stream")).answer(error_status(403, "Forbidden"), 403)
        await s.informer.wait_settled()
        await s.request("stream")
        status = s.informer.status()
        assert (status.synced, status.error_status, status.restarts) == (False, 403, {"refused": 1})
        assert "Forbidden" in status.last_error
        assert status.failing_since is not None
        assert pauses.seconds[0] >= REFUSED_PAUSE * 0.75


async def test_the_servers_wish_for_a_pause_is_obeyed() -> None:
    """A 429 with Retry-After waits so long, and a list ends the failure."""
    pauses = Pauses()
    async with scene(sleep=pauses) as s:
        talk = await s.request("stream")
        await talk.answer(error_status(429, "TooManyRequests"), 429, "Retry-After: 7")
        await s.listed(9)
        assert pauses.seconds == [7.0]
        status = s.informer.status()
        assert (status.last_error, status.failing_since) == ("", None)


async def test_a_healthy_watch_ends_a_row_of_failures() -> None:
    """Pauses grow from failure to failure and begin anew after a watch that told something."""
    pauses = Pauses()
    async with scene(sleep=pauses, random=lambda: 1.0) as s:
        for _ in range(2):
            await (await s.request("stream")).answer(error_status(503, "Unavailable"), 503)
        watch = await s.listed(9)
        await watch.send(mark(10))
        await s.until(lambda: s.store.version == 10)
        watch.cut()
        await s.request("check")
        assert pauses.seconds == [BACKOFF[0], 2 * BACKOFF[0], BACKOFF[0]]


async def test_a_fresh_list_on_request_comes_once_and_not_too_often() -> None:
    """Many requests make one list, which waits for its distance from the last one."""
    now = 0.0
    async with scene(clock=lambda: now) as s:
        watch = await s.listed(9, config_map(A, 5))
        s.informer.relist()
        await watch.send(mark(10))
        await s.until(lambda: s.store.version == 10)
        assert s.requests.empty(), "too soon after the first list"
        now += RELIST_SPACING
        s.informer.relist()
        s.informer.relist()
        await s.listed(11)
        assert s.told() == [(A, 5, None), (A, None, 5)]
        await asyncio.sleep(0.02)
        assert s.requests.empty()


async def test_a_list_that_lacks_something_is_followed_by_another() -> None:
    """What went without being seen may only have been hidden: it is asked for once more."""
    clock = count(0.0, RELIST_SPACING)
    async with scene(clock=lambda: next(clock)) as s:
        watch = await s.listed(9, config_map(A, 5), config_map(B, 6))
        await asyncio.sleep(0.02)
        assert s.requests.empty(), "a first list lacks nothing"
        await watch.send(event("ERROR", error_status(410, "Expired")))
        await s.listed(30, config_map(A, 5))
        await s.listed(31, config_map(A, 5), config_map(B, 6))
        assert s.told() == [(A, None, 5), (B, 6, None), (B, None, 6), (B, None, 6)]
        await asyncio.sleep(0.02)
        assert s.requests.empty()


async def test_bytes_that_are_no_watch_are_a_failure() -> None:
    """A proxy's HTML instead of a watch is told in the status and tried again."""
    async with scene() as s:
        await (await s.request("stream")).send(b"<html>\n")
        await s.request("stream")
        assert "no watch event" in s.informer.status().last_error


@pytest.mark.parametrize("phase", ["listing", "checking", "watching", "pausing"])
async def test_cancellation_in_every_phase_is_clean(phase: str) -> None:
    """Cancelled anywhere, ``run`` ends as cancelled and what was listed stays."""
    pausing = asyncio.Event()

    async def long_pause(_seconds: float) -> None:
        pausing.set()
        await asyncio.sleep(60)

    sleep: Callable[[float], Awaitable[None]] = long_pause if phase == "pausing" else no_pause
    async with scene(sleep=sleep) as s:
        if phase == "listing":
            await (await s.request("stream")).send(event("ADDED", config_map(A, 5)))
        else:
            watch = await s.listed(9, config_map(A, 5))
            if phase != "watching":
                watch.cut()
            if phase == "checking":
                await s.request("check")
            if phase == "pausing":
                await pausing.wait()
    assert s.store.keys() == ([] if phase == "listing" else [A])
