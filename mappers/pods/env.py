"""Environment of containers: the downward API, and the service variables the kubelet would set.

On the host ``enableServiceLinks`` is off: its services are other ones. So the variables that a
kubelet of the virtual cluster would have set are written into the containers.

Invariant: a variable that the container defines itself wins, be it by ``env`` or by ``envFrom``:
what it imports is looked up as it is at creation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from syncer.naming import PREFIX, Names
from syncer.objects import Key, Object, Side
from syncer.types import Ref

NAME: Final = f"{PREFIX}name"
NAMESPACE: Final = f"{PREFIX}namespace"
UID: Final = f"{PREFIX}uid"
LABELS: Final = f"{PREFIX}labels"
SERVICE_ACCOUNT_NAME: Final = f"{PREFIX}service-account-name"

_BY_ANNOTATION: Final = {
    "metadata.name": f"metadata.annotations['{NAME}']",
    "metadata.namespace": f"metadata.annotations['{NAMESPACE}']",
    "metadata.uid": f"metadata.annotations['{UID}']",
    "metadata.labels": f"metadata.annotations['{LABELS}']",
    "spec.serviceAccountName": f"metadata.annotations['{SERVICE_ACCOUNT_NAME}']",
}
_IMPORTS: Final = (("configMapRef", "configmaps"), ("secretRef", "secrets"))
_LABEL: Final = re.compile(r"metadata\.labels\['(.*)'\]")


def field_path(path: str, names: Names) -> str:
    """Translate a field path of the downward API.

    What differs on the host copy is read from the annotations that hold the virtual values;
    a label by its translated key. Others stay.

    Args:
        path: such as ``metadata.labels['app']``.
        names: the tenant's names.

    Source: https://kubernetes.io/docs/concepts/workloads/pods/downward-api/; vcluster v0.16.4
        ``pods/translate`` (field paths).
    """
    if by_annotation := _BY_ANNOTATION.get(path):
        return by_annotation
    if label := _LABEL.fullmatch(path):
        return f"metadata.labels['{names.label_key(label[1])}']"
    return path


def downward_items(items: Sequence[Object], names: Names) -> list[Object]:
    """Translate the items of a ``downwardAPI`` volume or projection; gives a new list."""
    return [_with_field_path(item, names) for item in items]


def _with_field_path(item: Object, names: Names) -> Object:
    """Translate the ``fieldRef`` of an item or of a ``valueFrom``, if it has one."""
    reference = item.get("fieldRef")
    if not reference:
        return item
    old = reference.get("fieldPath", "")
    new = field_path(old, names)
    return item if new == old else {**item, "fieldRef": {**reference, "fieldPath": new}}


def imports(container: Object, namespace: str) -> Iterator[tuple[str, Ref]]:
    """Give what a virtual container's ``envFrom`` names: each prefix and virtual object."""
    for source in container.get("envFrom") or ():
        for field, resource in _IMPORTS:
            if name := (source.get(field) or {}).get("name"):
                ref = Ref(Side.VIRTUAL, resource, Key(namespace, name))
                yield source.get("prefix") or "", ref


def imported(
    container: Object, namespace: str, objects: Mapping[Ref, Object | None]
) -> frozenset[str]:
    """Give the names of the variables that a virtual container gets by ``envFrom``.

    Args:
        container: in virtual terms.
        namespace: the pod's.
        objects: what :func:`imports` names, as far as it is there.
    """
    return frozenset(
        f"{prefix}{key}"
        for prefix, ref in imports(container, namespace)
        for key in (objects.get(ref) or {}).get("data") or ()
    )


def container_env(
    env: Sequence[Object] | None,
    services: Sequence[Object],
    names: Names,
    given: frozenset[str] = frozenset(),
) -> list[Object]:
    """Give a container's variables in host terms.

    Args:
        env: the container's own ``env``, names of config maps and secrets already translated.
        services: what :func:`service_env` gave.
        names: the tenant's names.
        given: names of variables that it gets by ``envFrom``; a kubelet lets ``env`` win over
            these, and these over service variables.

    Returns:
        A new list: the service variables it doesn't define, then its own in their order.
    """
    services = [variable for variable in services if variable["name"] not in given]
    if not env:
        return services
    own: list[Object] = []
    for variable in env:
        source = variable.get("valueFrom")
        if source and "fieldRef" in source:
            variable = {**variable, "valueFrom": _with_field_path(source, names)}
        own.append(variable)
    if not services:
        return own
    defined = {variable["name"] for variable in env}
    return [variable for variable in services if variable["name"] not in defined] + own


def service_env(kubernetes: Object | None, services: Iterable[Object]) -> list[Object]:
    """Give the service variables that a kubelet of the virtual cluster would set.

    Args:
        kubernetes: the virtual Service ``default/kubernetes``, always visible.
        services: the virtual Services of the pod's namespace; none when the pod turned
            ``enableServiceLinks`` off.

    Returns:
        ``env`` entries, sorted by name.

    Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    variables: dict[str, str] = {}
    if kubernetes is not None:
        _add_service(variables, kubernetes)
    for service in services:
        _add_service(variables, service)
    return [{"name": name, "value": variables[name]} for name in sorted(variables)]


def _add_service(variables: dict[str, str], service: Object) -> None:
    """Add the variables of one Service; one without an address has none."""
    address = cluster_ip(service)
    ports = service["spec"].get("ports")
    if not address or not ports:
        return
    prefix = _upper(service["metadata"]["name"])
    variables[f"{prefix}_SERVICE_HOST"] = address
    variables[f"{prefix}_SERVICE_PORT"] = str(ports[0]["port"])
    url_host = f"[{address}]" if ":" in address else address
    for index, port in enumerate(ports):
        number = str(port["port"])
        protocol = port.get("protocol") or "TCP"
        url = f"{protocol.lower()}://{url_host}:{number}"
        if port.get("name"):
            variables[f"{prefix}_SERVICE_PORT_{_upper(port['name'])}"] = number
        if index == 0:
            variables[f"{prefix}_PORT"] = url
        link = f"{prefix}_PORT_{number}_{protocol.upper()}"
        variables[link] = url
        variables[f"{link}_PROTO"] = protocol.lower()
        variables[f"{link}_PORT"] = number
        variables[f"{link}_ADDR"] = address


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")


def cluster_ip(service: Object | None) -> str:
    """Give the cluster IP of a Service; ``""`` for none, headless or external ones."""
    if service is None:
        return ""
    address: str = service["spec"].get("clusterIP") or ""
    return "" if address == "None" else address
