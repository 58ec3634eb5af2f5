"""Names of the tenant's objects: each is translated wherever a pod may hold it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mappers.pods import references
from mappers.pods.fields import CONTAINER_LISTS
from mappers.pods.host import to_host
from syncer import paths
from syncer.naming import Names
from syncer.objects import Object
from syncer.types import Reference
from tests.unit.mappers.pods.support import (
    NAMES,
    NAMESPACE,
    context,
    host_name,
    on_host,
    pod,
    synced,
    wanted,
)


def _with(row: Reference, name: str) -> Object:
    """Give a pod that holds a name at a row's path only."""
    virtual = pod()
    here: Any = virtual
    *way, last = row.path.split(".")
    for step in way:
        if step.endswith("[]"):
            items = here.setdefault(step[:-2], [])
            if not items:
                items.append({})
            here = items[0]
            if step != "sources[]":
                here.setdefault("name", "item")
        else:
            here = here.setdefault(step, {})
    here[last] = name
    return virtual


def _host(row: Reference, virtual: Object) -> Object:
    """Give its host pod; one with ephemeral containers is on the host already."""
    host = pod() if "ephemeralContainers" in row.path else None
    return wanted(virtual, host)


def strings(value: Any) -> Iterator[str]:
    """Give every string in an object, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def test_pod_that_names_nothing_is_shared() -> None:
    """A spec without references is given back itself, not copied."""
    spec = pod()["spec"]
    assert references.renamed(spec, lambda name, _target: host_name(name)) is spec


@pytest.mark.parametrize("row", references.RENAMED, ids=lambda row: row.path)
def test_name_is_translated(row: Reference) -> None:
    """Each row of the table is translated on the host copy, and the tenant's name is gone."""
    virtual = _with(row, "secret-of-mine")
    made = _host(row, virtual)
    assert list(paths.values(made, row.path)) == [host_name("secret-of-mine")]
    assert "secret-of-mine" not in strings(made)


@pytest.mark.parametrize("row", references.RENAMED, ids=lambda row: row.path)
def test_name_is_translated_twice(row: Reference) -> None:
    """A tenant inside a tenant: the copy of a copy names the copy of the copied object."""
    outer = Names("outer", "real-ns")
    first = on_host(_with(row, "mine"))
    if "ephemeralContainers" in row.path:
        return
    first["metadata"]["namespace"] = NAMESPACE
    second = to_host(first, context(first, names=outer))
    assert isinstance(second, dict)
    expected = outer.host_name(host_name("mine"), NAMESPACE)
    assert list(paths.values(second, row.path)) == [expected]


def test_downward_values_survive_a_second_translation() -> None:
    """A tenant inside a tenant: name, namespace, UID and labels stay those of the innermost."""
    first = on_host(pod())
    annotations = dict(first["metadata"]["annotations"])
    first["metadata"]["namespace"] = NAMESPACE
    second = to_host(first, context(first, names=Names("outer", "real-ns")))
    assert isinstance(second, dict)
    kept = second["metadata"]["annotations"]
    for key in ("name", "namespace", "uid", "labels", "service-account-name"):
        name = f"vcluster.loft.sh/{key}"
        assert kept[name] == annotations[name]


def _everything(names: dict[Reference, str]) -> Object:
    """Give a pod that holds a different name in every row, and in a generic ephemeral volume."""
    spec: Object = {"volumes": [], "imagePullSecrets": []}
    for number, (row, name) in enumerate(names.items()):
        item = _with(row, name)["spec"]
        for volume in item.get("volumes") or ():
            spec["volumes"].append({**volume, "name": f"v{number}"})
        spec["imagePullSecrets"] += item.get("imagePullSecrets") or []
        for containers in CONTAINER_LISTS:
            for container in item.get(containers) or ():
                if len(container.keys() & {"env", "envFrom"}):
                    made = {**container, "name": f"c{number}", "image": "i"}
                    spec.setdefault(containers, []).append(made)
    return pod(spec)


@given(stem=st.from_regex(r"[a-z][a-z0-9]{0,50}", fullmatch=True))
@settings(max_examples=40)
def test_no_name_of_the_tenant_leaks(stem: str) -> None:
    """No string on a host pod equals the name of one of the tenant's objects."""
    names = {row: f"{stem}-mine-{number}" for number, row in enumerate(references.RENAMED)}
    virtual = _everything(names)
    world = {
        ref: obj for row, name in names.items() for ref, obj in synced(row.target, name).items()
    }
    made = wanted(virtual, pod(), world=world)
    assert not set(names.values()) & set(strings(made))
    assert {host_name(name) for name in names.values()} <= set(strings(made))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("status.podIP", "status.podIP"),
        ("spec.nodeName", "spec.nodeName"),
        ("metadata.annotations['a']", "metadata.annotations['a']"),
        ("metadata.name", "metadata.annotations['vcluster.loft.sh/name']"),
        ("metadata.namespace", "metadata.annotations['vcluster.loft.sh/namespace']"),
        ("metadata.uid", "metadata.annotations['vcluster.loft.sh/uid']"),
        ("metadata.labels", "metadata.annotations['vcluster.loft.sh/labels']"),
        ("metadata.labels['app']", f"metadata.labels['{NAMES.label_key('app')}']"),
        (
            "spec.serviceAccountName",
            "metadata.annotations['vcluster.loft.sh/service-account-name']",
        ),
    ],
)
def test_downward_api(path: str, expected: str) -> None:
    """The downward API shows virtual values, in variables, volumes and projections alike."""
    reference = {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}
    item = {"path": "p", **reference}
    virtual = pod(
        {
            "containers": [{"name": "m", "env": [{"name": "A", "valueFrom": reference}]}],
            "volumes": [
                {"name": "v", "downwardAPI": {"items": [item]}},
                {"name": "w", "projected": {"sources": [{"downwardAPI": {"items": [item]}}]}},
            ],
        }
    )
    made = wanted(virtual)
    found = [
        *paths.values(made, "spec.containers[].env[].valueFrom.fieldRef.fieldPath"),
        *paths.values(made, "spec.volumes[].downwardAPI.items[].fieldRef.fieldPath"),
        *paths.values(
            made, "spec.volumes[].projected.sources[].downwardAPI.items[].fieldRef.fieldPath"
        ),
    ]
    assert found == [expected] * 3
