"""Creation of host pods: what is rewritten, dropped, refused and waited for."""

from __future__ import annotations

from typing import Any

import pytest

from mappers.pods import KIND, references
from mappers.pods.fields import BUILT, CONTAINER, DROPPED, PASSED, REFUSED
from syncer.objects import Key, Resource, Side
from syncer.types import Blocked, Notice, Refused
from tests.unit.mappers.pods.support import (
    DNS,
    DNS_IP,
    KUBERNETES_IP,
    NAMES,
    NAMESPACE,
    answer,
    context,
    host_name,
    pod,
    ref,
    service,
    wanted,
)

PREFIX = "vcluster.loft.sh/"
SEARCHES = [f"{NAMESPACE}.svc.cluster.local", "svc.cluster.local", "cluster.local"]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"securityContext": {"runAsUser": 7, "seLinuxOptions": {"level": "s0"}}}),
        pytest.param({"runtimeClassName": "gvisor"}),
        pytest.param({"schedulerName": "other"}),
        pytest.param({"overhead": {"cpu": "1m"}}),
        pytest.param({"readinessGates": [{"conditionType": "a/b"}]}),
        pytest.param({"os": {"name": "linux"}}),
        pytest.param({"hostUsers": False}),
        pytest.param({"terminationGracePeriodSeconds": 5}),
        pytest.param({"shareProcessNamespace": True}),
        pytest.param({"nodeName": "node-1"}),
        pytest.param({"hostname": "own"}),
        pytest.param({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}}),
        pytest.param({"affinity": {"nodeAffinity": {"required": 1}}}),
        pytest.param({"tolerations": [{"operator": "Exists"}]}),
        pytest.param({"resources": {"limits": {"cpu": "1"}}}),
    ],
    ids=lambda spec: next(iter(spec)),
)
def test_field_passes_unchanged(spec: dict[str, Any]) -> None:
    """What the tenant may choose on the host crosses as it is."""
    made = wanted(pod(spec))["spec"]
    assert {key: made.get(key) for key in spec} == spec


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"serviceAccount": "x"}, "serviceAccount"),
        ({"subdomain": "db"}, "subdomain"),
        ({"priority": 7}, "priority"),
        ({"priorityClassName": "high"}, "priorityClassName"),
        ({"preemptionPolicy": "Never"}, "preemptionPolicy"),
        ({"schedulingGroup": {"podGroupName": "g"}}, "schedulingGroup"),
        ({"serviceAccountName": "robot"}, "serviceAccountName"),
        ({"ephemeralContainers": [{"name": "debug", "image": "sh"}]}, "ephemeralContainers"),
        ({"brandNewField": {"secretName": "x"}}, "brandNewField"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_field_is_not_sent_at_creation(spec: dict[str, Any], field: str) -> None:
    """What the host computes itself, names objects of the tenant, or is unknown stays behind."""
    assert field not in wanted(pod(spec, priority=0))["spec"]


def test_unknown_container_field_is_not_sent() -> None:
    """A container field of a newer Kubernetes is decided on before it crosses."""
    made = wanted(pod({"containers": [{"name": "main", "image": "a", "newField": 1}]}))
    assert "newField" not in made["spec"]["containers"][0]


def test_field_lists_are_disjoint() -> None:
    """Each field of a spec has exactly one fate."""
    lists = [PASSED, BUILT, DROPPED, REFUSED]
    assert sum(map(len, lists)) == len(frozenset().union(*lists))
    assert "volumeMounts" in CONTAINER


def test_host_defaults_are_ours() -> None:
    """No host pod gets the host's token or its service variables, whatever the tenant wrote."""
    made = wanted(pod({"automountServiceAccountToken": True, "enableServiceLinks": True}))["spec"]
    assert made["automountServiceAccountToken"] is False
    assert made["enableServiceLinks"] is False


@pytest.mark.parametrize(
    ("settings", "synced", "expected"),
    [
        ({}, {}, None),
        ({"service_account": "workload"}, {}, "workload"),
        (
            {"service_account": "workload"},
            {"ServiceAccount": Resource("", "v1", "serviceaccounts", "ServiceAccount")},
            host_name("default"),
        ),
    ],
    ids=["host's default", "flag", "tenant's own when synced"],
)
def test_service_account(settings: Any, synced: Any, expected: str | None) -> None:
    """Host pods run as the configured account, or as the copy of the tenant's."""
    made = wanted(pod(), synced=synced, **settings)["spec"]
    assert made.get("serviceAccountName") == expected


def test_cleared_priority_class_is_told_once() -> None:
    """A priority class that doesn't cross is told with the flag to turn on, at creation only."""
    virtual = pod({"priorityClassName": "high"})
    creating, present = context(virtual), context(virtual, pod())
    assert KIND.to_host is not None
    KIND.to_host(virtual, creating)
    KIND.to_host(virtual, present)
    assert creating.notices == [
        Notice(
            "SyncWarning",
            "priorityClassName 'high' is not carried to the host: turn on --sync=priorityclasses",
        )
    ]
    assert present.notices == []


def test_synced_priority_class_is_translated() -> None:
    """With priority classes synced the pod names the copy of its class."""
    synced = {"PriorityClass": Resource("scheduling.k8s.io", "v1", "priorityclasses", "x", False)}
    made = wanted(pod({"priorityClassName": "high", "preemptionPolicy": "Never"}), synced=synced)
    assert made["spec"]["priorityClassName"] == NAMES.host_name_cluster("high")
    assert made["spec"]["preemptionPolicy"] == "Never"


# -- refusals and waits --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ({"resourceClaims": [{"name": "gpu"}]}, "resourceClaims"),
        ({"volumes": [{"name": "v", "newDriver": {"secret": "x"}}]}, "newDriver"),
        (
            {"volumes": [{"name": "v", "projected": {"sources": [{"podCertificate": {}}]}}]},
            "podCertificate",
        ),
        (
            {"volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {}}]}}]},
            "clusterTrustBundle",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_host_identity_is_refused(spec: dict[str, Any], word: str) -> None:
    """A pod that would see the host's identity, or lose a volume's source, is not made."""
    refused = answer(pod(spec))
    assert isinstance(refused, Refused)
    assert word in refused.reason


@pytest.mark.parametrize(
    ("spec", "waits"),
    [
        ({"dnsPolicy": "Default"}, False),
        ({"dnsPolicy": "None"}, False),
        ({"dnsPolicy": "ClusterFirst", "hostNetwork": True}, False),
        ({"dnsPolicy": "ClusterFirst"}, True),
        ({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": True}, True),
    ],
    ids=["Default", "None", "host network", "ClusterFirst", "ClusterFirstWithHostNet"],
)
@pytest.mark.parametrize("dns", [None, service("dns", ""), service("dns", "None")])
def test_only_cluster_dns_waits_for_kube_dns(spec: Any, waits: bool, dns: Any) -> None:
    """Only a pod that resolves through the virtual DNS waits for its IP, and is told so."""
    made = answer(pod(spec), world={DNS: dns})
    assert isinstance(made, Blocked) is waits
    if waits:
        assert made.on == DNS
        assert made.event
        assert "kube-dns" in made.reason


def test_update_waits_for_no_dns() -> None:
    """A pod that is on the host is kept up to date without a DNS Service."""
    assert isinstance(answer(pod({"dnsPolicy": "ClusterFirst"}), pod(), world={DNS: None}), dict)


@pytest.mark.parametrize("missing", ["namespace", "kubernetes"])
def test_waits_for_what_it_needs(missing: str) -> None:
    """Namespace labels and the API server's address must be known."""
    need = {
        "namespace": ref(Side.VIRTUAL, "namespaces", NAMESPACE),
        "kubernetes": ref(Side.VIRTUAL, "services", "kubernetes", "default"),
    }[missing]
    made = answer(pod(), world={need: None})
    assert isinstance(made, Blocked)
    assert made.on == need


@pytest.mark.parametrize(
    ("spec", "nodes", "expected"),
    [
        ({}, [], {"pool": "a"}),
        ({"nodeSelector": {"pool": "infra", "disk": "ssd"}}, [], {"pool": "a", "disk": "ssd"}),
        ({"nodeName": "seen"}, ["seen"], {"pool": "a"}),
        ({"nodeName": "infra"}, ["seen"], None),
    ],
    ids=["added", "wins over the tenant's", "named and visible node", "named infra node"],
)
def test_enforced_node_selector(spec: Any, nodes: list[str], expected: Any) -> None:
    """With an enforced selector no pod leaves the selected nodes, named node or not."""
    world: dict[Any, Any] = {
        ref(Side.VIRTUAL, "nodes", name): {"metadata": {"name": name}} for name in nodes
    }
    made = answer(pod(spec), world=world, node_selector={"pool": "a"})
    if expected is None:
        assert isinstance(made, Blocked)
        assert made.event
    else:
        assert made["spec"]["nodeSelector"] == expected


def test_node_selector_is_left_alone_unless_enforced() -> None:
    """A selector that isn't enforced is the node mirror's alone."""
    made = wanted(pod(), node_selector={"pool": "a"}, enforce_node_selector=False)
    assert "nodeSelector" not in made["spec"]


def test_enforced_tolerations_are_added() -> None:
    """Enforced tolerations come after the tenant's, once."""
    given = [{"key": "x", "operator": "Exists"}]
    made = wanted(pod({"tolerations": given}), enforce_toleration=("x", "gpu:NoSchedule"))
    gpu = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert made["spec"]["tolerations"] == [*given, gpu]


# -- metadata ------------------------------------------------------------------------------------


def test_labels_are_translated_with_those_of_the_namespace() -> None:
    """Labels get keys of the tenant's own; the namespace's come along."""
    assert wanted(pod())["metadata"]["labels"] == {
        NAMES.label_key("app"): "web",
        NAMES.namespace_label_key("team"): "a",
    }


def test_downward_annotations() -> None:
    """The virtual values are on the pod for the downward API to read."""
    found = wanted(pod(labels={"b": "2", "a": "1"}))["metadata"]["annotations"]
    assert found == {
        f"{PREFIX}name": "web",
        f"{PREFIX}namespace": NAMESPACE,
        f"{PREFIX}uid": "virtual-uid",
        f"{PREFIX}service-account-name": "default",
        f"{PREFIX}labels": 'a="1"\nb="2"',
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    }


def test_tenant_inside_tenant_keeps_its_values() -> None:
    """A pod that is itself a copy shows the innermost tenant's name, namespace, UID and labels."""
    inner = {f"{PREFIX}{key}": "inner" for key in ("name", "namespace", "uid", "labels")}
    found = wanted(pod(annotations=inner))["metadata"]["annotations"]
    assert {key: found[key] for key in inner} == inner


@pytest.mark.parametrize(
    "key",
    [
        "object-name",
        "object-namespace",
        "object-uid",
        "managed-annotations",
        "managed-labels",
        "controlled-by",
        "skip-backsync",
        "child-of",
        "owner-set-kind",
        "owner-references",
        "scheduling-gates",
    ],
)
def test_forged_mark_does_not_cross(key: str) -> None:
    """Marks that a tenant writes mean nothing on the host."""
    virtual = pod(annotations={f"{PREFIX}{key}": "forged"}, labels={f"{PREFIX}{key}": "forged"})
    metadata = wanted(virtual)["metadata"]
    assert f"{PREFIX}{key}" not in metadata["annotations"]
    assert f"{PREFIX}{key}" not in metadata["labels"]


def _owner(api_version: str, kind: str, *, controller: bool = True) -> dict[str, Any]:
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": "o",
        "uid": "u",
        "controller": controller,
    }


@pytest.mark.parametrize(
    ("owners", "safe", "set_kind", "daemon"),
    [
        ([], "false", None, None),
        ([_owner("v1", "ConfigMap", controller=False)], "false", None, None),
        ([_owner("apps/v1", "ReplicaSet")], "true", "ReplicaSet", None),
        ([_owner("apps/v1", "DaemonSet")], "true", "DaemonSet", "true"),
        ([_owner("batch/v1", "Job")], "true", None, None),
    ],
    ids=["none", "no controller", "ReplicaSet", "DaemonSet", "Job"],
)
def test_owner_annotations(owners: Any, safe: str, set_kind: Any, daemon: Any) -> None:
    """The autoscaler and fake nodes learn of the owner; the reference itself stays behind."""
    metadata = wanted(pod(ownerReferences=owners))["metadata"]
    found = metadata["annotations"]
    assert found["cluster-autoscaler.kubernetes.io/safe-to-evict"] == safe
    assert found.get("cluster-autoscaler.kubernetes.io/daemonset-pod") == daemon
    assert found.get(f"{PREFIX}owner-set-kind") == set_kind
    assert (f"{PREFIX}owner-references" in found) is bool(owners)
    assert "ownerReferences" not in metadata


def test_own_eviction_choice_is_kept() -> None:
    """What the tenant tells the autoscaler stands."""
    key = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    assert wanted(pod(annotations={key: "false"}))["metadata"]["annotations"][key] == "false"


# -- DNS and names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, {}),
        (
            {"nameservers": ["1.1.1.1"], "searches": ["corp"], "options": [{"name": "edns0"}]},
            {
                "nameservers": [DNS_IP, "1.1.1.1"],
                "searches": [
                    f"{NAMESPACE}.svc.cluster.local",
                    "svc.cluster.local",
                    "cluster.local",
                    "corp",
                ],
                "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}],
            },
        ),
        (
            {"options": [{"name": "ndots", "value": "2"}]},
            {"options": [{"name": "ndots", "value": "2"}]},
        ),
        ({"nameservers": ["1", "2", "3"]}, {"nameservers": [DNS_IP, "1", "2"]}),
        ({"searches": ["cluster.local"]}, {}),
    ],
    ids=["none", "added to", "own ndots wins", "at most three servers", "no repetition"],
)
def test_cluster_first_is_written_out(config: Any, expected: Any) -> None:
    """ClusterFirst becomes the virtual DNS, its search path and the tenant's own additions."""
    spec = {"dnsPolicy": "ClusterFirst"} | ({"dnsConfig": config} if config else {})
    made = wanted(pod(spec))["spec"]
    assert made["dnsPolicy"] == "None"
    assert made["dnsConfig"] == {
        "nameservers": [DNS_IP],
        "searches": SEARCHES,
        "options": [{"name": "ndots", "value": "5"}],
        **expected,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web", "web"),
        ("web.v1", "web-v1"),
        ("a" * 70, "a" * 63),
        ("a" * 61 + ".-b", "a" * 61),
    ],
    ids=["plain", "dots", "long", "ends in dashes"],
)
def test_hostname_defaults_to_the_pod_name(name: str, expected: str) -> None:
    """The host name is the virtual pod's name as a DNS label."""
    assert wanted(pod(name=name))["spec"]["hostname"] == expected


def test_api_server_names_are_aliases() -> None:
    """The API server's names lead to the virtual cluster's, beside the tenant's aliases."""
    own = {"ip": "1.2.3.4", "hostnames": ["own"]}
    assert wanted(pod({"hostAliases": [own]}))["spec"]["hostAliases"] == [
        own,
        {
            "ip": KUBERNETES_IP,
            "hostnames": ["kubernetes", "kubernetes.default", "kubernetes.default.svc"],
        },
    ]


# -- images, host paths --------------------------------------------------------------------------


def test_images_are_translated_exactly() -> None:
    """``--translate-image`` maps whole names, in all containers and image volumes."""
    virtual = pod(
        {
            "initContainers": [{"name": "i", "image": "a"}],
            "containers": [{"name": "m", "image": "a"}, {"name": "n", "image": "a:1"}],
            "volumes": [{"name": "v", "image": {"reference": "a", "pullPolicy": "Always"}}],
        }
    )
    made = wanted(virtual, translate_image={"a": "b"})["spec"]
    assert [c["image"] for c in made["initContainers"] + made["containers"]] == ["b", "b", "a:1"]
    assert made["volumes"][0]["image"] == {"reference": "b", "pullPolicy": "Always"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data", "/data"),
        ("/var/log/app", "/var/log/app"),
        ("/var/log", "/tmp/vcluster/host-ns/vc/log"),
        ("/var/log/", "/tmp/vcluster/host-ns/vc/log"),
        ("//var/log/pods", "/tmp/vcluster/host-ns/vc/log/pods"),
        ("/var/lib/kubelet/pods", "/tmp/vcluster/host-ns/vc/kubelet/pods"),
    ],
)
@pytest.mark.parametrize("physical", [False, True])
def test_host_paths_that_name_pods(path: str, expected: str, physical: bool) -> None:
    """Paths with pod names lead to the tenant's tree; with the flag the real one is beside it."""
    virtual = pod(
        {
            "containers": [
                {"name": "m", "volumeMounts": [{"name": "v", "mountPath": "/x"}]},
                {"name": "n", "volumeMounts": [{"name": "w", "mountPath": "/x"}]},
            ],
            "volumes": [
                {"name": "v", "hostPath": {"path": path}},
                {"name": "w", "emptyDir": {}},
            ],
        }
    )
    made = wanted(virtual, mount_physical_host_paths=physical)["spec"]
    mapped = path != expected
    names = [volume["name"] for volume in made["volumes"]]
    assert made["volumes"][0]["hostPath"]["path"] == expected
    assert ("v-vcluster-physical" in names) is (mapped and physical)
    mounts = made["containers"][0]["volumeMounts"]
    assert (mounts[0].get("mountPropagation") == "HostToContainer") is mapped
    assert len(mounts) == (2 if mapped and physical else 1)
    assert made["containers"][1]["volumeMounts"] == [{"name": "w", "mountPath": "/x"}]


def test_ephemeral_volume_is_its_claim() -> None:
    """A generic ephemeral volume mounts the copy of the claim that the tenant's cluster made."""
    volume = {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {}}}
    virtual = pod({"volumes": [volume]})
    assert wanted(virtual)["spec"]["volumes"] == [
        {
            "name": "scratch",
            "persistentVolumeClaim": {"claimName": host_name("web-scratch")},
        }
    ]
    assert list(references.claims(virtual)) == [str(Key(NAMESPACE, "web-scratch"))]
