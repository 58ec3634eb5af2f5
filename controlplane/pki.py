"""All certificates of one plane, laid out as its components and a syncer beside it expect them."""

import ipaddress
import ssl
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

    def client_context(self) -> ssl.SSLContext:
        """Return a TLS context that trusts the plane's servers and shows the admin certificate."""
        context = ssl.create_default_context(cafile=str(self.server_ca.certificate))
        context.load_cert_chain(self.admin.certificate, self.admin.key)
        return context


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
    proxies.client(directory, "front-proxy", "front-proxy")
    if not virtual:
        servers.server(directory, "kube-scheduler", [LOOPBACK])
        servers.server(directory, "kubelet", [LOOPBACK])
        clients.client(directory, "scheduler", "system:kube-scheduler", masters)
        clients.client(directory, "kubelet-client", "kubelet-client", masters)
    return Pki(directory)
