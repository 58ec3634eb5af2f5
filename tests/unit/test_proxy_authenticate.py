"""Whom a request is from, by its certificate and its headers alone."""

from __future__ import annotations

import base64
import gc
import tracemalloc
from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.http1.head import Header
from syncer.proxy.authenticate import TOKEN_PROTOCOL, caller_of, subprotocols
from syncer.proxy.call import Caller
from syncer.proxy.identity import User
from syncer.proxy.peer import CREDENTIAL_ID, NEVER, Peer, PeerKind
from syncer.proxy.refusal import RefusalError

NOW, LATER = 1000.0, 2000.0
ADMIN = Peer(PeerKind.CLIENT, "admin", ("system:masters", ""), "", "f1", LATER, b"a")
PROXY = Peer(PeerKind.FRONT_PROXY, "front-proxy", (), "", "f2", LATER, b"b")
BOTH = replace(PROXY, kind=PeerKind.FRONT_PROXY | PeerKind.CLIENT)
NOBODY = replace(ADMIN, kind=PeerKind.NOBODY, not_after=NEVER)
EXPIRED = replace(ADMIN, not_after=NOW)

ADMIN_USER = User(
    "admin", ("system:masters", "system:authenticated"), "", {CREDENTIAL_ID: ("X509SHA256=f1",)}
)
WEBSOCKET = [("Connection", "Upgrade"), ("Upgrade", "websocket")]


def asked(peer: Peer | None, *headers: Header, proxies: tuple[str, ...] = ()) -> Caller:
    """Ask whom a request with these headers is from."""
    return caller_of(peer, headers, proxies=proxies, now=NOW)


def bearer(token: str) -> Caller:
    """Give whom a token stands for."""
    return Caller(None, token, None, f"token:{sha256(token.encode()).hexdigest()[:16]}")


def protocol(token: str) -> str:
    """Write a token as a subprotocol."""
    return TOKEN_PROTOCOL + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


ANONYMOUS = Caller(None, "", None, "system:anonymous")


# -- the order -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "headers", "caller"),
    [
        pytest.param(None, [], ANONYMOUS, id="nothing"),
        pytest.param(None, [("Authorization", "Basic eA==")], ANONYMOUS, id="a password"),
        pytest.param(None, [("Authorization", "Bearer")], ANONYMOUS, id="no token"),
        pytest.param(None, [("Authorization", "Bearer ")], ANONYMOUS, id="an empty token"),
        pytest.param(None, [("X-Remote-User", "admin")], ANONYMOUS, id="a word without a proxy"),
        pytest.param(None, [("Authorization", "Bearer t")], bearer("t"), id="a token"),
        pytest.param(None, [("authorization", "bEARER t u")], bearer("t"), id="case and rest"),
        pytest.param(ADMIN, [], Caller(ADMIN_USER, "", None, "admin"), id="a certificate"),
        pytest.param(
            ADMIN,
            [("Authorization", "Bearer t"), ("X-Remote-User", "other")],
            Caller(ADMIN_USER, "", None, "admin"),
            id="a certificate before a token",
        ),
        pytest.param(
            ADMIN,
            [*WEBSOCKET, ("Sec-WebSocket-Protocol", f"{TOKEN_PROTOCOL}$, {TOKEN_PROTOCOL}")],
            Caller(ADMIN_USER, "", None, "admin"),
            id="a certificate before what is no token",
        ),
        pytest.param(
            PROXY,
            [("X-Remote-User", "u"), ("Authorization", "Bearer t")],
            Caller(User("u", ("system:authenticated",)), "", None, "u"),
            id="a proxy's word before a token",
        ),
        pytest.param(
            BOTH,
            [("X-Remote-User", "u")],
            Caller(User("u", ("system:authenticated",)), "", None, "u"),
            id="a proxy's word before its certificate",
        ),
        pytest.param(
            PROXY, [("Authorization", "Bearer t")], bearer("t"), id="a proxy that says nothing"
        ),
        pytest.param(NOBODY, [("Authorization", "Bearer t")], bearer("t"), id="nobody, a token"),
        pytest.param(EXPIRED, [("Authorization", "Bearer t")], bearer("t"), id="expired, a token"),
    ],
)
def test_who_is_asking(peer: Peer | None, headers: list[Header], caller: Caller) -> None:
    """A front proxy's word, a certificate, a token, nobody: the first that says something."""
    assert asked(peer, *headers) == caller


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        pytest.param(NOBODY, [], id="a certificate that names nobody"),
        pytest.param(EXPIRED, [], id="an expired certificate"),
        pytest.param(PROXY, [], id="a proxy that names nobody"),
        pytest.param(PROXY, [("X-Remote-User", "")], id="a proxy with an empty name"),
        pytest.param(PROXY, [("X-Remote-Group", "g")], id="a proxy with groups only"),
        pytest.param(EXPIRED, [("X-Remote-User", "u")], id="an expired certificate's word"),
        pytest.param(replace(ADMIN, kind=PeerKind.FRONT_PROXY), [], id="a proxy by a user's name"),
    ],
)
def test_a_certificate_that_proves_nothing_is_refused(peer: Peer, headers: list[Header]) -> None:
    """Who shows a certificate is never taken for nobody."""
    with pytest.raises(RefusalError) as refused:
        asked(peer, *headers)
    assert (refused.value.code, refused.value.message) == (401, "Unauthorized")


@pytest.mark.parametrize(
    ("proxies", "known"),
    [
        pytest.param((), True, id="any name"),
        pytest.param(("front-proxy",), True, id="its name"),
        pytest.param(("other", "front-proxy"), True, id="one of the names"),
        pytest.param(("other",), False, id="another name"),
        pytest.param(("front-proxy ",), False, id="nearly its name"),
    ],
)
def test_only_allowed_proxies_are_believed(proxies: tuple[str, ...], known: bool) -> None:
    """--request-header-allowed-names: any when there is none."""
    if known:
        assert asked(PROXY, ("X-Remote-User", "u"), proxies=proxies).name == "u"
    else:
        with pytest.raises(RefusalError, match="Unauthorized"):
            asked(PROXY, ("X-Remote-User", "u"), proxies=proxies)


# -- what a certificate and a proxy say ----------------------------------------------------------


def test_a_proxy_says_groups_uid_and_extras() -> None:
    """Its headers in any case; empty groups are none, keys of extras are decoded."""
    caller = asked(
        PROXY,
        ("x-remote-user", "u"),
        ("X-REMOTE-GROUP", "g"),
        ("X-Remote-Group", ""),
        ("X-Remote-Group", "h"),
        ("X-Remote-Uid", "1"),
        ("X-Remote-Extra-Example.com%2fK", "v"),
        ("X-Remote-Extra-example.com%2Fk", "w"),
        ("X-Remote-Extra-100%", "x"),
    )
    extra = {"example.com/k": ("v", "w"), "100%": ("x",)}
    assert caller.user == User("u", ("g", "h", "system:authenticated"), "1", extra)


def test_a_certificate_may_name_a_uid() -> None:
    """The UID in the subject goes along."""
    caller = asked(replace(ADMIN, uid="7"))
    assert caller.user == replace(ADMIN_USER, uid="7")


def test_nothing_of_a_caller_is_kept_when_it_is_gone() -> None:
    """However long what certificates and headers say: a tenant could fill the memory with it."""
    tracemalloc.start()
    try:
        for number in range(64):
            text = str(number) * 20_000
            peer = replace(ADMIN, common_name=f"a{text}")
            caller = asked(peer, ("Impersonate-User", "u"), (f"Impersonate-Extra-{text}", "v"))
            assert caller.user is not None
            assert caller.impersonated is not None
            assert caller.user.impersonation
            assert caller.impersonated.impersonation
        del text, peer, caller
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


# -- tokens --------------------------------------------------------------------------------------


def test_a_token_is_never_shown() -> None:
    """Neither the caller's text nor its name has the token in it."""
    caller = asked(None, ("Authorization", "Bearer secret-token"))
    assert caller.token == "secret-token"
    assert "secret" not in f"{caller!r}{caller.name}"


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        pytest.param(
            [*WEBSOCKET, ("Sec-WebSocket-Protocol", f"{protocol('t')},a")], "t", id="first"
        ),
        pytest.param(
            [*WEBSOCKET, ("Sec-WebSocket-Protocol", f"a, {protocol('tok')} ,b")], "tok", id="one"
        ),
        pytest.param(
            [("Upgrade", "WebSocket"), ("Sec-WebSocket-Protocol", f"a, {protocol('t')}")],
            "t",
            id="case",
        ),
        pytest.param(
            [
                *WEBSOCKET,
                ("Sec-WebSocket-Protocol", protocol("t")),
                ("Sec-WebSocket-Protocol", "a"),
            ],
            "t",
            id="two headers",
        ),
        pytest.param([("Sec-WebSocket-Protocol", protocol("t"))], "", id="no WebSocket"),
        pytest.param(
            [("Upgrade", "SPDY/3.1"), ("Sec-WebSocket-Protocol", protocol("t"))], "", id="SPDY"
        ),
        pytest.param([*WEBSOCKET, ("Sec-WebSocket-Protocol", "v4.channel.k8s.io")], "", id="none"),
        pytest.param(
            [
                *WEBSOCKET,
                ("Sec-WebSocket-Protocol", protocol("t")),
                ("Authorization", "Bearer u"),
            ],
            "u",
            id="the header first",
        ),
    ],
)
def test_browsers_send_tokens_as_subprotocols(headers: list[Header], token: str) -> None:
    """Only a WebSocket's request may."""
    assert asked(None, *headers).token == token


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("A", id="no base64"),
        pytest.param("dG9r$ZW4", id="other characters"),
        pytest.param("fn5+", id="the other alphabet"),
        pytest.param("dA==", id="padding"),
        pytest.param(base64.urlsafe_b64encode(b"a b").decode(), id="a space"),
        pytest.param(base64.urlsafe_b64encode(b"a\nb").decode(), id="a line break"),
        pytest.param(base64.urlsafe_b64encode("ä".encode()).decode().rstrip("="), id="not ASCII"),
        pytest.param(base64.urlsafe_b64encode(b"a" * 20000).decode().rstrip("="), id="too long"),
        pytest.param(f"dA, {TOKEN_PROTOCOL}dA", id="two tokens"),
    ],
)
def test_a_subprotocol_that_is_no_token_is_refused(text: str) -> None:
    """It is never taken for another token, nor for nobody; servers refuse the same spellings."""
    with pytest.raises(RefusalError, match="Unauthorized"):
        asked(None, *WEBSOCKET, ("Sec-WebSocket-Protocol", f"a, {TOKEN_PROTOCOL}{text}"))


def test_a_token_is_not_the_only_subprotocol() -> None:
    """One has to be left for the answer to agree to, or a server refuses the request."""
    with pytest.raises(RefusalError, match="Unauthorized"):
        asked(None, *WEBSOCKET, ("Sec-WebSocket-Protocol", protocol("t")))


def test_a_token_has_a_size() -> None:
    """16 kB fit, more is refused without asking anybody."""
    assert asked(None, ("Authorization", f"Bearer {'a' * 16384}")).token
    with pytest.raises(RefusalError, match="Unauthorized"):
        asked(None, ("Authorization", f"Bearer {'a' * 16385}"))


def test_subprotocols_are_split() -> None:
    """Several headers, commas and spaces; empty ones are none."""
    assert subprotocols(["a, b", " c ,,", ""]) == ["a", "b", "c"]


# -- what reads in two ways ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(
            [("Authorization", "Bearer a"), ("authorization", "Bearer b")], id="two tokens"
        ),
        pytest.param([("Impersonate-User", "a"), ("impersonate-user", "b")], id="two users wanted"),
        pytest.param(
            [("Impersonate-User", "a"), ("Impersonate-Uid", "1"), ("Impersonate-Uid", "2")],
            id="two UIDs wanted",
        ),
        pytest.param([("Impersonate-Group", "g")], id="a group of nobody"),
        pytest.param([("Impersonate-Uid", "1")], id="a UID of nobody"),
        pytest.param([("Impersonate-Extra-A", "")], id="an extra of nobody"),
        pytest.param([("Connection", "close, Authorization")], id="a token for one connection"),
        pytest.param([("Connection", "x-remote-user")], id="a user for one connection"),
    ],
)
@pytest.mark.parametrize("peer", [None, ADMIN, PROXY])
def test_what_reads_in_two_ways_is_refused(peer: Peer | None, headers: list[Header]) -> None:
    """As an API server refuses a bad request, whoever asks."""
    with pytest.raises(RefusalError) as refused:
        asked(peer, *headers, ("X-Remote-User", "u"))
    assert refused.value.code == 400


def test_whom_somebody_wants_to_be() -> None:
    """As written: nothing is added before it is allowed."""
    caller = asked(
        ADMIN,
        ("Impersonate-User", "u"),
        ("impersonate-group", "g"),
        ("Impersonate-Group", ""),
        ("Impersonate-Uid", "1"),
        ("Impersonate-Extra-Example.com%2FK", "v"),
        ("Impersonate-Extra-%41", "w"),
        ("Impersonate_User", "other"),
    )
    extra = {"example.com/k": ("v",), "A": ("w",)}
    assert caller.impersonated == User("u", ("g", ""), "1", extra)
    assert caller.user == ADMIN_USER


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "X-Remote-User",
                    "x_remote_user",
                    "X-Remote-Group",
                    "X-REMOTE-EXTRA-a",
                    "Impersonate_User",
                    "X-Forwarded-User",
                    "Remote-User",
                    "X-Client-Cert",
                    "Cookie",
                ]
            ),
            st.text("abc:%", min_size=1),
        )
    )
)
def test_no_header_makes_anybody_another(headers: list[Header]) -> None:
    """Without a front proxy's certificate, nothing in the headers changes who is asking."""
    assert asked(None, *headers) == ANONYMOUS
    assert asked(ADMIN, *headers).user == ADMIN_USER
