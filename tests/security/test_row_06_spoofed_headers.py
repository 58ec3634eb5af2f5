"""Row 6: nobody becomes somebody else by a header.

Every header that names a user, in every spelling, from every kind of caller: whom the virtual
cluster takes the caller for is what it is without them. Impersonation needs the right to it, before
anything else happens.
"""

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from controlplane.certificates import Authority
from controlplane.certificates import Pair as Keys
from tests.integration.endpoint import NOBODY, Answer, Caller, Header, caller, grant
from tests.integration.harness import Object, eventually
from tests.security.conftest import Scene
from tests.security.endpoint_wire import EXEC, GuardedPair, connected, head, say

_REVIEW = orjson.dumps(
    {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
)
_PATH = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_JSON = ("Content-Type", "application/json")

_REMOTE = (
    ("X-Remote-User", "admin"),
    ("X-Remote-Group", "system:masters"),
    ("X-Remote-Uid", "1"),
    ("X-Remote-Extra-Scopes", "all"),
)
_IMPERSONATION = (
    ("Impersonate-User", "admin"),
    ("Impersonate-Group", "system:masters"),
    ("Impersonate-Uid", "1"),
    ("Impersonate-Extra-Scopes", "all"),
)
_KINDS = ("nobody", "a token", "a certificate", "another front proxy", "a token and a certificate")


def _front_proxy(pair: GuardedPair, name: str) -> Caller:
    """Return a front proxy, allowed if `name` is one of the syncer's flag."""
    pki = pair.virtual.plane.pki
    file = f"front-proxy-{uuid.uuid4().hex[:8]}"
    keys: Keys = Authority.load(pki.request_header_ca).client(pki.directory, file, name)
    return Caller(keys)


@pytest.fixture(scope="module", params=_KINDS)
def who(request: pytest.FixtureRequest, scene: Scene) -> Caller:
    """Each kind of caller in turn; none has any rights but the token's."""
    stranger = scene.stranger.certificate
    kinds = {
        "nobody": lambda: NOBODY,
        "a token": lambda: scene.robot,
        "a certificate": lambda: scene.stranger,
        "another front proxy": lambda: _front_proxy(scene.pair, "somebody"),
        "a token and a certificate": lambda: Caller(stranger, scene.robot.token),
    }
    return kinds[request.param]()


def _spelled(name: str) -> Iterator[str]:
    """Give the spellings of a header that some server might take for it; the name is another."""
    yield from (name.lower(), name.upper(), name.title(), name.swapcase())


def _near(name: str) -> Iterator[str]:
    """Give names that are not a header's, but are for servers that see no difference."""
    yield name.replace("-", "_")
    yield name.replace("-", "_").lower()
    yield name.replace("-", "_", 1)
    yield name[::-1].replace("-", "_", 1)[::-1]


async def _review(scene: Scene, who: Caller, *headers: Header) -> tuple[int, Any]:
    """Return whom the virtual cluster takes a caller for."""
    answer = await say(scene.pair, "POST", _PATH, who=who, headers=(_JSON, *headers), body=_REVIEW)
    return answer.status, answer.json["status"].get("userInfo") if answer.status < 300 else None


async def _never_another(scene: Scene, who: Caller, forms: list[tuple[Header, ...]]) -> None:
    """See that a caller is who it is, whatever the form; or is refused."""
    plain = await _review(scene, who)
    answers = await asyncio.gather(*(_review(scene, who, *form) for form in forms))
    for form, found in zip(forms, answers, strict=True):
        assert found == plain, form


@pytest.mark.parametrize("header", _REMOTE, ids=lambda header: header[0])
async def test_x_remote_headers_are_a_front_proxys(
    scene: Scene, who: Caller, header: Header
) -> None:
    """From anybody else they mean nothing: alone, twice, beside others, in any case or spelling."""
    name, value = header
    forms: list[tuple[Header, ...]]
    forms = [((each, value),) for each in (*_spelled(name), *_near(name))]
    forms += [((name, value), (name, value)), ((name, ""), (name, value))]
    forms += [((name, value), *_REMOTE), ((name.replace("-", "_"), value), *_REMOTE)]
    for part in range(0, len(forms), 8):
        await _never_another(scene, who, forms[part : part + 8])


@pytest.mark.parametrize("header", _IMPERSONATION, ids=lambda header: header[0])
async def test_nothing_like_an_impersonation_is_one(
    scene: Scene, who: Caller, header: Header
) -> None:
    """With underscores in place of its dashes a header is not the header, in any case."""
    name, value = header
    forms: list[tuple[Header, ...]] = [((each, value),) for each in _near(name)]
    forms.append(tuple((each, value) for each in _near(name)))
    await _never_another(scene, who, forms)


@pytest.mark.parametrize("header", _IMPERSONATION, ids=lambda header: header[0])
async def test_impersonation_needs_the_right_to_it(
    scene: Scene, who: Caller, header: Header
) -> None:
    """In any case, once, twice, empty and again: refused for who may not, and nothing is done."""
    name, value = header
    user = () if name == "Impersonate-User" else (_IMPERSONATION[0],)
    for each in _spelled(name):
        for form in (
            ((each, value), *user),
            ((each, value), (name, value), *user),
            ((each, ""), (name, value), *user),
            ((each, value), ("Impersonate-User", "stranger")),
            ((each, value),),
            ((each, value), *_REMOTE),
        ):
            status, found = await _review(scene, who, *form)
            assert (found is None) == (status >= 400)
            assert status in (400, 401, 403), (form, status, found)


@pytest.mark.parametrize("name", ["Authorization", *(name for name, _ in _IMPERSONATION)])
async def test_who_a_request_is_from_is_not_for_one_connection(scene: Scene, name: str) -> None:
    """A Connection header can't take away, on its way, by what a request is judged."""
    pair, mark = scene.pair, scene.pair.to_virtual.mark
    headers = ((name, "Bearer x" if name == "Authorization" else "stranger"), _JSON)
    for each in (*_spelled(name), *_near(name)):
        for value in (f"close, {each}", f"{each}", f"keep-alive,{each},x"):
            answer = await say(
                pair, "POST", _PATH, who=scene.admin, headers=(*headers, ("Connection", value)),
                body=_REVIEW,
            )  # fmt: skip
            assert answer.status == 400, answer
    assert not [each for each in pair.to_virtual.seen[mark:] if each.target == _PATH]


@pytest.mark.parametrize(
    "line",
    [
        "Impersonate-User : admin",
        "Impersonate-User\t: admin",
        " Impersonate-User: admin",
        "X: y\r\n Impersonate-User: admin",
        "X: y\nImpersonate-User: admin",
        "X: y\rImpersonate-User: admin",
        "X: y\x00\r\nImpersonate-User: admin",
        "Impersonate-User\x00: admin",
        "Impersonate-User",
        ": admin",
        "Impersonate-User:admin\r\nImpersonate-Group:\x0bsystem:masters",
        "X-Remote-User : admin",
        "Authorization : Bearer x",
        "Authorization: Bearer x\r\nAuthorization: Bearer y",
    ],
)
@pytest.mark.parametrize("kind", ["nobody", "stranger", "robot"])
async def test_headers_that_can_be_read_in_two_ways(scene: Scene, line: str, kind: str) -> None:
    """Spaces, folds, bare line ends and control characters change nobody's identity."""
    pair = scene.pair
    who = {"nobody": NOBODY, "stranger": scene.stranger, "robot": scene.robot}[kind]
    if kind == "robot" and line.startswith("Authorization"):
        line = line.partition("\r\n")[0]
    plain = await _review(scene, who)
    request = head(pair, "POST", _PATH, who=who, headers=(_JSON, ("Connection", "close")))
    length = f"Content-Length: {len(_REVIEW)}"
    data = request.removesuffix(b"\r\n") + f"{line}\r\n{length}\r\n\r\n".encode("latin-1")
    async with connected(pair, who) as wire:
        wire.send(data + _REVIEW)
        answers = await wire.closed()
    for answer in answers:
        if answer.status >= 400:
            assert answer.status in (400, 401, 403), answer
        else:
            assert (answer.status, answer.json["status"]["userInfo"]) == plain


async def test_a_front_proxy_that_is_allowed_names_the_user(scene: Scene) -> None:
    """What means nothing from others is believed from it; so the tests above test something."""
    proxy = _front_proxy(scene.pair, "front-proxy-client")
    headers = (("x-remote-user", "jane"), ("X-Remote-Group", "team"), ("X-REMOTE-EXTRA-a%2Fb", "c"))
    status, found = await _review(scene, proxy, *headers)
    assert status == 201
    assert (found["username"], set(found["groups"])) == ("jane", {"team", "system:authenticated"})
    assert found["extra"]["a/b"] == ["c"]
    near = (("X_Remote_User", "jane"), ("X-Remote_User", "jane"))
    assert (await _review(scene, proxy, *near))[0] in (401, 403)


async def test_an_impersonation_is_authorised_before_all_else(scene: Scene) -> None:
    """Who may be jane is not thereby anybody else, and the host never hears of others."""
    pair, user = scene.pair, f"helper-{uuid.uuid4().hex[:6]}"
    may_be: Object = {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]}
    await grant(pair.virtual, user, may_be | {"resourceNames": ["jane", "reader"]})
    who = caller(pair, user)

    async def is_jane() -> None:
        status, found = await _review(scene, who, ("Impersonate-User", "jane"))
        assert (status, (found or {}).get("username")) == (201, "jane")

    await eventually(is_jane)
    # Their rights are jane's, and the reader's.
    for name, expected in (("jane", 403), ("reader", 200)):
        answer = await _log(scene, who, ("Impersonate-User", name))
        assert answer.status == expected, answer
    mark = pair.to_host.mark
    for form in (
        (("Impersonate-User", "admin"),),
        (("Impersonate-User", "boss"),),
        (("Impersonate-User", "jane"), ("Impersonate-Group", "system:masters")),
        (("Impersonate-User", "reader"), ("Impersonate-Group", "system:masters")),
        (("Impersonate-User", "reader"), ("Impersonate-Uid", "1")),
        (("Impersonate-User", "reader"), ("Impersonate-Extra-Scopes", "all")),
        (("Impersonate-User", "system:serviceaccount:red:robot"),),
        (("Impersonate-User", f"system:node:{scene.node}"),),
    ):
        assert (await _log(scene, who, *form)).status == 403, form
        assert (await _review(scene, who, *form))[0] == 403, form
        exec_answer = await say(
            pair, "GET", f"{scene.web}/exec?command=id&stdout=1", who=who, headers=(*EXEC, *form)
        )
        assert exec_answer.status == 403, exec_answer
    assert not pair.to_host.since(mark)


async def test_who_acts_as_another_has_the_others_rights_only(scene: Scene) -> None:
    """An administrator that acts as the reader can't run anything, nor as nobody see anything."""
    pair, mark = scene.pair, scene.pair.to_host.mark
    target = f"{scene.web}/exec?command=id&stdout=1"
    for name in ("reader", "stranger", "system:anonymous", "system:serviceaccount:red:robot"):
        headers = (*EXEC, ("Impersonate-User", name))
        answer = await say(pair, "GET", target, who=scene.admin, headers=headers)
        assert answer.status == 403, answer
    assert not pair.to_host.since(mark)


async def _log(scene: Scene, who: Caller, *headers: Header) -> Answer:
    return await say(scene.pair, "GET", f"{scene.web}/log", who=who, headers=headers)
