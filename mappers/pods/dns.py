"""Name resolution of host pods: DNS policy and config, host aliases, the host name.

On the host ``ClusterFirst`` would ask the host's DNS; so such pods get the address of the virtual
cluster's DNS and its search path written out (policy ``None``). Other policies stay.

Source: https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/; vcluster v0.16.4
    ``pods/translate``.
"""

from __future__ import annotations

from typing import Any, Final

from syncer.naming import MAX_NAME
from syncer.objects import Object

MAX_NAMESERVERS: Final = 3
MAX_SEARCHES: Final = 32
"""Limits of the API server; the kubelet drops what ``ClusterFirst`` would have above them."""


def uses_cluster_dns(spec: Object) -> bool:
    """Say whether a pod resolves names through the virtual cluster's DNS."""
    policy = spec.get("dnsPolicy") or "ClusterFirst"
    if policy == "ClusterFirst":
        return not spec.get("hostNetwork")
    return bool(policy == "ClusterFirstWithHostNet")


def use_cluster_dns(spec: Object, namespace: str, address: str, cluster_domain: str) -> None:
    """Write the virtual cluster's DNS out in a wanted host spec.

    Args:
        spec: the wanted spec, changed; its ``dnsConfig`` is the tenant's.
        namespace: the pod's virtual namespace.
        address: cluster IP of the virtual cluster's DNS.
        cluster_domain: such as ``cluster.local``.
    """
    given = spec.get("dnsConfig") or {}
    search = (f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain)
    options: list[Any] = given.get("options") or []
    if not any(option.get("name") == "ndots" for option in options):
        options = [{"name": "ndots", "value": "5"}, *options]
    spec["dnsPolicy"] = "None"
    spec["dnsConfig"] = {
        "nameservers": _first(address, *(given.get("nameservers") or ()))[:MAX_NAMESERVERS],
        "searches": _first(*search, *(given.get("searches") or ()))[:MAX_SEARCHES],
        "options": options,
    }


def _first(*values: str) -> list[str]:
    """Drop repetitions, keep the order."""
    return list(dict.fromkeys(values))


def with_kubernetes_alias(aliases: list[Object] | None, address: str) -> list[Object]:
    """Add the API server's names to host aliases; gives a new list.

    Args:
        aliases: the tenant's ``hostAliases``.
        address: cluster IP of the virtual Service ``default/kubernetes``.
    """
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    return [*(aliases or ()), {"ip": address, "hostnames": names}]


def hostname(pod_name: str) -> str:
    """Give the host name a pod has when it asks for none: its name as one DNS label."""
    return pod_name[:MAX_NAME].replace(".", "-").rstrip("-")
