"""The host copy of a pod: ``related`` and ``to_host``.

Invariants:
* built from the allow-lists of :mod:`mappers.pods.fields`; the virtual pod is not changed, and
  what is unchanged is shared with it;
* what can't change after creation (DNS, service variables) is looked up and waited for at
  creation only: a missing DNS Service never holds up an update;
* the host's service account, service links and token mount are never the tenant's to choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from mappers.pods import (
    affinity,
    conditions,
    dns,
    env,
    fields,
    hostpath,
    hosts,
    metadata,
    placement,
    references,
    shortened,
    volumes,
)
from syncer.objects import Key, Object, Side, key_of
from syncer.types import OWN_SERVICE, Blocked, Context, Need, Notice, Query, Ref, Refused

KUBERNETES: Final = Ref(Side.VIRTUAL, "services", Key("default", "kubernetes"))
ALL_NAMESPACES: Final = Query(Side.VIRTUAL, "namespaces", "all", "")


def dns_ref(ctx: Context) -> Ref:
    """Name the host copy of the virtual cluster's DNS Service: its IP is the one that routes.

    Declared for each pod that is not on the host yet, and only then; so ``to_host`` knows a
    creation by it.
    """
    return Ref(Side.HOST, "services", ctx.names.host_key(Key("kube-system", "kube-dns")))


def related(virtual: Object, host: Object | None, ctx: Context) -> list[Need]:
    """Declare what ``to_host`` and ``to_virtual`` want to see.

    Args:
        virtual: the virtual pod.
        host: its host copy, or ``None`` before it is made.
        ctx: names and settings.
    """
    spec = virtual["spec"]
    namespace = virtual["metadata"]["namespace"]
    needs: list[Need] = [_namespace_ref(namespace)]
    if host is None:
        needs.append(dns_ref(ctx))
        needs += _env_needs(spec, namespace)
        needs += shortened.needs(virtual, host, ctx)
        if spec.get("nodeName"):
            needs.append(placement.node_ref(spec["nodeName"]))
        if affinity.needs_namespaces(spec.get("affinity")):
            needs.append(ALL_NAMESPACES)
        return needs
    if _ephemeral(virtual) - _ephemeral(host):
        needs += _env_needs(spec, namespace)
        needs += shortened.needs(virtual, host, ctx)
    if metadata.SCHEDULING_GATES in (host["metadata"].get("annotations") or {}):
        needs.append(Ref(Side.HOST, "pods", key_of(host)))
    if node := host["spec"].get("nodeName"):
        needs.append(placement.node_ref(node))
    return needs


def _ephemeral(pod: Object) -> frozenset[str]:
    """Give the names of a pod's ephemeral containers."""
    return frozenset(c["name"] for c in pod["spec"].get("ephemeralContainers") or ())


def _env_needs(spec: Object, namespace: str) -> Iterator[Need]:
    """Declare the Services whose variables the containers get, and what wins over these."""
    yield from (KUBERNETES, OWN_SERVICE)
    if spec.get("enableServiceLinks") is not False:
        yield _services_of(namespace)
    for name in fields.CONTAINER_LISTS:
        for container in spec.get(name) or ():
            yield from (ref for _prefix, ref in env.imports(container, namespace))


def _services_of(namespace: str) -> Query:
    return Query(Side.VIRTUAL, "services", "namespace", namespace)


def _namespace_ref(name: str) -> Ref:
    return Ref(Side.VIRTUAL, "namespaces", Key("", name))


def to_host(virtual: Object, ctx: Context) -> Object | Blocked | Refused:
    """Build the host pod; see the package for what is rewritten.

    Args:
        virtual: the virtual pod; not changed.
        ctx: with the objects that :func:`related` declared.

    Returns:
        The wanted host pod without name, marks and owner. For a pod that is on the host
        already also with its ephemeral containers and the tenant's own conditions.
    """
    given = virtual["spec"]
    namespace_ref = _namespace_ref(virtual["metadata"]["namespace"])
    namespace = ctx.objects.get(namespace_ref)
    if namespace is None:
        return Blocked(f"waiting for Namespace {namespace_ref.key}", on=namespace_ref)
    creating = dns_ref(ctx) in ctx.objects
    if creating and (hindrance := _hindrance(virtual, ctx)) is not None:
        return hindrance
    spec = _host_spec(virtual, ctx)
    wanted: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata.pod_metadata(virtual, namespace, _gated_host(virtual, ctx), ctx),
        "spec": spec,
    }
    if not creating:
        _hold_back(spec, virtual, ctx)
        if own := conditions.of_tenant(virtual):
            wanted["status"] = {"conditions": own}
        return wanted
    spec.pop("ephemeralContainers", None)
    _settle_names(spec, virtual, ctx)
    if given.get("priorityClassName") and "priorityClassName" not in spec:
        ctx.notices.append(
            Notice(
                "SyncWarning",
                f"priorityClassName {given['priorityClassName']!r} is not carried to the host: "
                "turn on --sync=priorityclasses",
            )
        )
    return wanted


def _hold_back(spec: Object, virtual: Object, ctx: Context) -> None:
    """Leave out the new ephemeral containers that name objects which are not there yet."""
    namespace = virtual["metadata"]["namespace"]
    for container in virtual["spec"].get("ephemeralContainers") or ():
        waits = shortened.ephemeral_hindrance(container, namespace, ctx)
        if waits is None:
            continue
        name = container["name"]
        held = [item for item in spec["ephemeralContainers"] if item["name"] != name]
        spec["ephemeralContainers"] = held
        if waits.event:
            ctx.notices.append(Notice("SyncError", f"ephemeral container {name!r}: {waits.reason}"))


def _gated_host(virtual: Object, ctx: Context) -> Object | None:
    """Give the host pod when :func:`related` asked for it."""
    return ctx.objects.get(Ref(Side.HOST, "pods", ctx.names.host_key(key_of(virtual))))


def _hindrance(virtual: Object, ctx: Context) -> Blocked | Refused | None:
    """Say why the pod can't be made on the host (now), or ``None``."""
    spec = virtual["spec"]
    if spec.get("resourceClaims"):
        return Refused("spec.resourceClaims are not supported: they would be the host's devices")
    if (refused := volumes.refusal(spec)) is not None:
        return refused
    if (waits := placement.blocked(virtual, ctx)) is not None:
        return waits
    if not env.cluster_ip(_kubernetes(ctx)):
        return Blocked("waiting for the IP of Service default/kubernetes", on=KUBERNETES)
    ref = dns_ref(ctx)
    if dns.uses_cluster_dns(spec) and not env.cluster_ip(ctx.objects.get(ref)):
        return Blocked(
            f"waiting for DNS service IP: dnsPolicy {spec.get('dnsPolicy', 'ClusterFirst')} "
            "needs Service kube-system/kube-dns",
            on=ref,
            event=True,
        )
    return shortened.hindrance(virtual, ctx)


def _kubernetes(ctx: Context) -> Object | None:
    """Give Service ``default/kubernetes`` with the IP that pods reach it under.

    The virtual object gets that IP too, but a pod may be made before.
    """
    service, own = ctx.objects.get(KUBERNETES), ctx.objects.get(OWN_SERVICE)
    address = env.cluster_ip(own)
    if service is None or not address:
        return service
    return {**service, "spec": {**service["spec"], "clusterIP": address}}


def _settle_names(spec: Object, virtual: Object, ctx: Context) -> None:
    """Settle how a new pod is called and finds others: host name, hosts file, DNS."""
    name, namespace = virtual["metadata"]["name"], virtual["metadata"]["namespace"]
    if not spec.get("hostname"):
        spec["hostname"] = dns.hostname(name)
    kubernetes = env.cluster_ip(_kubernetes(ctx))
    spec["hostAliases"] = dns.with_kubernetes_alias(spec.get("hostAliases"), kubernetes)
    if dns.uses_cluster_dns(spec):
        address = env.cluster_ip(ctx.objects.get(dns_ref(ctx)))
        domain = ctx.settings.cluster_domain
        dns.use_cluster_dns(spec, namespace, address, domain)
    if hosts.wanted(virtual, ctx.settings):
        hosts.rewrite(spec, virtual, ctx.settings)


def _host_spec(virtual: Object, ctx: Context) -> Object:
    """Build the spec; what only a creation needs is left to :func:`_settle_names`."""
    namespace = virtual["metadata"]["namespace"]
    uid = virtual["metadata"]["uid"]

    def rename(name: str, target: str) -> str:
        return shortened.host_name(target, Key(namespace, name), uid, ctx)

    given = references.renamed(virtual["spec"], rename)
    spec = {key: value for key, value in given.items() if key in fields.PASSED}
    spec["automountServiceAccountToken"] = False
    spec["enableServiceLinks"] = False
    _add_accounts(spec, given, namespace, ctx)
    services = _service_env(virtual, ctx)
    for name in fields.CONTAINER_LISTS:
        if containers := given.get(name):
            spec[name] = [
                _host_container(item, own, namespace, services, ctx)
                for item, own in zip(containers, virtual["spec"][name], strict=True)
            ]
    if given.get("volumes"):
        spec["volumes"] = volumes.host_volumes(given["volumes"], virtual, ctx)
        hostpath.rewrite(spec, ctx)
    _add_affinity(spec, virtual, ctx)
    placement.enforce(spec, ctx.settings)
    return spec


def _add_accounts(spec: Object, given: Object, namespace: str, ctx: Context) -> None:
    """Set service account and priority class: the host's, unless the tenant's are copied."""
    account = ctx.settings.service_account
    if "ServiceAccount" in ctx.synced and (own := given.get("serviceAccountName")):
        account = ctx.names.host_name(own, namespace)
    if account:
        spec["serviceAccountName"] = account
    if "PriorityClass" in ctx.synced and (priority := given.get("priorityClassName")):
        spec["priorityClassName"] = ctx.names.host_name_cluster(priority)
        if "preemptionPolicy" in given:
            spec["preemptionPolicy"] = given["preemptionPolicy"]


def _add_affinity(spec: Object, virtual: Object, ctx: Context) -> None:
    """Translate what a host scheduler decides by other pods."""
    given = virtual["spec"]
    if terms := given.get("affinity"):
        namespaces = ctx.queries.get(ALL_NAMESPACES, ())
        spec["affinity"] = affinity.host_affinity(terms, virtual, ctx.names, namespaces)
    if constraints := given.get("topologySpreadConstraints"):
        spec["topologySpreadConstraints"] = affinity.host_spread(constraints, virtual, ctx.names)


def _service_env(virtual: Object, ctx: Context) -> list[Object]:
    """Give the service variables, when :func:`related` asked for the Services."""
    kubernetes = _kubernetes(ctx)
    services = ctx.queries.get(_services_of(virtual["metadata"]["namespace"]), ())
    return env.service_env(kubernetes, services) if kubernetes or services else []


def _host_container(
    container: Object, virtual: Object, namespace: str, services: Sequence[Object], ctx: Context
) -> Object:
    """Translate one container of any of the three lists.

    Args:
        container: with names already translated.
        virtual: the same in virtual terms.
        namespace: the pod's.
        services: the service variables.
        ctx: names, settings, and what ``envFrom`` names.
    """
    result = {key: value for key, value in container.items() if key in fields.CONTAINER}
    image = result.get("image")
    if image is not None:
        result["image"] = ctx.settings.translate_image.get(image, image)
    own = container.get("env")
    if own or services:
        given = env.imported(virtual, namespace, ctx.objects) if services else frozenset()
        result["env"] = env.container_env(own, services, ctx.names, given)
    return result
