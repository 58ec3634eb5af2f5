"""Requests that the host answers: logs, exec, attach, port-forward, and proxies to pods, services.

Each is authorised in the virtual cluster, as the caller, before the host hears of it; then only
what is listed goes on: the copy's own name, known parameters, and no header by which the caller
or the host's objects could be mistaken.

Not done here: admission for CONNECT runs inside API servers only (docs/security.md).

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/ (subresources);
vcluster v0.16.4 ``pkg/server/filters/redirect.go``, from which it differs in checking whose the
host's object is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final
from urllib.parse import quote, urlencode

import orjson
from yarl import URL

from syncer.http1.body import Body
from syncer.http1.client import Reply
from syncer.http1.head import Header, value_of
from syncer.http1.server import Answer
from syncer.naming import Names, hide_host_names
from syncer.objects import Key, key_of
from syncer.proxy.authenticate import subprotocols, without_tokens
from syncer.proxy.authorize import Authorizer
from syncer.proxy.call import Call
from syncer.proxy.identity import without_identity
from syncer.proxy.kubelet_paths import LOG_PARAMETERS
from syncer.proxy.links import LinkRewriter, is_packed
from syncer.proxy.refusal import RefusalError, in_tenants_words, json_answer
from syncer.proxy.targets import Target, Targets, container_of
from syncer.proxy.upgrade import tunnel
from syncer.proxy.upstream import (
    AGENT,
    Upstream,
    answer_headers,
    end_to_end,
    read_answer,
    relay,
)

_CONTAINER: Final = "container"
_STREAM_PARAMETERS: Final = {
    "exec": frozenset({"stdin", "stdout", "stderr", "tty", "command"}),
    "attach": frozenset({"stdin", "stdout", "stderr", "tty"}),
    "portforward": frozenset({"ports"}),
}
_LOG_HEADERS: Final = frozenset({"accept-encoding"})
_STREAM_HEADERS: Final = frozenset(
    {
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-extensions",
        "x-stream-protocol-version",
        "origin",
    }
)
_SUBPROTOCOLS: Final = frozenset(
    {
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v3.channel.k8s.io",
        "v2.channel.k8s.io",
        "channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "base64.channel.k8s.io",
        "v2.portforward.k8s.io",
        "portforward.k8s.io",
        "SPDY/3.1+portforward.k8s.io",
    }
)
"""Of exec, attach and port-forward."""
_LOG_SUBPROTOCOLS: Final = frozenset({"binary.k8s.io", "base64.binary.k8s.io"})
_AGREEMENT_HEADERS: Final = frozenset(
    {
        "date",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-protocol",
        "x-stream-protocol-version",
    }
)
_ANSWER_HEADERS: Final = frozenset({"content-type", "content-encoding", "cache-control", "date"})
_OF_THE_HOST: Final = ("x-kubernetes-pf-", "audit-id", "warning")
_MAX_STATUS: Final = 64 * 1024
_SECONDS: Final = 10.0  # for an error of the host's to come whole
_MOMENT: Final = 3.0  # for one that may be a workload's, which may go on for ever
_JSON: Final = "application/json"
_UNTOLD: Final = "the host can't pass the request on; ask for application/json to be told why"
_PACKED: Final = (
    "the server sends its page packed (Content-Encoding), so that its links can't be led here; ask "
    "for it without Accept-Encoding, or have the server send it as it is"
)


class ToHost:
    """Passes requests about pods and services on to the host."""

    def __init__(self, upstream: Upstream, authorizer: Authorizer, targets: Targets) -> None:
        """Make it.

        Args:
            upstream: the host API server.
            authorizer: asks the virtual API server who may do what.
            targets: finds the host's objects.
        """
        self._upstream = upstream
        self._authorizer = authorizer
        self._targets = targets

    async def log(self, call: Call) -> Answer:
        """Stream a pod's log.

        Raises:
            RefusalError: not allowed, not there, or the host can't be reached.
            ConnectionError: one of both ends broke off.
        """
        if call.request.method not in ("GET", "HEAD"):
            raise _method_not_allowed("GET")
        await self._authorizer.require(await self._authorizer.user(call), call.info)
        pod = Key(call.info.namespace, call.info.name)
        return await self.read_log(call, pod, call.info.parameters())

    async def read_log(self, call: Call, pod: Key, parameters: Sequence[Header]) -> Answer:
        """Stream the log of a pod that the caller may read.

        Args:
            call: whom it is for.
            pod: which.
            parameters: as the API knows them.

        Raises:
            RefusalError: it is not there, or the host can't be reached.
            ConnectionError: one of both ends broke off.
        """
        target = self._targets.pod(*pod)
        container = container_of(target, _first(parameters, _CONTAINER))
        query = _known(parameters, LOG_PARAMETERS)
        path = _path(target, "pods", f"log?{urlencode([(_CONTAINER, container), *query])}")
        if call.upgrade.lower() == "websocket":  # as browsers read logs
            return await self._tunnel(call, target, path, _LOG_SUBPROTOCOLS)
        headers = [AGENT, *_only(call.headers, _LOG_HEADERS)]
        info = call.info
        response = await self._upstream.send(
            info, headers, target=path, admin=True, head_seconds=None
        )
        if response.status >= 400:
            body = await self._read(response)
            words = self._in_our_words(target, response.status, body)
            return json_answer(words, response.status)
        return await relay(call.request, response, _only(answer_headers(response), _ANSWER_HEADERS))

    async def stream(self, call: Call) -> Answer:
        """Exec, attach or port-forward.

        All three need the verb ``create`` whatever the method, as they do since Kubernetes 1.35.

        Raises:
            RefusalError: not allowed, not there, no such protocol, or the host can't be reached.
        """
        if call.request.method not in ("GET", "POST"):
            raise _method_not_allowed("GET, POST")
        await self._authorizer.require(await self._authorizer.user(call), call.info, "create")
        pod = Key(call.info.namespace, call.info.name)
        return await self.open_stream(call, pod, call.info.subresource, call.info.parameters())

    async def open_stream(
        self, call: Call, pod: Key, subresource: str, parameters: Sequence[Header]
    ) -> Answer:
        """Open a stream to a pod that the caller may open.

        Args:
            call: the request to be upgraded.
            pod: which.
            subresource: ``exec``, ``attach`` or ``portforward``.
            parameters: as the API knows them.

        Raises:
            RefusalError: it is not there, no such protocol, or the host can't be reached.
        """
        target = self._targets.pod(*pod)
        query = list(_known(parameters, _STREAM_PARAMETERS[subresource]))
        if subresource != "portforward":
            container = container_of(target, _first(parameters, _CONTAINER))
            query.insert(0, (_CONTAINER, container))
        if not call.upgrade:
            raise RefusalError(400, "Upgrade request required")
        path = _path(target, "pods", f"{subresource}?{urlencode(query)}" if query else subresource)
        return await self._tunnel(call, target, path, _SUBPROTOCOLS)

    async def _tunnel(self, call: Call, target: Target, path: str, known: frozenset[str]) -> Answer:
        """Upgrade to one of the known subprotocols."""
        return await tunnel(
            call.request,
            self._upstream,
            call.info,
            [AGENT, *_only(call.headers, _STREAM_HEADERS), *_protocols(call.headers, known)],
            call.upgrade,
            target=path,
            admin=True,
            translate=partial(self._of_stream, target),
        )

    async def pod_proxy(self, call: Call) -> Answer:
        """Pass a request on to a pod's own port.

        Raises:
            RefusalError: not allowed, not there, or the host can't be reached.
            ConnectionError: one of both ends broke off.
        """
        return await self._proxy(call, "pods")

    async def service_proxy(self, call: Call) -> Answer:
        """Pass a request on to a service's port; raises as :meth:`pod_proxy`."""
        return await self._proxy(call, "services")

    async def _proxy(self, call: Call, resource: str) -> Answer:
        info = call.info
        await self._authorizer.require(await self._authorizer.user(call), info)
        scheme, name, port = split_name(info.name)
        find = self._targets.pod if resource == "pods" else self._targets.service
        target = find(info.namespace, name)
        host_name = ":".join(part for part in (scheme, target.host.name, port) if part)
        if scheme and not port:
            host_name += ":"
        base = f"/api/v1/namespaces/{quote(target.host.namespace, safe='')}/{resource}"
        base = f"{base}/{quote(host_name, safe=':')}/proxy"
        path = f"{base}{info.tail}{f'?{info.query}' if info.query else ''}"
        headers = _to_workload(call.headers)
        before = info.raw_path[: len(info.raw_path) - len(info.tail)]
        server = URL(self._upstream.config.server).host_port_subcomponent or ""
        links = LinkRewriter(base, before, server)
        if call.upgrade:
            return await tunnel(
                call.request,
                self._upstream,
                info,
                headers,
                call.upgrade,
                target=path,
                admin=True,
                translate=partial(self._of_workload, target, links),
            )
        response = await self._upstream.send(
            info, headers, request=call.request, target=path, admin=True, head_seconds=None
        )
        try:
            if (words := await self._host_said(call, target, response)) is not None:
                return json_answer(words, response.status)
            fields = _from_workload(links, answer_headers(response))
            if is_packed(fields):
                raise RefusalError(502, _PACKED)
            return await relay(call.request, response, fields, links.body(fields))
        finally:
            response.close()

    async def _host_said(self, call: Call, target: Target, response: Reply) -> bytes | None:
        """Give an error in the tenant's names, if it is the host's own.

        What tells it from a workload's is that only the host knows the copy's name; the caller's
        ``Accept`` decides in which form it says it. The host's own is short, and comes at once.

        Returns:
            ``None``: it is none; the answer can be read from its beginning.
        """
        length = response.length
        short = (length is None or length <= _MAX_STATUS) and call.request.method != "HEAD"
        if response.status < 400 or not short or response.content_type == "text/html":
            return None
        body = await self._beginning(response.body)
        content_type = response.content_type if response.body.whole else ""
        words = self._in_our_words_if_its(target, response.status, content_type, body)
        if words is None:
            response.body.put_back(body)
        return words

    async def _beginning(self, body: Body) -> bytes:
        """Read what an error of the host's may have, or what there is of it in a moment."""
        read = bytearray()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_MOMENT):
                    while len(read) <= _MAX_STATUS and (piece := await body.read()):
                        read += piece
        except ConnectionError as error:
            raise self._upstream.unreachable(again=False) from error
        return bytes(read)

    def _of_stream(
        self, target: Target, status: int, headers: list[Header], body: bytes
    ) -> tuple[list[Header], bytes]:
        """Give what the caller gets of the host's answer to a stream's request."""
        if status == 101:
            return _only(headers, _AGREEMENT_HEADERS), b""
        body = self._in_our_words(target, status, body)
        return [("Content-Type", _JSON if body.startswith(b"{") else "text/plain")], body

    def _of_workload(
        self,
        target: Target,
        links: LinkRewriter,
        status: int,
        headers: list[Header],
        body: bytes,
    ) -> tuple[list[Header], bytes]:
        """Give what the caller gets of a workload's answer to an upgrade, or of the host's."""
        content_type = value_of(headers, "content-type")
        words = self._in_our_words_if_its(target, status, content_type.partition(";")[0], body)
        if status < 400 or words is None:
            return _from_workload(links, headers), body
        return [("Content-Type", _JSON)], words

    def _in_our_words_if_its(
        self, target: Target, status: int, content_type: str, body: bytes
    ) -> bytes | None:
        """Say an error of the host's in the tenant's names; ``None``: it is the workload's."""
        if target.host.name.encode() not in body:
            return None
        if content_type == _JSON:
            return self._in_our_words(target, status, body)
        return RefusalError(status, _UNTOLD).body()

    async def _read(self, response: Reply) -> bytes:
        """Read what the host says in place of what it was asked for."""
        try:
            return await read_answer(response, _MAX_STATUS, _SECONDS)
        except (ConnectionError, TimeoutError) as error:
            raise self._upstream.unreachable(again=False) from error

    def _in_our_words(self, target: Target, status: int, body: bytes) -> bytes:
        """Say a refusal of the host's in the tenant's names."""
        return translated(body, status, self._targets.names, target)


def translated(body: bytes, status: int, names: Names, target: Target) -> bytes:
    """Say what the host said in the tenant's names.

    Args:
        body: a Status, or text.
        status: HTTP status.
        names: the tenant's names.
        target: the object it is about.
    """
    key = key_of(target.virtual)
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError:
        text = body.decode(errors="replace")
        return hide_host_names(text, names, {target.host.name: key}).encode()
    return in_tenants_words(decoded, status, key, names).body()


def split_name(name: str) -> tuple[str, str, str]:
    """Split what a proxy's path names into scheme, name and port; ``""`` for what isn't there.

    Args:
        name: ``name``, ``name:port`` or ``scheme:name:port``.

    Raises:
        RefusalError: it has another form.

    Source: k8s.io/apimachinery v0.36 ``pkg/util/net``, ``SplitSchemeNamePort``.
    """
    match name.split(":"):
        case [plain] if plain:
            return "", plain, ""
        case [plain, port] if plain:
            return "", plain, port
        case [("" | "http" | "https") as scheme, plain, port] if plain:
            return scheme, plain, port
        case _:
            raise RefusalError(400, f'invalid proxy target "{name}"')


def _path(target: Target, resource: str, subresource: str) -> str:
    namespace, name = (quote(part, safe="") for part in target.host)
    return f"/api/v1/namespaces/{namespace}/{resource}/{name}/{subresource}"


def _first(parameters: Iterable[Header], wanted: str) -> str:
    return next((value for name, value in parameters if name == wanted), "")


def _known(parameters: Iterable[Header], names: frozenset[str]) -> Iterator[Header]:
    return (pair for pair in parameters if pair[0] in names)


def _only(headers: Iterable[Header], names: frozenset[str]) -> list[Header]:
    return [header for header in headers if header[0].lower() in names]


def _protocols(headers: Sequence[Header], known: frozenset[str]) -> Iterator[Header]:
    """Give the subprotocols that a stream is asked for; one that holds a token never goes on.

    Raises:
        RefusalError: one is unknown.
    """
    given = list(without_tokens(headers))
    asked = subprotocols(v for name, v in given if name.lower() == "sec-websocket-protocol")
    versions = [v.strip() for name, v in given if name.lower() == "x-stream-protocol-version"]
    for protocol in (*asked, *versions):
        if protocol not in known:
            words = ", ".join(sorted(known))
            raise RefusalError(400, f'there is no subprotocol "{protocol[:80]}" (known: {words})')
    if asked:
        yield "Sec-WebSocket-Protocol", ", ".join(asked)


def _to_workload(headers: Sequence[Header]) -> list[Header]:
    """Give the headers that a tenant's own server may see: all but credentials of the cluster.

    Nor the one by which a caller would name an entry of the host's audit log; and who may get a
    page gets it unpacked, for the host's API server packs its links again, where nobody sees them.
    """
    passed = list(without_tokens(without_identity(end_to_end(headers))))
    accepted = ",".join(value for name, value in passed if name.lower() == "accept").lower()
    page = not accepted or "text/html" in accepted or "*/*" in accepted or "text/*" in accepted
    dropped = ("audit-id", "accept-encoding") if page else ("audit-id",)
    return [header for header in passed if header[0].lower() not in dropped]


def _from_workload(links: LinkRewriter, headers: Iterable[Header]) -> list[Header]:
    """Give a workload's headers without those that its host added, and with the tenant's links."""
    return [
        (name, links.location(name, value))
        for name, value in headers
        if not name.lower().startswith(_OF_THE_HOST)
    ]


def _method_not_allowed(allowed: str) -> RefusalError:
    return RefusalError(
        405, "the server does not allow this method on the requested resource",
        headers={"Allow": allowed},
    )  # fmt: skip
