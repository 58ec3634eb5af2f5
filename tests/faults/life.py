"""The life of a small application, and what both clusters look like at its three ages.

A claim, then a config map, a secret, a service and a pod that mounts them and its own token. It is
created, changed and deleted; after each step both clusters are dumped. A life during which nothing
goes wrong is the yardstick for all others.
"""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import orjson

from syncer.ownership import OBJECT_UID
from tests.faults.broken import Answer, BrokenPair, Death
from tests.integration.harness import (
    SYNCED,
    Object,
    config_map,
    eventually,
    named,
    normalised,
    path_of,
    pod,
    secret,
    service,
)

COMPARED = tuple(resource for resource in SYNCED if resource not in ("events", "serviceaccounts"))
"""What is compared. Not events: how often a host's scheduler tries is its own affair."""

_UNSTEADY = (
    (re.compile(r"\b(node|zone)-\d\b"), r"<\1>"),
    (re.compile(r'"[0-9a-f]{8}"'), '"<token>"'),  # the key of a token depends on the pod
    # Whether it is there depends on who was first, the scheduler or the binding.
    (re.compile(r'(?<="PodScheduled",)"observedGeneration":\d+,'), ""),
    # Left out by the endpoints' controllers when two changes come at once.
    (
        re.compile(
            r'"annotations":\{"endpoints.kubernetes.io/last-change-trigger-time":"<time>"\},|'
            r',"annotations":\{"endpoints.kubernetes.io/last-change-trigger-time":"<time>"\}'
        ),
        "",
    ),
)

PLACE = "<namespace>"
"""Stands for the virtual namespace in what is compared."""

REMADE = (("pods", "web"), ("services", "web"), ("secrets", "password"), ("configmaps", "settings"))
"""The objects that `App.objects` makes, the last first."""

Dump = dict[str, Object]
Uids = dict[str, str]


@dataclass
class App:
    """One application in a virtual namespace of its own.

    Attributes:
        pair: where it lives.
        namespace: virtual; its name has the same length in every life.
        dumps: both clusters after each step so far, by step, names without the namespace's.
        uids: `side resource/name` -> UID at the last look.
    """

    pair: BrokenPair
    namespace: str
    dumps: dict[str, Dump] = field(default_factory=dict)
    uids: Uids = field(default_factory=dict)

    async def create(self) -> None:
        """Make everything; the pod once its claim is bound, or the scheduler would back off."""
        await self.pair.virtual.create(claim("data", self.namespace))
        # A claim whose binding met a conflict is looked at again after 15 s.
        await eventually(self.is_bound, timeout=40.0)
        for obj in self.objects():
            await self.pair.virtual.create(obj)

    def objects(self) -> list[Object]:
        """Give all but the claim, which can't be made again with its data; the pod last."""
        mounts = [
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "password", "secret": {"secretName": "password"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
        ]
        return [
            config_map("settings", self.namespace, {"colour": "red"}),
            secret("password", self.namespace, {"word": "one"}),
            service("web", self.namespace, port=80),
            pod(
                "web",
                self.namespace,
                labels={"app": "web"},
                volumes=mounts,
                enableServiceLinks=False,  # whose variables would depend on who was first
            ),
        ]

    async def change(self) -> None:
        """Change each object in a field that may change."""
        virtual, namespace = self.pair.virtual, self.namespace
        await virtual.patch("configmaps", "settings", namespace, {"data": {"colour": "blue"}})
        await virtual.patch("secrets", "password", namespace, {"data": {"word": "dHdv"}})
        ports = [{"name": "main", "port": 81}]
        await virtual.patch("services", "web", namespace, {"spec": {"ports": ports}})
        labels = {"metadata": {"labels": {"age": "old"}}}
        await virtual.patch("persistentvolumeclaims", "data", namespace, labels)
        await virtual.patch("pods", "web", namespace, labels)

    async def delete(self, grace: int | None = None) -> None:
        """Delete everything, the pod first; `grace` is that pod's, in seconds."""
        for resource, name in (*REMADE, ("persistentvolumeclaims", "data")):
            seconds = grace if resource == "pods" else None
            await self.pair.virtual.delete(resource, name, self.namespace, grace=seconds)

    async def runs(self) -> None:
        """Check that the tenant sees the pod run."""
        found = await self.pair.virtual.get("pods", "web", self.namespace)
        assert found["status"].get("phase") == "Running", found["status"]

    async def serves(self, port: int) -> None:
        """Check that both sides' endpoints of the service name the pod, under that port."""
        host_name = self.pair.host_name("web", self.namespace)
        for where, name, namespace in (
            (self.pair.virtual, "web", self.namespace),
            (self.pair.host, host_name, self.pair.names.host_namespace),
        ):
            subsets = (await where.get("endpoints", name, namespace)).get("subsets") or ()
            found = [(len(each.get("addresses", ())), each["ports"]) for each in subsets]
            assert [(count, [each["port"] for each in ports]) for count, ports in found] == [
                (1, [port])
            ], f"{where.plane.directory.name}: {found}"

    async def is_bound(self) -> None:
        """Check that the tenant sees the claim bound."""
        bound = await self.pair.virtual.get("persistentvolumeclaims", "data", self.namespace)
        assert bound["status"].get("phase") == "Bound", bound["status"]

    async def is_gone(self) -> None:
        """Check that what was deleted is gone from both clusters."""
        for resource, name in (("pods", "web"), ("persistentvolumeclaims", "data")):
            assert await self.pair.virtual.find(resource, name, self.namespace) is None
        found, _ = await self.look(cached=True)
        left = [
            name
            for name in found
            if (name.startswith("host") and "kube-root-ca" not in name) or " endpoints" in name
        ]
        assert not left, f"left: {left}"

    async def look(self, *, cached: bool = False) -> tuple[Dump, Uids]:
        """Return both clusters as they are now, and the UIDs of all objects.

        Args:
            cached: what the servers' caches have will do: an instant old, but a list that must be
                of this instant takes kine up to a second.
        """
        params = {"resourceVersion": "0"} if cached else {}
        pair, host = self.pair, self.pair.names.host_namespace
        places = [(pair.virtual, "virtual", self.namespace), (pair.host, "host", host)]
        wanted = [(*place, resource) for place in places for resource in COMPARED]
        wanted.append((pair.virtual, "virtual", "", "persistentvolumes"))
        answers = await asyncio.gather(
            *(
                where.request("GET", path_of(resource, namespace), params=params)
                for where, _, namespace, resource in wanted
            )
        )
        dump: Dump = {}
        uids: Uids = {}
        mine = self.namespace
        for (_, side, _, resource), answer in zip(wanted, answers, strict=True):
            for item in answer["items"]:
                if self._is_mine(side, item):
                    name = f"{side} {resource} {_place(item, mine)}"
                    uids[name] = item["metadata"]["uid"]
                    dump[name] = comparable(item, mine)
        return dump, uids

    def _is_mine(self, side: str, item: Object) -> bool:
        name: str = item["metadata"]["name"]
        namespace: str = item["metadata"].get("namespace", "")
        tenant = self.pair.names.tenant
        if side == "host":
            return f"-x-{self.namespace}-x-{tenant}" in name
        return self.namespace == namespace or f"{self.namespace}-{tenant}" == name

    async def reaches(
        self, wanted: Dump, *, quiet: float = 0.3, timeout: float = 30.0, note: bool = True
    ) -> None:
        """Wait until both clusters are as `wanted`, and stay so without a further write.

        Args:
            wanted: what an undisturbed life looks like now.
            quiet: seconds without a write; 0 not to look for that.
            timeout: seconds to get there; a claim that missed its volume waits for 15 s.
            note: see `agrees`.

        Raises:
            AssertionError: they don't get there, or an object was made again.
        """
        await eventually(lambda: self.agrees(wanted, cached=True, note=note), timeout=timeout)
        if quiet:
            await self.pair.settled(quiet)
            await self.agrees(wanted, cached=True, note=note)

    async def agrees(self, wanted: Dump, *, cached: bool = False, note: bool = True) -> None:
        """Check that both clusters are as `wanted` now, and note the UIDs.

        Args:
            wanted: the objects.
            cached: see `look`.
            note: whether to note the UIDs found, for the next look; else those noted before stay.

        Raises:
            AssertionError: they are not, or an object was made again since the last look.
        """
        found, uids = await self.look(cached=cached)
        assert found == wanted, difference(wanted, found)
        changed = {name for name, uid in self.uids.items() if uids.get(name, uid) != uid}
        assert not changed, f"made again: {changed}"
        if note:
            self.uids = uids

    async def well_marked(self) -> None:
        """Check that each copy carries the UID of the virtual object that there is now.

        Notes the UIDs of these objects and copies only: what the clusters' own controllers make
        for them (Endpoints, slices) may still be that of predecessors, and give way any time.
        """
        uids: Uids = {}
        for resource, name in REMADE:
            made = await self.pair.virtual.get(resource, name, self.namespace)
            copy = await self.pair.copy(resource, name, self.namespace)
            uids[f"virtual {resource} {name}"] = made["metadata"]["uid"]
            uids[f"host {resource} {_place(copy, self.namespace)}"] = copy["metadata"]["uid"]
            mark = copy["metadata"]["annotations"][OBJECT_UID]
            assert mark == made["metadata"]["uid"], f"{resource} {name}"
        self.uids = uids

    def told(self) -> str:
        """Return what the syncer wrote about the pod, to show beside a failure."""
        name = self.pair.host_name("web", self.namespace)
        own = f"/namespaces/{self.namespace}/pods/web"
        return "\n".join(
            f"{write.at:.3f} {write.verb} {write.path} {write.status} {write.body[:160]!r}"
            for write in self.pair.writes
            if own in write.path or name in write.path or name.encode() in write.body
        )

    async def note(self) -> None:
        """Note the UIDs as they are now: they must not change from here on."""
        await asyncio.sleep(0.05)  # caches lag behind the last write for a moment
        _, self.uids = await self.look(cached=True)


def claim(name: str, namespace: str) -> Object:
    """Return a claim of 1 GiB that only a volume made for it fits; see `volume`."""
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": namespace,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    return named("PersistentVolumeClaim", name, namespace, spec=spec)


def volume(name: str, storage_class: str) -> Object:
    """Return a host volume for a claim of that storage class, as an administrator makes it."""
    return named(
        "PersistentVolume",
        name,
        spec={
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/data"},
        },
    )


@asynccontextmanager
async def application(pair: BrokenPair, like: str = "") -> AsyncIterator[App]:
    """Give an application a namespace and the host a volume for it; remove both afterwards.

    The namespace's end is not waited for.

    Args:
        pair: where.
        like: a namespace's name, to have an application of another tenant under the same names.
    """
    namespace = like or f"app-{uuid.uuid4().hex[:8]}"
    disk = volume(f"{namespace}-{pair.names.tenant}", namespace)
    await pair.host.create(disk)
    await pair.virtual.create(named("Namespace", namespace))
    await eventually(lambda: pair.virtual.get("serviceaccounts", "default", namespace))
    await eventually(lambda: pair.virtual.get("configmaps", "kube-root-ca.crt", namespace))
    try:
        yield App(pair, namespace)
    finally:
        await pair.virtual.delete("namespaces", namespace)
        await pair.host.delete("persistentvolumes", disk["metadata"]["name"])


STEPS: tuple[tuple[str, Callable[[App], Awaitable[None]]], ...] = (
    ("created", App.create),
    ("changed", App.change),
    ("deleted", App.delete),
)
"""What is done to an application, in order."""


async def undisturbed(pair: BrokenPair) -> dict[str, Dump]:
    """Live a life without faults and return both clusters after each step."""
    async with application(pair) as app:
        for step, act in STEPS:
            await act(app)
            if step == "deleted":
                await eventually(app.is_gone, timeout=30.0)
            else:
                await eventually(app.runs, timeout=30.0)
                await eventually(partial(app.serves, 80 if step == "created" else 81), timeout=30.0)
            app.dumps[step] = await eventually(partial(steady, app), timeout=30.0)
        return app.dumps


async def steady(app: App) -> Dump:
    """Return both clusters once nobody, the syncer or a controller, changed them for a second."""
    before, _ = await app.look()
    await app.pair.settled(1.0)
    after, _ = await app.look()
    assert after == before, difference(before, after)
    return after


async def interrupted(
    pair: BrokenPair, reference: dict[str, Dump], after: int, answer: Answer
) -> bool:
    """Live a life whose syncer is killed after a write and started again.

    Args:
        pair: where.
        reference: an undisturbed life.
        after: number of the write.
        answer: whether the syncer got the answer to it.

    Returns:
        Whether the life had so many writes.

    Raises:
        AssertionError: it differs from the undisturbed life.
    """
    async with application(pair) as app:
        with Death(pair, after, answer) as death:
            reviving = asyncio.create_task(_revive(app, death))
            try:
                for step, act in STEPS:
                    alive = not death.killed.is_set()
                    await act(app)
                    last_or_deadly = step == "deleted" or (alive and death.killed.is_set())
                    await app.reaches(reference[step], quiet=0.3 if last_or_deadly else 0.0)
                    if reviving.done():
                        reviving.result()
                await death.over()
                if death.killed.is_set():
                    await reviving  # else the next life would begin without a syncer
            finally:
                reviving.cancel()
        return death.killed.is_set()


async def _revive(app: App, death: Death) -> None:
    """When the syncer dies, note what is there and start it again."""
    await death.killed.wait()
    await app.pair.syncer.kill()
    await app.note()
    await app.pair.syncer.start(ready=False)


def comparable(item: Object, namespace: str) -> Object:
    """Return an object without what two lives in different namespaces differ in.

    As `normalised`, and the namespace, nodes and tokens are replaced.
    """
    if "-sa-token-" in item["metadata"]["name"]:
        item = {**item, "data": dict.fromkeys(item["data"], "<token>")}
    item = {**item, "metadata": {**item["metadata"], "name": _name(item)}}
    text = orjson.dumps(normalised(item)).decode()
    for pattern, placeholder in _UNSTEADY:
        text = pattern.sub(placeholder, text)
    result: Object = orjson.loads(text.replace(namespace, PLACE))
    return result


def _place(item: Object, namespace: str) -> str:
    return _name(item).replace(namespace, PLACE)


def _name(item: Object) -> str:
    """Return an object's name; of a generated one, only what its maker chose."""
    metadata = item["metadata"]
    return str(metadata.get("generateName") or metadata["name"])


def difference(wanted: Dump, found: Dump) -> str:
    """Say in some lines where two dumps differ."""
    lines = [f"missing: {name}" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"too many: {name}" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        lines += [f"{name}{line}" for line in _differing(wanted[name], found[name])]
    return "\n".join(lines)


def _differing(wanted: object, found: object, path: str = "") -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in sorted(wanted.keys() | found.keys()):
            yield from _differing(wanted.get(key), found.get(key), f"{path} {key}")
    elif wanted != found:
        yield f"{path}: {found!r}, not {wanted!r}"
