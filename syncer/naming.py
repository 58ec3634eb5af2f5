"""Virtual <-> host names: the one place that knows how a name is translated.

Names, label keys and marks are those of vcluster v0.16 to v0.19, so that a namespace it has
synced can be taken over. A host name is never parsed back into virtual names: the annotations
on the host object say whose copy it is (see :mod:`syncer.ownership`).

Source: vcluster v0.16.4 ``pkg/util/translate``; vcluster docs, "Synced resources / names".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from syncer.objects import Key

PREFIX: Final = "vcluster.loft.sh/"
"""Prefix of all labels and annotations that are ours."""

NODE_DOMAIN: Final = "nodes.vcluster.com"
"""Domain of the names under which the syncer answers as the kubelet of a node."""

MAX_NAME: Final = 63
_KEPT = 52
_HASH = 10


def safe_concat(*parts: str) -> str:
    """Join with ``-``; what would be longer than 63 is cut to 52, ``-`` and 10 hex of a hash.

    Args:
        parts: what to join.

    Returns:
        At most 63 characters.

    Source: vcluster v0.16.4 ``translate.SafeConcatName``.
    """
    full = "-".join(parts)
    if len(full) <= MAX_NAME:
        return full
    digest = sha256(full.encode()).hexdigest()[:_HASH]
    return f"{full[:_KEPT]}-{digest}".replace(".-", "-")


def node_host_name(node: str) -> str:
    """Give the DNS name at which the syncer answers as a node's kubelet.

    Args:
        node: name of the node.

    Source: vcluster v0.16.4 ``pkg/controllers/resources/nodes``.
    """
    return f"{node.replace('.', '-')}.{NODE_DOMAIN}"


def _hash10(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_HASH]


@dataclass(frozen=True)
class Names:
    """Translates names and label keys for one tenant.

    Attributes:
        tenant: name of the virtual cluster.
        host_namespace: the host namespace that holds all its copies.
        synced_labels: label keys that are copied verbatim too; ``prefix/*`` is a prefix.
    """

    tenant: str
    host_namespace: str
    synced_labels: tuple[str, ...] = ()

    # -- names -----------------------------------------------------------------------------

    def host_name(self, name: str, namespace: str) -> str:
        """Translate the name of a namespaced object; ``""`` stays ``""``."""
        return safe_concat(name, "x", namespace, "x", self.tenant) if name else ""

    def is_shortened(self, name: str, namespace: str) -> bool:
        """Say whether :meth:`host_name` cuts: another tenant's object may then have that name.

        Whole names are one tenant's only, as no tenant's name holds ``-x-`` or starts ``x-``.
        """
        return bool(name) and len(name) > self.longest(namespace)

    def longest(self, namespace: str) -> int:
        """Give the length of the longest name in a namespace that :meth:`host_name` keeps whole."""
        return MAX_NAME - len(self.tenant) - len(namespace) - len("-x--x-")

    def host_name_cluster(self, name: str) -> str:
        """Translate the name of a cluster-scoped object; ``""`` stays ``""``."""
        if not name:
            return ""
        return safe_concat("vcluster", name, "x", self.host_namespace, "x", self.tenant)

    def host_key(self, key: Key) -> Key:
        """Translate a key: into the host namespace, or cluster-scoped when it has none."""
        if not key.namespace:
            return Key("", self.host_name_cluster(key.name))
        return Key(self.host_namespace, self.host_name(key.name, key.namespace))

    # -- marks -----------------------------------------------------------------------------

    @property
    def marker(self) -> str:
        """Value of the ``managed-by`` label on namespaced host objects."""
        return self.tenant

    @property
    def cluster_marker(self) -> str:
        """Value of the ``managed-by`` label on cluster-scoped host objects."""
        return safe_concat(self.host_namespace, "x", self.tenant)

    # -- labels ----------------------------------------------------------------------------

    def label_key(self, key: str) -> str:
        """Translate a label key of a namespaced object."""
        return _label_key(self.tenant, key)

    def cluster_label_key(self, key: str) -> str:
        """Translate a label key of a cluster-scoped object."""
        return safe_concat(
            f"{PREFIX}label-{self.host_namespace}", "x", self.tenant, "x", _hash10(key)
        )

    def namespace_label_key(self, key: str) -> str:
        """Translate a label key of a virtual namespace, for the copy on its pods."""
        return safe_concat(f"{PREFIX}ns-label-{self.tenant}", "x", _hash10(key))

    def is_synced_label(self, key: str) -> bool:
        """Say whether ``--sync-labels`` copies this key verbatim."""
        return any(
            key.startswith(rule[:-1]) if rule.endswith("/*") else key == rule
            for rule in self.synced_labels
        )

    def labels(self, labels: Mapping[str, str] | None) -> dict[str, str]:
        """Translate an object's labels; those of ``--sync-labels`` are there verbatim as well."""
        result: dict[str, str] = {}
        for key, value in (labels or {}).items():
            result[self.label_key(key)] = value
            if self.synced_labels and not key.startswith(PREFIX) and self.is_synced_label(key):
                result[key] = value
        return result

    def selector(self, selector: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Translate the keys of a ``LabelSelector`` (matchLabels and matchExpressions).

        Args:
            selector: a ``metav1.LabelSelector``; ``None`` (selects nothing) stays ``None``.

        Returns:
            A new selector. It selects by label keys only: limiting it to a namespace and to
            this tenant is :meth:`limit`'s work.
        """
        if selector is None:
            return None
        result: dict[str, Any] = {}
        if labels := selector.get("matchLabels"):
            result["matchLabels"] = {self.label_key(k): v for k, v in labels.items()}
        if expressions := selector.get("matchExpressions"):
            result["matchExpressions"] = [
                {**expression, "key": self.label_key(expression.get("key", ""))}
                for expression in expressions
            ]
        return result

    def limit(self, selector: dict[str, Any], namespace: str = "") -> dict[str, Any]:
        """Limit a translated ``LabelSelector`` to this tenant and, when given, to a namespace."""
        labels = {**selector.get("matchLabels", {}), f"{PREFIX}managed-by": self.marker}
        if namespace:
            labels[f"{PREFIX}namespace"] = namespace
        return {**selector, "matchLabels": labels}


@lru_cache(maxsize=4096)
def _label_key(tenant: str, key: str) -> str:
    return safe_concat(f"{PREFIX}label-{tenant}", "x", _hash10(key))


HIDDEN: Final = "..."
"""Stands for a host namespace where no virtual one is known that could be named instead."""


def hide_host_names(text: str, names: Names, known: Mapping[str, Key]) -> str:
    """Say in the tenant's names what a host component said in its own.

    Names that are known are swapped exactly; others are recognised by their shape, as far as
    they were not shortened. Good for reading only: nothing may be looked up by the result.

    Args:
        text: a message of the host's, such as an event's or a refusal's.
        names: the tenant's names.
        known: host names (without namespace) and the virtual objects they stand for.

    Returns:
        The text without host object names of this tenant, the host namespace where it is meant
        as such, and the syncer's own account.
    """
    host = names.host_namespace
    if host not in text and names.tenant not in text and not any(name in text for name in known):
        return text
    longest_first = sorted(known.items(), key=lambda item: (-len(item[0]), item[0]))

    def swap(match: re.Match[str]) -> str:
        found = _virtual_of(match["token"], names, longest_first)
        if found is None:
            return match[0]
        key, rest = found
        if rest == f".{host}" or rest.startswith(f".{host}."):
            rest = f".{key.namespace or HIDDEN}{rest[len(host) + 1 :]}"
        before = f"{key.namespace}/" if match["before"] and key.namespace else ""
        after = f"_{key.namespace or HIDDEN}" if match["after"] else ""
        return f"{before}{key.name}{rest}{after}"

    text = _token_pattern(host).sub(swap, text)
    namespaces = {key.namespace for key in known.values() if key.namespace}
    namespace = namespaces.pop() if len(namespaces) == 1 else HIDDEN
    account, mention = _mention_patterns(host)
    return mention.sub(lambda _match: namespace, account.sub("the syncer", text))


def _virtual_of(
    token: str, names: Names, known: Iterable[tuple[str, Key]]
) -> tuple[Key, str] | None:
    """Give the virtual key that a token stands for, and what follows the name after a dot."""
    for name, key in known:
        if token == name or token.startswith(f"{name}."):
            return key, token[len(name) :]
    stem, end, rest = token.partition(f"-x-{names.tenant}")
    name, middle, namespace = stem.partition("-x-")
    if not (end and middle and name and namespace) or (rest and not rest.startswith(".")):
        return None
    if namespace == names.host_namespace and name.startswith("vcluster-"):
        return Key("", name.removeprefix("vcluster-")), rest
    return Key(namespace, name), rest


@lru_cache(maxsize=16)
def _token_pattern(host: str) -> re.Pattern[str]:
    """Match whole name-like tokens, with the host namespace before (``/``) or after (``_``)."""
    name = re.escape(host)
    return re.compile(
        rf"(?<![a-z0-9.-])(?:(?P<before>{name})/)?"
        rf"(?P<token>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(?P<after>_{name}(?![a-z0-9-]))?"
    )


@lru_cache(maxsize=16)
def _mention_patterns(host: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Match the syncer's service account, and the host namespace where it is named as one."""
    name = re.escape(host)
    account = re.compile(rf"system:serviceaccount:{name}:[a-z0-9.-]*[a-z0-9]")
    mention = re.compile(
        rf"(?<=[nN]amespace[ =:/]){name}(?![a-z0-9-])"
        rf"|(?<=[nN]amespaces[ =:/]){name}(?![a-z0-9-])"
        rf"|(?<=[\"'`]){name}(?=[\"'`])"
        rf"|(?<![a-z0-9.-]){name}(?=/[a-z0-9])"
        rf"|(?<=\.){name}(?=\.svc)"
    )
    return account, mention
