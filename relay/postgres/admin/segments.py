"""Reads the segments as people see them: what they take, and what of them is needed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

COUNT_NEEDED = 10_000
"""Failures, and held events, that are counted of one segment: a few milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A partition of events and receipts: lower_id <= id < upper_id."""

    name: str
    lower_id: int
    upper_id: int
    bytes: int | None
    """What it takes on disk; None if it was dropped just now."""
    kept: bool = False
    """Whether it is what was left of one or more."""
    needed: dict[str, int] = field(default_factory=dict)
    """Number of its events that failed or are held, by state, each counted up to COUNT_NEEDED."""
    age_seconds: float | None = None
    """Age of its newest event; None when it is empty."""
    lanes_behind: list[int] = field(default_factory=list)
    """Lanes whose position is not beyond it."""
    replays: list[int] = field(default_factory=list)
    """Replays of delivered events that have yet to read it."""


def segments_of(segments: Sequence[asyncpg.Record], needed: Sequence[asyncpg.Record]) -> list[Segment]:
    """Return the rows of the statement `status_segments`, with those of `status_needed` as far as there are any."""
    more = {row["lower_id"]: {**row, "needed": json.loads(row["needed"])} for row in needed}
    return [Segment(**{**row, **more.get(row["lower_id"], {})}) for row in segments]
