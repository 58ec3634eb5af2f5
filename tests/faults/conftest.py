"""Fixtures: the run's shared host, and for each worker a virtual cluster behind fault proxies."""

from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

from tests.faults.broken import BrokenPair, broken_pair
from tests.faults.life import Dump, undisturbed
from tests.integration.harness import Cluster, Pair, Tenant, cluster
from tests.integration.shared_host import SharedHost


@pytest.fixture(scope="session")
async def host(shared_host: SharedHost) -> AsyncIterator[Cluster]:
    """The host cluster, shared by all workers: only what the syncer sees of it is broken."""
    async with cluster(shared_host.get()) as shared:
        yield shared


@pytest.fixture(scope="session")
def worker_name(pytestconfig: pytest.Config) -> str:
    """`gw0` and so on under pytest-xdist, else `main`."""
    worker: dict[str, Any] = getattr(pytestconfig, "workerinput", {})
    return str(worker.get("workerid", "main"))


@pytest.fixture(scope="session")
async def shared_pair(host: Cluster, worker_name: str) -> AsyncIterator[BrokenPair]:
    """This worker's pair; ask for `pair`, which is whole again after each test."""
    async with broken_pair(host, Tenant(f"f-{worker_name}")) as booted:
        yield booted


@pytest.fixture
async def pair(shared_pair: BrokenPair) -> AsyncIterator[BrokenPair]:
    """This worker's pair, healed and running before and after the test."""
    await shared_pair.heal()
    yield shared_pair
    await shared_pair.heal()


@pytest.fixture(scope="session")
async def reference(shared_pair: BrokenPair) -> dict[str, Dump]:
    """Both clusters after each step of an undisturbed life."""
    return await undisturbed(shared_pair)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the end of the log of the syncer that a failed test used."""
    report: Any = yield
    used = getattr(item, "funcargs", {}).get("pair")
    if report.failed and isinstance(used, Pair):
        report.sections.append((f"log of {used.syncer.tenant}", used.syncer.tail(25)))
    return report
