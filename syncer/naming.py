"""Virtual <-> host names: the one place that knows how a name is translated.

Names, label keys and marks are those of vcluster v0.16 to v0.19, so that a namespace it has
synced can be taken over. A host name is never parsed back into virtual names: the annotations
on the host object say whose copy it is (see :mod:`syncer.ownership`).

Source: vcluster v0.16.4 ``pkg/util/translate``; vcluster docs, "Synced resources / names".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final

from syncer.types import Key

PREFIX: Final = "vcluster.loft.sh/"
"""Prefix of all labels and annotations that are ours."""

MAX_NAME: Final = 63
_KEPT = 52
_HASH = 10

DNS1123_SUBDOMAIN: Final = re.compile(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)


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
