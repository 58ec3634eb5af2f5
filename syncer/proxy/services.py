"""Creating a Service: the host is asked first, so that its refusal is what the caller reads.

A request to create a Service is *rehearsed* on the virtual API server, as its caller and with
``dryRun=All``: who may do it, what is valid, what is defaulted and what admission says is decided
there, and gives the Service as it would be. Only then the host hears of it, in one of two ways:

* the copy itself is made, *reserved* for the Service to come (:func:`syncer.ownership.reserve`),
  where the host's cluster IP and node ports can be put into the caller's request, or there are none
  to agree on: the Service is then born with those that its copy has;
* else (server-side apply, where the address would become the applier's own; PUT; protobuf, YAML)
  the host is asked by a dry run, and the engine makes the copy afterwards, as it always does.

At last the caller's own request goes to the virtual API server and its answer is the answer.

Invariants:
* nothing is asked of the host for a caller whom the virtual API server refuses;
* trouble with the host (no answer, 5xx, too many requests, no rights) never refuses a Service;
* a copy made here for a Service that was then refused is deleted, unless the engine has given it
  to another Service by then; where the outcome is unknown it stays, reserved for two minutes;
* from the first byte to the host on, nothing depends on the caller staying.

What it never does: make a copy that isn't marked, change one, or delete one that it didn't make.

Source: vcluster v0.16.4 ``pkg/server/filters/service.go``, which makes the copy before it knows
whether the caller may have the Service; KEP-576 (dry run).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
import structlog

from syncer import ownership
from syncer.http1.client import Reply
from syncer.http1.head import Header
from syncer.http1.server import Answer
from syncer.kube.client import Client
from syncer.kube.errors import ApiError, TransportError
from syncer.naming import Names
from syncer.objects import Key, Object, key_of
from syncer.proxy.call import Call
from syncer.proxy.refusal import RefusalError, in_tenants_words
from syncer.proxy.request import RequestInfo
from syncer.proxy.upstream import MAX_OBJECT, Upstream, answer_headers, read_body, relay
from syncer.proxy.virtual import ToVirtual
from syncer.types import Context, Kind

HOST_SECONDS: Final = 5.0
"""How long the host may take for one answer before the caller is no longer kept waiting for it."""

_MAX_ANSWER: Final = 2 * MAX_OBJECT
_TRIES: Final = 3
_DRY_RUN: Final = "dryRun=All"
_NO_ADDRESS: Final = "None"
_NEGOTIATED: Final = frozenset({"accept", "accept-encoding"})
_APPLY: Final = "application/apply-patch+"
_JSON: Final = "application/json"
_PASSING: Final = frozenset({401, 404, 408, 409, 429})

log: structlog.stdlib.BoundLogger = structlog.get_logger("proxy")


_Creation = Coroutine[Any, Any, Reply]


class _ClosedError(Exception):
    """The syncer must not write now; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Copying:
    """How the syncer copies Services.

    Attributes:
        kind: of services.
        context: gives what the kind looks at besides a virtual Service.
        owner: gives the owner reference of copies, or ``None``.
        may_write: says whether copies may be made now.
        made: told of each copy, as the host has it.
    """

    kind: Kind
    context: Callable[[Object], Context]
    owner: Callable[[], Object | None]
    may_write: Callable[[], bool]
    made: Callable[[Object], None]


# -- what a request means ------------------------------------------------------------------------


def may_create(info: RequestInfo, content_type: str) -> bool:
    """Say whether a request of the route may create a Service that the host should hear of first.

    Args:
        info: of :attr:`syncer.proxy.routes.Route.SERVICE_CREATE`.
        content_type: of its body; ``""`` for none.
    """
    if any(name == "dryRun" for name, _ in info.parameters()):
        return False
    if info.verb == "patch":
        return bool(info.name) and content_type.lower().startswith(_APPLY)
    return info.verb == "create" or (info.verb == "update" and bool(info.name))


@dataclass(frozen=True, slots=True)
class Draft:
    """A Service that is to be created.

    Attributes:
        virtual: as the virtual server would store it, without a cluster IP that it chose itself.
        document: the request's body, where one can put something into it.
        reserve: whether the copy is made now; else the host is asked by a dry run.
    """

    virtual: Object
    document: Object | None
    reserve: bool

    @property
    def key(self) -> Key:
        """Its key in the virtual cluster."""
        return key_of(self.virtual)

    def bodies(self, body: bytes, born: Object) -> Iterator[bytes]:
        """Give what to send for it, in order of preference: a 422 asks for the next.

        Args:
            body: the request's own.
            born: spec that it should be born with, as far as that is known.
        """
        if self.document is None or not self.reserve:
            yield body
            return
        named = self.document
        metadata = named.get("metadata") or {}
        if not metadata.get("name"):
            named = {**named, "metadata": {**metadata, "name": self.key.name}}
        spec = named.get("spec") or {}
        if (completed := _completed(spec, born)) != spec:
            yield orjson.dumps({**named, "spec": completed})
        yield body if named is self.document else orjson.dumps(named)


def _completed(spec: Object, born: Object) -> Object:
    """Put the address and the node ports of a Service into a spec that leaves them open."""
    result = dict(spec)
    if (address := _address(born)) and not (spec.get("clusterIP") or spec.get("clusterIPs")):
        result["clusterIP"] = address
    ports, given = spec.get("ports") or [], born.get("ports") or []
    if len(ports) == len(given) and any("nodePort" in port for port in given):
        result["ports"] = [
            {**port, "nodePort": other["nodePort"]}
            if "nodePort" in other and not port.get("nodePort")
            else port
            for port, other in zip(ports, given, strict=True)
        ]
    return result


def _address(spec: Object) -> str:
    address: str = spec.get("clusterIP", "")
    return "" if address == _NO_ADDRESS else address


def draft_of(info: RequestInfo, content_type: str, body: bytes, answer: bytes) -> Draft | None:
    """Read what came of a rehearsal.

    Args:
        info: the request.
        content_type: of its body.
        body: its body.
        answer: the Service that the dry run gave, as JSON.

    Returns:
        ``None`` when that is no Service of the request's.
    """
    virtual = _decoded(answer)
    if virtual is None or virtual.get("kind") != "Service":
        return None
    key = key_of(virtual)
    if key.namespace != info.namespace or info.name not in ("", key.name):
        return None
    spec = virtual["spec"]
    settled = spec.get("type") == "ExternalName" or spec.get("clusterIP") == _NO_ADDRESS
    if not settled and not _was_asked(virtual):
        spec.pop("clusterIP", None)
        spec.pop("clusterIPs", None)
    plain = content_type.partition(";")[0].strip().lower() in ("", _JSON)
    document = _decoded(body) if plain and info.verb == "create" else None
    generated = bool(virtual["metadata"].get("generateName"))
    return Draft(virtual, document, document is not None or (settled and not generated))


def _was_asked(virtual: Object) -> bool:
    """Say whether the cluster IP is the caller's: the server's own choice is nobody's field."""
    for entry in virtual["metadata"].get("managedFields") or ():
        fields = (entry.get("fieldsV1") or {}).get("f:spec") or {}
        if "f:clusterIP" in fields or "f:clusterIPs" in fields:
            return True
    return False


def _decoded(body: bytes) -> Object | None:
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return decoded if isinstance(decoded, dict) else None


def was_refused(status: int) -> bool:
    """Say whether the virtual API server's answer to a creation means that nothing was created.

    After a failure of the server's own, and where something of that name is there, the Service may
    be: with the address that its copy has.

    Args:
        status: HTTP status of the answer.
    """
    return 400 <= status < 500 and status != 409


# -- what the host's answer means ----------------------------------------------------------------


def is_refusal(error: ApiError) -> bool:
    """Say whether the host will not have this very Service: by policy, quota or validation.

    Other answers are troubles of the host or of the syncer with it, which are not the caller's.

    Args:
        error: the host's answer to the creation of a copy.
    """
    if error.server_error or error.status < 400 or error.status in _PASSING:
        return False
    causes = error.details.get("causes") or ()
    if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
        return False
    if error.forbidden and 'cannot create resource "services"' in error.message:
        return False  # the syncer's own rights
    return "does not support dry run" not in error.message  # a webhook that wasn't asked at all


def _taken(key: Key, owner: Key | None) -> RefusalError:
    """Say that the host has something else of the copy's name."""
    if owner is None:
        why = "the host has a service of its copy's name that is not this cluster's"
    else:
        why = f"its copy on the host would have the name of the copy of {owner}"
    return RefusalError(
        409,
        f'services "{key.name}" already exists: {why}; choose another name',
        reason="AlreadyExists",
        details={"name": key.name, "kind": "services"},
    )


# -- the steps -----------------------------------------------------------------------------------


class _Request(NamedTuple):
    """What is sent to the virtual API server for a caller."""

    info: RequestInfo
    headers: list[Header]
    admin: bool
    body: bytes


class _Copy(NamedTuple):
    """The copy that a Service will have.

    Attributes:
        host: as the host has it; ``None``: there is none yet.
        mine: whether this request made it.
        born: spec that the Service should be born with.
    """

    host: Object | None = None
    mine: bool = False
    born: Object | None = None


class ServiceCreate:
    """Creates Services, the host being asked first."""

    def __init__(
        self,
        upstream: Upstream,
        passed: ToVirtual,
        host: Client,
        names: Names,
        copying: Copying,
        exists: Callable[[Key], bool],
    ) -> None:
        """Make it.

        Args:
            upstream: the virtual API server.
            passed: passes requests on to it unchanged.
            host: the host API server, as the syncer.
            names: the tenant's names.
            copying: how Services are copied.
            exists: says whether a virtual Service is known to be there.
        """
        self._upstream = upstream
        self._passed = passed
        self._host = host
        self._names = names
        self._copying = copying
        self._exists = exists
        self._under_way: set[asyncio.Task[Reply]] = set()

    async def __call__(self, call: Call) -> Answer:
        """Answer a request of :attr:`syncer.proxy.routes.Route.SERVICE_CREATE`.

        Cancelled, which happens when the caller goes away, what was begun on the host goes on.

        Raises:
            RefusalError: the host refuses, or the virtual API server can't be reached, or the
                caller may not impersonate whom they want.
            ConnectionError: one of both ends broke off.
        """
        info, content_type = call.info, call.header("content-type")
        passes = not self._copying.may_write() or not may_create(info, content_type)
        passes = passes or (call.request.length or 0) > MAX_OBJECT
        if passes or (info.name and self._exists(Key(info.namespace, info.name))):
            return await self._passed(call)
        headers, admin = await self._passed.headers(call)
        request = _Request(info, headers, admin, await read_body(call.request, MAX_OBJECT))
        answer = await self._rehearse(request)
        draft = draft_of(info, content_type, request.body, answer) if answer else None
        if draft is None:
            response = await self._send(request, request.body)
        else:
            response = await self._kept(self._create(request, draft))
        return await relay(call.request, response, answer_headers(response))

    async def close(self) -> None:
        """End what is still under way for callers who left; the engine goes on from there."""
        tasks = tuple(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _kept(self, creation: _Creation) -> Reply:
        """Wait for a creation, which outlives this wait."""
        task: asyncio.Task[Reply] = asyncio.create_task(creation)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_let_go)
            raise

    async def _rehearse(self, request: _Request) -> bytes | None:
        """Ask the virtual API server what would come of a request.

        Returns:
            The Service that would be created; ``None``: none would, or the answer is too long.

        Raises:
            RefusalError: the server can't be reached.
        """
        info = request.info
        headers = [pair for pair in request.headers if pair[0].lower() not in _NEGOTIATED]
        response = await self._upstream.send(
            info,
            [*headers, ("Accept", _JSON)],
            body=request.body,
            target=f"{info.target}{'&' if info.query else '?'}{_DRY_RUN}",
            admin=request.admin,
        )
        try:
            return await _whole(response) if response.status == 201 else None
        except ConnectionError as error:
            raise self._upstream.unreachable() from error
        finally:
            response.close()

    async def _create(self, request: _Request, draft: Draft) -> Reply:
        """Create the Service, its copy first.

        Raises:
            RefusalError: the host refuses, or the virtual API server can't be reached.
        """
        copy = await self._ask_host(draft)
        first, *others = draft.bodies(request.body, copy.born or {})
        response = await self._send(request, first)
        for body in others:
            if response.status != 422:
                break
            response.close()  # the virtual cluster can't have that address or those ports
            response = await self._send(request, body)
        if copy.mine and copy.host is not None and was_refused(response.status):
            await self._take_back(copy.host)
        return response

    async def _send(self, request: _Request, body: bytes) -> Reply:
        return await self._upstream.send(
            request.info, request.headers, body=body, admin=request.admin
        )

    # -- on the host ---------------------------------------------------------------------------

    async def _ask_host(self, draft: Draft) -> _Copy:
        """Make the copy, or ask whether it could be made.

        Raises:
            RefusalError: it can't.
        """
        ctx = self._copying.context(draft.virtual)
        to_host = self._copying.kind.to_host
        wanted = to_host(draft.virtual, ctx) if to_host is not None else None
        if not isinstance(wanted, dict):
            return _Copy()  # none is to be made, or not yet
        ownership.reserve(wanted, draft.key, self._names, self._copying.owner())
        try:
            copy = await self._post(wanted, ctx, dry=not draft.reserve)
        except ApiError as error:
            if error.already_exists:
                return await self._in_the_way(draft, ctx)
            if is_refusal(error):
                status = {
                    "message": error.message,
                    "reason": error.reason,
                    "details": {"kind": "services", **error.details, "name": draft.key.name},
                }
                raise in_tenants_words(status, error.status, draft.key, self._names) from error
            return _not_asked(draft, error)
        except (TransportError, _ClosedError) as error:
            return _not_asked(draft, error)
        if not draft.reserve:
            return _Copy()
        self._copying.made(copy)
        return _Copy(copy, mine=True, born=self._born(draft, copy, ctx))

    async def _post(self, wanted: Object, ctx: Context, *, dry: bool) -> Object:
        """Create a copy; without the cluster IP that was asked for, if that is what is refused."""
        kind = self._copying.kind
        params = {"dryRun": "All"} if dry else None
        path = kind.resource.path(self._names.host_namespace)
        try:
            return await self._ask("POST", path, wanted, params)
        except ApiError as error:
            refused = kind.refused if not error.already_exists else None
            second = refused(wanted, error.message, ctx) if refused is not None else None
            if second is None:
                raise
        return await self._ask("POST", path, second, params)

    def _born(self, draft: Draft, copy: Object, ctx: Context) -> Object:
        """Give the spec of the Service as the engine would make it to agree with its copy."""
        spec, theirs = draft.virtual["spec"], copy["spec"]
        if not (address := _address(theirs)):
            return {}
        to_virtual = self._copying.kind.to_virtual
        if to_virtual is None or spec.get("type") != theirs.get("type"):
            return {"clusterIP": address}
        virtual = {**draft.virtual, "spec": {**spec, "clusterIP": address}}
        answer = to_virtual(virtual, copy, ctx)
        born: Object = answer["spec"] if isinstance(answer, dict) else {}
        return born

    async def _in_the_way(self, draft: Draft, ctx: Context) -> _Copy:
        """Look at what has the copy's name: a copy left there is the one that there will be.

        Raises:
            RefusalError: it is something else.
        """
        at = self._names.host_key(draft.key)
        try:
            live = await self._ask("GET", self._path(at))
        except (ApiError, TransportError, _ClosedError) as error:
            return _not_asked(draft, error)
        owner = ownership.virtual_key(live, self._names)
        if owner != draft.key:
            raise _taken(draft.key, owner)
        if "deletionTimestamp" in live["metadata"]:
            return _Copy()
        return _Copy(live, born=self._born(draft, live, ctx))

    async def _take_back(self, made: Object) -> None:
        """Delete a copy whose Service was refused, as long as it is nobody else's.

        Failing that, it goes when its reservation ends.
        """
        metadata = made["metadata"]
        uid, path = metadata["uid"], self._path(key_of(made))
        for _ in range(_TRIES):
            version = metadata["resourceVersion"]
            options = {"preconditions": {"uid": uid, "resourceVersion": version}}
            try:
                await self._ask("DELETE", path, {**options, "propagationPolicy": "Background"})
                return
            except (ApiError, TransportError, _ClosedError) as error:
                if not (isinstance(error, ApiError) and error.conflict):
                    log.info("reserved copy stays for now", reason=str(error))
                    return
            try:
                live = await self._ask("GET", path)
            except (ApiError, TransportError, _ClosedError):
                return
            metadata = live["metadata"]
            if metadata["uid"] != uid or ownership.virtual_uid(live) is not None:
                return

    def _path(self, key: Key) -> str:
        return self._copying.kind.resource.path(key.namespace, key.name)

    async def _ask(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Object:
        answer: Object = orjson.loads(
            await self._host.request(
                method, path, params=params, body=body, timeout=HOST_SECONDS, check=self._check
            )
        )
        return answer

    def _check(self) -> None:
        if not self._copying.may_write():
            raise _ClosedError("the syncer must not write now")


def _not_asked(draft: Draft, error: Exception) -> _Copy:
    """Go on without the host."""
    log.info("service created without the host", service=str(draft.key), reason=str(error))
    return _Copy()


async def _whole(response: Reply) -> bytes | None:
    body = bytearray()
    while piece := await response.body.read():
        body += piece
        if len(body) > _MAX_ANSWER:
            return None
    return bytes(body)


def _let_go(task: asyncio.Task[Reply]) -> None:
    """Drop an answer that nobody waits for."""
    if task.cancelled():
        return
    if (error := task.exception()) is None:
        task.result().close()
    elif not isinstance(error, RefusalError):
        log.error("service creation failed", reason=repr(error))
