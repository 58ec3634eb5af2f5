"""What the answer to a deletion means, byte for byte as servers give it."""

from __future__ import annotations

import orjson
import pytest

from syncer.engine.flow import Limiter
from syncer.engine.gate import Gate
from syncer.engine.writer import Writer
from syncer.kube.client import Client
from syncer.kube.store import Store
from syncer.objects import Key, Object, Resource
from tests.unit.proxy_wire import End, backend

PODS = Resource("", "v1", "pods", "Pod")
LEAVING = {"name": "b", "namespace": "a", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}


def pod(**metadata: str) -> Object:
    """Return a pod as a server tells of it."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}}


@pytest.mark.parametrize(
    ("status", "body", "leaves", "kept"),
    [
        pytest.param(200, pod(**LEAVING, resourceVersion="7"), True, True, id="it is leaving"),
        pytest.param(200, pod(**LEAVING), True, False, id="somebody else's deletion ended it"),
        pytest.param(200, pod(name="b", namespace="a", uid="u"), False, False, id="it is gone"),
        pytest.param(200, {"kind": "Status", "status": "Success"}, False, False, id="a status"),
        pytest.param(404, {"kind": "Status", "reason": "NotFound"}, False, False, id="it was gone"),
    ],
)
async def test_what_a_deletion_says(status: int, body: Object, *, leaves: bool, kept: bool) -> None:
    """An object that says no version any more is nothing to keep, and no error."""
    answer = orjson.dumps(body)

    async def script(end: End) -> None:
        await end.body(await end.head())
        await end.say(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(answer)))
        await end.say(answer)
        await end.gone()

    store = Store({}, lambda _change: None)
    async with backend(script) as server:
        client = Client(server.config)
        writer = Writer(client, Limiter(), Gate(), {"pods": store})
        left = await writer.delete(PODS, Key("a", "b"), "u")
        await client.close()
    assert left == (body["metadata"] if leaves else None)
    assert (Key("a", "b") in store) is kept
