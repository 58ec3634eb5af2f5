"""The plan of a sync: a table of pairs of objects and the actions they call for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from syncer import ownership
from syncer.engine.plan import (
    Create,
    Delete,
    Pair,
    Post,
    Tell,
    Update,
    Wait,
    graft,
    plan,
)
from syncer.naming import Names
from syncer.objects import Key, Object, Resource, Side
from syncer.settings import Settings
from syncer.types import (
    Blocked,
    Context,
    Direction,
    Gone,
    Kind,
    Notice,
    OnHost,
    OnHostGone,
    Part,
    Query,
    Refused,
    Skip,
)

NAMES = Names("tenant-1", "host-ns")
KEY = Key("default", "web")
HOST_KEY = NAMES.host_key(KEY)
OWNER = {"apiVersion": "v1", "kind": "Service", "name": "tenant-1", "uid": "owner"}
THINGS = Resource("", "v1", "things", "Thing")


def to_host(virtual: Object, ctx: Context) -> Object:
    metadata = virtual["metadata"]
    return {
        "metadata": {"labels": ctx.names.labels(metadata.get("labels"))},
        "spec": {"size": virtual["spec"]["size"]},
    }


def to_virtual(virtual: Object, host: Object | None, _ctx: Context) -> Object:
    virtual["status"] = host["status"] if host and "status" in host else {}
    return virtual


KIND = Kind(
    name="things",
    resource=THINGS,
    direction=Direction.TO_HOST,
    to_host=to_host,
    mutable=("spec.size",),
    to_virtual=to_virtual,
    virtual_parts=(Part("status", ("status",)),),
)
GRACEFUL = replace(KIND, graceful=True, mirror_deletion=True)


def virtual_object(size: int = 1, uid: str = "v1", **metadata: Any) -> Object:
    return {
        "metadata": {
            "name": "web",
            "namespace": "default",
            "uid": uid,
            "resourceVersion": "5",
            **metadata,
        },
        "spec": {"size": size},
        "status": {"phase": "Ready"},
    }


def host_object(size: int = 1, uid: str = "h1", virtual_uid: str = "v1", **metadata: Any) -> Object:
    wanted = to_host(virtual_object(size), context())
    host = ownership.stamp(wanted, virtual_object(size, virtual_uid), NAMES, OWNER)
    host["metadata"] |= {"uid": uid, "resourceVersion": "9", **metadata}
    host["status"] = {"phase": "Ready"}
    return host


def context() -> Context:
    return Context(NAMES, Settings(name="tenant-1"))


def pair(virtual: Object | None, host: Object | None, **more: Any) -> Pair:
    kept = orjson.dumps([virtual, host])
    return Pair(
        KEY,
        lambda: orjson.loads(kept)[0],
        lambda: orjson.loads(kept)[1],
        HOST_KEY,
        owner=OWNER,
        **more,
    )


LEAVING: Object = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}


def delete(side: Side, uid: str, *, grace: int | None = None, look: bool = False) -> Any:
    """What a table row compares of a Delete; ``look``: both looks at live servers are asked."""
    return (side, uid, grace, look, look)


@pytest.mark.parametrize(
    ("kind", "virtual", "host", "witnessed", "expected"),
    [
        pytest.param(KIND, None, None, None, [], id="nobody is there: nothing to do"),
        pytest.param(KIND, virtual_object(), host_object(), None, [], id="an equal pair: nothing"),
        pytest.param(
            KIND,
            None,
            host_object(**LEAVING),
            None,
            [],
            id="an orphan that is leaving already: nothing",
        ),
        pytest.param(
            KIND,
            None,
            host_object(),
            "v1",
            [delete(Side.HOST, "h1")],
            id="a deletion the watch saw: host copy deleted",
        ),
        pytest.param(
            KIND,
            None,
            host_object(),
            None,
            [delete(Side.HOST, "h1", look=True)],
            id="an orphan nobody saw die: only after looks at live servers",
        ),
        pytest.param(
            KIND,
            None,
            host_object(virtual_uid="v0"),
            "v1",
            [delete(Side.HOST, "h1", look=True)],
            id="the witnessed deletion was of another object: look",
        ),
        pytest.param(
            KIND,
            virtual_object(uid="v2"),
            host_object(),
            None,
            [(Side.HOST, "h1", None, False, True)],
            id="made again under the name: the old copy goes first, if it is the same cluster",
        ),
        pytest.param(
            KIND,
            virtual_object(uid="v2"),
            host_object(**LEAVING),
            None,
            [],
            id="made again and the old copy is leaving: wait",
        ),
        pytest.param(
            replace(GRACEFUL, restamp=True),
            virtual_object(uid="v2"),
            host_object(**LEAVING),
            None,
            [],
            id="made again while a copy that would be kept is leaving: it is its predecessor's",
        ),
        pytest.param(
            GRACEFUL,
            virtual_object(**LEAVING),
            host_object(),
            None,
            [delete(Side.HOST, "h1", grace=30)],
            id="virtual deleting: host deleted with the same grace",
        ),
        pytest.param(
            KIND,
            virtual_object(**LEAVING),
            host_object(),
            None,
            [delete(Side.HOST, "h1")],
            id="virtual deleting, no grace in the kind",
        ),
        pytest.param(
            GRACEFUL,
            virtual_object(**LEAVING),
            host_object(**LEAVING),
            None,
            [],
            id="both deleting with the same grace: wait",
        ),
        pytest.param(
            GRACEFUL,
            virtual_object(**{**LEAVING, "deletionGracePeriodSeconds": 5}),
            host_object(**LEAVING),
            None,
            [delete(Side.HOST, "h1", grace=5)],
            id="the tenant shortened the grace: host told",
        ),
        pytest.param(
            GRACEFUL,
            virtual_object(**LEAVING),
            host_object(**{**LEAVING, "deletionGracePeriodSeconds": 5}),
            None,
            [delete(Side.VIRTUAL, "v1", grace=5)],
            id="the host shortened the grace: tenant told",
        ),
        pytest.param(
            GRACEFUL,
            virtual_object(**LEAVING),
            None,
            None,
            [delete(Side.VIRTUAL, "v1", grace=0)],
            id="host gone while virtual deleting: virtual finalised",
        ),
        pytest.param(
            replace(GRACEFUL, on_host_gone=lambda _v: OnHostGone.DELETE_VIRTUAL),
            virtual_object(**LEAVING),
            None,
            None,
            [(Side.VIRTUAL, "v1", 0, True, False)],
            id="the host copy of a started one is missing, unseen: finalised after a look",
        ),
        pytest.param(
            GRACEFUL,
            virtual_object(**{**LEAVING, "deletionGracePeriodSeconds": 0}),
            None,
            None,
            [],
            id="finalised already, a finalizer holds it: nothing",
        ),
        pytest.param(
            KIND,
            virtual_object(**LEAVING),
            None,
            None,
            [],
            id="declarative kind held by a finalizer: nothing",
        ),
        pytest.param(
            replace(GRACEFUL, on_host_gone=lambda _v: OnHostGone.DELETE_VIRTUAL),
            virtual_object(),
            None,
            None,
            [(Side.VIRTUAL, "v1", 0, True, True)],
            id="a started pod whose copy vanished: reported gone, after looks",
        ),
        pytest.param(
            replace(KIND, to_host=lambda _v, _c: Skip("unused")),
            virtual_object(),
            host_object(),
            None,
            [(Side.HOST, "h1", None, False, True)],
            id="not wanted any more: removed, if it is the same cluster",
        ),
        pytest.param(
            replace(KIND, to_virtual=lambda _v, _h, _c: Gone("other node")),
            virtual_object(),
            host_object(),
            None,
            [delete(Side.VIRTUAL, "v1", grace=0)],
            id="the mapper says it can't be: deleted for its owner to make anew",
        ),
    ],
)
def test_deletions(
    kind: Kind,
    virtual: Object | None,
    host: Object | None,
    witnessed: str | None,
    expected: list[Any],
) -> None:
    """Who is deleted, with which grace, and after which looks at the live servers."""
    actions = plan(kind, pair(virtual, host, virtual_deleted=witnessed), context())
    assert all(isinstance(action, Delete) for action in actions)
    assert expected == [
        (action.side, action.uid, action.grace, action.confirm, action.identity)
        for action in actions
        if isinstance(action, Delete)
    ]


@pytest.mark.parametrize("direction", [Direction.TO_HOST, Direction.DERIVED])
def test_a_deletion_for_want_of_use_names_what_it_is_based_on(direction: Direction) -> None:
    """Who deletes because a query finds nothing lets the executor doubt what was searched."""
    query = Query(Side.VIRTUAL, "users", "things", str(KEY))
    kind = replace(
        KIND,
        direction=direction,
        to_host=lambda _v, _c: Skip("unused"),
        derive=lambda _k, _v, _c: Skip("unused"),
    )
    ctx = replace(context(), queries={query: ()})
    [action] = plan(kind, pair(virtual_object(), host_object()), ctx)
    assert isinstance(action, Delete)
    assert (action.identity, action.based_on) == (True, (query,))


@pytest.mark.parametrize(
    ("virtual", "instead_of"),
    [
        pytest.param(virtual_object(**LEAVING), "", id="its own copy"),
        pytest.param(virtual_object(uid="v2", **LEAVING), "v2", id="another's, being deleted"),
        pytest.param(virtual_object(uid="v2"), "v2", id="another's: made again"),
    ],
)
def test_anothers_copy_is_deleted_for_the_object_that_is_there(
    virtual: Object, instead_of: str
) -> None:
    """A copy of another object than the one seen may be its successor's: the executor looks."""
    [action] = plan(KIND, pair(virtual, host_object()), context())
    assert isinstance(action, Delete)
    assert (action.uid, action.instead_of) == ("h1", instead_of)


@pytest.mark.parametrize("grace", [5, 60])
def test_the_grace_of_anothers_copy_is_its_own(grace: int) -> None:
    """A predecessor that is leaving neither hurries its successor nor is hurried by it."""
    successor = virtual_object(uid="v2", **{**LEAVING, "deletionGracePeriodSeconds": grace})
    assert plan(GRACEFUL, pair(successor, host_object(**LEAVING)), context()) == []


def test_a_mirrored_deletion_asks_who_the_host_is() -> None:
    """A terminating host copy deletes the virtual object, if the host is still the same."""
    [action] = plan(GRACEFUL, pair(virtual_object(), host_object(**LEAVING)), context())
    assert isinstance(action, Delete)
    assert (action.side, action.grace, action.identity) == (Side.VIRTUAL, 30, True)


@pytest.mark.parametrize("gone", OnHostGone)
def test_a_copy_that_leaves_without_grace_is_as_good_as_gone(gone: OnHostGone) -> None:
    """What will be made again is not deleted first, whether its end is seen in one step or two."""
    leaving = host_object(**{**LEAVING, "deletionGracePeriodSeconds": 0})
    kind = replace(GRACEFUL, on_host_gone=lambda _virtual: gone)
    actions = plan(kind, pair(virtual_object(), leaving), context())
    assert bool(actions) is (gone is not OnHostGone.RECREATE)


def test_a_declarative_copy_that_terminates_is_waited_for() -> None:
    """Without mirroring, nothing is done until the host object is gone; then it's made again."""
    assert plan(KIND, pair(virtual_object(), host_object(**LEAVING)), context()) == []
    [action] = plan(KIND, pair(virtual_object(), None), context())
    assert isinstance(action, Create)


def test_a_new_object_is_created_with_all_marks() -> None:
    """What is sent first is complete: no second write is needed."""
    [action] = plan(KIND, pair(virtual_object(), None), context())
    assert isinstance(action, Create)
    assert action.side is Side.HOST
    assert Key("default", "web") == ownership.virtual_key(action.wanted, NAMES)
    assert action.wanted["metadata"]["ownerReferences"][0]["uid"] == "owner"


def test_a_change_is_one_patch_each_way() -> None:
    """The tenant's change goes down, the host's status comes up, each in one write."""
    host = host_object()
    host["status"] = {"phase": "Failed"}
    down, up = plan(KIND, pair(virtual_object(size=2), host), context())
    assert isinstance(down, Update)
    assert (down.side, down.subresource) == (Side.HOST, "")
    assert down.patch.body == {"metadata": {"uid": "h1"}, "spec": {"size": 2}}
    assert isinstance(up, Update)
    assert (up.side, up.subresource) == (Side.VIRTUAL, "status")
    assert up.patch.body == {"metadata": {"uid": "v1"}, "status": {"phase": "Failed"}}


def test_a_restamped_kind_keeps_its_copy() -> None:
    """Made again under the same name: only the UID mark changes on the host."""
    kind = replace(KIND, restamp=True)
    [action] = plan(kind, pair(virtual_object(uid="v2"), host_object()), context())
    assert isinstance(action, Update)
    assert action.patch.body == {
        "metadata": {"uid": "h1", "annotations": {ownership.OBJECT_UID: "v2"}}
    }


def test_a_copy_without_a_uid_mark_is_taken_over() -> None:
    """Copies of vcluster v0.7 carry no UID: they get one and stay."""
    host = host_object()
    del host["metadata"]["annotations"][ownership.OBJECT_UID]
    [action] = plan(KIND, pair(virtual_object(), host), context())
    assert isinstance(action, Update)


@pytest.mark.parametrize("host", [None, host_object()], ids=["absent", "present"])
def test_refusals_and_waits_are_said_and_change_nothing(host: Object | None) -> None:
    """A mapper that won't or can't yet writes nothing to the host."""
    refused = replace(KIND, to_host=lambda _v, _c: Refused("spec.x: no"))
    [told] = plan(refused, pair(virtual_object(), host), context())
    assert told == Tell(Notice("SyncError", "spec.x: no"))
    blocked = Blocked("waits")
    waiting = replace(KIND, to_host=lambda _v, _c: blocked)
    assert [Wait(blocked)] == plan(waiting, pair(virtual_object(), host), context())


def test_what_a_dying_copy_says_is_not_its_successors() -> None:
    """An object made again takes no status from the copy of the one before."""
    host = host_object(**LEAVING)
    host["status"] = {"phase": "Bound"}
    kind = replace(KIND, restamp=True)
    assert plan(kind, pair(virtual_object(uid="v2"), host), context()) == []
    [action] = plan(kind, pair(virtual_object(uid="v1"), host), context())
    assert isinstance(action, Update)


def test_a_lost_copy_is_reported_after_looks() -> None:
    """What only the host's list doesn't show is not told to the tenant as lost."""
    kind = replace(
        KIND,
        on_host_gone=lambda _virtual: OnHostGone.REPORT,
        to_virtual=lambda virtual, _h, _c: {**virtual, "status": {"phase": "Lost"}},
    )
    [action] = plan(kind, pair(virtual_object(), None), context())
    assert isinstance(action, Update)
    assert (action.side, action.confirm) == (Side.VIRTUAL, True)


def test_children_go_only_once_the_copy_is_known_to_be_gone() -> None:
    """The deletion that looks at the host comes first: when it finds the copy, nothing is lost."""
    child = ("secrets", Key("host-ns", "token"), "c1", "v1")
    kind = replace(GRACEFUL, on_host_gone=lambda _virtual: OnHostGone.DELETE_VIRTUAL)
    first, second = plan(kind, pair(virtual_object(), None, children=lambda: (child,)), context())
    assert isinstance(first, Delete)
    assert isinstance(second, Delete)
    assert (first.side, first.confirm) == (Side.VIRTUAL, True)
    assert second.resource == "secrets"


def test_skip_backsync_keeps_an_orphan() -> None:
    """Host objects that serve another object stay without a virtual namesake."""
    host = host_object()
    host["metadata"]["annotations"][ownership.SKIP_BACKSYNC] = "true"
    assert plan(KIND, pair(None, host), context()) == []


def reserved_object(**metadata: Any) -> Object:
    """A host copy made before its virtual object, at 1767225600 s."""
    host = ownership.reserve(to_host(virtual_object(), context()), KEY, NAMES, OWNER)
    made = {"uid": "h1", "resourceVersion": "9", "creationTimestamp": "2026-01-01T00:00:00Z"}
    host["metadata"] |= made | metadata
    return host


@pytest.mark.parametrize(
    ("host", "witnessed", "not_before"),
    [
        pytest.param(host_object(), None, None, id="an ordinary orphan: now"),
        pytest.param(reserved_object(), None, 1767225720.0, id="reserved: two minutes old"),
        pytest.param(
            reserved_object(), "v0", 1767225720.0, id="its predecessor's end says nothing of it"
        ),
    ],
)
def test_a_reserved_copy_is_no_orphan_yet(
    host: Object, witnessed: str | None, not_before: float | None
) -> None:
    """Whoever made it is about to make its virtual object; after a time it is an orphan as any."""
    [action] = plan(KIND, pair(None, host, virtual_deleted=witnessed), context())
    assert isinstance(action, Delete)
    assert (action.not_before, action.confirm, action.identity) == (not_before, True, True)


def test_a_copy_whose_object_was_seen_to_go_is_no_reservation() -> None:
    """A copy left with both marks waits for nobody: its very object was there, and went."""
    host = host_object()
    host["metadata"]["annotations"][ownership.BLOCK_DELETION] = "true"
    host["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    [action] = plan(KIND, pair(None, host, virtual_deleted="v1"), context())
    assert isinstance(action, Delete)
    assert (action.not_before, action.confirm) == (None, False)


@pytest.mark.parametrize("versioned", [False, True])
def test_patches_hold_for_one_version_where_numbers_are_given_out(*, versioned: bool) -> None:
    """On both sides; of other kinds a patch holds whatever else was changed meanwhile."""

    def back(virtual: Object, host: Object | None, ctx: Context) -> Object:
        virtual["spec"]["port"] = 30001
        return to_virtual(virtual, host, ctx)

    kind = replace(KIND, to_virtual=back, versioned=versioned)
    actions = plan(kind, pair(virtual_object(2), host_object(1)), context())
    found = []
    for action in actions:
        assert isinstance(action, Update)
        assert isinstance(action.patch.body, dict)
        found.append((action.side, action.patch.body["metadata"].get("resourceVersion")))
    versions = ("9", "5") if versioned else (None, None)
    assert found == list(zip((Side.HOST, Side.VIRTUAL), versions, strict=True))


@pytest.mark.parametrize("restamp", [False, True])
def test_a_reserved_copy_is_adopted_in_one_write(*, restamp: bool) -> None:
    """When the virtual object is there, its UID goes on the copy and the reservation off."""
    kind = replace(KIND, restamp=restamp)
    host = {**reserved_object(), "status": {"phase": "Ready"}}
    [action] = plan(kind, pair(virtual_object(), host), context())
    assert isinstance(action, Update)
    annotations = {ownership.OBJECT_UID: "v1", ownership.BLOCK_DELETION: None}
    assert action.patch.body == {"metadata": {"uid": "h1", "annotations": annotations}}


def test_a_tenant_reserves_nothing() -> None:
    """The mark on a virtual object neither crosses nor keeps its copy."""
    marked = virtual_object(annotations={ownership.BLOCK_DELETION: "true"})

    def passing(virtual: Object, ctx: Context) -> Object:
        wanted = to_host(virtual, ctx)
        wanted["metadata"]["annotations"] = dict(virtual["metadata"]["annotations"])
        return wanted

    kind = replace(KIND, to_host=passing)
    [action] = plan(kind, pair(marked, None), context())
    assert isinstance(action, Create)
    assert ownership.BLOCK_DELETION not in action.wanted["metadata"]["annotations"]
    assert plan(kind, pair(marked, host_object()), context()) == []


def test_children_go_after_the_copy() -> None:
    """Children are removed when both sides are gone, not while the host copy is there."""
    child = ("secrets", Key("host-ns", "token"), "c1", "v1")
    [action] = plan(KIND, pair(None, None, children=lambda: (child,)), context())
    assert isinstance(action, Delete)
    assert (action.resource, action.key, action.uid) == ("secrets", Key("host-ns", "token"), "c1")
    actions = plan(KIND, pair(None, host_object(), children=lambda: (child,)), context())
    assert [action.resource for action in actions if isinstance(action, Delete)] == [""]


def test_parts_go_through_their_subresources() -> None:
    """Each subresource gets its own write, the binding as an own object, in order."""

    def bound(virtual: Object, host: Object | None, ctx: Context) -> Object:
        assert host is not None
        virtual["spec"]["nodeName"] = "node-0"
        virtual["metadata"]["labels"] = {"a": "b"}
        return to_virtual(virtual, host, ctx)

    kind = replace(
        KIND,
        to_virtual=bound,
        virtual_parts=(
            Part("binding", ("spec.nodeName",), lambda _a, w: {"target": w["spec"]["nodeName"]}),
            Part("status", ("status",)),
        ),
    )
    host = host_object()
    host["status"] = {"phase": "Running"}
    main, binding, status = plan(kind, pair(virtual_object(), host), context())
    assert isinstance(main, Update)
    assert main.patch.body == {"metadata": {"uid": "v1", "labels": {"a": "b"}}}
    assert Post(Side.VIRTUAL, KEY, "binding", {"target": "node-0"}) == binding
    assert isinstance(status, Update)
    assert status.subresource == "status"


DERIVED = Kind(
    name="derived",
    resource=THINGS,
    direction=Direction.DERIVED,
    derive=lambda _k, virtual, _c: {**(virtual or {"metadata": {}}), "spec": {"size": 1}},
    derived_mark=lambda virtual: virtual["metadata"].get("labels") == {"ours": "true"},
)


@pytest.mark.parametrize(
    ("kind", "virtual", "expected"),
    [
        pytest.param(DERIVED, virtual_object(labels={"ours": "true"}), [], id="as it should be"),
        pytest.param(DERIVED, virtual_object(size=2), [], id="a tenant's own object is left alone"),
        pytest.param(DERIVED, None, [Create], id="missing: made"),
        pytest.param(
            DERIVED,
            virtual_object(size=2, labels={"ours": "true"}),
            [Update],
            id="differs: patched",
        ),
        pytest.param(
            replace(DERIVED, derive=lambda _k, _v, _c: Skip("not needed")),
            virtual_object(labels={"ours": "true"}),
            [Delete],
            id="not needed any more: removed",
        ),
    ],
)
def test_derived_objects(kind: Kind, virtual: Object | None, expected: list[type]) -> None:
    """Derived objects are made, kept and removed; others of that name are not ours."""
    assert expected == [type(action) for action in plan(kind, pair(virtual, None), context())]


ON_HOST = replace(
    DERIVED,
    derived_mark=None,
    on_host=OnHost(lambda key, _names: key.name, lambda _host, _names: KEY, lambda _names: "a=b"),
)


@pytest.mark.parametrize(
    ("kind", "host", "expected"),
    [
        pytest.param(ON_HOST, host_object(size=1), [], id="as it should be"),
        pytest.param(ON_HOST, None, [Create], id="missing: made"),
        pytest.param(ON_HOST, host_object(size=2), [Update], id="differs: patched"),
        pytest.param(
            replace(ON_HOST, derive=lambda _k, _h, _c: Skip("not needed")),
            host_object(size=1),
            [Delete],
            id="not needed any more: removed",
        ),
    ],
)
def test_derived_objects_on_the_host(kind: Kind, host: Object | None, expected: list[type]) -> None:
    """What is derived on the host is written there alone, and goes only from the same cluster."""
    actions = plan(kind, pair(None, host), context())
    assert expected == [type(action) for action in actions]
    assert all(getattr(action, "side", None) is Side.HOST for action in actions)
    assert all(action.identity for action in actions if isinstance(action, Delete))


def test_grafting_a_list_field_matches_by_name() -> None:
    """Only the named field of elements with the same name is taken over."""
    base = {"c": [{"name": "a", "x": 1, "y": 1}, {"name": "injected", "x": 9}]}
    donor = {"c": [{"name": "a", "x": 2, "y": 2}]}
    assert graft(base, donor, "c[].x") == {
        "c": [{"name": "a", "x": 2, "y": 1}, {"name": "injected", "x": 9}]
    }
    assert base["c"][0]["x"] == 1
