"""Bars and curves as an SVG that reads on light and dark pages, in the manner of deploy/flow.svg."""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING

from tests.bench.figures import readable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Bars = tuple[str, Mapping[str, float]]
    Points = Sequence[tuple[float, float]]

WIDTH = 900
NAMES = 210
"""Where bars begin: right of the names."""
VALUES = 110
"""Room for the values right of the longest bar."""
BAR = 26
PLOT = 150
"""Height of a panel of curves."""
COLOURS = 5
NOTE_LETTERS = 130

STYLE = """
    text { font: 14px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
    .title { font-weight: 600 }
    .note { font-size: 12px; fill: #57606a }
    .end { text-anchor: end }
    .page { fill: #ffffff }
    .axis { stroke: #8c959f; fill: none }
    .c0 { fill: #0969da; stroke: #0969da } .c1 { fill: #8c959f; stroke: #8c959f }
    .c2 { fill: #bc4c00; stroke: #bc4c00 } .c3 { fill: #1a7f37; stroke: #1a7f37 }
    .c4 { fill: #8250df; stroke: #8250df }
    rect { stroke: none } polyline { fill: none; stroke-width: 2 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .note { fill: #9198a1 } .page { fill: #0d1117 }
      .c0 { fill: #4493f8; stroke: #4493f8 } .c1 { fill: #6e7681; stroke: #6e7681 }
      .c2 { fill: #f0883e; stroke: #f0883e } .c3 { fill: #3fb950; stroke: #3fb950 }
      .c4 { fill: #a371f7; stroke: #a371f7 }
      polyline { fill: none }
    }
"""


def draw(title: str, bars: Sequence[Bars], curves: Mapping[str, Mapping[str, Points]], note: str) -> str:
    """The whole picture: a panel per figure in `bars` (name and value of each series), then one per set of curves."""
    parts: list[str] = []
    y = 34
    # The same name has the same colour in every panel.
    colours: dict[str, int] = {}
    for heading, values in bars:
        for name in values:
            colours.setdefault(name, len(colours) % COLOURS)
        y = _bars(parts, y, heading, values, colours)
    for heading, lines in curves.items():
        y = _curves(parts, y, heading, lines)
    for line in textwrap.wrap(note, NOTE_LETTERS):
        parts.append(_text(20, y + 14, line, "note"))
        y += 17
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 30}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{y + 30}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _bars(parts: list[str], y: int, heading: str, values: Mapping[str, float], colours: Mapping[str, int]) -> int:
    parts.append(_text(20, y, heading, "title"))
    most = max([*values.values(), 1e-9])
    for number, (name, value) in enumerate(values.items()):
        top = y + 12 + number * BAR
        width = (WIDTH - NAMES - VALUES) * value / most
        parts.append(_text(NAMES - 10, top + 14, name, "end"))
        parts.append(f'<rect class="c{colours[name]}" x="{NAMES}" y="{top}" width="{width:.1f}" height="{BAR - 8}"/>')
        parts.append(_text(NAMES + width + 8, top + 14, readable(value)))
    return y + 12 + len(values) * BAR + 30


def _curves(parts: list[str], y: int, heading: str, lines: Mapping[str, Points]) -> int:
    parts.append(_text(20, y, heading, "title"))
    points = [point for line in lines.values() for point in line]
    seconds = max([x for x, _ in points] + [1e-9])
    most = max([value for _, value in points] + [1e-9])
    left, top, width = 90, y + 14, WIDTH - 90 - 200
    parts.append(f'<path class="axis" d="M{left},{top} V{top + PLOT} H{left + width}"/>')
    parts.append(_text(left - 8, top + 10, readable(most), "end"))
    parts.append(_text(left - 8, top + PLOT, "0", "end"))
    parts.append(_text(left + width, top + PLOT + 18, f"{readable(seconds)} s", "end"))
    for number, (name, line) in enumerate(lines.items()):
        drawn = " ".join(f"{left + width * x / seconds:.1f},{top + PLOT * (1 - v / most):.1f}" for x, v in line)
        parts.append(f'<polyline class="c{number % COLOURS}" style="fill:none" points="{drawn}"/>')
        legend = f'x="{left + width + 16}" y="{top + number * 22}" width="12" height="12"'
        parts.append(f'<rect class="c{number % COLOURS}" {legend}/>')
        parts.append(_text(left + width + 34, top + number * 22 + 11, name))
    return top + PLOT + 50


def _text(x: float, y: float, words: str, style: str = "") -> str:
    return f'<text class="{style}" x="{x:.0f}" y="{y:.0f}">{escape(words)}</text>'
