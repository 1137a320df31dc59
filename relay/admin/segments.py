"""What is kept of old segments, and what keeps them, in people's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.admin.counts import plural, ranges
from relay.admin.times import duration
from relay.postgres.admin.segments import COUNT_NEEDED

if TYPE_CHECKING:
    from relay.postgres.admin.segments import Segment

STATES = ("failed", "retrying", "replaying", "held", "discarded")


def needed_in_words(segment: Segment) -> str:
    """Return which of its events are needed: "1 failed, 20 held"; empty if none is."""
    return ", ".join(
        f"{'at least ' if segment.needed[state] >= COUNT_NEEDED else ''}{segment.needed[state]:,} {state}"
        for state in STATES
        if segment.needed.get(state)
    )


def why_kept(segment: Segment, retention: float) -> str:
    """Return why a segment is not due, with `retention` in seconds; as far as the segment itself tells."""
    if segment.lanes_behind:
        lanes = f"{plural('lane', len(segment.lanes_behind))} {ranges(segment.lanes_behind)}"
        return f"the {plural('position', len(segment.lanes_behind))} of the {lanes} must pass it first"
    if segment.replays:
        numbers = ", ".join(map(str, segment.replays))
        return f"{plural('replay', len(segment.replays))} {numbers} of delivered events must read it first"
    if segment.age_seconds is not None and segment.age_seconds < retention:
        return (
            f"its newest event is {duration(max(0.0, segment.age_seconds))} old, and is kept for {duration(retention)}"
        )
    needed = sum(events for state, events in segment.needed.items() if state != "discarded")
    if needed:
        return f"so much of it is needed that copying would free little: {needed_in_words(segment)}"
    return f"events of it were delivered less than {duration(retention)} ago"


def mebibytes(size: int | None) -> str:
    """Write a size in MiB."""
    return "-" if size is None else f"{size / 2**20:,.1f}"


def kept_in_words(segment: Segment) -> str:
    """Return what is said of a segment that was kept."""
    return f"kept: {needed_in_words(segment) or 'delivered or discarded lately'}"
