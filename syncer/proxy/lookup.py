"""Says which virtual object a host object stands for, out of the stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from syncer import ownership
from syncer.kube.store import Lister
from syncer.naming import Names
from syncer.objects import Key, Object, Side
from syncer.proxy.node_metrics import PodView
from syncer.proxy.targets import CONTAINERS, own_containers


class StoreLookup:
    """Finds the tenant's own; what carries other marks than the right ones is nobody's."""

    def __init__(
        self,
        names: Names,
        stores: Mapping[tuple[Side, str], Lister],
        nodes: Callable[[], Iterable[str]],
    ) -> None:
        """Make it.

        Args:
            names: the tenant's names.
            stores: of both sides, by resource.
            nodes: gives the names of the host's nodes that the tenant has.
        """
        self._names = names
        self._stores = stores
        self._nodes = nodes

    def pod(self, namespace: str, name: str) -> PodView | None:
        """Give the tenant's pod by its host namespace and host name, or ``None``."""
        pair = self._pair("pods", Key(namespace, name))
        if pair is None:
            return None
        host, virtual = pair
        metadata, spec = virtual["metadata"], virtual["spec"]
        return PodView(
            metadata["namespace"],
            metadata["name"],
            metadata["uid"],
            host["metadata"]["uid"],
            frozenset(
                name for field in CONTAINERS for name in own_containers(virtual, host, field)
            ),
            frozenset(volume["name"] for volume in spec.get("volumes") or ()),
            metadata.get("labels") or {},
        )

    def claim(self, namespace: str, name: str) -> Key | None:
        """Give the tenant's claim by its host namespace and host name, or ``None``."""
        pair = self._pair("persistentvolumeclaims", Key(namespace, name))
        return None if pair is None else ownership.virtual_key(pair[0], self._names)

    def has_node(self, name: str) -> bool:
        """Say whether a host node is one of the tenant's."""
        return name in self._nodes()

    def node_labels(self, name: str) -> Mapping[str, str] | None:
        """Give the labels of a virtual node; ``None`` when the tenant has no such node."""
        store = self._stores.get((Side.VIRTUAL, "nodes"))
        node = store.get(Key("", name)) if store and self.has_node(name) else None
        return (node["metadata"].get("labels") or {}) if node else None

    def _pair(self, resource: str, key: Key) -> tuple[Object, Object] | None:
        here = self._stores.get((Side.HOST, resource))
        there = self._stores.get((Side.VIRTUAL, resource))
        host = here.get(key) if here else None
        virtual_key = ownership.virtual_key(host, self._names) if host else None
        virtual = there.get(virtual_key) if there and virtual_key else None
        if host is None or virtual is None:
            return None
        same = ownership.virtual_uid(host) in (None, virtual["metadata"]["uid"])
        return (host, virtual) if same else None
