"""``syncer kubeconfig``: prints a kubeconfig of a virtual cluster.

It begins with the administrator's, from the secret that the syncer keeps on the host or from a
file. For a service account, account and binding are made where they are missing and a bounded token
takes the administrator's place, so that what is handed out ends by itself.

Invariants:
* all that could refuse is looked at before the first write: an error leaves nothing changed, but
  for what another hand changes meanwhile;
* an account or binding that is there is never changed;
* no credential is in a message; a kubeconfig from the host's secret names no file and no command
  that would be read or run here.

Source: vcluster v0.16.4 ``pkg/util/serviceaccount`` (names; its tokens last ten years and its
bindings are made again with another role).
"""

from __future__ import annotations

import asyncio
import os
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from syncer.commands import CommandError
from syncer.commands.options import KubeconfigOptions
from syncer.kube.access import Access, Files, Tls
from syncer.kube.client import Client
from syncer.kube.config import ConnectionConfig, in_cluster, load_in_cluster, load_kubeconfig
from syncer.kube.errors import ApiError, ConfigError, TransportError
from syncer.kube.kubeconfig import read_inline, read_kubeconfig
from syncer.kubeconfig.document import DEFAULT_NAME, Kubeconfig, from_access
from syncer.kubeconfig.secret import CONFIG, SECRETS, secret_name
from syncer.naming import safe_concat
from syncer.objects import Key, Object, Resource
from syncer.settings import pod_namespace

NAMESPACES: Final = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
ACCOUNTS: Final = Resource("", "v1", "serviceaccounts", "ServiceAccount")
_RBAC: Final = "rbac.authorization.k8s.io"
ROLES: Final = Resource(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False)
BINDINGS: Final = Resource(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", False)

TIMEOUT: Final = 15.0
"""Seconds for one request; somebody is waiting."""

_NOT_REACHED: Final = (
    "; --server=URL names another way; for localhost, forward the port of the virtual cluster's "
    "Service first"
)

Say = Callable[[str], None]
"""Tells the operator one line of what was done."""


def run(options: KubeconfigOptions) -> int:
    """Print a kubeconfig to standard output.

    Args:
        options: what was asked for.

    Returns:
        0.

    Raises:
        CommandError: it can't be had.
    """
    try:
        text = asyncio.run(make(options, _say))
    except ConfigError as error:
        raise CommandError(str(error)) from error
    sys.stdout.write(text)
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


async def make(options: KubeconfigOptions, say: Say) -> str:
    """Give the kubeconfig that was asked for.

    Args:
        options: what was asked for.
        say: told what was done in the virtual cluster.

    Raises:
        CommandError, ConfigError: it can't be had.
    """
    admin, source = await _admin(options)
    if admin.tls is None:
        raise ConfigError(f"{source}: server: {admin.server} must be a URL of https")
    tls, admin = _towards(admin, admin.tls, options)
    name = options.context_name or admin.context or DEFAULT_NAME
    if options.service_account is None:
        return replace(from_access(admin, source), name=name).text()
    way = Kubeconfig(
        server=admin.server,
        name=name,
        authority=tls.authority,
        server_name=admin.server_name,
        insecure=not tls.verify,
    )
    grant = Grant(options.service_account, options.cluster_role)
    async with _client(ConnectionConfig(lambda _files: admin), "virtual", _NOT_REACHED) as virtual:
        await _prepare(virtual, grant, say)
        token = await _request_token(virtual, grant.account, options.token_expiration, say)
    return replace(way, token=token).text()


# -- the administrator's kubeconfig --------------------------------------------------------------


async def _admin(options: KubeconfigOptions) -> tuple[Access, str]:
    """Give the kubeconfig to begin with, and where it is from."""
    if options.kube_config:
        return read_kubeconfig(Path(options.kube_config), None, Files()), options.kube_config
    namespace = options.namespace or pod_namespace() or "default"
    key = Key(namespace, secret_name(options.name))
    source = f"secret {key}"
    async with _client(_host(options), "host") as host:
        found = await _find(host, SECRETS, key)
    if found is None:
        raise CommandError(
            f"{source} is not in the host cluster: --namespace and --name say which one is "
            "meant; the syncer of that virtual cluster writes it"
        )
    content = (found.get("data") or {}).get(CONFIG)
    if not content:
        raise CommandError(f"{source} has no key {CONFIG!r}: it holds no kubeconfig")
    return read_inline(b64decode(content), source), source


def _host(options: KubeconfigOptions) -> ConnectionConfig:
    """Find the host cluster: flag or KUBECONFIG, else the pod's own account, else kubectl's file.

    Raises:
        ConfigError: there is none, or its kubeconfig can't be used.
    """
    if given := options.host_kube_config:
        if os.pathsep in given and not Path(given).exists():
            raise ConfigError(f"{given}: several kubeconfigs; name the one with --host-kube-config")
        return load_kubeconfig(Path(given))
    if in_cluster():
        return load_in_cluster()
    usual = Path("~/.kube/config").expanduser()
    if usual.is_file():
        return load_kubeconfig(usual)
    raise ConfigError(
        "no host cluster: this is no pod, neither --host-kube-config nor KUBECONFIG names a "
        "kubeconfig, and there is no ~/.kube/config (or give --kube-config)"
    )


def _towards(admin: Access, tls: Tls, options: KubeconfigOptions) -> tuple[Tls, Access]:
    """Give the same user's way to the server that was asked for."""
    if options.server:
        admin = replace(admin, server=options.server, server_name="")
    if options.insecure:
        tls = replace(tls, verify=False, authority=b"")
    return tls, replace(admin, tls=tls)


# -- a service account's token -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """A service account and the ClusterRole that it is to have.

    Attributes:
        account: its key.
        role: name of the ClusterRole; ``""``: it has what it has.
    """

    account: Key
    role: str

    @property
    def binding_name(self) -> str:
        """Name of the ClusterRoleBinding, as vcluster's."""
        return safe_concat("vcluster", "sa", self.account.name, self.account.namespace)

    @property
    def subject(self) -> Object:
        """The account as a binding names it."""
        namespace, name = self.account
        return {"kind": "ServiceAccount", "name": name, "namespace": namespace}

    def binding(self) -> Object:
        """Give the ClusterRoleBinding."""
        return {
            "apiVersion": BINDINGS.api_version,
            "kind": BINDINGS.kind,
            "metadata": {"name": self.binding_name},
            "roleRef": {"apiGroup": _RBAC, "kind": ROLES.kind, "name": self.role},
            "subjects": [self.subject],
        }

    def refuse(self, binding: Object) -> str | None:
        """Say why a binding of that name that is there is not the wanted one; ``None`` if it is."""
        role = binding.get("roleRef") or {}
        subjects = [
            {key: subject.get(key) for key in self.subject}
            for subject in binding.get("subjects") or ()
        ]
        if (role.get("kind"), role.get("name")) == (ROLES.kind, self.role) and (
            self.subject in subjects
        ):
            return None
        whom = ", ".join(
            f"{each['kind']} {each['namespace'] or ''}/{each['name']}" for each in subjects
        )
        return (
            f"ClusterRoleBinding {self.binding_name} is there and binds {whom or 'nobody'} to "
            f"{role.get('kind')} {role.get('name')}, not ServiceAccount {self.account} to "
            f"ClusterRole {self.role}; nothing was changed. Delete it first, or name another "
            "--service-account or --cluster-role"
        )


async def _prepare(virtual: Client, grant: Grant, say: Say) -> None:
    """Look at all that there is, then make what is missing.

    Raises:
        CommandError: something is missing that isn't made, or binds something else.
    """
    account = grant.account
    if await _find(virtual, NAMESPACES, Key("", account.namespace)) is None:
        raise CommandError(
            f'--service-account="{account}": the virtual cluster has no namespace '
            f'"{account.namespace}"'
        )
    missing = await _find(virtual, ACCOUNTS, account) is None
    if not grant.role:
        if missing:
            raise CommandError(
                f'--service-account="{account}": there is no such service account in the virtual '
                "cluster; with --cluster-role=NAME it is made and bound to that role"
            )
        return
    if await _find(virtual, ROLES, Key("", grant.role)) is None:
        raise CommandError(
            f'--cluster-role="{grant.role}": the virtual cluster has no such ClusterRole'
        )
    bound = await _is_bound(virtual, grant)
    if missing and await _create(virtual, ACCOUNTS, account.namespace, _account(account)):
        say(f"service account {account} made")
    if bound:
        return
    if await _create(virtual, BINDINGS, "", grant.binding()):
        say(f"service account {account} bound to ClusterRole {grant.role}: {grant.binding_name}")
    elif not await _is_bound(virtual, grant):
        raise CommandError(f"ClusterRoleBinding {grant.binding_name} comes and goes; try again")


async def _is_bound(virtual: Client, grant: Grant) -> bool:
    """Say whether the binding is there.

    Raises:
        CommandError: another one of that name is.
    """
    binding = await _find(virtual, BINDINGS, Key("", grant.binding_name))
    if binding is not None and (refusal := grant.refuse(binding)):
        raise CommandError(refusal)
    return binding is not None


async def _request_token(virtual: Client, account: Key, seconds: int, say: Say) -> str:
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": seconds},  # without audiences: for the API server
    }
    path = ACCOUNTS.path(*account, "token")
    answer = _decoded(await virtual.request("POST", path, body=request, timeout=TIMEOUT))
    status = answer["status"]
    say(f"token of service account {account}, good until {status['expirationTimestamp']}")
    token: str = status["token"]
    return token


def _account(key: Key) -> Object:
    return {
        "apiVersion": ACCOUNTS.api_version,
        "kind": ACCOUNTS.kind,
        "metadata": {"name": key.name, "namespace": key.namespace},
    }


# -- requests ------------------------------------------------------------------------------------


class _NotKubernetesError(Exception):
    """What answered is no API server: a login page, say."""


@asynccontextmanager
async def _client(config: ConnectionConfig, which: str, hint: str = "") -> AsyncIterator[Client]:
    """Connect to a cluster, and say of which one an error was.

    Args:
        config: of the cluster.
        which: host or virtual.
        hint: what to say when it isn't reached.
    """
    client = Client(config)
    try:
        yield client
    except ApiError as error:
        raise CommandError(f"{which} cluster at {config.server}: {error}") from error
    except TransportError as error:
        raise CommandError(f"{which} cluster at {config.server}: {error}{hint}") from error
    except _NotKubernetesError as error:
        raise CommandError(
            f"{which} cluster at {config.server}: what answers there is no Kubernetes API server"
        ) from error
    finally:
        await client.close()


async def _find(client: Client, resource: Resource, key: Key) -> Object | None:
    try:
        answer = await client.request("GET", resource.path(*key), timeout=TIMEOUT)
    except ApiError as error:
        if error.not_found:
            return None
        raise
    return _decoded(answer)


def _decoded(answer: bytes) -> Object:
    """Decode an object; raises :class:`_NotKubernetesError` where it isn't one."""
    try:
        found = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise _NotKubernetesError from error
    if not isinstance(found, dict) or "kind" not in found:
        raise _NotKubernetesError
    return found


async def _create(client: Client, resource: Resource, namespace: str, body: Object) -> bool:
    """Create an object; ``False``: somebody else just did."""
    try:
        await client.request("POST", resource.path(namespace), body=body, timeout=TIMEOUT)
    except ApiError as error:
        if error.already_exists:
            return False
        raise
    return True
