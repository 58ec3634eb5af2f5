"""A kubelet's stats summary reaches the tenant with its own pods only, in its own terms."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer.objects import Key, Object
from syncer.proxy import stats
from syncer.proxy.node_metrics import HostAnswerError, PodView

HOST = "tenants-7"
HOST_UID = "0f1e2d3c-4b5a-4697-8877-665544332211"
UID = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
HOST_POD = "web-x-default-x-vc"
HOST_CLAIM = "data-x-default-x-vc"
TIME = "2026-11-21T10:00:00Z"
WEB = PodView(
    "default", "web", UID, HOST_UID, frozenset({"app"}), frozenset({"data", "cache", "gone"})
)


class World:
    """One pod and one claim are the tenant's."""

    def pod(self, namespace: str, name: str) -> PodView | None:
        """Give the tenant's pod."""
        return WEB if (namespace, name) == (HOST, HOST_POD) else None

    def claim(self, namespace: str, name: str) -> Key | None:
        """Give the tenant's claim."""
        return Key("default", "data") if (namespace, name) == (HOST, HOST_CLAIM) else None


def translated(answer: Any) -> Object:
    result: Object = orjson.loads(stats.summary(orjson.dumps(answer), World()))
    return result


FS = {"time": TIME, "availableBytes": 1, "capacityBytes": 2**63, "inodes": 5}
CPU = {
    "time": TIME,
    "usageNanoCores": 7,
    "psi": {
        "full": {"total": 0, "avg10": 0.5, "avg60": 0, "avg300": 0},
        "some": {"total": 1, "avg10": 0, "avg60": 0, "avg300": 0},
    },
}
APP = {"name": "app", "startTime": TIME, "cpu": CPU, "rootfs": FS, "logs": FS}
NODE = {
    "nodeName": "host-node-1",
    "systemContainers": [{"name": "kubelet", "startTime": TIME, "cpu": CPU}],
    "startTime": TIME,
    "cpu": CPU,
    "fs": FS,
    "runtime": {"imageFs": FS, "containerFs": FS},
    "rlimit": {"time": TIME, "maxpid": 4, "curproc": 2},
    "network": {
        "time": TIME,
        "name": "eth0",
        "rxBytes": 1,
        "interfaces": [{"name": "eth0", "rxBytes": 1}],
    },
}


def pod(**changes: Any) -> Object:
    """Give the tenant's pod as its host kubelet describes it."""
    return {
        "podRef": {"name": HOST_POD, "namespace": HOST, "uid": HOST_UID},
        "startTime": TIME,
        "containers": [APP],
        "cpu": CPU,
        "ephemeral-storage": FS,
        "process_stats": {"process_count": 3},
        **changes,
    }


def test_the_node_is_told_of_as_a_whole() -> None:
    """Sums, file systems and the fixed groups of system processes are not changed."""
    assert translated({"node": NODE, "pods": []}) == {"node": NODE, "pods": []}


def test_the_tenants_pod_has_its_virtual_name_and_uid() -> None:
    """Nothing else of its figures changes."""
    expected = pod(podRef={"name": "web", "namespace": "default", "uid": UID})
    assert translated({"node": NODE, "pods": [pod()]})["pods"] == [expected]


@pytest.mark.parametrize(
    "reference",
    [
        {"name": HOST_POD, "namespace": "tenant-b", "uid": HOST_UID},
        {"name": f"{HOST_POD}x", "namespace": HOST, "uid": HOST_UID},
        {"name": "web", "namespace": "default", "uid": UID},
        {"name": HOST_POD, "namespace": HOST, "uid": UID},
        {"name": HOST_POD, "namespace": HOST},
        {},
    ],
    ids=["namesake elsewhere", "other name", "virtual name", "other uid", "no uid", "nothing"],
)
def test_other_pods_are_left_out(reference: Object) -> None:
    """Only name, namespace and UID together make a pod the tenant's."""
    assert translated({"node": NODE, "pods": [pod(podRef=reference)]})["pods"] == []


def test_injected_containers_and_volumes_are_left_out() -> None:
    """What the virtual pod does not have is the host's; it stays in the pod's sums."""
    host = pod(
        containers=[APP, {**APP, "name": "istio-proxy"}],
        volume=[{**FS, "name": "istio-token"}, {**FS, "name": "cache"}],
    )
    [own] = translated({"node": NODE, "pods": [host]})["pods"]
    assert own["containers"] == [APP]
    assert own["volume"] == [{**FS, "name": "cache"}]


def test_claims_have_their_virtual_names() -> None:
    """A volume's claim is the tenant's, under its own name, or is not named."""
    host = pod(
        volume=[
            {
                **FS,
                "name": "data",
                "pvcRef": {"name": HOST_CLAIM, "namespace": HOST},
                "volumeHealthStats": {"abnormal": False},
            },
            {**FS, "name": "gone", "pvcRef": {"name": "other", "namespace": HOST}},
        ]
    )
    [own] = translated({"node": NODE, "pods": [host]})["pods"]
    assert own["volume"] == [
        {
            **FS,
            "name": "data",
            "pvcRef": {"name": "data", "namespace": "default"},
            "volumeHealthStats": {"abnormal": False},
        },
        {**FS, "name": "gone"},
    ]


def test_pods_interfaces_on_the_node_are_left_out() -> None:
    """The host's end of a pod's network counts that pod's bytes."""
    network = {
        "time": TIME,
        "name": "cali0123456789a",
        "rxBytes": 1,
        "interfaces": [{"name": "cali0123456789a", "rxBytes": 1}, {"name": "ens5", "rxBytes": 2}],
    }
    own = translated({"node": {**NODE, "network": network}, "pods": [pod(network=network)]})
    assert own["node"]["network"] == {
        "time": TIME,
        "interfaces": [{"name": "ens5", "rxBytes": 2}],
    }
    assert own["pods"][0]["network"] == network


def test_other_system_containers_are_left_out() -> None:
    """Only the kubelet's own four groups are known to name nothing."""
    systems = [{"name": "tenant-b", "cpu": CPU}, {"name": "pods", "cpu": CPU}]
    node = translated({"node": {**NODE, "systemContainers": systems}, "pods": []})["node"]
    assert node["systemContainers"] == [{"name": "pods", "cpu": CPU}]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"pods":{}}',
        b'{"pods":[5]}',
        b'{"node":"x"}',
        b"\xff",
        b'{"node":{"cpu":{"total":99999999999999999999999}}}',
    ],
)
def test_what_is_no_summary_is_refused(body: bytes) -> None:
    """Nothing of an answer that can't be read is passed on."""
    with pytest.raises(HostAnswerError):
        stats.summary(body, World())


@pytest.mark.parametrize("name", [{"of": "others"}, ["of others"], 5, None])
def test_a_node_has_a_name_or_none(name: Any) -> None:
    """What is no text is no name."""
    node = translated({"node": {"nodeName": name}, "pods": []})["node"]
    assert node == {"nodeName": ""}


SECRET = "secret-of-others"
anything = st.recursive(
    st.sampled_from([SECRET, 5, True, None, 2**64 - 1, f"{TIME} {SECRET}"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["time", "cpu", "name", "uid", "containers", "total", SECRET]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
MEMBERS = [
    "startTime", "cpu", "memory", "network", "fs", "runtime", "systemContainers", "volume",
    "containers", "process_stats", SECRET,
]  # fmt: skip


@given(
    st.dictionaries(st.sampled_from(MEMBERS), anything, max_size=4),
    st.dictionaries(st.sampled_from(MEMBERS), anything, max_size=4),
)
@example({"systemContainers": [{"name": []}]}, {"volume": [{"name": []}], "containers": [5]})
def test_no_word_of_the_host_comes_through_anywhere(node: Object, changes: Object) -> None:
    """Whatever a member holds, only figures, times and the tenant's own names are passed on."""
    body = json.dumps({"node": node, "pods": [pod(**changes)]}).encode()
    text = stats.summary(body, World()).decode()
    assert [word for word in (SECRET, HOST, HOST_POD, HOST_UID) if word in text] == []
