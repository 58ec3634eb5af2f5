"""Pods.

Direction: to the host; node and status come back.

Host name: ``NAME-x-NAMESPACE-x-TENANT``.

Rewritten: names of config maps, secrets, claims (of generic ephemeral volumes too), drivers'
    secrets and endpoints (:mod:`~mappers.pods.references`); images by ``--translate-image``;
    environment and downward API (:mod:`~mappers.pods.env`); service-account tokens
    (:mod:`~mappers.pods.tokens`); DNS, host name and aliases (:mod:`~mappers.pods.dns`,
    :mod:`~mappers.pods.hosts`); affinity, anti-affinity and spreading
    (:mod:`~mappers.pods.affinity`); host paths that name pods (:mod:`~mappers.pods.hostpath`);
    references whose host name is shortened, and could be another tenant's object's, only once
    that is seen to be our copy (:mod:`~mappers.pods.shortened`);
    service account and priority class; enforced tolerations and node labels
    (:mod:`~mappers.pods.placement`).

Changed later: labels and annotations, images, ``activeDeadlineSeconds`` (set or shortened),
    tolerations (added), scheduling gates (removed) and, while there is one, demands on nodes
    (added), resources of containers and of the pod (cpu and memory, by resize), every ephemeral
    container, the tenant's own conditions (:mod:`~mappers.pods.update`).

Read back: node (by Binding), phase, conditions that Kubernetes sets, addresses, start time,
    statuses of the tenant's containers (:mod:`~mappers.pods.virtual`).

Never copied: ``subdomain`` (written into the pod's hosts file instead), ``priorityClassName``
    while classes are not synced (with an event), ``automountServiceAccountToken`` and service
    links, which are off on the host; fields that :mod:`~mappers.pods.fields` doesn't list; the
    tenant's owners, finalizers and marks. Refused: resource claims, pod certificates, cluster
    trust bundles and unknown volumes.

Source: vcluster v0.16.4 ``pkg/controllers/resources/pods``; Kubernetes API reference, Pod v1.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mappers.kept_nodes import KEEPING_INDEX
from mappers.pods import host, references, update, virtual
from mappers.pods.metadata import OWNER_SET_KIND
from syncer import ownership
from syncer.objects import Object, Resource, Side
from syncer.types import Child, Direction, Kind, Part, Trigger

NODE_INDEX: Final = "node"
"""Index on virtual pods: the node that a pod is on."""


def nodes(pod: Object) -> Iterable[str]:
    """Index pods by the node they are on."""
    if node := pod["spec"].get("nodeName"):
        yield node


def keeping_nodes(pod: Object) -> Iterable[str]:
    """Index host pods that are copies by the node they keep in the virtual cluster.

    Pods of a DaemonSet don't: they are there because the node is.
    """
    is_copy = ownership.annotation(pod, ownership.OBJECT_NAME)
    if is_copy and ownership.annotation(pod, OWNER_SET_KIND) != "DaemonSet":
        yield from nodes(pod)


KIND = Kind(
    name="pods",
    resource=Resource("", "v1", "pods", "Pod"),
    direction=Direction.TO_HOST,
    component="pod-syncer",
    references=references.REFERENCES,
    related=host.related,
    to_host=host.to_host,
    update=update.update,
    to_virtual=virtual.to_virtual,
    host_parts=(
        Part("ephemeralcontainers", ("spec.ephemeralContainers",)),
        Part(
            "resize",
            (
                "spec.containers[].resources",
                "spec.initContainers[].resources",
                "spec.resources",
            ),
        ),
        Part("status", ("status.conditions",), versioned=True),
    ),
    virtual_parts=(
        Part("binding", ("spec.nodeName",), body=virtual.binding),
        Part("status", ("status",)),
    ),
    triggers=(Trigger(Side.HOST, "secrets", "child-of"),),
    children=(Child("secrets", "child-of"),),
    indexers={"persistentvolumeclaims": references.claims, NODE_INDEX: nodes},
    host_indexers={KEEPING_INDEX: keeping_nodes},
    on_host_gone=virtual.on_host_gone,
    mirror_deletion=True,
    graceful=True,
    quiet=True,
)
