"""Where the next sweep of a lane starts: the exact lower bound of what can be new in its next scan.

Transactions that were running in the last scan's snapshot and have ended since, or that came later, may have made
events visible; the ladder says below which ids they have none. SCAN.md beside this file has the reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from relay.decide.ladder import Ladder
    from relay.decide.snapshot import Snapshot


class SweepStart(NamedTuple):
    """Where the next sweep of a lane starts, before it is known which transactions have ended.

    The scan's own snapshot decides: the start is the least of `floor` and of the floors of those transactions
    in `running` that it says have ended.
    """

    floor: int
    running: tuple[tuple[int, int], ...]
    """Pairs (xid, floor), only those with a floor below `floor`."""

    @property
    def lowest(self) -> int:
        """The lowest id that the start can come to be, now or for any later scan of the lane: floors never fall."""
        return min([self.floor, *(floor for _, floor in self.running)])

    def start(self, later: Snapshot) -> int:
        """The largest id for which everything that is visible in `later`, and was not before, lies above it."""
        return min([self.floor, *(floor for xid, floor in self.running if later.ended(xid))])


def sweep_start(last: Snapshot, position: int, ladder: Ladder) -> SweepStart:
    """The start of the sweep that follows the scan or step with snapshot `last`: never below the lane's position."""
    floor, running = ladder.floors(last)
    if floor <= position:
        return SweepStart(position, ())
    return SweepStart(floor, tuple([(xid, max(low, position)) for xid, low in running]))
