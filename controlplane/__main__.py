"""A host and a virtual control plane to play with: `python -m controlplane up`.

`up` leaves a background process behind that owns both planes (see daemon.py); `status` and `down`
find it by the directory. What a script may want goes to
standard output, the rest to standard error.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NoReturn

from controlplane.component import Component, ComponentError
from controlplane.daemon import KINDS, owner_of, serve
from controlplane.nodes import MAX_NODES
from controlplane.plane import ControlPlane, PlaneError
from controlplane.tools import ToolError, metrics_server, tools

_POLL = 0.1  # seconds
_STOP_TIMEOUT = 30.0  # seconds

_EPILOG = """examples:
  python -m controlplane up                boot a host with 3 fake nodes and a virtual plane
  python -m controlplane up --nodes 5
  python -m controlplane status            components, health and addresses
  python -m controlplane down              stop both and remove what they wrote

The first `up` builds Kubernetes, which takes some minutes; later ones take seconds.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line, without the usage that would bury it, and exit with status 2."""
        self.exit(2, f"error: {message} (see `python -m controlplane --help`)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `python -m controlplane` and return its exit status."""
    options = _parse(arguments)
    try:
        status: int = asyncio.run(options.run(options))
    except (ToolError, ComponentError, PlaneError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m controlplane",
        description="Real Kubernetes control planes on this machine, one host and one virtual.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    build = commands.add_parser("build", help="build the tools and exit", allow_abbrev=False)
    build.set_defaults(run=_build)
    up = commands.add_parser("up", help="boot a host and a virtual plane", allow_abbrev=False)
    up.set_defaults(run=_up)
    status = commands.add_parser("status", help="show what runs, and where", allow_abbrev=False)
    status.set_defaults(run=_status)
    down = commands.add_parser("down", help="stop both planes", allow_abbrev=False)
    down.set_defaults(run=_down)
    daemon = commands.add_parser("serve", allow_abbrev=False)  # what `up` starts; not for people
    daemon.set_defaults(run=_serve)
    for command in (up, daemon):
        command.add_argument(
            "--nodes",
            type=_node_count,
            default=3,
            metavar="N",
            help=f"fake nodes of the host, 0 to {MAX_NODES} (default: 3)",
        )
    for command in (up, status, down, daemon):
        command.add_argument(
            "--directory",
            type=Path,
            default=_default_directory(),
            metavar="DIR",
            help="where the planes keep their files (default: %(default)s)",
        )
    return parser.parse_args(arguments)


def _node_count(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_NODES:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number from 0 to {MAX_NODES}")
    return int(text)


def _default_directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "vcluster-syncer" / "controlplane"


async def _build(_: argparse.Namespace) -> int:
    built = await tools()
    await metrics_server()
    print(built.kubectl.parent.parent)
    return 0


async def _up(options: argparse.Namespace) -> int:
    directory: Path = options.directory
    if owner_of(directory) is not None:
        raise PlaneError(f"control planes run in {directory} already; stop them with `down`")
    await tools()  # here, where a person sees the progress
    print("booting a host and a virtual control plane", file=sys.stderr)
    with tempfile.TemporaryFile() as log:
        process = _start_daemon(directory, options.nodes, log)
        try:
            planes = await _wait_for_boot(process, directory)
        except BaseException:
            process.terminate()
            process.wait(_STOP_TIMEOUT)
            raise
        if planes is None:
            log.seek(0)
            print(log.read().decode(errors="replace").strip(), file=sys.stderr)
            return 1
        process.returncode = 0  # it goes on without us: no warning about a running child
    for plane in planes:
        print(f"{plane.kind} control plane: {plane.server} ({plane.boot_seconds:.1f} s)")
        print(f"  export KUBECONFIG={plane.kubeconfig}")
    print(f"kubectl: {planes[0].tools.kubectl}")
    return 0


def _start_daemon(directory: Path, nodes: int, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "controlplane", "serve", f"--nodes={nodes}"]
    return subprocess.Popen(
        [*command, f"--directory={directory.absolute()}"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


async def _wait_for_boot(
    process: "subprocess.Popen[bytes]", directory: Path
) -> list[ControlPlane] | None:
    """Return the planes once both are ready, or None if their owner ended before."""
    while process.poll() is None:
        try:
            return [ControlPlane.attach(directory / kind) for kind in KINDS]
        except PlaneError:
            await asyncio.sleep(_POLL)
    return None


async def _status(options: argparse.Namespace) -> int:
    if owner_of(options.directory) is None:
        print(f"no control planes run in {options.directory}; start them with `up`")
        return 1
    healthy = True
    row = "{:<8} {:<24} {:>8}  {:<9} {:>7} {:>8}  {}"
    print(row.format("PLANE", "COMPONENT", "PID", "HEALTH", "CPU", "MEMORY", "PROBE"))
    for kind in KINDS:
        plane = ControlPlane.attach(options.directory / kind)
        for name, component in plane.components.items():
            state = await _health(component)
            healthy = healthy and state == "ok"
            cpu, memory = f"{component.cpu_seconds():.1f} s", f"{component.rss_bytes() >> 20} MB"
            print(row.format(kind, name, component.pid or "-", state, cpu, memory, component.probe))
        print(f"{kind} KUBECONFIG={plane.kubeconfig}")
    return 0 if healthy else 1


async def _health(component: Component) -> str:
    if not component.running:
        return "stopped"
    if component.paused:
        return "paused"
    return "ok" if await component.ready() else "not ready"


async def _down(options: argparse.Namespace) -> int:
    owner = owner_of(options.directory)
    if owner is None:
        print(f"no control planes run in {options.directory}", file=sys.stderr)
        return 0
    os.kill(owner, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT
    while owner_of(options.directory) is not None:
        if time.monotonic() > deadline:
            raise PlaneError(f"process {owner} did not stop within {_STOP_TIMEOUT:g} s")
        await asyncio.sleep(_POLL)
    print("stopped", file=sys.stderr)
    return 0


async def _serve(options: argparse.Namespace) -> int:
    await serve(options.directory, options.nodes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
