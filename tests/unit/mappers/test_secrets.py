"""Secrets: which are copied, of which type, and how children are found."""

from typing import Any

import pytest

from mappers.configmaps import users
from mappers.secrets import KIND, child_of_pod
from syncer.objects import Key
from syncer.types import Skip

KEY = Key("default", "token")
POD = {"metadata": {"namespace": "default", "name": "web"}}


def secret(**fields: Any) -> dict[str, Any]:
    metadata = {"namespace": KEY.namespace, "name": KEY.name, "uid": "u1"}
    metadata |= fields.pop("metadata", {})
    return {"metadata": metadata, "type": "Opaque", "data": {"a": "MQ=="}, **fields}


def test_a_settled_pair_is_left_alone(world: Any) -> None:
    """On an unchanged pair nothing is written, whatever type the copy had to take."""
    world.queries[users("secrets", KEY)] = [POD]
    for type_ in ("Opaque", "kubernetes.io/tls", "kubernetes.io/service-account-token"):
        virtual = secret(type=type_)
        assert world.actions(KIND, virtual, world.made(KIND, virtual)) == []


@pytest.mark.parametrize(
    ("type_", "host_type"),
    [
        pytest.param("Opaque", "Opaque", id="opaque"),
        pytest.param("kubernetes.io/dockerconfigjson", "kubernetes.io/dockerconfigjson", id="pull"),
        pytest.param("example.com/own", "example.com/own", id="own"),
        pytest.param("kubernetes.io/service-account-token", "Opaque", id="account-token"),
    ],
)
def test_types(world: Any, type_: str, host_type: str) -> None:
    """Types cross, but for that which the host's token controller acts upon."""
    world.queries[users("secrets", KEY)] = [POD]
    assert world.wanted(KIND, secret(type=type_))["type"] == host_type


@pytest.mark.parametrize(
    ("used", "all_of_them", "force", "copied"),
    [
        pytest.param(False, False, None, False, id="unused"),
        pytest.param(True, False, None, True, id="used"),
        pytest.param(False, True, None, True, id="all"),
        pytest.param(False, False, "true", True, id="forced"),
    ],
)
def test_only_what_is_used_is_copied(
    world: Any, used: bool, all_of_them: bool, force: str | None, copied: bool
) -> None:
    """A copy needs a pod that uses it, the tenant's annotation or the operator's flag."""
    virtual = secret()
    if force:
        virtual["metadata"]["annotations"] = {"vcluster.loft.sh/force-sync": force}
    world.queries[users("secrets", KEY)] = [POD] if used else []
    world.options["sync_all_secrets"] = all_of_them
    assert isinstance(world.wanted(KIND, virtual), Skip) is not copied


def test_immutable_data_follows_once(world: Any) -> None:
    """A secret that changes and becomes immutable does both on the host in one write."""
    world.queries[users("secrets", KEY)] = [POD]
    after = secret(data={"a": "Mg=="}, immutable=True)
    (update,) = world.actions(KIND, after, world.made(KIND, secret()))
    body = update.patch.body
    assert (body["data"], body["immutable"]) == ({"a": "Mg=="}, True)


@pytest.mark.parametrize(
    ("labels", "annotations", "pods"),
    [
        pytest.param({}, {}, (), id="plain"),
        pytest.param({"vcluster.loft.sh/managed-by": "vc"}, {}, (), id="ours-but-no-child"),
        pytest.param({}, {"vcluster.loft.sh/child-of": "pods a/b"}, (), id="not-ours"),
        pytest.param(
            {"vcluster.loft.sh/managed-by": "vc"},
            {"vcluster.loft.sh/child-of": "pods a/b", "vcluster.loft.sh/object-name": "x"},
            (),
            id="copy-of-a-tenants-secret",
        ),
        pytest.param(
            {"vcluster.loft.sh/managed-by": "vc"},
            {"vcluster.loft.sh/child-of": "jobs.batch a/b"},
            (),
            id="child-of-something-else",
        ),
        pytest.param(
            {"vcluster.loft.sh/managed-by": "vc"},
            {"vcluster.loft.sh/child-of": "pods a/b"},
            ("a/b",),
            id="child",
        ),
    ],
)
def test_children_are_found_by_their_pod(
    labels: dict[str, str], annotations: dict[str, str], pods: tuple[str, ...]
) -> None:
    """Only a secret that we made for a pod is listed under it."""
    host = {"metadata": {"name": "s", "labels": labels, "annotations": annotations}}
    assert child_of_pod(host) == pods


def test_a_tenant_cannot_make_a_child(world: Any) -> None:
    """The mark of a child does not cross from the virtual secret."""
    world.queries[users("secrets", KEY)] = [POD]
    marks = {"vcluster.loft.sh/child-of": "pods a/b", "note": "x"}
    wanted = world.wanted(KIND, secret(metadata={"annotations": marks}))
    assert wanted["metadata"]["annotations"] == {"note": "x"}
