"""`python -m bench`: boot a pair, measure, print tables.

They go to standard output, progress to standard error. Exit status 1: a scenario failed;
2: the command line is wrong. Missed aims are shown and do not change the status, as a busy machine
would.
"""

import argparse
import asyncio
import os
import pstats
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import orjson
import uvloop
from rich.console import Console

from bench.client import Api, LoadError
from bench.report import (
    ReportError,
    around_block,
    as_json,
    markdown,
    table,
    tables,
    write_markdown,
)
from bench.rows import rows
from bench.scenarios import ENDPOINT, QUICK, SCENARIOS, Sizes
from bench.stats import Outcome, TableName
from bench.world import World
from controlplane import ComponentError, ToolError, boot_pair

_IN_FLIGHT = 20
_BUSY = 0.5  # load average above which others use the cores
_WIDTH = 160  # columns where there is no terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return the exit status."""
    options = _parse(arguments)
    load = os.getloadavg()[0]
    if load > _BUSY:
        _say(
            f"this machine is busy (load {load:.1f}): its figures will be poor and its ratios rough"
        )
    with ExitStack() as stack:
        profiles = None
        if options.profile:
            profiles = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        try:
            if options.write:
                for name in _tables(options.only):
                    around_block(options.write, name)  # before minutes of work, not after
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                outcomes, failed = runner.run(_measure(options, profiles))
            _report(options, outcomes, load, failed=failed)
        except (ComponentError, ToolError, ReportError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        if profiles is not None:
            _print_profile(profiles)
    return 1 if failed else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="far fewer objects, one round")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(SCENARIOS),
        metavar="NAMES",
        help=f"with commas between: {', '.join(SCENARIOS)}",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default 2, with --quick 1")
    parser.add_argument(
        "--pick", choices=["median", "best"], default="median", help="of the rounds (median)"
    )
    parser.add_argument(
        "--in-flight", type=int, default=_IN_FLIGHT, metavar="N", help="requests of the load (20)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to a file")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="replace what was measured in a Markdown file"
    )
    parser.add_argument(
        "--profile", action="store_true", help="run the syncer under cProfile and show the result"
    )
    parser.add_argument("--flag", action="append", default=[], help="further flag of the syncer")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.only if name not in SCENARIOS]:
        parser.error(f"--only: no such scenario: {', '.join(unknown)}")
    options.rounds = options.rounds or (1 if options.quick else 2)
    return options


async def _measure(
    options: argparse.Namespace, profiles: Path | None
) -> tuple[list[Outcome], bool]:
    sizes = QUICK if options.quick else Sizes()
    outcomes: list[Outcome] = []
    failed = False
    async with AsyncExitStack() as stack:
        _say("booting a host and a virtual control plane")
        host, virtual = await stack.enter_async_context(boot_pair())
        world = World(
            host=await stack.enter_async_context(Api.connect(host)),
            virtual=await stack.enter_async_context(Api.connect(virtual)),
            host_plane=host,
            virtual_plane=virtual,
            in_flight=options.in_flight,
            profiles=profiles,
            flags=tuple(options.flag),
        )
        await world.prepare()
        for number in range(1, options.rounds + 1):
            for name in options.only:
                started = time.monotonic()
                failed |= not await _round(name, world, sizes, outcomes)
                _say(f"round {number}: {name}, {time.monotonic() - started:.0f} s")
    return outcomes, failed


async def _round(name: str, world: World, sizes: Sizes, outcomes: list[Outcome]) -> bool:
    """Run a scenario once, add what it found, and return whether it succeeded."""
    failures: list[BaseException] = []
    try:
        outcomes += await SCENARIOS[name](world, sizes)
    except* (LoadError, ComponentError) as group:
        failures += _leaves(group)
    for failure in failures:
        _say("\n".join([f"{name} failed: {failure}", *getattr(failure, "__notes__", ())]))
    return not failures


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _report(
    options: argparse.Namespace, outcomes: list[Outcome], load: float, *, failed: bool
) -> None:
    found = rows(outcomes, options.pick)
    by_table = tables(found)
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    for name, some in by_table.items():
        console.print(table(name, some))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        content = as_json(outcomes, found, _settings(options, load, *by_table))
        options.json.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    if options.write and failed:
        raise ReportError(f"{options.write} is left as it was, since a scenario failed")
    if options.write:
        for name, some in by_table.items():
            text = markdown(name, some, _settings(options, load, name))
            write_markdown(options.write, name, text)


def _settings(options: argparse.Namespace, load: float, *shown: TableName) -> dict[str, object]:
    """Return what is worth knowing of how the figures of some tables came about."""
    settings = {"rounds": options.rounds}
    if "endpoint" in shown:
        settings["turns each"] = (QUICK if options.quick else Sizes()).endpoint.turns
    settings["of these the"] = options.pick
    if "syncer" in shown:
        settings["requests in flight"] = options.in_flight
    return settings | {"load of the machine before": round(load, 1)}


def _tables(scenarios: Sequence[str]) -> set[TableName]:
    """Return the tables that scenarios have lines in."""
    return {"endpoint" if name == ENDPOINT else "syncer" for name in scenarios}


def _print_profile(profiles: Path) -> None:
    files = [str(path) for path in sorted(profiles.glob("*.prof"))]
    if not files:
        print("no profile: the syncer did not end in order", file=sys.stderr)
        return
    stats = pstats.Stats(files[0], stream=sys.stdout)
    for file in files[1:]:
        stats.add(file)
    stats.strip_dirs().sort_stats("tottime").print_stats(40)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
