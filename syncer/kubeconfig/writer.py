"""Keeps the tenant's kubeconfig in secrets on the host, for as long as the syncer runs.

Content comes from the admin kubeconfig and the server CA, whose files are looked at now and then;
the secrets are watched. Either is only a sign to look: what is written is decided by one live read.
Each secret has its own task, so that trouble with one is none of the other's.

Invariants:
* one write for each change, none when nothing differs; nothing while the gate is closed;
* a secret that others keep changing back is written ever more rarely;
* no trouble ends :meth:`KubeconfigWriter.run`, each is logged once, none with a credential;
* certificate and key that don't belong together are never written.

Never deletes a secret.
"""

from __future__ import annotations

import asyncio
import random as random_module
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import orjson
import structlog

from syncer.engine.gate import Gate, GateClosedError
from syncer.kube.access import Files
from syncer.kube.client import Client
from syncer.kube.errors import ApiError, ConfigError, TransportError
from syncer.kube.informer import Informer
from syncer.kube.kubeconfig import read_kubeconfig
from syncer.kube.store import Store
from syncer.kubeconfig.document import Kubeconfig, certificates, from_access
from syncer.kubeconfig.secret import (
    SECRETS,
    Change,
    Create,
    Leave,
    decide,
    secret,
    secret_name,
)
from syncer.objects import Key, Object
from syncer.settings import Settings

FILE_SECONDS: Final = 10.0
"""How often the files are looked at for changes; a look is a few calls of stat."""

FIRST_PAUSE: Final = 1.0
"""Seconds after a first failure; doubled for each further one."""

LAST_PAUSE: Final = 300.0

TIMEOUT: Final = 10.0
"""Seconds for one request."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("kubeconfig")


@dataclass(slots=True, eq=False)
class _Target:
    """A secret that is kept.

    Attributes:
        key: where it is.
        owned: whether it may have the owner reference: it is in the owner Service's namespace.
        informer: watches it; all it does is to set ``woken``.
        woken: set when it may differ from what it should be; cleared before it is looked at.
        failures: in a row.
        told: the trouble that was logged last, until it is over.
        written: what was written last, and how often it was since without a change of ours.
    """

    key: Key
    owned: bool
    informer: Informer
    woken: asyncio.Event
    failures: int = 0
    told: str = ""
    written: Object | None = field(default=None, repr=False)
    repeats: int = 0
    written_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class _Rest:
    """What follows a look.

    Attributes:
        deaf: seconds in which it isn't even woken.
        seconds: from then until the next look, unless woken; ``None``: only when woken.
        trouble: one line for operators, ``""`` for none.
    """

    deaf: float = 0.0
    seconds: float | None = None
    trouble: str = ""


class KubeconfigWriter:
    """Writes the kubeconfig of one virtual cluster to its secrets on the host."""

    def __init__(
        self,
        client: Client,
        gate: Gate,
        settings: Settings,
        *,
        server: Callable[[], str],
        owner: Callable[[], Object | None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random_module.random,
    ) -> None:
        """Prepare; nothing is read or sent before :meth:`run`.

        Args:
            client: the host API server's client.
            gate: asked before each write.
            settings: validated settings.
            server: gives the URL that the kubeconfig names: see :func:`server_of`.
            owner: gives the owner reference (``apiVersion``, ``kind``, ``name``, ``uid``) to the
                owner Service in the syncer's own namespace, ``None`` without ``--set-owner``.
            clock: monotonic seconds.
            sleep: waits for seconds.
            random: gives numbers from 0 to 1, for the jitter between attempts.
        """
        self._client = client
        self._gate = gate
        self._server = server
        self._owner = owner
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._of = Key(settings.current_namespace, settings.name)
        self._source = _Source(settings)
        self._targets = [
            self._target(key, owned=key.namespace == settings.current_namespace)
            for key in keys_of(settings)
        ]

    def _target(self, key: Key, *, owned: bool) -> _Target:
        woken = asyncio.Event()
        informer = Informer(
            self._client,
            SECRETS,
            Store({}, lambda _change: woken.set()),
            namespace=key.namespace,
            field_selector=f"metadata.name={key.name}",
        )
        return _Target(key, owned, informer, woken)

    def wake(self) -> None:
        """Look at files and secrets soon: CA, server or owner may have changed."""
        for target in self._targets:
            target.woken.set()

    async def run(self) -> None:
        """Keep the secrets until cancelled; a write that is under way then may have been done."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_at_files())
            for target in self._targets:
                tasks.create_task(target.informer.run())
                tasks.create_task(self._keep(target))

    async def _look_at_files(self) -> None:
        while True:
            await self._sleep(FILE_SECONDS)
            if self._source.changed():
                self.wake()

    async def _keep(self, target: _Target) -> None:
        while True:
            target.woken.clear()
            await self._gate.wait_open()
            rest = await self._look(target)
            if rest.trouble and rest.trouble != target.told:
                log.warning("kubeconfig not written", secret=str(target.key), reason=rest.trouble)
            target.told = rest.trouble
            if rest.deaf:
                await self._sleep(rest.deaf)
            await _wait(target.woken, rest.seconds)

    async def _look(self, target: _Target) -> _Rest:
        """Look once and write what is to be written; errors become what follows from them."""
        try:
            rest = await self._reconcile(target)
        except GateClosedError:
            return _Rest(seconds=0.0)  # it is waited for before the next look
        except ConfigError as error:
            return _Rest(trouble=str(error))  # the files' change wakes
        except (ApiError, TransportError) as error:
            return self._failed(target, error)
        except Exception:  # a bug must not end the process
            log.exception("kubeconfig failed", secret=str(target.key))
            return self._failed(target, None)
        target.failures = 0
        return rest

    async def _reconcile(self, target: _Target) -> _Rest:
        wanted = secret(
            target.key,
            replace(self._source.read(), server=self._server()),
            of=self._of,
            owner=self._owner() if target.owned else None,
        )
        match decide(await self._found(target.key), wanted):
            case None:
                return _Rest()
            case Leave(reason, wait=True):
                return _Rest(seconds=self._until_seen(target))
            case Leave(reason):
                return _Rest(seconds=self._until_seen(target), trouble=reason)
            case Create(body):
                await self._send("POST", SECRETS.path(target.key.namespace), body)
                log.info("kubeconfig written", secret=str(target.key), made=True)
            case Change(patch, what):
                await self._send("PATCH", SECRETS.path(*target.key), patch)
                log.info("kubeconfig written", secret=str(target.key), changed=what)
        return self._wrote(target, wanted)

    def _until_seen(self, target: _Target) -> float | None:
        """Give the seconds to the next look at what others have to change: it may be watched."""
        return None if target.informer.synced else LAST_PAUSE

    async def _found(self, key: Key) -> Object | None:
        try:
            answer = await self._client.request("GET", SECRETS.path(*key), timeout=TIMEOUT)
        except ApiError as error:
            if error.not_found:
                return None
            raise
        found: Object = orjson.loads(answer)
        return found

    async def _send(self, method: str, path: str, body: Object) -> None:
        await self._client.request(
            method,
            path,
            body=body,
            content_type="application/merge-patch+json"
            if method == "PATCH"
            else "application/json",
            timeout=TIMEOUT,
            check=self._gate.check,
        )

    def _wrote(self, target: _Target, wanted: Object) -> _Rest:
        """Rest after a write: the longer, the more often the same was written in vain."""
        now = self._clock()
        calm = now - target.written_at > 2 * LAST_PAUSE
        target.repeats = 0 if calm or wanted != target.written else target.repeats + 1
        target.written, target.written_at = wanted, now
        if not target.repeats:
            return _Rest()
        return _Rest(deaf=self._pause(target.repeats))

    def _failed(self, target: _Target, error: ApiError | TransportError | None) -> _Rest:
        target.failures += 1
        seconds = self._pause(target.failures)
        if isinstance(error, ApiError):
            seconds = max(seconds, min(error.retry_after or 0.0, LAST_PAUSE))
            if error.conflict or error.already_exists:
                return _Rest(deaf=seconds, seconds=0.0)  # ordinary: somebody was faster
        return _Rest(FIRST_PAUSE, seconds, str(error) if error else target.told)

    def _pause(self, count: int) -> float:
        longest = min(LAST_PAUSE, FIRST_PAUSE * 2.0 ** min(count - 1, 16))
        return longest * (0.5 + 0.5 * self._random())


class _Source:
    """Reads what the kubeconfig is made of: the admin kubeconfig and the server CA."""

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.kube_config)
        self._authority = Path(settings.server_ca_cert)
        self._name = settings.kube_config_context_name
        # What was made of which files; a failure is remembered like a result.
        self._files: Files | None = None
        self._made: Kubeconfig | ConfigError = ConfigError("nothing was read yet")

    def changed(self) -> bool:
        """Say whether a file is another one than when it was read."""
        return self._files is None or self._files.changed()

    def read(self) -> Kubeconfig:
        """Give the kubeconfig, read anew if a file changed; its server is the admin's own.

        Raises:
            ConfigError: a file can't be read or used, or they don't fit together.
        """
        if self.changed():
            self._files = Files()
            try:
                self._made = self._make(self._files)
            except ConfigError as error:
                self._made = error
        if isinstance(self._made, ConfigError):
            raise ConfigError(str(self._made))
        return self._made

    def _make(self, files: Files) -> Kubeconfig:
        authority = certificates(files.read(self._authority, "--server-ca-cert"))
        if not authority:
            raise ConfigError(f"--server-ca-cert: {self._authority} must hold certificates in PEM")
        admin = from_access(read_kubeconfig(self._path, None, files), str(self._path))
        made = replace(
            admin,
            name=self._name or admin.name,
            authority=authority,
            server_name="",
            insecure=False,
        )
        made.check()
        return made


def keys_of(settings: Settings) -> list[Key]:
    """Give the secrets that hold the kubeconfig: ``vc-NAME`` and that of the flags, if another."""
    keys = [Key(settings.current_namespace, secret_name(settings.name))]
    if settings.out_kube_config_secret:
        keys.append(Key(settings.out_kube_config_secret_namespace, settings.out_kube_config_secret))
    return list(dict.fromkeys(keys))


def server_of(settings: Settings, port: int) -> str:
    """Give the URL that the kubeconfig names.

    Args:
        settings: validated settings.
        port: where the tenant's endpoint listens.
    """
    return settings.out_kube_config_server or f"https://localhost:{port}"


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
