"""What can go wrong between us and an API server: it says no, it says nothing, or we can't ask.

Every error of the network library is mapped to one of these at the edge, in
:mod:`syncer.kube.client`, so no other module knows that library.

Invariants:
* ``str(error)`` is one line of bounded length that names the attempt (method and path);
* no error holds a request's body, its query or a credential: they end up in logs and events.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import orjson

from syncer.objects import Object

MAX_MESSAGE: Final = 2048
"""Characters kept of a server's message."""

MAX_LINE: Final = 400
"""Characters of a message in ``str(error)``, which goes to logs and events."""


class ConfigError(Exception):
    """A configuration can't be used; one line that names file, field and what would be right."""

    def __init__(self, line: str) -> None:
        super().__init__(one_line(line, MAX_MESSAGE))


class TransportError(Exception):
    """No complete answer arrived; the server may or may not have done what was asked.

    Attributes:
        attempt: method and path, such as ``PATCH /api/v1/namespaces/a/pods/b``.
        cause: what happened; a :class:`TimeoutError` when nothing came in time.
    """

    def __init__(self, attempt: str, cause: Exception) -> None:
        super().__init__(attempt, cause)
        self.attempt = attempt
        self.cause = cause

    def __str__(self) -> str:
        text = one_line(str(self.cause), MAX_LINE)
        kind = type(self.cause).__name__
        return f"{self.attempt}: no answer: {kind}{': ' if text else ''}{text}"


class ApiError(Exception):
    """The server answered, and not with success.

    Attributes:
        status: HTTP status code.
        reason: ``metav1.Status.reason``, such as ``AlreadyExists``; ``""`` when there is none.
        message: the server's message on one line, cut at :data:`MAX_MESSAGE`.
        details: ``metav1.Status.details``, or ``{}``.
        retry_after: seconds the server asks to wait, or ``None``.
        attempt: method and path, such as ``PATCH /api/v1/namespaces/a/pods/b``.

    Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        details: Object | None = None,
        retry_after: float | None = None,
        attempt: str = "",
    ) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason
        self.message = one_line(message, MAX_MESSAGE)
        self.details: Object = details or {}
        self.retry_after = retry_after
        self.attempt = attempt

    def __str__(self) -> str:
        head = " ".join(part for part in (str(self.status), self.reason) if part)
        parts = (self.attempt, head, one_line(self.message, MAX_LINE))
        return ": ".join(part for part in parts if part)

    @property
    def not_found(self) -> bool:
        """The object, its namespace or the resource itself isn't there."""
        return self.status == 404

    @property
    def already_exists(self) -> bool:
        """An object of that name exists."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        """The object isn't (any more) as the precondition says."""
        return self.status == 409 and self.reason == "Conflict"

    @property
    def invalid(self) -> bool:
        """The object, or an immutable field, was refused by validation."""
        return self.status == 422

    @property
    def forbidden(self) -> bool:
        """The rights are missing, or admission refuses."""
        return self.status == 403

    @property
    def unauthorized(self) -> bool:
        """The credentials are not accepted; nothing was done."""
        return self.status == 401

    @property
    def expired(self) -> bool:
        """The resource version or continue token is compacted."""
        return self.status == 410 or self.reason in ("Expired", "Gone")

    @property
    def throttled(self) -> bool:
        """Too many requests; nothing was done."""
        return self.status == 429

    @property
    def server_error(self) -> bool:
        """The server failed; it may or may not have done what was asked."""
        return self.status >= 500


def api_error(
    attempt: str, status: int, body: bytes, retry_after: str | None, now: float
) -> ApiError:
    """Read an answer that is no success.

    Args:
        attempt: method and path.
        status: HTTP status code.
        body: the answer's body, maybe not whole; a ``metav1.Status`` or whatever a proxy says.
        retry_after: the ``Retry-After`` header, or ``None``.
        now: seconds since the epoch.

    Returns:
        The error. Without a Status its message is the text of the body.
    """
    answer = _status(body)
    if answer is None:
        text = body[: 4 * MAX_MESSAGE].decode(errors="replace")
        if 300 <= status < 400:
            text = "redirects are not followed; is the URL of the server right?"
        wait = seconds_until(retry_after, now)
        return ApiError(status, "", text, retry_after=wait, attempt=attempt)
    details = answer.get("details")
    details = details if isinstance(details, dict) else {}
    wait = seconds_until(retry_after, now)
    if wait is None and isinstance(given := details.get("retryAfterSeconds"), int) and given > 0:
        wait = float(given)
    return ApiError(
        status,
        _text(answer.get("reason")),
        _text(answer.get("message")),
        details=details,
        retry_after=wait,
        attempt=attempt,
    )


def seconds_until(retry_after: str | None, now: float) -> float | None:
    """Read a ``Retry-After`` header: seconds or an HTTP date.

    Args:
        retry_after: the header's value, or ``None``.
        now: seconds since the epoch.

    Returns:
        Seconds to wait, never negative; ``None`` when there is no header or it makes no sense.

    Source: RFC 9110, 10.2.3.
    """
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        # More digits than any wait has are nonsense; they could even be too many for a float.
        return float(text) if len(text) < 10 else None
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return max(0.0, (date - datetime.fromtimestamp(now, UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None


def one_line(text: str, limit: int) -> str:
    """Put a text on one line of at most ``limit`` characters, ``...`` for what is cut.

    Whatever isn't printable becomes a space, so that a server can't write to a terminal.
    """
    # A line is made of the first characters only: an answer may be long.
    head = "".join(char if char.isprintable() else " " for char in text[: 4 * limit])
    line = " ".join(head.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _status(body: bytes) -> dict[str, Any] | None:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict) or answer.get("kind") != "Status":
        return None
    return answer


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
