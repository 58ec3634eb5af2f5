"""Fixtures on real clusters: one host for the whole run, a virtual cluster and syncer a worker."""

import uuid
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest

from controlplane import ControlPlane
from tests.integration.harness import (
    Cluster,
    Pair,
    Syncer,
    Tenant,
    boot_pair,
    cluster,
    eventually,
    named,
)
from tests.integration.shared_host import SharedHost


@pytest.fixture(scope="session")
async def host(shared_host: SharedHost) -> AsyncIterator[Cluster]:
    """The host cluster, shared by all workers: don't break it, boot your own for that."""
    async with cluster(shared_host.get()) as shared:
        yield shared


@pytest.fixture(scope="session")
def tenant(worker_name: str) -> str:
    """Name of this worker's virtual cluster; its host namespace is `host-` and this."""
    return f"tenant-{worker_name}"


@pytest.fixture(scope="session")
def worker_name(pytestconfig: pytest.Config) -> str:
    """`gw0` and so on under pytest-xdist, else `main`."""
    worker: dict[str, Any] = getattr(pytestconfig, "workerinput", {})
    return str(worker.get("workerid", "main"))


@pytest.fixture(scope="session")
async def virtual() -> AsyncIterator[Cluster]:
    """This worker's virtual cluster."""
    async with ControlPlane.virtual() as plane, cluster(plane) as booted:
        yield booted


@pytest.fixture(scope="session")
async def pair(host: Cluster, virtual: Cluster, tenant: str) -> AsyncIterator[Pair]:
    """This worker's clusters with a syncer of default flags between them: leave it running."""
    async with boot_pair(host, Tenant(tenant), virtual) as booted:
        yield booted


@pytest.fixture(scope="session")
def syncer(pair: Pair) -> Syncer:
    """This worker's syncer."""
    return pair.syncer


@pytest.fixture
async def namespace(virtual: Cluster) -> AsyncIterator[str]:
    """A new virtual namespace in which pods are admitted; deleted after the test."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    await virtual.create(named("Namespace", name))
    await eventually(lambda: virtual.get("serviceaccounts", "default", name))
    yield name
    await virtual.delete("namespaces", name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the end of the log of every syncer that a failed test used."""
    report: Any = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            syncer = value.syncer if isinstance(value, Pair) else value
            if isinstance(syncer, Syncer):
                report.sections.append((f"log of {name} {syncer.tenant}", syncer.tail(40)))
    return report
