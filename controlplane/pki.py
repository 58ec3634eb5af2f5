"""All certificates of one plane, laid out as its components and a syncer beside it expect them."""

import hashlib
import ipaddress
import shutil
import ssl
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.certificates import Authority, Pair, signing_key
from controlplane.ports import LOOPBACK

_API_SERVER_NAMES = (
    LOOPBACK,
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)

NODE_RANGE = ipaddress.ip_network("192.0.2.0/24")
"""Addresses, of a range for documentation, that the fake kubelets' certificate is good for too."""


@dataclass(frozen=True)
class Pki:
    """Files in a plane's `pki` directory: certificate and key of each authority and of the admin.

    A proxy in front of the plane needs `server_ca` (to be trusted as the server), the certificate
    of `client_ca` (to check users) and `request_header_ca` (to speak for them).
    """

    directory: Path

    @property
    def server_ca(self) -> Pair:
        """Vouches for the API server."""
        return self.pair("server-ca")

    @property
    def client_ca(self) -> Pair:
        """Vouches for users who show a certificate."""
        return self.pair("client-ca")

    @property
    def request_header_ca(self) -> Pair:
        """Vouches for proxies that name the user in X-Remote-* headers."""
        return self.pair("request-header-ca")

    @property
    def admin(self) -> Pair:
        """Client certificate of a member of system:masters."""
        return self.pair("admin")

    def pair(self, name: str) -> Pair:
        """Return the paths of `name.crt` and `name.key`."""
        return Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")

    def user(self, name: str, groups: Sequence[str] = ()) -> Pair:
        """Return a client certificate by which one is `name`, member of `groups`.

        The same for the same user, whichever process asks.
        """

        def make(directory: Path) -> Pair:
            return Authority.load(self.client_ca).client(directory, "tls", name, groups)

        return self._issued("users", [name, *groups], make)

    def server(self, *hosts: str) -> Pair:
        """Return a server certificate, trusted as the plane's, for `hosts` (names or addresses).

        For a test's own kubelet or aggregated API. The same for the same hosts.
        """

        def make(directory: Path) -> Pair:
            return Authority.load(self.server_ca).server(directory, "tls", hosts)

        return self._issued("servers", hosts, make)

    def client_context(self, user: Pair | None = None) -> ssl.SSLContext:
        """Return a TLS context that trusts the plane's servers and shows a client certificate.

        Args:
            user: the certificate; the admin's if None.
        """
        context = self.anonymous_context()
        shown = user or self.admin
        context.load_cert_chain(shown.certificate, shown.key)
        return context

    def anonymous_context(self) -> ssl.SSLContext:
        """Return a TLS context that trusts the plane's servers and shows no certificate."""
        return ssl.create_default_context(cafile=str(self.server_ca.certificate))

    def _issued(self, kind: str, subject: Sequence[str], make: Callable[[Path], Pair]) -> Pair:
        """Return what `make` makes for `subject`, making it if no process has yet."""
        digest = hashlib.sha256("\0".join(subject).encode()).hexdigest()[:16]
        place = self.directory / kind / digest
        if not place.exists():
            place.parent.mkdir(exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".", dir=place.parent))
            make(scratch)
            try:
                scratch.rename(place)
            except OSError:  # another process was first
                shutil.rmtree(scratch)
                if not place.exists():
                    raise
        return Pair(place / "tls.crt", place / "tls.key")


def create(directory: Path, service_cidr: str, *, virtual: bool) -> Pki:
    """Make all keys and certificates in `directory`, which must not exist yet."""
    directory.mkdir(mode=0o700)
    servers = Authority.create(directory, "server-ca")
    clients = Authority.create(directory, "client-ca")
    proxies = Authority.create(directory, "request-header-ca")
    signing_key(directory, "service-account")
    service_ip = str(ipaddress.ip_network(service_cidr)[1])
    servers.server(directory, "kube-apiserver", [*_API_SERVER_NAMES, service_ip])
    servers.server(directory, "kube-controller-manager", [LOOPBACK])
    # In system:masters: else the controller manager would fetch a token for each controller, and
    # the scheduler fail and back off until the API server has made its default roles. Both slow.
    masters = ["system:masters"]
    clients.client(directory, "admin", "admin", masters)
    clients.client(directory, "controller-manager", "system:kube-controller-manager", masters)
    # These two by the names that k3s gives the API server at kubelets and at aggregated APIs.
    clients.client(directory, "kubelet-client", "system:apiserver", masters)
    proxies.client(directory, "front-proxy", "system:auth-proxy")
    if not virtual:
        servers.server(directory, "kube-scheduler", [LOOPBACK])
        servers.server(directory, "kubelet", [LOOPBACK, *map(str, NODE_RANGE.hosts())])
        clients.client(directory, "scheduler", "system:kube-scheduler", masters)
    return Pki(directory)
