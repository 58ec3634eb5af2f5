"""The Python clients, the official one and kubernetes_asyncio, work through the endpoint."""

import asyncio
import gc
import threading
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

import kubernetes
import kubernetes_asyncio
import orjson
import pytest
from kubernetes import dynamic, stream, watch
from kubernetes_asyncio.stream import WsApiClient

from tests.integration.endpoint import (
    SECONDS,
    Caller,
    administrator,
    caller,
    grant,
    kubeconfig,
    running_pod,
    service_account,
)
from tests.integration.harness import Object, Pair, config_map, eventually

COMMAND = ["sh", "-c", "read line; echo got $line; echo err >&2"]


@pytest.fixture(scope="module")
async def place(pair: Pair) -> AsyncIterator[str]:
    """A namespace with a pod `web` that runs."""
    async with running_pod(pair) as namespace:
        yield namespace


def config_of(pair: Pair, who: Caller | None = None) -> Object:
    """Return a kubeconfig for the endpoint, decoded."""
    found: Object = orjson.loads(kubeconfig(pair, pair.syncer.endpoint, who or administrator(pair)))
    return found


# The official client: it blocks, so it works in a thread


@contextmanager
def official(pair: Pair, who: Caller | None = None) -> Iterator[Any]:
    """Yield an API client of a caller."""
    client = kubernetes.config.new_client_from_config_dict(config_of(pair, who))
    with client:
        yield client


async def in_thread(work: Callable[[], None]) -> None:
    """Run something that blocks, and clean up behind the client, which leaves sockets open."""

    def tidily() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            try:
                work()
            finally:
                for thread in threading.enumerate():
                    if thread.name.startswith("Kubernetes port forward"):
                        thread.join(SECONDS)
                gc.collect()

    async with asyncio.timeout(2 * SECONDS):
        await asyncio.to_thread(tidily)


async def test_the_official_client_reads_and_writes(pair: Pair, place: str) -> None:
    """Create, list by pages, patch, replace with a conflict, watch and delete."""

    def work() -> None:
        with official(pair) as client:
            core = kubernetes.client.CoreV1Api(client)
            for number in range(3):
                core.create_namespaced_config_map(
                    place, config_map(f"official-{number}", place, {"a": "1"}, labels={"by": "it"})
                )
            more, names = None, []
            while True:
                page = core.list_namespaced_config_map(
                    place, limit=2, label_selector="by=it", _continue=more
                )
                names += [item.metadata.name for item in page.items]
                more = page.metadata._continue
                if not more:
                    break
            assert names == [f"official-{number}" for number in range(3)]
            version = page.metadata.resource_version
            patched = core.patch_namespaced_config_map(names[0], place, {"data": {"b": "2"}})
            assert patched.data == {"a": "1", "b": "2"}
            patched.data = {"c": "3"}
            core.replace_namespaced_config_map(names[0], place, patched)
            with pytest.raises(kubernetes.client.ApiException) as refused:
                core.replace_namespaced_config_map(names[0], place, patched)
            assert refused.value.status == 409
            core.delete_collection_namespaced_config_map(place, label_selector="by=it")
            expected = [
                *[("MODIFIED", names[0])] * 2,
                *(("DELETED", name) for name in names),
            ]
            watched = watch.Watch()
            seen = []
            for event in watched.stream(
                core.list_namespaced_config_map, place, label_selector="by=it",
                resource_version=version, timeout_seconds=int(SECONDS),
            ):  # fmt: skip
                seen.append((event["type"], event["object"].metadata.name))
                if len(seen) == len(expected):
                    watched.stop()
            assert seen == expected

    await in_thread(work)


async def test_the_official_client_streams(pair: Pair, place: str) -> None:
    """Logs, exec whole and step by step, and a forwarded port."""

    def work() -> None:
        with official(pair) as client:
            core = kubernetes.client.CoreV1Api(client)
            assert "hello from a fake pod" in core.read_namespaced_pod_log("web", place)
            run = core.connect_get_namespaced_pod_exec
            output = stream.stream(
                run, "web", place, command=["echo", "a b", "c&d"], stdout=True, stderr=True
            )
            assert output == "a b c&d\n"
            opened = stream.stream(
                run, "web", place, command=COMMAND, stdin=True, stdout=True, stderr=True,
                _preload_content=False,
            )  # fmt: skip
            with closing(opened):
                opened.write_stdin("a line\n")
                assert opened.readline_stdout(timeout=SECONDS) == "got a line"
                assert opened.readline_stderr(timeout=SECONDS) == "err"
                opened.run_forever(timeout=SECONDS)
                assert opened.returncode == 0
            forward = stream.portforward(
                core.connect_get_namespaced_pod_portforward, "web", place, ports="80"
            )
            socket = forward.socket(80)
            socket.settimeout(SECONDS)
            sent = b"to and fro" * 20_000
            socket.sendall(sent)
            back = b""
            while len(back) < len(sent):
                piece = socket.recv(65536)
                assert piece, "ended"
                back += piece
            assert back == sent
            socket.close()
            forward.close()

    await in_thread(work)


async def test_the_official_clients_errors_are_the_servers(pair: Pair, place: str) -> None:
    """A pod that is not there and a right that one has not are told as by an API server."""

    def work() -> None:
        with official(pair, caller(pair, "stranger")) as client:
            core = kubernetes.client.CoreV1Api(client)
            with pytest.raises(kubernetes.client.ApiException) as refused:
                core.read_namespaced_pod_log("web", place)
            assert refused.value.status == 403
            assert orjson.loads(refused.value.body)["reason"] == "Forbidden"
            assert '"code":403' in exec_refused(core, "web", place)
        with official(pair) as client:
            core = kubernetes.client.CoreV1Api(client)
            assert 'pods \\"none\\" not found' in exec_refused(core, "none", place)

    await in_thread(work)


def exec_refused(core: Any, name: str, namespace: str) -> str:
    """Return what the official client says of an exec that is refused."""
    # It trips over its own error: there the answer is.
    with pytest.raises(AttributeError) as tripped:
        stream.stream(core.connect_get_namespaced_pod_exec, name, namespace, command="true")
    return str(tripped.value.__context__)


async def test_the_official_dynamic_client_finds_its_way(pair: Pair, place: str) -> None:
    """Discovery, server-side apply and watches of kinds known by name only."""

    def work() -> None:
        with official(pair) as client:
            found = dynamic.DynamicClient(client)
            maps = found.resources.get(api_version="v1", kind="ConfigMap")
            body = config_map("dynamic", place, {"a": "1"})
            applied = maps.server_side_apply(body=body, namespace=place, field_manager="dynamic")
            assert applied.metadata.managedFields[0].operation == "Apply"
            with closing(maps.watch(namespace=place, name="dynamic", timeout=30)) as events:
                assert next(events)["type"] == "ADDED"
            deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
            assert deployments.get(namespace=place).items == []

    await in_thread(work)


async def test_the_official_client_in_a_pod_of_the_tenant(pair: Pair, place: str) -> None:
    """With a service account's token one has that account's rights, and no more."""
    robot, _ = await service_account(pair.virtual, "robot", place)
    rule = {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}
    await grant(pair.virtual, f"{place}:robot", rule, namespace=place, kind="ServiceAccount")

    def work() -> None:
        with official(pair, robot) as client:
            core = kubernetes.client.CoreV1Api(client)
            # Until the right is there, the API server itself says so.
            names = [item.metadata.name for item in core.list_namespaced_pod(place).items]
            assert names == ["web"]
            assert "hello" in core.read_namespaced_pod_log("web", place)
            with pytest.raises(kubernetes.client.ApiException) as refused:
                core.list_namespaced_secret(place)
            assert refused.value.status == 403
            assert '"code":403' in exec_refused(core, "web", place)

    async def works() -> None:
        try:
            await in_thread(work)
        except kubernetes.client.ApiException as error:
            raise AssertionError(str(error)) from error

    await eventually(works)


# kubernetes_asyncio


@asynccontextmanager
async def asynchronous(pair: Pair, who: Caller | None = None) -> AsyncIterator[Any]:
    """Yield an API client of a caller."""
    client = await kubernetes_asyncio.config.new_client_from_config_dict(config_of(pair, who))
    async with asyncio.timeout(2 * SECONDS), client:
        yield client


async def test_kubernetes_asyncio_reads_and_writes(pair: Pair, place: str) -> None:
    """Create, patch, refuse a conflict, delete, and watch all of it meanwhile."""
    label = uuid.uuid4().hex
    async with asynchronous(pair) as client:
        core: Any = kubernetes_asyncio.client.CoreV1Api(client)
        seen: list[tuple[str, str]] = []
        listed = await core.list_namespaced_config_map(place)

        async def watching() -> None:
            watched = kubernetes_asyncio.watch.Watch()
            async with watched.stream(
                core.list_namespaced_config_map, place, label_selector=f"by={label}",
                resource_version=listed.metadata.resource_version,
            ) as events:  # fmt: skip
                async for event in events:
                    seen.append((event["type"], event["object"].metadata.name))
                    if event["type"] == "DELETED":
                        return

        task = asyncio.create_task(watching())
        body = config_map("mine", place, {"a": "1"}, labels={"by": label})
        made = await core.create_namespaced_config_map(place, body)
        made.data["a"] = "2"
        await core.replace_namespaced_config_map("mine", place, made)
        with pytest.raises(kubernetes_asyncio.client.ApiException) as refused:
            await core.replace_namespaced_config_map("mine", place, made)
        assert refused.value.status == 409
        await core.patch_namespaced_config_map("mine", place, {"data": {"b": "3"}})
        await core.delete_namespaced_config_map("mine", place)
        await task
        kinds = ["ADDED", "MODIFIED", "MODIFIED", "DELETED"]
        assert seen == [(kind, "mine") for kind in kinds]


async def test_kubernetes_asyncio_streams(pair: Pair, place: str) -> None:
    """Logs, exec whole and step by step over WebSockets of the fourth version."""
    async with asynchronous(pair) as client:
        core: Any = kubernetes_asyncio.client.CoreV1Api(client)
        assert "hello from a fake pod" in await core.read_namespaced_pod_log("web", place)
        configuration = client.configuration
    async with asyncio.timeout(SECONDS), WsApiClient(configuration) as sockets:
        core = kubernetes_asyncio.client.CoreV1Api(sockets)
        output = await core.connect_get_namespaced_pod_exec(
            "web", place, command=["echo", "a b", "c&d"], stdout=True, stderr=True
        )
        assert output == "a b c&d\n"
        opening = await core.connect_get_namespaced_pod_exec(
            "web", place, command=COMMAND, stdin=True, stdout=True, stderr=True,
            _preload_content=False,
        )  # fmt: skip
        parts = {1: b"", 2: b"", 3: b""}
        async with opening as socket:
            await socket.send_bytes(b"\x00a line\n")
            async for message in socket:
                parts[message.data[0]] += message.data[1:]
        assert (parts[1], parts[2]) == (b"got a line\n", b"err\n")
        assert WsApiClient.parse_error_data(parts[3]) == 0


async def test_kubernetes_asyncios_dynamic_client_finds_its_way(pair: Pair, place: str) -> None:
    """Discovery through the endpoint is enough for it."""
    async with asynchronous(pair) as client:
        found = await kubernetes_asyncio.dynamic.DynamicClient(client)
        pods = await found.resources.get(api_version="v1", kind="Pod")
        listed = await pods.get(namespace=place)
        assert [item.metadata.name for item in listed.items] == ["web"]
