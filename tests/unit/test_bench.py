"""Pure parts of the benchmark: percentiles, summaries, the report, and the crew's order."""

import asyncio
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.crew import Crew
from bench.report import TITLES, ReportError, begin, end, markdown, tables, write_markdown
from bench.rows import COLUMNS, rows
from bench.stats import Outcome, Run, TableName, percentile, summarise
from controlplane.syncer import parse_metrics

_TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


@pytest.mark.parametrize(
    ("samples", "share", "expected"),
    [
        pytest.param([7.0], 0.99, 7.0, id="one sample is every percentile"),
        pytest.param([3.0, 1.0, 2.0], 0.5, 2.0, id="order does not matter"),
        pytest.param([1.0, 2.0], 0.5, 1.5, id="between two samples"),
        pytest.param([0.0, 10.0], 0.99, 9.9, id="near the largest"),
        pytest.param([4.0, 9.0], 0.0, 4.0, id="zero is the least"),
    ],
)
def test_percentile(samples: list[float], share: float, expected: float) -> None:
    """A percentile is interpolated linearly between the two samples around it."""
    assert expected == pytest.approx(percentile(samples, share))


def test_percentile_of_nothing_is_an_error() -> None:
    """Without samples there is no figure to show."""
    with pytest.raises(ValueError, match="0 samples"):
        percentile([], 0.5)


@given(_TIMES, st.floats(0, 1), st.floats(0, 1))
def test_percentiles_are_within_the_samples_and_grow(
    samples: list[float], one: float, other: float
) -> None:
    """Percentiles stay between least and largest and never fall as the share grows."""
    low, high = sorted([one, other])
    tolerance = 1e-6
    values = [min(samples), percentile(samples, low), percentile(samples, high), max(samples)]
    assert all(a <= b + tolerance for a, b in pairwise(values))


def _run(seconds: float, cpu: float = 0.0, rss: int = 0) -> Run:
    return Run(count=100, seconds=seconds, latencies=[seconds], cpu_seconds=cpu, rss_bytes=rss)


def test_the_best_round_counts_figure_by_figure() -> None:
    """`best` takes the highest rate and the least of the rest, but the largest memory."""
    summary = summarise([_run(1.0, cpu=0.2, rss=5), _run(2.0, cpu=0.1, rss=9)], "best")
    figures = (summary.rate, summary.p50, summary.cpu_per_1000, summary.rss_bytes)
    assert figures == (100.0, 1.0, 1.0, 9)


def test_the_median_of_two_rounds_lies_between_them() -> None:
    """`median` of an even number of rounds is the mean of the middle two."""
    assert summarise([_run(1.0), _run(2.0)], "median").rate == pytest.approx(75.0)


def test_a_row_is_compared_with_the_limit_of_the_same_run() -> None:
    """The ratio is the syncer's rate by the limit's, and aims are judged by it."""
    (row,) = rows([Outcome("secrets at once", _run(2.0, cpu=0.1), _run(1.0))], "median")
    assert row.ratio == pytest.approx(0.5)
    assert [(str(aim), met) for aim, met in row.verdicts()] == [
        ("ratio >= 0.9", False),
        ("cpu <= 0.6 CPU-s", False),
    ]


def test_one_by_one_it_is_the_latency_that_is_compared() -> None:
    """Objects that come one at a time have no rate worth comparing."""
    (row,) = rows([Outcome("one pod, to the host", _run(0.02), _run(0.01))], "median")
    assert row.ratio == pytest.approx(0.5)


def _through(line: str, seconds: float, straight: float) -> Outcome:
    return Outcome(line, _run(seconds, cpu=0.1), _run(straight), table="endpoint")


def test_what_the_endpoint_adds_is_the_difference_of_the_medians() -> None:
    """Turns of one line are brought together before both ways are compared."""
    turns = [(0.0020, 0.0010), (0.0100, 0.0012), (0.0018, 0.0014)]
    (row,) = rows([_through("GET, 1 connection", *turn) for turn in turns], "median")
    assert row.added_p50 == pytest.approx(0.0008)
    assert row.added_p99 == pytest.approx(0.0008)
    assert row.ratio == pytest.approx(0.6)
    assert [(str(aim), met) for aim, met in row.verdicts()] == [("added <= 0.7 ms", False)]


def test_memory_grows_by_the_most_of_all_turns() -> None:
    """Memory once taken is not given back, so later turns show less."""
    runs = [Run(1, 1.0, [1.0], grown_bytes=grown) for grown in (5, 9, 0)]
    assert summarise(runs, "best").grown_bytes == 9


def test_rows_go_into_their_own_tables() -> None:
    """A table without rows is not shown."""
    secrets = Outcome("secrets at once", _run(2.0), _run(1.0))
    get = _through("GET, 1 connection", 0.2, 0.1)
    assert list(tables(rows([get, secrets], "best"))) == ["syncer", "endpoint"]
    assert [row.line for row in tables(rows([get], "best"))["endpoint"]] == ["GET, 1 connection"]


@pytest.mark.parametrize(
    ("name", "outcomes"),
    [
        pytest.param(
            "syncer",
            [
                Outcome("idle", _run(10.0), None),
                Outcome("secrets at once", _run(2.0), _run(1.0)),
                Outcome("one pod, to the host", _run(2.0), _run(1.0)),
                Outcome("cold start", _run(2.0), _run(1.0)),
                Outcome("warm restart", _run(2.0), None),
            ],
            id="the syncer's own work",
        ),
        pytest.param(
            "endpoint",
            [_through("GET, 1 connection", 0.2, 0.1), _through("exec, MB out", 2.0, 1.0)],
            id="the endpoint",
        ),
    ],
)
def test_markdown_has_a_cell_for_every_column(name: TableName, outcomes: list[Outcome]) -> None:
    """Every row of a table is as wide as its head."""
    lines = markdown(name, rows(outcomes, "best"), {"rounds": 1}).splitlines()[2:]
    assert {line.count("|") for line in lines} == {len(COLUMNS[name]) + 1}
    assert len(lines) == 2 + len(outcomes)


def test_only_the_marked_block_of_a_file_is_replaced(tmp_path: Path) -> None:
    """What people wrote around a table stays as it is, and so does the other table."""
    path = tmp_path / "performance.md"
    blocks = {name: f"{begin(name)}\nold\n{end(name)}\n" for name in TITLES}
    path.write_text(f"before\n{blocks['syncer']}between\n{blocks['endpoint']}after\n")
    write_markdown(path, "endpoint", "new")
    written = f"{begin('endpoint')}\nnew\n{end('endpoint')}\n"
    assert path.read_text() == f"before\n{blocks['syncer']}between\n{written}after\n"


def test_the_docs_have_a_place_for_every_table() -> None:
    """docs/performance.md can be written, each table between its own two lines."""
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    for name in TITLES:
        assert text.count(begin(name)) == text.count(end(name)) == 1


def test_a_file_without_markers_is_refused(tmp_path: Path) -> None:
    """Nothing is written where it is not known what to replace."""
    path = tmp_path / "performance.md"
    path.write_text("mine\n")
    with pytest.raises(ReportError, match="has no lines"):
        write_markdown(path, "syncer", "new")
    assert path.read_text() == "mine\n"


async def test_a_crew_prefers_urgent_jobs_and_keeps_to_its_size() -> None:
    """Never more jobs at a time than workers; urgent ones overtake those that wait."""
    done: list[str] = []
    over = asyncio.Event()
    at_work = most = 0

    async def job(name: str) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1
        done.append(name)
        if len(done) == 5:
            over.set()

    async with Crew.of(2) as crew:
        for number in range(4):
            crew.add(partial(job, f"plain {number}"))
        crew.add(partial(job, "urgent"), urgent=True)
        async with asyncio.timeout(5):
            await over.wait()
    assert most == 2
    assert done.index("urgent") < 2


async def test_a_crew_ends_when_a_job_fails() -> None:
    """A refused write is not waited out: the block is cancelled at once."""

    async def fail() -> None:
        raise LookupError("no")

    with pytest.RaisesGroup(LookupError):
        async with Crew.of(2) as crew:
            crew.add(fail)
            await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("# HELP a b\n# TYPE a gauge\n", {}, id="comments are no samples"),
        pytest.param("a 1.5\n", {"a": 1.5}, id="without labels"),
        pytest.param('a{b="c d"} 2\n', {'a{b="c d"}': 2.0}, id="a space in a label"),
        pytest.param('a{b="}"} +Inf\n', {'a{b="}"}': float("inf")}, id="a brace in a label"),
    ],
)
def test_metrics_are_read(text: str, expected: dict[str, float]) -> None:
    """The text format is read into one value for each series."""
    assert expected == parse_metrics(text)
