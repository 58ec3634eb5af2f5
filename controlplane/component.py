"""One process of a control plane: start it, break it, measure it.

A component keeps its command line, so a restart has the same ports and data. Whoever booted the
plane owns its processes; a plane attached to from another process can be broken and measured but
not started, because a child must belong to the owner to be cleaned up with it.
"""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

BOOT_TIMEOUT = 120.0  # seconds; generous, since busy machines take long
STOP_TIMEOUT = 10.0  # seconds between SIGTERM and SIGKILL
_POLL = 0.05  # seconds between readiness probes
_EXIT_POLL = 0.01  # seconds
_TAIL = 3000  # bytes of log shown when a component fails
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_POD_COMMANDS = Path(__file__).parent / "kwok" / "bin"  # found first, also by fake pods


class ComponentError(Exception):
    """A component ended or did not become ready; the message ends with its last log lines."""


class NotOwnerError(Exception):
    """Only the process that booted a plane can start its components."""


class Component:
    """A process and its log, pid and readiness."""

    def __init__(
        self,
        name: str,
        *,
        directory: Path,
        probe: str,
        tls: ssl.SSLContext,
        command: Sequence[str] | None = None,
        group: int = 0,
    ) -> None:
        """Describe a component; nothing is started.

        Args:
            name: what people call it, also the name of its log file.
            directory: working directory; `logs` in it has the log, `run` the current pid.
            probe: URL that answers 200 when ready, or `unix:NAME` for a socket in `directory`.
            tls: how to reach an https probe.
            command: argument list; None for a component that another process owns.
            group: process group to join.
        """
        self.name = name
        self.log = directory / "logs" / f"{name}.log"
        self.probe = probe
        self.command = command
        self._directory = directory
        self._tls = tls
        self._group = group
        self._pid_file = directory / "run" / f"{name}.pid"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None while the component does not run."""
        if self.command is None:
            pid = int(self._pid_file.read_text()) if self._pid_file.exists() else 0
            return pid if _state(pid) not in ("", "Z", "X") else None
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists, paused or not."""
        return self.pid is not None

    @property
    def paused(self) -> bool:
        """Whether the process exists and is stopped by `pause`."""
        pid = self.pid
        return pid is not None and _state(pid) == "T"

    async def start(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Start the process and wait until it is ready; nothing if it runs already.

        Args:
            timeout: seconds to become ready.

        Raises:
            NotOwnerError: the plane was booted by another process.
            ComponentError: it ended or was not ready in time.
        """
        self.launch()
        await self.wait_ready(timeout)

    def launch(self) -> None:
        """Start the process without waiting for it; raises NotOwnerError as `start` does."""
        command = self._own_command()
        if self.running:
            return
        for path in (self.log, self._pid_file):
            path.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                env={"PATH": _path(), "HOME": str(self._directory)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=self._group,
            )
        self._pid_file.write_text(str(self._process.pid))

    async def wait_ready(self, timeout: float = BOOT_TIMEOUT) -> None:
        """Wait until the probe succeeds.

        Raises:
            ComponentError: the process is not running, ends, or is not ready in `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            if not self.running:
                raise ComponentError(f"{self.name} is not running{self._tail()}")
            if await self.ready():
                return
            if time.monotonic() > deadline:
                raise ComponentError(f"{self.name} not ready after {timeout:g} s{self._tail()}")
            await asyncio.sleep(_POLL)

    async def ready(self, timeout: float = 2.0) -> bool:
        """Return whether one probe succeeds within `timeout` seconds; never raises."""
        if self.probe.startswith("unix:"):
            return _accepts(self._directory, self.probe.removeprefix("unix:"))
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(timeout)) as session,
                session.get(self.probe, ssl=self._tls) as response,
            ):
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Ask the process to end (SIGTERM) and wait; kill it after `timeout` seconds."""
        self._signal(signal.SIGTERM, signal.SIGCONT)
        try:
            async with asyncio.timeout(timeout):
                await self._gone()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End the process at once (SIGKILL) and wait until it is gone; data and port stay."""
        self._signal(signal.SIGKILL)
        await self._gone()

    async def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open and silent until `resume`."""
        self._signal(signal.SIGSTOP)
        while self.running and not self.paused:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(_EXIT_POLL)

    async def resume(self) -> None:
        """Let a paused process go on (SIGCONT); `wait_ready` tells when it answers again."""
        self._signal(signal.SIGCONT)

    async def restart(self, timeout: float = BOOT_TIMEOUT, *, graceful: bool = False) -> None:
        """End the process (by `kill`, or `stop` if graceful) and `start` it again.

        An API server with open watches takes some 10 s to stop gracefully.

        Raises:
            NotOwnerError, ComponentError: as `start` does.
        """
        self._own_command()  # before breaking what we could not mend
        await (self.stop() if graceful else self.kill())
        await self.start(timeout)

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, that the present process has used; 0 if none."""
        fields = _stat(self.pid)
        return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS if fields else 0.0

    def rss_bytes(self) -> int:
        """Return the resident memory of the present process; 0 if there is none."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text()
        except OSError:
            return 0
        for line in status.splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def collect(self) -> None:
        """Wait for a process that was killed from outside; only the owner's children need it."""
        if self._process is not None:
            self._process.wait(STOP_TIMEOUT)

    def _signal(self, *numbers: int) -> None:
        pid = self.pid
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            for number in numbers:
                os.kill(pid, number)

    async def _gone(self) -> None:
        while self.running:  # noqa: ASYNC110 - nor here
            await asyncio.sleep(_EXIT_POLL)

    def _own_command(self) -> Sequence[str]:
        if self.command is None:
            raise NotOwnerError(f"{self.name} can be started only by the process that booted it")
        return self.command

    def _tail(self) -> str:
        try:
            text = self.log.read_bytes()[-_TAIL:].decode(errors="replace").strip()
        except OSError:
            return ""
        return f"; its log ends:\n{text}" if text else ""


def _path() -> str:
    return os.pathsep.join((str(_POD_COMMANDS), os.environ.get("PATH", os.defpath)))


def _accepts(directory: Path, name: str) -> bool:
    # Through a directory handle, because a socket's path may have 107 bytes only.
    handle = os.open(directory, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(f"/proc/self/fd/{handle}/{name}")
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def _stat(pid: int | None) -> list[str]:
    """Return the fields of /proc/PID/stat from the third (state) on; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ""
