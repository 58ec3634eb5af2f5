"""How requests to a node's kubelet are read: nothing unlisted, nothing of others."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.kube.store import Store
from syncer.naming import node_host_name
from syncer.objects import Object
from syncer.proxy.kubelet_paths import (
    KUBELET_PORT,
    Asked,
    NodeAddresses,
    NodeHealth,
    NodePage,
    NodePods,
    PodLog,
    PodStream,
    Refused,
    address_of,
    node_name,
    node_of,
    pod_list,
    read,
)

IO = "input=1&output=1&error=1"
STREAM = "container=c&stdin=true&stdout=true&stderr=true&tty=false"


@pytest.mark.parametrize(
    ("method", "path", "query", "target"),
    [
        pytest.param(
            "GET", "/containerLogs/ns/pod/c", "", PodLog("ns", "pod", "c", "container=c"), id="log"
        ),
        pytest.param(
            "GET",
            "/containerLogs/ns/pod/c",
            "follow=true&tailLines=3&sinceSeconds=9",
            PodLog("ns", "pod", "c", "container=c&follow=true&sinceSeconds=9&tailLines=3"),
            id="log with options",
        ),
        pytest.param(
            "GET",
            "/containerLogs/ns/pod/c",
            "container=other&insecureSkipTLSVerifyBackend=true&pretty=1",
            PodLog("ns", "pod", "c", "container=c"),
            id="log with unlisted parameters",
        ),
        pytest.param(
            "GET",
            "/containerLogs/ns/pod/c",
            "tail=5",
            PodLog("ns", "pod", "c", "container=c&tailLines=5"),
            id="log with tail",
        ),
        pytest.param(
            "GET",
            "/containerLogs/ns/pod/c",
            "tail=all&tailLines=7",
            PodLog("ns", "pod", "c", "container=c"),
            id="log with tail=all",
        ),
        pytest.param(
            "POST",
            "/exec/ns/pod/c",
            f"{IO}&command=sh&command=-c&command=echo+%26",
            PodStream(
                "exec", "ns", "pod", "c", "", f"{STREAM}&command=sh&command=-c&command=echo+%26"
            ),
            id="exec",
        ),
        pytest.param(
            "GET",
            "/exec/ns/pod/0c0ffee0-1/c",
            f"{IO}&command=ls",
            PodStream("exec", "ns", "pod", "c", "0c0ffee0-1", f"{STREAM}&command=ls"),
            id="exec with the UID",
        ),
        pytest.param(
            "POST",
            "/exec/ns/pod/c",
            f"{IO}&tty=1&command=sh",
            PodStream(
                "exec",
                "ns",
                "pod",
                "c",
                "",
                "container=c&stdin=true&stdout=true&stderr=false&tty=true&command=sh",
            ),
            id="a terminal has no stderr of its own",
        ),
        pytest.param(
            "POST",
            "/exec/ns/pod/c",
            "stdin=true&stdout=true&command=sh",
            Refused("at least one of input, output and error must be 1", 400),
            id="the API's names are not the kubelet's",
        ),
        pytest.param(
            "POST",
            "/attach/ns/pod/c",
            f"{IO}&command=ignored",
            PodStream("attach", "ns", "pod", "c", "", STREAM),
            id="attach",
        ),
        pytest.param(
            "POST",
            "/portForward/ns/pod",
            "",
            PodStream("portforward", "ns", "pod", "", "", ""),
            id="port-forward",
        ),
        pytest.param(
            "GET",
            "/portForward/ns/pod/uid-1",
            "port=80,81&port=90",
            PodStream("portforward", "ns", "pod", "", "uid-1", "ports=80&ports=81&ports=90"),
            id="port-forward with UID and ports",
        ),
        pytest.param("GET", "/stats/summary", "", NodePage("/stats/summary"), id="summary"),
        pytest.param(
            "POST",
            "/stats/summary",
            "only_cpu_and_memory=true&x=1",
            NodePage("/stats/summary", "only_cpu_and_memory=true"),
            id="small summary",
        ),
        pytest.param("GET", "/metrics", "name=x", NodePage("/metrics"), id="metrics"),
        pytest.param("GET", "/metrics/cadvisor", "", NodePage("/metrics/cadvisor"), id="cadvisor"),
        pytest.param("GET", "/metrics/resource", "", NodePage("/metrics/resource"), id="resource"),
        pytest.param("GET", "/metrics/probes/", "", NodePage("/metrics/probes"), id="probes"),
        pytest.param("GET", "/pods", "", NodePods(), id="pods"),
        pytest.param("GET", "/runningpods/", "", NodePods(running=True), id="running pods"),
        pytest.param("GET", "/healthz", "", NodeHealth(), id="health"),
        pytest.param("GET", "/healthz/ping", "", NodeHealth(), id="ping"),
    ],
)
def test_a_listed_request_is_read(method: str, path: str, query: str, target: object) -> None:
    """Each listed path becomes what the API calls it, with the API's parameters."""
    assert read(method, path, query).target == target


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/run/ns/pod/c", 403),
        ("GET", "/run/ns/pod/uid/c", 403),
        ("GET", "/configz", 403),
        ("GET", "/flagz", 403),
        ("GET", "/statusz", 403),
        ("GET", "/logs/", 403),
        ("GET", "/logs/syslog", 403),
        ("GET", "/debug/pprof/heap", 403),
        ("PUT", "/debug/flags/v", 403),
        ("POST", "/checkpoint/ns/pod/c", 403),
        ("GET", "/cri/exec/token", 403),
        ("GET", "/", 400),
        ("GET", "", 400),
        ("GET", "/pods/x", 404),
        ("GET", "/spec/", 404),
        ("GET", "/stats", 404),
        ("GET", "/stats/summary/x", 404),
        ("GET", "/stats/ns/pod/c", 404),
        ("GET", "/metrics/slis", 404),
        ("GET", "/metrics/CAdvisor", 404),
        ("GET", "/containerlogs/ns/pod/c", 404),
        ("GET", "/containerLogs/ns/pod", 404),
        ("GET", "/containerLogs/ns/pod/c/d", 404),
        ("GET", "/exec/ns/pod", 404),
        ("GET", "/exec/ns/pod/u/c/x", 404),
        ("GET", "/portForward/ns", 404),
        ("GET", "/healthz/etcd", 404),
        ("GET", "//pods", 400),
        ("GET", "/pods//", 400),
        ("GET", "/metrics/./cadvisor", 400),
        ("GET", "/metrics/../pods", 400),
        ("GET", "/containerLogs/ns/..%2fother/c", 400),
        ("GET", "/containerLogs/ns/p%6fd/c", 400),
        ("GET", "/metrics%2fcadvisor", 400),
        ("GET", "/metrics;x", 400),
        ("GET", "/metrics\\x", 400),
        ("POST", "/containerLogs/ns/pod/c", 405),
        ("HEAD", "/containerLogs/ns/pod/c", 405),
        ("DELETE", "/pods", 405),
        ("PUT", "/exec/ns/pod/c", 405),
        ("PUT", "/portForward/ns/pod", 405),
        ("POST", "/metrics", 405),
    ],
)
def test_what_is_not_listed_is_refused(method: str, path: str, code: int) -> None:
    """Everything else is refused, and the reason is the tenant's to read."""
    target = read(method, path).target
    assert isinstance(target, Refused)
    assert target.code == code
    assert target.reason


@pytest.mark.parametrize(
    ("method", "path", "verb", "subresources"),
    [
        ("GET", "/stats/summary", "get", ("stats",)),
        ("POST", "/stats/summary", "create", ("stats",)),
        ("GET", "/metrics", "get", ("metrics",)),
        ("GET", "/metrics/cadvisor", "get", ("metrics",)),
        ("GET", "/logs/", "get", ("log",)),
        ("POST", "/checkpoint/ns/pod/c", "create", ("checkpoint",)),
        ("GET", "/statusz", "get", ("statusz",)),
        ("GET", "/flagz", "get", ("configz",)),
        ("GET", "/configz", "get", ("configz", "proxy")),
        ("GET", "/pods", "get", ("pods", "proxy")),
        ("GET", "/runningpods/", "get", ("pods", "proxy")),
        ("GET", "/healthz/ping", "get", ("healthz", "proxy")),
        ("GET", "/containerLogs/ns/pod/c", "get", ("proxy",)),
        ("GET", "/metricsx", "get", ("proxy",)),
        ("PUT", "/debug/flags/v", "update", ("proxy",)),
        ("PATCH", "/x", "patch", ("proxy",)),
        ("DELETE", "/x", "delete", ("proxy",)),
        ("GET", "/exec/ns/pod/c", "create", ("proxy",)),
        ("GET", "/attach/ns/pod/c", "create", ("proxy",)),
        ("GET", "/portForward/ns/pod", "create", ("proxy",)),
        ("POST", "/run/ns/pod/c", "create", ("proxy",)),
    ],
)
def test_rights_are_those_a_kubelet_asks_for(
    method: str, path: str, verb: str, subresources: tuple[str, ...]
) -> None:
    """Verb and subresources are Kubernetes 1.36's; running something is always ``create``."""
    asked = read(method, path, IO)
    assert (asked.verb, asked.subresources) == (verb, subresources)


_TEXT = st.text("/.%;\\aA0:?#-_podsexclgruntime", max_size=30)
_PATHS = st.one_of(
    _TEXT,
    st.builds(
        lambda first, rest: f"/{first}/{rest}",
        st.sampled_from(
            ["exec", "attach", "portForward", "run", "metrics", "pods", "logs", "containerLogs"]
        ),
        _TEXT,
    ),
)
_METHODS = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "get", ""])


@given(_METHODS, _PATHS, st.text(max_size=20))
def test_nothing_odd_gets_through(method: str, path: str, query: str) -> None:
    """Whatever is not refused has a right to be checked, plain names and a listed page."""
    asked: Asked = read(method, path, query)
    assert asked.subresources
    match asked.target:
        case Refused(reason, code):
            assert reason
            assert 400 <= code < 500
        case PodLog(namespace, pod, container, _):
            assert asked.verb == "get"
            assert path.strip("/") == f"containerLogs/{namespace}/{pod}/{container}"
        case PodStream():
            assert asked.verb == "create"
            assert method in ("GET", "POST")
        case NodePage(page, _):
            assert asked.verb in ("get", "create")
            assert page == path.removesuffix("/")
        case NodePods() | NodeHealth():
            assert asked.verb == "get"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["command", "input", "output", "error", "tty", "container", "x"]),
            st.text(max_size=5),
        ),
        max_size=8,
    )
)
def test_the_command_arrives_as_it_was(parameters: list[tuple[str, str]]) -> None:
    """Each part of a command is kept, in order, and no other container can be named."""
    target = read("POST", "/exec/ns/pod/c", urlencode([("output", "1"), *parameters])).target
    assert isinstance(target, PodStream)
    sent = parse_qsl(target.query, keep_blank_values=True)
    assert [value for name, value in sent if name == "command"] == [
        value for name, value in parameters if name == "command"
    ]
    assert [value for name, value in sent if name == "container"] == ["c"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("node-1", "node-1"),
        ("ip-10-0-0-1.ec2.internal", "ip-10-0-0-1.ec2.internal"),
        ("node-1:10250", "node-1"),
        ("node-1:", "node-1"),
        ("https:node-1:10250", "node-1"),
        ("http:node-1:", "node-1"),
        ("https:node-1:22", None),
        ("node-1:22", None),
        ("node-1:010250", None),
        ("ftp:node-1:10250", None),
        ("a:b:c:d", None),
        (":10250", None),
        ("", None),
        ("..", None),
        ("node/1", None),
        ("NODE-1", None),
        ("node-1@host", None),
        ("node-1\n", None),
    ],
)
def test_node_names_are_read_as_an_api_server_does(text: str, name: str | None) -> None:
    """Scheme and the kubelet's port may stand with the name; other ports are refused."""
    found = node_name(text)
    assert isinstance(found, Refused) if name is None else found == name


ADDRESSES = {
    "node-1.nodes.vcluster.com": "node-1",
    "a-b.nodes.vcluster.com": "a.b",
    "10.96.3.4": "node-1",
    "fd00::1": "a.b",
}


@pytest.mark.parametrize(
    ("host", "node"),
    [
        ("kubernetes.default.svc", None),
        ("127.0.0.1:8443", None),
        ("[::1]:8443", None),
        ("", None),
        ("10.96.3.4", "node-1"),
        ("10.96.3.4:10250", "node-1"),
        ("10.96.3.4:443", "node-1"),
        ("[fd00::1]:10250", "a.b"),
        ("[FD00:0:0::1]", "a.b"),
        ("fd00::1", "a.b"),
        ("Node-1.Nodes.VCluster.com:10250", "node-1"),
        ("node-1.nodes.vcluster.com.", "node-1"),
        ("a-b.nodes.vcluster.com", "a.b"),
        ("a.b.nodes.vcluster.com", None),
        ("node-1", None),
        ("node-1.nodes.vcluster.com.evil", None),
        ("x.node-1.nodes.vcluster.com", None),
        ("10.96.3.4:x", None),
        ("10.96.3.4:", "node-1"),
        ("[10.96.3.4]:10250", None),
        ("[fd00::1:10250", None),
        ("[fd00::1]x", None),
        ("[fd00::1%eth0]", None),
        ("::ffff:10.96.3.4", None),
        ("10.96.3.04", None),
        ("0x0a.96.3.4", None),
        ("174064388", None),
        ("10.96.3.4, 10.96.3.4", None),
        ("10.96.3.4@127.0.0.1", None),
        (" 10.96.3.4", None),
    ],
)
def test_a_host_header_names_a_node_only_by_an_address_we_gave(host: str, node: str | None) -> None:
    """Names and addresses match whole and in one spelling; anything else is the API server."""
    assert node_of(host, ADDRESSES.get) == node


@given(st.text(max_size=40))
def test_any_header_is_read(host: str) -> None:
    """No header raises, and what was read is read the same again."""
    address = address_of(host)
    assert address_of(address) == address


def test_a_node_has_one_host_name() -> None:
    """Dots of a node's name become dashes, as in vcluster; the name leads back by its lookup."""
    assert node_host_name("a.b") == "a-b.nodes.vcluster.com"
    assert node_of(f"{node_host_name('a.b')}:{KUBELET_PORT}", ADDRESSES.get) == "a.b"


def test_addresses_are_those_of_the_hosts_own_objects() -> None:
    """An IP is that of a Service, a name that of a node with pods; what two nodes share is none."""
    store = Store({"address": lambda obj: obj["spec"]["ips"]}, lambda _change: None)
    for version, (node, ip) in enumerate([("n", "10.96.3.4"), ("", "10.96.3.5")], 1):
        metadata = {"name": f"s{version}", "uid": ip, "resourceVersion": str(version)}
        store.apply({"metadata": metadata, "spec": {"ips": [ip], "node": node}})
    names = ["n", "a.b", "c.d", "c-d"]
    found = NodeAddresses(store, "address", lambda obj: str(obj["spec"]["node"]), lambda: names)
    assert node_of("10.96.3.4:10250", found) == "n"
    assert node_of("10.96.3.5:10250", found) is None
    assert node_of("10.96.3.6:10250", found) is None
    assert node_of("n.nodes.vcluster.com", found) == "n"
    assert node_of("a-b.nodes.vcluster.com:10250", found) == "a.b"
    assert node_of("c-d.nodes.vcluster.com", found) is None
    assert node_of("gone.nodes.vcluster.com", found) is None
    assert node_of("nodes.vcluster.com", found) is None
    assert found.ips() == ("10.96.3.4", "10.96.3.5")


def _pod(name: str, node: str | None, *, running: bool = True) -> Object:
    state: Object = {"running": {}} if running else {"waiting": {}}
    spec: Object = {"containers": [{"name": "c", "image": "i", "env": [{"name": "SECRET"}]}]}
    if node:
        spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}", "labels": {"a": "b"}},
        "spec": spec,
        "status": {"containerStatuses": [{"name": "c", "state": state}]},
    }


def test_pods_are_those_of_the_node() -> None:
    """``/pods`` holds what is on the node and nothing else, each as the virtual cluster has it."""
    pods = [_pod("here", "n"), _pod("there", "m"), _pod("nowhere", None), {"metadata": {}}]
    listed = pod_list("n", pods)
    assert (listed["kind"], listed["apiVersion"]) == ("PodList", "v1")
    whole = _pod("here", "n")
    del whole["kind"], whole["apiVersion"]
    assert listed["items"] == [whole]


def test_running_pods_are_bare() -> None:
    """``/runningpods/`` holds names and images of what runs, as a container runtime knows it."""
    pods = [_pod("here", "n"), _pod("waits", "n", running=False), _pod("there", "m")]
    assert pod_list("n", pods, running=True)["items"] == [
        {
            "metadata": {"name": "here", "namespace": "ns", "uid": "uid-here"},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}]},
            "status": {},
        }
    ]


def test_a_pod_without_status_is_no_trouble() -> None:
    """A pod that has just been bound has no container statuses."""
    pod = _pod("new", "n")
    del pod["status"]
    assert pod_list("n", [pod], running=True)["items"] == []
    assert len(pod_list("n", [pod])["items"]) == 1
