"""One module a kind: pure functions on plain objects, gathered in a frozen ``KIND`` record.

Adding a kind is adding a module (or a package) here that ends with ``KIND = Kind(...)``, or with
``KINDS`` when it describes several; :func:`kinds` finds it. Modules without either are helpers.

Invariants:
* no I/O, no clock, no state: a mapper sees an object, its counterpart and what it declared;
* what goes to the host is built from an allow-list of fields.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from syncer.types import Kind


def modules() -> tuple[ModuleType, ...]:
    """Give the modules of this package that describe a kind, sorted by name."""
    names = sorted(found.name for found in iter_modules(__path__))
    loaded = [import_module(f"{__name__}.{name}") for name in names]
    return tuple(module for module in loaded if kinds_of(module))


def kinds_of(module: ModuleType) -> tuple[Kind, ...]:
    """Give what a module describes: its ``KINDS``, its ``KIND``, or nothing."""
    several: tuple[Kind, ...] = getattr(module, "KINDS", ())
    one: Kind | None = getattr(module, "KIND", None)
    return (*several, *((one,) if one else ()))


def kinds() -> tuple[Kind, ...]:
    """Give all kinds there are, in an order that is the same in every process.

    Raises:
        ValueError: two modules describe kinds of the same name.
    """
    found = [kind for module in modules() for kind in kinds_of(module)]
    names = [kind.name for kind in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"kinds described twice: {', '.join(sorted(twice))}")
    return tuple(found)
