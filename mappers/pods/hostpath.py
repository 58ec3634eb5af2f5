"""Host paths that name pods: logs and kubelet directories.

Files under ``/var/log/pods`` and ``/var/lib/kubelet/pods`` bear host names; a tool of the tenant
would look for virtual ones. These three paths lead to a tree of the tenant's own, which a path
mapper on the node may fill; other host paths stay.

Source: vcluster v0.16.4 ``pods/translate/hostpath.go``.
"""

from __future__ import annotations

import posixpath
from typing import Final

from mappers.pods.fields import CONTAINER_LISTS
from syncer.objects import Object
from syncer.types import Context

PHYSICAL_SUFFIX: Final = "vcluster-physical"
_PHYSICAL_ROOT: Final = "/var/vcluster/physical"
_MAPPED: Final = {
    "/var/log": "log",
    "/var/log/pods": "log/pods",
    "/var/lib/kubelet/pods": "kubelet/pods",
}


def rewrite(spec: Object, ctx: Context) -> None:
    """Lead the mapped host paths of a wanted host spec to the tenant's own tree.

    Mounts of such a volume get ``HostToContainer`` propagation, so that what is mounted there
    later is seen. With ``--mount-physical-host-paths`` the real path is mounted beside it, for
    links that point there.

    Args:
        spec: the wanted spec; its ``volumes`` list and its containers are changed.
        ctx: names, and ``mount_physical_host_paths``.
    """
    root = f"/tmp/vcluster/{ctx.names.host_namespace}/{ctx.names.tenant}"  # noqa: S108
    volumes: list[Object] = spec["volumes"]
    for index, volume in enumerate(list(volumes)):
        source = volume.get("hostPath")
        if not source:
            continue
        path = posixpath.normpath("/" + source["path"].lstrip("/"))
        mapped = _MAPPED.get(path)
        if mapped is None:
            continue
        volumes[index] = {**volume, "hostPath": {**source, "path": f"{root}/{mapped}"}}
        physical = ""
        if ctx.settings.mount_physical_host_paths:
            physical = f"{volume['name']}-{PHYSICAL_SUFFIX}"
            volumes.append({"name": physical, "hostPath": {**source, "path": path}})
        _rewrite_mounts(spec, volume["name"], physical, f"{_PHYSICAL_ROOT}/{mapped}")


def _rewrite_mounts(spec: Object, volume: str, physical: str, physical_path: str) -> None:
    """Set propagation on the mounts of a volume, and mount the physical one beside them."""
    for containers in CONTAINER_LISTS:
        for container in spec.get(containers) or ():
            mounts = container.get("volumeMounts") or ()
            if all(mount["name"] != volume for mount in mounts):
                continue
            container["volumeMounts"] = [
                {**mount, "mountPropagation": "HostToContainer"}
                if mount["name"] == volume
                else mount
                for mount in mounts
            ]
            if physical:
                container["volumeMounts"].append({"name": physical, "mountPath": physical_path})
