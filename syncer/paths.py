"""Dotted paths into objects, as ``Kind.mutable``, ``Part.paths`` and ``Reference.path`` use them.

``spec.volumes[].configMap.name``: steps are map keys; ``[]`` after a step walks a list, ``{}``
the values of a map. Keys that contain dots can't be named; no kind needs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from syncer.objects import Object


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final[Any] = _Missing()
"""What :func:`get` gives for a field that isn't there (``None`` is a value)."""


def get(obj: Object, path: str) -> Any:
    """Give the value at a plain path, or :data:`MISSING`."""
    value: Any = obj
    for step in path.split("."):
        if not isinstance(value, dict) or step not in value:
            return MISSING
        value = value[step]
    return value


def put(obj: Object, path: str, value: Any) -> None:
    """Set the value at a plain path, making the maps on the way; :data:`MISSING` removes it."""
    *way, last = path.split(".")
    here = obj
    for step in way:
        inner = here.get(step)
        if not isinstance(inner, dict):
            if value is MISSING:
                return
            inner = here[step] = {}
        here = inner
    if value is MISSING:
        here.pop(last, None)
    else:
        here[last] = value


def holders(obj: Object, path: str) -> Iterator[tuple[Object, str]]:
    """Walk a path with ``[]`` and ``{}`` steps.

    Yields:
        For each place where the last step exists and is not empty: the map that holds it and
        the step's name, so that ``holder[name]`` reads and writes it.
    """
    *way, last = path.split(".")
    here: list[Any] = [obj]
    for step in way:
        name = step.rstrip("[]{}")
        found = [item[name] for item in here if isinstance(item, dict) and item.get(name)]
        if step.endswith("[]"):
            found = [item for items in found if isinstance(items, list) for item in items]
        elif step.endswith("{}"):
            found = [item for items in found if isinstance(items, dict) for item in items.values()]
        here = found
    name = last.rstrip("[]{}")
    for item in here:
        if isinstance(item, dict) and item.get(name):
            yield item, name


def values(obj: Object, path: str) -> Iterator[Any]:
    """Give the values at a path with ``[]`` and ``{}`` steps, the last step's too."""
    for holder, name in holders(obj, path):
        value = holder[name]
        if path.endswith("[]"):
            yield from value
        elif path.endswith("{}"):
            yield from value.values()
        else:
            yield value
