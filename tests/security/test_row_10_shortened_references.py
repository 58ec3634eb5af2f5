"""Row 10: a reference that is shortened on the host never reaches an object of somebody else's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import orjson
import pytest

from tests.integration.harness import Object, Pair, RefusedError, eventually, gone, pod, secret
from tests.integration.pod_steps import add_debug_container, in_phase, told

_LONG = "a-name-that-is-so-long-that-it-is-cut-on-the-host-and-ends-in-a-hash"


def _mount(optional: bool) -> list[Object]:
    return [{"name": "stolen", "secret": {"secretName": _LONG, "optional": optional}}]


@pytest.fixture
async def theirs(pair: Pair, namespace: str) -> AsyncIterator[Object]:
    """A stranger's Secret under the shortened name, in the tenant's host namespace."""
    home = pair.names.host_namespace
    name = pair.host_name(_LONG, namespace)
    assert pair.names.is_shortened(_LONG, namespace)
    yield await pair.host.create(secret(name, home, {"password": "theirs"}))
    with suppress(RefusedError):
        await pair.host.delete("secrets", name, home)


async def test_a_strangers_secret_is_not_read(pair: Pair, namespace: str, theirs: Object) -> None:
    """Required: no pod; optional: one without it. The tenant's own Secret is then a conflict."""
    stolen = theirs["metadata"]["name"]
    await pair.virtual.create(pod("required", namespace, volumes=_mount(optional=False)))
    await told(pair.virtual, namespace, "required", f"waiting for Secret {namespace}/{_LONG}")
    free = pod("free", namespace, volumes=_mount(optional=True))
    free["spec"]["imagePullSecrets"] = [{"name": _LONG}]
    await pair.virtual.create(free)
    await in_phase(pair, "free", namespace)
    copy = await pair.copy("pods", "free", namespace)
    assert stolen not in orjson.dumps(copy["spec"]).decode()
    await pair.virtual.create(secret(_LONG, namespace, {"password": "mine"}))
    await told(pair.virtual, namespace, _LONG, "unmanaged physical object")
    await asyncio.sleep(0.5)
    assert await pair.find_copy("pods", "required", namespace) is None
    home = pair.names.host_namespace
    assert (await pair.host.get("secrets", stolen, home))["data"] == theirs["data"]
    await pair.host.delete("secrets", stolen, home)
    await in_phase(pair, "required", namespace)
    own = await pair.virtual.get("secrets", _LONG, namespace)
    assert (await pair.copy("secrets", _LONG, namespace))["data"] == own["data"]


async def test_a_debug_container_does_not_read_it_either(
    pair: Pair, namespace: str, theirs: Object
) -> None:
    """A container that is added later waits as well."""
    await pair.virtual.create(pod("web", namespace))
    await in_phase(pair, "web", namespace)
    source = {"secretRef": {"name": _LONG}}
    debug = {"name": "debug", "image": "debug", "envFrom": [source]}
    await add_debug_container(pair, "web", namespace, debug)
    await told(pair.virtual, namespace, "web", f"waiting for Secret {namespace}/{_LONG}")
    await asyncio.sleep(0.3)
    copy = await pair.copy("pods", "web", namespace)
    assert not copy["spec"].get("ephemeralContainers")
    home = pair.names.host_namespace
    await pair.host.delete("secrets", theirs["metadata"]["name"], home)
    await pair.virtual.create(secret(_LONG, namespace, {"password": "mine"}))

    async def added() -> None:
        [container] = (await pair.copy("pods", "web", namespace))["spec"]["ephemeralContainers"]
        assert container["envFrom"][0]["secretRef"]["name"] == theirs["metadata"]["name"]

    await eventually(added)
    mine = await pair.copy("secrets", _LONG, namespace)
    assert mine["metadata"]["uid"] != theirs["metadata"]["uid"]


async def test_a_long_name_of_ones_own_works(pair: Pair, namespace: str) -> None:
    """A pod made at once with, or even before, a Secret of such a name runs with its copy."""
    await pair.virtual.create(pod("early", namespace, volumes=_mount(optional=False)))
    await pair.virtual.create(secret(_LONG, namespace, {"password": "mine"}))
    await pair.virtual.create(pod("late", namespace, volumes=_mount(optional=False)))
    for name in ("early", "late"):
        await in_phase(pair, name, namespace)
        copy = await pair.copy("pods", name, namespace)
        [volume] = [each for each in copy["spec"]["volumes"] if each["name"] == "stolen"]
        assert volume["secret"]["secretName"] == pair.host_name(_LONG, namespace)
        await pair.virtual.delete("pods", name, namespace, grace=0)
    await gone(lambda: pair.find_copy("secrets", _LONG, namespace))
