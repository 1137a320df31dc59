"""Makes and drops segments, forgets what is over, and looks for events that were passed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import connection_lost
from relay.postgres.flow import segments
from relay.postgres.flow.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from relay.stages.housekeeping.ports import PutOff

FORGET_AT_ONCE = 10_000
"""Receipts of replays dropped in one statement: a fraction of a second."""

CHECKED_AT_ONCE = 20
"""Events per lane that the check for unseen ones names of a slice: more say nothing new."""


class HousekeepingConnection(Statements):
    """Fulfils HousekeepingPort and CheckPort."""

    def lost(self, error: Exception) -> bool:
        """Whether an error means that the connection is gone, and not that a statement did not work out."""
        return self._connection.is_closed() or connection_lost(error)

    async def ensure_segments(self, ids_per_segment: int, ahead: int) -> list[str]:
        """Make segments ahead."""
        return await segments.ensure_segments(self._connection, ids_per_segment, ahead, schema=self._schema)

    async def prune(self, retention: float) -> list[str]:
        """Drop segments that are settled and old enough."""
        return await segments.prune(self._connection, retention, schema=self._schema)

    async def forget_replayed(self, retention: float) -> bool:
        """Drop receipts of replays that are long over; returns whether more may be left."""
        return len(await self._rows("forget_replayed", retention, FORGET_AT_ONCE)) == FORGET_AT_ONCE

    async def forget_replicas(self) -> None:
        """Remove replicas that have been gone for long."""
        await self._rows("forget_replicas")

    async def finish_replays(self) -> None:
        """Record the end of replays of which nothing is under way any more."""
        await self._rows("finish_replays")

    async def check_range(self) -> tuple[int, int]:
        """The lowest id that is kept, and the highest position of a lane."""
        ((oldest, highest),) = await self._rows("check_range")
        return oldest, highest

    async def check_slice(self, above: int, up_to: int) -> list[tuple[int, int]]:
        """(lane, id) of events in a slice, below their lane's position, of which nothing is recorded."""
        return [(row[0], row[1]) for row in await self._rows("check_slice", above, up_to, CHECKED_AT_ONCE)]

    async def check_again(self, events: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of the events of which there is still nothing recorded."""
        lanes, ids = [lane for lane, _ in events], [id_ for _, id_ in events]
        return [(row[0], row[1]) for row in await self._rows("check_again", lanes, ids)]

    async def show_put_off(self, replica: UUID, chores: Sequence[PutOff]) -> None:
        """Let `relay status` show what this replica puts off."""
        columns: list[list[object]] = [list(column) for column in zip(*chores, strict=True)] or [[], [], []]
        await self._rows("show_put_off", replica, *columns)
