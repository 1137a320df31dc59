"""Makes and retires segments, forgets what is over, looks for events that were passed, and surveys the outbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import connection_lost
from relay.postgres.flow import retiring, segments
from relay.postgres.flow.statements import Statements
from relay.stages.housekeeping.ports import SurveyedFailures, SurveyedIds, SurveyedPending

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from relay.stages.housekeeping.ports import DueSegment, PutOff

FORGET_AT_ONCE = 10_000
"""Receipts of replays, or requests, dropped in one statement: a fraction of a second."""

CHECKED_AT_ONCE = 20
"""Events per lane that the check for unseen ones names of a slice: more say nothing new."""


class HousekeepingConnection(Statements):
    """Fulfils HousekeepingPort, CheckPort and SurveyPort."""

    def lost(self, error: Exception) -> bool:
        """Whether an error means that the connection is gone, and not that a statement did not work out."""
        return self._connection.is_closed() or connection_lost(error)

    async def ensure_segments(self, ids_per_segment: int, ahead: int) -> list[str]:
        """Make segments ahead."""
        return await segments.ensure_segments(self._connection, ids_per_segment, ahead, schema=self._schema)

    async def due_segments(self, retention: float) -> list[DueSegment]:
        """Segments that have had their time."""
        return await retiring.due_segments(self._connection, retention, schema=self._schema)

    async def retire_segment(self, segment: DueSegment, retention: float, discarded_retention: float) -> int | None:
        """Drop a segment, or put a small one in its place."""
        return await retiring.retire_segment(
            self._connection, segment, retention, discarded_retention, schema=self._schema
        )

    async def forget_replayed(self, retention: float) -> bool:
        """Drop receipts of replays that are long over; returns whether more may be left."""
        return len(await self._rows("forget_replayed", retention, FORGET_AT_ONCE)) == FORGET_AT_ONCE

    async def forget_actions(self, retention: float) -> bool:
        """Drop what people asked for long ago; returns whether more may be left."""
        ((forgotten,),) = await self._rows("forget_actions", retention, FORGET_AT_ONCE)
        return bool(forgotten == FORGET_AT_ONCE)

    async def forget_replicas(self) -> None:
        """Remove replicas that have been gone for long."""
        await self._rows("forget_replicas")

    async def finish_replays(self) -> None:
        """Record the end of replays of which nothing is under way any more."""
        await self._rows("finish_replays")

    async def check_range(self) -> tuple[int, int]:
        """The lowest id of which all segments are there, and the highest position of a lane."""
        ((oldest, highest),) = await self._rows("check_range")
        return oldest, highest

    async def check_kept(self, most_events: int) -> list[tuple[int, int]]:
        """What is left of segments below: (above, up_to) each."""
        return [(row[0], row[1]) for row in await self._rows("check_kept", most_events)]

    async def check_slice(self, above: int, up_to: int) -> list[tuple[int, int]]:
        """(lane, id) of events in a slice, below their lane's position, of which nothing is recorded."""
        return [(row[0], row[1]) for row in await self._rows("check_slice", above, up_to, CHECKED_AT_ONCE)]

    async def check_again(self, events: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        """Those of the events of which there is still nothing recorded."""
        lanes, ids = [lane for lane, _ in events], [id_ for _, id_ in events]
        return [(row[0], row[1]) for row in await self._rows("check_again", lanes, ids)]

    async def survey_ids(self) -> SurveyedIds:
        """How far the outbox has come."""
        (row,) = await self._rows("survey_ids")
        return SurveyedIds(*row)

    async def survey_reach(self) -> tuple[int, int]:
        """The ids between which events may be pending."""
        ((above, up_to),) = await self._rows("survey_reach")
        return above, up_to

    async def survey_pending(self, above: int, up_to: int) -> list[SurveyedPending]:
        """Pending events among these ids, counted by topic."""
        return [SurveyedPending(*row) for row in await self._rows("survey_pending", above, up_to)]

    async def survey_failures(self, most: int) -> list[SurveyedFailures]:
        """Failures that are not discarded, counted by topic and state."""
        return [SurveyedFailures(*row) for row in await self._rows("survey_failures", most)]

    async def survey_held(self, most: int) -> dict[str, int]:
        """Held events, counted by topic."""
        return {row["topic"]: row["events"] for row in await self._rows("survey_held", most)}

    async def show_put_off(self, replica: UUID, chores: Sequence[PutOff]) -> None:
        """Let `relay status` show what this replica puts off."""
        columns: list[list[object]] = [list(column) for column in zip(*chores, strict=True)] or [[], [], []]
        await self._rows("show_put_off", replica, *columns)
