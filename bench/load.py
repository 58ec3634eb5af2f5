"""The load of the endpoint's scenarios: one job, in a process of its own.

    python -m bench.load < JOB > RESULT

Whatever else the benchmark does in its own process would be part of every latency. Besides clocks
it reads what the measured processes used meanwhile, so that connecting and warming up are no part
of it. Exit status 1: something failed; standard error says what.
"""

import asyncio
import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from bench.wire import Connections, Target, WireError, exec_request, request

PATCH: Final = "application/merge-patch+json"

_TICKS = os.sysconf("SC_CLK_TCK")
_PAUSE = 0.02  # seconds between two writes that are watched
_PATIENCE = 20.0  # seconds until an event has arrived everywhere


class Requests(msgspec.Struct, frozen=True, tag=True):
    """GETs, one after the other on each connection.

    Attributes:
        path: what to get.
        connections: how many at a time.
        warm: seconds of the same beforehand.
        seconds: how long.
    """

    path: str
    connections: int
    warm: float
    seconds: float


class Watches(msgspec.Struct, frozen=True, tag=True):
    """Writes to one object, and watches of it that see each.

    Attributes:
        path: the object's collection.
        name: of the object; it has `data`.
        watchers: how many watches.
        writes: how many writes, one after the other.
        writer: server that is written to.
    """

    path: str
    name: str
    watchers: int
    writes: int
    writer: Target


class Exec(msgspec.Struct, frozen=True, tag=True):
    """A command in a pod that writes to standard output.

    Attributes:
        path: with the query.
        size: bytes that it writes.
    """

    path: str
    size: int


class Job(msgspec.Struct, frozen=True):
    """What to do, and what to measure meanwhile.

    Attributes:
        target: the server it goes to.
        work: what.
        syncer: process id of the syncer.
        planes: those of the control planes.
    """

    target: Target
    work: Requests | Watches | Exec
    syncer: int
    planes: list[int]


class Result(msgspec.Struct, frozen=True):
    """What came of a job.

    Attributes:
        count: requests, events or bytes.
        seconds: that they took.
        latencies: seconds of each.
        cpu_seconds: of the syncer meanwhile.
        plane_cpu_seconds: of the control planes meanwhile.
        rss_bytes: resident memory of the syncer at the end, connections still open.
    """

    count: int
    seconds: float
    latencies: list[float]
    cpu_seconds: float
    plane_cpu_seconds: float
    rss_bytes: int


class _Meter:
    """Reads the clock and the processes' CPU times, now and at the end."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._cpu = _cpu_seconds([job.syncer])
        self._planes = _cpu_seconds(job.planes)
        self.started = time.perf_counter()

    def result(self, count: int, latencies: list[float], seconds: float = 0.0) -> Result:
        """Return what was measured; `seconds` in place of all that went by."""
        return Result(
            count=count,
            seconds=seconds or time.perf_counter() - self.started,
            latencies=latencies,
            cpu_seconds=_cpu_seconds([self._job.syncer]) - self._cpu,
            plane_cpu_seconds=_cpu_seconds(self._job.planes) - self._planes,
            rss_bytes=_rss_bytes(self._job.syncer),
        )


class Audience:
    """Notes when each of several watchers has seen a write.

    Attributes:
        times: when each saw the present one, `time.perf_counter()`.
    """

    def __init__(self, size: int) -> None:
        """Make it for `size` watchers; none waits for anything."""
        self.times: list[float] = []
        self._size = size
        self._mark = b""
        self._all = asyncio.Event()

    def expect(self, mark: bytes) -> None:
        """Begin with another write: its event, and no other, contains `mark`."""
        self.times, self._mark = [], mark
        self._all.clear()

    def seen(self, line: bytes) -> None:
        """Take an event that a watcher has got."""
        if self._mark and self._mark in line:
            self.times.append(time.perf_counter())
            if len(self.times) == self._size:
                self._all.set()

    async def wait(self) -> None:
        """Wait until all have seen it; raises WireError when some don't."""
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._all.wait()
        except TimeoutError:
            raise WireError(f"only {len(self.times)} of {self._size} watches saw it") from None


def main() -> int:
    """Do the job on standard input and return the exit status."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    gc.disable()  # a pause of ours would be one of theirs; the process is short
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(perform(job))
    except (WireError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


async def perform(job: Job) -> Result:
    """Do a job.

    Raises:
        WireError: a server did not answer as it should.
        OSError: one can't be reached.
    """
    async with Connections(job.target) as connections:
        match job.work:
            case Requests():
                return await _requests(job, job.work, connections)
            case Watches():
                async with Connections(job.work.writer) as writers:
                    return await _watches(job, job.work, connections, writers)
            case Exec():
                return await _exec(job, job.work, connections)


async def _requests(job: Job, work: Requests, connections: Connections) -> Result:
    opened = [await connections.repeater() for _ in range(work.connections)]
    data = request(job.target, "GET", work.path)

    async def run(seconds: float) -> list[float]:
        until = time.perf_counter() + seconds
        found = await asyncio.gather(*(each.run(data, until) for each in opened))
        return [latency for latencies in found for latency in latencies]

    await run(work.warm)
    meter = _Meter(job)
    latencies = await run(work.seconds)
    return meter.result(len(latencies), latencies)


async def _watches(
    job: Job, work: Watches, connections: Connections, writers: Connections
) -> Result:
    path = f"{work.path}?watch=1&resourceVersion=0&fieldSelector=metadata.name%3D{work.name}"
    opening = request(job.target, "GET", path)
    audience = Audience(work.watchers)
    watchers = []
    for _ in range(work.watchers):
        watchers.append(await connections.watcher(audience.seen))
        await watchers[-1].open(opening)
    writer = await writers.repeater()

    async def write() -> list[float]:
        mark = f'"mark":"{time.time_ns()}"'
        body = f'{{"data":{{{mark}}}}}'.encode()
        patch = request(work.writer, "PATCH", f"{work.path}/{work.name}", body, PATCH)
        audience.expect(mark.encode())
        sent = time.perf_counter()
        await writer.run(patch)
        await audience.wait()
        await asyncio.sleep(_PAUSE)
        return [at - sent for at in audience.times]

    await write()
    meter = _Meter(job)
    rounds = [await write() for _ in range(work.writes)]
    for watcher in watchers:
        watcher.check()
    latencies = [latency for latencies in rounds for latency in latencies]
    return meter.result(len(latencies), latencies, sum(map(max, rounds)))


async def _exec(job: Job, work: Exec, connections: Connections) -> Result:
    connection = await connections.exec()
    meter = _Meter(job)
    size = await connection.run(exec_request(job.target, work.path))
    if size != work.size:
        raise WireError(f"{size} bytes came of {work.size}")
    seconds = time.perf_counter() - meter.started
    return meter.result(size, [seconds], seconds)


def _cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU time, user and system, that processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def _rss_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
