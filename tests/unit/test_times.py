"""Lengths of time as people write them."""

from __future__ import annotations

import click
import pytest

from relay.admin.times import parse_span
from relay.cli.options import span


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1_800), (" 2 h ", 7_200), ("3d", 259_200), ("1w", 604_800)]
)
def test_a_span_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["", "600", "h", "-2h", "1.5h", "2 hours", "2026-05-17", "9" * 5_000 + "s", "٣m"])
def test_anything_else_is_none(text: str) -> None:
    assert parse_span(text) is None


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("600", 600), ("2.5", 2.5), ("1s", 1), ("1h", 3_600)])
def test_an_option_takes_a_span_or_seconds(text: str, seconds: float) -> None:
    assert span("1s", "1h")(None, None, text) == seconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("61m", "61m is not between 1s and 1h"),
        ("0", "0 is not between 1s and 1h"),
        ("9" * 99 + "w", "is not between 1s and 1h"),
        ("-1", "write 90s, 30m, 2h or 3d, or a number of seconds"),
        ("ten", "'ten' is not a length of time; write"),
        ("nan", "'nan' is not a length of time; write"),
        ("", "'' is not a length of time; write"),
        ("٣", "'٣' is not a length of time; write"),
    ],
)
def test_an_option_says_how_to_write_it(text: str, message: str) -> None:
    with pytest.raises(click.BadParameter, match=message):
        span("1s", "1h")(None, None, text)
