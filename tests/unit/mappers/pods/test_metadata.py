"""Labels and annotations of any copy: translated, and free of what steers a syncer."""

from __future__ import annotations

from typing import Any

import pytest

from mappers.metadata import LAST_APPLIED, STEERING, host_metadata
from syncer import ownership
from syncer.naming import Names
from syncer.objects import Object
from syncer.settings import Settings
from syncer.types import Context

NAMES = Names("vc", "host-ns", ("team", "corp.io/*"))
CTX = Context(NAMES, Settings())


def _object(**metadata: Any) -> Object:
    return {"metadata": {"name": "x", "namespace": "ns", **metadata}}


@pytest.mark.parametrize("metadata", [{}, {"labels": None, "annotations": None}])
def test_nothing_gives_nothing(metadata: Any) -> None:
    """An object without labels and annotations gives none."""
    assert host_metadata(_object(**metadata), CTX) == {"labels": {}, "annotations": {}}


@pytest.mark.parametrize("namespace", ["ns", ""], ids=["namespaced", "cluster-scoped"])
def test_labels_are_translated(namespace: str) -> None:
    """Keys are the tenant's own; those of ``--sync-labels`` are there as they are, too."""
    labels = {"app": "web", "team": "a", "corp.io/x": "b", ownership.MANAGED_BY: "other"}
    made = host_metadata(_object(namespace=namespace, labels=labels), CTX)["labels"]
    key = NAMES.label_key if namespace else NAMES.cluster_label_key
    expected = {key(label): value for label, value in labels.items()}
    assert made == {**expected, "team": "a", "corp.io/x": "b"}


def test_steering_keys_are_all_those_of_vcluster() -> None:
    """What no longer stands in the table (for it is a mark of the engine's) is still one."""
    names = (
        "block-deletion controlled-by host-ip host-ips lock managed-annotations managed-labels "
        "object-name object-namespace object-uid original-taints owner-references owner-set-kind "
        "scheduling-gates skip-backsync"
    )
    assert {f"vcluster.loft.sh/{name}" for name in names.split()} <= STEERING


@pytest.mark.parametrize("key", sorted({*STEERING, LAST_APPLIED, "ignored.io/x"}))
def test_annotation_does_not_cross(key: str) -> None:
    """Marks, steering keys, the applied configuration and ignored keys stay behind."""
    annotations = {key: "1", "own": "2"}
    made = host_metadata(_object(annotations=annotations), CTX, frozenset({"ignored.io/x"}))
    assert made["annotations"] == {"own": "2"}


@pytest.mark.parametrize("key", ["force-sync", "name", "labels", "token-abc", "skip-translate"])
def test_switches_and_downward_values_cross(key: str) -> None:
    """What users and tenants inside tenants write under our prefix crosses."""
    annotations = {f"vcluster.loft.sh/{key}": "1"}
    assert host_metadata(_object(annotations=annotations), CTX)["annotations"] == annotations


def test_given_object_is_shared_with_nothing() -> None:
    """What is given back can be changed without changing the virtual object."""
    virtual = _object(annotations={"own": "1"}, labels={"a": "b"})
    made = host_metadata(virtual, CTX)
    made["annotations"]["new"] = made["labels"]["new"] = "x"
    assert virtual == _object(annotations={"own": "1"}, labels={"a": "b"})
