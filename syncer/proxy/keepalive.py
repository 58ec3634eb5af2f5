"""Sockets on which a peer that is gone is noticed, though nothing is being sent.

A watch may be silent for days; a machine that lost its power says nothing either.
"""

from __future__ import annotations

import socket
from typing import Any, Final

_OPTIONS: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)


def detect(connection: socket.socket) -> None:
    """Let a dead peer be noticed after some 70 seconds.

    Args:
        connection: over TCP; asyncio's and uvloop's stand-ins for sockets will do.
    """
    for level, option, value in _OPTIONS:
        connection.setsockopt(level, option, value)


def detecting_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket that notices it.

    Args:
        address: as ``getaddrinfo`` gives it: family, type and protocol come first.
    """
    family, kind, protocol = address[:3]
    connection = socket.socket(family, kind, protocol)
    detect(connection)
    return connection
