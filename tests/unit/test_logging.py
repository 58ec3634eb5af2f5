"""Logs: one line an event, in the format asked for, and nothing for what is filtered."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator

import pytest
import structlog

from syncer.ops import logging as ours
from syncer.ops.logging import Format, Level


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Claim it."""
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give the test process its own logging back."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def configured(
    level: Level = "info", form: Format = "json", stream: io.StringIO | None = None
) -> io.StringIO:
    stream = io.StringIO() if stream is None else stream
    ours.configure(level, form, stream=stream)
    return stream


def records(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line() -> None:
    """An event is one JSON object: time in UTC, level, logger, event, then what was added."""
    stream = configured()
    ours.get("app").info("lists complete", objects=3, kind="pods")
    (record,) = records(stream)
    assert list(record) == ["timestamp", "level", "logger", "event", "objects", "kind"]
    assert str(record.pop("timestamp")).endswith("Z")
    assert record == {
        "level": "info", "logger": "app", "event": "lists complete", "objects": 3, "kind": "pods",
    }  # fmt: skip


def test_structlog_loggers_made_earlier_work() -> None:
    """A logger that a module made when imported obeys what is configured later."""
    logger = structlog.get_logger("early")
    stream = configured()
    logger.warning("x")
    assert records(stream)[0]["logger"] == "early"


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        pytest.param("error", ["error"], id="error"),
        pytest.param("warning", ["warning", "error"], id="warning"),
        pytest.param("info", ["info", "warning", "error"], id="info"),
        pytest.param("debug", ["debug", "info", "warning", "error"], id="debug"),
    ],
)
def test_level_filters(level: Level, shown: list[str]) -> None:
    """What is less serious than the level is not written."""
    stream = configured(level)
    logger = ours.get("x")
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)("e")
    assert [record["level"] for record in records(stream)] == shown


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        pytest.param("error", ["error"], id="error"),
        pytest.param("info", ["warning", "error"], id="info shows their warnings"),
        pytest.param("debug", ["info", "warning", "error"], id="debug shows their info"),
    ],
)
def test_libraries_are_a_level_quieter(level: Level, shown: list[str]) -> None:
    """What libraries log comes out the same way, but they are less talkative."""
    stream = configured(level)
    logger = logging.getLogger("aiohttp.test")
    for call in (logger.debug, logger.info, logger.warning, logger.error):
        call("%s %d", "words", 1)
    assert [record["level"] for record in records(stream)] == shown
    assert {(r["event"], r["logger"]) for r in records(stream)} == {("words 1", "aiohttp.test")}


def test_levels_of_libraries_own_are_rounded_down() -> None:
    """A level between the known ones does not break a library's logging."""
    stream = configured()
    logging.getLogger("x").log(35, "between")
    logging.getLogger("x").log(70, "beyond")
    assert [record["level"] for record in records(stream)] == ["warning", "critical"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_exceptions_have_their_traceback(form: Format) -> None:
    """An exception is logged with its traceback, in JSON inside the one line."""
    stream = configured(form=form)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        ours.get("x").exception("failed")
        logging.getLogger("y").exception("failed too")
    assert stream.getvalue().count("RuntimeError: broken") == 2
    assert form == "text" or len(records(stream)) == 2


@pytest.mark.parametrize(
    "value",
    [object(), b"bytes", "lone \ud800 surrogate", 1 << 70, {1: {2, 3}}, float("nan")],
    ids=["object", "bytes", "surrogate", "big", "set", "nan"],
)
def test_any_value_can_be_logged(value: object) -> None:
    """A value that JSON can't hold is written somehow; logging does not raise."""
    stream = configured()
    ours.get("x").info("e", value=value)
    assert records(stream)[0]["event"] == "e"


@pytest.mark.parametrize(
    ("form", "make", "is_json"),
    [
        pytest.param("auto", io.StringIO, True, id="auto, no terminal"),
        pytest.param("auto", Terminal, False, id="auto, terminal"),
        pytest.param("text", io.StringIO, False, id="text"),
        pytest.param("json", Terminal, True, id="json on a terminal"),
    ],
)
def test_format_auto_is_text_on_a_terminal(
    form: Format, make: Callable[[], io.StringIO], is_json: bool
) -> None:
    """The format auto is text for people and JSON for machines."""
    stream = configured(form=form, stream=make())
    ours.get("x").info("hello")
    assert stream.getvalue().startswith("{") is is_json


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text has colours on a terminal, none in a file and none when NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)

    def text(stream: io.StringIO) -> str:
        configured(form="text", stream=stream)
        ours.get("x").info("hello")
        return stream.getvalue()

    assert "\x1b[" in text(Terminal())
    assert "\x1b[" not in text(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in text(Terminal())


def test_python_warnings_are_logged() -> None:
    """A warning of Python goes to the log and not past it."""
    stream = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", UserWarning, stacklevel=1)
    assert "UserWarning: old" in str(records(stream)[0]["event"])
