"""Health on the endpoint's port: of the virtual API server, whatever becomes of the host.

One pair of its own: nobody gets in without credentials, the host is behind a fault proxy, and the
virtual API server forgets its history quickly. Tests break both, and leave them whole.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import aiohttp
import orjson
import pytest
from yarl import URL

from controlplane import ControlPlane, Settings
from controlplane.component import Component
from controlplane.faults import FaultProxy, fault_proxy
from controlplane.syncer import Syncer
from tests.integration.endpoint import (
    NOBODY,
    Kubectl,
    administrator,
    caller,
    running_pod,
    same,
    service_account,
    session,
    straight,
    through,
    tls_of,
    websocket,
)
from tests.integration.harness import (
    Cluster,
    Pair,
    Tenant,
    boot_pair,
    cluster,
    config_map,
    eventually,
    named,
)

PATHS = ("/healthz", "/livez", "/readyz")


@dataclass(frozen=True)
class Own:
    """A pair of this file's own.

    Attributes:
        pair: the pair.
        to_host: what the syncer takes for the host's API server.
        place: a virtual namespace with a pod `web` that runs.
    """

    pair: Pair
    to_host: FaultProxy
    place: str

    @property
    def log(self) -> str:
        """Path of the pod's log."""
        return f"/api/v1/namespaces/{self.place}/pods/web/log"

    @property
    def api_server(self) -> Component:
        """The virtual API server."""
        return self.pair.virtual.plane.components["kube-apiserver"]


@pytest.fixture(scope="module")
async def own(host: Cluster) -> AsyncIterator[Own]:
    """A pair to break."""
    settings = Settings(
        api_server_flags=("--anonymous-auth=false",), compact_interval="1s", compact_min_retain=1
    )
    async with (
        fault_proxy(host.plane) as to_host,
        ControlPlane.virtual(settings=settings) as plane,
        cluster(plane) as virtual,
        boot_pair(
            host,
            Tenant(
                f"health-{uuid.uuid4().hex[:6]}",
                flags=(f"--host-kube-config={to_host.kubeconfig}",),
            ),
            virtual,
        ) as pair,
        running_pod(pair) as place,
    ):
        yield Own(pair, to_host, place)


@pytest.fixture(autouse=True)
async def whole(own: Own) -> AsyncIterator[None]:
    """Mend what a test broke, and wait until all is well again."""
    yield
    own.to_host.heal()
    await own.api_server.resume()
    await own.api_server.start()
    await own.pair.syncer.start()
    await eventually(lambda: healthy(own), timeout=30)


async def health(pair: Pair) -> dict[str, int]:
    """Ask for all kinds of health without credentials; return the codes."""
    answers = [await through(pair, "GET", path, who=NOBODY) for path in PATHS]
    return {path: answer.status for path, answer in zip(PATHS, answers, strict=True)}


async def healthy(own: Own) -> None:
    """See that the virtual API server is said to be well, and is."""
    assert await health(own.pair) == dict.fromkeys(PATHS, 200)
    assert (await through(own.pair, "GET", "/version")).status == 200


async def unhealthy(own: Own) -> None:
    """See that it is said not to answer."""
    assert await health(own.pair) == dict.fromkeys(PATHS, 503)


# Who may ask


@pytest.mark.parametrize("path", PATHS)
async def test_anybody_may_ask_for_health(own: Own, path: str) -> None:
    """Probes have no credentials, and need none, even where the server lets nobody in."""
    assert (await straight(own.pair, "GET", path, who=NOBODY)).status == 401
    jane = caller(own.pair, "jane")
    robot, _ = await service_account(own.pair.virtual, "robot", own.place)
    for who in (NOBODY, jane, robot, administrator(own.pair)):
        answer = await through(own.pair, "GET", path, who=who)
        assert (answer.status, answer.body) == (200, b"ok")
    head = await through(own.pair, "HEAD", path, who=NOBODY)
    assert (head.status, head.body) == (200, b"")
    for method in ("POST", "PUT", "DELETE"):
        assert (await through(own.pair, method, path, who=NOBODY)).status == 405


async def test_only_whether_all_is_well_is_told_to_anybody(own: Own) -> None:
    """Single checks and long answers are the server's to give: to whom it knows."""
    for target in ("/readyz?verbose", "/livez?verbose&exclude=etcd", "/readyz/etcd", "/healthz/"):
        assert (await same(own.pair, "GET", target, who=NOBODY)).status == 401
        await same(own.pair, "GET", target)


async def test_health_costs_no_rights_of_ours(own: Own) -> None:
    """What a caller adds to a probe does not reach the server with the administrator's rights."""
    for header in (
        ("Impersonate-User", "bob"),
        ("X-Remote-User", "bob"),
        ("Accept", "application/vnd.kubernetes.protobuf"),
        ("Connection", "Upgrade"),
    ):
        answer = await through(own.pair, "GET", "/readyz", who=NOBODY, headers=(header,))
        assert (answer.status, answer.body) == (200, b"ok")


# The host in trouble


TROUBLES: dict[str, Callable[[FaultProxy], AbstractContextManager[object]]] = {
    "silent": lambda proxy: proxy.stall(),
    "away": lambda proxy: proxy.drop_requests(),
    "failing": lambda proxy: proxy.fail(503),
    "refusing": lambda proxy: proxy.fail(403),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_trouble_on_the_host_is_none_of_the_tenants_api(own: Own, trouble: str) -> None:
    """Health, reading, writing and watching go on; only what the host answers is refused."""
    pair = own.pair
    robot, _ = await service_account(pair.virtual, "robot", own.place)
    with TROUBLES[trouble](own.to_host):
        own.to_host.cut_watches()
        for _ in range(5):
            assert await health(pair) == dict.fromkeys(PATHS, 200)
            await asyncio.sleep(0.2)
        for who in (administrator(pair), robot):
            answer = await through(pair, "GET", "/version", who=who)
            assert answer.status == 200
        name = f"made-{trouble}"
        kubectl = Kubectl.of(pair, namespace=own.place)
        await kubectl.run("create", "configmap", name, "--from-literal=a=1")
        assert (await kubectl.run("get", "configmap", name, "-o=name")).out
        if trouble != "silent":
            started = time.monotonic()
            refused = await through(pair, "GET", own.log)
            assert refused.status in (403, 503), refused
            assert refused.json["kind"] == "Status"
            assert time.monotonic() - started < 10
    own.to_host.heal()

    async def back() -> None:
        assert (await through(pair, "GET", own.log)).status == 200

    await eventually(back)


async def test_a_syncer_that_starts_without_its_host_serves_the_api(own: Own) -> None:
    """The endpoint is there before the host is: what needs the host waits, the rest does not."""
    syncer, pair = own.pair.syncer, own.pair
    assert await syncer.stop() == 0
    with own.to_host.drop_requests():
        await syncer.start(ready=False)

        async def up() -> None:
            try:
                await healthy(own)
            except aiohttp.ClientConnectionError as error:
                raise AssertionError("not listening yet") from error

        await eventually(up, timeout=30)
        assert not await syncer.ready()
        answer = await through(pair, "GET", own.log)
        assert answer.status == 503
        assert answer.header("Retry-After")
        assert (await through(pair, "GET", "/api/v1/namespaces")).status == 200
    await syncer.wait_ready()
    assert b"hello" in (await through(pair, "GET", own.log)).body


# The virtual API server in trouble


async def test_a_virtual_api_server_that_is_gone_is_told_so(own: Own) -> None:
    """503 to probes and to callers, in the form of a Status; all is well once it is back."""
    pair = own.pair
    robot, _ = await service_account(pair.virtual, "robot", own.place)
    await own.api_server.kill()
    await eventually(lambda: unhealthy(own))
    for who in (administrator(pair), robot, NOBODY):
        for target in ("/version", "/api/v1/namespaces"):
            answer = await through(pair, "GET", target, who=who)
            assert answer.status == 503
            assert answer.header("Retry-After")
            assert answer.json["reason"] == "ServiceUnavailable"
            assert str(URL(pair.virtual.plane.server).port).encode() not in answer.body
    for who in (robot, NOBODY, caller(pair, "jane")):
        answer = await through(pair, "GET", own.log, who=who)  # who may, can't be asked
        assert answer.status == 503
    assert pair.syncer.running
    await own.api_server.start()
    await eventually(lambda: healthy(own))


async def test_a_silent_virtual_api_server_is_told_so(own: Own) -> None:
    """One that hangs makes health 504 or 503 within a probe's patience, and others don't wait."""
    await own.api_server.pause()
    started = time.monotonic()
    answers = await asyncio.gather(
        *(through(own.pair, "GET", path, who=NOBODY) for path in PATHS * 3)
    )
    assert {answer.status for answer in answers} <= {503, 504}
    assert time.monotonic() - started < 10
    await own.api_server.resume()
    await eventually(lambda: healthy(own))


async def test_a_virtual_api_server_without_its_store_says_so_itself(own: Own) -> None:
    """Its own words come through when it answers that it is not well."""
    kine = own.pair.virtual.plane.components["kine"]
    await kine.kill()

    async def told() -> None:
        answer = await through(own.pair, "GET", "/readyz", who=NOBODY)
        assert answer.status == 500, answer
        # Of its two checks of the store either may be the first to fail.
        assert b"[-]etcd failed" in answer.body

    try:
        await eventually(told, timeout=30)
    finally:
        await kine.start()
        # It gives up what it can't renew, and is then made again.
        await own.api_server.kill()
        await own.api_server.start()
        controllers = own.pair.virtual.plane.components["kube-controller-manager"]
        await controllers.start()


async def test_what_is_open_ends_or_goes_on_as_its_server_does(own: Own) -> None:
    """With the virtual API server a watch ends at once; an exec, which is the host's, goes on."""
    pair = own.pair
    target = f"/api/v1/namespaces/{own.place}/configmaps?watch=1"
    execs = f"/api/v1/namespaces/{own.place}/pods/web/exec?command=cat&stdin=1&stdout=1"
    url = URL(f"{pair.syncer.endpoint}{target}", encoded=True)
    async with (
        websocket(pair, execs, "v5.channel.k8s.io") as opened,
        session(tls_of(pair, administrator(pair))) as made,
        made.get(url) as watch,
    ):
        assert watch.status == 200
        await own.api_server.kill()
        async with asyncio.timeout(10):
            with pytest.raises(aiohttp.ClientPayloadError):
                await watch.read()
        await eventually(lambda: unhealthy(own))
        for number in range(3):
            await opened.send_bytes(b"\x00%d\n" % number)
            while not (said := (await opened.receive_bytes())[1:]):
                pass
            assert said == b"%d\n" % number


async def test_what_has_expired_is_the_servers_410(own: Own) -> None:
    """A list's next page and a watch from long ago are refused as the server refuses them."""
    pair = own.pair
    maps = f"/api/v1/namespaces/{own.place}/configmaps"
    for number in range(5):
        await pair.virtual.create(config_map(f"page-{number}", own.place, {}))
    first = (await through(pair, "GET", f"{maps}?limit=2")).json["metadata"]
    for _ in range(5):
        await pair.virtual.create(named("Namespace", f"test-{uuid.uuid4().hex[:8]}"))
    await own.api_server.restart()

    async def expired() -> None:
        answer = await straight(pair, "GET", f"{maps}?limit=2&continue={first['continue']}")
        assert answer.status == 410

    await eventually(expired, timeout=30)
    fresh = "continue"  # a new one comes with the refusal, for who does not mind
    found = await through(pair, "GET", f"{maps}?limit=2&continue={first['continue']}")
    assert (found.status, found.json["reason"]) == (410, "Expired")
    assert found.json["metadata"][fresh]
    version = first["resourceVersion"]
    watched = f"{maps}?watch=1&timeoutSeconds=2&resourceVersion={version}"
    answer = await same(pair, "GET", watched)
    assert orjson.loads(answer.body.splitlines()[0])["object"]["code"] == 410


# Other replicas


async def test_a_second_replica_serves_as_well(own: Own) -> None:
    """One that does not lead answers everything, logs and exec among it."""
    pair = own.pair
    second = Syncer(
        pair.host.plane,
        pair.virtual.plane,
        tenant=pair.syncer.tenant,
        namespace=pair.syncer.namespace,
    )
    other = Pair(pair.host, pair.virtual, second, pair.names)
    async with second:
        assert await health(other) == dict.fromkeys(PATHS, 200)

        async def same_log() -> None:  # of which the host's other tenants may get lines meanwhile
            answers = [await through(each, "GET", own.log) for each in (pair, other)]
            assert answers[0].status == 200
            assert answers[0].body == answers[1].body

        await eventually(same_log)
        kubectl = Kubectl.of(other, namespace=own.place)
        assert (await kubectl.run("exec", "web", "--", "echo", "hi")).out == "hi\n"
        assert (await kubectl.run("get", "pods", "-o=name")).out == "pod/web\n"
