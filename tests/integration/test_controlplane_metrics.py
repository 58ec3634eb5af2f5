"""A host plane that serves the metrics API does so for real: what pods use is what `top` shows."""

import asyncio
import uuid
from typing import Any

import pytest

from controlplane import ControlPlane
from tests.integration.harness import cluster, eventually, named, pod

_FIRST_METRICS = 90.0  # seconds; three times what it takes


async def top(plane: ControlPlane, *arguments: str) -> dict[str, tuple[int, str]]:
    """Return what `kubectl top` shows: millicores, memory; keys are the names, joined by `/`."""
    process = await asyncio.create_subprocess_exec(
        plane.tools.kubectl,
        f"--kubeconfig={plane.kubeconfig}",
        f"--cache-dir={plane.directory}/kubectl",
        "top",
        *arguments,
        "--no-headers",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    rows = [line.split() for line in out.decode().splitlines()]
    return {
        "/".join(each for each in row if each[0].isalpha()): _usage(
            [each for each in row if each[0].isdecimal() and not each.endswith("%")]
        )
        for row in rows
    }


def _usage(columns: list[str]) -> tuple[int, str]:
    cpu, memory = columns
    return int(cpu.removesuffix("m")), memory


def about(millicores: int) -> Any:
    """Return what equals nearly that: a rate over ten seconds of a busy machine is not exact."""
    return pytest.approx(millicores, rel=0.2)


async def test_top_shows_what_pods_and_nodes_use() -> None:
    """Annotations say what each container uses; a node uses that of its pods and some itself."""
    namespace = f"measured-{uuid.uuid4().hex[:8]}"
    async with ControlPlane.host(nodes=2, metrics=True) as plane, cluster(plane) as host:
        await host.create(named("Namespace", namespace))
        await eventually(lambda: host.get("serviceaccounts", "default", namespace))
        busy = pod("busy", namespace, nodeName="node-0")
        busy["spec"]["containers"].append({"name": "other", "image": "nginx"})
        usage = {"fake-pod/usage-cpu": "250m", "fake-pod/usage-memory": "100Mi"}
        busy["metadata"]["annotations"] = usage
        await host.create(busy)
        await host.create(pod("idle", namespace, nodeName="node-1"))

        async def shown() -> None:
            assert await top(plane, "pod", "--containers", f"--namespace={namespace}") == {
                "busy/main": (about(250), "100Mi"),
                "busy/other": (about(250), "100Mi"),
                "idle/main": (about(10), "16Mi"),
            }

        async def nodes_shown() -> None:
            assert await top(plane, "node") == {
                "node-0": (about(600), "712Mi"),
                "node-1": (about(110), "528Mi"),
            }

        await eventually(shown, timeout=_FIRST_METRICS, poll=1)
        await eventually(nodes_shown, timeout=_FIRST_METRICS, poll=1)  # of a later look at them
        # A metrics API that is not found keeps namespaces from going.
        await host.delete("namespaces", namespace)
