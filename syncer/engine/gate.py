"""One gate before every write: leadership, guard, owner and shutdown all close it by a reason.

Invariant: the gate is open exactly while no reason is held. A write checks it at the last moment
before its bytes go, after any wait for a slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping


class GateClosedError(Exception):
    """A write was about to go while the gate was closed; it was not sent."""


class Gate:
    """Says whether this process may write, and if not, why."""

    def __init__(self, **reasons: str) -> None:
        """Make a gate that is closed by the given reasons (none: open)."""
        self._reasons: dict[str, str] = dict(reasons)
        self._opened = asyncio.Event()
        if not reasons:
            self._opened.set()

    @property
    def reasons(self) -> Mapping[str, str]:
        """Who holds it closed, and why; empty when open."""
        return self._reasons

    def may_write(self) -> bool:
        """Say whether writes may go now."""
        return not self._reasons

    def close(self, holder: str, reason: str) -> None:
        """Close it, or change the reason.

        Args:
            holder: who closes it: a short constant name.
            reason: one line for operators: what is wrong and how to go on.
        """
        self._reasons[holder] = reason
        self._opened.clear()

    def open(self, holder: str) -> None:
        """Take back what ``holder`` said; opens when it was the last."""
        self._reasons.pop(holder, None)
        if not self._reasons:
            self._opened.set()

    def check(self) -> None:
        """Pass silently when open.

        Raises:
            GateClosedError: with the reasons.
        """
        if self._reasons:
            raise GateClosedError("; ".join(self._reasons.values()))

    async def wait_open(self) -> None:
        """Wait until open; cancellation leaves nothing behind."""
        await self._opened.wait()
