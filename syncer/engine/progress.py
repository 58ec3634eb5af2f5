"""Notices writes that don't last: the same patches again and again, though each was accepted.

A webhook or a server of another version may alter what is sent; another controller may change it
back, at once or after a moment in which all looked well. So that one pass found nothing to do
proves nothing yet: patches have held when they were not wanted again for a while.

And notices what was posted already: the answer to a POST (a binding) is no object that the store
could take, so that the object looks as before until a watch brings what came of it.

Bounded: the items written to last are remembered, :data:`REMEMBERED` of them.

Source: design of controllers' backoff in client-go; loops without one: vcluster issue 4030.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from syncer.engine.plan import Action, Post, Update
from syncer.engine.view import Item

REPEATS: Final = 2
"""How often the same patches are sent before it is taken that they will not last."""

STUCK_SECONDS: Final = (5.0, 300.0)
"""Then they are sent again only after pauses that double from the first to the second."""

HELD: Final = 1.5
"""Patches that were not wanted again for so many times the pause have held."""

POSTED_SECONDS: Final = 60.0
"""How long the news of what was posted may take; then it may be posted again, and be refused."""

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
        # What was posted last, as a digest, and when: until a pass that wants nothing posted.
        self._posts: OrderedDict[Item, tuple[int, float]] = OrderedDict()

    def check(self, item: Item, actions: Sequence[Action]) -> int | None:
        """Refuse to send the same patches for ever.

        Args:
            item: what they are for.
            actions: the plan.

        Returns:
            What :meth:`sent` is to be told when they were sent; ``None``: there are none.

        Raises:
            StuckError: they were sent before, answered with success, and are wanted still.
        """
        if item in self._posts and not any(isinstance(action, Post) for action in actions):
            del self._posts[item]
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

    def is_posted(self, item: Item, post: Post) -> bool:
        """Say whether a POST was accepted, and what came of it can't have been heard of yet.

        Args:
            item: what it is for.
            post: what is wanted; its body names the object by UID.
        """
        digest, time = self._posts.get(item, (None, 0.0))
        return digest == _digest(post) and self._clock() - time < POSTED_SECONDS

    def posted(self, item: Item, post: Post) -> None:
        """Take note of a POST that was answered with success."""
        self._posts[item] = (_digest(post), self._clock())
        self._posts.move_to_end(item)
        if len(self._posts) > REMEMBERED:
            self._posts.popitem(last=False)


def _digest(post: Post) -> int:
    return hash((post.subresource, orjson.dumps(post.body)))


def _identity(update: Update) -> tuple[str, str, str, int]:
    """Say which change of which object an update is."""
    uid: str = update.target["metadata"]["uid"]
    return update.side, update.subresource, uid, update.patch.digest
