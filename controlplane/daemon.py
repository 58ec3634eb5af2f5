"""The background process that owns the planes of `python -m controlplane up`.

It holds a lock on a file for as long as it lives. The kernel drops the lock with the process, so a
crashed owner is never taken for alive, whatever its file says.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controlplane.plane import PlaneError, boot_pair

KINDS = ("host", "virtual")
"""Names of the planes, and of their directories."""

_LOCK_FILE = "owner"  # holds the owner's process id
_CLEANUP_TIMEOUT = 5.0  # seconds for the keepers of a killed owner to finish
_POLL = 0.05  # seconds


async def serve(directory: Path, nodes: int) -> None:
    """Boot a pair in `directory` and keep it until this process gets SIGTERM.

    Raises:
        PlaneError: another process keeps a pair there.
        ComponentError, ToolError: booting failed.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with _owning(directory), contextlib.suppress(asyncio.CancelledError):
        await _clear(directory)
        async with boot_pair(nodes=nodes, directory=directory):
            await asyncio.Event().wait()


def owner_of(directory: Path) -> int | None:
    """Return the process id of the live owner of the planes in `directory`, if there is one."""
    try:
        with (directory / _LOCK_FILE).open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read())
    except FileNotFoundError:
        pass
    return None


@contextmanager
def _owning(directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / _LOCK_FILE
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlaneError(f"another process keeps control planes in {directory}") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink()


async def _clear(directory: Path) -> None:
    """Remove what a killed owner left: its keepers do, unless the machine went down with them."""
    deadline = time.monotonic() + _CLEANUP_TIMEOUT
    for kind in KINDS:
        while (directory / kind).exists():
            if time.monotonic() > deadline:
                shutil.rmtree(directory / kind)
            await asyncio.sleep(_POLL)
