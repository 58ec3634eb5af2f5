"""What people see: side by side, and the verdict; readable when piped to a file, too."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from demo.clusters import (
    APPLICATION,
    HOST_NAMESPACE,
    TENANT,
    Cluster,
    copy_of,
    name_of,
    namespace_of,
    state,
)
from demo.facts import Fact
from demo.tenant import Saying

_SHOWN = ("deployments", "pods", "services", "configmaps", "secrets")
_NOT_OURS = frozenset({"kube-root-ca.crt"})  # every namespace has it
_WIDTH = 150  # columns where there is no terminal


def console() -> Console:
    """Return where everything is printed."""
    return Console() if sys.stdout.isatty() else Console(width=_WIDTH)


def side_by_side(virtual: Cluster, host: Cluster) -> Table:
    """Return each of the tenant's objects beside its copy."""
    table = Table(title="side by side", title_justify="left", show_lines=False)
    table.add_column("kind")
    table.add_column(f"the tenant ({TENANT}) sees", overflow="fold")
    table.add_column("")
    table.add_column(f"the host has in {HOST_NAMESPACE}", overflow="fold")
    table.add_column("")
    for plural in _SHOWN:
        for namespace in (APPLICATION, "default"):
            for obj in virtual.within(plural, namespace):
                if name_of(obj) in _NOT_OURS or name_of(obj) == "kubernetes":
                    continue
                copy = copy_of(host, plural, obj)
                table.add_row(
                    plural,
                    f"{namespace_of(obj)}/{name_of(obj)}",
                    state(plural, obj),
                    name_of(copy) if copy else "-",
                    state(plural, copy) if copy else "",
                )
    return table


def verdict(facts: Sequence[tuple[Fact | Saying, bool]]) -> RenderableType:
    """Return the list of facts, each with whether it came true, and what they come to."""
    lines = [
        Text(f"  {'✓' if true else '✗'} {fact.text}", style="green" if true else "bold red")
        for fact, true in facts
    ]
    missing = sum(not true for _, true in facts)
    total = (
        Text(f"All {len(facts)} facts came true.", style="bold green")
        if not missing
        else Text(f"{missing} of {len(facts)} facts did not come true.", style="bold red")
    )
    return Group(Text(), *lines, Text(), total)


def invitation(virtual: Path, host: Path, kubectl: Path) -> RenderableType:
    """Return what to try while the clusters are up."""
    lines = (
        "",
        "Try it, as the tenant and as the host's administrator:",
        f"  alias kubectl={kubectl}",
        f"  kubectl --kubeconfig={virtual} get pods -A",
        f"  kubectl --kubeconfig={host} get pods -n {HOST_NAMESPACE}",
        "",
        "Ctrl-C ends everything.",
    )
    return Text("\n".join(lines))
