"""Row 5: the right to get nodes/proxy is no right to run anything."""

import uuid

import pytest

from tests.integration.endpoint import caller, grant
from tests.integration.harness import eventually
from tests.security.conftest import Scene
from tests.security.endpoint_wire import EXEC, SPDY, WEBSOCKET, say

_STREAMS = (
    "exec/red/web/main?command=id&output=1",
    "attach/red/web/main?output=1&input=1",
    "portForward/red/web?port=80",
    "run/red/web/main?cmd=id",
)


@pytest.mark.parametrize("by", ["proxy", "address", "path alone"])
@pytest.mark.parametrize("page", _STREAMS)
async def test_whoever_may_get_may_not_run(scene: Scene, page: str, by: str) -> None:
    """A WebSocket is a GET, but to run something is to create; the host hears nothing."""
    pair = scene.pair
    target, host = f"/{page}", f"{scene.node}.nodes.vcluster.com:10250"
    if by == "proxy":
        target, host = f"/api/v1/nodes/{scene.node}/proxy/{page}", ""
    elif by == "path alone":
        host = ""
    mark = pair.to_host.mark
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
        for headers in (EXEC, SPDY, WEBSOCKET, ()):
            answer = await say(pair, method, target, who=scene.watcher, headers=headers, host=host)
            assert answer.status in (403, 404, 405), (method, answer)
    assert not pair.to_host.since(mark)


async def test_whoever_may_create_may_run(scene: Scene) -> None:
    """What is refused above is a matter of rights."""
    pair, user = scene.pair, f"runner-{uuid.uuid4().hex[:6]}"
    rule = {"apiGroups": [""], "resources": ["nodes/proxy"], "verbs": ["create"]}
    await grant(pair.virtual, user, rule)
    target = f"/api/v1/nodes/{scene.node}/proxy/{_STREAMS[0]}"

    async def runs() -> None:
        answer = await say(pair, "GET", target, who=caller(pair, user), headers=EXEC)
        assert answer.status == 101, answer

    await eventually(runs)


async def test_rights_in_a_namespace_are_none_on_nodes(scene: Scene) -> None:
    """Everything in one namespace, nodes/proxy too, shows no node by any path with it in."""
    pair = scene.pair
    mark = pair.to_host.mark
    for path in (
        f"/api/v1/namespaces/{scene.red}/nodes/{scene.node}/proxy",
        f"/api/v1/nodes/{scene.node}/proxy",
        f"/api/v1/watch/nodes/{scene.node}/proxy",
        f"/api/v1/proxy/nodes/{scene.node}",
        f"/api/v1/watch/namespaces/{scene.red}/nodes/{scene.node}/proxy",
        f"/api/v2/nodes/{scene.node}/proxy",
        f"/api/v1/namespaces/{scene.red}/nodes/{scene.node}:10250/proxy",
    ):
        for page in ("pods", "metrics", "containerLogs/blue/web/main"):
            answer = await say(pair, "GET", f"{path}/{page}", who=scene.boss)
            assert answer.status in (403, 404), (path, answer)
        for method, headers in (("GET", EXEC), ("POST", SPDY)):
            target = f"{path}/exec/blue/web/main?command=id&output=1"
            answer = await say(pair, method, target, who=scene.boss, headers=headers)
            assert answer.status in (403, 404, 405), (path, answer)
    assert not pair.to_host.since(mark)
