"""Affinity and spreading between pods, in host terms. Affinity to nodes stays as it is.

A term's namespaces become demands on labels (see :mod:`mappers.selectors`), so that it picks the
same pods as in the virtual cluster and never another tenant's. ``matchLabelKeys`` and
``mismatchLabelKeys`` are resolved with the pod's own labels, as API servers since 1.29 do on
creation, and not sent: the result doesn't depend on either server's version.

A term with both ``namespaces`` and ``namespaceSelector`` means their union. Where terms add up
(anti-affinity, preferences) it becomes two disjoint terms; a required affinity to a union can't
be split, so the selected namespaces are listed by name as they are at creation.

Source: https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/; Kubernetes API
    reference, PodAffinityTerm, TopologySpreadConstraint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mappers.selectors import in_namespaces, in_selected, matches
from syncer.naming import Names
from syncer.objects import Object

_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def needs_namespaces(affinity: Object | None) -> bool:
    """Say whether :func:`host_affinity` must see all virtual namespaces."""
    terms = ((affinity or {}).get("podAffinity") or {}).get(_REQUIRED) or ()
    return any(_is_union(term) for term in terms)


def host_affinity(
    affinity: Object, virtual: Object, names: Names, namespaces: Sequence[Object] = ()
) -> Object:
    """Translate a pod's ``affinity``.

    Args:
        affinity: in virtual terms; not changed.
        virtual: the virtual pod: its namespace and labels.
        names: the tenant's names.
        namespaces: all virtual namespaces, when :func:`needs_namespaces` says so.
    """
    result: Object = {}
    if node := affinity.get("nodeAffinity"):
        result["nodeAffinity"] = node
    for kind in ("podAffinity", "podAntiAffinity"):
        if not (given := affinity.get(kind)):
            continue
        wanted: Object = {}
        if required := given.get(_REQUIRED):
            if kind == "podAffinity":
                required = [_listed(term, namespaces) for term in required]
            wanted[_REQUIRED] = [t for term in required for t in _terms(term, virtual, names)]
        if preferred := given.get(_PREFERRED):
            wanted[_PREFERRED] = [
                {"weight": weighted["weight"], "podAffinityTerm": term}
                for weighted in preferred
                for term in _terms(weighted["podAffinityTerm"], virtual, names)
            ]
        result[kind] = wanted
    return result


def _is_union(term: Object) -> bool:
    return bool(term.get("namespaces")) and term.get("namespaceSelector") is not None


def _listed(term: Object, namespaces: Sequence[Object]) -> Object:
    """Replace the ``namespaceSelector`` of a union by the names it selects now."""
    if not _is_union(term):
        return term
    selected = {
        namespace["metadata"]["name"]
        for namespace in namespaces
        if matches(term["namespaceSelector"], namespace["metadata"].get("labels"))
    }
    listed = sorted(selected.union(term["namespaces"]))
    return {**term, "namespaces": listed, "namespaceSelector": None}


def _terms(term: Object, virtual: Object, names: Names) -> list[Object]:
    """Translate one ``PodAffinityTerm``; a union gives two disjoint terms."""
    base: Object = {"topologyKey": term["topologyKey"]}
    selector = _with_label_keys(term, virtual)
    if selector is None:
        return [base]
    by_name = term.get("namespaces") or []
    by_label = term.get("namespaceSelector")
    if by_label is None:
        by_name = by_name or [virtual["metadata"]["namespace"]]
        return [{**base, "labelSelector": in_namespaces(selector, by_name, names)}]
    selected = {**base, "labelSelector": in_selected(selector, by_label, names, but=by_name)}
    if not by_name:
        return [selected]
    return [{**base, "labelSelector": in_namespaces(selector, by_name, names)}, selected]


def host_spread(constraints: list[Object], virtual: Object, names: Names) -> list[Object]:
    """Translate a pod's ``topologySpreadConstraints``; they count pods of its own namespace.

    Args:
        constraints: in virtual terms; not changed.
        virtual: the virtual pod: its namespace and labels.
        names: the tenant's names.
    """
    own = [virtual["metadata"]["namespace"]]
    result: list[Object] = []
    for constraint in constraints:
        wanted = {key: constraint[key] for key in constraint.keys() & _SPREAD_PASSED}
        selector = _with_label_keys(constraint, virtual)
        if selector is not None:
            wanted["labelSelector"] = in_namespaces(selector, own, names)
        result.append(wanted)
    return result


_SPREAD_PASSED: Final = frozenset(
    {
        "maxSkew",
        "minDomains",
        "nodeAffinityPolicy",
        "nodeTaintsPolicy",
        "topologyKey",
        "whenUnsatisfiable",
    }
)


def _with_label_keys(term: Object, virtual: Object) -> Object | None:
    """Resolve ``matchLabelKeys`` and ``mismatchLabelKeys`` into the term's selector.

    A key that the pod doesn't bear is ignored, and a demand that the virtual API server has
    already merged in is not repeated.

    Args:
        term: a ``PodAffinityTerm`` or ``TopologySpreadConstraint``.
        virtual: the virtual pod.

    Returns:
        The selector in virtual terms; ``None`` (selects nothing) stays ``None``.
    """
    selector: Object | None = term.get("labelSelector")
    match_keys, mismatch_keys = term.get("matchLabelKeys"), term.get("mismatchLabelKeys")
    if selector is None or not (match_keys or mismatch_keys):
        return selector
    labels = virtual["metadata"].get("labels") or {}
    demands: list[Any] = list(selector.get("matchExpressions") or ())
    for operator, keys in (("In", match_keys), ("NotIn", mismatch_keys)):
        for key in keys or ():
            demand = {"key": key, "operator": operator, "values": [labels.get(key)]}
            if key in labels and demand not in demands:
                demands.append(demand)
    return {**selector, "matchExpressions": demands}
