"""Row 2: what answers behind the endpoint leads nobody elsewhere by a redirect.

(CVE-2020-8559, CVE-2018-1002102, CVE-2022-3172.)
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web

from tests.integration.aggregated import aggregated, service_for
from tests.integration.endpoint import Caller
from tests.integration.harness import eventually
from tests.security.conftest import Scene
from tests.security.endpoint_wire import (
    METADATA,
    WEBSOCKET,
    Backend,
    Seen,
    Sentinel,
    kubelet,
    say,
)

WHERE = pytest.mark.parametrize("where", ["loopback", "metadata"])


@dataclass(frozen=True)
class Lure:
    """Where a server wants to lead its callers.

    Attributes:
        to: URL that nobody may ask for.
    """

    to: str

    def __call__(self, request: web.BaseRequest) -> web.Response:
        """Redirect, with the status that the path ends in or 302; but answer an API's discovery."""
        first, _, last = request.path.rpartition("/")
        if first.startswith("/apis/") and last == "v1":
            answer = {"kind": "APIResourceList", "apiVersion": "v1", "resources": []}
            return web.json_response(answer | {"groupVersion": request.path.removeprefix("/apis/")})
        if request.path.startswith("/openapi/"):
            return web.Response(status=404)
        status = int(last) if last.isdigit() else 302
        return web.Response(status=status, headers={"Location": self.to}, text="moved")


@asynccontextmanager
async def _lure(scene: Scene, where: str) -> AsyncIterator[Lure]:
    """Yield a redirect to where nobody may go; see that neither API server, nor we, went there."""
    planes = (scene.pair.host.plane, scene.pair.virtual.plane)
    before = [len(plane.egress.dials) for plane in planes]  # ports are used more than once
    async with Sentinel().listening() as sentinel:
        to = {"loopback": sentinel.url, "metadata": f"http://{METADATA}/latest/"}[where]
        yield Lure(to)
        await asyncio.sleep(0.1)
        for plane, count in zip(planes, before, strict=True):
            targets = [dial.target for dial in plane.egress.dials[count:]]
            assert not [each for each in targets if METADATA in each]
            assert not [each for each in targets if each.endswith(f":{sentinel.port}")]


def _is_told_nothing(seen: list[Seen]) -> None:
    """See that a server heard nothing by which its caller, or the syncer, could be taken."""
    assert seen
    for request in seen:
        names = {name.lower().replace("_", "-") for name, _ in request.headers}
        assert "authorization" not in names
        assert not [name for name in names if name.startswith(("impersonate-", "x-remote-"))]


@WHERE
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_workloads_redirect_is_its_callers_to_follow(
    scene: Scene, status: int, where: str
) -> None:
    """Through pods/proxy and services/proxy, whatever the method: passed on, never followed."""
    pair = scene.pair
    ip = (await pair.virtual.get("pods", "web", scene.red))["status"]["podIP"]
    base = f"/api/v1/namespaces/{scene.red}"
    spoofed = (("Cookie", "own=1"), ("X-Remote-User", "admin"), ("X_Remote_User", "admin"))
    async with _lure(scene, where) as lure, Backend(lure).listening() as server:

        async def moves(target: str, who: Caller) -> None:
            answer = await say(pair, "GET", target, who=who, headers=spoofed)
            assert (answer.status, answer.header("location")) == (status, lure.to), answer

        with pair.host.plane.egress.route(ip, ("127.0.0.1", server.port)):
            for what in ("pods/web:80", "pods/http:web:80", "services/web:80"):
                for who in (scene.robot, scene.admin):
                    await eventually(_with(moves, f"{base}/{what}/proxy/{status}", who))
            target = f"{base}/pods/web:80/proxy/{status}"
            posted = await say(pair, "POST", target, who=scene.admin, body=b"x" * 100)
            assert (posted.status, posted.header("location")) == (status, lure.to)
            upgraded = await say(pair, "GET", target, who=scene.robot, headers=WEBSOCKET)
            assert upgraded.status != 101
        _is_told_nothing(server.seen)
        assert scene.robot.token not in str(server.seen)


def _with(check: Callable[[str, Caller], object], target: str, who: Caller) -> Callable[[], object]:
    return lambda: check(target, who)


@WHERE
async def test_an_aggregated_api_leads_nowhere(scene: Scene, where: str) -> None:
    """An API of the tenant's own that redirects is not followed, by us or by its API server."""
    pair = scene.pair
    name = f"moved-{uuid.uuid4().hex[:6]}"
    keys = pair.virtual.plane.pki.server(f"{name}.{scene.red}.svc")
    made = await service_for(pair, name, scene.red)
    async with (
        _lure(scene, where) as lure,
        Backend(lure).listening(keys) as server,
        aggregated(pair.virtual, made, server.port) as path,
    ):

        async def moves(method: str, _who: Caller) -> None:
            body = b"{}" if method == "POST" else b""
            target = f"{path}/things"
            answer = await say(pair, method, target, who=scene.admin, body=body)
            assert answer.status in (302, 502), answer  # passed on, or refused by its API server
            assert [each for each in server.seen if each.target == target]

        for method in ("GET", "POST"):
            await eventually(_with(moves, method, scene.admin))


@WHERE
async def test_a_kubelet_leads_nowhere(scene: Scene, addresses: Iterator[str], where: str) -> None:
    """A host node's kubelet that redirects is an error; where to is told to nobody."""
    pair = scene.pair
    async with (
        _lure(scene, where) as lure,
        kubelet(pair, scene.red, next(addresses), lure) as (node, server),
    ):
        for page in ("metrics", "metrics/cadvisor", "metrics/resource", "stats/summary"):
            target = f"/api/v1/nodes/{node}/proxy/{page}"
            answer = await say(pair, "GET", target, who=scene.admin)
            assert answer.status == 503, answer
            assert not answer.header("location")
            assert lure.to not in answer.body.decode()
        assert len(server.seen) == 4
