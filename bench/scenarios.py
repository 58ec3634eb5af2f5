"""The kinds of work that are measured.

Each scenario is one round: it makes its load on a fresh namespace, once with a new syncer process
and once, without one, with the load program's own least writes; and removes what it made.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from types import MappingProxyType

from bench.client import Arrivals, appeared, running, vanished
from bench.crew import Crew
from bench.objects import PODS, PODS_WITH_TOKEN, SECRETS, SERVICES, Kind, copy_name
from bench.stats import Run
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


@dataclass(frozen=True)
class Sizes:
    """How many objects each scenario takes.

    Attributes:
        secrets: in a burst.
        pods: in a burst.
        services: in a burst.
        single: pods that come one at a time.
        stored: secrets that are there when the syncer starts.
    """

    secrets: int = 500
    pods: int = 300
    services: int = 200
    single: int = 40
    stored: int = 2000


QUICK = Sizes(secrets=100, pods=50, services=50, single=10, stored=300)


@dataclass(frozen=True)
class Outcome:
    """One round of one line of the table.

    Attributes:
        line: the line's name.
        syncer: with the syncer.
        limit: without it; None where nothing can be compared.
    """

    line: str
    syncer: Run
    limit: Run | None


Scenario = Callable[[World, Sizes], Awaitable[list[Outcome]]]


# -- bursts --------------------------------------------------------------------------------------


@dataclass
class _Side:
    """Who does the syncing in a round, seen from the load.

    Attributes:
        tenant: ends the names of the copies.
        namespace: holds the copies.
        copier: the load program itself, or None.
        process: the syncer, or None.
    """

    tenant: str
    namespace: str
    copier: Copier | None
    process: Syncer | None


async def _burst(world: World, kind: Kind, size: int) -> list[Outcome]:
    """Create `size` objects at once, then delete them at once."""
    limit = await _round(world, kind, size, by_syncer=False)
    syncer = await _round(world, kind, size, by_syncer=True)
    lines = (f"{kind.title} at once", f"{kind.title} deleted at once")
    return [Outcome(*each) for each in zip(lines, syncer, limit, strict=True)]


async def _round(world: World, kind: Kind, size: int, *, by_syncer: bool) -> list[Run]:
    namespace = await world.namespace()
    names = [f"o{number}" for number in range(size)]
    try:
        async with (
            Crew.of(world.in_flight) as crew,
            _side(world, kind, namespace, crew, by_syncer) as side,
        ):
            created = await _create(world, kind, namespace, names, crew, side)
            deleted = await _delete(world, kind, namespace, names, crew, side)
    finally:
        await world.clear(kind, namespace)
    return [created, deleted]


@asynccontextmanager
async def _side(
    world: World, kind: Kind, namespace: str, crew: Crew, by_syncer: bool
) -> AsyncIterator[_Side]:
    if by_syncer:
        async with world.syncer() as process:
            yield _Side(TENANT, HOST_NAMESPACE, None, process)
    else:
        copier = Copier(world, kind, namespace, crew)
        async with world.nodes(), copier.following():
            yield _Side(LIMIT_TENANT, LIMIT_NAMESPACE, copier, None)


async def _create(
    world: World, kind: Kind, namespace: str, names: list[str], crew: Crew, side: _Side
) -> Run:
    sent: dict[str, float] = {}
    arrives = _expected(kind, namespace, names, side)

    async def job(name: str) -> None:
        sent[name] = time.perf_counter()
        answer = await world.virtual.send("POST", kind.path(namespace), kind.body(name, namespace))
        if side.copier is not None:
            await side.copier.create(name, answer)

    api = world.virtual if kind.pods else world.host
    path = kind.path(namespace if kind.pods else side.namespace)
    matches = running if kind.pods else appeared
    async with Arrivals.watch(api, path, arrives.values(), matches) as arrivals:
        return await _measured(world, crew, side, job, names, sent, arrives, arrivals)


async def _delete(
    world: World, kind: Kind, namespace: str, names: list[str], crew: Crew, side: _Side
) -> Run:
    sent: dict[str, float] = {}
    arrives = _expected(kind, namespace, names, side)

    async def job(name: str) -> None:
        sent[name] = time.perf_counter()
        await world.virtual.send("DELETE", kind.path(namespace, name))
        if side.copier is not None:
            await side.copier.delete(name)

    api = world.virtual if kind.pods else world.host
    path = kind.path(namespace if kind.pods else side.namespace)
    async with Arrivals.watch(api, path, arrives.values(), vanished) as arrivals:
        return await _measured(world, crew, side, job, names, sent, arrives, arrivals)


def _expected(kind: Kind, namespace: str, names: list[str], side: _Side) -> dict[str, str]:
    """Return name -> what to wait for: pods in the virtual cluster, else copies on the host."""
    if kind.pods:
        return {name: name for name in names}
    return {name: copy_name(name, namespace, side.tenant) for name in names}


async def _measured(
    world: World,
    crew: Crew,
    side: _Side,
    job: Callable[[str], Awaitable[None]],
    names: list[str],
    sent: Mapping[str, float],
    arrives: Mapping[str, str],
    arrivals: Arrivals,
) -> Run:
    cpu = side.process.cpu_seconds() if side.process else 0.0
    pair_cpu = world.pair_cpu_seconds()
    started = time.perf_counter()
    for name in names:
        crew.add(partial(job, name))
    await arrivals.wait(_TIMEOUT)
    seconds = max(arrivals.at.values()) - started
    if side.process:
        await rest(side.process)
    return Run(
        count=len(names),
        seconds=seconds,
        latencies=[arrivals.at[arrives[name]] - sent[name] for name in names],
        cpu_seconds=side.process.cpu_seconds() - cpu if side.process else 0.0,
        rss_bytes=side.process.rss_bytes() if side.process else 0,
        pair_cpu_seconds=world.pair_cpu_seconds() - pair_cpu,
    )


# -- one at a time -------------------------------------------------------------------------------


async def _one_at_a_time(world: World, sizes: Sizes) -> list[Outcome]:
    """Create pods one by one: when is each on the host, when is it seen to run?"""
    limit = await _singles(world, sizes.single, by_syncer=False)
    syncer = await _singles(world, sizes.single, by_syncer=True)
    lines = ("one pod, to the host", "one pod, to Running")
    return [Outcome(*each) for each in zip(lines, syncer, limit, strict=True)]


async def _singles(world: World, size: int, *, by_syncer: bool) -> list[Run]:
    kind, namespace = PODS, await world.namespace()
    names = [f"o{number}" for number in range(size)]
    try:
        async with (
            Crew.of(world.in_flight) as crew,
            _side(world, kind, namespace, crew, by_syncer) as side,
        ):
            return await _timed_singles(world, kind, namespace, names, side)
    finally:
        await world.clear(kind, namespace)


async def _timed_singles(
    world: World, kind: Kind, namespace: str, names: list[str], side: _Side
) -> list[Run]:
    copies = {name: copy_name(name, namespace, side.tenant) for name in names}
    to_host, to_running = [], []
    cpu = side.process.cpu_seconds() if side.process else 0.0
    async with (
        Arrivals.watch(world.host, kind.path(side.namespace), copies.values(), appeared) as copied,
        Arrivals.watch(world.virtual, kind.path(namespace), names, running) as run,
    ):
        for name in names:
            sent = time.perf_counter()
            body = kind.body(name, namespace)
            answer = await world.virtual.send("POST", kind.path(namespace), body)
            if side.copier is not None:
                await side.copier.create(name, answer)
            to_host.append(await copied.one(copies[name], _TIMEOUT) - sent)
            to_running.append(await run.one(name, _TIMEOUT) - sent)
            await asyncio.sleep(_PAUSE)
    spent = side.process.cpu_seconds() - cpu if side.process else 0.0
    rss = side.process.rss_bytes() if side.process else 0
    return [
        Run(len(names), sum(latencies), latencies, spent, rss)
        for latencies in (to_host, to_running)
    ]


# -- starts --------------------------------------------------------------------------------------


async def _starts(world: World, sizes: Sizes) -> list[Outcome]:
    """Start the syncer beside objects that are not copied yet, then beside copied ones."""
    kind, size, namespace = SECRETS, sizes.stored, await world.namespace()
    names = [f"o{number}" for number in range(size)]
    path = kind.path(namespace)
    await _all(
        world, names, lambda name: world.virtual.send("POST", path, kind.body(name, namespace))
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
    started, pair_cpu = time.perf_counter(), world.pair_cpu_seconds()
    await _all(
        world,
        names,
        lambda name: world.host.send("POST", path, kind.copy(name, namespace, LIMIT_TENANT)),
    )
    seconds = time.perf_counter() - started
    spent = world.pair_cpu_seconds() - pair_cpu
    return Run(len(names), seconds, [seconds], pair_cpu_seconds=spent)


async def _cold_start(world: World, kind: Kind, namespace: str, names: list[str]) -> Run:
    copies = [copy_name(name, namespace, TENANT) for name in names]
    syncer = world.describe_syncer()
    try:
        await syncer.prepare()
        async with Arrivals.watch(
            world.host, kind.path(HOST_NAMESPACE), copies, appeared
        ) as arrivals:
            started, pair_cpu = time.perf_counter(), world.pair_cpu_seconds()
            await syncer.start(ready=False)
            await arrivals.wait(_TIMEOUT)
        seconds = max(arrivals.at.values()) - started
        latencies = [at - started for at in arrivals.at.values()]
        return await _started(world, syncer, len(names), seconds, latencies, pair_cpu)
    finally:
        await syncer.close()


async def _warm_start(world: World, size: int) -> Run:
    syncer = world.describe_syncer()
    try:
        started, pair_cpu = time.perf_counter(), world.pair_cpu_seconds()
        await syncer.start()
        seconds = time.perf_counter() - started
        return await _started(world, syncer, size, seconds, [seconds], pair_cpu)
    finally:
        await syncer.close()


async def _started(
    world: World,
    syncer: Syncer,
    size: int,
    seconds: float,
    latencies: list[float],
    pair_cpu: float,
) -> Run:
    await syncer.wait_ready()
    await rest(syncer)
    spent = world.pair_cpu_seconds() - pair_cpu
    return Run(size, seconds, latencies, syncer.cpu_seconds(), syncer.rss_bytes(), spent)


async def _all(world: World, names: list[str], send: Callable[[str], Awaitable[bytes]]) -> None:
    """Make a request for each name, as many in flight as ever."""
    waiting = iter(names)

    async def work() -> None:
        for name in waiting:
            await send(name)

    async with asyncio.TaskGroup() as group:
        for _ in range(world.in_flight):
            group.create_task(work())


# -- idle ----------------------------------------------------------------------------------------


async def _idle(world: World, _sizes: Sizes) -> list[Outcome]:
    """Run the syncer on an empty pair and let it be."""
    async with world.syncer() as syncer:
        await asyncio.sleep(1.0)
        cpu, pair_cpu = syncer.cpu_seconds(), world.pair_cpu_seconds()
        readings = []
        for _ in range(10):
            await asyncio.sleep(_IDLE / 10)
            readings.append(syncer.rss_bytes())
        spent = syncer.cpu_seconds() - cpu
        pair_spent = world.pair_cpu_seconds() - pair_cpu
    rss = int(fmean(readings))
    return [Outcome("idle", Run(1, _IDLE, [_IDLE], spent, rss, pair_spent), None)]


SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "idle": _idle,
        "secrets": lambda world, sizes: _burst(world, SECRETS, sizes.secrets),
        "services": lambda world, sizes: _burst(world, SERVICES, sizes.services),
        "pods": lambda world, sizes: _burst(world, PODS, sizes.pods),
        "pods-with-token": lambda world, sizes: _burst(world, PODS_WITH_TOKEN, sizes.pods),
        "one-pod": _one_at_a_time,
        "start": _starts,
    }
)
"""Every scenario by the name that `--only` takes, in the order they run."""
