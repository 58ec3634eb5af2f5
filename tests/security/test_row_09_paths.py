"""Row 9: a request is read in one way only, by the endpoint and by whoever is behind it.

Path tricks and request smuggling: whatever is sent, the host is asked for allow-listed paths of the
tenant's own copies, and the virtual API server for nothing that was hidden in something else.
"""

import asyncio
import random
import re
import uuid
from urllib.parse import unquote

import pytest

from tests.integration.endpoint import Caller
from tests.security.conftest import Scene
from tests.security.endpoint_wire import EXEC, SPDY, connected, head, say, shout

_POD = "/api/v1/namespaces/red/pods/web"

_REFUSED = (
    f"{_POD}/../web/log",
    f"{_POD}/./log",
    f"{_POD}/%2e%2e/web/log",
    f"{_POD}/%2E%2e/web/log",
    f"{_POD}/.%2e/web/log",
    f"{_POD}/%252e%252e/web/log",
    f"{_POD}%2flog",
    f"{_POD}%2Flog",
    f"{_POD}%252flog",
    f"{_POD}%5clog",
    f"{_POD}\\log",
    f"{_POD}//log",
    f"/{_POD}/log",
    f"//evil.example{_POD}/log",
    f"{_POD}/log//",
    f"{_POD}/log%00",
    f"{_POD}/log%0d%0aX:%20y",
    f"{_POD}/log\t",
    f"{_POD}/log#x",
    f"{_POD}/log?x#y",
    f"{_POD}/log?x=\x7f",
    f"{_POD}/l%6",
    f"{_POD}/l%zzg",
    f"{_POD}/l%u006fg",
    f"{_POD}/log%ff",
    f"{_POD}/log%c0%ae%c0%ae",
    "/api/v1/namespaces/red%2fpods%2fweb/pods/web/log",
    "/api/v1/namespaces/../../../api/v1/nodes",
    "/api/v1/namespaces/red/pods/web:80/proxy/../../../secrets",
    "/api/v1/namespaces/red/pods/web:80/proxy/%2e%2e/%2e%2e/secrets",
    "/api/v1/namespaces/red/pods/web:80/proxy/..%2f..%2fsecrets",
    "/api/v1/namespaces/red/pods/web:80/proxy/a%5c..%5c..",
    "/api/v1/namespaces/red/pods/web:80/proxy/%252e%252e%252fsecrets",
    "/api/v1/namespaces/red/services/web:80%2f..%2f/proxy/",
    "/api/v1/nodes/node-0/proxy/../../pods",
    "/api/v1/nodes/..%2fpods/proxy/",
    "https://127.0.0.1/api/v1/namespaces/red/pods/web/log",
    "http://169.254.169.254/latest/",
    "HTTPS://host.example/api/v1/nodes",
    "file:///etc/passwd",
    "127.0.0.1:443",
    "example.com:443",
    "*",
    "",
    "?",
    "#",
    "api/v1/namespaces/red/pods/web/log",
    "@evil.example/api",
    ":443/api",
)

_ELSEWHERE = (
    "/API/V1/namespaces/red/pods/web/log",
    "/api/v1/Namespaces/red/pods/web/log",
    "/api/v1/namespaces/red/PODS/web/log",
    "/api/v1/namespaces/red/pods/web/LOG",
    "/api/v1/namespaces/red/pods/web/log;x",
    "/api/v1/namespaces/red/pods/web/..;/web/log",
    "/api/v1/namespaces/red/pods/web;x/log",
    "/api/v1/namespaces/red;x/pods/web/log",
    "/api/v1;x/namespaces/red/pods/web/log",
    "/api;x/v1/namespaces/red/pods/web/log",
    "/api/v1/namespaces/red/pods/web%20/log",
    "/api/v1/namespaces/red/pods/web+/log",
    "/api/v1/namespaces/red/pods/%2a/log",
    "/api/v1/namespaces//pods/web/log",
    "/api/v1/namespaces/red/pods//log",
    "/api/v2/namespaces/red/pods/web/log",
    "/apis//v1/namespaces/red/pods/web/log",
    "/apis/core/v1/namespaces/red/pods/web/log",
    "/api/v1/watch/namespaces/red/pods/web/log",
    "/api/v1/proxy/namespaces/red/pods/web/log",
    "/api/v1/pods/web/log",
)


@pytest.mark.parametrize("headers", [(), EXEC], ids=["plain", "upgrade"])
@pytest.mark.parametrize("target", _REFUSED)
async def test_targets_that_can_be_read_in_two_ways(
    scene: Scene, target: str, headers: tuple[tuple[str, str], ...]
) -> None:
    """They are refused at once, to the administrator too: nobody behind hears of them."""
    pair = scene.pair
    at_host, at_virtual = pair.to_host.mark, pair.to_virtual.mark
    answer = await say(pair, "GET", target, who=scene.admin, headers=headers)
    assert answer.status == 400, answer
    assert not pair.to_host.since(at_host)
    asked = [each.target for each in pair.to_virtual.seen[at_virtual:]]
    assert not [each for each in asked if "red/pods/web" in each or "secrets" in each], asked


@pytest.mark.parametrize("target", _ELSEWHERE)
async def test_other_spellings_of_a_path_are_other_paths(scene: Scene, target: str) -> None:
    """They are nothing to the host: at most the virtual API server says that nothing is there."""
    pair, mark = scene.pair, scene.pair.to_host.mark
    answer = await say(pair, "GET", target, who=scene.admin)
    assert answer.status in (400, 403, 404), answer
    assert not pair.to_host.since(mark)


@pytest.mark.parametrize(
    "method", ["get", "Get", "GeT", "CONNECT", "TRACE", "PRI", "PROPFIND", "G", "GET\x00", "GETGET"]
)
async def test_methods_that_no_api_server_knows(scene: Scene, method: str) -> None:
    """They are refused, a tunnel by CONNECT and an echo by TRACE above all."""
    pair, mark = scene.pair, scene.pair.to_host.mark
    for target in (f"{_POD}/log", f"{_POD}/exec?command=id&stdout=1", "example.com:443"):
        for headers in ((), EXEC):
            data = head(pair, method, target, headers=headers or (("Connection", "close"),))
            for answer in await shout(pair, data, who=scene.admin):
                assert answer.status in (400, 405, 501), answer
                assert b"Host:" not in answer.body
    assert not pair.to_host.since(mark)


# -- two requests in one, or one in two -----------------------------------------------------------

_HIDDEN = "/api/v1/namespaces/kube-system/secrets?hidden=yes"


def _smuggled(scene: Scene) -> bytes:
    return head(scene.pair, "GET", _HIDDEN)


def _frames(hidden: bytes) -> dict[str, bytes]:
    """Return, by trick, the end of a request's head and its body, the hidden one in it."""
    size, whole = len(hidden), str(len(hidden)).encode()
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (size, hidden)
    te, cl = b"Transfer-Encoding: chunked\r\n", b"Content-Length: "
    return {
        "CL and TE": te + cl + b"4\r\n\r\n" + b"0\r\n\r\n" + hidden,
        "TE and CL": cl + whole + b"\r\n" + te + b"\r\n" + chunk,
        "CL.TE, CL first": cl + str(5 + size).encode() + b"\r\n" + te + b"\r\n0\r\n\r\n" + hidden,
        "two lengths": cl + b"0\r\n" + cl + whole + b"\r\n\r\n" + hidden,
        "two lengths, other way": cl + whole + b"\r\n" + cl + b"0\r\n\r\n" + hidden,
        "a list of lengths": cl + b"0, " + whole + b"\r\n\r\n" + hidden,
        "a signed length": cl + b"+" + whole + b"\r\n\r\n" + hidden,
        "a negative length": cl + b"-1\r\n\r\n" + hidden,
        "a hexadecimal length": cl + b"0x1\r\n\r\n" + hidden,
        "a length with a space": cl + b"1 1\r\n\r\n" + hidden,
        "an endless length": cl + b"9" * 40 + b"\r\n\r\n" + hidden,
        "an empty length": cl + b"\r\n\r\n" + hidden,
        "a space before the colon": b"Content-Length : " + whole + b"\r\n\r\n" + hidden,
        "TE by another name": b"Transfer-Encoding : chunked\r\n\r\n" + chunk,
        "TE unknown": b"Transfer-Encoding: xchunked\r\n" + cl + b"0\r\n\r\n" + hidden,
        "TE twice": te + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden,
        "TE not at the end": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + hidden,
        "TE with a tab": b"Transfer-Encoding:\tchunked\r\n" + cl + b"3\r\n\r\n0\r\n\r\n" + hidden,
        "TE folded": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + hidden,
        "TE in capitals": b"TRANSFER-ENCODING: CHUNKED\r\n" + cl + b"1\r\n\r\n" + chunk,
        "TE with an underscore": b"Transfer_Encoding: chunked\r\n\r\n" + chunk,
        "TE behind a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n\r\n" + chunk,
        "TE behind a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + chunk,
        "a head that ends in LF": b"\n" + hidden,
        "a NUL in a header": b"X: a\x00b\r\n" + cl + b"0\r\n\r\n" + hidden,
        "a huge chunk": te + b"\r\nffffffffffffffff0\r\n" + hidden,
        "a chunk that overflows": te + b"\r\n1" + b"0" * 16 + b"\r\n" + hidden,
        "a negative chunk": te + b"\r\n-1\r\n" + hidden,
        "a chunk with 0x": te + b"\r\n0x%x\r\n%s\r\n0\r\n\r\n" % (size, hidden),
        "a chunk with spaces": te + b"\r\n %x \r\n%s\r\n0\r\n\r\n" % (size, hidden),
        "a chunk extension": te + b"\r\n0;a=b\r\n\r\n" + b"",
        "an extension with LF": te + b"\r\n2;\nxx\r\n%x\r\n%s\r\n0\r\n\r\n" % (size, hidden),
        "an extension with CR": te + b"\r\n2;a\rb\r\nxx\r\n0\r\n\r\n",
        "an endless extension": te + b"\r\n2;" + b"a" * 70_000 + b"\r\nxx\r\n0\r\n\r\n",
        "chunks that end in LF": te + b"\r\n%x\n%s\n0\n\n" % (size, hidden),
        "a chunk longer than told": te + b"\r\n1\r\nxyz\r\n0\r\n\r\n" + b"",
        "a trailer": te + b"\r\n0\r\nImpersonate-User: admin\r\nContent-Length: 9\r\n\r\n",
        "an endless trailer": te + b"\r\n0\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
    }


_TRICKS = tuple(_frames(b""))
_OWN_REQUEST = frozenset({"CL.TE, CL first"})


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("trick", _TRICKS)
async def test_nothing_is_hidden_in_a_request(scene: Scene, trick: str, method: str) -> None:
    """However a body's end is told, no request out of it reaches an API server."""
    pair = scene.pair
    hidden = _smuggled(scene)
    begin = head(pair, method, "/api/v1/namespaces/red/configmaps/none").removesuffix(b"\r\n")
    for who in (scene.admin, scene.robot):
        token = f"Authorization: Bearer {who.token}\r\n".encode() if who.token else b""
        at_virtual, at_host = pair.to_virtual.mark, pair.to_host.mark
        data = begin + token + _frames(hidden)[trick]
        answers = await shout(pair, data, who=who, quiet=0.1)
        assert len(answers) <= 2
        seen = [*pair.to_virtual.seen[at_virtual:], *pair.to_host.seen[at_host:]]
        assert not [each for each in seen if "hidden" in each.target], answers
        assert not [each for each in seen if each.method == "no request"]
        assert not pair.to_host.since(at_host)
        for each in seen:
            assert "admin" not in each.header("Impersonate-User") or who is scene.admin


async def test_what_follows_a_request_is_a_request_of_its_own(scene: Scene) -> None:
    """A second request on a connection is judged as the first was: by what it has itself."""
    pair, mark = scene.pair, scene.pair.to_virtual.mark
    first = head(pair, "GET", "/api/v1/namespaces/red/configmaps", who=scene.robot)
    second = head(pair, "GET", "/api/v1/namespaces/red/configmaps?second=1")
    async with connected(pair, scene.robot) as wire:
        wire.send(first + second)
        assert (await wire.answer()).status == 200
        assert (await wire.answer()).status == 403  # no token: nobody's
    [found] = [each for each in pair.to_virtual.seen[mark:] if "second" in each.target]
    assert not found.header("Authorization")
    assert not found.header("Impersonate-User")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/0.9\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n\x00\x00\x00",
        b"GET  /  HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET\t/\tHTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"\r\n\r\n\r\n",
        b"\x00" * 100,
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
    ids=repr,
)
async def test_what_is_no_request_is_an_end(scene: Scene, garbage: bytes) -> None:
    """Garbage before, between and after requests closes a connection and reaches nobody."""
    pair, mark = scene.pair, scene.pair.to_virtual.mark
    alone = (garbage,) if garbage.strip() else ()  # else there is still time for a request
    for data in (*alone, garbage + _smuggled(scene)):
        answers = await shout(pair, data, who=scene.stranger, quiet=0.1)
        assert not [each for each in answers if each.status < 400], answers
    assert not [each for each in pair.to_virtual.seen[mark:] if each.method == "no request"]


# -- by chance ------------------------------------------------------------------------------------

_PARTS = (
    "api", "v1", "namespaces", "red", "blue", "pods", "web", "services", "nodes", "node-0", "proxy",
    "log", "exec", "attach", "portforward", "secrets", "watch", "apis", "metrics.k8s.io",
    "v1beta1", "..", ".", "", "%2e%2e", "%2f", "%252f", "%5c", ";", ";x=y", "%00", "%0a", "*",
    "kube-system", "foreign", "HOME", "COPY", "web:80", "https:web:80", "node-0:22", "metrics",
    "stats", "summary", "containerLogs", "main", "run", "configz", "~", "@", "%ff", "?", "&", "=",
    "https:", "x-remote-user",
)  # fmt: skip
_STARTS = (
    "/",
    "/api/v1/namespaces/red/pods/web/",
    "/api/v1/namespaces/red/pods/web:80/proxy/",
    "/api/v1/namespaces/red/services/web:80/proxy/",
    "/api/v1/nodes/node-0/proxy/",
    "/api/v1/namespaces/HOME/pods/COPY/",
    "/apis/metrics.k8s.io/v1beta1/",
    "",
)
_ENDS = ("", "?container=main", "?command=id&stdout=1", "?path=/etc", "?watch=1&timeoutSeconds=1")
_CASES = 400


def _invented(scene: Scene, chance: random.Random) -> str:
    pair = scene.pair
    glue = chance.choice(("/", "/", "/", "//", "%2f", ";"))
    middle = glue.join(chance.choices(_PARTS, k=chance.randrange(6)))
    target = f"{chance.choice(_STARTS)}{middle}{chance.choice(_ENDS)}"
    target = target.replace("HOME", pair.names.host_namespace)
    return target.replace("COPY", pair.host_name("web", "red"))


def _allowed(scene: Scene) -> re.Pattern[str]:
    """Return what matches the only targets that the host may see from the endpoint."""
    home = re.escape(scene.pair.names.host_namespace)
    own = f"web-x-(red|blue)-x-{re.escape(scene.pair.names.tenant)}"
    node = r"node-\d+"
    pages = "(metrics(/(cadvisor|probes|resource))?|stats/summary)"
    return re.compile(
        rf"/api/v1/namespaces/{home}/pods/{own}/(log|exec|attach|portforward)(\?[!-~]*)?"
        rf"|/api/v1/namespaces/{home}/(pods|services)/(https?:)?{own}(:\w*)?/proxy([/?][!-~]*)?"
        rf"|/api/v1/nodes/{node}(/proxy/{pages}(\?only_cpu_and_memory=true)?)?"
        rf"|/apis/metrics\.k8s\.io/v1beta1/(namespaces/{home}/pods(/{own})?|nodes(/{node})?)"
        r"(\?labelSelector=[!-~]*)?"
        r"|/apis/authorization\.k8s\.io/v1/selfsubjectaccessreviews"
    )


def _climbs(target: str) -> bool:
    """Say whether somebody who decodes a path twice finds dots for segments in it."""
    path = unquote(unquote(target.partition("?")[0])).replace("\\", "/")
    return bool({".", ".."} & set(path.split("/")))


async def test_the_host_is_asked_for_allow_listed_paths_only(scene: Scene) -> None:
    """Some hundred targets put together by chance: what gets to the host is the tenant's own."""
    pair = scene.pair
    seed = uuid.uuid4().int % 2**32
    chance = random.Random(seed)  # noqa: S311 - for tests
    mark, beyond = pair.to_host.mark, pair.to_virtual.mark
    slots = asyncio.Semaphore(4)

    async def one(target: str, who: Caller, method: str) -> None:
        headers = {"GET": (), "UPGRADE": EXEC, "SPDY": SPDY, "POST": ()}[method]
        verb = {"UPGRADE": "GET", "SPDY": "POST"}.get(method, method)
        async with slots, connected(pair, who) as wire:
            close = () if headers else (("Connection", "close"),)
            wire.send(head(pair, verb, target, who=who, headers=(*headers, *close)))
            try:
                answer = await wire.answer()
            except ConnectionResetError:
                return
            assert b"the endpoint failed" not in answer.body, target
            assert not pair.leaks(answer.body, target), (target, answer)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_CASES):
            who = chance.choice((scene.admin, scene.admin, scene.boss, scene.reader))
            method = chance.choice(("GET", "GET", "UPGRADE", "SPDY", "POST"))
            tasks.create_task(one(_invented(scene, chance), who, method))
    allowed = _allowed(scene)
    asked = [each.target for each in pair.to_host.since(mark)]
    assert not [each for each in asked if not allowed.fullmatch(each)], f"seed {seed}"
    assert not [each for each in asked if _climbs(each)], f"seed {seed}"
    dials = re.compile(
        r"/api/v1/(namespaces/[^/]+/(pods|services)|nodes)/[^/?]+"
        r"/(proxy|exec|attach|portforward|log)([/?].*)?"
    )
    virtual = [each.target for each in pair.to_virtual.seen[beyond:]]
    assert not [each for each in virtual if dials.fullmatch(each)], f"seed {seed}"
