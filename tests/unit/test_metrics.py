"""Metrics: what is counted comes out, what is read is read at the scrape, and both are cheap."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families

from syncer.objects import Side
from syncer.ops.metrics import DEFINITIONS, LAG_INTERVAL, Metrics

FOREIGN = ("process_", "python_")


@dataclass
class Queue:
    """A queue as metrics see it."""

    depth: int = 0
    age: float = 0.0

    def oldest_age(self) -> float:
        """Seconds."""
        return self.age


@dataclass
class Listener:
    """The tenants' endpoint as metrics see it."""

    connections: int
    turned_away: int


@dataclass
class Limiter:
    """Flow control as metrics see it."""

    in_flight: int
    limit: int


class Store(list[int]):
    """A store as metrics see it: so many objects of 100 bytes."""

    @property
    def size(self) -> int:
        """Bytes."""
        return 100 * len(self)


@dataclass
class Informer:
    """An informer, and its status, as metrics see them."""

    restarts: Mapping[str, int] = field(default_factory=dict)

    def status(self) -> "Informer":
        """It is its own status."""
        return self


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((name, frozenset(labels.items())))


def busy() -> Metrics:
    """Metrics of a syncer in which everything has happened once."""
    metrics = Metrics()
    metrics.reconciled("pods", "to host", "written")
    metrics.latency("pods", Side.HOST, 0.004)
    metrics.latency("pods", Side.VIRTUAL, 0.02)
    metrics.sync_error("pods", "SyncError")
    metrics.waited(0.5)
    metrics.requests(Side.HOST)("PATCH", 200, 0.003)
    metrics.proxied("pass", 200, 0.002)
    metrics.watch_listener(Listener(3, 1))
    metrics.watch_queue(Queue(3, 1.5))
    metrics.watch_limiter(Side.HOST, Limiter(2, 16))
    metrics.watch_store(Side.VIRTUAL, "pods", Store([1, 2]))
    metrics.watch_informer(Side.HOST, "pods", Informer({"listed": 1, "lost": 2}))
    return metrics


async def one_lag_sample(metrics: Metrics, late: float) -> None:
    now = 100.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        if now > 100.0:
            raise asyncio.CancelledError
        now += seconds + late

    with pytest.raises(asyncio.CancelledError):
        await metrics.sample_loop_lag(sleep=sleep, clock=lambda: now)


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        pytest.param(
            "syncer_reconciles_total",
            {"kind": "pods", "direction": "to host", "result": "written"},
            1,
            id="reconciles",
        ),
        pytest.param("syncer_virtual_to_host_seconds_sum", {"kind": "pods"}, 0.004, id="to host"),
        pytest.param("syncer_host_to_virtual_seconds_sum", {"kind": "pods"}, 0.02, id="to virtual"),
        pytest.param(
            "syncer_virtual_to_host_seconds_bucket", {"kind": "pods", "le": "0.005"}, 1, id="bucket"
        ),
        pytest.param(
            "syncer_sync_errors_total", {"kind": "pods", "reason": "SyncError"}, 1, id="errors"
        ),
        pytest.param("syncer_queue_wait_seconds_count", {}, 1, id="waits"),
        pytest.param(
            "syncer_requests_total",
            {"server": "host", "verb": "PATCH", "code": "200"},
            1,
            id="requests",
        ),
        pytest.param(
            "syncer_request_seconds_sum", {"server": "host", "verb": "PATCH"}, 0.003, id="seconds"
        ),
        pytest.param("syncer_queue_depth", {}, 3, id="depth"),
        pytest.param("syncer_queue_oldest_seconds", {}, 1.5, id="oldest"),
        pytest.param("syncer_in_flight", {"server": "host"}, 2, id="in flight"),
        pytest.param("syncer_in_flight_limit", {"server": "host"}, 16, id="limit"),
        pytest.param(
            "syncer_cache_objects", {"server": "virtual", "resource": "pods"}, 2, id="objects"
        ),
        pytest.param(
            "syncer_cache_bytes", {"server": "virtual", "resource": "pods"}, 200, id="bytes"
        ),
        pytest.param(
            "syncer_watch_restarts_total",
            {"server": "host", "resource": "pods", "reason": "listed"},
            None,
            id="a list that is done is no restart",
        ),
        pytest.param(
            "syncer_watch_restarts_total",
            {"server": "host", "resource": "pods", "reason": "lost"},
            2,
            id="restarts",
        ),
    ],
)
def test_what_happened_comes_out(name: str, labels: dict[str, str], expected: float | None) -> None:
    """Each method and each part that is read shows under its name and labels."""
    assert value(busy(), name, **labels) == expected


def test_parts_are_read_at_the_scrape() -> None:
    """A figure that is read is that of the scrape, not of the registration."""
    metrics, queue = Metrics(), Queue()
    metrics.watch_queue(queue)
    assert value(metrics, "syncer_queue_depth") == 0
    queue.depth = 9
    assert value(metrics, "syncer_queue_depth") == 9


async def test_loop_lag_is_how_late_a_sleeper_wakes() -> None:
    """The lag is the time beyond the sleep that was asked for, and never negative."""
    metrics = Metrics()
    await one_lag_sample(metrics, late=0.25)
    assert value(metrics, "syncer_event_loop_lag_seconds_sum") == pytest.approx(0.25)
    assert value(metrics, "syncer_event_loop_lag_seconds_bucket", le="0.5") == 1
    early = Metrics()
    await one_lag_sample(early, late=-LAG_INTERVAL / 10)
    assert value(early, "syncer_event_loop_lag_seconds_sum") == 0


async def test_every_metric_is_as_defined() -> None:
    """What is scraped are the defined metrics with their types and labels, and no others."""
    metrics = busy()
    await one_lag_sample(metrics, late=0.0)
    defined = {d.name.removesuffix("_total"): (d.type, set(d.labels)) for d in DEFINITIONS}
    found = {
        family.name: (family.type, {key for s in family.samples for key in s.labels} - {"le"})
        for family in text_string_to_metric_families(metrics.render().decode())
        if not family.name.startswith(FOREIGN)
    }
    assert found == defined


def test_process_figures_are_there() -> None:
    """Memory, CPU time, open files and collections of the process can be asked for."""
    names = {name for name, _ in samples(Metrics())}
    assert names >= {
        "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds",
        "python_info", "python_gc_collections_total",
    }  # fmt: skip


def test_registries_are_apart() -> None:
    """Two sets of metrics in one process do not know of each other."""
    first, second = Metrics(), Metrics()
    first.waited(1.0)
    assert value(second, "syncer_queue_wait_seconds_count") == 0


def test_codes_that_mean_nothing_are_one_series() -> None:
    """A tenant's webhook chooses its status codes; it can't fill the metrics with them."""
    metrics = Metrics()
    observe = metrics.requests(Side.VIRTUAL)
    for code in (0, 200, *range(600, 1000)):
        observe("patch", code, 0.003)
    text = metrics.render().decode()
    assert text.count("\nsyncer_requests_total{") == 3
    assert 'syncer_requests_total{code="other",server="virtual",verb="patch"} 400.0' in text


def test_nothing_is_created_twice() -> None:
    """No series tells when another one was created: each would double the series."""
    assert b"_created" not in busy().render()


def test_counting_is_cheap() -> None:
    """One observation costs microseconds: it happens several times for every object."""
    metrics = Metrics()
    observe = metrics.requests(Side.HOST)

    def seconds(rounds: int) -> float:
        started = time.perf_counter()
        for _ in range(rounds):
            observe("PATCH", 200, 0.003)
            metrics.reconciled("pods", "to host", "written")
            metrics.latency("pods", Side.HOST, 0.003)
        return time.perf_counter() - started

    # Five observations a round; the best of several runs, and room for a busy machine.
    assert min(seconds(500) for _ in range(10)) / 500 / 5 < 10e-6
