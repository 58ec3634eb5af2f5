"""What a run comes to, as tables for a terminal, as JSON and as Markdown."""

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.table import Table

from bench.rows import COLUMNS, Row
from bench.stats import Outcome, TableName
from controlplane.tools import KUBERNETES_VERSION

TITLES: Mapping[TableName, str] = MappingProxyType(
    {
        "syncer": "the syncer, and the pair's own limit",
        "endpoint": "through the tenant's endpoint, and straight",
    }
)
"""Every table, and what stands above it."""

_MARK = MappingProxyType({"syncer": "bench", "endpoint": "bench endpoint"})


class ReportError(Exception):
    """The report can't be written; the message says why."""


def begin(name: TableName) -> str:
    """Return the line of a Markdown file behind which a table is written."""
    return f"<!-- {_MARK[name]}: begin -->"


def end(name: TableName) -> str:
    """Return the line of a Markdown file before which a table ends."""
    return f"<!-- {_MARK[name]}: end -->"


def tables(found: Sequence[Row]) -> dict[TableName, list[Row]]:
    """Return the rows of each table that has any."""
    by_table = {name: [row for row in found if row.table == name] for name in TITLES}
    return {name: rows for name, rows in by_table.items() if rows}


def table(name: TableName, found: Sequence[Row]) -> Table:
    """Return the rows of one table for a terminal."""
    result = Table(title=TITLES[name], title_justify="left")
    columns = COLUMNS[name]
    for number, column in enumerate(columns):
        words = number in (0, len(columns) - 1)
        result.add_column(column, justify="left" if words else "right", no_wrap=not words)
    for row in found:
        result.add_row(*row.cells())
    return result


def markdown(name: TableName, found: Sequence[Row], settings: Mapping[str, Any]) -> str:
    """Return the rows of one table as Markdown, with a line on how they came about."""
    where = machine()
    made = ", ".join(f"{key} {value}" for key, value in settings.items())
    versions = f"Python {where['python']}, Kubernetes {where['kubernetes']}"
    columns = COLUMNS[name]
    lines = [
        f"{where['cores']} cores, {versions}; {made}.",
        "",
        f"| {' | '.join(columns)} |",
        "|---|" + "---:|" * (len(columns) - 2) + "---|",
        *(f"| {' | '.join(row.cells())} |" for row in found),
    ]
    return "\n".join(lines)


def write_markdown(path: Path, name: TableName, text: str) -> None:
    """Replace what stands between a table's two lines; raises ReportError without them."""
    before, after = around_block(path, name)
    path.write_text(f"{before}{begin(name)}\n{text}\n{end(name)}{after}")


def around_block(path: Path, name: TableName) -> tuple[str, str]:
    """Return what stands before and after the block that `write_markdown` replaces.

    Raises:
        ReportError: the file has not both lines.
    """
    old = path.read_text() if path.exists() else ""
    before, found, rest = old.partition(begin(name))
    _, closed, after = rest.partition(end(name))
    if not (found and closed):
        raise ReportError(f"{path} has no lines {begin(name)} and {end(name)} to write between")
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
