"""Replays of delivered events in PostgreSQL, as the replay stage sees them: a connection for as long as one is open."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from relay.decide.republishing import ReplayRequest
from relay.postgres import connect
from relay.postgres.flow.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from relay.decide.lane_scan import LanePosition
    from relay.event import PendingEvent
    from relay.settings import PostgresSettings
    from relay.stages.republish.ports import Landed


class RepublishConnection(Statements):
    """Fulfils RepublishPort: reads delivered events and writes what became of them the next time."""

    @classmethod
    async def open(cls, settings: PostgresSettings) -> RepublishConnection:
        """Connect. Raises PostgresLostError when waiting may help."""
        connection = await connect.open_connection(
            await connect.dsn_of(settings), settings.connect_timeout, "outbox-relay replay"
        )
        return cls(connection, settings.schema_name)

    async def open_replays(self) -> list[ReplayRequest]:
        """Replays under way. One that cannot be read, because somebody wrote it by hand, is ended with an error."""
        found = []
        for row in await self._rows("open_replays"):
            try:
                found.append(ReplayRequest.parse(row["id"], row["filter"], row["progress"], row["requested_at"]))
            except ValueError as error:
                await self._rows("refuse_replay", row["id"], str(error))
        return found

    async def events_to_replay(
        self, request: ReplayRequest, lane: int, above: int, up_to: int, max_events: int, max_bytes: int
    ) -> list[PendingEvent]:
        """Delivered events of a lane, as the request wants them."""
        return await self._events(
            "events_to_replay",
            request.action,
            lane,
            above,
            up_to,
            request.since,
            request.until,
            request.topic,
            request.key,
            max_events,
            max_bytes,
            json.dumps(request.headers),
        )

    async def settle_replayed(self, action: int, landed: Sequence[Landed[object]]) -> None:
        """Write receipts and count them."""
        await self._rows(
            "settle_replayed",
            action,
            [each.event.lane for each in landed],
            [each.event.id for each in landed],
            [each.event.event_id for each in landed],
            [each.partition for each in landed],
            [each.offset for each in landed],
            [each.error for each in landed],
        )

    async def advance_replay(self, action: int, replica: UUID, positions: Sequence[LanePosition]) -> None:
        """Raise the replay's positions; the last lane finishes it."""
        lanes, epochs, reached = map(list, zip(*positions, strict=True))
        await self._rows("advance_replay", action, replica, lanes, epochs, reached)

    def close(self) -> None:
        """Close the connection at once."""
        connect.drop(self._connection)
