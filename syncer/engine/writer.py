"""The thin place where requests of the engine leave: a slot, the gate, the request, the store.

Every answer goes into the store at once, so the next decision about the object sees it; the
store refuses answers older than what the watch has brought meanwhile. A deletion answered
``Success`` is *not* put into the store: only the watch witnesses deletions.

Deadlines: each request carries one; cancellation while waiting for a slot sends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from syncer.engine.flow import Limiter, Outcome
from syncer.engine.gate import Gate
from syncer.engine.patch import Patch
from syncer.kube.client import Client
from syncer.kube.errors import ApiError, TransportError
from syncer.kube.store import Store
from syncer.objects import Key, Object, Resource

TIMEOUT: Final = 30.0
"""Seconds for one request, the wait for a slot not counted."""


class Writer:
    """Sends the writes (and confirming reads) for one API server."""

    def __init__(
        self,
        client: Client,
        limiter: Limiter,
        gate: Gate,
        stores: Mapping[str, Store],
        *,
        wrote: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Join the parts.

        Args:
            client: the API server's client.
            limiter: its in-flight limit.
            gate: checked right before each mutating request.
            stores: stores of that side by resource full name; read when an answer arrives.
            wrote: told after each mutating request that the server answered with success.
            clock: monotonic seconds.
        """
        self._wrote = wrote
        self._client = client
        self._limiter = limiter
        self._gate = gate
        self._stores = stores
        self._clock = clock

    async def create(self, resource: Resource, obj: Object) -> Object:
        """Create an object.

        Returns:
            The object as the server stored it.

        Raises:
            ApiError, TransportError, GateClosedError.
        """
        path = resource.path(obj["metadata"].get("namespace", ""))
        return self._stored(resource, await self._send("POST", path, obj))

    async def patch(
        self, resource: Resource, key: Key, patch: Patch, subresource: str = ""
    ) -> Object:
        """Patch an object or a subresource of it.

        Returns:
            The object as the server stored it.

        Raises:
            ApiError, TransportError, GateClosedError.
        """
        path = resource.path(key.namespace, key.name, subresource)
        answer = await self._send("PATCH", path, patch.body, patch.content_type)
        return self._stored(resource, answer)

    async def post(self, resource: Resource, key: Key, subresource: str, body: Object) -> Object:
        """POST an own object to a subresource (``binding``, ``token``).

        Returns:
            The answer; it is not put into the store.

        Raises:
            ApiError, TransportError, GateClosedError.
        """
        path = resource.path(key.namespace, key.name, subresource)
        answer: Object = orjson.loads(await self._send("POST", path, body))
        return answer

    async def delete(
        self, resource: Resource, key: Key, uid: str, grace: int | None = None
    ) -> Object | None:
        """Delete exactly the object with that UID.

        Args:
            resource: its resource.
            key: its key.
            uid: precondition.
            grace: ``gracePeriodSeconds``; ``None`` leaves it to the server.

        Returns:
            The object's metadata as the server says it while it is leaving; ``None``: it is gone.

        Raises:
            ApiError, TransportError, GateClosedError; an object already gone is no error.
        """
        options: Object = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            answer = await self._send("DELETE", resource.path(key.namespace, key.name), options)
        except ApiError as error:
            if not error.not_found:
                raise
            return None
        obj = orjson.loads(answer)
        metadata: Object = obj.get("metadata", {})
        if obj.get("kind") == "Status" or "deletionTimestamp" not in metadata:
            return None
        if metadata.get("resourceVersion"):  # none: somebody else's deletion has just ended it
            self._keep(resource, obj)
        return metadata

    async def get(self, resource: Resource, key: Key) -> Object | None:
        """Read an object live.

        Returns:
            The object, or ``None`` when the server says it isn't there.

        Raises:
            ApiError, TransportError.
        """
        try:
            answer = await self._send("GET", resource.path(key.namespace, key.name))
        except ApiError as error:
            if error.not_found:
                return None
            raise
        obj: Object = orjson.loads(answer)
        return obj

    def server_time(self) -> float | None:
        """See :meth:`Client.server_time`."""
        return self._client.server_time()

    def _stored(self, resource: Resource, answer: bytes) -> Object:
        obj: Object = orjson.loads(answer)
        self._keep(resource, obj)
        return obj

    def _keep(self, resource: Resource, obj: Object) -> None:
        if (store := self._stores.get(resource.full_name)) is not None:
            store.apply(obj, own=True)

    async def _send(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> bytes:
        await self._limiter.acquire()
        started = self._clock()
        outcome, retry_after = Outcome.UNSENT, None
        try:
            writes = method != "GET"
            answer = await self._client.request(
                method,
                path,
                body=body,
                content_type=content_type,
                timeout=TIMEOUT,
                check=self._gate.check if writes else None,
            )
            outcome = Outcome.OK
            if writes and self._wrote is not None:
                self._wrote()
            return answer
        except ApiError as error:
            outcome, retry_after = _outcome(error), error.retry_after
            raise
        except TransportError:
            outcome = Outcome.FAILED
            raise
        finally:
            self._limiter.release(outcome, self._clock() - started, retry_after)


def _outcome(error: ApiError) -> Outcome:
    if error.throttled:
        return Outcome.THROTTLED
    return Outcome.FAILED if error.server_error else Outcome.REFUSED
