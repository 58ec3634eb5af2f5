"""Turns the host's paths in what a proxied server answers into the tenant's.

An API server that proxies to a pod or service rewrites the links of HTML pages and the targets of
redirects so that they lead through itself again: on the host, by the copy's name.

Source: k8s.io/apimachinery v0.36 ``pkg/util/proxy/transport.go``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from syncer.http1.head import Header


class LinkRewriter:
    """Replaces one path by another, in headers and in a body that comes in pieces."""

    def __init__(self, host: str, virtual: str, server: str = "") -> None:
        """Make it.

        Args:
            host: path up to ``/proxy`` as the host knows it.
            virtual: the same as the tenant knows it.
            server: name and port of the host's API server, as its ``Host`` header says them: what
                a workload puts in front of such a path goes too, and leads to the endpoint then.
        """
        before = ("http://", "https://", "//") if server else ()
        self._virtual = virtual
        self._sought = (*(f"{each}{server}{host}" for each in before), host)
        self._stages = [_Replacer(each.encode(), virtual.encode()) for each in self._sought]

    def location(self, name: str, value: str) -> str:
        """Give the value of a header.

        Args:
            name: of the header; only those that hold a link are changed.
            value: as the host has it.
        """
        if name.lower() in ("location", "content-location", "refresh", "link"):
            for each in self._sought:
                value = value.replace(each, self._virtual)
        return value

    def body(self, headers: Iterable[Header]) -> Callable[[bytes], bytes] | None:
        """Give what rewrites the body; ``None``: it has no links that anybody rewrote.

        Args:
            headers: of the answer.
        """
        return self._feed if _packing(headers) == "identity" else None

    def _feed(self, piece: bytes) -> bytes:
        """Take a piece, ``b""`` at the end."""
        over = not piece
        for stage in self._stages:
            piece = stage.feed(piece) if piece else b""
            if over:
                piece += stage.feed(b"")
        return piece


def is_packed(headers: Iterable[Header]) -> bool:
    """Say whether an answer is a page whose links an API server rewrote where nobody sees them.

    It unpacks what is packed in one of two ways, and packs it again.

    Args:
        headers: of the answer.
    """
    return _packing(headers) in ("gzip", "deflate")


def _packing(headers: Iterable[Header]) -> str:
    """Give how a page is packed, ``identity``: it isn't; ``""`` for what is no page."""
    fields = {name.lower(): value for name, value in reversed([*headers])}  # the first counts
    if fields.get("content-type", "").partition(";")[0].strip() != "text/html":
        return ""
    return fields.get("content-encoding", "").strip() or "identity"


class _Replacer:
    """Replaces one text by another in a body that comes in pieces."""

    def __init__(self, old: bytes, new: bytes) -> None:
        self._old = old
        self._new = new
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """Take a piece, ``b""`` at the end; hold back what may begin the text."""
        *before, rest = (self._held + piece).split(self._old)
        keep = _begun(rest, self._old) if piece else 0
        self._held = rest[len(rest) - keep :]
        return self._new.join([*before, rest[: len(rest) - keep]])


def _begun(text: bytes, sought: bytes) -> int:
    """Give how many bytes at the end may be the beginning of what is sought."""
    for size in range(min(len(sought) - 1, len(text)), 0, -1):
        if text.endswith(sought[:size]):
            return size
    return 0
