"""Namespaces are looked at, never copied."""

from mappers.namespaces import KIND
from syncer.types import Direction


def test_nothing_is_written_for_a_namespace() -> None:
    """The kind is watched only, and its objects have no namespace."""
    assert KIND.direction is Direction.WATCHED
    assert KIND.resource.path(name="default") == "/api/v1/namespaces/default"
