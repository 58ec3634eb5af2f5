"""Who one is through the endpoint is who one is at the virtual API server itself.

For each kind of credential, and for impersonation under all kinds of grants, both are asked the
same: the answers are equal, and where the endpoint decides for the host (a pod's log), it refuses
whom that server refuses, in its words.
"""

import asyncio
import base64
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane import ControlPlane, Settings
from controlplane.certificates import Authority
from controlplane.certificates import Pair as Keys
from tests.integration.endpoint import (
    NOBODY,
    Answer,
    Caller,
    Header,
    administrator,
    caller,
    grant,
    json_body,
    running_pod,
    same,
    service_account,
    straight,
    through,
    without,
)
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    Tenant,
    boot_pair,
    cluster,
    eventually,
    gone,
    named,
    pod,
)
from tests.integration.pod_steps import in_phase

SELF = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
REVIEW = json_body({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
JSON: tuple[Header, ...] = REVIEW["headers"]
UID_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57683.2")

OURS = ("x-content-type-options",)
"""Headers that our own refusals have, and API servers' some of the time."""

changing = without("creationTimestamp")


def review(*headers: Header) -> dict[str, Any]:
    """Return the options of a request that asks who one is, with further headers."""
    return {"body": REVIEW["body"], "headers": (*JSON, *headers)}


async def who(pair: Pair, asking: Caller, *headers: Header) -> Answer:
    """Ask both ways who one is, see that the answers are equal, and return the endpoint's."""

    def steady(body: bytes) -> Any:
        return changing(body)

    return await same(
        pair, "POST", SELF, who=asking, steady=steady, ignoring=OURS, **review(*headers)
    )


@pytest.fixture(scope="module")
async def place(pair: Pair) -> AsyncIterator[str]:
    """A namespace with a pod `web` that runs."""
    async with running_pod(pair) as namespace:
        yield namespace


def issue(
    authority: Authority,
    directory: Path,
    *attributes: tuple[x509.ObjectIdentifier, str],
    ended: bool = False,
) -> Keys:
    """Make a client certificate of any subject, maybe one whose time is over."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    end = now - dt.timedelta(seconds=30) if ended else now + dt.timedelta(hours=1)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes]))
        .issuer_name(authority._certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(end)
        .add_extension(usage, critical=False)
        .sign(authority._key, hashes.SHA256())
    )
    name = uuid.uuid4().hex
    made = Keys(directory / f"{name}.crt", directory / f"{name}.key")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return made


# Certificates


CN, O = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME  # noqa: E741 - what X.509 calls it
SUBJECTS: dict[str, tuple[tuple[x509.ObjectIdentifier, str], ...]] = {
    "name": ((CN, "jane"),),
    "groups": ((CN, "jane"), (O, "b"), (O, "a"), (O, "c")),
    "same-group-twice": ((CN, "jane"), (O, "a"), (O, "a")),
    "masters": ((CN, "root"), (O, "system:masters")),
    "named-as-an-account": ((CN, "system:serviceaccount:default:default"),),
    "node": ((CN, "system:node:node-0"), (O, "system:nodes")),
    "odd-letters": ((CN, "Jäne Döe (☃) <j@example.com>"), (O, "größe/1"), (O, "a,b=c:d%20")),
    "spaces-inside": ((CN, "jane  doe"), (O, "a b")),
    "authenticated-already": ((CN, "jane"), (O, "system:authenticated"), (O, "x")),
    "unauthenticated": ((CN, "jane"), (O, "system:unauthenticated")),
    "uid": ((CN, "jane"), (UID_OID, "1234-5678")),
    "last-name-counts": ((CN, "first"), (O, "a"), (CN, "last")),
    "no-name": ((O, "system:masters"),),
    "nothing": (),
}


@pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS.keys())
async def test_a_certificate_names_its_user(
    pair: Pair, tmp_path: Path, subject: tuple[tuple[x509.ObjectIdentifier, str], ...]
) -> None:
    """Name, groups, UID and extras of the subject are what the server reads from it."""
    authority = Authority.load(pair.virtual.plane.pki.client_ca)
    jane = Caller(issue(authority, tmp_path, *subject))
    answer = await who(pair, jane)
    if answer.status == 201:
        assert answer.json["status"]["userInfo"]["extra"]  # the certificate's digest
    await same(pair, "GET", "/api/v1/namespaces", who=jane, ignoring=OURS)
    await same(pair, "GET", "/version", who=jane, ignoring=OURS)


async def test_no_other_certificate_opens_anything(pair: Pair, tmp_path: Path) -> None:
    """One whose time is over, one of another CA, and servers' own end the handshake.

    An API server goes on and says 401: here the connection ends.
    """
    pki = pair.virtual.plane.pki
    stranger = Authority.create(tmp_path, "stranger")
    name = ((CN, "root"), (O, "system:masters"))
    for certificate in (
        issue(Authority.load(pki.client_ca), tmp_path, *name, ended=True),
        issue(stranger, tmp_path, *name),
        issue(Authority.load(pki.server_ca), tmp_path, *name),
        issue(Authority.load(pair.host.plane.pki.client_ca), tmp_path, *name),
    ):
        root = Caller(certificate)
        assert (await straight(pair, "GET", "/api/v1/namespaces", who=root)).status == 401
        with pytest.raises(aiohttp.ClientError):
            await through(pair, "GET", "/api/v1/namespaces", who=root)


# Tokens


def authorization(value: str) -> Caller:
    """Return a caller who sends this header."""
    return Caller(headers=(("Authorization", value),))


async def test_a_service_accounts_token_is_taken_for_what_it_is(pair: Pair, place: str) -> None:
    """Whatever the server reads from it: account, groups, pod and node."""
    robot, _ = await service_account(pair.virtual, "robot", place)
    answer = await who(pair, robot)
    user = answer.json["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{place}:robot"
    await pair.virtual.create(pod("bound", place, serviceAccountName="robot"))
    made = await in_phase(pair, "bound", place)
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "bound"}
    reference["uid"] = made["metadata"]["uid"]
    bound, _ = await service_account(pair.virtual, "robot", place, boundObjectRef=reference)
    extra = (await who(pair, bound)).json["status"]["userInfo"]["extra"]
    assert extra["authentication.kubernetes.io/pod-name"] == ["bound"]
    assert extra["authentication.kubernetes.io/node-name"] == [made["spec"]["nodeName"]]


TOKENS: dict[str, Callable[[str], str]] = {
    "valid": lambda token: f"Bearer {token}",
    "small-letters": lambda token: f"bearer {token}",
    "capitals": lambda token: f"BEARER {token}",
    "spaces-between": lambda token: f"Bearer  {token}",
    "spaces-behind": lambda token: f"Bearer {token}  ",
    "words-behind": lambda token: f"Bearer {token} more",
    "invalid": lambda token: f"Bearer {token[:-4]}AAAA",
    "no-token": lambda _: "Bearer nonsense",
    "empty": lambda _: "Bearer ",
    "only-the-scheme": lambda _: "Bearer",
    "nothing": lambda _: "",
    "basic": lambda _: "Basic YWRtaW46YWRtaW4=",
    "no-scheme": lambda token: token,
    "tab-between": lambda token: f"Bearer\t{token}",
}


@pytest.mark.parametrize("form", TOKENS.values(), ids=TOKENS.keys())
async def test_a_token_counts_as_at_the_server(
    pair: Pair, place: str, form: Callable[[str], str]
) -> None:
    """Valid, invalid and odd ones alike, on what is passed on and on what goes to the host."""
    robot, _ = await service_account(pair.virtual, "robot", place)
    asking = authorization(form(robot.token))
    await who(pair, asking)
    await same(pair, "GET", "/api/v1/namespaces", who=asking, ignoring=OURS)
    target = f"/api/v1/namespaces/{place}/pods/web/log"  # which nobody here may read
    await same(pair, "GET", target, who=asking, ignoring=(*OURS, "warning"))


async def test_a_token_for_others_is_none(pair: Pair, place: str) -> None:
    """Another audience's token, the host's, and one whose account is gone: 401 as straight."""
    vault, _ = await service_account(pair.virtual, "robot", place, audiences=["vault"])
    namespace = pair.names.host_namespace
    of_host, _ = await service_account(pair.host, "default", namespace)
    # Not asked about while it is alive: the API server remembers good answers for 10 s.
    mortal, _ = await service_account(pair.virtual, "mortal", place)
    await pair.virtual.delete("serviceaccounts", "mortal", place)
    await gone(lambda: pair.virtual.find("serviceaccounts", "mortal", place))

    async def dead() -> None:
        assert (await straight(pair, "POST", SELF, who=mortal, **review())).status == 401

    await eventually(dead)
    for asking in (vault, of_host, mortal):
        assert (await who(pair, asking)).status == 401
        target = f"/api/v1/namespaces/{place}/pods/web/log"
        answer = await same(pair, "GET", target, who=asking, ignoring=OURS)
        assert answer.status == 401


async def test_a_certificate_goes_before_a_token(pair: Pair, place: str) -> None:
    """With both, one is whom the certificate names, as at an API server."""
    robot, _ = await service_account(pair.virtual, "robot", place)
    jane = caller(pair, "jane")
    for token in (robot.token, "nonsense"):
        both = Caller(jane.certificate, token)
        assert (await who(pair, both)).json["status"]["userInfo"]["username"] == "jane"


async def test_a_certificate_that_names_nobody_leaves_a_token_its_word(
    pair: Pair, place: str, tmp_path: Path
) -> None:
    """A front proxy's own certificate, or one without a name, with a token: the token's user."""
    pki = pair.virtual.plane.pki
    robot, _ = await service_account(pair.virtual, "robot", place)
    nameless = issue(Authority.load(pki.client_ca), tmp_path, (O, "group"))
    for certificate in (pki.pair("front-proxy"), nameless):
        answer = await who(pair, Caller(certificate, robot.token))
        assert answer.json["status"]["userInfo"]["username"].endswith(":robot")
        assert (await who(pair, Caller(certificate))).status == 401
        assert (await who(pair, Caller(certificate, "nonsense"))).status == 401


# Nobody


async def test_nobody_may_what_the_server_lets_nobody_do(pair: Pair, place: str) -> None:
    """Without credentials one is anonymous, and so refused or answered as the server does."""
    assert (await who(pair, NOBODY)).status == 403
    assert (await same(pair, "GET", "/version", who=NOBODY, ignoring=OURS)).status == 200
    assert (await same(pair, "GET", "/api/v1/namespaces", who=NOBODY, ignoring=OURS)).status == 403
    target = f"/api/v1/namespaces/{place}/pods/web/log"
    refused = await same(pair, "GET", target, who=NOBODY, ignoring=OURS)
    assert refused.status == 403
    rule = {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}
    await grant(pair.virtual, "system:anonymous", rule, namespace=place)

    async def allowed() -> None:
        answer = await through(pair, "GET", target, who=NOBODY)
        assert answer.status == 200
        assert b"hello" in answer.body

    await eventually(allowed)


async def test_nobody_by_name_is_nobody(pair: Pair, place: str, tmp_path: Path) -> None:
    """Whoever's certificate or front proxy says `system:anonymous` has no more rights than nobody.

    By groups they differ: an API server gives such a user none at all, and impersonation, by which
    the endpoint passes users on, those of nobody.
    """
    users = Authority.load(pair.virtual.plane.pki.client_ca)
    certified = Caller(issue(users, tmp_path, (CN, "system:anonymous")))
    proxy = Caller(pair.virtual.plane.pki.pair("front-proxy"))
    for asking in (certified, proxy.saying(("X-Remote-User", "system:anonymous"))):
        for method, target, options in (
            ("POST", SELF, review()),
            ("GET", "/api/v1/namespaces", {}),
            ("GET", f"/api/v1/namespaces/{place}/secrets/x", {}),
        ):
            expected = await straight(pair, method, target, who=asking, **options)
            found = await through(pair, method, target, who=asking, **options)
            assert (found.status, found.json) == (403, expected.json)


# Front proxies


PROXIED: dict[str, tuple[Header, ...]] = {
    "user": (("X-Remote-User", "eve"),),
    "groups": (("X-Remote-User", "eve"), ("X-Remote-Group", "a"), ("X-Remote-Group", "b")),
    "masters": (("X-Remote-User", "eve"), ("X-Remote-Group", "system:masters")),
    "extras": (
        ("X-Remote-User", "eve"),
        ("X-Remote-Extra-Scope", "one"),
        ("X-Remote-Extra-Scope", "two"),
        ("X-Remote-Extra-Example.com%2fKey", "three"),
    ),
    "any-case": (("x-remote-USER", "eve"), ("X-REMOTE-group", "a")),
    "first-counts": (("X-Remote-User", "eve"), ("X-Remote-User", "mallory")),
    "no-user": (("X-Remote-Group", "system:masters"),),
    "empty-user": (("X-Remote-User", ""), ("X-Remote-Group", "system:masters")),
    "empty-group": (("X-Remote-User", "eve"), ("X-Remote-Group", "")),
    "underscores": (("X_Remote_User", "eve"), ("X_Remote_Group", "system:masters")),
    "nothing": (),
}


@pytest.mark.parametrize("headers", PROXIED.values(), ids=PROXIED.keys())
async def test_a_front_proxy_speaks_for_its_users(pair: Pair, headers: tuple[Header, ...]) -> None:
    """With a certificate of the front proxies' CA, `X-Remote-*` say who one is; else they don't."""
    proxy = Caller(pair.virtual.plane.pki.pair("front-proxy"))
    await who(pair, proxy, *headers)
    for asking in (caller(pair, "jane"), NOBODY):
        found = await who(pair, asking, *headers)
        if asking is not NOBODY:
            assert found.json["status"]["userInfo"]["username"] == "jane"


# Impersonation


@dataclass(frozen=True)
class Row:
    """Somebody with rights, who wants to be somebody else.

    Attributes:
        rules: RBAC rules of whoever asks.
        wanted: the headers that say whom they want to be.
        allowed: whether they are let.
        namespaced: the rules hold in the namespace of the tests only.
        worded: a refusal has the server's own words.
    """

    rules: tuple[Object, ...]
    wanted: tuple[Header, ...]
    allowed: bool
    namespaced: bool = False
    worded: bool = True


def rule(
    verb: str, resource: str, *names: str, group: str = "", also: tuple[str, ...] = ()
) -> Object:
    """Return an RBAC rule."""
    made: Object = {"apiGroups": [group], "resources": [resource], "verbs": [verb, *also]}
    return made | ({"resourceNames": list(names)} if names else {})


OF = "authentication.k8s.io"
USERS = rule("impersonate", "users")
BOB = ("Impersonate-User", "bob")
USER, GROUP, UID, EXTRA = (f"Impersonate-{word}" for word in ("User", "Group", "Uid", "Extra-"))


def on(mode: str) -> tuple[Object, Object]:
    """Return the rules that let one ask who one is, and read logs, in a constrained mode."""
    return (
        rule(f"impersonate-on:{mode}:create", "selfsubjectreviews", group=OF),
        rule(f"impersonate-on:{mode}:get", "pods/log"),
    )


def constrained(mode: str, *things: tuple[str, tuple[str, ...]]) -> tuple[Object, ...]:
    """Return rules for a constrained mode: on what it may be used, and for whom."""
    return *on(mode), *(
        rule(f"impersonate:{mode}", what, *names, group=OF) for what, names in things
    )


def account(name: str) -> Header:
    """Return the header by which one wants to be an account of the tests' namespace."""
    return USER, f"system:serviceaccount:PLACE:{name}"


ANY: tuple[str, ...] = ()
FIVE = tuple((GROUP, f"g{number}") for number in range(5))
ROWS: dict[str, Row] = {
    # The way of old: the verb `impersonate`.
    "nothing": Row((), (BOB,), False),
    "user": Row((USERS,), (BOB,), True),
    "user-by-name": Row((rule("impersonate", "users", "bob"),), (BOB,), True),
    "other-user": Row((rule("impersonate", "users", "alice"),), (BOB,), False),
    "other-verb": Row((rule("get", "users"),), (BOB,), False),
    "all-verbs": Row((rule("*", "users"),), (BOB,), True),
    "no-right-to-groups": Row((USERS,), (BOB, (GROUP, "team")), False),
    "group": Row((USERS, rule("impersonate", "groups", "team")), (BOB, (GROUP, "team")), True),
    "one-of-two-groups": Row(
        (USERS, rule("impersonate", "groups", "team")),
        (BOB, (GROUP, "team"), (GROUP, "other")),
        False,
    ),
    "groups-in-order": Row(
        (USERS, rule("impersonate", "groups")), (BOB, (GROUP, "b"), (GROUP, "a")), True
    ),
    "same-group-twice": Row(
        (USERS, rule("impersonate", "groups")), (BOB, (GROUP, "a"), (GROUP, "a")), True
    ),
    "masters": Row((USERS, rule("impersonate", "groups")), (BOB, (GROUP, "system:masters")), True),
    "no-right-to-masters": Row(
        (USERS, rule("impersonate", "groups", "team")), (BOB, (GROUP, "system:masters")), False
    ),
    "authenticated-group": Row(
        (USERS, rule("impersonate", "groups")), (BOB, (GROUP, "system:authenticated")), True
    ),
    "unauthenticated-group": Row(
        (USERS, rule("impersonate", "groups")), (BOB, (GROUP, "system:unauthenticated")), True
    ),
    "empty-group": Row((USERS, rule("impersonate", "groups")), (BOB, (GROUP, "")), True),
    "no-right-to-uids": Row((USERS,), (BOB, (UID, "1")), False),
    "uid": Row((USERS, rule("impersonate", "uids", "1", group=OF)), (BOB, (UID, "1")), True),
    "uid-of-core": Row((USERS, rule("impersonate", "uids")), (BOB, (UID, "1")), False),
    "no-right-to-extras": Row((USERS,), (BOB, (f"{EXTRA}Scope", "a")), False),
    "extra": Row(
        (USERS, rule("impersonate", "userextras/scope", "a", group=OF)),
        (BOB, (f"{EXTRA}Scope", "a")),
        True,
    ),
    "other-value": Row(
        (USERS, rule("impersonate", "userextras/scope", "a", group=OF)),
        (BOB, (f"{EXTRA}Scope", "a"), (f"{EXTRA}Scope", "b")),
        False,
    ),
    "values-in-order": Row(
        (USERS, rule("impersonate", "*", group=OF)),
        (BOB, (f"{EXTRA}Scope", "b"), (f"{EXTRA}Scope", "a"), (f"{EXTRA}Other", "")),
        True,
    ),
    "escaped-key": Row(
        (USERS, rule("impersonate", "userextras/example.com/Key", group=OF)),
        (BOB, (f"{EXTRA}Example.com%2f%4bey", "a")),
        True,
    ),
    "broken-escape": Row(
        (USERS, rule("impersonate", "*", group=OF)),
        (BOB, (f"{EXTRA}A%zzb", "a")),
        True,
    ),
    "empty-key": Row(
        (USERS, rule("impersonate", "userextras", group=OF)), (BOB, (EXTRA, "a")), True
    ),
    "odd-name": Row((USERS,), ((USER, "bob ☃ <b@example.com>"),), True),
    "anonymous": Row((USERS,), ((USER, "system:anonymous"),), True),
    "account": Row(
        (rule("impersonate", "serviceaccounts", "robot"),), (account("robot"),), True, True
    ),
    "account-by-users": Row((USERS,), (account("robot"),), False),
    "other-account": Row(
        (rule("impersonate", "serviceaccounts", "robot"),), (account("other"),), False, True
    ),
    "other-namespace": Row(
        (rule("impersonate", "serviceaccounts"),),
        ((USER, "system:serviceaccount:default:robot"),),
        False,
        True,
    ),
    "account-with-groups": Row(
        (rule("impersonate", "serviceaccounts"), rule("impersonate", "groups")),
        (account("robot"), (GROUP, "team")),
        True,
    ),
    "no-account-after-all": Row((USERS,), ((USER, "system:serviceaccount:Not:Valid"),), True),
    "too-many-colons": Row((USERS,), ((USER, "system:serviceaccount:a:b:c"),), True),
    "node": Row((USERS,), ((USER, "system:node:node-0"),), True),
    "node-with-group": Row(
        (USERS, rule("impersonate", "groups")),
        ((USER, "system:node:node-0"), (GROUP, "system:nodes")),
        True,
    ),
    "empty-user": Row((USERS,), ((USER, ""),), True),
    # Constrained, as of Kubernetes 1.36.
    "info": Row(constrained("user-info", ("users", ("bob",))), (BOB,), True),
    "info-other": Row(constrained("user-info", ("users", ("alice",))), (BOB,), False),
    "info-not-on-this": Row((rule("impersonate:user-info", "users", group=OF),), (BOB,), False),
    "info-for-nobody": Row(on("user-info"), (BOB,), False),
    "info-of-core": Row((*on("user-info"), rule("impersonate:user-info", "users")), (BOB,), False),
    "info-group": Row(
        constrained("user-info", ("users", ANY), ("groups", ("team",))),
        (BOB, (GROUP, "team")),
        True,
    ),
    "info-other-group": Row(
        constrained("user-info", ("users", ANY), ("groups", ("team",))),
        (BOB, (GROUP, "other")),
        False,
    ),
    "info-masters": Row(
        constrained("user-info", ("users", ANY), ("groups", ANY)),
        (BOB, (GROUP, "system:masters")),
        False,
    ),
    "info-empty-group": Row(
        constrained("user-info", ("users", ANY), ("groups", ANY)), (BOB, (GROUP, "")), False
    ),
    "info-many-groups": Row(
        constrained("user-info", ("users", ANY), ("groups", ("*",))), (BOB, *FIVE), True
    ),
    "info-few-groups": Row(
        constrained("user-info", ("users", ANY), ("groups", ("*",))), (BOB, *FIVE[:3]), False
    ),
    "info-each-of-many": Row(
        constrained("user-info", ("users", ANY), ("groups", tuple(g for _, g in FIVE))),
        (BOB, *FIVE),
        True,
    ),
    "info-uid": Row(
        constrained("user-info", ("users", ANY), ("uids", ("1",))), (BOB, (UID, "1")), True
    ),
    "info-other-uid": Row(
        constrained("user-info", ("users", ANY), ("uids", ("1",))), (BOB, (UID, "2")), False
    ),
    "info-extra": Row(
        constrained("user-info", ("users", ANY), ("userextras/example.com/a", ANY)),
        (BOB, (f"{EXTRA}Example.com%2fA", "x")),
        True,
    ),
    "info-plain-extra": Row(
        constrained("user-info", ("users", ANY), ("*", ANY)),
        (BOB, (f"{EXTRA}A", "x")),
        False,
        worded=False,  # what is wrong with the key, the server says at length
    ),
    "info-odd-extra": Row(
        constrained("user-info", ("users", ANY), ("*", ANY)),
        (BOB, (f"{EXTRA}-bad-%2fA", "x")),
        False,
        worded=False,  # what is wrong with the key, the server says at length
    ),
    "info-empty-extra": Row(
        constrained("user-info", ("users", ANY), ("*", ANY)),
        (BOB, (f"{EXTRA}Example.com%2fA", "")),
        False,
    ),
    "info-many-extras": Row(
        constrained("user-info", ("users", ANY), ("userextras/*", ("*",))),
        (BOB, *((f"{EXTRA}Example.com%2fA", str(number)) for number in range(5))),
        True,
    ),
    "info-no-accounts": Row(
        constrained("user-info", ("users", ANY), ("serviceaccounts", ANY)),
        (account("robot"),),
        False,
    ),
    "info-no-nodes": Row(
        constrained("user-info", ("users", ANY), ("nodes", ANY)),
        ((USER, "system:node:node-0"),),
        False,
    ),
    "info-anonymous": Row(
        constrained("user-info", ("users", ANY)), ((USER, "system:anonymous"),), True
    ),
    "serviceaccount": Row(
        constrained("serviceaccount", ("serviceaccounts", ("robot",))), (account("robot"),), True
    ),
    "serviceaccount-other": Row(
        constrained("serviceaccount", ("serviceaccounts", ("robot",))), (account("other"),), False
    ),
    "serviceaccount-with-group": Row(
        constrained("serviceaccount", ("serviceaccounts", ANY), ("groups", ANY)),
        (account("robot"), (GROUP, "team")),
        False,
    ),
    "arbitrary-node": Row(
        constrained("arbitrary-node", ("nodes", ("node-0",))),
        ((USER, "system:node:node-0"),),
        True,
    ),
    "arbitrary-other-node": Row(
        constrained("arbitrary-node", ("nodes", ("node-0",))),
        ((USER, "system:node:node-1"),),
        False,
    ),
    "arbitrary-node-with-group": Row(
        constrained("arbitrary-node", ("nodes", ANY), ("groups", ANY)),
        ((USER, "system:node:node-0"), (GROUP, "system:nodes")),
        False,
    ),
    "associated-node-needs-an-account": Row(
        constrained("associated-node", ("nodes", ANY)), ((USER, "system:node:node-0"),), False
    ),
}


@pytest.fixture(scope="module")
async def impersonators(pair: Pair, place: str) -> dict[str, Caller]:
    """By row, a user with that row's rights; `bob` and `robot` may read logs."""
    made = {name: caller(pair, f"row-{name}-{place}") for name in ROWS}
    await pair.virtual.create(named("ServiceAccount", "robot-of-rows", place))
    logs = rule("get", "pods/log")
    await grant(pair.virtual, "bob", logs, namespace=place)
    await grant(pair.virtual, f"{place}:robot", logs, namespace=place, kind="ServiceAccount")
    grants = [
        grant(
            pair.virtual,
            f"row-{name}-{place}",
            *row.rules,
            namespace=place if row.namespaced else "",
        )
        for name, row in ROWS.items()
        if row.rules
    ]
    await asyncio.gather(*grants)
    # The server hears of rights in the order of their making: once it knows of these, of all.
    last = f"last-{place}"
    await grant(pair.virtual, last, logs)
    await grant(pair.virtual, last, rule("get", "pods"), namespace=place)
    log = f"/api/v1/namespaces/{place}/pods/web/log"

    async def may_read() -> None:
        for user in ("bob", f"system:serviceaccount:{place}:robot", last):
            assert (await through(pair, "GET", log, headers=((USER, user),))).status == 200
        of_pod = log.removesuffix("/log")
        assert (await straight(pair, "GET", of_pod, headers=((USER, last),))).status == 200

    await eventually(may_read)
    return made


@pytest.mark.parametrize("name", ROWS)
async def test_one_becomes_another_as_at_the_server(
    pair: Pair, place: str, impersonators: dict[str, Caller], name: str
) -> None:
    """Who may impersonate whom, and what they are then, is what the virtual server says."""
    row, asking = ROWS[name], impersonators[name]
    wanted = tuple((key, value.replace("PLACE", place)) for key, value in row.wanted)
    plain = {"headers": wanted, "who": asking}
    log = f"/api/v1/namespaces/{place}/pods/web/log"

    async def known() -> None:
        """See that the server knows of the rights by now."""
        found = await straight(pair, "POST", SELF, who=asking, **review(*wanted))
        refused = found.status == 403 and f'User "row-{name}-' in found.json["message"]
        assert (found.status != 400 and not refused) == row.allowed, found

    await eventually(known)
    if row.worded:
        await who(pair, asking, *wanted)
    else:
        found = await through(pair, "POST", SELF, who=asking, **review(*wanted))
        assert (found.status == 201) == row.allowed
    expected = await straight(pair, "GET", log, **plain)
    found = await through(pair, "GET", log, **plain)
    if expected.status == 403:  # the server's own; else it let them, and asked a node
        assert found.status == 403
        assert not row.worded or found.json == expected.json
    else:
        assert found.status == 200
        assert b"hello" in found.body


async def test_groups_and_the_like_need_a_user(pair: Pair, place: str) -> None:
    """To be a group, UID or extra of nobody is no wish that can be met: 400, as at the server."""
    log = f"/api/v1/namespaces/{place}/pods/web/log"
    for header in ((GROUP, "team"), (UID, "1"), (f"{EXTRA}Scope", "a")):
        for wanted in ((header,), (header, (USER, ""))):
            for method, target in (("POST", SELF), ("GET", log), ("GET", "/version")):
                expected = await straight(pair, method, target, headers=wanted)
                found = await through(pair, method, target, headers=wanted)
                assert (found.status, found.json["reason"]) == (400, "BadRequest")
                assert expected.status == 400


async def test_accounts_become_others_too(pair: Pair, place: str) -> None:
    """A token's bearer impersonates under the same rules; the associated node is one's own only."""
    await pair.virtual.create(named("ServiceAccount", "agent", place))
    await pair.virtual.create(pod("agent", place, serviceAccountName="agent"))
    made = await in_phase(pair, "agent", place)
    reference = {"kind": "Pod", "apiVersion": "v1", "name": "agent"}
    reference["uid"] = made["metadata"]["uid"]
    agent, _ = await service_account(pair.virtual, "agent", place, boundObjectRef=reference)
    rules = (
        *constrained("associated-node", ("nodes", ("*",))),
        rule("impersonate", "users", "bob"),
    )
    await grant(pair.virtual, f"{place}:agent", *rules, kind="ServiceAccount")
    node = made["spec"]["nodeName"]
    await grant(pair.virtual, f"system:node:{node}", rule("get", "pods/log"), namespace=place)
    log = f"/api/v1/namespaces/{place}/pods/web/log"

    async def granted() -> None:
        for user in (f"system:node:{node}", "bob"):
            found = await straight(pair, "POST", SELF, who=agent, **review((USER, user)))
            assert found.status == 201, found
        wanted = ((USER, f"system:node:{node}"),)
        assert (await through(pair, "GET", log, who=agent, headers=wanted)).status == 200

    await eventually(granted)
    for user, may in ((node, True), (f"{node}-other", False)):
        wanted = ((USER, f"system:node:{user}"),)
        answer = await who(pair, agent, *wanted)
        assert (answer.status == 201) == may
        read = await through(pair, "GET", log, who=agent, headers=wanted)
        assert (read.status == 200) == may
    assert (await who(pair, agent, BOB)).json["status"]["userInfo"]["username"] == "bob"
    assert (await who(pair, agent, (USER, "alice"))).status == 403


async def test_front_proxies_users_become_others(pair: Pair, place: str) -> None:
    """Somebody named by a front proxy impersonates by their own rights."""
    await grant(pair.virtual, f"proxied-{place}", USERS)
    proxy = Caller(pair.virtual.plane.pki.pair("front-proxy"))
    remote = ("X-Remote-User", f"proxied-{place}")

    async def granted() -> None:
        answer = await straight(pair, "POST", SELF, who=proxy, **review(remote, BOB))
        assert answer.status == 201

    await eventually(granted)
    answer = await who(pair, proxy, remote, BOB)
    assert answer.json["status"]["userInfo"]["username"] == "bob"
    assert (await who(pair, proxy, ("X-Remote-User", "eve"), BOB)).status == 403


async def test_what_impersonation_writes_is_the_others(pair: Pair, place: str) -> None:
    """A certificate request, which notes who made it, notes whom the endpoint passed on."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(CN, "anybody")])
    request = (
        x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    )
    spec = {
        "request": base64.b64encode(request.public_bytes(serialization.Encoding.PEM)).decode(),
        "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"],
    }
    path = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    body = named("CertificateSigningRequest", "any", apiVersion="certificates.k8s.io/v1", spec=spec)
    root = caller(pair, "root", ["a", "system:masters"])
    drop = without("uid", "creationTimestamp", "time", "resourceVersion")
    for headers in (
        (),
        (BOB, (UID, "7"), (GROUP, "system:masters"), (f"{EXTRA}Some.io%2fKey", "x")),
    ):
        sent = {**json_body(body), "who": root}
        sent["headers"] = (*sent["headers"], *headers)
        answer = await same(pair, "POST", f"{path}?dryRun=All", steady=drop, **sent)
        assert answer.status == 201
        assert answer.json["spec"]["username"] == ("bob" if headers else "root")


# Where nobody is let in, and front proxies have names


@pytest.fixture(scope="module")
async def closed(host: Cluster) -> AsyncIterator[Pair]:
    """A pair without anonymous users, whose front proxies must be called `lighthouse`."""
    flags = ("--anonymous-auth=false", "--requestheader-allowed-names=lighthouse")
    settings = Settings(api_server_flags=flags)
    own = Tenant(
        f"closed-{uuid.uuid4().hex[:6]}", flags=("--request-header-allowed-names=lighthouse",)
    )
    async with (
        ControlPlane.virtual(settings=settings) as plane,
        cluster(plane) as virtual,
        boot_pair(host, own, virtual) as booted,
    ):
        yield booted


async def test_nobody_gets_in_where_the_server_lets_nobody_in(closed: Pair) -> None:
    """Without credentials all is 401, whether it is passed on or goes to the host."""
    for target in (
        "/version",
        "/api",
        "/api/v1/namespaces",
        "/api/v1/namespaces/default/pods/web/log",
        "/nothing",
    ):
        answer = await same(closed, "GET", target, who=NOBODY, ignoring=OURS)
        assert answer.status == 401
    robot, _ = await service_account(closed.virtual, "robot", "default")
    for asking in (administrator(closed), caller(closed, "jane"), robot):
        assert (await who(closed, asking)).status == 201


async def test_front_proxies_have_names(closed: Pair, tmp_path: Path) -> None:
    """Only a certificate with an allowed name speaks for others; another is no user either."""
    proxies = Authority.load(closed.virtual.plane.pki.request_header_ca)
    remote = ("X-Remote-User", "eve")
    allowed = Caller(proxies.client(tmp_path, "allowed", "lighthouse"))
    answer = await who(closed, allowed, remote)
    assert answer.json["status"]["userInfo"]["username"] == "eve"
    for name in ("Lighthouse", "lighthouse.", "lighthous", "system:auth-proxy"):
        other = Caller(proxies.client(tmp_path, name, name))
        assert (await who(closed, other, remote)).status == 401
    users = Authority.load(closed.virtual.plane.pki.client_ca)
    named_so = Caller(users.client(tmp_path, "user", "lighthouse"))
    answer = await who(closed, named_so, remote)
    assert answer.json["status"]["userInfo"]["username"] == "lighthouse"
