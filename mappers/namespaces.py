"""Namespaces of the virtual cluster.

Direction: none; only looked at, since pods carry copies of their namespace's labels.
Host name: none.
Rewritten: nothing.
Read back: nothing.
Never copied: everything; all copies live in the one host namespace.
Source: vcluster v0.16.4 ``pkg/controllers/resources/pods`` (namespace labels).
"""

from __future__ import annotations

from syncer.objects import Resource
from syncer.types import Direction, Kind

KIND = Kind(
    name="namespaces",
    resource=Resource("", "v1", "namespaces", "Namespace", namespaced=False),
    direction=Direction.WATCHED,
    optional=False,
    indexers={"all": lambda _namespace: ("",)},
)
