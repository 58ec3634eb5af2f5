"""Which host object a request for a virtual one means; found in what the syncer itself keeps.

A target is a host object that carries the marks of this tenant, for the virtual object that is
there now. No address, name or annotation that a tenant can write leads anywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from syncer import ownership
from syncer.kube.store import Lister
from syncer.naming import Names
from syncer.objects import Key, Object, Side
from syncer.proxy.refusal import RefusalError, not_found


@dataclass(frozen=True, slots=True)
class Target:
    """A virtual object and its copy.

    Attributes:
        virtual: the virtual object.
        host: key of its copy.
        copy: the copy.
    """

    virtual: Object
    host: Key
    copy: Object


class Targets:
    """Finds copies in the stores."""

    def __init__(
        self,
        names: Names,
        stores: Mapping[tuple[Side, str], Lister],
        synced: Callable[[Side, str], bool],
    ) -> None:
        """Make it.

        Args:
            names: the tenant's names.
            stores: of both sides, by resource.
            synced: says whether a store is complete.
        """
        self._names = names
        self._stores = stores
        self._synced = synced

    @property
    def names(self) -> Names:
        """The tenant's names."""
        return self._names

    def pod(self, namespace: str, name: str) -> Target:
        """Find a pod.

        Raises:
            RefusalError: 404 when there is none, 400 when it is not on a node yet, 503 when
                nothing is known yet.
        """
        target = self._find("pods", Key(namespace, name))
        if target is None:
            raise RefusalError(400, f"pod {name} does not have a host assigned")
        return target

    def service(self, namespace: str, name: str) -> Target:
        """Find a service.

        Raises:
            RefusalError: 404 when there is none, 503 when it is not on the host yet.
        """
        target = self._find("services", Key(namespace, name))
        if target is None:
            raise RefusalError(503, f'no endpoints available for service "{name}"')
        return target

    def _find(self, resource: str, key: Key) -> Target | None:
        virtual = self._store(Side.VIRTUAL, resource).get(key)
        if virtual is None:
            raise not_found(resource, key.name)
        host_key = self._names.host_key(key)
        host = self._store(Side.HOST, resource).get(host_key)
        if host is None or ownership.virtual_key(host, self._names) != key:
            return None
        if ownership.virtual_uid(host) not in (None, virtual["metadata"]["uid"]):
            return None
        return Target(virtual, host_key, host)

    def _store(self, side: Side, resource: str) -> Lister:
        store = self._stores.get((side, resource))
        if store is None:
            raise RefusalError(503, f"{resource} are not synced to the host")
        if not self._synced(side, resource):
            raise RefusalError(
                503, f"{resource} are not known yet: still listing", headers={"Retry-After": "1"}
            )
        return store


CONTAINERS: Final = ("initContainers", "containers", "ephemeralContainers")
"""Fields of a pod's spec that have containers in them."""


def own_containers(virtual: Object, copy: Object, field: str) -> list[str]:
    """Give the names of the tenant's own containers that a pod's copy has.

    The same field of both must have it: else a debug container by the name of one that somebody
    put into the copy, which the host never takes, would make that one the tenant's.

    Args:
        virtual: the virtual pod.
        copy: its copy.
        field: one of :data:`CONTAINERS`.
    """
    there = {container["name"] for container in copy["spec"].get(field) or ()}
    own = (container["name"] for container in virtual["spec"].get(field) or ())
    return [name for name in own if name in there]


def container_of(target: Target, asked: str) -> str:
    """Say which container of a pod is meant; only the tenant's own can be.

    A container that somebody put into the host's copy has no place here: without a name, the
    host would choose among all of them, or name them.

    Args:
        target: the pod.
        asked: the container's name, or ``""``.

    Raises:
        RefusalError: 400, there is no such container, or it must be named.

    Source: k8s.io/kubernetes v1.36 ``pkg/registry/core/pod/strategy.go``, ``validateContainer``.
    """
    name = target.virtual["metadata"]["name"]
    init, main, ephemeral = (
        own_containers(target.virtual, target.copy, field) for field in CONTAINERS
    )
    everything = (*init, *main, *ephemeral)
    if asked:
        if asked not in everything:
            raise RefusalError(400, f"container {asked} is not valid for pod {name}")
        return asked
    if len(main) == 1:
        return str(main[0])
    choice = f"[{' '.join(everything)}]"
    raise RefusalError(
        400, f"a container name must be specified for pod {name}, choose one of: {choice}"
    )
