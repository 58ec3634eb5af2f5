"""Cleans up after one control plane, however its owner ends. Run as a script, alone.

    python keeper.py OWNER_PID DIRECTORY KEEP

The keeper leads the process group that all components join. It waits until its standard input has
a byte (an ordered end) or its owner is gone (a crash, even SIGKILL), then kills the whole group,
removes DIRECTORY unless KEEP is 1, and exits. A closed pipe alone would not tell of a crash, as a
forked child of the owner could hold it open.

Only the standard library, so that it starts in milliseconds and shares nothing with the owner.
"""

import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

_POLL = 0.005  # seconds
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(owner: int, directory: Path, keep: bool) -> None:
    """Wait for the owner's end, then kill the group and remove `directory` unless `keep`."""
    for number in _IGNORED:  # an interrupt meant for the owner must not stop the clean-up
        signal.signal(number, signal.SIG_IGN)
    _wait_for_end(owner)
    _kill_group()
    if not keep:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_for_end(owner: int) -> None:
    try:
        watched = [os.pidfd_open(owner), sys.stdin.fileno()]
    except ProcessLookupError:
        return
    if os.getppid() == owner:  # else it ended before we could watch it
        select.select(watched, [], [])


def _kill_group() -> None:
    """Kill every other member of our process group, those started meanwhile included."""
    while members := _members():
        for pid in members:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(_POLL)


def _members() -> list[int]:
    group, own = os.getpgrp(), os.getpid()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == own:
            continue
        try:
            # After the command name, which is in brackets and may hold spaces, comes field 3.
            fields = (entry / "stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue  # it ended while we looked
        state, pgrp, threads = fields[0], int(fields[2]), int(fields[17])
        # A zombie is dead and its parent's to collect, unless it has threads that still run.
        if pgrp == group and (state not in "ZX" or threads > 1):
            found.append(int(entry.name))
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "1")
