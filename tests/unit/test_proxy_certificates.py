"""Issuing the endpoint's certificate: from CAs of all kinds, in a process of its own."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from controlplane.certificates import Authority
from syncer.kube.access import Files, load_key_pair
from syncer.kube.errors import ConfigError
from syncer.proxy.certificates import ServerCa, issue
from syncer.proxy.issuer import IssueError
from syncer.proxy.issuer import issue as issue_here

NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
NAMES = ["localhost", "*.nodes.example.com", "10.0.0.1", "fd00::1"]
RSA_KEY = rsa.generate_private_key(65537, 2048)


@dataclass
class Ca:
    """A CA made for a test."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """Its private key, as openssl writes it."""
        return pem_of(self.key)


def pem_of(key: Any, password: bytes = b"") -> bytes:
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, form, encryption)
    return pem


def make_ca(
    key: Any = None,
    *,
    above: Ca | None = None,
    name: str = "ca",
    end: dt.datetime = NOW + 3650 * DAY,
    is_ca: bool | None = True,
    may_sign: bool | None = None,
) -> Ca:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.certificate.subject if above else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(NOW, end) - DAY)
        .not_valid_after(end)
    )
    if is_ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True)
    if may_sign is not None:
        flags = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "crl_sign", "encipher_only", "decipher_only"), False
        )  # fmt: skip
        usage = x509.KeyUsage(digital_signature=True, key_cert_sign=may_sign, **flags)
        builder = builder.add_extension(usage, critical=True)
    signing = above.key if above else key
    algorithm = None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    if isinstance(signing, ed448.Ed448PrivateKey):
        algorithm = None
    return Ca(builder.sign(signing, algorithm), key)


def issued(*bundle: Ca, key: bytes = b"") -> tuple[list[x509.Certificate], dict[str, Any]]:
    answer = issue_here(
        b"# comment\n" + b"".join(ca.pem for ca in bundle),
        key or bundle[0].key_pem,
        NAMES,
        NOW.timestamp(),
    )
    return x509.load_pem_x509_certificates(answer["certificate"].encode()), answer


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(RSA_KEY, id="RSA"),
        pytest.param(ec.generate_private_key(ec.SECP256R1()), id="P-256"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(ec.generate_private_key(ec.SECP521R1()), id="P-521"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), id="Ed25519"),
    ],
)
def test_every_usual_kind_of_key_issues(key: Any) -> None:
    """A CA's RSA, elliptic-curve or Ed25519 key issues for a P-256 key what clients ask of us."""
    ca = make_ca(key)
    (own,), answer = issued(ca)
    own.verify_directly_issued_by(ca.certificate)
    extension = own.extensions.get_extension_for_class
    public = own.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"
    assert own.subject.rfc4514_string() == "CN=kube-apiserver"
    assert not extension(x509.BasicConstraints).value.ca
    assert list(extension(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    alternatives = extension(x509.SubjectAlternativeName).value
    assert set(alternatives.get_values_for_type(x509.DNSName)) == set(NAMES[:2])
    assert set(alternatives.get_values_for_type(x509.IPAddress)) == set(map(ip_address, NAMES[2:]))
    assert own.not_valid_before_utc == NOW - dt.timedelta(minutes=5)
    assert own.not_valid_after_utc == NOW + 365 * DAY
    assert answer["not_after"] == (NOW + 365 * DAY).timestamp()
    assert not answer["limited"]


def test_a_key_after_its_curve_s_parameters_is_found() -> None:
    """What `openssl ecparam -genkey` writes has the curve in front of the key."""
    ca = make_ca()
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    traditional = ca.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (own,), _ = issued(ca, key=parameters + traditional)
    own.verify_directly_issued_by(ca.certificate)


def test_nothing_outlives_its_ca() -> None:
    """The certificate ends with its CA, and says that this is why."""
    (own,), answer = issued(make_ca(end=NOW + 40 * DAY))
    assert own.not_valid_after_utc == NOW + 40 * DAY
    assert answer["limited"]


def test_the_intermediate_cas_follow_the_certificate() -> None:
    """Whatever the order in the file, the chain leads up to the root, which clients have."""
    root = make_ca(name="root")
    upper = make_ca(above=root, name="upper")
    lower = make_ca(above=upper, name="lower")
    stranger = make_ca(name="stranger")
    for bundle in ((lower, upper, root), (stranger, root, upper, lower)):
        chain, _ = issued(*bundle, key=lower.key_pem)
        chain[0].verify_directly_issued_by(lower.certificate)
        assert chain[1:] == [lower.certificate, upper.certificate]


def test_a_renewed_ca_issues_as_the_one_that_ends_last() -> None:
    """Of two certificates for one key, the one that ends last issues."""
    old = make_ca(end=NOW - DAY)
    new = make_ca(old.key)
    (own,), answer = issued(old, new, key=old.key_pem)
    own.verify_directly_issued_by(new.certificate)
    assert not answer["limited"]


USUAL = make_ca()
SERVERS = make_ca(is_ca=False)
NO_SIGNER = make_ca(may_sign=False)
PAST = make_ca(end=NOW - DAY)
GOLDILOCKS = make_ca(ed448.Ed448PrivateKey.generate())
BAD_FILES = [
    pytest.param(b"", USUAL.key_pem, "certificate", "must hold certificates", id="no certificate"),
    pytest.param(b"\0\xff", USUAL.key_pem, "certificate", "must hold certificates", id="binary"),
    pytest.param(
        USUAL.pem[:200], USUAL.key_pem, "certificate", "must hold certificates", id="cut short"
    ),
    pytest.param(USUAL.pem, b"", "key", "must hold a private key in PEM", id="no key"),
    pytest.param(USUAL.pem, USUAL.pem, "key", "must hold a private key in PEM", id="two CAs"),
    pytest.param(USUAL.pem, pem_of(USUAL.key, b"x"), "key", "not be encrypted", id="encrypted"),
    pytest.param(
        GOLDILOCKS.pem, GOLDILOCKS.key_pem, "key", "must be an RSA, elliptic-curve or", id="Ed448"
    ),
    pytest.param(USUAL.pem, SERVERS.key_pem, "key", "is not the key of any", id="other's key"),
    pytest.param(SERVERS.pem, SERVERS.key_pem, "certificate", "must be a CA's", id="server's"),
    pytest.param(NO_SIGNER.pem, NO_SIGNER.key_pem, "certificate", "must be a CA's", id="no signer"),
    pytest.param(
        PAST.pem, PAST.key_pem, "certificate", "expired on 2026-11-20 12:00 UTC", id="expired"
    ),
]


@pytest.mark.parametrize(("certificate", "key", "wrong", "reason"), BAD_FILES)
def test_a_ca_that_is_no_use_is_said_to_be(
    certificate: bytes, key: bytes, wrong: str, reason: str
) -> None:
    """Which of the two files is to blame is said, and for what."""
    with pytest.raises(IssueError) as refused:
        issue_here(certificate, key, NAMES, NOW.timestamp())
    assert refused.value.wrong == wrong
    assert reason in refused.value.reason


# -- in a process of its own ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ServerCa:
    """A CA's files."""
    pair = Authority.create(tmp_path_factory.mktemp("pki"), "server-ca").pair
    return ServerCa(pair.certificate, pair.key)


async def test_the_process_gives_a_certificate_that_serves(authority: ServerCa) -> None:
    """What comes back is a pair that OpenSSL takes, for the names that were asked for."""
    names = frozenset(NAMES)
    own = await issue(authority, names, now=time.time(), files=Files())
    assert (own.names, own.limited) == (names, True)
    load_key_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), own.certificate, own.key)
    assert own.key.decode() not in repr(own)


async def test_messages_name_flag_and_file(authority: ServerCa, tmp_path: Path) -> None:
    """A bad file is one line: the flag, the file and what is wrong; never what it holds."""
    stray = tmp_path / "stray.key"
    key = pem_of(ec.generate_private_key(ec.SECP256R1()))
    stray.write_bytes(key)
    rows = [
        (ServerCa(tmp_path / "none", stray), f"--server-ca-cert: cannot read {tmp_path}/none: No"),
        (ServerCa(stray, tmp_path / "none"), f"--server-ca-key: cannot read {tmp_path}/none: No"),
        (ServerCa(authority.certificate, stray), f"--server-ca-key: {stray} is not the key of"),
        (ServerCa(stray, stray), f"--server-ca-cert: {stray} must hold certificates in PEM"),
    ]
    for files, said in rows:
        with pytest.raises(ConfigError) as refused:
            await issue(files, frozenset(NAMES), now=time.time(), files=Files())
        assert str(refused.value).startswith(said)
        assert "\n" not in str(refused.value)
        assert not any(line in str(refused.value) for line in key.decode().splitlines())


@pytest.mark.parametrize(
    ("program", "seconds", "said"),
    [
        pytest.param("raise SystemExit('no\\nroom')", 30, "exit status 1: room", id="fails"),
        pytest.param("import os; os.kill(os.getpid(), 9)", 30, "status -9: nothing", id="dies"),
        pytest.param("print('\"s3cret')", 30, "the answer was cut short", id="cut short"),
        pytest.param("import time; time.sleep(60)", 0.2, "not done after 0.2 s", id="hangs"),
    ],
)
async def test_a_process_that_fails_is_one_line(
    authority: ServerCa,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    seconds: float,
    said: str,
) -> None:
    """However the process ends, it ends, and the reason names both files."""
    script = tmp_path / "program.py"
    script.write_text(program)
    monkeypatch.setattr("syncer.proxy.certificates._PROGRAM", script)
    with pytest.raises(ConfigError, match="could be issued") as failed:
        await issue(authority, frozenset(NAMES), now=time.time(), files=Files(), seconds=seconds)
    assert said in str(failed.value)
    assert str(authority.certificate) in str(failed.value)
    assert "s3cret" not in str(failed.value)


async def test_an_interpreter_that_is_gone_is_one_line(
    authority: ServerCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that can't even be started is a reason like any other."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ConfigError, match=r"/nonexistent/python can't be run: No such file"):
        await issue(authority, frozenset(NAMES), now=time.time(), files=Files())


async def test_cancelling_leaves_no_process_behind(
    authority: ServerCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits no longer has no process left either."""
    script, pid = tmp_path / "program.py", tmp_path / "pid"
    script.write_text(
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    monkeypatch.setattr("syncer.proxy.certificates._PROGRAM", script)
    task = asyncio.create_task(issue(authority, frozenset(NAMES), now=0.0, files=Files()))
    async with asyncio.timeout(30):
        while not (pid.exists() and pid.read_text()):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_syncer_never_loads_cryptography() -> None:
    """The memory that a second OpenSSL takes is the point of the process."""
    program = (
        "import sys, syncer.proxy.tls; "
        "sys.exit([name for name in sys.modules if name.startswith('cryptography')] != [])"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
