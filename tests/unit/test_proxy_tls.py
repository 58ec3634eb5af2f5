"""TLS of the endpoint: what is shown, who is taken, and how both change while it listens."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from structlog.testing import capture_logs

from syncer.kube.access import Files
from syncer.kube.errors import ConfigError
from syncer.proxy import issuer
from syncer.proxy.certificates import Issued, ServerCa
from syncer.proxy.peer import NEVER, UID_OID, Peer, PeerKind, read_peer
from syncer.proxy.tls import ServingTls, TlsFiles, is_old
from syncer.settings import load

CN, O = NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME  # noqa: E741
UID = x509.ObjectIdentifier(UID_OID)
DAY = 86400.0
NAMES = frozenset({"localhost", "127.0.0.1"})
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
CA_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key; maybe a CA's."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(
        cls,
        subject: Sequence[tuple[x509.ObjectIdentifier, str]],
        *,
        by: Self | None = None,
        ca: bool = False,
        usage: Sequence[x509.ObjectIdentifier] = (),
        begin: float = -DAY,
        end: float = 30 * DAY,
    ) -> Self:
        """Make one that is signed by another or itself; times are seconds from now."""
        key, now = ec.generate_private_key(ec.SECP256R1()), time.time()
        name = x509.Name([x509.NameAttribute(oid, text) for oid, text in subject])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(by.certificate.subject if by else name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(dt.datetime.fromtimestamp(now + begin, dt.UTC))
            .not_valid_after(dt.datetime.fromtimestamp(now + end, dt.UTC))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        if by:
            above = x509.AuthorityKeyIdentifier.from_issuer_public_key(by.key.public_key())
            builder = builder.add_extension(above, critical=False)
        if ca:
            builder = builder.add_extension(CA_USAGE, critical=True)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        return cls(builder.sign(by.key if by else key, hashes.SHA256()), key)

    @classmethod
    def authority(cls, name: str, **rest: Any) -> Self:
        """Make a CA; it outlives its users unless told otherwise."""
        return cls.make([(CN, name)], ca=True, **{"end": 60 * DAY, **rest})

    def user(self, *subject: tuple[x509.ObjectIdentifier, str], **rest: Any) -> Pair:
        """Make a client's certificate."""
        return Pair.make(subject, by=self, **{"usage": [CLIENT], **rest})

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def der_digest(self) -> bytes:
        """SHA-256 of the certificate."""
        return sha256(self.certificate.public_bytes(serialization.Encoding.DER)).digest()

    @property
    def key_pem(self) -> bytes:
        """The key."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


SERVERS, CLIENTS, PROXIES = map(Pair.authority, ("server-ca", "client-ca", "request-header-ca"))
OTHERS = Pair.authority("other-ca")
ALICE = CLIENTS.user((CN, "alice"), (O, "dev"), (O, "ops"))


async def issue_here(
    authority: ServerCa, names: frozenset[str], *, now: float, files: Files
) -> Issued:
    """Issue as the process does, in this one: it is faster, and another test's subject."""
    certificate = files.read(authority.certificate, "--server-ca-cert")
    key = files.read(authority.key, "--server-ca-key")
    try:
        answer = issuer.issue(certificate, key, names, now)
    except issuer.IssueError as error:
        raise ConfigError(f"--server-ca-{error.wrong}: {error.reason}") from error
    pem = answer["certificate"].encode(), answer["key"].encode()
    return Issued(*pem, names, answer["not_after"], answer["limited"])


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    """The CAs' files."""
    server = ServerCa(tmp_path / "server-ca.crt", tmp_path / "server-ca.key")
    put(server.certificate, SERVERS.pem)
    put(server.key, SERVERS.key_pem)
    put(tmp_path / "client-ca.crt", CLIENTS.pem)
    put(tmp_path / "request-header-ca.crt", PROXIES.pem)
    return TlsFiles(server, tmp_path / "client-ca.crt", tmp_path / "request-header-ca.crt")


def put(path: Path, content: bytes) -> None:
    """Replace a file at once, as a mounted Secret's files are."""
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


async def started(files: TlsFiles, **rest: Any) -> ServingTls:
    tls = ServingTls(files, issuer=issue_here, **rest)
    await tls.start(NAMES)
    return tls


def client(
    who: Pair | None = None,
    directory: Path | None = None,
    *,
    above: Sequence[Pair] = (),
    trusts: Pair = SERVERS,
) -> ssl.SSLContext:
    """Give the context of a client with a certificate; the server's name is checked."""
    context = ssl.create_default_context(cadata=trusts.pem.decode())
    if who is not None:
        assert directory is not None
        path = directory / "client.pem"
        path.write_bytes(who.key_pem + b"".join(pair.pem for pair in (who, *above)))
        context.load_cert_chain(path)
    return context


def handshake(
    server: ssl.SSLContext,
    context: ssl.SSLContext,
    *,
    name: str = "localhost",
    session: ssl.SSLSession | None = None,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands in memory; gives the server's end and the client's."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        server.wrap_bio(up, down, server_side=True),
        context.wrap_bio(down, up, server_hostname=name, session=session),
    )
    open_ends = set(ends)
    for _ in range(10):
        for end in tuple(open_ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            open_ends.discard(end)
    assert not open_ends
    with suppress(ssl.SSLWantReadError):
        ends[1].read(1)  # nothing was sent, unless it is a session ticket
    return ends


def shown(end: ssl.SSLObject) -> set[str]:
    """Give the names of the certificate that a client was shown."""
    certificate = end.getpeercert()
    assert certificate is not None
    alternatives: Any = certificate["subjectAltName"]
    return {value for _, value in alternatives}


# -- who is there --------------------------------------------------------------------------------


async def test_no_certificate_is_nobody_s(files: TlsFiles) -> None:
    """A client without a certificate is let in and named by none."""
    tls = await started(files)
    end, _ = handshake(tls.context, client())
    assert tls.peer(end) is None


async def test_a_client_certificate_names_its_user(files: TlsFiles, tmp_path: Path) -> None:
    """User, groups, UID, fingerprint, end and CA are those of the certificate."""
    uid = CLIENTS.user((O, "dev"), (CN, "alice"), (O, "ops"), (UID, "u-1"))
    tls = await started(files)
    end, _ = handshake(tls.context, client(uid, tmp_path))
    assert tls.peer(end) == Peer(
        kind=PeerKind.CLIENT,
        common_name="alice",
        organizations=("dev", "ops"),
        uid="u-1",
        fingerprint=uid.der_digest.hex(),
        not_after=uid.certificate.not_valid_after_utc.timestamp(),
        anchor=CLIENTS.der_digest,
    )
    assert tls.peer(end) is tls.peer(end)


async def test_a_front_proxy_is_told_from_a_user(files: TlsFiles, tmp_path: Path) -> None:
    """The CA alone says which of the two a certificate is, whatever its name."""
    tls = await started(files)
    end, _ = handshake(tls.context, client(PROXIES.user((CN, "alice")), tmp_path))
    peer = tls.peer(end)
    assert peer is not None
    assert peer.kind is PeerKind.FRONT_PROXY


async def test_a_ca_in_both_files_vouches_for_both(files: TlsFiles, tmp_path: Path) -> None:
    """Which of the two it is then is decided by the request, as an API server does."""
    put(files.front_proxies, PROXIES.pem + b"\n# the same\n" + CLIENTS.pem)
    tls = await started(files)
    end, _ = handshake(tls.context, client(ALICE, tmp_path))
    peer = tls.peer(end)
    assert peer is not None
    assert peer.kind == PeerKind.CLIENT | PeerKind.FRONT_PROXY


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        pytest.param([(CN, "a b"), (O, "d:ö")], "a b", id="space inside, other letters"),
        pytest.param([(CN, "a"), (O, "")], "a", id="empty group"),
        pytest.param([(CN, "first"), (CN, "last")], "last", id="last common name counts"),
    ],
)
async def test_names_are_read_as_go_reads_them(
    files: TlsFiles, tmp_path: Path, subject: Any, name: str
) -> None:
    """An odd subject is the user that an API server would see."""
    tls = await started(files)
    end, _ = handshake(tls.context, client(CLIENTS.user(*subject), tmp_path))
    peer = tls.peer(end)
    assert peer is not None
    assert (peer.kind, peer.common_name) == (PeerKind.CLIENT, name)


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param([(O, "dev")], id="no common name"),
        pytest.param([(CN, "admin ")], id="space at the end"),
        pytest.param([(CN, "\tadmin")], id="tab in front"),
        pytest.param([(CN, "a"), (O, " system:masters")], id="space before a group"),
        pytest.param([(CN, "a"), (O, "b\r\nImpersonate-Group: c")], id="line end in a group"),
        pytest.param([(CN, "a\x00b")], id="zero byte"),
        pytest.param([(CN, "a"), (UID, "1"), (UID, "1")], id="two UIDs"),
        pytest.param([(CN, "a"), (UID, "")], id="empty UID"),
        pytest.param([(CN, "a"), (UID, "1 ")], id="space after the UID"),
    ],
)
async def test_a_name_that_no_header_carries_is_nobody(
    files: TlsFiles, tmp_path: Path, subject: Any
) -> None:
    """What would arrive as another name, or can't be read in one way only, names no user."""
    tls = await started(files)
    end, _ = handshake(tls.context, client(CLIENTS.user(*subject), tmp_path))
    peer = tls.peer(end)
    assert peer is not None
    assert peer.kind is PeerKind.NOBODY


@pytest.mark.parametrize(
    ("usage", "taken"),
    [
        pytest.param([CLIENT], True, id="for clients"),
        pytest.param([CLIENT, SERVER], True, id="for both"),
        pytest.param([], True, id="not said"),
        pytest.param([SERVER], False, id="for servers"),
        pytest.param([ExtendedKeyUsageOID.EMAIL_PROTECTION], False, id="for mail"),
    ],
)
async def test_a_certificate_must_be_for_clients(
    files: TlsFiles, tmp_path: Path, usage: Any, taken: bool
) -> None:
    """A server's certificate of the same CA authenticates nobody."""
    tls = await started(files)
    context = client(CLIENTS.user((CN, "a"), usage=usage), tmp_path)
    if taken:
        handshake(tls.context, context)
    else:
        with pytest.raises(ssl.SSLError, match="unsuitable certificate purpose"):
            handshake(tls.context, context)


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        pytest.param(OTHERS.user((CN, "a")), "unable to get local issuer", id="unknown CA"),
        pytest.param(CLIENTS.user((CN, "a"), end=-60), "has expired", id="expired"),
        pytest.param(CLIENTS.user((CN, "a"), begin=3600), "not yet valid", id="not yet valid"),
        pytest.param(Pair.make([(CN, "a")]), "self-signed", id="signed by itself"),
        pytest.param(ALICE.user((CN, "root")), "invalid CA", id="signed by a user"),
        pytest.param(SERVERS.user((CN, "a")), "unable to get local issuer", id="server CA"),
    ],
)
async def test_what_proves_nothing_ends_the_handshake(
    files: TlsFiles, tmp_path: Path, who: Pair, reason: str
) -> None:
    """A certificate that can't be verified gets no connection."""
    tls = await started(files)
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        handshake(tls.context, client(who, tmp_path, above=[ALICE]))


async def test_a_chain_holds_as_long_as_each_of_it(files: TlsFiles, tmp_path: Path) -> None:
    """A user of an intermediate CA is the root's, until the first of the chain ends."""
    middle = Pair.authority("middle", by=CLIENTS, end=DAY)
    user = middle.user((CN, "deep"))
    tls = await started(files)
    end, _ = handshake(tls.context, client(user, tmp_path, above=[middle]))
    peer = tls.peer(end)
    assert peer is not None
    assert (peer.kind, peer.common_name) == (PeerKind.CLIENT, "deep")
    assert peer.anchor == CLIENTS.der_digest
    assert peer.not_after == middle.certificate.not_valid_after_utc.timestamp()


async def test_an_intermediate_ca_may_be_all_that_is_trusted(
    files: TlsFiles, tmp_path: Path
) -> None:
    """As in Go, a CA of the file needs no CA above it."""
    middle = Pair.authority("middle", by=OTHERS)
    put(files.clients, middle.pem)
    tls = await started(files)
    end, _ = handshake(tls.context, client(middle.user((CN, "a")), tmp_path))
    peer = tls.peer(end)
    assert peer is not None
    assert (peer.kind, peer.anchor) == (PeerKind.CLIENT, middle.der_digest)


@pytest.mark.parametrize("kind", [PeerKind.CLIENT, PeerKind.FRONT_PROXY])
async def test_the_nearest_trusted_ca_says_what_a_certificate_is(
    files: TlsFiles, tmp_path: Path, kind: PeerKind
) -> None:
    """A user is no front proxy for its CA being issued by theirs, nor the other way round."""
    upper = Pair.authority("upper")
    lower = Pair.authority("lower", by=upper)
    users = kind is PeerKind.CLIENT
    put(files.clients, (lower if users else upper).pem)
    put(files.front_proxies, (upper if users else lower).pem)
    tls = await started(files)
    for above in ([], [lower], [lower, upper]):
        end, _ = handshake(tls.context, client(lower.user((CN, "a")), tmp_path, above=above))
        peer = tls.peer(end)
        assert peer is not None
        assert (peer.kind, peer.anchor) == (kind, lower.der_digest)


async def test_a_ca_may_be_renewed_under_its_name(files: TlsFiles, tmp_path: Path) -> None:
    """Users of the old and of the new CA of one name are both known while both are in the file."""
    renewed = Pair.authority("client-ca")
    put(files.clients, CLIENTS.pem + renewed.pem)
    tls = await started(files)
    for authority in (CLIENTS, renewed):
        end, _ = handshake(tls.context, client(authority.user((CN, "a")), tmp_path))
        peer = tls.peer(end)
        assert peer is not None
        assert (peer.kind, peer.anchor) == (PeerKind.CLIENT, authority.der_digest)


# -- versions and sessions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=["1.0", "1.1"]
)
async def test_old_versions_are_refused(files: TlsFiles, version: ssl.TLSVersion) -> None:
    """Nothing below TLS 1.2 is spoken."""
    tls, context = await started(files), client()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with pytest.raises(ssl.SSLError):
        handshake(tls.context, context)


async def test_http_1_1_is_agreed_on(files: TlsFiles) -> None:
    """A client that offers HTTP/2 too is told not to speak it."""
    tls, context = await started(files), client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    _, end = handshake(tls.context, context)
    assert (end.selected_alpn_protocol(), end.version()) == ("http/1.1", "TLSv1.3")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_is_resumed(
    files: TlsFiles, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """Each connection's certificate is verified anew, for resuming would skip it."""
    tls, context = await started(files), client(ALICE, tmp_path)
    context.maximum_version = version
    _, first = handshake(tls.context, context)
    end, second = handshake(tls.context, context, session=first.session)
    peer = tls.peer(end)
    assert not second.session_reused
    assert peer is not None
    assert peer.kind is PeerKind.CLIENT


async def test_a_resumed_session_would_be_nobody_s(tmp_path: Path, files: TlsFiles) -> None:
    """If one were resumed all the same, its certificate would prove nothing."""
    tls, context = await started(files), client(ALICE, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    one = tls._live
    _, first = handshake(one, context)
    end, second = handshake(one, context, session=first.session)
    assert second.session_reused
    peer = read_peer(end, lambda _anchor: PeerKind.CLIENT)
    assert peer is not None
    assert (peer.kind, peer.not_after, peer.common_name) == (PeerKind.NOBODY, NEVER, "")


# -- changes -------------------------------------------------------------------------------------


async def test_new_names_are_on_the_next_connection(files: TlsFiles) -> None:
    """Without a restart, the next client is shown a certificate for the names of now."""
    tls = await started(files)
    _, before = handshake(tls.context, client())
    assert shown(before) == {"localhost", "127.0.0.1"}
    first = tls.issued
    tls.set_names(NAMES | {"*.example.com"})
    await tls.refresh()
    _, after = handshake(tls.context, client(), name="a.example.com")
    assert shown(after) == NAMES | {"*.example.com"}
    assert tls.issued.key != first.key


async def test_nothing_changed_issues_nothing(files: TlsFiles) -> None:
    """The same names, files and a distant end cost no more than a look at the files."""
    tls = await started(files)
    issued, live = tls.issued, tls._live
    tls.set_names(frozenset(NAMES))
    await tls.refresh()
    assert tls.issued is issued
    assert tls._live is live


async def test_a_new_server_ca_issues_at_once(files: TlsFiles) -> None:
    """Clients of the new CA are served from the next connection on, those of the old no more."""
    tls = await started(files)
    put(files.server.certificate, OTHERS.pem)
    put(files.server.key, OTHERS.key_pem)
    await tls.refresh()
    handshake(tls.context, client(trusts=OTHERS))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tls.context, client())


async def test_a_removed_ca_counts_no_more(files: TlsFiles, tmp_path: Path) -> None:
    """The next connection fails; on one that lives the certificate proves nothing any more."""
    tls = await started(files)
    alive, _ = handshake(tls.context, client(ALICE, tmp_path))
    put(files.clients, OTHERS.pem)
    await tls.refresh()
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tls.context, client(ALICE, tmp_path))
    peer = tls.peer(alive)
    assert peer is not None
    assert peer.kind is PeerKind.NOBODY
    end, _ = handshake(tls.context, client(OTHERS.user((CN, "bob")), tmp_path))
    bob = tls.peer(end)
    assert bob is not None
    assert (bob.kind, bob.common_name) == (PeerKind.CLIENT, "bob")


async def test_a_ca_that_changes_files_changes_what_it_vouches_for(
    files: TlsFiles, tmp_path: Path
) -> None:
    """A live connection is judged by the files of now."""
    tls = await started(files)
    alive, _ = handshake(tls.context, client(ALICE, tmp_path))
    put(files.clients, PROXIES.pem)
    put(files.front_proxies, CLIENTS.pem)
    await tls.refresh()
    peer = tls.peer(alive)
    assert peer is not None
    assert peer.kind is PeerKind.FRONT_PROXY


@pytest.mark.parametrize(
    ("which", "content"),
    [
        pytest.param("server-ca.crt", b"no certificate", id="server CA"),
        pytest.param("server-ca.key", OTHERS.key_pem, id="key of another"),
        pytest.param("client-ca.crt", b"", id="no client CA"),
        pytest.param("request-header-ca.crt", CLIENTS.pem[:-60], id="cut short"),
    ],
)
async def test_what_was_in_force_stays_when_a_file_is_no_use(
    files: TlsFiles, tmp_path: Path, which: str, content: bytes
) -> None:
    """A bad file changes nothing but for one warning, and counts once it is good."""
    tls = await started(files)
    issued, good = tls.issued, (tmp_path / which).read_bytes()
    put(tmp_path / which, content)
    with capture_logs() as logs:
        for _ in range(3):
            await tls.refresh()
    assert [line["log_level"] for line in logs] == ["warning"]
    assert str(logs[0]["reason"]).startswith("--")
    end, _ = handshake(tls.context, client(ALICE, tmp_path))
    assert tls.peer(end) is not None
    assert tls.issued is issued
    put(tmp_path / which, good)
    with capture_logs() as logs:
        await tls.refresh()
    assert "in order again" in [line["event"] for line in logs]
    assert (tls.issued is not issued) == which.startswith("server")


async def test_a_failure_is_tried_again_but_not_at_once(files: TlsFiles) -> None:
    """What failed for no fault of the files is tried again after a minute, or when they change."""
    now, tried, failing = time.time(), 0, False

    async def issue(*args: Any, **rest: Any) -> Issued:
        nonlocal tried
        tried += 1
        own = await issue_here(*args, **rest)
        if failing:
            raise ConfigError("no process could be started")
        return own

    tls = ServingTls(files, issuer=issue, clock=lambda: now)
    await tls.start(NAMES)
    failing = True
    tls.set_names(NAMES | {"more"})
    for seconds, changed, tries in ((0, False, 2), (59, False, 2), (1, False, 3), (1, True, 4)):
        now += seconds
        if changed:
            put(files.server.key, SERVERS.key_pem)
        await tls.refresh()
        assert tried == tries
    failing = False
    now -= 3600  # a clock that is set back delays nothing
    await tls.refresh()
    assert tls.issued.names == NAMES | {"more"}


LASTING = Issued(b"", b"", NAMES, 365 * DAY)


@pytest.mark.parametrize(
    ("certificate", "now", "old"),
    [
        pytest.param(LASTING, 275 * DAY, False, id="90 days left"),
        pytest.param(LASTING, 275 * DAY + 1, True, id="less than 90 days left"),
        pytest.param(LASTING, 400 * DAY, True, id="over"),
        pytest.param(replace(LASTING, limited=True), 364 * DAY, False, id="ends with its CA"),
    ],
)
def test_a_certificate_is_replaced_in_time(certificate: Issued, now: float, old: bool) -> None:
    """It is 90 days before its end, unless its CA ends then too."""
    assert is_old(certificate, now) is old


async def test_time_alone_replaces_a_certificate(files: TlsFiles) -> None:
    """A year later another certificate is shown, with nobody having asked for it."""
    long = Pair.authority("server-ca", end=3650 * DAY)
    put(files.server.certificate, long.pem)
    put(files.server.key, long.key_pem)
    now = time.time()
    tls = await started(files, clock=lambda: now)
    first = tls.issued
    now += 300 * DAY
    await tls.refresh()
    assert tls.issued.not_after == pytest.approx(first.not_after + 300 * DAY, abs=2)


@pytest.mark.parametrize(
    ("which", "content", "said"),
    [
        pytest.param("client-ca.crt", None, "--client-ca-cert: cannot read", id="none"),
        pytest.param("client-ca.crt", b"", "--client-ca-cert: ", id="empty"),
        pytest.param("client-ca.crt", CLIENTS.key_pem, "--client-ca-cert: ", id="a key"),
        pytest.param(
            "request-header-ca.crt",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "--request-header-ca-cert: ",
            id="no certificate inside",
        ),
        pytest.param("server-ca.key", None, "--server-ca-key: cannot read", id="no key"),
    ],
)
async def test_it_does_not_start_without_good_files(
    files: TlsFiles, tmp_path: Path, which: str, content: bytes | None, said: str
) -> None:
    """A file that is no use at start is one line with its flag."""
    (tmp_path / which).unlink()
    if content is not None:
        put(tmp_path / which, content)
    with pytest.raises(ConfigError) as refused:
        await started(files)
    assert str(refused.value).startswith(said)
    assert str(tmp_path / which) in str(refused.value)


def test_files_are_those_of_the_settings() -> None:
    """Each flag names its file."""
    flags = {"server_ca_cert": "a", "server_ca_key": "b", "client_ca_cert": "c"}
    settings = load({**flags, "request_header_ca_cert": "d"}, {}).settings
    assert TlsFiles.of(settings) == TlsFiles(ServerCa(Path("a"), Path("b")), Path("c"), Path("d"))


# -- over real connections -----------------------------------------------------------------------


LOOPS = [
    pytest.param(asyncio.new_event_loop, id="asyncio"),
    pytest.param(uvloop.new_event_loop, id="uvloop"),
]


@asynccontextmanager
async def listening(tls: ServingTls) -> AsyncIterator[tuple[str, int]]:
    """Serve: each line is answered by who is asking."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readline():
                peer = tls.peer(writer.get_extra_info("ssl_object"))
                text = f"{peer.kind.value} {peer.common_name}\n" if peer else "none\n"
                writer.write(text.encode())
        except ConnectionError:
            return
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls.context)
    async with server:
        yield server.sockets[0].getsockname()


class Asking:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def at(cls, address: tuple[str, int], context: ssl.SSLContext) -> AsyncIterator[Asking]:
        """Connect, and close at the end."""
        reader, writer = await asyncio.open_connection(*address, ssl=context)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def who(self) -> str:
        """Ask who the server takes us for."""
        self._writer.write(b"?\n")
        answer = await self._reader.readline()
        if not answer:
            raise ConnectionResetError
        return answer.decode().strip()

    @property
    def names(self) -> set[str]:
        """The names of the certificate that was shown."""
        return shown(self._writer.get_extra_info("ssl_object"))


@pytest.mark.parametrize("new_loop", LOOPS)
def test_everything_changes_while_it_listens(
    files: TlsFiles, tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """On either loop: peers are known, and changes count for new connections, then for old ones."""

    async def scenario() -> None:
        tls = await started(files, check_seconds=0.01, settle_seconds=0.0)
        keeping = asyncio.create_task(tls.run())
        alice, nobody = client(ALICE, tmp_path), client()
        async with listening(tls) as address, Asking.at(address, alice) as old:
            assert await old.who() == "1 alice"
            assert await asked(address, nobody) == "none"
            tls.set_names(NAMES | {"more.example.com"})
            await eventually(lambda: "more.example.com" in tls.issued.names)
            async with Asking.at(address, nobody) as new:
                assert "more.example.com" in new.names
            assert await old.who() == "1 alice"
            put(files.clients, OTHERS.pem)
            await eventually(lambda: OTHERS.der_digest in tls._trust.clients)
            assert await old.who() == "0 alice"
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asked(address, alice)
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


async def asked(address: tuple[str, int], context: ssl.SSLContext) -> str:
    """Ask once, on a connection of its own."""
    async with Asking.at(address, context) as asking:
        return await asking.who()


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - what is waited for is the passing of time
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("new_loop", LOOPS)
def test_a_plain_blocking_client_of_tls_1_2_comes_again(
    files: TlsFiles, tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """A client that offers its session again is served, by a new handshake."""
    context = client(ALICE, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def twice(address: tuple[str, int]) -> list[str]:
        answers, session = [], None
        for _ in range(2):
            with (
                socket.create_connection(address, timeout=30) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as end,
            ):
                session = end.session
                end.sendall(b"?\n")
                answers.append(f"{end.recv(100).decode().strip()} {end.session_reused}")
        return answers

    async def scenario() -> list[str]:
        tls = await started(files)
        async with listening(tls) as address:
            return await asyncio.to_thread(twice, address)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(scenario()) == ["1 alice False", "1 alice False"]
