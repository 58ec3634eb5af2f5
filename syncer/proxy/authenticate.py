"""Says whom a request is from, by its connection's certificate and its headers alone.

The order is an API server's: a front proxy's word, a client certificate, a bearer token, nobody. A
certificate that names nobody (of a front proxy that isn't allowed, or expired since the connection
began) refuses the request unless a token speaks for it. Tokens are not looked at here:
whoever needs to know asks the virtual API server.

Headers that name a user count only from a front proxy; from anybody else they are dropped before
anything is passed on (see :mod:`syncer.proxy.identity`).

Source: k8s.io/apiserver v0.36 ``pkg/authentication/request/{headerrequest,x509,bearertoken,
websocket}``, ``pkg/authentication/group``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final
from urllib.parse import unquote

from syncer.http1.head import Header
from syncer.proxy.call import Caller
from syncer.proxy.identity import ANONYMOUS, User, is_identity, with_class
from syncer.proxy.peer import Peer, PeerKind
from syncer.proxy.refusal import RefusalError

TOKEN_PROTOCOL: Final = "base64url.bearer.authorization.k8s.io."  # noqa: S105 - a prefix
"""Start of the WebSocket subprotocol by which browsers send a token."""

_READ: Final = frozenset({"authorization", "connection", "upgrade", "sec-websocket-protocol"})
_READ_TOO: Final = ("impersonate-", "x-remote-")
_MAX_TOKEN: Final = 16 * 1024
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED: Final = re.compile(r"(?:[^%]|%[0-9a-fA-F]{2})*")


def unauthorized() -> RefusalError:
    """Say, as an API server does, that nobody knows the caller."""
    return RefusalError(401, "Unauthorized")


def caller_of(
    peer: Peer | None,
    headers: Sequence[Header],
    *,
    proxies: Collection[str],
    now: float,
) -> Caller:
    """Read whom a request is from.

    Args:
        peer: who the connection's verified certificate names; ``None``: there was none.
        headers: of the request, as written.
        proxies: common names that front proxies may have; empty: any.
        now: seconds since the epoch.

    Raises:
        RefusalError: what was shown proves nothing, or can't be read in one way only.
    """
    values = _by_name(headers)
    impersonated = _impersonated(values)
    if peer is not None and now < peer.not_after:
        user = _named_by_proxy(peer, values, proxies) or peer.user
        if user is not None:
            return Caller(user, "", impersonated, user.name)
    if token := _bearer(values) or _websocket_token(values):
        digest = sha256(token.encode()).hexdigest()[:16]
        return Caller(None, token, impersonated, f"token:{digest}")
    if peer is not None:
        raise unauthorized()
    return Caller(None, "", impersonated, ANONYMOUS)


def _by_name(headers: Iterable[Header]) -> dict[str, list[str]]:
    """Give the values of the headers that matter here, by name in lower case.

    Raises:
        RefusalError: what they say of the caller could be read in two ways.
    """
    values: dict[str, list[str]] = {}
    for name, value in headers:
        plain = name.lower()
        if plain in _READ or plain.startswith(_READ_TOO):
            values.setdefault(plain, []).append(value)
    if len(values.get("authorization", ())) > 1:
        raise RefusalError(400, "there must be one Authorization header at most")
    named = (word.strip() for value in values.get("connection", ()) for word in value.split(","))
    if any(map(is_identity, named)):
        raise RefusalError(400, "who a request is from must not be for one connection only")
    if len(values.get("impersonate-user", ())) > 1 or len(values.get("impersonate-uid", ())) > 1:
        raise RefusalError(400, "a request must not impersonate two users")
    return values


# -- front proxies -------------------------------------------------------------------------------


def _named_by_proxy(
    peer: Peer, values: Mapping[str, list[str]], proxies: Collection[str]
) -> User | None:
    if PeerKind.FRONT_PROXY not in peer.kind:
        return None
    if proxies and peer.common_name not in proxies:
        return None
    name = values.get("x-remote-user", [""])[0]
    if not name:
        return None
    groups = tuple(group for group in values.get("x-remote-group", ()) if group)
    uid = values.get("x-remote-uid", [""])[0]
    return with_class(User(name, groups, uid, _extra(values, "x-remote-extra-")))


def _extra(values: Mapping[str, list[str]], prefix: str) -> dict[str, tuple[str, ...]]:
    """Read the extras of a user; a key that can't be decoded is taken as it is, as Go does."""
    extra: dict[str, tuple[str, ...]] = {}
    for header, given in values.items():
        if header.startswith(prefix):
            key = header.removeprefix(prefix)
            key = unquote(key) if _ESCAPED.fullmatch(key) else key
            extra[key] = (*extra.get(key, ()), *given)
    return extra


# -- tokens --------------------------------------------------------------------------------------


def _bearer(values: Mapping[str, list[str]]) -> str:
    scheme, _, rest = values.get("authorization", [""])[0].strip().partition(" ")
    token = rest.split(" ", 1)[0] if scheme.lower() == "bearer" else ""
    if len(token) > _MAX_TOKEN:
        raise unauthorized()
    return token


def _websocket_token(values: Mapping[str, list[str]]) -> str:
    if "websocket" not in ",".join(values.get("upgrade", ())).lower():
        return ""
    asked = subprotocols(values.get("sec-websocket-protocol", ()))
    tokens = [each for each in asked if each.startswith(TOKEN_PROTOCOL)]
    if not tokens:
        return ""
    if len(tokens) > 1 or len(asked) == 1:  # one has to be left for the answer to agree to
        raise unauthorized()
    return _decoded(tokens[0].removeprefix(TOKEN_PROTOCOL))


def subprotocols(values: Iterable[str]) -> list[str]:
    """Give what ``Sec-WebSocket-Protocol`` headers list."""
    return [word for value in values for part in value.split(",") if (word := part.strip())]


def without_tokens(headers: Iterable[Header]) -> Iterator[Header]:
    """Give headers without the tokens that are among the subprotocols of a WebSocket.

    Args:
        headers: of a request.
    """
    for name, value in headers:
        if name.lower() != "sec-websocket-protocol":
            yield name, value
            continue
        asked = [each for each in subprotocols([value]) if not each.startswith(TOKEN_PROTOCOL)]
        if asked:
            yield name, ", ".join(asked)


def _decoded(text: str) -> str:
    if not _BASE64.fullmatch(text):
        raise unauthorized()
    try:
        token = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        raise unauthorized() from None
    if len(token) > _MAX_TOKEN or not token.isprintable() or " " in token:
        raise unauthorized()
    return token


# -- impersonation -------------------------------------------------------------------------------


def _impersonated(values: Mapping[str, list[str]]) -> User | None:
    """Read whom a request wants to be taken for.

    Source: k8s.io/apiserver v0.36 ``pkg/endpoints/filters/impersonation``,
    ``processImpersonationHeaders``.
    """
    if not values:
        return None
    name = values.get("impersonate-user", [""])[0]
    uid = values.get("impersonate-uid", [""])[0]
    groups = tuple(values.get("impersonate-group", ()))
    extra = _extra(values, "impersonate-extra-")
    if name:
        return User(name, groups, uid, extra)
    if uid or groups or extra:
        raise RefusalError(400, "requested to impersonate a group, UID or extra, but no user name")
    return None
