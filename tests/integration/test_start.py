"""`syncer start` as a process: mistakes, settings, health, metrics, logs and its end."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from syncer.naming import PREFIX
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    Tenant,
    boot_pair,
    config_map,
    eventually,
    secret,
)
from tests.integration.pod_steps import told

_SYNCER = str(Path(sys.executable).with_name("syncer"))


async def _run(*words: str, **environment: str) -> tuple[int | None, str, str]:
    """Run the command and return its exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        _SYNCER,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin"} | environment,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, output.decode(), errors.decode()


async def _get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.text()


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "environment", "says"),
    [
        pytest.param(["--nmae=x"], {}, '"--nmae"; did you mean "--name"?', id="flag"),
        pytest.param(["--workers=many"], {}, "--workers=", id="value"),
        pytest.param([], {"SYNCER_WORKERS": "many"}, "SYNCER_WORKERS=", id="environment"),
        pytest.param(["--config=/none.yaml"], {}, "/none.yaml", id="file"),
        pytest.param(["--noop-syncer"], {}, "a feature of vcluster Pro", id="retired"),
    ],
)
async def test_a_mistake_is_one_line_and_exit_2(
    words: list[str], environment: dict[str, str], says: str
) -> None:
    """What was not understood is named on standard error, and nothing is started."""
    code, output, errors = await _run("start", *words, **environment)
    assert (code, output) == (2, "")
    assert errors.count("\n") == 1
    assert says in errors


async def test_an_unknown_kind_is_exit_2(pair: Pair) -> None:
    """`--sync` names the kinds there are when it is given another."""
    kubeconfigs = (
        f"--kube-config={pair.virtual.plane.kubeconfig}",
        f"--host-kube-config={pair.host.plane.kubeconfig}",
    )
    code, _, errors = await _run("start", *kubeconfigs, "--sync=pod")
    assert code == 2
    assert errors.count("\n") == 1
    assert 'did you mean "pods"?' in errors


async def test_a_missing_kubeconfig_is_one_line_and_exit_1(tmp_path: Path) -> None:
    """The file is named; no traceback."""
    missing = tmp_path / "none.kubeconfig"
    code, _, errors = await _run(
        "start", f"--kube-config={missing}", f"--host-kube-config={missing}"
    )
    assert code == 1
    lines = [line for line in errors.splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert str(missing) in lines[0]


async def test_no_host_at_all_is_one_line_and_exit_1(pair: Pair) -> None:
    """Outside of a pod the host's kubeconfig has to be given, by flag or `KUBECONFIG`."""
    code, _, errors = await _run("start", f"--kube-config={pair.virtual.plane.kubeconfig}")
    assert code == 1
    assert "--host-kube-config" in errors
    assert "Traceback" not in errors


# -- health, metrics, logs -------------------------------------------------------------------------


async def test_readiness_lists_every_check(pair: Pair) -> None:
    """`/readyz?verbose` names each informer and the gate, `/livez` and `/healthz` say ok."""
    base = pair.syncer.health_url
    assert [await _get(f"{base}/{each}") for each in ("livez", "healthz", "readyz")] == [
        (200, "ok")
    ] * 3
    status, text = await _get(f"{base}/readyz?verbose")
    assert status == 200
    lines = text.splitlines()
    for name in ("informer-host-pods", "informer-virtual-pods", "informer-host-events", "gate"):
        assert f"[+]{name} ok" in lines
    assert lines[-1] == "readyz check passed"


async def test_metrics_tell_of_work_and_requests(pair: Pair, namespace: str) -> None:
    """A copied object shows in the counters of reconciles, latencies and requests."""
    forced = {f"{PREFIX}force-sync": "true"}
    before = await pair.syncer.metrics()
    await pair.virtual.create(secret("measured", namespace, {"a": "b"}, annotations=forced))
    await eventually(lambda: pair.copy("secrets", "measured", namespace))

    async def counted() -> dict[str, float]:  # the copy is there before the syncer has the answer
        after = await pair.syncer.metrics()
        grown = {name for name, value in after.items() if value > before.get(name, 0.0)}
        assert any('kind="secrets"' in name and 'result="written"' in name for name in grown)
        assert any("request" in name and 'code="201"' in name for name in grown)
        assert any("virtual_to_host_seconds" in name and "secrets" in name for name in grown)
        return after

    after = await eventually(counted)
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total"):
        assert after[name] > 0


async def test_a_log_line_names_the_object_and_the_reason(pair: Pair, namespace: str) -> None:
    """Lines are JSON objects; a failure carries kind, namespace, name and reason."""
    home = pair.names.host_namespace
    theirs = pair.host_name("logged", namespace)
    await pair.host.create(config_map(theirs, home, {}))
    forced = {f"{PREFIX}force-sync": "true"}
    await pair.virtual.create(config_map("logged", namespace, {}, annotations=forced))
    await told(pair.virtual, namespace, "logged", "unmanaged physical object")

    def line() -> Object:
        lines = pair.syncer.log_lines()
        assert not [each for each in lines if "text" in each]
        about = (namespace, "logged")
        return [each for each in lines if (each.get("namespace"), each.get("name")) == about][-1]

    found = await eventually(line)
    assert (found["kind"], found["name"], found["level"]) == ("configmaps", "logged", "warning")
    assert "UnmanagedObject" in found["reason"]
    await pair.virtual.delete("configmaps", "logged", namespace)
    await pair.host.delete("configmaps", theirs, home)


# -- a process of its own ------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def own(
    host: Cluster, worker_name: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Pair]:
    """A pair whose syncer has settings from a file and the environment and notes its imports."""
    settings = tmp_path_factory.mktemp("settings") / "settings.yaml"
    settings.write_text("sync-all-configmaps: true\nsync-labels: [team]\nsync-all-secrets: false\n")
    tenant = Tenant(
        f"own-{worker_name}",
        flags=(f"--config={settings}", "--tls-san=*.example.com,10.9.8.7,2001:db8::7"),
        environment=(("SYNCER_SYNC_ALL_SECRETS", "true"), ("PYTHONPROFILEIMPORTTIME", "1")),
    )
    async with boot_pair(host, tenant) as booted:
        yield booted


async def test_settings_come_from_file_and_environment(own: Pair) -> None:
    """The environment wins over the file; both reach the process."""
    labels = {"team": "a", "app": "b"}
    await own.virtual.create(secret("unused", "default", {"a": "b"}, labels=labels))
    await own.virtual.create(config_map("unused", "default", {"a": "b"}))
    copy = await eventually(lambda: own.copy("secrets", "unused", "default"))
    await eventually(lambda: own.copy("configmaps", "unused", "default"))
    await eventually(lambda: own.copy("configmaps", "kube-root-ca.crt", "kube-public"))
    assert copy["metadata"]["labels"]["team"] == "a"
    assert "app" not in copy["metadata"]["labels"]


@pytest.mark.parametrize(
    ("name", "good"),
    [
        pytest.param("api.example.com", True, id="a wildcard's"),
        pytest.param("10.9.8.7", True, id="IPv4"),
        pytest.param("2001:db8::7", True, id="IPv6"),
        pytest.param("localhost", True, id="localhost"),
        pytest.param("kubernetes.default.svc", True, id="the service's"),
        pytest.param("a.api.example.com", False, id="a level below the wildcard"),
        pytest.param("10.9.8.8", False, id="nobody's address"),
    ],
)
async def test_the_endpoint_is_known_by_every_name_of_its_own(
    own: Pair, name: str, *, good: bool
) -> None:
    """Those of `--tls-san` and those that it has without."""
    pki = own.virtual.plane.pki
    url, tls = f"{own.syncer.endpoint}/version", pki.client_context(pki.admin)
    async with aiohttp.ClientSession() as session:
        asked = session.get(url, ssl=tls, server_hostname=name)
        if good:
            async with asked as response:
                assert response.status == 200
        else:
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await asked


async def test_the_process_imports_no_client_library(own: Pair) -> None:
    """What costs half of the memory stays out of `start`; so do YAML-less parts and test tools."""
    lines = [each["text"] for each in own.syncer.log_lines() if "text" in each]
    imported = {line.rpartition("|")[2].strip() for line in lines if "import time:" in line}
    assert {"aiohttp", "syncer.app", "mappers.pods"} <= imported
    tops = {name.partition(".")[0] for name in imported}
    assert not tops & {"kubernetes_asyncio", "kubernetes", "controlplane", "tests", "cryptography"}


async def test_a_stop_is_quick_and_clean(own: Pair) -> None:
    """SIGTERM ends the process with 0 within 5 s, also while it has work."""
    for number in range(50):
        await own.virtual.create(secret(f"late-{number}", "default", {"a": "b"}))
    started = time.monotonic()
    assert await own.syncer.stop() == 0
    assert time.monotonic() - started < 5
    assert own.syncer.log_lines()[-1]["event"] == "stopped"
    await own.syncer.start()

    async def all_copied() -> None:
        assert len(await own.copies("secrets", "default")) >= 50

    await eventually(all_copied)
