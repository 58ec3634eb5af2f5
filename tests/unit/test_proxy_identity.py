"""Headers that say who a request is from: written so that they arrive, dropped in any disguise."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.proxy.identity import (
    User,
    is_identity,
    with_class,
    without_identity,
)

PLAIN = [("Accept", "application/json"), ("X-Remotely", "a"), ("Impersonated", "b")]


@pytest.mark.parametrize(
    ("user", "headers"),
    [
        pytest.param(User("a"), [("Impersonate-User", "a")], id="a name alone"),
        pytest.param(
            User("a", ("g", "", "system:masters")),
            [
                ("Impersonate-User", "a"),
                ("Impersonate-Group", "g"),
                ("Impersonate-Group", ""),
                ("Impersonate-Group", "system:masters"),
            ],
            id="groups in order, an empty one too",
        ),
        pytest.param(
            User("a", (), "u"), [("Impersonate-User", "a"), ("Impersonate-Uid", "u")], id="a UID"
        ),
        pytest.param(
            User("a", (), "", {"example.com/k": ("v", "w"), "Case d": ("",)}),
            [
                ("Impersonate-User", "a"),
                ("Impersonate-Extra-example.com%2fk", "v"),
                ("Impersonate-Extra-example.com%2fk", "w"),
                ("Impersonate-Extra-%43ase%20d", ""),
            ],
            id="extras, each value on its own",
        ),
    ],
)
def test_a_user_is_written_as_headers(user: User, headers: list[tuple[str, str]]) -> None:
    """Name, groups, UID and extras, in the words of an API server."""
    assert list(user.impersonation) == headers


@pytest.mark.parametrize(
    ("user", "groups"),
    [
        pytest.param(User("u"), ("system:authenticated",), id="known"),
        pytest.param(User("u", ("g",)), ("g", "system:authenticated"), id="behind other groups"),
        pytest.param(
            User("u", ("system:authenticated", "g")), ("system:authenticated", "g"), id="is there"
        ),
        pytest.param(
            User("u", ("system:unauthenticated",)), ("system:unauthenticated",), id="is not wanted"
        ),
        pytest.param(User("system:anonymous"), ("system:unauthenticated",), id="nobody"),
    ],
)
def test_everybody_is_known_or_unknown(user: User, groups: tuple[str, ...]) -> None:
    """The group that says so is added where neither is there."""
    assert with_class(user).groups == groups


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), st.lists(st.text(), min_size=1).map(tuple)))
def test_the_key_of_an_extra_arrives(extra: dict[str, tuple[str, ...]]) -> None:
    """A server lower-cases a header's name, then decodes it: that gives the key again."""
    read: dict[str, tuple[str, ...]] = {}
    for name, value in User("a", extra=extra).impersonation:
        if name != "Impersonate-User":
            assert name.isascii()
            assert name.isprintable()
            assert not set(name) & set(' ():,/"@[]{}<>\\?=;')
            key = unquote(name.lower().removeprefix("impersonate-extra-"), errors="strict")
            read[key] = (*read.get(key, ()), value)
    assert read == extra


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Impersonate-User",
        "Impersonate-Group",
        "Impersonate-Uid",
        "Impersonate-Extra-Scopes",
        "Impersonate-Anything",
        "X-Remote-User",
        "X-Remote-Group",
        "X-Remote-Uid",
        "X-Remote-Extra-Scopes",
    ],
)
@pytest.mark.parametrize(
    "disguise",
    [
        pytest.param(str, id="plain"),
        pytest.param(str.lower, id="lower case"),
        pytest.param(str.upper, id="upper case"),
        pytest.param(str.swapcase, id="other case"),
        pytest.param(lambda name: name.replace("-", "_"), id="underscores"),
        pytest.param(lambda name: name.replace("-", "_", 1).upper(), id="one underscore"),
    ],
)
def test_no_disguise_survives(name: str, disguise: type[str]) -> None:
    """Whatever some server might take for a word on who is asking is dropped."""
    headers = [*PLAIN, (disguise(name), "x"), *PLAIN, (name, "y")]
    assert list(without_identity(headers)) == [*PLAIN, *PLAIN]


@pytest.mark.parametrize("name", ["Accept", "Impersonate", "X-Remote", "Proxy-Authorization", ""])
def test_other_headers_stay(name: str) -> None:
    """A name that only begins alike says nothing of anybody."""
    assert not is_identity(name)
