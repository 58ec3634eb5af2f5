"""How much one user may have under way, so that one can't take the endpoint from the others."""

from __future__ import annotations

from syncer.proxy.refusal import RefusalError


class Limits:
    """Counts what each user has under way; remembers nobody who has nothing."""

    def __init__(self, *, requests: int, streams: int) -> None:
        """Make it.

        Args:
            requests: most short requests of a user.
            streams: most watches, logs, execs and tunnels of a user.
        """
        self._requests = requests
        self._streams = streams
        self._counts: dict[tuple[str, bool], int] = {}

    def one(self, user: str, *, stream: bool) -> _One:
        """Give what counts a request while the body of its ``with`` runs.

        Args:
            user: name that stands for the caller.
            stream: whether it may last.

        Raises:
            RefusalError: on entering, 429: the user has too many already.
        """
        return _One(self._counts, (user, stream), self._streams if stream else self._requests)


class _One:
    """One request of somebody's; a class, for a generator would cost three times as much."""

    __slots__ = ("_at", "_counts", "_most")

    def __init__(
        self, counts: dict[tuple[str, bool], int], at: tuple[str, bool], most: int
    ) -> None:
        self._counts = counts
        self._at = at
        self._most = most

    def __enter__(self) -> None:
        had = self._counts.get(self._at, 0)
        if had >= self._most:
            kind = "streams" if self._at[1] else "requests"
            raise RefusalError(
                429,
                f"too many {kind} at a time: at most {self._most} for each user",
                headers={"Retry-After": "1"},
            )
        self._counts[self._at] = had + 1

    def __exit__(self, *_: object) -> None:
        left = self._counts[self._at] - 1
        if left:
            self._counts[self._at] = left
        else:
            del self._counts[self._at]
