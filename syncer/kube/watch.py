"""Turns the bytes of a watch into events. No I/O: chunks in, complete events out.

A watch is one JSON document a line. Of each line only what decides is read at once: the type,
the object's name and version; the object itself stays undecoded bytes until somebody wants it,
because many events are echoes of our own writes.

Invariants:
* the events do not depend on how the bytes were split into chunks;
* at most one line, and never more than the limit, is held;
* error texts never quote the stream: it may carry secrets.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
(watch, bookmarks, streaming lists).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from sys import intern
from typing import Final, TypeAlias

import msgspec
import orjson

from syncer.kube.store import Meta, version_of
from syncer.objects import Key, Object

MAX_LINE: Final = 8 << 20
"""Bytes of one event at most; etcd takes objects of 1.5 MB, which may be longer as JSON."""

INITIAL_EVENTS_END: Final = "k8s.io/initial-events-end"
"""Annotation of the bookmark that ends a streaming list. Source: KEP-3157."""


class DecodeError(ValueError):
    """The stream is not a watch, or an event is too long; the connection is of no use any more."""


class Verb(StrEnum):
    """What a watch says of an object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """An object was added, changed or deleted (or came into or left the selector).

    Attributes:
        verb: which of them.
        key: the object's key.
        meta: its UID and version; of a deletion, the version of the deletion.
        raw: its JSON.
    """

    verb: Verb
    key: Key
    meta: Meta
    raw: memoryview

    def decode(self) -> Object:
        """Decode the object."""
        obj: Object = orjson.loads(self.raw)
        return obj


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Everything up to a version has been told.

    Attributes:
        version: that version.
        initial_end: a streaming list is complete with it.
    """

    version: int
    initial_end: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """The server ends the watch with an error, after a status of 200.

    Attributes:
        code: HTTP status code; 410: the version to start from is compacted.
        reason: ``metav1.Status.reason``.
        message: for people.
    """

    code: int
    reason: str
    message: str


Event: TypeAlias = ObjectEvent | Bookmark | Failure


class Peek(msgspec.Struct):
    """Of an object, only ``metadata``; see :func:`peek`."""

    metadata: PeekedMetadata


class PeekedMetadata(msgspec.Struct, rename="camel"):
    """Of ``metadata``, only what decides whether the object is news."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _MarkMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Mark(msgspec.Struct):
    metadata: _MarkMetadata


class _Status(msgspec.Struct):
    code: int = 0
    reason: str = ""
    message: str = ""


class _Line(msgspec.Struct):
    type: str
    object: msgspec.Raw


_LINE: Final = msgspec.json.Decoder(_Line)
_PEEK: Final = msgspec.json.Decoder(Peek)
_MARK: Final = msgspec.json.Decoder(_Mark)
_STATUS: Final = msgspec.json.Decoder(_Status)


def peek(raw: msgspec.Raw) -> tuple[Key, Meta]:
    """Read an object's name, UID and version without decoding the rest.

    Raises:
        ValueError: it is no object, or lacks one of them.
    """
    metadata = _PEEK.decode(raw).metadata
    if not metadata.name or not metadata.uid:
        raise ValueError("an object without metadata.name or metadata.uid")
    key = Key(intern(metadata.namespace), metadata.name)
    return key, Meta(metadata.uid, version_of({"resourceVersion": metadata.resource_version}))


class Decoder:
    """Decodes one watch; a new connection needs a new decoder."""

    def __init__(self, *, max_line: int = MAX_LINE) -> None:
        """Make a decoder.

        Args:
            max_line: bytes of one event at most.
        """
        self._max_line = max_line
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes.

        Returns:
            The events that are complete with them.

        Raises:
            DecodeError: a line is too long or no watch event. The events before it in the same
                chunk are lost with it: the watch has to be resumed anyway.
        """
        *ends, rest = chunk.split(b"\n")
        events = []
        for end in ends:
            self._hold(end)
            line = b"".join(self._parts)
            self._parts.clear()
            self._held = 0
            if line:
                events.append(_event(line))
        if rest:
            self._hold(rest)
        return events

    def _hold(self, part: bytes) -> None:
        self._held += len(part)
        if self._held > self._max_line:
            raise DecodeError(f"a watch event is longer than {self._max_line} bytes")
        self._parts.append(part)


def _event(line: bytes) -> Event:
    try:
        frame = _LINE.decode(line)
        match frame.type:
            case "ADDED" | "MODIFIED" | "DELETED":
                key, meta = peek(frame.object)
                return ObjectEvent(Verb(frame.type), key, meta, memoryview(frame.object))
            case "BOOKMARK":
                return _bookmark(_MARK.decode(frame.object).metadata)
            case "ERROR":
                status = _STATUS.decode(frame.object)
                return Failure(status.code, status.reason, status.message)
            case _:
                raise ValueError("its type is unknown")
    # msgspec's errors are ValueErrors that name a path, no contents; RecursionError: too deep.
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"a line of {len(line)} bytes is no watch event: {error}") from error


def _bookmark(metadata: _MarkMetadata) -> Bookmark:
    version = version_of({"resourceVersion": metadata.resource_version})
    return Bookmark(version, (metadata.annotations or {}).get(INITIAL_EVENTS_END) == "true")
