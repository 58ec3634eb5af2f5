"""Host events: whose they are, and what of them the tenant reads."""

from typing import Any

import pytest

from mappers.events import KIND, keep
from syncer.engine.plan import Create, Pair
from syncer.naming import Names
from syncer.objects import Key, Side
from syncer.types import Ref, Skip

HOST_POD = "web-x-default-x-vc"
REF = Ref(Side.HOST, "pods", Key("host-ns", HOST_POD))
POD = {
    "metadata": {
        "namespace": "host-ns",
        "name": HOST_POD,
        "uid": "host-uid",
        "labels": {"vcluster.loft.sh/managed-by": "vc"},
        "annotations": {
            "vcluster.loft.sh/object-name": "web",
            "vcluster.loft.sh/object-namespace": "default",
            "vcluster.loft.sh/object-uid": "virtual-uid",
        },
    }
}


def event(**fields: Any) -> dict[str, Any]:
    involved = {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": "host-ns",
        "name": HOST_POD,
        "uid": "host-uid",
        "resourceVersion": "99",
        "fieldPath": "spec.containers{app}",
    }
    return {
        "metadata": {"namespace": "host-ns", "name": f"{HOST_POD}.17abc", "uid": "e1"},
        "involvedObject": involved | fields.pop("involved", {}),
        "reason": "BackOff",
        "message": f"back-off of {HOST_POD}_host-ns(host-uid)",
        "source": {"component": "kubelet", "host": "node-1"},
        "type": "Warning",
        "count": 3,
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:01:00Z",
        "eventTime": None,
        "reportingComponent": "kubelet",
        "reportingInstance": "node-1",
        **fields,
    }


def actions(world: Any, tools: Any, host: Any, virtual: Any = None) -> Any:
    key = Key("host-ns", host["metadata"]["name"])
    copy = tools.copied
    return world.planned(KIND, Pair(key, lambda: copy(virtual), lambda: copy(host), key))


@pytest.fixture
def world(world: Any) -> Any:
    """Give a tenant with one synced pod."""
    world.know(REF, POD)
    return world


@pytest.fixture
def copied_event(world: Any, tools: Any) -> Any:
    """Give the virtual copy of the event, as the virtual server stores it."""
    (create,) = actions(world, tools, event())
    assert isinstance(create, Create)
    create.wanted["metadata"] |= {"uid": "v1", "resourceVersion": "1"}
    return create.wanted


def test_an_event_that_is_there_is_left_alone(world: Any, tools: Any, copied_event: Any) -> None:
    """An unchanged host event writes nothing."""
    assert actions(world, tools, event(), copied_event) == []


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(event(involved={"kind": "ReplicaSet"}), id="kind-that-is-not-synced"),
        pytest.param(event(involved={"apiVersion": "example.com/v1"}), id="same-kind-other-group"),
        pytest.param(event(involved={"name": "other-x-default-x-vc"}), id="object-unknown"),
        pytest.param(event(involved={"uid": "earlier"}), id="its-predecessor"),
        pytest.param(event(involved={"name": ""}), id="no-name"),
    ],
)
def test_other_events_are_not_copied(world: Any, tools: Any, host: Any) -> None:
    """Only events about a copy that is there now, by kind, group, name and UID."""
    assert actions(world, tools, host) == []


def test_the_marks_decide(world: Any, tools: Any) -> None:
    """Threat 11: an event about a namesake without our marks is not copied up."""
    stranger = tools.copied(POD)
    stranger["metadata"]["labels"] = {"vcluster.loft.sh/managed-by": "other"}
    world.know(REF, stranger)
    assert actions(world, tools, event()) == []
    assert KIND.to_virtual is not None
    assert isinstance(KIND.to_virtual({"metadata": {}}, event(), world.ctx()), Skip)


def test_what_the_tenant_reads(copied_event: Any) -> None:
    """Everything in the tenant's names; the resource version of the host's object is dropped."""
    assert copied_event == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "namespace": "default",
            "name": "web.17abc",
            "labels": {"vcluster.loft.sh/managed-by": "vc"},
            "uid": "v1",
            "resourceVersion": "1",
        },
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "default",
            "name": "web",
            "uid": "virtual-uid",
            "fieldPath": "spec.containers{app}",
        },
        "reason": "BackOff",
        "message": "back-off of web_default(virtual-uid)",
        "source": {"component": "kubelet", "host": "node-1"},
        "type": "Warning",
        "count": 3,
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:01:00Z",
        "eventTime": None,
        "reportingComponent": "kubelet",
        "reportingInstance": "node-1",
    }


def test_counts_follow(world: Any, tools: Any, copied_event: Any) -> None:
    """An event that is counted up on the host is the same event in the virtual cluster."""
    later = event(count=4, lastTimestamp="2026-01-01T00:02:00Z")
    (update,) = actions(world, tools, later, copied_event)
    body = {name: value for name, value in update.patch.body.items() if name != "metadata"}
    assert body == {"count": 4, "lastTimestamp": "2026-01-01T00:02:00Z"}


def test_a_host_machine_that_reports_is_not_named(world: Any, tools: Any) -> None:
    """The scheduler's instance is named after a control plane node: threat 27."""
    host = event(
        source={},
        reportingComponent="default-scheduler",
        reportingInstance="default-scheduler-host-cp-1",
    )
    (create,) = actions(world, tools, host)
    assert create.wanted["reportingInstance"] == "default-scheduler"


@pytest.mark.parametrize(
    ("host_name", "name"),
    [
        pytest.param(f"{HOST_POD}.17abc", "web.17abc", id="usual"),
        pytest.param(f"{HOST_POD}-2.17abc", "web.3ee7b1e0cd", id="longer-name"),
        pytest.param("something-else", "web.0bb5e38d96", id="other-scheme"),
    ],
)
def test_names(world: Any, tools: Any, host_name: str, name: str) -> None:
    """The object's name at the start is swapped; any other name is replaced by a digest."""
    host = event(metadata={"namespace": "host-ns", "name": host_name, "uid": "e1"})
    (create,) = actions(world, tools, host)
    made = create.wanted["metadata"]["name"]
    assert made.startswith("web.")
    assert made == name or (HOST_POD not in made and len(made) == len(name))


def test_long_names_stay_names(world: Any, tools: Any) -> None:
    """A virtual object of the longest name there is still gets an event of a legal name."""
    long_name = "a" * 253
    host_name = world.names.host_name(long_name, "default")
    pod = tools.copied(POD)
    pod["metadata"]["name"] = host_name
    pod["metadata"]["annotations"]["vcluster.loft.sh/object-name"] = long_name
    world.know(Ref(Side.HOST, "pods", Key("host-ns", host_name)), pod)
    host = event(
        involved={"name": host_name},
        metadata={"namespace": "host-ns", "name": f"{host_name}.17abc", "uid": "e1"},
    )
    (create,) = actions(world, tools, host)
    assert len(create.wanted["metadata"]["name"]) == 253
    assert create.wanted["involvedObject"]["name"] == long_name


@pytest.mark.parametrize(
    ("involved", "kept"),
    [
        pytest.param({"namespace": "host-ns", "name": HOST_POD}, True, id="copy"),
        pytest.param({"namespace": "other", "name": HOST_POD}, False, id="other-namespace"),
        pytest.param({"namespace": "host-ns", "name": "web-x-a-x-vc2"}, False, id="other-tenant"),
        pytest.param({"namespace": "host-ns", "name": "vc-0"}, False, id="our-own-pod"),
        pytest.param({"namespace": "host-ns"}, False, id="no-name"),
        pytest.param({}, False, id="nothing"),
    ],
)
def test_only_what_could_be_ours_is_stored(involved: dict[str, str], kept: bool) -> None:
    """Events of other objects in the namespace don't take memory."""
    assert keep({"involvedObject": involved}, Names("vc", "host-ns")) is kept


@pytest.mark.parametrize("length", [30, 52, 53, 63, 100, 253])
def test_shortened_names_are_kept(length: int) -> None:
    """Whatever the length of the virtual name, an event about its copy is stored."""
    names = Names("vc", "host-ns")
    for name in ("a" * length, ("a." * length)[: length - 1] + "b"):
        involved = {"namespace": "host-ns", "name": names.host_name(name, "default")}
        assert keep({"involvedObject": involved}, names)
