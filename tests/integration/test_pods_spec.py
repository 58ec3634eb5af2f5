"""What the host's copy of a pod says: the tenant's wishes, with every name in host terms."""

from __future__ import annotations

import orjson

from syncer.naming import PREFIX
from tests.integration.harness import Object, Pair, eventually, named, pod, service
from tests.integration.pod_steps import container, told

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def _field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _annotation(key: str) -> str:
    return f"metadata.annotations['{PREFIX}{key}']"


async def _copy(pair: Pair, name: str, namespace: str) -> Object:
    return await eventually(lambda: pair.copy("pods", name, namespace))


async def test_every_object_a_pod_names_has_its_host_name(pair: Pair, namespace: str) -> None:
    """Config maps, secrets, claims and pull secrets are named as their copies, wherever named."""
    sources = [
        {"configMap": {"name": "c-projected"}},
        {"secret": {"name": "s-projected"}},
        {"downwardAPI": {"items": [{"path": "uid", "fieldRef": {"fieldPath": "metadata.uid"}}]}},
        {"serviceAccountToken": {"path": "token", "audience": "vault"}},
    ]
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    labels_file = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    volumes = [
        {"name": "config", "configMap": {"name": "c-volume"}},
        {"name": "secret", "secret": {"secretName": "s-volume"}},
        {"name": "disk", "persistentVolumeClaim": {"claimName": "disk"}},
        {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": claim}}},
        {"name": "all", "projected": {"sources": sources}},
        {"name": "labels", "downwardAPI": {"items": [labels_file]}},
        {"name": "driver", "csi": {"driver": "d.io", "nodePublishSecretRef": {"name": "s-csi"}}},
    ]
    env = [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c-env", "key": "a"}}},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s-env", "key": "b"}}},
    ]
    env_from = [{"configMapRef": {"name": "c-from"}}, {"secretRef": {"name": "s-from"}}]
    mounts = [{"name": each["name"], "mountPath": f"/{each['name']}"} for each in volumes]
    main = {"name": "main", "image": "nginx", "env": env, "volumeMounts": mounts}
    init = {"name": "init", "image": "busybox", "envFrom": env_from}
    await pair.virtual.create(
        pod(
            "rich",
            namespace,
            labels={"app": "rich"},
            containers=[main],
            initContainers=[init],
            volumes=volumes,
            imagePullSecrets=[{"name": "registry"}],
        )
    )
    spec = (await _copy(pair, "rich", namespace))["spec"]

    def host(name: str) -> str:
        return pair.host_name(name, namespace)

    mounted = {volume["name"]: volume for volume in spec["volumes"]}
    assert mounted["config"]["configMap"]["name"] == host("c-volume")
    assert mounted["secret"]["secret"]["secretName"] == host("s-volume")
    assert mounted["disk"]["persistentVolumeClaim"] == {"claimName": host("disk")}
    assert mounted["scratch"]["persistentVolumeClaim"] == {"claimName": host("rich-scratch")}
    assert "ephemeral" not in mounted["scratch"]
    assert mounted["driver"]["csi"]["nodePublishSecretRef"] == {"name": host("s-csi")}
    config, secret, downward, token = mounted["all"]["projected"]["sources"]
    assert config["configMap"]["name"] == host("c-projected")
    assert secret["secret"]["name"] == host("s-projected")
    assert downward["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"] == _annotation("uid")
    assert token["secret"]["name"] == host("rich-sa-token")
    assert token["secret"]["items"][0]["path"] == "token"
    [item] = mounted["labels"]["downwardAPI"]["items"]
    assert item["fieldRef"]["fieldPath"] == _annotation("labels")
    assert spec["imagePullSecrets"] == [{"name": host("registry")}]
    variables = {each["name"]: each for each in spec["containers"][0]["env"]}
    assert variables["A"]["valueFrom"]["configMapKeyRef"]["name"] == host("c-env")
    assert variables["B"]["valueFrom"]["secretKeyRef"]["name"] == host("s-env")
    [from_map, from_secret] = container({"spec": spec}, "init", "initContainers")["envFrom"]
    assert from_map["configMapRef"]["name"] == host("c-from")
    assert from_secret["secretRef"]["name"] == host("s-from")
    text = orjson.dumps(spec).decode()
    assert "serviceAccountToken" not in text, "it would be the host's"
    # the API server's own mount for pods: its root certificate and namespace are the tenant's
    [access] = [name for name in mounted if name.startswith("kube-api-access-")]
    sources = mounted[access]["projected"]["sources"]
    assert sources[1]["configMap"]["name"] == host("kube-root-ca.crt")


async def test_the_downward_api_shows_the_tenants_values(pair: Pair, namespace: str) -> None:
    """Name, namespace, UID, labels and account are the virtual ones; node and IP the real ones."""
    paths = {
        "LABEL": "metadata.labels['app.kubernetes.io/name']",
        "NAME": "metadata.name",
        "NAMESPACE": "metadata.namespace",
        "UID": "metadata.uid",
        "ACCOUNT": "spec.serviceAccountName",
        "NOTE": "metadata.annotations['note']",
        "NODE": "spec.nodeName",
        "IP": "status.podIP",
    }
    env = [_field(name, path) for name, path in paths.items()]
    labels = {"app.kubernetes.io/name": "web", "b": 'say "hi"'}
    asked = pod(
        "self", namespace, labels={}, containers=[{"name": "main", "image": "nginx", "env": env}]
    )
    asked["metadata"] |= {"labels": {"app.kubernetes.io/name": "web"}}
    asked["metadata"] |= {"annotations": {"note": "text"}}
    virtual = await pair.virtual.create(asked)
    copy = await _copy(pair, "self", namespace)
    found = {
        each["name"]: each["valueFrom"]["fieldRef"]["fieldPath"]
        for each in copy["spec"]["containers"][0]["env"]
        if "valueFrom" in each
    }
    label = pair.names.label_key("app.kubernetes.io/name")
    assert found == {
        "LABEL": f"metadata.labels['{label}']",
        "NAME": _annotation("name"),
        "NAMESPACE": _annotation("namespace"),
        "UID": _annotation("uid"),
        "ACCOUNT": _annotation("service-account-name"),
        "NOTE": "metadata.annotations['note']",
        "NODE": "spec.nodeName",
        "IP": "status.podIP",
    }
    annotations = copy["metadata"]["annotations"]
    assert copy["metadata"]["labels"][label] == labels["app.kubernetes.io/name"]
    assert annotations["note"] == "text"
    assert annotations[f"{PREFIX}name"] == "self"
    assert annotations[f"{PREFIX}namespace"] == namespace
    assert annotations[f"{PREFIX}uid"] == virtual["metadata"]["uid"]
    assert annotations[f"{PREFIX}labels"] == 'app.kubernetes.io/name="web"'
    assert annotations[f"{PREFIX}service-account-name"] == "default"


async def test_names_resolve_as_in_the_virtual_cluster(pair: Pair, namespace: str) -> None:
    """DNS config, host aliases, host name, subdomain and service variables are the tenant's."""
    await pair.virtual.create(service("db", namespace, port=5432))

    async def service_ip() -> str:
        virtual = await pair.virtual.get("services", "db", namespace)
        copy = await pair.copy("services", "db", namespace)
        assert virtual["spec"]["clusterIP"] == copy["spec"]["clusterIP"]
        return str(copy["spec"]["clusterIP"])

    db = await eventually(service_ip)
    kube_dns = await eventually(lambda: pair.copy("services", "kube-dns", "kube-system"))
    dns = kube_dns["spec"]["clusterIP"]
    api = (await pair.host.get("services", pair.names.tenant, pair.names.host_namespace))["spec"]
    dns_config = {
        "nameservers": ["1.1.1.1"],
        "searches": ["example.org"],
        "options": [{"name": "timeout", "value": "1"}],
    }
    own = {"name": "main", "image": "nginx", "env": [{"name": "DB_SERVICE_PORT", "value": "mine"}]}
    alias = {"ip": "192.0.2.7", "hostnames": ["elsewhere"]}
    await pair.virtual.create(
        pod(
            "web-0",
            namespace,
            subdomain="db",
            dnsConfig=dns_config,
            hostAliases=[alias],
            containers=[own],
        )
    )
    quiet = pod("quiet", namespace, dnsPolicy="Default", enableServiceLinks=False)
    await pair.virtual.create(quiet)

    spec = (await _copy(pair, "web-0", namespace))["spec"]
    assert spec["dnsPolicy"] == "None"
    assert spec["dnsConfig"] == {
        "nameservers": [dns, "1.1.1.1"],
        "searches": [
            f"{namespace}.svc.cluster.local",
            "svc.cluster.local",
            "cluster.local",
            "example.org",
        ],
        "options": [{"name": "ndots", "value": "5"}, {"name": "timeout", "value": "1"}],
    }
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    assert spec["hostAliases"] == [alias, {"ip": api["clusterIP"], "hostnames": names}]
    assert spec["hostname"] == "web-0"
    assert "subdomain" not in spec
    first = spec["initContainers"][0]
    assert (first["name"], first["image"]) == ("vcluster-rewrite-hosts", "library/alpine:3.13.1")
    assert f"web-0.db.{namespace}.svc.cluster.local web-0" in first["args"][1]
    main = container({"spec": spec}, "main")
    [hosts] = [mount for mount in main["volumeMounts"] if mount["mountPath"] == "/etc/hosts"]
    assert hosts["subPath"] == "hosts"
    env = {each["name"]: each.get("value") for each in main["env"]}
    assert env["DB_SERVICE_HOST"] == db
    assert env["DB_SERVICE_PORT"] == "mine", "the container's own variable wins"
    assert env["DB_PORT_5432_TCP"] == f"tcp://{db}:5432"
    assert env["KUBERNETES_SERVICE_HOST"] == api["clusterIP"]
    assert spec["enableServiceLinks"] is False

    spec = (await _copy(pair, "quiet", namespace))["spec"]
    assert spec["dnsPolicy"] == "Default"
    assert "dnsConfig" not in spec
    env = {each["name"]: each.get("value") for each in spec["containers"][0]["env"]}
    assert env["KUBERNETES_SERVICE_HOST"] == api["clusterIP"]
    assert not [name for name in env if name.startswith("DB_")]


async def test_what_is_scheduled_by_other_pods_sees_the_tenants_only(
    pair: Pair, namespace: str
) -> None:
    """Selectors of affinity and spreading select translated labels, by tenant and namespace."""
    select = {"matchLabels": {"app": "web"}}
    host = "kubernetes.io/hostname"
    teams = {"matchLabels": {"team": "a"}}
    preferred = {"topologyKey": host, "labelSelector": select, "namespaces": ["one", "two"]}
    affinity = {
        "nodeAffinity": {
            _REQUIRED: {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": host, "operator": "Exists"}]},
                ]
            }
        },
        "podAffinity": {_PREFERRED: [{"weight": 5, "podAffinityTerm": preferred}]},
        "podAntiAffinity": {
            _REQUIRED: [
                {"topologyKey": host, "labelSelector": select},
                {"topologyKey": host, "labelSelector": select, "namespaceSelector": teams},
            ]
        },
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": host,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": select,
        "matchLabelKeys": ["pod-template-hash"],
    }
    labels = {"app": "other", "pod-template-hash": "1"}
    asked = pod(
        "near", namespace, labels=labels, affinity=affinity, topologySpreadConstraints=[spread]
    )
    await pair.virtual.create(asked)
    spec = (await _copy(pair, "near", namespace))["spec"]
    app = {pair.names.label_key("app"): "web", f"{PREFIX}managed-by": pair.names.marker}
    own = app | {f"{PREFIX}namespace": namespace}
    assert spec["affinity"]["nodeAffinity"] == affinity["nodeAffinity"]
    [weighted] = spec["affinity"]["podAffinity"][_PREFERRED]
    listed = {"key": f"{PREFIX}namespace", "operator": "In", "values": ["one", "two"]}
    assert weighted == {
        "weight": 5,
        "podAffinityTerm": {
            "topologyKey": host,
            "labelSelector": {"matchLabels": app, "matchExpressions": [listed]},
        },
    }
    team = {pair.names.namespace_label_key("team"): "a"}
    assert spec["affinity"]["podAntiAffinity"][_REQUIRED] == [
        {"topologyKey": host, "labelSelector": {"matchLabels": own}},
        {"topologyKey": host, "labelSelector": {"matchLabels": app | team}},
    ]
    [constraint] = spec["topologySpreadConstraints"]
    assert constraint["labelSelector"]["matchLabels"] == own
    [resolved] = constraint["labelSelector"]["matchExpressions"]
    assert resolved["key"] == pair.names.label_key("pod-template-hash")
    assert "matchLabelKeys" not in constraint


async def test_accounts_priorities_and_owners_are_the_hosts(pair: Pair, namespace: str) -> None:
    """The tenant's account, priority and owners don't cross; its security context does, as is."""
    await pair.virtual.create(named("ServiceAccount", "robot", namespace))
    klass = f"urgent-{namespace}"
    await pair.virtual.create(
        named("PriorityClass", klass, apiVersion="scheduling.k8s.io/v1", value=1000)
    )
    security = {"runAsUser": 1234, "fsGroup": 5, "sysctls": [], "runAsNonRoot": True}
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    owner = await pair.virtual.create(named("ConfigMap", "owner", namespace))
    asked = pod(
        "safe",
        namespace,
        labels={"app": "safe"},
        serviceAccountName="robot",
        priorityClassName=klass,
        securityContext=security,
        containers=[{"name": "main", "image": "nginx", "securityContext": own}],
    )
    asked["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": "owner",
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
    ]
    try:
        # Refused as long as the API server's admission has not heard of the class.
        await eventually(lambda: pair.virtual.create(asked))
        copy = await _copy(pair, "safe", namespace)
        await told(pair.virtual, namespace, "safe", "--sync=priorityclasses", "SyncWarning")
    finally:
        await pair.virtual.delete("scheduling.k8s.io/v1/priorityclasses", klass)
    spec, metadata = copy["spec"], copy["metadata"]
    assert spec["serviceAccountName"] == "default"
    assert spec["automountServiceAccountToken"] is False
    assert metadata["annotations"][f"{PREFIX}service-account-name"] == "robot"
    assert "priorityClassName" not in spec
    assert spec["priority"] == 0
    security.pop("sysctls")
    assert spec["securityContext"] == security
    assert spec["containers"][0]["securityContext"] == own
    tenant = await pair.host.get("services", pair.names.tenant, pair.names.host_namespace)
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "name": pair.names.tenant,
            "uid": tenant["metadata"]["uid"],
            "controller": True,
        }
    ]
    labels = metadata["labels"]
    assert labels[pair.names.label_key("app")] == "safe"
    assert "app" not in labels
    in_namespace = pair.names.namespace_label_key("kubernetes.io/metadata.name")
    assert labels[in_namespace] == namespace
