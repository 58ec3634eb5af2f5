"""What a configuration says of one API server: URL, TLS, credentials; and how files are read.

Invariants:
* a credential is never in a message, and never written to disk: certificates and keys reach OpenSSL
  through anonymous memory (``memfd``);
* where a CA is given, no other CA is trusted.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from syncer.kube.errors import ConfigError
from syncer.kube.exec_plugin import ExecPlugin


@dataclass(frozen=True, slots=True)
class Tls:
    """What an SSL context is made of.

    Attributes:
        authority: PEM certificates to trust; empty: the system's.
        verify: whether the server's certificate is checked at all.
        certificate: PEM of the client certificate and its chain; empty for none.
        key: PEM of its private key.
        authority_from, certificate_from: file and field, for error messages.
    """

    authority: bytes = b""
    verify: bool = True
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    authority_from: str = field(default="", compare=False)
    certificate_from: str = field(default="", compare=False)

    def context(self) -> ssl.SSLContext:
        """Make an SSL context for HTTP/1.1 over TLS 1.2 or later.

        Raises:
            ConfigError: a certificate or key can't be used.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # aiohttp speaks nothing else; an HTTP/2 server would take its silence for consent.
        context.set_alpn_protocols(["http/1.1"])
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.authority:
            self._trust(context)
        else:
            context.load_default_certs()
        if self.certificate:
            self._identify(context)
        return context

    def _trust(self, context: ssl.SSLContext) -> None:
        # As in Go, a CA that is itself signed by another one may be all that is trusted.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(cadata=self.authority.decode("ascii", "ignore"))
        except ssl.SSLError as error:
            raise ConfigError(
                f"{self.authority_from} must hold certificates in PEM: {ssl_reason(error)}"
            ) from error

    def _identify(self, context: ssl.SSLContext) -> None:
        try:
            load_key_pair(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(
                f"{self.certificate_from} must be a certificate in PEM and its own "
                f"unencrypted private key: {ssl_reason(error)}"
            ) from error


def load_key_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Give a context its certificate, without writing the key to a disk.

    Args:
        context: gets it; a later one of the same kind of key replaces it.
        certificate: PEM of the certificate and its chain.
        key: PEM of its private key.

    Raises:
        ssl.SSLError, ValueError: they are no use, or not a pair.
    """
    descriptor = os.memfd_create("key-pair", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as memory:
        memory.write(certificate + b"\n" + key)
        memory.flush()
        # Without a password, OpenSSL would ask the terminal for one.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password="")


@dataclass(frozen=True, slots=True)
class Access:
    """One reading of a configuration.

    Attributes:
        server: URL of the API server, maybe with a path, without a slash at its end.
        server_name: name that the server's certificate has to have; ``""``: the URL's host.
        tls: what the SSL context is made of; ``None`` for plain HTTP.
        authorization: ``Authorization`` header; ``""`` for none.
        plugin: gives a token or certificate; ``None`` when the file itself does.
        context: name of the kubeconfig's context; ``""``: it is from no kubeconfig.
    """

    server: str
    server_name: str = ""
    tls: Tls | None = None
    authorization: str = field(default="", repr=False)
    plugin: ExecPlugin | None = None
    context: str = field(default="", compare=False)


class Files:
    """Reads files and remembers what they looked like, to see when one changed."""

    def __init__(self) -> None:
        self._looks: dict[Path, tuple[int, ...]] = {}

    def read(self, path: Path, source: str) -> bytes:
        """Read a file.

        Args:
            path: the file.
            source: what names it, for the error message.

        Raises:
            ConfigError: it can't be read.
        """
        # Looked at before it is read: a change in between is seen next time.
        self._looks[path] = _look(path)
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{source}: cannot read {path}: {error.strerror}") from error

    def changed(self) -> bool:
        """Say whether a file that was read is another one now, or changed."""
        return any(_look(path) != look for path, look in self._looks.items())


def server_url(text: str, source: str) -> str:
    """Check the URL of a server and give it without a slash at its end.

    Args:
        text: the URL.
        source: where it is from, for the message.

    Raises:
        ConfigError: it isn't one.
    """
    try:
        url = URL(text)
        fine = url.scheme in ("http", "https") and url.host and url.port
    except ValueError:
        fine = False
    if not fine or url.user or url.password or url.query_string or url.fragment:
        shown = "it" if "@" in text else repr(text)  # a password would be before the @
        raise ConfigError(f"{source}: {shown} must be a URL such as https://host:6443")
    return str(url).rstrip("/")


def bearer(token: str, source: str) -> str:
    """Give the ``Authorization`` header for a token.

    Args:
        token: the token; white space around it is dropped.
        source: where it is from, for the message.

    Raises:
        ConfigError: it is empty or no token.
    """
    token = token.strip()
    # A token is a header's value: with a line end in it, it would be several headers.
    if not token or not token.isascii() or any(not "!" <= char <= "~" for char in token):
        raise ConfigError(f"{source} must be a token: printable characters without spaces")
    return f"Bearer {token}"


def ascii_text(content: bytes, source: str) -> str:
    """Give the text of a token's file.

    Raises:
        ConfigError: it isn't ASCII; the message names ``source``.
    """
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} must be a token in ASCII") from error


def _look(path: Path) -> tuple[int, ...]:
    try:
        stat = path.stat()
    except OSError:
        return ()
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def ssl_reason(error: Exception) -> str:
    """Say in OpenSSL's own word what it didn't like."""
    return getattr(error, "reason", None) or str(error)
