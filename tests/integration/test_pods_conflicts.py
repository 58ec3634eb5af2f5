"""Pods that can't be on the host as they are: who is in the way stays, and the tenant reads why."""

from __future__ import annotations

from syncer.naming import PREFIX
from tests.integration.harness import (
    Object,
    Pair,
    RefusedError,
    eventually,
    gone,
    named,
    path_of,
    pod,
    secret,
    service,
)
from tests.integration.pod_steps import condition, container, in_phase, settled, told

_POLICIES = "admissionregistration.k8s.io/v1"

_UNMANAGED = (
    "conflict: cannot sync virtual object as unmanaged physical object exists with desired name"
)
_WIDGETS = "example.com/widgets"


def _greedy(name: str, namespace: str) -> Object:
    """Return a pod that asks for what a quota on the host forbids."""
    amount = {_WIDGETS: "1"}
    wants = {"limits": amount, "requests": amount}
    return pod(name, namespace, containers=[{"name": "main", "image": "nginx", "resources": wants}])


async def test_a_host_pod_of_others_under_the_wanted_name_is_not_touched(
    pair: Pair, namespace: str
) -> None:
    """The tenant reads of a conflict; when the stranger is gone the pod is made."""
    where, name = pair.names.host_namespace, pair.host_name("web", namespace)
    stranger = pod(name, where, labels={"app": "stranger"})
    await pair.host.create(stranger)
    await pair.virtual.create(pod("web", namespace))
    event = await told(pair.virtual, namespace, "web", _UNMANAGED)
    assert event["source"]["component"] == "pod-syncer"

    async def running() -> Object:
        found = await pair.host.get("pods", name, where)
        assert found["status"].get("phase") == "Running"
        return found

    before = await eventually(running)
    virtual = await pair.virtual.get("pods", "web", namespace)
    assert "nodeName" not in virtual["spec"]
    assert "startTime" not in virtual["status"], "nothing of the stranger's comes up"
    await pair.virtual.delete("pods", "web", namespace)
    await gone(lambda: pair.virtual.find("pods", "web", namespace))
    assert await pair.host.get("pods", name, where) == before
    await pair.virtual.create(pod("web", namespace))
    await pair.host.delete("pods", name, where, grace=0)
    await in_phase(pair, "web", namespace)
    copy = await pair.copy("pods", "web", namespace)
    assert copy["metadata"]["annotations"][f"{PREFIX}object-name"] == "web"


async def test_a_copy_that_lost_its_mark_is_nobodys_until_it_has_it_again(
    pair: Pair, namespace: str
) -> None:
    """Without the tenant's label the host pod isn't ours; the virtual one isn't given up for it."""
    await pair.virtual.create(pod("web", namespace))
    await in_phase(pair, "web", namespace)
    await settled(pair, namespace, 0.5, ["pods"])
    where, name = pair.names.host_namespace, pair.host_name("web", namespace)
    virtual = await pair.virtual.get("pods", "web", namespace)
    copy = await pair.copy("pods", "web", namespace)
    label = f"{PREFIX}managed-by"
    await pair.host.patch("pods", name, where, {"metadata": {"labels": {label: None}}})
    await told(pair.virtual, namespace, "web", _UNMANAGED)
    assert (await pair.virtual.get("pods", "web", namespace)) == virtual
    await pair.host.patch("pods", name, where, {"metadata": {"labels": {label: pair.names.marker}}})
    change = {"metadata": {"labels": {"app": "changed"}}}
    await pair.virtual.patch("pods", "web", namespace, change)

    async def arrived() -> None:
        found = await pair.copy("pods", "web", namespace)
        assert found["metadata"]["labels"].get(pair.names.label_key("app")) == "changed"
        assert found["metadata"]["uid"] == copy["metadata"]["uid"]

    await eventually(arrived)


async def test_two_pods_whose_host_names_are_the_same_share_nothing(
    pair: Pair, namespace: str
) -> None:
    """The first has the name; the second is told so, and runs once the first is gone."""
    other = f"b-x-{namespace}"
    await pair.virtual.create(named("Namespace", other))
    try:
        await eventually(lambda: pair.virtual.get("serviceaccounts", "default", other))
        assert pair.host_name("a-x-b", namespace) == pair.host_name("a", other)
        await pair.virtual.create(pod("a-x-b", namespace, labels={"who": "first"}))
        await in_phase(pair, "a-x-b", namespace)
        before = await pair.copy("pods", "a-x-b", namespace)
        await pair.virtual.create(pod("a", other, labels={"who": "second"}))
        await told(pair.virtual, other, "a", f"Pod {namespace}/a-x-b of this virtual cluster")
        assert (await pair.copy("pods", "a", other)) == before
        second = await pair.virtual.get("pods", "a", other)
        assert second["status"]["phase"] == "Pending"
        assert "nodeName" not in second["spec"]
        await pair.virtual.delete("pods", "a-x-b", namespace)
        await gone(lambda: pair.virtual.find("pods", "a-x-b", namespace))
        await in_phase(pair, "a", other)
    finally:
        await pair.virtual.delete("namespaces", other)


async def test_marks_that_a_tenant_forges_mean_nothing(pair: Pair, namespace: str) -> None:
    """Labels and annotations of ours on a virtual pod neither cross nor make it another's."""
    await pair.virtual.create(pod("victim", namespace))
    await in_phase(pair, "victim", namespace)
    victim = await pair.copy("pods", "victim", namespace)
    forged = pod("forger", namespace)
    forged["metadata"]["annotations"] = {
        f"{PREFIX}object-name": "victim",
        f"{PREFIX}object-namespace": "kube-system",
        f"{PREFIX}object-uid": victim["metadata"]["annotations"][f"{PREFIX}object-uid"],
        f"{PREFIX}managed-annotations": f"{PREFIX}object-name",
        f"{PREFIX}skip-backsync": "true",
        f"{PREFIX}controlled-by": "someone",
        f"{PREFIX}child-of": f"pods {namespace}/victim",
        f"{PREFIX}owner-set-kind": "DaemonSet",
        f"{PREFIX}scheduling-gates": "host.example/gate",
    }
    forged["metadata"]["labels"] = {
        f"{PREFIX}managed-by": "another-tenant",
        f"{PREFIX}namespace": "kube-system",
    }
    virtual = await pair.virtual.create(forged)
    await in_phase(pair, "forger", namespace)
    copy = await pair.copy("pods", "forger", namespace)
    labels, annotations = copy["metadata"]["labels"], copy["metadata"]["annotations"]
    assert labels[f"{PREFIX}managed-by"] == pair.names.marker
    assert labels[f"{PREFIX}namespace"] == namespace
    assert annotations[f"{PREFIX}object-name"] == "forger"
    assert annotations[f"{PREFIX}object-namespace"] == namespace
    assert annotations[f"{PREFIX}object-uid"] == virtual["metadata"]["uid"]
    for mark in ("skip-backsync", "controlled-by", "child-of", "owner-set-kind"):
        assert f"{PREFIX}{mark}" not in annotations
    assert f"{PREFIX}scheduling-gates" not in annotations
    await pair.virtual.delete("pods", "forger", namespace)
    await gone(lambda: pair.find_copy("pods", "forger", namespace))
    after = await pair.copy("pods", "victim", namespace)
    assert after["metadata"]["uid"] == victim["metadata"]["uid"]


async def test_a_quota_of_the_host_is_told_in_the_hosts_words(pair: Pair, namespace: str) -> None:
    """The refusal is an event on the pod and on its ReplicaSet; with room again the pods run."""
    where = pair.names.host_namespace
    limits = {f"requests.{_WIDGETS}": "0"}
    quota = f"none-{namespace}"
    words = f"exceeded quota: {quota}"
    await pair.host.create(named("ResourceQuota", quota, where, spec={"hard": limits}))

    async def at_work() -> None:
        path, refused = path_of("pods", where), ""
        try:
            await pair.host.request(
                "POST", path, body=_greedy("probe", where), params={"dryRun": "All"}
            )
        except RefusedError as error:
            refused = str(error)
        assert words in refused

    try:
        await eventually(at_work)
        labels = {"app": "greedy"}
        template = {"metadata": {"labels": labels}, "spec": _greedy("x", namespace)["spec"]}
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        await pair.virtual.create(
            named("ReplicaSet", "greedy", namespace, apiVersion="apps/v1", spec=spec)
        )

        async def made() -> str:
            found = await pair.virtual.list("pods", namespace, labels="app=greedy")
            return str(found[0]["metadata"]["name"])

        name = await eventually(made)
        event = await told(pair.virtual, namespace, name, words)
        assert where not in event["message"], "host names are the operator's"
        assert pair.names.tenant not in event["message"]
        await told(pair.virtual, namespace, "greedy", words)
        virtual = await pair.virtual.get("pods", name, namespace)
        assert virtual["status"]["phase"] == "Pending"
    finally:
        await pair.host.delete("resourcequotas", quota, where)
    # No node has a widget, so it stays pending, but it is there now: after the syncer's own pause
    # and, at worst, the half minute for which the host's admission remembers a quota.
    await eventually(lambda: pair.copy("pods", name, namespace), timeout=90)


async def test_defaults_of_the_hosts_limit_range_stay_and_nothing_is_written_again(
    pair: Pair, namespace: str
) -> None:
    """What the host puts into the copy is the host's; a settled pair is quiet."""
    where = pair.names.host_namespace
    name = f"limits-{namespace}"
    limit = {
        "type": "Container",
        "default": {"cpu": "2", "memory": "1Gi"},
        "defaultRequest": {"cpu": "20m", "memory": "16Mi"},
    }
    await pair.host.create(named("LimitRange", name, where, spec={"limits": [limit]}))
    probe = pod("probe", where)

    async def limited(cpu: str | None) -> None:
        path = f"/api/v1/namespaces/{where}/pods"
        made = await pair.host.request("POST", path, body=probe, params={"dryRun": "All"})
        resources = made["spec"]["containers"][0].get("resources") or {}
        assert resources.get("limits", {}).get("cpu") == cpu

    try:
        await eventually(lambda: limited("2"))
        await pair.virtual.create(service("web", namespace))
        own = {"requests": {"cpu": "30m"}}
        with_own = {"name": "own", "image": "nginx", "resources": own}
        await pair.virtual.create(
            pod(
                "web",
                namespace,
                labels={"app": "web"},
                containers=[{"name": "main", "image": "nginx"}, with_own],
                readinessGates=[{"conditionType": "tenant.example/ready"}],
                subdomain="web",
            )
        )
        await in_phase(pair, "web", namespace)
        copy = await pair.copy("pods", "web", namespace)
        main, second = copy["spec"]["containers"]
        assert main["resources"]["requests"] == {"cpu": "20m", "memory": "16Mi"}
        assert second["resources"]["requests"] == {"cpu": "30m", "memory": "16Mi"}

        async def ready_seen() -> None:
            virtual = await pair.virtual.get("pods", "web", namespace)
            assert len(virtual["status"]["containerStatuses"]) == 2
            assert virtual["status"].get("podIP")

        await eventually(ready_seen)
        await settled(pair, namespace, 3)
    finally:
        await pair.host.delete("limitranges", name, where)
        # The host's admission may remember it for half a minute: pods of other tests would get it.
        await eventually(lambda: limited(None), timeout=60)


async def test_a_change_that_the_host_refuses_holds_nothing_else_up(
    pair: Pair, namespace: str
) -> None:
    """The tenant reads why; other changes, the tenant's conditions and the status still flow."""
    gate = "tenant.example/ready"
    asked = pod("web", namespace, readinessGates=[{"conditionType": gate}])
    await pair.virtual.create(asked)
    await in_phase(pair, "web", namespace)
    name, where = f"frozen-{namespace}", pair.names.host_namespace
    rule = {
        "apiGroups": [""],
        "apiVersions": ["v1"],
        "operations": ["UPDATE"],
        "resources": ["pods"],
    }
    labels = {"matchLabels": {f"{PREFIX}namespace": namespace}}
    policy = {
        "matchConstraints": {"resourceRules": [rule], "objectSelector": labels},
        "validations": [{"expression": "false", "message": "frozen by the operator"}],
    }
    binding = {"policyName": name, "validationActions": ["Deny"]}
    host_name = pair.host_name("web", namespace)

    async def at_work() -> None:
        path = path_of("pods", where, host_name)
        body = {"metadata": {"labels": {"a": "b"}}}
        refused = ""
        try:
            await pair.host.request(
                "PATCH",
                path,
                body=body,
                content_type="application/merge-patch+json",
                params={"dryRun": "All"},
            )
        except RefusedError as error:
            refused = str(error)
        assert "frozen" in refused

    async def ready() -> None:
        for found in (
            await pair.virtual.get("pods", "web", namespace),
            await pair.copy("pods", "web", namespace),
        ):
            assert condition(found, "Ready")["status"] == "True"
            assert container(found, "debug", "ephemeralContainers")

    try:
        for kind, spec in (("", policy), ("Binding", binding)):
            kind = f"ValidatingAdmissionPolicy{kind}"
            await pair.host.create(named(kind, name, apiVersion=_POLICIES, spec=spec))
        await eventually(at_work)
        await pair.virtual.patch(
            "pods", "web", namespace, {"metadata": {"labels": {"app": "changed"}}}
        )
        event = await told(pair.virtual, namespace, "web", "frozen by")
        assert where not in event["message"]
        debug = {"name": "debug", "image": "busybox"}
        own = {"type": gate, "status": "True"}
        for part, change in (
            ("ephemeralcontainers", {"spec": {"ephemeralContainers": [debug]}}),
            ("status", {"status": {"conditions": [own]}}),
        ):
            await pair.virtual.patch(
                "pods", "web", namespace, change, kind="strategic", subresource=part
            )
        await eventually(ready)
    finally:
        for resource in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            await pair.host.delete(f"{_POLICIES}/{resource}", name)

    async def arrived() -> None:
        copy = await pair.copy("pods", "web", namespace)
        assert copy["metadata"]["labels"].get(pair.names.label_key("app")) == "changed"

    await eventually(arrived, timeout=60)


async def test_a_secret_of_the_tenant_named_like_a_pods_token_secret_is_kept_apart(
    pair: Pair, namespace: str
) -> None:
    """Whoever has the host name first keeps it; the other is told, and nothing is mixed."""
    mine = secret("web-sa-token", namespace, {"mine": "1"})
    await pair.virtual.create(mine)
    uses = [{"secretRef": {"name": "web-sa-token"}}]
    main = {"name": "main", "image": "nginx", "envFrom": uses}
    await pair.virtual.create(pod("user", namespace, containers=[main]))
    await in_phase(pair, "user", namespace)
    before = await eventually(lambda: pair.copy("secrets", "web-sa-token", namespace))
    await pair.virtual.create(pod("web", namespace))
    await told(pair.virtual, namespace, "web", "rename the pod, or the Secret web-sa-token")
    assert await pair.copy("secrets", "web-sa-token", namespace) == before
    # the other way round: the token is there first
    await pair.virtual.create(pod("api", namespace))
    await in_phase(pair, "api", namespace)
    token = await pair.copy("secrets", "api-sa-token", namespace)
    await pair.virtual.create(secret("api-sa-token", namespace, {"mine": "2"}))
    uses[0]["secretRef"]["name"] = "api-sa-token"
    await pair.virtual.create(pod("second", namespace, containers=[main]))
    await told(pair.virtual, namespace, "api-sa-token", "conflict")
    assert await pair.copy("secrets", "api-sa-token", namespace) == token
