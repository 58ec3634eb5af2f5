"""Heads as bytes: what is written is what was meant, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.http1.head import BadHeaderError, Header, head

FIRST = "GET / HTTP/1.1"


@pytest.mark.parametrize(
    ("headers", "lines"),
    [
        pytest.param([], b"", id="none"),
        pytest.param(
            [("A", ""), ("B", "c d"), ("A", "\tä")], b"A: \r\nB: c d\r\nA: \t\xc3\xa4\r\n"
        ),
    ],
)
def test_a_head_is_written_in_order(headers: list[Header], lines: bytes) -> None:
    """Line by line, and an empty one at the end."""
    assert head(FIRST, headers) == FIRST.encode() + b"\r\n" + lines + b"\r\n"


@pytest.mark.parametrize("text", ["\r", "\n", "\r\n", "\0", "a\r\nB: c", "\ud800"])
@pytest.mark.parametrize("where", ["line", "name", "value"])
def test_what_would_end_a_header_is_refused(text: str, where: str) -> None:
    """Wherever it stands, nothing is written."""
    first = FIRST.replace("/", "/" + text) if where == "line" else FIRST
    name, value = ("A" + text if where == "name" else "A"), (text if where == "value" else "b")
    with pytest.raises(BadHeaderError):
        head(first, [(name, value)])


@given(st.lists(st.tuples(st.text(), st.text()), max_size=3))
def test_no_header_becomes_two(headers: list[Header]) -> None:
    """Whatever is in them, there are as many lines as headers, or none."""
    try:
        written = head(FIRST, headers)
    except BadHeaderError:
        return
    assert written.split(b"\r\n")[1:-2] == [f"{name}: {value}".encode() for name, value in headers]
