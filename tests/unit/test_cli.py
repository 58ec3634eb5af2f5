"""The command line: reads flags as pflag does, helps, and answers each mistake with one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from syncer.cli import RETIRED, commands, main, parse
from syncer.kube.errors import ConfigError
from syncer.settings import Settings, UsageError, entries

START = commands()[0]


class Recorded:
    """Stands in for the syncer: remembers the settings it was started with."""

    def __init__(self, code: int = 0, error: Exception | None = None) -> None:
        self.settings: Settings | None = None
        self._code = code
        self._error = error

    async def __call__(self, settings: Settings) -> int:
        """Remember the settings."""
        self.settings = settings
        if self._error is not None:
            raise self._error
        return self._code


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SYNCER_") or name in ("KUBECONFIG", "NAMESPACE"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def quiet_logging(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keep start from configuring logging for the whole test process; collect its warnings."""
    warnings: list[str] = []

    class Log:
        def warning(self, text: str) -> None:
            warnings.append(text)

    monkeypatch.setattr("syncer.ops.logging.configure", lambda *_args: None)
    monkeypatch.setattr("syncer.ops.logging.get", lambda _name: Log())
    return warnings


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([], {}, id="nothing"),
        pytest.param(["--name=x"], {"name": ["x"]}, id="equals"),
        pytest.param(["--name", "x"], {"name": ["x"]}, id="two words"),
        pytest.param(["--name="], {"name": [""]}, id="empty"),
        pytest.param(["--name=a=b"], {"name": ["a=b"]}, id="equals in the value"),
        pytest.param(["--sync", "-pods"], {"sync": ["-pods"]}, id="value with a dash"),
        pytest.param(["--sync=a", "--sync=b"], {"sync": ["a", "b"]}, id="repeated"),
        pytest.param(["--set-owner"], {"set-owner": ["true"]}, id="bare boolean"),
        pytest.param(["--set-owner=false"], {"set-owner": ["false"]}, id="boolean off"),
        pytest.param(
            ["--set-owner", "--name=x"], {"set-owner": ["true"], "name": ["x"]}, id="boolean first"
        ),
    ],
)
def test_flags_are_read_as_pflag_reads_them(
    words: list[str], expected: dict[str, list[str]]
) -> None:
    """Each form that Go's pflag takes gives what pflag makes of it."""
    assert parse(words, START) == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        pytest.param(
            ["--nmae=x"], 'unknown flag "--nmae"; did you mean "--name"?', id="typing error"
        ),
        pytest.param(
            ["--service_name=x"],
            'unknown flag "--service_name"; did you mean "--service-name"?',
            id="underscore",
        ),
        pytest.param(["--zzz"], 'unknown flag "--zzz"', id="nothing alike"),
        pytest.param(
            ["--nam=x"], 'unknown flag "--nam"; did you mean "--name"?', id="no abbreviations"
        ),
        pytest.param(["-n=x"], 'unknown flag "-n=x"; flags begin with "--"', id="one dash"),
        pytest.param(["--name"], "--name needs a value: --name=NAME", id="no value"),
        pytest.param(
            ["--set-owner", "false"],
            'unexpected "false"; a boolean\'s value is written --set-owner=false',
            id="value of a boolean as a word",
        ),
        pytest.param(["foo"], 'unexpected "foo"; only flags can follow', id="word"),
        pytest.param(
            ["--name", "x", "foo"], 'unexpected "foo"; only flags can follow', id="word later"
        ),
        pytest.param(["--"], 'unexpected "--"; only flags can follow', id="end of flags"),
        pytest.param(["-"], 'unexpected "-"; only flags can follow', id="dash"),
    ],
)
def test_what_is_no_flag_is_refused(words: list[str], line: str) -> None:
    """A word that can't be understood is one line, with what was probably meant."""
    with pytest.raises(UsageError) as caught:
        parse(words, START)
    assert caught.value.lines == (line,)


def test_start_runs_with_the_settings() -> None:
    """The start command hands the flags over and gives back what the syncer returned."""
    run = Recorded(code=3)
    words = ["start", "--name=x", "--sync=a,b", "--sync", "-c", "--set-owner=false", "--workers=2"]
    assert main([*words, "--workers=3"], run=run) == 3
    assert run.settings == Settings(name="x", sync=("a", "b", "-c"), set_owner=False, workers=3)


def test_start_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start command finds settings in the environment."""
    monkeypatch.setenv("SYNCER_NAME", "y")
    run = Recorded()
    assert main(["start"], run=run) == 0
    assert run.settings is not None
    assert run.settings.name == "y"


@pytest.mark.parametrize(
    ("words", "code", "lines"),
    [
        pytest.param(
            ["start", "--workers=0", "--log-level=x"],
            2,
            [
                "error: --log-level=\"x\": must be 'debug', 'info', 'warning' or 'error'",
                'error: --workers="0": must be greater than or equal to 1',
            ],
            id="wrong values",
        ),
        pytest.param(["start", "--zzz"], 2, ['error: unknown flag "--zzz"'], id="unknown flag"),
        pytest.param(
            ["strat"], 2, ['error: unknown command "strat"; did you mean "start"?'], id="command"
        ),
        pytest.param(["--name=x"], 2, ['error: unknown flag "--name=x"'], id="flag too early"),
        pytest.param(
            ["start", "--etcd-replicas=3"],
            2,
            ['error: --etcd-replicas="3": etcd inside the syncer is a feature of vcluster Pro'],
            id="flag of Pro",
        ),
    ],
)
def test_mistakes_go_to_standard_error(
    words: list[str], code: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake ends with code 2 before anything starts; standard output stays empty."""
    run = Recorded()
    assert main(words, run=run) == code
    output = capsys.readouterr()
    assert output.err.splitlines() == lines
    assert output.out == ""
    assert run.settings is None


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        pytest.param(ConfigError("no such file"), 1, "error: no such file", id="configuration"),
        pytest.param(UsageError("no such kind"), 2, "error: no such kind", id="usage"),
        pytest.param(KeyboardInterrupt(), 130, "error: interrupted", id="interrupted"),
    ],
)
def test_failures_of_the_syncer_are_one_line(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the syncer can't do is one line and an exit code, no traceback."""
    assert main(["start"], run=Recorded(error=error)) == code
    assert capsys.readouterr().err.splitlines() == [line]


@pytest.mark.parametrize("retired", RETIRED, ids=lambda retired: retired.flag)
def test_retired_flags_warn_or_refuse(
    retired: object, quiet_logging: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag of a feature that does not exist is accepted only where it changes nothing."""
    assert isinstance(retired, type(RETIRED[0]))
    harmless = "true" if retired.harmless is None else retired.harmless[0]
    assert main(["start", f"--{retired.flag}={harmless}"], run=Recorded()) == 0
    assert quiet_logging == [f"--{retired.flag} is ignored: {retired.reason}"]
    if retired.harmless is not None:
        assert main(["start", f"--{retired.flag}=true"], run=Recorded()) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_deprecated_flags_warn(quiet_logging: list[str]) -> None:
    """A deprecated flag works and warns once."""
    assert main(["start", "--suffix=x", "--suffix=y"], run=Recorded()) == 0
    assert quiet_logging == ["--suffix is deprecated: use --name"]


# -- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_help_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help keeps to the terminal's width, between 60 and 100 columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["start", "--help"]) == 0
    widest = max(len(line) for line in capsys.readouterr().out.splitlines())
    assert widest <= max(60, min(100, columns)) or columns < 80


def test_help_has_every_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help shows each flag with its default and environment variable, in sections."""
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["start", "--help", "--nonsense"]) == 0
    lines = capsys.readouterr().out.splitlines()
    text = " ".join(" ".join(lines).split())
    for entry in entries():
        assert f"  --{entry.flag} {entry.option.metavar}".rstrip() in lines
        assert f"{entry.option.section}:" in lines
        assert entry.variable in text
        assert f"default: {entry.default};" in text or not entry.default
    assert not any(retired.flag in text for retired in RETIRED if retired.flag != "plugins")


def test_help_of_one_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flag's help is its name, what it does, and where else it can be set."""
    monkeypatch.setenv("COLUMNS", "80")
    main(["start", "-h"])
    assert (
        "  --host-kube-config FILE\n"
        "      Kubeconfig for the host cluster, where the syncer runs outside it.\n"
        "      [default: the pod's own service account; env: SYNCER_HOST_KUBE_CONFIG,\n"
        "      KUBECONFIG]\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]], ids=str)
def test_overview_lists_the_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the program says what it is and which commands it has."""
    assert main(words) == 0
    output = capsys.readouterr().out
    assert all(f"  {command.name} " in output for command in commands())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The version is one line on standard output."""
    assert main(["version"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("syncer 0.")
    assert line.count("\n") == 1


# -- the process ---------------------------------------------------------------------------------


def test_cli_imports_little() -> None:
    """Help and mistakes are quick: no HTTP library, no models, no certificates are imported."""
    code = (
        "import sys, syncer.cli, syncer.settings\n"
        "heavy = {'aiohttp', 'kubernetes_asyncio', 'cryptography', 'structlog', 'yaml',"
        " 'prometheus_client', 'syncer.app', 'uvloop'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_module_runs(tmp_path: Path) -> None:
    """`python -m syncer` is the program; a wrong flag gives code 2 and one line."""
    done = subprocess.run(
        [sys.executable, "-m", "syncer", "start", "--nam"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr == 'error: unknown flag "--nam"; did you mean "--name"?\n'
