"""What the mappers' tables share: one tenant, what a mapper may see, and the engine's own plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson
import pytest

from syncer import ownership
from syncer.engine.plan import Action, Create, Pair, Tell, Update, plan
from syncer.naming import Names
from syncer.objects import Key, Object, Resource, Side, key_of
from syncer.settings import Settings
from syncer.types import Context, Kind, Notice, Query, Ref

SYNCED = {
    "Pod": Resource("", "v1", "pods", "Pod"),
    "Service": Resource("", "v1", "services", "Service"),
    "PersistentVolumeClaim": Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    "EndpointSlice": Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
}


def copied(obj: Any) -> Any:
    """Give an independent copy, as a reader of the store would decode."""
    return orjson.loads(orjson.dumps(obj))


@lru_cache
def _settings(*options: tuple[str, Any]) -> Settings:
    return Settings(**dict(options))


@dataclass
class World:
    """One tenant and what its mappers may look at.

    Attributes:
        names: of the tenant.
        objects: answers to declared refs.
        queries: answers to declared queries.
        options: settings that differ from their defaults.
    """

    names: Names = field(default_factory=lambda: Names("vc", "host-ns"))
    objects: dict[Ref, Object | None] = field(default_factory=dict)
    queries: dict[Query, list[Object]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def ctx(self) -> Context:
        """Give a context with no notices yet."""
        settings = _settings(*sorted(self.options.items()))
        return Context(self.names, settings, SYNCED, self.objects, self.queries)

    def know(self, ref: Ref, obj: Object | None) -> None:
        """Let a declared object be there."""
        self.objects[ref] = obj

    def service_network(self, *cidrs: str) -> None:
        """Let the virtual cluster have these service networks."""
        ref = Ref(Side.VIRTUAL, "servicecidrs.networking.k8s.io", Key("", "kubernetes"))
        self.objects[ref] = {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": list(cidrs)}}

    def wanted(self, kind: Kind, virtual: Object) -> Any:
        """Give what ``to_host`` says: twice the same, and nothing of the input changed."""
        assert kind.to_host
        before = orjson.dumps(virtual)
        first = kind.to_host(virtual, self.ctx())
        assert first == kind.to_host(copied(virtual), self.ctx())
        assert orjson.dumps(virtual) == before
        return first

    def notices(self, kind: Kind, virtual: Object) -> list[Notice]:
        """Give what ``to_host`` tells the tenant."""
        ctx = self.ctx()
        assert kind.to_host
        kind.to_host(virtual, ctx)
        return ctx.notices

    def made(self, kind: Kind, virtual: Object, **fields: Any) -> Object:
        """Give the host copy as the host stores it, with the fields its server added."""
        wanted = ownership.stamp(copied(self.wanted(kind, virtual)), virtual, self.names, None)
        wanted["metadata"] |= {"uid": f"host-{virtual['metadata']['uid']}", "resourceVersion": "7"}
        return merged(wanted, fields)

    def actions(self, kind: Kind, virtual: Object | None, host: Object | None) -> list[Action]:
        """Give the engine's plan for a pair."""
        known = virtual or host
        assert known is not None
        key = key_of(virtual) if virtual else ownership.virtual_key(known, self.names)
        assert key is not None
        pair = Pair(
            key,
            lambda: copied(virtual),
            lambda: copied(host),
            self.names.host_key(key),
        )
        return self.planned(kind, pair)

    def derived(self, kind: Kind, key: Key, there: Object | None) -> list[Action]:
        """Give the engine's plan for a derived object, on whichever side it is made."""
        pair = Pair(key, lambda: copied(there), lambda: None, key)
        if kind.on_host is not None:
            host_key = Key(
                self.ctx().settings.current_namespace, kind.on_host.name(key, self.names)
            )
            pair = Pair(key, lambda: None, lambda: copied(there), host_key)
        return self.planned(kind, pair)

    def planned(self, kind: Kind, pair: Pair) -> list[Action]:
        """Give the engine's plan, in the making of which nothing that others see was changed."""
        before = orjson.dumps([pair.virtual_seen, pair.host_seen])
        actions = plan(kind, pair, self.ctx())
        assert orjson.dumps([pair.virtual_seen, pair.host_seen]) == before
        return actions


def merged(base: Object, changes: Object) -> Object:
    """Give a map with another laid over it, deeply."""
    result = dict(base)
    for name, value in changes.items():
        inner = isinstance(value, dict) and isinstance(base.get(name), dict)
        result[name] = merged(base[name], value) if inner else value
    return result


def applied(obj: Object, actions: Iterable[Action], side: Side) -> Object:
    """Give an object after the patches of a plan on one side."""
    for action in actions:
        if isinstance(action, Update) and action.side is side:
            body = action.patch.body
            obj = _merge_patch(obj, body) if isinstance(body, dict) else _json_patch(obj, body)
    return obj


def _json_patch(obj: Object, operations: Iterable[Object]) -> Object:
    """Apply a JSON patch (RFC 6902) of test, add, replace and remove."""
    obj = copied(obj)
    for operation in operations:
        steps = [
            step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]
        ]
        here: Any = obj
        for step in steps[:-1]:
            here = here[int(step)] if isinstance(here, list) else here[step]
        last: Any = int(steps[-1]) if isinstance(here, list) and steps[-1] != "-" else steps[-1]
        match operation["op"]:
            case "test":
                assert here[last] == operation["value"], operation
            case "remove":
                del here[last]
            case "add" if isinstance(here, list):
                here.insert(len(here) if last == "-" else last, operation["value"])
            case _:
                here[last] = operation["value"]
    return obj


def _merge_patch(obj: Any, patch: Any) -> Any:
    """Apply a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(obj) if isinstance(obj, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge_patch(result.get(name), value)
    return result


@dataclass
class Tools:
    """The functions above, for tests that get them as a fixture."""

    copied = staticmethod(copied)
    merged = staticmethod(merged)
    applied = staticmethod(applied)

    @staticmethod
    def told(actions: Iterable[Action]) -> list[str]:
        """Give the reasons of what the tenant is told."""
        return [action.notice.reason for action in actions if isinstance(action, Tell)]

    @staticmethod
    def writes(actions: Iterable[Action]) -> list[Action]:
        """Give the actions that write."""
        return [action for action in actions if not isinstance(action, Tell)]

    @staticmethod
    def created(actions: Iterable[Action]) -> Object:
        """Give the one object that a plan creates."""
        (create,) = actions
        assert isinstance(create, Create)
        return create.wanted


@pytest.fixture
def world() -> World:
    """Give tenant ``vc`` in ``host-ns``, where nothing else is known."""
    return World()


@pytest.fixture
def tools() -> Tools:
    """Give helpers for objects and plans."""
    return Tools()
