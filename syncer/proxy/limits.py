"""How much one user may have under way, so that one can't take the endpoint from the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from syncer.proxy.refusal import RefusalError


class Limits:
    """Counts what each user has under way; remembers nobody who has nothing."""

    def __init__(self, *, requests: int, streams: int) -> None:
        """Make it.

        Args:
            requests: most short requests of a user.
            streams: most watches, logs, execs and tunnels of a user.
        """
        self._most = {False: requests, True: streams}
        self._counts: Counter[tuple[str, bool]] = Counter()

    @contextmanager
    def one(self, user: str, *, stream: bool) -> Iterator[None]:
        """Count a request while the body runs.

        Args:
            user: name that stands for the caller.
            stream: whether it may last.

        Raises:
            RefusalError: 429, the user has too many already.
        """
        at = (user, stream)
        if self._counts[at] >= self._most[stream]:
            raise RefusalError(
                429,
                f"too many {'streams' if stream else 'requests'} at a time: "
                f"at most {self._most[stream]} for each user",
                headers={"Retry-After": "1"},
            )
        self._counts[at] += 1
        try:
            yield
        finally:
            self._counts[at] -= 1
            if not self._counts[at]:
                del self._counts[at]
