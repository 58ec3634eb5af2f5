"""What an object of an API server is: its key, its resource, the side that it is on.

Everything here is data: no I/O, no clock, and nothing of what is done with an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote

Object: TypeAlias = dict[str, Any]
"""One decoded Kubernetes object (JSON as Python dicts, lists, strings, numbers)."""

Indexer: TypeAlias = Callable[[Object], Iterable[str]]
"""Gives the index values of an object; keys of other objects are written ``namespace/name``."""


class Side(StrEnum):
    """Which of the two API servers."""

    VIRTUAL = "virtual"
    HOST = "host"


class Key(NamedTuple):
    """Names an object of a known resource; cluster-scoped objects have namespace ``""``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @classmethod
    def parse(cls, text: str) -> Key:
        """Read what ``str(key)`` wrote.

        Args:
            text: ``namespace/name``, or ``name`` of a cluster-scoped object.
        """
        namespace, _, name = text.rpartition("/")
        return cls(namespace, name)


def key_of(obj: Object) -> Key:
    """Give the key of an object from its metadata."""
    metadata = obj["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


@dataclass(frozen=True, slots=True)
class Resource:
    """An API resource: what a URL and a list of it need.

    Attributes:
        group: API group, ``""`` for core.
        version: API version, such as ``v1``.
        plural: lower-case plural of URLs, such as ``pods``.
        kind: CamelCase singular, such as ``Pod``.
        namespaced: whether objects live in namespaces.
        part: name of a part of its objects that is watched and kept on its own; ``""`` is all.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    part: str = ""

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """``plural.group``, as kubectl writes it; the plural alone in core; a part's own name."""
        return self.part or (f"{self.plural}.{self.group}" if self.group else self.plural)

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Build the URL path of a collection or, with a name, of an object.

        Args:
            namespace: namespace; ``""`` for cluster-scoped objects or all namespaces.
            name: object name; ``""`` for the collection.
            subresource: such as ``status``; needs a name.

        Returns:
            The path, each segment escaped, without host and query.

        Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-uris
        """
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts += [quote(part, safe="") for part in subresource.split("/")]
        return "/".join(parts)
