"""Requests that turn their connection into a tunnel: exec, attach, port-forward, WebSockets.

The request goes over a connection of its own. Only when the server has agreed (101) do both
connections become one pipe; anything else is an ordinary answer, after which both are closed: what
a caller sent behind a refused upgrade is never taken for a request (CVE-2018-1002105).

A pipe copies bytes and knows nothing of what they mean. When one side is full, the other is not
read; when one side closes, so does the other, after what it had to say was written.

Source: RFC 9110 section 7.8; https://kubernetes.io/blog/2024/08/20/websockets-transition/
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from syncer.http1.client import Reply
from syncer.http1.head import Header, head
from syncer.http1.server import Answer, Request, Response, Sent
from syncer.proxy.refusal import RefusalError
from syncer.proxy.request import RequestInfo
from syncer.proxy.upstream import Upstream, answer_headers, read_answer

AGREE_SECONDS: Final = 60.0
"""How long a server may take to agree; a kubelet may have to start something first."""

IDLE_SECONDS: Final = 4 * 3600.0
"""A tunnel without a byte for so long is closed; kubelets do the same."""

FLUSH_SECONDS: Final = 30.0
"""How long a side that is closed may take to read what is left for it."""

_PROTOCOLS: Final = frozenset({"websocket", "spdy/3.1"})
_MAX_REFUSAL: Final = 1 << 20

Translate = Callable[[int, list[Header], bytes], tuple[list[Header], bytes]]
"""Takes status, headers and body of an answer and gives what the caller gets of the last two; of an
agreement (101), the body is empty."""


def wants_upgrade(headers: Iterable[Header]) -> str:
    """Give the protocol that a request wants to go on with, or ``""``.

    Other protocols than the two of Kubernetes' clients are none: a server may ignore them, and
    behind an upgrade to HTTP/2 there would be requests of ours that nobody has looked at.

    Args:
        headers: of the request.
    """
    wanted, protocol = False, ""
    for name, value in headers:
        match name.lower():
            case "connection":
                words = (word.strip().lower() for word in value.split(","))
                wanted = wanted or "upgrade" in words
            case "upgrade":
                protocol = value.strip()
    return protocol if wanted and protocol.lower() in _PROTOCOLS else ""


class _Pipe(asyncio.Protocol):
    """One end of a tunnel: what comes in here goes out at the other end."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: _Pipe | None = None
        self.lost = asyncio.get_running_loop().create_future()
        self.last = 0.0
        self.ended = False
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.last = self._loop.time()
        if (other := self._other()) is not None:
            other.write(data)

    def eof_received(self) -> bool:
        """Pass the end on; over TLS, which has no half-closed connections, all of it ends."""
        self.ended = True
        other = self._other()
        if other is None or not other.can_write_eof() or (self.peer and self.peer.ended):
            return False
        other.write_eof()
        return True

    def pause_writing(self) -> None:
        if (other := self._other()) is not None:
            other.pause_reading()

    def resume_writing(self) -> None:
        if (other := self._other()) is not None:
            other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if not self.lost.done():
            self.lost.set_result(None)
        if (other := self._other()) is not None:
            other.close()  # once what it holds is written

    def close(self) -> None:
        """Close this end, losing what was not written."""
        if self.transport is not None:
            self.transport.abort()

    def _other(self) -> asyncio.Transport | None:
        """Give the other end's connection while it is open."""
        other = self.peer.transport if self.peer is not None else None
        return None if other is None or other.is_closing() else other


async def tunnel(
    request: Request,
    upstream: Upstream,
    info: RequestInfo,
    headers: Iterable[Header],
    protocol: str,
    *,
    target: str = "",
    admin: bool,
    translate: Translate | None = None,
) -> Answer:
    """Pass an upgrade on and, when the server agrees, be a pipe until one side closes.

    Cancelled, it closes both connections.

    Args:
        request: the caller's, without a body.
        upstream: the server.
        info: gives method and, unless ``target`` does, path and query.
        headers: what to send, without those of the connection.
        protocol: what to upgrade to.
        target: path and query, escaped.
        admin: with our own credentials; else with none but those in ``headers``.
        translate: says what the caller gets of an answer; else all of it that is not about the
            connection.

    Returns:
        :class:`Sent`, or the server's answer when it did not agree.

    Raises:
        RefusalError: no answer came, or the request has a body.
        ConnectionError: the caller is gone.
    """
    if request.has_body:
        raise RefusalError(400, "a request that upgrades its connection must not have a body")
    reply = await upstream.send(
        info,
        headers,
        body=None if info.method == "GET" else b"",
        target=target,
        admin=admin,
        head_seconds=AGREE_SECONDS,
        protocol=protocol,
    )
    try:
        if reply.agreed and reply.header("upgrade").lower() == protocol.lower():
            return await _join(request, reply, translate)
        return await _refusal(reply, translate)
    finally:
        reply.close()


async def _refusal(reply: Reply, translate: Translate | None) -> Answer:
    """Give an answer that is no agreement; both connections end with it."""
    if reply.status < 200:
        raise RefusalError(503, "the server changed to another protocol than it was asked for")
    try:
        body = await read_answer(reply, _MAX_REFUSAL + 1, AGREE_SECONDS)
    except TimeoutError as error:
        raise RefusalError(504, "the server's answer did not come in time") from error
    except ConnectionError as error:
        raise RefusalError(503, "the server's answer broke off") from error
    if len(body) > _MAX_REFUSAL:
        raise RefusalError(503, "the server's answer to an upgrade is too long")
    headers = answer_headers(reply)
    if translate is not None:
        headers, body = translate(reply.status, headers, body)
    return Response(reply.status, headers, body, close=True)


async def _join(request: Request, reply: Reply, translate: Translate | None) -> Answer:
    """Make one pipe of both connections and wait until it ends."""
    client, server = _Pipe(), _Pipe()
    agreement = _agreement(reply, translate)
    server.transport, held = reply.detach(server)
    try:
        request.begun = True
        client.transport, early = request.connection.detach(client)
        server.peer, client.peer = client, server
        for end in (server.transport, client.transport):
            if not end.is_closing():
                end.resume_reading()
        # Only now, for either may fill the end it goes to, which then must stop the other.
        client.transport.write(agreement + held)
        if early and not server.transport.is_closing():
            server.transport.write(early)
        await _until_lost(client, server)
    finally:
        client.close()
        server.close()
    return Sent(101)


def _agreement(reply: Reply, translate: Translate | None) -> bytes:
    """Give the head of the answer by which the caller learns that the server agrees."""
    headers = answer_headers(reply)
    if translate is not None:
        headers, _ = translate(101, headers, b"")
    fields = (("Connection", "Upgrade"), ("Upgrade", reply.header("upgrade")), *headers)
    return head("HTTP/1.1 101 Switching Protocols", fields)


async def _until_lost(client: _Pipe, server: _Pipe) -> None:
    """Wait until one end is lost and the other has had a moment to write, or nothing moves."""
    loop = asyncio.get_running_loop()
    client.last = server.last = loop.time()
    while True:
        left = max(client.last, server.last) + IDLE_SECONDS - loop.time()
        if left <= 0:
            return
        ends = {client.lost, server.lost}
        done, _ = await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if done:
            # The other one was told to close; it does once all is written or its peer is gone.
            await asyncio.wait(ends, timeout=FLUSH_SECONDS)
            return
