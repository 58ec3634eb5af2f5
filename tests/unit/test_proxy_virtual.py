"""What the virtual API server is told of who is asking: in one way only, never in two."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.http1.head import Header
from syncer.proxy.authenticate import TOKEN_PROTOCOL
from syncer.proxy.call import Call, Caller
from syncer.proxy.identity import User
from syncer.proxy.request import RequestInfo, read
from syncer.proxy.virtual import ToVirtual

ALICE = Caller(User("alice", ("devs",)), "", None, "alice")
TOKEN = Caller(None, "secret", None, "token:1")
NOBODY = Caller(None, "", None, "system:anonymous")
FROM: Header = ("X-Forwarded-For", "192.0.2.1")
AS_ALICE = [("Impersonate-User", "alice"), ("Impersonate-Group", "devs")]


class Allowing:
    """Lets everybody be whom they want, and makes it complete."""

    async def impersonate(self, user: User, wanted: User, _info: RequestInfo) -> User:
        """Allow it."""
        return User(wanted.name, (*wanted.groups, "system:authenticated"), f"by {user.name}")


async def sent(caller: Caller, *headers: Header, upgrade: str = "") -> tuple[list[Header], bool]:
    """Give what is sent for a request with these headers, and whether as an administrator."""
    to_virtual = ToVirtual(cast("Any", None), cast("Any", Allowing()))
    info = read("GET", "/api/v1/pods")
    return await to_virtual.headers(
        Call(cast("Any", None), info, caller, headers, upgrade, "192.0.2.1")
    )


@pytest.mark.parametrize(
    ("caller", "headers", "wanted"),
    [
        pytest.param(NOBODY, [], ([FROM], False), id="nobody"),
        pytest.param(
            NOBODY,
            [("Authorization", "Basic eA==")],
            ([FROM, ("Authorization", "Basic eA==")], False),
            id="a password that only the server could know",
        ),
        pytest.param(ALICE, [], ([FROM, *AS_ALICE], True), id="a certificate"),
        pytest.param(
            ALICE,
            [("Authorization", "Bearer secret"), ("Accept", "a")],
            ([("Accept", "a"), FROM, *AS_ALICE], True),
            id="a certificate and a token: the certificate",
        ),
        pytest.param(
            TOKEN,
            [("Accept", "a"), ("authorization", "Bearer secret")],
            ([("Accept", "a"), FROM, ("authorization", "Bearer secret")], False),
            id="a token: the caller's own",
        ),
        pytest.param(
            TOKEN,
            [("Authorization", "Bearer secret"), ("Impersonate-User", "bob")],
            ([FROM, ("Authorization", "Bearer secret"), ("Impersonate-User", "bob")], False),
            id="a token's impersonation is the server's to judge",
        ),
        pytest.param(
            Caller(User("alice"), "", User("bob", ("g",)), "alice"),
            [("Impersonate-User", "bob"), ("Impersonate-Group", "g")],
            (
                [
                    FROM,
                    ("Impersonate-User", "bob"),
                    ("Impersonate-Group", "g"),
                    ("Impersonate-Group", "system:authenticated"),
                    ("Impersonate-Uid", "by alice"),
                ],
                True,
            ),
            id="a certificate's impersonation was judged",
        ),
    ],
)
async def test_who_is_asking_is_said_in_one_way(
    caller: Caller, headers: list[Header], wanted: tuple[list[Header], bool]
) -> None:
    """By impersonation as an administrator, or by the caller's own word over a bare connection."""
    assert await sent(caller, *headers) == wanted


async def test_a_token_among_subprotocols_goes_with_its_callers_word_only() -> None:
    """Not over a connection that is an administrator's."""
    header = ("Sec-WebSocket-Protocol", f"{TOKEN_PROTOCOL}dA, v4.channel.k8s.io")
    headers, admin = await sent(ALICE, header, upgrade="websocket")
    assert admin
    assert headers[0] == ("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
    headers, admin = await sent(TOKEN, header, upgrade="websocket")
    assert not admin
    assert headers[0] == header


IDENTITY = st.sampled_from(
    [
        "Authorization",
        "Impersonate-User",
        "Impersonate-Group",
        "Impersonate-Uid",
        "Impersonate-Extra-a",
        "X-Remote-User",
        "X-Remote-Group",
        "X-Remote-Extra-a",
    ]
)
DISGUISES = st.sampled_from([str, str.lower, str.upper, lambda name: name.replace("-", "_")])
LIES = st.tuples(st.builds(lambda name, how: how(name), IDENTITY, DISGUISES), st.just("admin"))
OTHERS = st.tuples(st.sampled_from(["Accept", "X-Forwarded-For", "Cookie"]), st.text("ab"))


@settings(deadline=None)
@given(st.lists(LIES | OTHERS))
async def test_no_disguise_survives_with_our_credentials(headers: list[Header]) -> None:
    """As an administrator, only our own word on who is asking is sent, and once."""
    told, admin = await sent(ALICE, *headers)
    assert admin
    words = [h for h in told if h[0].lower().replace("_", "-").startswith(("imp", "x-r", "auth"))]
    assert words == AS_ALICE
    assert [value for name, value in told if name == "X-Forwarded-For"] == ["192.0.2.1"]


@settings(deadline=None)
@given(st.lists(LIES | OTHERS))
async def test_a_callers_own_word_has_one_spelling(headers: list[Header]) -> None:
    """Without our credentials, what goes on is what servers read, and never a front proxy's."""
    told, admin = await sent(NOBODY, *headers)
    assert not admin
    assert not [name for name, _ in told if "_" in name or name.lower().startswith("x-remote")]
