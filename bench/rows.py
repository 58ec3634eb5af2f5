"""What rounds come to: rows, their figures as text, and whether those are as they should be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from bench.stats import Outcome, Pick, Summary, TableName, summarise

COLUMNS: Mapping[TableName, Sequence[str]] = MappingProxyType(
    {
        "syncer": (
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
        ),
        "endpoint": (
            "requests",
            "n",
            "per s",
            "straight",
            "ratio",
            "p50 ms",
            "added",
            "p99 ms",
            "added",
            "CPU-s /1000",
            "RSS MB",
            "grown",
            "aims",
        ),
    }
)
"""The heads of each table's columns; the first and the last are words, the others figures."""

_MEGABYTE = 1_000_000
_THREE_DIGITS = 100


@dataclass(frozen=True)
class Aim:
    """What a figure should be.

    Attributes:
        figure: which one.
        bound: `>=` or `<=`.
        value: in the unit of the table.
    """

    figure: Literal["ratio", "cpu", "p50", "added", "seconds", "rss"]
    bound: Literal[">=", "<="]
    value: float

    def __str__(self) -> str:
        return f"{self.figure} {self.bound} {self.value:g}{_UNITS.get(self.figure, '')}"


_UNITS = {"cpu": " CPU-s", "p50": " ms", "added": " ms", "seconds": " s", "rss": " MB"}
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
        "GET, 1 connection": (Aim("added", "<=", 0.7),),
        "GET, 20 connections": (Aim("ratio", ">=", 0.7),),
        "LIST, 20 connections": (Aim("ratio", ">=", 0.7),),
    }
)
"""What each line should reach, on two cores and at the default sizes."""


@dataclass(frozen=True)
class Row:
    """One line: all its rounds, brought together.

    Attributes:
        line: what was done.
        table: the table that it is in.
        syncer: with the syncer.
        limit: the same without it, or None.
    """

    line: str
    table: TableName
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

    @property
    def added_p50(self) -> float:
        """Seconds that the median is longer than without the syncer."""
        return self.syncer.p50 - self.limit.p50 if self.limit is not None else 0.0

    @property
    def added_p99(self) -> float:
        """Seconds that the 99th percentile is longer than without the syncer."""
        return self.syncer.p99 - self.limit.p99 if self.limit is not None else 0.0

    def figure(self, aim: Aim) -> float:
        """Return the figure that an aim is about, in the table's unit."""
        return {
            "ratio": self.ratio or 0.0,
            "cpu": self.syncer.cpu_per_1000,
            "p50": 1000 * self.syncer.p50,
            "added": 1000 * self.added_p50,
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
        """Return the row as text, a cell for each column of its table."""
        aims = ", ".join(f"{'✓' if met else '✗'} {aim}" for aim, met in self.verdicts())
        memory = f"{self.syncer.rss_bytes / _MEGABYTE:.0f}"
        cpu = f"{self.syncer.cpu_per_1000:.2f}"
        if self.table == "endpoint":
            grown = f"{self.syncer.grown_bytes / _MEGABYTE:.1f}"
            return [*self._compared(), cpu, memory, grown, aims]
        if self.line == "idle":
            share = f"{self.syncer.cpu_per_1000 / self.syncer.seconds / 10:.1f} %"
            return [self.line, "", *[""] * 6, share, memory, aims]
        return [*self._limited(), cpu, memory, aims]

    def _limited(self) -> list[str]:
        """Return what a row of the syncer's own work begins with."""
        work, count = self.line, str(self.syncer.count)
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        if "start" in work:
            work = f"{work}: {self.syncer.seconds:.2f} s"
            if self.limit is not None:
                work += f" (limit {self.limit.seconds:.2f})"
        rates = ["", ""]
        if self.limit is not None and not self.one_by_one:
            rates = [f"{self.syncer.rate:.0f}", f"{self.limit.rate:.0f}"]
        latencies = ["", "", ""]
        if "start" not in self.line:
            limit = "" if self.limit is None else f"{1000 * self.limit.p50:.1f}"
            latencies = [f"{1000 * self.syncer.p50:.1f}", limit, f"{1000 * self.syncer.p99:.1f}"]
        return [work, count, *rates, ratio, *latencies]

    def _compared(self) -> list[str]:
        """Return what a row of the endpoint begins with."""
        limit = "" if self.limit is None else _rate(self.limit.rate)
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        latencies = (self.syncer.p50, self.added_p50, self.syncer.p99, self.added_p99)
        shown = [f"{1000 * seconds:.2f}" for seconds in latencies]
        if self.line.startswith("exec"):  # one stream a turn: only how long it takes
            shown = [""] * len(latencies)
        return [self.line, str(self.syncer.count), _rate(self.syncer.rate), limit, ratio, *shown]


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= _THREE_DIGITS else f"{value:.1f}"


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
        result.append(Row(line, rounds[0].table, syncer, limit))
    return result
