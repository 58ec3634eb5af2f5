"""Label selectors of the tenant in host terms, where namespaces matter.

In the virtual cluster a selector is limited by namespaces; on the host all copies share one
namespace, so namespaces become labels: each copy bears its namespace's name, each pod copy the
labels of its namespace too (under ``ns-label-`` keys).

Invariant: a host selector made here always demands this tenant's mark; ``{}`` (everything) of a
tenant is everything of that tenant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from syncer import ownership
from syncer.naming import Names
from syncer.objects import Object


def in_namespaces(selector: Object, namespaces: list[str], names: Names) -> Object:
    """Limit a tenant's selector to some namespaces by name.

    Args:
        selector: a ``LabelSelector`` in virtual terms.
        namespaces: names, at least one.
        names: the tenant's names.

    Returns:
        A new selector in host terms.
    """
    translated = names.selector(selector) or {}
    if len(namespaces) == 1:
        return names.limit(translated, namespaces[0])
    return _and(names.limit(translated), ownership.NAMESPACE, "In", namespaces)


def in_selected(
    selector: Object, namespace_selector: Object, names: Names, *, but: list[str] | None = None
) -> Object:
    """Limit a tenant's selector to namespaces with some labels.

    Args:
        selector: a ``LabelSelector`` of pods in virtual terms.
        namespace_selector: a ``LabelSelector`` of namespaces; ``{}`` selects all.
        names: the tenant's names.
        but: namespaces to leave out by name.

    Returns:
        A new selector in host terms; it works for pods only (see the module).
    """
    limited = names.limit(names.selector(selector) or {})
    if labels := namespace_selector.get("matchLabels"):
        keyed = {names.namespace_label_key(key): value for key, value in labels.items()}
        limited["matchLabels"] = {**keyed, **limited["matchLabels"]}
    if expressions := namespace_selector.get("matchExpressions"):
        limited["matchExpressions"] = [
            *limited.get("matchExpressions", ()),
            *(
                {**expression, "key": names.namespace_label_key(expression.get("key", ""))}
                for expression in expressions
            ),
        ]
    return _and(limited, ownership.NAMESPACE, "NotIn", but) if but else limited


def _and(selector: Object, key: str, operator: str, values: list[str]) -> Object:
    """Add one demand to a selector; gives a new one."""
    expression = {"key": key, "operator": operator, "values": values}
    return {
        **selector,
        "matchExpressions": [*selector.get("matchExpressions", ()), expression],
    }


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str] | None) -> bool:
    """Say whether a ``LabelSelector`` selects an object.

    Args:
        selector: ``None`` selects nothing, ``{}`` everything.
        labels: the object's labels.

    Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
    """
    if selector is None:
        return False
    found = labels or {}
    return all(
        found.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()
    ) and all(_holds(expression, found) for expression in selector.get("matchExpressions") or ())


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Evaluate one ``matchExpressions`` entry; an unknown operator selects nothing."""
    key, values = expression["key"], expression.get("values") or ()
    match expression["operator"]:
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return labels.get(key) not in values or key not in labels
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:
            return False
