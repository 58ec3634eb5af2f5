"""The view: which items a change queues, and what a reconcile sees."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from syncer import ownership
from syncer.engine.queue import Level
from syncer.engine.view import Item, View, indexers, resources
from syncer.naming import Names
from syncer.objects import Key, Object, Resource, Side, key_of
from syncer.settings import Settings
from syncer.types import (
    Child,
    Context,
    Direction,
    Kind,
    Need,
    OnHost,
    OnHostGone,
    Query,
    Ref,
    Reference,
    Trigger,
)

NAMES = Names("tenant-1", "host-ns")
USERS = Resource("", "v1", "users", "User")
THINGS = Resource("", "v1", "things", "Thing")
NOTES = Resource("", "v1", "notes", "Note")


def needs_thing(source: Object, _copy: Object | None, _ctx: Context) -> list[Need]:
    return [Ref(Side.VIRTUAL, "things", Key("default", "wanted"))]


def used(source: Object, _copy: Object | None, _ctx: Context) -> list[Need]:
    return [Query(Side.VIRTUAL, "users", "things", str(key_of(source)))]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="users",
            resource=USERS,
            direction=Direction.TO_HOST,
            references=(Reference("spec.things[].name", "things"),),
            related=needs_thing,
            to_virtual=lambda virtual, _h, _c: virtual,
            children=(Child("notes", "child-of"),),
            triggers=(Trigger(Side.HOST, "notes", "child-of"),),
            on_host_gone=lambda virtual: (
                OnHostGone.DELETE_VIRTUAL if "status" in virtual else OnHostGone.RECREATE
            ),
            quiet=True,
        ),
        Kind(
            name="things",
            resource=THINGS,
            direction=Direction.TO_HOST,
            related=used,
            triggers=(Trigger(Side.VIRTUAL, "users", "things"),),
        ),
        Kind(
            name="notes",
            resource=NOTES,
            direction=Direction.TO_VIRTUAL,
            host_indexers={"child-of": lambda obj: [obj["spec"]["of"]] if "spec" in obj else []},
        ),
        Kind(
            name="only-this",
            resource=THINGS,
            direction=Direction.DERIVED,
            only=Key("default", "single"),
        ),
        Kind(
            name="beacons",
            resource=Resource("", "v1", "things", "Thing", part="beacons"),
            direction=Direction.DERIVED,
            on_host=OnHost(
                lambda key, names: f"{names.tenant}-{key.name}",
                lambda host, _names: Key("", host["spec"]["of"]) if "spec" in host else None,
                lambda names: f"of={names.tenant}",
            ),
        ),
    )
}


class World:
    """A view whose queue is a list."""

    def __init__(self) -> None:
        self.queued: list[tuple[Item, Level]] = []
        self.view = View(
            KINDS,
            NAMES,
            Settings(name="tenant-1"),
            lambda item, level: self.queued.append((item, level)),
        )
        indexes = indexers(KINDS.values(), NAMES)
        for at in resources(KINDS.values()):
            self.view.add_store(*at, indexes.get(at, {}))
        self.version = 0

    def put(self, side: Side, resource: str, obj: Object, **how: Any) -> None:
        """Let a store take an object under the next resource version."""
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.view.store(side, resource).apply(obj, **how)

    def taken(self) -> list[str]:
        """What was queued since the last call, as ``kind key``."""
        return [item for item, _ in self.taken_at()]

    def taken_at(self) -> list[tuple[str, Level]]:
        """What was queued since the last call, as ``kind key``, and how soon it is wanted."""
        found = [(f"{item.kind} {item.key}", level) for item, level in self.queued]
        self.queued.clear()
        return found


def virtual(name: str, namespace: str = "default", **fields: Any) -> Object:
    return {"metadata": {"name": name, "namespace": namespace, "uid": f"v-{name}"}, **fields}


def copy_of(obj: Object) -> Object:
    host = ownership.stamp({"metadata": {}}, obj, NAMES, None)
    host["metadata"]["uid"] = f"h-{obj['metadata']['name']}"
    return host


@pytest.fixture
def world() -> World:
    return World()


def test_an_object_queues_itself_and_what_it_begins_to_use(world: World) -> None:
    """A membership that changes queues the object whose key the index value is."""
    world.put(Side.VIRTUAL, "users", virtual("u", spec={"things": [{"name": "a"}, {"name": "b"}]}))
    assert sorted(world.taken()) == ["things default/a", "things default/b", "users default/u"]
    world.put(Side.VIRTUAL, "users", virtual("u", spec={"things": [{"name": "b"}]}))
    assert sorted(world.taken()) == ["things default/a", "users default/u"]


def test_an_unchanged_use_queues_nobody_else(world: World) -> None:
    """What a user does otherwise is no news for what it uses."""
    world.put(Side.VIRTUAL, "users", virtual("u", spec={"things": [{"name": "a"}]}))
    world.taken()
    world.put(Side.VIRTUAL, "users", virtual("u", spec={"things": [{"name": "a"}]}, status={}))
    assert world.taken() == ["users default/u"]


def test_a_host_copy_queues_the_virtual_key_of_its_marks(world: World) -> None:
    """Only objects that all marks call ours queue anything."""
    world.put(Side.HOST, "things", copy_of(virtual("a")))
    assert world.taken() == ["things default/a"]
    foreign = copy_of(virtual("b"))
    foreign["metadata"]["name"] = "mirrored-by-a-controller"
    world.put(Side.HOST, "things", foreign)
    assert world.taken() == []


def test_the_answer_to_a_creation_is_no_news_where_nothing_comes_back(world: World) -> None:
    """Kinds without a way back, and quiet ones, aren't looked at again for their own creation."""
    for resource in ("things", "users"):
        world.put(Side.HOST, resource, copy_of(virtual("a")), own=True)
        assert world.taken() == []
        world.put(Side.HOST, resource, {**copy_of(virtual("a")), "status": {}}, own=True)
        assert world.taken() == [f"{resource} default/a"]


def test_a_quiet_kind_ignores_the_answers_to_its_own_virtual_writes(world: World) -> None:
    """The reconciler compares those itself; others' changes still queue."""
    world.put(Side.VIRTUAL, "users", virtual("u"), own=True)
    assert world.taken() == []
    world.put(Side.VIRTUAL, "users", virtual("u", status={}))
    assert world.taken() == ["users default/u"]


NOTE = {
    "metadata": {"name": "n", "namespace": "host-ns", "uid": "1"},
    "spec": {"of": "default/u"},
}
USES_A = {"things": [{"name": "a"}]}


@pytest.mark.parametrize(
    ("side", "resource", "obj", "levels"),
    [
        (Side.VIRTUAL, "users", virtual("u"), {"users default/u": Level.LIVE}),
        (
            Side.VIRTUAL,
            "users",
            virtual("u", spec=USES_A),
            {"users default/u": Level.LIVE, "things default/a": Level.LIVE},
        ),
        (
            Side.VIRTUAL,
            "things",
            virtual("single"),
            {"things default/single": Level.LIVE, "only-this default/single": Level.URGENT},
        ),
        (Side.HOST, "things", copy_of(virtual("a")), {"things default/a": Level.URGENT}),
        (Side.HOST, "notes", NOTE, {"notes host-ns/n": Level.LOW, "users default/u": Level.URGENT}),
    ],
    ids=[
        "the tenant's change",
        "what the tenant begins to use",
        "what is made for others",
        "host copy",
        "mirrored, and what has it for a child",
    ],
)
def test_what_the_host_says_of_work_begun_goes_first(
    world: World, side: Side, resource: str, obj: Object, levels: dict[str, Level]
) -> None:
    """Work begun goes before the tenant's changes, and those before mirrored objects."""
    world.put(side, resource, deepcopy(obj))
    assert dict(world.taken_at()) == levels


@pytest.mark.parametrize("side", Side)
def test_the_initial_list_yields(world: World, side: Side) -> None:
    """A cold start is overtaken by everything that changes, whoever looks at what is listed."""
    ref = Ref(side, "users", Key("default", "u"))
    world.view.looked_at(Item("things", Key("default", "t")), [ref])
    obj = virtual("u", spec=USES_A)
    world.put(side, "users", obj if side is Side.VIRTUAL else copy_of(obj), initial=True)
    found = world.taken_at()
    assert {level for _, level in found} == {Level.LOW}


def test_a_kind_about_one_object_is_queued_for_it_alone(world: World) -> None:
    """The thousand other objects of the resource are none of its business."""
    world.put(Side.VIRTUAL, "things", virtual("other"))
    assert world.taken() == ["things default/other"]
    world.put(Side.VIRTUAL, "things", virtual("single"))
    assert sorted(world.taken()) == ["only-this default/single", "things default/single"]


def test_who_looked_at_an_object_is_queued_when_it_changes(world: World) -> None:
    """A declared look lasts until the next reconcile says otherwise."""
    item = Item("users", Key("default", "u"))
    ref = Ref(Side.VIRTUAL, "things", Key("default", "wanted"))
    world.view.looked_at(item, [ref])
    world.put(Side.VIRTUAL, "things", virtual("wanted"))
    assert "users default/u" in world.taken()
    world.view.looked_at(item, [])
    world.put(Side.VIRTUAL, "things", virtual("wanted", spec={}))
    assert "users default/u" not in world.taken()


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize(
    ("kind", "level"),
    [("users", Level.URGENT), ("only-this", Level.URGENT), ("notes", Level.LOW)],
)
def test_who_waits_for_an_object_goes_first(
    world: World, side: Side, kind: str, level: Level
) -> None:
    """What was begun and waits for a change goes on before new work; mirrored objects may yield."""
    item = Item(kind, Key("default", "waiting"))
    world.view.looked_at(item, [Ref(side, "things", Key("default", "wanted"))])
    world.put(side, "things", virtual("wanted"))
    assert (f"{kind} default/waiting", level) in world.taken_at()


def test_a_context_holds_what_was_declared(world: World) -> None:
    """References are answered with the object or None, queries with what the index has."""
    kind = KINDS["users"]
    ctx = world.view.context(kind, virtual("u"), None)
    assert list(ctx.objects.values()) == [None]
    world.put(Side.VIRTUAL, "users", virtual("u", spec={"things": [{"name": "a"}]}))
    ctx = world.view.context(KINDS["things"], virtual("a"), None)
    [(query, found)] = ctx.queries.items()
    assert query.value == "default/a"
    assert (len(found), found[0]["metadata"]["name"]) == (1, "u")


def test_a_pair_shows_only_a_host_copy_that_is_ours(world: World) -> None:
    """An object under the wanted name without our marks is as good as not there."""
    obj = virtual("a")
    world.put(Side.VIRTUAL, "things", obj)
    foreign = copy_of(obj)
    del foreign["metadata"]["annotations"][ownership.OBJECT_NAME]
    world.put(Side.HOST, "things", foreign)
    assert world.view.pair(KINDS["things"], Key("default", "a")).host() is None
    world.put(Side.HOST, "things", copy_of(obj))
    assert world.view.pair(KINDS["things"], Key("default", "a")).host() is not None


def test_a_pair_knows_the_children_that_are_not_leaving(world: World) -> None:
    """Children are found by their index, with the UID of the owner they were made for."""
    child: Object = {
        "metadata": {"name": "n", "namespace": "host-ns", "uid": "c"},
        "spec": {"of": "default/u"},
    }
    child["metadata"]["annotations"] = {ownership.OBJECT_UID: "v-u"}
    world.put(Side.HOST, "notes", child)
    pair = world.view.pair(KINDS["users"], Key("default", "u"))
    assert pair.children() == (("notes", Key("host-ns", "n"), "c", "v-u"),)
    child["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.put(Side.HOST, "notes", child)
    assert world.view.pair(KINDS["users"], Key("default", "u")).children() == ()


def test_everything_names_each_key_either_side_knows(world: World) -> None:
    """After a long absence of rights, or an operator's word, all keys are looked at once."""
    world.put(Side.VIRTUAL, "things", virtual("here"))
    world.put(Side.HOST, "things", copy_of(virtual("orphan")))
    world.put(Side.VIRTUAL, "users", virtual("u", spec={"things": [{"name": "named"}]}))
    found = {str(item.key) for item in world.view.everything(KINDS["things"])}
    assert found == {"default/here", "default/orphan", "default/named"}
    assert [item.key.name for item in world.view.everything(KINDS["only-this"])] == ["single"]
    watched = replace(KINDS["things"], direction=Direction.WATCHED)
    assert list(world.view.everything(watched)) == []


def test_what_is_derived_on_the_host_goes_by_its_own_marks(world: World) -> None:
    """It is kept apart from others of its resource, in the syncer's namespace; its mark decides."""
    assert (Side.VIRTUAL, "beacons") not in resources(KINDS.values())
    kind, at = KINDS["beacons"], Key("default", "tenant-1-a")
    beacon = {"metadata": {"name": at.name, "namespace": at.namespace, "uid": "1"}}
    world.put(Side.HOST, "beacons", {**beacon, "spec": {"of": "a"}})
    assert world.taken() == ["beacons a"]
    assert [item.key for item in world.view.everything(kind)] == [Key("", "a")]
    pair = world.view.pair(kind, Key("", "a"))
    assert (pair.host_key, pair.virtual()) == (at, None)
    assert (pair.host() or {})["metadata"]["uid"] == "1"
    world.put(Side.HOST, "beacons", {**beacon, "spec": {"of": "b"}})
    assert sorted(world.taken()) == ["beacons a", "beacons b"]
    assert world.view.pair(kind, Key("", "a")).host() is None


def test_a_copy_without_its_object_shows_that_a_list_lacked_something(world: World) -> None:
    """Only an end that nobody saw is unexplained; a namespace is judged by its own objects."""
    user = virtual("u")
    world.put(Side.HOST, "users", copy_of(user))
    assert world.view.unexplained(Side.VIRTUAL, "users", "default") == Key("default", "u")
    assert world.view.unexplained(Side.VIRTUAL, "users", "") == Key("default", "u")
    assert world.view.unexplained(Side.VIRTUAL, "users", "other") is None
    world.put(Side.VIRTUAL, "users", user)
    assert world.view.unexplained(Side.VIRTUAL, "users", "default") is None
    world.view.store(Side.VIRTUAL, "users").remove(Key("default", "u"), witnessed=True)
    assert world.view.unexplained(Side.VIRTUAL, "users", "default") is None


def test_a_copy_kept_for_ever_is_no_sign_of_a_short_list(world: World) -> None:
    """An orphan that nobody removes must not hold up the removal of others."""
    kept = copy_of(virtual("u"))
    kept["metadata"]["annotations"][ownership.SKIP_BACKSYNC] = "true"
    world.put(Side.HOST, "users", kept)
    assert world.view.unexplained(Side.VIRTUAL, "users", "default") is None


def test_a_reserved_copy_is_no_sign_of_a_short_list(world: World) -> None:
    """Its virtual object was never there: it is only about to be made."""
    reserved = ownership.reserve({"metadata": {}}, Key("default", "u"), NAMES, None)
    reserved["metadata"] |= {"uid": "h-u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    world.put(Side.HOST, "users", reserved)
    assert world.view.unexplained(Side.VIRTUAL, "users", "default") is None


def test_a_copy_that_is_leaving_is_no_sign_of_a_short_list(world: World) -> None:
    """It may take longer to go than the end of its object is remembered."""
    leaving = copy_of(virtual("u"))
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.put(Side.HOST, "users", leaving)
    assert world.view.unexplained(Side.VIRTUAL, "users", "default") is None


def test_an_object_that_had_a_copy_shows_that_the_hosts_list_lacked_something(
    world: World,
) -> None:
    """Objects that may never have had a copy, or that are leaving, prove nothing."""
    world.put(Side.VIRTUAL, "users", virtual("new"))
    leaving = virtual("leaving", status={"started": True})
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    world.put(Side.VIRTUAL, "users", leaving)
    assert world.view.unexplained(Side.HOST, "users", "default") is None
    started = virtual("started", status={"started": True})
    world.put(Side.VIRTUAL, "users", started)
    assert world.view.unexplained(Side.HOST, "users", "default") == Key("default", "started")
    copy = copy_of(started)
    world.put(Side.HOST, "users", copy)
    assert world.view.unexplained(Side.HOST, "users", "default") is None
    world.view.store(Side.HOST, "users").remove(key_of(copy), witnessed=True)
    assert world.view.unexplained(Side.HOST, "users", "default") is None


@pytest.mark.parametrize("late", [False, True])
def test_a_predecessors_end_explains_nothing(world: World, *, late: bool) -> None:
    """That a copy was seen to go says nothing of its successor, which only a list lacks."""
    started = virtual("started", status={"started": True})
    world.put(Side.VIRTUAL, "users", started)
    first, second = copy_of(started), copy_of(started)
    second["metadata"]["uid"] = "h-second"
    world.put(Side.HOST, "users", first)
    store, key, ended = world.view.store(Side.HOST, "users"), key_of(first), world.version + 1
    world.version += 1
    if late:  # the answer to a creation may come before the watch's news of the deletion
        world.put(Side.HOST, "users", second)
    store.remove(key, uid="h-started", version=ended, witnessed=True)
    if not late:
        world.put(Side.HOST, "users", second)
    store.remove(key, witnessed=False)
    assert world.view.unexplained(Side.HOST, "users", "default") == Key("default", "started")
    assert world.view.pair(KINDS["users"], Key("default", "started")).host_deleted is None


def test_what_is_not_copied_to_the_host_cannot_be_judged(world: World) -> None:
    """Without a twin there is nothing to compare with."""
    assert world.view.unexplained(Side.VIRTUAL, "notes", "") is None
