"""Who a request is from, and the headers that say so.

Nothing here decides what somebody may do, and nothing asks a server.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from string import ascii_lowercase, digits
from typing import Final

ANONYMOUS: Final = "system:anonymous"
AUTHENTICATED: Final = "system:authenticated"
UNAUTHENTICATED: Final = "system:unauthenticated"

Header = tuple[str, str]
"""Name as it was written, and value."""


@dataclass(frozen=True, slots=True)
class User:
    """What an authenticator says of a caller.

    Attributes:
        name: user name.
        groups: without duplicates, in order.
        uid: ``""`` for none.
        extra: key -> values.
    """

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_PLAIN: Final = frozenset(f"{ascii_lowercase}{digits}-._~".encode())

NOBODY: Final = User(ANONYMOUS, (UNAUTHENTICATED,))
"""Who a request without credentials is from."""


def impersonation(user: User) -> Iterator[Header]:
    """Give the headers by which an administrator's request is the user's.

    Args:
        user: who it is to be.

    Source: Kubernetes docs, "User impersonation".
    """
    yield "Impersonate-User", user.name
    for group in user.groups:
        yield "Impersonate-Group", group
    if user.uid:
        yield "Impersonate-Uid", user.uid
    for key, values in user.extra.items():
        for value in values:
            yield f"Impersonate-Extra-{_escaped(key)}", value


@lru_cache(maxsize=256)
def _escaped(key: str) -> str:
    """Percent-encode the key of an extra: as part of a header's name it would lose its case."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in key.encode())


def is_identity(name: str) -> bool:
    """Say whether a header claims to tell who a request is from; any case, ``_`` for ``-`` too.

    Args:
        name: of the header.
    """
    plain = name.lower()
    if "_" in plain:
        plain = plain.replace("_", "-")
    return plain == "authorization" or plain.startswith(("impersonate-", "x-remote-"))


def without_identity(headers: Iterable[Header]) -> Iterator[Header]:
    """Give the headers without those that claim to tell who the request is from."""
    return (header for header in headers if not is_identity(header[0]))
