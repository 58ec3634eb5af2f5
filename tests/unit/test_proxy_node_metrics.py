"""A kubelet's metrics reach the tenant in its own terms, and nothing of others does."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from syncer.objects import Key
from syncer.proxy.node_metrics import (
    MAX_LINE,
    PodView,
    Translation,
    is_hardware_interface,
)

HOST = "tenants-7"
HOST_UID = "0f1e2d3c-4b5a-4697-8877-665544332211"
UID = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"
OTHER_UID = "99999999-8888-4777-8666-555555555555"
HOST_POD = "web-x-default-x-vc"
HOST_CLAIM = "data-x-default-x-vc"
CID = "0123456789abcdef" * 4
WEB = PodView("default", "web", UID, HOST_UID, frozenset({"app", "init"}))


class World:
    """One pod and one claim are the tenant's."""

    def pod(self, namespace: str, name: str) -> PodView | None:
        """Give the tenant's pod."""
        return WEB if (namespace, name) == (HOST, HOST_POD) else None

    def claim(self, namespace: str, name: str) -> Key | None:
        """Give the tenant's claim."""
        return Key("default", "data") if (namespace, name) == (HOST, HOST_CLAIM) else None


def translated(text: str | bytes, cuts: Iterable[int] = ()) -> str:
    """Feed an answer, cut at the places, and give all that comes out."""
    page = text.encode() if isinstance(text, str) else text
    translation = Translation(World())
    places = [0, *sorted(cuts), len(page)]
    parts = [translation.feed(page[a:b]) for a, b in pairwise(places)]
    return b"".join([*parts, translation.close()]).decode()


OWN = f'namespace="{HOST}",pod="{HOST_POD}"'
VIRTUAL = 'namespace="default",pod="web"'
SLICE = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"


def under(uid: str) -> str:
    return uid.replace("-", "_")


KEPT_AS_THEY_ARE = {
    "a sum over the node": "node_cpu_usage_seconds_total 12.5",
    "with its time": "node_memory_working_set_bytes 1.5e+09 1395066363000",
    "not a number": "kubelet_cgroup_version NaN",
    "the root cgroup": 'container_memory_rss{container="",id="/",image="",name="",namespace="",'
    'pod=""} 5 1700000000000',
    "the cgroup of all pods": 'container_memory_rss{id="/kubepods.slice"} 5',
    "a QoS class": 'container_memory_rss{id="/kubepods/besteffort"} 5',
    "a QoS class under kind": 'container_memory_rss{id="/kubelet.slice/kubelet-kubepods.slice/'
    'kubelet-kubepods-burstable.slice"} 5',
    "a disk of the node": 'container_fs_usage_bytes{device="/dev/nvme0n1p1",id="/"} 5',
    "an interface of the node": "container_network_receive_bytes_total"
    '{id="/",interface="enp3s0"} 5',
    "a histogram": "kubelet_runtime_operations_duration_seconds_bucket"
    '{operation_type="pull_image",le="+Inf"} 3',
    "a sum of a histogram": 'kubelet_runtime_operations_duration_seconds_sum{operation_type="x"} 3',
    "a summary": 'go_gc_duration_seconds{quantile="0.25"} 2e-05',
    "a plugin of Kubernetes": "volume_manager_total_volumes"
    '{plugin_name="kubernetes.io/projected",state="actual_state_of_world"} 3',
    "versions": 'cadvisor_version_info{cadvisorRevision="",cadvisorVersion="",dockerVersion="",'
    'kernelVersion="6.1.0-18",osVersion="Fedora 22 (Twenty Two)"} 1',
    "a failed scrape": "container_scrape_error 0",
    "the end of OpenMetrics": "# EOF",
}


@pytest.mark.parametrize("line", KEPT_AS_THEY_ARE.values(), ids=KEPT_AS_THEY_ARE)
def test_what_tells_nothing_of_others_is_kept_to_the_byte(line: str) -> None:
    """Series of the node as a whole are not changed."""
    assert translated(f"{line}\n") == f"{line}\n"


RENAMED = {
    "a container": 'container_memory_rss{container="app",id="%(slice)s.slice/cri-containerd-%(cid)s'
    '.scope",image="nginx:1",name="%(cid)s",%(who)s} 5 17',
    "a container under cgroupfs": 'container_memory_rss{container="app",'
    'id="/kubepods/pod%(uid)s/%(cid)s",%(who)s} 5',
    "a pod under kind": 'container_memory_rss{container="",id="/kubelet.slice/'
    'kubelet-kubepods.slice/kubelet-kubepods-pod%(under)s.slice",%(who)s} 5',
    "a pod's sum": "pod_cpu_usage_seconds_total{%(who)s} 5",
    "a probe": 'prober_probe_total{container="app",%(who)s,pod_uid="%(uid)s",'
    'probe_type="Liveness",result="successful"} 5',
    "a log": 'kubelet_container_log_filesystem_used_bytes{container="init",%(who)s,'
    'uid="%(uid)s"} 5',
    "a claim": "kubelet_volume_stats_used_bytes{%(claim)s} 5",
}


def in_terms(who: str, claim: str, uid: str) -> dict[str, str]:
    return {"who": who, "claim": claim, "uid": uid, "under": under(uid), "cid": CID,
            "slice": f"{SLICE}{under(uid)}"}  # fmt: skip


HOST_TERMS = in_terms(OWN, f'namespace="{HOST}",persistentvolumeclaim="{HOST_CLAIM}"', HOST_UID)
VIRTUAL_TERMS = in_terms(VIRTUAL, 'namespace="default",persistentvolumeclaim="data"', UID)


@pytest.mark.parametrize("series", RENAMED.values(), ids=RENAMED)
def test_the_tenants_own_series_are_in_virtual_terms(series: str) -> None:
    """Names and UIDs are the virtual objects', and nothing else changes."""
    assert translated(f"{series % HOST_TERMS}\n") == f"{series % VIRTUAL_TERMS}\n"


REDUCED = {
    "a sandbox of CRI-O, whose name says all": (
        f'container_sockets{{image="host/pause:3",name="k8s_POD_{HOST_POD}_{HOST}_0",{OWN}}} 5',
        f'container_sockets{{image="",name="",{VIRTUAL}}} 5',
    ),
    "a cgroup of unknown form": (
        f'container_memory_rss{{container="app",id="/{HOST}/{HOST_POD}",{OWN}}} 5',
        f'container_memory_rss{{container="app",id="",{VIRTUAL}}} 5',
    ),
    "a cgroup below something of the host": (
        f'container_memory_rss{{container="app",id="/{OTHER_UID}/pod{HOST_UID}",{OWN}}} 5',
        f'container_memory_rss{{container="app",id="",{VIRTUAL}}} 5',
    ),
    "labels copied from the host's objects": (
        f'container_memory_rss{{container_label_uid="{HOST_UID}",label_app="x",{OWN}}} 5',
        f"container_memory_rss{{{VIRTUAL}}} 5",
    ),
    "the machine's identity": (
        'machine_cpu_cores{boot_id="a",machine_id="b",system_uuid="c"} 8',
        "machine_cpu_cores 8",
    ),
    "an exemplar": (
        'kubelet_pleg_relist_duration_seconds_bucket{le="1"} 5 # {x="secret"} 1',
        'kubelet_pleg_relist_duration_seconds_bucket{le="1"} 5',
    ),
    "braces around nothing": ("kubelet_running_pods{} 5", "kubelet_running_pods 5"),
    "spaces and a last comma": (
        f'pod_cpu_usage_seconds_total {{ namespace = "{HOST}" , pod="{HOST_POD}", }} 5',
        f"pod_cpu_usage_seconds_total{{{VIRTUAL}}} 5",
    ),
}


@pytest.mark.parametrize(("host", "virtual"), REDUCED.values(), ids=REDUCED)
def test_what_may_not_be_told_of_a_series_is_not(host: str, virtual: str) -> None:
    """A label that would tell of the host is empty or gone; the series stays."""
    assert translated(f"{host}\n") == f"{virtual}\n"


LEFT_OUT = {
    "a foreign pod": 'pod_cpu_usage_seconds_total{namespace="b",pod="web"} 5',
    "a foreign pod of our name": f'pod_cpu_usage_seconds_total{{namespace="b",pod="{HOST_POD}"}} 5',
    "a foreign pod in our namespace": f'pod_cpu_usage_seconds_total{{namespace="{HOST}",'
    f'pod="{HOST_POD}x"}} 5',
    "our virtual name taken by another": 'pod_cpu_usage_seconds_total{namespace="default",'
    'pod="web"} 5',
    "a name that escapes to another": f'pod_cpu_usage_seconds_total{{namespace="{HOST}",'
    f'pod="{HOST_POD}\\n"}} 5',
    "an escape there is not": f'pod_cpu_usage_seconds_total{{namespace="{HOST}",'
    'pod="\\web-x-default-x-vc"} 5',
    "a pod without its namespace": f'pod_cpu_usage_seconds_total{{pod="{HOST_POD}"}} 5',
    "a namespace alone": f'container_memory_rss{{id="/",namespace="{HOST}"}} 5',
    "a label twice": f'pod_cpu_usage_seconds_total{{pod="other",{OWN}}} 5',
    "an injected container": f'container_memory_rss{{container="istio-proxy",{OWN}}} 5',
    "our name's predecessor": f'container_memory_rss{{container="app",id="{SLICE}'
    f'{under(OTHER_UID)}.slice",{OWN}}} 5',
    "a predecessor of unknown form": f'container_memory_rss{{container="app",'
    f'id="/x/{OTHER_UID}",{OWN}}} 5',
    "another UID": f'prober_probe_total{{container="app",{OWN},pod_uid="{OTHER_UID}"}} 5',
    "a foreign claim": f'kubelet_volume_stats_used_bytes{{namespace="{HOST}",'
    'persistentvolumeclaim="other"} 5',
    "a claim and a pod": f'kubelet_volume_stats_used_bytes{{namespace="{HOST}",'
    f'persistentvolumeclaim="{HOST_CLAIM}",pod="other"}} 5',
    "a host service": 'container_memory_rss{id="/system.slice/sshd.service"} 5',
    "a cgroup that names no pod": f'container_memory_rss{{id="{SLICE}{under(OTHER_UID)}.slice"}} 5',
    "a nested cgroup of ours": f'container_memory_rss{{id="{SLICE}{under(HOST_UID)}.slice/x"}} 5',
    "no cgroup": "container_memory_rss 5",
    "an image without a pod": 'container_memory_rss{id="/",image="secret"} 5',
    "a pod's interface on the node": 'container_network_receive_bytes_total{id="/",'
    'interface="cali0123456789a"} 5',
    "a mount point": 'container_fs_usage_bytes{id="/",device="/var/lib/kubelet/pods/'
    f'{OTHER_UID}/volumes/kubernetes.io~secret/token"}} 5',
    "a volume as a device": f'container_fs_usage_bytes{{id="/",device="/dev/mapper/pvc-{OTHER_UID}"'
    "} 5",
    "a volume of others as a device of our pod's": f"container_fs_usage_bytes{{{OWN},"
    f'device="/dev/mapper/pvc-{OTHER_UID}"}} 5',
    "a UID in a plain label of our pod's": f'container_processes{{{OWN},type="{OTHER_UID}"}} 5',
    "a storage driver of the host": "volume_manager_total_volumes"
    '{plugin_name="kubernetes.io/csi:ebs.csi.aws.com",state="x"} 5',
    "an unknown metric": 'kubelet_of_tomorrow{namespace="b"} 5',
    "an unknown metric without labels": "kubelet_of_tomorrow 5",
    "an unknown label of a known metric": 'kubelet_running_pods{tenant="b"} 5',
    "an unknown label of our pod": f'pod_cpu_usage_seconds_total{{{OWN},owner="b"}} 5',
    "a UID in a plain label": f'kubelet_evictions{{eviction_signal="{OTHER_UID}"}} 5',
    "a UID without dashes": "kubelet_evictions"
    f'{{eviction_signal="{OTHER_UID.replace("-", "")}"}} 5',
    "requests to API servers": 'rest_client_requests_total{code="200",host="10.0.0.1:6443",'
    'method="GET"} 5',
    "requests to the kubelet": 'kubelet_http_requests_total{path="exec",method="POST"} 5',
    "sockets of plugins": 'plugin_manager_total_plugins{socket_path="/var/lib/x.sock",state="a"} 5',
    "drivers": 'csi_operations_seconds_sum{driver_name="ebs.csi.aws.com"} 5',
    "signers": 'kubelet_podcertificate_states{signer_name="host.example/x",state="a"} 5',
    "text for a value": f'kubelet_running_pods {{}} "{HOST}"',
    "a name for a value": f"kubelet_running_pods {HOST}",
    "an unclosed brace": f"pod_cpu_usage_seconds_total{{{OWN} 5",
    "an unclosed string": f'pod_cpu_usage_seconds_total{{namespace="{HOST}",pod="{HOST_POD}}} 5',
    "two strings without a comma": f'pod_cpu_usage_seconds_total{{namespace="{HOST}"'
    f'pod="{HOST_POD}"}} 5',
    "a quoted metric": '{"kubelet_running_pods"} 5',
    "a comment": "# this host is tenants-7",
    "help without series": "# HELP kubelet_running_pods Number of pods.",
    "an empty line": "",
}


@pytest.mark.parametrize("line", LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_is_not_the_tenants_is_left_out(line: str) -> None:
    """Other pods, unknown metrics and labels, and what is malformed do not come through."""
    assert translated(f"{line}\n") == ""


def test_bytes_that_are_no_text_are_left_out() -> None:
    """A label that is not UTF-8 costs its series."""
    assert translated(b'container_memory_rss{id="/",state="\xff"} 5\n') == ""


def test_help_and_type_come_with_the_first_series_that_is_kept() -> None:
    """A metric none of whose series may be seen is not even mentioned."""
    page = (
        "# HELP pod_cpu_usage_seconds_total CPU.\n# TYPE pod_cpu_usage_seconds_total counter\n"
        'pod_cpu_usage_seconds_total{namespace="b",pod="other"} 1\n'
        f"pod_cpu_usage_seconds_total{{{OWN}}} 2\n"
        f"pod_cpu_usage_seconds_total{{{OWN}}} 3\n"
        "# HELP pod_memory_working_set_bytes Memory.\n# TYPE pod_memory_working_set_bytes gauge\n"
        'pod_memory_working_set_bytes{namespace="b",pod="other"} 4\n'
        "# TYPE kubelet_running_pods gauge\nnode_cpu_usage_seconds_total 5\n"
    )
    expected = (
        "# HELP pod_cpu_usage_seconds_total CPU.\n# TYPE pod_cpu_usage_seconds_total counter\n"
        f"pod_cpu_usage_seconds_total{{{VIRTUAL}}} 2\n"
        f"pod_cpu_usage_seconds_total{{{VIRTUAL}}} 3\n"
        "node_cpu_usage_seconds_total 5\n"
    )
    assert expected == translated(page)


def test_a_line_that_was_cut_off_is_left_out() -> None:
    """The number of a last line without its end may be cut; the end mark is whole without."""
    assert translated("kubelet_running_pods 12\nkubelet_running_pods 1") == (
        "kubelet_running_pods 12\n"
    )
    assert translated("kubelet_running_pods 12\n# EOF") == "kubelet_running_pods 12\n# EOF\n"


@pytest.mark.parametrize(("more", "kept"), [(0, True), (1, False)], ids=["longest", "too long"])
@pytest.mark.parametrize("cut", [0, 5, MAX_LINE, MAX_LINE + 1])
def test_how_long_a_line_may_be(more: int, kept: bool, cut: int) -> None:
    """Up to the limit, it included; wherever the line is cut."""
    line = "kubelet_running_pods ".ljust(MAX_LINE + more - 1) + "2"
    assert translated(f"{line}\n", [cut]) == ("kubelet_running_pods 2\n" if kept else "")


@pytest.mark.parametrize("size", [1000, 100_000, 1_000_000])
def test_a_line_too_long_is_left_out_and_never_held(size: int) -> None:
    """However it is cut, a line over the limit vanishes, and what follows is read again."""
    head = f'container_memory_rss{{container="app",{OWN},image="'
    page = f'{head}{"x" * (MAX_LINE * 3)}"}} 1\nkubelet_running_pods 2\n'.encode()
    translation = Translation(World())
    out = b""
    for start in range(0, len(page), size):
        out += translation.feed(page[start : start + size])
        assert len(translation._rest) <= MAX_LINE + size
    assert out == b"kubelet_running_pods 2\n"


def test_escapes_are_written_as_they_were_read() -> None:
    """Backslashes, quotes and line ends in values come through; images are the tenant's words."""
    line = f'container_memory_rss{{container="app",image="a\\\\b\\"c\\nd",{OWN}}} 5\n'
    assert translated(line) == line.replace(OWN, VIRTUAL)


def test_names_of_metrics_are_bounded() -> None:
    """A name that no kubelet would write is not held, nor what it names shown."""
    name = "container_".ljust(256, "x")
    assert translated(f"{name}{{{OWN}}} 5\n") == f"{name}{{{VIRTUAL}}} 5\n"
    assert translated(f"{name}x{{{OWN}}} 5\n") == ""


def test_each_object_is_looked_up_once() -> None:
    """However many series name it: a container's are of some twenty kinds."""
    asked: list[tuple[str, ...]] = []

    class Counting(World):
        def pod(self, namespace: str, name: str) -> PodView | None:
            asked.append(("pod", namespace, name))
            return super().pod(namespace, name)

        def claim(self, namespace: str, name: str) -> Key | None:
            asked.append(("claim", namespace, name))
            return super().claim(namespace, name)

    translation = Translation(Counting())
    kept = b""
    for device in ("sda", "sdb"):
        claim = f'namespace="{HOST}",persistentvolumeclaim="{HOST_CLAIM}"'
        kept += translation.feed(
            f'container_fs_reads_total{{device="{device}",{OWN}}} 1\n'
            f'container_fs_reads_total{{device="{device}",namespace="x",pod="theirs"}} 1\n'
            f"kubelet_volume_stats_used_bytes{{{claim}}} 1\n"
            f"kubelet_volume_stats_used_bytes{{{claim},}} 1\n".encode()
        )
    assert kept.count(b"\n") == 6
    assert sorted(asked) == [
        ("claim", HOST, HOST_CLAIM),
        ("pod", HOST, HOST_POD),
        ("pod", "x", "theirs"),
    ]


def test_what_is_remembered_is_bounded() -> None:
    """Labels are remembered by the thousand, not without end."""
    translation = Translation(World())
    for number in range(5000):
        translation.feed(b'kubelet_evictions{eviction_signal="%d"} 1\n' % number)
    assert len(translation._known) <= 2048


@pytest.mark.parametrize(
    ("name", "hardware"),
    [
        ("eth0", True), ("ens5", True), ("enp1s0f0np0", True), ("enP49722s1", True),
        ("bond0.100", True), ("br-ex", True), ("eni0123456789a", False), ("veth0a1b2c3", False),
        ("cali0123456789a", False), ("lxc0123456789ab", False), ("br-0123456789ab", False),
        ("", False),
    ],
)  # fmt: skip
def test_interfaces_of_the_machine_are_told_from_those_of_pods(name: str, hardware: bool) -> None:
    """The host's end of a pod's network is named after the pod and counts its bytes."""
    assert is_hardware_interface(name) is hardware


# -- properties ------------------------------------------------------------------------------

SECRETS = (
    HOST, HOST_UID, under(HOST_UID), OTHER_UID, under(OTHER_UID), "tenant-b", "x-default-x-vc",
    "secret",
)  # fmt: skip

namespaces = st.sampled_from([HOST, "tenant-b", f"{HOST}-b", "", "tenant-b\\\\", '\\"tenant-b'])
pod_names = st.sampled_from(
    [HOST_POD, f"{HOST_POD}c", "secret", "", "secret\\n", f'{HOST_POD}\\"', "web"]
)
containers = st.sampled_from(["app", "init", "secret-proxy", "", "POD"])
uids = st.sampled_from([HOST_UID, OTHER_UID, OTHER_UID.upper(), ""])
cgroups = st.one_of(
    st.sampled_from(["/", "", "/kubepods", "/system.slice/secret.service", f"/{HOST}/secret"]),
    st.builds("/kubepods/burstable/pod{}".format, uids),
    st.builds(lambda uid: f"{SLICE}{under(uid)}.slice/cri-{CID}.scope", uids),
    st.builds("/{0}/kubepods/pod{1}".format, st.sampled_from(["secret", OTHER_UID]), uids),
)
runtime_names = st.sampled_from([CID, "", f"k8s_app_{HOST_POD}_{HOST}_{HOST_UID}_1", "secret"])
devices = st.sampled_from(
    ["/dev/sda1", "overlay_0-123", "/var/secret", f"/dev/mapper/pvc-{OTHER_UID}", "secret-mount"]
)
LABELS = {
    "namespace": namespaces,
    "pod": pod_names,
    "container": containers,
    "id": cgroups,
    "name": runtime_names,
    "uid": uids,
    "pod_uid": uids,
    "device": devices,
    "persistentvolumeclaim": st.sampled_from([HOST_CLAIM, "secret", f"{HOST_CLAIM}c"]),
    "container_label_secret": st.just("secret"),
    "owner": st.just("secret"),
}
METRICS = [
    "container_memory_rss", "container_fs_usage_bytes", "pod_cpu_usage_seconds_total",
    "prober_probe_total", "kubelet_volume_stats_used_bytes", "kubelet_running_pods", "secret",
    "kubelet_container_log_filesystem_used_bytes", "node_cpu_usage_seconds_total",
]  # fmt: skip


OWN_LABELS = {"namespace": HOST, "pod": HOST_POD}
OWN_CONTAINER = {
    **OWN_LABELS,
    "container": "app",
    "id": f"{SLICE}{under(HOST_UID)}.slice/cri-containerd-{CID}.scope",
    "image": 'a\\"b',
    "name": CID,
}
OWN_SERIES = [
    ("container_memory_rss", OWN_CONTAINER),
    ("container_fs_usage_bytes", {"device": "/dev/sda1", **OWN_CONTAINER}),
    ("container_cpu_usage_seconds_total", {**OWN_LABELS, "container": "init"}),
    ("pod_swap_usage_bytes", OWN_LABELS),
    ("prober_probe_total", {"container": "app", **OWN_LABELS, "pod_uid": HOST_UID}),
]
own_series = st.builds(
    lambda series, order: (
        series[0],
        {name: series[1][name] for name in order if name in series[1]},
    ),
    st.sampled_from(OWN_SERIES),
    st.permutations(sorted({name for _, labels in OWN_SERIES for name in labels})),
)


@st.composite
def pages(draw: st.DrawFn) -> list[tuple[str, dict[str, str]]]:
    """Give series as a kubelet might write them: ours, with some labels of others or none."""
    hostile = st.dictionaries(st.sampled_from(sorted(LABELS)), st.just(""), max_size=2)
    foreign = st.tuples(st.sampled_from(METRICS), st.just({"namespace": HOST}))
    page = []
    for _ in range(draw(st.integers(0, 6))):
        metric, labels = draw(own_series | foreign)
        page.append((metric, labels | {name: draw(LABELS[name]) for name in draw(hostile)}))
    return page


def written(page: list[tuple[str, dict[str, str]]]) -> str:
    """Write series with their place as their value, each after a help of its own."""
    lines = []
    for place, (metric, labels) in enumerate(page):
        pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
        lines.append(f"# HELP {metric} Words.\n{metric}{{{pairs}}} {place}\n")
    return "".join(lines)


@given(pages(), st.lists(st.integers(0, 2000)))
def test_nothing_of_others_or_of_the_host_ever_comes_out(
    page: list[tuple[str, dict[str, str]]], cuts: list[int]
) -> None:
    """Whatever series there are and however they are cut: no foreign or host name, no such UID."""
    text = written(page)
    out = translated(text)
    assert out == translated(text, [cut for cut in cuts if cut <= len(text)])
    lowered = out.lower()
    assert [secret for secret in SECRETS if secret in lowered] == []
    list(text_string_to_metric_families(out))


@given(st.lists(own_series), pages())
def test_all_of_the_tenants_own_series_are_kept_with_their_values(
    own: list[tuple[str, dict[str, str]]], others: list[tuple[str, dict[str, str]]]
) -> None:
    """Between whatever else, each comes out once, in order, under the virtual name."""
    out = translated(written(own + others))
    samples = [
        sample
        for family in text_string_to_metric_families(out)
        for sample in family.samples
        if sample.value < len(own)
    ]
    assert [float(place) for place in range(len(own))] == sorted(one.value for one in samples)
    for sample in samples:
        assert (sample.labels["namespace"], sample.labels["pod"]) == ("default", "web")
        assert sample.labels.get("pod_uid", UID) == UID


@given(st.binary(max_size=300), st.lists(st.integers(0, 300)))
def test_any_bytes_are_read_to_the_same_end_however_cut(page: bytes, cuts: list[int]) -> None:
    """Nonsense is left out without an exception."""
    assert translated(page) == translated(page, [cut for cut in cuts if cut <= len(page)])
