"""``metrics.k8s.io`` of the host is asked for, and tells of, what is the tenant's only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer.naming import Names
from syncer.objects import Key, Object
from syncer.proxy import resource_metrics
from syncer.proxy.node_metrics import HostAnswerError, PodView
from syncer.proxy.resource_metrics import (
    MAX_DEMANDS,
    BadSelectorError,
    Operator,
    Requirement,
    Selection,
    accepts_json,
    parse_field_selector,
    parse_label_selector,
)

NAMES = Names("vc", "tenants-7")
HOST = NAMES.host_namespace
TIME = "2026-11-21T10:00:00Z"
USAGE = {"cpu": "12345n", "memory": "1024Ki"}
EVERYTHING = Selection()


def view(name: str, namespace: str = "default", **labels: str) -> PodView:
    return PodView(namespace, name, f"u-{name}", f"h-{name}", frozenset({"app"}), labels=labels)


PODS = {
    NAMES.host_name(one.name, one.namespace): one
    for one in [view("web", tier="front"), view("db", tier="back"), view("dns", "kube-system")]
}


class World:
    """Three pods are the tenant's."""

    def pod(self, namespace: str, name: str) -> PodView | None:
        """Give a pod of the tenant's."""
        return PODS.get(name) if namespace == HOST else None

    def claim(self, namespace: str, name: str) -> Key | None:
        """Know no claims."""
        raise AssertionError(namespace, name)


def node_labels(name: str) -> Mapping[str, str] | None:
    return {"zone": "a"} if name == "node-1" else None


def host_pod(name: str, namespace: str = HOST, **changes: Any) -> Object:
    """Give a pod's metrics as the host has them."""
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": TIME,
            "labels": {"vcluster.loft.sh/managed-by": "vc", "host": "secret"},
        },
        "timestamp": TIME,
        "window": "15.5s",
        "containers": [{"name": "app", "usage": USAGE}, {"name": "proxy", "usage": USAGE}],
        **changes,
    }


def listed(kind: str, items: list[Object]) -> bytes:
    return orjson.dumps({"kind": kind, "metadata": {"selfLink": "secret"}, "items": items})


def virtual_pod(name: str, namespace: str = "default", **labels: str) -> Object:
    """Give a pod's metrics as the tenant sees them."""
    metadata: Object = {"name": name, "namespace": namespace, "creationTimestamp": TIME}
    if labels:
        metadata["labels"] = labels
    containers = [{"name": "app", "usage": USAGE}]
    return {"metadata": metadata, "timestamp": TIME, "window": "15.5s", "containers": containers}


# -- answers ---------------------------------------------------------------------------------


def pods_of(items: list[Object], selection: Selection = EVERYTHING) -> list[Object]:
    answer = resource_metrics.pods(listed("PodMetricsList", items), selection, World())
    found: list[Object] = orjson.loads(answer)["items"]
    return found


def test_pods_have_virtual_names_labels_and_containers() -> None:
    """A list is the tenant's pods, sorted, with their own labels and without injected ones."""
    items = [host_pod(name) for name in sorted(PODS, reverse=True)]
    assert pods_of(items) == [
        virtual_pod("db", tier="back"),
        virtual_pod("web", tier="front"),
        virtual_pod("dns", "kube-system"),
    ]


def test_a_list_says_what_it_is_and_nothing_of_the_host() -> None:
    """Kind and version are the API's; the host's own list metadata is gone."""
    answer = resource_metrics.pods(listed("PodMetricsList", []), EVERYTHING, World())
    assert orjson.loads(answer) == {
        "kind": "PodMetricsList",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {},
        "items": [],
    }


def test_a_time_that_is_none_is_null() -> None:
    """As an API server writes a time that nobody set; a span of none is zero."""
    [found] = pods_of([host_pod(NAMES.host_name("web", "default"), timestamp="x", window=5)])
    assert (found["timestamp"], found["window"]) == (None, "0s")


@pytest.mark.parametrize("usage", [None, "secret", ["secret"], {"cpu": "secret", "gpu": "1"}])
def test_a_measure_that_is_none_is_left_out(usage: Any) -> None:
    """What isn't a quantity of CPU or memory is not passed on; the container stays."""
    name = NAMES.host_name("web", "default")
    [found] = pods_of([host_pod(name, containers=[{"name": "app", "usage": usage}])])
    assert found["containers"] == [{"name": "app", "usage": {}}]


def test_pods_of_others_are_left_out() -> None:
    """A name of ours elsewhere, and any other name, is not the tenant's."""
    web = NAMES.host_name("web", "default")
    assert pods_of([host_pod(web, "tenant-b"), host_pod("web"), host_pod(f"{web}x")]) == []


@pytest.mark.parametrize(
    ("namespace", "labels", "fields", "names"),
    [
        ("", "", "", ["db", "web", "dns"]),
        ("kube-system", "", "", ["dns"]),
        ("nowhere", "", "", []),
        ("", "tier", "", ["db", "web"]),
        ("", "!tier", "", ["dns"]),
        ("default", "tier in (front,x)", "", ["web"]),
        ("", "tier!=front", "", ["db", "dns"]),
        ("", "", "metadata.namespace!=kube-system", ["db", "web"]),
        ("", "", "metadata.name=web,metadata.namespace==default", ["web"]),
    ],
)
def test_a_list_holds_what_was_asked_for(
    namespace: str, labels: str, fields: str, names: list[str]
) -> None:
    """Selectors speak of virtual namespaces, names and labels, whatever the host selected."""
    selection = Selection.read(namespace, labels, fields, namespaced=True)
    found = pods_of([host_pod(name) for name in PODS], selection)
    assert [item["metadata"]["name"] for item in found] == names


def test_one_pod() -> None:
    """A single object carries kind and version; another's is as if it were not there."""
    host = {"kind": "PodMetrics", **host_pod(NAMES.host_name("web", "default"))}
    found = resource_metrics.pod(orjson.dumps(host), World())
    assert found is not None
    assert orjson.loads(found) == {
        "kind": "PodMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        **virtual_pod("web", tier="front"),
    }
    other = {"kind": "PodMetrics", **host_pod("other")}
    assert resource_metrics.pod(orjson.dumps(other), World()) is None


def host_node(name: str) -> Object:
    """Give a node's metrics as the host has them."""
    metadata = {"name": name, "creationTimestamp": TIME, "labels": {"host": "secret"}}
    return {"metadata": metadata, "timestamp": TIME, "window": "10s", "usage": USAGE}


def virtual_node(name: str) -> Object:
    return {
        **host_node(name),
        "metadata": {"name": name, "creationTimestamp": TIME, "labels": {"zone": "a"}},
    }


@pytest.mark.parametrize(
    ("labels", "fields", "found"),
    [
        ("", "", ["node-1"]),
        ("zone=a", "", ["node-1"]),
        ("host", "", []),
        ("", "metadata.name=node-2", []),
    ],
)
def test_nodes_are_those_the_tenant_has(labels: str, fields: str, found: list[str]) -> None:
    """Others are left out, and labels are the virtual node's, for selectors too."""
    selection = Selection.read("", labels, fields, namespaced=False)
    body = listed("NodeMetricsList", [host_node("node-2"), host_node("node-1")])
    answer = orjson.loads(resource_metrics.nodes(body, selection, node_labels))
    assert answer["items"] == [virtual_node(name) for name in found]


def test_one_node() -> None:
    """A node that the tenant does not have is as if it were not there."""
    one, other = ({"kind": "NodeMetrics", **host_node(name)} for name in ("node-1", "node-2"))
    found = resource_metrics.node(orjson.dumps(one), node_labels)
    assert found is not None
    expected = {"kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1"}
    assert orjson.loads(found) == expected | virtual_node("node-1")
    assert resource_metrics.node(orjson.dumps(other), node_labels) is None


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b'{"kind":"Status"}', b'{"kind":"PodMetricsList","items":5}',
     b'{"kind":"PodMetricsList","items":[5]}', b'{"kind":"PodMetricsList","items":[{}]}',
     b'{"kind":"PodMetricsList","items":[{"metadata":{"name":5}}]}'],
)  # fmt: skip
def test_other_answers_are_refused(body: bytes) -> None:
    """What is no such list is not passed on."""
    with pytest.raises(HostAnswerError):
        resource_metrics.pods(body, EVERYTHING, World())


@given(
    st.dictionaries(
        st.sampled_from(["timestamp", "window", "containers", "usage", "annotations", "status"]),
        st.recursive(
            st.sampled_from(["secret", 5, None]),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["name", "usage",
                                                                             "cpu"]), inner),
            max_leaves=5,
        ),
    )
)  # fmt: skip
@example({"containers": [{"name": []}]})
def test_no_word_of_the_host_comes_through_anywhere(changes: Object) -> None:
    """Whatever a member holds, only measures, times and the tenant's own names are passed on."""
    text = str(pods_of([host_pod(NAMES.host_name("web", "default"), **changes)]))
    assert "secret" not in text
    assert HOST not in text


# -- label selectors -------------------------------------------------------------------------

READ = {
    "": [],
    " ": [],
    "a": ["a"],
    "a,b": ["a", "b"],
    " a , ! b ": ["a", "!b"],
    "a=1": ["a in (1)"],
    "a==1": ["a in (1)"],
    "a = 1": ["a in (1)"],
    "a!=1": ["a notin (1)"],
    "a=": ["a in ()"],
    "a=,b": ["a in ()", "b"],
    "a in (2,1, 2)": ["a in (1,2)"],
    "a in ()": ["a in ()"],
    "a notin (,x)": ["a notin (,x)"],
    "x.io/a in (b)": ["x.io/a in (b)"],
    "in in (in,notin)": ["in in (in,notin)"],
    "a>5,b<7": ["a>5", "b<7"],
}


@pytest.mark.parametrize(("text", "demands"), READ.items(), ids=[repr(text) for text in READ])
def test_label_selectors_are_read_as_api_servers_do(text: str, demands: list[str]) -> None:
    """Each form of the syntax, with and without spaces; sets are sorted."""
    assert [str(demand) for demand in parse_label_selector(text)] == demands


@pytest.mark.parametrize(
    "text",
    [",", "a,", ",a", "a,,b", "a b", "a in", "a in b", "a in (b", "a in b)", "a in (b))", "a=b=c",
     "!a=b", "!", "=", "=b", "a(b)", "a=(b)", "a=!b", "a>b", "a>", "a<-1", "a in (b c)", "-a",
     "a/b/c", "/a", "A_/a", "a=b/c", "a=-b", "a" * 64, f"a={'b' * 64}", "ä", "a=ä", "a\0",
     f"{'a.' * 126}aa/b"],
)  # fmt: skip
def test_what_is_no_label_selector_is_refused(text: str) -> None:
    """Nothing is guessed: what API servers refuse is refused."""
    with pytest.raises(BadSelectorError, match="requirement"):
        parse_label_selector(text)


@pytest.mark.parametrize(
    ("labels", "fields"), [("!a", ""), ("a in (1,2)", ""), ("", "metadata.name!=a")]
)
def test_a_selector_can_not_keep_everybody_waiting(labels: str, fields: str) -> None:
    """There are some hundreds of demands at most; a request's target has room for 20 000."""

    def read(times: int) -> Selection:
        given = (",".join([text] * times if text else []) for text in (labels, fields))
        return Selection.read("", *given, namespaced=True)

    most = read(MAX_DEMANDS)
    assert len(most.labels) + len(most.fields) == MAX_DEMANDS
    with pytest.raises(BadSelectorError, match="at most 256 requirements"):
        read(MAX_DEMANDS + 1)


keys = st.sampled_from(["app", "x.io/app", "vcluster.loft.sh/managed-by", "in", "a.b_c-d"])
label_values = st.sampled_from(["", "a", "b", "1", "10", "vc", "in"])
requirements = st.one_of(
    st.builds(Requirement, keys, st.sampled_from([Operator.EXISTS, Operator.ABSENT])),
    st.builds(
        lambda key, operator, values: Requirement(key, operator, tuple(sorted(values))),
        keys,
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.sets(label_values, min_size=1),
    ),
    st.builds(
        lambda key, operator, value: Requirement(key, operator, (str(value),)),
        keys,
        st.sampled_from([Operator.GREATER, Operator.LESS]),
        st.integers(0, 20),
    ),
)
demand_lists = st.lists(requirements, max_size=4).map(tuple)


@given(demand_lists)
def test_what_is_written_is_read_back(demands: tuple[Requirement, ...]) -> None:
    """The form in which the host is asked says the same."""
    assert parse_label_selector(",".join(map(str, demands))) == demands


@given(
    demand_lists,
    st.dictionaries(keys, label_values),
    st.sampled_from(["", "default", "other"]),
    st.sampled_from(["vc", "another"]),
)
def test_the_host_selects_the_same_pods_and_no_others(
    demands: tuple[Requirement, ...], labels: dict[str, str], namespace: str, tenant: str
) -> None:
    """A host pod is selected when it is the tenant's and its virtual labels and namespace fit."""
    theirs = Names(tenant, HOST)
    host_labels = theirs.labels(labels) | {
        "vcluster.loft.sh/managed-by": theirs.marker,
        "vcluster.loft.sh/namespace": "default",
    }
    selection = Selection(namespace, demands)
    on_host = parse_label_selector(selection.host_selector(NAMES))
    selected = all(demand.matches(host_labels) for demand in on_host)
    assert selected == (tenant == "vc" and selection.matches(Key("default", "web"), labels))


def test_no_key_of_the_tenants_reaches_the_host_as_it_is() -> None:
    """Not even one that spells a mark: it is translated like any other."""
    text = "vcluster.loft.sh/managed-by=another,vcluster.loft.sh/namespace notin (x),app"
    selection = Selection.read("default", text, "", namespaced=True)
    assert selection.host_selector(NAMES) == (
        "vcluster.loft.sh/managed-by in (vc),vcluster.loft.sh/namespace in (default),"
        f"{NAMES.label_key('vcluster.loft.sh/managed-by')} in (another),"
        f"{NAMES.label_key('vcluster.loft.sh/namespace')} notin (x),"
        f"{NAMES.label_key('app')}"
    )


# -- field selectors and forms of answers ----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", ()),
        ("metadata.name=a", (("metadata.name", True, "a"),)),
        ("metadata.name==a,", (("metadata.name", True, "a"),)),
        (
            "metadata.name!=a,metadata.namespace=",
            (("metadata.name", False, "a"), ("metadata.namespace", True, "")),
        ),
        (r"metadata.name=a\,b\=c\\d", (("metadata.name", True, r"a,b=c\d"),)),
    ],
)
def test_field_selectors_are_read_as_api_servers_do(text: str, terms: tuple[Any, ...]) -> None:
    """Terms by comma, values with their escapes."""
    assert parse_field_selector(text, namespaced=True) == terms


@pytest.mark.parametrize(
    "text",
    ["a", "metadata.name", "metadata.name=a=b", r"metadata.name=\x", "metadata.name=a\\",
     "spec.nodeName=a", "=a"],
)  # fmt: skip
def test_what_is_no_field_selector_is_refused(text: str) -> None:
    """Metrics are selected by name and namespace only."""
    with pytest.raises(BadSelectorError, match="selector"):
        parse_field_selector(text, namespaced=True)


def test_nodes_have_no_namespace_to_select_by() -> None:
    """The refusal says what there is."""
    with pytest.raises(BadSelectorError, match=r'only "metadata\.name"$'):
        parse_field_selector("metadata.namespace=a", namespaced=False)


KUBECTL_GET = (
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;"
    "g=meta.k8s.io,application/json"
)


@pytest.mark.parametrize(
    ("accept", "plain"),
    [
        ("", True),
        ("*/*", True),
        ("application/json", True),
        ("application/vnd.kubernetes.protobuf, */*", True),
        (KUBECTL_GET, True),
        ("application/json;q=0.5", True),
        (KUBECTL_GET.removesuffix(",application/json"), False),
        ("application/vnd.kubernetes.protobuf", False),
        ("application/json;q=0", False),
        ("text/html", False),
    ],
)
def test_plain_json_is_answered_to_whoever_takes_it(accept: str, plain: bool) -> None:
    """Tables and protobuf are not made; kubectl takes JSON in their place."""
    assert accepts_json(accept) is plain
