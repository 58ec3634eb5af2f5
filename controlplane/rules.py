"""What a fault proxy is told to do and what it has seen: plain data, no I/O."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
"""Verbs that change something."""

NOT_SYNCING = re.compile(r"/leases(/|$)|/(authentication|authorization)\.k8s\.io/")
"""Paths of writes that say nothing about syncing: leader election and access reviews."""

Stage = Literal["received", "processed", "answered"]
"""A write is received from the client, processed by the API server, answered to the client."""

Action = Literal["fail", "empty", "expire", "drop", "lose", "stall"]
"""What a rule does; the methods of `FaultProxy` that make rules explain each."""


@dataclass
class Write:
    """A write that reached the proxy.

    Attributes:
        number: 1 for the first write the proxy saw.
        verb: POST, PUT, PATCH or DELETE.
        path: without the query.
        body: as the client sent it.
        at: when it came, in seconds of `time.monotonic`.
        status: what the API server said, or a rule in its place; None as long as nothing did.
        processed: whether the API server handled it.
        answered: whether the answer was handed to the client's connection.
    """

    number: int
    verb: str
    path: str
    body: bytes = field(repr=False)
    at: float
    status: int | None = None
    processed: bool = False
    answered: bool = False


Hook = Callable[[Stage, Write], Awaitable[None]]
"""Awaited at each stage of each write, which goes on when it returns."""


@dataclass(eq=False)
class Rule:
    """One misbehaviour; a context manager that removes it at the end of the block.

    Attributes:
        hits: how many requests met it.
        times: how many may still meet it; None for any number.
    """

    action: Action
    verbs: frozenset[str] | None
    path: re.Pattern[str]
    times: int | None = None
    status: int = 0
    retry_after: int | None = None
    hits: int = 0
    _removed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_removed(self) -> bool:
        """Whether it was removed; one that was met often enough may still hold requests up."""
        return self._removed.is_set()

    def matches(self, verb: str, path: str) -> bool:
        """Return whether a request meets this rule."""
        spent = self.is_removed or self.times == 0
        right_verb = self.verbs is None or verb in self.verbs
        return not spent and right_verb and self.path.search(path) is not None

    def remove(self) -> None:
        """End the misbehaviour; what it held up goes on. Safe to call twice."""
        self._removed.set()

    async def removed(self) -> None:
        """Wait until the rule is removed."""
        await self._removed.wait()

    def hit(self) -> None:
        """Count a request that met the rule."""
        self.hits += 1
        if self.times is not None:
            self.times -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


class Rules:
    """The rules in force, newest first."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> Rule:
        """Put `rule` before all others and return it."""
        self._rules = [rule, *(each for each in self._rules if not each.is_removed)]
        return rule

    def find(self, verb: str, path: str, action: Action | None = None) -> Rule | None:
        """Return the newest rule that a request meets, of one kind only if `action` says so."""
        for rule in self._rules:
            if rule.matches(verb, path) and action in (None, rule.action):
                return rule
        return None

    def clear(self) -> None:
        """Remove all."""
        for rule in self._rules:
            rule.remove()
        self._rules = []
