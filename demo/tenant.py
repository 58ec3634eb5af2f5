"""The tenant: has a kubeconfig that leads to the syncer's endpoint, and nothing else."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp

from controlplane.syncer import Syncer

_TIMEOUT = 30.0  # seconds for the kubeconfig to be there, and for each command


class DemoError(Exception):
    """A step failed; the message says which one and why."""


@dataclass(frozen=True)
class Saying:
    """What a command has to print in the end.

    Attributes:
        text: the sentence people read.
        command: of kubectl.
        answer: what is in its output.
    """

    text: str
    command: Sequence[str]
    answer: str


SAYINGS = (
    Saying(
        "kubectl logs shows what the pod says on the host",
        ("logs", "nginx"),
        "hello from a fake pod",
    ),
    Saying(
        "kubectl exec runs a command in the pod on the host",
        ("exec", "nginx", "--", "echo", "at home"),
        "at home",
    ),
)
"""In the order they are shown."""


@dataclass(frozen=True)
class Tenant:
    """Somebody with a kubeconfig.

    Attributes:
        syncer: whose endpoint it leads to.
        kubeconfig: as `syncer kubeconfig` printed it.
    """

    syncer: Syncer
    kubeconfig: Path

    @classmethod
    async def of(cls, syncer: Syncer) -> Self:
        """Ask for the kubeconfig, as whoever runs the host would for a tenant.

        Raises:
            DemoError: it is not there in time.
        """
        command = (
            str(Path(sys.executable).with_name("syncer")),
            "kubeconfig",
            f"--name={syncer.tenant}",
            f"--namespace={syncer.namespace}",
            f"--host-kube-config={syncer.host.kubeconfig}",
            f"--server={syncer.endpoint}",
        )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _TIMEOUT
        while True:  # the syncer writes it once it may write at all
            status, output = await _run(command)
            if status == 0:
                break
            if loop.time() > deadline:
                raise DemoError(f"syncer kubeconfig: {output}")
            await asyncio.sleep(0.25)
        path = syncer.host.directory / "tenant.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(output)
        return cls(syncer, path)

    async def kubectl(self, *arguments: str) -> str:
        """Run kubectl and return what it printed.

        Raises:
            DemoError: it failed.
        """
        kubectl = str(self.syncer.virtual.tools.kubectl)
        status, output = await _run((kubectl, f"--kubeconfig={self.kubeconfig}", *arguments))
        if status != 0:
            raise DemoError(f"kubectl {' '.join(arguments)}: {output}")
        return output

    async def hears(self, saying: Saying) -> bool:
        """Return whether a command prints what it has to."""
        try:
            return saying.answer in await self.kubectl(*saying.command)
        except DemoError:
            return False

    @asynccontextmanager
    async def api(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Yield an HTTP session with the tenant's certificate; paths begin at the endpoint."""
        connector = aiohttp.TCPConnector(ssl=self.syncer.virtual.pki.client_context())
        async with aiohttp.ClientSession(self.syncer.endpoint, connector=connector) as session:
            yield session


async def _run(command: Sequence[str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1, f"no end after {_TIMEOUT:g} s"
    status = process.returncode or 0
    return status, (output if status == 0 else errors).decode(errors="replace").strip()
