"""Real control planes on one machine, for the demo, the tests and the benchmark.

    async with boot_pair() as (host, virtual):
        ...  # host.kubeconfig and virtual.kubeconfig are paths of admin kubeconfigs

A host has a scheduler and fake nodes (kwok) on which pods run, with logs, exec, attach,
port-forward and resize. A virtual plane has neither: its pods run wherever a syncer takes them.
Everything binds to loopback and lies in one directory; when the process that booted a plane ends,
however it ends, the plane's processes and directory are removed.
"""

from controlplane.commands import Settings
from controlplane.component import Component, ComponentError, NotOwnerError
from controlplane.egress import Dial, Egress, Route
from controlplane.plane import ControlPlane, PlaneError, boot_pair
from controlplane.tools import ToolError, Tools, tools

__all__ = [
    "Component",
    "ComponentError",
    "ControlPlane",
    "Dial",
    "Egress",
    "NotOwnerError",
    "PlaneError",
    "Route",
    "Settings",
    "ToolError",
    "Tools",
    "boot_pair",
    "tools",
]
