"""Services made on the host first: kept for their virtual object, adopted by it, gone without.

The API endpoint makes them so, since only the host can give out the address that both sides use.
"""

import sys
import time
from collections.abc import AsyncIterator

import pytest

from controlplane import ControlPlane
from controlplane.syncer import Syncer
from syncer import ownership
from syncer.naming import Names
from syncer.objects import Key
from tests.integration.harness import Cluster, Object, Pair, cluster, eventually, gone, service
from tests.integration.pod_steps import told

_SHORT = 8.0  # seconds a reservation lasts in the pair of its own

_ODD_CLOCK = f"""
import runpy, sys, time
from syncer import ownership
ownership.RESERVED_SECONDS = {_SHORT}
real = time.time
time.time = lambda: real() + 3600 * (-1 if {{slow}} else 1)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the syncer with short reservations and a clock that is an hour off."""


async def _reserve(pair: Pair, name: str, namespace: str, key: Key | None = None) -> Object:
    """Make a host service as the endpoint does, marked as the copy of `key` if given."""
    names, home = pair.names, pair.names.host_namespace
    wanted = service(name, namespace)
    marks = {ownership.MANAGED_BY: names.marker, ownership.NAMESPACE: namespace}
    wanted["spec"]["selector"] = {names.label_key("app"): name, **marks}
    owner = await pair.host.get("services", names.tenant, home)
    reference = {"apiVersion": "v1", "kind": "Service", "name": names.tenant}
    reference["uid"] = owner["metadata"]["uid"]
    ownership.reserve(wanted, key or Key(namespace, name), names, reference)
    wanted["metadata"]["name"] = names.host_name(name, namespace)
    return await pair.host.create(wanted)


async def test_a_reserved_copy_waits_for_its_service_and_is_adopted(
    pair: Pair, namespace: str
) -> None:
    """No orphan is seen in it; then it stays, UID and address, as the copy of the new service."""
    reserved = await _reserve(pair, "web", namespace)
    await pair.quiet(2.0, namespace=namespace, resources=["services"])
    address = reserved["spec"]["clusterIP"]
    made = await pair.virtual.create(service("web", namespace, clusterIP=address))

    async def adopted() -> Object:
        copy = await pair.copy("services", "web", namespace)
        assert ownership.virtual_uid(copy) == made["metadata"]["uid"]
        return copy

    copy = await eventually(adopted)
    assert ownership.annotation(copy, ownership.BLOCK_DELETION) is None
    assert copy["metadata"]["uid"] == reserved["metadata"]["uid"]
    assert copy["spec"] == reserved["spec"]
    virtual = await pair.virtual.get("services", "web", namespace)
    assert virtual["spec"]["clusterIP"] == address
    await pair.quiet(1.0, namespace=namespace, resources=["services"])
    await pair.virtual.delete("services", "web", namespace)
    await gone(lambda: pair.find_copy("services", "web", namespace))


async def test_a_service_that_differs_from_its_reservation_is_brought_down(
    pair: Pair, namespace: str
) -> None:
    """What the virtual server made of the service (an admission webhook) is what counts."""
    reserved = await _reserve(pair, "web", namespace)
    await pair.virtual.create(service("web", namespace, port=8053, sessionAffinity="ClientIP"))

    async def agreed() -> None:
        copy = await pair.copy("services", "web", namespace)
        virtual = await pair.virtual.get("services", "web", namespace)
        assert copy["metadata"]["uid"] == reserved["metadata"]["uid"]
        assert copy["spec"]["ports"][0]["port"] == 8053
        assert copy["spec"]["sessionAffinity"] == "ClientIP"
        assert virtual["spec"]["clusterIP"] == copy["spec"]["clusterIP"]

    await eventually(agreed)
    await pair.virtual.delete("services", "web", namespace)


async def test_a_reservation_for_another_service_is_not_adopted(pair: Pair, namespace: str) -> None:
    """A copy that was reserved for another object is in the way, and stays as it is."""
    reserved = await _reserve(pair, "web", namespace, Key(namespace, "other"))
    await pair.virtual.create(service("web", namespace))
    await told(pair.virtual, namespace, "web", "conflict: cannot sync virtual object")
    assert await pair.copy("services", "web", namespace) == reserved
    await pair.virtual.delete("services", "web", namespace)
    home = pair.names.host_namespace
    await pair.host.delete("services", reserved["metadata"]["name"], home)


@pytest.fixture(params=[False, True], ids=["an hour fast", "an hour slow"])
async def hasty(
    request: pytest.FixtureRequest, host: Cluster, virtual_of_its_own: Cluster
) -> AsyncIterator[Pair]:
    """A pair whose reservations are short; the syncer's own wall clock is wrong."""
    tenant = "hasty-slow" if request.param else "hasty-fast"
    code = _ODD_CLOCK.format(slow=request.param)
    async with Syncer(
        host.plane,
        virtual_of_its_own.plane,
        tenant=tenant,
        namespace=f"host-{tenant}",
        wrapper=(sys.executable, "-c", code),
    ) as syncer:
        yield Pair(host, virtual_of_its_own, syncer, Names(tenant, f"host-{tenant}"))


@pytest.fixture(scope="module")
async def virtual_of_its_own() -> AsyncIterator[Cluster]:
    """A virtual cluster without a syncer yet."""
    async with ControlPlane.virtual() as plane, cluster(plane) as booted:
        yield booted


async def test_a_reservation_ends_by_the_hosts_clock(hasty: Pair) -> None:
    """Without a virtual object the copy goes in time: no sooner, however wrong our clock is.

    What has found its object by then stays.
    """
    names = hasty.names
    own = await hasty.host.get("services", names.tenant, names.host_namespace)

    async def addressed() -> None:
        virtual = await hasty.virtual.get("services", "kubernetes", "default")
        assert virtual["spec"].get("clusterIP") == own["spec"]["clusterIP"]

    await eventually(addressed)
    await eventually(lambda: hasty.quiet(1.0, namespace="default", resources=["services"]))
    started = time.monotonic()
    await _reserve(hasty, "lost", "default")
    await _reserve(hasty, "found", "default")
    await hasty.quiet(_SHORT / 3, namespace="default", resources=["services"])
    await hasty.virtual.create(service("found", "default"))
    await gone(lambda: hasty.find_copy("services", "lost", "default"), timeout=3 * _SHORT)
    # The host's times are in whole seconds, so that a copy seems up to one older than it is.
    assert time.monotonic() - started > _SHORT - 1.0
    found = await hasty.copy("services", "found", "default")
    assert ownership.virtual_uid(found) is not None
    await hasty.virtual.delete("services", "found", "default")
    await gone(lambda: hasty.find_copy("services", "found", "default"))
