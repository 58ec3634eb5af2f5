"""Command lines of the components and the files they read: pure functions of a plane's layout.

Paths are relative to the plane's directory, the working directory of every component, so that
sockets stay within the 107 bytes a Unix socket's path may have.
"""

import string
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from controlplane.certificates import Pair
from controlplane.ports import LOOPBACK
from controlplane.tools import Tools

NODE_CONTROLLERS = (
    "node-ipam-controller",
    "node-lifecycle-controller",
    "cloud-node-lifecycle-controller",
    "ttl-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
)
"""Controllers that a virtual plane goes without: they act on nodes or volumes, the host's job."""

_KINE_SOCKET = "kine.sock"
_EGRESS_SOCKET = "egress.sock"
_EGRESS_CONFIG = "egress.yaml"
_ADVERTISED = "192.0.2.1"  # documentation range: an Endpoints object may not hold a loopback IP
_POD_CIDR = "10.245.0.1/16"  # for nodes that tests add without a range of their own
_KWOK_DATA = Path(__file__).parent / "kwok"
_CLIENT_QPS = 500  # the controllers' own client limit would throttle tests and benchmarks
_METRIC_RESOLUTION = 10  # seconds between looks at the nodes; metrics-server takes no less
_KUBELET_TIMEOUT = 5  # seconds; a node that is reached through the egress only does not answer it
DATABASE = "state.db"
"""Name of kine's file."""
POD_LOG = "pod.log"
"""Name of the file that every fake pod's log is read from."""
NODE_METRICS = "/metrics/nodes/{nodeName}/metrics/resource"
"""Path at kwok of what a kubelet has at `/metrics/resource`; `node-0` has it there, too."""
EGRESS = "egress"
"""Name of the directory that says where addresses lead; see egress_proxy.py."""


@dataclass(frozen=True)
class Settings:
    """What may differ between planes.

    Attributes:
        service_cidr: range of service IPs; a virtual plane takes its host's.
        compact_interval: Go duration between kine's own compactions; "0s" leaves them to the API
            server (every five minutes). To make history expire, so that clients meet 410: restart
            kube-apiserver, which forgets what watches could resume from; lists by pages expire
            when moreover kine has compacted ("1s" and `compact_min_retain=1` see to that).
        compact_min_retain: revisions that kine keeps when it compacts.
        api_server_flags: further flags of kube-apiserver; a repeated flag overrides ours.
        controller_manager_flags: the same for kube-controller-manager.
    """

    service_cidr: str = "10.96.0.0/16"
    compact_interval: str = "0s"
    compact_min_retain: int = 1000
    api_server_flags: Sequence[str] = ()
    controller_manager_flags: Sequence[str] = ()


def kine(tools: Tools, settings: Settings) -> list[str]:
    """Return kine's command: an etcd on SQLite."""
    # No fsync: a killed process loses nothing by it, only a machine that loses power does.
    database = (
        f"sqlite://{DATABASE}?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate"
    )
    return [
        str(tools.kine),
        f"--listen-address=unix://{_KINE_SOCKET}",
        f"--endpoint={database}&_synchronous=OFF",
        "--metrics-bind-address=0",
        f"--compact-interval={settings.compact_interval}",
        f"--compact-min-retain={settings.compact_min_retain}",
    ]


def kine_probe() -> str:
    """Return what tells that kine is ready."""
    return f"unix:{_KINE_SOCKET}"


def egress_proxy() -> list[str]:
    """Return the command of the proxy through which the API server reaches the cluster."""
    script = Path(__file__).with_name("egress_proxy.py")
    return [sys.executable, "-I", "-S", str(script), _EGRESS_SOCKET, EGRESS]


def egress_probe() -> str:
    """Return what tells that the proxy is ready."""
    return f"unix:{_EGRESS_SOCKET}"


def write_egress_config(directory: Path) -> None:
    """Write `egress.yaml`: what the API server dials in the cluster goes through the proxy."""
    (directory / _EGRESS_CONFIG).write_text(
        "apiVersion: apiserver.k8s.io/v1beta1\n"
        "kind: EgressSelectorConfiguration\n"
        "egressSelections:\n"
        "  - name: cluster\n"
        "    connection:\n"
        "      proxyProtocol: HTTPConnect\n"
        f"      transport: {{uds: {{udsName: {_EGRESS_SOCKET}}}}}\n"
    )


def api_server(tools: Tools, settings: Settings, port: int, *, virtual: bool) -> list[str]:
    """Return kube-apiserver's command."""
    issuer = "https://kubernetes.default.svc.cluster.local"
    command = [
        str(tools.kube_apiserver),
        f"--etcd-servers=unix://{_KINE_SOCKET}",
        f"--bind-address={LOOPBACK}",
        f"--advertise-address={_ADVERTISED}",
        f"--secure-port={port}",
        f"--service-cluster-ip-range={settings.service_cidr}",
        "--allow-privileged=true",
        f"--egress-selector-config-file={_EGRESS_CONFIG}",
        "--authorization-mode=Node,RBAC",
        "--client-ca-file=pki/client-ca.crt",
        "--tls-cert-file=pki/kube-apiserver.crt",
        "--tls-private-key-file=pki/kube-apiserver.key",
        f"--service-account-issuer={issuer}",
        "--service-account-key-file=pki/service-account.pub",
        "--service-account-signing-key-file=pki/service-account.key",
        # Any certificate of this authority may speak for a user: the syncer's proxy will.
        "--requestheader-client-ca-file=pki/request-header-ca.crt",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--proxy-client-cert-file=pki/front-proxy.crt",
        "--proxy-client-key-file=pki/front-proxy.key",
        "--kubelet-certificate-authority=pki/server-ca.crt",
        "--kubelet-client-certificate=pki/kubelet-client.crt",
        "--kubelet-client-key=pki/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP,Hostname",
    ]
    if virtual:
        command += [
            # The syncer makes the endpoints of default/kubernetes and renews short-lived tokens.
            "--endpoint-reconciler-type=none",
            "--service-account-extend-token-expiration=false",
        ]
    return [*command, *settings.api_server_flags]


def controller_manager(tools: Tools, settings: Settings, port: int, *, virtual: bool) -> list[str]:
    """Return kube-controller-manager's command."""
    without = NODE_CONTROLLERS if virtual else ()
    return [
        str(tools.kube_controller_manager),
        "--kubeconfig=controller-manager.kubeconfig",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        "--tls-cert-file=pki/kube-controller-manager.crt",
        "--tls-private-key-file=pki/kube-controller-manager.key",
        "--leader-elect=false",
        "--controllers=" + ",".join(["*", *(f"-{name}" for name in without)]),
        "--root-ca-file=pki/server-ca.crt",
        "--service-account-private-key-file=pki/service-account.key",
        "--cluster-signing-cert-file=pki/client-ca.crt",
        "--cluster-signing-key-file=pki/client-ca.key",
        f"--service-cluster-ip-range={settings.service_cidr}",
        f"--kube-api-qps={_CLIENT_QPS}",
        f"--kube-api-burst={2 * _CLIENT_QPS}",
        *settings.controller_manager_flags,
    ]


def scheduler(tools: Tools, port: int) -> list[str]:
    """Return kube-scheduler's command."""
    return [
        str(tools.kube_scheduler),
        "--config=scheduler.yaml",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        "--tls-cert-file=pki/kube-scheduler.crt",
        "--tls-private-key-file=pki/kube-scheduler.key",
    ]


def write_scheduler_config(directory: Path) -> None:
    """Write `scheduler.yaml`, since the client limits are no flags any more."""
    (directory / "scheduler.yaml").write_text(
        "apiVersion: kubescheduler.config.k8s.io/v1\n"
        "kind: KubeSchedulerConfiguration\n"
        "leaderElection: {leaderElect: false}\n"
        "clientConnection:\n"
        "  kubeconfig: scheduler.kubeconfig\n"
        f"  qps: {_CLIENT_QPS}\n"
        f"  burst: {2 * _CLIENT_QPS}\n"
    )


def kwok(tools: Tools, port: int) -> list[str]:
    """Return kwok's command: the fake kubelets, all on one port."""
    return [
        str(tools.kwok),
        "--kubeconfig=admin.kubeconfig",
        "--config=kwok.yaml",
        "--manage-all-nodes=true",
        f"--cidr={_POD_CIDR}",
        f"--node-ip={LOOPBACK}",
        f"--node-port={port}",
        f"--server-address={LOOPBACK}:{port}",
        "--tls-cert-file=pki/kubelet.crt",
        "--tls-private-key-file=pki/kubelet.key",
        "--node-lease-duration-seconds=40",
    ]


def metrics_server(binary: Path, port: int, certificate: Pair) -> list[str]:
    """Return metrics-server's command; `certificate` is the one it serves with."""
    return [
        str(binary),
        "--kubeconfig=metrics-server.kubeconfig",
        "--authentication-kubeconfig=metrics-server.kubeconfig",
        "--authorization-kubeconfig=metrics-server.kubeconfig",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        f"--tls-cert-file={certificate.certificate}",
        f"--tls-private-key-file={certificate.key}",
        "--kubelet-preferred-address-types=InternalIP",
        "--kubelet-use-node-status-port",
        "--kubelet-certificate-authority=pki/server-ca.crt",
        f"--metric-resolution={_METRIC_RESOLUTION}s",
        f"--kubelet-request-timeout={_KUBELET_TIMEOUT}s",
    ]


def write_kwok_config(directory: Path) -> Path:
    """Write `kwok.yaml` (how nodes and pods behave) and the pods' log; return the log's path.

    Lines appended to the log, in the container runtime's format, are what `kubectl logs -f` shows.
    """
    log = directory / POD_LOG
    log.write_text("2026-01-01T00:00:00.000000000Z stdout F hello from a fake pod\n")
    streams = _filled(
        "streams.yaml",
        POD_LOG=str(log),
        PYTHON=sys.executable,
        POD_SERVER=str(Path(__file__).with_name("pod_server.py")),
    )
    # kwok serves all nodes at one address, and so a path that names no node for one of them only:
    # by its name, a Metric without {nodeName} is that node's.
    metrics = [
        _filled("metrics.yaml", NAME=name, URL=path)
        for name, path in (("any", NODE_METRICS), ("node-0", "/metrics/resource"))
    ]
    parts = [_filled("node.yaml"), _filled("pod.yaml"), _filled("usage.yaml"), *metrics, streams]
    (directory / "kwok.yaml").write_text("---\n".join(parts))
    return log


def _filled(name: str, **values: str) -> str:
    text = (_KWOK_DATA / name).read_text()
    return string.Template(text).substitute(values) if values else text
