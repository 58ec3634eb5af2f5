"""Config maps: which are copied, and what of them."""

from typing import Any

import pytest

from mappers.configmaps import KIND, users
from syncer.objects import Key
from syncer.types import Skip

KEY = Key("default", "settings")
POD = {"metadata": {"namespace": "default", "name": "web"}}


def configmap(**fields: Any) -> dict[str, Any]:
    metadata = {"namespace": KEY.namespace, "name": KEY.name, "uid": "u1"}
    metadata |= fields.pop("metadata", {})
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, **fields}


FULL = configmap(
    data={"a": "1"},
    binaryData={"b": "AA=="},
    immutable=False,
    metadata={"labels": {"app": "web"}, "annotations": {"note": "x"}},
)


def test_a_settled_pair_is_left_alone(world: Any) -> None:
    """On an unchanged pair, with what others put on the copy, nothing is written."""
    world.queries[users("configmaps", KEY)] = [POD]
    extra = {"metadata": {"labels": {"foreign": "1"}, "annotations": {"foreign": "1"}}}
    assert world.actions(KIND, FULL, world.made(KIND, FULL, **extra)) == []


def test_everything_but_foreign_fields_crosses(world: Any) -> None:
    """Data, binary data and immutability go to the host; unknown fields do not."""
    world.queries[users("configmaps", KEY)] = [POD]
    wanted = world.wanted(KIND, {**FULL, "novelty": {"from": "a newer server"}})
    assert wanted == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "labels": {"vcluster.loft.sh/label-vc-x-a172cedcae": "web"},
            "annotations": {"note": "x"},
        },
        "data": {"a": "1"},
        "binaryData": {"b": "AA=="},
        "immutable": False,
    }


@pytest.mark.parametrize(
    ("name", "used", "all_of_them", "force", "copied"),
    [
        pytest.param("settings", False, False, None, False, id="unused"),
        pytest.param("kube-root-ca.crt", False, False, None, False, id="unused-root-ca"),
        pytest.param("settings", False, False, "false", False, id="not-forced"),
        pytest.param("settings", True, False, None, True, id="used"),
        pytest.param("kube-root-ca.crt", True, False, None, True, id="used-root-ca"),
        pytest.param("settings", False, True, None, True, id="all"),
        pytest.param("settings", False, False, "true", True, id="forced"),
    ],
)
def test_only_what_is_used_is_copied(
    world: Any, name: str, used: bool, all_of_them: bool, force: str | None, copied: bool
) -> None:
    """A copy needs a pod that uses it, the tenant's annotation or the operator's flag."""
    virtual = configmap(metadata={"name": name})
    if force:
        virtual["metadata"]["annotations"] = {"vcluster.loft.sh/force-sync": force}
    world.queries[users("configmaps", Key("default", name))] = [POD] if used else []
    world.options["sync_all_configmaps"] = all_of_them
    assert isinstance(world.wanted(KIND, virtual), Skip) is not copied


def test_a_copy_that_nothing_uses_is_removed(world: Any, tools: Any) -> None:
    """With the last pod that uses it, the host copy goes."""
    world.queries[users("configmaps", KEY)] = [POD]
    host = world.made(KIND, FULL)
    world.queries.clear()
    (delete,) = world.actions(KIND, FULL, host)
    assert delete.uid == "host-u1"


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        pytest.param({"data": {"a": "1"}}, {"data": {"a": "2"}}, {"data": {"a": "2"}}, id="value"),
        pytest.param({"data": {"a": "1"}}, {}, {"data": None}, id="no-data-any-more"),
        pytest.param({}, {"immutable": True}, {"immutable": True}, id="made-immutable"),
        pytest.param(
            {"data": {"a": "1"}},
            {"data": {"a": "2"}, "immutable": True},
            {"data": {"a": "2"}, "immutable": True},
            id="changed-and-made-immutable",
        ),
    ],
)
def test_changes_are_one_small_patch(
    world: Any, before: Any, after: Any, patch: dict[str, Any]
) -> None:
    """What changed in the virtual object is all that is sent."""
    world.queries[users("configmaps", KEY)] = [POD]
    (update,) = world.actions(KIND, configmap(**after), world.made(KIND, configmap(**before)))
    assert {name: update.patch.body.get(name) for name in patch} == patch
    assert set(update.patch.body) == {*patch, "metadata"}


def test_an_object_made_again_has_its_copy_made_again(world: Any) -> None:
    """Another UID means another object: the copy of its predecessor is deleted first."""
    world.queries[users("configmaps", KEY)] = [POD]
    (delete,) = world.actions(KIND, configmap(metadata={"uid": "u2"}), world.made(KIND, FULL))
    assert delete.uid == "host-u1"
