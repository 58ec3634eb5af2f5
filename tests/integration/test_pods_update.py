"""What changes on a pod after it was made: the tenant's wishes arrive, the host's additions stay.

The host of these tests has a policy that puts a sidecar, a label and an annotation on pods, as
service meshes do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from syncer.naming import PREFIX
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    eventually,
    named,
    path_of,
    pod,
)
from tests.integration.pod_steps import add_debug_container, condition, container, in_phase, settled

_GROUP = "admissionregistration.k8s.io/v1"
_MUTATION = """
Object{
  metadata: Object.metadata{
    labels: {"mesh.example/injected": "yes"},
    annotations: {"mesh.example/status": "injected"}
  },
  spec: Object.spec{
    containers: [Object.spec.containers{name: "mesh-proxy", image: "mesh:1"}]
  }
}
"""


@pytest.fixture
async def mesh(host: Cluster, pair: Pair, namespace: str) -> AsyncIterator[str]:
    """Let the host put a sidecar on the pods of this test's namespace."""
    name = f"mesh-{namespace}"
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pods"],
    }
    constraints = {
        "resourceRules": [rule],
        "objectSelector": {"matchLabels": {f"{PREFIX}namespace": namespace}},
    }
    mutation = {
        "patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": _MUTATION},
    }
    policy = {
        "matchConstraints": constraints,
        "mutations": [mutation],
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
    }
    binding = {"policyName": name}
    probe = pod("probe", pair.names.host_namespace, labels={f"{PREFIX}namespace": namespace})

    async def at_work() -> None:
        path = path_of("pods", pair.names.host_namespace)
        made = await host.request("POST", path, body=probe, params={"dryRun": "All"})
        assert container(made, "mesh-proxy")

    try:
        for kind, spec in (("", policy), ("Binding", binding)):
            kind = f"MutatingAdmissionPolicy{kind}"
            await host.create(named(kind, name, apiVersion=_GROUP, spec=spec))
        await eventually(at_work)
        yield namespace
    finally:
        for resource in ("mutatingadmissionpolicybindings", "mutatingadmissionpolicies"):
            await host.delete(f"{_GROUP}/{resource}", name)


async def test_what_may_change_changes_and_what_the_host_added_stays(pair: Pair, mesh: str) -> None:
    """Image, deadline, tolerations, labels and annotations follow; the sidecar is not touched."""
    namespace = mesh
    asked = pod("web", namespace, labels={"app": "web", "old": "1"})
    asked["metadata"]["annotations"] = {"note": "first", "old": "1"}
    await pair.virtual.create(asked)
    running = await in_phase(pair, "web", namespace)
    assert [each["name"] for each in running["status"]["containerStatuses"]] == ["main"]
    before = await pair.copy("pods", "web", namespace)
    assert [each["name"] for each in before["spec"]["containers"]] == ["main", "mesh-proxy"]

    toleration = {"key": "own", "operator": "Exists", "effect": "NoSchedule"}
    present = (await pair.virtual.get("pods", "web", namespace))["spec"]["tolerations"]
    await pair.virtual.patch(
        "pods",
        "web",
        namespace,
        {
            "metadata": {
                "labels": {"app": "api", "old": None, "new": "1"},
                "annotations": {"note": "second", "old": None, "new": "1"},
            },
            "spec": {
                "containers": [{"name": "main", "image": "nginx:2"}],
                "activeDeadlineSeconds": 3600,
                "tolerations": [*present, toleration],
            },
        },
        kind="strategic",
    )

    async def arrived() -> Object:
        copy = await pair.copy("pods", "web", namespace)
        assert container(copy, "main")["image"] == "nginx:2"
        assert copy["spec"].get("activeDeadlineSeconds") == 3600
        assert toleration in copy["spec"]["tolerations"]
        assert copy["metadata"]["labels"][pair.names.label_key("app")] == "api"
        assert copy["metadata"]["annotations"]["note"] == "second"
        return copy

    copy = await eventually(arrived)
    assert container(copy, "mesh-proxy") == container(before, "mesh-proxy")
    labels, annotations = copy["metadata"]["labels"], copy["metadata"]["annotations"]
    assert labels["mesh.example/injected"] == "yes"
    assert annotations["mesh.example/status"] == "injected"
    assert pair.names.label_key("old") not in labels
    assert labels[pair.names.label_key("new")] == "1"
    assert "old" not in annotations
    assert annotations["new"] == "1"
    assert annotations[f"{PREFIX}labels"] == 'app="api"\nnew="1"'

    async def seen() -> None:
        virtual = await pair.virtual.get("pods", "web", namespace)
        [status] = virtual["status"]["containerStatuses"]
        assert (status["name"], status["image"]) == ("main", "nginx:2")

    await eventually(seen)
    # what others put on the host's copy later stays too, and costs the tenant nothing
    where, name = pair.names.host_namespace, pair.host_name("web", namespace)
    marks = {"labels": {"host/label": "1"}, "annotations": {"host/note": "1"}}
    await pair.host.patch("pods", name, where, {"metadata": marks})
    await pair.virtual.patch("pods", "web", namespace, {"metadata": {"labels": {"app": "last"}}})

    async def both() -> None:
        copy = await pair.copy("pods", "web", namespace)
        assert copy["metadata"]["labels"][pair.names.label_key("app")] == "last"
        assert copy["metadata"]["labels"]["host/label"] == "1"
        assert copy["metadata"]["annotations"]["host/note"] == "1"

    await eventually(both)
    virtual = await pair.virtual.get("pods", "web", namespace)
    assert virtual["metadata"]["labels"] == {"app": "last", "new": "1"}
    assert "host/note" not in virtual["metadata"]["annotations"]
    await settled(pair, namespace, 2)


async def test_ephemeral_containers_arrive_one_after_the_other(pair: Pair, mesh: str) -> None:
    """Each further one is added, with its target; their states come back."""
    namespace = mesh
    await pair.virtual.create(pod("web", namespace))
    await in_phase(pair, "web", namespace)
    for name in ("debug-1", "debug-2"):
        debug = {"name": name, "image": "busybox", "targetContainerName": "main", "tty": True}
        await add_debug_container(pair, "web", namespace, debug)

    async def there() -> None:
        copy = await pair.copy("pods", "web", namespace)
        for name in ("debug-1", "debug-2"):
            found = container(copy, name, "ephemeralContainers")
            assert found["targetContainerName"] == "main"
            assert found["tty"] is True
        virtual = await pair.virtual.get("pods", "web", namespace)
        states, theirs = (
            [each["name"] for each in one["status"].get("ephemeralContainerStatuses") or ()]
            for one in (virtual, copy)
        )
        assert states == theirs  # in whatever order the kubelet tells them
        assert sorted(states) == ["debug-1", "debug-2"]

    await eventually(there)


async def test_a_resize_in_place_reaches_the_host(pair: Pair, mesh: str) -> None:
    """CPU and memory asked of `pods/resize` are set on the host; what it gives comes back."""
    namespace = mesh

    def resources(cpu: str, memory: str) -> Object:
        return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": "256Mi"}}

    main = {"name": "main", "image": "nginx", "resources": resources("100m", "64Mi")}
    await pair.virtual.create(pod("web", namespace, containers=[main]))
    await in_phase(pair, "web", namespace)
    asked = {"name": "main", "resources": resources("200m", "128Mi")}
    await pair.virtual.patch(
        "pods",
        "web",
        namespace,
        {"spec": {"containers": [asked]}},
        kind="strategic",
        subresource="resize",
    )

    async def resized() -> None:
        copy = await pair.copy("pods", "web", namespace)
        assert container(copy, "main")["resources"] == resources("200m", "128Mi")
        assert "mesh-proxy" in [each["name"] for each in copy["spec"]["containers"]]
        virtual = await pair.virtual.get("pods", "web", namespace)
        [status] = virtual["status"]["containerStatuses"]
        assert status["resources"] == resources("200m", "128Mi")

    await eventually(resized)


async def test_a_scheduling_gate_of_the_tenant_holds_the_pod_until_removed(
    pair: Pair, namespace: str
) -> None:
    """The host does not schedule a gated pod; when the last gate goes it does."""
    gates = [{"name": "tenant.example/a"}, {"name": "tenant.example/b"}]
    await pair.virtual.create(pod("held", namespace, schedulingGates=gates))

    async def held(count: int) -> None:
        async def check() -> None:
            copy = await pair.copy("pods", "held", namespace)
            assert len(copy["spec"].get("schedulingGates") or ()) == count
            virtual = await pair.virtual.get("pods", "held", namespace)
            assert condition(virtual, "PodScheduled")["reason"] == "SchedulingGated"

        await eventually(check)

    await held(2)
    await pair.virtual.patch("pods", "held", namespace, {"spec": {"schedulingGates": gates[1:]}})
    await held(1)
    await pair.virtual.patch("pods", "held", namespace, {"spec": {"schedulingGates": []}})
    await in_phase(pair, "held", namespace)


async def test_a_namespaces_labels_follow_on_its_pods(pair: Pair, namespace: str) -> None:
    """Selectors of namespaces work on the host by labels of pods: they are kept up to date."""
    await pair.virtual.create(pod("web", namespace))
    key = pair.names.namespace_label_key("team")
    await eventually(lambda: pair.copy("pods", "web", namespace))
    for value in ("a", "b", None):
        await pair.virtual.patch(
            "namespaces", namespace, "", {"metadata": {"labels": {"team": value}}}
        )

        async def follows(value: str | None = value) -> None:
            copy = await pair.copy("pods", "web", namespace)
            assert copy["metadata"]["labels"].get(key) == value

        await eventually(follows)
