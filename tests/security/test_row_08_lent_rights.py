"""Row 8: the syncer's rights on the host serve nobody who lacks them in the virtual cluster."""

import uuid
from urllib.parse import quote

import pytest

from tests.integration.endpoint import Caller, caller, grant
from tests.integration.harness import Object, Pair, eventually
from tests.security.conftest import Scene
from tests.security.endpoint_wire import EXEC, SPDY, WEBSOCKET, say

_EVERYTHING = (
    ("GET", "log", ()),
    ("GET", "exec?command=id&stdout=1", EXEC),
    ("POST", "exec?command=id&stdout=1", SPDY),
    ("GET", "attach?stdout=1", EXEC),
    ("GET", "portforward?ports=80", WEBSOCKET),
    ("POST", "portforward?ports=80", SPDY),
    ("GET", "proxy/", ()),
    ("POST", "proxy/", ()),
)


async def test_each_subresource_is_a_right_of_its_own(scene: Scene) -> None:
    """Everything on pods, services and nodes but their subresources opens none of them."""
    pair, user = scene.pair, f"keeper-{uuid.uuid4().hex[:6]}"
    resources = ["pods", "services", "nodes", "pods/status", "pods/ephemeralcontainers"]
    await grant(pair.virtual, user, {"apiGroups": [""], "resources": resources, "verbs": ["*"]})
    who = caller(pair, user)

    async def may() -> None:
        assert (await say(pair, "GET", scene.web, who=who)).status == 200

    await eventually(may)
    mark = pair.to_host.mark
    base = f"/api/v1/namespaces/{scene.red}"
    for method, what, headers in _EVERYTHING:
        targets = [f"{scene.web}/{what}"]
        if what == "proxy/":
            targets += [f"{base}/services/web:80/proxy/", f"/api/v1/nodes/{scene.node}/proxy/pods"]
        for target in targets:
            answer = await say(pair, method, target, who=who, headers=headers)
            assert answer.status == 403, (target, answer)
    assert not pair.to_host.since(mark)


@pytest.mark.parametrize("kind", ["reader", "robot"])
async def test_who_may_read_everything_can_not_run_anything(scene: Scene, kind: str) -> None:
    """With get, list and watch on all there is: logs and pages, but no exec by any way."""
    pair, mark = scene.pair, scene.pair.to_host.mark
    who: Caller = {"reader": scene.reader, "robot": scene.robot}[kind]
    for what in ("exec?command=id&stdout=1", "attach?stdout=1&stdin=1", "portforward?ports=80"):
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"):
            for headers in (EXEC, SPDY, WEBSOCKET, ()):
                for path in (
                    scene.web,
                    scene.web.replace("/api/v1/", "/api/v1/watch/"),
                    scene.web.replace("/api/v1/", "/api/v1/proxy/"),
                ):
                    target = f"{path}/{what}"
                    answer = await say(pair, method, target, who=who, headers=headers)
                    assert answer.status in (403, 404, 405), (method, target, answer)
    for path in ("pods/web:80", "services/web:80"):
        for way in ("", "watch/"):
            target = f"/api/v1/{way}namespaces/{scene.red}/{path}/proxy/"
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                answer = await say(pair, method, target, who=who)
                assert answer.status in (403, 404, 405), (method, target, answer)
    assert not pair.to_host.since(mark)
    assert (await say(pair, "GET", f"{scene.web}/log", who=who)).status == 200


async def test_logs_of_others_are_out_of_reach(scene: Scene, neighbour: Pair, foreign: str) -> None:
    """Neither reader nor administrator reads another's pod by any spelling of its name."""
    pair, home = scene.pair, scene.pair.names.host_namespace
    theirs, copy = neighbour.host_name("theirs", "red"), pair.host_name("web", "red")
    blue = pair.host_name("web", "blue")
    places = [
        (namespace, name)
        for namespace in ("red", home, "kube-system", "default", neighbour.names.tenant)
        for name in (theirs, foreign, copy, blue, "theirs", neighbour.host_name("web", "red"))
    ]
    spelled = [f"/api/v1/namespaces/{namespace}/pods/{name}" for namespace, name in places]
    spelled += [
        f"/api/v1/namespaces/red/pods/{name}"
        for name in (
            f"..%2f..%2f{home}%2fpods%2f{foreign}",
            f"web%2f..%2f{foreign}",
            f"{home}/pods/{foreign}",
            f"{home}%2f{foreign}",
            f"{home}:{foreign}",
            foreign.upper(),
            f"{foreign}.",
            f"{foreign}%00",
            f"%{ord(foreign[0]):x}{foreign[1:]}",
            f"web;{foreign}",
            f"web,{foreign}",
            quote(theirs, safe="").replace("-", "%2d"),
            f"{theirs}%20",
            "web%0a",
            "*",
            "%2a",
        )
    ]
    mark = pair.to_host.mark
    for path in spelled:
        for who in (scene.admin, scene.reader):
            for method, what, headers in _EVERYTHING:
                answer = await say(pair, method, f"{path}/{what}", who=who, headers=headers)
                allowed = (400, 403, 404, 405)
                assert answer.status in allowed, (path, what, answer)
                assert not pair.leaks(answer.body, path)
    assert not pair.to_host.since(mark)


async def test_a_right_in_one_namespace_is_none_in_another(scene: Scene) -> None:
    """Whoever may do everything in one namespace reaches no pod of the next."""
    pair, mark = scene.pair, scene.pair.to_host.mark
    for path in (
        "/api/v1/namespaces/blue/pods/web",
        "/api/v1/namespaces/red/../blue/pods/web",
        "/api/v1/namespaces/red/pods/../../blue/pods/web",
        "/api/v1/namespaces/blue%2fpods%2fweb",
        "/api/v1/pods/web",
        "/api/v1/watch/namespaces/blue/pods/web",
    ):
        for method, what, headers in _EVERYTHING:
            answer = await say(pair, method, f"{path}/{what}", who=scene.boss, headers=headers)
            assert answer.status in (400, 403, 404), (path, answer)
    assert not pair.to_host.since(mark)


async def test_a_right_by_name_is_for_that_name(scene: Scene) -> None:
    """A right to one pod's subresource opens that pod by that name, and no other."""
    pair, user = scene.pair, f"one-{uuid.uuid4().hex[:6]}"
    rule: Object = {
        "apiGroups": [""],
        "resources": ["pods/exec", "pods/log"],
        "resourceNames": ["web"],
        "verbs": ["create", "get"],
    }
    await grant(pair.virtual, user, rule, namespace="red")
    who = caller(pair, user)

    async def may() -> None:
        answer = await say(pair, "GET", f"{scene.web}/log", who=who)
        assert answer.status == 200, answer

    await eventually(may)
    mark = pair.to_host.mark
    for name in ("waiting", "web:80", "https:web:", "web%20", "web."):
        path = f"/api/v1/namespaces/red/pods/{name}"
        for method, what, headers in _EVERYTHING:
            answer = await say(pair, method, f"{path}/{what}", who=who, headers=headers)
            assert answer.status in (400, 403, 404), (name, what, answer)
    assert not pair.to_host.since(mark)
