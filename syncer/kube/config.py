"""How to reach an API server, kept fresh: from a kubeconfig, or from what Kubernetes gives a pod.

Everything that can be wrong is found when a configuration is loaded. Later, files that changed are
read again; when they can't be used (half written, a key that is not yet the certificate's), what
was read before stays in force and a warning is logged.

Invariants:
* URL, headers and SSL context are of one reading and change together;
* an :class:`ssl.SSLContext` lives as long as what it was made of stays the same, so that rotated
  tokens don't cost the pooled connections.

Never talks to an API server.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import Final

import structlog

from syncer.kube.access import Access, Files, Tls, ascii_text, bearer, server_url
from syncer.kube.errors import ConfigError
from syncer.kube.exec_plugin import Issued
from syncer.kube.kubeconfig import read_kubeconfig

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its service account's token and the API server's CA."""

CHECK_SECONDS: Final = 10.0
"""Files are looked at for changes at most so often; the kubelet's tokens change in time for it."""

LEEWAY_SECONDS: Final = 60.0
"""A credential with an expiry is renewed so long before it, or at 80 % of a short life."""

RERUN_SECONDS: Final = 5.0
"""An exec plugin is not run again sooner, even if what it gives has expired by our clock."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request is sent with; equal when nothing changed.

    Attributes:
        headers: the ``Authorization`` header, or none.
        ssl_context: for new connections, client certificate included; ``None`` for plain HTTP.
    """

    headers: Mapping[str, str] = field(repr=False)
    ssl_context: SSLContext | None


class ConnectionConfig:
    """Keeps URL, TLS and credentials of one API server fresh."""

    def __init__(
        self,
        read: Callable[[Files], Access],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Read for the first time.

        Args:
            read: reads all files anew.
            clock: monotonic seconds.
            now: seconds since the epoch, which expiry times are compared with.

        Raises:
            ConfigError: what was read can't be used.
        """
        self._read = read
        self._clock = clock
        self._now = now
        # One renewal at a time: requests that find a credential stale wait for the same one.
        self._renewing = asyncio.Lock()
        self._files = Files()
        self._check_at = clock() + CHECK_SECONDS
        self._issued: Issued | None = None
        self._renew_at = float("-inf")
        # Guards against running a plugin for each of many refused requests.
        self._run_again_at = float("-inf")
        self._failure = ""
        # What the SSL context is made of; the three change together with what was issued.
        self._tls: Tls | None = None
        self._credentials = Credentials({}, None)
        # Made of the same, without the certificate, when first asked for.
        self._bare: Credentials | None = None
        self._bare_of: Tls | None = None
        self._access = read(self._files)
        self._adopt(self._access, None)

    @property
    def server(self) -> str:
        """URL of the API server, maybe with a path, without a slash at its end."""
        return self._access.server

    @property
    def server_name(self) -> str:
        """Name that the server's certificate has to have; ``""``: the URL's host."""
        return self._access.server_name

    async def credentials(self) -> Credentials:
        """Give what the next request is sent with; changed files and expiry are looked at.

        Cancelling it leaves the old credentials in force and no process behind.

        Raises:
            ConfigError: an exec plugin fails and there is no credential of before that holds.
        """
        if self._clock() >= self._check_at:
            self._check_at = self._clock() + CHECK_SECONDS
            if self._files.changed():
                self._reread()
        if self._stale():
            async with self._renewing:
                while self._stale():
                    await self._renew()
        return self._credentials

    async def bare(self) -> Credentials:
        """Give what a request without any credentials of ours is sent with.

        Its SSL context trusts the same server and shows no certificate: a caller's own token must
        not become an administrator by the connection it goes over.

        Raises:
            ConfigError: as :meth:`credentials`.
        """
        await self.credentials()
        if self._bare is None or self._bare_of != self._tls:
            tls = replace(self._tls, certificate=b"", key=b"") if self._tls else None
            self._bare, self._bare_of = Credentials({}, tls.context() if tls else None), self._tls
        return self._bare

    async def refresh(self, refused: Credentials) -> Credentials:
        """Get new credentials after a 401, unless that has happened since.

        Args:
            refused: what the request was sent with.

        Returns:
            What there is now; equal to ``refused`` when there is nothing new.

        Raises:
            ConfigError: an exec plugin fails.
        """
        async with self._renewing:
            if self._credentials == refused and self._files.changed():
                self._reread()
            if self._credentials == refused and self._clock() >= self._run_again_at:
                self._issued = None
            while self._stale():
                await self._renew()
        return self._credentials

    def _stale(self) -> bool:
        return self._access.plugin is not None and (
            self._issued is None or self._now() >= self._renew_at
        )

    def _reread(self) -> None:
        files = Files()
        try:
            access = self._read(files)
            issued = self._issued if access.plugin == self._access.plugin else None
            self._adopt(access, issued)
        except ConfigError as error:
            log.warning("changed configuration not used", reason=str(error))
        self._files = files

    async def _renew(self) -> None:
        """Run the plugin, or repeat its failure of a moment ago.

        Leaves the credentials not stale, or stale because the plugin became another one.
        """
        plugin = self._access.plugin
        if plugin is None:
            return
        if self._failure and self._clock() < self._run_again_at:
            raise ConfigError(self._failure)
        self._failure = ""
        try:
            issued = await plugin.run()
            if plugin == self._access.plugin:
                self._adopt(self._access, issued)
                life = issued.expires - self._now()
                self._renew_at = self._now() + max(RERUN_SECONDS, life - LEEWAY_SECONDS, 0.8 * life)
        except ConfigError as error:
            if self._issued is None or self._issued.expires <= self._now():
                self._failure = str(error)
                raise
            log.warning("credential not renewed, the old one still holds", reason=str(error))
            self._renew_at = self._now() + RERUN_SECONDS
        finally:
            self._run_again_at = self._clock() + RERUN_SECONDS

    def _adopt(self, access: Access, issued: Issued | None) -> None:
        """Take what was read or issued, all of it or, on an error, nothing."""
        tls, authorization = access.tls, access.authorization
        if access.plugin and issued:
            source = f"{access.plugin.source}: what it gave"
            if tls and issued.certificate:
                tls = replace(
                    tls, certificate=issued.certificate, key=issued.key, certificate_from=source
                )
            if issued.token:
                authorization = bearer(issued.token, source)
        context = self._credentials.ssl_context
        if tls != self._tls:
            context = tls.context() if tls else None
        headers = {"Authorization": authorization} if authorization else {}
        self._access, self._issued, self._tls = access, issued, tls
        self._credentials = Credentials(headers, context)


def load_kubeconfig(
    path: Path,
    context: str | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> ConnectionConfig:
    """Load a kubeconfig; an exec plugin is looked for, but not run yet.

    Args:
        path: the file; relative paths in it are relative to its directory.
        context: name of the context; ``None``: ``current-context``.
        clock: monotonic seconds.
        now: seconds since the epoch.

    Raises:
        ConfigError: it can't be used.
    """
    return ConnectionConfig(partial(read_kubeconfig, path, context), clock=clock, now=now)


def in_cluster(environ: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT) -> bool:
    """Say whether this process runs in a pod that may reach its API server.

    Args:
        environ: environment variables.
        directory: where the service account's files are.

    Source: client-go 0.36 ``clientcmd``, ``inClusterClientConfig.Possible``.
    """
    found = environ.get("KUBERNETES_SERVICE_HOST") and environ.get("KUBERNETES_SERVICE_PORT")
    return bool(found) and (directory / "token").is_file()


def load_in_cluster(
    environ: Mapping[str, str] = os.environ,
    directory: Path = SERVICE_ACCOUNT,
    *,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> ConnectionConfig:
    """Load what Kubernetes gives a pod.

    Args:
        environ: environment variables.
        directory: where the service account's files are.
        clock: monotonic seconds.
        now: seconds since the epoch.

    Raises:
        ConfigError: this is no pod, or a file is missing.

    Source: https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
    """
    names = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
    for name in names:
        if not environ.get(name):
            raise ConfigError(f"environment variable {name} is not set: this is no pod")
    host, port = (environ[name] for name in names)
    if not (port.isascii() and port.isdigit()):
        raise ConfigError(f"environment variable {names[1]}: {port!r} must be a port number")
    server = server_url(f"https://{f'[{host}]' if ':' in host else host}:{port}", names[0])
    return ConnectionConfig(partial(_read_in_cluster, directory, server), clock=clock, now=now)


def _read_in_cluster(directory: Path, server: str, files: Files) -> Access:
    source = "service account of this pod"
    authority = files.read(directory / "ca.crt", source)
    token = ascii_text(files.read(directory / "token", source), f"{directory / 'token'}")
    return Access(
        server=server,
        tls=Tls(authority, authority_from=str(directory / "ca.crt")),
        authorization=bearer(token, str(directory / "token")),
    )
