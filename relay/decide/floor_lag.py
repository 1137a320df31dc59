"""How far the scan's certainty is behind the ids that were given out: in ids, and in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from relay.decide.ladder import Ladder
    from relay.decide.snapshot import Snapshot


STALE = 10.0
"""Seconds after a look from which on it says nothing of transactions: a replica without lanes, or without room because
Kafka is away, does not look, and no transaction is to blame for that."""


class Lag(NamedTuple):
    """How far the floor is behind."""

    ids: int
    """Ids above the floor: events may still appear among them, or are there already."""
    seconds: float
    """For how long the floor has not reached the id that was the newest then; 0 while it keeps up."""


def lowest_floor(ladder: Ladder, snapshot: Snapshot) -> int:
    """Return the id up to which nothing new can appear, whichever of the transactions that run now commits."""
    floor, running = ladder.floors(snapshot)
    return max(0, min([floor, *(low for _, low in running)]))


class FloorLag:
    """Remembers an id that the floor has to reach."""

    def __init__(self) -> None:
        self._goal = 0
        self._set_at = 0.0

    def note(self, floor: int, newest: int, now: float, looked_at: float) -> Lag:
        """Return the lag at `now` (seconds), `newest` being the highest id that is known to be given out.

        The floor is that of the scan's last look, at `looked_at`. While the scan does not look there is no lag.
        """
        if now - looked_at > STALE:
            self._goal = 0
            return Lag(0, 0.0)
        if floor >= self._goal:
            # Reached: the next goal is what is the newest now.
            self._goal, self._set_at = newest, now
        return Lag(max(0, newest - floor), max(0.0, now - self._set_at) if floor < self._goal else 0.0)
