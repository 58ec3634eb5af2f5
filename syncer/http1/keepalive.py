"""Sockets on which a peer that is gone is noticed, though nothing is being sent.

A watch may be silent for days; a machine that lost its power says nothing either.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


def detect(transport: asyncio.BaseTransport) -> None:
    """Let a dead peer be noticed after some 70 seconds.

    Args:
        transport: over TCP.
    """
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None:
        for level, option, value in _OPTIONS:
            connection.setsockopt(level, option, value)
