"""The tenant's kubeconfig on real clusters: the secrets on the host, and `syncer kubeconfig`."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog

from controlplane.certificates import Authority
from syncer.commands import CommandError
from syncer.commands.kubeconfig import make
from syncer.commands.options import KubeconfigOptions
from syncer.engine.gate import Gate
from syncer.kube.access import Access, Tls
from syncer.kube.client import Client
from syncer.kube.config import ConnectionConfig, load_kubeconfig
from syncer.kube.errors import ApiError
from syncer.kube.kubeconfig import read_inline
from syncer.kubeconfig.document import from_access
from syncer.kubeconfig.secret import KUBECONFIG_OF, SECRETS, secret
from syncer.kubeconfig.writer import KubeconfigWriter, server_of
from syncer.objects import Key
from syncer.settings import Settings, load_options
from tests.integration.harness import Cluster, Object, eventually, gone, named, service
from tests.integration.harness import secret as plain_secret

TENANT = "one"
NAME = f"vc-{TENANT}"
QUIET = 1.5  # seconds in which a writer with nothing to do does nothing


@dataclass
class Run:
    """A writer at work on the host.

    Attributes:
        writer: the writer.
        gate: what it asks before writes.
        requests: how many requests it made, by verb.
        logs: what it logged.
    """

    writer: KubeconfigWriter
    gate: Gate
    requests: Counter[str]
    logs: list[MutableMapping[str, Any]]

    @property
    def writes(self) -> int:
        """How many writes the host accepted."""
        return self.requests["create"] + self.requests["patch"]

    @property
    def troubles(self) -> list[str]:
        """The warnings, as `secret: reason`."""
        return [
            f"{line['secret']}: {line['reason']}"
            for line in self.logs
            if line["event"] == "kubeconfig not written"
        ]


@dataclass
class Home:
    """A syncer's own namespace on the host and its files.

    Attributes:
        host: the host cluster.
        namespace: the namespace.
        files: a directory with `admin.conf`, `server-ca.crt`.
        owner: the owner reference.
        settings: of the syncer.
    """

    host: Cluster
    namespace: str
    files: Path
    owner: Object
    settings: Settings = field(default_factory=Settings)

    def given(self, **settings: Any) -> Settings:
        """Return the settings, changed."""
        return self.settings.model_copy(update=settings)

    @asynccontextmanager
    async def writer(
        self, settings: Settings | None = None, *, client: Client | None = None, owned: bool = True
    ) -> AsyncIterator[Run]:
        """Run a writer, its pauses and looks at files twenty times as fast."""
        given = settings or self.settings
        requests: Counter[str] = Counter()

        def observe(verb: str, code: int, _seconds: float) -> None:
            requests[verb] += code < 300

        own = client or Client(load_kubeconfig(self.host.plane.kubeconfig), observer=observe)
        gate = Gate()
        with structlog.testing.capture_logs() as logs:
            writer = KubeconfigWriter(
                own,
                gate,
                given,
                server=lambda: server_of(given, 8443),
                owner=lambda: self.owner if owned else None,
                sleep=lambda seconds: asyncio.sleep(seconds / 20),
            )
            task = asyncio.create_task(writer.run())
            try:
                yield Run(writer, gate, requests, logs)
                assert not task.done()
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                await own.close()

    async def data(self, name: str = NAME, namespace: str = "") -> dict[str, bytes]:
        """Return the decoded data of a secret; raises RefusedError."""
        found = await self.host.get("secrets", name, namespace or self.namespace)
        return {key: base64.b64decode(value) for key, value in found["data"].items()}


@pytest.fixture
async def home(host: Cluster, virtual: Cluster, tmp_path: Path) -> AsyncIterator[Home]:
    """A new namespace with an owner Service, and the files of the virtual cluster."""
    namespace = f"kubeconfig-{uuid.uuid4().hex[:8]}"
    await host.create(named("Namespace", namespace))
    owner = await host.create(service(TENANT, namespace))
    pki = virtual.plane.pki
    shutil.copy(virtual.plane.kubeconfig, tmp_path / "admin.conf")
    shutil.copy(pki.server_ca.certificate, tmp_path / "server-ca.crt")
    reference = {
        "apiVersion": "v1",
        "kind": "Service",
        "name": TENANT,
        "uid": owner["metadata"]["uid"],
    }
    settings = Settings(
        name=TENANT,
        current_namespace=namespace,
        kube_config=str(tmp_path / "admin.conf"),
        server_ca_cert=str(tmp_path / "server-ca.crt"),
        out_kube_config_server=virtual.plane.server,
    )
    yield Home(host, namespace, tmp_path, reference, settings)
    await host.delete("namespaces", namespace)


@asynccontextmanager
async def user_of(kubeconfig: str | bytes) -> AsyncIterator[Client]:
    """Connect as a kubeconfig says."""
    content = kubeconfig.encode() if isinstance(kubeconfig, str) else kubeconfig
    access = read_inline(content, "kubeconfig")
    client = Client(ConnectionConfig(lambda _files: access))
    try:
        yield client
    finally:
        await client.close()


async def who(client: Client) -> Object:
    """Return who the API server takes a client for."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    answer: Object = orjson.loads(await client.request("POST", path, body=review))
    found: Object = answer["status"]["userInfo"]
    return found


# -- the writer ----------------------------------------------------------------------------------


async def test_the_secret_opens_the_virtual_cluster(home: Home) -> None:
    """It has vcluster's keys and owner, and its kubeconfig is an administrator's; one write."""
    async with home.writer(home.given(kube_config_context_name="mine")) as run:
        data = await eventually(home.data)
        assert data.keys() == {
            "config",
            "certificate-authority",
            "client-certificate",
            "client-key",
        }
        found = await home.host.get("secrets", NAME, home.namespace)
        assert found["type"] == "Opaque"
        assert found["metadata"]["ownerReferences"] == [{**home.owner, "controller": False}]
        assert b"current-context: mine\n" in data["config"]
        async with user_of(data["config"]) as client:
            assert "system:masters" in (await who(client))["groups"]
        await asyncio.sleep(QUIET)
        assert (run.writes, run.troubles) == (1, [])
    async with home.writer(home.given(kube_config_context_name="mine")) as run:
        await eventually(lambda: _at_least(run.requests["get"], 1))
        await asyncio.sleep(QUIET)
        assert run.writes == 0


def _at_least(count: int, least: int) -> None:
    assert count >= least


async def test_what_others_do_to_it_is_put_right(home: Home) -> None:
    """Deleted it is made again, changed it is changed back, each by one write; a note stays."""
    async with home.writer() as run:
        before = await eventually(home.data)
        await home.host.delete("secrets", NAME, home.namespace)
        assert await eventually(home.data) == before
        patch = {"data": {"client-key": "eA==", "note": "eA=="}, "metadata": {"labels": {"a": "b"}}}
        await home.host.patch("secrets", NAME, home.namespace, patch)

        async def restored() -> None:
            assert await home.data() == {**before, "note": b"x"}

        await eventually(restored)
        await asyncio.sleep(QUIET)
        assert run.writes == 3
        found = await home.host.get("secrets", NAME, home.namespace)
        assert found["metadata"]["labels"] == {"a": "b"}


async def test_a_change_back_again_and_again_is_met_ever_more_rarely(home: Home) -> None:
    """Two who want different things don't write as fast as they can."""
    async with home.writer() as run:
        await eventually(home.data)
        loop = asyncio.get_running_loop()
        ends = loop.time() + 4.0
        while loop.time() < ends:
            patch = {"data": {"client-key": "eA=="}}
            await home.host.patch("secrets", NAME, home.namespace, patch)
            await asyncio.sleep(0.02)
        # Pauses are at least 0.025 s, 0.05 s and so on, one a write.
        assert 3 <= run.writes <= 10


async def test_it_follows_the_ca_and_the_administrator(home: Home, virtual: Cluster) -> None:
    """A file that changes is noticed by itself, one write each; a half change is not written."""
    Authority.create(home.files, "other")
    user = Authority.load(virtual.plane.pki.client_ca).client(home.files, "new", "new", ["g"])
    async with home.writer() as run:
        before = await eventually(home.data)
        _put(home.files / "server-ca.crt", (home.files / "other.crt").read_bytes())

        async def rotated() -> dict[str, bytes]:
            data = await home.data()
            assert data["certificate-authority"] == (home.files / "other.crt").read_bytes()
            return data

        data = await eventually(rotated)
        access = read_inline(data["config"], "config")
        assert access.tls is not None
        assert access.tls.authority == data["certificate-authority"]
        config = orjson.loads((home.files / "admin.conf").read_bytes())
        credentials = config["users"][0]["user"]
        credentials["client-certificate-data"] = _encoded(user.certificate)
        _put(home.files / "admin.conf", orjson.dumps(config))
        await eventually(lambda: _at_least(len(run.troubles), 1))
        assert "its own unencrypted private key" in run.troubles[0]
        assert (await home.data())["client-certificate"] == before["client-certificate"]
        credentials["client-key-data"] = _encoded(user.key)
        _put(home.files / "admin.conf", orjson.dumps(config))

        async def renewed() -> None:
            assert (await home.data())["client-key"] == user.key.read_bytes()

        await eventually(renewed)
        await asyncio.sleep(QUIET)
        assert run.writes == 3
        assert len(run.troubles) == 1
        text = "".join(map(str, run.logs))
        assert "PRIVATE KEY" not in text
        assert credentials["client-key-data"] not in text


def _put(path: Path, content: bytes) -> None:
    """Replace a file at once: no reader sees half of it."""
    scratch = path.with_name("scratch")
    scratch.write_bytes(content)
    scratch.replace(path)


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


async def test_files_may_come_later(home: Home) -> None:
    """A virtual cluster that has not made its files yet is waited for, with one warning."""
    (home.files / "admin.conf").rename(home.files / "later")
    async with home.writer() as run:
        await eventually(lambda: _at_least(len(run.troubles), 1))
        await asyncio.sleep(QUIET)
        assert len(run.troubles) == 1
        assert await home.host.find("secrets", NAME, home.namespace) is None
        (home.files / "later").rename(home.files / "admin.conf")
        await eventually(home.data)


async def test_a_namesake_is_left_alone(home: Home) -> None:
    """Somebody else's secret stays as it is, the log says so once; ours follows when it is gone."""
    foreign = await home.host.create(plain_secret(NAME, home.namespace, {"password": "theirs"}))
    async with home.writer() as run:
        await eventually(lambda: _at_least(len(run.troubles), 1))
        run.writer.wake()
        await asyncio.sleep(QUIET)
        assert await home.host.get("secrets", NAME, home.namespace) == foreign
        assert len(run.troubles) == 1
        assert f"kubectl -n {home.namespace} delete secret {NAME}" in run.troubles[0]
        await home.host.delete("secrets", NAME, home.namespace)
        await eventually(home.data)


@pytest.mark.parametrize("owned", [True, False], ids=["owned", "without owner"])
async def test_vclusters_own_secret_is_taken_over(home: Home, *, owned: bool) -> None:
    """The secret that vcluster wrote keeps its UID and gets our mark; by one write."""
    admin = from_access(
        read_inline((home.files / "admin.conf").read_bytes(), "admin.conf"), "admin.conf"
    )
    body = secret(
        Key(home.namespace, NAME), admin, of=Key("", ""), owner=home.owner if owned else None
    )
    del body["metadata"]["annotations"]
    uid = (await home.host.create(body))["metadata"]["uid"]
    async with home.writer(home.given(out_kube_config_server=""), owned=owned) as run:

        async def taken() -> None:
            found = await home.host.get("secrets", NAME, home.namespace)
            assert found["metadata"]["annotations"] == {KUBECONFIG_OF: f"{home.namespace}/{TENANT}"}
            assert found["metadata"]["uid"] == uid
            assert ("ownerReferences" in found["metadata"]) == owned
            assert b"https://localhost:8443" in (await home.data())["config"]

        await eventually(taken)
        await asyncio.sleep(QUIET)
        assert run.writes == 1


async def test_nothing_is_written_while_the_gate_is_closed(home: Home) -> None:
    """Whoever may not write waits, also in the middle; afterwards all is made up for."""
    async with home.writer() as run:
        await eventually(home.data)
        run.gate.close("owner", "gone")
        await home.host.delete("secrets", NAME, home.namespace)
        run.writer.wake()
        await asyncio.sleep(QUIET)
        assert await home.host.find("secrets", NAME, home.namespace) is None
        run.gate.open("owner")
        await eventually(home.data)
        await eventually(lambda: _at_least(run.writes, 2))  # counted once answered
        assert run.writes == 2


async def test_a_new_owner_is_written(home: Home) -> None:
    """When the owner Service was made again, the secret belongs to the new one."""
    async with home.writer() as run:
        await eventually(home.data)
        made = await home.host.create(service("two", home.namespace))
        home.owner = {**home.owner, "name": "two", "uid": made["metadata"]["uid"]}
        run.writer.wake()

        async def owned() -> None:
            found = await home.host.get("secrets", NAME, home.namespace)
            assert home.owner["uid"] in [o["uid"] for o in found["metadata"]["ownerReferences"]]

        await eventually(owned)


async def test_the_second_copy_is_on_its_own(home: Home) -> None:
    """It may be elsewhere, without owner; without rights there, the first is written all the same.

    The rights that are given later are enough: get, create and patch, nothing to watch.
    """
    away = f"{home.namespace}-away"
    await home.host.create(named("Namespace", away))
    token = await _account(home, home.namespace, ["get", "list", "watch", "create", "patch"])
    settings = home.given(out_kube_config_secret="access", out_kube_config_secret_namespace=away)
    async with home.writer(settings, client=_as(home.host, token)) as run:

        def refusals() -> list[str]:
            # Not the first secret's: until the host knows of its rights, it may be refused too.
            return [each for each in run.troubles if each.startswith(f"{away}/access: ")]

        await eventually(home.data)
        await eventually(lambda: _at_least(len(refusals()), 1))
        await _allow(home, away, ["get", "create", "patch"])
        copied = await eventually(lambda: home.data("access", away), timeout=30)
        assert copied == await home.data()
        found = await home.host.get("secrets", "access", away)
        assert "ownerReferences" not in found["metadata"]
        # In between the host may know of the binding and not yet of its role, and says so.
        [refusal] = [each for each in refusals() if "RBAC: role" not in each]
        assert "403" in refusal
    await home.host.delete("namespaces", away)


async def _account(home: Home, namespace: str, verbs: list[str]) -> str:
    """Make a service account on the host that may do this with secrets; return a token."""
    await home.host.create(named("ServiceAccount", "syncer", home.namespace))
    await _allow(home, namespace, verbs)
    path = f"/api/v1/namespaces/{home.namespace}/serviceaccounts/syncer/token"
    answer = await home.host.request("POST", path, body={"spec": {}})
    token: str = answer["status"]["token"]
    return token


async def _allow(home: Home, namespace: str, verbs: list[str]) -> None:
    rbac = {"apiVersion": "rbac.authorization.k8s.io/v1"}
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": verbs}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "syncer"}
    subject = {"kind": "ServiceAccount", "name": "syncer", "namespace": home.namespace}
    await home.host.create(named("Role", "syncer", namespace, rules=[rule], **rbac))
    await home.host.create(
        named("RoleBinding", "syncer", namespace, roleRef=role, subjects=[subject], **rbac)
    )


def _as(host: Cluster, token: str) -> Client:
    authority = host.plane.pki.server_ca.certificate.read_bytes()
    access = Access(host.plane.server, tls=Tls(authority), authorization=f"Bearer {token}")
    return Client(ConnectionConfig(lambda _files: access))


async def test_a_host_that_is_not_there_ends_nothing(home: Home) -> None:
    """An unreachable API server is one warning; the writer goes on."""
    access = Access("http://127.0.0.1:1")
    async with home.writer(client=Client(ConnectionConfig(lambda _files: access))) as run:
        await eventually(lambda: _at_least(len(run.troubles), 1))
        await asyncio.sleep(QUIET)
        assert len(run.troubles) == 1
        assert f"/api/v1/namespaces/{home.namespace}/secrets/{NAME}" in run.troubles[0]


# -- the command ---------------------------------------------------------------------------------


@dataclass
class Asked:
    """`syncer kubeconfig`, run in this process.

    Attributes:
        flags: what every call of it is given.
        said: what it told about what it did.
    """

    flags: dict[str, object]
    said: list[str] = field(default_factory=list)

    async def __call__(self, **flags: object) -> str:
        """Return what it prints; raises CommandError."""
        self.said.clear()
        options = load_options(KubeconfigOptions, {**self.flags, **flags}, {})
        return await make(options, self.said.append)


@pytest.fixture
async def asked(home: Home) -> Asked:
    """The command, for a virtual cluster whose secret is on the host."""
    async with home.writer():
        await eventually(home.data)
    return Asked(
        {
            "name": TENANT,
            "namespace": home.namespace,
            "host_kube_config": str(home.host.plane.kubeconfig),
        }
    )


@pytest.fixture
def account() -> str:
    """A name that no service account and binding has yet."""
    return f"account-{uuid.uuid4().hex[:8]}"


def test_the_command_prints_what_the_secret_holds(home: Home, asked: Asked) -> None:
    """The installed command gives the secret's kubeconfig, on standard output alone."""
    command = [sys.executable, "-m", "syncer", "kubeconfig", f"--namespace={home.namespace}"]
    done = subprocess.run(
        [*command, f"--name={TENANT}"],
        env={"KUBECONFIG": str(home.host.plane.kubeconfig), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "client-key-data" in done.stdout
    assert f"server: {home.settings.out_kube_config_server}" in done.stdout


async def test_it_is_the_administrators(home: Home, asked: Asked) -> None:
    """Without more, what is printed is the secret's; flags change server and name."""
    assert (await asked()).encode() == (await home.data())["config"]
    assert asked.said == []
    printed = await asked(server="https://a.example.com", context_name="b")
    access = read_inline(printed.encode(), "printed")
    assert (access.server, access.context) == ("https://a.example.com", "b")


async def test_a_service_account_is_made_and_gets_a_bounded_token(
    virtual: Cluster, asked: Asked, account: str
) -> None:
    """Account and binding are made once; the kubeconfig is that account's, for the time asked."""
    flags = {"service_account": account, "cluster_role": "view", "token_expiration": "700"}
    binding = f"vcluster-sa-{account}-kube-system"
    printed = await asked(**flags)
    assert [line.split(",")[0] for line in asked.said] == [
        f"service account kube-system/{account} made",
        f"service account kube-system/{account} bound to ClusterRole view: {binding}",
        f"token of service account kube-system/{account}",
    ]
    assert "client-" not in printed
    token = read_inline(printed.encode(), "printed").authorization.removeprefix("Bearer ")
    assert token not in "".join(asked.said)
    claims = _claims(token)
    assert claims["exp"] - claims["iat"] == 700
    async with user_of(printed) as client:
        assert (await who(client))["username"] == f"system:serviceaccount:kube-system:{account}"
        await _may_read(client)
        with pytest.raises(Exception, match="403"):
            await client.request("GET", SECRETS.path())
    before = await _rights(virtual, account)
    await asked(**flags)
    assert len(asked.said) == 1
    await asked(service_account=account)
    assert await _rights(virtual, account) == before


async def _may_read(client: Client) -> None:
    """Wait until the API server has noticed that a client may read pods."""

    async def reads() -> None:
        try:
            await client.request("GET", "/api/v1/pods")
        except ApiError as refused:
            raise AssertionError("not yet") from refused

    await eventually(reads)


async def _rights(virtual: Cluster, account: str) -> tuple[Object, Object]:
    name = f"vcluster-sa-{account}-kube-system"
    return (
        await virtual.get("serviceaccounts", account, "kube-system"),
        await virtual.get("rbac.authorization.k8s.io/v1/clusterrolebindings", name),
    )


def _claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    claims: dict[str, Any] = orjson.loads(
        base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    )
    return claims


async def test_two_at_once_make_one(virtual: Cluster, asked: Asked, account: str) -> None:
    """Who comes second finds what the first made."""
    flags: dict[str, object] = {"service_account": account, "cluster_role": "view"}
    printed = await asyncio.gather(*(asked(**flags) for _ in range(4)))
    assert len(set(printed)) == 4
    await _rights(virtual, account)


async def test_a_binding_to_something_else_changes_nothing(
    virtual: Cluster, asked: Asked, account: str
) -> None:
    """Another role or account under the binding's name is an error, before anything is made."""
    rbac = "rbac.authorization.k8s.io"
    name = f"vcluster-sa-{account}-kube-system"
    role = {"apiGroup": rbac, "kind": "ClusterRole", "name": "view"}
    subject = {"kind": "ServiceAccount", "name": "other", "namespace": "kube-system"}
    binding = named(
        "ClusterRoleBinding", name, apiVersion=f"{rbac}/v1", roleRef=role, subjects=[subject]
    )
    made = await virtual.create(binding)
    with pytest.raises(CommandError, match=f"{name} is there and binds ServiceAccount"):
        await asked(service_account=account, cluster_role="view")
    assert asked.said == []
    assert await virtual.find("serviceaccounts", account, "kube-system") is None
    assert await virtual.get(f"{rbac}/v1/clusterrolebindings", name) == made


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        pytest.param({"cluster_role": "nothing"}, 'no such ClusterRole"?$', id="role"),
        pytest.param({}, "with --cluster-role=NAME it is made", id="no account"),
        pytest.param(
            {"service_account": "nowhere/x", "cluster_role": "view"},
            'the virtual cluster has no namespace "nowhere"$',
            id="namespace",
        ),
        pytest.param({"name": "other"}, "is not in the host cluster: --namespace", id="secret"),
        pytest.param(
            {"server": "https://127.0.0.1:1"}, "forward the port of the virtual", id="not reached"
        ),
    ],
)
async def test_what_is_not_there_is_named(
    virtual: Cluster, asked: Asked, account: str, flags: dict[str, object], says: str
) -> None:
    """Each thing that is missing is an error of its own, and nothing is made for it."""
    with pytest.raises(CommandError, match=says):
        await asked(**{"service_account": account, **flags})
    assert asked.said == []
    await gone(lambda: virtual.find("serviceaccounts", account, "kube-system"))


async def test_an_unchecked_server_is_asked_for(
    virtual: Cluster, asked: Asked, account: str
) -> None:
    """A server with another name is refused unless --insecure says not to look."""
    flags = {"server": virtual.plane.server.replace("127.0.0.1", "0.0.0.0")}  # noqa: S104
    flags |= {"service_account": account, "cluster_role": "view"}
    with pytest.raises(CommandError, match="certificate"):
        await asked(**flags)
    printed = await asked(**flags, insecure="true")
    assert "insecure-skip-tls-verify: true" in printed
    assert "certificate-authority" not in printed
    async with user_of(printed) as client:
        await _may_read(client)


async def test_a_file_begins_as_well(virtual: Cluster, asked: Asked, account: str) -> None:
    """With --kube-config the host is not asked."""
    alone = Asked({"kube_config": str(virtual.plane.kubeconfig)})
    async with user_of(await alone()) as client:
        assert "system:masters" in (await who(client))["groups"]
    async with user_of(await alone(service_account=account, cluster_role="view")) as client:
        assert (await who(client))["username"].endswith(account)
