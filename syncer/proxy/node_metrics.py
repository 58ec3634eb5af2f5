"""What a host's kubelet measures, as Prometheus text, in the tenant's terms and of its own only.

:class:`Translation` is fed the bytes of ``/metrics``, ``/metrics/cadvisor``, ``/metrics/resource``
or ``/metrics/probes`` as they come and gives the bytes that the tenant may read. It does no I/O,
and :class:`Lookup` is all it knows of the cluster.

Invariants:
* a metric, and each of its labels, is let through because a rule names it, never for lack of an
  objection: metrics and labels of kubelets to come are left out until they are decided on here;
* a series that names a pod, claim or UID is the tenant's, in virtual names, or is left out; a pod
  of the same name but another UID is another pod;
* containers that the tenant's pod does not have (sidecars that the host injected) are left out;
  they are part of the sums of their pod;
* how the input is cut does not matter, and no more than :data:`MAX_LINE` of it is held back.

What of the node itself is seen: sums over the node and its QoS classes, the machine's make, and
the kubelet's counts and times. What is not: single host services (other cgroups), the host's side
of pods' network interfaces, mount points and volumes as devices (their names hold pods' and
claims' UIDs), the machine's identity, addresses of API servers, storage drivers and plugins that
are no part of Kubernetes, the kubelet's certificates, requests and queues.

Source: k8s.io/kubernetes v1.36.3 ``test/instrumentation/documentation`` (metrics and labels of
the kubelet), ``pkg/kubelet/server/server.go`` (labels of cadvisor's series), ``pkg/kubelet/cm``
(names of cgroups); google/cadvisor ``metrics/prometheus.go``, ``prometheus_machine.go``; text
format: https://prometheus.io/docs/instrumenting/exposition_formats/. vcluster v0.16
``pkg/metrics`` keeps every series that names no pod and no claim, and every container.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Final, Protocol, TypeAlias

from syncer.objects import Key

MAX_LINE: Final = 64 * 1024
"""Bytes that a line may have; longer ones are left out. Kubelets write some hundreds."""

_MAX_METRIC: Final = 256
"""Bytes that a metric's name may have: rules are remembered by it."""

_MAX_KNOWN: Final = 2048
_MAX_KNOWN_LABELS: Final = 2048
"""Bytes of labels up to which a translation is remembered, and how many are: 8 MB at the worst."""


class HostAnswerError(ValueError):
    """What the host answered can't be read; the text says which answer."""


@dataclass(frozen=True, slots=True)
class PodView:
    """What is known of a tenant's pod that runs on the host.

    Attributes:
        namespace: of the virtual pod.
        name: of the virtual pod.
        uid: of the virtual pod.
        host_uid: of its host pod.
        containers: names of the virtual pod's containers, init and ephemeral ones too.
        volumes: names of the virtual pod's volumes.
        labels: of the virtual pod.
    """

    namespace: str
    name: str
    uid: str
    host_uid: str
    containers: frozenset[str] = frozenset()
    volumes: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)


class Lookup(Protocol):
    """Says which virtual object a host object stands for; only the tenant's own are found."""

    def pod(self, namespace: str, name: str) -> PodView | None:
        """Give the tenant's pod by its host namespace and host name, or ``None``."""

    def claim(self, namespace: str, name: str) -> Key | None:
        """Give the tenant's claim by its host namespace and host name, or ``None``."""


# -- what may be seen ------------------------------------------------------------------------


class _Subject(Enum):
    NODE = auto()
    """The node as a whole: nothing but plain labels."""
    POD = auto()
    """A pod, by ``namespace`` and ``pod``."""
    CLAIM = auto()
    """A claim, by ``namespace`` and ``persistentvolumeclaim``."""
    CGROUP = auto()
    """A pod, or else, by ``id``, the node and its QoS classes."""


@dataclass(frozen=True, slots=True, eq=False)
class _Rule:
    """What a metric is about and which further labels, of plain values, it may have."""

    subject: _Subject
    labels: frozenset[str] = frozenset()


_BUCKETS: Final = frozenset({"le", "quantile"})
_MACHINE_IDENTITY: Final = frozenset({"boot_id", "machine_id", "system_uuid"})
_COPIED_LABELS: Final = ("label_", "container_label_", "container_env_")
"""Starts of labels that repeat a pod's labels or a container's environment, in host terms."""


def _rule(subject: _Subject, labels: str = "") -> _Rule:
    return _Rule(subject, frozenset(labels.split()) | _BUCKETS)


_CGROUP: Final = _rule(
    _Subject.CGROUP,
    "cpu state pagesize failure_type scope type node node_id device major minor operation "
    "interface tcp_state udp_state ulimit event socket pmu",
)
_PREFIXES: Final = (
    (b"container_", _CGROUP),
    (b"pod_", _rule(_Subject.POD)),
    (b"machine_", _rule(_Subject.NODE, "type mode level node_id core_id thread_id page_size "
                                       "target_node_id boot_id machine_id system_uuid")),
    (b"go_", _rule(_Subject.NODE, "version")),
    (b"process_", _rule(_Subject.NODE)),
)  # fmt: skip

_NODE_METRICS: Final = {
    "": """
        node_cpu_usage_seconds node_memory_working_set_bytes node_swap_usage_bytes
        scrape_error resource_scrape_error container_scrape_error kubelet_cgroup_version
        kubelet_containers_per_pod_count kubelet_cpu_manager_exclusive_cpu_allocation_count
        kubelet_cpu_manager_pinning_errors kubelet_cpu_manager_pinning_requests
        kubelet_cpu_manager_shared_pool_size_millicores kubelet_evented_pleg_connection_error_count
        kubelet_evented_pleg_connection_latency_seconds
        kubelet_evented_pleg_connection_success_count kubelet_graceful_shutdown_end_time_seconds
        kubelet_graceful_shutdown_start_time_seconds kubelet_image_volume_mounted_errors
        kubelet_image_volume_mounted_succeed kubelet_image_volume_requested
        kubelet_lifecycle_handler_http_fallbacks kubelet_managed_ephemeral_containers
        kubelet_memory_manager_pinning_errors kubelet_memory_manager_pinning_requests
        kubelet_mirror_pods kubelet_node_startup_duration_seconds
        kubelet_node_startup_post_registration_duration_seconds
        kubelet_node_startup_pre_kubelet_duration_seconds
        kubelet_node_startup_pre_registration_duration_seconds
        kubelet_node_startup_registration_duration_seconds kubelet_orphan_pod_cleaned_volumes
        kubelet_orphan_pod_cleaned_volumes_errors kubelet_orphaned_runtime_pods
        kubelet_pleg_discard_events kubelet_pleg_last_seen_seconds
        kubelet_pleg_relist_duration_seconds kubelet_pleg_relist_interval_seconds
        kubelet_pod_in_progress_resizes kubelet_pod_start_duration_seconds
        kubelet_pod_start_total_duration_seconds kubelet_pod_status_sync_duration_seconds
        kubelet_pod_worker_start_duration_seconds kubelet_running_pods
        kubelet_sleep_action_terminated_early kubelet_started_pods kubelet_started_pods_errors
        kubelet_started_user_namespaced_pods kubelet_started_user_namespaced_pods_errors
        kubelet_topology_manager_admission_duration_ms kubelet_topology_manager_admission_errors
        kubelet_topology_manager_admission_requests force_cleaned_failed_volume_operation_errors
        force_cleaned_failed_volume_operations reconstruct_volume_operations_errors
        reconstruct_volume_operations disabled_metrics hidden_metrics
    """,
    "access_mode volume_plugin": """
        volume_manager_selinux_container_errors volume_manager_selinux_container_warnings
        volume_manager_selinux_pod_context_mismatch_errors
        volume_manager_selinux_pod_context_mismatch_warnings
        volume_manager_selinux_volume_context_mismatch_errors
        volume_manager_selinux_volume_context_mismatch_warnings
        volume_manager_selinux_volumes_admitted
    """,
    "boundary scope": """
        kubelet_container_aligned_compute_resources_count
        kubelet_container_aligned_compute_resources_failure_count
    """,
    "build_date compiler git_commit git_tree_state git_version go_version major minor platform": """
        kubernetes_build_info
    """,
    "cadvisorRevision cadvisorVersion dockerVersion kernelVersion osVersion": """
        cadvisor_version_info
    """,
    "code container_type": """
        kubelet_started_containers kubelet_started_containers_errors
        kubelet_started_host_process_containers kubelet_started_host_process_containers_errors
    """,
    "config lifecycle static": """
        kubelet_active_pods kubelet_desired_pods kubelet_restarted_pods kubelet_working_pods
    """,
    "container_state": "kubelet_running_containers",
    "deprecated_version stability_level": "registered_metrics",
    "eviction_signal preemption_signal": """
        kubelet_evictions kubelet_eviction_stats_age_seconds kubelet_preemptions
    """,
    "first_with_network": "kubelet_pod_start_sli_duration_seconds",
    "image_size_in_bytes": "kubelet_image_pull_duration_seconds",
    "metric_source": "kubelet_volume_metric_collection_duration_seconds",
    "migrated operation_name status volume_plugin plugin_name": """
        storage_operation_duration_seconds volume_operation_total_seconds
    """,
    "name stage": "kubernetes_feature_enabled",
    "node": "kubelet_node_name",
    "numa_node": "kubelet_cpu_manager_allocation_per_numa",
    "operation requirement resource": "kubelet_container_requested_resizes",
    "operation_type": """
        kubelet_cgroup_manager_duration_seconds kubelet_pod_worker_duration_seconds
        kubelet_runtime_operations_duration_seconds kubelet_runtime_operations_errors
        kubelet_runtime_operations
    """,
    "plugin_name state": "volume_manager_total_volumes",
    "provider": "kubelet_metrics_provider",
    "reason reason_detail retry_trigger success": """
        kubelet_admission_rejections kubelet_image_garbage_collected
        kubelet_pod_deferred_accepted_resizes kubelet_pod_infeasible_resizes
        kubelet_pod_pending_resizes kubelet_pod_resize_duration_milliseconds
    """,
}
"""Labels, and the node's metrics that may have them; names without ``_total`` and the like."""

_OWN_METRICS: Final = (
    (_Subject.POD, "", "kubelet_container_log_filesystem_used_bytes"),
    (_Subject.POD, "probe_type result", "prober_probe prober_probe_duration_seconds"),
    (
        _Subject.CLAIM,
        "",
        """
        kubelet_volume_stats_available_bytes kubelet_volume_stats_capacity_bytes
        kubelet_volume_stats_health_status_abnormal kubelet_volume_stats_inodes
        kubelet_volume_stats_inodes_free kubelet_volume_stats_inodes_used
        kubelet_volume_stats_used_bytes
        """,
    ),
)
"""The metrics by name that are about one object: what they name it by, and plain labels."""

_SUFFIXES: Final = (b"", b"_total", b"_bucket", b"_sum", b"_count", b"_created")


def _families() -> dict[bytes, _Rule]:
    """Give the rule of each metric that is listed by name."""
    rules = {
        name.encode(): rule
        for labels, names in _NODE_METRICS.items()
        for rule in [_rule(_Subject.NODE, labels)]
        for name in names.split()
    }
    for subject, labels, names in _OWN_METRICS:
        rules.update(dict.fromkeys(names.encode().split(), _rule(subject, labels)))
    return rules


_FAMILIES: Final = _families()


@lru_cache(maxsize=4096)
def _rule_of(metric: bytes) -> _Rule | None:
    """Give the rule of a metric, or ``None``: it is not shown."""
    for suffix in _SUFFIXES:
        if rule := _FAMILIES.get(metric.removesuffix(suffix)):
            return rule
    return next((rule for prefix, rule in _PREFIXES if metric.startswith(prefix)), None)


# -- values ----------------------------------------------------------------------------------

_PLAIN: Final = re.compile(r"[A-Za-z0-9 _.:/+()*-]{0,128}")
_UID: Final = re.compile(
    r"[0-9a-f]{8}([-_]{1,2})[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{4}\1[0-9a-f]{12}"
    r"|(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])",
    re.IGNORECASE,
)
_UID_LENGTH: Final = 32
_RUNTIME_ID: Final = re.compile(r"[0-9a-f]{64}")
_HARDWARE_INTERFACE: Final = re.compile(
    r"(?:(?:eth|bond|team|ib|wlan|br|vmbr)[0-9]{1,3}|(?:en|wl)[opsP][A-Za-z0-9]{1,12})"
    r"(?:\.[0-9]{1,4})?|br-ex"
)
"""Interfaces of a machine; the others are made for pods, by names that follow from theirs."""
_IN_TREE_PLUGIN: Final = re.compile(r"(?:kubernetes\.io/[a-z-]{1,40})?")
_VALUES: Final = {
    "device": re.compile(r"(?:/dev/)?[a-z][a-z0-9]{0,15}(?:_[0-9]{1,6}-[0-9]{1,6})?|"),
    "volume_plugin": _IN_TREE_PLUGIN,
    "plugin_name": _IN_TREE_PLUGIN,
    "le": re.compile(r"[-+]?(?:[0-9.]+(?:e[-+]?[0-9]+)?|Inf)"),
}

_QOS_CGROUP: Final = (
    r"(?:/kubelet(?:\.slice)?)?(?:/(?:kubelet-)?kubepods(?:\.slice)?"
    r"(?:/(?:(?:kubelet-)?kubepods-)?(?:besteffort|burstable)(?:\.slice)?)?)?"
)
_NODE_CGROUP: Final = re.compile(rf"/|(?!\Z){_QOS_CGROUP}")
_POD_CGROUP: Final = re.compile(
    rf"({_QOS_CGROUP}/(?:(?:kubelet-)?kubepods-)?(?:(?:besteffort|burstable)-)?pod)"
    r"([0-9A-Fa-f_-]{32,40})"
    r"((?:\.slice)?(?:/[a-z:-]{0,40}[0-9a-f]{64}(?:\.scope)?(?:/container)?)?)"
)
"""A pod's cgroup or one in it, by either driver, alone or below a kubelet's own (kind)."""

_SANDBOX: Final = ("", "POD")
"""What the ``container`` label says of a pod as a whole."""

Labels: TypeAlias = dict[str, str]
FindPod: TypeAlias = Callable[[str, str], PodView | None]
FindClaim: TypeAlias = Callable[[str, str], Key | None]


def is_hardware_interface(name: str) -> bool:
    """Say whether a node's network interface is the machine's, not made for some pod.

    Args:
        name: such as ``eth0``, ``enp3s0``; ``cali0a1b2c3d4e5`` is a pod's.
    """
    return _HARDWARE_INTERFACE.fullmatch(name) is not None


def _is_plain(name: str, value: str) -> bool:
    """Say whether a label's value is one of a kubelet's own words, with nobody's UID in it."""
    form = _VALUES.get(name, _PLAIN)
    return bool(form.fullmatch(value)) and (len(value) < _UID_LENGTH or not _UID.search(value))


def _are_plain(labels: Labels, rule: _Rule) -> bool:
    return all(name in rule.labels and _is_plain(name, value) for name, value in labels.items())


# -- series ----------------------------------------------------------------------------------


def _node(labels: Labels, rule: _Rule) -> Labels | None:
    """Give the labels of a series about the node, or ``None``."""
    kept = {name: value for name, value in labels.items() if name not in _MACHINE_IDENTITY}
    return kept if _are_plain(kept, rule) else None


def _claim(labels: Labels, rule: _Rule, claim: FindClaim) -> Labels | None:
    """Give the labels of a series about a claim in virtual terms, or ``None``."""
    rest = dict(labels)
    namespace, name = rest.pop("namespace", ""), rest.pop("persistentvolumeclaim", "")
    key = claim(namespace, name) if namespace and name else None
    if key is None or not _are_plain(rest, rule):
        return None
    return {**labels, "namespace": key.namespace, "persistentvolumeclaim": key.name}


def _cgroup(labels: Labels, rule: _Rule, pod: FindPod) -> Labels | None:
    """Give the labels of a series about a cgroup: a pod's, or one of all pods or the node."""
    if any(labels.get(name) for name in ("namespace", "pod", "container")):
        return _pod(labels, rule, pod)
    rest = {name: value for name, value in labels.items() if not name.startswith(_COPIED_LABELS)}
    for name in ("namespace", "pod", "container"):
        rest.pop(name, None)
    nothing = rest.pop("image", "") + rest.pop("name", "")
    if nothing or not _NODE_CGROUP.fullmatch(rest.pop("id", "")) or not _are_plain(rest, rule):
        return None
    if "interface" in rest and not is_hardware_interface(rest["interface"]):
        return None
    return {name: value for name, value in labels.items() if not name.startswith(_COPIED_LABELS)}


def _pod(labels: Labels, rule: _Rule, pod: FindPod) -> Labels | None:
    """Give the labels of a series about a pod in virtual terms, or ``None``."""
    namespace, name = labels.get("namespace"), labels.get("pod")
    view = pod(namespace, name) if namespace and name else None
    if view is None:
        return None
    container = labels.get("container", "")
    if container not in _SANDBOX and container not in view.containers:
        return None
    kept: Labels = {}
    for label, value in labels.items():
        if label.startswith(_COPIED_LABELS):
            continue
        translated = _pod_value(label, value, container, view)
        if translated is None and label in rule.labels and _is_plain(label, value):
            translated = value
        if translated is None:
            return None
        kept[label] = translated
    return kept


def _pod_value(label: str, value: str, container: str, view: PodView) -> str | None:
    """Translate one of the labels that say which pod it is.

    Returns:
        The virtual value, ``""`` for what can't be told; ``None`` when it is no such label, or
        tells that the pod is not this one.
    """
    match label:
        case "namespace":
            return view.namespace
        case "pod":
            return view.name
        case "container":
            return value
        case "uid" | "pod_uid":
            return view.uid if value == view.host_uid else None
        case "id":
            return _cgroup_path(value, view)
        case "name":
            return value if _RUNTIME_ID.fullmatch(value) else ""
        case "image":
            return "" if container in _SANDBOX else value
        case _:
            return None


def _cgroup_path(path: str, view: PodView) -> str | None:
    """Put the virtual pod's UID into a cgroup's path.

    Returns:
        The path; ``""`` when its form is not known; ``None`` when it is another pod's.
    """
    if found := _POD_CGROUP.fullmatch(path):
        before, uid, after = found.groups()
        if uid.replace("_", "-") == view.host_uid:
            return before + (view.uid.replace("-", "_") if "_" in uid else view.uid) + after
        return None
    if view.host_uid in path.replace("_", "-"):
        return ""
    return None if _UID.search(path) else ""


# -- text ------------------------------------------------------------------------------------

_NUMBER: Final = rb"[-+]?(?:[0-9]++(?:\.[0-9]*+)?(?:[eE][-+]?[0-9]++)?|[Ii]nf|[Nn]a[Nn])"
_SAMPLE: Final = re.compile(
    rb"([A-Za-z_:][A-Za-z0-9_:]*+)[ \t]*+"
    rb'(?:\{((?:[^"}]++|"(?:[^"\\]++|\\.)*+")*+)\}[ \t]*+)?'
    rb"(?<=[ \t}])(%b(?:[ \t]++%b)?)[ \t]*+(?:#.*+)?" % (_NUMBER, _NUMBER)
)
"""Metric, labels, value with timestamp; an exemplar behind them (it may name anything) is cut."""
_COMMENT: Final = re.compile(rb"#[ \t]+(?:HELP|TYPE|UNIT)[ \t]+([A-Za-z_:][A-Za-z0-9_:]*)\b.*")
_LABEL: Final = re.compile(
    r'[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]++|\\[\\"n])*+)"[ \t]*(?:,|\Z)'
)
_ESCAPE: Final = re.compile(r"\\(.)")
_EOF: Final = b"# EOF"


def _read_labels(section: bytes) -> Labels | None:
    """Read what stands between the braces; ``None`` when it is not well-formed."""
    try:
        text = section.decode().strip(" \t")
    except UnicodeDecodeError:
        return None
    labels: Labels = {}
    place = 0
    while place < len(text):
        found = _LABEL.match(text, place)
        if found is None or found[1] in labels:
            return None
        value = found[2]
        if "\\" in value:
            value = _ESCAPE.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], value)
        labels[found[1]] = value
        place = found.end()
    return labels


def _write_labels(labels: Labels) -> bytes:
    """Write labels with their braces; nothing for none."""
    if not labels:
        return b""
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}".encode()


def _escaped(value: str) -> str:
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return value


class Translation:
    """Translates one answer of a kubelet, in Prometheus' text format or OpenMetrics'.

    Help and type of a metric are given with the first series of it that is kept. A last line
    without its end is left out: its number may have been cut.
    """

    def __init__(self, lookup: Lookup) -> None:
        """Begin an answer.

        Args:
            lookup: whose pods and claims may be seen; each is asked for once, as long as there are
                no more than :data:`_MAX_KNOWN`.
        """
        self._pod = lru_cache(maxsize=_MAX_KNOWN)(lookup.pod)
        self._claim = lru_cache(maxsize=_MAX_KNOWN)(lookup.claim)
        self._rest = b""
        """The start of a line whose end has not come; at most :data:`MAX_LINE`."""
        self._skipping = False
        """Whether what comes is part of a line that is too long."""
        self._family = b""
        self._heading: list[bytes] = []
        """Comments on ``_family`` that no series has followed yet."""
        self._known: dict[tuple[_Rule, bytes], bytes | None] = {}
        """Labels as they came, translated: each container's recur in a hundred metrics."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the answer and give what follows from them for the tenant."""
        if self._skipping:
            _, newline, chunk = chunk.partition(b"\n")
            if not newline:
                return b""
            self._skipping = False
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE:
            self._rest, self._skipping = b"", True
        kept: list[bytes] = []
        for line in lines:
            if len(line) <= MAX_LINE:
                self._line(line, kept)
        if not kept:
            return b""
        kept.append(b"")
        return b"\n".join(kept)

    def close(self) -> bytes:
        """Say that the answer has ended; gives the last bytes for the tenant."""
        rest, self._rest = self._rest, b""
        return _EOF + b"\n" if rest == _EOF else b""

    def _line(self, line: bytes, kept: list[bytes]) -> None:
        """Add to ``kept`` what the tenant may see of a line."""
        found = _SAMPLE.fullmatch(line)
        if found is None:
            if line[:1] == b"#":
                self._comment(line, kept)
            return
        metric, section, number = found.groups(b"")
        rule = _rule_of(metric) if len(metric) <= _MAX_METRIC else None
        if rule is None:
            return
        try:
            labels = self._known[rule, section]
        except KeyError:
            labels = self._translate(rule, section)
        if labels is None:
            return
        if self._heading:
            if metric.removeprefix(self._family) in _SUFFIXES:
                kept += self._heading
            self._heading = []
        kept.append(metric + labels + b" " + number)

    def _comment(self, line: bytes, kept: list[bytes]) -> None:
        """Hold a metric's help, type or unit until a series of it is kept."""
        if line == _EOF:
            kept.append(line)
            return
        found = _COMMENT.fullmatch(line)
        family = found[1] if found else b""
        if family != self._family:
            self._family, self._heading = family, []
        if family and len(self._heading) < 3:
            self._heading.append(line)

    def _translate(self, rule: _Rule, section: bytes) -> bytes | None:
        """Translate labels and remember what became of them; ``None``: not to be seen."""
        labels = _read_labels(section)
        kept = None if labels is None else self._visible(labels, rule)
        result = None if kept is None else _write_labels(kept)
        if len(section) <= _MAX_KNOWN_LABELS:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[rule, section] = result
        return result

    def _visible(self, labels: Labels, rule: _Rule) -> Labels | None:
        match rule.subject:
            case _Subject.NODE:
                return _node(labels, rule)
            case _Subject.CLAIM:
                return _claim(labels, rule, self._claim)
            case _Subject.CGROUP:
                return _cgroup(labels, rule, self._pod)
            case _Subject.POD:
                return _pod(labels, rule, self._pod)
