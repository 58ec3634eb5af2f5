"""A pair whose syncer can be cut off and killed: it reaches both servers through fault proxies.

    async with broken_pair(host, Tenant("t")) as pair:
        ...  # as any pair; pair.to_host and pair.to_virtual are the proxies

The test itself talks to the servers directly, so what it sees is the truth.
"""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

import aiohttp

from controlplane import ControlPlane
from controlplane.faults import FaultProxy, Stage, Write, fault_proxy
from controlplane.syncer import Syncer
from syncer.naming import Names
from tests.integration.harness import Cluster, Pair, Tenant, cluster, eventually, service

RECORDS = re.compile(
    r"/leases(/|$)|/configmaps/vc-state-|/(authentication|authorization)\.k8s\.io/"
)
"""Paths of writes that say nothing about objects: the lease, the guard's record, reviews."""

Answer = Literal["received", "lost"]
"""What became of the answer to the last write before death."""


GRACE = 0.02
"""Seconds that a syncer lives on after it got the last answer."""

_DYING = 30.0
"""Seconds in which a last write is answered."""


@dataclass(frozen=True)
class BrokenPair(Pair):
    """A pair with a fault proxy before each server, for the syncer only.

    Attributes:
        to_host: what the syncer takes for the host's API server.
        to_virtual: what it takes for the virtual one.
    """

    to_host: FaultProxy
    to_virtual: FaultProxy

    @property
    def proxies(self) -> tuple[FaultProxy, FaultProxy]:
        """Both proxies."""
        return self.to_host, self.to_virtual

    async def heal(self) -> None:
        """Take back all faults, and see that a syncer runs and is ready."""
        for proxy in self.proxies:
            proxy.heal()
        await self.syncer.start()

    @property
    def writes(self) -> list[Write]:
        """Every write that the syncer sent so far, but for its records, oldest first."""
        seen = [write for proxy in self.proxies for write in proxy.writes]
        return sorted(
            (write for write in seen if not RECORDS.search(write.path)),
            key=lambda write: write.at,
        )

    async def silent(self, seconds: float) -> None:
        """Assert that the syncer sends no write for a time."""
        before = len(self.writes)
        await asyncio.sleep(seconds)
        assert not self.writes[before:], f"writes on a quiet pair: {self.writes[before:]}"

    async def settled(self, seconds: float = 0.5, timeout: float = 30.0) -> None:
        """Wait until the syncer has sent no write for a time; AssertionError if it goes on."""
        await eventually(lambda: self.silent(seconds), timeout=timeout, poll=0.0)

    async def reason(self, text: str, timeout: float = 20.0) -> str:
        """Wait until `/readyz` is refused for a reason that contains `text`; return the body."""
        return await eventually(lambda: self._unready(text), timeout=timeout)

    async def _unready(self, text: str) -> str:
        try:
            status, body = await self.readyz()
        except aiohttp.ClientConnectionError as error:
            raise AssertionError("the syncer does not listen yet") from error
        assert status != 200, body
        assert text in body, body
        return body

    async def readyz(self) -> tuple[int, str]:
        """Return status and body of the syncer's `/readyz`."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.syncer.health_url}/readyz") as response,
        ):
            return response.status, await response.text()


@asynccontextmanager
async def broken_pair(
    host: Cluster, tenant: Tenant, virtual: Cluster | None = None
) -> AsyncIterator[BrokenPair]:
    """As `boot_pair` of the integration harness, with fault proxies for the syncer."""
    async with AsyncExitStack() as stack:
        if virtual is None:
            plane = await stack.enter_async_context(ControlPlane.virtual())
            virtual = await stack.enter_async_context(cluster(plane))
        await virtual.apply(service("kube-dns", "kube-system"))
        to_host = await stack.enter_async_context(fault_proxy(host.plane))
        to_virtual = await stack.enter_async_context(fault_proxy(virtual.plane))
        syncer = Syncer(
            host.plane,
            virtual.plane,
            tenant=tenant.name,
            namespace=tenant.host_namespace,
            flags=(
                f"--host-kube-config={to_host.kubeconfig}",
                f"--kube-config={to_virtual.kubeconfig}",
                *tenant.flags,
            ),
            environment=dict(tenant.environment),
        )
        await stack.enter_async_context(syncer)
        names = Names(tenant.name, tenant.host_namespace)
        yield BrokenPair(host, virtual, syncer, names, to_host, to_virtual)


@dataclass
class Death:
    """Kills a syncer right after its k-th write from now on; one use.

    With the answer received the process lives on until it wants to write again, or for a moment
    (`GRACE`): it has read the answer and done with it what it does without a further write.

    Attributes:
        pair: whose syncer.
        after: k, counted over both servers, its records left out.
        answer: whether the process gets the answer to that write before it dies.
        killed: set when it is dead.
    """

    pair: BrokenPair
    after: int
    answer: Answer
    killed: asyncio.Event = field(default_factory=asyncio.Event)
    _count: int = 0
    _last: Write | None = None
    _soon: asyncio.Task[None] | None = None

    def __enter__(self) -> "Death":
        for proxy in self.pair.proxies:
            proxy.hook = self._hook
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self.pair.proxies:
            proxy.hook = None

    async def over(self) -> None:
        """Wait for the death if the last write was sent; nothing if it wasn't."""
        if self._last is not None:
            async with asyncio.timeout(_DYING):
                await self.killed.wait()

    async def _hook(self, stage: Stage, write: Write) -> None:
        if RECORDS.search(write.path) or self.killed.is_set():
            return
        if stage == "received":
            if self._last is not None:
                await asyncio.Event().wait()  # never sent on; ends when the dying client does
            self._count += 1
            if self._count == self.after:
                self._last = write
        elif write is self._last and stage == "processed" and self.answer == "lost":
            self._kill()
        elif write is self._last and stage == "answered":
            self._soon = asyncio.create_task(self._kill_soon())

    async def _kill_soon(self) -> None:
        await asyncio.sleep(GRACE)
        self._kill()

    def _kill(self) -> None:
        if self.pair.syncer.pid is not None and not self.killed.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pair.syncer.pid, signal.SIGKILL)
        self.killed.set()


@dataclass
class Pause:
    """Holds a syncer's k-th write from now on, before the server has it; one use.

    Attributes:
        pair: whose syncer.
        before: k, counted as by `Death`.
        reached: set when that write came.
    """

    pair: BrokenPair
    before: int
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    _go: asyncio.Event = field(default_factory=asyncio.Event)
    _count: int = 0

    def __enter__(self) -> "Pause":
        for proxy in self.pair.proxies:
            proxy.hook = self._hook
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        for proxy in self.pair.proxies:
            proxy.hook = None

    def go_on(self) -> None:
        """Let the write through."""
        self._go.set()

    async def _hook(self, stage: Stage, write: Write) -> None:
        if stage != "received" or RECORDS.search(write.path):
            return
        self._count += 1
        if self._count == self.before:
            self.reached.set()
            await self._go.wait()
