"""Row 13: a selector picks the same pods on both sides, and never another tenant's."""

import uuid
from collections.abc import AsyncIterator

import pytest

from mappers.selectors import matches
from syncer.naming import PREFIX
from tests.integration.harness import Cluster, Object, Pair, eventually, named, pod

_SELECTORS: dict[str, Object] = {
    "everything": {},
    "equal": {"matchLabels": {"app": "web"}},
    "not in": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]},
    "does not exist": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]},
    "exists": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
    "marks": {"matchLabels": {f"{PREFIX}managed-by": "another"}},
    "a mark's absence": {
        "matchExpressions": [{"key": f"{PREFIX}managed-by", "operator": "DoesNotExist"}]
    },
}
_LABELS: dict[str, dict[str, str]] = {
    "web": {"app": "web"},
    "db": {"app": "db"},
    "bare": {},
    "posing": {f"{PREFIX}managed-by": "another"},
}


@pytest.fixture
async def pods(pair: Pair, namespace: str) -> AsyncIterator[dict[str, Object]]:
    """Host pods by `namespace/name` of the virtual ones; others' by their host name."""
    virtual, home = pair.virtual, pair.names.host_namespace
    other = f"other-{uuid.uuid4().hex[:6]}"
    await virtual.create(named("Namespace", other, labels={"team": "a"}))
    await eventually(lambda: virtual.get("serviceaccounts", "default", other))
    found: dict[str, Object] = {}
    for space in (namespace, other):
        for name, labels in _LABELS.items():
            await virtual.create(pod(name, space, labels=labels))
            found[f"{space}/{name}"] = await _copy(pair, name, space)
    translated = pair.names.labels({"app": "web"})
    marks = {f"{PREFIX}managed-by": "another", f"{PREFIX}namespace": namespace}
    for name, labels in (("plain", {"app": "web"}), ("theirs", translated | marks)):
        found[name] = await pair.host.create(pod(f"{name}-{namespace}", home, labels=labels))
    yield found
    for name in ("plain", "theirs"):
        await pair.host.delete("pods", f"{name}-{namespace}", home, grace=0)
    await virtual.delete("namespaces", other)


async def _copy(pair: Pair, name: str, namespace: str) -> Object:
    return await eventually(lambda: pair.copy("pods", name, namespace))


def _selecting(name: str, namespace: str, selector: Object, **namespaces: object) -> Object:
    """Return a pod with one affinity term and one spreading constraint of a selector."""
    key = {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}
    term = {"weight": 1, "podAffinityTerm": key | namespaces}
    spread = key | {"maxSkew": 5, "whenUnsatisfiable": "ScheduleAnyway"}
    return pod(
        name,
        namespace,
        affinity={"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}},
        topologySpreadConstraints=[spread],
        schedulingGates=[{"name": "example.com/never"}],
    )


def _picked(selector: Object, pods: dict[str, Object]) -> set[str]:
    return {
        name for name, each in pods.items() if matches(selector, each["metadata"].get("labels"))
    }


async def test_selectors_pick_the_same_pods_on_both_sides(
    pair: Pair, virtual: Cluster, namespace: str, pods: dict[str, Object]
) -> None:
    """Own namespace, a named one, all of them and labelled ones, by every kind of selector."""
    spaces = {name.partition("/")[0] for name in pods if "/" in name}
    [other] = spaces - {namespace}
    scopes: dict[str, tuple[dict[str, object], set[str]]] = {
        "own": ({}, {namespace}),
        "named": ({"namespaces": [other]}, {other}),
        "all": ({"namespaceSelector": {}}, spaces),
        "labelled": ({"namespaceSelector": {"matchLabels": {"team": "a"}}}, {other}),
    }
    for number, (kind, selector) in enumerate(_SELECTORS.items()):
        for scope, (fields, where) in scopes.items():
            name = f"asks-{number}-{scope}"
            await virtual.create(_selecting(name, namespace, selector, **fields))
            spec = (await _copy(pair, name, namespace))["spec"]
            terms = spec["affinity"]["podAntiAffinity"]
            [term] = terms["preferredDuringSchedulingIgnoredDuringExecution"]
            expected = {
                f"{space}/{each}"
                for space in where
                for each, labels in _LABELS.items()
                if matches(selector, labels)
            }
            assert "namespaceSelector" not in term["podAffinityTerm"]
            assert "namespaces" not in term["podAffinityTerm"]
            found = _picked(term["podAffinityTerm"]["labelSelector"], pods)
            assert found == expected, (kind, scope)
            [spread] = spec["topologySpreadConstraints"]
            assert _picked(spread["labelSelector"], pods) == {
                f"{namespace}/{each}"
                for each, labels in _LABELS.items()
                if matches(selector, labels)
            }, kind
