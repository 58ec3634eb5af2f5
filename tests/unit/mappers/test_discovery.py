"""The package of mappers as a whole: what is found, and that each has its tests and its docs."""

from pathlib import Path
from types import ModuleType

import pytest

import mappers
from mappers.document import HEADINGS, OPTIONAL, answers, page
from syncer.engine.view import indexers
from syncer.naming import Names
from syncer.types import Direction, Kind

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MODULES = mappers.modules()
KINDS = mappers.kinds()


def _short(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def test_the_order_is_the_same_each_time() -> None:
    """Two walks find the same kinds in the same order."""
    assert mappers.kinds() == KINDS
    assert [_short(module) for module in MODULES] == sorted(map(_short, MODULES))


def test_names_are_unique() -> None:
    """No two kinds share a name: names are queue keys, flags and metric labels."""
    names = [kind.name for kind in KINDS]
    assert sorted(set(names)) == sorted(names)


def test_a_second_kind_of_a_name_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that takes another's name stops the start, by a clear message."""
    monkeypatch.setattr(mappers, "modules", lambda: (*MODULES, MODULES[0]))
    with pytest.raises(ValueError, match="kinds described twice: configmaps"):
        mappers.kinds()


@pytest.mark.parametrize("module", MODULES, ids=_short)
def test_each_module_has_its_table(module: ModuleType) -> None:
    """Each mapper has a unit table, or for a package a directory of them."""
    name = _short(module)
    assert (HERE / f"test_{name}.py").exists() or (HERE / name).is_dir()


@pytest.mark.parametrize("module", MODULES, ids=_short)
def test_each_module_answers_the_same_questions(module: ModuleType) -> None:
    """The docstring has every heading, in order, each with an answer."""
    said = answers(module)
    assert set(HEADINGS) - OPTIONAL <= set(said)
    assert all(said.values())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_has_what_its_direction_needs(kind: Kind) -> None:
    """The functions that the engine calls for a direction are there."""
    match kind.direction:
        case Direction.TO_HOST:
            assert kind.to_host is not None
        case Direction.TO_VIRTUAL:
            assert kind.to_virtual is not None
            assert kind.virtual_key is not None
        case Direction.DERIVED:
            assert kind.derive is not None
            assert kind.derived_mark or kind.only or kind.on_host
            assert bool(kind.on_host) == bool(kind.resource.part)
        case Direction.WATCHED:
            assert (kind.to_host, kind.to_virtual, kind.derive) == (None, None, None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_triggers_name_indexes_that_exist(kind: Kind) -> None:
    """An index that a trigger names is made by some kind, or by its references."""
    made = indexers(KINDS, Names("vc", "host-ns"))
    for trigger in kind.triggers:
        assert trigger.index in made[trigger.side, trigger.resource]


def test_the_page_of_kinds_is_current() -> None:
    """docs/kinds.md says what the mappers say; `python -m mappers.document` writes it."""
    assert (ROOT / "docs" / "kinds.md").read_text() == page(MODULES)


def test_a_docstring_without_a_heading_is_an_error() -> None:
    """A question that a mapper leaves open is found when the page is written."""
    module = ModuleType("mappers.things", "Things.\n\nDirection: virtual to host.\n")
    with pytest.raises(ValueError, match="docstring has the headings"):
        answers(module)
