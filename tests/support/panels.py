"""Panels of a dashboard as an SVG: tiles and curves under the headings of their rows, on light and dark pages."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from tests.bench.figures import readable
from tests.bench.picture import COLOURS, STYLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Points = Sequence[tuple[float, float]]

COLUMNS = 3
WIDTH = 1140
CELL = WIDTH // COLUMNS
PLOT_WIDTH, PLOT = 270, 110
AXIS = 78
"""Left of a plot, for the highest value."""
LEGEND = 18
"""Height of a line of a legend."""
MOST_NAMES = 4
"""Names in a legend; a panel with more says how many."""
NAME_LETTERS = 40
TILE_WIDTH, TILE = 132, 62
UNITS = {"s": " s", "d": " days", "ops": "/s", "Bps": "B/s", "bytes": "B"}
"""What stands behind a number, by Grafana's name of the unit; before those of bytes comes k or M."""


class Panel(NamedTuple):
    """One panel: a tile with a number, or a plot with curves."""

    row: str
    title: str
    unit: str
    tile: float | None
    """The number of a tile; None for a plot."""
    curves: Mapping[str, Points]
    """By their names, pairs of seconds since the beginning and a value."""


def draw(title: str, panels: Sequence[Panel], seconds: float, note: str) -> str:
    """The whole picture, of so many seconds."""
    parts: list[str] = []
    y = 0
    for row in dict.fromkeys(panel.row for panel in panels):
        y += 34
        parts.append(_text(20, y, row, "row"))
        own = [panel for panel in panels if panel.row == row]
        tiles = [panel for panel in own if panel.tile is not None]
        for number, panel in enumerate(tiles):
            _tile(parts, 20 + number * (TILE_WIDTH + 8), y + 12, panel)
        y += TILE + 18 if tiles else 0
        plots = [panel for panel in own if panel.tile is None]
        for first in range(0, len(plots), COLUMNS):
            line = plots[first : first + COLUMNS]
            for column, panel in enumerate(line):
                _plot(parts, column * CELL, y + 28, panel, seconds)
            names = max(min(len(panel.curves), MOST_NAMES + 1) for panel in line)
            y += 28 + 14 + PLOT + 26 + names * LEGEND
    parts.append(_text(20, y + 30, note, "note"))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 50}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}    .row {{ font-size: 17px; font-weight: 600 }} .big {{ font-size: 22px }}\n</style>",
            f'<rect class="page" width="{WIDTH}" height="{y + 50}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def with_unit(value: float, unit: str) -> str:
    """A number with its unit, as Grafana writes it."""
    behind = UNITS.get(unit, "")
    if behind.startswith("B"):
        for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= size:
                return f"{readable(round(value / size, 1))} {prefix}{behind}"
        return f"{readable(value)} {behind}"
    return readable(value) + behind


def _tile(parts: list[str], x: int, y: int, panel: Panel) -> None:
    parts.append(f'<rect x="{x}" y="{y}" width="{TILE_WIDTH}" height="{TILE}" class="axis" style="stroke: #8c959f"/>')
    parts.append(_text(x + 8, y + 18, panel.title, "note"))
    parts.append(_text(x + 8, y + 48, with_unit(panel.tile or 0.0, panel.unit), "big"))


def _plot(parts: list[str], x: int, y: int, panel: Panel, seconds: float) -> None:
    parts.append(_text(x + 20, y, panel.title, "title"))
    most = max([value for line in panel.curves.values() for _, value in line], default=0.0)
    left, top = x + AXIS, y + 14
    parts.append(f'<path class="axis" d="M{left},{top} V{top + PLOT} H{left + PLOT_WIDTH}"/>')
    if most > 0:
        parts.append(_text(left - 8, top + 10, with_unit(most, panel.unit), "note end"))
    parts.append(_text(left - 8, top + PLOT, "0", "note end"))
    parts.append(_text(left + PLOT_WIDTH, top + PLOT + 16, f"{seconds:.0f} s", "note end"))
    for number, (name, line) in enumerate(panel.curves.items()):
        drawn = " ".join(
            f"{left + PLOT_WIDTH * at / seconds:.1f},{top + PLOT * (1 - value / most if most > 0 else 1):.1f}"
            for at, value in line
        )
        parts.append(f'<polyline class="c{number % COLOURS}" style="fill:none" points="{drawn}"/>')
        at = top + PLOT + 26 + number * LEGEND
        if number < MOST_NAMES:
            parts.append(f'<rect class="c{number % COLOURS}" x="{left}" y="{at}" width="11" height="11"/>')
            parts.append(_text(left + 18, at + 10, name[:NAME_LETTERS], "note"))
        elif number == MOST_NAMES:
            parts.append(_text(left + 18, at + 10, f"and {len(panel.curves) - MOST_NAMES} more", "note"))


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text class="{style}" x="{x:.0f}" y="{y:.0f}">{escape(words)}</text>'
