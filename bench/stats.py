"""Figures from samples: pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Pick = Literal["best", "median"]
"""Which of several rounds stands for all."""

TableName = Literal["syncer", "endpoint"]
"""Which table: of the syncer's own work, or of the tenant's endpoint."""


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the value below which a share of the samples lies, interpolated linearly.

    Args:
        samples: at least one, in any order.
        share: between 0 and 1; 0.5 is the median, 1 the largest.

    Raises:
        ValueError: there are no samples, or the share is out of range.
    """
    if not samples or not 0 <= share <= 1:
        raise ValueError(f"no percentile {share} of {len(samples)} samples")
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


@dataclass(frozen=True)
class Run:
    """One round of one kind of work, by the syncer or by the load program itself.

    Attributes:
        count: objects.
        seconds: from the first request until the last object had arrived.
        latencies: seconds from each object's request until it had arrived.
        cpu_seconds: the syncer's, from the first request until it had come to rest; 0 without it.
        rss_bytes: the syncer's resident memory afterwards; 0 without it.
        pair_cpu_seconds: CPU time of all processes of both control planes meanwhile.
        grown_bytes: by how much that memory has grown; 0 where it isn't looked at.
    """

    count: int
    seconds: float
    latencies: Sequence[float] = field(repr=False)
    cpu_seconds: float = 0.0
    rss_bytes: int = 0
    pair_cpu_seconds: float = 0.0
    grown_bytes: int = 0

    @property
    def rate(self) -> float:
        """Objects a second."""
        return self.count / self.seconds

    @property
    def cpu_per_1000(self) -> float:
        """CPU-seconds of the syncer per 1000 objects."""
        return 1000 * self.cpu_seconds / self.count


@dataclass(frozen=True)
class Outcome:
    """One round of one line of a table.

    Attributes:
        line: the line's name.
        syncer: with the syncer.
        limit: without it; None where nothing can be compared.
        table: the table that the line is in.
    """

    line: str
    syncer: Run
    limit: Run | None
    table: TableName = "syncer"


@dataclass(frozen=True)
class Summary:
    """What several rounds come to.

    Attributes:
        count: objects of one round, the median.
        rate: objects a second.
        p50: median latency, seconds.
        p99: latency below which 99 % stay, seconds.
        cpu_per_1000: CPU-seconds of the syncer per 1000 objects.
        rss_bytes: the largest resident memory of the syncer.
        pair_cpu_per_1000: CPU-seconds of both control planes per 1000 objects.
        seconds: how long one round took.
        grown_bytes: the most that this memory has grown in a round.
    """

    count: int
    rate: float
    p50: float
    p99: float
    cpu_per_1000: float
    rss_bytes: int
    pair_cpu_per_1000: float
    seconds: float
    grown_bytes: int


def summarise(runs: Sequence[Run], pick: Pick) -> Summary:
    """Bring rounds together: each figure is the best or the median of the rounds' own.

    Memory is always the largest, since that is what must be paid for.

    Raises:
        ValueError: there are no runs.
    """
    if not runs:
        raise ValueError("no runs")

    def least(values: Sequence[float]) -> float:
        return min(values) if pick == "best" else median(values)

    rates = [run.rate for run in runs]
    return Summary(
        count=int(median(run.count for run in runs)),
        rate=max(rates) if pick == "best" else median(rates),
        p50=least([percentile(run.latencies, 0.5) for run in runs]),
        p99=least([percentile(run.latencies, 0.99) for run in runs]),
        cpu_per_1000=least([run.cpu_per_1000 for run in runs]),
        rss_bytes=max(run.rss_bytes for run in runs),
        pair_cpu_per_1000=least([1000 * run.pair_cpu_seconds / run.count for run in runs]),
        seconds=least([run.seconds for run in runs]),
        grown_bytes=max(run.grown_bytes for run in runs),
    )
