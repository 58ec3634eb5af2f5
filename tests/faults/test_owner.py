"""The owner Service goes, and the host's garbage collector with it takes every copy."""

from functools import partial

from tests.faults.broken import BrokenPair
from tests.faults.life import App, application
from tests.integration.harness import Object, eventually, gone, named

HELD = 3.0
"""Seconds for which nothing must happen."""


async def test_without_its_owner_nothing_is_told_or_written(pair: BrokenPair) -> None:
    """The tenant keeps all objects while the copies vanish.

    With a new owner what is declared is made again, and lost pods are reported, as after the loss
    of a node: their controllers make others.
    """
    namespace, tenant = pair.names.host_namespace, pair.names.tenant
    async with application(pair) as app:
        await app.create()
        await eventually(app.runs)
        await eventually(partial(app.serves, 80))
        await pair.settled()
        _, before = await app.look()
        owner = await pair.host.get("services", tenant, namespace)
        await pair.host.delete("services", tenant, namespace)
        await pair.reason("the owner Service")
        await eventually(lambda: _collected(app), timeout=60.0)
        writes = len(pair.writes)
        await pair.silent(HELD)
        _, after = await app.look()
        assert _virtual(after) == _virtual(before)
        assert not pair.writes[writes:]
        made = await pair.host.create(anew(owner))
        await pair.syncer.wait_ready()
        copy = await eventually(lambda: pair.copy("services", "web", app.namespace), timeout=30.0)
        owners = [each["uid"] for each in copy["metadata"]["ownerReferences"]]
        assert owners == [made["metadata"]["uid"]]
        await gone(lambda: pair.virtual.find("pods", "web", app.namespace), timeout=30.0)
        await pair.settled()


async def _collected(app: App) -> None:
    found, _ = await app.look()
    left = [name for name in found if name.startswith("host")]
    assert not left, f"not collected yet: {left}"


def _virtual(uids: dict[str, str]) -> dict[str, str]:
    return {name: uid for name, uid in uids.items() if name.startswith("virtual")}


def anew(owner: Object) -> Object:
    """Return the owner as an operator would make it again."""
    metadata, spec = owner["metadata"], owner["spec"]
    return named(
        "Service",
        metadata["name"],
        metadata["namespace"],
        spec={"type": spec["type"], "ports": spec["ports"]},
    )
