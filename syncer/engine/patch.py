"""The smallest patch that turns an object as it is into the object as it is wanted.

Pure: two decoded objects in, one :class:`Patch` or ``None`` out. Only the given root paths are
compared, and nothing outside them is touched.

Two forms:
* *JSON merge patch* (RFC 7386), the usual one, with ``metadata.uid`` as a precondition; a field
  that is gone is ``null`` and a list is replaced as a whole;
* *JSON patch* (RFC 6902), for the whole write, as soon as the difference lies inside the
  elements of a list of named maps under ``spec`` (containers, env, ports), or elements were only
  appended to a list under ``spec`` (tolerations, ephemeral containers). It begins with ``test``
  of UID and of the name of every element touched, so that an element which a webhook put in
  since is neither dropped nor hit.

What is wanted must be made from the object as it is: an element that is there and isn't wanted
is removed (a port that went), by replacing its list as a whole.

Absent and ``null`` are the same field value, as they are to the API server; so are an absent and
an empty map or list directly under ``metadata``. Numbers and booleans compare as in Python
(``1 == 1.0 == True``); no field changes between these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import orjson

from syncer import paths
from syncer.kube.errors import ApiError
from syncer.objects import Object
from syncer.paths import MISSING

MERGE_PATCH: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"

METADATA_ROOTS: Final = ("metadata.labels", "metadata.annotations", "metadata.ownerReferences")
"""The parts of metadata that a whole-object comparison looks at."""

NOT_COMPARED: Final = frozenset({"apiVersion", "kind", "metadata"})
"""Top-level fields that a whole-object comparison leaves out: what an object is never changes,
and the rest of metadata is the server's or, as finalizers, its controllers'."""

END: Final = -1
"""As the last step of a place: behind the last element of a list."""

Steps: TypeAlias = tuple[str | int, ...]
"""A place in an object: map keys (strings) and list indexes (integers)."""


@dataclass(frozen=True, slots=True)
class Patch:
    """One write.

    Attributes:
        content_type: which of the two forms ``body`` has.
        body: merge patch (a map) or JSON patch (a list of operations), preconditions included.
        fields: dotted paths of what changes, two steps deep at most; for logs.
        digest: the same for the same change of any object in this process, whatever its UID and
            version; to notice a write that is made again and again. Tells nothing about values.
    """

    content_type: str
    body: Object | list[Object]
    fields: tuple[str, ...]
    digest: int


class _Edit(NamedTuple):
    """One difference; ``at`` ends in :data:`END` for an appended element."""

    op: Literal["add", "replace", "remove"]
    at: Steps
    value: Any = None


def make_patch(
    actual: Object,
    wanted: Object,
    *,
    roots: Iterable[str] | None = None,
    version: bool = False,
) -> Patch | None:
    """Compare two states of an object and make the smallest patch between them.

    Args:
        actual: the object as the server has it, with its ``metadata.uid``; not changed.
        wanted: the object as it should be, made from ``actual``; not changed, but the patch
            shares its values.
        roots: dotted paths of what to compare (see :mod:`syncer.paths`); a step with ``[]``
            walks a list of named elements, those that both sides have. ``None``: labels,
            annotations, owner references and every other top-level field, status included.
        version: whether the write must also fail when the object changed since ``actual``.

    Returns:
        The patch, or ``None`` when nothing compared differs.

    Raises:
        KeyError: there is a difference, and ``actual`` has no UID (or no resource version, when
            it is asked for).

    Source: RFC 7386, RFC 6902; preconditions as in
    https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-apply
    """
    chosen = _whole(actual, wanted) if roots is None else _distinct(tuple(roots))
    edits = [edit for root in chosen for edit in _root_edits(actual, wanted, root)]
    if not edits:
        return None
    if any(isinstance(step, int) for edit in edits for step in edit.at):
        return _json_patch(actual, edits, version)
    return _merge_patch(actual, edits, version)


def is_stale(error: ApiError) -> bool:
    """Say whether a write failed only because the object is no longer the one that was read.

    The caller retries from the present state, in silence. To be asked of patches, updates and
    deletions that carry preconditions; not of creations.

    Args:
        error: what the write raised.

    Returns:
        True for a conflict (version or UID, 409), for a merge patch that met another UID (422
        about the immutable ``metadata.uid``) and for a JSON patch that doesn't apply, such as
        one with a failing ``test`` (422 without a field).

    Source: kube-apiserver 1.36; 422 of a JSON patch: ``apiserver/pkg/endpoints/handlers/patch.go``.
    """
    if error.conflict:
        return True
    if not error.invalid:
        return False
    causes = error.details.get("causes") or []
    if causes:
        return all(cause.get("field") == "metadata.uid" for cause in causes)
    return error.attempt.startswith("PATCH") and "kind" not in error.details


def _whole(actual: Object, wanted: Object) -> tuple[str, ...]:
    top = dict.fromkeys([*actual, *wanted])
    return (*METADATA_ROOTS, *(key for key in top if key not in NOT_COMPARED))


def _root_edits(actual: Object, wanted: Object, root: str) -> Iterator[_Edit]:
    """Find the differences at one root path."""
    named = root == "spec" or root.startswith("spec.")
    if "[]" in root:
        for at, before, after in _walk(actual, wanted, root.split(".")):
            yield from _edits(at, before, after, named)
        return
    before, after = paths.get(actual, root), paths.get(wanted, root)
    if root.startswith("metadata."):
        before, after = _empty_is_absent(before, after)
    yield from _edits(tuple(root.split(".")), before, after, named)


def _empty_is_absent(before: Any, after: Any) -> tuple[Any, Any]:
    if not before and not after:
        return MISSING, MISSING
    if not after and isinstance(before, dict):
        # Key by key, so that a key put in since stays.
        return before, {}
    return before, after


def _walk(
    actual: Any, wanted: Any, way: Sequence[str], at: Steps = ()
) -> Iterator[tuple[Steps, Any, Any]]:
    """Give (place in actual, its value, wanted value) for a path with ``[]`` steps."""
    if not way:
        yield at, actual, wanted
        return
    step = way[0].removesuffix("[]")
    before, after = _member(actual, step), _member(wanted, step)
    if not way[0].endswith("[]"):
        yield from _walk(before, after, way[1:], (*at, step))
        return
    old, new = _names(before), _names(after)
    for index, name in enumerate(old or ()):
        if new and name in new:
            partner = after[new.index(name)]
            yield from _walk(before[index], partner, way[1:], (*at, step, index))


def _member(value: Any, step: str) -> Any:
    return value.get(step, MISSING) if isinstance(value, dict) else MISSING


def _edits(at: Steps, before: Any, after: Any, named: bool) -> Iterator[_Edit]:
    """Find the differences at one place.

    Args:
        at: the place.
        before: value there, MISSING or ``None`` when absent.
        after: value wanted there, the same.
        named: whether lists are compared element by element where they can be.
    """
    if _absent(after):
        if not _absent(before):
            yield _Edit("remove", at)
    elif _absent(before):
        yield _Edit("add", at, after)
    elif isinstance(before, dict) and isinstance(after, dict):
        if before != after:
            for key in dict.fromkeys([*before, *after]):
                yield from _edits((*at, key), before.get(key), after.get(key), named)
    elif not _same(before, after):
        inside = _list_edits(at, before, after) if named else None
        yield from inside if inside is not None else [_Edit("replace", at, after)]


def _list_edits(at: Steps, before: Any, after: Any) -> list[_Edit] | None:
    """Find the differences inside two lists; ``None`` when the list is replaced as a whole.

    Element by element only when every element stays in its place, known by its name or equal,
    and others at most follow.
    """
    if not isinstance(before, list) or not isinstance(after, list):
        return None
    if not before or len(after) < len(before):
        return None
    kept = after[: len(before)]
    old, new = _names(before), _names(after)
    if old and new and new[: len(old)] == old:
        edits = [
            edit
            for index, pair in enumerate(zip(before, kept, strict=True))
            for edit in _edits((*at, index), *pair, named=True)
        ]
    elif _same(before, kept):
        edits = []
    else:
        return None
    return edits + [_Edit("add", (*at, END), item) for item in after[len(before) :]]


def _names(items: Any) -> list[str] | None:
    """Give the names of a list's elements; ``None`` unless all have one and no two the same."""
    if not isinstance(items, list):
        return None
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        return None
    return names  # type: ignore[return-value]  # all are strings, as was just checked


def _absent(value: Any) -> bool:
    return value is None or value is MISSING


def _same(one: Any, other: Any) -> bool:
    """Compare two values; absent and ``null`` map members are the same."""
    if one == other:
        return True
    if isinstance(one, dict) and isinstance(other, dict):
        return all(_same(one.get(key), other.get(key)) for key in one.keys() | other.keys())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return False


@lru_cache(maxsize=512)
def _distinct(roots: tuple[str, ...]) -> tuple[str, ...]:
    """Drop roots that lie at or below another one, so that no difference is found twice."""
    return tuple(
        root
        for root in dict.fromkeys(roots)
        if not any(other != root and _covers(other, root) for other in roots)
    )


def _covers(other: str, root: str) -> bool:
    if f"{root}.".startswith(f"{other}."):
        return True
    return "[]" not in other and f"{root.replace('[]', '')}.".startswith(f"{other}.")


def _fields(edits: Iterable[_Edit]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(".".join(map(str, edit.at[:2])) for edit in edits))


def _digest(changes: Object | list[Object]) -> int:
    # Python's hash of bytes is keyed per process: quick, and it gives no value away.
    return hash(orjson.dumps(changes))


def _merge_patch(actual: Object, edits: list[_Edit], version: bool) -> Patch:
    body: Object = {}
    for edit in edits:
        # Places in lists make a JSON patch: here every step is a map key.
        *way, last = map(str, edit.at)
        here = body
        for step in way:
            here = here.setdefault(step, {})
        here[last] = edit.value
    digest = _digest(body)
    metadata = body.setdefault("metadata", {})
    metadata["uid"] = actual["metadata"]["uid"]
    if version:
        metadata["resourceVersion"] = actual["metadata"]["resourceVersion"]
    return Patch(MERGE_PATCH, body, _fields(edits), digest)


def _json_patch(actual: Object, edits: list[_Edit], version: bool) -> Patch:
    changes: list[Object] = []
    made: set[Steps] = set()
    for edit in edits:
        changes += _name_tests(actual, edit.at, made)
        changes += _missing_parents(actual, edit.at, made)
        operation: Object = {"op": edit.op, "path": _pointer(edit.at)}
        if edit.op != "remove":
            operation["value"] = edit.value
        changes.append(operation)
    preconditions = ["uid", "resourceVersion"] if version else ["uid"]
    tests = [
        {"op": "test", "path": f"/metadata/{name}", "value": actual["metadata"][name]}
        for name in preconditions
    ]
    return Patch(JSON_PATCH, tests + changes, _fields(edits), _digest(changes))


def _name_tests(actual: Object, at: Steps, made: set[Steps]) -> Iterator[Object]:
    """Test the name of every list element on the way to a place, once in a patch.

    Args:
        actual: the object as it is.
        at: the place.
        made: places that the patch has dealt with so far; added to.
    """
    here: Any = actual
    for length, step in enumerate(at[:-1], 1):
        here = here[step] if isinstance(step, int) else _member(here, step)
        element = at[:length]
        if isinstance(step, int) and element not in made:
            made.add(element)
            yield {"op": "test", "path": _pointer((*element, "name")), "value": here["name"]}


def _missing_parents(actual: Object, at: Steps, made: set[Steps]) -> Iterator[Object]:
    """Add the maps that a place needs and the object doesn't have, once in a patch."""
    here: Any = actual
    for length, step in enumerate(at[:-1], 1):
        here = here[step] if isinstance(step, int) else _member(here, step)
        if _absent(here) and at[:length] not in made:
            made.add(at[:length])
            yield {"op": "add", "path": _pointer(at[:length]), "value": {}}


def _pointer(at: Steps) -> str:
    """Write a place as a JSON pointer (RFC 6901)."""
    texts = ("-" if step == END else str(step) for step in at)
    return "".join(f"/{text.replace('~', '~0').replace('/', '~1')}" for text in texts)
