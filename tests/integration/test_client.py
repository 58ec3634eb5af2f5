"""The client against a real API server: writes, preconditions, watches, tokens."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from syncer.kube.client import Client
from syncer.kube.config import load_kubeconfig
from syncer.kube.errors import ApiError
from syncer.objects import Object, Resource
from tests.integration.harness import Cluster

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
MERGE = "application/merge-patch+json"


@asynccontextmanager
async def client_of(kubeconfig: Path) -> AsyncIterator[Client]:
    client = Client(load_kubeconfig(kubeconfig))
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def client(virtual: Cluster) -> AsyncIterator[Client]:
    """The administrator's client, by the client certificate in the kubeconfig."""
    async with client_of(virtual.plane.kubeconfig) as made:
        yield made


@pytest.fixture
async def name(client: Client) -> AsyncIterator[str]:
    """Name of a config map in `default`; deleted after the test."""
    made = f"client-{uuid.uuid4().hex[:8]}"
    yield made
    try:
        await client.request("DELETE", CONFIG_MAPS.path("default", made))
    except ApiError as error:
        if not error.not_found:
            raise


def config_map(name: str, **data: str) -> Object:
    return {"metadata": {"name": name}, "data": data}


async def create(client: Client, name: str, **data: str) -> Object:
    path = CONFIG_MAPS.path("default")
    made: Object = orjson.loads(await client.request("POST", path, body=config_map(name, **data)))
    return made


async def refusal(client: Client, method: str, path: str, **what: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await client.request(method, path, **what)
    return caught.value


async def test_life_of_an_object(client: Client, name: str) -> None:
    """An object is created once, read, patched and deleted; then it is not found."""
    path = CONFIG_MAPS.path("default", name)
    assert (await refusal(client, "GET", path)).not_found
    await create(client, name, a="ü")
    again = await refusal(
        client, "POST", CONFIG_MAPS.path("default"), body=config_map(name, secret="s3cr3t")
    )
    assert again.already_exists
    assert str(again) == (
        f'POST {CONFIG_MAPS.path("default")}: 409 AlreadyExists: configmaps "{name}" already exists'
    )
    answer = await client.request("PATCH", path, body={"data": {"b": "2"}}, content_type=MERGE)
    assert orjson.loads(answer)["data"] == {"a": "ü", "b": "2"}
    assert answer == await client.request("GET", path)
    assert orjson.loads(await client.request("DELETE", path))["status"] == "Success"
    assert (await refusal(client, "DELETE", path)).not_found


async def test_preconditions(client: Client, name: str) -> None:
    """A wrong UID or version is a conflict, in a merge patch a wrong UID is invalid."""
    path = CONFIG_MAPS.path("default", name)
    made = await create(client, name)
    wrong = {"preconditions": {"uid": str(uuid.uuid4())}}
    assert (await refusal(client, "DELETE", path, body=wrong)).conflict
    for metadata, kind in (
        ({"uid": str(uuid.uuid4())}, "invalid"),
        ({"resourceVersion": "1"}, "conflict"),
    ):
        body = {"metadata": metadata, "data": {"a": "1"}}
        refused = await refusal(client, "PATCH", path, body=body, content_type=MERGE)
        assert getattr(refused, kind)
    right = {"preconditions": {"uid": made["metadata"]["uid"]}}
    await client.request("DELETE", path, body=right)


async def test_bodies_that_the_server_refuses(client: Client, name: str) -> None:
    """A body that is too large or of an unknown type is an ApiError, and harms no connection."""
    large = await refusal(
        client, "POST", CONFIG_MAPS.path("default"), body=config_map(name, a="x" * (4 << 20))
    )
    assert large.status in (413, 422)
    assert len(str(large)) < 1000
    await create(client, name, a="x" * 1_000_000)
    path = CONFIG_MAPS.path("default", name)
    assert (await refusal(client, "PATCH", path, body={}, content_type="a/b")).status == 415


async def test_watch(client: Client, name: str) -> None:
    """A watch gives an event for a change, and ends in order when the server's time is up."""
    made = await create(client, name)
    params = {
        "watch": "1",
        "fieldSelector": f"metadata.name={name}",
        "resourceVersion": made["metadata"]["resourceVersion"],
        "timeoutSeconds": "3",
    }

    async def watched(change: Object | None) -> bytes:
        async with client.stream(
            CONFIG_MAPS.path("default"), params=params, read_timeout=20, total=30
        ) as chunks:
            if change is not None:
                path = CONFIG_MAPS.path("default", name)
                await client.request("PATCH", path, body=change, content_type=MERGE)
            return b"".join([chunk async for chunk in chunks])

    found = await watched({"data": {"a": "1"}})
    if not found:  # the change took longer than the watch: the next one tells of it
        found = await watched(None)
    (event,) = map(orjson.loads, found.splitlines())
    assert (event["type"], event["object"]["data"]) == ("MODIFIED", {"a": "1"})


async def test_cancelled_watch(client: Client) -> None:
    """A cancelled watch leaves the client usable."""
    reading = asyncio.Event()

    async def watch() -> None:
        params = {"watch": "1", "resourceVersion": "0"}
        async with client.stream(ACCOUNTS.path(), params=params, read_timeout=60) as chunks:
            async for _ in chunks:
                reading.set()

    task = asyncio.create_task(watch())
    async with asyncio.timeout(60):
        await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await client.request("GET", "/version")


async def token_of(client: Client, namespace: str) -> str:
    path = ACCOUNTS.path(namespace, "default", "token")
    answer = orjson.loads(await client.request("POST", path, body={"spec": {}}))
    return str(answer["status"]["token"])


def with_user(virtual: Cluster, path: Path, **user: str) -> Path:
    """Write the plane's kubeconfig with another user and give its path."""
    tree = orjson.loads(virtual.plane.kubeconfig.read_bytes())
    tree["users"][0]["user"] = user
    path.write_bytes(orjson.dumps(tree))
    return path


async def test_token(virtual: Cluster, client: Client, namespace: str, tmp_path: Path) -> None:
    """With a service account's token and no certificate we are that service account."""
    token = await token_of(client, namespace)
    async with client_of(with_user(virtual, tmp_path / "config", token=token)) as bearer:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = orjson.loads(await bearer.request("POST", REVIEWS, body=review))
        username = answer["status"]["userInfo"]["username"]
        assert username == f"system:serviceaccount:{namespace}:default"
        assert (await refusal(bearer, "GET", CONFIG_MAPS.path(namespace))).forbidden


async def test_renewed_token(
    virtual: Cluster, client: Client, namespace: str, tmp_path: Path
) -> None:
    """A token that is refused is read again from its file, and the request repeated."""
    (tmp_path / "token").write_text("not.a.token")
    async with client_of(with_user(virtual, tmp_path / "config", tokenFile="token")) as bearer:
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        assert (await refusal(bearer, "POST", REVIEWS, body=review)).unauthorized
        (tmp_path / "token").write_text(await token_of(client, namespace))
        await bearer.request("POST", REVIEWS, body=review)
