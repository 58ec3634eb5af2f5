"""Whom somebody may be taken for: the modes of Kubernetes 1.36, and what each of them needs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncer.objects import Object
from syncer.proxy.authorize import (
    MASTERS,
    _asking,
    _attributes,
    _complete,
    _Mode,
    _modes,
    _needed,
    knows_constrained_impersonation,
)
from syncer.proxy.identity import User
from syncer.proxy.request import read

NODE_NAME = "authentication.kubernetes.io/node-name"
NODE = "system:node:n1"
ACCOUNT = "system:serviceaccount:ns:robot"
ALICE = User("alice")
AGENT = User("system:serviceaccount:kube-system:agent", (), "", {NODE_NAME: ("n1",)})

LEGACY = _Mode()
ASSOCIATED = _Mode("associated-node", ("system:nodes",))
ARBITRARY = _Mode("arbitrary-node", ("system:nodes",))
SERVICE_ACCOUNT = _Mode("serviceaccount")
USER_INFO = _Mode("user-info")


@pytest.mark.parametrize(
    ("user", "wanted", "modes"),
    [
        pytest.param(ALICE, User("bob"), [USER_INFO, LEGACY], id="a user"),
        pytest.param(ALICE, User("bob", ("g",)), [USER_INFO, LEGACY], id="a user in a group"),
        pytest.param(ALICE, User("bob", (MASTERS,)), [USER_INFO, LEGACY], id="a master"),
        pytest.param(ALICE, User("system:anonymous"), [USER_INFO, LEGACY], id="nobody"),
        pytest.param(ALICE, User(ACCOUNT), [SERVICE_ACCOUNT, LEGACY], id="a service account"),
        pytest.param(ALICE, User(ACCOUNT, ("g",)), [LEGACY], id="a service account in a group"),
        pytest.param(ALICE, User(ACCOUNT, (), "1"), [LEGACY], id="a service account's UID"),
        pytest.param(
            ALICE, User(ACCOUNT, (), "", {"a/b": ("c",)}), [LEGACY], id="a service account's extra"
        ),
        pytest.param(ALICE, User(NODE), [ARBITRARY, LEGACY], id="a node"),
        pytest.param(ALICE, User(NODE, ("g",)), [LEGACY], id="a node in a group"),
        pytest.param(AGENT, User(NODE), [ASSOCIATED, ARBITRARY, LEGACY], id="its own node"),
        pytest.param(AGENT, User(f"{NODE}2"), [ARBITRARY, LEGACY], id="another node"),
        pytest.param(AGENT, User(NODE, (), "1"), [LEGACY], id="its own node's UID"),
        pytest.param(
            User("alice", (), "", {NODE_NAME: ("n1",)}),
            User(NODE),
            [ARBITRARY, LEGACY],
            id="a node's user that is no service account",
        ),
        pytest.param(
            User(AGENT.name, (), "", {NODE_NAME: ("n1", "n2")}),
            User(NODE),
            [ARBITRARY, LEGACY],
            id="a service account of two nodes",
        ),
        pytest.param(
            ALICE, User(f"system:node:{'n' * 253}"), [ARBITRARY, LEGACY], id="a long node's name"
        ),
        pytest.param(
            ALICE, User(f"system:node:{'n' * 254}"), [USER_INFO, LEGACY], id="too long for a node"
        ),
        pytest.param(
            ALICE,
            User(f"system:serviceaccount:ns:{'a' * 254}"),
            [USER_INFO, LEGACY],
            id="too long for an account",
        ),
        pytest.param(ALICE, User("system:node:"), [USER_INFO, LEGACY], id="no node"),
        pytest.param(ALICE, User("system:node:N_1"), [USER_INFO, LEGACY], id="no node's name"),
        pytest.param(ALICE, User("system:serviceaccount:ns"), [USER_INFO, LEGACY], id="no account"),
        pytest.param(
            ALICE, User("system:serviceaccount:ns:a:b"), [USER_INFO, LEGACY], id="no account either"
        ),
        pytest.param(
            ALICE, User("system:serviceaccount:a.b:c"), [USER_INFO, LEGACY], id="no namespace"
        ),
        pytest.param(
            ALICE, User(f"system:serviceaccount:{'a' * 64}:c"), [USER_INFO, LEGACY], id="too long"
        ),
    ],
)
def test_modes_in_the_order_of_an_api_server(user: User, wanted: User, modes: list[_Mode]) -> None:
    """Source: mode.go of k8s.io/apiserver 0.36 (KEP-5284)."""
    assert list(_modes(user, wanted)) == modes


# -- what a mode needs ---------------------------------------------------------------------------


def right(verb: str, resource: str, name: str, **rest: str) -> Object:
    """Give what a review asks for."""
    group = {"group": "authentication.k8s.io"} if ":" in verb else {}
    asked = {"verb": verb, **group, "version": "v1", "resource": resource, "name": name, **rest}
    return {"resourceAttributes": asked}


def asked(mode: _Mode, wanted: User) -> list[Any]:
    """Give what is asked for each part: all of these, or first the one of a tuple's first place."""
    out: list[Any] = []
    for rights in _needed(mode, wanted):
        each = [_attributes(info, info.verb) for info in rights.each]
        whole = rights.whole and _attributes(rights.whole, rights.whole.verb)
        out.append(rights.never or ((whole, each) if whole else each))
    return out


@pytest.mark.parametrize(
    ("mode", "wanted", "rights"),
    [
        pytest.param(
            LEGACY,
            User("bob", ("g", "h"), "1", {"a/b": ("c", "d")}),
            [
                [right("impersonate", "users", "bob")],
                [right("impersonate", "uids", "1", group="authentication.k8s.io")],
                [right("impersonate", "groups", "g"), right("impersonate", "groups", "h")],
                [
                    right(
                        "impersonate",
                        "userextras",
                        value,
                        group="authentication.k8s.io",
                        subresource="a/b",
                    )
                    for value in ("c", "d")
                ],
            ],
            id="of old, a user with everything",
        ),
        pytest.param(
            LEGACY,
            User(ACCOUNT),
            [[right("impersonate", "serviceaccounts", "robot", namespace="ns")]],
            id="of old, a service account",
        ),
        pytest.param(
            LEGACY, User(NODE), [[right("impersonate", "users", NODE)]], id="of old, a node"
        ),
        pytest.param(
            LEGACY,
            User("bob", (MASTERS,)),
            [
                [right("impersonate", "users", "bob")],
                [right("impersonate", "groups", MASTERS)],
            ],
            id="of old, a master",
        ),
        pytest.param(
            LEGACY,
            User("bob", ("a", "b", "c", "d", "e")),
            [
                [right("impersonate", "users", "bob")],
                [right("impersonate", "groups", group) for group in "abcde"],
            ],
            id="of old, many groups",
        ),
        pytest.param(
            USER_INFO,
            User("bob", ("g",), "1", {"a.b/c": ("d",)}),
            [
                [right("impersonate:user-info", "users", "bob")],
                [right("impersonate:user-info", "uids", "1")],
                [right("impersonate:user-info", "groups", "g")],
                [right("impersonate:user-info", "userextras", "d", subresource="a.b/c")],
            ],
            id="a user with everything",
        ),
        pytest.param(
            USER_INFO,
            User("bob", ("a", "b", "c", "d")),
            [
                [right("impersonate:user-info", "users", "bob")],
                (
                    right("impersonate:user-info", "groups", "*"),
                    [right("impersonate:user-info", "groups", group) for group in "abcd"],
                ),
            ],
            id="many groups",
        ),
        pytest.param(
            USER_INFO,
            User("bob", (), "", {"a/b": ("1", "2"), "a/c": ("3", "4")}),
            [
                [right("impersonate:user-info", "users", "bob")],
                (
                    right("impersonate:user-info", "userextras", "*", subresource="*"),
                    [
                        right("impersonate:user-info", "userextras", value, subresource=key)
                        for key, value in (("a/b", "1"), ("a/b", "2"), ("a/c", "3"), ("a/c", "4"))
                    ],
                ),
            ],
            id="many extras",
        ),
        pytest.param(
            USER_INFO,
            User("bob", ("g", MASTERS)),
            [
                [right("impersonate:user-info", "users", "bob")],
                "impersonating the system:masters group is not allowed",
            ],
            id="a master is never",
        ),
        pytest.param(
            USER_INFO,
            User("bob", ("g", "")),
            [
                [right("impersonate:user-info", "users", "bob")],
                "impersonating the empty string group is not allowed",
            ],
            id="an empty group is never",
        ),
        pytest.param(
            SERVICE_ACCOUNT,
            User(ACCOUNT),
            [[right("impersonate:serviceaccount", "serviceaccounts", "robot", namespace="ns")]],
            id="a service account",
        ),
        pytest.param(
            ARBITRARY,
            User(NODE),
            [[right("impersonate:arbitrary-node", "nodes", "n1")]],
            id="a node",
        ),
        pytest.param(
            ASSOCIATED,
            User(NODE),
            [[right("impersonate:associated-node", "nodes", "*")]],
            id="its own node",
        ),
    ],
)
def test_what_a_mode_needs(mode: _Mode, wanted: User, rights: list[Any]) -> None:
    """Each part of the user wanted, with the mode's own verb and API group."""
    assert asked(mode, wanted) == rights


@pytest.mark.parametrize(
    ("key", "value", "never"),
    [
        ("", "a", "empty string key"),
        ("a", "b", "invalid key"),
        ("/a", "b", "invalid key"),
        ("a/", "b", "invalid key"),
        ("A/b", "c", "invalid key"),
        ("a b/c", "d", "invalid key"),
        (f"{'a' * 254}/b", "c", "invalid key"),
        ("a/b c", "d", "invalid key"),
        ("a/B", "c", "non-lowercase key"),
        ("a/b", "", "empty string value"),
    ],
)
def test_some_extras_are_never_given(key: str, value: str, never: str) -> None:
    """By constrained modes; of old, whoever is allowed to may give them."""
    wanted = User("bob", (), "", {key: (value,)})
    assert never in asked(USER_INFO, wanted)[1]
    assert len(asked(LEGACY, wanted)[1]) == 1


def test_a_node_of_ones_own_is_asked_for_without_its_name() -> None:
    """So that an answer holds for a service account on all its nodes: keys of extras, no values."""
    extra = {NODE_NAME: ("n1",), "authentication.kubernetes.io/pod-name": ("p",)}
    user = User(AGENT.name, ("g",), "1", extra)
    keys = ("authentication.kubernetes.io/node-name", "authentication.kubernetes.io/pod-name")
    asking = User(
        AGENT.name, ("g",), "1", {"authentication.kubernetes.io/associated-node-keys": keys}
    )
    assert _asking(user, ASSOCIATED) == asking
    assert _asking(user, ARBITRARY) is user
    assert _asking(user, LEGACY) is user


@pytest.mark.parametrize("extra", ["g", "uid", "extra"])
@pytest.mark.parametrize("mode", [ASSOCIATED, ARBITRARY, SERVICE_ACCOUNT])
def test_nodes_and_accounts_are_wanted_by_name_alone(mode: _Mode, extra: str) -> None:
    """No constrained mode gives them anything else."""
    name = ACCOUNT if mode is SERVICE_ACCOUNT else NODE
    wanted = {
        "g": User(name, ("g",)),
        "uid": User(name, (), "1"),
        "extra": User(name, (), "", {"a/b": ("c",)}),
    }[extra]
    assert list(_modes(AGENT, wanted)) == [LEGACY]


# -- who it is then ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "mode", "groups"),
    [
        pytest.param(User("bob"), LEGACY, ["system:authenticated"], id="a user"),
        pytest.param(User("bob", ("g",)), LEGACY, ["g", "system:authenticated"], id="a group"),
        pytest.param(
            User("bob", ("system:authenticated", "g")),
            LEGACY,
            ["system:authenticated", "g"],
            id="known already",
        ),
        pytest.param(
            User("bob", ("system:unauthenticated",)),
            LEGACY,
            ["system:unauthenticated"],
            id="unknown by wish",
        ),
        pytest.param(
            User("system:anonymous"), LEGACY, ["system:unauthenticated"], id="nobody"
        ),
        pytest.param(
            User("system:anonymous", ("g", "system:authenticated")),
            USER_INFO,
            ["g", "system:authenticated", "system:unauthenticated"],
            id="nobody in groups",
        ),
        pytest.param(
            User("system:anonymous", ("system:unauthenticated",)),
            LEGACY,
            ["system:unauthenticated"],
            id="nobody as it should be",
        ),
        pytest.param(
            User(ACCOUNT),
            SERVICE_ACCOUNT,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"],
            id="a service account",
        ),
        pytest.param(
            User(ACCOUNT), LEGACY,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"],
            id="a service account of old",
        ),
        pytest.param(
            User(ACCOUNT, ("g",)), LEGACY, ["g", "system:authenticated"], id="in another group"
        ),
        pytest.param(
            User(NODE), ARBITRARY, ["system:nodes", "system:authenticated"], id="a node"
        ),
        pytest.param(
            User(NODE), ASSOCIATED, ["system:nodes", "system:authenticated"], id="its own node"
        ),
        pytest.param(User(NODE), LEGACY, ["system:authenticated"], id="a node of old"),
    ],
)  # fmt: skip
def test_whom_somebody_is_then(wanted: User, mode: _Mode, groups: list[str]) -> None:
    """The groups are complete; name, UID and extras are as they were wanted."""
    assert _complete(wanted, mode) == User(wanted.name, tuple(groups), wanted.uid, wanted.extra)


GROUPS = st.sampled_from(["g", MASTERS, "system:authenticated", "system:unauthenticated", ""])
NAMES = st.sampled_from(["bob", "system:anonymous", NODE, ACCOUNT, "system:node:", "system:admin"])


@settings(deadline=None)
@given(NAMES, st.lists(GROUPS, max_size=6).map(tuple), st.sampled_from(["", "1"]))
def test_nothing_is_gained_that_was_not_asked_for(
    name: str, groups: tuple[str, ...], uid: str
) -> None:
    """Each group of the outcome was wanted and reviewed, or goes with the name."""
    wanted = User(name, groups, uid)
    own = {"system:authenticated", "system:unauthenticated", "system:nodes"}
    own |= {"system:serviceaccounts", "system:serviceaccounts:ns"}
    for mode in _modes(AGENT, wanted):
        reviewed = {info.name for rights in _needed(mode, wanted) for info in rights.each}
        never = any(rights.never for rights in _needed(mode, wanted))
        outcome = _complete(wanted, mode)
        assert never or set(groups) <= reviewed
        assert set(outcome.groups) - set(groups) <= own
        if mode.name:
            assert never or MASTERS not in outcome.groups


# -- attributes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "verb", "attributes"),
    [
        pytest.param(
            "GET",
            "/api/v1/namespaces/ns/pods/p/log?follow=true",
            "get",
            {
                "verb": "get",
                "version": "v1",
                "namespace": "ns",
                "resource": "pods",
                "subresource": "log",
                "name": "p",
            },
            id="a subresource",
        ),
        pytest.param(
            "GET",
            "/apis/metrics.k8s.io/v1beta1/nodes",
            "list",
            {
                "verb": "list",
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "resource": "nodes",
            },
            id="a list",
        ),
        pytest.param(
            "GET",
            "/api/v1/namespaces/ns/pods/http:p:80/proxy/a",
            "get",
            {
                "verb": "get",
                "version": "v1",
                "namespace": "ns",
                "resource": "pods",
                "subresource": "proxy",
                "name": "http:p:80",
            },
            id="a proxy, by the name as it is written",
        ),
    ],
)
def test_what_is_asked_about_objects(
    method: str, target: str, verb: str, attributes: dict[str, str]
) -> None:
    """What an API server's authoriser is asked, without what is empty."""
    info = read(method, target)
    assert info.verb == verb
    assert _attributes(info, verb) == {"resourceAttributes": attributes}


def test_what_is_asked_about_other_paths() -> None:
    """The path with its last slash, and the method."""
    info = read("GET", "/apis/metrics.k8s.io/")
    asked = {"path": "/apis/metrics.k8s.io/", "verb": "get"}
    assert _attributes(info, info.verb) == {"nonResourceAttributes": asked}


@pytest.mark.parametrize(
    ("version", "known"),
    [
        pytest.param("", False, id="not known yet"),
        pytest.param("nonsense", False, id="no version"),
        pytest.param("v1.35.9", False, id="before"),
        pytest.param("v1.36.0-rc.1", True, id="its own"),
        pytest.param("v1.36.3+k3s1", True, id="a distribution's"),
        pytest.param("v1.104.0", True, id="later"),
        pytest.param("v2.0.0", True, id="much later"),
    ],
)
def test_constrained_impersonation_is_for_servers_that_have_it(version: str, known: bool) -> None:
    """An older server would not be asked these questions: who may all of its verbs may not this."""
    assert knows_constrained_impersonation(version) is known
