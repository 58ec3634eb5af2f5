"""Changes after creation: what Kubernetes permits is carried, what the host added stays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mappers.pods.metadata import SCHEDULING_GATES
from syncer.objects import Object
from tests.unit.mappers.pods.support import copy, on_host, pod, updated

SIDECAR = {"name": "injected", "image": "sidecar", "resources": {"limits": {"cpu": "1"}}}
GATE = {"conditionType": "tenant.io/ready"}


def _container(**fields: Any) -> Object:
    return {"name": "main", "image": "nginx", **fields}


def _changed(before: Object, after: Object, host: Object | None = None) -> tuple[Object, Object]:
    """Give the host pod before and after the virtual one changed."""
    base = on_host(pod(before))
    for key, value in (host or {}).items():
        base["spec"][key] = value
    return base, updated(pod(after), copy(base))


def _toleration(key: str, seconds: int | None = None) -> Object:
    base = {"key": key, "operator": "Exists", "effect": "NoExecute"}
    return base if seconds is None else {**base, "tolerationSeconds": seconds}


GATED: Object = {"schedulingGates": [{"name": "tenant.io/wait"}]}
IN_A, IN_B, IN_C = (
    {"key": "zone", "operator": "NotIn", "values": [value]} for value in ("a", "b", "c")
)


def _node_affinity(terms: list[list[Object]]) -> Object:
    """Give an ``affinity`` whose required node selector has these terms."""
    required = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def _preferred(*demands: Object) -> Object:
    """Give an ``affinity`` that prefers nodes."""
    terms = [{"weight": 1, "preference": {"matchExpressions": [demand]}} for demand in demands]
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}


FULL = {
    "activeDeadlineSeconds": 60,
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "schedulingGates": [{"name": "tenant.io/wait"}],
    "readinessGates": [GATE],
    "resources": {"limits": {"cpu": "2"}},
    "initContainers": [{"name": "init", "image": "i"}],
    "containers": [_container(resources={"requests": {"cpu": "1"}})],
    "subdomain": "db",
    "volumes": [
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        {"name": "l", "hostPath": {"path": "/var/log"}},
    ],
}

NOOPS: dict[str, tuple[Object, Object]] = {
    "plain": ({}, {}),
    "full": (FULL, {}),
    "cluster dns": ({"dnsPolicy": "ClusterFirst"}, {}),
    "injected sidecar": ({}, {"containers": [_container(), SIDECAR]}),
    "host's tolerations": ({}, {"tolerations": [{"key": "host", "operator": "Exists"}]}),
    "host's gate": ({}, {"schedulingGates": [{"name": "host.io/quota"}]}),
    "host's default resources": (
        {},
        {"containers": [_container(resources={"limits": {"cpu": "1"}})]},
    ),
    "host's defaults beside own": (
        {"containers": [_container(resources={"requests": {"cpu": "1"}})]},
        {"containers": [_container(resources={"requests": {"cpu": "1", "memory": "1Gi"}})]},
    ),
    "host's shorter deadline": ({"activeDeadlineSeconds": 60}, {"activeDeadlineSeconds": 30}),
    "same toleration twice, beside the host's": (
        {"tolerations": [_toleration("t", 3), _toleration("t", 9)]},
        {"tolerations": [_toleration("t", 3), _toleration("t", 9), _toleration("h")]},
    ),
    "gated, with the host's demands on nodes": (
        {**GATED, "nodeSelector": {"a": "1"}, "affinity": _node_affinity([[IN_A], [IN_B]])},
        {
            "nodeSelector": {"a": "1", "host": "1"},
            "affinity": _node_affinity([[IN_A, IN_C], [IN_B]]),
        },
    ),
    "demands on nodes without a gate": (
        {"nodeSelector": {"a": "1"}, "affinity": _node_affinity([[IN_A]])},
        {"nodeSelector": {}, "affinity": {}},
    ),
    "host's node": ({}, {"nodeName": "node-1", "priority": 7, "preemptionPolicy": "Never"}),
}


@pytest.mark.parametrize(("spec", "host"), NOOPS.values(), ids=NOOPS.keys())
def test_nothing_changes_on_an_unchanged_pair(spec: Object, host: Object) -> None:
    """After the creation, and beside what the host added, there is nothing to write."""
    before, after = _changed(spec, spec, host)
    assert after == before


@pytest.mark.parametrize(
    ("present", "asked", "expected"),
    [
        ({}, _node_affinity([[IN_A]]), _node_affinity([[IN_A]])),
        (_node_affinity([[IN_A]]), _node_affinity([[IN_A, IN_B]]), _node_affinity([[IN_A, IN_B]])),
        (_node_affinity([[IN_A]]), _node_affinity([[IN_A], [IN_B]]), _node_affinity([[IN_A]])),
        ({}, _preferred(IN_A), _preferred(IN_A)),
        (_preferred(IN_A), _preferred(IN_A, IN_B), _preferred(IN_A, IN_B)),
        (_node_affinity([[IN_A]]), {}, _node_affinity([[IN_A]])),
    ],
    ids=["first", "one more", "other terms never", "preferred", "preferred more", "none removed"],
)
def test_a_gated_pod_is_directed(present: Object, asked: Object, expected: Object) -> None:
    """What the tenant demands of nodes before it opens the gate holds on the host."""
    pods: Object = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    before = {**GATED, "nodeSelector": {"a": "1"}, "affinity": present | pods}
    after = {"nodeSelector": {"a": "1", "b": "2"}, "affinity": asked | pods}
    made = _changed(before, after)[1]["spec"]
    assert made["nodeSelector"] == {"a": "1", "b": "2"}
    assert made["affinity"].get("nodeAffinity") == expected.get("nodeAffinity")
    assert "podAntiAffinity" in made["affinity"]
    assert "schedulingGates" not in made


@given(
    spec=st.fixed_dictionaries(
        {},
        optional={
            "activeDeadlineSeconds": st.integers(1, 9),
            "tolerations": st.lists(
                st.fixed_dictionaries({"key": st.sampled_from("ab"), "operator": st.just("Exists")})
            ),
            "schedulingGates": st.lists(st.sampled_from("xyz"), unique=True, max_size=3).map(
                lambda names: [{"name": name} for name in names]
            ),
            "dnsPolicy": st.sampled_from(["Default", "ClusterFirst", "None"]),
            "subdomain": st.sampled_from(["db"]),
            "hostNetwork": st.booleans(),
            "enableServiceLinks": st.booleans(),
        },
    )
)
@settings(max_examples=50)
def test_update_after_creation_is_a_noop(spec: Object) -> None:
    """Whatever a pod asks for, its update right after its creation writes nothing."""
    tolerations = spec.get("tolerations", [])
    spec["tolerations"] = [t for i, t in enumerate(tolerations) if t not in tolerations[:i]]
    before, after = _changed(spec, spec)
    for pod_ in (before, after):
        pod_["spec"].pop("tolerations", None) if not spec["tolerations"] else None
    assert after == before


@pytest.mark.parametrize("containers", ["containers", "initContainers"])
def test_image_follows_by_name(containers: str) -> None:
    """An image changes in the container of that name; a sidecar before it stays."""
    given_spec = {containers: [_container()]}
    host = {containers: [SIDECAR, _container()]}
    _, after = _changed(given_spec, {containers: [_container(image="new")]}, host)
    assert [c["image"] for c in after["spec"][containers]] == ["sidecar", "new"]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {"activeDeadlineSeconds": 60}, 60),
        ({"activeDeadlineSeconds": 60}, {"activeDeadlineSeconds": 30}, 30),
        ({"activeDeadlineSeconds": 30}, {"activeDeadlineSeconds": 60}, 30),
    ],
    ids=["set", "shortened", "never grows"],
)
def test_deadline(before: Object, after: Object, expected: int) -> None:
    """A deadline may be set and shortened, as on any API server."""
    assert _changed(before, after)[1]["spec"]["activeDeadlineSeconds"] == expected


@pytest.mark.parametrize(
    ("host", "after", "expected"),
    [
        ([_toleration("h")], [], [_toleration("h")]),
        ([_toleration("h")], [_toleration("t")], [_toleration("h"), _toleration("t")]),
        ([_toleration("h"), _toleration("t")], [_toleration("t", 9)], None),
    ],
    ids=["none removed", "added", "seconds follow"],
)
def test_tolerations_are_added_only(host: Any, after: Any, expected: Any) -> None:
    """Tolerations are host's and tenant's together; only their seconds may change."""
    made = _changed({}, {"tolerations": after}, {"tolerations": host})[1]["spec"]["tolerations"]
    assert made == (expected or [_toleration("h"), _toleration("t", 9)])


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (["a", "b"], ["host.io/quota", "a", "b"]),
        (["b"], ["host.io/quota", "b"]),
        ([], ["host.io/quota"]),
    ],
)
def test_only_own_gates_are_removed(left: list[str], expected: list[str]) -> None:
    """A gate goes when the tenant, whose it was, removed it; the host's stay."""
    gates = [{"name": name} for name in ("a", "b")]
    host_gates = [{"name": name} for name in ("host.io/quota", "a", "b")]
    before, after = _changed(
        {"schedulingGates": gates},
        {"schedulingGates": [{"name": name} for name in left]},
        {"schedulingGates": host_gates},
    )
    assert [gate["name"] for gate in after["spec"]["schedulingGates"]] == expected
    record = after["metadata"]["annotations"][SCHEDULING_GATES]
    assert record == before["metadata"]["annotations"][SCHEDULING_GATES] == "a,b"


def test_last_gate_removes_the_field() -> None:
    """A pod without gates has no such field."""
    spec = {"schedulingGates": [{"name": "a"}]}
    assert "schedulingGates" not in _changed(spec, {})[1]["spec"]


def test_every_ephemeral_container_is_added() -> None:
    """All that the host lacks are appended with their target; those there stay."""
    present = [{"name": "host-debug", "image": "x"}]
    asked = [{"name": n, "image": "sh", "targetContainerName": "main"} for n in ("one", "two")]
    _, after = _changed({}, {"ephemeralContainers": asked}, {"ephemeralContainers": present})
    made = after["spec"]["ephemeralContainers"]
    assert [item["name"] for item in made] == ["host-debug", "one", "two"]
    assert {item["targetContainerName"] for item in made[1:]} == {"main"}
    assert updated(pod({"ephemeralContainers": asked}), copy(after)) == after


@pytest.mark.parametrize("place", ["containers", "initContainers", "pod"])
def test_resize_follows_the_tenant(place: str) -> None:
    """Cpu and memory that the tenant set follow; what the host set beside them stays."""
    old = {"requests": {"cpu": "1", "example.com/gpu": "1"}}
    new = {"requests": {"cpu": "2", "example.com/gpu": "2"}, "limits": {"memory": "1Gi"}}
    on_it = {"requests": {**old["requests"], "memory": "9"}}

    def spec(resources: Object) -> Object:
        if place == "pod":
            return {"resources": resources}
        return {place: [_container(resources=resources)]}

    after = _changed(spec(old), spec(new), spec(on_it))[1]["spec"]
    made = after["resources"] if place == "pod" else after[place][0]["resources"]
    assert made == {
        "requests": {"cpu": "2", "example.com/gpu": "1", "memory": "9"},
        "limits": {"memory": "1Gi"},
    }


def test_pod_resources_that_the_host_dropped_stay_dropped() -> None:
    """A host older than pod-level resources is not asked for them again and again."""
    virtual = pod({"resources": {"limits": {"cpu": "2"}}})
    host = on_host(virtual)
    del host["spec"]["resources"]
    assert updated(virtual, copy(host)) == host


def _condition(kind: str, status: str = "True", **fields: Any) -> Object:
    return {"type": kind, "status": status, **fields}


@pytest.mark.parametrize(
    ("virtual", "host", "expected"),
    [
        ([], [_condition("Ready")], [_condition("Ready")]),
        ([_condition("Ready", "False")], [_condition("Ready")], [_condition("Ready")]),
        (
            [_condition("tenant.io/ready", observedGeneration=3)],
            [_condition("Ready")],
            [_condition("Ready"), _condition("tenant.io/ready")],
        ),
        (
            [_condition("tenant.io/ready", lastTransitionTime="2026")],
            [_condition("tenant.io/ready", lastTransitionTime="2025")],
            [_condition("tenant.io/ready", lastTransitionTime="2025")],
        ),
        (
            [],
            [_condition("tenant.io/ready"), _condition("host.io/ready")],
            [_condition("host.io/ready")],
        ),
    ],
    ids=["none", "core ones are the host's", "own added", "times only", "own gate withdrawn"],
)
def test_own_conditions_go_to_the_host(virtual: Any, host: Any, expected: Any) -> None:
    """The tenant's conditions reach the host's kubelet; core ones and the host's own stay."""
    spec = {"readinessGates": [GATE]}
    base = on_host(pod(spec))
    base["status"]["conditions"] = host
    after = updated(pod(spec, {"conditions": virtual}), base)
    assert after["status"]["conditions"] == expected


def test_labels_and_annotations_follow() -> None:
    """New labels reach the host with the annotation that the downward API shows."""
    base = on_host(pod())
    after = updated(pod(labels={"app": "new"}), base)
    assert "new" in after["metadata"]["labels"].values()
    assert after["metadata"]["annotations"]["vcluster.loft.sh/labels"] == 'app="new"'
