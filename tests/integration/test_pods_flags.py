"""Pods under other flags than the default, on one virtual cluster of their own.

Here kube-dns may go too: no other test's pods wait for it.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import orjson
import pytest

from mappers.pods.tokens import token_key
from syncer.naming import PREFIX
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    Tenant,
    boot_pair,
    eventually,
    gone,
    named,
    pod,
    service,
)
from tests.integration.pod_steps import container, in_phase, settled, told

_FLAGS = (
    "--service-account-token-secrets=false",
    "--service-account=workload",
    "--set-owner=false",
    "--sync-labels=team,example.com/*",
    "--override-hosts-container-image=mirror/alpine:1",
    "--default-image-registry=registry.example/",
    "--translate-image=nginx=registry.example/nginx:1",
    "--enforce-toleration=dedicated=tenant:NoSchedule",
    "--node-selector=topology.kubernetes.io/region=local",
)


@pytest.fixture(scope="module")
async def other(host: Cluster, worker_name: str) -> AsyncIterator[Pair]:
    """A pair of its own, with many flags."""
    tenant = Tenant(f"flags-{worker_name}", flags=_FLAGS)
    await host.apply(named("Namespace", tenant.host_namespace))
    await host.apply(named("ServiceAccount", "workload", tenant.host_namespace))
    async with boot_pair(host, tenant) as booted:
        await eventually(lambda: booted.virtual.get("serviceaccounts", "default", "default"))
        yield booted


def _claims(token: str) -> Object:
    payload = token.split(".")[1]
    claims: Object = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return claims


async def _copy(pair: Pair, name: str) -> Object:
    return await eventually(lambda: pair.copy("pods", name, "default"))


async def _host_services_seen(pair: Pair) -> None:
    """Wait until the syncer has seen all that happened to services on the host so far.

    It makes a deleted copy again only once it was told of the deletion, and news come in order.
    """
    await pair.virtual.create(service("marker", "default"))
    first = await eventually(lambda: pair.copy("services", "marker", "default"))
    await pair.host.delete("services", first["metadata"]["name"], pair.names.host_namespace)

    async def again() -> None:
        copy = await pair.copy("services", "marker", "default")
        assert copy["metadata"]["uid"] != first["metadata"]["uid"]

    await eventually(again)
    await pair.virtual.delete("services", "marker", "default")
    await gone(lambda: pair.find_copy("services", "marker", "default"))


async def test_pods_that_need_cluster_dns_wait_for_it(other: Pair) -> None:
    """They are told of kube-dns, others run meanwhile; when it comes they run too."""
    await other.virtual.delete("services", "kube-dns", "kube-system")
    await gone(lambda: other.find_copy("services", "kube-dns", "kube-system"))
    await _host_services_seen(other)
    await other.virtual.create(pod("waits", "default"))
    await other.virtual.create(pod("own-dns", "default", dnsPolicy="Default"))
    await other.virtual.create(pod("on-node", "default", hostNetwork=True))
    await told(other.virtual, "default", "waits", "needs Service kube-system/kube-dns")
    for name in ("own-dns", "on-node"):
        await in_phase(other, name, "default")
    assert await other.find_copy("pods", "waits", "default") is None
    await other.virtual.create(service("kube-dns", "kube-system"))
    await in_phase(other, "waits", "default")
    dns = await other.copy("services", "kube-dns", "kube-system")
    config = (await _copy(other, "waits"))["spec"]["dnsConfig"]
    assert config["nameservers"] == [dns["spec"]["clusterIP"]]


async def test_accounts_owners_labels_images_and_nodes_are_as_the_flags_say(other: Pair) -> None:
    """Each flag about pods shows on the host's copy, and leaves the virtual pod alone."""
    labels = {"team": "a", "example.com/tier": "b", "app": "web"}
    await other.virtual.create(pod("flagged", "default", labels=labels, subdomain="web"))
    virtual = await in_phase(other, "flagged", "default")
    copy = await _copy(other, "flagged")
    spec, metadata = copy["spec"], copy["metadata"]
    assert spec["serviceAccountName"] == "workload"
    assert "ownerReferences" not in metadata
    assert {key: metadata["labels"].get(key) for key in labels} == labels | {"app": None}
    assert metadata["labels"][other.names.label_key("app")] == "web"
    assert container(copy, "main")["image"] == "registry.example/nginx:1"
    rewriter = container(copy, "vcluster-rewrite-hosts", "initContainers")
    assert rewriter["image"] == "registry.example/mirror/alpine:1"
    toleration = {
        "key": "dedicated",
        "operator": "Equal",
        "value": "tenant",
        "effect": "NoSchedule",
    }
    assert toleration in spec["tolerations"]
    assert spec["nodeSelector"] == {"topology.kubernetes.io/region": "local"}

    assert container(virtual, "main")["image"] == "nginx"
    assert virtual["spec"]["serviceAccountName"] == "default"
    assert toleration not in virtual["spec"]["tolerations"]

    async def shown() -> None:
        found = await other.virtual.get("pods", "flagged", "default")
        [status] = found["status"]["containerStatuses"]
        assert status["image"] == "nginx"
        assert not found["status"].get("initContainerStatuses")

    await eventually(shown)
    # labels that are synced as they are follow too
    changed = {"team": "c", "example.com/tier": None}
    await other.virtual.patch("pods", "flagged", "default", {"metadata": {"labels": changed}})

    async def followed() -> None:
        labels = (await other.copy("pods", "flagged", "default"))["metadata"]["labels"]
        assert labels.get("team") == "c"
        assert "example.com/tier" not in labels

    await eventually(followed)


async def test_tokens_in_annotations_work_and_stay_through_updates(other: Pair) -> None:
    """No Secret is made; the pod reads its token from an annotation that a change leaves alone."""
    virtual = await other.virtual.create(pod("annotated", "default"))
    await in_phase(other, "annotated", "default")
    copy = await _copy(other, "annotated")
    assert await other.find_copy("secrets", "annotated-sa-token", "default") is None
    [(key, token)] = [
        (key, value)
        for key, value in copy["metadata"]["annotations"].items()
        if key.startswith(f"{PREFIX}token-")
    ]
    assert _claims(token)["kubernetes.io"]["pod"]["uid"] == virtual["metadata"]["uid"]
    items = [
        item
        for volume in copy["spec"]["volumes"]
        for source in volume["projected"]["sources"]
        for item in source.get("downwardAPI", {}).get("items", ())
    ]
    path = f"metadata.annotations['{key}']"
    [mounted] = [item for item in items if item["fieldRef"]["fieldPath"] == path]
    assert (mounted["path"], mounted["mode"]) == ("token", 0o644)
    note = {"metadata": {"annotations": {"note": "1"}}}
    await other.virtual.patch("pods", "annotated", "default", note)

    async def arrived() -> None:
        annotations = (await other.copy("pods", "annotated", "default"))["metadata"]["annotations"]
        assert annotations.get("note") == "1"
        assert annotations.get(key) == token

    await eventually(arrived)
    await settled(other, "default", 2)


async def test_a_forged_token_annotation_is_replaced_by_a_token(other: Pair) -> None:
    """What a tenant writes where its pod's token is mounted from neither crosses nor loops."""
    key = f"{PREFIX}token-{token_key('own', 'token')}"
    source = {"serviceAccountToken": {"path": "token"}}
    asked = pod("forged", "default", volumes=[{"name": "own", "projected": {"sources": [source]}}])
    asked["metadata"]["annotations"] = {key: "forged"}
    virtual = await other.virtual.create(asked)
    await in_phase(other, "forged", "default")
    token = (await _copy(other, "forged"))["metadata"]["annotations"][key]
    assert _claims(token)["kubernetes.io"]["pod"]["uid"] == virtual["metadata"]["uid"]
    await settled(other, "default", 1)
