"""Abuse of the tenant's endpoint: too much, too slow, too many; and no secret in a log."""

import asyncio
import base64
import time
import uuid
from contextlib import AsyncExitStack

import pytest

from tests.integration.endpoint import NOBODY, Caller, caller
from tests.integration.harness import eventually
from tests.security.conftest import MOST_CONNECTIONS, MOST_REQUESTS, MOST_STREAMS, Scene
from tests.security.endpoint_wire import (
    EXEC,
    SPDY,
    WEBSOCKET,
    Wire,
    connected,
    head,
    say,
    shout,
)

_LIST = "/api/v1/namespaces/red/configmaps"
_WATCH = f"{_LIST}?watch=1"
_EXEC = "/api/v1/namespaces/red/pods/web/exec?command=cat&stdin=1&stdout=1"
_TOKEN_PROTOCOL = "base64url.bearer.authorization.k8s.io."


async def _is_served(scene: Scene) -> None:
    """See that somebody else is served meanwhile."""
    async with asyncio.timeout(10):
        assert (await say(scene.pair, "GET", _LIST, who=scene.robot)).status == 200


# -- too much -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param((("X-Long", "x" * 100_000),), id="a long value"),
        pytest.param((("X-" + "x" * 100_000, "y"),), id="a long name"),
        pytest.param(tuple((f"X-{each}", "y") for each in range(300)), id="many headers"),
        pytest.param(tuple((f"X-{each}", "y" * 5000) for each in range(100)), id="a long head"),
        pytest.param((("Authorization", f"Bearer {'x' * 20_000}"),), id="a long token"),
        pytest.param(
            (
                *WEBSOCKET,
                ("Sec-WebSocket-Protocol", f"{_TOKEN_PROTOCOL}{'A' * 40_000}, v5.channel.k8s.io"),
            ),
            id="a long encoded token",
        ),
    ],
)
async def test_heads_that_are_too_large(scene: Scene, headers: tuple[tuple[str, str], ...]) -> None:
    """They are refused before anybody behind hears of them."""
    pair, mark = scene.pair, scene.pair.to_virtual.mark
    answers = await shout(pair, head(pair, "GET", f"{_LIST}?large=1", headers=headers))
    assert len(answers) <= 1
    assert all(answer.status in (400, 401, 431) for answer in answers), answers
    assert not [each for each in pair.to_virtual.seen[mark:] if "large" in each.target]
    await _is_served(scene)


@pytest.mark.parametrize("size", [50_000, 100_000, 2_000_000])
@pytest.mark.parametrize("where", ["path", "query"])
async def test_targets_that_are_too_long(scene: Scene, where: str, size: int) -> None:
    """So are targets, in the path as in the query, and without waiting for their end."""
    pair, mark = scene.pair, scene.pair.to_virtual.mark
    target = f"{_LIST}{'/' if where == 'path' else '?'}{'a' * size}"
    answers = await shout(pair, head(pair, "GET", target), who=scene.admin)
    assert len(answers) <= 1
    assert all(answer.status in (400, 414, 431) for answer in answers), answers
    assert not [each for each in pair.to_virtual.seen[mark:] if "aaaa" in each.target]
    await _is_served(scene)


async def test_bodies_that_are_too_large(scene: Scene) -> None:
    """One that is announced is refused at once; one that isn't, when it gets too long."""
    pair = scene.pair
    begin = head(pair, "POST", _LIST, headers=(("Content-Type", "application/json"),))
    begin = begin.removesuffix(b"\r\n")
    async with connected(pair, scene.admin) as wire:
        wire.send(begin + b"Content-Length: 100000000000\r\n\r\n")
        assert (await wire.answer()).status == 413
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    async with connected(pair, scene.admin) as wire:
        wire.send(begin + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 100)
        assert (await wire.answer()).status in (400, 413)
    await _is_served(scene)


@pytest.mark.parametrize("headers", [EXEC, SPDY, WEBSOCKET], ids=["exec", "spdy", "websocket"])
@pytest.mark.parametrize("framing", ["Content-Length: 4", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("target", [_EXEC, _WATCH])
async def test_an_upgrade_has_no_body(
    scene: Scene, target: str, framing: str, headers: tuple[tuple[str, str], ...]
) -> None:
    """What would be body to one and tunnel to another is refused, and the connection closed."""
    pair = scene.pair
    at_host, at_virtual = pair.to_host.mark, pair.to_virtual.mark
    for method in ("GET", "POST"):
        data = head(pair, method, target, headers=headers).removesuffix(b"\r\n")
        data += framing.encode() + b"\r\n\r\n4\r\nevil\r\n0\r\n\r\n"
        async with connected(pair, scene.admin) as wire:
            wire.send(data)
            answers = await wire.closed()
        assert [answer.status for answer in answers] == [400], answers
    assert not pair.to_host.since(at_host)
    assert not [each for each in pair.to_virtual.seen[at_virtual:] if each.header("Upgrade")]


# -- protocols ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        (*WEBSOCKET, ("Sec-WebSocket-Protocol", "evil")),
        (*WEBSOCKET, ("Sec-WebSocket-Protocol", "v5.channel.k8s.io, evil")),
        (*WEBSOCKET, ("Sec-WebSocket-Protocol", "v5.channel.k8s.io\x0bevil")),
        (*SPDY, ("X-Stream-Protocol-Version", "evil")),
        (("Connection", "Upgrade"), ("Upgrade", "evil")),
        (("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AA")),
        (("Connection", "Upgrade"), ("Upgrade", "h2c, websocket")),
        (("Connection", "Upgrade"), ("Upgrade", "TLS/1.0, HTTP/1.1")),
        (("Connection", "Upgrade"),),
        (("Upgrade", "websocket"),),
    ],
    ids=repr,
)
async def test_streams_by_unlisted_protocols(
    scene: Scene, headers: tuple[tuple[str, str], ...]
) -> None:
    """A stream is opened by the protocols of Kubernetes' clients; the host hears of no other."""
    pair, mark = scene.pair, scene.pair.to_host.mark
    for method in ("GET", "POST"):
        answer = await say(pair, method, _EXEC, who=scene.admin, headers=headers)
        assert answer.status == 400, answer
    assert not pair.to_host.since(mark)


async def test_no_tunnel_to_an_api_server_but_for_streams(scene: Scene) -> None:
    """Behind HTTP/2 there would be requests that nobody has looked at: it is not agreed to."""
    pair, mark = scene.pair, scene.pair.to_virtual.mark
    for protocol in ("h2c", "HTTP/2.0", "h2c, websocket", "TLS/1.2", "websocket, h2c"):
        headers = (("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", protocol))
        answer = await say(
            pair, "GET", _LIST, who=scene.admin, headers=(*headers, ("HTTP2-Settings", "AAMAAABk"))
        )
        assert answer.status in (200, 400), answer
    for seen in pair.to_virtual.seen[mark:]:
        assert seen.header("Upgrade") in ([], ["websocket"]), seen
        assert not seen.header("HTTP2-Settings")


async def test_a_token_among_subprotocols_is_the_callers(scene: Scene) -> None:
    """Browsers send it so: it says who asks, and goes on to no host and no workload."""
    pair = scene.pair
    encoded = base64.urlsafe_b64encode(scene.robot.token.encode()).decode().rstrip("=")
    asked = f"{_TOKEN_PROTOCOL}{encoded}, v5.channel.k8s.io"
    headers = (*WEBSOCKET, ("Sec-WebSocket-Protocol", asked))
    target = "/api/v1/namespaces/red/pods/web:80/proxy/"
    mark = pair.to_host.mark
    exec_answer = await say(pair, "GET", _EXEC, headers=headers)
    assert exec_answer.status == 403  # the robot only reads
    assert "system:serviceaccount:red:robot" in exec_answer.json["message"]
    assert not pair.to_host.since(mark)
    await say(pair, "GET", target, headers=headers)
    watched = await say(pair, "GET", _WATCH, headers=headers)
    assert watched.status == 101
    boss = (("Impersonate-User", "boss"),)
    ran = await say(pair, "GET", _EXEC, who=scene.admin, headers=(*headers, *boss))
    assert ran.status == 101
    sent = [str(each.headers) for each in pair.to_host.seen[mark:]]
    assert len(pair.to_host.since(mark)) == 2
    for text in sent:
        assert scene.robot.token not in text
        assert encoded[:40] not in text
        assert "bearer" not in text.lower()


async def test_the_callers_credentials_stay_with_the_tenant(scene: Scene) -> None:
    """The host never sees a caller's token, cookie or name; nor the virtual server our own."""
    pair = scene.pair
    at_host, at_virtual = pair.to_host.mark, pair.to_virtual.mark
    secret = uuid.uuid4().hex
    extra = (("Cookie", f"session={secret}"), ("Proxy-Authorization", f"Basic {secret}"))
    for who in (scene.robot, scene.admin, scene.reader):
        await say(pair, "GET", "/api/v1/namespaces/red/pods/web/log", who=who, headers=extra)
        await say(pair, "GET", _EXEC, who=who, headers=(*EXEC, *extra))
        await say(pair, "GET", _LIST, who=who, headers=extra)
    for seen in pair.to_host.seen[at_host:]:
        text = str(seen.headers)
        assert secret not in text
        assert scene.robot.token not in text
        assert "Impersonate" not in text
        assert "X-Remote" not in text
        assert not seen.header("Authorization")
        assert not seen.header("X-Forwarded-For")
    for seen in pair.to_virtual.seen[at_virtual:]:
        bearer = seen.header("Authorization")
        assert bearer in ([], [f"Bearer {scene.robot.token}"])
        assert not (bearer and seen.header("Impersonate-User"))


# -- too slow -------------------------------------------------------------------------------------


async def _drip(wire: Wire, data: bytes, seconds: float) -> None:
    for byte in data:
        wire.send(bytes([byte]))
        await asyncio.sleep(seconds)


async def _slow_head(scene: Scene, begin: bytes) -> float:
    """Send a head byte by byte; return how long that was let go on."""
    started = time.monotonic()
    async with connected(scene.pair) as wire:
        wire.send(begin)
        await asyncio.sleep(0.2)
        sending = asyncio.create_task(_drip(wire, b"y" * 1000, 0.25))
        try:
            await wire.closed(45)
        finally:
            sending.cancel()
    return time.monotonic() - started


async def _slow_body(scene: Scene) -> float:
    """Send some of a body and then nothing; return how long that was let go on."""
    begin = head(scene.pair, "POST", _LIST, headers=(("Content-Length", "1000"),))
    started = time.monotonic()
    async with connected(scene.pair, scene.stranger) as wire:
        wire.send(begin + b"{")
        answers = await wire.closed(90)
    assert all(answer.status >= 400 for answer in answers), answers
    return time.monotonic() - started


async def _slow_handshake(scene: Scene) -> float:
    """Connect and never say hello; return how long that was let go on."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.pair.syncer.port)
    try:
        async with asyncio.timeout(45):
            assert not await reader.read(1)
    except OSError:
        pass
    finally:
        writer.transport.abort()
    return time.monotonic() - started


async def test_slow_callers_are_left(scene: Scene) -> None:
    """A head has 15 s, a handshake 10, a body 60 between pieces; others are served meanwhile."""
    request = head(scene.pair, "GET", _LIST).removesuffix(b"\r\n")
    work = [
        asyncio.create_task(each)
        for each in (
            _slow_head(scene, b"GET /"),
            _slow_head(scene, request + b"X: "),
            _slow_head(scene, request + b"\r\n" + request + b"X: "),
            _slow_body(scene),
            _slow_handshake(scene),
        )
    ]
    while not all(each.done() for each in work):
        await _is_served(scene)
        await asyncio.wait(work, timeout=5)
    first, second, third, body, handshake = (each.result() for each in work)
    for seconds in (first, second, third):
        assert 10 < seconds < 30
    assert 30 < body < 80
    assert 5 < handshake < 30


# -- too many -------------------------------------------------------------------------------------


async def test_too_many_connections(scene: Scene) -> None:
    """Further ones are closed at once; those that are there go on, and room is found again."""
    pair = scene.pair
    async with AsyncExitStack() as stack:
        kept = await stack.enter_async_context(connected(pair, scene.robot))
        others = []
        for _ in range(MOST_CONNECTIONS + 10):
            wire = await stack.enter_async_context(connected(pair))
            wire.send(head(pair, "GET", "/healthz"))
            others.append(wire)
        answered = await asyncio.gather(*(each.answer() for each in others), return_exceptions=True)
        closed = [each for each in answered if isinstance(each, ConnectionResetError)]
        served = [each for each in answered if not isinstance(each, BaseException)]
        assert len(closed) + len(served) == len(answered)
        assert len(closed) >= 10
        assert len(served) >= MOST_CONNECTIONS // 2
        kept.send(head(pair, "GET", _LIST, who=scene.robot))
        assert (await kept.answer()).status == 200

    async def room_again() -> None:
        try:
            await _is_served(scene)
        except ConnectionResetError as error:  # it has not heard yet that the others went
            raise AssertionError("closed at once") from error

    await eventually(room_again)


async def _watch(stack: AsyncExitStack, scene: Scene, who: Caller) -> int:
    wire = await stack.enter_async_context(connected(scene.pair, who))
    wire.send(head(scene.pair, "GET", _WATCH, who=who, headers=WEBSOCKET))
    return (await wire.answer()).status


async def test_too_many_streams_of_one_user(scene: Scene) -> None:
    """The next one gets 429, and so by any other way to the same user; others are served."""
    pair = scene.pair
    async with AsyncExitStack() as stack:
        found = [await _watch(stack, scene, scene.reader) for _ in range(MOST_STREAMS + 2)]
        assert found == [101] * MOST_STREAMS + [429] * 2
        log = "/api/v1/namespaces/red/pods/web/log"
        refused = await say(pair, "GET", log, who=scene.reader)
        assert refused.status == 429, refused
        assert refused.header("retry-after")
        assert (await say(pair, "GET", _LIST, who=scene.reader)).status == 200
        assert (await say(pair, "GET", log, who=scene.robot)).status == 200
        assert (await say(pair, "GET", log, who=scene.boss)).status == 200

    async def again() -> None:
        assert (await say(pair, "GET", log, who=scene.reader)).status == 200

    await eventually(again)


async def test_too_many_requests_of_one_user(scene: Scene) -> None:
    """Requests that are under way count until they end, with an unfinished body too."""
    pair = scene.pair
    begin = head(pair, "POST", _LIST, headers=(("Content-Length", "100"),)) + b"{"
    async with AsyncExitStack() as stack:
        for _ in range(MOST_REQUESTS):
            wire = await stack.enter_async_context(connected(pair, scene.reader))
            wire.send(begin)

        async def full() -> None:
            assert (await say(pair, "GET", _LIST, who=scene.reader)).status == 429

        await eventually(full)
        for who in (scene.robot, scene.boss):
            assert (await say(pair, "GET", _LIST, who=who)).status == 200

    async def again() -> None:
        assert (await say(pair, "GET", _LIST, who=scene.reader)).status == 200

    await eventually(again)


# -- what is written down -------------------------------------------------------------------------


async def test_no_secret_is_logged(scene: Scene) -> None:
    """With everything logged: no token, cookie, query or body is there, well-formed or not."""
    pair = scene.pair
    unknown = f"unknown-{uuid.uuid4().hex}"
    secret = uuid.uuid4().hex
    encoded = base64.urlsafe_b64encode(scene.robot.token.encode()).decode().rstrip("=")
    kind = ("Content-Type", "application/json")
    for who in (NOBODY, scene.robot, scene.stranger, Caller(token=unknown), scene.admin):
        for target in (
            f"{_LIST}?access_token={secret}&token={secret}",
            f"/api/v1/namespaces/red/pods/web/exec?command={secret}",
            f"/api/v1/namespaces/red/pods/web:80/proxy/?password={secret}",
            f"/api/v1/nodes/{scene.node}/proxy/run/red/web/main?cmd={secret}",
        ):
            for headers in (
                (),
                (("Authorization", f"Basic {secret}"),),
                (("Authorization", f"Bearer{secret}"),),
                (("Authorization\x00", f"Bearer {secret}"),),
                (("Authorization ", f"Bearer {secret}"),),
                (("X-Remote-Extra-Token", secret), ("X-Auth-Token", secret)),
                (("Cookie", f"session={secret}"),),
                (*WEBSOCKET, ("Sec-WebSocket-Protocol", f"{_TOKEN_PROTOCOL}{encoded}")),
                (*WEBSOCKET, ("Sec-WebSocket-Protocol", f"{_TOKEN_PROTOCOL}{secret}!")),
                (*EXEC, ("X-Token", secret)),
            ):
                given = who if not any("Auth" in name for name, _ in headers) else NOBODY
                await say(pair, "GET", target, who=given, headers=headers)
    await say(pair, "POST", _LIST, who=scene.admin, headers=(kind,), body=f'{{"{secret}'.encode())
    for garbage in (
        f"GET /{secret} HTTP/9.9\r\nAuthorization: Bearer {scene.robot.token}\r\n\r\n",
        f"{secret}\r\n\r\n",
        f"GET / HTTP/1.1\r\nAuthorization Bearer {secret}\r\n\r\n",
        f"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{secret}\r\n",
    ):
        await shout(pair, garbage.encode(), quiet=0.1)
    user = f"seen-{uuid.uuid4().hex[:8]}"
    await say(pair, "GET", _LIST, who=caller(pair, user))

    def logged() -> str:
        text = pair.syncer.log.read_text()
        assert user in text  # so the rest is written, too
        return text

    text = await eventually(logged)
    signature = scene.robot.token.rpartition(".")[2]
    for what in (secret, unknown, scene.robot.token, signature, encoded[:60], encoded[-60:]):
        assert what not in text, [line for line in text.splitlines() if what in line][:3]
    assert "PRIVATE KEY" not in text
    assert "Traceback" not in text
