"""What a run comes to: rows, and the rows as a table, as JSON and as Markdown."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from rich.table import Table

from bench.scenarios import Outcome
from bench.stats import Pick, Summary, summarise
from controlplane.tools import KUBERNETES_VERSION

BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"

_MEGABYTE = 1_000_000
_COLUMNS = (
    "work",
    "n",
    "obj/s",
    "limit",
    "ratio",
    "p50 ms",
    "limit",
    "p99 ms",
    "CPU-s /1000",
    "RSS MB",
    "aims",
)


class ReportError(Exception):
    """The report can't be written; the message says why."""


@dataclass(frozen=True)
class Aim:
    """What a figure should be.

    Attributes:
        figure: which one.
        bound: `>=` or `<=`.
        value: in the unit of the table.
    """

    figure: Literal["ratio", "cpu", "p50", "seconds", "rss"]
    bound: Literal[">=", "<="]
    value: float

    def __str__(self) -> str:
        unit = {"cpu": " CPU-s", "p50": " ms", "seconds": " s", "rss": " MB"}.get(self.figure, "")
        return f"{self.figure} {self.bound} {self.value:g}{unit}"


_BURST = Aim("ratio", ">=", 0.9)
AIMS: Mapping[str, Sequence[Aim]] = MappingProxyType(
    {
        "idle": (Aim("rss", "<=", 60),),
        "secrets at once": (_BURST, Aim("cpu", "<=", 0.6)),
        "services at once": (_BURST, Aim("cpu", "<=", 1.5)),
        "pods at once": (_BURST, Aim("cpu", "<=", 4)),
        "pods with token at once": (_BURST,),
        "one pod, to the host": (Aim("p50", "<=", 8),),
        "one pod, to Running": (Aim("p50", "<=", 26),),
        "cold start": (Aim("seconds", "<=", 5),),
        "warm restart": (Aim("seconds", "<=", 1), Aim("rss", "<=", 75)),
    }
)
"""What each line should reach, on two cores and at the default sizes."""


@dataclass(frozen=True)
class Row:
    """One line: all its rounds, brought together.

    Attributes:
        line: what was done.
        count: objects a round.
        syncer: with the syncer.
        limit: the same without it, or None.
    """

    line: str
    count: int
    syncer: Summary
    limit: Summary | None

    @property
    def one_by_one(self) -> bool:
        """Whether objects came one at a time, so that only latency means anything."""
        return self.line.startswith("one ")

    @property
    def ratio(self) -> float | None:
        """The share of the limit that was reached: of its rate or, one by one, its speed."""
        if self.limit is None:
            return None
        if self.one_by_one:
            return self.limit.p50 / self.syncer.p50
        return self.syncer.rate / self.limit.rate

    def figure(self, aim: Aim) -> float:
        """Return the figure that an aim is about, in the table's unit."""
        return {
            "ratio": self.ratio or 0.0,
            "cpu": self.syncer.cpu_per_1000,
            "p50": 1000 * self.syncer.p50,
            "seconds": self.syncer.seconds,
            "rss": self.syncer.rss_bytes / _MEGABYTE,
        }[aim.figure]

    def verdicts(self) -> list[tuple[Aim, bool]]:
        """Return each aim of the line and whether it is met."""
        return [
            (aim, value >= aim.value if aim.bound == ">=" else value <= aim.value)
            for aim in AIMS.get(self.line, ())
            for value in [self.figure(aim)]
        ]

    def cells(self) -> list[str]:
        """Return the row as text, a cell for each column."""
        aims = ", ".join(f"{'✓' if met else '✗'} {aim}" for aim, met in self.verdicts())
        memory = f"{self.syncer.rss_bytes / _MEGABYTE:.0f}"
        cpu = f"{self.syncer.cpu_per_1000:.2f}"
        if self.line == "idle":
            share = f"{self.syncer.cpu_per_1000 / self.syncer.seconds / 10:.1f} %"
            return [self.line, "", *[""] * 6, share, memory, aims]
        work = self.line
        if "start" in work:
            work = f"{work}: {self.syncer.seconds:.2f} s"
            if self.limit is not None:
                work += f" (limit {self.limit.seconds:.2f})"
        rated = not self.one_by_one and self.limit is not None
        return [
            work,
            str(self.count),
            f"{self.syncer.rate:.0f}" if rated else "",
            f"{self.limit.rate:.0f}" if self.limit is not None and rated else "",
            "" if self.ratio is None else f"{self.ratio:.2f}",
            *(["", "", ""] if "start" in self.line else self._latencies()),
            cpu,
            memory,
            aims,
        ]

    def _latencies(self) -> list[str]:
        limit = "" if self.limit is None else f"{1000 * self.limit.p50:.1f}"
        return [f"{1000 * self.syncer.p50:.1f}", limit, f"{1000 * self.syncer.p99:.1f}"]


def rows(outcomes: Sequence[Outcome], pick: Pick) -> list[Row]:
    """Bring the rounds of each line together, lines in the order of their first round."""
    by_line: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_line.setdefault(outcome.line, []).append(outcome)
    result = []
    for line, rounds in by_line.items():
        limits = [each.limit for each in rounds if each.limit is not None]
        syncer = summarise([each.syncer for each in rounds], pick)
        limit = summarise(limits, pick) if limits else None
        result.append(Row(line, rounds[0].syncer.count, syncer, limit))
    return result


def table(found: Sequence[Row]) -> Table:
    """Return the rows as a table for a terminal."""
    result = Table(title="the syncer, and the pair's own limit", title_justify="left")
    for column in _COLUMNS:
        left = column in ("work", "aims")
        result.add_column(column, justify="left" if left else "right", no_wrap=not left)
    for row in found:
        result.add_row(*row.cells())
    return result


def markdown(found: Sequence[Row], settings: Mapping[str, Any]) -> str:
    """Return the rows as a Markdown table, with a line on how they came about."""
    where = machine()
    made = ", ".join(f"{key} {value}" for key, value in settings.items())
    versions = f"Python {where['python']}, Kubernetes {where['kubernetes']}"
    lines = [
        f"{where['cores']} cores, {versions}; {made}.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---|" + "---:|" * (len(_COLUMNS) - 2) + "---|",
        *(f"| {' | '.join(row.cells())} |" for row in found),
    ]
    return "\n".join(lines)


def write_markdown(path: Path, text: str) -> None:
    """Replace what stands between the two markers of a file; raises ReportError without them."""
    before, after = around_block(path)
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def around_block(path: Path) -> tuple[str, str]:
    """Return what stands before and after the block that `write_markdown` replaces.

    Raises:
        ReportError: the file has not both markers.
    """
    old = path.read_text() if path.exists() else ""
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ReportError(f"{path} has no lines {BEGIN} and {END} to write between")
    return before, after


def as_json(
    outcomes: Sequence[Outcome], found: Sequence[Row], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything: the machine, the settings, each row and each of its rounds."""
    return {
        "machine": machine(),
        "settings": dict(settings),
        "rows": [
            {
                **asdict(row),
                "ratio": row.ratio,
                "aims": {str(aim): met for aim, met in row.verdicts()},
                "rounds": [asdict(each) for each in outcomes if each.line == row.line],
            }
            for row in found
        ],
    }


def machine() -> dict[str, Any]:
    """Return what is worth knowing of the machine, and nothing that names it."""
    cores = len(os.sched_getaffinity(0))
    return {
        "cores": cores,
        "architecture": platform.machine(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "kubernetes": KUBERNETES_VERSION,
    }
