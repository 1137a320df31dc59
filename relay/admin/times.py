"""Lengths and points of time as people write and read them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"(\d{1,99})\s*([smhdw])", re.ASCII)
_LONGEST = 36_500 * 86_400
"""Seconds; a time further back is not a date."""


def duration(seconds: float | None) -> str:
    """Write a length of time for people, to two units."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def ago(seconds: float | None) -> str:
    """Write how long ago something was."""
    return "-" if seconds is None else f"{duration(seconds)} ago"


def moment(time: datetime | None) -> str:
    """Write a point in time, in this machine's zone and with it."""
    return "-" if time is None else time.astimezone().isoformat(" ", "seconds")


def moment_of(value: object) -> str:
    """Write a point in time that JSON has as a text; any other text as it is."""
    try:
        return moment(datetime.fromisoformat(str(value)))
    except ValueError:
        return str(value)


def option_of(time: datetime) -> str:
    """Write a point in time as an option takes it, in this machine's zone and with it."""
    return time.astimezone().isoformat(timespec="seconds")


def parse_span(text: str) -> int | None:
    """Read a length of time such as `90s`, `30m`, `2h`, `3d` or `1w` as seconds; None for anything else."""
    match = _SPAN.fullmatch(text.strip())
    return int(match[1]) * _UNITS[match[2]] if match else None


def parse_time(text: str) -> datetime | timedelta:
    """Read `2h` as a span before now, or an ISO 8601 date, without a zone in this machine's. Raises ValueError."""
    if (seconds := parse_span(text)) is not None:
        return timedelta(seconds=min(seconds, _LONGEST))
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not a time; write how long ago (90s, 30m, 2h, 3d, 1w) or a date "
            "(2026-05-17, 2026-05-17T03:10, 2026-05-17T03:10:00+02:00)"
        ) from None


def absolute(time: datetime | timedelta, now: datetime) -> datetime:
    """Return the point in time, `now` being the one that a span is counted back from."""
    return now - time if isinstance(time, timedelta) else time
