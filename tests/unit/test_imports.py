"""No module of the relay needs, in the end, itself. What else holds of its imports stands in `.importlinter`."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import grimp
import pytest


def find_circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules each of which imports the next, the last one being the first; empty when there is no such circle."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle[::-1]
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for types count: two modules that need each other's words cannot be read, or changed, one by one."""
    graph = grimp.build_graph("relay", exclude_type_checking_imports=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert find_circle(imports) == []


@pytest.mark.parametrize(
    ("imports", "circle"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b", "d"}, "b": {"c"}, "c": {"b"}, "d": set()}, ["b", "c", "b"]),
    ],
)
def test_a_circle_is_found(imports: dict[str, set[str]], circle: list[str]) -> None:
    found = find_circle(imports)
    assert set(found) == set(circle)
    assert all(later in imports[module] for module, later in pairwise(found))
