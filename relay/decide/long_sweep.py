"""A sweep that goes by steps: how far it has come, and what its last step left."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.decide.passed_ids import Gaps, PassedIds
    from relay.decide.reach import Reach
    from relay.decide.snapshot import Snapshot

NO_GAPS_FOR = 8
"""Number of steps for which a sweep does not look for gaps again after there were too many."""


@dataclass(slots=True)
class LongSweep:
    """A sweep too long for one statement: it advances in steps of ids, apart from the other lanes' scans."""

    snapshot: Snapshot
    """Of the last step. The next one goes back for what has become visible since, and the scan after the last
    step starts relative to it."""
    done_to: int
    """Everything in the lane up to this id that is visible in `snapshot` was taken, or is settled."""
    end: int
    left: list[int] = field(default_factory=list)
    """What the last step found above `done_to` and had no room for, in order: all that is new in `snapshot` up to
    `left_to`. It is read by its ids before the next step."""
    left_to: int = 0
    gaps_from: int = 0
    """Up to this id, it is of no use to look for gaps."""
    asks_tables: bool = False
    """Whether its steps ask what is settled though that is known."""

    def leave(self, ids: list[int]) -> None:
        """Note what the last step found and was not taken yet, in order."""
        self.left = ids
        self.done_to = ids[0] - 1 if ids else self.left_to

    def next_left(self, reach: Reach) -> list[int]:
        """Return the ids of what the last step left, as many as there is room for."""
        return self.left[: reach.events]

    def left_is_read(self, up_to: int) -> None:
        """Note that nothing up to this id is left any more."""
        self.leave(self.left[bisect_right(self.left, up_to) :])

    def gaps_in(self, passed: PassedIds, step_ids: int, most: int) -> Gaps | None:
        """Return the first `most` ids that the next step has to look at; None if they reach no further than a step."""
        gaps = passed.gaps(self.done_to, self.end, most)
        if gaps.up_to < self.end and gaps.up_to - self.done_to <= step_ids:
            # Many new events, lanes of others, or transactions that were rolled back.
            self.gaps_from = self.done_to + NO_GAPS_FOR * step_ids
            return None
        return gaps
