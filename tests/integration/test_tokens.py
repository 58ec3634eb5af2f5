"""Service-account tokens of pods: the virtual cluster's, bound to the pod, renewed, then gone."""

from __future__ import annotations

import base64
import ssl
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from mappers.pods import tokens
from syncer import ownership
from syncer.engine.flow import Limiter
from syncer.engine.gate import Gate
from syncer.engine.queue import WorkQueue
from syncer.engine.view import Item, View
from syncer.engine.writer import Writer
from syncer.kube.client import Client
from syncer.kube.config import load_kubeconfig
from syncer.naming import PREFIX, Names
from syncer.objects import Key, Side
from syncer.settings import Settings
from syncer.tokens import PodTokens
from tests.integration.harness import Cluster, Object, Pair, eventually, gone, named, pod
from tests.integration.pod_steps import first_seen, in_phase, latest_version


def _claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = orjson.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims


def _tokens(secret: Object) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def _mounting(name: str, namespace: str, **asked: Any) -> Object:
    """Return a pod that mounts a token of its own beside the API server's default one."""
    source = {"serviceAccountToken": {"path": "token"} | asked}
    return pod(name, namespace, volumes=[{"name": "own", "projected": {"sources": [source]}}])


async def _token_secret(pair: Pair, name: str, namespace: str) -> Object:
    return await eventually(lambda: pair.copy("secrets", f"{name}-sa-token", namespace))


async def _review(virtual: Cluster, token: str, *audiences: str) -> Object:
    """Ask the virtual API server whose token it is."""
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": list(audiences)},
    }
    path = "/apis/authentication.k8s.io/v1/tokenreviews"
    status: Object = (await virtual.request("POST", path, body=review))["status"]
    return status


async def _who_am_i(virtual: Cluster, token: str) -> Object:
    """Use a token as a pod would, without the administrator's certificate."""
    trust = ssl.create_default_context(cafile=str(virtual.plane.pki.server_ca.certificate))
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    async with (
        aiohttp.ClientSession(virtual.plane.server) as api,
        api.post(
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            ssl=trust,
        ) as response,
    ):
        assert response.status == 201, await response.text()
        found: Object = (await response.json())["status"]["userInfo"]
        return found


async def test_a_pods_token_is_the_virtual_clusters_and_dies_with_the_pod(
    pair: Pair, namespace: str
) -> None:
    """It works at the virtual API server, as the pod's account, until the pod is deleted."""
    await pair.virtual.create(named("ServiceAccount", "robot", namespace))
    asked = _mounting("web", namespace, audience="vault", expirationSeconds=600)
    asked["spec"]["serviceAccountName"] = "robot"
    virtual = await pair.virtual.create(asked)
    await in_phase(pair, "web", namespace)
    found = _tokens(await _token_secret(pair, "web", namespace))
    by_audience = {_claims(token)["aud"][0]: token for token in found.values()}
    own, default = by_audience.pop("vault"), by_audience.popitem()[1]

    user = await _who_am_i(pair.virtual, default)
    assert user["username"] == f"system:serviceaccount:{namespace}:robot"
    prefix = "authentication.kubernetes.io/pod-"
    assert user["extra"][f"{prefix}name"] == ["web"]
    assert user["extra"][f"{prefix}uid"] == [virtual["metadata"]["uid"]]
    service = "https://kubernetes.default"
    assert _claims(default)["aud"] == [f"{service}.svc.cluster.local", f"{service}.svc", service]
    assert _claims(default)["exp"] - _claims(default)["iat"] <= 3607
    assert _claims(own)["aud"] == ["vault"]
    assert _claims(own)["exp"] - _claims(own)["iat"] <= 600
    # (a token that is asked about is remembered for ten seconds; `own` is not, until it's dead)
    await pair.virtual.delete("pods", "web", namespace)
    await gone(lambda: pair.virtual.find("pods", "web", namespace))

    async def dead() -> None:
        found = await _review(pair.virtual, own, "vault")
        assert not found.get("authenticated")
        assert "error" in found

    # The server looks bound pods up in a cache; if that had not heard, it remembers its yes.
    await eventually(dead)
    await gone(lambda: pair.find_copy("secrets", "web-sa-token", namespace))


async def test_a_token_secret_is_there_before_its_pod_and_carries_our_marks(
    pair: Pair, namespace: str
) -> None:
    """Kubelets don't wait for a Secret; and nobody takes it for a copy of a tenant's Secret."""
    where = pair.names.host_namespace
    since = await latest_version(pair.host, "secrets", where)
    virtual = await pair.virtual.create(pod("web", namespace))
    await in_phase(pair, "web", namespace)
    name = pair.host_name("web", namespace)
    secret_name = pair.host_name("web-sa-token", namespace)
    secret = await first_seen(pair.host, "secrets", where, secret_name, since)
    copy = await first_seen(pair.host, "pods", where, name, since)
    assert int(secret["metadata"]["resourceVersion"]) < int(copy["metadata"]["resourceVersion"])
    assert secret["type"] == "Opaque"
    assert secret["metadata"]["annotations"] == {
        f"{PREFIX}child-of": f"pods {namespace}/web",
        f"{PREFIX}object-uid": virtual["metadata"]["uid"],
        f"{PREFIX}skip-backsync": "true",
    }
    [mounted] = [
        source["secret"]
        for volume in copy["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        if "secret" in source
    ]
    assert mounted["name"] == secret_name
    assert mounted["optional"] is False
    [item] = mounted["items"]
    assert item["mode"] == 0o644
    assert set(secret["data"]) == {item["key"]}
    assert not [each for each in copy["metadata"]["annotations"] if "/token-" in each]


async def test_a_token_secret_that_was_deleted_is_made_again(pair: Pair, namespace: str) -> None:
    """The pod mounts it, so it comes back with a token that works; the pod is not touched."""
    await pair.virtual.create(pod("web", namespace))
    before = await in_phase(pair, "web", namespace)
    first = await _token_secret(pair, "web", namespace)
    where = pair.names.host_namespace
    await pair.host.delete("secrets", first["metadata"]["name"], where)

    async def again() -> Object:
        second = await pair.copy("secrets", "web-sa-token", namespace)
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        return second

    second = await eventually(again)
    [token] = _tokens(second).values()
    user = await _who_am_i(pair.virtual, token)
    assert user["username"] == f"system:serviceaccount:{namespace}:default"
    after = await pair.virtual.get("pods", "web", namespace)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


async def test_a_pod_made_again_has_a_token_of_its_own(pair: Pair, namespace: str) -> None:
    """A namesake's Secret, if still there, is not good enough: its token is bound to the dead."""
    await pair.virtual.create(pod("web", namespace))
    await in_phase(pair, "web", namespace)
    await pair.virtual.delete("pods", "web", namespace, grace=0)
    virtual = await pair.virtual.create(pod("web", namespace))
    await in_phase(pair, "web", namespace)

    async def bound() -> None:
        secret = await pair.copy("secrets", "web-sa-token", namespace)
        [token] = _tokens(secret).values()
        assert _claims(token)["kubernetes.io"]["pod"]["uid"] == virtual["metadata"]["uid"]
        assert (
            secret["metadata"]["annotations"][f"{PREFIX}object-uid"] == (virtual["metadata"]["uid"])
        )

    await eventually(bound)


async def test_a_strangers_secret_under_the_wanted_name_is_not_touched(
    pair: Pair, namespace: str
) -> None:
    """The pod waits, and the tenant reads why; then it runs."""
    where, name = pair.names.host_namespace, pair.host_name("web-sa-token", namespace)
    stranger = await pair.host.create(named("Secret", name, where, stringData={"a": "b"}))
    await pair.virtual.create(pod("web", namespace))

    async def told() -> None:
        events = await pair.virtual.events(namespace, "web", "SyncError")
        assert [each for each in events if "its name is taken on the host" in each["message"]]

    await eventually(told)
    assert await pair.find_copy("pods", "web", namespace) is None
    assert await pair.host.get("secrets", name, where) == stranger
    await pair.host.delete("secrets", name, where)
    await in_phase(pair, "web", namespace)


# -- renewal, with a clock that can be set -------------------------------------------------------


class _Bench:
    """A PodTokens between two real API servers, its stores filled by hand and its clock set.

    Attributes:
        now: what the clock says, seconds since the epoch.
        queue: where renewals are queued.
    """

    def __init__(self, names: Names, writers: Mapping[Side, Writer], view: View) -> None:
        self.now = 0.0
        self.queue: WorkQueue[Item] = WorkQueue(group=lambda item: item.key.namespace)
        self._names = names
        self.tokens = PodTokens(
            names=names,
            in_secrets=True,
            cluster_domain="cluster.local",
            view=view,
            queue=self.queue,
            writers=writers,
            now=lambda: self.now,
        )


@asynccontextmanager
async def _bench(host: Cluster, virtual: Cluster, names: Names) -> AsyncIterator[_Bench]:
    view = View({}, names, Settings(), lambda _item, _level: None)
    view.add_store(Side.VIRTUAL, "pods", {})
    view.add_store(Side.HOST, "secrets", {})
    clients = {
        side: Client(load_kubeconfig(cluster.plane.kubeconfig))
        for side, cluster in ((Side.HOST, host), (Side.VIRTUAL, virtual))
    }
    writers = {
        side: Writer(client, Limiter(cap=8), Gate(), view.side(side))
        for side, client in clients.items()
    }
    try:
        yield _Bench(names, writers, view)
    finally:
        for client in clients.values():
            await client.close()


async def test_a_token_is_renewed_at_four_fifths_of_its_life(
    host: Cluster, virtual: Cluster, namespace: str
) -> None:
    """Before that nothing is written; then its Secret holds another, which works too."""
    names = Names(f"clock-{uuid.uuid4().hex[:6]}", "default")
    asked = _mounting("web", namespace, audience="vault", expirationSeconds=1000)
    asked["spec"]["automountServiceAccountToken"] = False
    asked["spec"]["schedulingGates"] = [{"name": "test.example/held"}]
    made = await virtual.create(asked)
    item = Item("pods", Key(namespace, "web"))
    source = tokens.host_source(
        made, "own", asked["spec"]["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"],
        names, secret=True,
    )  # fmt: skip
    copy = {
        "metadata": {"name": "web", "namespace": "default", "uid": str(uuid.uuid4())},
        "spec": {"volumes": [{"name": "own", "projected": {"sources": [source]}}]},
    }
    key = tokens.secret_key(made, names)

    async def held() -> str:
        secret = await host.get("secrets", key.name, key.namespace)
        assert ownership.virtual_uid(secret) == made["metadata"]["uid"]
        [token] = _tokens(secret).values()
        return token

    async with _bench(host, virtual, names) as bench:
        try:
            await bench.tokens.before_create(made, copy)
            first = await held()
            issued = _claims(first)["iat"]
            bench.now = issued + 799.0
            await bench.tokens.attend(made, copy, item)
            assert await held() == first
            bench.now = issued + 801.0
            await bench.tokens.attend(made, copy, item)
            second = await held()
            assert second != first
            assert (await _review(virtual, second, "vault"))["authenticated"] is True
            assert _claims(second)["exp"] - _claims(second)["iat"] == 1000
        finally:
            await host.delete("secrets", key.name, key.namespace)


async def test_a_token_in_an_annotation_is_renewed_there(
    host: Cluster, virtual: Cluster, namespace: str
) -> None:
    """A pod that reads its token from an annotation gets the next one there, whatever the flag."""
    names = Names(f"clock-{uuid.uuid4().hex[:6]}", "default")
    token = {"path": "token", "audience": "vault", "expirationSeconds": 1000}
    asked = _mounting("web", namespace, **token)
    asked["spec"] |= {"automountServiceAccountToken": False}
    asked["spec"] |= {"schedulingGates": [{"name": "test.example/held"}]}
    made = await virtual.create(asked)
    source = tokens.host_source(made, "own", token, names, secret=False)
    volume = {"name": "own", "projected": {"sources": [source]}}
    [wanted] = tokens.wanted_tokens(made)
    async with _bench(host, virtual, names) as bench:
        copy = await host.create(
            pod(
                names.host_name("web", namespace),
                "default",
                volumes=[volume],
                schedulingGates=[{"name": "test.example/held"}],
            )
        )
        name = copy["metadata"]["name"]
        try:
            for late in (0.0, 801.0):
                before = copy["metadata"].get("annotations", {}).get(wanted.annotation)
                bench.now = (_claims(before)["iat"] if before else 0.0) + late
                item = Item("pods", Key(namespace, "web"))
                await bench.tokens.attend(made, copy, item)
                copy = await host.get("pods", name, "default")
                after = copy["metadata"]["annotations"][wanted.annotation]
                assert after != before
                assert (await _review(virtual, after, "vault"))["authenticated"] is True
        finally:
            await host.delete("pods", name, "default", grace=0)
