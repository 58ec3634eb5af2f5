"""One host plane for all workers of a test run, booted by whoever asks first.

A worker can't own it: it would end with that worker. So a process of its own does:

    python shared_host.py DIRECTORY PID

boots a host in DIRECTORY/host and keeps it until it gets SIGTERM or process PID (the one that
people started) is gone, however that ended; then it removes DIRECTORY.
"""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from controlplane import ControlPlane

_POLL = 0.05  # seconds
_END_TIMEOUT = 30.0  # seconds


@dataclass(frozen=True)
class SharedHost:
    """Where the host of this run is, or will be.

    Attributes:
        directory: exists; holds the host, its owner's log and the lock.
        lives_with: process id of the process that the host must not outlive.
    """

    directory: Path
    lives_with: int

    @classmethod
    def create(cls, directory: Path) -> Self:
        """Return one for this process and the workers it will start."""
        return cls(directory, os.getpid())

    def get(self) -> ControlPlane:
        """Return the host, booting it when no other worker has; blocks meanwhile.

        Raises:
            RuntimeError: it could not be booted; the message has the owner's output.
        """
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._ready():
                self._boot()
        return ControlPlane.attach(self.directory / "host")

    def end(self) -> None:
        """End the host, if there is one, and wait until its processes are gone."""
        pid_file = self.directory / "pid"
        if not pid_file.exists():
            return
        owner = os.pidfd_open(int(pid_file.read_text()))
        try:
            signal.pidfd_send_signal(owner, signal.SIGTERM)
            deadline = time.monotonic() + _END_TIMEOUT
            while pid_file.exists() and time.monotonic() < deadline:
                time.sleep(_POLL)
        finally:
            os.close(owner)

    def _ready(self) -> bool:
        return (self.directory / "host" / "plane.json").exists()

    def _boot(self) -> None:
        log = self.directory / "owner.log"
        with log.open("wb") as output:
            # A session of its own: Ctrl-C is for the tests, which then end the host in order.
            owner = subprocess.Popen(
                (sys.executable, __file__, str(self.directory), str(self.lives_with)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        while not self._ready():
            if owner.poll() is not None:
                raise RuntimeError(f"the shared host did not boot:\n{log.read_text()}")
            time.sleep(_POLL)
        owner.returncode = 0  # it outlives this worker; do not warn about that


async def _own(directory: Path, lives_with: int) -> None:
    pid_file = directory / "pid"
    pid_file.write_text(str(os.getpid()))
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    try:
        loop.add_reader(os.pidfd_open(lives_with), over.set)
        async with ControlPlane.host(directory=directory / "host"):
            await over.wait()
    finally:
        # The pid file goes with the rest, which tells `end` that all is over.
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(_own(Path(sys.argv[1]), int(sys.argv[2])))
