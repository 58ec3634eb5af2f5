"""Notices writes that don't last: the same patches again and again, though each was accepted.

A webhook or a server of another version may alter what is sent; another controller may change it
back, at once or after a moment in which all looked well. So that one pass found nothing to do
proves nothing yet: patches have held when they were not wanted again for a while.

Bounded: the items written to last are remembered, :data:`REMEMBERED` of them.

Source: design of controllers' backoff in client-go; loops without one: vcluster issue 4030.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from syncer.engine.plan import Action, Update
from syncer.engine.view import Item

REPEATS: Final = 2
"""How often the same patches are sent before it is taken that they will not last."""

STUCK_SECONDS: Final = (5.0, 300.0)
"""Then they are sent again only after pauses that double from the first to the second."""

HELD: Final = 1.5
"""Patches that were not wanted again for so many times the pause have held."""

REMEMBERED: Final = 4096


class StuckError(Exception):
    """What is written doesn't last, so writing it again would go on for ever.

    Attributes:
        seconds: when it may be tried again.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class _Repeat:
    """Patches that were sent, and answered with success, ``count`` times, last at ``time``."""

    digest: int
    count: int
    time: float

    @property
    def pause(self) -> float:
        """Seconds until they may be sent once more, once they were sent too often."""
        first, most = STUCK_SECONDS
        return min(most, first * 2.0 ** max(0, min(self.count - REPEATS, 16)))


class Progress:
    """Remembers the last patches of each item."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Remember nothing yet.

        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._repeats: OrderedDict[Item, _Repeat] = OrderedDict()

    def check(self, item: Item, actions: Iterable[Action]) -> int | None:
        """Refuse to send the same patches for ever.

        Args:
            item: what they are for.
            actions: the plan.

        Returns:
            What :meth:`sent` is to be told when they were sent; ``None``: there are none.

        Raises:
            StuckError: they were sent before, answered with success, and are wanted still.
        """
        updates = [action for action in actions if isinstance(action, Update)]
        if not updates:
            return None
        digest = hash(tuple(map(_identity, updates)))
        before = self._repeats.get(item)
        if before is None or before.digest != digest or before.count < REPEATS:
            return digest
        left = before.time + before.pause - self._clock()
        if left <= 0:
            return digest
        fields = sorted({name for update in updates for name in update.patch.fields})
        raise StuckError(
            f"the API server does not keep what is written to {', '.join(fields)}; "
            "another controller or a webhook may be changing it back",
            left,
        )

    def sent(self, item: Item, digest: int | None) -> None:
        """Take note of a pass that was carried out.

        Args:
            item: what it was for.
            digest: what :meth:`check` gave.
        """
        now = self._clock()
        before = self._repeats.get(item)
        held = before is not None and now - before.time > HELD * before.pause
        if digest is None:
            if held:
                del self._repeats[item]
            return
        again = before is not None and before.digest == digest and not held
        count = before.count + 1 if before is not None and again else 1
        self._repeats[item] = _Repeat(digest, count, now)
        self._repeats.move_to_end(item)
        if len(self._repeats) > REMEMBERED:
            self._repeats.popitem(last=False)


def _identity(update: Update) -> tuple[str, str, str, int]:
    """Say which change of which object an update is."""
    uid: str = update.target["metadata"]["uid"]
    return update.side, update.subresource, uid, update.patch.digest
