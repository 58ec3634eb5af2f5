"""Who a request is from, and the headers that say so.

Nothing here decides what somebody may do, and nothing asks a server.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from syncer.http1.head import Header

ANONYMOUS: Final = "system:anonymous"
AUTHENTICATED: Final = "system:authenticated"
UNAUTHENTICATED: Final = "system:unauthenticated"


@dataclass(frozen=True)
class User:
    """What an authenticator says of a caller.

    Attributes:
        name: user name.
        groups: in order, as they were said: one may be there twice.
        uid: ``""`` for none.
        extra: key -> values.
    """

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def impersonation(self) -> tuple[Header, ...]:
        """The headers by which an administrator's request is the user's.

        Source: Kubernetes docs, "User impersonation".
        """
        headers = [("Impersonate-User", self.name)]
        headers += (("Impersonate-Group", group) for group in self.groups)
        if self.uid:
            headers.append(("Impersonate-Uid", self.uid))
        for key, values in self.extra.items():
            name = f"Impersonate-Extra-{_escaped(key)}"
            headers += ((name, value) for value in values)
        return tuple(headers)


_BEGINNINGS: Final = ("a", "i", "x")
_ODD: Final = re.compile(rb"[^a-z0-9\-._~]")

NOBODY: Final = User(ANONYMOUS, (UNAUTHENTICATED,))
"""Who a request without credentials is from."""


def with_class(user: User) -> User:
    """Put a user into the group of all who are known, or of all who aren't.

    Args:
        user: who it is.

    Source: k8s.io/apiserver v0.36 ``pkg/authentication/group``, ``AuthenticatedGroupAdder``.
    """
    if AUTHENTICATED in user.groups or UNAUTHENTICATED in user.groups:
        return user
    wanted = UNAUTHENTICATED if user.name == ANONYMOUS else AUTHENTICATED
    return replace(user, groups=(*user.groups, wanted))


def _escaped(key: str) -> str:
    """Percent-encode the key of an extra: as part of a header's name it would lose its case."""
    return _ODD.sub(lambda odd: b"%%%02x" % ord(odd[0]), key.encode()).decode()


def is_identity(name: str) -> bool:
    """Say whether a header claims to tell who a request is from; any case, ``_`` for ``-`` too.

    Args:
        name: of the header.
    """
    plain = name.lower()
    if plain[:1] not in _BEGINNINGS:
        return False
    if "_" in plain:
        plain = plain.replace("_", "-")
    return plain == "authorization" or plain.startswith(("impersonate-", "x-remote-"))


def without_identity(headers: Iterable[Header]) -> Iterator[Header]:
    """Give the headers without those that claim to tell who the request is from."""
    return (header for header in headers if not is_identity(header[0]))
