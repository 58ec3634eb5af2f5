"""The command line: ``syncer start``, ``syncer kubeconfig``, ``syncer version``.

Flags are read as Go's pflag reads them, because charts and scripts written for vcluster pass them
that way, which argparse can't: ``--flag=value`` or ``--flag value`` (the value may begin with a
dash, as in ``--sync -pods``), a boolean is ``--flag`` or ``--flag=false`` and never takes the next
word. Data goes to standard output, the rest to standard error.

Exit codes: 0 done, 1 failed, 2 not understood (wrong flag, value or settings file), 130
interrupted. Each mistake is one line.

Invariant: what ``--help`` and ``version`` need is imported here; all else when it is needed. A
further command is one more :class:`Command` in :func:`commands`.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from pydantic import BaseModel

from syncer.commands import CommandError
from syncer.commands.options import KubeconfigOptions
from syncer.settings import (
    Entry,
    Settings,
    UsageError,
    did_you_mean,
    entries,
    load,
    load_options,
    quoted,
)
from syncer.version import installed_version

PROGRAM: Final = "syncer"
_NARROW, _WIDE = 60, 100  # columns that help fits itself into
_INDENT = " " * 6

Run: TypeAlias = Callable[[Settings], Coroutine[Any, Any, int]]
"""Runs the syncer until it is told to stop; gives the exit code."""

Values: TypeAlias = Mapping[str, list[str]]
"""Flag -> the values it was given, in order; a bare boolean is ``true``."""


class Flag(NamedTuple):
    """A flag as the parser and the help see it.

    Attributes:
        name: without the dashes.
        metavar: placeholder of the value; ``""`` for a boolean.
        section: heading in the help; ``""`` leaves it out.
        text: what it does.
        facts: default and environment variable.
    """

    name: str
    metavar: str = ""
    section: str = ""
    text: str = ""
    facts: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """A sub-command.

    Attributes:
        name: what is typed.
        summary: one line for ``syncer --help``.
        run: gets the flags that were given, returns the exit code.
        flags: all that it knows.
        notes: text below its flags in the help.
    """

    name: str
    summary: str
    run: Callable[[Values], int]
    flags: tuple[Flag, ...] = ()
    notes: str = ""


def main(arguments: Sequence[str] | None = None, *, run: Run | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after the program's name; ``None`` takes the process's own.
        run: what ``start`` runs; ``None`` is the syncer itself.

    Returns:
        The exit code.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _dispatch(words, {command.name: command for command in commands(run)})
    except UsageError as error:
        _complain(*error.lines)
        return 2
    except CommandError as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130


def commands(run: Run | None = None) -> tuple[Command, ...]:
    """Give every command; ``run`` is what ``start`` runs (``None``: the syncer itself)."""
    return (
        Command(
            name="start",
            summary="sync a virtual cluster with its host namespace",
            run=lambda values: _start(values, run),
            flags=(*map(_flag, entries()), *(_retired_flag(item) for item in RETIRED)),
            notes=_START_NOTES,
        ),
        Command(
            name="kubeconfig",
            summary="print a kubeconfig of a virtual cluster",
            run=_kubeconfig,
            flags=tuple(map(_flag, entries(KubeconfigOptions))),
            notes=_KUBECONFIG_NOTES,
        ),
        Command(name="version", summary="print the version", run=_version),
    )


def _dispatch(words: Sequence[str], known: Mapping[str, Command]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview(known.values()))
        return 0
    name = words[0]
    if name not in known:
        what = "flag" if name.startswith("-") else "command"
        raise UsageError(f"unknown {what} {quoted(name)}{did_you_mean(name, known)}")
    command = known[name]
    values = parse(words[1:], command)
    if values is None:
        sys.stdout.write(command_help(command, shutil.get_terminal_size().columns))
        return 0
    return command.run(values)


def _complain(*lines: str) -> None:
    for line in lines:
        sys.stderr.write(f"error: {line}\n")


# -- reading flags -------------------------------------------------------------------------------


def parse(words: Sequence[str], command: Command) -> Values | None:
    """Read a command's flags.

    Args:
        words: what follows the command's name.
        command: whose flags to expect.

    Returns:
        The flags that were given; ``None`` when help was asked for.

    Raises:
        UsageError: an unknown flag, a missing value, or a word that is no flag.

    Source: https://pkg.go.dev/github.com/spf13/pflag#hdr-Command_line_flag_syntax
    """
    known = {flag.name: flag for flag in command.flags}
    values: dict[str, list[str]] = {}
    previous = ""
    rest = iter(words)
    for word in rest:
        if word in ("-h", "--help"):
            return None
        if not word.startswith("--") or word == "--":
            raise UsageError(_stray(word, known.get(previous)))
        name, equals, value = word[2:].partition("=")
        if name not in known:
            hint = did_you_mean(name, known, prefix="--")
            raise UsageError(f"unknown flag {quoted(f'--{name}')}{hint}")
        if not equals:
            value = "true" if not known[name].metavar else _next(rest, known[name])
        values.setdefault(name, []).append(value)
        previous = "" if equals else name
    return values


def _next(rest: Iterator[str], flag: Flag) -> str:
    try:
        return next(rest)
    except StopIteration:
        raise UsageError(f"--{flag.name} needs a value: --{flag.name}={flag.metavar}") from None


def _stray(word: str, previous: Flag | None) -> str:
    """Say what is wrong with a word that is no flag; often it was meant for a boolean."""
    if previous is not None and not previous.metavar:
        return f"unexpected {quoted(word)}; a boolean's value is written --{previous.name}={word}"
    if word.startswith("-") and word.strip("-"):
        return f'unknown flag {quoted(word)}; flags begin with "--"'
    return f"unexpected {quoted(word)}; only flags can follow"


# -- help ----------------------------------------------------------------------------------------


def _overview(known: Iterable[Command]) -> str:
    rows = "".join(f"  {command.name:<12}{command.summary}\n" for command in known)
    return (
        f"Runs virtual Kubernetes clusters inside one namespace of a shared host cluster.\n\n"
        f"usage: {PROGRAM} COMMAND [flags]\n\ncommands:\n{rows}\n"
        f"{PROGRAM} COMMAND --help tells the flags of a command.\n"
    )


def command_help(command: Command, columns: int) -> str:
    """Write a command's help.

    Args:
        command: which.
        columns: width of the terminal; lines are between 60 and 100 wide.
    """
    width = max(_NARROW, min(_WIDE, columns))
    summary = command.summary[0].upper() + command.summary[1:]
    lines = [f"{summary}.", "", f"usage: {PROGRAM} {command.name} [flags]", ""]
    for section in dict.fromkeys(flag.section for flag in command.flags if flag.section):
        lines.append(f"{section}:")
        for flag in command.flags:
            if flag.section == section:
                lines += _flag_help(flag, width)
        lines.append("")
    lines += ["Other:", "  --help", "      Show this."]
    for paragraph in filter(None, command.notes.split("\n\n")):
        lines += ["", *textwrap.wrap(paragraph, width)]
    return "\n".join(lines) + "\n"


def _flag_help(flag: Flag, width: int) -> Iterator[str]:
    yield f"  --{flag.name}" + (f" {flag.metavar}" if flag.metavar else "")
    for text in (flag.text, flag.facts):
        yield from textwrap.wrap(
            text, width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False
        )


# -- start ---------------------------------------------------------------------------------------

_START_NOTES = """\
A boolean is --flag or --flag=false. A list is given with commas or by repeating the flag. Without \
a flag, its environment variable counts, then the file of --config, then the default."""


def _flag(entry: Entry) -> Flag:
    option = entry.option
    ambient = f", {option.ambient}" if option.ambient else ""
    default = f"default: {entry.default}; " if entry.default else ""
    names = f"{entry.variable}{ambient}".removeprefix(", ")
    facts = f"[{default}env: {names or 'none'}]" if default or names else ""
    return Flag(entry.flag, option.metavar, option.section, entry.description, facts)


def _start(values: Values, run: Run | None) -> int:
    retired = {item.flag: item for item in RETIRED}
    warnings = [
        check_retired(retired[name], given[-1]) for name, given in values.items() if name in retired
    ]
    loaded = load(_fields(values, Settings), os.environ)

    with _without("rich"):
        from syncer.ops import logging

    logging.configure(loaded.settings.log_level, loaded.settings.log_format)
    log = logging.get("start")
    for warning in (*loaded.warnings, *warnings):
        log.warning(warning)
    return _run(loaded.settings, run)


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Hide a module that isn't loaded yet from what is imported meanwhile.

    structlog loads rich where it finds it, for tracebacks that we print plainly: 14 MB.
    """
    hidden = module not in sys.modules
    if hidden:
        sys.modules[module] = None  # type: ignore[assignment]  # how Python marks "not there"
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


def _fields(values: Values, model: type[BaseModel]) -> dict[str, object]:
    """Give a model's fields among the flags, as :func:`syncer.settings.load` takes them."""
    return {
        entry.field: values[entry.flag] if entry.option.repeated else values[entry.flag][-1]
        for entry in entries(model)
        if entry.flag in values
    }


def _run(settings: Settings, run: Run | None) -> int:
    from syncer.kube.errors import ConfigError

    if run is None:
        from syncer.app import run as app

        run = app
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(run(settings))
    except ConfigError as error:
        _complain(str(error))
        return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give uvloop's loop where it is installed; it takes 7 to 23 % less CPU."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


_KUBECONFIG_NOTES = """\
Without --service-account it is the administrator's own, as the secret vc-NAME on the host has it. \
With it, an account or binding that is there already is never changed: a binding of the same name \
to something else is an error."""


def _kubeconfig(values: Values) -> int:
    options = load_options(KubeconfigOptions, _fields(values, KubeconfigOptions), os.environ)

    with _without("rich"):
        from syncer.commands import kubeconfig
        from syncer.ops import logging

    logging.configure("warning", "auto")
    return kubeconfig.run(options)


def _version(_values: Values) -> int:
    machine = f"{platform.system().lower()}/{platform.machine()}"
    sys.stdout.write(
        f"{PROGRAM} {installed_version()} (Python {platform.python_version()}, {machine})\n"
    )
    return 0


# -- flags of the original that have nothing to act on -------------------------------------------


@dataclass(frozen=True, slots=True)
class Retired:
    """A flag of vcluster whose feature does not exist here.

    Attributes:
        flag: without the dashes.
        reason: why, as a clause.
        harmless: values that ask for nothing; ``None``: no value changes anything.
        boolean: whether the flag needs no value.
    """

    flag: str
    reason: str
    harmless: tuple[str, ...] | None
    boolean: bool = False


def check_retired(retired: Retired, value: str) -> str:
    """Give the warning for a retired flag.

    Args:
        retired: the flag.
        value: what it was set to; ``true`` for a bare boolean.

    Raises:
        UsageError: the value asks for something that does not exist here.
    """
    if retired.harmless is not None and value not in retired.harmless:
        raise UsageError(f"--{retired.flag}={quoted(value)}: {retired.reason}")
    return f"--{retired.flag} is ignored: {retired.reason}"


def _retired_flag(retired: Retired) -> Flag:
    return Flag(retired.flag, "" if retired.boolean else "VALUE")


_REMOTE = "syncing to a remote host cluster is a feature of vcluster Pro"
_COREDNS = "CoreDNS inside the syncer is a feature of vcluster Pro"
_NOOP = "a syncer that syncs nothing is a feature of vcluster Pro"
_ETCD = "etcd inside the syncer is a feature of vcluster Pro"
_ADMISSION = "central admission is a feature of vcluster Pro"
_PLUGINS = "plugins written for vcluster's Go SDK can't run here"
_EMPTY = ("",)
_OFF = ("0", "f", "F", "FALSE", "false", "False")

RETIRED: Final = (
    Retired("pro-license-secret", "there is nothing to license here", None),
    Retired("remote-kube-config", _REMOTE, _EMPTY),
    Retired("remote-namespace", _REMOTE, _EMPTY),
    Retired("remote-service-name", _REMOTE, _EMPTY),
    Retired("integrated-coredns", _COREDNS, _OFF, boolean=True),
    Retired("use-coredns-plugin", _COREDNS, _OFF, boolean=True),
    Retired("noop-syncer", _NOOP, _OFF, boolean=True),
    Retired("sync-k8s-service", _NOOP, _OFF, boolean=True),
    Retired("etcd-embedded", _ETCD, _OFF, boolean=True),
    Retired("etcd-replicas", _ETCD, ("0",)),
    Retired("migrate-from", _ETCD, _EMPTY),
    Retired("enforce-validating-hook", _ADMISSION, _EMPTY),
    Retired("enforce-mutating-hook", _ADMISSION, _EMPTY),
    Retired("disable-plugins", _PLUGINS, None, boolean=True),
    Retired("plugins", _PLUGINS, _EMPTY),
    Retired("plugin-listen-address", _PLUGINS, None),
    Retired("plugin-address", _PLUGINS, None),
)
"""Accepted with a warning where the value changes nothing, else refused.

Source: vcluster v0.19.10 ``pkg/pro/flags.go``, ``pkg/options/flags.go``.
"""
