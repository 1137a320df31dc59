"""relay/README.md says where things are, how an event goes and who may write what: as it is in the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import TYPE_CHECKING

import pytest

from relay.postgres.sql import query
from relay.telemetry import HAPPENINGS
from tests.support.documents import ROOT, page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = page("relay/README.md")
RELAY = ROOT / "relay"
DIVIDED = ("stages", "postgres")
"""Folders whose rooms are in the map one by one."""

MUTATORS = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popleft"),
    *("remove", "set", "setdefault", "update"),
}
"""Methods of collections and events that change them."""


def section(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, as cells, without the heading's row."""
    text = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in row[1:-1].split("|")] for row in rows]


def named(cell: str) -> list[str]:
    """The code spans of a cell."""
    return re.findall(r"`([^`]+)`", cell)


def rooms() -> Iterator[str]:
    """The folders and modules of relay/ that a reader has to find."""
    for path in sorted(RELAY.iterdir()):
        if (path / "__init__.py").exists():
            yield f"relay/{path.name}/"
            if path.name in DIVIDED:
                yield from (f"relay/{path.name}/{each.parent.name}/" for each in sorted(path.glob("*/__init__.py")))
        elif path.suffix == ".py" and not path.name.startswith("__"):
            yield f"relay/{path.name}"


def attribute(target: ast.expr) -> str | None:
    """The name of the attribute that is assigned to, or of whose value an item is."""
    while isinstance(target, ast.Subscript):
        target = target.value
    return target.attr if isinstance(target, ast.Attribute) else None


@cache
def touched(path: Path) -> frozenset[str | None]:
    """The attributes that a module writes, and the methods that it calls or hands on, as `name()`."""
    return frozenset(_touched(path))


def _touched(path: Path) -> Iterator[str | None]:
    """To write is to assign, to delete, or to call a method that changes a collection or an event."""
    for node in ast.walk(ast.parse(path.read_text())):
        targets: list[ast.expr] = []
        match node:
            case ast.Assign(targets=several) | ast.Delete(targets=several):
                targets = several
            case ast.AugAssign(target=one) | ast.AnnAssign(target=one):
                targets = [one]
            case ast.Call(func=ast.Attribute(value=one, attr=method)) if method in MUTATORS:
                targets = [one]
            case ast.Attribute(attr=method, ctx=ast.Load()):
                yield f"{method}()"
        for target in targets:
            yield from map(attribute, target.elts if isinstance(target, ast.Tuple) else [target])


WRITERS = [(name, named(cells[2])) for cells in section("Who may write what") for name in named(cells[0])]


def test_the_map_has_every_room() -> None:
    assert {each for cells in section("The map") for each in named(cells[0])} == set(rooms())


@pytest.mark.parametrize("heading", ["One event's way", "One failure's way"])
def test_the_statements_and_happenings_on_the_way_exist(heading: str) -> None:
    rows = section(heading)
    assert len(rows) > 10
    for _, _, statements, _, happenings in rows:
        for name in named(statements):
            assert query(name)
        assert set(named(happenings)) <= HAPPENINGS.keys()


def test_state_with_few_writers_is_in_the_table() -> None:
    assert len(WRITERS) > 15


@pytest.mark.parametrize(("name", "files"), WRITERS, ids=[name for name, _ in WRITERS])
def test_nobody_else_writes(name: str, files: list[str]) -> None:
    places = [path for room in ("decide", "stages", "run") for path in (RELAY / room).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in places if name.rpartition(".")[2] in touched(path)}
    assert found == set(files)
