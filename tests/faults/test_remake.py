"""Objects deleted and made again under the same name: no decision may hit the wrong one."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from syncer.objects import Key
from syncer.ownership import OBJECT_UID
from tests.faults.broken import BrokenPair, Pause
from tests.faults.life import REMADE, App, Dump, application
from tests.integration.harness import RefusedError, eventually

STRIDE = 3
"""Into so many tests the stages are dealt, so that workers share them."""

COPIED_ANEW = tuple(each for each in REMADE if each[0] != "services")
"""Those whose copy is made again with them; that of a service is kept, and marked anew."""

MOST = 60
"""More stages than this is a bug in itself."""


@pytest.mark.parametrize("first", range(1, STRIDE + 1))
async def test_remade_at_every_stage_of_creation(
    pair: BrokenPair, reference: dict[str, Dump], first: int
) -> None:
    """While any write of its creation is under way all that is there is removed and made again.

    What stands on the host then belongs to the objects that are there now, and works.
    """
    for stage in range(first, MOST, STRIDE):
        async with application(pair) as app:
            if not await _at_stage(app, stage, app.create(), _remake_all(app)):
                return
            await _ends_well(app, reference, stage)
    pytest.fail(f"creation has more than {MOST} stages")


@pytest.mark.parametrize("first", range(1, STRIDE + 1))
async def test_remade_at_every_stage_of_deletion(
    pair: BrokenPair, reference: dict[str, Dump], first: int
) -> None:
    """Made again as soon as the name is free, at whatever point the old copies' removal is."""
    for stage in range(first, MOST, STRIDE):
        async with application(pair) as app:
            await app.create()
            await app.reaches(reference["created"], quiet=0.0)
            app.uids = {}
            if not await _at_stage(app, stage, _delete_all(app), _create_free(app)):
                return
            await eventually(partial(_create_rest, app), timeout=30.0)
            await _ends_well(app, reference, stage)
    pytest.fail(f"deletion has more than {MOST} stages")


async def test_remade_while_the_syncer_is_down(
    pair: BrokenPair, reference: dict[str, Dump]
) -> None:
    """Nobody saw the old objects go; their copies are told apart by UID."""
    async with application(pair) as app:
        await app.create()
        await app.reaches(reference["created"])
        await pair.syncer.kill()
        app.uids = {}
        await _remake_all(app)
        await pair.syncer.start()
        await _ends_well(app, reference, 0)


async def test_a_view_that_is_behind_deletes_no_successors_copy(
    pair: BrokenPair, reference: dict[str, Dump]
) -> None:
    """Objects are made again while the syncer hears nothing, and another one copies them.

    As when two overlap in a rolling update: what isn't its own object's copy may be the next one's.
    """
    async with application(pair) as app:
        await app.create()
        await app.reaches(reference["created"])
        with pair.to_virtual.stall({"WATCH"}):
            await _remake_all(app)
            await _mark_copies(app)
            made = await _copied(app)
            await pair.settled(3.0)
            assert await _copied(app) == made
        app.uids = {}
        await _ends_well(app, reference, 0)
        assert await _copied(app) == made


async def _mark_copies(app: App) -> None:
    """Give the copies that are never restamped to the objects that are there now."""
    for resource, name in COPIED_ANEW:
        made = await app.pair.virtual.get(resource, name, app.namespace)
        key = app.pair.names.host_key(Key(app.namespace, name))
        mark = {OBJECT_UID: made["metadata"]["uid"]}
        body = {"metadata": {"annotations": mark}}
        await app.pair.host.patch(resource, key.name, key.namespace, body)


async def _copied(app: App) -> dict[str, str]:
    """Check that the copies that are never restamped are of the objects there are; give UIDs."""
    uids = {}
    for resource, name in COPIED_ANEW:
        made = await app.pair.virtual.get(resource, name, app.namespace)
        copy = await app.pair.copy(resource, name, app.namespace)
        uids[f"virtual {resource}"] = made["metadata"]["uid"]
        uids[f"host {resource}"] = copy["metadata"]["uid"]
        assert copy["metadata"]["annotations"][OBJECT_UID] == uids[f"virtual {resource}"]
    return uids


async def _at_stage(
    app: App, stage: int, act: Coroutine[Any, Any, None], meanwhile: Coroutine[Any, Any, None]
) -> bool:
    """Do something, and something else while the syncer's write number `stage` is held.

    Returns:
        Whether there was such a write.
    """
    with Pause(app.pair, stage) as pause:
        acting = asyncio.create_task(act)
        reached = await _reached(app, pause, acting)
        if reached:
            await meanwhile
        else:
            meanwhile.close()
        pause.go_on()
        await acting
    return reached


async def _reached(app: App, pause: Pause, acting: "asyncio.Task[None]") -> bool:
    """Wait until the write comes, or until none comes any more."""
    waiting = asyncio.create_task(pause.reached.wait())
    await asyncio.wait({acting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not pause.reached.is_set():
        quiet = asyncio.create_task(app.pair.settled(1.5))
        await asyncio.wait({quiet, waiting}, return_when=asyncio.FIRST_COMPLETED)
        quiet.cancel()
    waiting.cancel()
    return pause.reached.is_set()


async def _ends_well(app: App, reference: dict[str, Dump], stage: int) -> None:
    try:
        await eventually(app.well_marked, timeout=20.0)
        await app.reaches(reference["created"], note=False)
    except (AssertionError, LookupError, RefusedError) as failure:
        failure.add_note(f"(stage {stage}; the pod's writes:\n{app.told()})")
        raise


async def _remake_all(app: App) -> None:
    """Remove what is there, the pod without grace, and make it again at once."""
    virtual = app.pair.virtual
    for obj, (resource, name) in zip(reversed(app.objects()), REMADE, strict=True):
        if await virtual.find(resource, name, app.namespace):
            await virtual.delete(resource, name, app.namespace, grace=_grace(resource))
            await virtual.create(obj)


async def _delete_all(app: App) -> None:
    for resource, name in REMADE:
        await app.pair.virtual.delete(resource, name, app.namespace)


async def _create_free(app: App) -> None:
    """Make what can be made: the names of terminating objects are taken."""
    for obj in app.objects():
        try:
            await app.pair.virtual.create(obj)
        except RefusedError as refused:
            if refused.reason != "AlreadyExists":
                raise


async def _create_rest(app: App) -> None:
    """Make what isn't there; raises RefusedError while a predecessor still is."""
    virtual = app.pair.virtual
    for obj in app.objects():
        resource, name = f"{obj['kind'].lower()}s", obj["metadata"]["name"]
        found = await virtual.find(resource, name, app.namespace)
        if found is None or "deletionTimestamp" in found["metadata"]:
            await virtual.create(obj)


def _grace(resource: str) -> int | None:
    return 0 if resource == "pods" else None
