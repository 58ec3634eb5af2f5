"""Requests that the virtual API server answers: nearly all of them.

Who the caller is goes along in one of two ways, never both. A user known by certificate is
impersonated over the administrator's connection. Everybody else's own credentials, or their lack,
go over a connection that proves nothing, so that the server decides itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from syncer.http1.head import Header
from syncer.http1.server import Answer
from syncer.proxy.authenticate import without_tokens
from syncer.proxy.authorize import Authorizer
from syncer.proxy.call import Call
from syncer.proxy.identity import without_identity
from syncer.proxy.refusal import RefusalError
from syncer.proxy.request import RequestInfo
from syncer.proxy.upgrade import tunnel
from syncer.proxy.upstream import Upstream, answer_headers, end_to_end, relay

HEALTH_SECONDS: Final = 5.0


class ToVirtual:
    """Passes requests on to the virtual API server."""

    def __init__(self, upstream: Upstream, authorizer: Authorizer) -> None:
        """Make it.

        Args:
            upstream: the virtual API server.
            authorizer: asks it who may be taken for whom.
        """
        self._upstream = upstream
        self._authorizer = authorizer

    async def __call__(self, call: Call) -> Answer:
        """Answer a request with what the virtual API server says.

        Raises:
            RefusalError: it can't be reached, or the caller may not impersonate whom they want.
            ConnectionError: one of both ends broke off.
        """
        headers, admin = await self.headers(call)
        if call.upgrade:
            return await tunnel(
                call.request, self._upstream, call.info, headers, call.upgrade, admin=admin
            )
        response = await self._upstream.send(
            call.info, headers, request=call.request, admin=admin, head_seconds=None
        )
        return await relay(call.request, response, answer_headers(response))

    async def headers(self, call: Call) -> tuple[list[Header], bool]:
        """Give the headers that a request is passed on with, and whether as an administrator.

        Raises:
            RefusalError: the caller may not impersonate whom they want.
        """
        sent = list(without_identity(end_to_end(call.headers)))
        sent.append(("X-Forwarded-For", call.client))
        user = call.caller.user
        if user is None:
            return [*sent, *_own(call.headers)], False
        if call.caller.impersonated is not None:
            user = await self._authorizer.impersonate(user, call.caller.impersonated, call.info)
        if call.upgrade:
            sent = list(without_tokens(sent))
        return [*sent, *user.impersonation], True

    async def health(self, call: Call) -> Answer:
        """Say how the virtual API server is, to whoever asks: probes have no credentials.

        Raises:
            RefusalError: it can't be reached.
        """
        if call.request.method not in ("GET", "HEAD"):
            raise RefusalError(405, "health is only read", headers={"Allow": "GET, HEAD"})
        info = RequestInfo("GET", call.info.path, call.info.path)
        response = await self._upstream.send(info, (), admin=True, head_seconds=HEALTH_SECONDS)
        return await relay(call.request, response, answer_headers(response))


def _own(headers: Iterable[Header]) -> Iterator[Header]:
    """Give the headers by which a caller says who it is, in the one spelling servers read."""
    for name, value in headers:
        plain = name.lower()
        if plain == "authorization" or plain.startswith("impersonate-"):
            yield name, value
