"""The demo does what the README says of it."""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]


async def test_all_facts_of_the_demo_come_true(tmp_path: Path) -> None:
    """`DEMO_EXIT=1 make demo` ends with every fact true, and leaves no process or file behind."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "demo",
        cwd=ROOT,
        env={**os.environ, "DEMO_EXIT": "1", "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    assert "All 13 facts came true." in text
    assert left_in(tmp_path) == []


def left_in(directory: Path) -> list[Path]:
    """Return the files in a directory, and the processes that work there, even if it is gone."""
    found = list(directory.iterdir())
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is none of ours
            if str((process / "cwd").readlink()).startswith(str(directory)):
                found.append(process)
    return found
