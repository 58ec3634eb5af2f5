"""A control plane: boots it, hands out its addresses, and sees that it goes.

The process that boots a plane owns it. Before the first component starts, a keeper (see keeper.py)
watches the owner, so that nothing outlives it. Once the plane is ready, other processes of the same
user may attach to it through `plane.json` in its directory.
"""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar

import aiohttp
import orjson
from yarl import URL

from controlplane import commands, metrics
from controlplane.commands import Settings
from controlplane.component import BOOT_TIMEOUT, Component, ComponentError
from controlplane.egress import Egress
from controlplane.kubeconfig import write_kubeconfig
from controlplane.nodes import KUBELET_PORT, add_node, add_nodes, nodes_ready
from controlplane.pki import Pki
from controlplane.pki import create as create_pki
from controlplane.ports import LOOPBACK, HeldPort
from controlplane.tools import Progress, Tools
from controlplane.tools import metrics_server as build_metrics_server
from controlplane.tools import tools as build_tools

KEEP_VARIABLE = "CONTROLPLANE_KEEP"
"""Set to 1, this environment variable leaves the directories of ended planes for inspection."""

Kind = Literal["host", "virtual"]
_Plane = TypeVar("_Plane", bound="ControlPlane")

_WITH_STATE = ("kube-controller-manager", "kube-apiserver", "kine")  # outermost first
_STATE_FILE = "plane.json"
_METRICS_SERVER = "metrics-server"
_POLL = 0.05  # seconds


class PlaneError(Exception):
    """A plane cannot be booted or attached to; the message says why."""


@dataclass(frozen=True)
class ControlPlane:
    """A running plane; get one from `host`, `virtual` or `attach`.

    Attributes:
        kind: "host" (runs pods on fake nodes) or "virtual" (runs none).
        directory: everything that the plane has on disk, but for the tools.
        server: URL of the API server.
        kubeconfig: admin kubeconfig.
        service_cidr: range of its service IPs.
        pki: its certificates and keys.
        components: by name: kine, egress, kube-apiserver, kube-controller-manager and, on a host,
            kube-scheduler, kwok and, if asked for, metrics-server.
        tools: the binaries, kubectl among them.
        owner: process id of the owner.
        boot_seconds: how long booting took.
    """

    kind: Kind
    directory: Path
    server: str
    kubeconfig: Path
    service_cidr: str
    pki: Pki
    components: Mapping[str, Component]
    tools: Tools
    owner: int
    boot_seconds: float = 0.0

    @property
    def pod_log(self) -> Path:
        """The file whose lines (in the container runtime's format) are every fake pod's log."""
        return self.directory / commands.POD_LOG

    @property
    def kubelet(self) -> tuple[str, int]:
        """Where kwok answers as the kubelet of every fake node of a host plane."""
        url = URL(self.components["kwok"].probe)
        return str(url.host), int(url.port or 0)

    @property
    def egress(self) -> Egress:
        """Where the addresses lead that the API server dials: kubelets, pods, services."""
        return Egress(self.directory / commands.EGRESS)

    @classmethod
    @asynccontextmanager
    async def host(
        cls,
        *,
        nodes: int = 3,
        metrics: bool = False,
        settings: Settings | None = None,
        directory: Path | None = None,
        progress: Progress | None = None,
    ) -> AsyncIterator[Self]:
        """Boot a host plane with fake nodes `node-0`, `node-1`...; end it on exit.

        Args:
            nodes: how many nodes, at most 16; more can be made through the API.
            metrics: whether to serve the metrics API, for these nodes and their pods; it knows the
                nodes 10 s after boot, the first pods after 30 s (kwok leaves them out when it is
                first asked), a later pod 10 to 20 s after its start.
            settings: see `Settings`.
            directory: where to put it, must not exist yet; by default a temporary directory.
            progress: takes lines about tools that have to be built first.

        Raises:
            ToolError: a tool could not be built.
            ComponentError: a component did not become ready.
            PlaneError: the directory exists.
        """
        binary = await build_metrics_server(progress) if metrics else None
        booting = _boot(cls, "host", settings or Settings(), directory, progress, nodes, binary)
        async with booting as plane:
            yield plane

    @classmethod
    @asynccontextmanager
    async def virtual(
        cls,
        *,
        settings: Settings | None = None,
        directory: Path | None = None,
        progress: Progress | None = None,
    ) -> AsyncIterator[Self]:
        """Boot a virtual plane, without nodes and scheduler; end it on exit.

        Takes and raises the same as `host`. Its service CIDR has to be the host's, as it is unless
        settings say otherwise.
        """
        booting = _boot(cls, "virtual", settings or Settings(), directory, progress, 0)
        async with booting as plane:
            yield plane

    @classmethod
    def attach(cls, directory: Path) -> Self:
        """Return the plane that another process booted in `directory`; that process keeps it.

        Its components can be broken and measured from here, but not started.

        Raises:
            PlaneError: there is no running plane.
        """
        try:
            state: dict[str, Any] = orjson.loads((directory / _STATE_FILE).read_bytes())
        except FileNotFoundError:
            raise PlaneError(f"no control plane runs in {directory}") from None
        pki = Pki(directory / "pki")
        tls = pki.client_context()
        components = {
            name: Component(name, directory=directory, probe=probe, tls=tls)
            for name, probe in state["probes"].items()
        }
        return cls(
            kind=state["kind"],
            directory=directory,
            server=state["server"],
            kubeconfig=directory / "admin.kubeconfig",
            service_cidr=state["service_cidr"],
            pki=pki,
            components=MappingProxyType(components),
            tools=Tools(**{name: Path(path) for name, path in state["tools"].items()}),
            owner=state["owner"],
            boot_seconds=state["boot_seconds"],
        )

    def snapshot(self, path: Path) -> None:
        """Save the datastore to the file `path`; the plane goes on meanwhile."""
        with (
            contextlib.closing(sqlite3.connect(self.directory / commands.DATABASE)) as source,
            contextlib.closing(sqlite3.connect(path)) as target,
        ):
            source.backup(target)

    async def restore(self, path: Path) -> None:
        """Put back what `snapshot` saved, as after a disaster: resource versions go backwards.

        Raises:
            NotOwnerError: the plane was booted by another process.
            ComponentError: a component did not come back.
        """
        stopped = [self.components[name] for name in _WITH_STATE]
        for component in stopped:
            await component.kill()
        database = self.directory / commands.DATABASE
        for suffix in ("", "-wal", "-shm"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(path, database)
        for component in reversed(stopped):
            await component.start()

    @asynccontextmanager
    async def node(
        self,
        name: str,
        address: str,
        *,
        kubelet: tuple[str, int] | None = None,
        port: int = KUBELET_PORT,
    ) -> AsyncIterator[None]:
        """Add a node to a host plane, reachable through its API server; remove it on exit.

        Only pods that name it or tolerate `nodes.RESERVED` come to it; it takes them as any other.

        Args:
            name: of the Node; unique on this host.
            address: its InternalIP; one of `pki.NODE_RANGE`, used once, since the API server keeps
                connections for later.
            kubelet: who answers as its kubelet, with a certificate for `address`
                (`pki.server`); by default kwok, with logs, exec and its metrics.
            port: of the kubelet, at `address`.

        Raises:
            aiohttp.ClientResponseError: the Node is refused.
            TimeoutError: it did not become ready.
        """
        with self.egress.route(f"{address}:{port}", kubelet or self.kubelet):
            async with self.api() as api:
                await add_node(api, name, address, port)
                try:
                    yield
                finally:
                    async with api.delete(f"/api/v1/nodes/{name}"):
                        pass

    @asynccontextmanager
    async def api(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Yield an HTTP session with the admin's certificate, its paths relative to `server`."""
        connector = aiohttp.TCPConnector(ssl=self.pki.client_context())
        async with aiohttp.ClientSession(self.server, connector=connector) as session:
            yield session


@asynccontextmanager
async def boot_pair(
    *, nodes: int = 3, directory: Path | None = None, settings: Settings | None = None
) -> AsyncIterator[tuple[ControlPlane, ControlPlane]]:
    """Boot a host and a virtual plane at once, faster than one after the other; end both on exit.

    Args:
        nodes: how many fake nodes the host has.
        directory: put them into its `host` and `virtual`; by default into temporary directories.
        settings: for both.

    Raises:
        ToolError, ComponentError, PlaneError: as `ControlPlane.host` does.
    """
    places = (None, None) if directory is None else (directory / "host", directory / "virtual")
    async with AsyncExitStack() as stack:
        boots = [
            ControlPlane.host(nodes=nodes, directory=places[0], settings=settings),
            ControlPlane.virtual(directory=places[1], settings=settings),
        ]
        tasks = [asyncio.create_task(stack.enter_async_context(boot)) for boot in boots]
        try:
            host, virtual = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:  # a plane that is still booting cleans up when cancelled
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        yield host, virtual


@asynccontextmanager
async def _boot(
    cls: type[_Plane],
    kind: Kind,
    settings: Settings,
    directory: Path | None,
    progress: Progress | None,
    nodes: int,
    metrics_server: Path | None = None,
) -> AsyncIterator[_Plane]:
    tools = await build_tools(progress)
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        path = _make_directory(directory)
        components: dict[str, Component] = {}
        stack.callback(_reap, components)  # runs after the keeper's end, so all have ended
        group = await stack.enter_async_context(_keeper(path))
        pki = create_pki(path / "pki", settings.service_cidr, virtual=kind == "virtual")
        ports = [stack.enter_context(HeldPort()).number for _ in range(5)]
        server = f"https://{LOOPBACK}:{ports[0]}"
        described = _describe(kind, path, tools, settings, ports)
        if metrics_server is not None:
            described[_METRICS_SERVER] = _describe_metrics(
                path, server, pki, metrics_server, ports[4]
            )
        tls = pki.client_context()
        for name, (command, probe) in described.items():
            components[name] = Component(
                name, directory=path, probe=probe, tls=tls, command=command, group=group
            )
        plane = cls(
            kind=kind,
            directory=path,
            server=server,
            kubeconfig=_write_kubeconfigs(path, server, pki, kind),
            service_cidr=settings.service_cidr,
            pki=pki,
            components=MappingProxyType(components),
            tools=tools,
            owner=os.getpid(),
        )
        await _start(plane, nodes)  # on failure, too, the keeper ends what runs
        plane = replace(plane, boot_seconds=round(time.monotonic() - started, 3))
        _save(plane)
        yield plane


def _save(plane: ControlPlane) -> None:
    """Write what `attach` needs."""
    state = {
        "kind": plane.kind,
        "server": plane.server,
        "service_cidr": plane.service_cidr,
        "owner": plane.owner,
        "boot_seconds": plane.boot_seconds,
        "probes": {name: component.probe for name, component in plane.components.items()},
        "tools": {name: str(path) for name, path in asdict(plane.tools).items()},
    }
    scratch = plane.directory / f".{_STATE_FILE}.new"
    scratch.write_bytes(orjson.dumps(state, option=orjson.OPT_INDENT_2))
    scratch.replace(plane.directory / _STATE_FILE)


def _make_directory(directory: Path | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="controlplane-"))
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise PlaneError(f"{directory} exists already") from None
    return directory.absolute()


@asynccontextmanager
async def _keeper(directory: Path) -> AsyncIterator[int]:
    """Run the keeper and yield the process group it leads; on exit the group is gone."""
    keeper = _start_keeper(directory)
    try:
        yield keeper.pid
    finally:
        _finish(keeper)


def _start_keeper(directory: Path) -> "subprocess.Popen[bytes]":
    keep = os.environ.get(KEEP_VARIABLE, "0")
    script = Path(__file__).with_name("keeper.py")
    command = (sys.executable, "-I", "-S", str(script), str(os.getpid()), str(directory), keep)
    # A group of its own, so that a terminal's Ctrl-C reaches the owner only.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, process_group=0
    )


def _finish(keeper: "subprocess.Popen[bytes]") -> None:
    """Let the keeper clean up; blocks some 100 ms, not to be cut short by a cancellation."""
    # A byte, as a forked child of ours may hold the pipe open beyond our closing it.
    keeper.communicate(b"\n")


def _reap(components: Mapping[str, Component]) -> None:
    """Collect the exit status of our children, which the keeper could only kill."""
    for component in components.values():
        component.collect()


_Description = tuple[list[str], str]
"""Command and probe of a component."""


def _describe(
    kind: Kind, directory: Path, tools: Tools, settings: Settings, ports: list[int]
) -> dict[str, _Description]:
    virtual = kind == "virtual"
    api_port, manager_port, scheduler_port, kubelet_port = ports[:4]
    described = {
        "kine": (commands.kine(tools, settings), commands.kine_probe()),
        "egress": (commands.egress_proxy(), commands.egress_probe()),
        "kube-apiserver": (
            commands.api_server(tools, settings, api_port, virtual=virtual),
            f"https://{LOOPBACK}:{api_port}/readyz",
        ),
        "kube-controller-manager": (
            commands.controller_manager(tools, settings, manager_port, virtual=virtual),
            f"https://{LOOPBACK}:{manager_port}/healthz",
        ),
    }
    commands.write_egress_config(directory)
    if not virtual:
        commands.write_scheduler_config(directory)
        commands.write_kwok_config(directory)
        described["kube-scheduler"] = (
            commands.scheduler(tools, scheduler_port),
            f"https://{LOOPBACK}:{scheduler_port}/readyz",
        )
        described["kwok"] = (
            commands.kwok(tools, kubelet_port),
            f"https://{LOOPBACK}:{kubelet_port}/healthz",
        )
    return described


def _describe_metrics(
    directory: Path, server: str, pki: Pki, binary: Path, port: int
) -> _Description:
    user = pki.user("metrics-server", ["system:masters"])
    path = directory / "metrics-server.kubeconfig"
    write_kubeconfig(path, server, pki.server_ca.certificate, user)
    command = commands.metrics_server(binary, port, metrics.certificate(pki))
    # Alive, not ready: that it is only when it has metrics, after two looks at the nodes.
    return command, f"https://{LOOPBACK}:{port}/livez"


def _write_kubeconfigs(directory: Path, server: str, pki: Pki, kind: Kind) -> Path:
    users = ["controller-manager"] if kind == "virtual" else ["controller-manager", "scheduler"]
    for user in users:
        path = directory / f"{user}.kubeconfig"
        write_kubeconfig(path, server, pki.server_ca.certificate, pki.pair(user))
    path = directory / "admin.kubeconfig"
    return write_kubeconfig(path, server, pki.server_ca.certificate, pki.admin)


async def _start(plane: ControlPlane, nodes: int) -> None:
    # The others only then: they would take its CPU, and the controller manager gives up after 10 s.
    for name in ("kine", "egress"):
        plane.components[name].launch()
    await plane.components["kube-apiserver"].start()
    measured = _METRICS_SERVER in plane.components
    others = [each for name, each in plane.components.items() if name != _METRICS_SERVER]
    for component in others:
        component.launch()
    async with plane.api() as api:
        await add_nodes(api, nodes, metrics=measured)
        for component in others:
            await component.wait_ready()
        await _until("the default service account and root certificate", api, _namespace_ready)
        await _until("the nodes", api, lambda session: nodes_ready(session, nodes))
        if measured:
            await _start_metrics(plane, api)


async def _start_metrics(plane: ControlPlane, api: aiohttp.ClientSession) -> None:
    """Start metrics-server, now that it finds all nodes: it looks every ten seconds only."""
    component = plane.components[_METRICS_SERVER]
    await component.start()
    await metrics.register(api, URL(component.probe).port or 0, plane.pki.server_ca)
    await _until("the metrics API", api, metrics.available)


async def _namespace_ready(api: aiohttp.ClientSession) -> bool:
    # Without the first no pod is admitted, without the second none would start on a real node.
    for name in ("serviceaccounts/default", "configmaps/kube-root-ca.crt"):
        async with api.get(f"/api/v1/namespaces/default/{name}") as response:
            if response.status != 200:
                return False
    return True


async def _until(
    what: str,
    api: aiohttp.ClientSession,
    check: Callable[[aiohttp.ClientSession], Awaitable[bool]],
) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT
    while not await check(api):
        if time.monotonic() > deadline:
            raise ComponentError(f"{what} did not appear within {BOOT_TIMEOUT:g} s")
        await asyncio.sleep(_POLL)
