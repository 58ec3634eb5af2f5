"""Configurations: kubeconfigs of all shapes, exec plugins, a pod's files; and later changes."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.certificates import Authority, Pair
from syncer.kube.access import server_url
from syncer.kube.config import (
    CHECK_SECONDS,
    LEEWAY_SECONDS,
    RERUN_SECONDS,
    ConnectionConfig,
    in_cluster,
    load_in_cluster,
    load_kubeconfig,
)
from syncer.kube.errors import ConfigError

V1 = "client.authentication.k8s.io/v1"
SECRET = "s3cr3t-t0ken"


class Clock:
    """Both clocks, which stand until they are moved."""

    def __init__(self) -> None:
        self.seconds = 1_790_000_000.0

    def __call__(self) -> float:
        """Give the time."""
        return self.seconds


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca, other, admin and root certificates and keys."""
    directory = tmp_path_factory.mktemp("pki")
    authority = Authority.create(directory, "ca")
    Authority.create(directory, "other")
    authority.client(directory, "admin", "admin", ["system:masters"])
    authority.client(directory, "second", "second")
    return directory


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def tree(cluster: Any = None, user: Any = None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [{"name": "c", "cluster": {"server": "https://h:6443"} | (cluster or {})}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        "current-context": "x",
    }


def write(directory: Path, content: dict[str, Any] | str | bytes) -> Path:
    path = directory / "config"
    if isinstance(content, dict):
        content = orjson.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def plugin(directory: Path, script: str) -> Path:
    """Write an executable Python script and give its path."""
    path = directory / "plugin"
    path.write_text(f"#!{sys.executable} -SE\nimport json, os, sys, time\n{script}\n")
    path.chmod(0o755)
    return path


def credential(**status: Any) -> str:
    """Give Python code that prints an ExecCredential."""
    answer = {"apiVersion": V1, "kind": "ExecCredential", "status": status}
    return f"print({orjson.dumps(answer).decode()!r})"


def executing(path: Path | str, **fields: Any) -> dict[str, Any]:
    exec_ = {"apiVersion": V1, "command": str(path), "interactiveMode": "Never"} | fields
    return tree(user={"exec": exec_})


async def authorization(config: ConnectionConfig) -> str | None:
    return (await config.credentials()).headers.get("Authorization")


# -- what a kubeconfig says -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "wanted"),
    [
        pytest.param({}, None, id="nothing"),
        pytest.param({"token": SECRET}, f"Bearer {SECRET}", id="token"),
        pytest.param({"token": f" {SECRET}\n"}, f"Bearer {SECRET}", id="token in white space"),
        pytest.param({"tokenFile": "token"}, "Bearer from-file", id="token file"),
        pytest.param({"tokenFile": "token", "token": "x"}, "Bearer from-file", id="file wins"),
        pytest.param(
            {"username": "me", "password": "pä"}, "Basic bWU6cMOk", id="user name and password"
        ),
    ],
)
async def test_authorization(tmp_path: Path, user: dict[str, str], wanted: str | None) -> None:
    """Tokens and passwords become the Authorization header, the token file before the token."""
    (tmp_path / "token").write_text("from-file\n")
    assert wanted == await authorization(load_kubeconfig(write(tmp_path, tree(user=user))))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param("https://h:6443", "https://h:6443", id="as it is"),
        pytest.param("https://h", "https://h", id="without a port"),
        pytest.param("https://h:443", "https://h", id="the usual port"),
        pytest.param("https://h:6443/", "https://h:6443", id="slash at its end"),
        pytest.param("https://h/k8s/c-1/", "https://h/k8s/c-1", id="with a path"),
        pytest.param("http://127.0.0.1:8001", "http://127.0.0.1:8001", id="plain HTTP"),
        pytest.param("https://[::1]:6443", "https://[::1]:6443", id="IPv6"),
    ],
)
def test_server(tmp_path: Path, given: str, wanted: str) -> None:
    """The server's URL is kept without a slash at its end."""
    assert wanted == load_kubeconfig(write(tmp_path, tree({"server": given}))).server


def test_context_is_chosen(tmp_path: Path) -> None:
    """A context that is asked for goes before the current one."""
    content = tree(user={"token": "a"})
    content["clusters"].append({"name": "d", "cluster": {"server": "https://second:1"}})
    content["contexts"].append({"name": "y", "context": {"cluster": "d"}})
    path = write(tmp_path, content)
    assert load_kubeconfig(path).server == "https://h:6443"
    assert load_kubeconfig(path, "y").server == "https://second:1"


def test_nulls_are_absent(tmp_path: Path) -> None:
    """Null means absent, as Go writes empty lists and maps."""
    path = plugin(tmp_path, "")
    content = executing(path, args=None, env=None, installHint=None) | {"preferences": None}
    content["clusters"][0]["cluster"]["certificate-authority-data"] = None
    assert load_kubeconfig(write(tmp_path, content)).server == "https://h:6443"


def test_yaml(tmp_path: Path) -> None:
    """A kubeconfig in YAML, quotes and comments and unknown keys and all, is understood."""
    text = """
    # made by hand
    current-context: "x"
    clusters:
    - name: c
      cluster: {server: 'https://h:6443', disable-compression: true}
    contexts:
    - {name: x, context: {cluster: c, user: ""}}
    extensions: []
    """
    assert load_kubeconfig(write(tmp_path, text)).server == "https://h:6443"


# -- TLS --------------------------------------------------------------------------------------


def trusted(context: ssl.SSLContext | None) -> list[str]:
    assert context is not None
    found: list[Any] = context.get_ca_certs()
    return sorted(name[0][1] for each in found for name in each["subject"])


async def test_tls_rules(tmp_path: Path, pki: Path) -> None:
    """Connections are TLS 1.2 or later, verified, and HTTP/1.1; plain HTTP has no context."""
    config = load_kubeconfig(write(tmp_path, tree()))
    context = (await config.credentials()).ssl_context
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    plain = load_kubeconfig(write(tmp_path, tree({"server": "http://h:1"})))
    assert (await plain.credentials()).ssl_context is None


@pytest.mark.parametrize("inline", [False, True], ids=["file", "inline"])
async def test_only_the_given_authority_is_trusted(tmp_path: Path, pki: Path, inline: bool) -> None:
    """With a CA, inline or by a relative path, it is the only one trusted."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/ca.crt").write_text("Größe\n" + (pki / "ca.crt").read_text())
    cluster = (
        {"certificate-authority-data": encoded(pki / "ca.crt"), "certificate-authority": "none"}
        if inline
        else {"certificate-authority": "sub/ca.crt"}
    )
    config = load_kubeconfig(write(tmp_path, tree(cluster)))
    assert trusted((await config.credentials()).ssl_context) == ["ca"]


async def test_insecure(tmp_path: Path) -> None:
    """insecure-skip-tls-verify turns the verification off, and only that."""
    config = load_kubeconfig(write(tmp_path, tree({"insecure-skip-tls-verify": True})))
    context = (await config.credentials()).ssl_context
    assert context is not None
    assert context.verify_mode == ssl.CERT_NONE


@pytest.mark.parametrize("inline", [False, True], ids=["file", "inline"])
def test_nothing_is_written(
    tmp_path: Path, pki: Path, inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Client certificates reach OpenSSL without a temporary file, and leave no open descriptor."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    user = (
        {
            "client-certificate-data": encoded(pki / "admin.crt"),
            "client-key-data": encoded(pki / "admin.key"),
        }
        if inline
        else {"client-certificate": str(pki / "admin.crt"), "client-key": str(pki / "admin.key")}
    )
    path = write(tmp_path, tree({"tls-server-name": "other"}, user))
    before = set(Path("/proc/self/fd").iterdir())
    assert load_kubeconfig(path).server_name == "other"
    assert before == set(Path("/proc/self/fd").iterdir())
    assert [path] == list(tmp_path.iterdir())


# -- what is wrong ----------------------------------------------------------------------------

_TWO = {"client-certificate": "a.pem"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"\x00\xff", "must be YAML", id="binary"),
        pytest.param(
            f"users: [\n- token: {SECRET}\n  x", "line 2: must be YAML: did not", id="no YAML"
        ),
        pytest.param("[]", "must be a map with clusters, users and contexts", id="no map"),
        pytest.param("", "must be a map", id="empty"),
        pytest.param({}, "current-context is empty", id="empty map"),
        pytest.param({"clusters": {}}, "clusters: {}: input should be a valid list", id="type"),
        pytest.param(
            tree({"server": 7}), "clusters[0].cluster.server: 7: input should be a", id="number"
        ),
        pytest.param(
            tree({"insecure-skip-tls-verify": "yes"}),
            "insecure-skip-tls-verify: 'yes': input should be a valid boolean",
            id="boolean as text",
        ),
        pytest.param(
            tree(user={"token": [SECRET]}),
            "users[0].user.token: input should be a valid string",
            id="a secret's value is not shown",
        ),
        pytest.param(
            tree(user={"exec": {"apiVersion": V1}}),
            "users[0].user.exec.command: field required",
            id="exec without a command",
        ),
        pytest.param(
            tree() | {"current-context": "z"}, "no context 'z'; there are: x", id="context"
        ),
        pytest.param(tree() | {"clusters": None}, "no cluster 'c'; there are: none", id="cluster"),
        pytest.param(tree() | {"users": []}, "no user 'u'; there are: none", id="user"),
        pytest.param(tree({"server": ""}), "'' must be a URL such as", id="no server"),
        pytest.param(tree({"server": "h:6443"}), "cluster 'c': server: 'h:6443' must", id="scheme"),
        pytest.param(tree({"server": "ftp://h"}), "'ftp://h' must be a URL", id="other scheme"),
        pytest.param(tree({"server": "https://h:x"}), "must be a URL", id="port"),
        pytest.param(tree({"server": "https://h?a=b"}), "must be a URL", id="query"),
        pytest.param(
            tree({"server": f"https://u:{SECRET}@h"}), "server: it must be a URL", id="password"
        ),
        pytest.param(tree({"proxy-url": "http://p"}), "proxy-url is not supported", id="proxy"),
        pytest.param(
            tree({"certificate-authority-data": "%"}),
            "cluster 'c': certificate-authority-data must be base64",
            id="CA is no base64",
        ),
        pytest.param(
            tree({"certificate-authority-data": "bm9uZQ=="}),
            "certificate-authority-data must hold certificates in PEM",
            id="CA is no PEM",
        ),
        pytest.param(
            tree({"certificate-authority": "none.pem"}),
            "certificate-authority: cannot read TMP/none.pem: No such file or directory",
            id="CA is missing",
        ),
        pytest.param(
            tree({"certificate-authority-data": "eA==", "insecure-skip-tls-verify": True}),
            "insecure-skip-tls-verify must be false",
            id="CA not to be verified",
        ),
        pytest.param(
            tree(user={"client-key-data": "eA=="}), "must be given together", id="key alone"
        ),
        pytest.param(
            tree(user={"client-certificate-data": "eA==", "client-key-data": "eA=="}),
            "user 'u': client-certificate-data must be a certificate in PEM and its own",
            id="certificate is no PEM",
        ),
        pytest.param(tree(user={"tokenFile": "t"}), "user 'u': tokenFile: cannot", id="no file"),
        pytest.param(tree(user={"token": f"{SECRET}\r\nA: b"}), "printable", id="token of lines"),
        pytest.param(
            tree(user={"token": SECRET, "username": "u"}),
            "only one of token and username may be given",
            id="two ways",
        ),
        pytest.param(tree(user={"auth-provider": {"name": "gcp"}}), "use exec", id="auth-provider"),
        pytest.param(tree(user={"as": "admin"}), "impersonation (as)", id="impersonation"),
        pytest.param(
            executing(Path("/none/such"), installHint="get it\nthere"),
            "user 'u': exec: command '/none/such' not found or not executable (get it there)",
            id="plugin is missing",
        ),
        pytest.param(
            executing(Path("sh"), apiVersion="client.authentication.k8s.io/v1alpha1"),
            f"exec.apiVersion: 'client.authentication.k8s.io/v1alpha1' must be {V1} or",
            id="plugin of another version",
        ),
        pytest.param(
            executing(Path("sh"), interactiveMode="Always"),
            "exec.interactiveMode: 'Always' must be 'Never' or 'IfAvailable'",
            id="plugin for a terminal",
        ),
    ],
)
def test_mistakes(tmp_path: Path, content: Any, words: str) -> None:
    """Each mistake is one line with file, field and what would be right, without secrets."""
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as caught:
        load_kubeconfig(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert words.replace("TMP", str(tmp_path)) in line
    assert SECRET not in line
    assert "\n" not in line


def test_missing_file(tmp_path: Path) -> None:
    """A kubeconfig that isn't there is a mistake as well."""
    with pytest.raises(ConfigError, match=r"^kubeconfig: cannot read .*/none: No such file"):
        load_kubeconfig(tmp_path / "none")


def test_key_of_another_certificate(tmp_path: Path, pki: Path) -> None:
    """A key that isn't the certificate's is found when the file is loaded."""
    user = {"client-certificate": str(pki / "admin.crt"), "client-key": str(pki / "second.key")}
    with pytest.raises(ConfigError, match="its own unencrypted private key: KEY_VALUES_MISMATCH"):
        load_kubeconfig(write(tmp_path, tree(user=user)))


@given(text=st.text())
def test_server_url_never_breaks(text: str) -> None:
    """Any text is a server's URL or a ConfigError."""
    try:
        assert server_url(text, "x").startswith(("http://", "https://"))
    except ConfigError as error:
        assert str(error).startswith("x: ")  # noqa: PT017


# -- what changes -----------------------------------------------------------------------------


async def test_changed_files_are_read_again(tmp_path: Path) -> None:
    """A changed token file counts from the next look at it, at most every CHECK_SECONDS."""
    clock = Clock()
    token = tmp_path / "token"
    token.write_text("one")
    path = write(tmp_path, tree(user={"tokenFile": "token"}))
    config = load_kubeconfig(path, clock=clock)
    token.write_text("two-and-more")
    assert await authorization(config) == "Bearer one"
    clock.seconds += CHECK_SECONDS
    assert await authorization(config) == "Bearer two-and-more"
    write(tmp_path, tree({"server": "https://other:1"}, {"token": "three"}))
    clock.seconds += CHECK_SECONDS
    assert await authorization(config) == "Bearer three"
    assert config.server == "https://other:1"


async def test_refresh_looks_at_once(tmp_path: Path) -> None:
    """After a 401 files are looked at at once; when nothing changed, the credentials are equal."""
    path = write(tmp_path, tree(user={"token": "one"}))
    config = load_kubeconfig(path, clock=Clock())
    refused = await config.credentials()
    assert refused == await config.refresh(refused)
    write(tmp_path, tree(user={"token": "another"}))
    fresh = await config.refresh(refused)
    assert fresh.headers == {"Authorization": "Bearer another"}
    assert fresh.ssl_context is refused.ssl_context


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"", id="empty"),
        pytest.param(orjson.dumps(tree(user={"token": "two"}))[:-9], id="half written"),
        pytest.param(None, id="missing"),
    ],
)
async def test_broken_files_change_nothing(tmp_path: Path, broken: bytes | None) -> None:
    """While a file can't be used, what was read before holds; once it can, it counts."""
    clock = Clock()
    path = write(tmp_path, tree(user={"token": "one"}))
    config = load_kubeconfig(path, clock=clock)
    if broken is None:
        path.unlink()
    else:
        write(tmp_path, broken)
    clock.seconds += CHECK_SECONDS
    assert await authorization(config) == "Bearer one"
    write(tmp_path, tree(user={"token": "two"}))
    clock.seconds += CHECK_SECONDS
    assert await authorization(config) == "Bearer two"


async def test_rotated_certificates(tmp_path: Path, pki: Path) -> None:
    """A client certificate counts once its key has arrived too, in a new SSL context."""
    clock = Clock()
    mine = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    mine.certificate.write_bytes((pki / "admin.crt").read_bytes())
    mine.key.write_bytes((pki / "admin.key").read_bytes())
    user = {"client-certificate": "tls.crt", "client-key": "tls.key"}
    config = load_kubeconfig(write(tmp_path, tree(user=user)), clock=clock)
    before = await config.credentials()
    mine.certificate.write_bytes((pki / "second.crt").read_bytes())
    clock.seconds += CHECK_SECONDS
    assert before == await config.credentials()
    mine.key.write_bytes((pki / "second.key").read_bytes())
    clock.seconds += CHECK_SECONDS
    after = await config.credentials()
    assert after.ssl_context is not before.ssl_context


# -- exec plugins -----------------------------------------------------------------------------


async def test_plugin_is_run_once(tmp_path: Path) -> None:
    """A plugin is run at the first use, once for all that wait; no expiry means never again."""
    script = f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\n{credential(token='t')}"
    clock = Clock()
    config = load_kubeconfig(
        write(tmp_path, executing(plugin(tmp_path, script))), clock=clock, now=clock
    )
    assert not (tmp_path / "runs").exists()
    found = await asyncio.gather(*(authorization(config) for _ in range(5)))
    clock.seconds += 1e6
    assert [await authorization(config), *found] == ["Bearer t"] * 6
    assert (tmp_path / "runs").read_text() == "x"


async def test_plugin_is_told(tmp_path: Path, pki: Path) -> None:
    """A plugin gets its arguments, environment and, when it asks for it, the cluster."""
    script = """
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert sys.argv[1:] == ["a b", ""] and os.environ["MINE"] == "1" and "PATH" in os.environ, sys.argv
assert sys.stdin.read() == ""
assert info["kind"] == "ExecCredential" and info["spec"]["interactive"] is False, info
cluster = info["spec"]["cluster"]
assert cluster.pop("certificate-authority-data"), info
assert cluster == {"server": "https://h:6443", "tls-server-name": "n", "config": {"x": 1}}, info
print(json.dumps({**info, "status": {"token": "told"}}))
"""
    plugin(tmp_path, script)
    content = executing(
        "./plugin",
        apiVersion="client.authentication.k8s.io/v1beta1",
        args=["a b", ""],
        env=[{"name": "MINE", "value": "1"}],
        provideClusterInfo=True,
    )
    content["clusters"][0]["cluster"] |= {
        "certificate-authority": str(pki / "ca.crt"),
        "tls-server-name": "n",
        "extensions": [
            {"name": "client.authentication.k8s.io/exec", "extension": {"x": 1}},
            {"name": "other", "extension": {"y": 1}},
        ],
    }
    assert await authorization(load_kubeconfig(write(tmp_path, content))) == "Bearer told"


async def test_plugin_gives_a_certificate(tmp_path: Path, pki: Path) -> None:
    """A client certificate from a plugin is in the SSL context; a bad one is an error."""
    good = credential(
        clientCertificateData=(pki / "admin.crt").read_text(),
        clientKeyData=(pki / "admin.key").read_text(),
    )
    config = load_kubeconfig(write(tmp_path, executing(plugin(tmp_path, good))))
    assert (await config.credentials()).headers == {}
    bad = credential(clientCertificateData="x", clientKeyData="y")
    config = load_kubeconfig(write(tmp_path, executing(plugin(tmp_path, bad))))
    with pytest.raises(ConfigError, match="exec: what it gave must be a certificate in PEM"):
        await config.credentials()


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def counting(directory: Path, life: float, clock: Clock) -> Path:
    """A plugin whose n-th run gives token n, good for ``life`` seconds from the clock's now.

    It fails when there is a file ``fail`` beside it.
    """
    expires = stamp(clock.seconds + life)
    return plugin(
        directory,
        f"""
if os.path.exists({str(directory / "fail")!r}): sys.exit("sorry")
with open({str(directory / "runs")!r}, "a+") as runs:
    runs.write("x"); runs.seek(0); n = len(runs.read())
status = {{"token": str(n), "expirationTimestamp": {expires!r}}}
print(json.dumps({{"apiVersion": {V1!r}, "kind": "ExecCredential", "status": status}}))
""",
    )


@pytest.mark.parametrize(
    ("life", "still", "renewed"),
    [
        pytest.param(3600, 3600 - LEEWAY_SECONDS - 1, 3600 - LEEWAY_SECONDS, id="an hour"),
        pytest.param(100, 79, 80, id="short life"),
        pytest.param(0, RERUN_SECONDS - 1, RERUN_SECONDS, id="no life"),
        pytest.param(-500, RERUN_SECONDS - 1, RERUN_SECONDS, id="expired by our clock"),
    ],
)
async def test_expiry(tmp_path: Path, life: float, still: float, renewed: float) -> None:
    """A credential is renewed a minute before its expiry, or at 80 % of a short life."""
    clock = Clock()
    start = clock.seconds
    path = write(tmp_path, executing(counting(tmp_path, life, clock)))
    config = load_kubeconfig(path, clock=clock, now=clock)
    assert await authorization(config) == "Bearer 1"
    clock.seconds = start + still
    assert await authorization(config) == "Bearer 1"
    clock.seconds = start + renewed
    assert await authorization(config) == "Bearer 2"


async def test_failing_renewal(tmp_path: Path) -> None:
    """When a renewal fails the old credential is used until it expires, then it is an error."""
    clock = Clock()
    start = clock.seconds
    path = write(tmp_path, executing(counting(tmp_path, 100, clock)))
    config = load_kubeconfig(path, clock=clock, now=clock)
    await config.credentials()
    (tmp_path / "fail").touch()
    clock.seconds = start + 90
    assert await authorization(config) == "Bearer 1"
    clock.seconds = start + 100
    with pytest.raises(ConfigError, match=r"failed with exit status 1: sorry$"):
        await config.credentials()
    (tmp_path / "fail").unlink()
    with pytest.raises(ConfigError, match="sorry"):
        await config.credentials()
    clock.seconds += RERUN_SECONDS
    assert await authorization(config) == "Bearer 2"


async def test_refused_credential_is_issued_anew(tmp_path: Path) -> None:
    """After a 401 the plugin is run again: once for all refused requests, and not at once again."""
    clock = Clock()
    path = write(tmp_path, executing(counting(tmp_path, 3600, clock)))
    config = load_kubeconfig(path, clock=clock, now=clock)
    refused = await config.credentials()
    assert refused == await config.refresh(refused)
    clock.seconds += RERUN_SECONDS
    fresh = await asyncio.gather(*(config.refresh(refused) for _ in range(5)))
    assert [each.headers["Authorization"] for each in fresh] == ["Bearer 2"] * 5
    assert (tmp_path / "runs").read_text() == "xx"


async def test_changed_plugin(tmp_path: Path) -> None:
    """When the kubeconfig names another plugin, what the old one gave is dropped."""
    clock = Clock()
    path = write(tmp_path, executing(counting(tmp_path, 3600, clock)))
    config = load_kubeconfig(path, clock=clock, now=clock)
    await config.credentials()
    write(tmp_path, executing(tmp_path / "plugin", args=["x"]))
    clock.seconds += CHECK_SECONDS
    assert await authorization(config) == "Bearer 2"
    write(tmp_path, tree(user={"token": "own"}))
    clock.seconds += CHECK_SECONDS
    assert await authorization(config) == "Bearer own"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        pytest.param("", "gave no ExecCredential: ", id="nothing"),
        pytest.param(f"print('{SECRET}')", "gave no ExecCredential: ", id="no JSON"),
        pytest.param(
            "print('{\"status\": 1}')", "Expected `object`, got `int` - at `$.status`", id="types"
        ),
        pytest.param(
            credential(token=SECRET).replace("ExecCredential", "Other"),
            f"must give an ExecCredential of {V1}",
            id="another kind",
        ),
        pytest.param(
            credential(token=SECRET).replace("/v1", "/v1beta1"),
            f"must give an ExecCredential of {V1}",
            id="another version",
        ),
        pytest.param(credential(), "gave neither a token nor a client certificate", id="empty"),
        pytest.param(credential(clientKeyData=SECRET), "together", id="key alone"),
        pytest.param(credential(token=f"{SECRET}\nA: b"), "printable", id="token of two lines"),
        pytest.param(
            credential(token=SECRET, expirationTimestamp="soon"),
            "Invalid RFC3339 encoded datetime",
            id="expiry",
        ),
        pytest.param(
            f"print('{SECRET}'); print('x' * 9999, file=sys.stderr); sys.exit(3)",
            "failed with exit status 3: xxx",
            id="failure",
        ),
        pytest.param("os.kill(os.getpid(), 9)", "failed with exit status -9", id="killed"),
    ],
)
async def test_plugin_mistakes(tmp_path: Path, script: str, words: str) -> None:
    """What a plugin does wrong is one bounded line, with the hint and without its output."""
    content = executing(plugin(tmp_path, script), installHint="ask Ada")
    config = load_kubeconfig(write(tmp_path, content))
    with pytest.raises(ConfigError) as caught:
        await config.credentials()
    line = str(caught.value)
    assert words in line
    assert "user 'u': exec: " in line
    assert SECRET not in line
    assert len(line) < 700


async def test_plugin_that_vanished(tmp_path: Path) -> None:
    """A plugin that can't be started when it is needed is an error with its hint."""
    path = plugin(tmp_path, "")
    config = load_kubeconfig(write(tmp_path, executing(path, installHint="ask Ada")))
    path.unlink()
    with pytest.raises(ConfigError, match=r"can't be run: No such file or directory \(ask Ada\)$"):
        await config.credentials()


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


async def test_cancelled_plugin_is_killed(tmp_path: Path) -> None:
    """A cancelled wait leaves no process behind, and the next request runs the plugin again."""
    pid = tmp_path / "pid"
    script = f"""
if not os.path.exists({str(pid)!r}):
    with open({str(pid)!r} + "~", "w") as file: file.write(str(os.getpid()))
    os.rename({str(pid)!r} + "~", {str(pid)!r})
    time.sleep(60)
{credential(token="second")}"""
    config = load_kubeconfig(write(tmp_path, executing(plugin(tmp_path, script))))
    waiting = asyncio.create_task(config.credentials())
    await eventually(pid.exists)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert await authorization(config) == "Bearer second"


# -- in a pod ---------------------------------------------------------------------------------

POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


@pytest.fixture
def mounted(tmp_path: Path, pki: Path) -> Path:
    """What the kubelet mounts: links into a directory that it swaps."""
    directory = tmp_path / "serviceaccount"
    for name, token in (("first", SECRET), ("second", "two")):
        (directory / name).mkdir(parents=True)
        (directory / name / "ca.crt").write_bytes((pki / "ca.crt").read_bytes())
        (directory / name / "token").write_text(token)
    (directory / "..data").symlink_to("first")
    for name in ("ca.crt", "token"):
        (directory / name).symlink_to(f"..data/{name}")
    return directory


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        pytest.param({}, False, id="no pod"),
        pytest.param({"KUBERNETES_SERVICE_HOST": "h"}, False, id="no port"),
        pytest.param(POD | {"KUBERNETES_SERVICE_HOST": ""}, False, id="empty host"),
        pytest.param(POD, True, id="pod"),
    ],
)
def test_in_cluster(mounted: Path, environ: dict[str, str], wanted: bool) -> None:
    """A pod has both variables, and a token: without one (automount off) it counts as none."""
    assert wanted == in_cluster(environ, mounted)
    assert not in_cluster(environ, mounted / "none")


@pytest.mark.parametrize(
    ("host", "server"),
    [
        pytest.param("10.0.0.1", "https://10.0.0.1:6443", id="IPv4"),
        pytest.param("fd00::1", "https://[fd00::1]:6443", id="IPv6"),
    ],
)
async def test_load_in_cluster(mounted: Path, host: str, server: str) -> None:
    """A pod's configuration: server from the environment, CA and token from the mount."""
    config = load_in_cluster(POD | {"KUBERNETES_SERVICE_HOST": host}, mounted)
    credentials = await config.credentials()
    assert server == str(config.server)
    assert trusted(credentials.ssl_context) == ["ca"]
    assert credentials.headers == {"Authorization": f"Bearer {SECRET}"}


async def test_pod_token_is_rotated(mounted: Path) -> None:
    """When the kubelet swaps its directory the new token counts, on the same SSL context."""
    clock = Clock()
    config = load_in_cluster(POD, mounted, clock=clock)
    before = await config.credentials()
    (mounted / "new").symlink_to("second")
    (mounted / "new").rename(mounted / "..data")
    clock.seconds += CHECK_SECONDS
    after = await config.credentials()
    assert after.headers == {"Authorization": "Bearer two"}
    assert after.ssl_context is before.ssl_context
    assert CHECK_SECONDS <= 60


@pytest.mark.parametrize(
    ("environ", "gone", "words"),
    [
        pytest.param({}, "", "KUBERNETES_SERVICE_HOST is not set: this is no pod", id="no pod"),
        pytest.param(
            POD | {"KUBERNETES_SERVICE_PORT": "https"}, "", "'https' must be a port", id="port"
        ),
        pytest.param(POD, "token", "token: No such file or directory", id="no token"),
        pytest.param(POD, "ca.crt", "ca.crt: No such file or directory", id="no CA"),
    ],
)
def test_mistakes_in_a_pod(mounted: Path, environ: dict[str, str], gone: str, words: str) -> None:
    """What is missing in a pod is said in one line."""
    if gone:
        (mounted / gone).unlink()
    with pytest.raises(ConfigError, match=words):
        load_in_cluster(environ, mounted)


def test_no_secret_in_a_repr(tmp_path: Path, mounted: Path) -> None:
    """What holds a credential doesn't show it when it is printed."""
    config = load_in_cluster(POD, mounted)
    assert SECRET not in repr(vars(config))
    content = executing(Path("sh"), args=[SECRET], env=[{"name": "A", "value": SECRET}])
    assert SECRET not in repr(vars(load_kubeconfig(write(tmp_path, content))))


def test_light_import() -> None:
    """Loading configurations needs neither the big client library nor cryptography."""
    code = (
        "import sys, syncer.kube.client\n"
        "print([name for name in ('kubernetes_asyncio', 'cryptography') if name in sys.modules])"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, check=True, text=True)
    assert done.stdout == "[]\n"
