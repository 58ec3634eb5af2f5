"""What both sides want of a connection's transport.

* A peer that is gone is noticed, though nothing is being sent: a watch may be silent for days, and
  a machine that lost its power says nothing either.
* Nothing that is written waits to fill a packet; of connections that are accepted by hand, asyncio
  would not see to that.
* Over TLS, nothing is read ahead of who reads. Event loops would hold up to 256 KiB of what comes
  while reading is paused, and uvloop drops that when the peer closes meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final, cast

_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)


def prepare(transport: asyncio.BaseTransport) -> asyncio.Transport:
    """Prepare a new connection's transport.

    Args:
        transport: over TCP, maybe with TLS.

    Returns:
        The transport; a peer that is dead ends it after some 70 seconds.
    """
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None:
        for level, option, value in _OPTIONS:
            connection.setsockopt(level, option, value)
    if (limit := getattr(transport, "set_read_buffer_limits", None)) is not None:
        limit(high=1, low=0)  # of TLS; an unfinished record is not in this buffer
    return cast("asyncio.Transport", transport)  # uvloop's is none by descent
