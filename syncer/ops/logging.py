"""Logs: one line an event on standard error, JSON for machines or text for people.

:func:`configure` is called once, at start, by the command line. Messages below the level cost one
call of an empty method. What libraries log through the standard library comes out the same way,
one level quieter than our own (at ``debug`` their ``info`` shows, else their warnings).

Invariant: a value that JSON can't hold is written as its ``repr``; logging never raises for it.

Never opens files and never rotates: that is the container runtime's work.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, Final, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "text"]

_FIRST: Final = ("timestamp", "level", "logger", "event")


def configure(level: Level, form: Format, *, stream: TextIO | None = None) -> None:
    """Set up logging for the whole process.

    Args:
        level: the least serious messages shown.
        form: ``json``, ``text``, or ``auto``: text on a terminal, else JSON.
        stream: where to; ``None`` is standard error.
    """
    target = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]
    terminal = target.isatty()
    text = form == "text" or (form == "auto" and terminal)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_name,
            *(_text(colours=terminal and "NO_COLOR" not in os.environ) if text else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_Factory(target),
        cache_logger_on_first_use=True,
    )
    _bridge(logging.INFO if number <= logging.DEBUG else max(number, logging.WARNING))


def get(name: str) -> FilteringBoundLogger:
    """Give a logger; the name appears as ``logger`` on its lines."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


class _Sink:
    """Writes finished lines of one named logger."""

    __slots__ = ("_stream", "name")

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self.name = name

    def msg(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()

    debug = info = warning = error = critical = msg


class _Factory:
    """Makes a sink for each name."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *names: str) -> _Sink:
        return _Sink(self._stream, names[0] if names else "syncer")


def _add_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.setdefault("logger", logger.name)
    return event


def _in_order(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put what people look for first; the rest follows as it was given."""
    return {**{key: event.pop(key) for key in _FIRST if key in event}, **event}


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # lone surrogates, integers of more than 64 bits
        return json.dumps(event, default=repr, skipkeys=True)


def _json() -> tuple[Processor, ...]:
    return (structlog.processors.format_exc_info, _in_order, _render_json)


def _text(*, colours: bool) -> tuple[Processor, ...]:
    plain = structlog.dev.plain_traceback
    return (structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain),)


class _Bridge(logging.Handler):
    """Hands records of the standard library to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        extra: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        # Libraries may log on levels of their own, which structlog does not know.
        number = min(logging.CRITICAL, max(logging.DEBUG, record.levelno // 10 * 10))
        get(record.name).log(number, record.getMessage(), **extra)


def _bridge(level: int) -> None:
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
