"""What integration tests use: two real clusters, a syncer between them, and ways to wait.

    async def test_a_pod_reaches_the_host(pair, namespace):
        await pair.virtual.apply(pod("web", namespace))
        copy = await eventually(lambda: pair.copy("pods", "web", namespace))

Objects are plain dicts. A resource is named by its plural, with group and version unless it is of
the core group: `pods`, `apps/v1/deployments`. Nothing here knows how the syncer works inside, but
for the names of copies.
"""

import asyncio
import inspect
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, overload

import aiohttp
import orjson

from controlplane import ControlPlane
from controlplane.syncer import Syncer
from syncer.naming import PREFIX, Names
from syncer.objects import Key

__all__ = [
    "SYNCED",
    "Cluster",
    "Object",
    "Pair",
    "RefusedError",
    "Syncer",
    "Tenant",
    "boot_pair",
    "cluster",
    "config_map",
    "eventually",
    "gone",
    "named",
    "normalised",
    "path_of",
    "pod",
    "secret",
    "service",
]

Object = dict[str, Any]
Objects = list[Object]
_T = TypeVar("_T")
_PATCHES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}
_POLL = 0.05  # seconds
_TIMEOUT = 30.0  # seconds; many times what an idle pair needs: other workers share the cores

SYNCED = (
    "pods",
    "services",
    "configmaps",
    "secrets",
    "endpoints",
    "discovery.k8s.io/v1/endpointslices",
    "persistentvolumeclaims",
    "events",
    "networking.k8s.io/v1/ingresses",
    "networking.k8s.io/v1/networkpolicies",
    "policy/v1/poddisruptionbudgets",
    "serviceaccounts",
)
"""Namespaced resources a syncer may write, on either side."""


class RefusedError(Exception):
    """The API server said no.

    Attributes:
        status: HTTP status.
        reason: `metav1.Status.reason`, such as `AlreadyExists`.
    """

    def __init__(self, attempt: str, status: int, body: bytes) -> None:
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = {"message": body.decode(errors="replace")}
        super().__init__(f"{attempt}: {status} {answer.get('reason')}: {answer.get('message')}")
        self.status = status
        self.reason: str = answer.get("reason") or ""


@dataclass
class Cluster:
    """One of the two clusters, reached as its administrator.

    Attributes:
        plane: its processes, to break and to measure.
        api: HTTP session, paths relative to the server; for whatever has no helper here.
    """

    plane: ControlPlane
    api: aiohttp.ClientSession
    _plurals: dict[tuple[str, str], str] = field(default_factory=dict)

    async def create(self, obj: Object) -> Object:
        """Create an object and return it as stored; raises RefusedError."""
        return await self.request("POST", await self._collection(obj), body=obj)

    async def apply(self, obj: Object) -> Object:
        """Create or change an object (server-side apply, conflicts forced); raises RefusedError."""
        path = f"{await self._collection(obj)}/{obj['metadata']['name']}"
        return await self.request(
            "PATCH",
            path,
            body=obj,
            content_type="application/apply-patch+yaml",
            params={"fieldManager": "test", "force": "true"},
        )

    async def update(self, obj: Object, *, subresource: str = "") -> Object:
        """Replace an object (PUT), or its `status`; raises RefusedError."""
        path = f"{await self._collection(obj)}/{obj['metadata']['name']}"
        return await self.request("PUT", _sub(path, subresource), body=obj)

    async def patch(
        self,
        resource: str,
        name: str,
        namespace: str,
        body: Object | Objects,
        *,
        kind: str = "merge",
        subresource: str = "",
    ) -> Object:
        """Patch an object; `kind` is merge, json or strategic; raises RefusedError."""
        path = _sub(path_of(resource, namespace, name), subresource)
        return await self.request("PATCH", path, body=body, content_type=_PATCHES[kind])

    async def get(self, resource: str, name: str, namespace: str = "") -> Object:
        """Return an object; raises RefusedError (404 when there is none)."""
        return await self.request("GET", path_of(resource, namespace, name))

    async def find(self, resource: str, name: str, namespace: str = "") -> Object | None:
        """Return an object, or None when there is none; raises RefusedError for other reasons."""
        try:
            return await self.get(resource, name, namespace)
        except RefusedError as refused:
            if refused.status != 404:
                raise
            return None

    async def list(
        self, resource: str, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> Objects:
        """Return the objects of a namespace, or of all, by label and field selector."""
        params = {"labelSelector": labels, "fieldSelector": fields}
        answer = await self.request("GET", path_of(resource, namespace), params=params)
        items: Objects = answer["items"]
        return items

    async def delete(
        self, resource: str, name: str, namespace: str = "", *, grace: int | None = None
    ) -> None:
        """Ask for an object's deletion; none there is fine; raises RefusedError for other reasons.

        Args:
            resource: plural.
            name: its name.
            namespace: its namespace.
            grace: seconds given to a pod; 0 removes it at once.
        """
        options: Object = {"propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            await self.request("DELETE", path_of(resource, namespace, name), body=options)
        except RefusedError as refused:
            if refused.status != 404:
                raise

    async def events(self, namespace: str, name: str, reason: str = "") -> Objects:
        """Return the events about the object of that name, of one reason if given."""
        fields = f"involvedObject.name={name}" + (f",reason={reason}" if reason else "")
        return await self.list("events", namespace, fields=fields)

    async def dump(
        self, resources: Iterable[str], namespace: str = "", *, labels: str = ""
    ) -> dict[str, Object]:
        """Return `resource namespace/name` -> normalised object, to compare two moments or runs.

        See `normalised` for what is left out.
        """
        found = {}
        for resource in resources:
            for item in await self.list(resource, namespace, labels=labels):
                metadata = item["metadata"]
                where = f"{resource} {metadata.get('namespace', '')}/{metadata['name']}"
                found[_steady(where)] = normalised(item)
        return found

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Object | Objects | None = None,
        params: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """Make a request and return the decoded answer; raises RefusedError."""
        data = None if body is None else orjson.dumps(body)
        headers = {"Content-Type": content_type} if data is not None else None
        given = {key: value for key, value in (params or {}).items() if value}
        async with self.api.request(
            method, path, data=data, headers=headers, params=given
        ) as response:
            answer = await response.read()
            if response.status >= 300:
                raise RefusedError(f"{method} {path}", response.status, answer)
        return cast("Object", orjson.loads(answer))

    async def _collection(self, obj: Object) -> str:
        version, kind = obj["apiVersion"], obj["kind"]
        if (version, kind) not in self._plurals:
            base = f"/apis/{version}" if "/" in version else f"/api/{version}"
            for each in (await self.request("GET", base))["resources"]:
                if "/" not in each["name"]:
                    self._plurals[version, each["kind"]] = each["name"]
        plural = self._plurals[version, kind]
        resource = f"{version}/{plural}" if "/" in version else plural
        return path_of(resource, obj["metadata"].get("namespace", ""))


@asynccontextmanager
async def cluster(plane: ControlPlane) -> AsyncIterator[Cluster]:
    """Yield the cluster of a plane, its session open."""
    async with plane.api() as api:
        yield Cluster(plane, api)


@dataclass(frozen=True)
class Pair:
    """Two clusters and the syncer between them.

    Attributes:
        host: gets the copies.
        virtual: the tenant's.
        syncer: the process, ready.
        names: how this tenant's names are translated.
    """

    host: Cluster
    virtual: Cluster
    syncer: Syncer
    names: Names

    def host_name(self, name: str, namespace: str) -> str:
        """Return the name of the copy of a namespaced object."""
        return self.names.host_name(name, namespace)

    async def copy(self, resource: str, name: str, namespace: str) -> Object:
        """Return the host's copy of a virtual object; raises RefusedError (404: there is none)."""
        key = self.names.host_key(Key(namespace, name))
        return await self.host.get(resource, key.name, key.namespace)

    async def find_copy(self, resource: str, name: str, namespace: str) -> Object | None:
        """Return the host's copy of a virtual object, or None."""
        key = self.names.host_key(Key(namespace, name))
        return await self.host.find(resource, key.name, key.namespace)

    async def copies(self, resource: str, namespace: str = "") -> Objects:
        """Return the host's copies, of one virtual namespace or of all."""
        labels = f"{PREFIX}managed-by={self.names.marker}"
        if namespace:
            labels += f",{PREFIX}namespace={namespace}"
        return await self.host.list(resource, self.names.host_namespace, labels=labels)

    async def quiet(
        self, seconds: float, *, namespace: str = "", resources: Sequence[str] = SYNCED
    ) -> None:
        """Assert that no object of the two clusters is written for a time.

        Watches, so that a write which is undone is seen too.

        Args:
            seconds: how long.
            namespace: look at this virtual namespace and its copies only; else at all of them.
            resources: namespaced resources to look at.

        Raises:
            AssertionError: something was written; names each write.
        """
        labels = f"{PREFIX}namespace={namespace}" if namespace else ""
        watches = [_writes(self.virtual, each, namespace, "", seconds) for each in resources]
        watches += [
            _writes(self.host, each, self.names.host_namespace, labels, seconds)
            for each in resources
        ]
        writes = [write for each in await asyncio.gather(*watches) for write in each]
        assert not writes, "writes on a quiet pair:\n" + "\n".join(writes)


@dataclass(frozen=True)
class Tenant:
    """What `boot_pair` may be told.

    Attributes:
        name: of the virtual cluster; unique among those that share a host.
        namespace: host namespace of the copies; "" for `host-NAME`.
        flags: further flags of the syncer.
        environment: further environment variables of the syncer.
    """

    name: str
    namespace: str = ""
    flags: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def host_namespace(self) -> str:
        """The host namespace of the copies."""
        return self.namespace or f"host-{self.name}"


@asynccontextmanager
async def boot_pair(
    host: Cluster, tenant: Tenant, virtual: Cluster | None = None
) -> AsyncIterator[Pair]:
    """Boot a virtual plane (7 s) and a syncer; yield the pair once the syncer is ready.

    For tests that need flags, faults or a second tenant of their own. The virtual cluster has a
    `kube-system/kube-dns` Service, so ordinary pods run.

    Args:
        host: may be shared with others.
        tenant: name and flags.
        virtual: a cluster without a syncer, to use in place of a new plane.
    """
    async with AsyncExitStack() as stack:
        if virtual is None:
            plane = await stack.enter_async_context(ControlPlane.virtual())
            virtual = await stack.enter_async_context(cluster(plane))
        await virtual.apply(service("kube-dns", "kube-system"))
        syncer = Syncer(
            host.plane,
            virtual.plane,
            tenant=tenant.name,
            namespace=tenant.host_namespace,
            flags=tenant.flags,
            environment=dict(tenant.environment),
        )
        await stack.enter_async_context(syncer)
        yield Pair(host, virtual, syncer, Names(tenant.name, tenant.host_namespace))


# -- waiting -------------------------------------------------------------------------------------


@overload
async def eventually(
    check: Callable[[], Coroutine[Any, Any, _T]], *, timeout: float = ..., poll: float = ...
) -> _T: ...


@overload
async def eventually(check: Callable[[], _T], *, timeout: float = ..., poll: float = ...) -> _T: ...


async def eventually(
    check: Callable[[], Any], *, timeout: float = _TIMEOUT, poll: float = _POLL
) -> Any:
    """Call `check` until it passes, and return what it returned.

    Args:
        check: plain or async; fails by raising AssertionError, RefusedError, LookupError or
            ValueError (`[only] = found`); what it returns is not judged.
        timeout: seconds.
        poll: seconds between calls.

    Raises:
        Exception: the last failure, when none passed in time.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            result = check()
            return await result if inspect.isawaitable(result) else result
        except (AssertionError, RefusedError, LookupError, ValueError) as failure:
            if time.monotonic() > deadline:
                failure.add_note(f"(still so after {timeout:g} s)")
                raise
        await asyncio.sleep(poll)


async def gone(look: Callable[[], Awaitable[Object | None]], *, timeout: float = _TIMEOUT) -> None:
    """Wait until `look` (such as a `find`) returns None; raises AssertionError if it doesn't."""

    async def check() -> None:
        found = await look()
        assert found is None, f"still there: {found['metadata']}"

    await eventually(check, timeout=timeout)


async def _writes(
    where: Cluster, resource: str, namespace: str, labels: str, seconds: float
) -> list[str]:
    """Watch for `seconds` and return a line for each event."""
    path = path_of(resource, namespace)
    params = {"labelSelector": labels} if labels else {}
    version = (await where.request("GET", path, params=params))["metadata"]["resourceVersion"]
    params |= {"watch": "1", "resourceVersion": version, "timeoutSeconds": str(int(seconds) + 60)}
    seen: list[str] = []
    async with where.api.get(path, params=params, timeout=aiohttp.ClientTimeout()) as response:
        try:
            async with asyncio.timeout(seconds):
                while line := await response.content.readline(max_line_length=8 << 20):
                    event = orjson.loads(line)
                    metadata = event["object"]["metadata"]
                    name = f"{metadata.get('namespace', '')}/{metadata['name']}"
                    by = [entry["manager"] for entry in metadata.get("managedFields", ())]
                    seen.append(
                        f"{where.plane.kind}: {event['type']} {resource} {name}, writers {by}"
                    )
        except TimeoutError:
            return seen
    raise AssertionError(f"the watch of {path} ended: {seen}")


# -- objects -------------------------------------------------------------------------------------


def path_of(resource: str, namespace: str = "", name: str = "") -> str:
    """Return the API path of a resource: a collection, or an object of it."""
    group, _, plural = resource.rpartition("/")
    base = f"/apis/{group}" if group else "/api/v1"
    middle = f"/namespaces/{namespace}" if namespace else ""
    return f"{base}{middle}/{plural}" + (f"/{name}" if name else "")


def _sub(path: str, subresource: str) -> str:
    return f"{path}/{subresource}" if subresource else path


def named(kind: str, name: str, namespace: str = "", **fields: Any) -> Object:
    """Return an object; `fields` are its top-level fields, `apiVersion` v1 unless among them.

    `labels` and `annotations` go to its metadata.
    """
    metadata: Object = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    for key in ("labels", "annotations"):
        if key in fields:
            metadata[key] = fields.pop(key)
    return {"apiVersion": fields.pop("apiVersion", "v1"), "kind": kind, "metadata": metadata} | (
        fields
    )


def pod(name: str, namespace: str, *, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    """Return a pod of one nginx container; `spec` fields override its spec's."""
    container = {"name": "main", "image": "nginx"}
    return named(
        "Pod", name, namespace, labels=labels or {}, spec={"containers": [container]} | spec
    )


def secret(name: str, namespace: str, data: dict[str, str], **fields: Any) -> Object:
    """Return an Opaque secret, its data given as text."""
    return named("Secret", name, namespace, stringData=data, **fields)


def config_map(name: str, namespace: str, data: dict[str, str], **fields: Any) -> Object:
    """Return a config map."""
    return named("ConfigMap", name, namespace, data=data, **fields)


def service(name: str, namespace: str, *, port: int = 53, **spec: Any) -> Object:
    """Return a service with one TCP port and the selector `app: NAME`; `spec` overrides."""
    default = {"selector": {"app": name}, "ports": [{"name": "main", "port": port}]}
    return named("Service", name, namespace, spec=default | spec)


_UNSTEADY_METADATA = frozenset(
    {"uid", "resourceVersion", "creationTimestamp", "managedFields", "generation"}
)
_UNSTEADY = (
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<uid>"),
    (re.compile(r"\b(kube-api-access|token)-[a-z0-9]{5,8}\b"), r"\1-<random>"),
    (re.compile(r"\b\d{1,3}(\.\d{1,3}){3}\b"), "<ip>"),
    (re.compile(r"(?<=[-.])[0-9a-f]{16}\b"), "<event>"),
)


def normalised(obj: Object) -> Object:
    """Return an object without what differs between two runs that are otherwise the same.

    Left out are version, UID and the like; UIDs, times, IPs and random endings of names are
    replaced wherever they stand. For two moments of one run compare objects themselves.
    """
    metadata = {
        key: value for key, value in obj["metadata"].items() if key not in _UNSTEADY_METADATA
    }
    rest = {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")}
    return cast(
        "Object", orjson.loads(_steady(orjson.dumps(rest | {"metadata": metadata}).decode()))
    )


def _steady(text: str) -> str:
    for pattern, placeholder in _UNSTEADY:
        text = pattern.sub(placeholder, text)
    return text
