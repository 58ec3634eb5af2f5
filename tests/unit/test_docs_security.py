"""docs/security.md promises tests: they must be there, and those in tests/security must be told."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for line in PAGE.splitlines()
    if re.match(r"\| \d", line)
]
CITED = sorted(set(re.findall(r"`(tests/[\w/]+\.py::\w+)`", PAGE)))


def functions_in(path: Path) -> set[str]:
    """Give the names of a file's test functions."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = (node for node in ast.parse(path.read_text()).body if isinstance(node, functions))
    return {node.name for node in found if node.name.startswith("test_")}


def test_each_threat_has_one_row() -> None:
    """The table has the rows 1 to 30, each with a threat, an answer and its tests."""
    assert [row[0] for row in ROWS] == [str(number) for number in range(1, 31)]
    assert {len(row) for row in ROWS} == {4}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row {row[0]}")
def test_each_answer_is_tested_or_not_here_yet(row: tuple[str, str, str, str]) -> None:
    """A row names a test, unless what could be attacked isn't here."""
    _, threat, answer, tests = row
    assert threat
    assert tests or re.search(r"\byet\b|nothing cluster-scoped is written", answer)
    assert re.sub(r"`tests/[\w/]+\.py::test_\w+`", "", tests).strip() == ""


@pytest.mark.parametrize("cited", CITED)
def test_cited_tests_exist(cited: str) -> None:
    """Every test that the page names is one."""
    path, _, name = cited.partition("::")
    assert (ROOT / path).is_file()
    assert name in functions_in(ROOT / path)


def test_functions_in_threats_are_told() -> None:
    """Every test of tests/security stands in the table."""
    found = {
        f"{path.relative_to(ROOT)}::{name}"
        for path in (ROOT / "tests" / "security").glob("test_*.py")
        for name in functions_in(path)
    }
    assert found <= set(CITED)
