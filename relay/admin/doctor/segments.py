"""Looks at what old segments take, and what keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.admin.counts import counted
from relay.admin.doctor.check import Check
from relay.admin.segments import STATES, mebibytes, why_kept
from relay.admin.times import duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from relay.postgres.admin.segments import Segment

GRACE = 3600.0
"""Seconds beyond twice the retention after which a segment should be gone: housekeeping may be put off for minutes."""

SHOWN = 3
"""Segments that are named for each reason; the others are counted."""


def of_segments(segments: Sequence[Segment], newest_id: int, retention: float) -> Iterator[Check]:
    """Judge the segments; `retention` is the relay's, in seconds."""
    kept = [segment for segment in segments if segment.kept]
    if kept:
        needed = {state: sum(each.needed.get(state, 0) for each in kept) for state in STATES}
        named = ", ".join(f"{events:,} {state}" for state, events in needed.items() if events)
        yield Check(
            "outbox",
            "ok",
            f"of segments that were dropped, {counted(len(kept), 'small one')} with {_mebibytes(kept)} MiB "
            f"{'is' if len(kept) == 1 else 'are'} left: {named or 'delivered or discarded lately'}",
        )
    pinned: dict[tuple[str, str], list[Segment]] = {}
    for segment in segments:
        if not segment.kept and segment.upper_id <= newest_id and _old(segment, retention):
            pinned.setdefault((why_kept(segment, retention), _remedy(segment)), []).append(segment)
    for (why, remedy), same in pinned.items():
        names = ", ".join(each.name for each in same[:SHOWN]) + (", ..." if len(same) > SHOWN else "")
        yield Check(
            "outbox",
            "warning",
            f"{counted(len(same), 'old segment')} with {_mebibytes(same)} MiB ({names}) "
            f"{'is' if len(same) == 1 else 'are'} not dropped, {duration(_age(same))} after the newest event",
            why,
            remedy,
        )


def _old(segment: Segment, retention: float) -> bool:
    return segment.age_seconds is not None and segment.age_seconds > 2 * retention + GRACE


def _age(segments: Sequence[Segment]) -> float:
    return max(each.age_seconds or 0.0 for each in segments)


def _mebibytes(segments: Sequence[Segment]) -> str:
    return mebibytes(sum(each.bytes or 0 for each in segments))


def _remedy(segment: Segment) -> str:
    if segment.lanes_behind:
        return "see `relay status`: nobody owns these lanes, or their events are pending"
    if segment.replays:
        return f"wait for its end, or `relay replay cancel {segment.replays[0]}`"
    if any(segment.needed.get(state) for state in STATES):
        return "replay or discard what failed (`relay failed list`), and see in `relay status` which topics are paused"
    return "see what `relay prune --dry-run` says, and which chores `relay status` says are not done"
