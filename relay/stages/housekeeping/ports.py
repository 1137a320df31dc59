"""What housekeeping asks of PostgreSQL, and the words that cross this edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID


class PutOff(NamedTuple):
    """A chore that does not work out, as people are shown it."""

    chore: str
    seconds: float
    """How long it has not worked out for."""
    error: str


class HousekeepingPort(Protocol):
    """What housekeeping needs of PostgreSQL. Any number of replicas may do all of it at once.

    Errors are RelayErrors. HeldUpError says who holds the locks that a change would need; `lost` tells which errors
    end the connection.
    """

    def lost(self, error: Exception) -> bool:
        """Whether an error means that the connection is gone, and not that a statement did not work out."""

    async def sequence_value(self) -> int:
        """Return the last event id that was taken from the sequence; 0 when none was."""

    async def ensure_segments(self, ids_per_segment: int, ahead: int) -> list[str]:
        """Make segments until `ahead` whole ones lie above the newest id; returns the names of the new ones.

        Raises HeldUpError if it could make none because others hold locks.
        """

    async def prune(self, retention: float) -> list[str]:
        """Drop segments that are settled and older than `retention` seconds; returns their names.

        Raises HeldUpError if it could drop none because others hold locks, and SchemaError for an event in a segment
        that nothing is recorded of.
        """

    async def forget_replayed(self, retention: float) -> bool:
        """Drop a bounded number of receipts of replays that were over `retention` seconds ago.

        Returns whether more may be left.
        """

    async def forget_replicas(self) -> None:
        """Remove the rows of replicas that have been gone for long."""

    async def finish_replays(self) -> None:
        """Record the end of replays of failed events of which nothing is under way any more."""

    async def show_put_off(self, replica: UUID, chores: Sequence[PutOff]) -> None:
        """Let `relay status` show the chores that this replica puts off, in place of those that it showed before."""


class CheckPort(Protocol):
    """What the check for unseen events needs of PostgreSQL."""

    async def check_range(self) -> tuple[int, int]:
        """Return the lowest id that is kept, and the highest position of a lane."""

    async def check_slice(self, above: int, up_to: int) -> list[tuple[int, int]]:
        """Return (lane, id) of events with above < id <= up_to, below their lane's position, with nothing recorded.

        A bounded number of each lane: more say nothing new.
        """

    async def check_again(self, events: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return those of the events, (lane, id) each, of which there is still nothing recorded."""
