"""What a request asks for, read from its method and target alone, as an API server reads it.

Every decision of the endpoint hangs on this reading, so whatever could be read in two ways is
refused: encoded separators, dot segments, double encodings, absolute and empty targets.

Pure: no I/O, nothing is looked up.

Source: k8s.io/apiserver v0.36 ``pkg/endpoints/request/requestinfo.go``.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

import msgspec

MAX_TARGET: Final = 48 * 1024
"""Bytes that a request's target may have. The longest are commands to exec, which are in it whole;
API servers take 1 MiB, but hold each caller to it."""

_VERBS: Final = {
    "POST": "create",
    "GET": "get",
    "HEAD": "get",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_NAMESPACE_SUBRESOURCES: Final = ("status", "finalize")
_CHARS = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]*"
_PLAIN: Final = re.compile(rf"{_CHARS}(?:%[0-9A-Fa-f]{{2}}{_CHARS})*")
_QUERY: Final = re.compile(r"[!\"$-~]*")  # without "#": some take it for the query's end
_SLASHES: Final = re.compile(rb"[/\\]")
_PROXIED: Final = frozenset({"pods", "services"})
_DOTS: Final = 'the path must not have "." and ".." as segments'


class BadTargetError(ValueError):
    """The target can't be read in just one way; the text says why."""


class RequestInfo(msgspec.Struct, frozen=True):
    """One request's meaning.

    Attributes:
        method: HTTP method.
        raw_path: path as it was written.
        path: path, decoded.
        query: query as it was written, without the question mark.
        is_resource: whether it is about API objects; else only ``verb`` and ``path`` hold.
        verb: as authorisers know it; the lower-case method for other paths.
        group: API group, ``""`` for core.
        version: API version.
        namespace: ``""`` for cluster-scoped ones.
        resource: plural.
        name: ``""`` for collections.
        subresource: ``""`` for none.
        tail: raw path from behind the subresource on, with its first slash.
    """

    method: str
    raw_path: str
    path: str
    query: str = ""
    is_resource: bool = False
    verb: str = ""
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""
    tail: str = ""

    @property
    def target(self) -> str:
        """What stood on the request line."""
        return f"{self.raw_path}?{self.query}" if self.query else self.raw_path

    def parameters(self) -> list[tuple[str, str]]:
        """Give the query's parameters in order, decoded; those without a value too."""
        return parse_qsl(self.query, keep_blank_values=True)

    def parameter(self, name: str) -> str:
        """Give the first value of a parameter, or ``""``."""
        return next((value for key, value in self.parameters() if key == name), "")


def read(method: str, target: str) -> RequestInfo:
    """Read a request.

    Differs from an API server in one thing: a field selector for ``metadata.name`` is not taken for
    the object's name, so that rights asked for are those to the whole list.

    Args:
        method: HTTP method, upper case.
        target: what stands behind it on the request line.

    Raises:
        BadTargetError: it is refused.
    """
    if len(target) > MAX_TARGET:
        raise BadTargetError(f"the target must have at most {MAX_TARGET} bytes")
    raw_path, _, query = target.partition("?")
    if not raw_path.startswith("/"):
        raise BadTargetError('the target must be a path that starts with "/"')
    if not _PLAIN.fullmatch(raw_path):
        raise BadTargetError("the path has characters that must be percent-encoded")
    if query and not _QUERY.fullmatch(query):
        raise BadTargetError("the query has characters that must be percent-encoded")
    raw = raw_path.strip("/").split("/")
    if "//" in raw_path:
        _check_slashes(raw_path, _proxied_from(raw))
    if "%" not in raw_path:
        if "." in raw or ".." in raw:
            raise BadTargetError(_DOTS)
        return _resource(method, raw_path, raw_path, query, raw)
    proxied = _proxied_from(raw)
    for place, segment in enumerate(raw):
        _check(segment, strict=place < proxied)
    parts = [_decoded(segment) for segment in raw]
    return _resource(method, raw_path, _decoded(raw_path), query, parts)


def _proxied_from(raw: list[str]) -> int:
    """Give the place behind ``.../proxy``: what follows is a workload's, not the API's.

    Only the plain spelling counts: behind any other, the tail has to be as plain as the rest.
    """
    match raw:
        case ["api", "v1", "namespaces", _, resource, _, "proxy", *_] if resource in _PROXIED:
            return 7
        case ["api", "v1", "nodes", _, "proxy", *_]:
            return 5
        case _:
            return MAX_TARGET  # no target has so many segments


def _check(segment: str, *, strict: bool) -> None:
    """Refuse a segment that could be taken for more than one, for another, or for no text."""
    once = unquote_to_bytes(segment)
    twice = unquote_to_bytes(once)
    for decoded in (once, twice):
        if any(part in (b".", b"..") for part in _SLASHES.split(decoded)):
            raise BadTargetError(_DOTS)
        if strict and _SLASHES.search(decoded):
            raise BadTargetError("the path must not have encoded slashes")
    if strict and once != twice:
        raise BadTargetError("the path must not be encoded twice")
    if any(byte < 0x20 or byte == 0x7F for byte in once):
        raise BadTargetError("the path must not have control characters")
    try:
        once.decode()
    except UnicodeDecodeError:
        raise BadTargetError("the path must be UTF-8") from None


def _check_slashes(raw_path: str, proxied: int) -> None:
    """Refuse empty segments, but for one at the end and those of a workload's own path."""
    segments = raw_path[1:].split("/")
    if "" in segments[: min(proxied, len(segments) - 1)]:
        raise BadTargetError("the path must not have empty segments")


def _decoded(text: str) -> str:
    return unquote_to_bytes(text).decode()


def _resource(method: str, raw_path: str, path: str, query: str, parts: list[str]) -> RequestInfo:
    match parts:
        case ["api", version, *rest] if rest:
            group = ""
        case ["apis", group, version, *rest] if rest:
            pass
        case _:
            return RequestInfo(method, raw_path, path, query, verb=method.lower())
    verb = _VERBS.get(method, "")
    legacy = rest[0] if rest[0] in ("proxy", "watch") else ""
    if legacy:
        if len(rest) < 2:
            return RequestInfo(method, raw_path, path, query, verb=method.lower())
        verb, rest = legacy, rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    resource, name, subresource = (*rest, "", "")[:3]
    if legacy == "proxy":
        subresource = ""
    if not name:
        verb = _collection_verb(verb, query)
    before = len(parts) - len(rest)
    return RequestInfo(
        method, raw_path, path, query, is_resource=True, verb=verb, group=group, version=version,
        namespace=namespace, resource=resource, name=name, subresource=subresource,
        tail=_behind(raw_path, before + 3) if subresource else "",
    )  # fmt: skip


def _collection_verb(verb: str, query: str) -> str:
    """Tell lists, watches and deletions of collections from those of one object."""
    if verb == "delete":
        return "deletecollection"
    if verb != "get":
        return verb
    return "watch" if query and _is_watch(query) else "list"


def _is_watch(query: str) -> bool:
    """Read ``watch`` as API servers do: there, and neither ``0`` nor ``false``, is true.

    Source: k8s.io/apimachinery v0.36 ``pkg/runtime/conversion.go``,
    ``Convert_Slice_string_To_bool``.
    """
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key == "watch" or ("%" in key and unquote(key) == "watch"):
            return unquote(value).lower() not in ("0", "false")
    return False


def _behind(raw_path: str, segments: int) -> str:
    """Give the raw path behind so many of its segments, with the slash before it."""
    parts = raw_path.split("/", segments + 1)
    return f"/{parts[segments + 1]}" if len(parts) > segments + 1 else ""
