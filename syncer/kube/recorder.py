"""Writes core/v1 Events, as client-go's recorder does, without ever holding up the caller.

:meth:`EventRecorder.event` only takes notes; :meth:`EventRecorder.run` writes, one request at a
time. What repeats makes no new Event: its count and time are raised, and what repeats while it
still waits to be written costs no extra write.

Bounds and rules (client-go ``tools/record``, 0.36; the same numbers):
* repeats of one message on one object raise the count of one Event;
* after :data:`SIMILAR` different messages with one reason on one object within
  :data:`SIMILAR_SECONDS`, the further ones share one Event, "(combined from similar events)";
* an object and component may cause :data:`BURST` writes at once and one more every
  :data:`REFILL` seconds;
* at most :data:`REMEMBERED` entries of each kind are remembered, least recently used go first;
* at most :data:`WAITING` Events wait to be written; then the oldest is dropped and counted.

Nothing is written while ``may_write()`` is false, which is asked last before each request. An
Event that can't be written (namespace terminating, refused) is dropped with a debug log. The
recorder never raises, never blocks, and never writes an Event about its own failures.
"""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Final, NamedTuple, TypeVar

import structlog

from syncer.kube.client import Client
from syncer.kube.errors import ApiError, TransportError
from syncer.objects import Object, Resource

EVENTS: Final = Resource("", "v1", "events", "Event")

MESSAGE_BYTES: Final = 1024
"""Longest message; the API allows no more in ``note`` (``pkg/apis/core/validation/events.go``)."""

NAME_LENGTH: Final = 253
"""Longest object name (RFC 1123 subdomain)."""

SIMILAR: Final = 10
SIMILAR_SECONDS: Final = 600.0
COMBINED: Final = "(combined from similar events): "

BURST: Final = 25.0
REFILL: Final = 300.0

REMEMBERED: Final = 4096
WAITING: Final = 1000

ATTEMPTS: Final = 4
"""Requests made for one Event before it is given up."""

BACKOFF: Final = 0.5
"""Seconds before the second attempt; doubled for each further one."""

MAX_BACKOFF: Final = 10.0
"""Longest wait between attempts in seconds, whatever Retry-After says: others wait behind."""

GATE_SECONDS: Final = 1.0
"""How often a closed gate is looked at while Events wait."""

TIMEOUT: Final = 10.0
"""Seconds for one request."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("events")

_K = TypeVar("_K")
_V = TypeVar("_V")


class Involved(NamedTuple):
    """The object that an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


class Topic(NamedTuple):
    """What Events have in common that differ in nothing but their message."""

    involved: Involved
    type: str
    reason: str
    component: str


class _SeriesKey(NamedTuple):
    topic: Topic
    message: str
    """Empty for the combined series of a topic."""


@dataclass(slots=True, eq=False)
class Series:
    """One Event object and its repeats.

    Attributes:
        topic: object, type, reason and component.
        message: the latest; all the same but in a combined series.
        version: resource version of the involved object, as first recorded.
        first: wall clock seconds of the first one.
        last: of the latest.
        count: how many there were.
        name: of the Event object, once it was written; ``""`` before.
    """

    topic: Topic
    message: str
    version: str
    first: float
    last: float
    count: int = 0
    name: str = ""

    @property
    def namespace(self) -> str:
        """Where the Event lives: with the object, or in ``default`` (cluster-scoped objects)."""
        return self.topic.involved.namespace or "default"

    def body(self, name: str) -> Object:
        """Give the whole Event, to create it under a name."""
        topic, about = self.topic, self.topic.involved
        involved = {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
            "resourceVersion": self.version,
        }
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": self.namespace},
            "involvedObject": {key: value for key, value in involved.items() if value},
            "type": topic.type,
            "reason": topic.reason,
            "source": {"component": topic.component},
            "reportingComponent": topic.component,
            "reportingInstance": "",
            "firstTimestamp": rfc3339(self.first),
            **self.repeat(),
        }

    def repeat(self) -> Object:
        """Give the fields that a repeat changes, to patch them."""
        return {
            "count": self.count,
            "lastTimestamp": rfc3339(self.last),
            "message": self.message,
        }


@dataclass(slots=True)
class _Similar:
    """The messages of a topic, as hashes: they may be long."""

    last: float
    messages: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Bucket:
    """Tokens of an object and component at a time."""

    tokens: float
    at: float


class Correlator:
    """Decides into which Event a note goes and whether it is worth a write. No I/O."""

    def __init__(self) -> None:
        # Each holds at most REMEMBERED entries, least recently used first.
        self._series: OrderedDict[_SeriesKey, Series] = OrderedDict()
        self._similar: OrderedDict[Topic, _Similar] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, Involved], _Bucket] = OrderedDict()

    def add(self, topic: Topic, message: str, version: str, now: float) -> Series:
        """Count a note.

        Args:
            topic: object, type, reason and component.
            message: cut to size.
            version: resource version of the object.
            now: wall clock seconds.

        Returns:
            The series it belongs to, with this note in it.
        """
        key = _SeriesKey(topic, message)
        if self._is_one_too_many(topic, message, now):
            key = _SeriesKey(topic, "")
            message = cut(COMBINED + message)
        series = _recall(self._series, key, lambda: Series(topic, message, version, now, now))
        series.count += 1
        series.last = now
        series.message = message
        return series

    def allow(self, topic: Topic, now: float) -> bool:
        """Take a token for one write about the object; say whether there was one."""
        key = (topic.component, topic.involved)
        bucket = _recall(self._buckets, key, lambda: _Bucket(BURST, now))
        bucket.tokens = min(BURST, bucket.tokens + max(0.0, now - bucket.at) / REFILL)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _is_one_too_many(self, topic: Topic, message: str, now: float) -> bool:
        similar = _recall(self._similar, topic, lambda: _Similar(now))
        if now - similar.last > SIMILAR_SECONDS:
            similar.messages.clear()
        similar.last = now
        known = hash(message)
        if known in similar.messages:
            return False
        if len(similar.messages) >= SIMILAR:
            return True
        similar.messages.add(known)
        return False


class Answer(Enum):
    """What follows from a failed request."""

    RETRY = "retry"
    """Tried again after a while."""
    DROP = "drop"
    """Never going to work, such as in a terminating namespace."""
    CREATE = "create"
    """The Event that was to be patched is gone (they live for an hour): made anew."""
    WRITTEN = "written"
    """An earlier attempt went through although no answer came."""


def answer_to(error: ApiError | TransportError, *, creating: bool) -> Answer:
    """Decide what follows from a failed request.

    Args:
        error: what it raised.
        creating: whether an Event was to be created, not patched.
    """
    if isinstance(error, TransportError):
        return Answer.RETRY
    if error.throttled or error.server_error or error.unauthorized or error.conflict:
        return Answer.RETRY
    if creating and error.already_exists:
        return Answer.WRITTEN
    if not creating and error.not_found:
        return Answer.CREATE
    return Answer.DROP


class _ClosedError(Exception):
    """The gate closed between the decision to write and the request; nothing was sent."""


class EventRecorder:
    """Takes notes at once and writes them as Events when it can.

    Args:
        client: of the API server that gets the Events.
        may_write: asked last before each request; nothing is written while it says no.
        now: wall clock seconds.
        sleep: as ``asyncio.sleep``.
        random: uniform number in [0, 1), for the jitter between attempts.
    """

    def __init__(
        self,
        client: Client,
        *,
        may_write: Callable[[], bool] = lambda: True,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        self._client = client
        self._may_write = may_write
        self._now = now
        self._sleep = sleep
        self._random = random
        self._correlator = Correlator()
        # Series with something to write, each once, oldest first; at most WAITING.
        self._waiting: OrderedDict[Series, None] = OrderedDict()
        # Set while `_waiting` is not empty.
        self._some = asyncio.Event()
        # Nanoseconds in the last Event name given: no two are the same.
        self._stamp = 0
        self.dropped = 0
        """Events given up: queue full, refused, or failed too often."""
        self.limited = 0
        """Events only counted, because their object had too many."""
        self.written = 0
        """Requests that created or raised an Event."""

    @property
    def waiting(self) -> int:
        """How many Events wait to be written."""
        return len(self._waiting)

    def event(self, involved: Object, type: str, reason: str, message: str, component: str) -> None:  # noqa: A002 - the API's own word
        """Note an event; returns at once and never raises.

        Args:
            involved: the object it is about, as the recorder's API server knows it; with
                ``apiVersion``, ``kind`` and ``metadata``.
            type: ``Normal`` or ``Warning``.
            reason: CamelCase.
            message: for people; cut to :data:`MESSAGE_BYTES`.
            component: who says it.
        """
        metadata = involved.get("metadata") or {}
        about = Involved(
            involved.get("apiVersion", ""),
            involved.get("kind", ""),
            metadata.get("namespace", ""),
            metadata.get("name", ""),
            metadata.get("uid", ""),
        )
        topic, now = Topic(about, type, reason, component), self._now()
        series = self._correlator.add(topic, cut(message), metadata.get("resourceVersion", ""), now)
        if series in self._waiting:
            return
        if not self._correlator.allow(topic, now):
            self.limited += 1
            return
        if len(self._waiting) >= WAITING:
            self._waiting.popitem(last=False)
            self.dropped += 1
        self._waiting[series] = None
        self._some.set()

    async def run(self) -> None:
        """Write what was noted, until cancelled; what waits then is lost."""
        while True:
            await self._some.wait()
            if not self._may_write():
                await self._sleep(GATE_SECONDS)
                continue
            series, _ = self._waiting.popitem(last=False)
            if not self._waiting:
                self._some.clear()
            try:
                await self._write(series)
            except Exception:  # one Event's trouble must not end the loop
                self.dropped += 1
                log.exception("event failed", reason=series.topic.reason, **_about(series))

    async def _write(self, series: Series) -> None:
        """Create or raise one Event, trying again where that may help."""
        name, creating = series.name or self._new_name(series), not series.name
        attempt = 0
        while attempt < ATTEMPTS:
            try:
                await self._send(series, name, creating)
            except _ClosedError:
                await self._sleep(GATE_SECONDS)
                continue
            except (ApiError, TransportError) as error:
                attempt += 1
                match answer_to(error, creating=creating):
                    case Answer.RETRY:
                        await self._back_off(attempt, error)
                        continue
                    case Answer.CREATE:
                        name, creating = self._new_name(series), True
                        continue
                    case Answer.DROP:
                        return self._drop(series, error)
                    case Answer.WRITTEN:
                        pass
            series.name = name
            self.written += 1
            return None
        return self._drop(series, None)

    async def _send(self, series: Series, name: str, creating: bool) -> None:
        if creating:
            method, path, body = "POST", EVENTS.path(series.namespace), series.body(name)
        else:
            method, path, body = "PATCH", EVENTS.path(series.namespace, name), series.repeat()
        await self._client.request(
            method,
            path,
            body=body,
            content_type="application/json" if creating else "application/merge-patch+json",
            timeout=TIMEOUT,
            check=self._check,
        )

    def _check(self) -> None:
        if not self._may_write():
            raise _ClosedError

    async def _back_off(self, attempt: int, error: ApiError | TransportError) -> None:
        asked = (error.retry_after or 0.0) if isinstance(error, ApiError) else 0.0
        seconds = max(asked, BACKOFF * 2.0 ** (attempt - 1) * (0.5 + self._random()))
        if attempt < ATTEMPTS:
            await self._sleep(min(seconds, MAX_BACKOFF))

    def _drop(self, series: Series, error: ApiError | TransportError | None) -> None:
        self.dropped += 1
        cause = str(error) if error is not None else f"failed {ATTEMPTS} times"
        log.debug("event dropped", reason=series.topic.reason, cause=cause, **_about(series))

    def _new_name(self, series: Series) -> str:
        self._stamp = max(self._stamp + 1, int(self._now() * 1e9))
        return event_name(series.topic.involved.name, self._stamp)


def event_name(involved: str, stamp: int) -> str:
    """Name an Event after its object and time, within the length of a name.

    Args:
        involved: name of the object.
        stamp: nanoseconds.

    Source: client-go 0.36 ``tools/record/util`` (GenerateEventName).
    """
    suffix = f".{stamp:x}"
    return involved[: NAME_LENGTH - len(suffix)].rstrip(".-") + suffix


def cut(message: str) -> str:
    """Cut a message to :data:`MESSAGE_BYTES` of UTF-8, between characters, with an ellipsis."""
    encoded = message.encode(errors="replace")
    if len(encoded) <= MESSAGE_BYTES:
        return encoded.decode()
    return encoded[: MESSAGE_BYTES - 3].decode(errors="ignore") + "..."


def rfc3339(seconds: float) -> str:
    """Write wall clock seconds as the API does (``metav1.Time``): UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _about(series: Series) -> dict[str, str]:
    involved = series.topic.involved
    return {"kind": involved.kind, "object": f"{involved.namespace}/{involved.name}"}


def _recall(remembered: OrderedDict[_K, _V], key: _K, make: Callable[[], _V]) -> _V:
    """Give the entry of a key, made if need be, as the most recently used of a bounded many."""
    value = remembered.get(key)
    if value is None:
        value = remembered[key] = make()
        if len(remembered) > REMEMBERED:
            remembered.popitem(last=False)
    else:
        remembered.move_to_end(key)
    return value
