"""Every setting of the syncer, once: flag, environment variable, file key, default and meaning.

:class:`Settings` is the one source; the command line, ``--help``, the environment, the YAML file
and ``docs/configuration.md`` are all made from its fields. What :func:`load` returns is complete
and valid: fallbacks (the tenant's name, the namespaces) are resolved and texts are parsed.

A setting is looked for in this order: flag, environment (``SYNCER_<FIELD>``, lists separated by
commas, an empty variable counts as not set), file (``--config``), a foreign environment variable
where one is customary, default.

Invariants:
* a wrong value is never replaced by a default: :class:`UsageError` has one line for each, naming
  where the value came from, the value, and what would be right;
* a field that falls back on other fields is declared after them (pydantic validates in order).

Never reads anything but the settings file and the service account's namespace, and knows no kind
of Kubernetes object.

Source: names and defaults are those of vcluster v0.16 ``start``; differences are listed in
``docs/configuration.md``.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from syncer.dns1123 import is_label, is_subdomain

ENV_PREFIX: Final = "SYNCER_"
"""What the environment variable of each setting starts with."""

SERVICE_ACCOUNT_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where Kubernetes tells a pod its namespace."""

_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS_PART = r"[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?"
_CERTIFICATE_NAME = re.compile(rf"(\*\.)?{_DNS_PART}(\.{_DNS_PART})*")
_HTTPS_URL = re.compile(
    r"https://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[^\s?#]*)?"
)
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_LABEL_RULE = (
    'must be a DNS label: lower case letters, digits and "-", at most 63 characters, '
    "with a letter or digit at both ends"
)
_TOLERATION_RULE = (
    'must be "*", "key", "key=value", "key:Effect" or "key=value:Effect" '
    f"(effects: {', '.join(_EFFECTS)})"
)


class UsageError(Exception):
    """What was asked for can't be done as written.

    Attributes:
        lines: one for each mistake: where, the value, what would be right. Control characters
            that came with a value are escaped.
    """

    def __init__(self, *lines: str) -> None:
        self.lines = tuple(map(_printable, lines))
        super().__init__("\n".join(self.lines))


def _printable(text: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


@dataclass(frozen=True, slots=True)
class Option:
    """How a setting looks to people; an annotation of its field.

    Attributes:
        section: heading in ``--help`` and in the docs, one of :data:`SECTIONS`.
        metavar: placeholder of the value; ``""`` for booleans, which need none.
        repeated: a list: may be given several times, or once with commas.
        shown_default: what to show as default when it depends on something else.
        ambient: a foreign environment variable that counts when nothing else says anything.
        deprecated: what to tell those who use it, as a clause; ``""``: it isn't deprecated.
        flag: whether there is a flag, ``SYNCER_`` variable and file key at all.
        variable: whether there is a ``SYNCER_`` variable.
    """

    section: str
    metavar: str = ""
    repeated: bool = False
    shown_default: str = ""
    ambient: str = ""
    deprecated: str = ""
    flag: bool = True
    variable: bool = True


SECTIONS: Final = (
    "The virtual cluster",
    "API servers",
    "The tenant's endpoint",
    "What is synced",
    "Pods",
    "Nodes and scheduling",
    "Operation",
    "Deprecated",
)
"""The headings, in the order they are shown."""


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration that every host pod gets.

    Attributes:
        key: taint key; ``""`` tolerates every taint.
        operator: ``Exists`` or ``Equal``.
        value: taint value, for ``Equal``.
        effect: taint effect; ``""`` means each.
    """

    key: str
    operator: Literal["Exists", "Equal"]
    value: str = ""
    effect: str = ""

    def as_object(self) -> dict[str, Any]:
        """Give it as an item of ``spec.tolerations``, a new dict each time."""
        item = {"key": self.key, "operator": self.operator}
        item |= {"value": self.value, "effect": self.effect}
        return {key: value for key, value in item.items() if value}


class Address(NamedTuple):
    """Where to listen; host ``""`` is every address of the machine, port 0 any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


# -- parsing of values: each takes what flag, environment or file gave --------------------------


def go_bool(value: object) -> bool:
    """Read a boolean the way Go flags do.

    Args:
        value: a bool, or one of the texts 1, t, T, TRUE, true, True, 0, f, F, FALSE, false, False.

    Raises:
        ValueError: it is anything else.

    Source: Go, package strconv, ParseBool.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _TRUE | _FALSE:
        return value in _TRUE
    raise ValueError("must be true or false")


def _integer(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError("must be a whole number")


def _words(value: object) -> tuple[str, ...]:
    """Split a list given as a text with commas, as several such texts, or as a YAML list."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError("must be a list of texts")
    return tuple(word for text in texts for part in text.split(",") if (word := part.strip()))


def _dns_label(value: str) -> str:
    if value and not is_label(value):
        raise ValueError(_LABEL_RULE)
    return value


def _tenant_name(value: str) -> str:
    """Refuse what makes one host name two tenants': ``a-x-b`` and ``b``, ``x-b`` and ``b``."""
    if "-x-" in f"-{value}":
        raise ValueError('must not contain "-x-" or start with "x-": that separates names on hosts')
    return value


def _dns_subdomain(value: str) -> str:
    if value and not is_subdomain(value):
        raise ValueError(
            'must be a DNS name: lower case letters, digits, "-" and ".", at most 253 characters'
        )
    return value


def _one_word(value: str) -> str:
    if re.search(r"\s", value):
        raise ValueError("must not contain spaces")
    return value


def _required(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


def _is_label_key(text: str) -> bool:
    prefix, slash, name = text.rpartition("/")
    if slash and not is_subdomain(prefix):
        return False
    return bool(_QUALIFIED.fullmatch(name))


def _is_label_value(text: str) -> bool:
    return not text or bool(_QUALIFIED.fullmatch(text))


def _ip_address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError('must be an IP address, such as "0.0.0.0" or "::"') from None


def _port(value: object) -> int:
    with suppress(ValueError):
        if 0 <= (port := _integer(value)) <= 65535:
            return port
    raise ValueError("must be a port: 0 (any that is free) to 65535")


def certificate_name(text: str) -> str:
    """Give a name or address as a certificate has it, or ``""`` when it is neither.

    Args:
        text: DNS name, maybe with ``*.`` in front, or IP address.
    """
    try:
        address = ip_address(text)
    except ValueError:
        name = text.lower().removesuffix(".")
        return name if len(name) <= 253 and _CERTIFICATE_NAME.fullmatch(name) else ""
    return "" if address.is_unspecified or "%" in text else str(address)


def _certificate_names(value: tuple[str, ...]) -> tuple[str, ...]:
    for word in value:
        if not certificate_name(word):
            raise ValueError(
                f'"{word}" must be a DNS name (maybe one that starts with "*.") or an IP address'
            )
    return tuple(map(certificate_name, value))


def _https_url(value: str) -> str:
    found = _HTTPS_URL.fullmatch(value)
    if value and not (found and 0 < int(found["port"] or 443) <= 65535):
        raise ValueError('must be a URL such as "https://tenant.example.com:443"')
    return value.rstrip("/")


def _synced_labels(value: tuple[str, ...]) -> tuple[str, ...]:
    for word in value:
        if not _is_label_key(f"{word[:-1]}x" if word.endswith("/*") else word):
            raise ValueError(f'"{word}" must be a label key, or "prefix/*" for all with a prefix')
    return value


def _node_selector(value: object) -> Mapping[str, str]:
    """Read ``key=value[,key=value]``.

    Expressions are refused because the labels are also put on pods, where ``nodeSelector`` has
    only equality. Source: vcluster v0.16.4, ``--node-selector``.
    """
    if isinstance(value, Mapping):
        return {str(key): str(label) for key, label in value.items()}
    if not isinstance(value, str):
        raise ValueError('must be a text of the form "key=value,key=value"')
    labels: dict[str, str] = {}
    for word in _words(value):
        key, equals, label = word.partition("=")
        if not equals or not _is_label_key(key) or not _is_label_value(label):
            raise ValueError(
                f'"{word}" must be of the form "key=value"; expressions can\'t be used'
            )
        if labels.setdefault(key, label) != label:
            raise ValueError(f'"{key}" must not be given two values')
    return labels


def parse_toleration(text: str) -> Toleration:
    """Read one of the forms of ``--enforce-toleration``.

    Args:
        text: ``*`` (tolerates everything), ``key``, ``key=value``, ``key:Effect`` or
            ``key=value:Effect``.

    Raises:
        ValueError: it has another form, or key, value or effect can't exist.

    Source: vcluster v0.16.4 ``pkg/util/toleration``.
    """
    if text == "*":
        return Toleration("", "Exists")
    taint, colon, effect = text.partition(":")
    key, equals, value = taint.partition("=")
    wrong = (colon and effect not in _EFFECTS) or not _is_label_value(value)
    if wrong or not _is_label_key(key):
        raise ValueError(f'"{text}" {_TOLERATION_RULE}')
    return Toleration(key, "Equal" if equals else "Exists", value, effect)


def _tolerations(value: object) -> tuple[Toleration, ...]:
    if isinstance(value, list | tuple) and any(isinstance(item, Toleration) for item in value):
        return tuple(value)
    return tuple(parse_toleration(word) for word in _words(value))


def _image_map(value: object) -> Mapping[str, str]:
    if isinstance(value, Mapping):
        return {str(old): str(new) for old, new in value.items()}
    images: dict[str, str] = {}
    for word in _words(value):
        old, _, new = word.partition("=")
        if not old or not new or "=" in new:
            raise ValueError(f'"{word}" must be of the form "image=other-image"')
        if images.setdefault(old, new) != new:
            raise ValueError(f'"{old}" must not be given two replacements')
    return images


def _address(value: object) -> Address | None:
    if value is None or isinstance(value, Address):
        return value
    text = str(value)
    if text == "0" and not isinstance(value, bool):
        return None
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    wrong_host = (":" in bare and bare == host) or not re.fullmatch(r"[-A-Za-z0-9.:_%]*", bare)
    if not colon or wrong_host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError('must be "host:port", ":port" for every address, or "0" for off')
    return Address(bare, int(port))


Bool: TypeAlias = Annotated[bool, BeforeValidator(go_bool)]
Count: TypeAlias = Annotated[int, BeforeValidator(_integer), Field(ge=1, le=10_000)]
Words: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_words)]
DnsLabel: TypeAlias = Annotated[str, AfterValidator(_dns_label)]
TenantName: TypeAlias = Annotated[DnsLabel, AfterValidator(_tenant_name)]
DnsName: TypeAlias = Annotated[str, AfterValidator(_dns_subdomain)]
Word: TypeAlias = Annotated[str, AfterValidator(_one_word)]
NodeSelector: TypeAlias = Annotated[Mapping[str, str], PlainValidator(_node_selector)]
Tolerations: TypeAlias = Annotated[tuple[Toleration, ...], BeforeValidator(_tolerations)]
ImageMap: TypeAlias = Annotated[Mapping[str, str], PlainValidator(_image_map)]
HttpsUrl: TypeAlias = Annotated[str, AfterValidator(_https_url)]
Port: TypeAlias = Annotated[int, BeforeValidator(_port)]
Listen: TypeAlias = Annotated[Address | None, PlainValidator(_address)]

_DEPRECATED = "Deprecated"
_ENDPOINT = "The tenant's endpoint"
_NOTHING: tuple[object, ...] = ("", (), {}, None)
_Model = TypeVar("_Model", bound=BaseModel)


class Settings(BaseModel):
    """All settings, valid and with their fallbacks resolved."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # Deprecated ones stand first: the fields that replace them look at them.
    suffix: Annotated[TenantName, Option(_DEPRECATED, "NAME", deprecated="use --name")] = Field(
        default="", description="Name of the virtual cluster, where --name is not given."
    )
    fake_nodes: Annotated[Bool, Option(_DEPRECATED, deprecated="use --sync=nodes")] = Field(
        default=True, description="With false, the same as --sync=nodes."
    )
    fake_kubelets: Annotated[
        Bool, Option(_DEPRECATED, deprecated="use --disable-fake-kubelets")
    ] = Field(default=True, description="With false, the same as --disable-fake-kubelets.")
    fake_persistent_volumes: Annotated[
        Bool, Option(_DEPRECATED, deprecated="use --sync=persistentvolumes")
    ] = Field(default=True, description="With false, the same as --sync=persistentvolumes.")
    disable_sync_resources: Annotated[
        Words, Option(_DEPRECATED, "KIND", repeated=True, deprecated="use --sync=-KIND")
    ] = Field(default=(), description="The same as --sync=-KIND.")
    rewrite_host_paths: Annotated[Bool, Option(_DEPRECATED, deprecated="it has no effect")] = Field(
        default=False, description="Ignored: log paths of the host are always rewritten."
    )

    current_namespace: Annotated[
        DnsLabel, Option("API servers", flag=False, ambient="NAMESPACE")
    ] = Field(default="default", description="Host namespace that the syncer itself runs in.")

    name: Annotated[TenantName, Option("The virtual cluster", "NAME", shown_default="vcluster")] = (
        Field(
            default="",
            description='Name of the virtual cluster, without "-x-"; ends host objects\' names.',
            validate_default=True,
        )
    )
    target_namespace: Annotated[
        DnsLabel,
        Option("The virtual cluster", "NAMESPACE", shown_default="the syncer's own namespace"),
    ] = Field(
        default="", description="Host namespace that holds all the copies.", validate_default=True
    )
    service_name: Annotated[
        DnsLabel, Option("The virtual cluster", "NAME", shown_default="the value of --name")
    ] = Field(
        default="",
        description="Service of the virtual cluster in the host cluster; it owns all host objects.",
        validate_default=True,
    )
    set_owner: Annotated[Bool, Option("The virtual cluster")] = Field(
        default=True,
        description="Give host objects an owner reference to that service, to go when it goes.",
    )
    cluster_domain: Annotated[
        DnsName, AfterValidator(_required), Option("The virtual cluster", "DOMAIN")
    ] = Field(default="cluster.local", description="DNS domain of the virtual cluster.")

    kube_config: Annotated[str, AfterValidator(_required), Option("API servers", "FILE")] = Field(
        default="/data/server/cred/admin.kubeconfig",
        description="Kubeconfig of an administrator of the virtual cluster.",
    )
    host_kube_config: Annotated[
        str,
        Option(
            "API servers",
            "FILE",
            shown_default="the pod's own service account",
            ambient="KUBECONFIG",
        ),
    ] = Field(
        default="", description="Kubeconfig for the host cluster, where the syncer runs outside it."
    )
    host_max_in_flight: Annotated[Count, Option("API servers", "N")] = Field(
        default=64, description="Most requests at a time to the host API server; fewer while slow."
    )
    virtual_max_in_flight: Annotated[Count, Option("API servers", "N")] = Field(
        default=64,
        description="Most requests at a time to the virtual API server; fewer while slow.",
    )

    bind_address: Annotated[str, AfterValidator(_ip_address), Option(_ENDPOINT, "IP")] = Field(
        default="0.0.0.0",  # noqa: S104 - tenants come from everywhere
        description="Address of the API that the tenant's kubeconfig points at.",
    )
    port: Annotated[Port, Option(_ENDPOINT, "N", variable=False)] = Field(
        default=8443, description="Port of that API; 0 is any that is free."
    )
    tls_san: Annotated[
        Words, AfterValidator(_certificate_names), Option(_ENDPOINT, "NAME", repeated=True)
    ] = Field(
        default=(),
        description="Further DNS names and IP addresses that its certificate is good for.",
    )
    server_ca_cert: Annotated[str, AfterValidator(_required), Option(_ENDPOINT, "FILE")] = Field(
        default="/data/server/tls/server-ca.crt",
        description="CA of the virtual cluster's servers: issues the certificate of this one.",
    )
    server_ca_key: Annotated[str, AfterValidator(_required), Option(_ENDPOINT, "FILE")] = Field(
        default="/data/server/tls/server-ca.key", description="Private key of that CA."
    )
    client_ca_cert: Annotated[str, AfterValidator(_required), Option(_ENDPOINT, "FILE")] = Field(
        default="/data/server/tls/client-ca.crt",
        description="CA whose client certificates say who a user is.",
    )
    request_header_ca_cert: Annotated[str, AfterValidator(_required), Option(_ENDPOINT, "FILE")] = (
        Field(
            default="/data/server/tls/request-header-ca.crt",
            description="CA of front proxies: they name the user in X-Remote-* headers.",
        )
    )
    request_header_allowed_names: Annotated[Words, Option(_ENDPOINT, "NAME", repeated=True)] = (
        Field(
            default=("system:auth-proxy", "front-proxy-client"),
            description="Common names that a front proxy's certificate may have.",
        )
    )
    proxy_metrics_server: Annotated[Bool, Option(_ENDPOINT)] = Field(
        default=False,
        description="Serve metrics.k8s.io (kubectl top) from the host's, the tenant's own only.",
    )
    host_kubelet_insecure_tls: Annotated[Bool, Option(_ENDPOINT)] = Field(
        default=False,
        description="Don't check the certificates of host kubelets that metrics are read from.",
    )
    proxy_max_connections: Annotated[Count, Option(_ENDPOINT, "N")] = Field(
        default=4096, description="Most client connections at a time; further ones are closed."
    )
    proxy_max_requests_per_user: Annotated[Count, Option(_ENDPOINT, "N")] = Field(
        default=400, description="Most short requests of one user at a time; further ones get 429."
    )
    proxy_max_streams_per_user: Annotated[Count, Option(_ENDPOINT, "N")] = Field(
        default=1000,
        description="Most watches, logs, execs and tunnels of one user at a time.",
    )
    access_log: Annotated[Bool, Option(_ENDPOINT)] = Field(
        default=False, description="Log each request: user, verb, object, answer and time."
    )
    kube_config_context_name: Annotated[Word, Option(_ENDPOINT, "NAME")] = Field(
        default="", description="Name of the context in the kubeconfig that is written."
    )
    out_kube_config_secret: Annotated[DnsName, Option(_ENDPOINT, "NAME")] = Field(
        default="", description="Further secret on the host that the kubeconfig is written to."
    )
    out_kube_config_secret_namespace: Annotated[
        DnsLabel, Option(_ENDPOINT, "NAMESPACE", shown_default="the syncer's own namespace")
    ] = Field(default="", description="Namespace of that secret.", validate_default=True)
    out_kube_config_server: Annotated[
        HttpsUrl, Option(_ENDPOINT, "URL", shown_default="https://localhost:PORT")
    ] = Field(default="", description="Server that the kubeconfig names.")

    sync: Annotated[Words, Option("What is synced", "KIND", repeated=True)] = Field(
        default=(),
        description="Kinds to sync besides those that are on by default; -KIND turns one off.",
        validate_default=True,
    )
    sync_labels: Annotated[
        Words,
        AfterValidator(_synced_labels),
        Option("What is synced", "KEY", repeated=True),
    ] = Field(
        default=(),
        description="Label keys that host objects carry unchanged too; prefix/* means all with it.",
    )
    sync_all_configmaps: Annotated[Bool, Option("What is synced")] = Field(
        default=False, description="Sync every config map, not only those that pods use."
    )
    sync_all_secrets: Annotated[Bool, Option("What is synced")] = Field(
        default=False, description="Sync every secret, not only those that pods or ingresses use."
    )

    service_account: Annotated[DnsName, Option("Pods", "NAME")] = Field(
        default="", description="Service account of host pods; none means the namespace's default."
    )
    service_account_token_secrets: Annotated[Bool, Option("Pods")] = Field(
        default=True,
        description=(
            "Keep the tokens of pods in secrets; false puts them into annotations, where everyone"
            " who may read host pods sees them."
        ),
    )
    override_hosts: Annotated[Bool, Option("Pods")] = Field(
        default=True,
        description="Write /etc/hosts of pods that have a subdomain, by an init container.",
    )
    override_hosts_container_image: Annotated[
        Word, AfterValidator(_required), Option("Pods", "IMAGE")
    ] = Field(default="library/alpine:3.13.1", description="Image of that init container.")
    translate_image: Annotated[ImageMap, Option("Pods", "IMAGE=OTHER", repeated=True)] = Field(
        default={}, description="Images that host pods use in place of those that were asked for."
    )
    default_image_registry: Annotated[Word, Option("Pods", "PREFIX")] = Field(
        default="", description="Put before the images of containers that the syncer itself adds."
    )
    mount_physical_host_paths: Annotated[Bool, Option("Pods")] = Field(
        default=False,
        description="Give pods that mount the host's log paths the real ones as further volumes.",
    )

    node_selector: Annotated[NodeSelector, Option("Nodes and scheduling", "KEY=VALUE,...")] = Field(
        default={}, description="Labels of the nodes that belong to the virtual cluster."
    )
    enforce_node_selector: Annotated[Bool, Option("Nodes and scheduling")] = Field(
        default=True, description="Put the node selector on every host pod."
    )
    enforce_toleration: Annotated[
        Tolerations, Option("Nodes and scheduling", "TAINT", repeated=True)
    ] = Field(
        default=(),
        description=(
            "Tolerations that every host pod gets: *, key, key=value, key:Effect or"
            " key=value:Effect."
        ),
    )

    disable_fake_kubelets: Annotated[Bool, Option("Nodes and scheduling")] = Field(
        default=False,
        description="Give nodes no address at which this syncer answers as their kubelet.",
        validate_default=True,
    )
    fake_kubelet_ips: Annotated[Bool, Option("Nodes and scheduling")] = Field(
        default=True,
        description="Make a service on the host for each node, whose IP is the node's address.",
    )

    config: Annotated[str, Option("Operation", "FILE")] = Field(
        default="", description="YAML file with settings; its keys are the names of the flags."
    )
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Option("Operation", "LEVEL")
    ] = Field(
        default="info", description="Least serious messages shown: debug, info, warning or error."
    )
    log_format: Annotated[Literal["auto", "json", "text"], Option("Operation", "FORMAT")] = Field(
        default="auto", description="json or text; auto means text on a terminal."
    )
    health_probe_bind_address: Annotated[Listen, Option("Operation", "HOST:PORT")] = Field(
        default=Address("", 8081), description="Where /healthz, /livez and /readyz are; 0 is off."
    )
    metrics_bind_address: Annotated[Listen, Option("Operation", "HOST:PORT")] = Field(
        default=Address("", 8080), description="Where /metrics is; 0 is off."
    )
    workers: Annotated[Count, Option("Operation", "N")] = Field(
        default=32, description="Most objects that are worked on at a time."
    )

    @field_validator("name", mode="after")
    @classmethod
    def _name_or_suffix(cls, value: str, info: ValidationInfo) -> str:
        return value or info.data.get("suffix") or "vcluster"

    @field_validator("service_name", mode="after")
    @classmethod
    def _service_name_or_name(cls, value: str, info: ValidationInfo) -> str:
        return value or info.data.get("name", "")

    @field_validator("target_namespace", mode="after")
    @classmethod
    def _target_or_current(cls, value: str, info: ValidationInfo) -> str:
        return value or info.data.get("current_namespace", "")

    @field_validator("out_kube_config_secret_namespace", mode="after")
    @classmethod
    def _secret_in_current(cls, value: str, info: ValidationInfo) -> str:
        return value or info.data.get("current_namespace", "")

    @field_validator("disable_fake_kubelets", mode="after")
    @classmethod
    def _without_fake_kubelets(cls, value: bool, info: ValidationInfo) -> bool:
        return value or not info.data.get("fake_kubelets", True)

    @field_validator("sync", mode="after")
    @classmethod
    def _with_deprecated(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Add what the deprecated booleans stand for, so that nobody else has to know them."""
        aliases = [f"-{kind}" for kind in info.data.get("disable_sync_resources", ())]
        if not info.data.get("fake_nodes", True):
            aliases.append("nodes")
        if not info.data.get("fake_persistent_volumes", True):
            aliases.append("persistentvolumes")
        return (*value, *(word for word in aliases if word not in value))


# -- one setting, as people see it ---------------------------------------------------------------


class Entry(NamedTuple):
    """A setting with the names it goes by.

    Attributes:
        field: name of the field.
        flag: without the dashes; also the key in the file.
        variable: environment variable; ``""`` for none.
        option: how it looks.
        boolean: whether the flag needs no value.
        default: as people would write it; ``""`` for none.
        description: what it does, one sentence.
    """

    field: str
    flag: str
    variable: str
    option: Option
    boolean: bool
    default: str
    description: str


def _as_text(value: object) -> str:
    """Write a value, or a list of them, as it would be typed."""
    if isinstance(value, list | tuple) and not isinstance(value, Address):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def entries(model: type[BaseModel] = Settings) -> Iterator[Entry]:
    """Give the settings that have a flag, in the order of :data:`SECTIONS`.

    Args:
        model: whose fields; those of a command, with :class:`Option` annotations like these, come
            with sections of its own last.
    """
    found: list[Entry] = []
    for name, info in model.model_fields.items():
        option = _option(name, model)
        if not option.flag:
            continue
        flag = name.replace("_", "-")
        default = option.shown_default or (
            _as_text(info.default) if info.default not in _NOTHING else ""
        )
        text = info.description or ""
        boolean = info.annotation is bool
        variable = _variable(name, model)
        found.append(Entry(name, flag, variable, option, boolean, default, text))
    sections = list(dict.fromkeys((*SECTIONS, *(entry.option.section for entry in found))))
    return iter(sorted(found, key=lambda entry: sections.index(entry.option.section)))


def _option(name: str, model: type[BaseModel] = Settings) -> Option:
    return next(m for m in model.model_fields[name].metadata if isinstance(m, Option))


def _variable(name: str, model: type[BaseModel] = Settings) -> str:
    return f"{ENV_PREFIX}{name.upper()}" if _option(name, model).variable else ""


# -- loading -------------------------------------------------------------------------------------


class Loaded(NamedTuple):
    """What :func:`load` found.

    Attributes:
        settings: complete and valid.
        warnings: one line for each setting that works but shouldn't be used.
    """

    settings: Settings
    warnings: tuple[str, ...]


class _Given(NamedTuple):
    """A value as it was written, and where: ``--name``, ``SYNCER_NAME`` or ``a.yaml: name``."""

    where: str
    value: object


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    namespace_file: Path = SERVICE_ACCOUNT_NAMESPACE,
) -> Loaded:
    """Bring the sources together.

    Args:
        flags: field -> text, or list of texts for repeated ones; only those that were given.
        environ: the environment.
        namespace_file: holds the namespace of the pod the syncer runs in.

    Raises:
        UsageError: a value is wrong, or the settings file can't be read or has unknown keys.
    """
    given = _given(Settings, flags, environ)
    if path := given.get("config"):
        given = {**_read_file(path), **given}
    given |= _ambient(Settings, given, environ)
    if "current_namespace" not in given and (namespace := pod_namespace(namespace_file)):
        given["current_namespace"] = _Given(str(namespace_file), namespace)
    settings = _validate(Settings, given)
    return Loaded(settings, tuple(_deprecations(given)))


def load_options(
    model: type[_Model], flags: Mapping[str, object], environ: Mapping[str, str]
) -> _Model:
    """Read the options of a command: flags and environment, as :func:`load` reads them; no file.

    Args:
        model: its fields carry :class:`Option` annotations.
        flags: field -> text, or list of texts for repeated ones; only those that were given.
        environ: the environment.

    Raises:
        UsageError: a value is wrong.
    """
    given = _given(model, flags, environ)
    return _validate(model, given | _ambient(model, given, environ))


def _given(
    model: type[BaseModel], flags: Mapping[str, object], environ: Mapping[str, str]
) -> dict[str, _Given]:
    given = {
        name: _Given(variable, environ[variable])
        for name in model.model_fields
        if _option(name, model).flag
        and (variable := _variable(name, model))
        and environ.get(variable)
    }
    return given | {name: _Given(f"--{name.replace('_', '-')}", flags[name]) for name in flags}


def _ambient(
    model: type[BaseModel], given: Mapping[str, _Given], environ: Mapping[str, str]
) -> dict[str, _Given]:
    """Give what foreign variables say of fields that nothing else says anything of."""
    return {
        name: _Given(ambient, environ[ambient])
        for name in model.model_fields
        if name not in given and (ambient := _option(name, model).ambient) and environ.get(ambient)
    }


def _validate(model: type[_Model], given: Mapping[str, _Given]) -> _Model:
    try:
        return model.model_validate({name: value.value for name, value in given.items()})
    except ValidationError as error:
        lines = []
        for detail in error.errors():
            source = given[str(detail["loc"][0])]
            cause = (detail.get("ctx") or {}).get("error")
            rule = str(cause or detail["msg"].replace("Input should be", "must be"))
            lines.append(f"{source.where}={quoted(source.value)}: {rule}")
        raise UsageError(*lines) from None


def quoted(value: object) -> str:
    """Write a value, or a list of them, as it would be typed; cut when very long."""
    text = _as_text(value)
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return f'"{text}"'


def _deprecations(given: Mapping[str, _Given]) -> Iterator[str]:
    for name, source in given.items():
        if clause := _option(name).deprecated:
            yield f"{source.where} is deprecated: {clause}"


def pod_namespace(path: Path = SERVICE_ACCOUNT_NAMESPACE) -> str:
    """Give the namespace of the pod that this runs in; ``""`` outside pods."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _read_file(path: _Given) -> dict[str, _Given]:
    """Read a settings file: a YAML mapping from flag names to values."""
    content = _parse_yaml(path)
    by_flag = {entry.flag: entry for entry in entries() if entry.field != "config"}
    given: dict[str, _Given] = {}
    mistakes = []
    for key, value in content.items():
        where = f"{path.value}: {key}"
        if str(key) not in by_flag:
            mistakes.append(f"{where}: unknown setting{did_you_mean(str(key), by_flag)}")
        elif value is not None:
            given[by_flag[str(key)].field] = _Given(where, value)
    if mistakes:
        raise UsageError(*mistakes)
    return given


def _parse_yaml(path: _Given) -> dict[object, object]:
    import yaml  # only those who have a file pay for the import

    where = f"{path.where}={quoted(path.value)}"
    try:
        text = Path(str(path.value)).read_text()
        content = yaml.safe_load(text)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"{where}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{where}: is not a text file") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{where}: is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f'{where}: must hold a mapping, such as "name: my-vcluster"')
    counts = Counter(str(key.value) for key, _ in (root.value if root else ()))
    if repeated := [key for key, count in counts.items() if count > 1]:
        raise UsageError(*(f"{path.value}: {key}: is there more than once" for key in repeated))
    return content


def did_you_mean(word: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Give ``; did you mean "x"?`` for the known word closest to this one, or ``""``.

    Args:
        word: what was written.
        known: what could have been meant.
        prefix: put before the suggestion, such as ``--``.
    """
    close = get_close_matches(word.replace("_", "-").lower(), list(known), n=1)
    return f'; did you mean "{prefix}{close[0]}"?' if close else ""


# -- kinds ---------------------------------------------------------------------------------------


def enabled_kinds(sync: Sequence[str], kinds: Mapping[str, bool]) -> frozenset[str]:
    """Resolve ``--sync``.

    Args:
        sync: ``kind`` turns one on, ``-kind`` off; off wins wherever it stands.
        kinds: every kind there is -> whether it is on by default.

    Returns:
        The kinds to sync.

    Raises:
        UsageError: a name is none of the kinds.

    Source: vcluster v0.16.4 ``cmd/vcluster/context/enable_controllers.go``.
    """
    valid = ", ".join(sorted(kinds))
    mistakes = [
        f'--sync="{word}": there is no such kind{did_you_mean(kind, kinds)} (kinds: {valid})'
        for word in sync
        if (kind := word.removeprefix("-")) not in kinds
    ]
    if mistakes:
        raise UsageError(*mistakes)
    on = {kind for kind, default in kinds.items() if default}
    on |= {word for word in sync if not word.startswith("-")}
    return frozenset(on - {word[1:] for word in sync if word.startswith("-")})


# -- docs ----------------------------------------------------------------------------------------


_BEGIN: Final = "<!-- settings: generated by `make docs` -->"
_END: Final = "<!-- settings: end -->"


def with_tables(document: str) -> str:
    """Give ``docs/configuration.md`` with its generated part as it should be.

    Args:
        document: the text with the two comments that surround that part.
    """
    before, _, rest = document.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n\n{_tables()}{_END}{after}"


def _tables() -> str:
    lines: list[str] = []
    for section in SECTIONS:
        lines += [f"### {section}", "", "| flag | environment | default | meaning |"]
        lines += ["|---|---|---|---|"]
        lines += [_row(entry) for entry in entries() if entry.option.section == section]
        lines.append("")
    return "\n".join(lines) + "\n"


def _row(entry: Entry) -> str:
    value = f"={entry.option.metavar}" if entry.option.metavar else ""
    default = entry.default and (
        entry.default if entry.option.shown_default else f"`{entry.default}`"
    )
    text = entry.description
    if entry.option.repeated:
        text += " A list."
    if entry.option.ambient:
        text += f" Falls back on `{entry.option.ambient}`."
    variable = f"`{entry.variable}`" if entry.variable else ""
    cells = [f"`--{entry.flag}{value}`", variable, default, text.replace("|", "\\|")]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_tables(path.read_text()))
