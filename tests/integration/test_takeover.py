"""Takeover: a host namespace that vcluster v0.16 to v0.19 has synced, or v0.7, goes on as it is.

The objects are written as the original leaves them: its marks and labels, its record of managed
annotations, its two forms of service-account tokens, its pods' DNS, environment and host aliases.

Source: vcluster v0.16.4 `pkg/util/translate`, `pkg/controllers/resources/pods/translate`.
"""

import asyncio
import re
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import pytest

from controlplane import ControlPlane
from controlplane.faults import FaultProxy, Write, fault_proxy
from syncer.naming import Names
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    RefusedError,
    Syncer,
    cluster,
    config_map,
    eventually,
    named,
    pod,
    secret,
    service,
)

_APP = "app"
_P = "vcluster.loft.sh/"
_RANDOM = "abcdefgh"  # what the original chose as the end of a token's annotation
_TEN_YEARS = 10 * 365 * 24 * 3600
_STATUS = frozenset(
    {"conditions", "containerStatuses", "hostIP", "hostIPs", "podIP", "podIPs", "phase"}
    | {"startTime"}
)
_LOOKED_AT = ("pods", "services", "configmaps", "secrets", "endpoints", "persistentvolumeclaims")


def _hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:10]


@dataclass
class Original:
    """Writes host objects as the original does.

    Attributes:
        host: the host.
        virtual: the virtual cluster, with the objects the copies are of.
        owner: the Service of the virtual cluster on the host.
    """

    host: Cluster
    virtual: Cluster
    owner: Object

    @property
    def tenant(self) -> str:
        """Name of the virtual cluster."""
        return str(self.owner["metadata"]["name"])

    @property
    def home(self) -> str:
        """The host namespace."""
        return str(self.owner["metadata"]["namespace"])

    def name(self, name: str, namespace: str = _APP) -> str:
        """Translate a name."""
        return f"{name}-x-{namespace}-x-{self.tenant}"

    def metadata(self, virtual: Object, *, uid: bool = True) -> Object:
        """Give the metadata of a copy; v0.7 wrote no UID."""
        theirs = virtual["metadata"]
        labels = {
            f"{_P}label-{self.tenant}-x-{_hashed(key)}": value
            for key, value in (theirs.get("labels") or {}).items()
        }
        labels |= {f"{_P}managed-by": self.tenant, f"{_P}namespace": theirs["namespace"]}
        copied = {
            key: value
            for key, value in (theirs.get("annotations") or {}).items()
            if not key.startswith(("pv.kubernetes.io/", "volume."))
        }
        annotations = dict(copied)
        annotations[f"{_P}object-name"] = theirs["name"]
        annotations[f"{_P}object-namespace"] = theirs["namespace"]
        if uid:
            annotations[f"{_P}object-uid"] = theirs["uid"]
        if copied:
            annotations[f"{_P}managed-annotations"] = "\n".join(sorted(copied))
        controller = any(each.get("controller") for each in theirs.get("ownerReferences") or ())
        return {
            "name": self.name(theirs["name"], theirs["namespace"]),
            "namespace": self.home,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [self._owner(controller=controller)],
        }

    def _owner(self, *, controller: bool) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Service",
            "name": self.tenant,
            "uid": self.owner["metadata"]["uid"],
            "controller": controller,
        }

    async def copy(self, virtual: Object, kind: str, *, uid: bool = True, **fields: Any) -> Object:
        """Write the copy of a virtual object and remember its UID."""
        made = named(kind, "", **fields)
        made["metadata"] = self.metadata(virtual, uid=uid)
        return await self.host.create(made)

    async def pod(self, virtual: Object, dns: str, *, secrets: bool) -> Object:
        """Write the copy of a pod with its tokens, run it, and give the virtual one its status."""
        metadata, spec = virtual["metadata"], virtual["spec"]
        [access] = [each for each in spec["volumes"] if each["name"].startswith("kube-api-access")]
        [mine] = [each for each in spec["volumes"] if each["name"] == "config"]
        token = await self._token(metadata["name"], metadata["uid"])
        kubernetes = await self.virtual.get("services", "kubernetes", "default")
        address = kubernetes["spec"]["clusterIP"]
        made = named("Pod", "")
        made["metadata"] = self.metadata(virtual)
        annotations, labels = made["metadata"]["annotations"], made["metadata"]["labels"]
        labels[f"{_P}ns-label-{self.tenant}-x-{_hashed('kubernetes.io/metadata.name')}"] = _APP
        lines = sorted(f'{key}="{value}"' for key, value in metadata["labels"].items())
        annotations |= {
            f"{_P}name": metadata["name"],
            f"{_P}namespace": metadata["namespace"],
            f"{_P}uid": metadata["uid"],
            f"{_P}service-account-name": "default",
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            f"{_P}labels": "\n".join(lines),
        }
        source: Object
        items: list[Object]
        secret_name = self.name(f"{metadata['name']}-sa-token")
        if secrets:
            items = [{"key": f"token-{_RANDOM}", "path": "token", "mode": 0o644}]
            source = {"secret": {"name": secret_name, "items": items, "optional": False}}
        else:
            annotations[f"{_P}token-{_RANDOM}"] = token
            path = f"metadata.annotations['{_P}token-{_RANDOM}']"
            reference = {"apiVersion": "v1", "fieldPath": path}
            items = [{"path": "token", "fieldRef": reference, "mode": 0o644}]
            source = {"downwardAPI": {"items": items}}
        root: Object = {"name": self.name("kube-root-ca.crt")}
        root["items"] = [{"key": "ca.crt", "path": "ca.crt"}]
        field_path = f"metadata.annotations['{_P}namespace']"
        namespace_file = {"path": "namespace", "fieldRef": {"fieldPath": field_path}}
        sources = [source, {"configMap": root}, {"downwardAPI": {"items": [namespace_file]}}]
        container = dict(spec["containers"][0])
        container["env"] = _kubernetes_env(address)
        made["spec"] = {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "containers": [container],
            "dnsPolicy": "None",
            "dnsConfig": {
                "nameservers": [dns],
                "searches": [f"{_APP}.svc.cluster.local", "svc.cluster.local", "cluster.local"],
                "options": [{"name": "ndots", "value": "5"}],
            },
            "hostname": metadata["name"],
            "hostAliases": [
                {
                    "ip": address,
                    "hostnames": [
                        "kubernetes",
                        "kubernetes.default",
                        "kubernetes.default.svc",
                    ],
                }
            ],
            "tolerations": spec["tolerations"],
            "volumes": [
                mine | {"configMap": {"name": self.name("settings"), "defaultMode": 0o644}},
                {"name": access["name"], "projected": {"sources": sources, "defaultMode": 0o644}},
            ],
        }
        if secrets:
            await self.host.create(
                named(
                    "Secret",
                    secret_name,
                    self.home,
                    annotations={f"{_P}skip-backsync": "true"},
                    stringData={f"token-{_RANDOM}": token},
                    type="Opaque",
                )
            )
        created = await self.host.create(made)
        if secrets:
            owner = {"apiVersion": "v1", "kind": "Pod", "name": created["metadata"]["name"]}
            owner["uid"] = created["metadata"]["uid"]
            owned = {"metadata": {"ownerReferences": [owner]}}
            await self.host.patch("secrets", secret_name, self.home, owned)
        await self._run(metadata["name"])
        return created

    async def _token(self, name: str, uid: str) -> str:
        audience = "https://kubernetes.default"
        bound = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
        spec = {
            "audiences": [f"{audience}.svc.cluster.local", f"{audience}.svc", audience],
            "expirationSeconds": _TEN_YEARS,
            "boundObjectRef": bound,
        }
        answer = await self.virtual.request(
            "POST",
            f"/api/v1/namespaces/{_APP}/serviceaccounts/default/token",
            body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        token: str = answer["status"]["token"]
        return token

    async def _run(self, name: str) -> None:
        """Wait until the host runs a pod; bind the virtual one and give it that status."""

        async def running() -> Object:
            found = await self.host.get("pods", self.name(name), self.home)
            assert found["status"]["phase"] == "Running"
            return found

        copy = await eventually(running)
        node = copy["spec"]["nodeName"]
        if await self.virtual.find("nodes", node) is None:
            labels = {f"{_P}fake-node": "true", "kubernetes.io/hostname": f"fake-{node}"}
            await self.virtual.create(named("Node", node, labels=labels))
            await self.virtual.patch("nodes", node, "", {"spec": {"taints": None}})
            await self._kubelet(node)
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = named("Binding", name, _APP, target=target)
        path = f"/api/v1/namespaces/{_APP}/pods/{name}"
        await self.virtual.request("POST", f"{path}/binding", body=binding)
        status = {key: copy["status"][key] for key in _STATUS if key in copy["status"]}
        status = {"status": status}
        await self.virtual.patch("pods", name, _APP, status, subresource="status")

    async def _kubelet(self, node: str) -> None:
        """Give a node the address of a Service of its own, where the original is its kubelet."""
        labels = {f"{_P}belongs-to": self.tenant, f"{_P}node": node}
        spec: Object = {"ports": [{"name": "kubelet", "port": 10250, "targetPort": 8443}]}
        made = named("Service", f"{self.tenant}-node-{node}", self.home, labels=labels, spec=spec)
        made["metadata"]["ownerReferences"] = [self._owner(controller=False)]
        address = (await self.host.create(made))["spec"]["clusterIP"]
        status = {
            "addresses": [
                {"type": "Hostname", "address": f"{node}.nodes.vcluster.com"},
                {"type": "InternalIP", "address": address},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        }
        await self.virtual.patch("nodes", node, "", {"status": status}, subresource="status")


def _kubernetes_env(address: str) -> list[Object]:
    """Return the variables that the original gives each container, in its order."""
    port = f"tcp://{address}:443"
    values = {
        "KUBERNETES_PORT": port,
        "KUBERNETES_PORT_443_TCP": port,
        "KUBERNETES_PORT_443_TCP_ADDR": address,
        "KUBERNETES_PORT_443_TCP_PORT": "443",
        "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
        "KUBERNETES_SERVICE_HOST": address,
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
    }
    return [{"name": name, "value": values[name]} for name in sorted(values)]


@dataclass(frozen=True)
class Taken:
    """A pair after the takeover.

    Attributes:
        pair: both clusters and the syncer.
        before: host objects as the original left them, by resource and name.
        virtual: the tenant's, likewise, by resource, namespace and name.
        host_writes: what the syncer wrote on the host in its first seconds.
        virtual_writes: likewise in the virtual cluster.
    """

    pair: Pair
    before: dict[str, Object]
    virtual: dict[str, Object]
    host_writes: list[Write]
    virtual_writes: list[Write]

    @property
    def home(self) -> str:
        """The host namespace."""
        return self.pair.names.host_namespace

    def name(self, name: str) -> str:
        """Translate a name."""
        return self.pair.host_name(name, _APP)


async def _everything(where: Cluster, namespace: str = "") -> dict[str, Object]:
    return {
        f"{resource} {each['metadata']['namespace']}/{each['metadata']['name']}": each
        for resource in _LOOKED_AT
        for each in await where.list(resource, namespace)
    }


@pytest.fixture(scope="module")
async def taken(host: Cluster, worker_name: str) -> AsyncIterator[Taken]:
    """Write a synced host namespace as the original leaves it, then start our syncer."""
    tenant, home = f"taken-{worker_name}", f"host-taken-{worker_name}"
    async with (
        ControlPlane.virtual() as plane,
        cluster(plane) as virtual,
        fault_proxy(host.plane) as to_host,
        fault_proxy(plane) as to_virtual,
    ):
        syncer = Syncer(
            host.plane,
            plane,
            tenant=tenant,
            namespace=home,
            flags=(
                f"--host-kube-config={to_host.kubeconfig}",
                f"--kube-config={to_virtual.kubeconfig}",
            ),
        )
        await syncer.prepare()
        await _write(Original(host, virtual, await host.get("services", tenant, home)))
        before, mine = await _everything(host, home), await _everything(virtual)
        async with syncer:
            await _rest(to_host, to_virtual)
            pair = Pair(host, virtual, syncer, Names(tenant, home))
            yield Taken(pair, before, mine, list(to_host.writes), list(to_virtual.writes))


async def _rest(*proxies: FaultProxy) -> None:
    """Wait until nothing was written for two seconds."""

    async def still() -> None:
        writes = await asyncio.gather(*(each.writes_during(2) for each in proxies))
        assert not any(writes)

    await eventually(still)


async def _write(original: Original) -> None:
    """Fill both clusters with one object of each kind, or two where the original has two forms."""
    host, virtual = original.host, original.virtual
    await virtual.create(named("Namespace", _APP))
    await eventually(lambda: virtual.get("serviceaccounts", "default", _APP))
    root = await eventually(lambda: virtual.get("configmaps", "kube-root-ca.crt", _APP))
    await original.copy(root, "ConfigMap", data=root["data"])
    await _adopt_kubernetes(original)
    dns = await _service(original, service("kube-dns", "kube-system"))
    note = {"note": "kept", "other": "one"}
    settings = config_map("settings", _APP, {"a": "b"}, annotations=note, labels={"app": "web"})
    settings = await virtual.create(settings)
    await original.copy(settings, "ConfigMap", data=settings["data"])
    forced = {f"{_P}force-sync": "true"}
    for name, uid in (("creds", True), ("old-creds", False)):
        made = await virtual.create(secret(name, _APP, {"a": "b"}, annotations=forced))
        data = {"a": b64encode(b"b").decode()}
        await original.copy(made, "Secret", uid=uid, data=data, type="Opaque")
    old = await virtual.create(config_map("old", _APP, {"a": "b"}, annotations=forced))
    await original.copy(old, "ConfigMap", uid=False, data=old["data"])
    labelled = service("web", _APP)
    labelled["metadata"]["labels"] = {"app": "web"}
    await _service(original, labelled)
    await _service(original, service("old", _APP), uid=False)
    await _service(original, service("external", _APP, selector=None))
    subsets = [{"addresses": [{"ip": "10.99.5.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}]
    endpoints = await virtual.create(named("Endpoints", "external", _APP, subsets=subsets))
    await original.copy(endpoints, "Endpoints", subsets=subsets)
    await _claim(original)
    for name, secrets in (("annotated", False), ("secreted", True)):
        volume = {"name": "config", "configMap": {"name": "settings"}}
        made = await virtual.create(pod(name, _APP, labels={"app": "web"}, volumes=[volume]))
        await original.pod(made, dns, secrets=secrets)
    await _made_by_the_host(original)
    leader = {"holderIdentity": "vcluster-0-external-vcluster-controller"}
    await host.create(
        named(
            "Lease",
            f"vcluster-{original.tenant}-controller",
            original.home,
            apiVersion="coordination.k8s.io/v1",
            spec=leader,
        )
    )


async def _made_by_the_host(original: Original) -> None:
    """Wait for what the host's own controllers make in the namespace, in their own time."""
    services = await original.host.list("services", original.home)
    selecting = {each["metadata"]["name"] for each in services if each["spec"].get("selector")}
    pods = await original.host.list("pods", original.home)
    running = {each["status"]["podIP"] for each in pods}

    async def all_there() -> None:
        endpoints = {
            each["metadata"]["name"]: each.get("subsets") or ()
            for each in await original.host.list("endpoints", original.home)
        }
        assert selecting <= endpoints.keys()
        web = endpoints[original.name("web")]
        assert {one["ip"] for each in web for one in each.get("addresses") or ()} == running
        await original.host.get("configmaps", "kube-root-ca.crt", original.home)

    await eventually(all_there, timeout=60)


async def _adopt_kubernetes(original: Original) -> None:
    """Give `default/kubernetes` the address of the owner Service, as the original does."""
    address, ports = (original.owner["spec"][each] for each in ("clusterIP", "ports"))
    where = ("services", "kubernetes", "default")
    away = {"type": "ExternalName", "externalName": "a.invalid", "clusterIP": None}
    await original.virtual.patch(*where, {"spec": away | {"clusterIPs": None}})
    back = {"type": "ClusterIP", "externalName": None, "clusterIP": address}
    back |= {"ports": ports}
    await original.virtual.patch(*where, {"spec": back})


async def _service(original: Original, asked: Object, *, uid: bool = True) -> str:
    """Write a service and its copy, with one address; return that.

    Another tenant of the host may have the address that the virtual server gives: then it is asked
    for another one.
    """

    async def both() -> str:
        made = await original.virtual.create(asked)
        try:
            await _service_copy(original, made, uid=uid)
        except RefusedError:
            where = made["metadata"]
            await original.virtual.delete("services", where["name"], where["namespace"])
            raise
        return str(made["spec"]["clusterIP"])

    return await eventually(both)


async def _service_copy(original: Original, made: Object, *, uid: bool) -> None:
    spec = made["spec"]
    selector = {
        f"{_P}label-{original.tenant}-x-{_hashed(key)}": value
        for key, value in (spec.get("selector") or {}).items()
    }
    if selector:
        marks = {"managed-by": original.tenant, "namespace": made["metadata"]["namespace"]}
        selector |= {f"{_P}{key}": value for key, value in marks.items()}
    wanted = {"type": spec["type"], "ports": spec["ports"], "clusterIP": spec["clusterIP"]}
    if selector:
        wanted["selector"] = selector
    await original.copy(made, "Service", uid=uid, spec=wanted)


async def _claim(original: Original) -> None:
    """Write a bound claim with its copy, the host's volume and the virtual stand-in for it."""
    host, virtual = original.host, original.virtual
    name, size = f"volume-of-{original.tenant}", {"storage": "5Gi"}
    volume = {
        "capacity": size,
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": name,
        "persistentVolumeReclaimPolicy": "Retain",
    }
    path = {"hostPath": {"path": "/tmp/taken"}}
    await host.create(named("PersistentVolume", name, spec=volume | path))

    async def available() -> None:
        found = await host.get("persistentvolumes", name)
        assert found["status"].get("phase") == "Available"

    await eventually(available)  # a claim that finds none is not looked at again for 15 s
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": size},
        "storageClassName": name,
        "volumeMode": "Filesystem",
    }
    bound = {
        f"pv.kubernetes.io/{each}": "yes" for each in ("bind-completed", "bound-by-controller")
    }
    mine = named("PersistentVolumeClaim", "disk", _APP, annotations=bound)
    made = await virtual.create(mine | {"spec": spec | {"volumeName": name}})
    await original.copy(made, "PersistentVolumeClaim", spec=spec)

    async def is_bound() -> Object:
        found = await host.get("persistentvolumeclaims", original.name("disk"), original.home)
        assert found["status"]["phase"] == "Bound"
        return found

    copy = await eventually(is_bound)
    await virtual.patch(
        "persistentvolumeclaims",
        "disk",
        _APP,
        {"status": copy["status"]},
        subresource="status",
    )
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": _APP}
    claim |= {"name": "disk", "uid": made["metadata"]["uid"]}
    fake = volume | {"flexVolume": {"driver": "fake"}, "claimRef": claim}
    fake["persistentVolumeReclaimPolicy"] = "Delete"
    labels = {f"{_P}fake-pv": "true"}
    await virtual.create(named("PersistentVolume", name, labels=labels, spec=fake))
    phase = {"status": {"phase": "Bound"}}
    await virtual.patch("persistentvolumes", name, "", phase, subresource="status")


async def test_nothing_is_made_again_on_the_host(taken: Taken) -> None:
    """Every object of the original is still there with its UID, pods not even restarted."""
    after = await _everything(taken.pair.host, taken.home)
    for where, was in taken.before.items():
        now = after[where]["metadata"]
        assert now["uid"] == was["metadata"]["uid"], where
        assert "deletionTimestamp" not in now, where
    assert after.keys() - taken.before.keys() == {
        f"configmaps {taken.home}/vc-state-{taken.pair.names.tenant}",
        f"secrets {taken.home}/vc-{taken.pair.names.tenant}",
    }
    assert not [each for each in taken.host_writes if each.verb == "DELETE"]


async def test_nothing_is_made_again_in_the_virtual_cluster(taken: Taken) -> None:
    """The tenant's objects keep their UIDs, its pods and claims their status."""
    after = await _everything(taken.pair.virtual)
    for where, was in taken.virtual.items():
        assert after[where]["metadata"]["uid"] == was["metadata"]["uid"], where
    for name in ("annotated", "secreted"):
        was, now = (each[f"pods {_APP}/{name}"]["status"] for each in (taken.virtual, after))
        assert (now["phase"], now["startTime"]) == ("Running", was["startTime"])
    claim = after[f"persistentvolumeclaims {_APP}/disk"]
    assert claim["status"] == taken.virtual[f"persistentvolumeclaims {_APP}/disk"]["status"]
    assert not [each for each in taken.virtual_writes if each.verb == "DELETE"]


async def test_what_is_written_is_little(taken: Taken) -> None:
    """An object is written at most once, and only for a mark or a token the original had not."""
    written = Counter((each.verb, each.path.rpartition("/")[2]) for each in taken.host_writes)
    # The record's version follows ten seconds after a write: a slow start sees that, too.
    del written["PATCH", f"vc-state-{taken.pair.names.tenant}"]
    nodes = [name for _, name in written if name.startswith(f"{taken.pair.names.tenant}-node-")]
    assert written == Counter({("PATCH", name): 1 for name in nodes}) | Counter(  # another port
        {
            ("POST", "configmaps"): 1,  # the record of the virtual cluster's identity
            ("PATCH", taken.name("old")): 2,  # the config map and the service of v0.7
            ("PATCH", taken.name("old-creds")): 1,
            ("POST", "secrets"): 2,  # the kubeconfig; refused: the pod's own Secret is there
            ("PATCH", taken.name("secreted-sa-token")): 1,
        }
    )
    virtual = Counter(each.path for each in taken.virtual_writes if "/events" not in each.path)
    assert max(virtual.values()) == 1
    # What the original can't write on this version of Kubernetes, and its nodes' sizes.
    allowed = re.compile(r"/pods/\w+/status$|/nodes/[\w-]+/status$|/serviceaccounts/default/token$")
    assert [path for path in virtual if not allowed.search(path)] == []


async def test_marks_and_labels_are_the_originals(taken: Taken) -> None:
    """Names, labels and the records of managed keys are as they were; v0.7 copies get a UID."""
    after = await _everything(taken.pair.host, taken.home)
    for where, was in taken.before.items():
        now = after[where]
        assert (now["metadata"].get("labels") or {}).items() >= (
            was["metadata"].get("labels") or {}
        ).items()
        for key, value in (was["metadata"].get("annotations") or {}).items():
            assert now["metadata"]["annotations"][key] == value, (where, key)
    for where in ("secrets", "configmaps", "services"):
        name = "old-creds" if where == "secrets" else "old"
        found = after[f"{where} {taken.home}/{taken.name(name)}"]["metadata"]["annotations"]
        virtual = taken.virtual[f"{where} {_APP}/{name}"]
        assert found[f"{_P}object-uid"] == virtual["metadata"]["uid"]


async def test_the_syncer_goes_on_with_what_it_took_over(taken: Taken) -> None:
    """Changes of the tenant reach the copies, deletions too; a key that went is taken off."""
    pair = taken.pair
    change = {"data": {"a": "c"}, "metadata": {"annotations": {"other": None, "new": "1"}}}
    await pair.virtual.patch("configmaps", "settings", _APP, change)

    async def changed() -> None:
        found = await pair.copy("configmaps", "settings", _APP)
        annotations = found["metadata"]["annotations"]
        assert found["data"] == {"a": "c"}
        assert (annotations["note"], annotations["new"]) == ("kept", "1")
        assert "other" not in annotations

    await eventually(changed)
    for name in ("annotated", "secreted"):
        await pair.virtual.delete("pods", name, _APP, grace=0)

    async def nothing() -> None:
        for resource in ("pods", "secrets"):
            names = [
                each["metadata"]["name"] for each in await pair.host.list(resource, taken.home)
            ]
            left = [each for each in names if re.match("annotated|secreted", each)]
            assert not left

    await eventually(nothing)
    await pair.host.delete("persistentvolumes", f"volume-of-{pair.names.tenant}")
