"""The plain tables of all commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from relay.text import MOST, clip, plain

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.style import Style

_MOST_OF_A_CELL = 250
"""Characters: any name that a setting or Kafka takes, and no more lines than leave the rest of the table in sight."""


class PlainTable(Table):
    """A table whose cells, when they are strings, are text from outside for all it knows: one line, nothing hidden."""

    most = _MOST_OF_A_CELL
    """Characters of a cell that are shown."""

    def add_row(
        self, *cells: RenderableType | None, style: str | Style | None = None, end_section: bool = False
    ) -> None:
        """Add a row; see the class for what becomes of texts."""
        super().add_row(*map(self._cell, cells), style=style, end_section=end_section)

    def _cell(self, cell: RenderableType | None) -> RenderableType | None:
        if isinstance(cell, str):
            # Escapes are longer than what they stand for.
            return Text(clip(plain(cell, most=10 * self.most), self.most))
        if isinstance(cell, Text) and len(cell) > self.most:
            return Text(clip(cell.plain, self.most), style=cell.style)
        return cell


def table(*columns: str, pad_edge: bool = True) -> PlainTable:
    """A plain table; > marks a column of numbers, * one that goes on in the next line where there is no room for it.

    Every column of text from outside is a *: one that is not would push the others out of sight.
    """
    made = PlainTable(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=pad_edge)
    for column in columns:
        made.add_column(
            column.lstrip(">*"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=not column.startswith("*"),
            overflow="fold",
        )
    return made


def grid() -> PlainTable:
    """A table without headings: names at the left, what there is to say at the right."""
    made = PlainTable.grid(padding=(0, 3))
    assert isinstance(made, PlainTable)  # noqa: S101 rich's constructor is of the class it is called on
    made.most = MOST
    return made
