"""`syncer kubeconfig`: its options, and what it refuses before it asks anybody."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from syncer.cli import commands, main
from syncer.commands import CommandError
from syncer.commands.kubeconfig import Grant, make
from syncer.commands.options import KubeconfigOptions
from syncer.kubeconfig.document import Kubeconfig
from syncer.objects import Key, Object
from syncer.settings import UsageError, entries, load, load_options
from tests.unit.test_kubeconfig_document import ADMIN, made_pair

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run on a machine that knows no cluster, and keep logging as it is."""
    for name in os.environ:
        if name.startswith(("SYNCER_", "KUBE")) or name == "NAMESPACE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("syncer.ops.logging.configure", lambda *_args: None)


def options(**flags: object) -> KubeconfigOptions:
    return load_options(KubeconfigOptions, flags, {})


def test_a_service_account_has_a_namespace() -> None:
    """kube-system unless it is named."""
    assert options(service_account="admin").service_account == Key("kube-system", "admin")
    assert options(service_account="a/b.c").service_account == Key("a", "b.c")
    assert options().service_account is None


def test_an_empty_name_is_the_default_one() -> None:
    """As for `syncer start`: both mean the same virtual cluster by the same flags."""
    assert options(name="").name == options().name == load({"name": ""}, {}).settings.name


def test_the_environment_says_which_virtual_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the syncer's own pod the command needs no flags for it."""
    environ = {"SYNCER_NAME": "one", "NAMESPACE": "host-1", "KUBECONFIG": "k", "SYNCER_SERVER": "x"}
    found = load_options(KubeconfigOptions, {"name": "two"}, environ)
    assert (found.name, found.namespace, found.host_kube_config) == ("two", "host-1", "k")
    assert found.server == ""


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        pytest.param({"service_account": "a/b/c"}, '--service-account="a/b/c": must be', id="path"),
        pytest.param({"service_account": "/b"}, '--service-account="/b": must be', id="half"),
        pytest.param({"service_account": "A"}, '--service-account="A": must be', id="letters"),
        pytest.param(
            {"service_account": "a", "cluster_role": "../x"},
            '--cluster-role="../x": must be the name',
            id="role",
        ),
        pytest.param(
            {"cluster_role": "view"},
            '--cluster-role="view": is for a service account: --service-account=NAME',
            id="role for nobody",
        ),
        pytest.param(
            {"token_expiration": "700"},
            '--token-expiration="700": is for a service account',
            id="token for nobody",
        ),
        pytest.param(
            {"service_account": "a", "token_expiration": "599"},
            '--token-expiration="599": must be a whole number of seconds, 600 to',
            id="too short",
        ),
        pytest.param(
            {"service_account": "a", "token_expiration": "1h"},
            '--token-expiration="1h": must be a whole number of seconds',
            id="unit",
        ),
        pytest.param({"server": "http://a"}, '--server="http://a": must be a URL', id="http"),
        pytest.param({"insecure": "yes"}, '--insecure="yes": must be true or false', id="boolean"),
        pytest.param({"name": "a-x-b"}, '--name="a-x-b": must not contain', id="name"),
    ],
)
def test_wrong_options_are_one_line(flags: dict[str, object], line: str) -> None:
    """A mistake names the flag, its value and what would be right."""
    with pytest.raises(UsageError) as caught:
        options(**flags)
    (only,) = caught.value.lines
    assert only.startswith(line)


GRANT = Grant(Key("kube-system", "admin"), "view")


def binding(**changed: object) -> Object:
    return GRANT.binding() | changed


@pytest.mark.parametrize(
    ("found", "refused"),
    [
        pytest.param(binding(), False, id="the same"),
        pytest.param(
            binding(subjects=[{"kind": "User", "name": "x"}, GRANT.subject]), False, id="others too"
        ),
        pytest.param(binding(subjects=[]), True, id="nobody"),
        pytest.param(binding(subjects=None), True, id="null"),
        pytest.param(
            binding(subjects=[GRANT.subject | {"namespace": "a"}]), True, id="a namesake elsewhere"
        ),
        pytest.param(
            binding(roleRef={"kind": "ClusterRole", "name": "cluster-admin"}), True, id="more"
        ),
        pytest.param(binding(roleRef={"kind": "Role", "name": "view"}), True, id="another kind"),
    ],
)
def test_a_binding_to_something_else_is_refused(found: Object, *, refused: bool) -> None:
    """A binding of that name is used only if it gives the account just the role."""
    reason = GRANT.refuse(found)
    assert (reason is not None) == refused
    assert reason is None or "vcluster-sa-admin-kube-system" in reason


def test_the_binding_is_vclusters() -> None:
    """It has the name that vcluster connect gives it, so that theirs is found."""
    made = GRANT.binding()
    assert made["metadata"] == {"name": "vcluster-sa-admin-kube-system"}
    assert made["roleRef"]["name"] == "view"
    assert made["subjects"] == [
        {"kind": "ServiceAccount", "name": "admin", "namespace": "kube-system"}
    ]


def test_a_file_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the administrator's kubeconfig at hand no API server is asked for another form of it."""
    path = tmp_path / "admin.conf"
    path.write_text(ADMIN.text())
    flags = [f"--kube-config={path}", "--server=https://a:1/", "--context-name=b", "--insecure"]
    assert main(["kubeconfig", *flags]) == 0
    expected = Kubeconfig(
        "https://a:1", "b", insecure=True, certificate=ADMIN.certificate, key=ADMIN.key
    )
    assert capsys.readouterr() == (expected.text(), "")


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        pytest.param([], 1, "no host cluster: this is no pod", id="no host"),
        pytest.param(["--host-kube-config=/a:/b"], 1, "/a:/b: several kubeconfigs", id="several"),
        pytest.param(["--kube-config=/a"], 1, "kubeconfig: cannot read /a", id="no file"),
        pytest.param(["--cluster-role=view"], 2, "--cluster-role=", id="usage"),
        pytest.param(["--servr=x"], 2, 'unknown flag "--servr"', id="unknown flag"),
    ],
)
def test_what_fails_is_one_line_on_standard_error(
    flags: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code 1 when it can't be had, 2 when it can't be understood; nothing on standard output."""
    assert main(["kubeconfig", *flags]) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {says}")
    assert output.err.count("\n") == 1


def test_an_unreached_server_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line says which server, why, and what would help."""
    path = tmp_path / "admin.conf"
    path.write_text(ADMIN.text())
    flags = [f"--kube-config={path}", "--server=https://127.0.0.1:1", "--service-account=a"]
    assert main(["kubeconfig", *flags]) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: virtual cluster at https://127.0.0.1:1: ")
    assert "--server=URL names another way" in line


@pytest.mark.parametrize("body", [b"<html>Log in</html>", b"[]", b"{}", b""], ids=repr)
async def test_a_server_that_is_no_api_server_is_named(tmp_path: Path, body: bytes) -> None:
    """A login page or the like, behind whatever URL was given, is one line and no token."""
    certificate, key = made_pair("localhost")
    (tmp_path / "pair").write_bytes(certificate + key)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "pair")
    path = tmp_path / "admin.conf"
    path.write_text(ADMIN.text())

    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(body=body)

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        server = f"https://127.0.0.1:{runner.addresses[0][1]}"
        asked = options(kube_config=str(path), server=server, insecure="true", service_account="a")
        with pytest.raises(CommandError) as caught:
            await make(asked, lambda line: pytest.fail(line))
    finally:
        await runner.cleanup()
    expected = f"virtual cluster at {server}: what answers there is no Kubernetes API server"
    assert str(caught.value) == expected


@pytest.mark.parametrize("flags", [[], ["--server=https://a:1"], ["--service-account=a"]], ids=str)
def test_plain_http_is_refused(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over it neither certificate nor token is safe; the line says so, not something else."""
    path = tmp_path / "admin.conf"
    path.write_text(replace(ADMIN, server="http://localhost:8001").text())
    assert main(["kubeconfig", f"--kube-config={path}", *flags]) == 1
    expected = f"error: {path}: server: http://localhost:8001 must be a URL of https\n"
    assert capsys.readouterr() == ("", expected)


def test_help_and_docs_tell_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/operations.md has a row with the default of each, and no others."""
    (command,) = (each for each in commands() if each.name == "kubeconfig")
    assert main(["kubeconfig", "--help"]) == 0
    shown = capsys.readouterr().out
    section = OPERATIONS.partition("\n## Kubeconfig\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `--([a-z-]+)(?:=[^`]*)?` \| ([^|]*) \|", section, re.MULTILINE)
    assert rows == [(entry.flag, entry.default) for entry in entries(KubeconfigOptions)]
    assert {flag.name for flag in command.flags} == {flag for flag, _ in rows}
    assert all(f"  --{flag}" in shown for flag, _ in rows)
