import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from syncer.kube.store import TOMBSTONE_SECONDS, Change, Meta, Snapshot, Store
from syncer.objects import Key, Object, key_of

A = Key("ns", "a")
B = Key("ns", "b")
C = Key("", "c")


def make(key: Key, version: int, *refs: str, uid: str = "", **spec: Any) -> Object:
    """Make an object whose index values are ``refs``."""
    metadata = {"name": key.name, "uid": uid or f"u-{key.name}", "resourceVersion": str(version)}
    if key.namespace:
        metadata["namespace"] = key.namespace
    return {"kind": "Thing", "metadata": metadata, "spec": {"refs": list(refs), **spec}}


def refs(obj: Object) -> Iterable[str]:
    """Index an object by what it refers to."""
    values: list[str] = obj["spec"]["refs"]
    return values


class Bench:
    """A store, what it reported, and a clock that only the test moves."""

    def __init__(self, *, tombstones: int = 100) -> None:
        self.now = 1000.0
        self.changes: list[Change] = []
        self.store = Store(
            {"refs": refs, "names": lambda obj: [obj["metadata"]["name"]]},
            self.changes.append,
            clock=lambda: self.now,
            tombstones=tombstones,
        )

    def replace(self, version: int, *objects: Object, rewound: bool = False) -> None:
        """Replace the store's contents, as an informer's list does."""
        snapshot = self.store.begin(rewound=rewound)
        for obj in objects:
            if not snapshot.holds(key_of(obj), meta_of(obj)):
                snapshot.add(obj)
        self.store.replace(snapshot, version)

    def told(self) -> list[tuple[Key, int | None, int | None]]:
        """Give and forget the changes reported, as key, old and new version."""
        told = [(c.key, version(c.old), version(c.new)) for c in self.changes]
        self.changes.clear()
        return told


def version(meta: Meta | None) -> int | None:
    return meta.version if meta is not None else None


def meta_of(obj: Object) -> Meta:
    return Meta(obj["metadata"]["uid"], int(obj["metadata"]["resourceVersion"]))


@pytest.fixture
def bench() -> Bench:
    """Give an empty store."""
    return Bench()


# Reading


def test_readers_get_their_own_copy(bench: Bench) -> None:
    """What a reader does to an object changes nothing in the store."""
    given = make(A, 5, x={"y": 1})
    bench.store.apply(given)
    given["spec"]["x"]["y"] = 2
    first = bench.store.get(A)
    assert first == make(A, 5, x={"y": 1})
    first["spec"].clear()
    assert bench.store.get(A) == make(A, 5, x={"y": 1})


def test_what_is_not_there(bench: Bench) -> None:
    """An empty store has no objects, no deletions and no index values, and takes no space."""
    store = bench.store
    assert (store.get(A), store.meta(A), store.deleted_uid(A)) == (None, None, None)
    assert (len(store), store.size, list(store.keys()), A in store) == (0, 0, [], False)
    assert store.by_index("refs", "x") == []
    with pytest.raises(KeyError):
        store.by_index("unknown", "x")


def test_managed_fields_are_not_held(bench: Bench) -> None:
    """``managedFields`` is left out, and the caller's object keeps it."""
    obj = make(A, 5)
    obj["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    bench.store.apply(obj)
    assert bench.store.get(A) == make(A, 5)
    assert "managedFields" in obj["metadata"]


def test_indexes_follow_the_objects(bench: Bench) -> None:
    """An index lists a key under its present values only, in order of arrival, once."""
    store = bench.store
    store.apply(make(A, 1, "x", "x", "y"))
    store.apply(make(B, 2, "x"))
    store.apply(make(C, 3))
    assert store.by_index("refs", "x") == [A, B]
    assert store.by_index("refs", "y") == [A]
    store.apply(make(A, 4, "z"))
    assert store.by_index("refs", "x") == [B]
    assert store.by_index("refs", "y") == []
    store.remove(B, witnessed=True)
    assert store.by_index("refs", "x") == []
    assert store.by_index("names", "a") == [A]
    assert sorted(store.index_values("names")) == ["a", "c"]
    assert store.index_values("refs") == ["z"]


def test_a_change_tells_values_and_moves(bench: Bench) -> None:
    """A change carries old and new values together, and those that were joined or left."""
    bench.store.apply(make(A, 1, "x", "y"), initial=True)
    bench.store.apply(make(A, 2, "y", "z"), own=True)
    bench.store.remove(A, witnessed=True)
    name = frozenset({"a"})
    added, changed, removed = bench.changes
    assert added.values == added.moved == {"refs": {"x", "y"}, "names": name}
    assert (added.initial, added.own) == (True, False)
    assert changed.values == {"refs": {"x", "y", "z"}, "names": name}
    assert changed.moved == {"refs": {"x", "z"}}
    assert (changed.initial, changed.own) == (False, True)
    assert removed.values == removed.moved == {"refs": {"y", "z"}, "names": name}
    assert (removed.old, removed.new) == (Meta("u-a", 2), None)


# Versions


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        pytest.param(5, False, id="the same version is no news"),
        pytest.param(4, False, id="an older version is no news"),
        pytest.param(6, True, id="a newer version is taken"),
    ],
)
@pytest.mark.parametrize("own", [False, True])
def test_the_newer_version_wins(bench: Bench, version: int, taken: bool, own: bool) -> None:
    """Only a newer version is taken and reported, whoever brings it."""
    bench.store.apply(make(A, 5))
    bench.told()
    assert bench.store.apply(make(A, version, "x"), own=own) is taken
    assert bench.told() == ([(A, 5, version)] if taken else [])


def test_versions_are_numbers(bench: Bench) -> None:
    """Version 10 is newer than version 9; what is no number is refused with a clear error."""
    bench.store.apply(make(A, 9))
    assert bench.store.apply(make(A, 10))
    broken = make(A, 11)
    broken["metadata"]["resourceVersion"] = "abc"
    with pytest.raises(ValueError, match="'abc' is not a number"):
        bench.store.apply(broken)


@pytest.mark.parametrize(
    ("conditions", "removed"),
    [
        pytest.param({"uid": "u-b"}, False, id="another UID stays"),
        pytest.param({"uid": "u-a", "version": 4}, False, id="a newer state stays"),
        pytest.param({}, True, id="no condition"),
        pytest.param({"uid": "u-a"}, True, id="the UID agrees"),
        pytest.param({"uid": "u-a", "version": 5}, True, id="the deletion has the held version"),
        pytest.param({"version": 9}, True, id="the deletion is newer"),
    ],
)
def test_removal_has_preconditions(bench: Bench, conditions: dict[str, Any], removed: bool) -> None:
    """An object goes when UID and version allow it, and is then reported gone."""
    bench.store.apply(make(A, 5))
    bench.told()
    assert bench.store.remove(A, **conditions, witnessed=False) is removed
    assert bench.told() == ([(A, 5, None)] if removed else [])
    assert (A in bench.store) is not removed
    assert bench.store.deleted_uid(A) is None


@pytest.mark.parametrize("how", [{"own": True}, {"live": True}, {}])
def test_a_deleted_key_is_not_revived(bench: Bench, how: dict[str, bool]) -> None:
    """What is older than the witnessed deletion stays away; what is newer is taken."""
    bench.store.apply(make(A, 5))
    bench.store.remove(A, uid="u-a", version=8, witnessed=True)
    bench.told()
    assert not bench.store.apply(make(A, 7), **how)
    assert not bench.store.apply(make(A, 8), **how)
    assert bench.told() == []
    assert bench.store.deleted_uid(A) == "u-a"
    assert bench.store.apply(make(A, 9, uid="new"), **how)
    assert bench.store.deleted_uid(A) == "u-a"


def test_a_deletion_is_witnessed_under_its_successor(bench: Bench) -> None:
    """The watch's deletion of the predecessor leaves a successor known from our own create."""
    bench.store.apply(make(A, 5, uid="old"))
    bench.store.apply(make(A, 9, uid="new"), own=True)
    assert not bench.store.remove(A, uid="old", version=8, witnessed=True)
    assert bench.store.meta(A) == Meta("new", 9)
    assert bench.store.deleted_uid(A) == "old"


def test_leaving_the_selector_and_coming_back_is_no_deletion(bench: Bench) -> None:
    """An object that is there again with the same UID was not deleted."""
    bench.store.apply(make(A, 5))
    bench.store.remove(A, uid="u-a", version=8, witnessed=True)
    bench.store.apply(make(A, 9))
    assert bench.store.deleted_uid(A) is None


def test_deletions_are_forgotten_by_count_and_by_age() -> None:
    """The oldest deletions beyond the limit go, and all after their time."""
    bench = Bench(tombstones=2)
    for version, key in enumerate((A, B, C), start=1):
        bench.store.remove(key, uid=f"u-{key.name}", version=version, witnessed=True)
    assert [bench.store.deleted_uid(key) for key in (A, B, C)] == [None, "u-b", "u-c"]
    bench.now += TOMBSTONE_SECONDS + 1
    assert bench.store.deleted_uid(C) is None
    bench.store.remove(A, uid="u-a", version=9, witnessed=True)
    assert len(bench.store._tombstones) == 1


def test_a_late_own_answer_is_no_news_to_a_complete_view(bench: Bench) -> None:
    """Past the answer's version, a missing key was deleted, even if that is forgotten."""
    bench.store.advance(20)
    assert not bench.store.apply(make(A, 15), own=True)
    assert bench.store.apply(make(A, 21), own=True)


def test_a_live_answer_contradicts_a_list(bench: Bench) -> None:
    """What a live GET shows comes back, although a later list had dropped it."""
    bench.store.apply(make(A, 5))
    bench.replace(20)
    assert bench.told()[-1] == (A, 5, None)
    assert bench.store.apply(make(A, 5), live=True)
    assert bench.told() == [(A, None, 5)]


# Lists


def test_an_equal_list_is_no_news(bench: Bench) -> None:
    """A list of what is held reports nothing and needs no decoding."""
    bench.replace(9, make(A, 5), make(B, 6))
    assert bench.told() == [(A, None, 5), (B, None, 6)]
    snapshot = bench.store.begin()
    assert snapshot.holds(A, Meta("u-a", 5))
    assert snapshot.holds(B, Meta("u-b", 6))
    bench.store.replace(snapshot, 12)
    assert bench.told() == []
    assert bench.store.version == 12


def test_a_list_is_applied_as_a_difference(bench: Bench) -> None:
    """Additions, changes, successors and deletions since the last list are each reported."""
    bench.replace(9, make(A, 5, "x"), make(B, 6), make(C, 7))
    bench.told()
    bench.replace(20, make(A, 15, "y"), make(B, 16, uid="new"), make(Key("ns", "d"), 17))
    assert sorted(bench.told(), key=str) == sorted(
        [(A, 5, 15), (B, 6, 16), (Key("ns", "d"), None, 17), (C, 7, None)], key=str
    )
    assert bench.store.by_index("refs", "x") == []
    assert bench.store.deleted_uid(C) is None, "nobody witnessed that deletion"


def test_own_answers_outlive_an_older_list(bench: Bench) -> None:
    """What a write's answer brought after the list was made stays, older things don't."""
    bench.replace(9, make(A, 5), make(B, 6))
    snapshot = bench.store.begin()
    snapshot.add(make(A, 11))
    bench.store.apply(make(A, 13), own=True)
    bench.store.apply(make(C, 14), own=True)
    bench.told()
    bench.store.replace(snapshot, 12)
    assert bench.told() == [(B, 6, None)]
    assert bench.store.meta(A) == Meta("u-a", 13)
    assert C in bench.store


def test_a_dropped_list_changes_nothing(bench: Bench) -> None:
    """A list that breaks off halfway leaves the store as it was."""
    bench.replace(9, make(A, 5))
    bench.told()
    bench.store.begin().add(make(B, 8))
    assert list(bench.store.keys()) == [A]
    assert bench.told() == []


def test_a_deletion_during_a_streaming_list_is_witnessed(bench: Bench) -> None:
    """An object listed and then deleted before the list's end is not in it."""
    bench.replace(9, make(A, 5), make(B, 6))
    snapshot = bench.store.begin()
    assert snapshot.holds(A, Meta("u-a", 5))
    snapshot.add(make(B, 7))
    snapshot.remove(A, Meta("u-a", 10))
    snapshot.remove(B, Meta("u-b", 11))
    snapshot.add(make(B, 12, uid="new"))
    bench.told()
    bench.store.replace(snapshot, 12)
    assert sorted(bench.told()) == [(A, 5, None), (B, 6, 12)]
    assert bench.store.deleted_uid(A) == "u-a"


def test_a_list_knows_what_the_present_was_when_it_began(bench: Bench) -> None:
    """A list older than anything seen before it began is one of a datastore put back."""
    bench.replace(9)
    bench.store.apply(make(A, 12), own=True)
    snapshot = bench.store.begin()
    bench.store.apply(make(B, 14), own=True)
    assert snapshot.floor == 12


def test_a_rewind_replaces_everything(bench: Bench) -> None:
    """After a rewind versions say nothing: same version, other contents; newer ones go."""
    bench.replace(90, make(A, 50, "x"), make(B, 60), make(C, 70))
    bench.store.remove(C, uid="u-c", version=95, witnessed=True)
    bench.store.advance(100)
    bench.told()
    bench.replace(55, make(A, 50, "y"), make(C, 40), rewound=True)
    assert sorted(bench.told()) == [(C, None, 40), (A, 50, 50), (B, 60, None)]
    assert bench.store.by_index("refs", "y") == [A]
    assert (bench.store.version, bench.store.highest) == (55, 55)
    assert bench.store.apply(make(B, 56))


# Trouble


def test_reports_come_when_the_whole_store_is_consistent() -> None:
    """The first report of a list already sees all of it, in the indexes too."""
    seen: list[list[Key]] = []
    store = Store({"refs": refs}, lambda _change: seen.append(store.by_index("refs", "x")))
    snapshot = store.begin()
    snapshot.add(make(A, 1, "x"))
    snapshot.add(make(B, 2, "x"))
    store.replace(snapshot, 2)
    assert seen == [[A, B], [A, B]]


def test_a_failing_handler_stops_nothing() -> None:
    """A handler that raises is logged with the object's name, counted, and called again."""

    def handle(change: Change) -> None:
        raise RuntimeError("broken")

    store = Store({}, handle)
    with structlog.testing.capture_logs() as logs:
        snapshot = store.begin()
        snapshot.add(make(A, 1))
        snapshot.add(make(B, 2))
        store.replace(snapshot, 2)
    assert [entry["object"] for entry in logs] == ["ns/a", "ns/b"]
    assert (len(store), store.errors) == (2, 2)


def test_a_failing_indexer_costs_only_its_values() -> None:
    """An object that an indexer trips over is held, without values in that index."""
    store = Store({"bad": lambda obj: obj["nothing"], "refs": refs}, lambda _change: None)
    with structlog.testing.capture_logs() as logs:
        store.apply(make(A, 1, "x"))
    assert [(entry["index"], entry["object"]) for entry in logs] == [("bad", "ns/a")]
    assert store.by_index("refs", "x") == [A]
    assert store.errors == 1


# Memory

_MEASURE = """
import gc, os, sys
import orjson
from syncer.kube.store import Store
from syncer.types import Key

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def secret(i):
    metadata = {"namespace": "namespace", "name": f"secret-{i}", "resourceVersion": str(i + 1),
                "uid": f"{i:08x}-0000-4000-8000-000000000000",
                "managedFields": [{"manager": "x", "fieldsV1": {"f:data": {"f:key": {}}}}]}
    return {"kind": "Secret", "apiVersion": "v1", "metadata": metadata,
            "data": {"key": f"{i:08x}" * 150}}

store = Store({"names": lambda obj: [obj["metadata"]["name"]]}, lambda change: None)
store.apply(secret(0))
gc.collect()
before = resident()
for i in range(1, 5001):
    store.apply(secret(i))
gc.collect()
print((resident() - before) / store.size)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_objects_cost_little_more_than_their_bytes() -> None:
    """5000 indexed objects of 1.4 KB take less than 1.5 times their compact JSON."""
    result = subprocess.run(
        [sys.executable, "-c", _MEASURE], capture_output=True, text=True, check=True
    )
    assert float(result.stdout) < 1.5


# Any order of events, against a plain model of the server


@dataclass
class Server:
    """A model of an API server: its objects, and the events a watch would tell."""

    version: int = 1
    objects: dict[Key, Object] = field(default_factory=dict)
    events: list[tuple[str, Object]] = field(default_factory=list)

    def write(self, key: Key, uid: str, values: list[str]) -> Object:
        """Create or update an object; give the answer."""
        self.version += 1
        old = self.objects.get(key)
        uid = old["metadata"]["uid"] if old else uid
        obj = make(key, self.version, *values, uid=uid)
        self.objects[key] = obj
        self.events.append(("MODIFIED" if old else "ADDED", obj))
        return obj

    def delete(self, key: Key) -> None:
        """Delete an object."""
        self.version += 1
        obj = self.objects.pop(key)
        gone = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self.version)}}
        self.events.append(("DELETED", gone))

    def since(self, version: int) -> list[tuple[str, Object]]:
        """Give what a watch from a version tells."""
        return [(verb, obj) for verb, obj in self.events if meta_of(obj).version > version]


KEYS = st.sampled_from([A, B])
VALUES = st.lists(st.sampled_from(["x", "y", "z"]), max_size=3)


class StoreMachine(RuleBasedStateMachine):
    """Writes, watched events, late or lost own answers, live reads, lists and rewinds.

    Rules have no preconditions but do nothing when they can't: more of the steps then count.
    """

    @initialize(tombstones=st.sampled_from([0, 100]), restores=st.booleans())
    def start(self, tombstones: int, restores: bool) -> None:
        """Start in sync with an empty server."""
        self.server = Server()
        self.uids = 0
        self.bench = Bench(tombstones=tombstones)  # for own answers, forgetting must not matter
        self.remembers = bool(tombstones)
        self.store = self.bench.store
        self.mirror: dict[Key, Meta] = {}
        self.answers: list[Object] = []
        self.reads: list[Object] = []
        self.known: dict[Key, Meta] = {}
        self.snapshot: Snapshot | None = None
        self.backup: Server | None = None
        self.restores = restores
        self.restored = False
        self.list_begins_or_ends(broken=False)
        self.list_begins_or_ends(broken=False)

    @rule(key=KEYS, values=VALUES, own=st.booleans())
    def write(self, key: Key, values: list[str], own: bool) -> None:
        """Somebody creates or updates an object; if it is us, the answer is under way."""
        self.uids += 1
        answer = self.server.write(key, f"uid-{self.uids}", values)
        if own:
            self.answers.append(answer)

    @rule(key=KEYS)
    def delete(self, key: Key) -> None:
        """Somebody deletes an object."""
        if key in self.server.objects:
            self.server.delete(key)

    @rule()
    def back_up_or_restore(self) -> None:
        """The datastore is saved, or put back; then answers under way are lost."""
        if not self.restores or self.snapshot is not None:
            return
        if self.backup is None:
            server = self.server
            self.backup = Server(server.version, dict(server.objects), list(server.events))
        else:
            self.server, self.backup = self.backup, None
            self.answers.clear()
            self.reads.clear()
            self.known.clear()
            self.restored = True

    @rule(index=st.integers(0, 10))
    def own_answer_arrives(self, index: int) -> None:
        """An answer to a write of ours arrives, in any order, or never."""
        if self.answers:
            self.store.apply(self.answers.pop(index % len(self.answers)), own=True)

    @rule(key=KEYS)
    def live_read(self, key: Key) -> None:
        """A live GET is answered; its answer is under way if deletions are remembered."""
        if key in self.server.objects and not self.restored:
            self.reads.append(self.server.objects[key])
            if not self.remembers:
                self.live_answers_arrive()

    @rule()
    def live_answers_arrive(self) -> None:
        """They are late, so the watch may have told of later deletions."""
        while self.reads:
            self.store.apply(self.reads.pop(), live=True)

    @rule(count=st.sampled_from([1, 2, 100]))
    def watch(self, count: int) -> None:
        """A list under way ends; the watch tells events, after the last one a bookmark."""
        if self.restored and self.snapshot is None:
            self.list_begins_or_ends(broken=False)
        if self.snapshot is not None:
            self.list_begins_or_ends(broken=False)
        for verb, obj in self.server.since(self.store.version)[:count]:
            meta = meta_of(obj)
            if verb == "DELETED":
                key = key_of(obj)
                self.store.remove(key, uid=meta.uid, version=meta.version, witnessed=True)
                held = self.store.meta(key)
                assert held is None or held.version > meta.version
            else:
                self.store.apply(obj)
            self.store.advance(meta.version)
        if not self.server.since(self.store.version):
            self.store.advance(self.server.version)

    @rule(broken=st.booleans())
    def list_begins_or_ends(self, broken: bool) -> None:
        """A list is answered; later it is complete here, or breaks off."""
        if self.snapshot is None:
            self.snapshot = self.store.begin(rewound=self.restored)
            self.list_version = self.server.version
            for obj in self.server.objects.values():
                if not self.snapshot.holds(key_of(obj), meta_of(obj)):
                    self.snapshot.add(obj)
            assert self.restored or self.list_version >= self.snapshot.floor, "a false rewind"
            return
        if not broken:
            self.known = {} if self.restored else self.known
            self.store.replace(self.snapshot, self.list_version)
            self.restored = False
            self.reads.clear()  # a live answer is good for the view it was asked about
        self.snapshot = None

    # What has to hold

    @invariant()
    def nothing_that_exists_goes_back_in_time(self) -> None:
        """A state once known is held, or a newer one, as long as the object exists."""
        for key, known in self.known.items():
            held = self.store.meta(key)
            if key in self.server.objects and meta_of(self.server.objects[key]).uid == known.uid:
                assert held is not None
                assert held.version >= known.version
        keys = self.store.keys()
        self.known = {key: meta for key in keys if (meta := self.store.meta(key)) is not None}

    @invariant()
    def reports_tell_the_whole_story(self) -> None:
        """Whoever only follows the changes knows what the store holds."""
        for change in self.bench.changes:
            assert self.mirror.get(change.key) == change.old
            if change.new is None:
                del self.mirror[change.key]
            else:
                self.mirror[change.key] = change.new
        self.bench.changes.clear()
        keys = self.store.keys()
        assert {key: self.store.meta(key) for key in keys} == self.mirror

    @invariant()
    def indexes_and_size_agree_with_the_objects(self) -> None:
        """Indexes and size are those of the objects held."""
        keys = self.store.keys()
        held = {key: self.store.get(key) for key in keys}
        for value in ("x", "y", "z"):
            expected = {key for key, obj in held.items() if obj and value in refs(obj)}
            assert set(self.store.by_index("refs", value)) == expected
        assert self.store.size == sum(len(entry.data) for entry in self.store._entries.values())

    @invariant()
    def caught_up_it_equals_the_server(self) -> None:
        """When the watch has told everything, the store is the server's state."""
        in_sync = not self.restored and self.snapshot is None
        if in_sync and not self.server.since(self.store.version):
            keys = self.store.keys()
            held = {key: self.store.get(key) for key in keys}
            assert held == self.server.objects


TestStoreMachine: Callable[..., Any] = StoreMachine.TestCase
StoreMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)


def walk(seed: int, steps: int = 50) -> None:
    """Take random steps of the machine."""
    chance = Random(seed)  # noqa: S311
    machine = StoreMachine()
    machine.start(chance.choice([0, 100]), chance.random() < 0.3)
    keys = [A, B]
    actions: list[Callable[[], None]] = [
        *[lambda: machine.write(chance.choice(keys), [chance.choice("xyz")], True)] * 2,
        lambda: machine.write(chance.choice(keys), [chance.choice("xyz")], False),
        *[lambda: machine.delete(chance.choice(keys))] * 2,
        *[lambda: machine.own_answer_arrives(chance.randrange(10))] * 2,
        *[lambda: machine.watch(chance.choice([1, 2, 100]))] * 3,
        lambda: machine.list_begins_or_ends(chance.random() < 0.2),
        lambda: machine.live_read(chance.choice(keys)),
        machine.live_answers_arrive,
        machine.back_up_or_restore,
    ]
    for _ in range(steps):
        chance.choice(actions)()
        machine.nothing_that_exists_goes_back_in_time()
        machine.reports_tell_the_whole_story()
        machine.indexes_and_size_agree_with_the_objects()
        machine.caught_up_it_equals_the_server()


def test_random_walks_of_the_machine() -> None:
    """The same rules and invariants, 500 walks, ten times as fast as hypothesis."""
    start = Random().randrange(1 << 32)  # noqa: S311
    for seed in range(start, start + 500):
        try:
            walk(seed)
        except AssertionError as error:
            error.add_note(f"walk({seed})")
            raise
