"""Writes docs/kinds.md from what the mappers say of themselves.

``python -m mappers.document`` prints the page; a test fails when the committed one differs.
It looks at the fixed headings of each module's docstring and at its kinds' references.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Final

import mappers
from syncer.types import Kind

HEADINGS: Final = (
    "Direction",
    "Host name",
    "Rewritten",
    "Changed later",
    "Read back",
    "Never copied",
    "Source",
)
"""What a mapper's docstring answers, in this order; ``Changed later`` may be missing."""

OPTIONAL: Final = frozenset({"Changed later"})

_HEADING: Final = re.compile(rf"({'|'.join(HEADINGS)}): *")
_ROLE: Final = re.compile(r":[a-z]+:`~?([^`]+)`")

_INTRODUCTION: Final = """\
# Kinds

What is synced, and how. Written by `python -m mappers.document` from the mappers' own
docstrings and tables; a test fails when this page is out of date.

"""


def page(modules: Iterable[ModuleType]) -> str:
    """Give the whole page, as Markdown.

    Args:
        modules: mappers, as :func:`mappers.modules` gives them.
    """
    modules = tuple(modules)
    table = ["| name | API | kind | direction | default |", "|---|---|---|---|---|"]
    table += [_row(kind) for module in modules for kind in mappers.kinds_of(module)]
    sections = [line for module in modules for line in _section(module)]
    return _INTRODUCTION + "\n".join([*table, "", *sections]).rstrip() + "\n"


def answers(module: ModuleType) -> dict[str, str]:
    """Give what a module's docstring says under each heading.

    Returns:
        One paragraph a heading, in the order of the docstring; ``""`` has the title, and
        ``"Notes"`` what stands under no heading, when there is any.

    Raises:
        ValueError: a heading is missing or out of order.
    """
    title, *paragraphs = inspect.cleandoc(module.__doc__ or "").split("\n", 1)
    result = {"": title.rstrip(".")}
    current = "Notes"
    for line in "\n".join(paragraphs).splitlines():
        if match := _HEADING.match(line):
            current, line = match[1], line[match.end() :]
        elif line and not line.startswith(" "):
            current = "Notes"
        if line.strip():
            result[current] = f"{result.get(current, '')} {line.strip()}".strip()
    found = [heading for heading in result if heading in HEADINGS]
    wanted = [name for name in HEADINGS if name in found or name not in OPTIONAL]
    if found != wanted:
        raise ValueError(f"{module.__name__}: docstring has the headings {found}, not {wanted}")
    return result


def _row(kind: Kind) -> str:
    resource = kind.resource
    cells = (
        f"`{kind.name}`",
        f"`{resource.api_version}`",
        resource.kind,
        kind.direction.value + (" on the host" if kind.on_host else ""),
        "on" if kind.default else "off",
    )
    return f"| {' | '.join(cells)} |"


def _section(module: ModuleType) -> Iterator[str]:
    said = answers(module)
    yield f"## {_markdown(said.pop(''))}"
    yield ""
    for heading, text in said.items():
        yield f"- **{heading}**: {_markdown(text)}"
    yield ""
    rows = [(row.path, row.target) for kind in mappers.kinds_of(module) for row in kind.references]
    if rows:
        yield "| field | names |"
        yield "|---|---|"
        yield from (f"| `{path}` | `{target}` |" for path, target in rows)
        yield ""


def _markdown(text: str) -> str:
    return _ROLE.sub(r"`\1`", text).replace("``", "`")


if __name__ == "__main__":
    sys.stdout.write(page(mappers.modules()))
