"""The pair under load, and the writes that any syncer must make on it.

`Copier` is the *limit*: a stand-in for a syncer that knows beforehand what is to be done, decides
nothing, checks nothing, and makes the least writes.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from bench.client import MERGE_PATCH, Api, Event, LoadError
from bench.crew import Crew
from bench.objects import (
    NODES,
    Kind,
    binding,
    cluster_dns,
    copy_name,
    named,
    token_name,
    token_request,
    token_secret,
)
from controlplane import ControlPlane
from controlplane.syncer import Syncer

TENANT = "bench"
HOST_NAMESPACE = "host-bench"
LIMIT_TENANT = "limit"
LIMIT_NAMESPACE = "host-limit"
NOW = b'{"gracePeriodSeconds":0}'

_REST_SPAN = 0.3  # seconds without work that count as rest
_REST_TICKS = 0.011  # CPU-seconds: one tick of the kernel's clock may always be seen
_REST_TIMEOUT = 20.0  # seconds


class _Created(msgspec.Struct):
    class Metadata(msgspec.Struct):
        uid: str

    metadata: Metadata


class _Token(msgspec.Struct):
    class Status(msgspec.Struct):
        token: str

    status: Status


_decode_created = msgspec.json.Decoder(_Created).decode
_decode_token = msgspec.json.Decoder(_Token).decode


@dataclass
class World:
    """A host, a virtual cluster, and syncers that come and go.

    Attributes:
        host: API of the host.
        virtual: API of the virtual cluster.
        host_plane: its processes.
        virtual_plane: its processes.
        in_flight: how many requests the load program keeps in flight.
        profiles: directory for a profile of each syncer run; None for none.
        flags: further flags of the syncer.
    """

    host: Api
    virtual: Api
    host_plane: ControlPlane
    virtual_plane: ControlPlane
    in_flight: int
    profiles: Path | None = None
    flags: tuple[str, ...] = ()
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def prepare(self) -> None:
        """Make what every scenario needs."""
        await self.virtual.ensure("/api/v1/namespaces/kube-system/services", cluster_dns())
        await self.host.ensure("/api/v1/namespaces", named(LIMIT_NAMESPACE))
        await self.host.exists(f"/api/v1/namespaces/{LIMIT_NAMESPACE}/serviceaccounts/default")

    async def namespace(self) -> str:
        """Make a new virtual namespace and return its name; pods are admitted there."""
        name = f"b{next(self._numbers)}"
        await self.virtual.send("POST", "/api/v1/namespaces", named(name))
        await self.virtual.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default")
        await self.virtual.exists(f"/api/v1/namespaces/{name}/configmaps/kube-root-ca.crt")
        return name

    @asynccontextmanager
    async def syncer(self) -> AsyncIterator[Syncer]:
        """Run a new syncer process for as long as the block lasts; yield it when it is at rest."""
        async with self.stopped_syncer() as syncer:
            await syncer.start()
            await rest(syncer)
            yield syncer

    @asynccontextmanager
    async def stopped_syncer(self) -> AsyncIterator[Syncer]:
        """Yield a syncer for the block to start; it ends with the block.

        Raises:
            LoadError: the block did; a note has the end of the syncer's log.
        """
        wrapper: tuple[str, ...] = ()
        if self.profiles is not None:
            output = self.profiles / f"syncer-{next(self._numbers):03}.prof"
            wrapper = (sys.executable, "-m", "cProfile", "-o", str(output))
        syncer = Syncer(
            self.host_plane,
            self.virtual_plane,
            tenant=TENANT,
            namespace=HOST_NAMESPACE,
            flags=self.flags,
            wrapper=wrapper,
        )
        try:
            await syncer.prepare()
            yield syncer
        except LoadError as error:
            error.add_note(f"the syncer's log ends:\n{syncer.tail(15)}")
            raise
        finally:
            await syncer.close()

    def pair_cpu_seconds(self) -> float:
        """Return the CPU time that all processes of both planes have used."""
        planes = (self.host_plane, self.virtual_plane)
        return sum(each.cpu_seconds() for plane in planes for each in plane.components.values())

    def pids(self) -> list[int]:
        """Return the process ids of both planes."""
        planes = (self.host_plane, self.virtual_plane)
        found = (each.pid for plane in planes for each in plane.components.values())
        return [pid for pid in found if pid is not None]

    async def each(self, names: Iterable[str], send: Callable[[str], Awaitable[bytes]]) -> None:
        """Make a request for each name, as many in flight as ever."""
        waiting = iter(names)

        async def work() -> None:
            for name in waiting:
                await send(name)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.in_flight):
                group.create_task(work())

    async def clear(self, kind: Kind, namespace: str) -> None:
        """Remove what a scenario left of a kind, on both sides; no syncer may run."""
        await self.virtual.send("DELETE", kind.path(namespace), NOW)
        for host_namespace in (HOST_NAMESPACE, LIMIT_NAMESPACE):
            labels = f"?labelSelector=vcluster.loft.sh/namespace={namespace}"
            await self.host.send("DELETE", kind.path(host_namespace) + labels, NOW)

    @asynccontextmanager
    async def nodes(self) -> AsyncIterator[None]:
        """Let the virtual cluster know the host's nodes, which otherwise the syncer sees to."""
        for name in NODES:
            await self.virtual.ensure("/api/v1/nodes", named(name))
        try:
            yield
        finally:
            for name in NODES:
                await self.virtual.send("DELETE", f"/api/v1/nodes/{name}")


async def rest(syncer: Syncer) -> float:
    """Wait until the syncer has nothing to do, and return when it began to rest.

    Returns:
        `time.perf_counter()` of the moment; the end of the wait if it found no rest in 20 s.
    """
    deadline = time.perf_counter() + _REST_TIMEOUT
    since, spent = time.perf_counter(), syncer.cpu_seconds()
    while (now := time.perf_counter()) < deadline:
        if now - since >= _REST_SPAN:
            return since
        await asyncio.sleep(0.02)
        if (cpu := syncer.cpu_seconds()) - spent > _REST_TICKS:
            since, spent = time.perf_counter(), cpu
    return deadline


class Copier:
    """Makes the least writes that any syncer must make for objects of one kind."""

    def __init__(self, world: World, kind: Kind, namespace: str, crew: Crew) -> None:
        self._world = world
        self._kind = kind
        self._namespace = namespace
        self._crew = crew
        self._finished: set[str] = set()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """For as long as the block lasts, tell the virtual cluster what host pods do."""
        if not self._kind.pods:
            yield
            return
        path = self._kind.path(LIMIT_NAMESPACE)
        task = asyncio.create_task(self._follow(path, await self._world.host.version(path)))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def create(self, name: str, created: bytes) -> None:
        """Copy an object to the host; `created` is the virtual server's answer to its creation."""
        host, kind, namespace = self._world.host, self._kind, self._namespace
        if kind.token:
            uid = _decode_created(created).metadata.uid
            path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
            answer = await self._world.virtual.send("POST", path, token_request(name, uid))
            token = _decode_token(answer).status.token
            secret = token_secret(name, namespace, LIMIT_TENANT, token)
            await host.send("POST", f"/api/v1/namespaces/{LIMIT_NAMESPACE}/secrets", secret)
        copy = kind.copy(name, namespace, LIMIT_TENANT)
        await host.send("POST", kind.path(LIMIT_NAMESPACE), copy)

    async def delete(self, name: str) -> None:
        """Delete the copy of an object."""
        host, copy = self._world.host, copy_name(name, self._namespace, LIMIT_TENANT)
        await host.send("DELETE", self._kind.path(LIMIT_NAMESPACE, copy))
        if self._kind.token:
            secret = token_name(name, self._namespace, LIMIT_TENANT)
            await host.send("DELETE", f"/api/v1/namespaces/{LIMIT_NAMESPACE}/secrets/{secret}")

    async def _follow(self, path: str, version: str) -> None:
        suffix = f"-x-{self._namespace}-x-{LIMIT_TENANT}"
        async for event in self._world.host.events(path, version):
            if not event.name.endswith(suffix):
                continue
            name = event.name.removesuffix(suffix)
            if event.type == "DELETED":
                self._crew.add(partial(self._finalise, name), urgent=True)
            elif event.phase == "Running" and name not in self._finished:
                self._finished.add(name)
                self._crew.add(partial(self._report, name, event), urgent=True)

    async def _report(self, name: str, event: Event) -> None:
        path = self._kind.path(self._namespace, name)
        await self._world.virtual.send("POST", f"{path}/binding", binding(name, event.node))
        status = b'{"status":' + event.status + b"}"
        await self._world.virtual.send("PATCH", f"{path}/status", status, MERGE_PATCH)

    async def _finalise(self, name: str) -> None:
        await self._world.virtual.send("DELETE", self._kind.path(self._namespace, name), NOW)
