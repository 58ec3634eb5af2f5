"""TLS of the endpoint: which certificate it shows, which client certificates it takes.

One :class:`ServingTls` holds both. Its ``context`` is what a listener is given, once; every new
connection is handed to the context that is in force at that moment, so a certificate issued anew
and a CA added to or removed from a file count from the next connection on, without a restart.
``run()`` looks at the files' stat every :data:`CHECK_SECONDS`, and issues a certificate when the
wanted names or the CA change or the end of the current one comes near.

Invariants:
* no session is ever resumed: that would skip the verification of the client's certificate;
* whom a certificate speaks for is judged at each request against the CAs of that moment;
* when something can't be read or issued, what was in force stays, and one warning says why.

Differs from an API server: a certificate of an unknown CA ends the handshake here, where an API
server takes it, and answers 401 unless there is a token too.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/ (X.509 client
certificates, authenticating proxy); k8s.io/apiserver v0.36.3 ``pkg/server/dynamiccertificates``.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, Never, Protocol, Self
from weakref import WeakKeyDictionary

import structlog

from syncer.kube.access import Files, load_key_pair, ssl_reason
from syncer.kube.errors import ConfigError
from syncer.proxy.certificates import Issued, ServerCa, issue
from syncer.proxy.peer import NEVER, Peer, PeerKind, read_peer
from syncer.settings import Settings

CHECK_SECONDS: Final = 10.0
"""How often the files are looked at."""

SETTLE_SECONDS: Final = 0.5
"""How long after a change of names others may join it."""

RETRY_SECONDS: Final = 60.0
"""How long after a failure the same is tried again."""

RENEW_SECONDS: Final = 90 * 86400.0
"""A certificate is replaced when it has less than this left."""

_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)

log: structlog.stdlib.BoundLogger = structlog.get_logger("tls")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The files that TLS is made of.

    Attributes:
        server: the CA that issues our certificate.
        clients: PEM of the CAs whose certificates name users (``--client-ca-cert``).
        front_proxies: PEM of the CAs of front proxies (``--request-header-ca-cert``).
    """

    server: ServerCa
    clients: Path
    front_proxies: Path

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Give those that the settings name."""
        return cls(
            ServerCa(Path(settings.server_ca_cert), Path(settings.server_ca_key)),
            Path(settings.client_ca_cert),
            Path(settings.request_header_ca_cert),
        )


class Issuer(Protocol):
    """What issues certificates: :func:`syncer.proxy.certificates.issue`."""

    async def __call__(
        self, authority: ServerCa, names: frozenset[str], *, now: float, files: Files
    ) -> Issued:
        """Issue one, or raise :class:`ConfigError`."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The CAs whose client certificates are taken.

    Attributes:
        clients: SHA-256 of the certificate -> the certificate (DER), of users' CAs.
        front_proxies: the same, of front proxies' CAs.
    """

    clients: Mapping[bytes, bytes]
    front_proxies: Mapping[bytes, bytes]

    def kind_of(self, anchor: bytes) -> PeerKind:
        """Say what the certificate with this digest vouches for."""
        client = PeerKind.CLIENT if anchor in self.clients else PeerKind.NOBODY
        return client | (PeerKind.FRONT_PROXY if anchor in self.front_proxies else PeerKind.NOBODY)

    def certificates(self) -> bytes:
        """Give all of them, each once (DER)."""
        return b"".join({**self.clients, **self.front_proxies}.values())


class ServingTls:
    """The TLS side of the endpoint, kept up to date by :meth:`run`.

    Attributes:
        context: what to listen with; always the same one.
        issued: the certificate that new connections are shown.
    """

    def __init__(
        self,
        files: TlsFiles,
        *,
        issuer: Issuer = issue,
        clock: Callable[[], float] = time.time,
        check_seconds: float = CHECK_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """Describe it; nothing is read until :meth:`start`.

        Args:
            files: what it is made of.
            issuer: issues certificates.
            clock: seconds since the epoch.
            check_seconds: how often the files are looked at.
            settle_seconds: how long after a change of names others may join it.
        """
        self.context: ssl.SSLContext = _Delegating(self._current)
        self.issued: Issued
        self._files = files
        self._issuer = issuer
        self._clock = clock
        self._check_seconds = check_seconds
        self._settle_seconds = settle_seconds
        self._names: frozenset[str] = frozenset()
        self._names_changed = asyncio.Event()
        self._server_files, self._trust_files = Files(), Files()
        self._trust: Trust
        self._live: ssl.SSLContext
        self._peers: WeakKeyDictionary[ssl.SSLObject, tuple[Trust, Peer | None]] = (
            WeakKeyDictionary()
        )
        # Whether the server CA's files changed since the certificate was issued.
        self._stale = False
        self._failed_at = NEVER  # when issuing failed last
        self._said: dict[str, str] = {}  # subject -> what was last complained about

    async def start(self, names: frozenset[str]) -> None:
        """Read the CAs and issue the first certificate.

        Args:
            names: DNS names and IP addresses it has to be good for.

        Raises:
            ConfigError: a file can't be read or is no use.
        """
        self._names = names
        trust = _read_trust(self._trust_files, self._files)
        self._install(await self._issue(), trust)

    def set_names(self, names: frozenset[str]) -> None:
        """Say what the certificate has to be good for; :meth:`run` sees to it.

        Args:
            names: DNS names and IP addresses.
        """
        if names != self._names:
            self._names = names
            self._names_changed.set()

    def peer(self, connection: ssl.SSLObject) -> Peer | None:
        """Say whose certificate a client showed; to be asked at each request, and cheap.

        Args:
            connection: the transport's ``ssl_object``.

        Returns:
            ``None`` when it showed none. Whether ``not_after`` has passed is the caller's to check.
        """
        known = self._peers.get(connection)
        if known is None or known[0] is not self._trust:
            known = (self._trust, read_peer(connection, self._trust.kind_of))
            self._peers[connection] = known
        return known[1]

    async def run(self) -> Never:
        """Keep certificate and CAs up to date until cancelled; after :meth:`start`."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._check_seconds):
                    await self._names_changed.wait()
            if self._names_changed.is_set():
                await asyncio.sleep(self._settle_seconds)
                self._names_changed.clear()
            await self.refresh()

    async def refresh(self) -> None:
        """Look at the files, the names and the time once, and do what has to be done."""
        if self._trust_files.changed():
            try:
                trust = _read_trust(self._trust_files, self._files)
                self._install(self.issued, trust)
                self._well("client CAs")
            except ConfigError as error:
                self._complain("client CAs", str(error))
        if self._is_due():
            try:
                self._install(await self._issue(), self._trust)
                self._stale = False
                self._well("certificate")
            except ConfigError as error:
                self._failed_at = self._clock()
                self._complain("certificate", str(error))

    def _is_due(self) -> bool:
        if self._server_files.changed():
            self._stale, self._failed_at = True, NEVER
        if abs(self._clock() - self._failed_at) < RETRY_SECONDS:
            return False
        return self._stale or self._names != self.issued.names or is_old(self.issued, self._clock())

    async def _issue(self) -> Issued:
        files = Files()
        try:
            issued = await self._issuer(
                self._files.server, self._names, now=self._clock(), files=files
            )
        finally:
            # What was read is what later changes are measured by, even when it was no use.
            self._server_files = files
        end = datetime.fromtimestamp(issued.not_after, UTC).isoformat()
        log.info(
            "serving certificate issued",
            names=len(issued.names),
            end=end,
            ends_with_its_ca=issued.limited,
        )
        return issued

    def _install(self, issued: Issued, trust: Trust) -> None:
        live = _make_context(issued, trust, self._files)
        self.issued, self._trust, self._live = issued, trust, live

    def _current(self) -> ssl.SSLContext:
        # OpenSSL keeps the sessions of TLS 1.2 clients, and Python can't forbid it: a context that
        # has one to resume is used no more. (0.8 ms; TLS 1.3 has tickets instead, which are off.)
        if self._live.session_stats()["number"]:
            self._live = _make_context(self.issued, self._trust, self._files)
        return self._live

    def _complain(self, subject: str, reason: str) -> None:
        if self._said.get(subject) != reason:
            self._said[subject] = reason
            log.warning("what was in force stays", subject=subject, reason=reason)

    def _well(self, subject: str) -> None:
        if self._said.pop(subject, None):
            log.info("in order again", subject=subject)


def is_old(issued: Issued, now: float) -> bool:
    """Say whether it is time for another certificate.

    Args:
        issued: the current one.
        now: seconds since the epoch.
    """
    # One that ends with its CA is no better when issued anew: only a new CA would help.
    return not issued.limited and issued.not_after - now < RENEW_SECONDS


class _Delegating(ssl.SSLContext):
    """Hands each new connection to the context of the moment; is of no use by itself.

    asyncio and uvloop keep the context they were given, and ask it for no more than this. Changing
    that one in place would leave removed CAs in it; swapping it in ``sni_callback`` comes after the
    look-up of the session.
    """

    _give: Callable[[], ssl.SSLContext]

    def __new__(cls, give: Callable[[], ssl.SSLContext]) -> Self:
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._give = give
        return self

    def __init__(self, give: Callable[[], ssl.SSLContext]) -> None:
        """Make one.

        Args:
            give: gives the context of the moment.
        """

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self._give().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def _make_context(issued: Issued, trust: Trust, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = ssl.CERT_OPTIONAL
    # As in Go, each certificate of the files is trusted, signed by another one or not.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=trust.certificates())
    try:
        load_key_pair(context, issued.certificate, issued.key)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"--server-ca-cert: {files.server.certificate} issues certificates that can't be used: "
            f"{ssl_reason(error)}"
        ) from error
    return context


def _read_trust(files: Files, paths: TlsFiles) -> Trust:
    return Trust(
        _read_bundle(files, paths.clients, "--client-ca-cert"),
        _read_bundle(files, paths.front_proxies, "--request-header-ca-cert"),
    )


def _read_bundle(files: Files, path: Path, flag: str) -> dict[bytes, bytes]:
    """Read the certificates of a file: digest -> DER."""
    try:
        found = [
            base64.b64decode(b"".join(block.split()), validate=True)
            for block in _BLOCK.findall(files.read(path, flag))
        ]
        if not found:
            raise ValueError("there is none")
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=b"".join(found))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"{flag}: {path} must hold certificates in PEM: {ssl_reason(error)}"
        ) from error
    return {sha256(certificate).digest(): certificate for certificate in found}
