"""Label selectors: the reference matcher itself, against a table from the Kubernetes docs."""

from __future__ import annotations

from typing import Any

import pytest

from mappers.selectors import matches


def _expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        (None, {"a": "1"}, False),
        ({}, {}, True),
        ({}, None, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchLabels": {"a": ""}}, {}, False),
        (_expression("a", "In", "1", "2"), {"a": "2"}, True),
        (_expression("a", "In", "1"), {}, False),
        (_expression("a", "NotIn", "1"), {}, True),
        (_expression("a", "NotIn", "1"), {"a": "1"}, False),
        (_expression("a", "NotIn", "1"), {"a": "2"}, True),
        (_expression("a", "Exists"), {"a": ""}, True),
        (_expression("a", "Exists"), {}, False),
        (_expression("a", "DoesNotExist"), {}, True),
        (_expression("a", "DoesNotExist"), {"a": ""}, False),
        (_expression("a", "Gt", "1"), {"a": "2"}, False),
        ({"matchLabels": {"b": "2"}, **_expression("a", "Exists")}, {"a": "1"}, False),
    ],
)
def test_matches(selector: Any, labels: Any, expected: bool) -> None:
    """A null selector selects nothing, an empty one everything, demands are all to be met."""
    assert matches(selector, labels) is expected
