"""``/etc/hosts`` of pods with a subdomain.

A pod ``web-0`` with subdomain ``db`` in namespace ``shop`` calls itself
``web-0.db.shop.svc.cluster.local``. The host would make that name of its own namespace; so the
subdomain is not sent, and an init container writes the tenant's name into a copy of
``/etc/hosts`` which all other containers mount.

Invariants: a pod without a subdomain is not touched; the init container passes Pod Security
``restricted``; a container that mounts ``/etc/hosts`` itself keeps its own.

Source: vcluster v0.16.4 ``pods/translate/hosts.go`` (names, resources, command); differs: the
    annotation ``disable-subdomain-rewrite`` works by itself, IPv6 addresses are rewritten too.
"""

from __future__ import annotations

from typing import Final

from syncer.naming import PREFIX
from syncer.objects import Object
from syncer.settings import Settings

CONTAINER_NAME: Final = "vcluster-rewrite-hosts"
VOLUME_NAME: Final = "vcluster-rewrite-hosts"
DISABLED: Final = f"{PREFIX}disable-subdomain-rewrite"
REWRITTEN: Final = f"{PREFIX}hosts-rewritten"

_HOSTS: Final = "/etc/hosts"
_USER: Final = 1001


def wanted(virtual: Object, settings: Settings) -> bool:
    """Say whether the pod's ``/etc/hosts`` is to be rewritten.

    Not for pods on the host's network (their file is the node's), Windows pods, and pods that
    already have a container of that name.

    Args:
        virtual: the virtual pod.
        settings: ``override_hosts``.
    """
    spec = virtual["spec"]
    if not settings.override_hosts or not spec.get("subdomain") or spec.get("hostNetwork"):
        return False
    if (virtual["metadata"].get("annotations") or {}).get(DISABLED) == "true":
        return False
    if (spec.get("os") or {}).get("name") == "windows":
        return False
    taken = [*(spec.get("initContainers") or ()), *spec["containers"]]
    return all(container["name"] != CONTAINER_NAME for container in taken)


def rewrite(spec: Object, virtual: Object, settings: Settings) -> None:
    """Put the init container, its volume and the mounts into a wanted host spec.

    Args:
        spec: the wanted spec with its host name set; changed, its containers too.
        virtual: the virtual pod.
        settings: ``cluster_domain``, image and registry.
    """
    host = spec["hostname"]
    namespace = virtual["metadata"]["namespace"]
    domain = f"{virtual['spec']['subdomain']}.{namespace}.svc.{settings.cluster_domain}"
    containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
    for container in containers:
        mounts = container.get("volumeMounts") or []
        if all(mount["mountPath"] != _HOSTS for mount in mounts):
            mount = {"name": VOLUME_NAME, "mountPath": _HOSTS, "subPath": "hosts"}
            container["volumeMounts"] = [*mounts, mount]
    spec["initContainers"] = [
        _init_container(host, f"{host}.{domain}", spec.get("securityContext") or {}, settings),
        *(spec.get("initContainers") or ()),
    ]
    spec["volumes"] = [{"name": VOLUME_NAME, "emptyDir": {}}, *(spec.get("volumes") or ())]


def _init_container(host: str, full_name: str, pod_security: Object, settings: Settings) -> Object:
    """Build the init container.

    Args:
        host: the pod's host name.
        full_name: the name to put before it.
        pod_security: the pod's ``securityContext``: its user and group are kept, but for root.
        settings: image and registry.
    """
    registry = settings.default_image_registry
    image = settings.override_hosts_container_image
    line = f"s/^([0-9a-fA-F.:]+[[:space:]]+){host}$/\\1{full_name} {host}/"
    return {
        "name": CONTAINER_NAME,
        "image": f"{registry.rstrip('/')}/{image}" if registry else image,
        "command": ["sh"],
        "args": ["-c", f"sed -E -e '{line}' {_HOSTS} > /hosts/hosts"],
        "resources": {
            "limits": {"cpu": "30m", "memory": "64Mi"},
            "requests": {"cpu": "30m", "memory": "64Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsGroup": pod_security.get("runAsGroup") or _USER,
            "runAsNonRoot": True,
            "runAsUser": pod_security.get("runAsUser") or _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": VOLUME_NAME, "mountPath": "/hosts"}],
    }
