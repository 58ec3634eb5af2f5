"""The body of a message as it comes in."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

HIGH: Final = 64 * 1024
"""Bytes that may wait for their reader before no more are taken."""


class Valve(Protocol):
    """What bytes come through; holds and releases are counted."""

    def hold(self) -> None:
        """Take no more bytes."""

    def release(self) -> None:
        """Take bytes again."""


class TransportValve:
    """Stops and starts what comes by a transport.

    Attributes:
        transport: ``None`` while there is none, or what comes by it is somebody else's.
    """

    __slots__ = ("_holds", "transport")

    def __init__(self) -> None:
        """Make it, open and without a transport."""
        self._holds = 0
        self.transport: asyncio.Transport | None = None

    @property
    def held(self) -> bool:
        """Whether somebody holds it."""
        return self._holds > 0

    def hold(self) -> None:
        """Read no more."""
        self._holds += 1
        if self._holds == 1 and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def release(self) -> None:
        """Read again, once all who held have released."""
        self._holds -= 1
        if not self._holds and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()


class Body:
    """Bytes between a connection, which feeds them, and one reader.

    Attributes:
        received: bytes that have come.
        ended: whether no more will.
        error: why it ended too early, if it did.
    """

    __slots__ = ("_held", "_pieces", "_valve", "_waiting", "_waits", "ended", "error", "received")

    def __init__(self, valve: Valve) -> None:
        """Make it, with nothing in it yet.

        Args:
            valve: held while the reader is behind.
        """
        self._valve = valve
        self._pieces: list[bytes] = []
        self._waits = 0  # bytes in pieces
        self._held = False
        self._waiting: asyncio.Future[None] | None = None
        self.error: Exception | None = None
        self.received = 0
        self.ended = False

    def feed(self, piece: bytes) -> None:
        """Add bytes."""
        self._pieces.append(piece)
        self._waits += len(piece)
        self.received += len(piece)
        if self._waits > HIGH and not self._held:
            self._held = True
            self._valve.hold()
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Say that nothing more comes; later ends count for nothing.

        What waits here holds nothing back any more: what follows on the connection is not its.

        Args:
            error: for the reader, once it has read what came before.
        """
        if not self.ended:
            self.ended, self.error = True, error
            self._let_go()
            self._wake()

    @property
    def whole(self) -> bool:
        """Whether all of it is here."""
        return self.ended and self.error is None

    def take(self) -> bytes:
        """Give what is here, without waiting."""
        pieces = self._pieces
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._waits = 0
        self._let_go()
        return taken

    def put_back(self, piece: bytes) -> None:
        """Have bytes again that were read: they come before all others.

        Args:
            piece: what was read last.
        """
        if piece:
            self._pieces.insert(0, piece)
            self._waits += len(piece)

    async def read(self) -> bytes:
        """Give what is here, or wait for the next piece; ``b""`` at the end.

        Raises:
            Exception: what :meth:`end` was given.
        """
        while not self._pieces:
            if self.ended:
                if self.error is not None:
                    raise self.error
                return b""
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self.take()

    def _let_go(self) -> None:
        if self._held:
            self._held = False
            self._valve.release()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
