"""The objects that make the load, and the copies a syncer would make of them, as JSON bytes.

A copy has marks and translated names of the usual size, so that the limit writes as many bytes as a
syncer does.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

NODES = ("node-0", "node-1", "node-2")
"""The host's nodes, which the virtual cluster has to know before a pod is bound to one."""

_MARK = "vcluster.loft.sh/"
_TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
_PAYLOAD = base64.b64encode(bytes(range(256)) * 3).decode()  # 1 KB, what a certificate takes


def copy_name(name: str, namespace: str, tenant: str) -> str:
    """Return the name of the copy; raises ValueError where it would have to be shortened."""
    copy = f"{name}-x-{namespace}-x-{tenant}"
    if len(copy) > 63:
        raise ValueError(f"{copy} is too long for a benchmark name")
    return copy


@dataclass(frozen=True)
class Kind:
    """A kind of object to load the pair with.

    Attributes:
        title: what tables call it.
        plural: resource.
        body: (name, namespace) -> the virtual object.
        copy: (name, namespace, tenant) -> the host object.
        pods: whether it is pods: those have to run, not only to be copied.
        token: whether each needs a service account token.
    """

    title: str
    plural: str
    body: Callable[[str, str], bytes]
    copy: Callable[[str, str, str], bytes]
    pods: bool = False
    token: bool = False

    def path(self, namespace: str, name: str = "") -> str:
        """Return the API path of the collection in a namespace, or of an object."""
        return f"/api/v1/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")


def _secret(name: str, namespace: str) -> bytes:
    annotations = {f"{_MARK}force-sync": "true"}
    return orjson.dumps(
        {"metadata": {"name": name, "annotations": annotations}, "data": {"payload": _PAYLOAD}}
    )


def _secret_copy(name: str, namespace: str, tenant: str) -> bytes:
    metadata = _marked(name, namespace, tenant)
    return orjson.dumps({"metadata": metadata, "data": {"payload": _PAYLOAD}})


def _service_spec(selector: dict[str, str]) -> dict[str, Any]:
    return {"selector": selector, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}


def _service(name: str, namespace: str) -> bytes:
    return orjson.dumps({"metadata": {"name": name}, "spec": _service_spec({"app": name})})


def _service_copy(name: str, namespace: str, tenant: str) -> bytes:
    metadata = _marked(name, namespace, tenant)
    selector = {f"{_MARK}label-{tenant}-x-a172cedcae": name, **metadata["labels"]}
    return orjson.dumps({"metadata": metadata, "spec": _service_spec(selector)})


def _pod(automount: bool) -> Callable[[str, str], bytes]:
    def body(name: str, namespace: str) -> bytes:
        spec: dict[str, Any] = {"containers": [{"name": "main", "image": "nginx"}]}
        if not automount:
            spec["automountServiceAccountToken"] = False
        return orjson.dumps({"metadata": {"name": name, "labels": {"app": "bench"}}, "spec": spec})

    return body


def _pod_copy(token: bool) -> Callable[[str, str, str], bytes]:
    def copy(name: str, namespace: str, tenant: str) -> bytes:
        container: dict[str, Any] = {
            "name": "main",
            "image": "nginx",
            "env": [{"name": "KUBERNETES_SERVICE_HOST", "value": "10.96.0.1"}],
        }
        spec: dict[str, Any] = {
            "containers": [container],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "dnsPolicy": "None",
            "dnsConfig": {
                "nameservers": ["10.96.0.10"],
                "searches": [f"{namespace}.svc.cluster.local", "svc.cluster.local"],
                "options": [{"name": "ndots", "value": "5"}],
            },
        }
        if token:
            mount = {"name": "token", "mountPath": _TOKEN_PATH, "readOnly": True}
            container["volumeMounts"] = [mount]
            source = {"secretName": token_name(name, namespace, tenant)}
            spec["volumes"] = [{"name": "token", "secret": source}]
        return orjson.dumps({"metadata": _marked(name, namespace, tenant), "spec": spec})

    return copy


def token_name(name: str, namespace: str, tenant: str) -> str:
    """Return the name of the host secret with the token of a pod."""
    return f"{copy_name(name, namespace, tenant)}-token"


def token_request(name: str, uid: str) -> bytes:
    """Return the request for a token bound to a pod of the virtual cluster."""
    bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
    return orjson.dumps({"spec": {"expirationSeconds": 3600, "boundObjectRef": bound}})


def token_secret(name: str, namespace: str, tenant: str, token: str) -> bytes:
    """Return the host secret with a pod's token."""
    metadata = _marked(name, namespace, tenant)
    metadata["name"] = token_name(name, namespace, tenant)
    return orjson.dumps({"metadata": metadata, "stringData": {"token": token}})


def binding(name: str, node: str) -> bytes:
    """Return the binding of a virtual pod to a node."""
    return orjson.dumps({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}})


def named(name: str) -> bytes:
    """Return an object of which only the name matters, such as a namespace or a node."""
    return orjson.dumps({"metadata": {"name": name}})


def cluster_dns() -> bytes:
    """Return the service that pods of the virtual cluster get their DNS server from."""
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    return orjson.dumps({"metadata": {"name": "kube-dns"}, "spec": {"ports": ports}})


def small_config_map(name: str) -> bytes:
    """Return a ConfigMap of a few bytes."""
    return orjson.dumps({"metadata": {"name": name}, "data": {"mark": "0"}})


def pod_template(name: str) -> bytes:
    """Return a PodTemplate: as much as a pod to send and to encode, but nothing comes of it."""
    labels = {"app": "bench", "app.kubernetes.io/name": "bench", "pod-template-hash": "5d4f8c7b9f"}
    spec = {
        "containers": [_container("main"), _container("sidecar")],
        "initContainers": [_container("init")],
        "volumes": [
            {"name": "config", "configMap": {"name": "bench-config", "optional": True}},
            {"name": "cache", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
        "tolerations": [
            {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
            for key in ("not-ready", "unreachable")
        ],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "serviceAccountName": "default",
    }
    template = {"metadata": {"labels": labels}, "spec": spec}
    return orjson.dumps({"metadata": {"name": name, "labels": labels}, "template": template})


def _container(name: str) -> dict[str, Any]:
    probe = {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10}
    probes = {} if name == "init" else {"livenessProbe": probe, "readinessProbe": probe}
    resources = {"cpu": "100m", "memory": "128Mi"}
    return {
        "name": name,
        "image": "registry.example.com/team/bench:v1.2.3",
        "args": ["--verbose", "--listen=:8080"],
        "env": [{"name": f"SETTING_{number}", "value": f"value {number}"} for number in range(4)],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/bench", "readOnly": True},
            {"name": "cache", "mountPath": "/var/cache/bench"},
        ],
        **probes,
    }


def _marked(name: str, namespace: str, tenant: str) -> dict[str, Any]:
    annotations = {
        f"{_MARK}object-name": name,
        f"{_MARK}object-namespace": namespace,
        f"{_MARK}object-uid": "00000000-0000-0000-0000-000000000000",
    }
    labels = {f"{_MARK}managed-by": tenant, f"{_MARK}namespace": namespace}
    return {
        "name": copy_name(name, namespace, tenant),
        "labels": labels,
        "annotations": annotations,
    }


SECRETS = Kind("secrets", "secrets", _secret, _secret_copy)
SERVICES = Kind("services", "services", _service, _service_copy)
PODS = Kind("pods", "pods", _pod(automount=False), _pod_copy(token=False), pods=True)
PODS_WITH_TOKEN = Kind(
    "pods with token", "pods", _pod(automount=True), _pod_copy(token=True), pods=True, token=True
)
