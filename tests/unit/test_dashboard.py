"""The picture of the dashboard: it has what the dashboard has, with units that people read."""

from __future__ import annotations

from html import escape
from xml.etree import ElementTree

import pytest

from tests.support.dashboard import FILE, queries
from tests.support.panels import MOST_NAMES, Panel, draw, with_unit

WITHOUT_CURVES = {"Days until certificates end"}
"""There is none where no setting names a certificate."""


def test_the_picture_in_the_documents_has_every_panel_of_the_dashboard() -> None:
    drawn = FILE.with_suffix(".svg").read_text()
    missing = {query.panel for query in queries() if f">{escape(query.panel)}<" not in drawn} - WITHOUT_CURVES
    assert missing == set(), "draw it again: python -m tests.support.dashboard deploy/monitoring/dashboard.svg"


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.1634, "s", "0.163 s"),
        (73_760_768.0, "bytes", "73.8 MB"),
        (285_990.0, "Bps", "286 kB/s"),
        (12.0, "Bps", "12 B/s"),
        (529.0, "ops", "529/s"),
        (16.0, "short", "16"),
    ],
)
def test_numbers_have_their_units(value: float, unit: str, words: str) -> None:
    assert with_unit(value, unit) == words


def test_a_curve_of_zeros_lies_on_the_axis_and_a_long_legend_says_how_many_there_are() -> None:
    flat = {f"topic {number}": [(0.0, 0.0), (60.0, 0.0)] for number in range(MOST_NAMES + 3)}
    panels = [Panel("State", "Ready replicas", "short", 2.0, {}), Panel("Flow", "Held", "short", None, flat)]
    drawn = draw("A trial", panels, 60.0, "a note")
    ElementTree.fromstring(drawn)
    lines = [line for line in drawn.splitlines() if line.startswith("<polyline")]
    assert len(lines) == MOST_NAMES + 3
    (axis,) = (line for line in drawn.splitlines() if '<path class="axis"' in line)
    bottom = float(axis.partition(" V")[2].partition(" ")[0])
    assert all(f",{bottom:.1f}" in line for line in lines)
    assert ">and 3 more<" in drawn
    assert ">2<" in drawn
