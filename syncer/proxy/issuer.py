"""Issues the certificate that the endpoint serves: a program of its own, run for a moment.

``cryptography`` brings a second OpenSSL, 9 MB resident for good; here it goes with the program.
:func:`issue` is what it does; :func:`main` reads a request from standard input and writes the
answer to standard output, both JSON. :mod:`syncer.proxy.certificates` is the other end.

Invariants:
* no key is ever in an error, in an argument or on a disk;
* imports nothing of the syncer, so it runs as a plain file, wherever that is installed;
* never imported by the syncer.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import sys
from collections.abc import Iterable
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

COMMON_NAME: Final = "kube-apiserver"
LIFE: Final = dt.timedelta(days=365)
CLOCK_SKEW: Final = dt.timedelta(minutes=5)
"""So far behind may the clock of a client be."""

_SigningKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


class IssueError(Exception):
    """The CA can't issue.

    Attributes:
        wrong: which of its files is to blame, ``certificate`` or ``key``.
        reason: what is wrong with it, as the end of a sentence.
    """

    def __init__(self, wrong: str, reason: str) -> None:
        super().__init__(f"{wrong}: {reason}")
        self.wrong = wrong
        self.reason = reason


def issue(certificate: bytes, key: bytes, names: Iterable[str], now: float) -> dict[str, Any]:
    """Make a key and a certificate for it.

    Args:
        certificate: PEM of the CA, in any order with CAs above it.
        key: PEM of the CA's private key: RSA, elliptic curve or Ed25519.
        names: DNS names and IP addresses of the server; at least one.
        now: seconds since the epoch.

    Returns:
        ``certificate`` (PEM: the server's and the intermediate CAs' that lead to the root),
        ``key`` (PEM), ``not_after`` (seconds since the epoch) and ``limited`` (whether it is the
        CA's own end that ends it).

    Raises:
        IssueError: a file is no use.
    """
    time = dt.datetime.fromtimestamp(now, dt.UTC).replace(microsecond=0)
    signing_key = _key(key)
    authorities = _certificates(certificate)
    authority = _authority(authorities, signing_key, time)
    own_key = ec.generate_private_key(ec.SECP256R1())
    end = min(time + LIFE, authority.not_valid_after_utc)
    own = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, COMMON_NAME)]))
        .issuer_name(authority.subject)
        .public_key(own_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(time - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_KEY_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(_authority_identifier(authority, signing_key), critical=False)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(own_key.public_key()), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .sign(signing_key, _hash(signing_key))
    )
    chain = [own, *_intermediates(authority, authorities)]
    return {
        "certificate": "".join(_pem(item) for item in chain),
        "key": own_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        "not_after": end.timestamp(),
        "limited": end < time + LIFE,
    }


_KEY_USAGE: Final = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def _key(pem: bytes) -> _SigningKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise IssueError("key", "must not be encrypted") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IssueError("key", "must hold a private key in PEM") from error
    if not isinstance(key, _SigningKey):
        raise IssueError("key", "must be an RSA, elliptic-curve or Ed25519 key")
    return key


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise IssueError("certificate", "must hold certificates in PEM") from error


def _authority(
    certificates: list[x509.Certificate], key: _SigningKey, now: dt.datetime
) -> x509.Certificate:
    """Find the CA whose key it is; of a renewed one, the certificate that ends last."""
    public = _public(key)
    own = [item for item in certificates if _public(item) == public]
    if not own:
        raise IssueError("key", "is not the key of any certificate in --server-ca-cert")
    found = max(own, key=lambda item: item.not_valid_after_utc)
    if not _may_sign(found):
        raise IssueError(
            "certificate", "must be a CA's certificate, not that of a server or client"
        )
    if found.not_valid_after_utc <= now:
        raise IssueError(
            "certificate", f"expired on {found.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        )
    return found


def _public(holder: x509.Certificate | _SigningKey) -> bytes:
    return holder.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _may_sign(certificate: x509.Certificate) -> bool:
    extensions = certificate.extensions
    try:
        if not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        return False
    try:
        return extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _hash(key: _SigningKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """Give the hash to sign with: as strong as the curve; Ed25519 has its own."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, rsa.RSAPrivateKey) or key.curve.key_size <= 256:
        return hashes.SHA256()
    return hashes.SHA384() if key.curve.key_size <= 384 else hashes.SHA512()


def _authority_identifier(
    authority: x509.Certificate, key: _SigningKey
) -> x509.AuthorityKeyIdentifier:
    """Name the CA's key as the CA names it itself, or else as is usual."""
    try:
        own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def _general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    return [_general_name(name) for name in sorted(names)]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _intermediates(
    authority: x509.Certificate, certificates: list[x509.Certificate]
) -> list[x509.Certificate]:
    """Give the CAs from the issuing one upwards, without the root: who trusts it, has it."""
    chain: list[x509.Certificate] = []
    current: x509.Certificate | None = authority
    while current is not None and current.issuer != current.subject and current not in chain:
        chain.append(current)
        current = next((item for item in certificates if _issued_by(chain[-1], item)), None)
    return chain


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def main() -> None:
    """Answer the one request on standard input."""
    asked = json.load(sys.stdin.buffer)
    try:
        answer = issue(
            asked["certificate"].encode(), asked["key"].encode(), asked["names"], asked["now"]
        )
    except IssueError as error:
        answer = {"wrong": error.wrong, "reason": error.reason}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
