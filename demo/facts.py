"""What has to come true, each fact a sentence and a plain function of the two clusters."""

from collections.abc import Callable
from dataclasses import dataclass

from demo.clusters import (
    APPLICATION,
    HOST_NAMESPACE,
    NAMES,
    TENANT,
    Cluster,
    Object,
    addresses,
    copy_of,
    name_of,
)

_REPLICAS = 3


@dataclass(frozen=True)
class Fact:
    """Something that must be so in the end.

    Attributes:
        text: the sentence people read.
        holds: (virtual, host) -> whether it is so now.
    """

    text: str
    holds: Callable[[Cluster, Cluster], bool]


def _application_pods(virtual: Cluster) -> list[Object]:
    return virtual.within("pods", APPLICATION)


def _runs(pod: Object | None) -> bool:
    return pod is not None and pod["status"].get("phase") == "Running"


def _deployed(virtual: Cluster, _host: Cluster) -> bool:
    web = virtual.get("deployments", APPLICATION, "web")
    pods = _application_pods(virtual)
    ready = web is not None and web["status"].get("readyReplicas") == _REPLICAS
    return ready and len(pods) == _REPLICAS and all(map(_runs, pods))


def _pods_copied(virtual: Cluster, host: Cluster) -> bool:
    pods = _application_pods(virtual)
    return len(pods) == _REPLICAS and all(
        _same_pod(pod, copy_of(host, "pods", pod)) for pod in pods
    )


def _same_pod(pod: Object, copy: Object | None) -> bool:
    return (
        copy is not None
        and _runs(pod)
        and _runs(copy)
        and pod["status"].get("podIP") == copy["status"].get("podIP")
        and pod["spec"].get("nodeName") == copy["spec"].get("nodeName")
    )


def _plain_pod(virtual: Cluster, host: Cluster) -> bool:
    pod = virtual.get("pods", "default", "nginx")
    copy = host.get("pods", HOST_NAMESPACE, f"nginx-x-default-x-{TENANT}")
    return pod is not None and _same_pod(pod, copy)


def _data_copied(plural: str, name: str) -> Callable[[Cluster, Cluster], bool]:
    def holds(virtual: Cluster, host: Cluster) -> bool:
        found = virtual.get(plural, APPLICATION, name)
        copy = copy_of(host, plural, found) if found else None
        return bool(found and copy) and (found or {}).get("data") == (copy or {}).get("data")

    return holds


def _service_copied(virtual: Cluster, host: Cluster) -> bool:
    web = virtual.get("services", APPLICATION, "web")
    copy = copy_of(host, "services", web) if web else None
    if web is None or copy is None:
        return False
    return bool(web["spec"]["clusterIP"] == copy["spec"]["clusterIP"])


def _service_leads(virtual: Cluster, host: Cluster) -> bool:
    pods = {pod["status"].get("podIP") for pod in _application_pods(virtual)}
    tenant_side = addresses(virtual, APPLICATION, "web")
    host_side = addresses(host, HOST_NAMESPACE, NAMES.host_name("web", APPLICATION))
    return len(pods) == _REPLICAS and pods == tenant_side == host_side


def _nodes(virtual: Cluster, host: Cluster) -> bool:
    used = {pod["spec"].get("nodeName") for pod in _application_pods(virtual)}
    seen = {name for _, name in virtual.objects["nodes"]}
    real = {name for _, name in host.objects["nodes"]}
    return bool(used) and used <= seen <= real


def _stays_with_tenant(virtual: Cluster, host: Cluster) -> bool:
    controlled = virtual.get("deployments", APPLICATION, "web") is not None
    return controlled and not host.objects["deployments"]


def _one_namespace(_virtual: Cluster, host: Cluster) -> bool:
    marked = [
        namespace
        for plural in ("configmaps", "secrets", "services", "pods")
        for (namespace, _), obj in host.objects[plural].items()
        if obj["metadata"].get("labels", {}).get("vcluster.loft.sh/managed-by") == TENANT
    ]
    return bool(marked) and set(marked) == {HOST_NAMESPACE} and not _namespace(host, APPLICATION)


def _sees_only_its_own(virtual: Cluster, _host: Cluster) -> bool:
    names = {name_of(pod) for pod in virtual.objects["pods"].values()}
    return not _namespace(virtual, HOST_NAMESPACE) and not any("-x-" in name for name in names)


def _namespace(cluster: Cluster, name: str) -> bool:
    return ("", name) in cluster.objects["namespaces"]


FACTS = (
    Fact("the tenant's deployment has 3 of 3 pods Running", _deployed),
    Fact("each runs on the host, with the same IP and node", _pods_copied),
    Fact(f"the tenant's pod default/nginx is nginx-x-default-x-{TENANT} on the host", _plain_pod),
    Fact("the host has the config map the pods mount", _data_copied("configmaps", "pages")),
    Fact("the host has the secret the pods use", _data_copied("secrets", "payment")),
    Fact("the service has the same IP in both clusters", _service_copied),
    Fact("it leads to the three pods, in both clusters", _service_leads),
    Fact("the tenant sees the nodes that its pods run on", _nodes),
    Fact("the deployment stays with the tenant: the host has none", _stays_with_tenant),
    Fact(f"all copies are in the one host namespace {HOST_NAMESPACE}", _one_namespace),
    Fact("the tenant sees nothing of the host's namespaces and names", _sees_only_its_own),
)
"""In the order they are shown."""
