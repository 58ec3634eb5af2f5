"""What goes to the host and what comes back of it, without the I/O."""

from __future__ import annotations

from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.naming import Names
from syncer.proxy import host as module
from syncer.proxy.host import ToHost, split_name, translated
from syncer.proxy.identity import Header
from syncer.proxy.links import LinkRewriter
from syncer.proxy.refusal import RefusalError
from syncer.proxy.targets import Target, Targets
from syncer.types import Key, Object

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
