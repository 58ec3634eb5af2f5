"""Reads the WebSocket frames of an exec: how much came on which channel, and how it ended.

Knows only what a Kubernetes API server sends: unmasked frames, the first byte of each message its
channel. Payloads are counted and dropped, but for the status.

Source: RFC 6455 section 5.2; k8s.io/apimachinery v0.36 `pkg/util/remotecommand` (channels).
"""

from typing import Final

import orjson

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
STATUS: Final = 3

_LONGEST_HEAD = 10  # bytes, without a mask
_CONTINUATION, _CLOSE, _FIRST_CONTROL = 0x0, 0x8, 0x8
_TWO_BYTES, _EIGHT_BYTES = 126, 127  # what a length says when the real one follows


class Frames:
    """Counts what is fed to it, however it is cut into pieces.

    Attributes:
        received: payload bytes of each channel, without the byte that names it.
        status: text of the status channel so far.
        closed: whether the server has said that nothing will follow.
    """

    def __init__(self) -> None:
        """Begin before the first frame."""
        self.received = dict.fromkeys((STDIN, STDOUT, STDERR, STATUS), 0)
        self.status = b""
        self.closed = False
        self._head = b""  # of a frame, not whole yet
        self._left = 0  # payload bytes of the present frame that have not come yet
        self._channel: int | None = None  # of the present message; None until its first byte
        self._control = False  # whether the present frame is part of no message

    @property
    def succeeded(self) -> bool:
        """Whether the status says that the command did."""
        try:
            return bool(orjson.loads(self.status)["status"] == "Success")
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        view, at = memoryview(self._head + data if self._head else data), 0
        self._head = b""
        while at < len(view):
            if self._left:
                piece = view[at : at + self._left]
                self._payload(piece)
                at += len(piece)
            elif (size := self._begin(view[at : at + _LONGEST_HEAD])) == 0:
                self._head = bytes(view[at:])
                return
            else:
                at += size

    def _begin(self, head: memoryview) -> int:
        """Begin a frame and return how long its head is; 0 if more of it has to come first."""
        if len(head) < 2:
            return 0
        kind, length, size = head[0] & 0x0F, head[1] & 0x7F, 2
        if length in (_TWO_BYTES, _EIGHT_BYTES):
            size = 4 if length == _TWO_BYTES else _LONGEST_HEAD
            if len(head) < size:
                return 0
            length = int.from_bytes(head[2:size])
        self._left = length
        self._control = kind >= _FIRST_CONTROL
        self.closed = self.closed or kind == _CLOSE
        if not self._control and kind != _CONTINUATION:
            self._channel = None
        return size

    def _payload(self, piece: memoryview) -> None:
        self._left -= len(piece)
        if self._control:
            return
        if self._channel is None:
            self._channel, piece = piece[0], piece[1:]
        self.received[self._channel] = self.received.get(self._channel, 0) + len(piece)
        if self._channel == STATUS:
            self.status += piece
