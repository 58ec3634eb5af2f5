"""Runs a kubeconfig's exec plugin, a command that issues credentials, and reads what it says.

Invariants:
* nothing the plugin prints on stdout is ever in a message: it is a credential;
* a plugin that is cancelled or too slow is killed, and waited for.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/
#client-go-credential-plugins; https://kubernetes.io/docs/reference/config-api/client-authentication.v1/
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import msgspec
import orjson

from syncer.kube.errors import ConfigError, one_line
from syncer.objects import Object

API_VERSIONS: Final = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
"""Versions of the plugin protocol; they differ in no field that is used here."""

RUN_SECONDS: Final = 60.0
"""A plugin has to be done after so many seconds."""

_SAID = 300  # characters of stderr kept for the message


@dataclass(frozen=True, slots=True)
class Issued:
    """What a plugin gave.

    Attributes:
        token: bearer token, or ``""``.
        certificate: PEM of a client certificate and its chain, or empty.
        key: PEM of its private key.
        expires: seconds since the epoch; infinite when the plugin didn't say.
    """

    token: str = field(repr=False)
    certificate: bytes
    key: bytes = field(repr=False)
    expires: float


@dataclass(frozen=True, slots=True)
class ExecPlugin:
    """A plugin as the kubeconfig describes it.

    Attributes:
        source: file and field that describe it, for messages.
        command: name found on ``PATH``, or a path.
        args: its arguments.
        env: environment variables besides our own.
        api_version: one of :data:`API_VERSIONS`.
        hint: what the kubeconfig says about installing it, or ``""``.
        cluster: what the plugin is told of the cluster; ``None``: nothing.
        seconds: after so many it is killed.
    """

    source: str
    command: str
    args: tuple[str, ...] = field(default=(), repr=False)
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    api_version: str = API_VERSIONS[0]
    hint: str = ""
    cluster: Object | None = None
    seconds: float = RUN_SECONDS

    def check(self) -> None:
        """Make sure that the command is there.

        Raises:
            ConfigError: it is not; with the kubeconfig's hint.
        """
        if shutil.which(self.command) is None:
            raise self._error("not found or not executable")

    async def run(self) -> Issued:
        """Run the plugin once. Cancelling it kills the plugin.

        Raises:
            ConfigError: it can't be started, fails, is too slow or gives no credential.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                self.command,
                *self.args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **dict(self.env), "KUBERNETES_EXEC_INFO": self._info()},
            )
        except OSError as error:
            raise self._error(f"can't be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(self.seconds):
                out, said = await process.communicate()
        except TimeoutError as error:
            raise self._error(f"was not done after {self.seconds:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            text = one_line(said.decode(errors="replace"), _SAID)
            raise self._error(f"failed with exit status {process.returncode}: {text}")
        return self._read(out)

    def _info(self) -> str:
        spec: Object = {"interactive": False}
        if self.cluster is not None:
            spec["cluster"] = self.cluster
        info = {"apiVersion": self.api_version, "kind": "ExecCredential", "spec": spec}
        return orjson.dumps(info).decode()

    def _read(self, out: bytes) -> Issued:
        try:
            answer = _ANSWER.decode(out)
        except (ValueError, RecursionError) as error:
            # msgspec names the place, never the value.
            raise self._error(f"gave no ExecCredential: {error}") from error
        status = answer.status
        if answer.kind != "ExecCredential" or answer.api_version != self.api_version:
            raise self._error(f"must give an ExecCredential of {self.api_version}")
        if bool(status.client_certificate_data) != bool(status.client_key_data):
            raise self._error("must give clientCertificateData and clientKeyData together")
        if not status.token and not status.client_certificate_data:
            raise self._error("gave neither a token nor a client certificate")
        expires = status.expiration_timestamp
        return Issued(
            status.token,
            status.client_certificate_data.encode(),
            status.client_key_data.encode(),
            expires.replace(tzinfo=expires.tzinfo or UTC).timestamp() if expires else float("inf"),
        )

    def _error(self, what: str) -> ConfigError:
        hint = f" ({self.hint})" if self.hint else ""
        return ConfigError(f"{self.source}: command {self.command!r} {what}{hint}")


class _Status(msgspec.Struct, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _Answer(msgspec.Struct, rename="camel"):
    api_version: str
    kind: str
    status: _Status


_ANSWER: Final = msgspec.json.Decoder(_Answer)
