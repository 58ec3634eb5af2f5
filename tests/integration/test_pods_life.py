"""Pods from creation to their end: node and status, deletion by either side, controllers' pods."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from controlplane.nodes import MAX_NODES, node
from syncer.naming import PREFIX
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    config_map,
    eventually,
    gone,
    named,
    path_of,
    pod,
    service,
)
from tests.integration.pod_steps import condition, in_phase, settled

_SLICES = "discovery.k8s.io/v1/endpointslices"
_SLOW = {"annotations": {"fake-pod/stop-after": "60s"}}
"""A pod that takes its time to go: what happens meanwhile can be seen."""


def _slow(name: str, namespace: str) -> Object:
    made = pod(name, namespace)
    made["metadata"] |= _SLOW
    return made


def _workload(kind: str, name: str, namespace: str, **spec: object) -> Object:
    """Return an object of apps/v1 with a pod template, its pods labelled `app: NAME`."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": pod(name, namespace)["spec"]}
    given = {"selector": {"matchLabels": labels}, "template": template} | spec
    return named(kind, name, namespace, apiVersion="apps/v1", spec=given)


async def _running_pods(pair: Pair, namespace: str, name: str, count: int) -> list[Object]:
    async def check() -> list[Object]:
        pods = await pair.virtual.list("pods", namespace, labels=f"app={name}")
        running = [
            each
            for each in pods
            if each["status"].get("phase") == "Running"
            and "deletionTimestamp" not in each["metadata"]
        ]
        assert len(running) == count, [each["status"] for each in pods]
        return running

    return await eventually(check)


async def _leaving(pair: Pair, name: str, namespace: str, grace: int) -> None:
    """Wait until both are being deleted with that grace."""

    async def check() -> None:
        for found in (
            await pair.virtual.get("pods", name, namespace),
            await pair.copy("pods", name, namespace),
        ):
            assert found["metadata"].get("deletionGracePeriodSeconds") == grace, found["metadata"]

    await eventually(check)


async def _both_gone(pair: Pair, name: str, namespace: str) -> None:
    await gone(lambda: pair.virtual.find("pods", name, namespace))
    await gone(lambda: pair.find_copy("pods", name, namespace))


async def _let_go(pair: Pair, name: str, namespace: str) -> None:
    """Let the fake kubelet of a slow pod be done with it."""
    await pair.host.delete(
        "pods", pair.host_name(name, namespace), pair.names.host_namespace, grace=0
    )


async def test_node_and_status_come_back(pair: Pair, namespace: str) -> None:
    """A running pod has the host's node, times, IPs, states and conditions, in virtual terms."""
    await pair.virtual.create(pod("web", namespace))
    await in_phase(pair, "web", namespace)

    async def agree() -> tuple[Object, Object]:
        virtual = await pair.virtual.get("pods", "web", namespace)
        host = await pair.copy("pods", "web", namespace)
        for field in ("phase", "startTime", "podIP", "podIPs", "containerStatuses", "qosClass"):
            assert virtual["status"].get(field) == host["status"].get(field), field
        assert virtual["spec"]["nodeName"] == host["spec"]["nodeName"]
        fake = await pair.virtual.get("nodes", virtual["spec"]["nodeName"])
        assert fake["metadata"]["labels"][f"{PREFIX}fake-node"] == "true"
        addresses = {each["type"]: each["address"] for each in fake["status"]["addresses"]}
        assert virtual["status"].get("hostIP") == addresses["InternalIP"]
        return virtual, host

    virtual, host = await eventually(agree)
    generation = virtual["metadata"]["generation"]
    for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready"):
        mine, theirs = condition(virtual, kind), condition(host, kind)
        assert (mine["status"], mine["lastTransitionTime"]) == (
            theirs["status"],
            theirs["lastTransitionTime"],
        )
        assert mine.get("observedGeneration", generation) == generation
    assert virtual["status"]["containerStatuses"][0]["state"]["running"]


async def test_a_readiness_gate_of_the_tenant_makes_the_pod_ready(
    pair: Pair, namespace: str
) -> None:
    """A condition set in the virtual cluster reaches the host's kubelet, and Ready comes back."""
    gate = "tenant.example/ready"
    await pair.virtual.create(pod("gated", namespace, readinessGates=[{"conditionType": gate}]))
    await in_phase(pair, "gated", namespace)

    async def ready(status: str) -> None:
        async def check() -> None:
            for found in (
                await pair.virtual.get("pods", "gated", namespace),
                await pair.copy("pods", "gated", namespace),
            ):
                assert condition(found, "Ready")["status"] == status
                assert condition(found, "ContainersReady")["status"] == "True"

        await eventually(check)

    await ready("False")
    for status in ("True", "False"):
        own = {"type": gate, "status": status, "reason": "Tenant", "message": "said so"}
        await pair.virtual.patch(
            "pods",
            "gated",
            namespace,
            {"status": {"conditions": [own]}},
            kind="strategic",
            subresource="status",
        )
        await ready(status)
        found = condition(await pair.copy("pods", "gated", namespace), gate)
        assert (found["status"], found["reason"], found["message"]) == (
            status,
            "Tenant",
            "said so",
        )


async def test_a_deletion_by_the_tenant_has_the_same_grace_on_the_host(
    pair: Pair, namespace: str
) -> None:
    """The virtual pod stays, terminating, while the host's does; a shorter grace follows."""
    await pair.virtual.create(_slow("web", namespace))
    await in_phase(pair, "web", namespace)
    await pair.virtual.delete("pods", "web", namespace, grace=50)
    await _leaving(pair, "web", namespace, 50)
    await pair.virtual.delete("pods", "web", namespace, grace=20)
    await _leaving(pair, "web", namespace, 20)
    await _let_go(pair, "web", namespace)
    await _both_gone(pair, "web", namespace)
    await gone(lambda: pair.find_copy("secrets", "web-sa-token", namespace))


async def test_nothing_that_is_missing_holds_a_deletion_up(pair: Pair, namespace: str) -> None:
    """A pod goes although its account and its config map went before it, and is not told off."""
    await pair.virtual.create(named("ServiceAccount", "robot", namespace))
    await pair.virtual.create(config_map("settings", namespace, {"A": "1"}))
    uses = [{"configMapRef": {"name": "settings"}}]
    main = {"name": "main", "image": "nginx", "envFrom": uses}
    await pair.virtual.create(pod("web", namespace, serviceAccountName="robot", containers=[main]))
    await in_phase(pair, "web", namespace)
    await pair.virtual.delete("serviceaccounts", "robot", namespace)
    await pair.virtual.delete("configmaps", "settings", namespace)
    await pair.virtual.delete("pods", "web", namespace)
    await _both_gone(pair, "web", namespace)
    assert await pair.virtual.events(namespace, "web", "SyncError") == []


async def test_a_deletion_on_the_host_is_seen_by_the_tenant(pair: Pair, namespace: str) -> None:
    """A host pod being deleted deletes the virtual one with its grace; they go together."""
    await pair.virtual.create(_slow("web", namespace))
    await in_phase(pair, "web", namespace)
    host_name, host_namespace = pair.host_name("web", namespace), pair.names.host_namespace
    await pair.host.delete("pods", host_name, host_namespace, grace=40)
    await _leaving(pair, "web", namespace, 40)
    await pair.host.delete("pods", host_name, host_namespace, grace=15)
    await _leaving(pair, "web", namespace, 15)
    await _let_go(pair, "web", namespace)
    await _both_gone(pair, "web", namespace)


async def test_a_forced_deletion_frees_the_name(pair: Pair, namespace: str) -> None:
    """Grace 0 removes the virtual pod at once; a namesake runs as soon as the host's is gone."""
    await pair.virtual.create(pod("web", namespace))
    first = await in_phase(pair, "web", namespace)
    await pair.virtual.delete("pods", "web", namespace, grace=0)
    assert await pair.virtual.find("pods", "web", namespace) is None
    await pair.virtual.create(pod("web", namespace))
    again = await in_phase(pair, "web", namespace)
    assert again["metadata"]["uid"] != first["metadata"]["uid"]
    copy = await pair.copy("pods", "web", namespace)
    assert copy["metadata"]["annotations"][f"{PREFIX}object-uid"] == again["metadata"]["uid"]
    assert await pair.virtual.events(namespace, "web", "SyncError") == []


async def test_an_eviction_reaches_the_other_side(pair: Pair, namespace: str) -> None:
    """Evicting the virtual pod removes the host's, and the other way round."""

    def eviction(name: str, where: str) -> Object:
        return named("Eviction", name, where, apiVersion="policy/v1")

    for name in ("drained", "evicted"):
        await pair.virtual.create(pod(name, namespace))
    for name in ("drained", "evicted"):
        await in_phase(pair, name, namespace)
    path = path_of("pods", namespace, "drained")
    await pair.virtual.request("POST", f"{path}/eviction", body=eviction("drained", namespace))
    where, host_name = pair.names.host_namespace, pair.host_name("evicted", namespace)
    path = path_of("pods", where, host_name)
    await pair.host.request("POST", f"{path}/eviction", body=eviction(host_name, where))
    for name in ("drained", "evicted"):
        await _both_gone(pair, name, namespace)


async def test_a_vanished_pod_is_gone_if_it_had_started_else_made_again(
    pair: Pair, namespace: str
) -> None:
    """As after a node failure: who made a started pod makes another; a waiting one is restored."""
    nowhere = pod("waiting", namespace, nodeSelector={"no-node": "has-this"})
    await pair.virtual.create(nowhere)
    first = await eventually(lambda: pair.copy("pods", "waiting", namespace))
    await pair.virtual.create(pod("alone", namespace))
    await pair.virtual.create(_workload("Deployment", "web", namespace, replicas=1))
    [started] = await _running_pods(pair, namespace, "web", 1)
    await in_phase(pair, "alone", namespace)

    async def unschedulable() -> None:
        found = await pair.virtual.get("pods", "waiting", namespace)
        assert condition(found, "PodScheduled")["reason"] == "Unschedulable"

    await eventually(unschedulable)
    for name in ("waiting", "alone", started["metadata"]["name"]):
        await _let_go(pair, name, namespace)
    await gone(lambda: pair.virtual.find("pods", "alone", namespace))
    await gone(lambda: pair.virtual.find("pods", started["metadata"]["name"], namespace))
    [other] = await _running_pods(pair, namespace, "web", 1)
    assert other["metadata"]["name"] != started["metadata"]["name"]

    async def restored() -> Object:
        copy = await pair.copy("pods", "waiting", namespace)
        assert copy["metadata"]["uid"] != first["metadata"]["uid"]
        return copy

    copy = await eventually(restored)
    virtual = await pair.virtual.get("pods", "waiting", namespace)
    assert copy["metadata"]["annotations"][f"{PREFIX}object-uid"] == virtual["metadata"]["uid"]


async def test_the_pods_of_controllers_do_their_work(pair: Pair, namespace: str) -> None:
    """A StatefulSet comes up in order, a Job completes, and both say so in their status."""
    await pair.virtual.create(
        _workload("StatefulSet", "db", namespace, replicas=2, serviceName="db")
    )
    task = {"name": "main", "image": "nginx"}
    ends = {"annotations": {"fake-pod/run-for": "0s"}}
    job = {
        "completions": 2,
        "parallelism": 1,
        "template": {"metadata": ends, "spec": {"containers": [task], "restartPolicy": "Never"}},
    }
    await pair.virtual.create(named("Job", "task", namespace, apiVersion="batch/v1", spec=job))
    pods = await _running_pods(pair, namespace, "db", 2)
    assert sorted(each["metadata"]["name"] for each in pods) == ["db-0", "db-1"]

    async def done() -> None:
        task = await pair.virtual.get("batch/v1/jobs", "task", namespace)
        assert task["status"].get("succeeded") == 2, task["status"]
        assert condition(task, "Complete")["status"] == "True"
        db = await pair.virtual.get("apps/v1/statefulsets", "db", namespace)
        assert db["status"].get("readyReplicas") == 2, db["status"]

    await eventually(done)
    for each in await pair.virtual.list("pods", namespace, labels="job-name=task"):
        assert each["status"]["phase"] == "Succeeded"
        [status] = each["status"]["containerStatuses"]
        assert status["state"]["terminated"]["exitCode"] == 0
    copy = await pair.copy("pods", "db-0", namespace)
    assert copy["metadata"]["annotations"][f"{PREFIX}owner-set-kind"] == "StatefulSet"


@pytest.fixture
async def own_node(host: Cluster, namespace: str) -> AsyncIterator[str]:
    """A host node that only pods with a toleration of `own` use; the namespace's name is its."""
    made = node(MAX_NODES - 1)
    made["metadata"]["name"] = made["metadata"]["labels"]["kubernetes.io/hostname"] = namespace
    made["spec"]["taints"] = [{"key": "own", "effect": "NoSchedule"}]
    await host.create(made)

    async def ready() -> None:
        found = await host.get("nodes", namespace)
        assert condition(found, "Ready")["status"] == "True"
        assert [each["key"] for each in found["spec"].get("taints") or ()] == ["own"]

    await eventually(ready)
    yield namespace
    await host.delete("nodes", namespace)


async def test_a_daemon_set_runs_where_other_pods_are(
    pair: Pair, namespace: str, own_node: str
) -> None:
    """Its pods run on the fake nodes that other pods keep; a node doesn't stay for them alone."""
    own = [{"key": "own", "operator": "Exists"}]
    where = {"kubernetes.io/hostname": own_node}
    await pair.virtual.create(pod("keeper", namespace, nodeSelector=where, tolerations=own))
    keeper = await in_phase(pair, "keeper", namespace)
    assert keeper["spec"]["nodeName"] == own_node
    agent = _workload("DaemonSet", "agent", namespace)
    agent["spec"]["template"]["spec"]["tolerations"] = own
    await pair.virtual.create(agent)

    async def there() -> Object:
        for each in await pair.virtual.list("pods", namespace, labels="app=agent"):
            if each["spec"].get("nodeName") == own_node:
                assert each["status"].get("phase") == "Running", each["status"]
                return each
        raise AssertionError(f"no agent on {own_node}")

    found = await eventually(there)
    copy = await pair.copy("pods", found["metadata"]["name"], namespace)
    assert copy["spec"]["nodeName"] == own_node
    assert copy["metadata"]["annotations"][f"{PREFIX}owner-set-kind"] == "DaemonSet"
    await pair.virtual.delete("pods", "keeper", namespace)
    await gone(lambda: pair.virtual.find("nodes", own_node))
    # While the host's node is there: without it, the host's pod would stay for a minute.
    await pair.virtual.delete("apps/v1/daemonsets", "agent", namespace)
    await _both_gone(pair, found["metadata"]["name"], namespace)


async def test_a_settled_namespace_is_quiet(pair: Pair, namespace: str) -> None:
    """When all has come to rest, neither cluster sees another write."""
    gate = "tenant.example/ready"
    asked = pod(
        "everything",
        namespace,
        labels={"app": "everything"},
        subdomain="everything",
        readinessGates=[{"conditionType": gate}],
        dnsConfig={"options": [{"name": "ndots", "value": "2"}]},
        containers=[
            {
                "name": "main",
                "image": "nginx",
                "resources": {"requests": {"cpu": "0.1", "memory": "1024Ki"}},
                "envFrom": [{"configMapRef": {"name": "settings", "optional": True}}],
            }
        ],
        tolerations=[{"key": "a", "operator": "Exists"}],
    )
    asked["metadata"]["annotations"] = {"note": "text"}
    await pair.virtual.create(service("everything", namespace))
    await pair.virtual.create(config_map("settings", namespace, {"A": "1"}))
    await pair.virtual.create(asked)
    await pair.virtual.create(pod("held", namespace, schedulingGates=[{"name": gate}]))
    await pair.virtual.create(_workload("Deployment", "web", namespace, replicas=2))
    await _running_pods(pair, namespace, "web", 2)
    await in_phase(pair, "everything", namespace)
    own = {"conditions": [{"type": gate, "status": "True"}]}
    await pair.virtual.patch(
        "pods", "everything", namespace, {"status": own}, kind="strategic", subresource="status"
    )

    async def ready() -> str:
        found = await pair.virtual.get("pods", "everything", namespace)
        assert condition(found, "Ready")["status"] == "True"
        return str(found["status"]["podIP"])

    address = await eventually(ready)

    async def reached() -> None:
        for side, name, where in (
            (pair.virtual, "everything", namespace),
            (pair.host, pair.host_name("everything", namespace), pair.names.host_namespace),
        ):
            endpoints = await side.get("endpoints", name, where)
            assert [each["ip"] for each in endpoints["subsets"][0]["addresses"]] == [address]
            slices = await side.list(_SLICES, where, labels=f"kubernetes.io/service-name={name}")
            [endpoint] = [each for one in slices for each in one.get("endpoints") or ()]
            assert endpoint["conditions"]["ready"] is True

    await eventually(reached, timeout=60)  # each cluster's own controllers take their time
    await settled(pair, namespace, 5)
