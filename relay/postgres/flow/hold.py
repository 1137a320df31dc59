"""Reads failed and held events whose time has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.event import EventTuple
from relay.postgres.flow.statements import FailureStatements
from relay.stages.hold.ports import DueFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.event import PendingEvent


class ResumeConnection(FailureStatements):
    """Fulfils ResumePort."""

    async def due_failures(
        self,
        lanes: Sequence[int],
        max_events: int,
        max_bytes: int,
        paused: Sequence[str],
        under_way: Sequence[tuple[int, int]],
    ) -> list[DueFailure]:
        """The failures to publish now."""
        rows = await self._rows(
            "due_failures",
            lanes,
            max_events,
            max_bytes,
            paused,
            [lane for lane, _ in under_way],
            [id_ for _, id_ in under_way],
        )
        return [DueFailure(EventTuple(*event), attempts) for *event, attempts in rows]

    async def still_unreadable(self, lanes: Sequence[int], why: str) -> bool:
        """Record that events that could not be read, and still cannot, have failed again."""
        return bool(await self._rows("still_unreadable", lanes, why))

    async def held_events(
        self, lane: int, above: int, max_events: int, max_bytes: int, paused: Sequence[str]
    ) -> list[PendingEvent]:
        """Held events of a lane above an id that no failure blocks."""
        return await self._events("held_events", lane, above, max_events, max_bytes, paused)
