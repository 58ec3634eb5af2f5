"""What comes back: node, status and conditions, in the tenant's terms; nothing of the host's."""

from __future__ import annotations

from typing import Any

import pytest

from mappers.pods import KIND, keeping_nodes, nodes, virtual
from mappers.pods.virtual import BUILT, DROPPED, KEPT, PASSED
from syncer.objects import Object
from syncer.types import Blocked, Gone, OnHostGone
from tests.unit.mappers.pods.support import back, copy, host_name, on_host, pod

NODE = {
    "metadata": {"name": "node-1"},
    "status": {
        "addresses": [
            {"type": "Hostname", "address": "node-1.nodes"},
            {"type": "InternalIP", "address": "10.96.7.7"},
        ]
    },
}


def _condition(kind: str, status: str = "True", when: str = "2026-01-01", **rest: Any) -> Object:
    return {"type": kind, "status": status, "lastTransitionTime": when, **rest}


RUNNING: Object = {
    "phase": "Running",
    "qosClass": "Burstable",
    "startTime": "2026-01-01",
    "hostIP": "192.168.1.1",
    "hostIPs": [{"ip": "192.168.1.1"}],
    "podIP": "10.1.0.1",
    "podIPs": [{"ip": "10.1.0.1"}],
    "conditions": [_condition("Ready"), _condition("PodScheduled")],
    "containerStatuses": [{"name": "main", "image": "nginx", "ready": True}],
}


def _host(status: Object | None = None, spec: Object | None = None, **given: Any) -> Object:
    host = on_host(pod(given.pop("virtual", None)))
    host["spec"] |= {"nodeName": "node-1", **(spec or {})}
    host["status"] = copy(RUNNING | (status or {}))
    host["metadata"].update(given)
    return host


def _status(host: Object, before: Object | None = None, **rest: Any) -> Object:
    source = rest.pop("virtual", None) or pod({"nodeName": "node-1"}, before)
    answer = back(source, host, rest.pop("node", NODE), **rest)
    assert isinstance(answer, dict), answer
    result: Object = answer["status"]
    return result


def test_nothing_changes_on_an_unchanged_pair() -> None:
    """The status that was brought back once is wanted again as it is."""
    host = _host()
    first = back(pod({"nodeName": "node-1"}), host, NODE)
    assert back(copy(first), host, NODE) == first


def test_a_binding_says_itself_that_the_pod_is_scheduled() -> None:
    """A host pod that is scheduled and no more needs no status written beside the Binding."""
    before = {"phase": "Pending", "qosClass": "Burstable"}
    host = _host()
    host["status"] = {**before, "conditions": [_condition("PodScheduled")]}
    answer = back(pod(status=before), host, NODE)
    assert (answer["spec"]["nodeName"], answer["status"]) == ("node-1", before)
    host["status"]["phase"] = "Running"
    assert back(pod(status=before), host, NODE)["status"]["phase"] == "Running"


def test_times_of_conditions_are_no_change() -> None:
    """A condition that differs in its times only stays as the virtual pod has it."""
    before = {"conditions": [_condition("Ready", when="2020"), _condition("PodScheduled")]}
    assert _status(_host(), before)["conditions"] == before["conditions"]


def test_status_comes_back_without_host_addresses() -> None:
    """All of the status comes back, with the virtual Node's address and the own QoS class."""
    assert _status(_host()) == {
        **RUNNING,
        "qosClass": "BestEffort",
        "hostIP": "10.96.7.7",
        "hostIPs": [{"ip": "10.96.7.7"}],
    }


@pytest.mark.parametrize(
    "node",
    [None, {"metadata": {"name": "node-1"}, "status": {"addresses": []}}],
    ids=["no node", "no address"],
)
def test_the_hosts_address_is_never_shown(node: Object | None) -> None:
    """A pod whose Node has no address of its own has none either, and loses the host's."""
    had = {"hostIP": "192.168.1.1", "hostIPs": [{"ip": "192.168.1.1"}]}
    status = _status(_host(), had, node=node)
    assert "hostIP" not in status
    assert "hostIPs" not in status


@pytest.mark.parametrize("field", [*sorted(DROPPED), "nominatedNodeName", "fieldOfTomorrow"])
def test_field_does_not_come_back(field: str) -> None:
    """What speaks of the host's objects, or is unknown, stays there."""
    assert field not in _status(_host({field: [{"name": "x"}]}))


def test_own_fields_are_kept() -> None:
    """What the virtual cluster's own scheduler wrote stays."""
    assert _status(_host(), {"nominatedNodeName": "n"})["nominatedNodeName"] == "n"


def test_status_lists_are_disjoint() -> None:
    """Each field of a status has exactly one fate."""
    lists = [PASSED, BUILT, KEPT, DROPPED]
    assert sum(map(len, lists)) == len(frozenset().union(*lists))


# -- node ----------------------------------------------------------------------------------------


def test_binding_waits_for_the_node() -> None:
    """A pod is not put on a node that the virtual cluster doesn't have."""
    answer = back(pod(), _host(), None)
    assert isinstance(answer, Blocked)
    assert answer.on is not None
    assert answer.on.key.name == "node-1"


def test_pod_is_bound_by_its_uid() -> None:
    """The Binding names the node and holds for this very pod only."""
    source = pod()
    answer = back(source, _host(), NODE)
    assert answer["spec"] == {**source["spec"], "nodeName": "node-1"}
    assert virtual.binding(source, answer) == {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "web", "namespace": "shop", "uid": "virtual-uid"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node-1"},
    }


def test_pod_on_another_node_is_gone() -> None:
    """A virtual pod can't move; one that claims another node is given up."""
    assert isinstance(back(pod({"nodeName": "other"}), _host(), NODE), Gone)


def test_unscheduled_pod_has_only_its_status() -> None:
    """Before the host has placed the pod its conditions come back, and no node."""
    host = _host()
    del host["spec"]["nodeName"]
    assert "nodeName" not in back(pod(), host)["spec"]


# -- containers ----------------------------------------------------------------------------------


def test_only_own_containers_are_shown() -> None:
    """Injected sidecars and our init container don't appear, in any of the three lists."""
    spec = {
        "nodeName": "node-1",
        "initContainers": [{"name": "init"}],
        "ephemeralContainers": [{"name": "debug"}],
    }
    host = _host(
        {
            "initContainerStatuses": [{"name": "vcluster-rewrite-hosts"}, {"name": "init"}],
            "containerStatuses": [{"name": "main"}, {"name": "injected"}],
            "ephemeralContainerStatuses": [{"name": "debug"}, {"name": "of-the-host"}],
        }
    )
    status = _status(host, virtual=pod(spec))
    shown = {
        field: [item["name"] for item in status[field]]
        for field in status
        if field.endswith("ontainerStatuses")
    }
    assert shown == {
        "initContainerStatuses": ["init"],
        "containerStatuses": ["main"],
        "ephemeralContainerStatuses": ["debug"],
    }


def test_mounts_of_the_host_are_not_shown() -> None:
    """Mounts of volumes that the virtual pod doesn't have are left out."""
    mounts = [{"name": "data", "mountPath": "/d"}, {"name": "vcluster-rewrite-hosts"}]
    host = _host({"containerStatuses": [{"name": "main", "volumeMounts": mounts}]})
    source = pod({"nodeName": "node-1", "volumes": [{"name": "data", "emptyDir": {}}]})
    assert _status(host, virtual=source)["containerStatuses"][0]["volumeMounts"] == mounts[:1]


def test_translated_image_reads_as_asked_for() -> None:
    """The tenant reads the image it asked for, not what it is mapped to."""
    host = _host({"containerStatuses": [{"name": "main", "image": "mirror/nginx"}]})
    status = _status(host, translate_image={"nginx": "mirror/nginx"})
    assert status["containerStatuses"][0]["image"] == "nginx"


def test_resize_comes_back() -> None:
    """What the node granted is told."""
    resources = {"requests": {"cpu": "2"}}
    shown = {"name": "main", "resources": resources, "allocatedResources": {"cpu": "2"}}
    status = _status(_host({"containerStatuses": [shown], "resize": "InProgress"}))
    assert status["containerStatuses"] == [shown]
    assert status["resize"] == "InProgress"


OF_1_36: Object = {
    "allocatedResourcesStatus": [],
    "user": {},
    "resources": {},
    "allocatedResources": {},
}


@pytest.mark.parametrize(
    ("version", "status", "container"),
    [
        ("", {"resources", "allocatedResources", "observedGeneration"}, OF_1_36.keys()),
        ("v0.0.0-master", {"resources", "allocatedResources", "observedGeneration"}, OF_1_36),
        ("v1.36.3", {"resources", "allocatedResources", "observedGeneration"}, OF_1_36),
        ("v1.35.0+k3s1", {"observedGeneration"}, {"user", "resources", "allocatedResources"}),
        ("v1.33.9", set(), {"user", "resources", "allocatedResources"}),
        ("v1.32.1", set(), set()),
    ],
)
def test_an_older_server_is_sent_what_it_keeps(version: str, status: Any, container: Any) -> None:
    """Fields that the virtual server would drop are no difference to write again and again."""
    fields = {"resources": {}, "allocatedResources": {}, "observedGeneration": 1}
    conditions = [_condition("Ready", observedGeneration=1)]
    shown = [{"name": "main", **OF_1_36}]
    made = _status(
        _host({**fields, "conditions": conditions, "containerStatuses": shown}),
        server_version=version,
    )
    assert made.keys() & fields.keys() == status
    assert made["containerStatuses"][0].keys() - {"name"} == set(container)
    assert ("observedGeneration" in made["conditions"][0]) is ("observedGeneration" in status)


@pytest.mark.parametrize("where", ["message", "condition", "waiting", "not started"])
def test_messages_are_in_the_tenants_names(where: str) -> None:
    """Messages of the host's components name the tenant's objects."""
    name, secret = host_name("web"), host_name("token")
    text = f'secret "{secret}" not found for pod={name}_host-ns(host-uid)'
    changes: dict[str, Object] = {
        "message": {"message": text},
        "condition": {"conditions": [_condition("Ready", "False", message=text)]},
        "waiting": {
            "containerStatuses": [{"name": "main", "state": {"waiting": {"message": text}}}]
        },
        "not started": {
            "containerStatuses": [
                {
                    "name": "main",
                    "lastState": {"terminated": {"reason": "StartError", "message": text}},
                }
            ]
        },
    }
    shown = str(_status(_host(changes[where])))
    assert "host-ns" not in shown
    assert "host-uid" not in shown
    assert "-x-" not in shown
    assert 'secret "token" not found for pod=web_shop(virtual-uid)' in shown


def test_termination_message_is_the_containers_own() -> None:
    """What a container wrote itself is not touched."""
    text = f"{host_name('web')} in host-ns"
    state = {"terminated": {"exitCode": 1, "message": text}}
    host = _host({"containerStatuses": [{"name": "main", "state": state}]})
    assert _status(host)["containerStatuses"][0]["state"] == state


# -- conditions and generations ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "before", "expected"),
    [
        ([_condition("Ready")], [], ["Ready"]),
        ([_condition("host.io/gate")], [], []),
        ([_condition("Ready")], [_condition("tenant.io/x")], ["Ready", "tenant.io/x"]),
        ([_condition("tenant.io/x")], [_condition("tenant.io/x", "False")], ["tenant.io/x"]),
        ([_condition("Ready")], [_condition("PodResizePending")], ["Ready"]),
        ([_condition("Ready")], [_condition("DisruptionTarget")], ["Ready", "DisruptionTarget"]),
    ],
    ids=["core", "host's own", "tenant's own", "tenant's in both", "stale", "virtual eviction"],
)
def test_conditions_are_merged(host: Any, before: Any, expected: list[str]) -> None:
    """Core conditions are the host's, others the tenant's; nobody's are lost or copied."""
    merged = _status(_host({"conditions": host}), {"conditions": before}).get("conditions", [])
    assert [condition["type"] for condition in merged] == expected
    for condition in merged:
        if condition["type"] == "tenant.io/x" and before[0]["status"] == "False":
            assert condition["status"] == "False"


@pytest.mark.parametrize(
    ("observed", "before", "expected"),
    [(None, None, None), (None, 3, 3), (5, None, 7), (5, 3, 7), (4, None, None), (4, 3, 3)],
    ids=["unknown", "kept", "newest", "newest again", "older", "older stays behind"],
)
def test_generations_are_translated(
    observed: int | None, before: int | None, expected: int | None
) -> None:
    """Observed generations are the virtual pod's, in the status and in each condition."""
    seen: Object = {} if observed is None else {"observedGeneration": observed}
    had: Object = {} if before is None else {"observedGeneration": before}
    host = _host({"conditions": [_condition("Ready", **seen)], **seen}, generation=5)
    source = pod(
        {"nodeName": "node-1"}, {"conditions": [_condition("Ready", **had)], **had}, generation=7
    )
    status = _status(host, virtual=source)
    assert status.get("observedGeneration") == expected
    assert status["conditions"][0].get("observedGeneration") == expected


def test_old_server_gets_no_generation() -> None:
    """A virtual API server that has no generation of pods is sent none."""
    source = pod({"nodeName": "node-1"})
    del source["metadata"]["generation"]
    assert "observedGeneration" not in _status(_host({"observedGeneration": 1}), virtual=source)


# -- ends and indexes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [({}, OnHostGone.RECREATE), ({"startTime": "2026"}, OnHostGone.DELETE_VIRTUAL)],
    ids=["never started", "started"],
)
def test_vanished_host_pod(status: Object, expected: OnHostGone) -> None:
    """A started pod whose copy vanished is gone; one that never started is made again."""
    assert KIND.on_host_gone(pod(status=status)) is expected


@pytest.mark.parametrize(
    ("owner", "spec", "expected"),
    [
        (None, {}, ([], [])),
        (None, {"nodeName": "n"}, (["n"], ["n"])),
        ("ReplicaSet", {"nodeName": "n"}, (["n"], ["n"])),
        ("DaemonSet", {"nodeName": "n"}, (["n"], [])),
    ],
    ids=["unplaced", "bare", "ReplicaSet", "DaemonSet"],
)
def test_node_indexes(owner: str | None, spec: Object, expected: Any) -> None:
    """Every pod is on its node; copies of a DaemonSet's don't keep it."""
    owners = [{"apiVersion": "apps/v1", "kind": owner, "name": "o", "uid": "u"}] if owner else []
    host = on_host(pod(spec, ownerReferences=owners))
    assert (list(nodes(host)), list(keeping_nodes(host))) == expected


def test_foreign_pod_needs_no_node() -> None:
    """A host pod that is no copy keeps none."""
    assert list(keeping_nodes(pod({"nodeName": "n"}))) == []
