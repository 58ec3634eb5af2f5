"""The demo does what the README says of it."""

import asyncio
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


async def test_all_facts_of_the_demo_come_true() -> None:
    """`DEMO_EXIT=1 make demo` ends with every fact true, and leaves no process behind."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "demo",
        cwd=ROOT,
        env={**os.environ, "DEMO_EXIT": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    assert "All 13 facts came true." in text
