"""What goes to the host and what comes back of it, without the I/O."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer import ownership
from syncer.http1.head import Header
from syncer.http1.server import Answer, Request
from syncer.kube.store import Store
from syncer.naming import Names
from syncer.objects import Key, Object, Side
from syncer.proxy import host as module
from syncer.proxy.authorize import Authorizer
from syncer.proxy.call import Call, Caller
from syncer.proxy.host import ToHost, split_name, translated
from syncer.proxy.links import LinkRewriter
from syncer.proxy.refusal import RefusalError
from syncer.proxy.request import read
from syncer.proxy.targets import Target, Targets
from syncer.proxy.upstream import Upstream
from syncer.settings import Address
from tests.unit.proxy_wire import (
    GET,
    End,
    Script,
    ask,
    backend,
    caller,
    closing,
    front,
    on_both_loops,
)

NAMES = Names("t", "host-1")
COPY = "web-x-default-x-t"
TARGET = Target(
    {"metadata": {"name": "web", "namespace": "default"}}, Key("host-1", COPY), {"metadata": {}}
)
TO_HOST = ToHost(cast("Any", None), cast("Any", None), Targets(NAMES, {}, lambda _s, _r: True))
LINKS = LinkRewriter(
    f"/api/v1/namespaces/host-1/pods/{COPY}/proxy", "/api/v1/namespaces/default/pods/web/proxy"
)
JSON: Header = ("Content-Type", "application/json")


def status(message: str, reason: str = "NotFound", code: int = 404) -> Object:
    """Give a Status of an API server's."""
    plain = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**plain, "message": message, "reason": reason, "code": code}


# -- the host's words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        pytest.param(f'pods "{COPY}" not found', 'pods "web" not found', id="the copy"),
        pytest.param(
            f"container a is not valid for pod {COPY}",
            "container a is not valid for pod web",
            id="the copy, bare",
        ),
        pytest.param(
            'secrets "token-x-default-x-t" not found',
            'secrets "token" not found',
            id="another copy",
        ),
        pytest.param("dial tcp 10.0.0.1:80: refused", "dial tcp 10.0.0.1:80: refused", id="else"),
    ],
)
def test_the_host_is_heard_in_the_tenants_names(said: str, told: str) -> None:
    """All of a text; of a Status what is for the caller; never the host's names."""
    body = {**status(said), "details": {"name": COPY, "kind": "pods", "uid": "1-2"}}
    heard = translated(orjson.dumps(body), 404, NAMES, TARGET)
    assert orjson.loads(heard) == {**status(told), "details": {"name": "web", "kind": "pods"}}
    assert translated(said.encode(), 404, NAMES, TARGET) == told.encode()


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(400, 599))
def test_whatever_the_host_says_is_heard(body: bytes, code: int) -> None:
    """No answer makes the translation fail, and none keeps the copy's name."""
    for said in (body, b"[1]", b"null", b'{"message": 1}', b'"%s"' % COPY.encode()):
        translated(said, code, NAMES, TARGET)
    text = b"%s\n%s\n%s" % (body, COPY.encode(), body)
    assert b"\n%s\n" % COPY.encode() not in translated(text, code, NAMES, TARGET)


# -- streams -------------------------------------------------------------------------------------


def test_of_an_agreement_only_what_is_needed_is_heard() -> None:
    """What the host's API server adds stays there."""
    headers = [
        ("Sec-WebSocket-Accept", "a"),
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
        ("X-Stream-Protocol-Version", "v4.channel.k8s.io"),
        ("Audit-Id", "b"),
        ("Warning", "299 - host-1"),
        ("X-Kubernetes-Pf-Flowschema-Uid", "c"),
        ("Set-Cookie", "d"),
    ]
    assert TO_HOST._of_stream(TARGET, 101, headers, b"") == (headers[:3], b"")


@pytest.mark.parametrize(
    ("said", "content_type", "told"),
    [
        pytest.param(
            orjson.dumps(status(f'pods "{COPY}" not found')),
            "application/json",
            RefusalError(404, 'pods "web" not found').body(),
            id="a Status",
        ),
        pytest.param(f"no {COPY}".encode(), "text/plain", b"no web", id="a text"),
    ],
)
def test_a_refused_stream_is_told(said: bytes, content_type: str, told: bytes) -> None:
    """In the tenant's names, without any other header."""
    headers = [("Content-Type", "x/y"), ("Audit-Id", "a")]
    answer = TO_HOST._of_stream(TARGET, 404, headers, said)
    assert answer == ([("Content-Type", content_type)], told)


KNOWN = frozenset({"v5.channel.k8s.io", "v4.channel.k8s.io"})


@pytest.mark.parametrize(
    ("headers", "sent"),
    [
        pytest.param([], [], id="none"),
        pytest.param(
            [("Sec-WebSocket-Protocol", "v5.channel.k8s.io,v4.channel.k8s.io")],
            [("Sec-WebSocket-Protocol", "v5.channel.k8s.io, v4.channel.k8s.io")],
            id="two",
        ),
        pytest.param(
            [
                ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.dA"),
                ("sec-websocket-protocol", "v5.channel.k8s.io"),
            ],
            [("Sec-WebSocket-Protocol", "v5.channel.k8s.io")],
            id="without a token",
        ),
        pytest.param(
            [("X-Stream-Protocol-Version", "v4.channel.k8s.io")], [], id="SPDY's go anyway"
        ),
    ],
)
def test_known_subprotocols_are_asked_for(headers: list[Header], sent: list[Header]) -> None:
    """Never one that holds the caller's token."""
    assert list(module._protocols(headers, KNOWN)) == sent


@pytest.mark.parametrize("name", ["Sec-WebSocket-Protocol", "X-Stream-Protocol-Version"])
@pytest.mark.parametrize("value", ["v6.channel.k8s.io", "V5.channel.k8s.io", "chat", "a" * 500])
def test_unknown_subprotocols_are_refused(name: str, value: str) -> None:
    """Nothing that nobody has looked at goes through; the answer says what is known."""
    with pytest.raises(RefusalError) as refused:
        list(module._protocols([(name, value)], KNOWN))
    assert refused.value.code == 400
    assert "(known: v4.channel.k8s.io, v5.channel.k8s.io)" in refused.value.message
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("subresource", ["exec", "attach", "portforward"])
def test_only_known_parameters_go_on(subresource: str) -> None:
    """In their order, each as often as it was given."""
    known = module._STREAM_PARAMETERS[subresource]
    given = [("command", "a"), ("x", "y"), ("stdin", "1"), ("command", "b"), ("ports", "80")]
    sent = list(module._known(given, known))
    assert sent == [pair for pair in given if pair[0] in known]
    assert ("x", "y") not in sent


# -- proxies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("web", ("", "web", "")),
        ("web:80", ("", "web", "80")),
        ("web:", ("", "web", "")),
        ("web:http", ("", "web", "http")),
        ("https:web:443", ("https", "web", "443")),
        ("https:web:", ("https", "web", "")),
        (":web:80", ("", "web", "80")),
    ],
)
def test_a_proxied_name_has_three_parts(name: str, parts: tuple[str, str, str]) -> None:
    """Scheme, name and port, as an API server splits them."""
    assert split_name(name) == parts


@pytest.mark.parametrize(
    "name", ["", ":", ":80", "a:b:c:d", "ftp:web:80", "https::443", "HTTP:a:1"]
)
def test_another_form_of_a_name_is_refused(name: str) -> None:
    """It is nobody's name."""
    with pytest.raises(RefusalError) as refused:
        split_name(name)
    assert refused.value.code == 400


def test_a_workload_sees_no_credentials() -> None:
    """Neither the cluster's nor those that a caller has for the cluster; its own, it does."""
    headers = [
        ("Authorization", "Bearer t"),
        ("Impersonate-User", "u"),
        ("X_Remote_User", "u"),
        ("Audit-ID", "a"),
        ("Connection", "x-hop"),
        ("X-Hop", "1"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Sec-WebSocket-Protocol", "base64url.bearer.authorization.k8s.io.dA, chat"),
        ("Cookie", "session=1"),
        ("Accept", "text/html"),
    ]
    assert module._to_workload(headers) == [
        ("Sec-WebSocket-Protocol", "chat"),
        ("Cookie", "session=1"),
        ("Accept", "text/html"),
    ]


def test_a_workloads_headers_are_its_own() -> None:
    """Without those of the host, and leading where the tenant can go."""
    path = f"/api/v1/namespaces/host-1/pods/{COPY}/proxy"
    headers = [
        ("Location", f"{path}/login"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
        ("Audit-Id", "x"),
        ("warning", "299"),
        ("X-Kubernetes-PF-FlowSchema-UID", "x"),
    ]
    assert module._from_workload(LINKS, headers) == [
        ("Location", "/api/v1/namespaces/default/pods/web/proxy/login"),
        ("Set-Cookie", "a=1"),
        ("Set-Cookie", "b=2"),
    ]


@pytest.mark.parametrize(
    ("code", "headers", "body", "told"),
    [
        pytest.param(101, [("A", "b")], b"", ([("A", "b")], b""), id="an agreement"),
        pytest.param(
            302,
            [("Location", f"/api/v1/namespaces/host-1/pods/{COPY}/proxy/login"), ("Audit-Id", "a")],
            b"",
            ([("Location", "/api/v1/namespaces/default/pods/web/proxy/login")], b""),
            id="a redirect",
        ),
        pytest.param(
            401,
            [JSON, ("WWW-Authenticate", "Basic")],
            b'{"error": "who?"}',
            ([JSON, ("WWW-Authenticate", "Basic")], b'{"error": "who?"}'),
            id="the workload's own words",
        ),
        pytest.param(
            404,
            [("content-type", "application/json; charset=utf-8"), ("Audit-Id", "a")],
            orjson.dumps(status(f'pods "{COPY}" not found')),
            ([JSON], RefusalError(404, 'pods "web" not found').body()),
            id="the host's words",
        ),
        pytest.param(
            503,
            [("Content-Type", "application/vnd.kubernetes.protobuf")],
            b"k8s\x00" + COPY.encode(),
            ([JSON], RefusalError(503, module._UNTOLD).body()),
            id="the host's words in another form",
        ),
    ],
)
def test_an_upgrade_of_a_workloads_is_answered(
    code: int, headers: list[Header], body: bytes, told: tuple[list[Header], bytes]
) -> None:
    """The workload's answer as it is, the host's in the tenant's names."""
    assert TO_HOST._of_workload(TARGET, LINKS, code, headers, body) == told


# -- proxies, over the wire ----------------------------------------------------------------------


class Anybody(Authorizer):
    """Lets everybody do everything."""

    def __init__(self) -> None:
        """Ask no server."""

    async def user(self, call: Call) -> Any:
        """Have nothing to say about who it is."""

    async def require(self, user: Any, info: Any, verb: str = "") -> None:
        """Agree."""


def own_pod() -> dict[tuple[Side, str], Store]:
    """Give stores with the pod and its copy."""
    virtual = {"metadata": {**TARGET.virtual["metadata"], "uid": "1", "resourceVersion": "1"}}
    copy = orjson.loads(orjson.dumps(virtual))
    ownership.stamp(copy, virtual, NAMES, None)
    stores = {(side, "pods"): Store({}, lambda _change: None) for side in Side}
    stores[Side.VIRTUAL, "pods"].apply(virtual)
    stores[Side.HOST, "pods"].apply(copy)
    return stores


@asynccontextmanager
async def proxied(script: Script) -> AsyncIterator[Address]:
    """Proxy every request to the pod, whose host's API server is a script."""
    async with backend(script) as server:
        upstream = Upstream(server.config, name="the host")
        to_host = ToHost(upstream, Anybody(), Targets(NAMES, own_pod(), lambda _s, _r: True))

        async def handler(request: Request) -> Answer:
            path = "/api/v1/namespaces/default/pods/web/proxy/"
            return await to_host.pod_proxy(Call(request, read("GET", path), Caller()))

        async with front(handler) as address:
            yield address
        await upstream.close()
        await server.idle()


async def answered(answer: bytes) -> bytes:
    """Give what the caller gets when this is what the host's API server says, and no more."""

    async def script(end: End) -> None:
        await end.head()
        await end.say(answer)
        await end.gone()

    async with proxied(script) as address:
        return await ask(address, closing(GET))


def chunk(piece: bytes) -> bytes:
    """Frame a piece of a body."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def error(content_type: str = "application/json") -> bytes:
    """Give the head of an error that comes in chunks."""
    said = f"HTTP/1.1 502 Bad\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return said.encode()


def page(encoding: str, body: bytes) -> bytes:
    """Give a page that is packed."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n{encoding}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


HTML = f'<a href="/api/v1/namespaces/host-1/pods/{COPY}/proxy/next">'.encode()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@on_both_loops
async def test_a_page_that_its_host_packed_again_is_refused(encoding: str) -> None:
    """Its links name the copy, and nobody here can see them."""
    said = await answered(page(f"Content-Encoding: {encoding}\r\n", gzip.compress(HTML)))
    assert said.startswith(b"HTTP/1.1 502 ")
    assert b"Content-Encoding" in said.partition(b"\r\n\r\n")[2]
    assert gzip.compress(HTML) not in said


@pytest.mark.parametrize(
    ("encoding", "body"), [("", HTML), ("Content-Encoding: br\r\n", b"packed")]
)
@on_both_loops
async def test_other_pages_pass(encoding: str, body: bytes) -> None:
    """With the tenant's links, or packed in a way that an API server doesn't look into."""
    said = await answered(page(encoding, body))
    assert said.startswith(b"HTTP/1.1 200 ")
    assert COPY.encode() not in said
    assert b"/default/pods/web/proxy/next" in said or b"packed" in said


@pytest.mark.parametrize("padding", [0, 3000, 60000])
@on_both_loops
async def test_an_error_of_the_hosts_may_come_in_chunks(padding: int) -> None:
    """As it does when it is longer than what its server holds back."""
    text = orjson.dumps(status(f'pods "{COPY}" {"x" * padding}', code=502))
    said = await answered(error() + chunk(text[:20]) + chunk(text[20:]) + b"0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 502 ")
    assert b'pods \\"web\\" ' in said
    assert COPY.encode() not in said


@on_both_loops
async def test_half_an_error_of_the_hosts_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What names the copy is the host's, and what can't be read whole can't be translated."""
    monkeypatch.setattr(module, "_MOMENT", 0.2)
    said = await answered(error() + chunk(f'{{"message": "{COPY}'.encode()))
    assert orjson.loads(said.partition(b"\r\n\r\n")[2])["message"] == module._UNTOLD


@pytest.mark.parametrize("length", [b"Transfer-Encoding: chunked", b"Content-Length: 15"])
@on_both_loops
async def test_an_error_that_breaks_off_is_none(length: bytes) -> None:
    """Whosever it was."""

    async def script(end: End) -> None:
        await end.head()
        await end.say(b"HTTP/1.1 500 No\r\n%s\r\n\r\n5\r\nhello\r\n" % length)
        end.close()

    async with proxied(script) as address:
        said = await ask(address, closing(GET))
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"the host can't be reached" in said


@pytest.mark.parametrize("size", [0, 5, 2000, 65536, 65537, 300_000])
@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
@on_both_loops
async def test_a_workloads_error_passes_as_it_is(size: int, content_type: str) -> None:
    """However long it is."""
    body = bytes(range(33, 100)) * (size // 67 + 1)
    body = body[:size]
    pieces = [chunk(body[at : at + 5000]) for at in range(0, size, 5000)]

    async def script(end: End) -> None:
        await end.head()
        await end.say(error(content_type) + b"".join(pieces) + b"0\r\n\r\n")
        await end.gone()

    async with proxied(script) as address, caller(address) as end:
        await end.say(GET)
        head = await end.head()
        assert head.startswith(b"HTTP/1.1 502 ")
        assert await end.body(head) == body


@on_both_loops
async def test_a_workloads_error_goes_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece as it comes, once it has been waited for a moment whether that is all."""
    monkeypatch.setattr(module, "_MOMENT", 0.2)
    heard = asyncio.Event()

    async def script(end: End) -> None:
        await end.head()
        await end.say(error() + chunk(b"first,") + chunk(b"second"))
        await heard.wait()
        await end.say(chunk(b"third"))
        await end.gone()

    async with proxied(script) as address, caller(address) as end:
        await end.say(GET)
        assert (await end.head()).startswith(b"HTTP/1.1 502 ")
        assert await end.until(b"\r\n") + await end.until(b"\r\n") == b"c\r\nfirst,second\r\n"
        heard.set()
        assert await end.until(b"third\r\n") == b"5\r\nthird\r\n"
