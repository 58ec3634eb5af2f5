"""What a tenant's kubeconfig says."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.access import Access, Tls
from syncer.kube.errors import ConfigError
from syncer.kube.exec_plugin import ExecPlugin
from syncer.kube.kubeconfig import read_inline
from syncer.kubeconfig.document import Kubeconfig, certificates, from_access


def made_pair(name: str) -> tuple[bytes, bytes]:
    """Make a self-signed certificate and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


CA, CA_KEY = made_pair("ca")
CERTIFICATE, KEY = made_pair("admin")
ADMIN = Kubeconfig("https://localhost:8443", "mine", CA, certificate=CERTIFICATE, key=KEY)


def test_it_reads_as_kubectl_reads_it() -> None:
    """One cluster, user and context of one name, everything inline, and that context current."""
    document = yaml.safe_load(ADMIN.text())
    assert document == {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "mine",
                "cluster": {
                    "server": "https://localhost:8443",
                    "certificate-authority-data": base64.b64encode(CA).decode(),
                },
            }
        ],
        "users": [
            {
                "name": "mine",
                "user": {
                    "client-certificate-data": base64.b64encode(CERTIFICATE).decode(),
                    "client-key-data": base64.b64encode(KEY).decode(),
                },
            }
        ],
        "contexts": [{"name": "mine", "context": {"cluster": "mine", "user": "mine"}}],
        "current-context": "mine",
    }


@pytest.mark.parametrize(
    ("kubeconfig", "cluster", "user"),
    [
        pytest.param(
            Kubeconfig("https://a", token="t"), {"server": "https://a"}, {"token": "t"}, id="token"
        ),
        pytest.param(
            Kubeconfig("https://a", authority=CA, insecure=True, server_name="b", token="t"),
            {"server": "https://a", "insecure-skip-tls-verify": True},
            {"token": "t"},
            id="insecure: no CA and no name",
        ),
        pytest.param(
            Kubeconfig("https://a", server_name="b", token="t"),
            {"server": "https://a", "tls-server-name": "b"},
            {"token": "t"},
            id="server name",
        ),
    ],
)
def test_forms(kubeconfig: Kubeconfig, cluster: object, user: object) -> None:
    """Only what is known is said; kubectl refuses a CA beside insecure."""
    document = yaml.safe_load(kubeconfig.text())
    assert document["clusters"] == [{"name": "default", "cluster": cluster}]
    assert document["users"] == [{"name": "default", "user": user}]


@given(
    st.builds(
        Kubeconfig,
        server=st.sampled_from(["https://a", "https://[::1]:8443", "https://a.b:1/path"]),
        name=st.text("ab-_.:@/1~#'\"", min_size=1, max_size=300),
        server_name=st.sampled_from(["", "b.c"]),
        token=st.text("abc.-_123", min_size=1, max_size=2000),
    )
)
def test_what_is_written_is_read_back(kubeconfig: Kubeconfig) -> None:
    """Whatever the names and however long the token, our own reader gives the same back."""
    access = read_inline(kubeconfig.text().encode(), "test")
    assert from_access(access, "test") == kubeconfig


def test_a_certificate_is_read_back() -> None:
    """So are a CA, a client certificate and its key."""
    assert from_access(read_inline(ADMIN.text().encode(), "test"), "test") == ADMIN


@pytest.mark.parametrize(
    ("access", "says"),
    [
        pytest.param(Access("https://a", tls=Tls(CA)), "certificate or a token", id="nobody"),
        pytest.param(
            Access("https://a", tls=Tls(CA), authorization="Basic eDp5"),
            "certificate or a token",
            id="password",
        ),
        pytest.param(
            Access("http://a"), "certificate or a token", id="plain HTTP has no certificates"
        ),
        pytest.param(
            Access(
                "https://a",
                tls=Tls(CA),
                plugin=ExecPlugin(
                    source="x",
                    command="true",
                    args=(),
                    env=(),
                    api_version="client.authentication.k8s.io/v1",
                    hint="",
                    cluster=None,
                ),
            ),
            "exec",
            id="command",
        ),
    ],
)
def test_a_user_that_works_nowhere_else_is_refused(access: Access, says: str) -> None:
    """What can't be taken elsewhere is one line with the file and what would be right."""
    with pytest.raises(ConfigError, match=f"^admin.conf: .*{says}"):
        from_access(access, "admin.conf")


def test_no_credential_is_in_its_repr() -> None:
    """A kubeconfig in a log line or traceback tells no key and no token."""
    shown = repr(replace(ADMIN, token="very-secret"))
    assert "very-secret" not in shown
    assert "PRIVATE" not in shown


def test_certificate_and_key_must_fit() -> None:
    """A pair of which only one half was replaced yet is noticed."""
    ADMIN.check()
    with pytest.raises(ConfigError, match="its own"):
        replace(ADMIN, key=CA_KEY).check()


@pytest.mark.parametrize(
    ("pem", "expected"),
    [
        pytest.param(CA, CA, id="a certificate stays as it is"),
        pytest.param(CA + CERTIFICATE, CA + CERTIFICATE, id="two"),
        pytest.param(CA_KEY + b"\n" + CA, CA, id="a key goes"),
        pytest.param(b"subject=x\n" + CA + b"# end", CA, id="text goes"),
        pytest.param(b"nothing", b"", id="none"),
    ],
)
def test_only_certificates_are_published(pem: bytes, expected: bytes) -> None:
    """Of a file with more than certificates, such as a CA's key, nothing else gets out."""
    assert certificates(pem) == expected


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        pytest.param("token: t", "tokenFile: /etc/passwd", "must be given inline", id="token"),
        pytest.param(
            "token: t",
            "client-certificate: a\n    client-key: b",
            "must be given inline",
            id="certificate",
        ),
        pytest.param(
            "server: https://a",
            "server: https://a\n    certificate-authority: ../ca",
            "must be given inline",
            id="CA",
        ),
        pytest.param(
            "token: t", "exec: {command: sh, apiVersion: x}", "exec must not be", id="command"
        ),
    ],
)
def test_a_kubeconfig_from_elsewhere_reaches_nothing_here(old: str, new: str, says: str) -> None:
    """What the host's secret names is neither read from this machine nor run on it."""
    text = Kubeconfig("https://a", token="t").text()
    assert old in text
    with pytest.raises(ConfigError, match=f"^secret a/b: .*{says}"):
        read_inline(text.replace(old, new).encode(), "secret a/b")
