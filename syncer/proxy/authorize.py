"""Asks the virtual cluster who a token's bearer is and what somebody may do there.

Answers are not kept: a right that was taken away is gone with the next request.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authorization/ and KEP-5284
(constrained impersonation, on by default since 1.36).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import orjson

from syncer.dns1123 import is_label, is_subdomain
from syncer.kube.client import Client
from syncer.kube.errors import ApiError, TransportError
from syncer.objects import Object
from syncer.proxy.authenticate import unauthorized
from syncer.proxy.call import Call
from syncer.proxy.identity import ANONYMOUS, NOBODY, User, with_class
from syncer.proxy.refusal import RefusalError, forbidden
from syncer.proxy.request import RequestInfo
from syncer.proxy.upstream import Upstream, read_answer

MASTERS: Final = "system:masters"
"""Group whose members every Kubernetes API server lets do anything, whatever else it is told."""

_SELF_REVIEW: Final[Object] = {
    "kind": "SelfSubjectReview",
    "apiVersion": "authentication.k8s.io/v1",
}
_TIMEOUT: Final = 10.0
_MAX_REVIEW: Final = 64 * 1024
_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_TOKENS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_SELF: Final = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_AUTHENTICATION: Final = "authentication.k8s.io"
_ASSOCIATED: Final = "associated-node"
_NODE_NAME: Final = "authentication.kubernetes.io/node-name"
_NODE_KEYS: Final = "authentication.kubernetes.io/associated-node-keys"
_MANY: Final = 4
"""From so many groups or extras on, constrained modes ask first whether all are allowed."""

_PATH: Final = re.compile(r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+")


@dataclass(frozen=True, slots=True)
class _Mode:
    """A way to impersonate: which verb allows it, and for constrained ones on what.

    Attributes:
        name: of a constrained mode; ``""`` for the old one.
        groups: the user's groups, where the mode fixes them.
    """

    name: str = ""
    groups: tuple[str, ...] = ()

    @property
    def verb(self) -> str:
        return f"impersonate:{self.name}" if self.name else "impersonate"

    @property
    def group(self) -> str:
        """API group of the users and groups that the verb is about."""
        return _AUTHENTICATION if self.name else ""


@dataclass(frozen=True, slots=True)
class _Rights:
    """What a user must be allowed to do, about one part of whom they want to be.

    Attributes:
        each: all of these.
        whole: or, asked for first, this one.
        never: why nobody may, the first of ``each``; ``""``: who is allowed to, may.
    """

    each: tuple[RequestInfo, ...]
    whole: RequestInfo | None = None
    never: str = ""


class Authorizer:
    """Asks as the syncer, about others."""

    def __init__(self, virtual: Client, bare: Upstream, version: Callable[[], str]) -> None:
        """Make it.

        Args:
            virtual: of an administrator of the virtual cluster.
            bare: the same server, to ask it as nobody.
            version: gives what that server calls its version; ``""`` while unknown.
        """
        self._virtual = virtual
        self._bare = bare
        self._version = version

    async def user(self, call: Call) -> User:
        """Say who is acting: the caller, or whom the caller may and wants to be taken for.

        Raises:
            RefusalError: nobody knows the caller, or may not impersonate that user.
        """
        caller = call.caller
        if caller.user is not None:
            user = caller.user
        elif caller.token:
            user = await self._bearer(caller.token)
        else:
            user = await self._anonymous()
        if caller.impersonated is None:
            return user
        return await self.impersonate(user, caller.impersonated, call.info)

    async def require(self, user: User, info: RequestInfo, verb: str = "") -> None:
        """Make sure that a user may do something.

        Args:
            user: who.
            info: what.
            verb: in place of the request's own.

        Raises:
            RefusalError: the virtual cluster says no, or can't be asked.
        """
        verb = verb or info.verb
        why = await self._denied(user, _attributes(info, verb))
        if why is not None:
            raise forbidden(user.name, info, verb, why)

    async def impersonate(self, user: User, wanted: User, info: RequestInfo) -> User:
        """Say who a user is who wants to be taken for another, as the virtual server would.

        The groups come out complete, so that passing them on leaves nothing to be added.

        Args:
            user: who asks for it.
            wanted: as the headers have it.
            info: the request that it is for.

        Raises:
            RefusalError: not allowed.
        """
        refusal: RefusalError | None = None
        constrained = knows_constrained_impersonation(self._version())
        for mode in _modes(user, wanted) if constrained else (_Mode(),):
            try:
                asking = _asking(user, mode)
                if mode.name:
                    on = f"impersonate-on:{mode.name}:{info.verb}"
                    await self.require(asking, info, on)
                for rights in _needed(mode, wanted):
                    await self._require_all(asking, rights)
            except RefusalError as error:
                if error.code != 403:
                    raise
                refusal = refusal or error
            else:
                return _complete(wanted, mode)
        raise refusal or unauthorized()

    async def _require_all(self, user: User, rights: _Rights) -> None:
        if rights.never:
            raise forbidden(user.name, rights.each[0], rights.each[0].verb, rights.never)
        whole = rights.whole
        if whole is not None and await self._denied(user, _attributes(whole, whole.verb)) is None:
            return
        for each in rights.each:
            await self.require(user, each)

    async def _bearer(self, token: str) -> User:
        body = {"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1"}
        answer = await self._ask(_TOKENS, {**body, "spec": {"token": token}})
        status = answer.get("status") or {}
        found = status.get("user") or {}
        if not status.get("authenticated") or not found.get("username"):
            raise unauthorized()
        extra = {key: tuple(values) for key, values in (found.get("extra") or {}).items()}
        groups = tuple(found.get("groups") or ())
        return with_class(User(found["username"], groups, found.get("uid", ""), extra))

    async def _anonymous(self) -> User:
        """Say who nobody is, where the virtual server lets nobody in at all."""
        headers = (("Content-Type", "application/json"),)
        body = orjson.dumps(_SELF_REVIEW)
        info = RequestInfo("POST", _SELF, _SELF)
        response = await self._bare.send(
            info, headers, body=body, admin=False, head_seconds=_TIMEOUT
        )
        try:
            await read_answer(response, _MAX_REVIEW, _TIMEOUT)
        except (ConnectionError, TimeoutError) as error:
            raise _unavailable() from error
        if response.status == 401:
            raise unauthorized()
        if response.status >= 500:
            raise _unavailable()
        return NOBODY

    async def _denied(self, user: User, attributes: Object) -> str | None:
        """Give why a user may not do something; ``None``: they may."""
        if MASTERS in user.groups:
            return None
        spec: Object = {"user": user.name, "groups": list(user.groups), **attributes}
        if user.uid:
            spec["uid"] = user.uid
        if user.extra:
            spec["extra"] = {key: list(values) for key, values in user.extra.items()}
        body = {"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
        status = (await self._ask(_REVIEWS, {**body, "spec": spec})).get("status") or {}
        if status.get("allowed") is True and not status.get("denied"):
            return None
        reason: str = status.get("reason") or ""
        return reason

    async def _ask(self, path: str, body: Object) -> Object:
        try:
            answer = await self._virtual.request("POST", path, body=body, timeout=_TIMEOUT)
        except (ApiError, TransportError) as error:
            raise _unavailable() from error
        decoded: Object = orjson.loads(answer)
        return decoded


def _unavailable() -> RefusalError:
    return RefusalError(
        503,
        "the virtual cluster's API server can't say who you are and what you may do",
        headers={"Retry-After": "1"},
    )


def _attributes(info: RequestInfo, verb: str) -> Object:
    if not info.is_resource:
        return {"nonResourceAttributes": {"path": info.path, "verb": verb}}
    attributes = {
        "verb": verb,
        "group": info.group,
        "version": info.version,
        "namespace": info.namespace,
        "resource": info.resource,
        "subresource": info.subresource,
        "name": info.name,
    }
    return {"resourceAttributes": {key: value for key, value in attributes.items() if value}}


# -- impersonation: which modes apply, and what each needs ---------------------------------------


def knows_constrained_impersonation(version: str) -> bool:
    """Say whether an API server has constrained impersonation: on by default since 1.36.

    Args:
        version: such as ``v1.36.3+k3s1``; ``""`` when unknown.

    Source: KEP-5284.
    """
    found = re.match(r"v(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= (1, 36)


def _modes(user: User, wanted: User) -> Iterator[_Mode]:
    """Give the modes that apply, in the order an API server tries them."""
    bare = not (wanted.groups or wanted.uid or wanted.extra)
    node = _node(wanted.name)
    if bare and node:
        if user.extra.get(_NODE_NAME) == (node,) and _account(user.name):
            yield _Mode(_ASSOCIATED, ("system:nodes",))
        yield _Mode("arbitrary-node", ("system:nodes",))
    elif bare and _account(wanted.name):
        yield _Mode("serviceaccount")
    elif not node and not _account(wanted.name):
        yield _Mode("user-info")
    yield _Mode()


def _asking(user: User, mode: _Mode) -> User:
    """Give the user as the mode's questions name it: of which node, is not among them."""
    if mode.name != _ASSOCIATED:
        return user
    return replace(user, extra={_NODE_KEYS: tuple(sorted(user.extra))})


def _needed(mode: _Mode, wanted: User) -> Iterator[_Rights]:
    """Give what the user must be allowed to do, each with the mode's verb."""
    account = _account(wanted.name)
    node = _node(wanted.name) if mode.name else ""
    if node:
        name = "*" if mode.name == _ASSOCIATED else node
        yield _Rights((_thing(mode, "nodes", name),))
    elif account:
        yield _Rights((_thing(mode, "serviceaccounts", account[1], namespace=account[0]),))
    else:
        yield _Rights((_thing(mode, "users", wanted.name),))
    if wanted.uid:
        yield _Rights((_thing(mode, "uids", wanted.uid, group=_AUTHENTICATION),))
    if wanted.groups:
        yield _groups(mode, wanted.groups)
    if wanted.extra:
        yield _extras(mode, wanted.extra)


def _groups(mode: _Mode, groups: tuple[str, ...]) -> _Rights:
    each = tuple(_thing(mode, "groups", group) for group in groups)
    if not mode.name:
        return _Rights(each)
    for never, called in (("", "empty string"), (MASTERS, MASTERS)):
        if never in groups:
            why = f"impersonating the {called} group is not allowed"
            return _Rights((_thing(mode, "groups", never),), never=why)
    whole = _thing(mode, "groups", "*") if len(each) >= _MANY else None
    return _Rights(each, whole)


def _extras(mode: _Mode, extra: Mapping[str, tuple[str, ...]]) -> _Rights:
    def thing(key: str, value: str) -> RequestInfo:
        return _thing(mode, "userextras", value, group=_AUTHENTICATION, subresource=key)

    each = tuple(thing(key, value) for key, values in extra.items() for value in values)
    if not mode.name:
        return _Rights(each)
    for key, values in extra.items():
        if why := _never_extra(key, values):
            return _Rights((thing("", ""),), never=why)
    many = len(extra) >= _MANY or len(each) >= _MANY
    return _Rights(each, thing("*", "*") if many else None)


def _never_extra(key: str, values: tuple[str, ...]) -> str:
    """Give why constrained modes never give an extra, or ``""``."""
    domain, _, path = key.partition("/")
    if not key:
        return "impersonating the empty string key in extra is not allowed"
    if not (is_subdomain(domain) and _PATH.fullmatch(path)):
        return f'impersonating an invalid key in extra is not allowed: "{key}"'
    if key != key.lower():
        return f'impersonating a non-lowercase key in extra is not allowed: "{key}"'
    if "" in values:
        return "impersonating the empty string value in extra is not allowed"
    return ""


def _thing(
    mode: _Mode,
    resource: str,
    name: str,
    *,
    namespace: str = "",
    group: str | None = None,
    subresource: str = "",
) -> RequestInfo:
    group = mode.group if group is None else group
    return RequestInfo(
        "", "", "", is_resource=True, verb=mode.verb, group=group, version="v1",
        namespace=namespace, resource=resource, name=name, subresource=subresource,
    )  # fmt: skip


def _complete(wanted: User, mode: _Mode) -> User:
    groups = wanted.groups or mode.groups
    account = _account(wanted.name)
    if account and not wanted.groups:
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{account[0]}")
    if wanted.name != ANONYMOUS:
        return with_class(replace(wanted, groups=groups))
    unknown = NOBODY.groups[0]
    return replace(wanted, groups=groups if unknown in groups else (*groups, unknown))


def _account(name: str) -> tuple[str, str] | None:
    """Give namespace and name of a service account, when a user is one."""
    match name.split(":"):
        case ["system", "serviceaccount", namespace, account]:
            fine = is_label(namespace) and is_subdomain(account)
            return (namespace, account) if fine else None
        case _:
            return None


def _node(name: str) -> str:
    """Give the name of the node that a user is, or ``""``."""
    node = name.removeprefix("system:node:")
    return node if node != name and is_subdomain(node) else ""
