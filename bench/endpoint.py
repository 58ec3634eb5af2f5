"""What the tenant's endpoint costs: the same requests through it and straight to the server behind.

Both ways take turns, straight first, a few times for each line, so that whatever else the machine
does meets both. Each turn is a job of a process of its own (`bench.load`). One syncer serves them
all; watches come first, while its memory is as small as ever.
"""

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import msgspec

from bench.client import Arrivals, LoadError, running
from bench.load import Exec, Job, Requests, Result, Watches
from bench.objects import PODS, copy_name, pod_template, small_config_map
from bench.stats import Outcome, Run
from bench.wire import Target
from bench.world import HOST_NAMESPACE, NOW, TENANT, World
from controlplane import ControlPlane
from controlplane.syncer import Syncer

_SMALL, _WATCHED, _POD = "small", "watched", "streams"
_WARM = 0.3  # seconds of requests that don't count
_ARRIVE = 30.0  # seconds for a pod to run
_DONE = 60.0  # seconds for a job
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class EndpointSizes:
    """How much of everything.

    Attributes:
        turns: of each way, for each line of a round.
        seconds: that requests are made for in a turn.
        list_seconds: the same for lists, each of which takes longer.
        listed: objects in a list.
        watchers: watches at a time.
        writes: that they see in a turn.
        megabytes: that an exec writes in a turn, 10⁶ bytes each.
    """

    turns: int = 3
    seconds: float = 1.5
    list_seconds: float = 2.0
    listed: int = 1000
    watchers: int = 200
    writes: int = 20
    megabytes: int = 200


QUICK: Final = EndpointSizes(
    turns=1, seconds=0.7, list_seconds=1.0, listed=200, watchers=50, writes=10, megabytes=50
)


@dataclass(frozen=True)
class _Errand:
    """What to do on one of both ways."""

    target: Target
    work: Requests | Watches | Exec


@dataclass(frozen=True)
class _Line:
    """A line of the table: the same both ways.

    Attributes:
        title: its name.
        straight: to the server that answers.
        through: through the endpoint.
        unit: how many of what a job counts are one of what the line counts.
    """

    title: str
    straight: _Errand
    through: _Errand
    unit: int = 1


async def measure_endpoint(world: World, sizes: EndpointSizes) -> list[Outcome]:
    """Measure every line and return an outcome for each turn.

    Raises:
        LoadError: a server did not answer as it should.
    """
    namespace = await world.namespace()
    try:
        await _fill(world, namespace, sizes.listed)
        async with world.syncer() as syncer:
            await _run_pod(world, namespace)
            through = _target(world.virtual_plane, syncer.endpoint)
            # So that what is loaded with the first request is not a line's growth.
            first = Requests(_path(namespace, "configmaps"), 1, _WARM, 0.0)
            await _job(_Errand(through, first), world, syncer)
            outcomes = []
            for line in _lines(world, sizes, syncer, namespace):
                outcomes += await _turns(line, sizes.turns, world, syncer)
            return outcomes
    finally:
        await world.clear(PODS, namespace)
        for plural in ("podtemplates", "configmaps"):
            await world.virtual.send("DELETE", _path(namespace, plural), NOW)


async def _fill(world: World, namespace: str, listed: int) -> None:
    """Make what is read, listed and watched: objects that no syncer copies."""
    for name in (_SMALL, _WATCHED):
        await world.virtual.send("POST", _path(namespace, "configmaps"), small_config_map(name))
    path = _path(namespace, "podtemplates")
    names = [f"o{number}" for number in range(listed)]
    await world.each(names, lambda name: world.virtual.send("POST", path, pod_template(name)))


async def _run_pod(world: World, namespace: str) -> None:
    """Make the pod that commands run in, and wait until it runs."""
    path = _path(namespace, "pods")
    async with Arrivals.watch(world.virtual, path, [_POD], running) as arrivals:
        await world.virtual.send("POST", path, PODS.body(_POD, namespace))
        await arrivals.wait(_ARRIVE)


def _lines(world: World, sizes: EndpointSizes, syncer: Syncer, namespace: str) -> Iterator[_Line]:
    plane, host = world.virtual_plane, world.host_plane
    straight, through = _target(plane, plane.server), _target(plane, syncer.endpoint)

    def both(title: str, work: Requests | Watches) -> _Line:
        return _Line(title, _Errand(straight, work), _Errand(through, work))

    maps, templates = _path(namespace, "configmaps"), _path(namespace, "podtemplates")
    yield both("watches", Watches(maps, _WATCHED, sizes.watchers, sizes.writes, writer=straight))
    for verb, path, seconds in (
        ("GET", f"{maps}/{_SMALL}", sizes.seconds),
        ("LIST", templates, sizes.list_seconds),
    ):
        for connections in (1, 20):
            title = f"{verb}, {connections} connection{'s' if connections > 1 else ''}"
            yield both(title, Requests(path, connections, _WARM, seconds))
    size = sizes.megabytes * _MEGABYTE
    copy = copy_name(_POD, namespace, TENANT)
    yield _Line(
        "exec, MB out",
        _Errand(_target(host, host.server), Exec(_exec_path(HOST_NAMESPACE, copy, size), size)),
        _Errand(through, Exec(_exec_path(namespace, _POD, size), size)),
        unit=_MEGABYTE,
    )


async def _turns(line: _Line, turns: int, world: World, syncer: Syncer) -> list[Outcome]:
    """Let both ways take turns."""
    rss, outcomes = syncer.rss_bytes(), []
    for _ in range(turns):
        straight = await _job(line.straight, world, syncer)
        through = await _job(line.through, world, syncer)
        pair = (_run(through, line.unit, rss), _run(straight, line.unit, rss))
        outcomes.append(Outcome(line.title, *pair, table="endpoint"))
    return outcomes


async def _job(errand: _Errand, world: World, syncer: Syncer) -> Result:
    """Do one turn in a process of its own; raises LoadError with what it said if it fails."""
    job = Job(errand.target, errand.work, syncer=syncer.pid or 0, planes=world.pids())
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load", stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        async with asyncio.timeout(_DONE):
            out, err = await process.communicate(msgspec.json.encode(job))
    except TimeoutError:
        raise LoadError(f"{errand.work} took longer than {_DONE:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = err.decode(errors="replace").strip()
        raise LoadError(f"{errand.work} at {errand.target.server}: {said}")
    return msgspec.json.decode(out, type=Result)


def _run(result: Result, unit: int, rss_before: int) -> Run:
    return Run(
        count=result.count // unit,
        seconds=result.seconds,
        latencies=result.latencies,
        cpu_seconds=result.cpu_seconds,
        rss_bytes=result.rss_bytes,
        pair_cpu_seconds=result.plane_cpu_seconds,
        grown_bytes=result.rss_bytes - rss_before,
    )


def _target(plane: ControlPlane, server: str) -> Target:
    pki = plane.pki
    files = (pki.server_ca.certificate, pki.admin.certificate, pki.admin.key)
    return Target(server, *map(str, files))


def _exec_path(namespace: str, pod: str, size: int) -> str:
    words = [("command", word) for word in ("head", "-c", str(size), "/dev/zero")]
    query = urlencode([*words, ("container", "main"), ("stdout", "true"), ("stderr", "true")])
    return f"{_path(namespace, 'pods')}/{pod}/exec?{query}"


def _path(namespace: str, plural: str) -> str:
    return f"/api/v1/namespaces/{namespace}/{plural}"
