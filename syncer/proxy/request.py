"""What a request asks for, read from its method and target alone, as an API server reads it.

Every decision of the endpoint hangs on this reading, so whatever could be read in two ways is
refused: encoded separators, dot segments, double encodings, absolute and empty targets.

Pure: no I/O, nothing is looked up.

Source: k8s.io/apiserver v0.36 ``pkg/endpoints/request/requestinfo.go``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

MAX_TARGET: Final = 16 * 1024
"""Bytes that a request's target may have; API servers and kubelets take longer command lines as
repeated query parameters, which fit well."""

_VERBS: Final = {
    "POST": "create",
    "GET": "get",
    "HEAD": "get",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_NAMESPACE_SUBRESOURCES: Final = ("status", "finalize")
_PLAIN: Final = re.compile(r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*")
_QUERY: Final = re.compile(r"[!-\"$-~]*")  # without "#": some take it for the query's end
_PROXIED: Final = frozenset({"pods", "services", "nodes"})


class BadTargetError(ValueError):
    """The target can't be read in just one way; the text says why."""


@dataclass(frozen=True, slots=True)
class RequestInfo:
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

    def parameters(self) -> list[tuple[str, str]]:
        """Give the query's parameters in order, decoded; those without a value too."""
        return parse_qsl(self.query, keep_blank_values=True)

    def parameter(self, name: str) -> str:
        """Give the first value of a parameter, or ``""``."""
        return next((value for key, value in self.parameters() if key == name), "")


def read(method: str, target: str) -> RequestInfo:
    """Read a request.

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
    if not _QUERY.fullmatch(query):
        raise BadTargetError("the query has characters that must be percent-encoded")
    raw = raw_path.strip("/").split("/")
    proxied = _proxied_from(raw)
    for place, segment in enumerate(raw):
        _check(segment, strict=place < proxied)
    _check_slashes(raw_path, proxied)
    return _resource(method, raw_path, query, [_decoded(segment) for segment in raw])


def _proxied_from(raw: list[str]) -> int:
    """Give the place behind ``.../proxy``: what follows is a workload's, not the API's.

    Only the plain spelling counts; any other spelling of these words is not let through anyway.
    """
    match raw:
        case ["api", "v1", "namespaces", _, resource, _, "proxy", *_] if resource in _PROXIED:
            return 7
        case ["api", "v1", "nodes", _, "proxy", *_]:
            return 5
        case _:
            return len(raw)


def _check(segment: str, *, strict: bool) -> None:
    once = unquote_to_bytes(segment)
    twice = unquote_to_bytes(once)
    for decoded in (once, twice):
        if any(part in (b".", b"..") for part in re.split(rb"[/\\]", decoded)):
            raise BadTargetError('the path must not have "." and ".." as segments')
        if strict and (b"/" in decoded or b"\\" in decoded):
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
    if any(not segment for segment in segments[: min(proxied, len(segments) - 1)]):
        raise BadTargetError("the path must not have empty segments")


def _decoded(segment: str) -> str:
    return unquote_to_bytes(segment).decode()


def _resource(method: str, raw_path: str, query: str, parts: list[str]) -> RequestInfo:
    path = f"/{'/'.join(parts)}"
    plain = RequestInfo(method, raw_path, path, query, verb=method.lower())
    if len(parts) < 3 or parts[0] not in ("api", "apis"):
        return plain
    group, rest = ("", parts[1:]) if parts[0] == "api" else (parts[1], parts[2:])
    if not rest[1:]:
        return plain
    version, rest = rest[0], rest[1:]
    before = len(parts) - len(rest)
    verb = _VERBS.get(method, "")
    legacy = rest[0] if rest[0] in ("proxy", "watch") else ""
    if legacy:
        if len(rest) < 2:
            return plain
        verb, rest, before = legacy, rest[1:], before + 1
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest, before = rest[2:], before + 2
    resource, name, subresource = (*rest, "", "")[:3]
    if legacy == "proxy":
        subresource = ""
    info = RequestInfo(
        method, raw_path, path, query, is_resource=True, verb=verb, group=group, version=version,
        namespace=namespace, resource=resource, name=name, subresource=subresource,
        tail=_behind(raw_path, before + 3) if subresource else "",
    )  # fmt: skip
    return _with_list_verb(info)


def _with_list_verb(info: RequestInfo) -> RequestInfo:
    """Tell lists, watches and deletions of collections from those of one object."""
    if not info.name and info.verb == "delete":
        return replace(info, verb="deletecollection")
    if info.name or info.verb != "get":
        return info
    watching = info.parameter("watch")
    return replace(info, verb="watch" if _is_true(info, watching) else "list")


def _is_true(info: RequestInfo, value: str) -> bool:
    """Read a boolean of the query as API servers do: there and not ``0`` or ``false`` is true."""
    if not any(key == "watch" for key, _ in info.parameters()):
        return False
    return value.lower() not in ("0", "false", "f")


def _behind(raw_path: str, segments: int) -> str:
    """Give the raw path behind so many of its segments, with the slash before it."""
    parts = raw_path.split("/", segments + 1)
    return f"/{parts[segments + 1]}" if len(parts) > segments + 1 else ""
