"""The load program's way to an API server: raw bytes, as few cycles as Python allows.

It shares the cores with what it measures, so it neither builds nor decodes more than it must:
answers are read and dropped, and of watch events only a few fields are looked at.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp
import msgspec
from yarl import URL

from controlplane import ControlPlane

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=60)
_ENDLESS = aiohttp.ClientTimeout(total=None, sock_read=None)
_LONGEST_LINE = 8 << 20  # bytes of one watch event


class LoadError(Exception):
    """The load could not be made, or did not arrive; the message says what was missing."""


class Metadata(msgspec.Struct):
    """What is looked at of an object's metadata."""

    name: str = ""
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 - the name on the wire


class _Spec(msgspec.Struct):
    nodeName: str = ""  # noqa: N815 - the name on the wire


class _Object(msgspec.Struct):
    metadata: Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: msgspec.Raw = msgspec.Raw(b"{}")


class _Event(msgspec.Struct):
    type: str
    object: _Object


class _Status(msgspec.Struct):
    phase: str = ""


class _ListMetadata(msgspec.Struct):
    resourceVersion: str = ""  # noqa: N815 - the name on the wire


class _List(msgspec.Struct):
    metadata: _ListMetadata


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_status = msgspec.json.Decoder(_Status).decode
_decode_list = msgspec.json.Decoder(_List).decode


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a watch.

    Attributes:
        type: ADDED, MODIFIED or DELETED.
        name: of the object.
        phase: `status.phase`, "" if there is none.
        node: `spec.nodeName`, "" if there is none.
        status: JSON of its status.
        version: resource version.
    """

    type: str
    name: str
    phase: str
    node: str
    status: bytes
    version: str


Matches = Callable[[Event], bool]
"""Says whether an event is what is waited for."""


class Api:
    """One API server, as its administrator."""

    def __init__(self, plane: ControlPlane, session: aiohttp.ClientSession) -> None:
        self._plane = plane
        self._session = session

    @classmethod
    @asynccontextmanager
    async def connect(cls, plane: ControlPlane) -> AsyncIterator["Api"]:
        """Yield an open API; its connections end with the block."""
        connector = aiohttp.TCPConnector(ssl=plane.pki.client_context(), limit=0)
        headers = {"Accept-Encoding": "identity"}  # compressing costs more than loopback
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            yield cls(plane, session)

    async def send(
        self, method: str, path: str, body: bytes | None = None, content_type: str = JSON
    ) -> bytes:
        """Make a request and return the answer's bytes.

        Raises:
            LoadError: the server refused.
        """
        async with self._session.request(
            method,
            self._url(path),
            data=body,
            headers={"Content-Type": content_type} if body is not None else None,
            timeout=_REQUEST_TIMEOUT,
        ) as response:
            answer = await response.read()
            if response.status >= 300:
                raise LoadError(f"{method} {path}: {response.status} {answer[:300]!r}")
            return answer

    async def ensure(self, path: str, body: bytes) -> None:
        """Create an object unless it exists; raises LoadError for other refusals."""
        try:
            await self.send("POST", path, body)
        except LoadError as error:
            if ": 409 " not in str(error):
                raise

    async def exists(self, path: str, timeout: float = 30.0) -> None:
        """Wait until an object exists; raises LoadError if it still does not after `timeout` s."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                await self.send("GET", path)
            except LoadError:
                if time.monotonic() > deadline:
                    raise
            else:
                return
            await asyncio.sleep(0.02)

    async def version(self, path: str) -> str:
        """Return the present resource version of a collection."""
        return _decode_list(await self.send("GET", f"{path}?limit=1")).metadata.resourceVersion

    async def events(self, path: str, version: str) -> AsyncIterator[Event]:
        """Yield what happens to a collection after `version`, without end.

        A server ends the watch of a client that falls behind; it goes on where it was.
        """
        while True:
            async for event in self._watch(path, version):
                version = event.version
                yield event

    async def _watch(self, path: str, version: str) -> AsyncIterator[Event]:
        url = self._url(f"{path}?watch=1&resourceVersion={version}")
        async with self._session.get(url, timeout=_ENDLESS) as response:
            if response.status != 200:
                raise LoadError(f"watch of {path}: {response.status}")
            while line := await response.content.readline(max_line_length=_LONGEST_LINE):
                event = _decode_event(line)
                if event.type == "ERROR":
                    raise LoadError(f"watch of {path}: {line.decode()}")
                status = bytes(event.object.status)
                yield Event(
                    event.type,
                    event.object.metadata.name,
                    _decode_status(status).phase,
                    event.object.spec.nodeName,
                    status,
                    event.object.metadata.resourceVersion,
                )

    def _url(self, path: str) -> URL:
        return URL(self._plane.server + path, encoded=True)


class Arrivals:
    """Watches a collection and notes when each expected object first matched.

    Attributes:
        at: name -> `time.perf_counter()` of the first event that matched.
    """

    def __init__(self, expected: Collection[str], matches: Matches) -> None:
        self.at: dict[str, float] = {}
        self._missing = set(expected)
        self._matches = matches
        self._over = asyncio.Event()
        self._news = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def watch(
        cls, api: Api, path: str, expected: Collection[str], matches: Matches
    ) -> AsyncIterator["Arrivals"]:
        """Watch from now on, for as long as the block lasts."""
        arrivals = cls(expected, matches)
        version = await api.version(path)
        task = asyncio.create_task(arrivals._run(api, path, version))
        try:
            yield arrivals
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def wait(self, timeout: float) -> None:
        """Wait until all have arrived.

        Raises:
            LoadError: some had not after `timeout` seconds; tells how many.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._over.wait()
        except TimeoutError:
            some = ", ".join(sorted(self._missing)[:3])
            raise LoadError(
                f"{len(self._missing)} of {len(self._missing) + len(self.at)} objects"
                f" had not arrived after {timeout:g} s, among them {some}"
            ) from None

    async def one(self, name: str, timeout: float) -> float:
        """Wait for one object and return when it arrived; for a single caller at a time.

        Raises:
            LoadError: it had not after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while name not in self.at:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise LoadError(f"{name} had not arrived after {timeout:g} s") from None
        return self.at[name]

    async def _run(self, api: Api, path: str, version: str) -> None:
        async for event in api.events(path, version):
            if event.name in self._missing and self._matches(event):
                self.at[event.name] = time.perf_counter()
                self._missing.discard(event.name)
                self._news.set()
                if not self._missing:
                    self._over.set()


def appeared(event: Event) -> bool:
    """Match an object's first appearance."""
    return event.type == "ADDED"


def vanished(event: Event) -> bool:
    """Match an object's end."""
    return event.type == "DELETED"


def running(event: Event) -> bool:
    """Match a pod that runs."""
    return event.phase == "Running"
