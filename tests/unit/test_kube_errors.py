"""Errors of API servers: read from any answer, on one line, without what must not be in logs."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.errors import (
    MAX_LINE,
    MAX_MESSAGE,
    ApiError,
    ConfigError,
    TransportError,
    api_error,
    one_line,
    seconds_until,
)

ATTEMPT = "PATCH /api/v1/namespaces/a/configmaps/b"
NOW = 1_790_000_000.0  # 2026-09-21 14:13:20 UTC
PROPERTIES = (
    "not_found",
    "already_exists",
    "conflict",
    "invalid",
    "forbidden",
    "unauthorized",
    "expired",
    "throttled",
    "server_error",
)


def status(**fields: object) -> bytes:
    return orjson.dumps({"kind": "Status", "apiVersion": "v1", "status": "Failure"} | fields)


@pytest.mark.parametrize(
    ("code", "reason", "wanted"),
    [
        pytest.param(400, "BadRequest", "", id="400 is none of them"),
        pytest.param(409, "NameCollision", "", id="409 of our own is none of them"),
        pytest.param(409, "", "", id="409 without a reason is none of them"),
        pytest.param(404, "NotFound", "not_found", id="404"),
        pytest.param(409, "AlreadyExists", "already_exists", id="409 AlreadyExists"),
        pytest.param(409, "Conflict", "conflict", id="409 Conflict"),
        pytest.param(422, "Invalid", "invalid", id="422"),
        pytest.param(403, "Forbidden", "forbidden", id="403"),
        pytest.param(401, "Unauthorized", "unauthorized", id="401"),
        pytest.param(410, "", "expired", id="410"),
        pytest.param(410, "Expired", "expired", id="410 Expired"),
        pytest.param(500, "Expired", "expired server_error", id="Expired with another status"),
        pytest.param(429, "TooManyRequests", "throttled", id="429"),
        pytest.param(500, "InternalError", "server_error", id="500"),
        pytest.param(504, "Timeout", "server_error", id="504"),
    ],
)
def test_kinds_of_refusal(code: int, reason: str, wanted: str) -> None:
    """Each refusal that callers tell apart has a property, and others have none."""
    error = ApiError(code, reason, "why")
    assert wanted.split() == [name for name in PROPERTIES if getattr(error, name)]


@pytest.mark.parametrize(
    ("code", "body", "line"),
    [
        pytest.param(502, b"", f"{ATTEMPT}: 502", id="empty body"),
        pytest.param(
            404, b"404 page not found\n", f"{ATTEMPT}: 404: 404 page not found", id="text"
        ),
        pytest.param(404, b'{"a": 1}', f'{ATTEMPT}: 404: {{"a": 1}}', id="JSON that is no Status"),
        pytest.param(500, b"[1]", f"{ATTEMPT}: 500: [1]", id="JSON that is no map"),
        pytest.param(500, b'{"kind": "Status"', f'{ATTEMPT}: 500: {{"kind": "Status"', id="cut"),
        pytest.param(502, b"\xff\x1b[2J<p>\n\nno", f"{ATTEMPT}: 502: � [2J<p> no", id="binary"),
        pytest.param(
            302,
            b'<a href="https://elsewhere/?token=t">Found</a>',
            f"{ATTEMPT}: 302: redirects are not followed; is the URL of the server right?",
            id="a redirect does not show where to",
        ),
        pytest.param(
            409,
            status(reason="Conflict", message="the object\nhas been modified"),
            f"{ATTEMPT}: 409 Conflict: the object has been modified",
            id="Status",
        ),
        pytest.param(
            500, status(reason=7, message=[]), f"{ATTEMPT}: 500", id="Status of wrong types"
        ),
    ],
)
def test_line_from_any_answer(code: int, body: bytes, line: str) -> None:
    """Whatever the body is, the error is one line: attempt, status, reason, message."""
    assert line == str(api_error(ATTEMPT, code, body, None, NOW))


def test_details_are_kept() -> None:
    """The details of a Status are there for callers, as a map even when the server sent none."""
    details = {"kind": "serviceaccounts", "name": "x"}
    assert details == api_error(ATTEMPT, 404, status(details=details), None, NOW).details
    assert api_error(ATTEMPT, 404, status(details=None), None, NOW).details == {}
    assert api_error(ATTEMPT, 404, b"", None, NOW).details == {}


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        pytest.param(None, None, id="no header"),
        pytest.param("", None, id="empty"),
        pytest.param("0", 0.0, id="zero"),
        pytest.param(" 12 ", 12.0, id="seconds"),
        pytest.param("-1", None, id="negative"),
        pytest.param("1.5", None, id="fraction"),
        pytest.param("١٢", None, id="digits that are not ASCII"),
        pytest.param("9" * 400, None, id="too many digits for a float"),
        pytest.param("Mon, 21 Sep 2026 14:13:50 GMT", 30.0, id="date"),
        pytest.param("Mon, 21 Sep 2026 14:13:50 -0000", 30.0, id="date without a zone"),
        pytest.param("Mon, 21 Sep 2026 13:13:50 GMT", 0.0, id="date in the past"),
        pytest.param("soon", None, id="nonsense"),
    ],
)
def test_retry_after(header: str | None, wanted: float | None) -> None:
    """Retry-After is read as seconds or a date; what makes no sense counts as not there."""
    assert wanted == seconds_until(header, NOW)


def test_retry_after_from_the_body() -> None:
    """Without the header, the Status' retryAfterSeconds counts; with it, the header."""
    body = status(details={"retryAfterSeconds": 7})
    assert api_error(ATTEMPT, 429, body, None, NOW).retry_after == 7.0
    assert api_error(ATTEMPT, 429, body, "1", NOW).retry_after == 1.0
    assert api_error(ATTEMPT, 429, status(details={}), None, NOW).retry_after is None


def test_long_messages_are_cut() -> None:
    """A long message is bounded in the error and more so in its line."""
    error = api_error(ATTEMPT, 422, status(message="x" * 100_000), None, NOW)
    assert len(error.message) == MAX_MESSAGE
    assert len(str(error)) < MAX_LINE + len(ATTEMPT) + 20
    assert str(error).endswith("x...")


@pytest.mark.parametrize(
    ("cause", "line"),
    [
        pytest.param(TimeoutError(), f"{ATTEMPT}: no answer: TimeoutError", id="without a text"),
        pytest.param(
            ConnectionResetError(104, "Connection\nreset"),
            f"{ATTEMPT}: no answer: ConnectionResetError: [Errno 104] Connection reset",
            id="with a text",
        ),
    ],
)
def test_transport_error_line(cause: Exception, line: str) -> None:
    """A transport error names the attempt and what happened, on one line."""
    assert line == str(TransportError(ATTEMPT, cause))


def test_config_error_is_one_line() -> None:
    """Whatever text is in a configuration error, it is one line."""
    assert str(ConfigError("a: b\n  c")) == "a: b c"


@given(text=st.text(), limit=st.integers(min_value=4, max_value=50))
def test_one_line_is_one_bounded_printable_line(text: str, limit: int) -> None:
    """One line is printable, bounded, and leaves alone what is such a line already."""
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line == "" or line.isprintable()
    assert line == one_line(line, limit)


@given(header=st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d+ Sep \d+ \d+:\d+:\d+ [-+A-Z0-9]*"))
def test_no_header_breaks_the_reading(header: str) -> None:
    """Any Retry-After gives seconds that are not negative, or none."""
    seconds = seconds_until(header, NOW)
    assert seconds is None or 0 <= seconds < float("inf")


@given(body=st.binary(), code=st.integers(min_value=300, max_value=599))
def test_no_answer_breaks_the_reading(body: bytes, code: int) -> None:
    """Any bytes make an error with the answer's status."""
    assert code == api_error(ATTEMPT, code, body, None, NOW).status
