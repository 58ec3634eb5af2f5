"""What operators run besides the syncer, one module a command.

A command writes data to standard output and what it did to standard error, and raises
:class:`CommandError` when it can't do what was asked. Options are models in
:mod:`syncer.commands.options`, which is all that help needs; the rest is imported when it runs.
"""

from __future__ import annotations

from syncer.kube.errors import MAX_MESSAGE, one_line


class CommandError(Exception):
    """A command can't do what it was asked to; one line that says why and what would help."""

    def __init__(self, line: str) -> None:
        super().__init__(one_line(line, MAX_MESSAGE))
