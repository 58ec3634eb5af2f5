"""One request on its way through the endpoint: what every part of it is handed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from syncer.http1.head import Header, value_of
from syncer.http1.server import Request
from syncer.proxy.identity import User
from syncer.proxy.request import RequestInfo


@dataclass(frozen=True, slots=True)
class Caller:
    """How a request says whom it is from; nothing has been asked of a server yet.

    At most one of ``user`` and ``token`` is there; with neither, the caller is anonymous.

    Attributes:
        user: who a client certificate, or a front proxy with one, says it is.
        token: bearer token, not looked at.
        impersonated: whom the request wants to be taken for instead.
        name: who it is for limits: names the user or stands for the token; no secret.
    """

    user: User | None = None
    token: str = field(default="", repr=False)
    impersonated: User | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A request and what was read from it.

    Attributes:
        request: as it came; its body has not been read.
        info: what it asks for.
        caller: whom it is from.
        headers: as they were written, in order.
        upgrade: the protocol that the connection is to go on with, ``""``: HTTP.
        client: IP address of the caller.
        node: the node whose kubelet is asked, ``""``: the API server is.
    """

    request: Request
    info: RequestInfo
    caller: Caller
    headers: Sequence[Header] = ()
    upgrade: str = ""
    client: str = ""
    node: str = ""

    def header(self, name: str) -> str:
        """Give the first of the headers with a name, ``""`` when there is none.

        Args:
            name: in lower case.
        """
        return value_of(self.headers, name)
