"""The kinds of work that are measured.

Each scenario is one round: it makes its load on a fresh namespace, once with a new syncer process
and once, without one, with the load program's own least writes; and removes what it made.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Literal

from bench.client import Arrivals, Matches, appeared, running, vanished
from bench.crew import Crew
from bench.endpoint import QUICK as QUICK_ENDPOINT
from bench.endpoint import EndpointSizes, measure_endpoint
from bench.objects import PODS, PODS_WITH_TOKEN, SECRETS, SERVICES, Kind, copy_name
from bench.stats import Outcome, Run
from bench.world import (
    HOST_NAMESPACE,
    LIMIT_NAMESPACE,
    LIMIT_TENANT,
    TENANT,
    Copier,
    World,
    rest,
)
from controlplane.syncer import Syncer

_TIMEOUT = 120.0  # seconds for a burst to arrive
_PAUSE = 0.1  # seconds between pods that come one at a time
_IDLE = 10.0  # seconds
_BOTH: tuple[Literal["limit"], Literal["syncer"]] = ("limit", "syncer")


@dataclass(frozen=True)
class Sizes:
    """How many objects each scenario takes.

    Attributes:
        secrets: in a burst.
        pods: in a burst.
        services: in a burst.
        single: pods that come one at a time.
        stored: secrets that are there when the syncer starts.
        endpoint: what goes through the tenant's endpoint.
    """

    secrets: int = 500
    pods: int = 300
    services: int = 200
    single: int = 40
    stored: int = 2000
    endpoint: EndpointSizes = field(default_factory=EndpointSizes)


QUICK = Sizes(secrets=100, pods=50, services=50, single=10, stored=300, endpoint=QUICK_ENDPOINT)


Scenario = Callable[[World, Sizes], Awaitable[list[Outcome]]]


# -- waves ---------------------------------------------------------------------------------------


@dataclass
class _Round:
    """Objects of one kind on a fresh namespace, and who syncs them.

    Attributes:
        world: the pair.
        kind: of the objects.
        namespace: virtual, new.
        names: of the objects.
        crew: keeps the load's requests in flight.
        tenant: ends the names of the copies.
        host_namespace: holds the copies.
        copier: the load program itself, where it makes the copies.
        syncer: the syncer, where it does.
    """

    world: World
    kind: Kind
    namespace: str
    names: list[str]
    crew: Crew
    tenant: str = TENANT
    host_namespace: str = HOST_NAMESPACE
    copier: Copier | None = None
    syncer: Syncer | None = None

    @classmethod
    @asynccontextmanager
    async def by(
        cls, who: Literal["limit", "syncer"], world: World, kind: Kind, size: int
    ) -> AsyncIterator["_Round"]:
        """Yield a round that can be measured; the end of the block removes what it made."""
        namespace = await world.namespace()
        names = [f"o{number}" for number in range(size)]
        try:
            async with Crew.of(world.in_flight) as crew, AsyncExitStack() as stack:
                made = cls(world, kind, namespace, names, crew)
                if who == "syncer":
                    made.syncer = await stack.enter_async_context(world.syncer())
                else:
                    made.tenant, made.host_namespace = LIMIT_TENANT, LIMIT_NAMESPACE
                    made.copier = Copier(world, kind, namespace, crew)
                    await stack.enter_async_context(world.nodes())
                    await stack.enter_async_context(made.copier.following())
                yield made
        finally:
            await world.clear(kind, namespace)

    def copy(self, name: str) -> str:
        """Return the name of an object's copy."""
        return copy_name(name, self.namespace, self.tenant)

    async def create(self, name: str) -> None:
        """Create an object as the tenant, and its copy where that is ours to do."""
        body = self.kind.body(name, self.namespace)
        answer = await self.world.virtual.send("POST", self.kind.path(self.namespace), body)
        if self.copier is not None:
            await self.copier.create(name, answer)

    async def delete(self, name: str) -> None:
        """Delete an object as the tenant, and its copy where that is ours to do."""
        await self.world.virtual.send("DELETE", self.kind.path(self.namespace, name))
        if self.copier is not None:
            await self.copier.delete(name)

    def copies(self, matches: Matches) -> AbstractAsyncContextManager[Arrivals]:
        """Watch what happens to the copies on the host."""
        path = self.kind.path(self.host_namespace)
        return Arrivals.watch(self.world.host, path, list(map(self.copy, self.names)), matches)

    def originals(self, matches: Matches) -> AbstractAsyncContextManager[Arrivals]:
        """Watch what happens to the objects in the virtual cluster."""
        path = self.kind.path(self.namespace)
        return Arrivals.watch(self.world.virtual, path, self.names, matches)

    async def wave(self, request: Callable[[str], Awaitable[None]], matches: Matches) -> Run:
        """Make a request for every object at once, and measure until each has arrived.

        Args:
            request: `create` or `delete`.
            matches: what arrival is: of pods in the virtual cluster, else of copies on the host.
        """
        sent: dict[str, float] = {}

        async def job(name: str) -> None:
            sent[name] = time.perf_counter()
            await request(name)

        async with self.originals(matches) if self.kind.pods else self.copies(matches) as arrivals:
            meter = _Meter(self.world, self.syncer)
            for name in self.names:
                self.crew.add(partial(job, name))
            await arrivals.wait(_TIMEOUT)
            seconds = max(arrivals.at.values()) - meter.started
        arrival = {name: name if self.kind.pods else self.copy(name) for name in self.names}
        latencies = [arrivals.at[arrival[name]] - sent[name] for name in self.names]
        return await meter.run(len(self.names), seconds, latencies)


class _Meter:
    """Reads clocks and CPU times at the start of a measurement and at its end."""

    def __init__(self, world: World, syncer: Syncer | None) -> None:
        self._world = world
        self._syncer = syncer
        self._cpu = syncer.cpu_seconds() if syncer is not None else 0.0
        self._pair_cpu = world.pair_cpu_seconds()
        self.started = time.perf_counter()

    async def run(self, count: int, seconds: float, latencies: list[float]) -> Run:
        """Wait until the syncer rests and return what was measured."""
        pair_cpu = self._world.pair_cpu_seconds() - self._pair_cpu
        if self._syncer is None:
            return Run(count, seconds, latencies, pair_cpu_seconds=pair_cpu)
        await rest(self._syncer)
        cpu = self._syncer.cpu_seconds() - self._cpu
        pair_cpu = self._world.pair_cpu_seconds() - self._pair_cpu
        return Run(count, seconds, latencies, cpu, self._syncer.rss_bytes(), pair_cpu)


async def _burst(world: World, kind: Kind, size: int) -> list[Outcome]:
    """Create `size` objects at once, then delete them at once."""
    runs = []
    for who in _BOTH:
        async with _Round.by(who, world, kind, size) as made:
            created = await made.wave(made.create, running if kind.pods else appeared)
            deleted = await made.wave(made.delete, vanished)
            runs.append((created, deleted))
    lines = (f"{kind.title} at once", f"{kind.title} deleted at once")
    return [Outcome(*each) for each in zip(lines, *reversed(runs), strict=True)]


# -- one at a time -------------------------------------------------------------------------------


async def _one_at_a_time(world: World, sizes: Sizes) -> list[Outcome]:
    """Create pods one by one: when is each on the host, when is it seen to run?"""
    runs = []
    for who in _BOTH:
        async with _Round.by(who, world, PODS, sizes.single) as made:
            runs.append(await _singles(made))
    lines = ("one pod, to the host", "one pod, to Running")
    return [Outcome(*each) for each in zip(lines, *reversed(runs), strict=True)]


async def _singles(made: _Round) -> tuple[Run, Run]:
    to_host, to_running = [], []
    async with made.copies(appeared) as copied, made.originals(running) as ran:
        meter = _Meter(made.world, made.syncer)
        for name in made.names:
            sent = time.perf_counter()
            await made.create(name)
            to_host.append(await copied.one(made.copy(name), _TIMEOUT) - sent)
            to_running.append(await ran.one(name, _TIMEOUT) - sent)
            await asyncio.sleep(_PAUSE)
    count = len(made.names)
    return (
        await meter.run(count, sum(to_host), to_host),
        await meter.run(count, sum(to_running), to_running),
    )


# -- starts --------------------------------------------------------------------------------------


async def _starts(world: World, sizes: Sizes) -> list[Outcome]:
    """Start the syncer beside objects that are not copied yet, then beside copied ones."""
    kind, size, namespace = SECRETS, sizes.stored, await world.namespace()
    names = [f"o{number}" for number in range(size)]
    path = kind.path(namespace)
    await world.each(
        names, lambda name: world.virtual.send("POST", path, kind.body(name, namespace))
    )
    try:
        limit = await _limit_of_cold_start(world, kind, namespace, names)
        cold = await _cold_start(world, kind, namespace, names)
        warm = await _warm_start(world, size)
    finally:
        await world.clear(kind, namespace)
    return [
        Outcome("cold start", cold, limit),
        Outcome("warm restart", warm, None),
    ]


async def _limit_of_cold_start(world: World, kind: Kind, namespace: str, names: list[str]) -> Run:
    path = kind.path(LIMIT_NAMESPACE)
    meter = _Meter(world, None)
    await world.each(
        names,
        lambda name: world.host.send("POST", path, kind.copy(name, namespace, LIMIT_TENANT)),
    )
    seconds = time.perf_counter() - meter.started
    return await meter.run(len(names), seconds, [seconds])


async def _cold_start(world: World, kind: Kind, namespace: str, names: list[str]) -> Run:
    copies = [copy_name(name, namespace, TENANT) for name in names]
    path = kind.path(HOST_NAMESPACE)
    async with world.stopped_syncer() as syncer:
        async with Arrivals.watch(world.host, path, copies, appeared) as arrivals:
            meter = _Meter(world, syncer)
            await syncer.start(ready=False)
            await arrivals.wait(_TIMEOUT)
        await syncer.wait_ready()
        latencies = [at - meter.started for at in arrivals.at.values()]
        return await meter.run(len(names), max(latencies), latencies)


async def _warm_start(world: World, size: int) -> Run:
    async with world.stopped_syncer() as syncer:
        meter = _Meter(world, syncer)
        await syncer.start()
        seconds = time.perf_counter() - meter.started
        return await meter.run(size, seconds, [seconds])


# -- idle ----------------------------------------------------------------------------------------


async def _idle(world: World, _sizes: Sizes) -> list[Outcome]:
    """Run the syncer on an empty pair and let it be."""
    async with world.syncer() as syncer:
        await asyncio.sleep(_PAUSE)
        meter = _Meter(world, syncer)
        await asyncio.sleep(_IDLE)
        return [Outcome("idle", await meter.run(1, _IDLE, [_IDLE]), None)]


ENDPOINT = "endpoint"
"""The scenario whose lines have a table of their own."""

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "idle": _idle,
        "secrets": lambda world, sizes: _burst(world, SECRETS, sizes.secrets),
        "services": lambda world, sizes: _burst(world, SERVICES, sizes.services),
        "pods": lambda world, sizes: _burst(world, PODS, sizes.pods),
        "pods-with-token": lambda world, sizes: _burst(world, PODS_WITH_TOKEN, sizes.pods),
        "one-pod": _one_at_a_time,
        "start": _starts,
        ENDPOINT: lambda world, sizes: measure_endpoint(world, sizes.endpoint),
    }
)
"""Every scenario by the name that `--only` takes, in the order they run."""
