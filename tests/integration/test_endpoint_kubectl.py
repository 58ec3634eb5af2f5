"""kubectl, of today and of old, works through the tenant's endpoint as it does without it."""

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import orjson
import pytest

from tests.integration.endpoint import (
    SECONDS,
    Caller,
    Kubectl,
    Output,
    administrator,
    caller,
    grant,
    long_running,
    running_pod,
    service_account,
    through,
)
from tests.integration.harness import Object, Pair, config_map, eventually, named

_TIMES = re.compile(r"\b\d{4}-\d\d-\d\dT[\d:]+Z|\b(\d+d)?(\d+h)?(\d+m)?(\d+s)?(?=\s)")
"""Moments, and ages as kubectl prints them."""


@pytest.fixture(scope="module")
async def place(pair: Pair) -> AsyncIterator[str]:
    """A namespace with a pod `web` that runs."""
    async with running_pod(pair) as namespace:
        yield namespace


@pytest.fixture
def kubectl(pair: Pair, place: str) -> Kubectl:
    """The administrator's."""
    return Kubectl.of(pair, namespace=place)


@pytest.fixture(params=["websocket", "spdy"])
def streaming(request: pytest.FixtureRequest, pair: Pair, place: str) -> Kubectl:
    """The administrator's, of today and of old."""
    return Kubectl.of(pair, namespace=place, spdy=request.param == "spdy")


async def same_output(
    pair: Pair, *words: str, who: Caller | None = None, namespace: str = "", stdin: bytes = b""
) -> Output:
    """Run kubectl both ways, see that all it says is the same, and return it."""
    direct = Kubectl.of(pair, who, namespace=namespace, straight=True)
    ours = Kubectl.of(pair, who, namespace=namespace)
    expected = await either(direct, *words, stdin=stdin)
    found = await either(ours, *words, stdin=stdin)
    assert timeless(found) == timeless(expected)
    return found


def timeless(output: Output) -> Output:
    """Take moments and ages out of what kubectl printed, and how wide they made a column."""
    texts = (re.sub(r" +", " ", _TIMES.sub("", text)) for text in (output.out, output.err))
    return Output(output.status, *texts)


async def either(kubectl: Kubectl, *words: str, stdin: bytes = b"") -> Output:
    """Run a command that may fail."""
    async with kubectl.started(*words) as process, asyncio.timeout(SECONDS):
        out, err = await process.communicate(stdin)
    return Output(process.returncode or 0, out.decode(), err.decode())


async def until(process: asyncio.subprocess.Process, text: str) -> str:
    """Read standard output until it has a text; return all that came."""
    assert process.stdout is not None
    assert process.stderr is not None
    seen = ""
    async with asyncio.timeout(SECONDS):
        while text not in seen:
            piece = await process.stdout.read(65536)
            assert piece, f"ended: {seen} {await process.stderr.read()!r}"
            seen += piece.decode()
    return seen


def log_line(pair: Pair, text: str) -> None:
    """Add a line to the log of every pod."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    with pair.host.plane.pod_log.open("a") as log:
        log.write(f"{now}.000000000Z stdout F {text}\n")


# Logs


async def test_logs_are_the_hosts(pair: Pair, place: str, kubectl: Kubectl) -> None:
    """Whatever is asked of a log, the tenant gets what the host's own kubectl gets."""
    log_line(pair, "a recent line")
    log_line(pair, "the last line")
    name, namespace = pair.host_name("web", place), pair.names.host_namespace
    on_host = Kubectl(kubectl.binary, pair.host.plane.kubeconfig, namespace)
    for options in (
        (),
        ("--tail=1",),
        ("--since=1h",),
        ("--since-time=2026-01-01T00:00:00Z",),
        ("--previous",),
        ("--timestamps", "--tail=2"),
        ("--limit-bytes=10",),
        ("--container=web", "--tail=1"),
        ("--all-containers", "--tail=1"),
    ):
        words = tuple(word.replace("=web", "=main") for word in options)
        expected = (await on_host.run("logs", name, *words)).out
        assert (await kubectl.run("logs", "web", *words)).out == expected, options
    assert "hello from a fake pod" in (await kubectl.run("logs", "web")).out
    recent = (await kubectl.run("logs", "web", "--since=1h")).out
    assert "a recent line" in recent
    assert "hello" not in recent
    assert (await kubectl.run("logs", "web", "--tail=1")).out == "the last line\n"
    prefixed = (await kubectl.run("logs", "--selector=app=web", "--prefix", "--tail=1")).out
    assert prefixed == "[pod/web/main] the last line\n"


async def test_a_log_is_followed(pair: Pair, kubectl: Kubectl) -> None:
    """`logs -f` shows lines as they come; once kubectl is gone, the host's end is gone too."""
    before = await followers(pair)
    async with kubectl.started("logs", "-f", "web", "--tail=1") as process:
        await until(process, "\n")
        for number in (1, 2):
            log_line(pair, f"followed-{process.pid}-{number}")
            await until(process, f"followed-{process.pid}-{number}\n")
        assert await followers(pair) > before

    async def over() -> None:
        assert await followers(pair) <= before

    await eventually(over)


async def followers(pair: Pair) -> float:
    """Return how many logs the host's API server goes on streaming.

    For the host is shared, and whoever reads a log is counted as long as that takes: the least of
    several looks.
    """
    return min([await long_running(pair.host, 'subresource="log"') for _ in range(5)])


async def test_no_log_of_what_is_not_there(kubectl: Kubectl) -> None:
    """A pod or container that is not there is refused in the words of an API server."""
    missing = await kubectl.run("logs", "missing", fails=True)
    assert 'pods "missing" not found' in missing.err
    strange = await kubectl.run("logs", "web", "-c", "strange", fails=True)
    assert "container strange is not valid for pod web" in strange.err


# Exec


async def test_exec_keeps_streams_and_failure_apart(streaming: Kubectl) -> None:
    """Standard output, standard error and the exit status arrive as such."""
    done = await streaming.run("exec", "web", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.out, done.err) == ("out\n", "err\n")
    failed = await streaming.run("exec", "web", "--", "sh", "-c", "echo so far; exit 3", fails=True)
    assert failed.out == "so far\n"
    assert "exit status 3" in failed.err  # kwok tells it in words only
    spaced = await streaming.run("exec", "web", "--", "printf", "%s|", "a b", "c&d=e", "ü", "%2F+")
    assert spaced.out == "a b|c&d=e|ü|%2F+|"
    missing = await streaming.run("exec", "missing", "--", "true", fails=True)
    assert missing.err == 'Error from server (NotFound): pods "missing" not found\n'
    strange = await streaming.run("exec", "web", "-c", "strange", "--", "true", fails=True)
    assert "container strange is not valid for pod web" in strange.err


async def test_exec_takes_standard_input(streaming: Kubectl) -> None:
    """Megabytes of standard input reach the command unchanged."""
    content = os.urandom(3_000_000)
    words = ("exec", "-i", "web", "--", "sh", "-c", f"head -c {len(content)} | sha256sum")
    done = await streaming.run(*words, stdin=content)
    assert done.out.split()[0] == hashlib.sha256(content).hexdigest()


async def test_exec_gives_much_output(streaming: Kubectl) -> None:
    """Megabytes of output arrive whole."""
    done = await streaming.run("exec", "web", "--", "seq", "1000000")
    assert done.out == "".join(f"{number}\n" for number in range(1, 1_000_001))


async def test_exec_has_a_terminal_whose_size_follows(streaming: Kubectl) -> None:
    """`exec -it` is a terminal: it echoes, knows its size, and Ctrl-D ends the shell."""
    async with streaming.terminal("exec", "-it", "web", "--", "sh") as terminal:
        await terminal.shows(r"[$#] $")

        def has_size(size: str) -> None:
            terminal.type("stty size\n")
            assert size in terminal.seen

        # Asked again: a size takes a way of its own, beside what is typed.
        await eventually(lambda: has_size("24 80"), poll=0.3)
        terminal.resize(33, 99)
        await eventually(lambda: has_size("33 99"), poll=0.3)
        terminal.type("\x04")
        async with asyncio.timeout(SECONDS):
            assert await terminal.process.wait() == 0


# Copies


async def test_files_are_copied_both_ways(streaming: Kubectl, tmp_path: Path) -> None:
    """`kubectl cp` takes a tree into the pod and out again."""
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "random").write_bytes(os.urandom(1_500_000))
    (source / "text").write_text("hello\n")
    inside, back = tmp_path / "inside", tmp_path / "back"
    inside.mkdir()
    await streaming.run("cp", str(source), f"web:{inside}")
    await streaming.run("cp", f"web:{inside}/source", str(back))
    for name in ("deep/random", "text"):
        assert (inside / "source" / name).read_bytes() == (source / name).read_bytes()
        assert (back / name).read_bytes() == (source / name).read_bytes()
    missing = await streaming.run("cp", f"web:{tmp_path}/missing", str(back), fails=True)
    assert "missing" in missing.err


# Attach


async def test_attach_shows_what_a_container_says(pair: Pair, streaming: Kubectl) -> None:
    """What a container writes comes to who is attached."""
    async with streaming.started("attach", "web") as process:

        async def attached() -> None:
            log_line(pair, f"attached-{process.pid}")
            async with asyncio.timeout(0.5):
                assert await until(process, f"attached-{process.pid}\n")

        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    await attached()
                    break
                except TimeoutError:
                    continue


# Port-forward


@asynccontextmanager
async def forwarded(kubectl: Kubectl, what: str, port: int = 80) -> AsyncIterator[int]:
    """Forward a free local port; yield its number."""
    async with kubectl.started("port-forward", what, f":{port}") as process:
        line = await until(process, "\n")
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert found is not None
        yield int(found[1])


async def test_a_forwarded_port_carries_traffic_both_ways(streaming: Kubectl) -> None:
    """Several connections at once, each gets back what it sent, to the byte."""

    async def echoed(port: int, content: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(content)
            await writer.drain()
            assert await reader.readexactly(len(content)) == content
        finally:
            writer.close()

    async with forwarded(streaming, "pod/web") as port, asyncio.timeout(SECONDS):
        await asyncio.gather(*(echoed(port, os.urandom(400_000)) for _ in range(4)))
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{port}/") as page,
        ):
            assert (page.status, await page.text()) == (200, "hello from a fake pod\n")


async def test_a_services_port_is_forwarded(pair: Pair, place: str, kubectl: Kubectl) -> None:
    """`port-forward svc/...` finds a pod behind the service."""
    await kubectl.run("expose", "pod", "web", "--port=8080", "--target-port=80")
    async with (
        forwarded(kubectl, "svc/web", 8080) as port,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/") as page,
    ):
        assert page.status == 200
    missing = await kubectl.run("port-forward", "pod/missing", ":80", fails=True)
    assert 'pods "missing" not found' in missing.err


# Debug


async def test_an_ephemeral_container_is_added_and_spoken_to(
    pair: Pair, place: str, kubectl: Kubectl
) -> None:
    """`kubectl debug` adds containers to a running pod; their logs, exec and attach work."""
    for name in ("one", "two"):
        await kubectl.run(
            "debug", "web", "--image=busybox", f"--container={name}", "--", "sleep", "9"
        )

    async def runs() -> None:
        found = await pair.virtual.get("pods", "web", place)
        statuses = found["status"].get("ephemeralContainerStatuses") or ()
        running = {each["name"] for each in statuses if "running" in each["state"]}
        assert running == {"one", "two"}

    await eventually(runs)
    assert "hello" in (await kubectl.run("logs", "web", "-c", "two")).out
    assert (await kubectl.run("exec", "web", "-c", "one", "--", "echo", "hi")).out == "hi\n"
    async with kubectl.terminal(
        "debug", "web", "-it", "--image=busybox", "--container=three", "--", "sh"
    ) as terminal:

        def attached() -> None:
            log_line(pair, "for the third")
            assert "for the third" in terminal.seen

        await eventually(attached, timeout=SECONDS, poll=0.3)


# Objects


async def test_apply_creates_changes_and_prunes_fields(kubectl: Kubectl) -> None:
    """`kubectl apply` does client-side what it always did."""

    def manifest(**data: str) -> bytes:
        return orjson.dumps(config_map("applied", kubectl.namespace, data))

    apply = partial(kubectl.run, "apply", "-f", "-")
    assert "created" in (await apply(stdin=manifest(a="1", b="2"))).out
    assert "unchanged" in (await apply(stdin=manifest(a="1", b="2"))).out
    changed = await kubectl.run("diff", "-f", "-", stdin=manifest(a="9"), fails=True)
    assert "9" in changed.out
    assert "configured" in (await apply(stdin=manifest(a="9"))).out
    found = await kubectl.run("get", "configmap", "applied", "-o=jsonpath={.data}")
    assert json.loads(found.out) == {"a": "9"}


async def test_server_side_apply_reports_conflicts(kubectl: Kubectl) -> None:
    """Field managers are kept apart; a conflict names the other, and can be forced."""

    def manifest(value: str) -> bytes:
        return orjson.dumps(config_map("owned", kubectl.namespace, {"a": value}))

    apply = partial(kubectl.run, "apply", "--server-side", "-f", "-")
    await apply("--field-manager=one", stdin=manifest("1"))
    refused = await apply("--field-manager=two", stdin=manifest("2"), fails=True)
    assert 'conflict with "one"' in refused.err
    await apply("--field-manager=two", "--force-conflicts", stdin=manifest("2"))
    found = await kubectl.run("get", "configmap", "owned", "-o=jsonpath={.data.a}")
    assert found.out == "2"


async def test_a_watch_shows_changes(pair: Pair, kubectl: Kubectl) -> None:
    """`get -w` shows each change when it happens."""
    words = ("get", "configmap", "-w", "--output-watch-events", "--field-selector")
    async with kubectl.started(*words, "metadata.name=watched") as process:
        await pair.virtual.create(config_map("watched", kubectl.namespace, {"a": "1"}))
        await until(process, "ADDED")
        await kubectl.run("patch", "configmap", "watched", "-p", '{"data":{"b":"2"}}')
        await until(process, "MODIFIED")
        await kubectl.run("delete", "configmap", "watched")
        await until(process, "DELETED")


async def test_delete_waits_until_the_object_is_gone(pair: Pair, kubectl: Kubectl) -> None:
    """`delete --wait` returns once pod and copy are gone."""
    await kubectl.run("run", "short", "--image=nginx")
    await kubectl.run("wait", "--for=condition=Ready", "pod/short", "--timeout=30s")
    assert await pair.find_copy("pods", "short", kubectl.namespace) is not None
    deleted = await kubectl.run("delete", "pod", "short", "--wait", "--grace-period=1")
    assert '"short" deleted' in deleted.out
    assert await pair.virtual.find("pods", "short", kubectl.namespace) is None
    assert await pair.find_copy("pods", "short", kubectl.namespace) is None


async def test_a_deployment_is_rolled_out_and_scaled(kubectl: Kubectl) -> None:
    """Rollouts, scaling, patches and restarts work; the pods run on the host."""
    await kubectl.run("create", "deployment", "site", "--image=nginx:1")
    await kubectl.run("scale", "deployment", "site", "--replicas=2")
    done = await kubectl.run("rollout", "status", "deployment/site", "--timeout=60s")
    assert "successfully rolled out" in done.out
    image = {
        "spec": {"template": {"spec": {"containers": [{"name": "nginx", "image": "nginx:2"}]}}}
    }
    await kubectl.run("patch", "deployment", "site", "-p", json.dumps(image))
    await kubectl.run("rollout", "status", "deployment/site", "--timeout=60s")

    async def replaced() -> None:  # the rollout does not wait for the end of the pods of before
        found = await kubectl.run(
            "get", "pods", "-l", "app=site", "--field-selector=status.phase=Running",
            "-o=jsonpath={.items[*].spec.containers[0].image}",
        )  # fmt: skip
        assert found.out.split() == ["nginx:2"] * 2

    await eventually(replaced)
    assert "hello" in (await kubectl.run("logs", "deployment/site")).out
    await kubectl.run("delete", "deployment", "site")


# Reading


READING = {
    "table": ("get", "pods", "-A", "-o=wide"),
    "services": ("get", "services", "-A"),
    "json": ("get", "namespaces", "default", "-o=json"),
    "yaml": ("get", "clusterroles", "cluster-admin", "-o=yaml", "--show-managed-fields"),
    "name": ("get", "clusterroles", "-o=name"),
    "columns": ("get", "ns", "-o=custom-columns=NAME:.metadata.name", "--sort-by=.metadata.name"),
    "chunks": ("get", "clusterroles", "--chunk-size=10"),
    "raw": ("get", "--raw", "/api/v1/namespaces/kube-system?pretty=true"),
    "raw_version": ("get", "--raw", "/version"),
    "raw_missing": ("get", "--raw", "/nothing/here"),
    "explain": ("explain", "deployment.spec.strategy", "--recursive"),
    "explain_v2": ("explain", "pods", "--output=plaintext-openapiv2"),
    "resources": ("api-resources", "--cached=false", "-o=wide"),
    "versions": ("api-versions",),
    "apiservices": ("get", "apiservices"),
    "missing": ("get", "pods", "missing"),
    "missing_kind": ("get", "nothings"),
    "version": ("version", "--output=json"),
}


@pytest.mark.parametrize("words", READING.values(), ids=READING.keys())
async def test_what_kubectl_prints_is_the_same(pair: Pair, words: tuple[str, ...]) -> None:
    """Tables, documents, discovery and errors read as without the endpoint."""

    async def check() -> None:
        output = await same_output(pair, *words)
        assert output.out or output.err

    await eventually(check)


async def test_discovery_without_aggregation_works(pair: Pair) -> None:
    """Clients that know nothing of aggregated discovery find every group, one by one."""
    plain = (("Accept", "application/json"),)
    groups = (await through(pair, "GET", "/apis", headers=plain)).json["groups"]
    assert {"apps", "batch", "rbac.authorization.k8s.io"} <= {each["name"] for each in groups}
    for group in groups:
        if "." in group["name"] and not group["name"].endswith(".k8s.io"):
            continue  # a test's own, which may be on its way out
        path = f"/apis/{group['preferredVersion']['groupVersion']}"
        answer = await through(pair, "GET", path, headers=plain)
        assert answer.json["kind"] == "APIResourceList"


async def test_kubectl_proxy_serves_a_browser(kubectl: Kubectl, place: str) -> None:
    """`kubectl proxy` answers plain HTTP with the cluster's objects, watches and pages of pods."""
    async with kubectl.started("proxy", "--port=0") as process:
        line = await until(process, "\n")
        found = re.search(r"127\.0\.0\.1:\d+", line)
        assert found is not None
        async with aiohttp.ClientSession(f"http://{found[0]}") as session:
            async with session.get("/api/v1/namespaces/default") as answer:
                assert (await answer.json())["metadata"]["name"] == "default"
            params = {"watch": "1", "fieldSelector": "metadata.name=web"}
            async with session.get(f"/api/v1/namespaces/{place}/pods", params=params) as answer:
                event = orjson.loads(await answer.content.readline())
            assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "web")
            async with session.get(f"/api/v1/namespaces/{place}/pods/web/log") as answer:
                assert "hello" in await answer.text()


# Who one is


async def test_one_is_who_one_is(pair: Pair, place: str) -> None:
    """`auth whoami` says the same both ways, for a certificate and for a token."""
    account, _ = await service_account(pair.virtual, "robot", place)
    for who, name in (
        (administrator(pair), "admin"),
        (caller(pair, "jane", ["team", "other:team"]), "jane"),
        (account, f"system:serviceaccount:{place}:robot"),
    ):
        told = json.loads((await same_output(pair, "auth", "whoami", "-o=json", who=who)).out)
        assert told["status"]["userInfo"]["username"] == name
        assert "system:authenticated" in told["status"]["userInfo"]["groups"]


async def test_one_may_do_what_one_may(pair: Pair, place: str) -> None:
    """`auth can-i` answers the same both ways, and what is denied is denied in the same words."""
    reader = caller(pair, "reader", [place])
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}
    await grant(pair.virtual, place, rule, namespace=place, kind="Group")
    direct = Kubectl.of(pair, reader, namespace=place, straight=True)

    async def granted() -> None:
        assert (await either(direct, "auth", "can-i", "get", "pods")).out == "yes\n"

    await eventually(granted)
    ask = partial(same_output, pair, who=reader, namespace=place)
    assert (await ask("auth", "can-i", "get", "pods")).status == 0
    assert (await ask("auth", "can-i", "create", "pods", "--subresource=exec")).status == 1
    assert "pods" in (await ask("auth", "can-i", "--list")).out
    assert (await ask("get", "pods", "web", "-o=name")).out == "pod/web\n"
    assert "cannot list resource" in (await ask("get", "secrets")).err
    assert "forbidden" in (await ask("delete", "pod", "web")).err
    denied = await either(Kubectl.of(pair, reader, namespace=place), "logs", "web", "-c", "main")
    assert denied.err == (
        'Error from server (Forbidden): pods "web" is forbidden: User "reader" cannot get '
        f'resource "pods/log" in API group "" in the namespace "{place}"\n'
    )


AS: dict[str, tuple[str, ...]] = {
    "user": ("--as=bob",),
    "group": ("--as=bob", "--as-group=team", "--as-group=other"),
    "uid": ("--as=bob", "--as-uid=1234"),
    "extra": ("--as=bob", "--as-user-extra=example.com/scope=a", "--as-user-extra=key=b"),
    "account": ("--as=system:serviceaccount:default:default",),
    "node": ("--as=system:node:node-0", "--as-group=system:nodes"),
    "masters": ("--as=root", "--as-group=system:masters"),
    "anonymous": ("--as=system:anonymous",),
}


@pytest.mark.parametrize("options", AS.values(), ids=AS.keys())
async def test_one_acts_for_others(pair: Pair, options: tuple[str, ...]) -> None:
    """`--as` gives the same identity, or the same refusal, as without the endpoint."""
    impersonator: Object = {"apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"]}
    await grant(pair.virtual, "somewhat", impersonator)
    direct = Kubectl.of(pair, caller(pair, "somewhat"), straight=True)

    async def granted() -> None:
        assert (await either(direct, "auth", "whoami", "--as=bob")).status == 0

    await eventually(granted)
    told = await same_output(pair, "auth", "whoami", "-o=json", *options)
    assert (told.status == 0) == ("--as=system:anonymous" not in options)
    await same_output(pair, "auth", "whoami", "-o=json", *options, who=caller(pair, "somewhat"))
    refused = await same_output(pair, "get", "ns", *options, who=caller(pair, "nobody-special"))
    assert refused.status == 1
    assert "cannot impersonate" in refused.err


async def test_tokens_are_made_and_used(pair: Pair, place: str, kubectl: Kubectl) -> None:
    """`create token` gives a token with which kubectl works through the endpoint."""
    await pair.virtual.create(named("ServiceAccount", "tokened", place))
    token = (await kubectl.run("create", "token", "tokened", "--duration=10m")).out.strip()
    who = (await Kubectl.of(pair, Caller(token=token)).run("auth", "whoami")).out
    assert f"system:serviceaccount:{place}:tokened" in who
