"""Docs that tell names must tell the code's."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from syncer.cli import commands, parse
from syncer.http1 import server
from syncer.ops.metrics import DEFINITIONS
from syncer.proxy import endpoint, listener, nodes, request, resource_metrics, upgrade, upstream
from syncer.settings import Entry, entries, load, with_tables

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
METRICS = (ROOT / "docs" / "metrics.md").read_text()


ENDPOINT = (ROOT / "docs" / "endpoint.md").read_text()


def block(text: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


def test_settings_tables_are_generated() -> None:
    """docs/configuration.md is what `make docs` writes."""
    assert with_tables(CONFIGURATION) == CONFIGURATION


@pytest.mark.parametrize("entry", list(entries()), ids=lambda entry: entry.flag)
def test_every_setting_has_a_row(entry: Entry) -> None:
    """Each flag and its variable are in the tables, once."""
    rows = [row for row in CONFIGURATION.splitlines() if row.startswith(f"| `--{entry.flag}")]
    variable = f"| `{entry.variable}` |" if entry.variable else "|  |"
    assert len([row for row in rows if variable in row]) == 1


def test_example_file_loads(tmp_path: Path) -> None:
    """The settings file of the docs is a settings file, and says something other than defaults."""
    path = tmp_path / "syncer.yaml"
    path.write_text(block(CONFIGURATION, "yaml"))
    loaded = load({"config": str(path)}, {}, namespace_file=tmp_path / "none")
    assert loaded.warnings == ()
    assert loaded.settings.target_namespace == "team-a"
    assert loaded.settings.node_selector == {"pool": "team-a"}


def test_metrics_are_those_of_the_code() -> None:
    """docs/metrics.md names each metric with the type, the labels and the meaning it has."""
    rows = re.findall(r"^\| `(syncer_\w+)` \| (\w+) \|([^|]*)\| ([^|]*) \|$", METRICS, re.MULTILINE)
    documented = [
        (name, type_, tuple(labels.replace(",", " ").split()), meaning)
        for name, type_, labels, meaning in rows
    ]
    assert documented == [(d.name, d.type, d.labels, d.help) for d in DEFINITIONS]


def test_queries_use_metrics_that_exist() -> None:
    """Queries and alerts of the docs name no metric that isn't there."""
    known = {d.name for d in DEFINITIONS}
    known |= {f"{name}_{part}" for name in known for part in ("bucket", "sum", "count")}
    assert set(re.findall(r"\bsyncer_\w+", METRICS)) <= known


def test_alerts_are_a_rule_file() -> None:
    """The alerts are YAML in the form of a Prometheus rule file."""
    (group,) = yaml.safe_load(block(METRICS, "yaml"))["groups"]
    assert all({"alert", "expr", "annotations"} <= set(rule) for rule in group["rules"])


UNITS = {"": 1, "s": 1, "h": 3600, "KiB": 1 << 10, "MiB": 1 << 20}
OF_API_SERVERS = 60  # seconds, their own
TOO_MANY = 429
LIMITS: dict[str, list[object]] = {
    "connections": ["proxy-max-connections"],
    "TLS handshakes at a time": [listener.MAX_HANDSHAKES],
    "short requests of one user at a time": ["proxy-max-requests-per-user", TOO_MANY],
    "watches, logs, tunnels of one user at a time": ["proxy-max-streams-per-user", TOO_MANY],
    "a request's path and query": [request.MAX_TARGET],
    "a request's line, each of its headers": [
        server.MAX_FIELD,
        server.MAX_FIELDS,
        server.MAX_HEAD,
    ],
    "a request's body": [upstream.MAX_BODY, upstream.MAX_OBJECT],
    "requirements of a selector for `metrics.k8s.io`": [resource_metrics.MAX_DEMANDS],
    "pages of kubelets at a time, for all users together": [
        nodes.MAX_NODE_PAGES,
        nodes.MAX_PAGES,
        TOO_MANY,
    ],
    "a summary of a kubelet (`/stats/summary`)": [nodes.MAX_SUMMARY],
    "a page of a kubelet, once it has begun": [nodes.PAGE_SECONDS],
    "a request's head": [server.HEAD_SECONDS, listener.HANDSHAKE_SECONDS],
    "a pause within a body": [upstream.BODY_SECONDS],
    "a short request, to the last byte of its answer": [endpoint.ANSWER_SECONDS, OF_API_SERVERS],
    "an idle connection": [server.IDLE_SECONDS],
    "an idle tunnel": [upgrade.IDLE_SECONDS],
}


def test_the_endpoints_limits_are_those_of_the_code() -> None:
    """docs/endpoint.md has a row for each of these, and its figures are the code's, in order."""
    _, _, rest = ENDPOINT.partition("## Limits")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", rest.partition("\n## ")[0], re.MULTILINE))
    assert rows.pop("what") == "limit"
    told = {
        what: [
            flag or int(number) * UNITS[unit]
            for flag, number, unit in re.findall(r"--([a-z-]+)|\b(\d+)(?: (KiB|MiB|s|h)\b)?", limit)
        ]
        for what, limit in rows.items()
    }
    assert told == LIMITS
    flags = {entry.flag for entry in entries()}
    assert {each for row in LIMITS.values() for each in row if isinstance(each, str)} <= flags


PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
OTHERS_FLAGS = {  # of API servers, their controllers, and `python -m bench`
    "endpoint-reconciler-type",
    "service-account-extend-token-expiration",
    "client-ca-file",
    "requestheader-client-ca-file",
    "controllers",
    "profile",
    "write",
    "flag",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_of_the_docs_exist(page: Path) -> None:
    """A flag that a document names is one of the syncer's, or known to be another program's."""
    known = {flag.name for command in commands() for flag in command.flags}
    assert set(re.findall(r"`--([a-z-]+)", page.read_text())) - OTHERS_FLAGS <= known


def test_commands_of_the_docs_are_understood() -> None:
    """What is shown to be typed is: each command line is read without a complaint."""
    known = {command.name: command for command in commands()}
    lines = [
        shlex.split(line, comments=True)
        for page in PAGES
        for shown in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
        for line in re.findall(r"(?:\w+=\S+ )?syncer .*", shown.replace("\\\n", " "))
    ]
    assert len(lines) > 5
    for words in lines:
        _, name, *flags = words[words.index("syncer") :]
        typed = flags[: flags.index(">")] if ">" in flags else flags
        values = parse(typed, known[name])
        assert values
        if name == "start":
            load({key.replace("-", "_"): value[-1] for key, value in values.items()}, {})


def test_make_targets_of_the_docs_exist() -> None:
    """A make target that a document tells of is one."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    texts = [(ROOT / "CONTRIBUTING.md").read_text(), CONFIGURATION, METRICS]
    texts.append((ROOT / ".ci" / "run").read_text())
    told = {
        name for text in texts for name in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    }
    assert told <= targets
