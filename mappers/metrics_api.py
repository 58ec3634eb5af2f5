"""Registration of ``metrics.k8s.io``, so that the tenant's API server finds the host's metrics.

Direction: made in the virtual cluster, with ``--proxy-metrics-server``; removed without it.
Host name: nothing is written on the host; the Service is not copied.
Rewritten: nothing.
Read back: nothing. The Service leads to the endpoint, which shares the API server's pod.
Never copied: the host's registration. One that the tenant made is never touched; nor is a Service
    of the tenant's by that name, and nothing is registered then: a registration that leads nowhere
    would hold up the deletion of every namespace.
Source: vcluster v0.19 ``pkg/controllers/resources/metrics`` (the same names);
    https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/

Not ``default/kubernetes``, which leads here too: API servers take that for themselves.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from typing import Any, Final

from syncer.naming import PREFIX
from syncer.objects import Key, Object, Resource, Side
from syncer.settings import Settings
from syncer.types import Blocked, Context, Direction, Kind, Need, Ref, Skip

NAME: Final = Key("", "v1beta1.metrics.k8s.io")
OURS: Final = f"{PREFIX}metrics-api"
"""Label on the registration that is ours."""

SERVICE: Final = Key("kube-system", "metrics-service")
"""The Service by which the API server comes here."""

ROOT_CA: Final = Ref(Side.VIRTUAL, "configmaps", Key("default", "kube-root-ca.crt"))
"""Where the controller manager tells every namespace the CA of the virtual cluster's servers."""

_SERVICE: Final = Ref(Side.VIRTUAL, "services", SERVICE)

_PORT: Final = 8443
"""Where the endpoint is when ``--port`` leaves it open."""

RESOURCE: Final = Resource("apiregistration.k8s.io", "v1", "apiservices", "APIService", False)


def _related(_source: Object, _copy: Object | None, _ctx: Context) -> Iterable[Need]:
    return (ROOT_CA, _SERVICE)


def _registration(key: Key, virtual: Object | None, ctx: Context) -> Object | Blocked | Skip:
    if not ctx.settings.proxy_metrics_server:
        return _OFF
    leading = ctx.objects.get(_SERVICE)
    if leading is not None and not _is_ours(leading):
        return Skip("the tenant has a Service of that name")
    if leading is None:
        return virtual or Blocked("the Service that leads here is not there yet", _SERVICE)
    published = ctx.objects.get(ROOT_CA)
    authority = ((published or {}).get("data") or {}).get("ca.crt", "")
    if not authority:
        return virtual or Blocked("the virtual cluster's CA is not published yet", ROOT_CA)
    result = virtual or _bare(RESOURCE, key)
    version, _, group = key.name.partition(".")
    service = {"namespace": SERVICE.namespace, "name": SERVICE.name, "port": _port(ctx.settings)}
    result["spec"] = {
        **(result.get("spec") or {}),
        "group": group,
        "version": version,
        "service": service,
        "caBundle": b64encode(authority.encode()).decode(),
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    result["spec"].pop("insecureSkipTLSVerify", None)
    return result


def _service(key: Key, virtual: Object | None, ctx: Context) -> Object | Skip:
    if not ctx.settings.proxy_metrics_server:
        return _OFF
    result = virtual or _bare(Resource("", "v1", "services", "Service"), key)
    wanted: dict[str, Any] = {"type": "ExternalName", "externalName": "localhost"}
    result["spec"] = {**(result.get("spec") or {}), **wanted}
    return result


_OFF: Final = Skip("--proxy-metrics-server is off")


def _port(settings: Settings) -> int:
    return settings.port or _PORT


def _bare(resource: Resource, key: Key) -> Object:
    metadata: Object = {"name": key.name, "labels": {OURS: "true"}}
    if key.namespace:
        metadata["namespace"] = key.namespace
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


def leads_here(service: Object) -> bool:
    """Say whether a virtual Service is the one that leads to the endpoint; it has no copy.

    Args:
        service: any virtual Service.
    """
    metadata, spec = service["metadata"], service["spec"]
    named = (metadata.get("namespace"), metadata["name"]) == SERVICE
    return named and _is_ours(service) and spec.get("externalName") == "localhost"


def _is_ours(virtual: Object) -> bool:
    return (virtual["metadata"].get("labels") or {}).get(OURS) == "true"


KINDS = (
    Kind(
        name="metrics-service",
        resource=Resource("", "v1", "services", "Service"),
        direction=Direction.DERIVED,
        only=SERVICE,
        optional=False,
        derive=_service,
        derived_mark=_is_ours,
    ),
    Kind(
        name="metrics-api",
        resource=RESOURCE,
        direction=Direction.DERIVED,
        only=NAME,
        optional=False,
        required=False,
        related=_related,
        derive=_registration,
        derived_mark=_is_ours,
    ),
)
