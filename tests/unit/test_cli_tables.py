"""The tables of all commands: marks stay out of headings, and what cannot be read in columns is shown in blocks."""

from __future__ import annotations

import ast
import re
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.cli.show.console import PlainConsole
from relay.cli.show.tables import Name, PlainTable, shortened, table

CLI = Path(__file__).parents[2] / "relay/cli"
POD = "outbox-relay-production-eu-central-1-settlements-7d9c8b6f5b-x2x"


def headings() -> list[str]:
    """Return the headings of all tables in the source of the commands, with their marks."""
    found = []
    for path in CLI.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "func", None)
            if isinstance(node, ast.Call) and getattr(name, "attr", getattr(name, "id", "")) == "table":
                parts = [each for argument in node.args for each in ast.walk(argument)]
                found += [
                    each.value for each in parts if isinstance(each, ast.Constant) and isinstance(each.value, str)
                ]
    return found


def shown(made: PlainTable, width: int) -> list[str]:
    """Return the lines of a table on a terminal of this width."""
    console = PlainConsole(width=width)
    console.file = StringIO()
    console.print(made)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def replicas() -> PlainTable:
    """Return a table as `relay status` has it."""
    made = table("*replica", "version", ">lease", "lanes", "*")
    made.add_row(POD, "0.1.0", "59 min 59 s", "0 2 4 6 8 10 12 14", "12,345 duplicates")
    made.add_row("relay-2", "0.1.0", "15 s", "1", "")
    return made


def test_no_heading_has_a_mark_that_the_table_does_not_know() -> None:
    assert len(headings()) > 20
    for heading in headings():
        assert re.fullmatch(r"[>*]?([A-Za-z][A-Za-z ]*)?", heading), heading


def test_a_heading_is_shown_without_its_mark() -> None:
    made = table(">id", "*topic", "state")
    made.add_row("1", "orders", "failed")
    assert shown(made, 80) == ["id  topic   state", " 1  orders  failed"]


def test_a_table_that_fits_is_a_table() -> None:
    assert [line.split("  ")[0] for line in shown(replicas(), 200)] == ["replica", POD, "relay-2"]


def test_where_names_would_be_folded_each_row_is_a_block() -> None:
    assert shown(replicas(), 80) == [
        f"replica {POD}",
        "  version 0.1.0   lease 59 min 59 s   lanes 0 2 4 6 8 10 12 14",
        "  12,345 duplicates",
        "replica relay-2   version 0.1.0   lease 15 s   lanes 1",
    ]


def test_through_a_pipe_no_line_ends_with_spaces() -> None:
    console = PlainConsole(width=200)
    console.file = StringIO()
    made = table("*topic", "*error", "*")
    made.add_row("orders", "EventTooLarge", "a note")
    made.add_row("mail", "x", "")
    console.print(made)
    lines = ["topic   error", "orders  EventTooLarge  a note", "mail    x"]
    assert console.file.getvalue() == "".join(f"{line}\n" for line in lines)


def test_words_go_on_in_the_next_line_as_long_as_there_are_few_lines() -> None:
    made = table(">id", "*why")
    made.add_row("1", "the limit of the topic was raised by hand")
    assert shown(made, 24) == ["id  why", " 1  the limit of the", "    topic was raised by", "    hand"]
    assert shown(made, 14)[0] == "id 1"


@given(st.integers(1, 120), st.text("abc ", min_size=1, max_size=200))
def test_no_line_is_wider_than_the_terminal(width: int, text: str) -> None:
    made = replicas()
    made.add_row(text, text, text, text, text)
    assert all(len(line) <= width for line in shown(made, width))


@pytest.mark.parametrize(
    ("width", "expected"), [(63, POD), (30, "outbox-re...nts-7d9c8b6f5b-x2x"), (24, "outbox-...7d9c8b6f5b-x2x")]
)
def test_a_name_loses_its_middle(width: int, expected: str) -> None:
    assert (shortened(POD, width), len(expected)) == (expected, min(width, len(POD)))


def test_names_in_a_column_are_shortened_before_they_are_folded() -> None:
    made = table(">lane", "*owner", ">position")
    made.add_row("0", Name(POD), "30")
    made.add_row("1", Name("relay-2"), "30")
    lines = shown(made, 50)
    assert [line.split() for line in lines] == [
        ["lane", "owner", "position"],
        ["0", shortened(POD, 34), "30"],
        ["1", "relay-2", "30"],
    ]
    assert shown(made, 30)[-2:] == ["lane 1   owner relay-2", "  position 30"]
