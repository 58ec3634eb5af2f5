"""Services created through the endpoint: the host is asked first, and both sides agree from birth.

On a pair of its own with a fault proxy before each API server, to see what is asked of them and to
stop between the two writes. Policies of both clusters refuse what asks for it by annotation.
"""

import asyncio
import io
import json
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest

from controlplane import ControlPlane, Settings
from controlplane.faults import FaultProxy, Stage, Write, fault_proxy
from controlplane.syncer import Syncer
from syncer import ownership
from syncer.naming import Names
from tests.integration.endpoint import (
    SECONDS,
    Answer,
    Caller,
    Kubectl,
    Output,
    caller,
    grant,
    json_body,
    service_account,
    straight,
    through,
)
from tests.integration.harness import (
    Cluster,
    Object,
    Pair,
    RefusedError,
    Tenant,
    boot_pair,
    cluster,
    eventually,
    gone,
    named,
    path_of,
    service,
)

TENANT = "first"
HOME = f"host-{TENANT}"
RESERVED = 12.0  # seconds a reservation lasts here

_HASTY = f"""
import runpy, sys
from syncer import ownership
ownership.RESERVED_SECONDS = {RESERVED}
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs the syncer with short reservations."""

REFUSED = "not-on-this-host"
"""Annotation of services that a policy of the host refuses."""
LATE = "not-for-real"
"""Annotation of services that a policy of the virtual cluster refuses, but for dry runs."""
_POLICIES = "admissionregistration.k8s.io/v1"
PROTOBUF = "application/vnd.kubernetes.protobuf"


@dataclass(frozen=True)
class Rig:
    """A pair that can be looked into.

    Attributes:
        pair: the pair.
        host: before the host API server, as the syncer reaches it.
        virtual: before the virtual API server, as the syncer and its endpoint reach it.
    """

    pair: Pair
    host: FaultProxy
    virtual: FaultProxy

    @property
    def on_host(self) -> list[Write]:
        """Writes of services on the host so far."""
        return _of_services(self.host)

    @property
    def in_virtual(self) -> list[Write]:
        """Writes of services in the virtual cluster so far."""
        return _of_services(self.virtual)


def _of_services(proxy: FaultProxy) -> list[Write]:
    return [write for write in proxy.writes if "/services" in write.path]


@pytest.fixture(scope="module")
async def rig(host: Cluster) -> AsyncIterator[Rig]:
    """A pair of its own."""
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(ControlPlane.virtual())
        virtual = await stack.enter_async_context(cluster(plane))
        before_host = await stack.enter_async_context(fault_proxy(host.plane))
        before_virtual = await stack.enter_async_context(fault_proxy(plane))
        syncer = Syncer(
            host.plane,
            plane,
            tenant=TENANT,
            namespace=HOME,
            flags=(
                f"--kube-config={before_virtual.kubeconfig}",
                f"--host-kube-config={before_host.kubeconfig}",
            ),
            wrapper=(sys.executable, "-c", _HASTY),
        )
        await stack.enter_async_context(syncer)
        pair = Pair(host, virtual, syncer, Names(TENANT, HOME))
        stack.push_async_callback(_drop_policy, host)
        where = "object.metadata.namespace == 'host-first'"
        await _refuse(host, REFUSED, f"{where} && '{REFUSED}' in object.metadata.annotations", HOME)
        await _refuse(
            virtual,
            LATE,
            f"'{LATE}' in object.metadata.annotations && !(has(request.dryRun) && request.dryRun)",
            "default",
        )
        yield Rig(pair, before_host, before_virtual)


async def _drop_policy(host: Cluster) -> None:
    for resource in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        await host.delete(f"{_POLICIES}/{resource}", REFUSED)


async def _refuse(where: Cluster, name: str, unwanted: str, namespace: str) -> None:
    """Make a policy that refuses services with an annotation, and wait until it holds."""
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    annotated = f"has(object.metadata.annotations) && {unwanted}"
    policy = {
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{**rule, "resources": ["services"]}]},
        "validations": [{"expression": f"!({annotated})", "message": f"{name} is the policy"}],
    }
    kind = "ValidatingAdmissionPolicy"
    await where.create(named(kind, name, apiVersion=_POLICIES, spec=policy))
    binding = {"policyName": name, "validationActions": ["Deny"]}
    await where.create(named(f"{kind}Binding", name, apiVersion=_POLICIES, spec=binding))

    async def holds() -> None:
        trial = service(f"trial-{uuid.uuid4().hex[:8]}", namespace)
        trial["metadata"]["annotations"] = {name: ""}
        try:
            await where.create(trial)
        except RefusedError as refused:
            if "is the policy" in str(refused):
                return
            raise
        await where.delete("services", trial["metadata"]["name"], namespace)
        raise AssertionError("the policy does not hold yet")

    await eventually(holds)


@pytest.fixture
async def place(rig: Rig) -> AsyncIterator[str]:
    """A new virtual namespace; faults are healed and its services gone after the test."""
    pair, name = rig.pair, f"test-{uuid.uuid4().hex[:8]}"
    await pair.virtual.create(named("Namespace", name))
    yield name
    rig.host.heal()
    rig.virtual.heal()
    for each in await pair.virtual.list("services", name):
        await pair.virtual.delete("services", each["metadata"]["name"], name)
    await pair.virtual.delete("namespaces", name)

    async def empty() -> None:
        assert await pair.copies("services", name) == []

    await eventually(empty, timeout=30.0)


def manifest(name: str, *annotations: str, **spec: Any) -> bytes:
    """Return a service as kubectl reads it."""
    obj = service(name, "", **spec)
    obj["metadata"]["annotations"] = dict.fromkeys(annotations, "")
    obj["spec"] = {key: value for key, value in obj["spec"].items() if value is not None}
    return json.dumps(obj).encode()


async def free_address(pair: Pair) -> str:
    """Return an address that the host would hand out and that nobody has."""
    name = f"free-{uuid.uuid4().hex[:8]}"
    found = await pair.host.create(service(name, HOME))
    await pair.host.delete("services", name, HOME)
    return str(found["spec"]["clusterIP"])


async def create(pair: Pair, namespace: str, obj: Object, **options: Any) -> Answer:
    """Create a service by a request of JSON."""
    return await through(pair, "POST", path_of("services", namespace), **json_body(obj), **options)


async def agreed(pair: Pair, name: str, namespace: str) -> tuple[Object, Object]:
    """Wait until a service has a copy that the engine has taken over, and return both."""

    async def check() -> tuple[Object, Object]:
        virtual = await pair.virtual.get("services", name, namespace)
        host = await pair.copy("services", name, namespace)
        assert ownership.virtual_uid(host) == virtual["metadata"]["uid"]
        assert ownership.annotation(host, ownership.BLOCK_DELETION) is None
        for part in ("clusterIP", "ports"):
            assert virtual["spec"].get(part) == host["spec"].get(part)
        return virtual, host

    return await eventually(check, timeout=SECONDS)  # pauses after failures double


def told_of_no_host(output: Output | Answer) -> None:
    """Assert that nothing in an answer names what only the host knows."""
    text = output.body.decode() if isinstance(output, Answer) else output.out + output.err
    assert HOME not in text
    assert f"-x-{TENANT}" not in text


@asynccontextmanager
async def watched(where: Cluster, namespace: str, labels: str = "") -> AsyncIterator[list[str]]:
    """Yield the types of events about services, a list that grows."""
    path = path_of("services", namespace)
    params = {"labelSelector": labels} if labels else {}
    version = (await where.request("GET", path, params=params))["metadata"]["resourceVersion"]
    params |= {"watch": "1", "resourceVersion": version}
    seen: list[str] = []

    async def read() -> None:
        async with where.api.get(path, params=params, timeout=aiohttp.ClientTimeout()) as response:
            async for line in response.content:
                event = orjson.loads(line)
                seen.append(f"{event['type']} {event['object']['metadata']['name']}")

    task = asyncio.create_task(read())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass
class Holding:
    """Holds what really creates services, before it is passed on; the hook of a fault proxy.

    Attributes:
        go: set it to let them go on.
    """

    go: asyncio.Event = field(default_factory=asyncio.Event)
    _held: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    _seen: Counter[str] = field(default_factory=Counter)

    async def reached(self, services: int = 1) -> None:
        """Wait until so many are held."""
        async with asyncio.timeout(SECONDS):
            for _ in range(services):
                await self._held.acquire()

    async def __call__(self, stage: Stage, write: Write) -> None:
        """Hold the second POST of each service: the first is the rehearsal."""
        if stage != "received" or write.verb != "POST" or not write.path.endswith("/services"):
            return
        name = orjson.loads(write.body)["metadata"]["name"]
        self._seen[name] += 1
        if self._seen[name] == 2:
            self._held.release()
            await self.go.wait()


# -- the host's word -------------------------------------------------------------------------------


@pytest.fixture
async def quota(rig: Rig) -> AsyncIterator[None]:
    """No host namespace takes another service."""
    spec = {"hard": {"count/services": "0"}}
    await rig.pair.host.create(named("ResourceQuota", "full", HOME, spec=spec))

    async def counted() -> None:
        found = await rig.pair.host.get("resourcequotas", "full", HOME)
        assert found["status"]["used"]

    await eventually(counted)
    yield
    await rig.pair.host.delete("resourcequotas", "full", HOME)

    async def lifted() -> None:
        trial = service("trial", HOME)
        await rig.pair.host.request(
            "POST", path_of("services", HOME), body=trial, params={"dryRun": "All"}
        )

    await eventually(lifted)


_WAYS = [("create", "-f", "-"), ("apply", "-f", "-"), ("apply", "--server-side", "-f", "-")]
_ways = pytest.mark.parametrize("words", _WAYS, ids=["create", "apply", "server-side apply"])


@_ways
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="an address"),
        pytest.param({"clusterIP": "None"}, id="headless"),
    ],
)
async def test_kubectl_prints_what_a_policy_of_the_host_says(
    rig: Rig, place: str, words: tuple[str, ...], spec: Object
) -> None:
    """And nothing is left of the service in either cluster."""
    kubectl = Kubectl.of(rig.pair, namespace=place)
    found = await kubectl.run(*words, stdin=manifest("web", REFUSED, **spec), fails=True)
    assert f"{REFUSED} is the policy" in found.err
    assert 'services "web"' in found.err or 'service "web"' in found.err.lower()
    told_of_no_host(found)
    assert await rig.pair.virtual.find("services", "web", place) is None
    assert await rig.pair.find_copy("services", "web", place) is None


@pytest.mark.usefixtures("quota")
@_ways
async def test_kubectl_prints_that_a_quota_of_the_host_is_used_up(
    rig: Rig, place: str, words: tuple[str, ...]
) -> None:
    """And nothing is left of the service in either cluster."""
    kubectl = Kubectl.of(rig.pair, namespace=place)
    found = await kubectl.run(*words, stdin=manifest("web"), fails=True)
    assert "(Forbidden)" in found.err
    assert 'services "web" is forbidden: exceeded quota: full' in found.err
    told_of_no_host(found)
    assert await rig.pair.virtual.find("services", "web", place) is None
    assert await rig.pair.find_copy("services", "web", place) is None


@pytest.mark.usefixtures("quota")
async def test_a_refusal_is_a_status_as_an_api_server_gives_it(rig: Rig, place: str) -> None:
    """Code and reason are the host's, the object is the tenant's."""
    answer = await create(rig.pair, place, service("web", place))
    assert answer.status == answer.json["code"] == 403
    assert answer.json["reason"] == "Forbidden"
    assert answer.json["details"] == {"name": "web", "kind": "services"}
    told_of_no_host(answer)


async def test_a_replacement_of_nothing_is_the_hosts_to_judge(rig: Rig, place: str) -> None:
    """PUT creates what isn't there; of an update the host hears later."""

    async def put(*annotations: str) -> Answer:
        wanted = service("web", place)
        wanted["metadata"]["annotations"] = dict.fromkeys(annotations, "")
        target = f"{path_of('services', place)}/web"
        return await through(rig.pair, "PUT", target, **json_body(wanted))

    refused = await put(REFUSED)
    assert refused.status == 422, refused.body
    assert f"{REFUSED} is the policy" in refused.json["message"]
    told_of_no_host(refused)
    assert await rig.pair.virtual.find("services", "web", place) is None
    assert await rig.pair.find_copy("services", "web", place) is None
    assert (await put()).status == 201
    await agreed(rig.pair, "web", place)
    assert (await put(REFUSED)).status == 200


async def test_somebody_elses_service_in_the_way_refuses_the_tenants(rig: Rig, place: str) -> None:
    """It stays as it is, and the tenant reads why."""
    pair = rig.pair
    theirs = await pair.host.create(service(pair.host_name("web", place), HOME))
    answer = await create(pair, place, service("web", place))
    assert (answer.status, answer.json["reason"]) == (409, "AlreadyExists")
    assert 'services "web" already exists' in answer.json["message"]
    told_of_no_host(answer)
    assert await pair.virtual.find("services", "web", place) is None
    assert await pair.host.get("services", theirs["metadata"]["name"], HOME) == theirs
    await pair.host.delete("services", theirs["metadata"]["name"], HOME)


# -- born right ------------------------------------------------------------------------------------

_TYPES = [
    pytest.param({}, id="ClusterIP"),
    pytest.param({"selector": None}, id="no selector"),
    pytest.param({"clusterIP": "None"}, id="headless"),
    pytest.param({"type": "ExternalName", "externalName": "a.example"}, id="ExternalName"),
    pytest.param({"type": "NodePort"}, id="NodePort"),
    pytest.param({"type": "LoadBalancer"}, id="LoadBalancer"),
    pytest.param({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False},
                 id="LoadBalancer without node ports"),
    pytest.param({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}, id="families"),
]  # fmt: skip


@pytest.mark.parametrize("spec", _TYPES)
async def test_a_service_is_born_with_what_the_host_gave(
    rig: Rig, place: str, spec: Object
) -> None:
    """One event tells of it, nothing is written to it again, and its copy is taken over once."""
    pair = rig.pair
    labels = f"{ownership.NAMESPACE}={place}"
    async with watched(pair.virtual, place) as inside, watched(pair.host, HOME, labels) as outside:
        answer = await create(pair, place, service("web", place, **spec))
        assert answer.status == 201, answer.body
        made = answer.json
        virtual, _ = await agreed(pair, "web", place)
        await pair.quiet(1.0, namespace=place, resources=["services"])
        name = pair.host_name("web", place)

        def told() -> None:
            assert inside == ["ADDED web"]
            assert outside == [f"ADDED {name}", f"MODIFIED {name}"]

        await eventually(told)
    assert virtual == made
    await pair.virtual.delete("services", "web", place)
    await gone(lambda: pair.find_copy("services", "web", place))


@pytest.mark.parametrize("spec", _TYPES)
@pytest.mark.parametrize("words", _WAYS[1:], ids=["apply", "server-side apply"])
async def test_kubectl_applies_services_of_every_type(
    rig: Rig, place: str, words: tuple[str, ...], spec: Object
) -> None:
    """However it sends them; and sending the same again, in either way, changes nothing."""
    kubectl = Kubectl.of(rig.pair, namespace=place)
    await kubectl.run(*words, stdin=manifest("web", **spec))
    virtual, _ = await agreed(rig.pair, "web", place)
    for again in (words, ("apply", "--server-side", "-f", "-")):
        found = await kubectl.run(*again, stdin=manifest("web", **spec))
        assert "serverside-applied" in found.out or "unchanged" in found.out
        after = await rig.pair.virtual.get("services", "web", place)
        assert after["metadata"]["uid"] == virtual["metadata"]["uid"]
        assert after["spec"] == virtual["spec"]


async def test_an_apply_of_what_is_there_does_not_reach_the_host(rig: Rig, place: str) -> None:
    """Only the creation of a service is the host's to judge beforehand."""
    pair = rig.pair
    kubectl = Kubectl.of(pair, namespace=place)
    await kubectl.run("apply", "--server-side", "-f", "-", stdin=manifest("web"))
    await agreed(pair, "web", place)
    await pair.quiet(0.5, namespace=place, resources=["services"])
    before, inside = len(rig.on_host), len(rig.in_virtual)
    await kubectl.run("apply", "--server-side", "-f", "-", stdin=manifest("web"))
    assert len(rig.on_host) == before
    assert len(rig.in_virtual) == inside + 1


async def test_generated_names_are_the_same_on_both_sides(rig: Rig, place: str) -> None:
    """The copy is made under the name that the service then gets."""
    obj = service("web", place)
    obj["metadata"] = {"generateName": "web-", "namespace": place}
    answer = await create(rig.pair, place, obj)
    assert answer.status == 201
    name = answer.json["metadata"]["name"]
    assert name.startswith("web-")
    virtual, _ = await agreed(rig.pair, name, place)
    assert virtual == answer.json


async def test_an_address_that_the_tenant_chose_is_kept_where_the_host_has_it(
    rig: Rig, place: str
) -> None:
    """One of those that servers hand out; the request goes on as it came."""
    pair = rig.pair
    address = await free_address(pair)
    answer = await create(pair, place, service("web", place, clusterIP=address))
    assert answer.status == 201, answer.body
    virtual, host = await agreed(pair, "web", place)
    assert virtual == answer.json
    assert host["spec"]["clusterIP"] == address


async def test_an_address_that_the_host_can_not_give_is_replaced(rig: Rig, place: str) -> None:
    """As without the endpoint: the service is made, and gets another address."""
    pair = rig.pair
    taken = await pair.host.create(service("taken", HOME))
    theirs = taken["spec"]["clusterIP"]
    answer = await create(pair, place, service("web", place, clusterIP=theirs))
    assert answer.status == 201, answer.body
    virtual, _ = await agreed(pair, "web", place)
    assert virtual["metadata"]["uid"] == answer.json["metadata"]["uid"]
    assert virtual["spec"]["clusterIP"] != theirs
    await pair.host.delete("services", "taken", HOME)


async def test_a_cluster_that_can_not_have_the_hosts_address_has_its_own(host: Cluster) -> None:
    """Where the two service networks differ, a service is made all the same."""
    async with AsyncExitStack() as stack:
        settings = Settings(service_cidr="10.197.0.0/16")
        plane = await stack.enter_async_context(ControlPlane.virtual(settings=settings))
        virtual = await stack.enter_async_context(cluster(plane))
        pair = await stack.enter_async_context(boot_pair(host, Tenant("first-apart"), virtual))
        answer = await create(pair, "default", service("web", "default"))
        assert answer.status == 201, answer.body
        assert answer.json["spec"]["clusterIP"].startswith("10.197.")
        await eventually(lambda: pair.copy("services", "web", "default"))
        await virtual.delete("services", "web", "default")
        await gone(lambda: pair.find_copy("services", "web", "default"))


# -- other encodings -------------------------------------------------------------------------------


async def _in_protobuf(pair: Pair, obj: Object) -> bytes:
    """Return a service as protobuf, encoded by an API server."""
    answer = await straight(
        pair,
        "POST",
        f"{path_of('services', obj['metadata']['namespace'])}?dryRun=All",
        body=orjson.dumps(obj),
        headers=(("Content-Type", "application/json"), ("Accept", PROTOBUF)),
    )
    assert answer.body.startswith(b"k8s\0")
    return answer.body


@pytest.mark.parametrize("accept", [PROTOBUF, "application/json"])
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"clusterIP": "None"}, id="headless"),
        pytest.param({"type": "ExternalName", "externalName": "a.example"}, id="ExternalName"),
        pytest.param({"clusterIP": "free"}, id="an address"),
    ],
)
async def test_protobuf_goes_through_as_it_came(
    rig: Rig, place: str, accept: str, spec: Object
) -> None:
    """Body and answer; the host hears of the service first none the less."""
    if spec.get("clusterIP") == "free":  # with none, the API server would put one of its own in
        spec = {"clusterIP": await free_address(rig.pair)}
    body = await _in_protobuf(rig.pair, service("web", place, **spec))
    before = len(rig.on_host)
    headers = (("Content-Type", PROTOBUF), ("Accept", accept))
    path = path_of("services", place)
    answer = await through(rig.pair, "POST", path, body=body, headers=headers)
    assert answer.status == 201, answer.body
    assert answer.header("Content-Type") == accept
    await agreed(rig.pair, "web", place)
    asked = [write for write in rig.on_host[before:] if write.path.endswith("/services")]
    assert len(asked) == (1 if spec.get("clusterIP", "None") == "None" else 2)


async def test_a_refusal_of_a_protobuf_request_is_readable(rig: Rig, place: str) -> None:
    """What can't be written into is judged by a dry run on the host."""
    obj = service("web", place, clusterIP=await free_address(rig.pair))
    obj["metadata"]["annotations"] = {REFUSED: ""}
    body = await _in_protobuf(rig.pair, obj)
    headers = (("Content-Type", PROTOBUF), ("Accept", PROTOBUF))
    path = path_of("services", place)
    before = len(rig.on_host)
    answer = await through(rig.pair, "POST", path, body=body, headers=headers)
    assert answer.status == 422
    assert len(rig.on_host) == before + 1
    assert f"{REFUSED} is the policy" in answer.json["message"]
    told_of_no_host(answer)
    assert await rig.pair.virtual.find("services", "web", place) is None


async def test_tables_are_given_to_who_asks_for_them(rig: Rig, place: str) -> None:
    """The answer is the virtual server's own, in the form that the caller asked for."""
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    options = json_body(service("web", place))
    options["headers"] = (*options["headers"], ("Accept", accept))
    answer = await through(rig.pair, "POST", path_of("services", place), **options)
    assert answer.status == 201
    assert answer.json["kind"] == "Table"


# -- who may not, and what is not meant ------------------------------------------------------------


async def test_who_may_not_create_services_is_told_so_by_the_virtual_server(
    pair: Pair, namespace: str
) -> None:
    """The host never hears of it: neither by certificate, nor by token, nor without either."""
    account, _ = await service_account(pair.virtual, "reader", namespace)
    labels = f"{ownership.NAMESPACE}={namespace}"
    async with watched(pair.host, pair.names.host_namespace, labels) as outside:
        for who in (caller(pair, "nobody-special"), account, Caller()):
            options = json_body(service("web", namespace))
            path = path_of("services", namespace)
            found = await through(pair, "POST", path, who=who, **options)
            expected = await straight(pair, "POST", path, who=who, **options)
            assert found.told() == expected.told()
            assert found.status in (401, 403)
        await asyncio.sleep(0.5)
        assert outside == []


async def test_who_may_create_services_needs_no_other_right(pair: Pair, namespace: str) -> None:
    """By certificate and by token; the copy is made first for both."""
    account, _ = await service_account(pair.virtual, "writer", namespace)
    jane = caller(pair, "jane")
    rule = {"apiGroups": [""], "resources": ["services"], "verbs": ["create"]}
    await grant(pair.virtual, "jane", rule, namespace=namespace)
    await grant(
        pair.virtual, f"{namespace}:writer", rule, namespace=namespace, kind="ServiceAccount"
    )
    for name, who in (("hers", jane), ("its", account)):

        async def creates(name: str = name, who: Caller = who) -> None:
            answer = await create(pair, namespace, service(name, namespace), who=who)
            assert answer.status == 201, answer.body
            virtual, _ = await agreed(pair, name, namespace)
            assert virtual == answer.json

        await eventually(creates)


@pytest.mark.parametrize(
    "obj",
    [
        pytest.param({"spec": {"ports": [{"port": 0}]}}, id="invalid"),
        pytest.param({"metadata": {"name": "x", "namespace": "other"}}, id="another namespace"),
        pytest.param({"kind": "ConfigMap"}, id="another kind"),
    ],
)
async def test_what_the_virtual_server_refuses_never_reaches_the_host(
    rig: Rig, place: str, obj: Object
) -> None:
    """Its answer is the same as without the endpoint."""
    pair, before = rig.pair, len(rig.on_host)
    options = json_body({**service("web", place), **obj})
    path = path_of("services", place)
    found = await through(pair, "POST", path, **options)
    expected = await straight(pair, "POST", path, **options)
    assert found.told() == expected.told()
    assert found.status >= 400
    assert len(rig.on_host) == before


@pytest.mark.parametrize("size", [3 << 20, 5 << 20], ids=["at the limit", "beyond it"])
@pytest.mark.parametrize("chunked", [False, True], ids=["of known length", "in chunks"])
async def test_a_body_too_large_is_refused(
    pair: Pair, namespace: str, size: int, chunked: bool
) -> None:
    """As an API server does."""
    obj = service("web", namespace)
    obj["metadata"]["annotations"] = {"long": "x" * size}
    body = orjson.dumps(obj)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1 << 16):
            yield body[start : start + (1 << 16)]

    options = {**json_body({}), "body": pieces() if chunked else io.BytesIO(body)}
    try:
        answer = await through(pair, "POST", path_of("services", namespace), **options)
    except aiohttp.ClientError:
        return  # refused before all of it was sent
    assert answer.status == 413


@_ways
async def test_a_dry_run_writes_nothing(rig: Rig, place: str, words: tuple[str, ...]) -> None:
    """Neither on the host nor in the virtual cluster."""
    before = len(rig.on_host)
    kubectl = Kubectl.of(rig.pair, namespace=place)
    found = await kubectl.run(*words, "--dry-run=server", stdin=manifest("web"))
    assert "server dry run" in found.out
    assert len(rig.on_host) == before
    assert await rig.pair.virtual.find("services", "web", place) is None


# -- the second write fails ------------------------------------------------------------------------


async def test_a_copy_whose_service_is_refused_after_all_is_taken_back(
    rig: Rig, place: str
) -> None:
    """Before the caller has the answer."""
    pair = rig.pair
    kubectl = Kubectl.of(pair, namespace=place)
    before = len(rig.on_host)
    found = await kubectl.run("apply", "-f", "-", stdin=manifest("web", LATE), fails=True)
    assert f"{LATE} is the policy" in found.err
    assert await pair.find_copy("services", "web", place) is None
    assert [write.verb for write in rig.on_host[before:]] == ["POST", "DELETE"]
    assert await pair.virtual.find("services", "web", place) is None


async def test_a_copy_that_has_found_another_service_is_not_taken_back(
    rig: Rig, place: str
) -> None:
    """Somebody creates the service by another way between the two writes: it keeps the copy."""
    pair, holding = rig.pair, Holding()
    rig.virtual.hook = holding
    request = asyncio.create_task(create(pair, place, service("web", place)))
    await holding.reached()
    made = await pair.virtual.create(service("web", place))
    _, host = await agreed(pair, "web", place)
    holding.go.set()
    answer = await request
    assert answer.status in (409, 422)
    await pair.quiet(1.0, namespace=place, resources=["services"])
    virtual, again = await agreed(pair, "web", place)
    assert virtual["metadata"]["uid"] == made["metadata"]["uid"]
    assert again == host


async def test_a_caller_who_leaves_between_the_writes_has_the_service(rig: Rig, place: str) -> None:
    """What was begun is finished, whoever waits for it."""
    pair, holding = rig.pair, Holding()
    rig.virtual.hook = holding
    request = asyncio.create_task(create(pair, place, service("web", place)))
    await holding.reached()
    copy = await pair.copy("services", "web", place)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await asyncio.sleep(0.3)
    holding.go.set()
    virtual, host = await eventually(lambda: agreed(pair, "web", place))
    assert host["metadata"]["uid"] == copy["metadata"]["uid"]
    await pair.quiet(0.5, namespace=place, resources=["services"])
    assert await pair.virtual.get("services", "web", place) == virtual


async def test_a_caller_who_leaves_before_a_refusal_leaves_no_copy(rig: Rig, place: str) -> None:
    """The copy is taken back though nobody hears of it."""
    pair, holding = rig.pair, Holding()
    rig.virtual.hook = holding
    obj = service("web", place)
    obj["metadata"]["annotations"] = {LATE: ""}
    request = asyncio.create_task(create(pair, place, obj))
    await holding.reached()
    assert await pair.find_copy("services", "web", place) is not None
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    holding.go.set()
    await gone(lambda: pair.find_copy("services", "web", place), timeout=RESERVED / 2)


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_an_end_between_the_writes_heals(rig: Rig, place: str, end: str) -> None:
    """Who tries again finds the same copy; what nobody tries again is gone in time."""
    pair, holding = rig.pair, Holding()
    rig.virtual.hook = holding
    requests = [
        asyncio.create_task(create(pair, place, service(name, place))) for name in ("web", "lost")
    ]
    await holding.reached(2)
    copy = await pair.copy("services", "web", place)
    if end == "killed":
        await pair.syncer.kill()
    else:
        assert await pair.syncer.stop() == 0
    rig.virtual.heal()
    for result in await asyncio.gather(*requests, return_exceptions=True):
        assert isinstance(result, aiohttp.ClientError)
    await pair.syncer.start()
    assert await pair.virtual.list("services", place) == []
    answer = await create(pair, place, service("web", place))
    assert answer.status == 201, answer.body
    virtual, host = await agreed(pair, "web", place)
    assert virtual == answer.json
    assert host["metadata"]["uid"] == copy["metadata"]["uid"]
    await gone(lambda: pair.find_copy("services", "lost", place), timeout=3 * RESERVED)
    assert await pair.find_copy("services", "web", place) is not None


async def test_an_answer_that_gets_lost_leaves_no_orphan(rig: Rig, place: str) -> None:
    """The service was made, and the copy is its own."""
    pair, holding = rig.pair, Holding()
    rig.virtual.hook = holding
    request = asyncio.create_task(create(pair, place, service("web", place)))
    await holding.reached()
    with rig.virtual.lose_answers({"POST"}, "/services$"):
        holding.go.set()
        # Rules are chosen once the hook has let the write go.
        answer = await request
    assert answer.status == 503
    virtual, host = await agreed(pair, "web", place)
    assert virtual["spec"]["clusterIP"] == host["spec"]["clusterIP"]


# -- many at once ----------------------------------------------------------------------------------


async def test_of_many_creations_of_one_service_one_succeeds(rig: Rig, place: str) -> None:
    """The others read that it exists; both clusters have one, and they agree."""
    pair = rig.pair
    answers = await asyncio.gather(*(create(pair, place, service("web", place)) for _ in range(6)))
    assert sorted(answer.status for answer in answers) == [201, *([409] * 5)]
    [made] = [answer for answer in answers if answer.status == 201]
    virtual, _ = await agreed(pair, "web", place)
    assert virtual["metadata"]["uid"] == made.json["metadata"]["uid"]
    await pair.quiet(0.5, namespace=place, resources=["services"])


async def test_many_services_at_once(rig: Rig, place: str) -> None:
    """Each has an address of its own from birth."""
    pair, names = rig.pair, [f"web-{number}" for number in range(20)]
    answers = await asyncio.gather(*(create(pair, place, service(name, place)) for name in names))
    assert {answer.status for answer in answers} == {201}
    for name, answer in zip(names, answers, strict=True):
        virtual, _ = await agreed(pair, name, place)
        assert virtual == answer.json


async def test_a_service_deleted_at_once_leaves_nothing(rig: Rig, place: str) -> None:
    """At the latest when the reservation of its copy would have ended."""
    pair = rig.pair
    for number in range(5):
        answer = await create(pair, place, service(f"web-{number}", place))
        assert answer.status == 201, answer.body
        path = path_of("services", place, f"web-{number}")
        assert (await through(pair, "DELETE", path)).status == 200
    for number in range(5):
        await gone(
            lambda number=number: pair.find_copy("services", f"web-{number}", place),  # type: ignore[misc]
            timeout=3 * RESERVED,
        )


async def test_a_service_made_again_at_once_agrees_with_its_copy(rig: Rig, place: str) -> None:
    """Whether its predecessor's copy is still there or not."""
    pair = rig.pair
    for _ in range(5):
        answer = await create(pair, place, service("web", place))
        assert answer.status == 201, answer.body
        path = path_of("services", place, "web")
        assert (await through(pair, "DELETE", path)).status == 200
    answer = await create(pair, place, service("web", place))
    assert answer.status == 201, answer.body
    virtual, _ = await agreed(pair, "web", place)
    assert virtual["metadata"]["uid"] == answer.json["metadata"]["uid"]


# -- trouble with the host -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),  # each status once, each way of asking the host once
    [(401, _WAYS[0]), (429, _WAYS[1]), (500, _WAYS[1]), (503, _WAYS[0]), (503, _WAYS[2])],
)
async def test_trouble_with_the_host_refuses_no_service(
    rig: Rig, place: str, status: int, words: tuple[str, ...]
) -> None:
    """It is made, and its copy follows when the host is well."""
    kubectl = Kubectl.of(rig.pair, namespace=place)
    with rig.host.fail(status, {"POST"}, "/services$") as rule:
        await kubectl.run(*words, stdin=manifest("web"))
        assert rule.hits
    await agreed(rig.pair, "web", place)


@pytest.mark.parametrize("fault", ["drop_requests", "lose_answers", "stall"])
async def test_a_silent_host_refuses_no_service(rig: Rig, place: str, fault: str) -> None:
    """However it is silent, and whether or not it made the copy."""
    with getattr(rig.host, fault)({"POST"}, "/services$"):
        answer = await create(rig.pair, place, service("web", place))
        assert answer.status == 201, answer.body
    virtual, _ = await agreed(rig.pair, "web", place)
    assert virtual["metadata"]["uid"] == answer.json["metadata"]["uid"]


async def test_a_syncer_that_must_not_write_makes_no_copies(rig: Rig, place: str) -> None:
    """While its owner is gone the host is left alone; services are made in the virtual cluster."""
    pair = rig.pair
    owner = await pair.host.get("services", TENANT, HOME)
    # Orphans stay: the host's garbage collector would take all copies along otherwise.
    path = path_of("services", HOME, TENANT)
    await pair.host.request("DELETE", path, body={"propagationPolicy": "Orphan"})

    async def closed() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{pair.syncer.health_url}/readyz") as response,
        ):
            assert response.status != 200

    await eventually(closed)
    before = len(rig.on_host)
    answer = await create(pair, place, service("web", place))
    assert answer.status == 201
    assert len(rig.on_host) == before
    keep = {key: owner["metadata"][key] for key in ("name", "namespace")}
    spec = {key: owner["spec"][key] for key in ("type", "ports")}
    await pair.host.create(named("Service", **keep, spec=spec))
    await agreed(pair, "web", place)
