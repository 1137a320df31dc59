"""The plain tables of all commands."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, cast

from rich.cells import cell_len
from rich.console import Group
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from relay.text import MOST, clip, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.style import Style

_MOST_OF_A_CELL = 250
"""Characters: any name that a setting or Kafka takes, and no more lines than leave the rest of the table in sight."""

_MOST_LINES = 4
"""Lines that a cell may take in its column. One that would take more makes the rows blocks."""

_SHORTEST_NAME = 24
"""Characters to which a name may be shortened: enough to tell pods of one deployment apart."""

_GAP = "   "


class PlainTable(Table):
    """A table whose cells, when they are strings, are text from outside for all it knows: one line, nothing hidden.

    Where a terminal is too narrow for it, each row is a block instead: its first cell, then "heading value" for every
    other one. Names that are folded at any letter, in columns ten characters wide, cannot be read.
    """

    most = _MOST_OF_A_CELL
    """Characters of a cell that are shown."""

    def add_row(
        self, *cells: RenderableType | None, style: str | Style | None = None, end_section: bool = False
    ) -> None:
        """Add a row; see the class for what becomes of texts."""
        super().add_row(*map(self._cell, cells), style=style, end_section=end_section)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table if all cells can be read in their columns, else as blocks."""
        if not self.show_header or self._fits(console, options):
            rendered = super().__rich_console__(console, options)
            yield from rendered if console.is_terminal else _without_spaces_at_the_end(rendered)
        else:
            yield Group(*self._blocks(options.max_width))

    def _cell(self, cell: RenderableType | None) -> RenderableType | None:
        if isinstance(cell, str):
            # Escapes are longer than what they stand for.
            return Text(clip(plain(cell, most=10 * self.most), self.most))
        if isinstance(cell, Text) and len(cell) > self.most:
            return Text(clip(cell.plain, self.most), style=cell.style)
        return cell

    def _fits(self, console: Console, options: ConsoleOptions) -> bool:
        widths = self._calculate_column_widths(console, options)
        for column, width in zip(self.columns, widths, strict=True):
            # The padding is a part of a column's width, but for that at the edge.
            padding = 0 if column is self.columns[-1] else self.padding[1]
            room = options.update_width(max(1, width - padding))
            for cell in column.cells:
                if Measurement.get(console, options, cell).minimum > room.max_width:
                    return False
                if isinstance(cell, Text) and len(cell.wrap(console, room.max_width)) > _MOST_LINES:
                    return False
        return True

    def _blocks(self, width: int) -> list[RenderableType]:
        """Return what stands for each row, its lines indented below the first."""
        blocks: list[RenderableType] = []
        cells = zip_longest(*(list(column.cells) for column in self.columns))
        for row, (first, *others) in zip(self.rows, cells, strict=True):
            begin = _named(self.columns[0].header, first)
            parts = [_named(column.header, cell) for column, cell in zip(self.columns[1:], others, strict=True)]
            lines = [begin]
            for part in filter(None, parts):
                # The first line is not indented, the others by two.
                if lines[-1].cell_len + len(_GAP) + part.cell_len + 2 * (len(lines) > 1) <= width:
                    lines[-1] = Text.assemble(lines[-1], _GAP, part)
                else:
                    lines.append(part)
            for line in lines:
                line.stylize_before(row.style or "")
                line.overflow = "fold"
            blocks += [lines[0], *(Padding(line, (0, 0, 0, 2), expand=False) for line in lines[1:])]
        return blocks


class Name:
    """A name in a cell that loses its middle where there is no room: pods' names tell them apart at their end."""

    def __init__(self, name: str, style: str = "") -> None:
        self.name, self.style = plain(name, most=_MOST_OF_A_CELL), style

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the least room it needs, and the room for all of it."""
        width = cell_len(self.name)
        return Measurement(min(width, _SHORTEST_NAME), width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as much as there is room for."""
        yield Text(shortened(self.name, options.max_width), style=self.style, overflow="fold")


def shortened(name: str, width: int) -> str:
    """Return the name, its middle left out if it has more than `width` characters."""
    if len(name) <= width:
        return name
    end = max(1, (width - 3) * 2 // 3)
    return f"{name[: max(0, width - 3 - end)]}...{name[-end:]}"


def table(*columns: str) -> PlainTable:
    """Return a plain table; > marks a column of numbers, * one that goes on in the next line where there is no room.

    Every column of text from outside is a *: one that is not would push the others out of sight.
    """
    made = PlainTable(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    for column in columns:
        made.add_column(
            column.lstrip(">*"),
            justify="right" if column.startswith(">") else "left",
            no_wrap=not column.startswith("*"),
            overflow="fold",
        )
    return made


def grid() -> PlainTable:
    """Return a table without headings: names at the left, what there is to say at the right."""
    made = PlainTable.grid(padding=(0, 3))
    assert isinstance(made, PlainTable)  # noqa: S101 rich's constructor is of the class it is called on
    made.most = MOST
    return made


def _without_spaces_at_the_end(rendered: RenderResult) -> Iterator[Segment]:
    """Return the lines without what fills their last cells: in a pipe nothing stands to the right of them."""
    for line in Segment.split_lines(cast("Iterable[Segment]", rendered)):
        while line and not line[-1].text.rstrip(" "):
            line.pop()
        if line:
            line[-1] = Segment(line[-1].text.rstrip(" "), line[-1].style)
        yield from line
        yield Segment.line()


def _named(heading: RenderableType, cell: RenderableType | None) -> Text:
    """Return "heading value"; nothing for a cell without text."""
    value = Text(cell.name, style=cell.style) if isinstance(cell, Name) else cell
    if not isinstance(value, Text) or not value:
        return Text()
    return Text.assemble((str(heading), "bold"), " " if str(heading) else "", value)
