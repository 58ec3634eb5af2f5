"""Settings: every source is read, the stronger one wins, and each mistake is one clear line."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as runs
from hypothesis import strategies as st
from pydantic import ValidationError

from syncer.settings import (
    Address,
    Entry,
    Settings,
    Toleration,
    UsageError,
    enabled_kinds,
    entries,
    go_bool,
    load,
    parse_toleration,
)

NOWHERE = Path("/nonexistent/namespace")
NAME_RULE = 'must not contain "-x-" or start with "x-": that separates names on hosts'
LABEL_RULE = (
    'must be a DNS label: lower case letters, digits and "-", at most 63 characters, '
    "with a letter or digit at both ends"
)
TOLERATION_RULE = (
    'must be "*", "key", "key=value", "key:Effect" or "key=value:Effect" '
    "(effects: NoSchedule, PreferNoSchedule, NoExecute)"
)
ADDRESS_RULE = 'must be "host:port", ":port" for every address, or "0" for off'
PORT_RULE = "must be a port: 0 (any that is free) to 65535"
SAN_RULE = 'must be a DNS name (maybe one that starts with "*.") or an IP address'
SELECTOR_RULE = 'must be of the form "key=value"; expressions can\'t be used'


def settings(environ: Mapping[str, str] | None = None, /, **flags: object) -> Settings:
    return load(flags, environ or {}, namespace_file=NOWHERE).settings


def mistakes(environ: Mapping[str, str] | None = None, /, **flags: object) -> tuple[str, ...]:
    with pytest.raises(UsageError) as caught:
        load(flags, environ or {}, namespace_file=NOWHERE)
    return caught.value.lines


def as_file(directory: Path, text: str) -> str:
    path = directory / "syncer.yaml"
    path.write_text(text)
    return str(path)


# -- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        pytest.param("name", "", "vcluster", id="empty name falls back"),
        pytest.param("node_selector", "", {}, id="empty selector"),
        pytest.param("sync", [""], (), id="empty list"),
        pytest.param("name", "my-vc", "my-vc", id="name"),
        pytest.param("name", "a-x", "a-x", id="name that only ends like a separator"),
        pytest.param("set_owner", "false", False, id="boolean"),
        pytest.param("set_owner", "F", False, id="boolean as in Go"),
        pytest.param("workers", "7", 7, id="number"),
        pytest.param("sync", ["a,-b", "c"], ("a", "-b", "c"), id="list, both ways"),
        pytest.param("sync", [" a , -b "], ("a", "-b"), id="list with spaces"),
        pytest.param("sync_labels", ["a", "b.c/*"], ("a", "b.c/*"), id="label keys"),
        pytest.param(
            "node_selector", "a=b,c.d/e=", {"a": "b", "c.d/e": ""}, id="selector, empty value"
        ),
        pytest.param(
            "translate_image", ["a:1=b:2,c=d/e@sha256:f"], {"a:1": "b:2", "c": "d/e@sha256:f"},
            id="images",
        ),
        pytest.param("metrics_bind_address", "0", None, id="address off"),
        pytest.param("metrics_bind_address", ":80", Address("", 80), id="every address"),
        pytest.param("metrics_bind_address", "[::1]:80", Address("::1", 80), id="IPv6"),
        pytest.param("metrics_bind_address", "localhost:0", Address("localhost", 0), id="any port"),
        pytest.param("log_level", "debug", "debug", id="choice"),
        pytest.param("port", "0", 0, id="any free port"),
        pytest.param("bind_address", "::0", "::", id="IPv6 address"),
        pytest.param(
            "tls_san", ["A.Example.com.,*.b", "2001:DB8:0::7"],
            ("a.example.com", "*.b", "2001:db8::7"), id="names as a certificate has them",
        ),
        pytest.param("out_kube_config_server", "https://a.b:1/c/", "https://a.b:1/c", id="URL"),
        pytest.param("out_kube_config_server", "https://[::1]:1", "https://[::1]:1", id="IPv6 URL"),
    ],
)  # fmt: skip
def test_values_are_parsed(field: str, text: object, expected: object) -> None:
    """A text from a flag becomes the value the program works with."""
    assert getattr(settings(**{field: text}), field) == expected


@pytest.mark.parametrize(
    ("field", "text", "line"),
    [
        pytest.param("name", "My", f'--name="My": {LABEL_RULE}', id="upper case"),
        pytest.param("name", "a.b", f'--name="a.b": {LABEL_RULE}', id="dot"),
        pytest.param("name", "a\n", f'--name="a\\n": {LABEL_RULE}', id="newline stays one line"),
        pytest.param("name", "a-x-b", f'--name="a-x-b": {NAME_RULE}', id="separator in name"),
        pytest.param("name", "x-b", f'--name="x-b": {NAME_RULE}', id="separator before name"),
        pytest.param("suffix", "a-x-b", f'--suffix="a-x-b": {NAME_RULE}', id="separator in suffix"),
        pytest.param("name", "a" * 64, f'--name="{"a" * 64}": {LABEL_RULE}', id="too long"),
        pytest.param(
            "target_namespace", "-a", f'--target-namespace="-a": {LABEL_RULE}', id="namespace"
        ),
        pytest.param(
            "set_owner", "yes", '--set-owner="yes": must be true or false', id="not a boolean"
        ),
        pytest.param(
            "workers", "many", '--workers="many": must be a whole number', id="not a number"
        ),
        pytest.param(
            "workers", "0", '--workers="0": must be greater than or equal to 1', id="too few"
        ),
        pytest.param(
            "workers", "", '--workers="": must be a whole number', id="no number"
        ),
        pytest.param(
            "log_level",
            "loud",
            "--log-level=\"loud\": must be 'debug', 'info', 'warning' or 'error'",
            id="choice",
        ),
        pytest.param(
            "cluster_domain", "", '--cluster-domain="": must not be empty', id="empty"
        ),
        pytest.param(
            "cluster_domain",
            "a..b",
            '--cluster-domain="a..b": must be a DNS name: lower case letters, digits, "-" and ".",'
            " at most 253 characters",
            id="domain",
        ),
        pytest.param(
            "override_hosts_container_image",
            "a b",
            '--override-hosts-container-image="a b": must not contain spaces',
            id="image",
        ),
        pytest.param(
            "sync_labels",
            ["a", "b c"],
            '--sync-labels="a,b c": "b c" must be a label key, or "prefix/*" for all with a prefix',
            id="label key",
        ),
        pytest.param(
            "node_selector",
            "a in (b)",
            f'--node-selector="a in (b)": "a in (b)" {SELECTOR_RULE}',
            id="selector expression",
        ),
        pytest.param(
            "node_selector", "a!=b", f'--node-selector="a!=b": "a!=b" {SELECTOR_RULE}', id="not"
        ),
        pytest.param(
            "node_selector",
            "a=b,a=c",
            '--node-selector="a=b,a=c": "a" must not be given two values',
            id="selector twice",
        ),
        pytest.param(
            "translate_image",
            ["a=b", "c"],
            '--translate-image="a=b,c": "c" must be of the form "image=other-image"',
            id="image map",
        ),
        pytest.param(
            "translate_image",
            ["a=b", "a=c"],
            '--translate-image="a=b,a=c": "a" must not be given two replacements',
            id="image twice",
        ),
        pytest.param(
            "enforce_toleration",
            ["a:Never"],
            f'--enforce-toleration="a:Never": "a:Never" {TOLERATION_RULE}',
            id="toleration",
        ),
        *(
            pytest.param(
                "metrics_bind_address",
                text,
                f'--metrics-bind-address="{text}": {ADDRESS_RULE}',
                id=f"address {text}",
            )
            for text in ("", "8080", "::1:80", ":65536", "a:b", "http://a:1")
        ),
        *(
            pytest.param("port", text, f'--port="{text}": {PORT_RULE}', id=f"port {text}")
            for text in ("65536", "-1", "https", "")
        ),
        pytest.param("port", -1, f'--port="-1": {PORT_RULE}', id="negative port, as of YAML"),
        pytest.param(
            "bind_address",
            "localhost",
            '--bind-address="localhost": must be an IP address, such as "0.0.0.0" or "::"',
            id="a name to listen on",
        ),
        *(
            pytest.param("tls_san", [text], f'--tls-san="{text}": "{text}" {SAN_RULE}', id=text)
            for text in (
                "*", "a..b", "a b", "a.*.b", "https://a", "fe80::1%eth0", "10.0.0.0/8", "::",
                f"{'a' * 64}.b",
            )
        ),
        *(
            pytest.param(
                "out_kube_config_server",
                text,
                f'--out-kube-config-server="{text}": must be a URL such as '
                '"https://tenant.example.com:443"',
                id=text,
            )
            for text in (
                "http://a", "https://", "https://:443", "https://a:b", "https://a:65536",
                "https://a:0", "https://a:", "https://a:b:1", "https://[::1", "https://u@a",
                "https://a?b", "https://a b",
            )
        ),
    ],
)  # fmt: skip
def test_wrong_values_are_one_line(field: str, text: object, line: str) -> None:
    """A wrong value is told in one line: where it was given, what it is, what would be right."""
    assert mistakes(**{field: text}) == (line,)


@pytest.mark.parametrize(
    "entry",
    [each for each in entries() if each.default and not each.option.shown_default],
    ids=lambda entry: entry.flag,
)
def test_defaults_are_told_as_they_would_be_typed(entry: Entry) -> None:
    """What help and docs give as the default can be given as the flag's value, and is it."""
    found = settings(**{entry.field: entry.default})
    assert getattr(found, entry.field) == getattr(settings(), entry.field)


def test_every_mistake_is_told_at_once() -> None:
    """Nobody has to run the program once for each of several mistakes."""
    lines = mistakes({"SYNCER_NAME": "X"}, workers="0", log_format="xml")
    assert [line.split("=")[0] for line in lines] == ["SYNCER_NAME", "--log-format", "--workers"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("*", Toleration("", "Exists"), id="everything"),
        pytest.param("k", Toleration("k", "Exists"), id="key"),
        pytest.param("a.b/k=v", Toleration("a.b/k", "Equal", "v"), id="key and value"),
        pytest.param("k=", Toleration("k", "Equal"), id="empty value"),
        pytest.param("k:NoExecute", Toleration("k", "Exists", "", "NoExecute"), id="key, effect"),
        pytest.param(
            "k=v:NoSchedule", Toleration("k", "Equal", "v", "NoSchedule"), id="key, value, effect"
        ),
    ],
)
def test_tolerations_have_five_forms(text: str, expected: Toleration) -> None:
    """Each form of --enforce-toleration means what vcluster takes it to mean."""
    assert parse_toleration(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":", "=v", "k:", "k:noexecute", "k=v=w", "k:A:B", "k v", "**"]
)
def test_other_tolerations_are_refused(text: str) -> None:
    """A toleration of any other form is a mistake, not a guess."""
    with pytest.raises(ValueError, match="must be"):
        parse_toleration(text)


def test_toleration_as_object_has_no_empty_fields() -> None:
    """A toleration goes into a pod without the fields that mean nothing there."""
    assert Toleration("", "Exists").as_object() == {"operator": "Exists"}
    assert parse_toleration("k=v:NoSchedule").as_object() == {
        "key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule",
    }  # fmt: skip


@runs(deadline=None)  # a busy machine is no failure
@given(st.text(max_size=8))
def test_booleans_are_those_of_go(text: str) -> None:
    """Just the texts that Go's ParseBool takes are booleans."""
    known = {"1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"}
    if text in known:
        assert go_bool(text) is (text[0] in "1tT")
    else:
        with pytest.raises(ValueError, match="must be true or false"):
            go_bool(text)


@runs(deadline=None)
@given(
    st.sampled_from([entry.field for entry in entries() if entry.field != "config"]),
    st.text(max_size=40),
)
def test_any_text_is_taken_or_told(field: str, text: str) -> None:
    """Whatever a flag is set to, the answer is settings or one line that can be shown."""
    lines: tuple[str, ...] = ()
    try:
        settings(**{field: text})
    except UsageError as error:
        lines = error.lines
    assert all(line.isprintable() for line in lines)


# -- sources -------------------------------------------------------------------------------------


def test_defaults_need_nothing() -> None:
    """Without any source every setting has its default and nothing is warned of."""
    loaded = load({}, {}, namespace_file=NOWHERE)
    assert loaded.warnings == ()
    assert loaded.settings == Settings()
    assert loaded.settings.service_account_token_secrets is True
    assert loaded.settings.kube_config == "/data/server/cred/admin.kubeconfig"


def test_flag_beats_environment_beats_file_beats_ambient(tmp_path: Path) -> None:
    """The stronger source wins: flag, SYNCER_ variable, file, foreign variable."""
    path = as_file(tmp_path, "host-kube-config: file\n")
    environ = {"KUBECONFIG": "ambient"}
    assert settings(environ).host_kube_config == "ambient"
    assert settings(environ, config=path).host_kube_config == "file"
    environ["SYNCER_HOST_KUBE_CONFIG"] = "variable"
    assert settings(environ, config=path).host_kube_config == "variable"
    assert settings(environ, config=path, host_kube_config="flag").host_kube_config == "flag"


def test_environment_lists_have_commas() -> None:
    """A list in the environment is separated by commas."""
    assert settings({"SYNCER_SYNC": "a,-b"}).sync == ("a", "-b")


def test_empty_variables_do_not_count() -> None:
    """An empty variable leaves the setting as it is, as an unset one does."""
    environ = {"SYNCER_WORKERS": "", "SYNCER_SET_OWNER": "", "NAMESPACE": "", "KUBECONFIG": ""}
    assert settings(environ) == Settings()


def test_config_can_come_from_the_environment(tmp_path: Path) -> None:
    """SYNCER_CONFIG names the file as --config does."""
    path = as_file(tmp_path, "name: x\n")
    assert settings({"SYNCER_CONFIG": path}).name == "x"


@pytest.mark.parametrize(
    ("environ", "file", "expected"),
    [
        pytest.param({}, None, "default", id="nothing"),
        pytest.param({}, "from-file\n", "from-file", id="service account"),
        pytest.param({"NAMESPACE": "ns"}, "from-file", "ns", id="NAMESPACE wins"),
    ],
)
def test_current_namespace(
    environ: dict[str, str], file: str | None, expected: str, tmp_path: Path
) -> None:
    """The current namespace is NAMESPACE, else the service account's, else "default"."""
    path = tmp_path / "namespace"
    if file is not None:
        path.write_text(file)
    found = load({}, environ, namespace_file=path).settings
    assert (found.current_namespace, found.target_namespace) == (expected, expected)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param({}, ("vcluster", "vcluster"), id="neither"),
        pytest.param({"suffix": "s"}, ("s", "s"), id="suffix"),
        pytest.param({"suffix": "s", "name": "n"}, ("n", "n"), id="name wins"),
        pytest.param({"name": "n", "service_name": "svc"}, ("n", "svc"), id="own service name"),
    ],
)
def test_name_and_service_name_fall_back(flags: dict[str, str], expected: tuple[str, str]) -> None:
    """The tenant is --name, else --suffix, else "vcluster"; its service is called the same."""
    found = settings(**flags)
    assert (found.name, found.service_name) == expected


# -- file ----------------------------------------------------------------------------------------


def test_file_takes_natural_yaml(tmp_path: Path) -> None:
    """Values in the file have YAML's own types; texts as a flag has them work too."""
    path = as_file(
        tmp_path,
        "set-owner: false\nworkers: 7\nsync: [a, -b]\nsync-labels: a,b\nname:\n"
        "metrics-bind-address: 0\noverride-hosts: 'false'\n",
    )
    found = settings(config=path)
    assert (found.set_owner, found.workers, found.sync) == (False, 7, ("a", "-b"))
    assert (found.sync_labels, found.name) == (("a", "b"), "vcluster")
    assert (found.metrics_bind_address, found.override_hosts) == (None, False)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("nmae: x", 'nmae: unknown setting; did you mean "name"?', id="typing error"),
        pytest.param(
            "setOwner: x", 'setOwner: unknown setting; did you mean "set-owner"?', id="camel case"
        ),
        pytest.param(
            "set_owner: x", 'set_owner: unknown setting; did you mean "set-owner"?', id="snake case"
        ),
        pytest.param("zzz: x", "zzz: unknown setting", id="nothing alike"),
        pytest.param("5: x", "5: unknown setting", id="number as key"),
        pytest.param("config: x", "config: unknown setting", id="no file in a file"),
        pytest.param("current-namespace: x", "current-namespace: unknown setting", id="no setting"),
        pytest.param("name: 5", 'name="5": must be a valid string', id="number as name"),
        pytest.param("name: [a]", 'name="a": must be a valid string', id="list as name"),
        pytest.param("workers: true", 'workers="true": must be a whole number', id="yes as number"),
        pytest.param("set-owner: 1", 'set-owner="1": must be true or false', id="number as yes"),
        pytest.param("sync: [1]", 'sync="1": must be a list of texts', id="numbers in a list"),
        pytest.param("name: a\nname: b", "name: is there more than once", id="twice"),
    ],
)  # fmt: skip
def test_file_is_strict(text: str, line: str, tmp_path: Path) -> None:
    """What the file says wrongly is refused, naming file and key."""
    path = as_file(tmp_path, text)
    (found,) = mistakes(config=path)
    assert found.startswith(f"{path}: {line}")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        pytest.param(None, "can't be read: No such file or directory", id="missing"),
        pytest.param(b"- a", 'must hold a mapping, such as "name: my-vcluster"', id="a list"),
        pytest.param(b"\xff\xfe\x00", "is not a text file", id="binary"),
        pytest.param(b"a: [", "is not YAML: while parsing", id="broken"),
        pytest.param(b"a: !!python/name:os.system", "is not YAML: could not", id="python tag"),
    ],
)
def test_unusable_files_are_told(content: bytes | None, rule: str, tmp_path: Path) -> None:
    """A file that is no settings file is one line naming --config."""
    path = tmp_path / "syncer.yaml"
    if content is not None:
        path.write_bytes(content)
    (line,) = mistakes(config=str(path))
    assert line.startswith(f'--config="{path}": {rule}')
    assert "\n" not in line


def test_empty_file_is_fine(tmp_path: Path) -> None:
    """A file with comments only sets nothing."""
    path = as_file(tmp_path, "# nothing\n")
    assert settings(config=path) == Settings(config=path)


# -- deprecated ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "sync"),
    [
        pytest.param({"fake_nodes": "true"}, (), id="fake nodes on"),
        pytest.param({"rewrite_host_paths": "true"}, (), id="ignored"),
        pytest.param({"fake_nodes": "false"}, ("nodes",), id="real nodes"),
        pytest.param(
            {"fake_persistent_volumes": "false"}, ("persistentvolumes",), id="real volumes"
        ),
        pytest.param({"disable_sync_resources": ["a,b"]}, ("-a", "-b"), id="disabled"),
        pytest.param(
            {"disable_sync_resources": ["a"], "sync": ["c", "-a"]}, ("c", "-a"), id="said twice"
        ),
    ],
)  # fmt: skip
def test_deprecated_settings_are_aliases_of_sync(
    flags: dict[str, object], sync: tuple[str, ...]
) -> None:
    """A deprecated setting works as what replaces it, and is warned of once."""
    loaded = load(flags, {}, namespace_file=NOWHERE)
    assert loaded.settings.sync == sync
    assert len(loaded.warnings) == 1


def test_deprecation_says_what_to_use() -> None:
    """The warning names the source and the replacement."""
    loaded = load({}, {"SYNCER_SUFFIX": "x"}, namespace_file=NOWHERE)
    assert loaded.warnings == ("SYNCER_SUFFIX is deprecated: use --name",)


# -- kinds ---------------------------------------------------------------------------------------

KINDS = {"pods": True, "services": True, "ingresses": False}


@pytest.mark.parametrize(
    ("sync", "expected"),
    [
        pytest.param([], {"pods", "services"}, id="defaults"),
        pytest.param(["pods"], {"pods", "services"}, id="on already"),
        pytest.param(["-ingresses"], {"pods", "services"}, id="off already"),
        pytest.param(["ingresses"], {"pods", "services", "ingresses"}, id="on"),
        pytest.param(["-pods"], {"services"}, id="off"),
        pytest.param(["-ingresses", "ingresses"], {"pods", "services"}, id="off wins"),
    ],
)
def test_sync_turns_kinds_on_and_off(sync: list[str], expected: set[str]) -> None:
    """--sync adds to the defaults, a dash takes away, and off is stronger than on."""
    assert enabled_kinds(sync, KINDS) == expected


@pytest.mark.parametrize(
    ("word", "line"),
    [
        pytest.param(
            "-podz",
            '--sync="-podz": there is no such kind; did you mean "pods"?'
            " (kinds: ingresses, pods, services)",
            id="typing error",
        ),
        pytest.param(
            "*", '--sync="*": there is no such kind (kinds: ingresses, pods, services)', id="star"
        ),
    ],
)
def test_unknown_kinds_are_refused(word: str, line: str) -> None:
    """A name that is no kind is refused with the names that are."""
    with pytest.raises(UsageError) as caught:
        enabled_kinds([word], KINDS)
    assert caught.value.lines == (line,)


# -- the model -----------------------------------------------------------------------------------


def test_settings_can_not_be_changed() -> None:
    """Settings are the same for the life of the process."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().name = "x"  # type: ignore[misc]


@pytest.mark.parametrize("entry", list(entries()), ids=lambda entry: entry.flag)
def test_every_setting_is_described(entry: Entry) -> None:
    """Each setting has a sentence for people, and a placeholder unless it is a boolean."""
    assert entry.description.endswith(".")
    assert bool(entry.option.metavar) is not entry.boolean
