"""What the host answers besides pods' streams: kubelets' pages, proxies, kubectl top.

A host node's kubelet is a server of the test's own where pages are wanted that kwok has not; the
API servers reach it, service IPs and pod IPs through their planes' egress.
"""

import base64
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from controlplane import ControlPlane
from tests.integration.endpoint import (
    Caller,
    Kubectl,
    ask,
    caller,
    grant,
    service_account,
    through,
)
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    Tenant,
    boot_pair,
    cluster,
    eventually,
    named,
    pod,
    service,
)
from tests.integration.pod_steps import in_phase

_ADDRESSES = count(100)
_HELLO = "hello from a fake pod"


@dataclass
class Backend:
    """A server of the test's own.

    Attributes:
        pages: path -> text; what isn't there is 404.
        seen: each request: method, target, headers.
        port: on loopback.
    """

    pages: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["Backend"]:
        """Serve while the body runs."""
        runner = web.ServerRunner(web.Server(self._answer))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self.seen.append((request.method, request.raw_path, dict(request.headers)))
        path = request.raw_path.partition("?")[0]
        if path == "/redirect":
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        if path not in self.pages:
            return web.Response(status=404, text="no such page")
        kind = "text/html" if path.endswith(".html") else "text/plain"
        return web.Response(text=self.pages[path], content_type=kind)


def _address() -> str:
    return f"192.0.2.{next(_ADDRESSES)}"


def _tls(host: Cluster, address: str) -> ssl.SSLContext:
    keys = host.plane.pki.server(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys.certificate, keys.key)
    return context


@asynccontextmanager
async def _kubelet(pair: Pair) -> AsyncIterator[tuple[str, Backend]]:
    """Yield the name of a host node and the server that is its kubelet."""
    name, address = f"node-{uuid.uuid4().hex[:8]}", _address()
    async with Backend().listening(_tls(pair.host, address)) as kubelet:
        where = ("127.0.0.1", kubelet.port)
        async with pair.host.plane.node(name, address, kubelet=where):
            yield name, kubelet


async def _pod_on(pair: Pair, node: str, name: str, namespace: str) -> Object:
    """Run a pod on a host node; return the virtual one."""
    terms = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]
    affinity = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }
    }
    tolerations = [{"operator": "Exists"}]
    await pair.virtual.apply(pod(name, namespace, affinity=affinity, tolerations=tolerations))
    return await in_phase(pair, name, namespace)


async def _page(pair: Pair, node: str, path: str, who: Caller | None = None) -> str:
    answer = await through(pair, "GET", f"/api/v1/nodes/{node}/proxy{path}", who=who)
    assert answer.status == 200, answer
    return answer.body.decode()


# -- the virtual API server's own way to kubelets ----------------------------------------------


async def test_the_virtual_api_server_reaches_its_nodes_kubelets(
    pair: Pair, namespace: str
) -> None:
    """Logs and exec through the virtual API server itself come from the host's pods."""
    await pair.virtual.apply(pod("web", namespace))
    node = (await in_phase(pair, "web", namespace))["spec"]["nodeName"]

    async def address() -> str:
        found = (await pair.virtual.get("nodes", node))["status"]["addresses"]
        mine = [each["address"] for each in found if each["type"] == "InternalIP"]
        return str(mine[0])

    ip = await eventually(address)
    with pair.virtual.plane.egress.route(f"{ip}:10250", ("127.0.0.1", pair.syncer.port)):
        kubectl = Kubectl.of(pair, namespace=namespace, straight=True)

        async def logs() -> str:  # the certificate takes a moment to have the node's address
            return (await kubectl.run("logs", "web")).out

        assert _HELLO in await eventually(logs)
        assert (await kubectl.run("exec", "web", "--", "echo", "hi")).out == "hi\n"
        old = Kubectl.of(pair, namespace=namespace, straight=True, spdy=True)
        assert (await old.run("exec", "web", "--", "echo", "hi")).out == "hi\n"


async def test_a_kubelet_asks_for_the_rights_that_kubelets_ask_for(
    pair: Pair, namespace: str
) -> None:
    """At a node's own address, each page has its own subresource of nodes."""
    await pair.virtual.apply(pod("web", namespace))
    node = (await in_phase(pair, "web", namespace))["spec"]["nodeName"]
    host = (("Host", f"{node}.nodes.vcluster.com:10250"),)
    user = f"scraper-{uuid.uuid4().hex[:6]}"
    who = caller(pair, user)
    for path in ("/pods", "/metrics", "/stats/summary", "/healthz", "/containerLogs/a/b/c"):
        assert (await through(pair, "GET", path, who=who, headers=host)).status == 403
    rules = {"apiGroups": [""], "resources": ["nodes/pods", "nodes/healthz"], "verbs": ["get"]}
    await grant(pair.virtual, user, rules)

    async def allowed() -> Object:
        answer = await through(pair, "GET", "/pods", who=who, headers=host)
        assert answer.status == 200, answer
        found: Object = answer.json
        return found

    mine = {each["metadata"]["name"] for each in (await eventually(allowed))["items"]}
    assert "web" in mine
    assert not any("-x-" in name for name in mine)
    assert (await through(pair, "GET", "/healthz", who=who, headers=host)).body == b"ok"
    assert (await through(pair, "GET", "/metrics", who=who, headers=host)).status == 403


# -- pages of the host's kubelets --------------------------------------------------------------


def _metrics(host_namespace: str, host_pod: str) -> str:
    return (
        "# HELP container_memory_working_set_bytes Memory.\n"
        "# TYPE container_memory_working_set_bytes gauge\n"
        f'container_memory_working_set_bytes{{container="c",namespace="{host_namespace}",'
        f'pod="{host_pod}"}} 7\n'
        'container_memory_working_set_bytes{container="c",namespace="kube-system",'
        'pod="secret-agent"} 8\n'
        "# TYPE node_memory_working_set_bytes gauge\n"
        "node_memory_working_set_bytes 99\n"
    )


async def test_pages_are_the_tenants_part_of_the_hosts(pair: Pair, namespace: str) -> None:
    """Through nodes/proxy, own series come in virtual names; others' never do."""
    async with _kubelet(pair) as (node, kubelet):
        mine = await _pod_on(pair, node, "web", namespace)
        copy = await pair.copy("pods", "web", namespace)
        name, where = copy["metadata"]["name"], copy["metadata"]["namespace"]
        container = mine["spec"]["containers"][0]["name"]
        text = _metrics(where, name).replace('container="c"', f'container="{container}"')
        reference = {"name": name, "namespace": where, "uid": copy["metadata"]["uid"]}
        other = {"name": "secret-agent", "namespace": "kube-system", "uid": "u"}
        summary = {
            "node": {"nodeName": node, "cpu": {"usageNanoCores": 5}},
            "pods": [{"podRef": reference, "containers": []}, {"podRef": other}],
        }
        kubelet.pages = {
            "/metrics/resource": text,
            "/metrics/cadvisor": text,
            "/metrics": "# TYPE kubelet_running_pods gauge\nkubelet_running_pods 3\n",
            "/stats/summary": orjson.dumps(summary).decode(),
        }
        for path in ("/metrics/resource", "/metrics/cadvisor"):
            page = await _page(pair, node, path)
            assert f'namespace="{namespace}",pod="web"}} 7' in page
            assert "secret-agent" not in page
            assert name not in page
            assert where not in page
        assert "node_memory_working_set_bytes 99" in await _page(pair, node, "/metrics/resource")
        pods = orjson.loads(await _page(pair, node, "/stats/summary"))["pods"]
        assert [each["podRef"]["name"] for each in pods] == ["web"]
        assert pods[0]["podRef"]["uid"] == mine["metadata"]["uid"]
        assert {headers["User-Agent"] for _, _, headers in kubelet.seen} == {"vcluster-syncer"}
        missing = await through(pair, "GET", f"/api/v1/nodes/{node}/proxy/metrics/probes")
        assert missing.status == 404, missing
        elsewhere = await through(pair, "GET", "/api/v1/nodes/node-99/proxy/metrics")
        assert elsewhere.status == 404, elsewhere


async def test_a_node_that_is_not_the_tenants_is_not_there(pair: Pair, namespace: str) -> None:
    """A Node object of the tenant's own making, named like one of the host's, opens nothing."""
    async with _kubelet(pair) as (node, kubelet):
        kubelet.pages = {"/metrics": "# TYPE kubelet_running_pods gauge\nkubelet_running_pods 3\n"}
        await pair.virtual.create(named("Node", node))
        try:
            answer = await through(pair, "GET", f"/api/v1/nodes/{node}/proxy/metrics")
            assert answer.status == 404, answer
            assert not kubelet.seen
        finally:
            await pair.virtual.delete("nodes", node)


# -- the syncer's rights on the host -----------------------------------------------------------


async def _restricted(host: Cluster, tenant: Tenant, *nodes: str) -> bytes:
    """Make a host account with what a syncer needs and some rights to nodes; give a kubeconfig."""
    namespace, name = tenant.host_namespace, "syncer"
    if await host.find("namespaces", namespace) is None:
        await host.create(named("Namespace", namespace))
    await host.create(named("ServiceAccount", name, namespace))
    everything = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    rule = {"apiGroups": [""], "resources": [f"nodes{each}" for each in nodes], "verbs": ["get"]}
    unique = f"{namespace}-syncer"
    version = f"{rbac}/v1"
    for obj in (
        named("Role", name, namespace, apiVersion=version, rules=[everything]),
        named("ClusterRole", unique, apiVersion=version, rules=[rule] if nodes else []),
        named(
            "RoleBinding",
            name,
            namespace,
            apiVersion=version,
            subjects=[subject],
            roleRef={"apiGroup": rbac, "kind": "Role", "name": name},
        ),
        named(
            "ClusterRoleBinding",
            unique,
            apiVersion=version,
            subjects=[subject],
            roleRef={"apiGroup": rbac, "kind": "ClusterRole", "name": unique},
        ),
    ):
        await host.create(obj)
    answer = await host.request(
        "POST",
        f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
        body={"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    )
    authority = base64.b64encode(host.plane.pki.server_ca.certificate.read_bytes()).decode()
    return orjson.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "host",
            "clusters": [
                {
                    "name": "host",
                    "cluster": {
                        "server": host.plane.server,
                        "certificate-authority-data": authority,
                    },
                }
            ],
            "users": [{"name": "host", "user": {"token": answer["status"]["token"]}}],
            "contexts": [{"name": "host", "context": {"cluster": "host", "user": "host"}}],
        }
    )


@pytest.mark.parametrize(
    ("rights", "status"),
    [
        pytest.param(("", "/metrics", "/stats"), 200, id="dials the kubelet"),
        pytest.param(("",), 403, id="may not read metrics"),
        pytest.param((), 403, id="may read nothing of nodes"),
    ],
)
async def test_without_nodes_proxy_the_kubelet_is_dialled(
    host: Cluster, tmp_path: Path, rights: tuple[str, ...], status: int
) -> None:
    """nodes/metrics is enough, by the syncer's own token; less is refused with the reason."""
    tenant = Tenant(f"rights-{uuid.uuid4().hex[:6]}")
    file = tmp_path / "host.kubeconfig"
    file.write_bytes(await _restricted(host, tenant, *rights))
    tenant = Tenant(tenant.name, flags=(f"--host-kube-config={file}",))
    async with boot_pair(host, tenant) as pair:
        await pair.virtual.create(named("Namespace", "own"))
        await eventually(lambda: pair.virtual.get("serviceaccounts", "default", "own"))
        await pair.virtual.apply(pod("web", "own", nodeName="node-0"))
        await in_phase(pair, "web", "own")
        page = "/api/v1/nodes/node-0/proxy/metrics/resource"
        if status != 200:
            answer = await through(pair, "GET", page)
            assert answer.status == status, answer
            assert "operator has to grant" in answer.json["message"]
            return

        async def measured() -> str:
            answer = await through(pair, "GET", page)
            assert answer.status == status, answer
            # kwok's own page, which names every pod of the host's that is on its node.
            assert 'namespace="own",pod="web"' in answer.body.decode()
            return answer.body.decode()

        assert "-x-" not in await eventually(measured)


# -- proxies to pods and services --------------------------------------------------------------


async def test_proxies_lead_to_the_tenants_own_servers(pair: Pair, namespace: str) -> None:
    """pods/proxy and services/proxy pass requests on, without the cluster's credentials."""
    async with Backend().listening() as backend:
        backend.pages = {"/": "index", "/a/b": "deep", "/page.html": '<a href="/next">next</a>'}
        await pair.virtual.apply(pod("web", namespace, labels={"app": "web"}))
        ip = (await in_phase(pair, "web", namespace))["status"]["podIP"]
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        await pair.virtual.apply(service("web", namespace, selector={"app": "web"}, ports=ports))
        await eventually(lambda: pair.copy("services", "web", namespace))
        with pair.host.plane.egress.route(ip, ("127.0.0.1", backend.port)):
            base = f"/api/v1/namespaces/{namespace}"
            token, _ = await service_account(pair.virtual, "robot", namespace)
            rules = {
                "apiGroups": [""],
                "resources": ["pods/proxy", "services/proxy"],
                "verbs": ["get", "create"],
            }
            await grant(
                pair.virtual,
                f"{namespace}:robot",
                rules,
                namespace=namespace,
                kind="ServiceAccount",
            )
            for target in ("pods/web:8080", "pods/http:web:8080", "services/web:80"):

                async def reached(target: str = target) -> bytes:
                    answer = await through(
                        pair,
                        "GET",
                        f"{base}/{target}/proxy/a/b?x=1&y=%2F",
                        who=token,
                        headers=(("X-Remote-User", "root"), ("Cookie", "own=1")),
                    )
                    assert answer.status == 200, answer
                    return answer.body

                assert await eventually(reached) == b"deep"
            for _, target, headers in backend.seen:
                assert target == "/a/b?x=1&y=%2F"
                assert not {"Authorization", "X-Remote-User"} & headers.keys()
                assert headers["Cookie"] == "own=1"
            html = await through(pair, "GET", f"{base}/services/web:80/proxy/page.html", who=token)
            assert f'href="{base}/services/web:80/proxy/next"' in html.body.decode()
            moved = await through(pair, "GET", f"{base}/pods/web:8080/proxy/redirect", who=token)
            assert moved.status == 302
            assert moved.header("location") == f"{base}/pods/web:8080/proxy/elsewhere"
            assert not any(seen[1] == "/elsewhere" for seen in backend.seen)
            other = caller(pair, f"nobody-{uuid.uuid4().hex[:6]}")
            refused = await through(pair, "GET", f"{base}/pods/web:8080/proxy/", who=other)
            assert refused.status == 403, refused


# -- kubectl top -------------------------------------------------------------------------------


async def test_kubectl_top_shows_the_tenants_own() -> None:
    """Kubectl top of pods and nodes, from a real metrics-server on the host; by right only."""
    async with ControlPlane.host(metrics=True) as plane, cluster(plane) as host:
        tenant = Tenant("top", flags=("--proxy-metrics-server",))
        async with boot_pair(host, tenant) as pair:
            await pair.virtual.create(named("Namespace", "shop"))
            await eventually(lambda: pair.virtual.get("serviceaccounts", "default", "shop"))
            for name in ("web", "db"):
                await pair.virtual.apply(pod(name, "shop", labels={"app": name}))
                await in_phase(pair, name, "shop")
            kubectl = Kubectl.of(pair, namespace="shop")

            async def measured() -> list[str]:  # one may be measured before the other
                lines = (await kubectl.run("top", "pod")).out.splitlines()
                assert sorted(line.split()[0] for line in lines[1:]) == ["db", "web"]
                return lines

            lines = await eventually(measured, timeout=60, poll=1)
            assert "-x-" not in "".join(lines)
            selected = (await kubectl.run("top", "pod", "--selector=app=db")).out.splitlines()
            assert [line.split()[0] for line in selected[1:]] == ["db"]
            containers = (await kubectl.run("top", "pod", "web", "--containers")).out
            assert "web" in containers
            nodes = (await kubectl.run("top", "node")).out.splitlines()[1:]
            used = {
                (await pair.virtual.get("pods", name, "shop"))["spec"]["nodeName"]
                for name in ("web", "db")
            }
            assert {line.split()[0] for line in nodes} == used
            user = Kubectl.of(pair, caller(pair, "jane"), namespace="shop")
            assert "cannot list resource" in (await user.run("top", "pod", fails=True)).err
            await _registered(pair)


async def _registered(pair: Pair) -> None:
    """See that the virtual API server itself finds the metrics: at the endpoint, by its own CA."""

    async def found() -> Object:
        path = "/apis/metrics.k8s.io/v1beta1/namespaces/shop/pods/web"
        answer = await ask(pair, pair.virtual.plane.server, "GET", path)
        assert answer.status == 200, answer
        metrics: Object = answer.json
        return metrics

    assert (await eventually(found, timeout=60))["metadata"]["name"] == "web"
    assert await pair.find_copy("services", "metrics-service", "kube-system") is None
