"""Who is at the other end of a connection, by the certificate that the TLS layer has verified.

What OpenSSL verified at the handshake (the chain, each certificate's time, that it is good for
clients) is believed; which CA it ends in, how long it holds and whom it names is read here, and is
for others to judge anew at each request.

Invariants:
* only a verified chain counts; without one, whatever was sent names nobody;
* a name that a header can't carry unchanged names nobody: servers take spaces off the ends of a
  header's value, and ``"system:masters "``, which no signer refuses, would become another group.

Never reads a header, and asks no server.

Source: k8s.io/apiserver v0.36.3 ``pkg/authentication/request/x509`` (``CommonNameUserConversion``,
``parseUIDFromCert``); Go ``crypto/x509/pkix``, ``Name.FillFromRDNSequence`` (the last CN counts,
every O does).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, Protocol

from syncer.proxy.identity import User, with_class

UID_OID: Final = "1.3.6.1.4.1.57683.2"
"""Part of a subject that is a user's UID. Source: k8s.io/apimachinery ``pkg/apis/asn1``."""

CREDENTIAL_ID: Final = "authentication.kubernetes.io/credential-id"
"""Key of the extra that says by which certificate a user is known."""

NEVER: Final = float("-inf")
"""The end of what never held."""

_DER: Final = 2  # _ssl.ENCODING_DER


class PeerKind(Flag):
    """What the CA that a certificate was verified with vouches for; both if it is in both files."""

    NOBODY = 0
    CLIENT = auto()
    FRONT_PROXY = auto()


@dataclass(frozen=True)
class Peer:
    """A certificate that a client showed, and what it proves.

    Attributes:
        kind: what its CA vouches for now. ``NOBODY``: nothing, for the CA isn't trusted any more or
            the certificate can't be read in one way only. Without ``CLIENT``, it names no user.
        common_name: of the subject; the user's name, or the front proxy's; maybe ``""``.
        organizations: of the subject, in order; the user's groups.
        uid: the user's, ``""`` for none.
        fingerprint: SHA-256 of the certificate, hexadecimal.
        not_after: the end of the first in the chain to end, seconds since the epoch.
        anchor: SHA-256 of the trusted certificate that the chain ends in.
    """

    kind: PeerKind
    common_name: str
    organizations: tuple[str, ...]
    uid: str
    fingerprint: str
    not_after: float
    anchor: bytes

    @cached_property
    def user(self) -> User | None:
        """The user that the certificate names; ``None`` if it names none."""
        if PeerKind.CLIENT not in self.kind:
            return None
        extra = {CREDENTIAL_ID: (f"X509SHA256={self.fingerprint}",)}
        groups = tuple(group for group in self.organizations if group)
        return with_class(User(self.common_name, groups, self.uid, extra))


class _Certificate(Protocol):
    """A certificate as the ``ssl`` module has it."""

    def public_bytes(self, form: int, /) -> bytes: ...

    def get_info(self) -> dict[str, Any]: ...


def read_peer(connection: ssl.SSLObject, kind_of: Callable[[bytes], PeerKind]) -> Peer | None:
    """Read who is at the other end.

    Args:
        connection: after the handshake.
        kind_of: says what the CA with this digest vouches for.

    Returns:
        ``None`` when no certificate was shown.
    """
    shown = connection.getpeercert(binary_form=True)
    if shown is None:
        return None
    fingerprint = sha256(shown).hexdigest()
    nobody = Peer(PeerKind.NOBODY, "", (), "", fingerprint, NEVER, b"")
    chain = _verified_chain(connection)
    # A resumed session has no chain: nothing was verified now.
    if not chain or chain[0].public_bytes(_DER) != shown:
        return nobody
    try:
        infos = [certificate.get_info() for certificate in chain]
        not_after = min(ssl.cert_time_to_seconds(info["notAfter"]) for info in infos)
    except (ssl.SSLError, ValueError, KeyError):
        return nobody
    anchor = sha256(chain[-1].public_bytes(_DER)).digest()
    return _named(_attributes(infos[0]), kind_of(anchor), fingerprint, not_after, anchor)


def _verified_chain(connection: ssl.SSLObject) -> Sequence[_Certificate]:
    # Python 3.13 has this in public, but as DER, which nothing in the library can read.
    chain: Sequence[_Certificate] | None = connection._sslobj.get_verified_chain()  # type: ignore[attr-defined]  # noqa: SLF001
    return chain or ()


def _attributes(info: dict[str, Any]) -> list[tuple[str, str]]:
    return [attribute for part in info.get("subject", ()) for attribute in part]


def _named(
    attributes: Iterable[tuple[str, str]],
    kind: PeerKind,
    fingerprint: str,
    not_after: float,
    anchor: bytes,
) -> Peer:
    values: dict[str, list[str]] = {}
    for name, value in attributes:
        values.setdefault(name, []).append(value)
    common_name = values.get("commonName", [""])[-1]
    groups = tuple(values.get("organizationName", ()))
    uids = values.get(UID_OID, [])
    uid_is_clear = not uids or (len(uids) == 1 and uids[0])
    if not common_name or not uid_is_clear or not all(map(_fits, (common_name, *groups, *uids))):
        kind &= ~PeerKind.CLIENT
    return Peer(kind, common_name, groups, "".join(uids), fingerprint, float(not_after), anchor)


def _fits(value: str) -> bool:
    """Say whether a header can carry a value so that it arrives as it is."""
    return value == value.strip(" \t") and not any(char < " " or char == "\x7f" for char in value)
