"""Affinity, anti-affinity and spreading: the same pods are picked on both sides, no others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mappers.pods.affinity import host_affinity, host_spread, needs_namespaces
from mappers.selectors import matches
from syncer import ownership
from syncer.naming import Names
from syncer.objects import Object
from tests.unit.mappers.pods.support import NAMES, NAMESPACE, namespace, pod, wanted

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
OTHER = Names("other", "host-ns")
NAMESPACES = [
    namespace(NAMESPACE, team="a"),
    namespace("depot", team="b"),
    namespace("empty"),
]


def _labels(name: str, labels: dict[str, str], names: Names) -> dict[str, str]:
    """Give the labels of the host copy of a pod."""
    own = next(item for item in NAMESPACES if item["metadata"]["name"] == name)
    return {
        **names.labels(labels),
        **{
            names.namespace_label_key(key): value
            for key, value in own["metadata"]["labels"].items()
        },
        ownership.MANAGED_BY: names.marker,
        ownership.NAMESPACE: name,
    }


def _in_namespaces(term: Object, name: str) -> bool:
    """Say whether a term looks at a namespace, as the Kubernetes docs define it."""
    listed, selector = term.get("namespaces"), term.get("namespaceSelector")
    if not listed and selector is None:
        return name == NAMESPACE
    labels = next(i["metadata"]["labels"] for i in NAMESPACES if i["metadata"]["name"] == name)
    return name in (listed or ()) or matches(selector, labels)


keys = st.sampled_from(["app", "team", ownership.MANAGED_BY, ownership.NAMESPACE])
values = st.sampled_from(["a", "b", "vc", "other"])
expressions = st.one_of(
    st.builds(
        lambda key, operator, chosen: {"key": key, "operator": operator, "values": chosen},
        keys,
        st.sampled_from(["In", "NotIn"]),
        st.lists(values, min_size=1, max_size=2),
    ),
    st.builds(
        lambda key, operator: {"key": key, "operator": operator},
        keys,
        st.sampled_from(["Exists", "DoesNotExist"]),
    ),
)
selectors = st.fixed_dictionaries(
    {},
    optional={
        "matchLabels": st.dictionaries(keys, values, max_size=2),
        "matchExpressions": st.lists(expressions, max_size=2),
    },
)
terms = st.fixed_dictionaries(
    {"topologyKey": st.just("zone")},
    optional={
        "labelSelector": selectors,
        "namespaces": st.lists(st.sampled_from([NAMESPACE, "depot", "gone"]), max_size=2),
        "namespaceSelector": selectors,
    },
)


@given(
    term=terms,
    kind=st.sampled_from(["podAffinity", "podAntiAffinity"]),
    strength=st.sampled_from([REQUIRED, PREFERRED]),
    labels=st.dictionaries(keys, values, max_size=3),
    where=st.sampled_from([NAMESPACE, "depot", "empty"]),
)
def test_same_pods_are_picked(
    term: Object, kind: str, strength: str, labels: dict[str, str], where: str
) -> None:
    """A host term picks a copy exactly when the tenant's picks the pod; never another tenant's.

    A union that became two terms picks each pod once, so that preferences count it once.
    """
    weighted = {"weight": 5, "podAffinityTerm": term}
    affinity = {kind: {strength: [term if strength == REQUIRED else weighted]}}
    made = host_affinity(affinity, pod(), NAMES, NAMESPACES)[kind][strength]
    host_terms = [item.get("podAffinityTerm", item) for item in made]
    expected = matches(term.get("labelSelector"), labels) and _in_namespaces(term, where)
    for host in host_terms:
        assert not {"namespaces", "namespaceSelector"} & host.keys()
        assert host["topologyKey"] == "zone"
    own = [matches(h.get("labelSelector"), _labels(where, labels, NAMES)) for h in host_terms]
    foreign = [matches(h.get("labelSelector"), _labels(where, labels, OTHER)) for h in host_terms]
    assert own.count(True) == int(expected)
    assert not any(foreign)
    if kind == "podAffinity" and strength == REQUIRED:
        assert len(host_terms) == 1


@given(selector=selectors, labels=st.dictionaries(keys, values, max_size=3))
def test_spread_counts_own_namespace(selector: Object, labels: dict[str, str]) -> None:
    """A spread constraint counts the tenant's pods of the pod's own namespace, and no others."""
    constraint = {"maxSkew": 1, "topologyKey": "zone", "labelSelector": selector}
    [made] = host_spread([constraint], pod(), NAMES)
    host = made["labelSelector"]
    assert matches(host, _labels(NAMESPACE, labels, NAMES)) is matches(selector, labels)
    assert not matches(host, _labels("depot", labels, NAMES))
    assert not matches(host, _labels(NAMESPACE, labels, OTHER))


def test_node_affinity_passes() -> None:
    """Affinity to nodes is the same on both sides."""
    node: Object = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}
    assert wanted(pod({"affinity": node}))["spec"]["affinity"] == node


def test_null_selector_stays_null() -> None:
    """A term or constraint without a selector picks nothing, on the host too."""
    made = host_affinity({"podAffinity": {REQUIRED: [{"topologyKey": "z"}]}}, pod(), NAMES)
    assert made == {"podAffinity": {REQUIRED: [{"topologyKey": "z"}]}}
    constraint = {"maxSkew": 1, "topologyKey": "z", "minDomains": 2, "whenUnsatisfiable": "x"}
    assert host_spread([constraint], pod(), NAMES) == [constraint]


@pytest.mark.parametrize("merged", [False, True], ids=["not merged", "merged by the server"])
def test_label_keys_are_resolved(merged: bool) -> None:
    """Label keys demand the pod's own values, once, whether the server merged them or not."""
    demand: Any = {"key": "app", "operator": "In", "values": ["web"]}
    term = {
        "topologyKey": "z",
        "labelSelector": {"matchExpressions": [demand] if merged else []},
        "matchLabelKeys": ["app", "absent"],
        "mismatchLabelKeys": ["app"],
    }
    made = host_affinity({"podAffinity": {REQUIRED: [term]}}, pod(), NAMES)
    [host] = made["podAffinity"][REQUIRED]
    assert not {"matchLabelKeys", "mismatchLabelKeys"} & host.keys()
    key = NAMES.label_key("app")
    assert host["labelSelector"]["matchExpressions"] == [
        {"key": key, "operator": "In", "values": ["web"]},
        {"key": key, "operator": "NotIn", "values": ["web"]},
    ]


@pytest.mark.parametrize(
    ("affinity", "expected"),
    [
        (None, False),
        ({"podAffinity": {REQUIRED: [{"namespaces": ["a"]}]}}, False),
        ({"podAffinity": {REQUIRED: [{"namespaceSelector": {}}]}}, False),
        ({"podAntiAffinity": {REQUIRED: [{"namespaces": ["a"], "namespaceSelector": {}}]}}, False),
        ({"podAffinity": {REQUIRED: [{"namespaces": ["a"], "namespaceSelector": {}}]}}, True),
    ],
    ids=["none", "by name", "by label", "union that splits", "union that doesn't"],
)
def test_namespaces_are_looked_at_only_for_a_union(affinity: Any, expected: bool) -> None:
    """All namespaces are decoded only for the one case that needs them."""
    assert needs_namespaces(affinity) is expected
