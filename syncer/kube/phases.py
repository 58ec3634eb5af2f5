"""The phases of an informer, and which follows which: plain values and functions, no I/O.

    Listing ----list complete----> Watching ----connection ended----> Checking
       ^ ^                          |    ^                             |    |
       | +- 410, disorder, asked ---+    +---- still the same past ----+    |
       |                                                                    |
       +-- a list's version is lower than one seen (rewound), here or there +

A lower version is no rewind while the server has an object of a higher one (understated).

A phase ends with an :class:`End`, errors included; :func:`following` says what comes next and
:func:`pause` when.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from syncer.kube.errors import ApiError, TransportError
from syncer.kube.watch import DecodeError

BACKOFF: Final = (0.2, 30.0)
"""Seconds: the upper end of the first pause after a failure, and of all."""

REFUSED_PAUSE: Final = 30.0
"""Seconds between attempts while the server forbids or doesn't know the resource."""


@dataclass(frozen=True, slots=True)
class Listing:
    """There is no view that a watch could start from.

    Attributes:
        rewound: the datastore was put back, so the list replaces everything.
    """

    rewound: bool = False


@dataclass(frozen=True, slots=True)
class Checking:
    """A connection ended: is the server's past still the one we know? It may be restored."""


@dataclass(frozen=True, slots=True)
class Watching:
    """The view is complete up to the store's version; changes come in."""


State: TypeAlias = Listing | Checking | Watching


class Why(StrEnum):
    """Why a phase ended; the words of logs and metrics."""

    LISTED = "listed"
    CHECKED = "checked"
    ASKED = "asked"
    """Another part asked for a fresh list."""
    CLOSED = "closed"
    """The server ended the watch in order."""
    LOST = "lost"
    """The connection broke or could not be made."""
    SILENT = "silent"
    """Nothing came for too long."""
    EXPIRED = "expired"
    """The version or continue token is compacted (410)."""
    REWOUND = "rewound"
    """A list is older than what was seen: the datastore was put back, or a replica is stale."""
    UNDERSTATED = "understated"
    """A list calls itself older than objects that the server has: it is asked for again."""
    DISORDERED = "disordered"
    """A watch told of a lower version than before; a list will say whether it is a rewind."""
    UNSUPPORTED = "unsupported"
    """The server has no streaming lists."""
    UNAUTHORIZED = "unauthorized"
    REFUSED = "refused"
    """Forbidden, or not served at all."""
    FAILED = "failed"
    """Any other error status, or bytes that are no watch."""
    BUG = "bug"
    """An exception nobody expected."""


PROGRESS: Final = frozenset({Why.LISTED, Why.CHECKED, Why.ASKED, Why.UNSUPPORTED})


@dataclass(frozen=True, slots=True)
class End:
    """How a phase ended.

    Attributes:
        why: the reason.
        message: one line for people.
        status: HTTP status of an error answer, else 0.
        retry_after: seconds the server asks to wait.
        version: with REWOUND, the version that is too low.
    """

    why: Why
    message: str = ""
    status: int = 0
    retry_after: float = 0.0
    version: int = 0


def classify(error: Exception, *, streaming_list: bool) -> End:
    """Say what an error of a phase means.

    Args:
        error: what was raised.
        streaming_list: what had been asked for is a streaming list.
    """
    if isinstance(error, ApiError):
        why = meaning(error.status, error.reason, streaming_list=streaming_list)
        return End(why, str(error), error.status, error.retry_after or 0.0)
    if isinstance(error, TimeoutError):
        return End(Why.SILENT, "nothing came in time")
    if isinstance(error, TransportError):
        silent = isinstance(error.cause, TimeoutError)
        return End(Why.SILENT if silent else Why.LOST, str(error))
    if isinstance(error, DecodeError):
        return End(Why.FAILED, str(error))
    return End(Why.BUG, f"{type(error).__name__}: {error}")


def meaning(status: int, reason: str, *, streaming_list: bool = False) -> Why:
    """Say what an error status means, in an answer or inside a watch.

    Args:
        status: HTTP status code.
        reason: ``metav1.Status.reason``.
        streaming_list: what had been asked for is a streaming list. Servers without them refuse
            ``resourceVersionMatch`` on a watch (up to 1.26) or ``sendInitialEvents`` (later ones
            with the feature off): 422, or 400 from some aggregated servers.
    """
    if status == 410 or reason in ("Expired", "Gone"):
        return Why.EXPIRED
    if status in (400, 422) and streaming_list:
        return Why.UNSUPPORTED
    if status == 401:
        return Why.UNAUTHORIZED
    return Why.REFUSED if status in (403, 404, 405) else Why.FAILED


def following(state: State, why: Why) -> State:
    """Say which state follows when a state ended for a reason."""
    match why:
        case Why.LISTED | Why.CHECKED:
            return Watching()
        case Why.REWOUND:
            return Listing(rewound=True)
        case _ if isinstance(state, Listing):
            return state
        case Why.EXPIRED | Why.ASKED | Why.DISORDERED:
            return Listing()
        case _:
            return Checking()


def pause(end: End, failures: int, random: Callable[[], float]) -> float:
    """Say how many seconds to wait before the next phase.

    Args:
        end: how the last one ended.
        failures: how many ended in failure in a row, this one included.
        random: gives numbers from 0 to 1.
    """
    if failures == 0:
        return 0.0
    first, most = BACKOFF
    wait = min(most, first * 2.0 ** min(failures - 1, 16)) * (0.5 + random() / 2)
    if end.why is Why.REFUSED:
        wait = REFUSED_PAUSE * (0.75 + random() / 2)
    return max(wait, end.retry_after)
