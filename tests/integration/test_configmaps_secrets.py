"""Config maps and secrets: on the host while something there needs them, and no longer."""

import asyncio
from base64 import b64encode

import pytest

from syncer.naming import PREFIX
from tests.integration.harness import (
    Object,
    Pair,
    config_map,
    eventually,
    gone,
    named,
    pod,
    secret,
)
from tests.integration.pod_steps import first_event, latest_version, told

_FORCED = {f"{PREFIX}force-sync": "true"}


def _user(name: str, namespace: str) -> Object:
    """Return a pod that uses config map `used` and secrets `used`, `pull` and `whole`."""
    reference = {"name": "used", "key": "a"}
    env = [{"name": "A", "valueFrom": {"secretKeyRef": reference}}]
    main = {"name": "main", "image": "nginx", "env": env}
    main["envFrom"] = [{"secretRef": {"name": "whole"}}]
    volumes = [{"name": "config", "configMap": {"name": "used", "optional": True}}]
    return pod(
        name,
        namespace,
        containers=[main],
        volumes=volumes,
        imagePullSecrets=[{"name": "pull"}],
    )


async def test_what_a_pod_uses_is_copied_while_it_is_used(pair: Pair, namespace: str) -> None:
    """The copies come with the first pod that names them and go with the last."""
    for name in ("used", "whole", "pull", "idle"):
        await pair.virtual.create(secret(name, namespace, {"a": "b"}))
    for name in ("used", "idle"):
        await pair.virtual.create(config_map(name, namespace, {"a": "b"}))
    await asyncio.gather(*(pair.virtual.create(_user(name, namespace)) for name in ("one", "two")))

    async def names(resource: str) -> set[str]:
        return {
            each["metadata"]["annotations"][f"{PREFIX}object-name"]
            for each in await pair.copies(resource, namespace)
            if f"{PREFIX}object-name" in each["metadata"]["annotations"]
        }

    async def copied() -> None:
        assert await names("secrets") == {"used", "whole", "pull"}
        assert await names("configmaps") == {"used", "kube-root-ca.crt"}

    await eventually(copied)
    await pair.virtual.delete("pods", "one", namespace, grace=0)
    await gone(lambda: pair.virtual.find("pods", "one", namespace))
    await asyncio.sleep(0.5)
    await copied()
    await pair.virtual.delete("pods", "two", namespace, grace=0)

    async def removed() -> None:
        assert await names("secrets") == set()
        assert await names("configmaps") == set()

    await eventually(removed)


@pytest.mark.parametrize("resource", ["configmaps", "secrets"])
async def test_the_annotation_asks_for_a_copy_that_nothing_uses(
    pair: Pair, namespace: str, resource: str
) -> None:
    """`force-sync` brings the copy, taking it off or deleting the object removes it."""
    make = config_map if resource == "configmaps" else secret
    await pair.virtual.create(make("wanted", namespace, {"a": "b"}, annotations=_FORCED))
    await eventually(lambda: pair.copy(resource, "wanted", namespace))
    off = {"metadata": {"annotations": {f"{PREFIX}force-sync": None}}}
    await pair.virtual.patch(resource, "wanted", namespace, off)
    await gone(lambda: pair.find_copy(resource, "wanted", namespace))
    on = {"metadata": {"annotations": _FORCED}}
    await pair.virtual.patch(resource, "wanted", namespace, on)
    await eventually(lambda: pair.copy(resource, "wanted", namespace))
    await pair.virtual.delete(resource, "wanted", namespace)
    await gone(lambda: pair.find_copy(resource, "wanted", namespace))


async def test_a_change_of_several_keys_is_one_write(pair: Pair, namespace: str) -> None:
    """Changed, added and removed keys, binary ones, labels and annotations: one patch."""
    made = config_map("big", namespace, {"a": "1", "b": "2"}, annotations=_FORCED | {"x": "1"})
    made["binaryData"] = {"bin": b64encode(b"\x00\xff").decode()}
    made["metadata"]["labels"] = {"app": "web"}
    await pair.virtual.create(made)
    copy = await eventually(lambda: pair.copy("configmaps", "big", namespace))
    assert (copy["data"], copy["binaryData"]) == (made["data"], made["binaryData"])
    home = pair.names.host_namespace
    since = await latest_version(pair.host, "configmaps", home)
    made["data"] = {"a": "3", "c": "4"}
    made["binaryData"] = {"other": b64encode(b"\x01").decode()}
    made["metadata"]["annotations"] = _FORCED | {"y": "2"}
    made["metadata"]["labels"] = {"tier": "1"}
    await pair.virtual.update(made)

    async def changed() -> Object:
        found = await pair.copy("configmaps", "big", namespace)
        assert (found["data"], found["binaryData"]) == (made["data"], made["binaryData"])
        return found

    found = await eventually(changed)
    annotations, labels = found["metadata"]["annotations"], found["metadata"]["labels"]
    assert annotations["y"] == "2"
    assert "x" not in annotations
    assert labels[pair.names.label_key("tier")] == "1"
    assert pair.names.label_key("app") not in labels
    await pair.quiet(0.7, namespace=namespace, resources=["configmaps"])
    written = await first_event(pair.host, "configmaps", home, found["metadata"]["name"], since)
    assert written["object"] == found, "the first write was the last, and had all of it"


async def test_types_and_immutability_are_kept_but_for_tokens(pair: Pair, namespace: str) -> None:
    """A secret's type is the tenant's; of a service-account token the host knows data only."""
    basic = secret("basic", namespace, {"username": "a", "password": "b"}, annotations=_FORCED)
    await pair.virtual.create(basic | {"type": "kubernetes.io/basic-auth", "immutable": True})
    token = named("Secret", "token", namespace, type="kubernetes.io/service-account-token")
    owner = {"kubernetes.io/service-account.name": "default"}
    token["metadata"]["annotations"] = _FORCED | owner
    await pair.virtual.create(token)
    copy = await eventually(lambda: pair.copy("secrets", "basic", namespace))
    assert copy["type"] == "kubernetes.io/basic-auth"
    assert copy["immutable"] is True

    async def filled() -> Object:
        found = await pair.copy("secrets", "token", namespace)
        virtual = await pair.virtual.get("secrets", "token", namespace)
        assert found.get("data") == virtual["data"]
        assert set(found["data"]) == {"token", "ca.crt", "namespace"}
        return found

    assert (await eventually(filled))["type"] == "Opaque"


@pytest.mark.parametrize("resource", ["configmaps", "secrets"])
async def test_an_immutable_object_made_again_gets_a_new_copy(
    pair: Pair, namespace: str, resource: str
) -> None:
    """Deleted and made again with other data: the copy is of the new one, whatever was fixed."""
    make = config_map if resource == "configmaps" else secret
    first = make("fixed", namespace, {"a": "1"}, annotations=_FORCED, immutable=True)
    await pair.virtual.create(first)
    before = await eventually(lambda: pair.copy(resource, "fixed", namespace))
    await pair.virtual.delete(resource, "fixed", namespace)
    second = await pair.virtual.create(make("fixed", namespace, {"b": "2"}, annotations=_FORCED))

    async def check() -> None:
        copy = await pair.copy(resource, "fixed", namespace)
        assert copy["data"] == second["data"]
        assert copy["metadata"]["uid"] != before["metadata"]["uid"]
        assert copy["metadata"]["annotations"][f"{PREFIX}object-uid"] == second["metadata"]["uid"]

    await eventually(check)


@pytest.mark.parametrize("resource", ["configmaps", "secrets"])
async def test_a_deleted_copy_is_made_again_and_a_changed_one_put_right(
    pair: Pair, namespace: str, resource: str
) -> None:
    """The tenant's object says what its copy contains, whoever touched the copy."""
    make = config_map if resource == "configmaps" else secret
    await pair.virtual.create(make("kept", namespace, {"a": "1"}, annotations=_FORCED))
    first = await eventually(lambda: pair.copy(resource, "kept", namespace))
    where = (resource, first["metadata"]["name"], pair.names.host_namespace)
    await pair.host.delete(*where)

    async def again() -> None:
        copy = await pair.copy(resource, "kept", namespace)
        assert copy["metadata"]["uid"] != first["metadata"]["uid"]

    await eventually(again)
    await pair.host.patch(*where, {"data": {"a": None, "z": "eA=="}})

    async def right() -> None:
        assert (await pair.copy(resource, "kept", namespace))["data"] == first["data"]

    await eventually(right)


async def test_a_namesake_on_the_host_is_left_alone(pair: Pair, namespace: str) -> None:
    """Somebody's object under the copy's name is a conflict that the tenant is told of."""
    home = pair.names.host_namespace
    theirs = await pair.host.create(
        secret(pair.host_name("clash", namespace), home, {"theirs": "secret"})
    )
    await pair.virtual.create(secret("clash", namespace, {"mine": "1"}, annotations=_FORCED))
    event = await told(pair.virtual, namespace, "clash", "unmanaged physical object")
    assert home not in event["message"]
    await pair.virtual.patch("secrets", "clash", namespace, {"stringData": {"mine": "2"}})
    await pair.virtual.delete("secrets", "clash", namespace)
    await asyncio.sleep(0.5)
    after = await pair.host.get("secrets", theirs["metadata"]["name"], home)
    assert after == theirs
    await pair.host.delete("secrets", theirs["metadata"]["name"], home)
