"""Which host object a request means: the tenant's own copy, or none."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from syncer import ownership
from syncer.kube.store import Store
from syncer.naming import Names
from syncer.objects import Key, Object, Side
from syncer.proxy.refusal import RefusalError
from syncer.proxy.targets import Target, Targets, container_of, own_containers

NAMES = Names("t", "host-1")
OTHERS = Names("u", "host-1")


def pod(name: str = "web", uid: str = "1", **spec: Any) -> Object:
    """Give a virtual pod."""
    metadata = {"name": name, "namespace": "default", "uid": uid, "resourceVersion": "5"}
    return {"metadata": metadata, "spec": {"containers": [{"name": "main"}], **spec}}


def copy_of(virtual: Object, names: Names = NAMES, **marks: str | None) -> Object:
    """Give the copy of an object, with some annotations other than they should be."""
    copy = deepcopy(virtual)
    ownership.stamp(copy, virtual, names, None)
    copy["metadata"] |= {"uid": "h", "resourceVersion": "9"}
    annotations = copy["metadata"]["annotations"]
    for mark, value in marks.items():
        key = f"vcluster.loft.sh/{mark.replace('_', '-')}"
        annotations.pop(key) if value is None else annotations.update({key: value})
    return copy


def targets(
    virtual: list[Object], host: list[Object], *, synced: bool = True, resource: str = "pods"
) -> Targets:
    """Give what finds pods in stores with these."""
    stores = {}
    for side, objects in ((Side.VIRTUAL, virtual), (Side.HOST, host)):
        stores[side, resource] = store = Store({}, lambda _change: None)
        for each in objects:
            store.apply(each)
    return Targets(NAMES, stores, lambda _side, _resource: synced)


def test_a_pod_is_found_with_its_copy() -> None:
    """By its virtual name; what comes is both objects and the copy's key."""
    found = targets([pod(), pod("db", "2")], [copy_of(pod()), copy_of(pod("db", "2"))])
    assert found.names == NAMES
    target = found.pod("default", "web")
    assert target.host == Key("host-1", "web-x-default-x-t")
    assert target.virtual["metadata"]["uid"] == "1"
    assert target.copy["metadata"]["uid"] == "h"


def test_a_service_is_found_with_its_copy() -> None:
    """As pods are."""
    found = targets([pod()], [copy_of(pod())], resource="services")
    assert found.service("default", "web").host.name == "web-x-default-x-t"


@pytest.mark.parametrize(
    "copies",
    [
        pytest.param([], id="none"),
        pytest.param([copy_of(pod(), OTHERS)], id="another tenant's"),
        pytest.param([copy_of(pod(), object_name=None)], id="no mark"),
        pytest.param([copy_of(pod(), object_name="db")], id="of another object"),
        pytest.param([copy_of(pod(), object_namespace="other")], id="of another namespace"),
        pytest.param([copy_of(pod(), object_uid="0")], id="of the object before"),
        pytest.param([copy_of(pod(), controlled_by="other")], id="another controller's"),
        pytest.param([copy_of(pod("db"))], id="of another name"),
    ],
)
def test_nothing_but_the_own_copy_is_a_target(copies: list[Object]) -> None:
    """No mark, name or UID that differs leads anywhere."""
    for each in copies:
        if each["metadata"]["labels"]["vcluster.loft.sh/managed-by"] == "u":
            each["metadata"]["name"] = "web-x-default-x-t"
    with pytest.raises(RefusalError) as refused:
        targets([pod()], copies).pod("default", "web")
    assert refused.value.code == 400
    assert refused.value.message == "pod web does not have a host assigned"
    with pytest.raises(RefusalError) as refused:
        targets([pod()], copies, resource="services").service("default", "web")
    assert refused.value.code == 503
    assert refused.value.message == 'no endpoints available for service "web"'


def test_a_copy_of_old_has_no_uid() -> None:
    """Those of vcluster v0.7 are the tenant's, too."""
    found = targets([pod()], [copy_of(pod(), object_uid=None)])
    assert found.pod("default", "web").host.name == "web-x-default-x-t"


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        ("default", "db"),
        ("other", "web"),
        ("", "web"),
        ("host-1", "web-x-default-x-t"),
        ("default", "web-x-default-x-t"),
        ("default", ""),
    ],
)
def test_only_virtual_names_are_known(namespace: str, name: str) -> None:
    """The copy can't be asked for by its own name, nor an object that is not there."""
    with pytest.raises(RefusalError) as refused:
        targets([pod()], [copy_of(pod())]).pod(namespace, name)
    assert (refused.value.code, refused.value.message) == (404, f'pods "{name}" not found')


def test_nothing_is_known_before_the_lists_are_there() -> None:
    """Not that something is not there, either: come again."""
    with pytest.raises(RefusalError) as refused:
        targets([], [], synced=False).pod("default", "web")
    assert refused.value.code == 503
    assert refused.value.headers == {"Retry-After": "1"}


def test_what_is_not_synced_has_no_targets() -> None:
    """A resource that is turned off is told, and coming again is no use."""
    with pytest.raises(RefusalError) as refused:
        targets([], []).service("default", "web")
    assert (refused.value.code, refused.value.headers) == (503, {})
    assert refused.value.message == "services are not synced to the host"


# -- containers ----------------------------------------------------------------------------------


def having(virtual: dict[str, str], copy: dict[str, str] | None = None) -> Target:
    """Give a pod by its containers: field -> names."""

    def made(fields: dict[str, str]) -> Object:
        spec = {key: [{"name": name} for name in names.split()] for key, names in fields.items()}
        return {"metadata": {"name": "web", "namespace": "default"}, "spec": spec}

    return Target(made(virtual), Key("h", "n"), made(virtual if copy is None else copy))


TWO = {"initContainers": "init", "containers": "a b", "ephemeralContainers": "debug"}


@pytest.mark.parametrize(
    ("target", "asked", "container"),
    [
        pytest.param(having({"containers": "a"}), "", "a", id="the only one"),
        pytest.param(having({"containers": "a"}), "a", "a", id="the only one, named"),
        pytest.param(having(TWO), "b", "b", id="one of two"),
        pytest.param(having(TWO), "init", "init", id="an init container"),
        pytest.param(having(TWO), "debug", "debug", id="a debug container"),
        pytest.param(
            having({"initContainers": "init", "containers": "a"}), "", "a", id="not the init"
        ),
        pytest.param(
            having({"containers": "a"}, {"containers": "a sidecar"}), "", "a", id="not a sidecar"
        ),
    ],
)
def test_a_container_is_the_tenants_own(target: Target, asked: str, container: str) -> None:
    """The one that is named, or the only one."""
    assert container_of(target, asked) == container


@pytest.mark.parametrize(
    ("target", "asked", "message"),
    [
        pytest.param(
            having(TWO),
            "",
            "a container name must be specified for pod web, choose one of: [init a b debug]",
            id="none of two",
        ),
        pytest.param(having(TWO), "c", "container c is not valid for pod web", id="none such"),
        pytest.param(
            having({"containers": "a"}, {"containers": "a sidecar"}),
            "sidecar",
            "container sidecar is not valid for pod web",
            id="a sidecar",
        ),
        pytest.param(
            having(
                {"containers": "a", "ephemeralContainers": "sidecar"}, {"containers": "a sidecar"}
            ),
            "sidecar",
            "container sidecar is not valid for pod web",
            id="a sidecar by the name of a debug container",
        ),
        pytest.param(
            having({"containers": "a", "ephemeralContainers": "new"}, {"containers": "a"}),
            "new",
            "container new is not valid for pod web",
            id="one that the copy has not yet",
        ),
        pytest.param(
            having({"containers": "a b"}, {"containers": "a b sidecar"}),
            "",
            "a container name must be specified for pod web, choose one of: [a b]",
            id="no word of a sidecar",
        ),
    ],
)
def test_another_container_is_refused(target: Target, asked: str, message: str) -> None:
    """In the words of an API server, which name only the tenant's own."""
    with pytest.raises(RefusalError) as refused:
        container_of(target, asked)
    assert (refused.value.code, refused.value.message) == (400, message)


def test_own_containers_keep_their_order() -> None:
    """That of the virtual pod; fields may be missing on either side."""
    target = having({"containers": "c a b"}, {"containers": "a x b c"})
    assert own_containers(target.virtual, target.copy, "containers") == ["c", "a", "b"]
    assert own_containers(target.virtual, target.copy, "initContainers") == []
