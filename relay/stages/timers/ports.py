"""What timers ask of PostgreSQL, and the words that cross this edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID


class Moved(NamedTuple):
    """What one look at scheduled events came to."""

    events: int
    """How many entered the outbox."""
    waiting: int
    """How many are due and were left out: somebody is cancelling them, or an earlier one of their key waits."""
    next_in: float | None
    """Seconds until the first one is due, below zero for one that is; None if there is none."""


class Due(NamedTuple):
    """The event that is moved next in a lane."""

    id: int
    topic: str


class TimersPort(Protocol):
    """What timers need of PostgreSQL. Methods raise as those of ClaimPort do."""

    async def move_due(
        self,
        replica: UUID,
        lanes: Sequence[tuple[int, int]],
        *,
        at_most: int,
        put_off: Collection[int] = (),
    ) -> Moved:
        """Move about `at_most` events that are due into the outbox, each lane's in the order in which they are due.

        Nothing is moved of a lane, given as (lane, epoch), that the replica does not own at this epoch, nor the events
        with the ids `put_off` and what follows them in their keys.
        """

    async def first_due(self, lane: int, put_off: Collection[int]) -> Due | None:
        """Return the event that a lane's next move begins with."""

    async def count_scheduled(self, lanes: Sequence[int]) -> int:
        """Return how many events are to come in these lanes."""
