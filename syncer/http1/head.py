"""Heads of messages as bytes."""

from __future__ import annotations

from collections.abc import Iterable

Header = tuple[str, str]
"""Name as it was written, and value."""


class BadHeaderError(ValueError):
    """A header, or the line above them, has a character that would end it."""


def value_of(headers: Iterable[Header], name: str) -> str:
    """Give the first of the headers with a name, ``""`` when there is none.

    Args:
        headers: in order.
        name: in lower case.
    """
    return next((value for key, value in headers if key.lower() == name), "")


def head(first: str, headers: Iterable[Header]) -> bytes:
    """Give a message's head, up to and with the empty line.

    Args:
        first: its first line.
        headers: in order.

    Raises:
        BadHeaderError: one holds a line's end or a NUL, or what can't be encoded.
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    text = f"{first}\r\n{''.join(lines)}\r\n"
    ends = len(lines) + 2
    if text.count("\r") != ends or text.count("\n") != ends or "\0" in text:
        raise BadHeaderError("headers must not have control characters")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise BadHeaderError("headers must be UTF-8") from None
