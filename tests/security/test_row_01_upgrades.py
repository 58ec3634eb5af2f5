"""Row 1: what follows a refused upgrade is no request (CVE-2018-1002105)."""

import asyncio

import pytest

from tests.security.conftest import Scene
from tests.security.endpoint_wire import EXEC, SPDY, WEBSOCKET, connected, head

_SECRET = "/api/v1/namespaces/kube-system/secrets?smuggled=yes"


def _refused_by(scene: Scene, whom: str) -> tuple[str, str, bool]:
    """Return method, target and whether the administrator asks, of an upgrade that is refused."""
    return {
        # Watching by WebSocket is the virtual API server's to allow.
        "the virtual API server": (
            "GET",
            f"/api/v1/namespaces/{scene.red}/configmaps?watch=1",
            False,
        ),
        # The endpoint lets it pass; the host says that the pod is on no node.
        "the host": ("GET", f"{scene.waiting}/exec?command=id&stdout=1", True),
        "the endpoint": ("GET", f"{scene.web}/exec?command=id&stdout=1", False),
    }[whom]


@pytest.mark.parametrize("protocol", [WEBSOCKET, EXEC, SPDY], ids=["plain", "exec", "spdy"])
@pytest.mark.parametrize("when", ["at once", "right behind"])
@pytest.mark.parametrize("whom", ["the virtual API server", "the host", "the endpoint"])
async def test_what_follows_a_refused_upgrade_is_no_request(
    scene: Scene, whom: str, when: str, protocol: tuple[tuple[str, str], ...]
) -> None:
    """One answer, the connection closed, and no server sees a byte of the second request."""
    pair = scene.pair
    method, target, by_admin = _refused_by(scene, whom)
    who = scene.admin if by_admin else scene.stranger
    first = head(pair, method, target, who=who, headers=protocol)
    second = head(pair, "GET", _SECRET, who=who)
    at_host, at_virtual = pair.to_host.mark, pair.to_virtual.mark
    async with connected(pair, who) as wire:
        if when == "at once":
            wire.send(first + second)
        else:
            wire.send(first)
            await asyncio.sleep(0.005)
            wire.send(second)
        answers = await wire.closed()
    assert [400 <= answer.status < 500 for answer in answers] == [True], answers
    seen = [*pair.to_host.seen[at_host:], *pair.to_virtual.seen[at_virtual:]]
    assert not [each for each in seen if "smuggled" in each.target]
    assert not [each for each in seen if each.behind]
    asked = [each for each in seen if each.header("Upgrade")]
    assert len(asked) == (0 if whom == "the endpoint" else 1), asked


async def test_an_upgrade_that_is_agreed_to_is_a_tunnel(scene: Scene) -> None:
    """The same request is tunnelled for whoever may make it, and ends with its connection."""
    pair = scene.pair
    target = f"{scene.web}/exec?command=cat&stdin=1&stdout=1"
    mark = pair.to_host.mark
    async with connected(pair, scene.admin) as wire:
        wire.send(head(pair, "GET", target, headers=EXEC))
        assert (await wire.answer()).status == 101
        assert wire.upgraded
    [seen] = pair.to_host.since(mark)
    assert seen.target.partition("?")[0].endswith("/exec")
