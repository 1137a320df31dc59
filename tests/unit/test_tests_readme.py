"""The table of situations in tests/README.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS / "README.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:unit|contract|integration|acceptance)/test_\w+\.py(?:::\w+)*)`", PAGE)))
HELPERS = sorted(set(re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", PAGE.split("## Situations")[0])))
SITUATIONS = [line.strip("| ").split(" | ") for line in PAGE.split("## Situations")[1].splitlines() if line[:1] == "|"]


def functions(module: ast.AST) -> set[str]:
    """The names of the tests in a module."""
    return {node.name for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_the_table_names_exists(named: str) -> None:
    file, *name = named.split("::")
    assert set(name) <= functions(ast.parse((TESTS / file).read_text()))


def test_every_situation_has_a_test_or_says_why_not() -> None:
    assert len(SITUATIONS) > 30
    for situation in SITUATIONS[2:]:
        assert len(situation) == 3, situation
        assert "`" in situation[2] or "*by hand*" in situation[2], situation


@pytest.mark.parametrize("module", HELPERS)
def test_a_helper_that_the_page_names_exists(module: str) -> None:
    assert (TESTS / module).exists()
