"""Row 27: nothing that a tenant can read names the host's namespace, objects or UIDs."""

import re

import orjson

from syncer.naming import PREFIX
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    RefusedError,
    config_map,
    eventually,
    named,
    pod,
    secret,
    service,
)
from tests.integration.pod_steps import in_phase, told


async def _everything(cluster: Cluster, namespace: str = "") -> list[Object]:
    """Return every object of every resource that can be listed."""
    found: list[Object] = []
    groups = await cluster.request("GET", "/apis")
    versions = [
        "/api/v1",
        *(f"/apis/{each['preferredVersion']['groupVersion']}" for each in groups["groups"]),
    ]
    for base in versions:
        for resource in (await _get(cluster, base)).get("resources", ()):
            if "list" not in resource["verbs"] or "/" in resource["name"]:
                continue
            if namespace and not resource["namespaced"]:
                continue
            middle = f"/namespaces/{namespace}" if namespace else ""
            answer = await _get(cluster, f"{base}{middle}/{resource['name']}")
            found += answer.get("items", ())
    return found


async def _get(cluster: Cluster, path: str) -> Object:
    """Return an answer; nothing when it is of an API group of another test, which comes or goes."""
    try:
        return await cluster.request("GET", path)
    except RefusedError as refused:
        if refused.status not in (404, 503) or ".example.com/" not in path:
            raise
        return {}


def _real(obj: Object) -> Object:
    """Return an object without what only the fake container runtime does: IDs made of UIDs."""
    for status in obj.get("status", {}).get("containerStatuses") or ():
        status.pop("containerID", None)
    return obj


async def _complain(pair: Pair, name: str, namespace: str) -> None:
    """Let the host's kubelet say why a container waits, as it does, and wait until it is shown."""
    copy = await pair.copy("pods", name, namespace)
    host = copy["metadata"]
    message = (
        "back-off 5m0s restarting failed container=main "
        f"pod={host['name']}_{host['namespace']}({host['uid']})"
    )
    [container] = copy["status"]["containerStatuses"]
    container["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
    for condition in copy["status"]["conditions"]:
        condition["message"] = message
    status = {
        "containerStatuses": [container],
        "conditions": copy["status"]["conditions"],
        "message": message,
    }
    where = ("pods", host["name"], host["namespace"])
    await pair.host.patch(*where, {"status": status}, subresource="status")

    async def shown() -> None:
        virtual = await pair.virtual.get("pods", name, namespace)
        [container] = virtual["status"]["containerStatuses"]
        uid = virtual["metadata"]["uid"]
        expected = message.partition("pod=")[0] + f"pod={name}_{namespace}({uid})"
        assert container["state"]["waiting"]["message"] == expected
        assert virtual["status"]["message"] == expected

    await eventually(shown)


async def test_a_dump_of_the_tenant_names_nothing_of_the_host(pair: Pair, namespace: str) -> None:
    """Pods, services, claims, events and refusals: no host namespace, name, UID or node's IP."""
    home, tenant = pair.names.host_namespace, pair.names.tenant
    forced = {f"{PREFIX}force-sync": "true"}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "none",
    }
    volumes = [
        {"name": "config", "configMap": {"name": "used"}},
        {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}},
    ]
    clash = pair.host_name("clash", namespace)
    await pair.host.create(config_map(clash, home, {}))
    for each in (
        config_map("used", namespace, {"a": "b"}),
        secret("forced", namespace, {"a": "b"}, annotations=forced),
        config_map("clash", namespace, {"a": "b"}, annotations=forced),
        service("web", namespace, type="LoadBalancer", externalIPs=["203.0.113.1"]),
        named("PersistentVolumeClaim", "disk", namespace, spec=claim),
        pod("web", namespace, labels={"app": "web"}),
        pod("unbound", namespace, volumes=volumes),
        pod("x" * 60, namespace),
        pod("nowhere", namespace, nodeSelector={"no": "such"}),
    ):
        await pair.virtual.create(each)
    await in_phase(pair, "web", namespace)
    await in_phase(pair, "x" * 60, namespace)
    await told(pair.virtual, namespace, "clash", "unmanaged")
    await told(pair.virtual, namespace, "unbound", "", "FailedScheduling")
    await _complain(pair, "web", namespace)
    uids = {
        each["metadata"]["uid"]
        for each in await _everything(pair.host)
        if each["metadata"].get("uid")
    }
    nodes = await pair.host.list("nodes")
    addresses = {
        f'"{each["address"]}"'
        for node in nodes
        for each in node["status"].get("addresses") or ()  # another test's may have none yet
        if each["type"] != "Hostname"
    }
    assert addresses
    shown = [_real(each) for each in await _everything(pair.virtual)]
    marker = {f"{PREFIX}managed-by": tenant}  # on events of ours
    for each in shown:
        text = orjson.dumps(each).decode().replace(orjson.dumps(marker).decode()[1:-1], "")
        where = f"{each['metadata'].get('namespace')}/{each['metadata']['name']}: {text}"
        assert home not in text, where
        assert f"-x-{tenant}" not in text, where
        assert not [address for address in addresses if address in text], where
        assert not uids & set(re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)), (
            where
        )
    await pair.host.delete("configmaps", clash, home)
