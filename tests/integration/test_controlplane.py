"""The control planes keep their promises: pods run, parts can be broken, nothing is left behind."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controlplane import ControlPlane, NotOwnerError, PlaneError, Settings, boot_pair
from controlplane.component import BOOT_TIMEOUT
from controlplane.faults import FaultProxy, Stage, Write, fault_proxy
from controlplane.nodes import set_address
from tests.integration.harness import eventually

REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 60.0  # seconds; for what takes one or two, on a machine that others use as well
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[tuple[ControlPlane, ControlPlane]]:
    """A host and a virtual plane."""
    async with boot_pair() as planes:
        yield planes


@pytest.fixture(scope="module")
def host(pair: tuple[ControlPlane, ControlPlane]) -> ControlPlane:
    return pair[0]


@pytest.fixture(scope="module")
def virtual(pair: tuple[ControlPlane, ControlPlane]) -> ControlPlane:
    return pair[1]


@pytest.fixture
async def api(host: ControlPlane) -> AsyncIterator[aiohttp.ClientSession]:
    """An admin's session with the host."""
    async with host.api() as session:
        yield session


@pytest.fixture
async def proxy(virtual: ControlPlane) -> AsyncIterator[FaultProxy]:
    """A fault proxy before the virtual plane."""
    async with fault_proxy(virtual) as running:
        yield running


@pytest.fixture
async def client(proxy: FaultProxy, virtual: ControlPlane) -> AsyncIterator[aiohttp.ClientSession]:
    """A session with the virtual plane through the fault proxy."""
    connector = aiohttp.TCPConnector(ssl=virtual.pki.client_context())
    async with aiohttp.ClientSession(proxy.server, connector=connector) as session:
        yield session


async def kubectl(plane: ControlPlane, *arguments: str) -> str:
    """Run kubectl and return what it prints; fail the test if it fails."""
    process = await start_kubectl(plane, *arguments)
    async with asyncio.timeout(TIMEOUT):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def start_kubectl(
    plane: ControlPlane, *arguments: str, kubeconfig: Path | None = None, spdy: bool = False
) -> asyncio.subprocess.Process:
    """Start kubectl, as of old (`spdy`) or of today."""
    return await asyncio.create_subprocess_exec(
        plane.tools.kubectl,
        f"--kubeconfig={kubeconfig or plane.kubeconfig}",
        f"--cache-dir={plane.directory}/kubectl",
        *arguments,
        env={**os.environ, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": str(not spdy).lower()},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run_pod(api: aiohttp.ClientSession, name: str, **spec: Any) -> dict[str, Any]:
    """Create a pod and return it once it runs."""
    await create_pod(api, name, **spec)
    return await wait_for_pod(api, name, lambda found: found["status"]["phase"] == "Running")


async def create_pod(api: aiohttp.ClientSession, name: str, **spec: Any) -> None:
    """Create a pod."""
    annotations = spec.pop("annotations", {})
    containers = [{"name": "main", "image": "example/app:1", **spec.pop("container", {})}]
    pod = {
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": containers, **spec},
    }
    async with api.post(PODS, json=pod) as response:
        assert response.status == 201, await response.text()


async def wait_for_pod(
    api: aiohttp.ClientSession, name: str, wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Return the pod once `wanted` holds for it."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            async with api.get(f"{PODS}/{name}") as response:
                pod: dict[str, Any] = await response.json()
            if response.status == 200 and wanted(pod):
                return pod
            await asyncio.sleep(0.05)


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


async def event_lines(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of a watch."""
    async for line in response.content:
        yield json.loads(line)


# Booting


@pytest.mark.parametrize("kind", ["host", "virtual"])
async def test_a_plane_is_the_pinned_kubernetes(
    pair: tuple[ControlPlane, ControlPlane], kind: str
) -> None:
    """The API server calls itself by the pinned version, and every component is healthy."""
    plane = next(each for each in pair if each.kind == kind)
    version = json.loads(await kubectl(plane, "version", "--output=json"))
    assert version["serverVersion"]["gitVersion"] == "v1.36.3"
    assert version["clientVersion"]["gitVersion"] == "v1.36.3"
    for component in plane.components.values():
        await component.wait_ready()
        assert component.cpu_seconds() > 0
        assert component.rss_bytes() > 10_000_000


async def test_a_virtual_plane_has_no_nodes_and_takes_the_host_service_range(
    host: ControlPlane, virtual: ControlPlane
) -> None:
    """What a syncer relies on: no nodes of its own, and service IPs valid on both sides."""
    assert await kubectl(virtual, "get", "nodes", "--output=name") == ""
    assert virtual.service_cidr == host.service_cidr


async def test_only_ready_planes_can_be_attached_to(host: ControlPlane, tmp_path: Path) -> None:
    """Another process can break and measure a plane, but not start its components."""
    attached = ControlPlane.attach(host.directory)
    assert attached.server == host.server
    for name, component in host.components.items():
        assert attached.components[name].pid == component.pid
    with pytest.raises(NotOwnerError):
        await attached.components["kwok"].restart()
    assert attached.components["kwok"].running
    with pytest.raises(PlaneError, match="no control plane"):
        ControlPlane.attach(tmp_path)


async def test_a_taken_directory_is_refused(tmp_path: Path) -> None:
    """A plane never mixes its files with others."""
    with pytest.raises(PlaneError, match="exists"):
        async with ControlPlane.host(directory=tmp_path):
            pass


# Pods on fake nodes


async def test_a_pod_runs_and_shows_its_log(host: ControlPlane, api: aiohttp.ClientSession) -> None:
    """The scheduler places it, the fake kubelet runs it and serves its streams."""
    pod = await run_pod(
        api, "streams", initContainers=[{"name": "init", "image": "example/init:1"}]
    )
    assert pod["status"]["podIP"].startswith("10.244.")
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert "hello" in await kubectl(host, "logs", "streams")
    assert await kubectl(host, "exec", "streams", "--", "echo", "hi") == "hi\n"


async def test_a_node_can_have_an_address_of_its_own(
    host: ControlPlane, api: aiohttp.ClientSession
) -> None:
    """The API server reaches its kubelet there for logs, exec and `nodes/proxy`."""
    async with host.node("elsewhere", "192.0.2.10"):
        await run_pod(api, "far", nodeName="elsewhere")
        assert "hello" in await kubectl(host, "logs", "far")
        assert await kubectl(host, "exec", "far", "--", "echo", "hi") == "hi\n"
        metrics = "/api/v1/nodes/elsewhere/proxy/metrics/nodes/elsewhere/metrics/resource"
        async with asyncio.timeout(TIMEOUT):
            while True:
                async with api.get(metrics) as response:
                    text = await response.text()
                    assert response.status == 200, text
                if 'pod_memory_working_set_bytes{namespace="default",pod="far"}' in text:
                    break
                await asyncio.sleep(0.2)
        await kubectl(host, "delete", "pod", "far", "--now")
    assert "192.0.2.10:10250" in [dial.target for dial in host.egress.dials]
    assert "elsewhere" not in await kubectl(host, "get", "nodes", "--output=name")


async def test_a_node_can_move(host: ControlPlane, api: aiohttp.ClientSession) -> None:
    """It is found at its new address, and `nodes/proxy`, which loopback refuses, is allowed."""
    metrics = "/api/v1/nodes/node-0/proxy/metrics/resource"
    async with api.get(metrics) as response:
        assert response.status == 400, "a kubelet on loopback is not proxied to"
    with host.egress.route("192.0.2.11", host.kubelet):
        await set_address(api, "node-0", "192.0.2.11", 10250)
        async with api.get(metrics) as response:
            text = await response.text()
        assert response.status == 200
        assert "node_memory_working_set_bytes" in text
        await run_pod(api, "moved", nodeName="node-0")
        assert "hello" in await kubectl(host, "logs", "moved")
        await set_address(api, "node-0", *host.kubelet)


async def test_a_pod_can_be_resized(host: ControlPlane, api: aiohttp.ClientSession) -> None:
    """The status follows the spec, and times that did not change stay."""
    resources = {"requests": {"cpu": "100m"}}
    before = await run_pod(api, "resized", container={"resources": resources})
    patch = {"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "1"}}}]}}
    await kubectl(host, "patch", "pod", "resized", "--subresource=resize", "-p", json.dumps(patch))
    after = await wait_for_pod(
        api, "resized", lambda pod: container_status(pod)["resources"]["requests"]["cpu"] == "1"
    )
    assert container_status(after)["state"] == container_status(before)["state"]
    assert after["status"]["podIP"] == before["status"]["podIP"]


async def test_an_ephemeral_container_starts(
    host: ControlPlane, api: aiohttp.ClientSession
) -> None:
    """Each ephemeral container gets a status, the second one too."""
    await run_pod(api, "debugged")
    for number in (1, 2):
        async with api.get(f"{PODS}/debugged") as response:
            pod = await response.json()
        containers = pod["spec"].get("ephemeralContainers", [])
        containers.append({"name": f"debug-{number}", "image": "example/debug:1"})
        patch = {"spec": {"ephemeralContainers": containers}}
        headers = {"Content-Type": "application/strategic-merge-patch+json"}
        path = f"{PODS}/debugged/ephemeralcontainers"
        async with api.patch(path, data=json.dumps(patch), headers=headers) as response:
            assert response.status == 200, await response.text()
    await wait_for_pod(
        api,
        "debugged",
        lambda found: len(found["status"].get("ephemeralContainerStatuses", ())) == 2,
    )


async def test_annotations_steer_a_pod(api: aiohttp.ClientSession) -> None:
    """A pod can be told to end by itself, with an exit code."""
    annotations = {"fake-pod/run-for": "0.3s", "fake-pod/exit-code": "3"}
    await create_pod(api, "failing", annotations=annotations)  # runs too briefly to be seen
    pod = await wait_for_pod(api, "failing", lambda found: found["status"]["phase"] == "Failed")
    assert container_status(pod)["state"]["terminated"]["exitCode"] == 3


async def test_a_readiness_gate_holds_a_pod_unready(api: aiohttp.ClientSession) -> None:
    """Ready follows the gate's condition, which someone else sets."""
    pod = await run_pod(api, "gated", readinessGates=[{"conditionType": "example.com/gate"}])
    assert condition(pod, "Ready") == "False"
    patch = {"status": {"conditions": [{"type": "example.com/gate", "status": "True"}]}}
    headers = {"Content-Type": "application/strategic-merge-patch+json"}
    async with api.patch(f"{PODS}/gated/status", data=json.dumps(patch), headers=headers) as done:
        assert done.status == 200
    await wait_for_pod(api, "gated", lambda found: condition(found, "Ready") == "True")


def container_status(pod: dict[str, Any]) -> dict[str, Any]:
    status: dict[str, Any] = pod["status"]["containerStatuses"][0]
    return status


def condition(pod: dict[str, Any], kind: str) -> str | None:
    found = (each["status"] for each in pod["status"]["conditions"] if each["type"] == kind)
    return next(found, None)


# Breaking


async def test_a_killed_api_server_comes_back_with_its_data(virtual: ControlPlane) -> None:
    """Kill and start keep address and data."""
    server = virtual.components["kube-apiserver"]
    async with virtual.api() as api:
        async with api.post(CONFIG_MAPS, json=config_map("kept")) as response:
            assert response.status == 201
        await server.kill()
        assert not server.running
        with pytest.raises(aiohttp.ClientConnectionError):
            await api.get("/readyz")
        await server.start()
        async with api.get(f"{CONFIG_MAPS}/kept") as response:
            assert response.status == 200


async def test_a_paused_component_is_silent_until_resumed(host: ControlPlane) -> None:
    """Connections to a paused process stay open and unanswered."""
    kwok = host.components["kwok"]
    await kwok.pause()
    assert kwok.paused
    assert not await kwok.ready(timeout=0.2)
    await kwok.resume()
    await kwok.wait_ready()
    assert not kwok.paused


async def test_a_component_restarts(host: ControlPlane) -> None:
    """A restart is a new process at the same address."""
    scheduler = host.components["kube-scheduler"]
    before = scheduler.pid
    await scheduler.restart()
    assert scheduler.pid != before
    await scheduler.wait_ready()


async def test_a_restored_datastore_goes_back_in_time(
    virtual: ControlPlane, tmp_path: Path
) -> None:
    """What was written after the snapshot is gone, and resource versions are lower."""
    async with virtual.api() as api:
        virtual.snapshot(tmp_path / "saved.db")
        for number in range(100):  # more than a restart writes by itself
            async with api.post(CONFIG_MAPS, json=config_map(f"lost-{number}")) as response:
                created = await response.json()
        await virtual.restore(tmp_path / "saved.db")
        async with api.get(CONFIG_MAPS) as response:
            now = await response.json()
    assert not [item for item in now["items"] if item["metadata"]["name"].startswith("lost")]
    assert int(now["metadata"]["resourceVersion"]) < int(created["metadata"]["resourceVersion"])


BOOT_AND_WAIT = """
import asyncio
from controlplane import ControlPlane

async def main():
    async with ControlPlane.host(nodes=1) as host:
        await host.components["kwok"].pause()
        print(host.directory, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_nothing_outlives_a_killed_owner() -> None:
    """After SIGKILL of the owner no process and no directory is left, not even a paused process."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        BOOT_AND_WAIT,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert owner.stdout is not None
    async with asyncio.timeout(BOOT_TIMEOUT):
        directory = Path((await owner.stdout.readline()).decode().strip())
    plane = ControlPlane.attach(directory)
    pids = [component.pid for component in plane.components.values()]
    assert all(pids)
    owner.kill()
    await owner.wait()
    traces = [directory, *(Path(f"/proc/{pid}") for pid in pids)]
    deadline = time.monotonic() + TIMEOUT
    while left := [path for path in traces if path.exists()]:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.05)


async def test_history_can_be_made_to_expire() -> None:
    """Compaction and a restart of the API server end old watches and half-read lists with 410.

    The restart is needed because the API server answers from its own memory of the past, and is
    enough for watches; lists by pages also need what was compacted to be gone from the datastore.
    """
    settings = Settings(compact_interval="1s", compact_min_retain=1)
    async with ControlPlane.virtual(settings=settings) as plane, plane.api() as api:
        async with api.get("/api/v1/namespaces", params={"limit": "1"}) as response:
            page = (await response.json())["metadata"]
        for number in range(5):
            async with api.post(CONFIG_MAPS, json=config_map(f"filler-{number}")) as response:
                assert response.status == 201
        await plane.components["kube-apiserver"].restart()
        query = {"watch": "true", "resourceVersion": page["resourceVersion"]}
        async with api.get("/api/v1/namespaces", params=query) as response:
            event = await anext(event_lines(response))
        assert event["object"]["code"] == 410
        query = {"limit": "1", "continue": page["continue"]}

        async def expired() -> None:  # kine compacts some seconds after the last write
            async with api.get("/api/v1/namespaces", params=query) as response:
                assert response.status == 410

        await eventually(expired, timeout=TIMEOUT)


# The fault proxy


async def test_the_proxy_passes_on_and_records_writes(
    proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    """Reads leave no trace; a write is recorded with its body and its answer."""
    async with client.post(CONFIG_MAPS, json=config_map("passed", key="value")) as response:
        assert response.status == 201
    async with client.get(f"{CONFIG_MAPS}/passed") as response:
        assert (await response.json())["data"] == {"key": "value"}
    (write,) = proxy.writes
    assert (write.verb, write.path, write.status) == ("POST", CONFIG_MAPS, 201)
    assert write.processed
    assert write.answered
    assert json.loads(write.body)["data"] == {"key": "value"}


async def test_its_kubeconfig_is_kubectls(proxy: FaultProxy, virtual: ControlPlane) -> None:
    """Kubectl works through the proxy."""
    out = await kubectl(virtual, f"--kubeconfig={proxy.kubeconfig}", "get", "ns", "-o", "name")
    assert "namespace/default" in out


async def test_a_failing_request_is_told_when_to_retry(
    proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    """Only matching requests fail, only as often as asked for, and never reach the server."""
    rule = proxy.fail(429, {"POST"}, "/configmaps", retry_after=7, times=1)
    async with client.get(CONFIG_MAPS) as response:
        assert response.status == 200
    async with client.post(CONFIG_MAPS, json=config_map("refused")) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "7"
        assert (await response.json())["reason"] == "TooManyRequests"
    assert rule.hits == 1
    assert not proxy.writes[0].processed
    async with client.post(CONFIG_MAPS, json=config_map("refused")) as response:
        assert response.status == 201


async def test_a_lost_answer_is_a_done_write(
    proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    """The server has processed the write whose answer the client never gets."""
    proxy.lose_answers({"POST"}, times=1)
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.post(CONFIG_MAPS, json=config_map("unanswered"))
    (write,) = proxy.writes
    assert (write.status, write.processed, write.answered) == (201, True, False)
    async with client.get(f"{CONFIG_MAPS}/unanswered") as response:
        assert response.status == 200


async def test_a_dropped_request_changes_nothing(
    proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    """The connection breaks before the server hears of it."""
    with proxy.drop_requests({"POST"}), pytest.raises(aiohttp.ClientConnectionError):
        await client.post(CONFIG_MAPS, json=config_map("dropped"))
    async with client.get(f"{CONFIG_MAPS}/dropped") as response:
        assert response.status == 404


async def test_the_hook_sees_each_stage_of_a_write(
    proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    """A harness can act before, after and once a write is answered."""
    seen: list[tuple[Stage, int]] = []

    async def hook(stage: Stage, write: Write) -> None:
        seen.append((stage, write.number))

    proxy.hook = hook
    async with client.post(CONFIG_MAPS, json=config_map("hooked")) as response:
        assert response.status == 201
    assert seen == [("received", 1), ("processed", 1), ("answered", 1)]


async def test_a_write_is_carried_through_when_its_client_dies(
    proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    """A client killed while its write is under way can't take the write back."""
    processed = asyncio.Event()

    async def hook(stage: Stage, write: Write) -> None:
        if stage == "received":
            request.cancel()
            await asyncio.sleep(0)
        if stage == "processed":
            processed.set()

    proxy.hook = hook
    request = asyncio.create_task(client.post(CONFIG_MAPS, json=config_map("carried")))
    with pytest.raises(asyncio.CancelledError):
        await request
    async with asyncio.timeout(TIMEOUT):
        await processed.wait()
    assert proxy.writes[0].status == 201


@pytest.mark.parametrize("streaming", [False, True], ids=["list", "streaming list"])
async def test_lists_come_back_empty(
    proxy: FaultProxy, client: aiohttp.ClientSession, streaming: bool
) -> None:
    """The items are gone, the resource version is good, and later events still come."""
    query = {"resourceVersionMatch": "NotOlderThan", "sendInitialEvents": "true"}
    query |= {"watch": "true", "allowWatchBookmarks": "true"}
    with proxy.empty_lists("/namespaces$"):
        if not streaming:
            async with client.get("/api/v1/namespaces") as response:
                listed = await response.json()
            assert listed["items"] == []
            assert int(listed["metadata"]["resourceVersion"]) > 0
            return
        async with (
            asyncio.timeout(TIMEOUT),
            client.get("/api/v1/namespaces", params=query) as response,
        ):
            first = await anext(event_lines(response))
    assert first["type"] == "BOOKMARK"
    assert first["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"


async def test_watches_stall_and_go_on(proxy: FaultProxy, client: aiohttp.ClientSession) -> None:
    """A stalled watch is silent but loses nothing; a cut one ends."""
    async with client.get(CONFIG_MAPS, params={"watch": "true"}) as response:
        events = event_lines(response)
        with proxy.stall({"WATCH"}, "/configmaps"):
            async with client.post(CONFIG_MAPS, json=config_map("late")) as created:
                assert created.status == 201
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(_until_named("late", events), 0.5)
        events = event_lines(response)
        async with asyncio.timeout(TIMEOUT):
            await _until_named("late", events)
        assert proxy.open_watches("/configmaps") == 1
        assert proxy.cut_watches("/pods") == 0
        assert proxy.cut_watches("/configmaps") == 1
        with pytest.raises(aiohttp.ClientError):
            await _until_named("never", events)


async def test_healing_frees_what_a_spent_rule_holds_up(
    proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    """A rule that was met as often as asked for still holds its requests until it is removed."""
    rule = proxy.stall({"GET"}, times=1)
    held = asyncio.create_task(client.get(CONFIG_MAPS))
    async with asyncio.timeout(TIMEOUT):
        while not rule.hits:  # noqa: ASYNC110 - a rule tells by its count only
            await asyncio.sleep(0.01)
    proxy.fail(503, {"POST"})
    async with client.get(CONFIG_MAPS) as response:
        assert response.status == 200
    assert not held.done()
    proxy.heal()
    async with asyncio.timeout(TIMEOUT), await held as response:
        assert response.status == 200


async def _until_named(name: str, events: AsyncIterator[dict[str, Any]]) -> None:
    async for event in events:
        if event["object"]["metadata"]["name"] == name:
            return


async def test_a_watch_expires(proxy: FaultProxy, client: aiohttp.ClientSession) -> None:
    """The way a real server says so: an error event in a good response."""
    proxy.expire_watches(times=1)
    async with client.get(CONFIG_MAPS, params={"watch": "true"}) as response:
        assert response.status == 200
        (event,) = [each async for each in event_lines(response)]
    assert event["type"] == "ERROR"
    assert event["object"]["code"] == 410


@pytest.mark.parametrize("spdy", [False, True], ids=["websocket", "spdy"])
async def test_upgraded_connections_pass(
    host: ControlPlane, api: aiohttp.ClientSession, spdy: bool
) -> None:
    """Exec and its output, by either protocol; a POST of this kind is no write."""
    name = "upgraded-spdy" if spdy else "upgraded"
    await run_pod(api, name)
    command = ("exec", name, "--", "sh", "-c", "seq 200000; echo done")
    async with fault_proxy(host) as proxy:
        process = await start_kubectl(host, *command, kubeconfig=proxy.kubeconfig, spdy=spdy)
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        assert out.split()[-2:] == [b"200000", b"done"]
        assert len(out.split()) == 200001
        assert proxy.writes == []
        await closed(proxy)


async def closed(proxy: FaultProxy) -> None:
    """Wait until a proxy has no upgraded connection any more: it hears of an end after kubectl."""
    async with asyncio.timeout(TIMEOUT):
        while proxy.open_tunnels():  # noqa: ASYNC110 - tells its number only
            await asyncio.sleep(0.01)


async def test_upgraded_connections_stall_and_can_be_cut(
    host: ControlPlane, api: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A stalled one is silent but loses nothing; a cut one ends for its client at once."""
    await run_pod(api, "cut")
    go = tmp_path / "go"  # fake pods run their commands on this machine
    waiting = f"echo 1; until [ -e '{go}' ]; do sleep 0.1; done; for n in 2 3 4 5; do echo $n; done"
    command = ("exec", "cut", "--", "sh", "-c", waiting)
    async with fault_proxy(host) as proxy:
        process = await start_kubectl(host, *command, kubeconfig=proxy.kubeconfig)
        assert process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            assert await process.stdout.readline() == b"1\n"
            with proxy.stall(path="/cut/exec"):
                go.touch()
                held = asyncio.create_task(process.stdout.read())
                done, _ = await asyncio.wait({held}, timeout=2)
                assert not done
            assert (await held).split() == [b"2", b"3", b"4", b"5"]
            await process.communicate()
            assert process.returncode == 0
            await closed(proxy)  # else it is the old one that is cut
            process = await start_kubectl(
                host, "exec", "cut", "--", "sleep", "60", kubeconfig=proxy.kubeconfig
            )
            while not proxy.open_tunnels("/cut/exec"):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
            assert proxy.cut_tunnels("/other/exec") == 0
            assert proxy.cut_tunnels("/cut/exec") == 1
            await process.communicate()
        assert process.returncode != 0
        await closed(proxy)


async def test_a_refused_upgrade_is_an_ordinary_answer(
    proxy: FaultProxy, client: aiohttp.ClientSession
) -> None:
    """The connection goes on to serve requests, which rules meet and which are recorded."""
    path = f"{PODS}/missing/exec?command=true&stdout=true"
    websocket = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    async with client.get(path, headers=websocket) as response:
        assert response.status == 404
        assert (await response.json())["reason"] == "NotFound"
    with proxy.fail(503, path="/exec"):
        async with client.get(path, headers=websocket) as response:
            assert response.status == 503
    async with client.post(CONFIG_MAPS, json=config_map("after-a-refusal")) as response:
        assert response.status == 201
    assert [write.status for write in proxy.writes] == [201]


async def test_quiet_time_is_measured(proxy: FaultProxy, client: aiohttp.ClientSession) -> None:
    """Writes that say nothing about syncing are not counted."""
    review = {"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    async with client.get(CONFIG_MAPS) as response:  # so that all connections are open
        assert response.status == 200
    quiet = asyncio.create_task(proxy.writes_during(3.0))
    await asyncio.sleep(0)
    async with client.post(path, json=review) as response:
        assert response.status == 201
    async with client.post(CONFIG_MAPS, json=config_map("noise")) as response:
        assert response.status == 201
    assert [write.path for write in await quiet] == [CONFIG_MAPS]


async def test_the_command_line_is_brief_about_errors(tmp_path: Path) -> None:
    """`status` tells that nothing runs; bad input is one line and exit status 2."""
    for arguments, status, line in [
        (["status", f"--directory={tmp_path}"], 1, "no control planes run"),
        (["up", "--nodes=many"], 2, "`many` is not a number"),
    ]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "controlplane",
            *arguments,
            cwd=REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == status
        assert line in out.decode()
        assert len(out.decode().splitlines()) == 1
