"""What the virtual API server answers comes through the tenant's endpoint to the byte."""

import asyncio
import base64
import socket
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from yarl import URL

from controlplane.certificates import Pair as Keys
from tests.integration.aggregated import aggregated, service_for, serving
from tests.integration.endpoint import (
    SECONDS,
    Answer,
    Header,
    administrator,
    headers_of,
    json_body,
    long_running,
    open_connections,
    same,
    session,
    straight,
    through,
    tls_of,
    websocket,
    without,
)
from tests.integration.harness import (
    Cluster,
    Pair,
    config_map,
    eventually,
    named,
    pod,
)

PROTOBUF = "application/vnd.kubernetes.protobuf"
TABLE = "application/json;as=Table;g=meta.k8s.io;v=v1"
PARTIAL = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
JSON = "application/json"
STALLED = 24

changing = without("uid", "resourceVersion", "creationTimestamp", "time")


@pytest.fixture(scope="module")
async def place(pair: Pair) -> AsyncIterator[str]:
    """A namespace with ten config maps of half a megabyte, `large-0` and so on."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    await pair.virtual.create(named("Namespace", namespace))
    for number in range(10):
        data = {"text": f"{number} lorem ipsum" * 40_000}
        await pair.virtual.create(config_map(f"large-{number}", namespace, data))
    yield namespace
    await pair.virtual.delete("namespaces", namespace)


@pytest.fixture(scope="module", autouse=True)
async def nothing_failed(pair: Pair) -> AsyncIterator[None]:
    """See that whatever the tests here did, no request failed for a reason of the syncer's own."""
    before = len(pair.syncer.log_lines())
    yield
    lines = pair.syncer.log_lines()[before:]
    assert [line for line in lines if line.get("event") == "request failed"] == []


def maps(namespace: str, name: str = "") -> str:
    """Return the path of a namespace's config maps, or of one."""
    return f"/api/v1/namespaces/{namespace}/configmaps" + (f"/{name}" if name else "")


# Reading


READS: dict[str, tuple[str, tuple[Header, ...]]] = {
    "object": ("/api/v1/namespaces/default", ()),
    "list": ("/api/v1/namespaces?limit=3", ()),
    "pretty": ("/api/v1/namespaces/default?pretty=true", ()),
    "not-pretty": ("/api/v1/namespaces/default?pretty=0", (("User-Agent", "curl/8"),)),
    "for-a-browser": ("/api/v1/namespaces/default", (("User-Agent", "Mozilla/5.0"),)),
    "table": ("/api/v1/namespaces?limit=500", (("Accept", TABLE),)),
    "table-objects": (
        "/apis/rbac.authorization.k8s.io/v1/clusterroles?includeObject=Object&limit=2",
        (("Accept", TABLE),),
    ),
    "metadata-only": ("/api/v1/namespaces", (("Accept", PARTIAL),)),
    "yaml": ("/api/v1/namespaces/default", (("Accept", "application/yaml"),)),
    "protobuf": ("/api/v1/namespaces/default", (("Accept", PROTOBUF),)),
    "protobuf-list": (
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        (("Accept", f"{PROTOBUF},application/json"),),
    ),
    "gzip": (
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        (("Accept-Encoding", "gzip"),),
    ),
    "no-gzip": (
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        (("Accept-Encoding", "identity"),),
    ),
    "field-selector": ("/api/v1/namespaces?fieldSelector=metadata.name%3Ddefault", ()),
    "label-selector": (
        "/api/v1/namespaces?labelSelector=kubernetes.io%2Fmetadata.name+in+(default%2Ckube-system)",
        (),
    ),
    "plain-selector": (
        "/api/v1/namespaces?labelSelector=kubernetes.io/metadata.name=default,!missing",
        (),
    ),
    "repeated-parameter": ("/api/v1/namespaces?limit=1&limit=2", ()),
    "empty-parameter": ("/api/v1/namespaces?labelSelector=&limit=", ()),
    "colon-in-name": ("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", ()),
    "escaped-colon": ("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode", ()),
    "escaped-letter": ("/api/v1/namespaces/def%61ult", ()),
    "slash-at-the-end": ("/api/v1/namespaces/default/", ()),
    "version": ("/version", ()),
    "root": ("/", ()),
    "groups": ("/apis", ()),
    "discovery": ("/apis", (("Accept", DISCOVERY),)),
    "resources": ("/apis/apps/v1", ()),
    "openapi-2": ("/openapi/v2", (("Accept", "application/json"),)),
    "openapi-2-protobuf": (
        "/openapi/v2",
        (("Accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"),),
    ),
    "openapi-3": ("/openapi/v3", ()),
    "openapi-3-group": ("/openapi/v3/apis/apps/v1", (("Accept-Encoding", "gzip"),)),
    "keys": ("/openid/v1/jwks", ()),
    "verbose-health": ("/livez?verbose", ()),
    "one-check": ("/livez/ping", ()),
    "logs-path": ("/logs/", ()),
}


@pytest.mark.parametrize(("target", "headers"), READS.values(), ids=READS.keys())
async def test_what_is_read_is_the_same(
    pair: Pair, target: str, headers: tuple[Header, ...]
) -> None:
    """Objects, lists, tables, protobuf, gzip, discovery and schemas are the server's own."""
    answer = await same(pair, "GET", target, headers=headers)
    assert answer.body
    await same(pair, "HEAD", target, headers=headers)


async def test_a_large_list_comes_whole(pair: Pair, place: str) -> None:
    """Five megabytes, plain, gzipped and as protobuf, as one list and by pages."""
    for headers in ((), (("Accept-Encoding", "gzip"),), (("Accept", PROTOBUF),)):
        answer = await same(pair, "GET", maps(place), headers=headers)
        assert answer.status == 200
    plain = await through(pair, "GET", maps(place))
    assert len(plain.body) > 5_000_000
    names = []
    target = f"{maps(place)}?limit=3&fieldSelector=metadata.name%21%3Dkube-root-ca.crt"
    more = ""
    while True:
        page = (await through(pair, "GET", f"{target}{more}")).json
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue")
        if not token:
            break
        more = f"&continue={token}"
    assert names == [f"large-{number}" for number in range(10)]


async def test_what_is_known_already_is_not_sent_again(pair: Pair) -> None:
    """An answer's ETag asks for 304, without a body."""
    first = await through(pair, "GET", "/openapi/v2", headers=(("Accept", JSON),))
    known = (("Accept", JSON), ("If-None-Match", first.header("ETag")))
    answer = await same(pair, "GET", "/openapi/v2", headers=known)
    assert (answer.status, answer.body) == (304, b"")
    listed = await through(pair, "GET", "/openapi/v3")
    hashed = listed.json["paths"]["api/v1"]["serverRelativeURL"]
    assert (await same(pair, "GET", hashed)).header("Cache-Control")
    moved = await same(pair, "GET", hashed.split("=")[0] + "=OLD")
    assert moved.status == 301  # the caller's to follow


# Refusals


def broken(body: bytes, content_type: str = JSON) -> dict[str, Any]:
    return {"body": body, "headers": (("Content-Type", content_type),)}


REFUSALS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "no-object": ("GET", "/api/v1/namespaces/default/configmaps/missing", {}, 404),
    "no-kind": ("GET", "/api/v1/nothings", {}, 404),
    "no-group": ("GET", "/apis/example.com/v1/things", {}, 404),
    "no-path": ("GET", "/nothing", {}, 404),
    "no-namespace": (
        "POST",
        "/api/v1/namespaces/missing/configmaps",
        json_body(config_map("a", "missing", {})),
        404,
    ),
    "no-such-verb": ("PUT", "/api/v1/namespaces", broken(b"{}"), 405),
    "post-to-an-object": ("POST", "/api/v1/namespaces/default", broken(b"{}"), 405),
    "delete-version": ("DELETE", "/version", {}, 405),
    "options": ("OPTIONS", "/api/v1/namespaces", {}, 405),
    "options-elsewhere": ("OPTIONS", "/version", {}, 405),
    "not-acceptable": ("GET", "/api/v1/namespaces", {"headers": (("Accept", "text/html"),)}, 406),
    "exists": ("POST", "/api/v1/namespaces", json_body(named("Namespace", "default")), 409),
    "other-version": (
        "PUT",
        "/api/v1/namespaces/default",
        broken(
            b'{"apiVersion":"v1","kind":"Namespace",'
            b'"metadata":{"name":"default","resourceVersion":"1"}}'
        ),
        409,
    ),
    "no-media-type": ("POST", "/api/v1/namespaces", broken(b"<a/>", "text/xml"), 415),
    "no-patch-type": ("PATCH", "/api/v1/namespaces/default", broken(b"{}", JSON), 415),
    "invalid": ("POST", "/api/v1/namespaces", json_body(named("Namespace", "Not_Valid")), 422),
    "failed-json-patch": (
        "PATCH",
        "/api/v1/namespaces/default",
        broken(
            b'[{"op":"test","path":"/metadata/name","value":"x"}]', "application/json-patch+json"
        ),
        422,
    ),
    "no-json": ("POST", "/api/v1/namespaces", broken(b"{"), 400),
    "empty": ("POST", "/api/v1/namespaces", broken(b""), 400),
    "unknown-field": (
        "POST",
        "/api/v1/namespaces?fieldValidation=Strict&dryRun=All",
        broken(b'{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"},"x":1}'),
        400,
    ),
    "bad-selector": ("GET", "/api/v1/namespaces?labelSelector=%2C%2C", {}, 400),
    "bad-version": ("GET", "/api/v1/namespaces?resourceVersion=x", {}, 400),
    "bad-continue": ("GET", "/api/v1/namespaces?continue=x", {}, 400),
    "bad-protobuf": ("POST", "/api/v1/namespaces", broken(b"k8s\0\xff", PROTOBUF), 400),
    "bad-dry-run": ("DELETE", "/api/v1/namespaces/default?dryRun=Some", {}, 422),
    "forbidden": ("DELETE", "/api/v1/namespaces/kube-system", {}, 403),
}


@pytest.mark.parametrize(
    ("method", "target", "options", "status"), REFUSALS.values(), ids=REFUSALS.keys()
)
async def test_refusals_are_the_servers_own(
    pair: Pair, method: str, target: str, options: dict[str, Any], status: int
) -> None:
    """What an API server refuses comes as it refused it: code, headers, every byte."""
    answer = await same(pair, method, target, **options)
    assert answer.status == status


async def test_too_large_an_object_is_refused_by_the_server(pair: Pair, place: str) -> None:
    """A body of four megabytes is passed on as it comes; the limit is the API server's."""
    body = orjson.dumps(config_map("too-large", place, {"text": "x" * 4_000_000}))
    answer = await same(pair, "POST", maps(place), **broken(body))
    assert answer.status == 413


# Writing


Send = Callable[..., Awaitable[Answer]]


@pytest.mark.parametrize("length", [10, 300_000], ids=["small", "large"])
async def test_every_write_does_what_it_does_straight(pair: Pair, place: str, length: int) -> None:
    """Create, replace, the four patches and both deletions, in JSON, YAML and protobuf."""

    async def life(send: Send) -> list[Any]:
        """Lead an object through its life; return all that was answered, but for what differs."""
        text, one = "x" * length, maps(place, "written")
        made = config_map("written", place, {"text": text}, labels={"written": "yes"})
        answers = [await send("POST", maps(place), **json_body(made))]
        read = await send("GET", one, headers=(("Accept", PROTOBUF),))
        answers.append(
            await send("PUT", one, body=read.body, headers=(("Content-Type", PROTOBUF),))
        )
        for kind, patch in (
            ("merge-patch+json", b'{"data":{"merged":"1"}}'),
            ("strategic-merge-patch+json", b'{"data":{"strategic":"1"}}'),
            ("json-patch+json", b'[{"op":"add","path":"/data/json","value":"1"}]'),
        ):
            answers.append(await send("PATCH", one, **broken(patch, f"application/{kind}")))
        applied = (
            f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: written\n"
            f"data:\n  applied: '1'\n  text: {text}\n"
        )
        target = f"{one}?fieldManager=test&force=true"
        answers.append(
            await send("PATCH", target, **broken(applied.encode(), "application/apply-patch+yaml"))
        )
        options = b'{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"]}'
        answers.append(await send("DELETE", one, **broken(options)))
        answers.append(await send("DELETE", f"{maps(place)}?labelSelector=written%3Dyes"))
        answers.append(await send("GET", one))
        return [(answer.status, changing(answer.body)) for answer in answers]

    expected = await life(lambda *words, **options: straight(pair, *words, **options))
    found = await life(lambda *words, **options: through(pair, *words, **options))
    assert [status for status, _ in expected] == [201, 200, 200, 200, 200, 200, 200, 200, 404]
    assert found == expected


async def test_a_body_may_come_in_chunks(pair: Pair, place: str) -> None:
    """A body without a length is passed on piece by piece."""
    made = orjson.dumps(config_map("chunked", place, {"text": "x" * 500_000}))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(made), 50_000):
            yield made[start : start + 50_000]
            await asyncio.sleep(0)

    headers = (("Content-Type", JSON),)
    answer = await through(pair, "POST", maps(place), body=pieces(), headers=headers)
    assert answer.status == 201
    found = await pair.virtual.get("configmaps", "chunked", place)
    assert found["data"]["text"] == "x" * 500_000


async def test_a_caller_may_wait_for_the_word_to_go_on(pair: Pair, place: str) -> None:
    """`Expect: 100-continue` is answered before the body is sent, and once."""
    made = orjson.dumps(config_map("expected", place, {"a": "1"}))
    async with raw(pair) as (reader, writer):
        head = request_head(
            "POST", maps(place), f"Content-Length: {len(made)}", "Expect: 100-continue"
        )
        writer.write(head)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(made)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201 ")


async def test_half_a_body_makes_nothing(pair: Pair, place: str) -> None:
    """A caller who goes away amid a body leaves no object and no connection."""
    assert pair.syncer.pid is not None
    server = pair.virtual.plane.server
    before = open_connections(pair.syncer.pid, server)
    for length in (2_000, 2_000_000):
        made = orjson.dumps(config_map(f"half-{length}", place, {"text": "x" * length}))
        for framing in (f"Content-Length: {len(made)}", "Transfer-Encoding: chunked"):
            async with raw(pair) as (_, writer):
                writer.write(request_head("POST", maps(place), framing))
                half = made[: len(made) // 2]
                chunked = framing.startswith("Transfer")
                writer.write(b"%x\r\n%b\r\n" % (len(half), half) if chunked else half)
                await writer.drain()
                await asyncio.sleep(0.1)

    async def settled() -> None:
        assert open_connections(pair.syncer.pid or 0, server) <= before + 2

    await eventually(settled)
    names = [each["metadata"]["name"] for each in await pair.virtual.list("configmaps", place)]
    assert not [name for name in names if name.startswith("half")]


def request_head(method: str, target: str, *lines: str) -> bytes:
    """Return the head of a request with a JSON body."""
    fixed = ("Host: localhost", f"Content-Type: {JSON}")
    return "\r\n".join([f"{method} {target} HTTP/1.1", *fixed, *lines, "", ""]).encode()


@asynccontextmanager
async def raw(pair: Pair) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect to the endpoint as the administrator; break off on exit."""
    async with asyncio.timeout(SECONDS):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", pair.syncer.port, ssl=tls_of(pair, administrator(pair)), limit=65536
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


# Watching


async def watchers(pair: Pair) -> float:
    """Return how many watches of one namespace's pod templates the virtual API server serves.

    Nobody else watches these: the informers of others would come and go as they like.
    """
    labels = ('resource="podtemplates"', 'scope="namespace"', 'verb="WATCH"')
    return await long_running(pair.virtual, *labels)


async def test_a_watch_gives_events_in_order_and_ends_with_its_caller(
    pair: Pair, place: str
) -> None:
    """Each change comes at once; when the caller goes, so does the server's watch."""
    assert await watchers(pair) == 0
    target = f"/api/v1/namespaces/{place}/podtemplates?watch=1&labelSelector=ordered"
    url = URL(f"{pair.syncer.endpoint}{target}", encoded=True)
    async with session(tls_of(pair, administrator(pair))) as opened, opened.get(url) as response:
        assert response.status == 200
        assert await watchers(pair) == 1
        expected = []
        for number in range(20):
            name = f"ordered-{number}"
            template = {"spec": pod(name, place)["spec"]}
            obj = named("PodTemplate", name, place, labels={"ordered": ""}, template=template)
            await pair.virtual.create(obj)
            changed = {"metadata": {"annotations": {"a": "1"}}}
            await pair.virtual.patch("podtemplates", name, place, changed)
            await pair.virtual.delete("podtemplates", name, place)
            expected += [(kind, name) for kind in ("ADDED", "MODIFIED", "DELETED")]
        seen: list[tuple[str, str]] = []
        async with asyncio.timeout(SECONDS):
            while len(seen) < len(expected):
                event = orjson.loads(await response.content.readline())
                seen.append((event["type"], event["object"]["metadata"]["name"]))
        assert seen == expected

    async def over() -> None:
        assert await watchers(pair) == 0

    await eventually(over)


WATCHES: dict[str, tuple[str, tuple[Header, ...]]] = {
    "json": ("", ()),
    "table": ("", (("Accept", TABLE),)),
    "protobuf": ("", (("Accept", f"{PROTOBUF};stream=watch"),)),
    "gzip-asked": ("", (("Accept-Encoding", "gzip"),)),
    "from-the-start": ("&resourceVersion=0", ()),
    "too-old": ("&resourceVersion=1", ()),
    "no-such-version": ("&resourceVersion=x", ()),
    "fields": ("&fieldSelector=metadata.name%3Dsystem-node-critical", ()),
}


@pytest.mark.parametrize(("query", "headers"), WATCHES.values(), ids=WATCHES.keys())
async def test_a_watch_ends_when_the_server_ends_it(
    pair: Pair, query: str, headers: tuple[Header, ...]
) -> None:
    """With `timeoutSeconds` all events and the end come as they come straight, to the byte."""
    # Of objects that nobody changes: the two watches begin at almost, not quite, the same moment.
    target = f"/apis/scheduling.k8s.io/v1/priorityclasses?watch=true&timeoutSeconds=1{query}"
    expected, found = await asyncio.gather(
        straight(pair, "GET", target, headers=headers),
        through(pair, "GET", target, headers=headers),
    )
    assert found.told() == expected.told()
    assert found.body


async def test_a_streamed_list_ends_with_its_bookmark(pair: Pair) -> None:
    """`sendInitialEvents` gives what there is, then says so."""
    # Of objects that nobody changes, and for as long as the server takes to be sure of its cache.
    target = (
        "/apis/scheduling.k8s.io/v1/priorityclasses?watch=1&sendInitialEvents=true"
        "&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
    )
    url = URL(f"{pair.syncer.endpoint}{target}", encoded=True)
    types: list[str] = []
    async with (
        asyncio.timeout(SECONDS),
        session(tls_of(pair, administrator(pair))) as opened,
        opened.get(url) as response,
    ):
        while "BOOKMARK" not in types:
            event = orjson.loads(await response.content.readline())
            types.append(event["type"])
    assert event["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert set(types[:-1]) == {"ADDED"}


@pytest.mark.parametrize("protocol", ["", "base64.binary.k8s.io", "binary.k8s.io"])
async def test_a_watch_can_be_a_websocket(pair: Pair, protocol: str) -> None:
    """A browser's watch is an upgrade, passed through with its subprotocol."""
    target = "/api/v1/namespaces?watch=1&fieldSelector=metadata.name%3Ddefault"
    first = []
    protocols = [protocol] if protocol else []
    for straightly in (True, False):
        async with websocket(
            pair, target, *protocols, straight=straightly, headers=(("Origin", "http://localhost"),)
        ) as opened:
            message = await opened.receive()
            first.append((opened.protocol, message.type, message.data))
    assert first[0] == first[1]
    refused = await same(
        pair,
        "GET",
        "/api/v1/namespaces/missing/nothing?watch=1",
        headers=(
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Key", "AQIDBAUGBwgJCgsMDQ4PEA=="),
            ("Sec-WebSocket-Version", "13"),
        ),
    )
    assert refused.status == 404


# Readers who don't read


async def test_stalled_readers_cost_little_and_disturb_nobody(pair: Pair, place: str) -> None:
    """Many megabytes that nobody takes stay at the server: memory hardly grows, others go on."""
    server, pid = pair.virtual.plane.server, pair.syncer.pid
    assert pid is not None
    await through(pair, "GET", maps(place))
    before, connections = pair.syncer.rss_bytes(), open_connections(pid, server)
    stalled = []
    tls = tls_of(pair, administrator(pair))
    for _ in range(STALLED):
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or the kernel takes it all
        small.setblocking(False)
        await asyncio.get_running_loop().sock_connect(small, ("127.0.0.1", pair.syncer.port))
        reader, writer = await asyncio.open_connection(
            sock=small, server_hostname="localhost", ssl=tls, limit=1024
        )
        writer.write(request_head("GET", maps(place)))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        stalled.append((reader, writer))
    try:
        for _ in range(20):
            started = time.monotonic()
            assert (await through(pair, "GET", "/api/v1/namespaces/default")).status == 200
            assert time.monotonic() - started < 10
            await asyncio.sleep(0.05)
        assert open_connections(pid, server) >= STALLED
        grown = pair.syncer.rss_bytes() - before
        assert grown < STALLED * 2_000_000, f"{grown / 1e6:.0f} MB"
        # One who reads on after all gets the rest.
        rest = 0
        reader, _ = stalled[0]
        async with asyncio.timeout(SECONDS):
            while rest < 5_000_000:
                piece = await reader.read(65536)
                assert piece
                rest += len(piece)
    finally:
        for _, writer in stalled:
            writer.transport.abort()

    async def over() -> None:
        assert open_connections(pid, server) <= connections + 2

    await eventually(over)


# Custom resources, aggregated APIs, webhooks


@pytest.fixture(scope="module")
async def widgets(pair: Pair) -> AsyncIterator[str]:
    """The path of a kind of the tenant's own."""
    group = f"{uuid.uuid4().hex[:8]}.example.com"
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {"size": {"type": "integer", "minimum": 1}},
                "required": ["size"],
            }
        },
    }
    column = {"name": "Size", "type": "integer", "jsonPath": ".spec.size"}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "additionalPrinterColumns": [column],
        "subresources": {"status": {}},
        "deprecated": True,
        "deprecationWarning": "widgets are of the past",
    }
    definition = named(
        "CustomResourceDefinition",
        f"widgets.{group}",
        apiVersion="apiextensions.k8s.io/v1",
        spec={
            "group": group,
            "scope": "Cluster",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [version],
        },
    )
    await pair.virtual.create(definition)
    await eventually(lambda: pair.virtual.list(f"{group}/v1/widgets"))
    yield f"/apis/{group}/v1/widgets"
    crds = "apiextensions.k8s.io/v1/customresourcedefinitions"
    await pair.virtual.delete(crds, f"widgets.{group}")


async def test_custom_resources_pass(pair: Pair, widgets: str) -> None:
    """Kinds that the syncer knows nothing of: written, validated, listed, tabled, warned about."""
    version = widgets.removeprefix("/apis/").removesuffix("/widgets")
    widget = named("Widget", "one", apiVersion=version, spec={"size": 3})
    made = await through(pair, "POST", widgets, **json_body(widget))
    assert made.status == 201
    assert "widgets are of the past" in made.header("Warning")
    too_small = widget | {"metadata": {"name": "two"}, "spec": {"size": 0}}
    assert (await same(pair, "POST", widgets, **json_body(too_small))).status == 422
    table = await same(pair, "GET", widgets, headers=(("Accept", TABLE),))
    assert table.json["rows"][0]["cells"][:2] == ["one", 3]
    refused = await same(pair, "GET", f"{widgets}/one", headers=(("Accept", PROTOBUF),))
    assert refused.status == 406
    status = broken(b'{"status":{}}', "application/merge-patch+json")
    assert (await same(pair, "PATCH", f"{widgets}/one/status", **status)).status == 200
    assert (await through(pair, "DELETE", f"{widgets}/one")).status == 200


@dataclass
class Server:
    """A web server of a test, that does what the last part of a path says.

    Attributes:
        port: where it listens, on loopback.
        seen: path and headers of each request that it got.
    """

    port: int = 0
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer."""
        self.seen.append((request.path, dict(request.headers)))
        word = request.path.rsplit("/", 1)[-1]
        if word == "deny":
            return await self._deny(request)
        if word == "large":
            answer = web.StreamResponse(headers={"X-Kind": "large"})
            await answer.prepare(request)
            for _ in range(200):
                await answer.write(b"0123456789abcdef" * 1024)
            return answer
        if word == "breaks":
            answer = web.StreamResponse()
            await answer.prepare(request)
            await answer.write(b"so far")
            assert request.transport is not None
            request.transport.abort()
            return answer
        if word.isdigit():
            headers = {"Location": "https://127.0.0.1/elsewhere", "Retry-After": "7"}
            headers |= {"X-Text": "väl", "Set-Cookie": "a=b"}
            body = b"" if word in ("204", "304") else b"\x00\xff of a test"
            return web.Response(status=int(word), body=body, headers=headers)
        if request.method == "POST":
            return web.Response(body=await request.read())
        return web.json_response({"kind": "APIResourceList", "groupVersion": "v1", "resources": []})

    async def _deny(self, request: web.BaseRequest) -> web.Response:
        review = orjson.loads(await request.read())
        status = {"code": 418, "message": "no röses today", "reason": "Teapot"}
        response = {
            "uid": review["request"]["uid"],
            "allowed": False,
            "status": status,
            "warnings": ["mind the thorns", "and the bees, too"],
        }
        return web.json_response(
            {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
        )


@asynccontextmanager
async def running_server(keys: Keys) -> AsyncIterator[Server]:
    """Run a web server."""
    server = Server()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(keys.certificate, keys.key)
    async with serving(server.handle, tls) as server.port:
        yield server


@asynccontextmanager
async def api_group(pair: Pair) -> AsyncIterator[tuple[str, Server]]:
    """Serve an API group; yield its path, and the server."""
    name = f"api-{uuid.uuid4().hex[:8]}"
    keys = pair.virtual.plane.pki.server(f"{name}.default.svc")
    made = await service_for(pair, name)
    async with (
        running_server(keys) as server,
        aggregated(pair.virtual, made, server.port) as path,
    ):
        yield path, server


async def test_aggregated_apis_and_their_errors_pass(pair: Pair) -> None:
    """Whatever an API server of the tenant's own answers comes as it comes without us."""
    async with api_group(pair) as (base, server):
        for status in (200, 201, 204, 304, 302, 307, 400, 404, 410, 418, 429, 500, 503):
            answer = await same(pair, "GET", f"{base}/{status}?pretty=%20")
            assert answer.status in (status, 502)
        large = await same(pair, "GET", f"{base}/large")
        assert len(large.body) == 200 * 16 * 1024
        echoed = await same(pair, "POST", f"{base}/echo", body=b"\x00" * 200_000)
        assert echoed.body == b"\x00" * 200_000
        # The server itself looks at the group, too, whenever it likes.
        mine = [headers for path, headers in server.seen if path == f"{base}/echo"]
        users = {value for each in mine for name, value in each.items() if _is_user(name)}
        assert users == {"admin"}
        for server_url in (pair.virtual.plane.server, pair.syncer.endpoint):
            with pytest.raises(aiohttp.ClientPayloadError):
                await raw_get(pair, server_url, f"{base}/breaks")

    async def gone() -> None:  # the server takes a moment to forget the group
        assert (await same(pair, "GET", f"{base}/200")).status == 404

    await eventually(gone)


def _is_user(name: str) -> bool:
    return name.lower() == "x-remote-user"


async def raw_get(pair: Pair, server: str, target: str) -> bytes:
    """Read an answer to its end."""
    who = administrator(pair)
    url = URL(f"{server}{target}", encoded=True)
    async with (
        session(tls_of(pair, who)) as opened,
        opened.get(url, headers=headers_of(who)) as response,
    ):
        return await response.read()


async def test_an_aggregated_api_that_is_away_is_told_so(pair: Pair) -> None:
    """The virtual API server's own 503 comes through, its body and all."""
    async with api_group(pair) as (base, _):
        name = base.split("/")[2].partition(".")[0]
        await pair.virtual.delete("discovery.k8s.io/v1/endpointslices", name, "default")

        async def away() -> None:
            assert (await straight(pair, "GET", f"{base}/200")).status == 503

        await eventually(away)
        answer = await same(pair, "GET", f"{base}/200")
    assert answer.status == 503


async def test_webhooks_errors_and_warnings_pass(pair: Pair, virtual: Cluster) -> None:
    """What an admission webhook says comes in its words, several warnings as several headers."""
    label = uuid.uuid4().hex
    keys = virtual.plane.pki.server("127.0.0.1")
    authority = base64.b64encode(virtual.plane.pki.server_ca.certificate.read_bytes()).decode()
    kind = "ValidatingWebhookConfiguration"
    of = "admissionregistration.k8s.io/v1"
    async with running_server(keys) as server:
        hook = {
            "name": "deny.example.com",
            "clientConfig": {
                "url": f"https://127.0.0.1:{server.port}/deny",
                "caBundle": authority,
            },
            "rules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "operations": ["CREATE"],
                    "resources": ["namespaces"],
                }
            ],
            "objectSelector": {"matchLabels": {"denied": label}},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "failurePolicy": "Fail",
        }
        await virtual.create(named(kind, label, apiVersion=of, webhooks=[hook]))
        denied = json_body(named("Namespace", f"denied-{label[:8]}", labels={"denied": label}))
        target = "/api/v1/namespaces?dryRun=All"

        async def takes_hold() -> None:
            assert (await straight(pair, "POST", target, **denied)).status == 418

        try:
            await eventually(takes_hold)
            answer = await same(pair, "POST", target, **denied)
            assert answer.json["message"].endswith("denied the request: no röses today")
            assert len([each for each in answer.headers if each[0] == "warning"]) == 2
            hook["clientConfig"]["url"] = "https://127.0.0.1:1/deny"  # type: ignore[index]
            await virtual.apply(named(kind, label, apiVersion=of, webhooks=[hook]))

            async def fails() -> None:
                assert (await straight(pair, "POST", target, **denied)).status == 500

            await eventually(fails)
            assert (await same(pair, "POST", target, **denied)).status == 500
        finally:
            await virtual.delete(f"{of}/validatingwebhookconfigurations", label)
