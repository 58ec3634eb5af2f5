"""Row 29, in part: one namespace's flood does not hold up the others, and big objects pass."""

import asyncio
import time

from syncer.naming import PREFIX
from tests.integration.harness import Cluster, Pair, config_map, eventually, secret

_FORCED = {f"{PREFIX}force-sync": "true"}
_FLOOD = 300


async def _copied(pair: Pair, name: str) -> None:
    await eventually(lambda: pair.copy("configmaps", name, "default"))


async def test_a_flood_in_one_namespace_lets_others_pass(
    pair: Pair, virtual: Cluster, namespace: str
) -> None:
    """Objects of a quiet namespace are copied while those of a noisy one still wait."""
    names = [f"noise-{number}" for number in range(_FLOOD)]
    flood = [virtual.create(config_map(each, namespace, {}, annotations=_FORCED)) for each in names]
    flooding = asyncio.gather(*flood)
    quiet = [f"quiet-{namespace}-{number}" for number in range(5)]
    for name in quiet:
        await virtual.create(config_map(name, "default", {}, annotations=_FORCED))
        await _copied(pair, name)
    await flooding

    async def all_copied() -> None:
        copies = await pair.copies("configmaps", namespace)
        assert sum("noise" in each["metadata"]["name"] for each in copies) == _FLOOD

    await eventually(all_copied, timeout=60)
    for name in quiet:
        await virtual.delete("configmaps", name, "default")


async def test_an_object_of_the_largest_size_passes(pair: Pair, namespace: str) -> None:
    """A secret of a megabyte is copied and changed as any other, within seconds."""
    data = {"a": "x" * 500_000, "b": "y" * 500_000}
    started = time.monotonic()
    await pair.virtual.create(secret("big", namespace, data, annotations=_FORCED))
    await eventually(lambda: pair.copy("secrets", "big", namespace))
    await pair.virtual.patch("secrets", "big", namespace, {"stringData": {"b": "z"}})

    async def changed() -> None:
        copy = await pair.copy("secrets", "big", namespace)
        assert copy["data"]["b"] == "eg=="

    await eventually(changed)
    assert time.monotonic() - started < 10
