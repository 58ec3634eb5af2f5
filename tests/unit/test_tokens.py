"""When tokens are looked at again: decided without a request as long as none is due."""

from __future__ import annotations

from base64 import b64encode

import orjson
import pytest

from mappers import kinds
from mappers.pods import tokens
from syncer.engine.queue import WorkQueue
from syncer.engine.view import Item, View, indexers, resources
from syncer.naming import Names
from syncer.objects import Key, Object, Side
from syncer.settings import Settings
from syncer.tokens import LOOK_SECONDS, PodTokens

NAMES = Names("tenant-1", "host-ns")
ITEM = Item("pods", Key("default", "web"))
ISSUED = 1_000_000


class Clock:
    """One time for the queue and the wall, in seconds."""

    def __init__(self) -> None:
        self.now = float(ISSUED)

    def __call__(self) -> float:
        """Give the time."""
        return self.now


class World:
    """A pod with a token in a Secret, on a view without servers."""

    def __init__(self, life: int) -> None:
        self.clock = Clock()
        self.queue: WorkQueue[Item] = WorkQueue(
            group=lambda item: item.key.namespace, clock=self.clock
        )
        known = {kind.name: kind for kind in kinds() if kind.name in ("pods", "secrets")}
        self.view = View(known, NAMES, Settings(name="tenant-1"), lambda _item, _level: None)
        indexes = indexers(known.values(), NAMES)
        for at in resources(known.values()):
            self.view.add_store(*at, indexes.get(at, {}))
        self.tokens = PodTokens(
            names=NAMES,
            in_secrets=True,
            cluster_domain="cluster.local",
            view=self.view,
            queue=self.queue,
            writers={},
            now=self.clock,
        )
        self.pod = pod()
        [want] = tokens.wanted_tokens(self.pod)
        secret = tokens.token_secret(self.pod, {want.key: jwt(life)}, NAMES)
        secret["metadata"] |= {"uid": "s1", "resourceVersion": "1"}
        self.view.store(Side.HOST, "secrets").apply(secret)

    async def attend(self) -> None:
        """Do what a pass over the pod does last."""
        await self.tokens.attend(self.pod, {"spec": {}, "metadata": {"uid": "h1"}}, ITEM)

    def take(self) -> bool:
        """Say whether the pod is due, and take it if so."""
        item = self.queue.take()
        if item is not None:
            self.queue.done(item)
        return item is not None


def pod() -> Object:
    source = {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}
    return {
        "metadata": {"name": "web", "namespace": "default", "uid": "v1"},
        "spec": {"volumes": [{"name": "api", "projected": {"sources": [source]}}]},
    }


def jwt(life: int) -> str:
    claims = b64encode(orjson.dumps({"iat": ISSUED, "exp": ISSUED + life})).decode()
    return f"head.{claims.rstrip('=')}.signature"


async def test_a_retry_loses_no_renewal() -> None:
    """A pod that was tried again meanwhile still comes when a token is due."""
    world = World(life=1000)
    await world.attend()
    world.queue.retry(ITEM)
    world.clock.now += 1
    assert world.take()
    await world.attend()
    world.clock.now = ISSUED + 799
    assert not world.take()
    world.clock.now = ISSUED + 800
    assert world.take()


async def test_a_timer_that_is_early_by_the_wall_comes_again() -> None:
    """The queue's clock and the wall's may drift apart: a look too early asks for another."""
    world = World(life=1000)
    await world.attend()
    world.clock.now = ISSUED + 800
    assert world.take()
    world.clock.now -= 0.5
    await world.attend()
    assert world.queue.is_delayed(ITEM)


@pytest.mark.parametrize("life", [1000, 10**8])
async def test_looks_are_one_and_not_far_away(life: int) -> None:
    """Any number of passes leaves one look, at most an hour away."""
    world = World(life)
    for _ in range(5):
        await world.attend()
    assert world.queue.delayed == 1
    world.clock.now += min(0.8 * life, LOOK_SECONDS)
    assert world.take()
    assert world.queue.delayed == 0
