"""The pinned Go tools: Kubernetes' four binaries, kine, kwok and metrics-server, cached.

Each folder under `go/` is a Go module whose `tool` directives say what to build; its `go.mod` and
`go.sum` pin every version. What was built lies in a cache outside the work tree, under a name that
hashes those two files and the build flags, so a changed pin is a new build and an unchanged one
is none. A half-built tool is never seen: builds happen beside the cache under a file lock, and one
rename publishes them.

Never downloads a binary, never writes into the work tree.
"""

import asyncio
import fcntl
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

KUBERNETES_VERSION = "v1.36.3"
"""What the control planes call themselves; `go/kubernetes/go.mod` pins the same version."""

METRICS_SERVER_VERSION = "v0.9.0"
"""The same for metrics-server."""

CACHE_VARIABLE = "VCLUSTER_SYNCER_CACHE"
"""Environment variable that moves the cache (default: the user's cache directory)."""


class Progress(Protocol):
    """Takes lines that tell a person how far a build is."""

    def __call__(self, line: str, *, final: bool = False) -> None:
        """Show `line`; one that is not final may be overwritten by the next."""


_MODULES = Path(__file__).parent / "go"
_LINES_EVERY = 15.0  # seconds between progress lines where there is no terminal
_LOCK_POLL = 0.2  # seconds


class ToolError(Exception):
    """A tool could not be built; the message says which one and why."""


@dataclass(frozen=True)
class Tools:
    """Paths of the built binaries."""

    kube_apiserver: Path
    kube_controller_manager: Path
    kube_scheduler: Path
    kubectl: Path
    kine: Path
    kwok: Path


@dataclass(frozen=True)
class _Module:
    """One folder under `go/` and how it is built."""

    name: str
    binaries: tuple[str, ...]
    flags: tuple[str, ...]
    environment: Mapping[str, str]

    @property
    def source(self) -> Path:
        return _MODULES / self.name

    def digest(self) -> str:
        """Return a short hash of everything that decides what the binaries are."""
        parts = [
            (self.source / "go.mod").read_bytes(),
            (self.source / "go.sum").read_bytes(),
            repr((self.binaries, self.flags, sorted(self.environment.items()))).encode(),
            platform.machine().encode(),
        ]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _kubernetes_flags() -> tuple[str, ...]:
    # Without these the server calls itself v0.0.0, and clients refuse or misjudge it.
    major, minor, _ = KUBERNETES_VERSION.removeprefix("v").split(".")
    stamps = {"gitVersion": KUBERNETES_VERSION, "gitMajor": major, "gitMinor": minor}
    stamps["gitTreeState"] = "clean"
    stamped = " ".join(
        f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamps.items()
    )
    return ("-trimpath", "-ldflags", f"-s -w {stamped}")


_ALL_MODULES = (
    _Module(
        name="kubernetes",
        binaries=("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
        flags=_kubernetes_flags(),
        environment={"CGO_ENABLED": "0"},
    ),
    _Module(
        name="kine",
        binaries=("kine",),
        flags=("-trimpath", "-ldflags", "-s -w"),
        environment={"CGO_ENABLED": "1"},  # the fast SQLite driver is C
    ),
    _Module(
        name="kwok",
        binaries=("kwok",),
        flags=("-trimpath", "-ldflags", "-s -w"),
        environment={"CGO_ENABLED": "0"},
    ),
)

_METRICS_SERVER = _Module(
    name="metrics-server",
    binaries=("metrics-server",),
    flags=(
        "-trimpath",
        "-ldflags",
        f"-s -w -X k8s.io/client-go/pkg/version.gitVersion={METRICS_SERVER_VERSION}",
    ),
    environment={"CGO_ENABLED": "0"},
)


def cache_directory() -> Path:
    """Return where built tools are kept: `$VCLUSTER_SYNCER_CACHE`, else the user's cache."""
    override = os.environ.get(CACHE_VARIABLE)
    if override:
        return Path(override)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache) / "vcluster-syncer" / "tools"


async def tools(progress: Progress | None = None) -> Tools:
    """Return the tools' paths, building first what the cache does not hold.

    Several processes may call this at once: one builds, the others wait for it.

    Args:
        progress: takes lines for a person; by default they go to standard error.

    Raises:
        ToolError: Go is missing or a build failed.
    """
    report = progress or terminal_progress()
    found: dict[str, Path] = {}
    for module in _ALL_MODULES:
        directory = await _ensure(module, report)
        found.update({name.replace("-", "_"): directory / name for name in module.binaries})
    return Tools(**found)


async def metrics_server(progress: Progress | None = None) -> Path:
    """Return the path of metrics-server, which few planes need; takes and raises as `tools`."""
    directory = await _ensure(_METRICS_SERVER, progress or terminal_progress())
    return directory / "metrics-server"


def terminal_progress() -> Progress:
    """Return a reporter for standard error: one line rewritten on a terminal, else plain lines."""
    stream = sys.stderr
    terminal = stream.isatty()

    def show(line: str, *, final: bool = False) -> None:
        if terminal:
            width = shutil.get_terminal_size().columns - 1
            line = f"\r\033[K{line[:width]}"
        stream.write(line if terminal and not final else f"{line}\n")
        stream.flush()

    return show


async def _ensure(module: _Module, report: Progress) -> Path:
    target = cache_directory() / f"{module.name}-{module.digest()}"
    if _complete(target, module.binaries):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    async with _locked(target.with_name(f".{target.name}.lock"), module.name, report):
        if not _complete(target, module.binaries):  # another process may have built it meanwhile
            await _build(module, target, report)
    return target


def _complete(directory: Path, binaries: Sequence[str]) -> bool:
    return all((directory / name).is_file() for name in binaries)


@asynccontextmanager
async def _locked(path: Path, what: str, report: Progress) -> AsyncIterator[None]:
    """Hold an exclusive file lock; the kernel drops it when the process ends, however it ends."""
    with path.open("w") as handle:
        told = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    report(f"{what}: another process is building it, waiting")
                    told = True
                await asyncio.sleep(_LOCK_POLL)
        yield


async def _build(module: _Module, target: Path, report: Progress) -> None:
    go = shutil.which("go")
    if go is None:
        raise ToolError(f"cannot build {module.name}: `go` is not on the PATH")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
        output = Path(scratch) / "bin"
        output.mkdir()
        total = await _count_packages(go, module)
        command = (go, "build", "-v", "-mod=readonly", *module.flags, "-o", f"{output}/", "tool")
        await _run(command, module, total, report)
        if not _complete(output, module.binaries):
            built = sorted(path.name for path in output.iterdir())
            raise ToolError(f"building {module.name} gave {built}, wanted {module.binaries}")
        shutil.rmtree(target, ignore_errors=True)
        output.rename(target)


async def _count_packages(go: str, module: _Module) -> int:
    """Return how many packages a build from nothing compiles; 0 if Go can't tell."""
    process = await _go((go, "list", "-deps", "tool"), module, asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return len(out.splitlines())


async def _go(command: Sequence[str], module: _Module, output: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        cwd=module.source,
        env={**os.environ, "GOWORK": "off", **module.environment},
        stdout=output,
        stderr=asyncio.subprocess.PIPE,
    )


async def _run(command: Sequence[str], module: _Module, total: int, report: Progress) -> None:
    """Run `go build -v`, which names each package as it is compiled, and report how far it is."""
    started = time.monotonic()
    names = ", ".join(module.binaries)
    report(f"{module.name}: building {names}")
    process = await _go(command, module, asyncio.subprocess.DEVNULL)
    pause = 0.2 if sys.stderr.isatty() else _LINES_EVERY
    told, tail, packages = started, [""], 0
    try:
        async for line in _lines(process, pause):
            if line:
                packages += 1
                tail = [*tail[-30:], line]
            now = time.monotonic()
            if now - told >= pause:
                told = now
                done = f"{packages} of up to {total} packages"
                report(f"{module.name}: {now - started:.0f} s, {done}, {tail[-1] or 'linking'}")
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if status != 0:
        report(f"{module.name}: failed", final=True)
        raise ToolError(f"building {module.name} failed:\n" + "\n".join(tail))
    report(f"{module.name}: {names} built in {time.monotonic() - started:.0f} s", final=True)


async def _lines(process: asyncio.subprocess.Process, pause: float) -> AsyncIterator[str]:
    """Yield the lines of standard error, and "" when none came for `pause` seconds."""
    assert process.stderr is not None  # noqa: S101 - asked for above
    while True:
        try:
            async with asyncio.timeout(pause):
                line = await process.stderr.readline()
        except TimeoutError:
            yield ""
            continue
        if not line:
            return
        yield line.decode(errors="replace").rstrip()
