"""What a tenant's kubeconfig says: one server, one user, everything inline.

Invariants:
* it names no file and no command, so it works wherever it is taken;
* without ``insecure`` it says which CA to trust, where one is known; with it, never.

Never reads or writes anything.

Source: https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/; vcluster v0.16.4
``pkg/util/kubeconfig`` (one name for cluster, user and context).
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from syncer.kube.access import Access, Tls
from syncer.kube.errors import ConfigError

DEFAULT_NAME: Final = "default"
"""What cluster, user and context are called where nothing else says it, as k3s does."""

_BEARER: Final = "Bearer "
_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """A kubeconfig with one context.

    Attributes:
        server: URL.
        name: of cluster, user and context.
        authority: PEM certificates to trust; empty: those of the machine that uses it.
        server_name: name that the server's certificate has to have; ``""``: the URL's host.
        insecure: the server's certificate is not checked.
        certificate: PEM of the user's certificate; empty for none.
        key: PEM of its private key.
        token: the user's token, where there is no certificate.
    """

    server: str
    name: str = DEFAULT_NAME
    authority: bytes = b""
    server_name: str = ""
    insecure: bool = False
    certificate: bytes = b""
    key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)

    def text(self) -> str:
        """Give it as YAML."""
        cluster: dict[str, Any] = {"server": self.server}
        if self.insecure:
            cluster["insecure-skip-tls-verify"] = True
        elif self.authority:
            cluster["certificate-authority-data"] = b64encode(self.authority).decode()
        if self.server_name and not self.insecure:
            cluster["tls-server-name"] = self.server_name
        user = {
            "client-certificate-data": b64encode(self.certificate).decode(),
            "client-key-data": b64encode(self.key).decode(),
            "token": self.token,
        }
        context = {"cluster": self.name, "user": self.name}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": self.name, "cluster": cluster}],
            "users": [{"name": self.name, "user": {key: user[key] for key in user if user[key]}}],
            "contexts": [{"name": self.name, "context": context}],
            "current-context": self.name,
        }
        text: str = yaml.safe_dump(document, sort_keys=False)
        return text

    def check(self) -> None:
        """Say whether certificates and key are usable and belong together.

        Raises:
            ConfigError: they don't, as while one of the files was replaced and the other wasn't.
        """
        Tls(
            authority=self.authority,
            certificate=self.certificate,
            key=self.key,
            authority_from="the CA of the virtual cluster's servers",
            certificate_from="the administrator's client certificate",
        ).context()


def from_access(access: Access, source: str) -> Kubeconfig:
    """Make a kubeconfig for the same server and user.

    Args:
        access: what a kubeconfig says.
        source: where that is from, for the message.

    Raises:
        ConfigError: the user can't be taken elsewhere: it has no certificate and no token.
    """
    tls = access.tls or Tls()
    token = access.authorization.removeprefix(_BEARER)
    if access.plugin is not None:
        raise ConfigError(
            f"{source}: the user's credentials come from exec, which works nowhere else; "
            "its user must have a client certificate or a token"
        )
    if not tls.certificate and not access.authorization.startswith(_BEARER):
        raise ConfigError(f"{source}: the user must have a client certificate or a token")
    return Kubeconfig(
        server=access.server,
        name=access.context or DEFAULT_NAME,
        authority=tls.authority,
        server_name=access.server_name,
        insecure=not tls.verify,
        certificate=tls.certificate,
        key=tls.key,
        token="" if tls.certificate else token,
    )


def certificates(pem: bytes) -> bytes:
    """Give the certificates of a PEM file and nothing else of it, least of all a private key."""
    return b"".join(block + b"\n" for block in _CERTIFICATE.findall(pem))
