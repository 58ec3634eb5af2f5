"""Fixtures of attacks on the tenant's endpoint: one guarded pair a worker, with tenants in it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from tests.integration.endpoint import Caller, administrator, caller, grant, service_account
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    Tenant,
    boot_pair,
    eventually,
    named,
    pod,
    service,
)
from tests.integration.pod_steps import in_phase
from tests.security.endpoint_wire import GuardedPair, guarded_pair, say

MOST_CONNECTIONS = 48
MOST_REQUESTS = 16
MOST_STREAMS = 16

_ALL = {"apiGroups": ["*"], "resources": ["*"]}


@dataclass(frozen=True)
class Scene:
    """What is in the virtual cluster of the guarded pair.

    Attributes:
        pair: the clusters.
        red: virtual namespace with the pod `web` and its service, and the pod `waiting`, for which
            the host has no node.
        blue: another one, with a pod `web`.
        node: where the first of them is.
        admin: may do everything.
        boss: may do everything in `red`.
        reader: may read everything in `red`, subresources too.
        robot: a service account of `red` with the same rights, by its token.
        watcher: may get everything of nodes, and nothing else.
        stranger: may do nothing.
    """

    pair: GuardedPair
    red: str
    blue: str
    node: str
    admin: Caller
    boss: Caller
    reader: Caller
    robot: Caller
    watcher: Caller
    stranger: Caller

    @property
    def web(self) -> str:
        """Path of the pod in `red`."""
        return f"/api/v1/namespaces/{self.red}/pods/web"

    @property
    def waiting(self) -> str:
        """Path of the pod that is on no node."""
        return f"/api/v1/namespaces/{self.red}/pods/waiting"


@pytest.fixture(scope="session")
async def guarded(host: Cluster, worker_name: str) -> AsyncIterator[GuardedPair]:
    """This worker's pair for attacks: recorders before both API servers, low limits, all logged."""
    name = f"guard-{worker_name}"
    flags = (
        f"--proxy-max-connections={MOST_CONNECTIONS}",
        f"--proxy-max-requests-per-user={MOST_REQUESTS}",
        f"--proxy-max-streams-per-user={MOST_STREAMS}",
        "--proxy-metrics-server",
        "--access-log",
        "--log-level=debug",
    )
    async with guarded_pair(host, Tenant(name, f"home-of-{name}", flags)) as booted:
        yield booted


@pytest.fixture(scope="session")
async def scene(guarded: GuardedPair) -> Scene:
    """Users and pods of the guarded pair, which tests leave as they are."""
    virtual = guarded.virtual
    for name in ("red", "blue"):
        await virtual.create(named("Namespace", name))
    for name in ("red", "blue"):
        await eventually(lambda name=name: virtual.get("serviceaccounts", "default", name))
        await virtual.create(pod("web", name, labels={"app": "web"}))
        await virtual.create(service("web", name, port=80))
    await virtual.create(pod("waiting", "red", nodeSelector={"no": "such"}))
    await eventually(lambda: guarded.copy("pods", "waiting", "red"))
    read: Object = {**_ALL, "verbs": ["get", "list", "watch"]}
    robot, _ = await service_account(virtual, "robot", "red")
    await grant(virtual, "boss", {**_ALL, "verbs": ["*"]}, namespace="red")
    await grant(virtual, "reader", read, namespace="red")
    await grant(virtual, "red:robot", read, namespace="red", kind="ServiceAccount")
    nodes = ["nodes", "nodes/proxy", "nodes/metrics", "nodes/stats", "nodes/log"]
    await grant(virtual, "watcher", {"apiGroups": [""], "resources": nodes, "verbs": ["get"]})
    web, _ = await asyncio.gather(in_phase(guarded, "web", "red"), in_phase(guarded, "web", "blue"))
    found = Scene(
        guarded,
        "red",
        "blue",
        web["spec"]["nodeName"],
        administrator(guarded),
        caller(guarded, "boss"),
        caller(guarded, "reader"),
        robot,
        caller(guarded, "watcher"),
        caller(guarded, "stranger"),
    )
    for who in (found.boss, found.reader, found.robot):
        await eventually(lambda who=who: _may(found, f"{found.web}/log", who))
    page = f"/api/v1/nodes/{found.node}/proxy/healthz"
    await eventually(lambda: _may(found, page, found.watcher))
    return found


@pytest.fixture(scope="session")
def addresses(worker_name: str) -> Iterator[str]:
    """Addresses for host nodes of this worker's own; each is used once."""
    worker = int(worker_name.removeprefix("gw")) if worker_name.startswith("gw") else 0
    return (f"192.0.2.{150 + 12 * (worker % 8) + number}" for number in range(12))


@pytest.fixture(scope="session")
async def neighbour(host: Cluster, guarded: GuardedPair) -> AsyncIterator[Pair]:
    """Another tenant in the same host namespace, with a pod of the same name and namespace."""
    names = guarded.names
    async with boot_pair(host, Tenant(f"n-{names.tenant}", names.host_namespace)) as booted:
        await booted.virtual.create(named("Namespace", "red"))
        await eventually(lambda: booted.virtual.get("serviceaccounts", "default", "red"))
        await booted.virtual.create(pod("web", "red", labels={"app": "web"}))
        await booted.virtual.create(pod("theirs", "red", labels={"app": "theirs"}))
        await asyncio.gather(*(in_phase(booted, name, "red") for name in ("web", "theirs")))
        yield booted


@pytest.fixture(scope="session")
async def foreign(host: Cluster, guarded: GuardedPair) -> AsyncIterator[str]:
    """Name of a running pod in the host namespace that is nobody's copy."""
    home = guarded.names.host_namespace
    await host.create(pod("foreign", home))

    async def runs() -> None:
        assert (await host.get("pods", "foreign", home))["status"].get("phase") == "Running"

    await eventually(runs)
    yield "foreign"
    await host.delete("pods", "foreign", home, grace=0)


async def _may(scene: Scene, target: str, who: Caller) -> None:
    answer = await say(scene.pair, "GET", target, who=who)
    assert answer.status == 200, answer
