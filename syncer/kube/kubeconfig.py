"""Reads a kubeconfig: the typed file, and the :class:`~syncer.kube.access.Access` made of it.

Everything that can be wrong is said in one line with file, field and what would be right. What
would change who we are or whom we talk to is refused rather than ignored; what is only kubectl's
business (namespaces, preferences, compression) is ignored.

Source: https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/; client-go 0.36 ``clientcmd``
(relative paths, precedence of inline data, null for absent).
"""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from syncer.kube.access import Access, Files, Tls, ascii_text, bearer, server_url
from syncer.kube.errors import ConfigError, one_line
from syncer.kube.exec_plugin import API_VERSIONS, ExecPlugin
from syncer.objects import Object

_EXEC_EXTENSION: Final = "client.authentication.k8s.io/exec"
_SECRET_FIELDS: Final = frozenset({"token", "password", "client-key-data", "env", "args"})


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Part(BaseModel):
    """A map of the file. Types are strict as in Go; unknown keys are kubectl's business."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, alias_generator=_kebab)


class _Extension(_Part):
    name: str = ""
    extension: Any = None


class _Cluster(_Part):
    server: str = ""
    tls_server_name: str = ""
    insecure_skip_tls_verify: bool = False
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    proxy_url: str = ""
    extensions: list[_Extension] = []


class _Variable(_Part):
    name: str
    value: str = ""


class _Exec(_Part):
    command: str
    api_version: str = Field(alias="apiVersion")
    args: list[str] = []
    env: list[_Variable] = []
    install_hint: str = Field("", alias="installHint")
    provide_cluster_info: bool = Field(default=False, alias="provideClusterInfo")
    interactive_mode: str = Field("", alias="interactiveMode")


class _User(_Part):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = Field("", alias="tokenFile")
    username: str = ""
    password: str = ""
    exec: _Exec | None = None
    auth_provider: dict[str, Any] | None = None
    impersonate: str = Field("", alias="as")
    impersonate_uid: str = Field("", alias="as-uid")
    impersonate_groups: list[str] = Field([], alias="as-groups")
    impersonate_extra: dict[str, Any] = Field({}, alias="as-user-extra")


class _Context(_Part):
    cluster: str = ""
    user: str = ""


class _NamedCluster(_Part):
    name: str
    cluster: _Cluster = _Cluster()


class _NamedUser(_Part):
    name: str
    user: _User = _User()


class _NamedContext(_Part):
    name: str
    context: _Context = _Context()


class _File(_Part):
    current_context: str = ""
    clusters: list[_NamedCluster] = []
    users: list[_NamedUser] = []
    contexts: list[_NamedContext] = []


def read_kubeconfig(path: Path, context: str | None, files: Files) -> Access:
    """Read a kubeconfig and the files that it names.

    Args:
        path: the kubeconfig; relative paths in it are relative to its directory.
        context: name of the context; ``None``: ``current-context``.
        files: reads files, and remembers them.

    Raises:
        ConfigError: it can't be used.
    """
    reader = _Reader(path, files)
    return reader.access(_parse(path, files.read(path, "kubeconfig")), context)


def read_inline(content: bytes, source: str) -> Access:
    """Read a kubeconfig that is no file of ours: nothing it names is read, no command of it is run.

    Args:
        content: the kubeconfig.
        source: where it is from, for messages.

    Raises:
        ConfigError: it can't be used, or names a file or a command.
    """
    path = Path(source)
    return _Reader(path, _NoFiles()).access(_parse(path, content), None, plugins=False)


class _NoFiles(Files):
    """Refuses to read."""

    def read(self, path: Path, source: str) -> bytes:
        raise ConfigError(f"{source} must be given inline (-data), not as the file {path.name}")


@dataclass(frozen=True, slots=True)
class _Reader:
    """Makes one :class:`Access` of a parsed kubeconfig.

    Attributes:
        path: the kubeconfig.
        files: reads what it names.
    """

    path: Path
    files: Files

    def access(self, parsed: _File, context: str | None, *, plugins: bool = True) -> Access:
        cluster_name, user_name = self._context(parsed, context)
        cluster = next((c.cluster for c in parsed.clusters if c.name == cluster_name), None)
        if cluster is None:
            raise self._missing("cluster", cluster_name, [c.name for c in parsed.clusters])
        user = next((u.user for u in parsed.users if u.name == user_name), None)
        if user is None and user_name:
            raise self._missing("user", user_name, [u.name for u in parsed.users])
        where = f"{self.path}: cluster {cluster_name!r}"
        whose = f"{self.path}: user {user_name!r}"
        user = user or _User()
        _refuse(cluster, where, user, whose)
        if user.exec and not plugins:
            raise ConfigError(f"{whose}: exec must not be in a kubeconfig from elsewhere")
        server = server_url(cluster.server, f"{where}: server")
        tls = self._tls(cluster, where, user, whose)
        return Access(
            server=server,
            server_name=cluster.tls_server_name,
            tls=tls if server.startswith("https:") else None,
            authorization=self._authorization(user, whose),
            plugin=self._plugin(user.exec, whose, cluster, tls) if user.exec else None,
            context=context or parsed.current_context,
        )

    def _context(self, parsed: _File, context: str | None) -> tuple[str, str]:
        name = context or parsed.current_context
        if not name:
            raise ConfigError(f"{self.path}: current-context is empty; name one of its contexts")
        for each in parsed.contexts:
            if each.name == name:
                return each.context.cluster, each.context.user
        raise self._missing("context", name, [each.name for each in parsed.contexts])

    def _missing(self, what: str, name: str, there: list[str]) -> ConfigError:
        return ConfigError(
            f"{self.path}: there is no {what} {name!r}; there are: {', '.join(there) or 'none'}"
        )

    def _tls(self, cluster: _Cluster, where: str, user: _User, whose: str) -> Tls:
        authority, authority_from = self._pem(
            cluster.certificate_authority_data,
            cluster.certificate_authority,
            f"{where}: certificate-authority",
        )
        certificate, certificate_from = self._pem(
            user.client_certificate_data, user.client_certificate, f"{whose}: client-certificate"
        )
        key, _ = self._pem(user.client_key_data, user.client_key, f"{whose}: client-key")
        if bool(certificate) != bool(key):
            raise ConfigError(f"{whose}: client-certificate and client-key must be given together")
        return Tls(
            authority,
            not cluster.insecure_skip_tls_verify,
            certificate,
            key,
            authority_from,
            certificate_from,
        )

    def _pem(self, inline: str, file: str, source: str) -> tuple[bytes, str]:
        """Give the bytes of a field, and its exact name. As in kubectl, inline data wins."""
        if inline:
            try:
                return base64.b64decode("".join(inline.split()), validate=True), f"{source}-data"
            except binascii.Error as error:
                raise ConfigError(f"{source}-data must be base64") from error
        return (self._file(file, source) if file else b""), source

    def _file(self, name: str, source: str) -> bytes:
        return self.files.read(self.path.parent / name, source)

    def _authorization(self, user: _User, whose: str) -> str:
        if user.token_file:
            source = f"{whose}: tokenFile"
            return bearer(ascii_text(self._file(user.token_file, source), source), source)
        if user.token:
            return bearer(user.token, f"{whose}: token")
        if user.username:
            pair = f"{user.username}:{user.password}".encode()
            return f"Basic {base64.b64encode(pair).decode()}"
        return ""

    def _plugin(self, given: _Exec, whose: str, cluster: _Cluster, tls: Tls) -> ExecPlugin:
        source = f"{whose}: exec"
        if given.api_version not in API_VERSIONS:
            raise ConfigError(
                f"{source}.apiVersion: {given.api_version!r} must be {' or '.join(API_VERSIONS)}"
            )
        if given.interactive_mode not in ("", "Never", "IfAvailable"):
            raise ConfigError(
                f"{source}.interactiveMode: {given.interactive_mode!r} must be 'Never' or "
                "'IfAvailable': there is no terminal here"
            )
        command = given.command
        if os.sep in command:
            command = str(self.path.parent / command)
        plugin = ExecPlugin(
            source=source,
            command=command,
            args=tuple(given.args),
            env=tuple((each.name, each.value) for each in given.env),
            api_version=given.api_version,
            hint=given.install_hint,
            cluster=_cluster_info(cluster, tls) if given.provide_cluster_info else None,
        )
        plugin.check()
        return plugin


def _parse(path: Path, content: bytes) -> _File:
    try:
        # libyaml's loader where PyYAML was built with it: tens of times faster.
        tree = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f"line {mark.line + 1}: " if mark else ""
        # Not the whole error: it quotes the line, which may be a credential.
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ConfigError(f"{path}: {at}must be YAML: {problem}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must be a map with clusters, users and contexts")
    try:
        return _File.model_validate(_without_nulls(tree))
    except ValidationError as error:
        raise ConfigError(f"{path}: {_complaint(error)}") from error


def _without_nulls(tree: Any) -> Any:
    """Drop keys whose value is null: Go takes them for absent, and writes them so."""
    if isinstance(tree, dict):
        return {key: _without_nulls(value) for key, value in tree.items() if value is not None}
    if isinstance(tree, list):
        return [_without_nulls(value) for value in tree]
    return tree


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    way = first["loc"]
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in way)
    complaint = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"] == "missing" or not _SECRET_FIELDS.isdisjoint(map(str, way)):
        return f"{place.lstrip('.')}: {complaint}"
    return f"{place.lstrip('.')}: {one_line(repr(first['input']), 60)}: {complaint}"


def _refuse(cluster: _Cluster, where: str, user: _User, whose: str) -> None:
    """Say no to what would otherwise be ignored and change who we are or whom we talk to.

    Raises:
        ConfigError: the first thing found.
    """
    if cluster.proxy_url:
        raise ConfigError(f"{where}: proxy-url is not supported; the server is dialled directly")
    if cluster.insecure_skip_tls_verify and (
        cluster.certificate_authority or cluster.certificate_authority_data
    ):
        raise ConfigError(
            f"{where}: insecure-skip-tls-verify must be false when there is a certificate-authority"
        )
    if user.auth_provider is not None:
        raise ConfigError(
            f"{whose}: auth-provider is not supported, as in Kubernetes since 1.26; use exec"
        )
    if (
        user.impersonate
        or user.impersonate_uid
        or user.impersonate_groups
        or user.impersonate_extra
    ):
        raise ConfigError(f"{whose}: impersonation (as) is not supported; use that user's own")
    ways = {
        "token": user.token or user.token_file,
        "username": user.username,
        "exec": user.exec,
    }
    if len(given := [way for way, value in ways.items() if value]) > 1:
        raise ConfigError(f"{whose}: only one of {' and '.join(given)} may be given")


def _cluster_info(cluster: _Cluster, tls: Tls) -> Object:
    """What a plugin is told with ``provideClusterInfo``."""
    config = [each.extension for each in cluster.extensions if each.name == _EXEC_EXTENSION]
    info = {
        "server": cluster.server,
        "tls-server-name": cluster.tls_server_name,
        "insecure-skip-tls-verify": cluster.insecure_skip_tls_verify,
        "certificate-authority-data": base64.b64encode(tls.authority).decode(),
        "config": config[0] if config else None,
    }
    return {key: value for key, value in info.items() if value}
