"""Patches as a real API server takes, refuses and merges them."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest

from syncer.engine.patch import JSON_PATCH, MERGE_PATCH, Patch, is_stale, make_patch
from syncer.kube.client import Client
from syncer.kube.config import load_kubeconfig
from syncer.kube.errors import ApiError
from syncer.ownership import CONTROLLED_BY
from tests.integration.harness import Cluster, Object, config_map, named, path_of, pod, service

OTHER_UID = "00000000-0000-0000-0000-000000000000"


@pytest.fixture
async def client(virtual: Cluster) -> AsyncIterator[Client]:
    """A client of the virtual cluster, whose syncer, if it has one, is told to keep out."""
    client = Client(load_kubeconfig(virtual.plane.kubeconfig))
    yield client
    await client.close()


def kept_out(obj: Object) -> Object:
    """Have an object left alone by the syncer that other tests may have started."""
    obj["metadata"]["annotations"] = {CONTROLLED_BY: "test"}
    return obj


def changed(actual: Object, change: Callable[[Object], Any]) -> Object:
    """Give a copy of an object with a change made to it."""
    wanted = copy.deepcopy(actual)
    change(wanted)
    return wanted


def plan(actual: Object, wanted: Object, content_type: str, *, version: bool = False) -> Patch:
    """Make the patch, which must be of a form."""
    patch = make_patch(actual, wanted, version=version)
    assert patch is not None
    assert patch.content_type == content_type
    return patch


async def send(
    client: Client, resource: str, actual: Object, patch: Patch, subresource: str = ""
) -> Object:
    """Send a patch and give the object as the server stored it."""
    metadata = actual["metadata"]
    path = path_of(resource, metadata.get("namespace", ""), metadata["name"])
    answer = await client.request(
        "PATCH",
        f"{path}/{subresource}" if subresource else path,
        body=patch.body,
        content_type=patch.content_type,
    )
    result: Object = orjson.loads(answer)
    return result


def names(items: list[Object]) -> list[str]:
    """Give the names of list elements."""
    return [item["name"] for item in items]


async def two_container_pod(virtual: Cluster, namespace: str) -> Object:
    """Create a pod of which the second container stands for an injected one."""
    containers = [{"name": "app", "image": "app:1"}, {"name": "injected", "image": "sidecar:1"}]
    return await virtual.create(kept_out(pod("web", namespace, containers=containers)))


def deployment(namespace: str, *containers: Object) -> Object:
    """A deployment: its containers can still change, as a pod's can't."""
    return named(
        "Deployment",
        "web",
        namespace,
        apiVersion="apps/v1",
        spec={
            "replicas": 0,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": list(containers)},
            },
        },
    )


# -- preconditions -------------------------------------------------------------------------------


@pytest.mark.parametrize("subresource", ["", "status"])
async def test_merge_patch_never_hits_a_successor(
    virtual: Cluster, namespace: str, client: Client, subresource: str
) -> None:
    """An object made again under the same name refuses what was meant for its predecessor."""
    actual = await virtual.create(kept_out(service("web", namespace)))
    actual["metadata"]["uid"] = OTHER_UID
    wanted = changed(actual, lambda obj: obj["metadata"].update(labels={"a": "1"}))
    patch = plan(actual, wanted, MERGE_PATCH)
    with pytest.raises(ApiError) as refusal:
        await send(client, "services", actual, patch, subresource)
    assert refusal.value.status == 422
    assert is_stale(refusal.value)


async def test_json_patch_never_hits_a_successor(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """A JSON patch tests the UID before anything else."""
    actual = await two_container_pod(virtual, namespace)
    actual["metadata"]["uid"] = OTHER_UID
    wanted = changed(actual, lambda obj: obj["spec"]["containers"][0].update(image="app:2"))
    with pytest.raises(ApiError) as refusal:
        await send(client, "pods", actual, plan(actual, wanted, JSON_PATCH))
    assert refusal.value.status == 422
    assert is_stale(refusal.value)


async def test_delete_of_a_successor_is_stale(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """A deletion with another UID's precondition is a conflict."""
    await virtual.create(config_map("web", namespace, {}))
    with pytest.raises(ApiError) as refusal:
        await client.request(
            "DELETE",
            path_of("configmaps", namespace, "web"),
            body={"preconditions": {"uid": OTHER_UID}},
        )
    assert is_stale(refusal.value)


@pytest.mark.parametrize("form", [MERGE_PATCH, JSON_PATCH])
async def test_version_is_checked_when_asked(
    virtual: Cluster, namespace: str, client: Client, form: str
) -> None:
    """An object that changed since it was read refuses a patch with a version, and only that."""
    actual = await two_container_pod(virtual, namespace)
    await virtual.patch("pods", "web", namespace, {"metadata": {"labels": {"newer": "1"}}})
    wanted = changed(actual, lambda obj: obj["metadata"].setdefault("labels", {}).update(a="1"))
    if form == JSON_PATCH:
        wanted["spec"]["containers"][0]["image"] = "app:2"
    with pytest.raises(ApiError) as refusal:
        await send(client, "pods", actual, plan(actual, wanted, form, version=True))
    assert is_stale(refusal.value)
    if form == MERGE_PATCH:
        stored = await send(client, "pods", actual, plan(actual, wanted, form))
        assert stored["metadata"]["labels"].items() >= {"newer": "1", "a": "1"}.items()


@pytest.mark.parametrize(
    ("form", "change"),
    [
        pytest.param(MERGE_PATCH, lambda obj: obj["spec"].update(hostname="x"), id="merge"),
        pytest.param(
            JSON_PATCH, lambda obj: obj["spec"]["containers"][0].update(tty=True), id="JSON"
        ),
        pytest.param(
            JSON_PATCH, lambda obj: obj["spec"]["containers"][0].update(image=[]), id="wrong type"
        ),
    ],
)
async def test_refused_field_is_not_stale(
    virtual: Cluster,
    namespace: str,
    client: Client,
    form: str,
    change: Callable[[Object], Any],
) -> None:
    """A change that validation refuses is told from one that came too late."""
    actual = await two_container_pod(virtual, namespace)
    with pytest.raises(ApiError) as refusal:
        await send(client, "pods", actual, plan(actual, changed(actual, change), form))
    assert refusal.value.status == 422
    assert not is_stale(refusal.value)


@pytest.mark.parametrize(
    ("resource", "change"),
    [
        pytest.param("services", lambda obj: obj["spec"].update(clusterIP="1.2.3.4"), id="service"),
        pytest.param("services", lambda obj: obj["spec"].update(type="Nonsense"), id="enum"),
        pytest.param("services", lambda obj: obj["spec"].update(ports="x"), id="wrong type"),
    ],
)
async def test_other_refusals_are_not_stale(
    virtual: Cluster,
    namespace: str,
    client: Client,
    resource: str,
    change: Callable[[Object], Any],
) -> None:
    """Immutable fields, unknown values and wrong types are refusals."""
    actual = await virtual.create(kept_out(service("web", namespace)))
    with pytest.raises(ApiError) as refusal:
        await send(client, resource, actual, plan(actual, changed(actual, change), MERGE_PATCH))
    assert not is_stale(refusal.value)


# -- what a patch leaves alone -------------------------------------------------------------------


async def test_removed_keys_go_and_others_stay(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """A merge patch removes a key by null and touches no key that it doesn't name."""
    labels = {"example.com/a": "1", "b": "1"}
    actual = await virtual.create(config_map("web", namespace, {"k": "1"}))
    actual = await virtual.patch("configmaps", "web", namespace, {"metadata": {"labels": labels}})
    await virtual.patch("configmaps", "web", namespace, {"metadata": {"labels": {"c": "1"}}})
    wanted = changed(actual, lambda obj: obj["metadata"]["labels"].pop("example.com/a"))
    stored = await send(client, "configmaps", actual, plan(actual, wanted, MERGE_PATCH))
    assert stored["metadata"]["labels"] == {"b": "1", "c": "1"}


async def test_image_change_keeps_the_injected_container(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """An image of a pod changes in its place; the other container stays as it is."""
    actual = await two_container_pod(virtual, namespace)
    wanted = changed(actual, lambda obj: obj["spec"]["containers"][0].update(image="app:2"))
    stored = await send(client, "pods", actual, plan(actual, wanted, JSON_PATCH))
    images = [(each["name"], each["image"]) for each in stored["spec"]["containers"]]
    assert images == [("app", "app:2"), ("injected", "sidecar:1")]
    assert make_patch(stored, wanted) is None


async def test_container_injected_since_is_kept(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """An element put in behind the known ones after the object was read survives the patch."""
    app, late = {"name": "app", "image": "app:1"}, {"name": "late", "image": "sidecar:1"}
    actual = await virtual.create(deployment(namespace, app))
    await virtual.apply(deployment(namespace, app, late))
    template = "spec", "template", "spec"
    wanted = changed(actual, lambda obj: _at(obj, *template)["containers"][0].update(image="app:2"))
    stored = await send(client, "apps/v1/deployments", actual, plan(actual, wanted, JSON_PATCH))
    containers = _at(stored, *template)["containers"]
    assert names(containers) == ["app", "late"]
    assert containers[0]["image"] == "app:2"


async def test_container_injected_in_front_is_not_hit(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """An element put in before the known ones makes the patch stale instead of being changed."""
    app, late = {"name": "app", "image": "app:1"}, {"name": "late", "image": "sidecar:1"}
    actual = await virtual.create(deployment(namespace, app))
    newer = deployment(namespace, late, app)
    await virtual.patch("apps/v1/deployments", "web", namespace, {"spec": newer["spec"]})
    template = "spec", "template", "spec"
    wanted = changed(actual, lambda obj: _at(obj, *template)["containers"][0].update(image="app:2"))
    with pytest.raises(ApiError) as refusal:
        await send(client, "apps/v1/deployments", actual, plan(actual, wanted, JSON_PATCH))
    assert is_stale(refusal.value)


def _at(obj: Object, *steps: str) -> Any:
    here: Any = obj
    for step in steps:
        here = here[step]
    return here


async def test_toleration_is_appended(virtual: Cluster, namespace: str, client: Client) -> None:
    """A toleration is added to a running pod behind those of admission."""
    actual = await two_container_pod(virtual, namespace)
    before = actual["spec"]["tolerations"]
    assert before, "admission adds tolerations"
    added = {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
    wanted = changed(actual, lambda obj: obj["spec"]["tolerations"].append(added))
    stored = await send(client, "pods", actual, plan(actual, wanted, JSON_PATCH))
    assert stored["spec"]["tolerations"] == [*before, added]


async def test_second_ephemeral_container(virtual: Cluster, namespace: str, client: Client) -> None:
    """A first ephemeral container comes by merge patch, a second one is appended."""
    actual = await two_container_pod(virtual, namespace)
    forms = []
    for name in ("debug-1", "debug-2"):
        wanted = copy.deepcopy(actual)
        added = {"name": name, "image": "busybox", "targetContainerName": "app"}
        wanted["spec"].setdefault("ephemeralContainers", []).append(added)
        patch = make_patch(actual, wanted, roots=("spec.ephemeralContainers",))
        assert patch is not None
        forms.append(patch.content_type)
        actual = await send(client, "pods", actual, patch, "ephemeralcontainers")
    assert names(actual["spec"]["ephemeralContainers"]) == ["debug-1", "debug-2"]
    assert forms == [MERGE_PATCH, JSON_PATCH]


async def test_resize_changes_the_resources_of_one_container(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """A patch of the resources alone goes through the resize subresource."""
    containers = [
        {"name": name, "image": "app:1", "resources": {"requests": {"cpu": "100m"}}}
        for name in ("app", "injected")
    ]
    actual = await virtual.create(kept_out(pod("web", namespace, containers=containers)))
    wanted = changed(
        actual,
        lambda obj: obj["spec"]["containers"][0].update(
            image="app:2", resources={"requests": {"cpu": "200m"}}
        ),
    )
    patch = make_patch(actual, wanted, roots=("spec.containers[].resources",))
    assert patch is not None
    stored = await send(client, "pods", actual, patch, "resize")
    cpu = [each["resources"]["requests"]["cpu"] for each in stored["spec"]["containers"]]
    assert cpu == ["200m", "100m"]
    assert stored["spec"]["containers"][0]["image"] == "app:1"


async def test_status_conditions_are_replaced_as_a_whole(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """Conditions, with their null times, go through the status subresource and then rest."""
    actual = await two_container_pod(virtual, namespace)
    condition = {
        "type": "Ready",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": "2025-11-21T12:00:00Z",
    }
    wanted = changed(
        actual, lambda obj: obj["status"].update(phase="Running", conditions=[condition])
    )
    stored = await send(client, "pods", actual, plan(actual, wanted, MERGE_PATCH), "status")
    assert stored["status"]["phase"] == "Running"
    assert [each["type"] for each in stored["status"]["conditions"]] == ["Ready"]
    wanted["status"]["conditions"][0].pop("lastProbeTime")
    assert make_patch(stored, wanted, roots=("status.phase", "status.conditions")) is None


async def test_patch_leaves_nothing_to_write(
    virtual: Cluster, namespace: str, client: Client
) -> None:
    """What the server stored needs no other write."""
    actual = await virtual.create(kept_out(service("web", namespace)))

    def change(obj: Object) -> None:
        obj["metadata"]["annotations"] |= {"example.com/a": "1", "empty": ""}
        obj["spec"]["selector"] = {"app": "web"}
        obj["spec"]["ports"].append(
            {"name": "more", "port": 80, "protocol": "TCP", "targetPort": 80}
        )

    wanted = changed(actual, change)
    patch = make_patch(actual, wanted)
    assert patch is not None
    stored = await send(client, "services", actual, patch)
    assert make_patch(stored, wanted) is None
