"""Loopback ports that stay ours for as long as we hold them.

The usual trick (bind port 0, close, hand the number on) loses the port to whoever binds next. Here
the socket stays bound, never listening, with SO_REUSEADDR. The kernel then gives the number to no
one who asks for *any* port, yet lets a server that also sets SO_REUSEADDR (Go's and asyncio's do)
bind and listen on exactly this one; so a component can also be stopped and started on its port.
"""

import socket
from types import TracebackType

LOOPBACK = "127.0.0.1"


class HeldPort:
    """A reserved loopback port; `number` is free for one server until `release`."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((LOOPBACK, 0))
        self.number: int = self._socket.getsockname()[1]

    def release(self) -> None:
        """Give the number back to the kernel; safe to call twice."""
        self._socket.close()

    def __enter__(self) -> "HeldPort":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
