"""Lengths of time as people write them: `90s`, `30m`, `2h`, `3d`, `1w`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"(\d{1,99})\s*([smhdw])")
_SECONDS = re.compile(r"\d{1,99}(\.\d{1,99})?")


def parse_span(text: str) -> int | None:
    """Seconds; None for what is no number with a unit."""
    match = _SPAN.fullmatch(text.strip())
    return int(match[1]) * _UNITS[match[2]] if match else None


def span(least: str, most: str) -> Callable[[click.Context | None, click.Parameter | None, str], float]:
    """The callback of an option that takes a length of time, with a unit or in seconds, between two spans.

    It returns seconds, and raises BadParameter for anything else.
    """
    bounds = parse_span(least) or 0, parse_span(most) or 0

    def read(context: click.Context | None, parameter: click.Parameter | None, text: str) -> float:
        seconds = float(text) if _SECONDS.fullmatch(text) else parse_span(text)
        if seconds is None:
            raise click.BadParameter(
                f"{text!r} is no length of time; write 90s, 30m, 2h or 3d, or a number of seconds", context, parameter
            )
        if not bounds[0] <= seconds <= bounds[1]:
            raise click.BadParameter(f"{text} is not between {least} and {most}", context, parameter)
        return seconds

    return read
