"""The mass-deletion guard: is this still the pair of clusters that the host objects came from?

An empty or restored datastore looks like a tenant who deleted everything. So the identity of the
virtual cluster (the UID of its ``kube-system``) and the highest resource version seen in it are
recorded in a ConfigMap on the host, ``vc-state-TENANT``; that ConfigMap's own UID and the owner
Service's are the identity of the host side. When they don't agree the gate is closed: nothing is
written or deleted on either side, readiness says why and how to go on.

It is no count of deletions: a tenant may delete everything, and one object may be too many.

Source: design rule 9; behaviour of vcluster v0.16-v0.36 ("no mass-deletion guard").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import orjson
import structlog

from syncer.engine.gate import Gate, GateClosedError
from syncer.kube.client import Client
from syncer.kube.errors import ApiError, TransportError
from syncer.objects import Key, Object, Resource, Side

CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
SERVICES: Final = Resource("", "v1", "services", "Service")
NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)

RECORD_SECONDS: Final = 10.0
"""At most one record of the version in so many seconds, and only after host writes."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("guard")


@dataclass(frozen=True, slots=True)
class State:
    """What the ConfigMap on the host remembers.

    Attributes:
        uid: UID of the virtual cluster's ``kube-system``.
        version: highest resource version seen in the virtual cluster.
        accept: UID of a virtual cluster that the operator told us to go on with, or ``""``.
    """

    uid: str
    version: int
    accept: str = ""

    @classmethod
    def read(cls, config_map: Object) -> State:
        """Read it from the ConfigMap; missing or odd values read as empty."""
        data = config_map.get("data") or {}
        version = data.get("virtual-version", "")
        return cls(
            uid=data.get("virtual-uid", ""),
            version=int(version) if version.isdecimal() else 0,
            accept=data.get("accept", ""),
        )


def judge(
    recorded: State | None, uid: str, version: int, *, host_lost: bool, how: str
) -> str | None:
    """Decide whether the virtual cluster is the one that was recorded.

    Args:
        recorded: what the host remembers, or ``None``.
        uid: UID of ``kube-system`` now.
        version: resource version of the virtual cluster now.
        host_lost: there are started virtual pods but not one host copy of ours.
        how: the command by which an operator goes on.

    Returns:
        ``None`` when all is well, else why not, with ``how``.
    """
    if recorded is not None and recorded.accept == uid:
        return None
    if recorded is None or not recorded.uid:
        if host_lost:
            return (
                "the virtual cluster has started pods but the host namespace holds none of their "
                f"copies and no record of them: was it reset? To go on: {how}"
            )
        return None
    if recorded.uid != uid:
        return (
            f"this is another virtual cluster (kube-system has UID {uid}) than the one whose "
            f"objects are on the host ({recorded.uid}). To go on and delete those: {how}"
        )
    if version < recorded.version:
        return (
            f"the virtual cluster went back from resource version {recorded.version} to "
            f"{version}: was it restored? To go on and delete what it no longer knows: {how}"
        )
    if host_lost:
        return (
            "the virtual cluster has started pods but the host namespace holds none of their "
            f"copies: was the host restored? To go on and report them gone: {how}"
        )
    return None


def host_lost(pods: Iterable[Object | None], copies: int) -> bool:
    """Say whether the host lost all that it had of ours.

    Pods that are just being deleted say nothing: their copies may have gone in good order while
    nobody watched. Nor does a lack of pods alone: the host's owner may delete pods, as long as the
    rest is there.

    Args:
        pods: the virtual pods.
        copies: how many copies of any kind the host has.
    """
    return not copies and any(
        pod is not None
        and "deletionTimestamp" not in pod["metadata"]
        and "startTime" in (pod.get("status") or {})
        for pod in pods
    )


class Guard:
    """Keeps the record and closes the gate when the clusters are not those recorded."""

    HOLDER: Final = "guard"

    def __init__(
        self,
        *,
        virtual: Client,
        host: Client,
        gate: Gate,
        namespace: str,
        tenant: str,
        owner: Key | None,
        version: Callable[[], int],
        host_lost: Callable[[], bool],
        accepted: Callable[[], None],
    ) -> None:
        """Make a guard; :meth:`start` judges.

        Args:
            virtual: client of the virtual API server.
            host: client of the host API server.
            gate: what it closes.
            namespace: host namespace of the ConfigMap.
            tenant: name of the virtual cluster.
            owner: key of the owner Service, ``None`` when owners aren't set.
            version: gives the highest resource version seen in the virtual cluster.
            host_lost: see :func:`judge`.
            accepted: called when an operator let a refused cluster go on.
        """
        self._virtual = virtual
        self._host = host
        self._gate = gate
        self._key = Key(namespace, f"vc-state-{tenant}")
        self._owner = owner
        self._version = version
        self._host_lost = host_lost
        self._accepted = accepted
        self._uid = ""
        self._state_uid = ""
        self._owner_uid = ""
        self._refusals = 0
        self._written = asyncio.Event()
        self._recorded = 0
        self._checks: dict[Side, asyncio.Task[bool]] = {}

    @property
    def key(self) -> Key:
        """The ConfigMap's key."""
        return self._key

    # -- at start, and when an operator has spoken ----------------------------------------------

    async def start(self) -> bool:
        """Judge the pair, record it, and open or close the gate.

        Returns:
            Whether it could be judged; an API server that has just started has no namespaces for
            a moment: ask again.

        Raises:
            ApiError, TransportError: a server could not be asked; ask again.
        """
        refusals = self._refusals
        kube_system = await self._get(self._virtual, NAMESPACES, Key("", "kube-system"))
        if kube_system is None:
            reason = "the virtual cluster has no namespace kube-system yet"
            self._gate.close(self.HOLDER, reason)
            log.warning("can't judge the clusters yet", reason=reason)
            return False
        uid: str = kube_system["metadata"]["uid"]
        config_map = await self._get(self._host, CONFIG_MAPS, self._key)
        recorded = State.read(config_map) if config_map else None
        version = self._version()
        refused = judge(recorded, uid, version, host_lost=self._host_lost(), how=self._how(uid))
        if refused is not None:
            self._refuse(refused)
            return True
        self._uid = uid
        if self._owner is not None:
            service = await self._get(self._host, SERVICES, self._owner)
            self._owner_uid = service["metadata"]["uid"] if service else ""
        if config_map is None or recorded != State(
            uid, max(version, recorded.version if recorded else 0)
        ):
            config_map = await self._record(version, exists=config_map is not None)
        self._state_uid = config_map["metadata"]["uid"]
        self._recorded = version
        if refusals != self._refusals:
            return False  # refused for another reason while the servers were asked
        accepted = recorded is not None and bool(recorded.accept)
        self._gate.open(self.HOLDER)
        if accepted:
            log.warning("accepted by the operator", uid=uid)
            self._accepted()
        return True

    def changed(self, config_map: Object | None) -> bool:
        """Say whether the ConfigMap now tells us to judge anew (an operator's ``accept``)."""
        return (
            config_map is not None
            and self.HOLDER in self._gate.reasons
            and bool(State.read(config_map).accept)
        )

    def rewound(self, side: Side, before: int, now: int) -> None:
        """A server's resource version went backwards: it was restored. Closes the gate."""
        self._refuse(
            f"the {side} cluster went back from resource version {before} to {now}: was it "
            f"restored? To go on: {self._how(self._uid)}"
        )

    def owned_by(self, uid: str) -> None:
        """Take over a new owner; all copies have been queued to be given it."""
        self._owner_uid = uid

    def _refuse(self, reason: str) -> None:
        self._refusals += 1
        log.error("refused", reason=reason)
        self._gate.close(self.HOLDER, reason)

    def _how(self, uid: str) -> str:
        name, namespace = self._key.name, self._key.namespace
        return (
            f"kubectl -n {namespace} create configmap {name} --from-literal=accept={uid} "
            "--dry-run=client -o yaml | kubectl apply -f -"
        )

    # -- before a deletion that nobody witnessed ----------------------------------------------

    async def confirm(self, side: Side) -> bool:
        """Ask a live server whether it is still the same cluster.

        Askers that come while a question is under way share the next one, so a burst of
        deletions costs a few requests, and none relies on an answer older than its question.

        Args:
            side: which cluster.

        Returns:
            Whether it is; when not, the gate is closed with the reason.

        Raises:
            ApiError, TransportError: it could not be asked.
        """
        running = self._checks.get(side)
        if running is not None and not running.done():
            await asyncio.wait({running})
        task = self._checks.get(side)
        if task is None or task.done():
            check = self._confirm_virtual if side is Side.VIRTUAL else self._confirm_host
            task = self._checks[side] = asyncio.create_task(check())
        return await asyncio.shield(task)

    async def _confirm_virtual(self) -> bool:
        kube_system = await self._get(self._virtual, NAMESPACES, Key("", "kube-system"))
        uid = kube_system["metadata"]["uid"] if kube_system else "none"
        if uid == self._uid:
            return True
        self._refuse(
            f"the virtual cluster is another one: kube-system has UID {uid}, not {self._uid}. "
            f"To go on: {self._how(uid)}"
        )
        return False

    async def _confirm_host(self) -> bool:
        if self._owner is not None:
            service = await self._get(self._host, SERVICES, self._owner)
            if service is None or "deletionTimestamp" in service["metadata"]:
                return False
            return bool(service["metadata"]["uid"] == self._owner_uid)
        config_map = await self._get(self._host, CONFIG_MAPS, self._key)
        if config_map is not None and config_map["metadata"]["uid"] == self._state_uid:
            return True
        self._refuse(
            f"the record {self._key} on the host is gone or was made again: was the host reset? "
            f"To go on: {self._how(self._uid)}"
        )
        return False

    # -- the record ----------------------------------------------------------------------------

    def wrote(self) -> None:
        """Note that the host was written to, so the version is worth recording."""
        self._written.set()

    async def run(self) -> None:
        """Record the version after writes, until cancelled."""
        while True:
            await self._written.wait()
            await asyncio.sleep(RECORD_SECONDS)
            self._written.clear()
            version = self._version()
            if not self._gate.may_write() or version <= self._recorded:
                continue
            try:
                await self._record(version, exists=True, check=self._gate.check)
                self._recorded = version
            except (ApiError, TransportError, GateClosedError) as error:
                log.warning("version not recorded", reason=str(error))
                self._written.set()

    async def _record(
        self, version: int, *, exists: bool, check: Callable[[], None] | None = None
    ) -> Object:
        data: Object = {"virtual-uid": self._uid, "virtual-version": str(version)}
        if exists:
            body: Object = {"data": {**data, "accept": None}}
            path = CONFIG_MAPS.path(self._key.namespace, self._key.name)
            answer = await self._host.request(
                "PATCH",
                path,
                body=body,
                content_type="application/merge-patch+json",
                check=check,
            )
        else:
            body = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": self._key.name,
                    "namespace": self._key.namespace,
                    "labels": {"app.kubernetes.io/managed-by": "vcluster-syncer"},
                },
                "data": data,
            }
            answer = await self._host.request(
                "POST", CONFIG_MAPS.path(self._key.namespace), body=body
            )
        config_map: Object = orjson.loads(answer)
        return config_map

    @staticmethod
    async def _get(client: Client, resource: Resource, key: Key) -> Object | None:
        try:
            answer = await client.request("GET", resource.path(key.namespace, key.name))
        except ApiError as error:
            if error.not_found:
                return None
            raise
        obj: Object = orjson.loads(answer)
        return obj
