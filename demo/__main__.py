"""`python -m demo`: boot, start the syncer, apply, show, check, wait (or end, with DEMO_EXIT=1).

All that the tenant does goes through the syncer's own endpoint, by the kubeconfig that
`syncer kubeconfig` prints.

Exit status: 0 when every fact came true, 1 when not or when something could not be started, 130
after Ctrl-C before the verdict. Whatever happens, all processes and files are removed.
"""

import asyncio
import os
import signal
import sys
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.live import Live

from controlplane import ComponentError, ControlPlane, PlaneError, ToolError, boot_pair, tools
from controlplane.syncer import Syncer
from demo import screen
from demo.clusters import HOST_NAMESPACE, TENANT, Cluster, read
from demo.facts import FACTS, Fact
from demo.tenant import SAYINGS, DemoError, Saying, Tenant

_MANIFESTS = Path(__file__).parent / "manifests"
_TIMEOUT = 90.0  # seconds for all facts to come true
_INTERVAL = 0.25  # seconds between looks
_LOG_LINES = 25


def main() -> int:
    """Run the demo and return the exit status."""
    console = screen.console()
    try:
        return asyncio.run(_demo(console, wait=os.environ.get("DEMO_EXIT") != "1"))
    except (ComponentError, ToolError, PlaneError, DemoError) as error:
        console.print(f"✗ {error}", style="bold red", markup=False, soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; everything is removed")
        return 130


async def _demo(console: Console, *, wait: bool) -> int:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    console.print("[1/5] Kubernetes' own programs, built once from pinned sources (minutes)")
    await tools()
    async with AsyncExitStack() as stack:
        console.print("[2/5] a host control plane with three fake nodes, a virtual one without")
        host, virtual = await stack.enter_async_context(boot_pair())
        console.print(f"[3/5] a syncer for {TENANT}, between them")
        syncer = Syncer(host, virtual, tenant=TENANT, namespace=HOST_NAMESPACE)
        stack.push_async_callback(syncer.close)
        await syncer.prepare()
        await syncer.start()
        tenant = await Tenant.of(syncer)
        console.print(f"[4/5] kubectl, through the syncer's endpoint {syncer.endpoint}: ", end="")
        names = ("cluster-dns", "application", "pod")
        console.print("apply " + ", ".join(f"{name}.yaml" for name in names))
        for name in names:
            await tenant.kubectl("apply", f"--filename={_MANIFESTS / f'{name}.yaml'}")
        console.print("[5/5] what the tenant sees, and what the host has")
        facts = await _watch(console, tenant, host)
        facts += [(saying, await tenant.hears(saying)) for saying in SAYINGS]
        console.print(screen.verdict(facts))
        if not all(true for _, true in facts):
            console.print(
                f"\nthe syncer's log ends:\n{syncer.tail(_LOG_LINES)}", markup=False, soft_wrap=True
            )
            return 1
        if wait:
            await _wait(console, tenant, host)
        return 0


async def _watch(
    console: Console, tenant: Tenant, host: ControlPlane
) -> list[tuple[Fact | Saying, bool]]:
    """Show both clusters until every fact holds, or time is up; return what holds in the end."""
    deadline = time.monotonic() + _TIMEOUT
    told = -1
    async with tenant.api() as tenant_side, host.api() as host_side:
        # Where there is no terminal, Live prints the last table only.
        with Live(console=console, auto_refresh=False) as live:
            while True:
                seen, had = await _look(tenant_side, host_side)
                live.update(screen.side_by_side(seen, had), refresh=True)
                facts: list[tuple[Fact | Saying, bool]] = [
                    (fact, fact.holds(seen, had)) for fact in FACTS
                ]
                count = sum(true for _, true in facts)
                if count != told:
                    told = count
                    live.console.print(f"      {count} of {len(FACTS)} facts so far")
                if count == len(FACTS) or time.monotonic() > deadline:
                    return facts
                await asyncio.sleep(_INTERVAL)


async def _look(
    tenant_side: aiohttp.ClientSession, host_side: aiohttp.ClientSession
) -> tuple[Cluster, Cluster]:
    try:
        return await read(tenant_side), await read(host_side)
    except aiohttp.ClientError as error:
        raise DemoError(f"a control plane does not answer: {error}") from error


async def _wait(console: Console, tenant: Tenant, host: ControlPlane) -> None:
    """Wait for Ctrl-C (or SIGTERM), which then is the ordered end."""
    kubectl = host.tools.kubectl
    console.print(screen.invitation(tenant.kubeconfig, host.kubeconfig, kubectl), soft_wrap=True)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    with suppress(asyncio.CancelledError):
        await over.wait()
    console.print("removing everything")


if __name__ == "__main__":
    sys.exit(main())
