"""Where the addresses that an API server dials lead: told here, done by `egress_proxy.py`.

    with plane.egress.route("10.96.0.7:10250", ("127.0.0.1", port)):
        ...  # the API server reaches the test's own server at a service's IP
    assert "169.254.169.254:80" not in plane.egress.refused

Service IPs, pod IPs and node addresses route nowhere on this machine; a test maps those it needs to
servers of its own. Loopback destinations need no route. All else is refused and remembered.

Everything is a file in the plane's directory, so routes can be set and dials read from any process
that has attached to the plane, not just from its owner.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from controlplane.egress_proxy import DIALS, ROUTES, Outcome, parse, route_name, route_text


@dataclass(frozen=True)
class Dial:
    """Something that the API server wanted to connect to.

    Attributes:
        target: host and port as it asked for them.
        outcome: routed, direct (loopback), refused, or failed (nothing answers there).
    """

    target: str
    outcome: Outcome


@dataclass(frozen=True)
class Route:
    """A route in force; a context manager that removes it at the end of the block."""

    _file: Path

    def remove(self) -> None:
        """Let new connections there be refused again; open ones stay. Safe to call twice."""
        self._file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


class Egress:
    """The way from one plane's API server to the cluster.

    Routes last until they are removed, for all processes, and outlive a restart of the proxy. The
    API server keeps connections for later requests: a removed route stops new ones only.
    """

    def __init__(self, directory: Path) -> None:
        """Use the proxy whose directory is `directory`."""
        self._directory = directory

    def route(self, target: str, to: tuple[str, int] | str) -> Route:
        """Let the API server's connections to `target` end at `to`, from now on.

        Args:
            target: `HOST:PORT`, or `HOST` for those of its ports without a route of their own; a
                route that is there already is replaced.
            to: host and port; a host alone leaves the port as asked for.

        Raises:
            ValueError: `target` is neither.
        """
        folder = self._directory / ROUTES
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / route_name(*parse(target))
        scratch = folder / f".{file.name}.{os.getpid()}"  # no host begins with a dot
        scratch.write_text(route_text(to, None) if isinstance(to, str) else route_text(*to))
        scratch.replace(file)
        return Route(file)

    @property
    def dials(self) -> list[Dial]:
        """The newest dials (10,000 at least), oldest first, each there before it is answered."""
        try:
            lines = (self._directory / DIALS).read_text().splitlines()
        except FileNotFoundError:
            return []
        return [_dial(line) for line in lines]

    @property
    def refused(self) -> list[str]:
        """The targets of those dials that led nowhere for want of a route."""
        return [dial.target for dial in self.dials if dial.outcome == "refused"]


def _dial(line: str) -> Dial:
    outcome, _, target = line.partition(" ")
    return Dial(target, cast("Outcome", outcome))
