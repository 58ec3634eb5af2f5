"""Registration of ``metrics.k8s.io``, so that the tenant's API server finds the host's metrics.

Direction: made in the virtual cluster, with ``--proxy-metrics-server``; removed without it.
Host name: nothing is written on the host.
Rewritten: nothing.
Read back: nothing. It leads to ``default/kubernetes``, which is the syncer's own endpoint.
Never copied: the host's registration. One that the tenant made is never touched.
Source: vcluster v0.16.4 ``pkg/controllers/resources/metrics``, which registers a Service of its
    own; https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from typing import Final

from syncer.naming import PREFIX
from syncer.types import (
    Blocked,
    Context,
    Direction,
    Key,
    Kind,
    Need,
    Object,
    Ref,
    Resource,
    Side,
    Skip,
)

NAME: Final = Key("", "v1beta1.metrics.k8s.io")
OURS: Final = f"{PREFIX}metrics-api"
"""Label on the registration that is ours."""

ROOT_CA: Final = Ref(Side.VIRTUAL, "configmaps", Key("default", "kube-root-ca.crt"))
"""Where the controller manager tells every namespace the CA of the virtual cluster's servers."""

RESOURCE: Final = Resource("apiregistration.k8s.io", "v1", "apiservices", "APIService", False)


def _related(_source: Object, _copy: Object | None, _ctx: Context) -> Iterable[Need]:
    return (ROOT_CA,)


def _derive(key: Key, virtual: Object | None, ctx: Context) -> Object | Blocked | Skip:
    if not ctx.settings.proxy_metrics_server:
        return Skip("--proxy-metrics-server is off")
    published = ctx.objects.get(ROOT_CA)
    authority = ((published or {}).get("data") or {}).get("ca.crt", "")
    if not authority:
        return virtual or Blocked("the virtual cluster's CA is not published yet", ROOT_CA)
    result = virtual or {
        "apiVersion": RESOURCE.api_version,
        "kind": RESOURCE.kind,
        "metadata": {"name": key.name, "labels": {OURS: "true"}},
    }
    version, _, group = key.name.partition(".")
    result["spec"] = {
        **(result.get("spec") or {}),
        "group": group,
        "version": version,
        "service": {"namespace": "default", "name": "kubernetes", "port": 443},
        "caBundle": b64encode(authority.encode()).decode(),
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
    }
    result["spec"].pop("insecureSkipTLSVerify", None)
    return result


def _is_ours(virtual: Object) -> bool:
    return (virtual["metadata"].get("labels") or {}).get(OURS) == "true"


KIND = Kind(
    name="metrics-api",
    resource=RESOURCE,
    direction=Direction.DERIVED,
    only=NAME,
    optional=False,
    required=False,
    related=_related,
    derive=_derive,
    derived_mark=_is_ours,
)
