"""The host's ``metrics.k8s.io`` (``kubectl top``) in the tenant's terms and of its own only.

Pure: what is asked of the host, and what its answer says to the tenant. The host is asked for JSON
by a label selector that holds nothing but the tenant's pods; field selectors speak of virtual names
and are never sent. What was asked for is selected again in the answer, by the virtual labels.

Invariants: an object is the tenant's, under its virtual name and with its virtual labels, or is
left out; so are containers that the virtual pod doesn't have (the host injected them).

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#api (selectors);
k8s.io/apimachinery v0.36 ``pkg/labels``, ``pkg/fields``; k8s.io/metrics v0.36
``pkg/apis/metrics/v1beta1``; kubernetes-sigs/metrics-server ``pkg/api``. vcluster v0.16
``pkg/server/filters/metrics_server.go`` knows selectors by equality only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import orjson

from syncer import ownership
from syncer.dns1123 import is_subdomain
from syncer.naming import Names
from syncer.objects import Key, Object, key_of
from syncer.proxy.node_metrics import HostAnswerError, Lookup

GROUP_VERSION: Final = "metrics.k8s.io/v1beta1"

MAX_DEMANDS: Final = 256
"""Demands that a selector may have: each object is held against each of them."""

RESOURCES: Final[Object] = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": GROUP_VERSION,
    "resources": [
        {"name": "nodes", "singularName": "", "namespaced": False, "kind": "NodeMetrics",
         "verbs": ["get", "list"]},
        {"name": "pods", "singularName": "", "namespaced": True, "kind": "PodMetrics",
         "verbs": ["get", "list"]},
    ],
}  # fmt: skip
"""What the API offers; the same on every host that has it."""

NodeLabels = Callable[[str], Mapping[str, str] | None]
"""Gives the labels of a virtual node by its name; ``None`` when the tenant has no such node."""


class BadSelectorError(ValueError):
    """A selector can't be read; the text says why, for the tenant."""


# -- label selectors -------------------------------------------------------------------------


class Operator(StrEnum):
    """How a requirement compares."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    ABSENT = "!"
    GREATER = ">"
    LESS = "<"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One demand of a label selector.

    Attributes:
        key: label key.
        operator: ``=``, ``==`` and ``!=`` are :attr:`Operator.IN` and :attr:`Operator.NOT_IN`.
        values: sorted; none for EXISTS and ABSENT, one for GREATER and LESS.
    """

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Say whether an object with these labels is meant."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value in self.values
            case Operator.NOT_IN:
                return value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.ABSENT:
                return value is None
            case Operator.GREATER | Operator.LESS:
                if value is None or not _INTEGER.fullmatch(value):
                    return False
                this, other = int(value), int(self.values[0])
                return this > other if self.operator is Operator.GREATER else this < other

    def __str__(self) -> str:
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.ABSENT:
                return f"!{self.key}"
            case Operator.GREATER | Operator.LESS:
                return f"{self.key}{self.operator}{self.values[0]}"
            case _:
                return f"{self.key} {self.operator} ({','.join(self.values)})"


_INTEGER: Final = re.compile(r"[0-9]{1,18}")
_NAME: Final = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_NAME: Final = re.compile(_NAME)
_LABEL_VALUE: Final = re.compile(rf"(?:{_NAME})?")
_TOKEN: Final = re.compile(r"[ \t\r\n]*+(?:(==|!=|[=!<>(),])|([^ \t\r\n=!<>(),]++)|\Z)")
_COMPARE: Final = {"=": Operator.IN, "==": Operator.IN, "!=": Operator.NOT_IN,
                   "in": Operator.IN, "notin": Operator.NOT_IN,
                   ">": Operator.GREATER, "<": Operator.LESS}  # fmt: skip


class _Tokens:
    """The symbols (``("=", "")``) and words (``("", "app")``) of a selector, one after another."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0

    def peek(self) -> tuple[str, str]:
        """Give the next symbol and word without going on; both are ``""`` at the end."""
        found = _TOKEN.match(self._text, self._place)
        assert found is not None  # noqa: S101 - every character starts a token
        return found[1] or "", found[2] or ""

    def take(self) -> tuple[str, str]:
        """Give the next symbol and word and go on behind it."""
        found = _TOKEN.match(self._text, self._place)
        assert found is not None  # noqa: S101 - every character starts a token
        self._place = found.end()
        return found[1] or "", found[2] or ""

    def expect(self, *symbols: str) -> str:
        """Take one of the symbols, ``""`` for the end.

        Raises:
            BadSelectorError: something else is there.
        """
        symbol, word = self.take()
        if word or symbol not in symbols:
            wanted = " or ".join(repr(other) if other else "the end" for other in symbols)
            raise BadSelectorError(
                f"unable to parse requirement: found '{symbol or word}', expected: {wanted}"
            )
        return symbol

    def word(self) -> str:
        """Take a word, ``""`` when a symbol or the end is next."""
        return "" if self.peek()[0] else self.take()[1]


def parse_label_selector(text: str) -> tuple[Requirement, ...]:
    """Read a label selector as API servers do.

    Args:
        text: such as ``app=web,tier in (a,b),!canary``; empty selects everything.

    Raises:
        BadSelectorError: it can't be read, or has too many requirements.
    """
    tokens = _Tokens(text)
    if tokens.peek() == ("", ""):
        return ()
    requirements = [_requirement(tokens)]
    while tokens.expect(",", ""):
        requirements.append(_requirement(tokens))
        _check_number(requirements)
    return tuple(requirements)


def _check_number(demands: Sized) -> None:
    """Refuse a selector that would keep everybody else waiting."""
    if len(demands) > MAX_DEMANDS:
        raise BadSelectorError(f"a selector must have at most {MAX_DEMANDS} requirements")


def _requirement(tokens: _Tokens) -> Requirement:
    absent = tokens.peek()[0] == "!"
    if absent:
        tokens.take()
    key = tokens.word()
    prefix, slash, name = key.rpartition("/")
    valid_prefix = not slash or is_subdomain(prefix)
    if not valid_prefix or not _LABEL_NAME.fullmatch(name):
        raise BadSelectorError(f"unable to parse requirement: invalid label key {key!r}")
    symbol, word = tokens.peek()
    if absent or symbol == "," or not (symbol or word):
        return Requirement(key, Operator.ABSENT if absent else Operator.EXISTS)
    tokens.take()
    operator = _COMPARE.get(symbol or word)
    if operator is None:
        wanted = ", ".join(sorted(_COMPARE))
        raise BadSelectorError(
            f"unable to parse requirement: found '{symbol or word}', expected: {wanted}"
        )
    values = {tokens.word()} if symbol else _value_set(tokens)
    return Requirement(key, operator, _checked(key, operator, values))


def _value_set(tokens: _Tokens) -> set[str]:
    """Take values in parentheses; a place without a word is the empty value."""
    tokens.expect("(")
    values = {tokens.word()}
    while tokens.expect(",", ")") == ",":
        values.add(tokens.word())
    return values


def _checked(key: str, operator: Operator, values: Iterable[str]) -> tuple[str, ...]:
    pattern = _INTEGER if operator in (Operator.GREATER, Operator.LESS) else _LABEL_VALUE
    for value in values:
        if not pattern.fullmatch(value):
            raise BadSelectorError(
                f"unable to parse requirement: invalid value {value!r} of label {key!r}"
            )
    return tuple(sorted(values))


# -- field selectors -------------------------------------------------------------------------

_FIELD_TERM: Final = re.compile(r"([^=!,\\]*)(==|!=|=)((?:[^\\,=]|\\[\\,=])*)(?:,|\Z)", re.DOTALL)


def parse_field_selector(text: str, *, namespaced: bool) -> tuple[tuple[str, bool, str], ...]:
    r"""Read a field selector.

    Args:
        text: such as ``metadata.namespace!=kube-system``; ``\``, ``,`` and ``=`` in values are
            escaped by ``\``.
        namespaced: whether the objects have namespaces.

    Returns:
        Terms of field, whether it must be equal, and value.

    Raises:
        BadSelectorError: it can't be read, has too many terms, or names a field that metrics can't
            be selected by.
    """
    known = ("metadata.name", "metadata.namespace") if namespaced else ("metadata.name",)
    terms = []
    place = 0
    while place < len(text):
        if text[place] == ",":
            place += 1
            continue
        found = _FIELD_TERM.match(text, place)
        if found is None:
            raise BadSelectorError(f"invalid selector: '{text}'")
        name, operator, value = found.groups()
        if name not in known:
            only = ", ".join(f'"{field}"' for field in known)
            raise BadSelectorError(f'"{name}" is not a known field selector: only {only}')
        terms.append((name, operator != "!=", re.sub(r"\\(.)", r"\1", value)))
        _check_number(terms)
        place = found.end()
    return tuple(terms)


# -- what is asked for -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects a list is asked for, in virtual terms.

    Attributes:
        namespace: ``""`` for all, and for nodes.
        labels: demands on labels.
        fields: demands on names.
    """

    namespace: str = ""
    labels: tuple[Requirement, ...] = ()
    fields: tuple[tuple[str, bool, str], ...] = ()

    @classmethod
    def read(
        cls, namespace: str, label_selector: str, field_selector: str, *, namespaced: bool
    ) -> Selection:
        """Read what a request asks for.

        Args:
            namespace: virtual namespace, ``""`` for all.
            label_selector: query parameter ``labelSelector``, decoded.
            field_selector: query parameter ``fieldSelector``, decoded.
            namespaced: pods, or else nodes.

        Raises:
            BadSelectorError: a selector can't be read, or is too long.
        """
        return cls(
            namespace,
            parse_label_selector(label_selector),
            parse_field_selector(field_selector, namespaced=namespaced),
        )

    def matches(self, key: Key, labels: Mapping[str, str]) -> bool:
        """Say whether a virtual object is asked for."""
        values = {"metadata.name": key.name, "metadata.namespace": key.namespace}
        return (
            self.namespace in ("", key.namespace)
            and all((values[name] == value) is equal for name, equal, value in self.fields)
            and all(requirement.matches(labels) for requirement in self.labels)
        )

    def host_selector(self, names: Names) -> str:
        """Give the label selector that the host is asked for pods by.

        Every key is translated, so that the selector can't speak of marks or of labels of others;
        the tenant's mark, and the namespace's when one is asked for, are demanded besides.

        Args:
            names: the tenant's names.
        """
        limits = [Requirement(ownership.MANAGED_BY, Operator.IN, (names.marker,))]
        if self.namespace:
            limits.append(Requirement(ownership.NAMESPACE, Operator.IN, (self.namespace,)))
        translated = [
            Requirement(names.label_key(demand.key), demand.operator, demand.values)
            for demand in self.labels
        ]
        return ",".join(str(requirement) for requirement in limits + translated)


def accepts_json(accept: str) -> bool:
    """Say whether an ``Accept`` header is content with plain JSON, all that is answered here.

    kubectl is: ``top`` asks for ``application/vnd.kubernetes.protobuf, */*``, and ``get`` lists
    plain JSON behind the tables it would rather have. Others are told 406.

    Args:
        accept: the header, ``""`` when there is none.

    Source: k8s.io/kubectl v0.36 ``pkg/cmd/top``; k8s.io/client-go v0.36 ``rest/request.go``.
    """
    if not accept.strip():
        return True
    for media_range in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in media_range.split(";"))
        if media_type in ("application/json", "application/*", "*/*") and not any(
            parameter.startswith("as=") or re.fullmatch(r"q=0(\.0*)?", parameter)
            for parameter in parameters
        ):
            return True
    return False


# -- what the host answered ------------------------------------------------------------------

_QUANTITY: Final = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?(?:[numkKMGTPE]i?|[eE][-+]?[0-9]+)?")
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|µs|ms|s|m|h))+")
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,18}(?:Z|[-+][0-9:]{4,5})")
_MEASURED: Final = ("cpu", "memory")


def pods(body: bytes, selection: Selection, lookup: Lookup) -> bytes:
    """Translate a list of pods' metrics.

    Args:
        body: the host's ``PodMetricsList``, whole; it is asked for without ``limit``.
        selection: what the tenant asked for.
        lookup: whose pods may be seen.

    Returns:
        The list for the tenant, as JSON, by namespace and name.

    Raises:
        HostAnswerError: it is no such list.
    """
    found = []
    for item in _items(body, "PodMetricsList"):
        key = _key(item)
        view = lookup.pod(key.namespace, key.name)
        if view is None:
            continue
        virtual = Key(view.namespace, view.name)
        if selection.matches(virtual, view.labels):
            found.append(_pod(item, virtual, view.labels, view.containers))
    return _list("PodMetricsList", found)


def no_pods() -> bytes:
    """Give the list of a namespace that isn't there, as JSON."""
    return _list("PodMetricsList", [])


def pod(body: bytes, lookup: Lookup) -> bytes | None:
    """Translate one pod's metrics.

    Args:
        body: the host's ``PodMetrics``.
        lookup: whose pods may be seen.

    Returns:
        The object for the tenant, as JSON; ``None`` when the pod is not the tenant's.

    Raises:
        HostAnswerError: it is no such object.
    """
    item = _read(body, "PodMetrics")
    key = _key(item)
    view = lookup.pod(key.namespace, key.name)
    if view is None:
        return None
    virtual = Key(view.namespace, view.name)
    found = _pod(item, virtual, view.labels, view.containers)
    return orjson.dumps({"kind": "PodMetrics", "apiVersion": GROUP_VERSION, **found})


def nodes(body: bytes, selection: Selection, labels: NodeLabels) -> bytes:
    """Translate a list of nodes' metrics.

    Args:
        body: the host's ``NodeMetricsList``, whole; asked for without selectors and ``limit``.
        selection: what the tenant asked for.
        labels: which nodes the tenant has, and their labels.

    Returns:
        The list for the tenant, as JSON, by name.

    Raises:
        HostAnswerError: it is no such list.
    """
    found = []
    for item in _items(body, "NodeMetricsList"):
        key = Key("", _key(item).name)
        own = labels(key.name)
        if own is not None and selection.matches(key, own):
            found.append(_node(item, key, own))
    return _list("NodeMetricsList", found)


def node(body: bytes, labels: NodeLabels) -> bytes | None:
    """Translate one node's metrics.

    Args:
        body: the host's ``NodeMetrics``.
        labels: which nodes the tenant has, and their labels.

    Returns:
        The object for the tenant, as JSON; ``None`` when the tenant has no such node.

    Raises:
        HostAnswerError: it is no such object.
    """
    item = _read(body, "NodeMetrics")
    key = Key("", _key(item).name)
    own = labels(key.name)
    if own is None:
        return None
    found = _node(item, key, own)
    return orjson.dumps({"kind": "NodeMetrics", "apiVersion": GROUP_VERSION, **found})


def _pod(item: Object, key: Key, labels: Mapping[str, str], containers: frozenset[str]) -> Object:
    listed = item.get("containers")
    measured = [
        {"name": name, "usage": _usage(container)}
        for container in (listed if isinstance(listed, list) else ())
        if isinstance(container, dict)
        and isinstance(name := container.get("name"), str)
        and name in containers
    ]
    return {**_common(item, key, labels), "containers": measured}


def _node(item: Object, key: Key, labels: Mapping[str, str]) -> Object:
    return {**_common(item, key, labels), "usage": _usage(item)}


def _common(item: Object, key: Key, labels: Mapping[str, str]) -> Object:
    """Give what metrics of pods and nodes have in common."""
    metadata: Object = {"name": key.name}
    if key.namespace:
        metadata["namespace"] = key.namespace
    if created := _text(item["metadata"], "creationTimestamp", _TIME):
        metadata["creationTimestamp"] = created
    if labels:
        metadata["labels"] = dict(labels)
    return {
        "metadata": metadata,
        "timestamp": _text(item, "timestamp", _TIME) or None,
        "window": _text(item, "window", _DURATION) or "0s",
    }


def _usage(item: Object) -> dict[str, str]:
    usage = item.get("usage")
    if not isinstance(usage, dict):
        return {}
    return {name: text for name in _MEASURED if (text := _text(usage, name, _QUANTITY))}


def _text(source: Object, name: str, pattern: re.Pattern[str]) -> str:
    """Give a member that has the form it must have, else ``""``."""
    value = source.get(name)
    return value if isinstance(value, str) and pattern.fullmatch(value) else ""


def _read(body: bytes, kind: str) -> Object:
    """Decode an answer of the kind.

    Raises:
        HostAnswerError: it is none.
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or answer.get("kind") != kind:
        raise HostAnswerError(f"the host's answer is no {kind}")
    return answer


def _items(body: bytes, kind: str) -> list[Object]:
    items: object = _read(body, kind).get("items") or []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise HostAnswerError(f"the host's answer is no {kind}")
    return items


def _key(item: Object) -> Key:
    metadata = item.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise HostAnswerError("the host's metrics name no object")
    return Key(str(metadata.get("namespace", "")), metadata["name"])


def _list(kind: str, items: list[Object]) -> bytes:
    items.sort(key=key_of)
    return orjson.dumps({"kind": kind, "apiVersion": GROUP_VERSION, "metadata": {}, "items": items})
