"""Health for Kubernetes' probes and for people, and the door to the metrics.

``/livez`` and ``/healthz`` say that the event loop answers. ``/readyz`` asks every named check and
is ``ok`` or tells which failed and why, in the form of Kubernetes' own health endpoints:
``?verbose`` lists every check, ``?exclude=NAME`` (repeatable) leaves one out. ``/metrics`` has an
address of its own; where both are the same, one listener serves all.

Invariant: a check is a plain function that looks at memory: asking is cheap and never blocks.

Never authenticates and never tells more than names and reasons: the ports are for the pod network.

Source: https://kubernetes.io/docs/reference/using-api/health-checks/
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final, Protocol, TypeAlias

import structlog
from aiohttp import web

from syncer.kube.errors import ConfigError
from syncer.ops.metrics import CONTENT_TYPE
from syncer.settings import Address

Check: TypeAlias = Callable[[], str | None]
"""Gives ``None`` when all is well, else the reason in one line."""

SHUTDOWN_SECONDS: Final = 1.0
"""How long open requests may take once the syncer stops."""

_FLAGS: Final = {"health": "--health-probe-bind-address", "metrics": "--metrics-bind-address"}

log: structlog.stdlib.BoundLogger = structlog.get_logger("health")


class Rendering(Protocol):
    """What gives the metrics."""

    def render(self) -> bytes:
        """Write them in Prometheus' text format."""


class Health:
    """The checks of one running syncer, and the listeners that answer for them.

    Attributes:
        listening: ``health`` and ``metrics`` -> the address they are served on, while they are.
    """

    def __init__(self) -> None:
        self._ready: dict[str, Check] = {}
        self.listening: dict[str, Address] = {}

    def add_ready(self, name: str, check: Check) -> None:
        """Add a check to ``/readyz``; one of the same name is replaced."""
        self._ready[name] = check

    @asynccontextmanager
    async def serve(
        self, health: Address | None, metrics: Address | None, source: Rendering
    ) -> AsyncIterator[None]:
        """Listen while the body runs; a cancelled body leaves no listener behind.

        Args:
            health: where the health endpoints are; ``None``: nowhere.
            metrics: where ``/metrics`` is; ``None``: nowhere.
            source: gives the metrics.

        Raises:
            ConfigError: an address can't be listened on.
        """
        wanted: dict[Address, dict[str, list[web.RouteDef]]] = {}
        if health is not None:
            wanted.setdefault(health, {})["health"] = self._health_routes()
        if metrics is not None:
            wanted.setdefault(metrics, {})["metrics"] = [_metrics_route(source)]
        async with AsyncExitStack() as stack:
            for address, services in wanted.items():
                routes = [route for group in services.values() for route in group]
                flags = " and ".join(_FLAGS[service] for service in services)
                bound = await _listen(stack, address, routes, flags)
                self.listening |= dict.fromkeys(services, bound)
                log.info("listening", address=str(bound), paths=[route.path for route in routes])
            try:
                yield
            finally:
                self.listening.clear()

    def _health_routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", _alive),
            web.get("/livez", _alive),
            web.get("/readyz", self._readyz),
        ]

    async def _readyz(self, request: web.Request) -> web.Response:
        ready, text = report(
            self._ready,
            excluded=request.query.getall("exclude", []),
            verbose="verbose" in request.query,
        )
        return web.Response(text=text, status=200 if ready else 500)


def report(
    checks: dict[str, Check], *, excluded: Collection[str] = (), verbose: bool = False
) -> tuple[bool, str]:
    """Ask the checks.

    Args:
        checks: name -> check.
        excluded: names that are not asked.
        verbose: list every check even when all is well; after a failure they are always listed.

    Returns:
        Whether all is well, and what to answer.
    """
    lines, failed = [], False
    for name, check in checks.items():
        if name in excluded:
            lines.append(f"[+]{name} excluded: ok")
        elif (reason := check()) is None:
            lines.append(f"[+]{name} ok")
        else:
            failed = True
            lines.append(f"[-]{name} failed: {' '.join(reason.split())}")
    if unknown := [name for name in excluded if name not in checks]:
        lines.append(f"warn: nothing to exclude: no check is called {', '.join(unknown)}")
    if not failed and not verbose:
        return True, "ok"
    lines.append(f"readyz check {'failed' if failed else 'passed'}")
    return not failed, "\n".join(lines) + "\n"


async def _alive(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


def _metrics_route(source: Rendering) -> web.RouteDef:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=source.render(), headers={"Content-Type": CONTENT_TYPE})

    return web.get("/metrics", answer)


async def _listen(
    stack: AsyncExitStack, address: Address, routes: list[web.RouteDef], flags: str
) -> Address:
    """Start one listener and hand its end to the stack; gives the address it got."""
    application = web.Application()
    application.add_routes(routes)
    runner = web.AppRunner(
        application, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, address.host or None, address.port).start()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"can't listen on {address} ({flags}): {reason}") from error
    return Address(address.host, runner.addresses[0][1])
