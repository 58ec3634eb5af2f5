"""Patches: a table of differences, then properties checked by applying them with plain appliers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.engine.patch import JSON_PATCH, MERGE_PATCH, Patch, is_stale, make_patch
from syncer.kube.errors import ApiError
from syncer.objects import Object

UID = "7c6fae51-0001"
ROOTS = ("metadata.labels", "metadata.annotations", "spec", "data", "status")


def obj(**fields: Any) -> Object:
    """Make an object as a server has it; ``labels`` and ``annotations`` go to its metadata."""
    metadata: Object = {"name": "x", "uid": UID, "resourceVersion": "5"}
    for key in ("labels", "annotations", "ownerReferences", "finalizers"):
        if key in fields:
            metadata[key] = fields.pop(key)
    return {"apiVersion": "v1", "kind": "X", "metadata": metadata, **fields}


def operations(patch: Patch | None) -> list[Object]:
    """Give the operations of what must be a JSON patch."""
    assert patch is not None
    assert isinstance(patch.body, list)
    return patch.body


def guards(*names: str) -> list[Object]:
    """The ``test`` operations of a JSON patch: the UID, then the named places."""
    pairs = [("/metadata/uid", UID), *(name.split("=") for name in names)]
    return [{"op": "test", "path": path, "value": value} for path, value in pairs]


# -- tables ---------------------------------------------------------------------------------------

EQUAL = [
    pytest.param(obj(), obj(), id="nothing there"),
    pytest.param(obj(spec={"a": [1]}), obj(spec={"a": [1]}), id="same"),
    pytest.param(obj(spec={"a": None}), obj(spec={}), id="null is absent"),
    pytest.param(
        obj(spec={"a": [{"b": None}]}), obj(spec={"a": [{}]}), id="null is absent in lists"
    ),
    pytest.param(obj(labels={}), obj(), id="empty labels are absent"),
    pytest.param(obj(), obj(annotations={}), id="absent annotations are empty"),
    pytest.param(obj(), obj(ownerReferences=[]), id="no owners"),
    pytest.param(obj(finalizers=["a"]), obj(), id="finalizers belong to their controllers"),
    pytest.param({**obj(), "kind": "Y"}, obj(), id="kind is never compared"),
]


@pytest.mark.parametrize(("actual", "wanted"), EQUAL)
def test_equal_objects_need_no_write(actual: Object, wanted: Object) -> None:
    """Nothing is written when nothing that counts differs."""
    assert make_patch(actual, wanted) is None


MERGE = [
    pytest.param(obj(data={"a": "1"}), obj(data={"a": "2"}), {"data": {"a": "2"}}, id="changed"),
    pytest.param(
        obj(data={"a": "1", "b": "2"}), obj(data={"a": "1"}), {"data": {"b": None}}, id="gone"
    ),
    pytest.param(obj(data={"a": "1"}), obj(), {"data": None}, id="top level gone"),
    pytest.param(obj(), obj(data={"a": "1"}), {"data": {"a": "1"}}, id="top level new"),
    pytest.param(obj(), obj(spec={"a": {"b": 1}}), {"spec": {"a": {"b": 1}}}, id="parents new"),
    pytest.param(
        obj(spec={"a": {"b": 1}}), obj(spec={"a": {}}), {"spec": {"a": {"b": None}}}, id="emptied"
    ),
    pytest.param(
        obj(spec={}), obj(spec={"a": {}}), {"spec": {"a": {}}}, id="an empty map matters in spec"
    ),
    pytest.param(
        obj(spec={"a": {"b": 1}}), obj(spec={"a": [1]}), {"spec": {"a": [1]}}, id="map to list"
    ),
    pytest.param(
        obj(spec={"a": [1]}), obj(spec={"a": {"b": 1}}), {"spec": {"a": {"b": 1}}}, id="list to map"
    ),
    pytest.param(
        obj(spec={"a": [1, 2]}), obj(spec={"a": [2, 1]}), {"spec": {"a": [2, 1]}}, id="list order"
    ),
    pytest.param(
        obj(spec={"a": [1, 2]}), obj(spec={"a": [1]}), {"spec": {"a": [1]}}, id="list shorter"
    ),
    pytest.param(
        obj(spec={"a": []}), obj(spec={"a": [1]}), {"spec": {"a": [1]}}, id="first element"
    ),
    pytest.param(
        obj(labels={"a": "1"}), obj(), {"metadata": {"labels": {"a": None}}}, id="last label gone"
    ),
    pytest.param(
        obj(annotations={"a.b/c": "1"}),
        obj(annotations={"a.b/c": "2"}),
        {"metadata": {"annotations": {"a.b/c": "2"}}},
        id="annotation with dots",
    ),
    pytest.param(
        obj(spec={"ports": [{"name": "a"}, {"name": "b"}]}),
        obj(spec={"ports": [{"name": "a"}]}),
        {"spec": {"ports": [{"name": "a"}]}},
        id="named element gone",
    ),
    pytest.param(
        obj(spec={"ports": [{"name": "a"}, {"name": "b"}]}),
        obj(spec={"ports": [{"name": "b"}, {"name": "a"}]}),
        {"spec": {"ports": [{"name": "b"}, {"name": "a"}]}},
        id="named elements change places",
    ),
    pytest.param(
        obj(spec={"env": [{"name": "a", "v": 1}, {"name": "a", "v": 2}]}),
        obj(spec={"env": [{"name": "a", "v": 1}, {"name": "a", "v": 3}]}),
        {"spec": {"env": [{"name": "a", "v": 1}, {"name": "a", "v": 3}]}},
        id="names not unique",
    ),
    pytest.param(
        obj(status={"conditions": [{"name": "a", "v": 1}]}),
        obj(status={"conditions": [{"name": "a", "v": 2}, {"name": "b"}]}),
        {"status": {"conditions": [{"name": "a", "v": 2}, {"name": "b"}]}},
        id="status lists whole",
    ),
]


@pytest.mark.parametrize(("actual", "wanted", "changes"), MERGE)
def test_merge_patch_is_minimal(actual: Object, wanted: Object, changes: Object) -> None:
    """A merge patch holds what differs and the UID, nothing else."""
    patch = make_patch(actual, wanted)
    assert patch is not None
    assert patch.content_type == MERGE_PATCH
    expected = {**changes, "metadata": {**changes.get("metadata", {}), "uid": UID}}
    assert patch.body == expected


POD = obj(
    spec={
        "containers": [
            {"name": "app", "image": "a:1", "env": [{"name": "A", "value": "1"}]},
            {"name": "injected", "image": "sidecar:1"},
        ],
        "tolerations": [{"key": "node.kubernetes.io/not-ready"}],
    }
)


def pod(change: Any) -> Object:
    """Give a copy of POD with a change made to its spec."""
    copied = copy.deepcopy(POD)
    change(copied["spec"])
    return copied


JSON = [
    pytest.param(
        pod(lambda spec: spec["containers"][0].update(image="a:2")),
        [
            *guards("/spec/containers/0/name=app"),
            {"op": "replace", "path": "/spec/containers/0/image", "value": "a:2"},
        ],
        id="image",
    ),
    pytest.param(
        pod(lambda spec: spec["containers"][0]["env"][0].update(value="2")),
        [
            *guards("/spec/containers/0/name=app", "/spec/containers/0/env/0/name=A"),
            {"op": "replace", "path": "/spec/containers/0/env/0/value", "value": "2"},
        ],
        id="nested named list",
    ),
    pytest.param(
        pod(lambda spec: spec["containers"][0].pop("env")),
        [
            *guards("/spec/containers/0/name=app"),
            {"op": "remove", "path": "/spec/containers/0/env"},
        ],
        id="field of an element gone",
    ),
    pytest.param(
        pod(lambda spec: spec["containers"][1].update(image="b", tty=True)),
        [
            *guards("/spec/containers/1/name=injected"),
            {"op": "replace", "path": "/spec/containers/1/image", "value": "b"},
            {"op": "add", "path": "/spec/containers/1/tty", "value": True},
        ],
        id="name tested once",
    ),
    pytest.param(
        pod(lambda spec: spec["tolerations"].append({"key": "a"})),
        [*guards(), {"op": "add", "path": "/spec/tolerations/-", "value": {"key": "a"}}],
        id="toleration appended",
    ),
    pytest.param(
        pod(lambda spec: spec["containers"].append({"name": "c"})),
        [*guards(), {"op": "add", "path": "/spec/containers/-", "value": {"name": "c"}}],
        id="named element appended",
    ),
]


@pytest.mark.parametrize(("wanted", "body"), JSON)
def test_json_patch_touches_only_the_elements_meant(wanted: Object, body: list[Object]) -> None:
    """A change inside a named element, or behind the last one, leaves the others alone."""
    patch = make_patch(POD, wanted)
    assert patch is not None
    assert patch.content_type == JSON_PATCH
    assert patch.body == body


def test_json_patch_takes_the_whole_write() -> None:
    """Other changes go along in the same JSON patch, their missing parents first."""
    wanted = pod(lambda spec: spec["containers"][0].update(image="a:2"))
    wanted["metadata"]["annotations"] = {"a/b~c": "1"}
    wanted["metadata"]["labels"] = {"l": "1"}
    patch = make_patch(POD, wanted, roots=("metadata.labels", "metadata.annotations", "spec"))
    assert patch is not None
    assert operations(patch)[1:3] == [
        {"op": "add", "path": "/metadata/labels", "value": {"l": "1"}},
        {"op": "add", "path": "/metadata/annotations", "value": {"a/b~c": "1"}},
    ]


def test_pointers_are_escaped() -> None:
    """Slash and tilde in keys are written as RFC 6901 wants it."""
    actual = copy.deepcopy(POD)
    actual["metadata"]["annotations"] = {"a/b~c": "1", "-": "1"}
    wanted = pod(lambda spec: spec["containers"][0].update(image="a:2"))
    wanted["metadata"]["annotations"] = {"a/b~c": "2", "-": "2"}
    patch = make_patch(actual, wanted)
    assert patch is not None
    paths = [operation["path"] for operation in operations(patch)]
    assert "/metadata/annotations/a~1b~0c" in paths
    assert "/metadata/annotations/-" in paths


def test_missing_parents_are_made_once() -> None:
    """Two fields under a map that isn't there share it."""
    wanted = pod(lambda spec: spec["containers"][0].update(image="a:2"))
    wanted["status"] = {"a": 1, "b": 2}
    patch = make_patch(POD, wanted, roots=("status.a", "status.b", "spec"))
    assert patch is not None
    assert apply(patch.body, POD) == wanted


def test_version_is_a_precondition_when_asked() -> None:
    """Both forms carry the resource version if the write must not meet a changed object."""
    merging = make_patch(obj(), obj(data={"a": "1"}), version=True)
    assert merging is not None
    assert merging.body == {"data": {"a": "1"}, "metadata": {"uid": UID, "resourceVersion": "5"}}
    json = make_patch(POD, pod(lambda spec: spec["tolerations"].append({})), version=True)
    assert json is not None
    assert operations(json)[1] == {
        "op": "test",
        "path": "/metadata/resourceVersion",
        "value": "5",
    }


def test_root_with_a_list_walk_compares_only_that_field() -> None:
    """``spec.containers[].image`` writes images, by name, whatever else differs."""
    wanted = pod(lambda spec: spec["containers"][0].update(image="a:2", tty=True))
    wanted["spec"]["containers"].reverse()
    patch = make_patch(POD, wanted, roots=("spec.containers[].image",))
    assert patch is not None
    assert patch.body == [
        *guards("/spec/containers/0/name=app"),
        {"op": "replace", "path": "/spec/containers/0/image", "value": "a:2"},
    ]


@pytest.mark.parametrize(
    "roots",
    [
        ("spec", "spec.containers"),
        ("spec.containers", "spec"),
        ("spec", "spec.containers[].image"),
        ("spec", "spec"),
    ],
    ids=lambda roots: " ".join(roots),
)
def test_overlapping_roots_are_one(roots: tuple[str, ...]) -> None:
    """A root below another one adds nothing to the patch."""
    wanted = pod(lambda spec: spec["containers"].append({"name": "c"}))
    assert make_patch(POD, wanted, roots=roots) == make_patch(POD, wanted, roots=("spec",))


def test_fields_name_what_changes_without_values() -> None:
    """Logs can say where a patch strikes, two steps deep."""
    actual = obj(labels={"a": "1"}, spec={"a": {"b": "secret"}, "c": 1})
    wanted = obj(labels={"a": "2"}, spec={"a": {"b": "other"}, "c": 2})
    patch = make_patch(actual, wanted)
    assert patch is not None
    assert patch.fields == ("metadata.labels", "spec.a", "spec.c")


def test_digest_knows_the_change_whatever_the_object() -> None:
    """The same change has the same digest for another UID and version; another change has not."""
    other = obj(data={"a": "1"})
    other["metadata"] |= {"uid": "another", "resourceVersion": "77"}
    one = make_patch(obj(data={"a": "1"}), obj(data={"a": "2"}))
    same = make_patch(other, obj(data={"a": "2"}), version=True)
    different = make_patch(other, obj(data={"a": "3"}))
    assert one is not None
    assert same is not None
    assert different is not None
    assert one.digest == same.digest != different.digest


# -- appliers and properties ----------------------------------------------------------------------


def merge(target: Any, patch: Any) -> Any:
    """Apply a merge patch, as in RFC 7386 section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def apply(operations: Any, target: Object) -> Object:
    """Apply a JSON patch of test, add, replace and remove, as in RFC 6902 section 4."""
    result: Any = copy.deepcopy(target)
    for operation in operations:
        steps = operation["path"].split("/")[1:]
        *way, last = [step.replace("~1", "/").replace("~0", "~") for step in steps]
        here = result
        for step in way:
            here = here[int(step)] if isinstance(here, list) else here[step]
        index: Any = int(last) if isinstance(here, list) and last != "-" else last
        match operation["op"]:
            case "test":
                assert here[index] == operation["value"]
            case "add" if isinstance(here, list):
                assert last == "-"
                here.append(operation["value"])
            case "add":
                here[index] = operation["value"]
            case "replace":
                assert isinstance(here, list) or index in here
                here[index] = operation["value"]
            case "remove":
                del here[index]
    return result  # type: ignore[no-any-return]


def pruned(value: Any) -> Any:
    """Drop null members of maps, which stand for nothing."""
    if isinstance(value, dict):
        return {key: pruned(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [pruned(inner) for inner in value]
    return value


KEYS = st.sampled_from(["a", "b", "c/d", "e~f", "-", "0"])
LEAVES = st.none() | st.integers(2, 4) | st.sampled_from(["x", "y", ""])
NAMED = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["n1", "n2", "n3"])},
        optional={
            "image": LEAVES,
            "env": st.lists(st.fixed_dictionaries({"name": KEYS}), max_size=2),
        },
    ),
    max_size=3,
)
VALUES = st.recursive(
    LEAVES | NAMED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
MAPS = st.dictionaries(KEYS, VALUES, max_size=3)
STRINGS = st.dictionaries(KEYS, st.sampled_from(["x", "y"]), max_size=3)


@st.composite
def objects(draw: st.DrawFn) -> Object:
    """An object with some labels, annotations, spec, data and status, or none."""
    fields = {
        "labels": STRINGS,
        "annotations": STRINGS,
        "spec": MAPS,
        "data": STRINGS,
        "status": MAPS,
    }
    made = obj(**{key: draw(kind) for key, kind in fields.items() if draw(st.booleans())})
    if "spec" in made and draw(st.booleans()):
        made["spec"]["containers"] = draw(NAMED)
    return made


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Object, Object]:
    """Two objects; the second often made from the first by small changes, as the engine does."""
    actual = draw(objects())
    if draw(st.booleans()):
        return actual, draw(objects())
    wanted = copy.deepcopy(actual)
    for item in wanted.get("spec", {}).get("containers", []):
        if draw(st.booleans()):
            item["image"] = draw(LEAVES)
    grows: bool = draw(st.booleans())
    lists = [value for value in wanted.get("spec", {}).values() if isinstance(value, list)]
    if lists and grows:
        lists[draw(st.integers(0, len(lists) - 1))].append(draw(VALUES))
    return actual, wanted


def applied(actual: Object, wanted: Object, roots: tuple[str, ...] | None) -> Object:
    """Patch ``actual``; check on the way that the inputs stay as they are."""
    before = copy.deepcopy((actual, wanted))
    patch = make_patch(actual, wanted, roots=roots)
    assert (actual, wanted) == before
    if patch is None:
        return actual
    result = (
        apply(patch.body, actual) if patch.content_type == JSON_PATCH else merge(actual, patch.body)
    )
    assert isinstance(result, dict)
    return result


def normal(value: Object) -> Object:
    """Bring an object to the form in which absent, null and empty metadata are one."""
    result: Object = pruned(value)
    for key in ("labels", "annotations"):
        if not result["metadata"].get(key):
            result["metadata"].pop(key, None)
    return result


@given(pair=pairs())
def test_applied_patch_gives_what_is_wanted(pair: tuple[Object, Object]) -> None:
    """Applying the patch to the object as it is gives the object as it is wanted."""
    actual, wanted = pair
    assert normal(applied(actual, wanted, None)) == normal(wanted)
    assert normal(applied(actual, wanted, ROOTS)) == normal(wanted)


@given(pair=pairs())
def test_patch_reaches_a_fixed_point(pair: tuple[Object, Object]) -> None:
    """What a patch has made needs no other patch."""
    actual, wanted = pair
    assert make_patch(applied(actual, wanted, None), wanted) is None


@given(value=objects())
def test_object_equal_to_itself(value: Object) -> None:
    """An object as it is wanted needs no write."""
    assert make_patch(value, copy.deepcopy(value)) is None


@given(pair=pairs(), roots=st.sets(st.sampled_from(ROOTS)))
def test_nothing_outside_the_roots_changes(pair: tuple[Object, Object], roots: set[str]) -> None:
    """Fields outside the roots stay as the server has them."""
    actual, wanted = pair
    result = applied(actual, wanted, tuple(sorted(roots)))
    for root in set(ROOTS) - roots:
        *way, last = root.split(".")
        before: Any = actual
        after: Any = result
        for step in way:
            before, after = before[step], after[step]
        assert pruned(before.get(last)) == pruned(after.get(last))


# -- errors ---------------------------------------------------------------------------------------


def error(status: int, reason: str, **details: Any) -> ApiError:
    """Make the error of a patch."""
    return ApiError(status, reason, "no", details=details, attempt="PATCH /api/v1/x")


@pytest.mark.parametrize(
    ("given_error", "stale"),
    [
        pytest.param(error(404, "NotFound"), False, id="not found"),
        pytest.param(error(409, "AlreadyExists"), False, id="already exists"),
        pytest.param(
            error(422, "Invalid", kind="Pod", causes=[{"field": "spec.x"}]),
            False,
            id="field invalid",
        ),
        pytest.param(
            error(
                422, "Invalid", kind="Pod", causes=[{"field": "metadata.uid"}, {"field": "spec.x"}]
            ),
            False,
            id="UID and another field",
        ),
        pytest.param(error(409, "Conflict"), True, id="conflict"),
        pytest.param(
            error(422, "Invalid", kind="Pod", causes=[{"field": "metadata.uid"}]),
            True,
            id="wrong UID",
        ),
        pytest.param(error(422, "Invalid"), True, id="JSON patch does not apply"),
    ],
)
def test_stale_errors_are_told_from_refusals(given_error: ApiError, stale: bool) -> None:
    """A write that met another object or version is stale; a refused field is not."""
    assert is_stale(given_error) is stale
