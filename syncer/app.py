"""The composition root: builds the parts, joins mappers and engine, owns every task's lifetime.

Order of a start: connect to both API servers (refused credentials end the process), fill the
stores, let the guard judge the pair, open the gate, work. A stop (SIGTERM) closes the queue, lets
the writes under way finish and ends within :data:`DRAIN_SECONDS`.

Invariant: nothing is written before every list is complete and the guard has judged.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Final

import orjson
import structlog

import mappers
from mappers import node_services
from mappers.kept_nodes import KEEPING_INDEX
from mappers.pods import NODE_INDEX
from syncer import ownership
from syncer.engine import view as views
from syncer.engine.flow import Limiter
from syncer.engine.gate import Gate
from syncer.engine.guard import CONFIG_MAPS, SERVICES, Guard, host_lost
from syncer.engine.queue import Level, WorkQueue
from syncer.engine.reconcile import Attendant, Reconciler
from syncer.engine.view import Item, View
from syncer.engine.writer import Writer
from syncer.kube.client import Client
from syncer.kube.config import ConnectionConfig, in_cluster, load_in_cluster, load_kubeconfig
from syncer.kube.errors import ApiError, ConfigError, TransportError
from syncer.kube.informer import SILENCE, WATCH_SECONDS, Informer
from syncer.kube.recorder import EventRecorder
from syncer.kube.store import Change
from syncer.kubeconfig.writer import KubeconfigWriter, server_of
from syncer.naming import Names
from syncer.objects import Indexer, Key, Object, Resource, Side
from syncer.ops.health import Health
from syncer.ops.metrics import Metrics
from syncer.proxy.assembly import Parts, Proxy
from syncer.proxy.kubelet_paths import NodeAddresses
from syncer.proxy.services import Copying
from syncer.settings import Settings, enabled_kinds
from syncer.tokens import PodTokens
from syncer.types import OWN_ENDPOINTS, OWN_SERVICE, Direction, Kind

REFUSED_SECONDS: Final = 30.0
"""How long credentials may be refused at start before the process gives up."""
RETRY_SECONDS: Final = 1.0
DRAIN_SECONDS: Final = 4.0
OWNER_SECONDS: Final = 10.0
"""How often a missing owner Service is looked for; its watch tells sooner that it was made."""
OWN_STATE: Final = "own-state"
GC_THRESHOLD: Final = (20_000, 20, 20)
"""Decoded objects have no cycles: the collector finds nothing, so it need not look often."""

ENDPOINTS: Final = Resource("", "v1", "endpoints", "Endpoints")

log: structlog.stdlib.BoundLogger = structlog.get_logger("app")


async def run(settings: Settings) -> int:
    """Run the syncer until it is told to stop.

    Args:
        settings: validated settings.

    Returns:
        The exit code: 0 after a stop.

    Raises:
        ConfigError: a kubeconfig can't be used, or an API server refuses the credentials; the
            text is one line for people.
    """
    virtual = load_kubeconfig(Path(settings.kube_config))
    host = _host_config(settings)
    return await App(settings, virtual, host).run()


def _host_config(settings: Settings) -> ConnectionConfig:
    """Find the host: in-cluster, else ``--host-kube-config``, else ``KUBECONFIG``."""
    if in_cluster():
        return load_in_cluster()
    if not settings.host_kube_config:
        raise ConfigError(
            "no host cluster: not running in a pod, and neither --host-kube-config nor "
            "KUBECONFIG names a kubeconfig"
        )
    return load_kubeconfig(Path(settings.host_kube_config))


class App:
    """One running syncer."""

    def __init__(
        self, settings: Settings, virtual: ConnectionConfig, host: ConnectionConfig
    ) -> None:
        """Build the parts; nothing runs yet.

        Args:
            settings: validated settings.
            virtual: connection to the virtual API server.
            host: connection to the host API server.
        """
        self._settings = settings
        self._names = Names(settings.name, settings.target_namespace, settings.sync_labels)
        self._owned = settings.set_owner and (
            settings.current_namespace == settings.target_namespace
        )
        self._metrics = Metrics()
        self._gate = Gate(guard="starting")
        self._stopping = asyncio.Event()
        self._judge = asyncio.Event()
        self._kinds = _enabled(settings)
        self._clients = {
            Side.VIRTUAL: Client(virtual, observer=self._metrics.requests(Side.VIRTUAL)),
            Side.HOST: Client(host, observer=self._metrics.requests(Side.HOST)),
        }
        self._queue: WorkQueue[Item] = WorkQueue(
            group=lambda item: item.key.namespace, on_wait=self._metrics.waited
        )
        self._view = View(self._kinds, self._names, settings, self._enqueue)
        self._informers: dict[tuple[Side, str], Informer] = {}
        self._add_informers()
        self._guard = self._make_guard()
        self._limiters = {
            Side.VIRTUAL: Limiter(cap=settings.virtual_max_in_flight),
            Side.HOST: Limiter(cap=settings.host_max_in_flight),
        }
        self._writers = {side: self._make_writer(side) for side in Side}
        self._recorder = EventRecorder(self._clients[Side.VIRTUAL], may_write=self._gate.may_write)
        self._ready: set[str] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._reconciler = self._make_reconciler()
        self._proxy = self._make_proxy({Side.VIRTUAL: virtual, Side.HOST: host})
        self._kubeconfig = KubeconfigWriter(
            self._clients[Side.HOST],
            self._gate,
            settings,
            server=lambda: server_of(settings, self._proxy.port),
            owner=lambda: self._view.owner if self._owned else None,
        )
        self._health = Health()
        self._observe()

    # -- building --------------------------------------------------------------------------

    def _add_informers(self) -> None:
        kinds = self._kinds.values()
        indexes = views.indexers(kinds, self._names)
        mirrored = {k.resource.full_name: k for k in kinds if k.direction is Direction.TO_VIRTUAL}
        on_host = {kind.resource.full_name: kind.on_host for kind in kinds if kind.on_host}
        silent = {kind.resource.full_name for kind in kinds if not kind.bookmarks}
        selector = ownership.selector(self._names)
        for (side, name), resource in views.resources(kinds).items():
            mirror = mirrored.get(name)
            ours = (side is Side.HOST) != (mirror is not None)
            keep = mirror.keep if mirror and side is Side.HOST else None
            namespace = self._names.host_namespace if side is Side.HOST else ""
            if (made := on_host.get(name)) is not None:
                namespace = self._settings.current_namespace
            self._add_informer(
                side,
                name,
                resource,
                indexes=indexes.get((side, name), {}),
                namespace=namespace,
                label_selector=made.selector(self._names) if made else selector if ours else "",
                keep=partial(_keeps, keep, self._names) if keep else None,
                silence=WATCH_SECONDS[1] if name in silent else SILENCE,
                listener=self._addresses_changed if made else None,
            )
        for name, resource, own, listener in (
            (OWN_SERVICE.resource, SERVICES, self._settings.service_name, self._owner_changed),
            (OWN_ENDPOINTS.resource, ENDPOINTS, self._settings.service_name, None),
            (OWN_STATE, CONFIG_MAPS, f"vc-state-{self._names.tenant}", self._state_changed),
        ):
            self._add_informer(
                Side.HOST,
                name,
                resource,
                namespace=self._settings.current_namespace
                if name != OWN_STATE
                else self._names.host_namespace,
                field_selector=f"metadata.name={own}",
                listener=listener,
            )

    def _add_informer(
        self,
        side: Side,
        name: str,
        resource: Resource,
        *,
        indexes: Mapping[str, Indexer] | None = None,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        keep: Callable[[Object], bool] | None = None,
        silence: float = SILENCE,
        listener: Callable[[Change], None] | None = None,
    ) -> None:
        store = self._view.add_store(side, name, indexes or {}, listener)
        self._informers[side, name] = Informer(
            self._clients[side],
            resource,
            store,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            keep=keep,
            silence=silence,
            on_rewound=lambda before, now: self._guard.rewound(side, before, now),
        )

    def _make_guard(self) -> Guard:
        owner = (
            Key(self._settings.current_namespace, self._settings.service_name)
            if self._owned
            else None
        )
        return Guard(
            virtual=self._clients[Side.VIRTUAL],
            host=self._clients[Side.HOST],
            gate=self._gate,
            namespace=self._names.host_namespace,
            tenant=self._names.tenant,
            owner=owner,
            version=self._virtual_version,
            host_lost=self._host_lost,
            accepted=self._enqueue_all,
        )

    def _make_writer(self, side: Side) -> Writer:
        return Writer(
            self._clients[side],
            self._limiters[side],
            self._gate,
            self._view.side(side),
            wrote=self._guard.wrote if side is Side.HOST else None,
        )

    def _make_reconciler(self) -> Reconciler:
        attendants: dict[str, Attendant] = {}
        if "pods" in self._kinds and "secrets" in self._kinds:
            attendants["pods"] = PodTokens(
                names=self._names,
                in_secrets=self._settings.service_account_token_secrets,
                cluster_domain=self._settings.cluster_domain,
                view=self._view,
                queue=self._queue,
                writers=self._writers,
            )
        return Reconciler(
            kinds=self._kinds,
            names=self._names,
            view=self._view,
            queue=self._queue,
            writers=self._writers,
            gate=self._gate,
            recorder=self._recorder,
            observer=self._metrics,
            confirm=self._guard.confirm,
            relist=lambda side, name: self._informers[side, name].relist(),
            ready=lambda kind: kind.name in self._ready,
            attendants=attendants,
        )

    def _make_proxy(self, configs: Mapping[Side, ConnectionConfig]) -> Proxy:
        addresses = NodeAddresses(
            self._view.store(Side.HOST, node_services.RESOURCE.full_name),
            node_services.ADDRESS_INDEX,
            node_services.node_of,
            tuple if self._settings.disable_fake_kubelets else self._nodes,
        )
        return Proxy(
            Parts(
                settings=self._settings,
                names=self._names,
                configs=configs,
                clients=self._clients,
                stores=self._view.stores,
                synced=lambda side, name: self._informers[side, name].synced,
                nodes=self._nodes,
                pods_on=self._pods_on,
                addresses=addresses,
                version=lambda: self._view.server_version,
                services=self._service_copying(),
            ),
            observer=self._metrics.proxied,
        )

    def _service_copying(self) -> Copying | None:
        """Give the endpoint what it needs to have services made on the host first."""
        kind = self._kinds.get("services")
        if kind is None:
            return None
        copies = self._view.store(Side.HOST, kind.resource.full_name)

        def made(copy: Object) -> None:
            copies.apply(copy, own=True)
            self._guard.wrote()

        return Copying(
            kind,
            context=lambda virtual: self._view.context(kind, virtual, None),
            owner=lambda: self._view.owner,
            may_write=lambda: self._gate.may_write() and kind.name in self._ready,
            made=made,
        )

    def _nodes(self) -> Collection[str]:
        """Give the names of the host's nodes that the tenant's pods are on."""
        if "pods" not in self._kinds:
            return ()
        return self._view.store(Side.HOST, "pods").index_values(KEEPING_INDEX)

    def _pods_on(self, node: str) -> list[Key]:
        return self._view.store(Side.VIRTUAL, "pods").by_index(NODE_INDEX, node)

    def _observe(self) -> None:
        """Let metrics and health read the parts; both look only when asked."""
        self._metrics.watch_queue(self._queue)
        self._metrics.watch_listener(self._proxy.endpoint.listener)
        for side, limiter in self._limiters.items():
            self._metrics.watch_limiter(side, limiter)
        for (side, name), store in self._view.stores.items():
            self._metrics.watch_store(side, name, store)
        spared = {kind.resource.full_name for kind in self._kinds.values() if not kind.required}
        for (side, name), informer in self._informers.items():
            self._metrics.watch_informer(side, name, informer)
            if name in spared:
                continue
            self._health.add_ready(f"informer-{side}-{name}", _informer_check(informer))
        self._health.add_ready("gate", lambda: "; ".join(self._gate.reasons.values()) or None)

    # -- what changes mean -----------------------------------------------------------------

    def _enqueue(self, item: Item, level: Level) -> None:
        self._reconciler.enqueue(item, level)

    def _enqueue_all(self) -> None:
        for kind in self._kinds.values():
            if kind.name in self._ready:
                for item in self._view.everything(kind):
                    self._reconciler.enqueue(item, Level.LOW)

    def _addresses_changed(self, _change: Change) -> None:
        """A Service that leads to the endpoint changed: its certificate may have to."""
        store = self._view.store(Side.HOST, OWN_SERVICE.resource)
        self._proxy.set_services([own for key in store.keys() if (own := store.get(key))])  # noqa: SIM118 - no mapping

    def _owner_changed(self, change: Change) -> None:
        """The owner Service is there, gone, or another one: see design rule 9."""
        self._addresses_changed(change)
        if not self._owned:
            return
        key = Key(self._settings.current_namespace, self._settings.service_name)
        before = self._view.owner
        service = self._view.store(Side.HOST, OWN_SERVICE.resource).get(change.key)
        if change.new is None or service is None or "deletionTimestamp" in service["metadata"]:
            self._gate.close(
                "owner",
                f"the owner Service {key} is gone; nothing is written until it is there again "
                "(--set-owner=false syncs without an owner)",
            )
            return
        self._view.owner = {
            "apiVersion": "v1",
            "kind": "Service",
            "name": key.name,
            "uid": change.new.uid,
        }
        self._gate.open("owner")
        self._kubeconfig.wake()
        if before is not None and before != self._view.owner:
            log.warning("owner made again", service=str(key))
            self._enqueue_all()
        self._guard.owned_by(change.new.uid)

    def _state_changed(self, change: Change) -> None:
        store = self._view.store(Side.HOST, OWN_STATE)
        if self._guard.changed(store.get(change.key)):
            self._judge.set()

    def _virtual_version(self) -> int:
        return max(
            (
                store.highest
                for (side, _), store in self._view.stores.items()
                if side is Side.VIRTUAL
            ),
            default=0,
        )

    def _host_lost(self) -> bool:
        """See :func:`host_lost`."""
        copied = [
            (Side.HOST, kind.resource.full_name)
            for kind in self._kinds.values()
            if kind.direction is Direction.TO_HOST
        ]
        if not all(self._informers[at].synced for at in copied):
            return False  # refused for want of rights: nothing is known of it
        copies = sum(len(self._view.stores[at]) for at in copied)
        if copies or "pods" not in self._kinds:
            return False
        pods = self._view.store(Side.VIRTUAL, "pods")
        return host_lost((pods.get(key) for key in pods.keys()), copies)  # noqa: SIM118 - no mapping

    # -- running ---------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT.

        Returns:
            0.

        Raises:
            ConfigError: an API server refuses the credentials.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        async with AsyncExitStack() as stack:
            for client in self._clients.values():
                stack.push_async_callback(client.close)
            await stack.enter_async_context(self._serve())
            await stack.enter_async_context(self._proxy.serve())
            if self._owned:
                self._gate.close("owner", "the owner Service has not been seen yet")
            main = asyncio.create_task(self._sync())
            stop = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({main, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            self._proxy.endpoint.stop()
            if not main.done():
                await self._drain()
                main.cancel()
            with suppress(asyncio.CancelledError):
                await main
        log.info("stopped")
        return 0

    async def _sync(self) -> None:
        """Connect, fill the stores, judge, work; until cancelled."""
        await asyncio.gather(*(self._connect(side) for side in Side))
        async with asyncio.TaskGroup() as tasks:
            for informer in self._informers.values():
                tasks.create_task(informer.run())
            tasks.create_task(self._recorder.run())
            tasks.create_task(self._metrics.sample_loop_lag())
            await self._settled()
            for kind in self._kinds.values():
                tasks.create_task(self._becomes_ready(kind))
            tasks.create_task(self._keep_judging())
            tasks.create_task(self._guard.run())
            tasks.create_task(self._look_for_owner())
            tasks.create_task(self._kubeconfig.run())
            gc.collect()
            gc.freeze()  # what is here now stays; full collections need not look at it again
            gc.set_threshold(*GC_THRESHOLD)
            for _ in range(self._settings.workers):
                self._workers.append(tasks.create_task(self._reconciler.work()))

    async def _connect(self, side: Side) -> None:
        """Wait until an API server answers.

        Raises:
            ConfigError: it refuses the credentials for :data:`REFUSED_SECONDS`.
        """
        refused: float | None = None
        while True:
            try:
                answer = await self._clients[side].request("GET", "/version", timeout=10.0)
                if side is Side.VIRTUAL:
                    self._view.server_version = orjson.loads(answer).get("gitVersion", "")
                return
            except ApiError as error:
                if not error.unauthorized:
                    if error.forbidden:
                        return
                    refused = None
                elif refused is None:
                    refused = time.monotonic()
                elif time.monotonic() - refused > REFUSED_SECONDS:
                    raise ConfigError(
                        f"the {side} API server refuses the credentials: {error.message}"
                    ) from error
                log.warning("API server not ready", server=side, reason=str(error))
            except TransportError as error:
                refused = None
                log.warning("API server not reached", server=side, reason=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _settled(self) -> None:
        """Wait until every list is complete, or refused for want of rights."""
        started = time.monotonic()
        await asyncio.gather(*(informer.wait_settled() for informer in self._informers.values()))
        log.info(
            "lists complete",
            seconds=round(time.monotonic() - started, 3),
            objects=sum(map(len, self._view.stores.values())),
        )

    async def _becomes_ready(self, kind: Kind) -> None:
        """Let a kind be worked on once all that it looks at has synced (it may lack rights)."""
        needed = {
            at
            for at in (
                *views.resources((kind,)),
                *((trigger.side, trigger.resource) for trigger in kind.triggers),
            )
            if at in self._informers
        }
        late = not all(self._informers[at].synced for at in needed)
        await asyncio.gather(*(self._informers[at].wait_synced() for at in needed))
        self._ready.add(kind.name)
        if late:
            log.info("kind ready", kind=kind.name)
        for item in self._view.everything(kind):
            self._reconciler.enqueue(item, Level.LOW)

    async def _keep_judging(self) -> None:
        """Let the guard judge the pair at start, and again whenever an operator has spoken."""
        self._judge.set()
        while True:
            await self._judge.wait()
            self._judge.clear()
            try:
                judged = await self._guard.start()
            except (ApiError, TransportError) as error:
                log.warning("can't judge the clusters yet", reason=str(error))
                judged = False
            if not judged:
                self._judge.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def _look_for_owner(self) -> None:
        """List the owner Service anew while it is said to be gone: the list may have been wrong."""
        while True:
            await asyncio.sleep(OWNER_SECONDS)
            if "owner" in self._gate.reasons:
                self._informers[Side.HOST, OWN_SERVICE.resource].relist()

    async def _drain(self) -> None:
        """Let the writes under way finish; begin no others."""
        log.info("stopping", in_work=self._queue.processing)
        self._queue.close()
        if self._queue.processing:  # else the workers may all wait at a closed gate
            await asyncio.wait(self._workers, timeout=DRAIN_SECONDS)

    def _serve(self) -> AbstractAsyncContextManager[None]:
        return self._health.serve(
            self._settings.health_probe_bind_address,
            self._settings.metrics_bind_address,
            self._metrics,
        )


def _enabled(settings: Settings) -> dict[str, Kind]:
    """Give the kinds that ``--sync`` leaves on, and those that are only looked at."""
    known = mappers.kinds()
    optional = {kind.name: kind.default for kind in known if kind.optional}
    names = enabled_kinds(settings.sync, optional)
    return {kind.name: kind for kind in known if not kind.optional or kind.name in names}


def _keeps(keep: Callable[[Object, Names], bool], names: Names, obj: Object) -> bool:
    return keep(obj, names)


def _informer_check(informer: Informer) -> Callable[[], str | None]:
    def check() -> str | None:
        if informer.synced:
            return None
        status = informer.status()
        return status.last_error or status.state

    return check
