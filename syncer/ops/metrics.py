"""What Prometheus can ask: every figure the syncer gives, on a registry of its own.

:data:`DEFINITIONS` names each metric once; the objects, the docs and the test that compares them
come from it. Figures come in two ways: counted as things happen (the methods below, called on the
hot path and costing less than 2 microseconds each), or read from the parts when somebody scrapes
(``watch_*``), so that an idle syncer does nothing for them. Only the event loop's lag is sampled.

Invariants:
* label values come from closed sets (kinds, verbs, status codes, reasons), never from tenants;
* nothing here raises for what the parts say, and nothing here awaits a part.

``process_*`` and ``python_*`` keep the names that every Prometheus client gives them.
"""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Literal, NoReturn, Protocol, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from syncer.objects import Side
from syncer.version import installed_version

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Media type of what :meth:`Metrics.render` gives."""

LAG_INTERVAL: Final = 0.5
"""Seconds between two samples of the event loop's lag."""

_ORDINARY_ENDS: Final = frozenset({"listed", "checked"})
"""Ends of a phase that lead to watching; every other one means starting over."""

_LATENCY = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)
_LAG = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)

_CODES: Final = {0: "0"} | {int(status): str(int(status)) for status in HTTPStatus}
"""A tenant's webhook may answer with any number: those that mean nothing are ``other``."""

T = TypeVar("T", bound=MetricWrapperBase)


@dataclass(frozen=True, slots=True)
class Definition:
    """One metric.

    Attributes:
        name: as it is scraped; a histogram's without ``_bucket``, ``_sum``, ``_count``.
        type: Prometheus' type.
        labels: label names.
        help: one sentence.
        read: read from the parts at a scrape, not counted.
        buckets: a histogram's, in seconds.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    read: bool = False
    buckets: tuple[float, ...] = _LATENCY


RECONCILES: Final = Definition(
    "syncer_reconciles_total",
    "counter",
    ("kind", "direction", "result"),
    "Objects worked on.",
)
VIRTUAL_TO_HOST: Final = Definition(
    "syncer_virtual_to_host_seconds",
    "histogram",
    ("kind",),
    "From seeing a change to the write on the host that it caused.",
)
HOST_TO_VIRTUAL: Final = Definition(
    "syncer_host_to_virtual_seconds",
    "histogram",
    ("kind",),
    "From seeing a change to the write in the virtual cluster that it caused.",
)
SYNC_ERRORS: Final = Definition(
    "syncer_sync_errors_total",
    "counter",
    ("kind", "reason"),
    "Warnings given to the tenant about an object, by the event's reason.",
)
QUEUE_DEPTH: Final = Definition(
    "syncer_queue_depth", "gauge", (), "Objects waiting to be worked on.", read=True
)
QUEUE_OLDEST: Final = Definition(
    "syncer_queue_oldest_seconds", "gauge", (), "How long the oldest of them waits.", read=True
)
QUEUE_WAIT: Final = Definition(
    "syncer_queue_wait_seconds",
    "histogram",
    (),
    "How long objects waited; backoff and asked-for delays not counted.",
)
REQUESTS: Final = Definition(
    "syncer_requests_total",
    "counter",
    ("server", "verb", "code"),
    "Answers of API servers, by HTTP status; code 0: no answer.",
)
REQUEST_SECONDS: Final = Definition(
    "syncer_request_seconds",
    "histogram",
    ("server", "verb"),
    "From sending a request to the end of its answer.",
)
IN_FLIGHT: Final = Definition(
    "syncer_in_flight", "gauge", ("server",), "Writes under way.", read=True
)
IN_FLIGHT_LIMIT: Final = Definition(
    "syncer_in_flight_limit",
    "gauge",
    ("server",),
    "Writes that may be under way; adapts to the server.",
    read=True,
)
WATCH_RESTARTS: Final = Definition(
    "syncer_watch_restarts_total",
    "counter",
    ("server", "resource", "reason"),
    "Lists and watches that had to start over.",
    read=True,
)
CACHE_OBJECTS: Final = Definition(
    "syncer_cache_objects", "gauge", ("server", "resource"), "Objects held in memory.", read=True
)
CACHE_BYTES: Final = Definition(
    "syncer_cache_bytes",
    "gauge",
    ("server", "resource"),
    "Bytes of JSON held in memory.",
    read=True,
)
PROXIED: Final = Definition(
    "syncer_proxy_requests_total",
    "counter",
    ("route", "code"),
    "Tenants' requests that ended, by what was done with them; code 0: the connection broke.",
)
PROXY_SECONDS: Final = Definition(
    "syncer_proxy_request_seconds",
    "histogram",
    ("route",),
    "From the head of a tenant's request to the end of its answer; watches and streams too.",
)
PROXY_CONNECTIONS: Final = Definition(
    "syncer_proxy_connections", "gauge", (), "Tenants' connections.", read=True
)
PROXY_TURNED_AWAY: Final = Definition(
    "syncer_proxy_connections_refused_total",
    "counter",
    (),
    "Connections closed at once because there were too many.",
    read=True,
)
LOOP_LAG: Final = Definition(
    "syncer_event_loop_lag_seconds",
    "histogram",
    (),
    "How late the event loop woke a sleeper; long ones mean that something blocked it.",
    buckets=_LAG,
)
BUILD_INFO: Final = Definition(
    "syncer_build_info", "gauge", ("version", "python"), "Always 1; the labels tell the build."
)

DEFINITIONS: Final = (
    RECONCILES, VIRTUAL_TO_HOST, HOST_TO_VIRTUAL, SYNC_ERRORS, QUEUE_DEPTH, QUEUE_OLDEST,
    QUEUE_WAIT, REQUESTS, REQUEST_SECONDS, IN_FLIGHT, IN_FLIGHT_LIMIT, WATCH_RESTARTS,
    CACHE_OBJECTS, CACHE_BYTES, PROXIED, PROXY_SECONDS, PROXY_CONNECTIONS, PROXY_TURNED_AWAY,
    LOOP_LAG, BUILD_INFO,
)  # fmt: skip
"""Every metric of our own."""


class QueueLike(Protocol):
    """What is read of the work queue."""

    @property
    def depth(self) -> int:
        """Items waiting."""

    def oldest_age(self) -> float:
        """Seconds the oldest of them waits."""


class LimiterLike(Protocol):
    """What is read of a server's flow control."""

    @property
    def in_flight(self) -> int:
        """Requests under way."""

    @property
    def limit(self) -> int:
        """How many may be."""


class StoreLike(Sized, Protocol):
    """What is read of a store."""

    @property
    def size(self) -> int:
        """Bytes held."""


class StatusLike(Protocol):
    """What is read of an informer's status."""

    @property
    def restarts(self) -> Mapping[str, int]:
        """How often a list or watch ended, by reason."""


class InformerLike(Protocol):
    """What is read of an informer."""

    def status(self) -> StatusLike:
        """What it is doing."""


class ListenerLike(Protocol):
    """What is read of the tenants' endpoint."""

    @property
    def connections(self) -> int:
        """Connections there are."""

    @property
    def turned_away(self) -> int:
        """Connections there could not be."""


class _Bound(dict[tuple[str, ...], T]):
    """The children of a metric by label values, each looked up in the client library once."""

    def __init__(self, metric: T) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, key: tuple[str, ...]) -> T:
        child = self[key] = self._metric.labels(*key)
        return child


class Metrics(Collector):
    """The figures of one running syncer; what it counts starts at 0."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._reconciles = _Bound(self._counter(RECONCILES))
        self._latencies = {
            Side.HOST: _Bound(self._histogram(VIRTUAL_TO_HOST)),
            Side.VIRTUAL: _Bound(self._histogram(HOST_TO_VIRTUAL)),
        }
        self._errors = _Bound(self._counter(SYNC_ERRORS))
        self._waits = self._histogram(QUEUE_WAIT)
        self._requests = _Bound(self._counter(REQUESTS))
        self._request_seconds = _Bound(self._histogram(REQUEST_SECONDS))
        self._proxied = _Bound(self._counter(PROXIED))
        self._proxy_seconds = _Bound(self._histogram(PROXY_SECONDS))
        self._lag = self._histogram(LOOP_LAG)
        build = Gauge(BUILD_INFO.name, BUILD_INFO.help, BUILD_INFO.labels, registry=self._registry)
        build.labels(installed_version(), platform.python_version()).set(1)
        self._parts = _Parts()
        self._registry.register(self._parts)

    def _counter(self, of: Definition) -> Counter:
        return Counter(of.name, of.help, of.labels, registry=self._registry)

    def _histogram(self, of: Definition) -> Histogram:
        return Histogram(of.name, of.help, of.labels, registry=self._registry, buckets=of.buckets)

    # -- counted -----------------------------------------------------------------------------

    def reconciled(self, kind: str, direction: str, result: str) -> None:
        """Count an object that was worked on.

        Args:
            kind: ``--sync`` name.
            direction: where the kind's truth is.
            result: what came of it.
        """
        self._reconciles[kind, direction, result].inc()

    def latency(self, kind: str, side: Side, seconds: float) -> None:
        """Take the seconds from the first change seen to the write on ``side`` it caused."""
        self._latencies[side][(kind,)].observe(seconds)

    def sync_error(self, kind: str, reason: str) -> None:
        """Count a tenant's object that could not be synced; ``reason`` is the event's."""
        self._errors[kind, reason].inc()

    def waited(self, seconds: float) -> None:
        """Take the seconds that an item waited in the queue."""
        self._waits.observe(seconds)

    def requests(self, side: Side) -> Callable[[str, int, float], None]:
        """Give the observer of one API server's client.

        Args:
            side: the server.

        Returns:
            Takes HTTP verb, status code (0: no answer) and seconds of one request.
        """
        counts, latencies, server = self._requests, self._request_seconds, str(side)

        def observe(verb: str, code: int, seconds: float) -> None:
            counts[server, verb, _CODES.get(code, "other")].inc()
            latencies[server, verb].observe(seconds)

        return observe

    def proxied(self, route: str, code: int, seconds: float) -> None:
        """Count a tenant's request that ended.

        Args:
            route: what was done with it.
            code: HTTP status; 0: the connection broke.
            seconds: it took.
        """
        self._proxied[route, _CODES.get(code, "other")].inc()
        self._proxy_seconds[(route,)].observe(seconds)

    async def sample_loop_lag(
        self,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> NoReturn:
        """Measure, until cancelled, how late the event loop wakes a sleeper."""
        while True:
            due = clock() + LAG_INTERVAL
            await sleep(LAG_INTERVAL)
            self._lag.observe(max(0.0, clock() - due))

    # -- read at a scrape --------------------------------------------------------------------

    def watch_queue(self, queue: QueueLike) -> None:
        """Read the work queue at every scrape."""
        self._parts.queue = queue

    def watch_limiter(self, side: Side, limiter: LimiterLike) -> None:
        """Read the flow control of a server at every scrape."""
        self._parts.limiters[str(side)] = limiter

    def watch_store(self, side: Side, resource: str, store: StoreLike) -> None:
        """Read a store at every scrape."""
        self._parts.stores[str(side), resource] = store

    def watch_informer(self, side: Side, resource: str, informer: InformerLike) -> None:
        """Read an informer at every scrape."""
        self._parts.informers[str(side), resource] = informer

    def watch_listener(self, listener: ListenerLike) -> None:
        """Read the tenants' endpoint at every scrape."""
        self._parts.listener = listener

    # -- giving out --------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Give every metric, without the ``_created`` series, which nobody asks for."""
        for metric in self._registry.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric

    def render(self) -> bytes:
        """Write all of it in Prometheus' text format (:data:`CONTENT_TYPE`)."""
        return generate_latest(self)


class _Parts(Collector):
    """Reads the parts; what was not registered gives no samples."""

    def __init__(self) -> None:
        self.queue: QueueLike | None = None
        self.listener: ListenerLike | None = None
        self.limiters: dict[str, LimiterLike] = {}
        self.stores: dict[tuple[str, str], StoreLike] = {}
        self.informers: dict[tuple[str, str], InformerLike] = {}

    def collect(self) -> Iterable[Metric]:
        limiters, stores = self.limiters.items(), self.stores.items()
        queue = self.queue
        yield _gauge(QUEUE_DEPTH, [((), queue.depth)] if queue else [])
        yield _gauge(QUEUE_OLDEST, [((), queue.oldest_age())] if queue else [])
        yield _gauge(IN_FLIGHT, [((server,), part.in_flight) for server, part in limiters])
        yield _gauge(IN_FLIGHT_LIMIT, [((server,), part.limit) for server, part in limiters])
        yield _gauge(CACHE_OBJECTS, [(labels, len(store)) for labels, store in stores])
        yield _gauge(CACHE_BYTES, [(labels, store.size) for labels, store in stores])
        listener = self.listener
        yield _gauge(PROXY_CONNECTIONS, [((), listener.connections)] if listener else [])
        refused = CounterMetricFamily(PROXY_TURNED_AWAY.name, PROXY_TURNED_AWAY.help)
        if listener:
            refused.add_metric((), listener.turned_away)
        yield refused
        yield self._restarts()

    def _restarts(self) -> Metric:
        family = CounterMetricFamily(
            WATCH_RESTARTS.name, WATCH_RESTARTS.help, labels=WATCH_RESTARTS.labels
        )
        for labels, informer in self.informers.items():
            for reason, count in informer.status().restarts.items():
                if reason not in _ORDINARY_ENDS:
                    family.add_metric([*labels, str(reason)], count)
        return family


def _gauge(of: Definition, values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(of.name, of.help, labels=of.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family
