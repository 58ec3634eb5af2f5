"""A syncer between two planes, as a process that can be started, broken and measured.

    async with Syncer(host, virtual, tenant="tenant-1", namespace="host-1") as syncer:
        ...  # syncer.stop(), syncer.kill(), syncer.restart(), syncer.metrics()

It runs as an operator would run it: the installed command, admin kubeconfigs, its own host
namespace and the Service there that owns all copies. Both are made beforehand and left behind: they
end with the host plane.

Never imports the syncer: what is measured shares nothing with what measures.
"""

import asyncio
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from controlplane.component import BOOT_TIMEOUT, STOP_TIMEOUT, Component, ComponentError
from controlplane.plane import ControlPlane
from controlplane.ports import LOOPBACK, HeldPort

_POLL = 0.01  # seconds
_SAMPLE = re.compile(r"(?P<series>[a-zA-Z_:][^\s{]*(?:\{.*\})?) (?P<value>\S+)")


class Syncer:
    """A syncer process, its log and its metrics.

    Attributes:
        host: the plane that gets the copies.
        virtual: the tenant's plane.
        tenant: name of the virtual cluster, and of the Service that owns the copies.
        namespace: host namespace of the copies.
        flags: further flags of `syncer start`; change them before a `start` or `restart`.
        log: file with the output of all runs, one JSON object a line.
    """

    def __init__(
        self,
        host: ControlPlane,
        virtual: ControlPlane,
        *,
        tenant: str,
        namespace: str,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        """Describe a syncer; nothing is started.

        Args:
            host: a host plane.
            virtual: a virtual plane without another syncer.
            tenant: name of the virtual cluster.
            namespace: host namespace; made by `prepare` when it isn't there.
            flags: further flags; a repeated one overrides ours.
            environment: further environment variables.
            wrapper: command that runs the syncer's (a profiler), given the syncer's script and
                arguments; nothing means the Python interpreter alone.
        """
        self.host, self.virtual = host, virtual
        self.tenant, self.namespace = tenant, namespace
        self.flags = tuple(flags)
        self._environment = dict(environment or {})
        self._wrapper = tuple(wrapper) or (sys.executable,)
        self._directory = Path(tempfile.mkdtemp(prefix="syncer-"))
        (self._directory / "run").mkdir()
        self._health, self._metrics, self._endpoint = HeldPort(), HeldPort(), HeldPort()
        # Without a command of its own it goes by the pid file, so the exit status stays ours.
        self._component = Component(
            "syncer",
            directory=self._directory,
            probe=f"http://{LOOPBACK}:{self._health.number}/readyz",
            tls=ssl.create_default_context(),
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.log = self._component.log
        self.log.parent.mkdir()
        self.log.touch()

    @property
    def endpoint(self) -> str:
        """URL of the API that a tenant's kubeconfig points at, without a slash at the end."""
        return f"https://{LOOPBACK}:{self._endpoint.number}"

    @property
    def port(self) -> int:
        """Port of that API."""
        return self._endpoint.number

    @property
    def health_url(self) -> str:
        """Where `/healthz`, `/livez` and `/readyz` are, without a slash at the end."""
        return f"http://{LOOPBACK}:{self._health.number}"

    @property
    def metrics_url(self) -> str:
        """Where the metrics are."""
        return f"http://{LOOPBACK}:{self._metrics.number}/metrics"

    @property
    def pid(self) -> int | None:
        """The process id, or None while it does not run."""
        return self._component.pid

    @property
    def running(self) -> bool:
        """Whether the process exists, paused or not."""
        return self._component.running

    @property
    def command(self) -> list[str]:
        """The command line of the next `start`."""
        pki = self.virtual.pki
        return [
            *self._wrapper,
            str(Path(sys.executable).with_name("syncer")),
            "start",
            f"--name={self.tenant}",
            f"--target-namespace={self.namespace}",
            f"--kube-config={self.virtual.kubeconfig}",
            f"--host-kube-config={self.host.kubeconfig}",
            f"--health-probe-bind-address={LOOPBACK}:{self._health.number}",
            f"--metrics-bind-address={LOOPBACK}:{self._metrics.number}",
            f"--bind-address={LOOPBACK}",
            f"--port={self._endpoint.number}",
            f"--server-ca-cert={pki.server_ca.certificate}",
            f"--server-ca-key={pki.server_ca.key}",
            f"--client-ca-cert={pki.client_ca.certificate}",
            f"--request-header-ca-cert={pki.request_header_ca.certificate}",
            "--log-format=json",
            *self.flags,
        ]

    async def __aenter__(self) -> Self:
        """Prepare the host, start the syncer and wait until it is ready."""
        try:
            await self.prepare()
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process and remove its files."""
        await self.close()

    async def prepare(self) -> None:
        """Make the host namespace and the owner Service, unless they are there.

        Raises:
            ComponentError: the host refused, or gave the namespace no default service account.
        """
        async with self.host.api() as api:
            await _create(api, "/api/v1/namespaces", _named(self.namespace))
            base = f"/api/v1/namespaces/{self.namespace}"
            await _create(api, f"{base}/services", _owner(self.tenant))
            # Without it the host admits no pod there.
            await _exists(api, f"{base}/serviceaccounts/default")

    async def start(self, timeout: float = BOOT_TIMEOUT, *, ready: bool = True) -> None:
        """Start the process; nothing if it runs already.

        Args:
            timeout: seconds to become ready.
            ready: wait for `/readyz`.

        Raises:
            ComponentError: it ended or was not ready in time; the message has its last log lines.
        """
        if not self.running:
            self._launch()
        if ready:
            await self._component.wait_ready(timeout)

    async def wait_ready(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait for `/readyz`; raises as `start` does."""
        await self._component.wait_ready(timeout)

    async def ready(self) -> bool:
        """Return whether `/readyz` says 200 now; never raises."""
        return await self._component.ready()

    async def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """Ask the process to end (SIGTERM), wait, and return its exit status.

        Returns:
            The exit status; -9 when it had to be killed after `timeout` seconds; 0 if none ran.
        """
        await self._component.stop(timeout)
        return self._collect()

    async def kill(self) -> None:
        """End the process at once (SIGKILL)."""
        await self._component.kill()
        self._collect()

    async def restart(self, timeout: float = BOOT_TIMEOUT, *, graceful: bool = True) -> None:
        """End the process, by `stop` or `kill`, and `start` it again; raises as `start` does."""
        await (self.stop() if graceful else self.kill())
        await self.start(timeout)

    async def pause(self) -> None:
        """Freeze the process (SIGSTOP); its connections stay open and silent."""
        await self._component.pause()

    async def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        await self._component.resume()

    async def wait_exit(self, timeout: float) -> int:
        """Wait until the process ends by itself and return its exit status.

        Raises:
            TimeoutError: it still runs after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the syncer still runs after {timeout:g} s")
            await asyncio.sleep(_POLL)
        return self._collect()

    async def close(self) -> None:
        """End the process if it runs, remove its files and give its ports back."""
        if self.running:
            self._signal_continue()
            await self.stop()
        self._collect()
        self._health.release()
        self._metrics.release()
        self._endpoint.release()
        shutil.rmtree(self._directory, ignore_errors=True)

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, of the present process; 0 if there is none."""
        return self._component.cpu_seconds()

    def rss_bytes(self) -> int:
        """Return the resident memory of the present process; 0 if there is none."""
        return self._component.rss_bytes()

    async def metrics(self) -> dict[str, float]:
        """Return every sample as `name{label="value"}` -> value; raises aiohttp.ClientError."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.metrics_url, raise_for_status=True) as response,
        ):
            return parse_metrics(await response.text())

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the log, each line decoded; what is no JSON object is `{"text": line}`."""
        return [_decoded(line) for line in self.log.read_bytes().splitlines()]

    def tail(self, lines: int = 30) -> str:
        """Return the last lines of the log, to show beside a failure."""
        text = self.log.read_text(errors="replace").splitlines()
        return "\n".join(text[-lines:])

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self._directory,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": str(self._directory),
                    "NAMESPACE": self.namespace,
                    **self._environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=self._group(),
            )
        (self._directory / "run" / "syncer.pid").write_text(str(self._process.pid))

    def _group(self) -> int:
        """Give the process group of a plane of ours, whose keeper then ends the syncer with it."""
        for plane in (self.virtual, self.host):
            pid = plane.components["kine"].pid
            if plane.owner == os.getpid() and pid is not None:
                return os.getpgid(pid)
        return 0

    def _signal_continue(self) -> None:
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGCONT)

    def _collect(self) -> int:
        process, self._process = self._process, None
        return process.wait(STOP_TIMEOUT) if process is not None else 0


def parse_metrics(text: str) -> dict[str, float]:
    """Read the Prometheus text format: `name{labels}` -> value, comments dropped."""
    found = (_SAMPLE.match(line) for line in text.splitlines() if not line.startswith("#"))
    return {match["series"]: float(match["value"]) for match in found if match}


def _decoded(line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        value = None
    return value if isinstance(value, dict) else {"text": line.decode(errors="replace")}


def _named(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


def _owner(tenant: str) -> dict[str, Any]:
    port = {"name": "https", "port": 443, "targetPort": 8443, "protocol": "TCP"}
    return {**_named(tenant), "spec": {"type": "ClusterIP", "ports": [port]}}


async def _create(api: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> None:
    async with api.post(path, json=body) as response:
        if response.status not in (201, 409):
            raise ComponentError(f"POST {path}: {response.status} {await response.text()}")


async def _exists(api: aiohttp.ClientSession, path: str) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT
    while True:
        async with api.get(path) as response:
            if response.status == 200:
                return
        if time.monotonic() > deadline:
            raise ComponentError(f"{path} did not appear within {BOOT_TIMEOUT:g} s")
        await asyncio.sleep(_POLL)
