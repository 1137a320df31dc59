"""What people read of scheduled events, and cancel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, cast

from asyncpg.exceptions import LockNotAvailableError, QueryCanceledError

from relay.errors import BusyError, RefusedError
from relay.postgres.admin.reads import like, read
from relay.postgres.errors import translated
from relay.postgres.sql import query

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg


class ScheduledEvent(NamedTuple):
    """A scheduled event as the list has it."""

    event_id: UUID
    lane: int
    topic: str
    key: bytes | None
    type: str | None
    timer: str | None
    deliver_at: datetime
    due_seconds: float
    """Until it is due; below zero since it has been."""
    payload_bytes: int


class ScheduledDetails(NamedTuple):
    """All that is known of one."""

    event: ScheduledEvent
    created_at: datetime
    created_seconds: float
    headers: str
    payload: bytes | None


class ScheduledEvents:
    """The scheduled events of one outbox."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def find(
        self, *, topic: str | None, key: bytes | None, timer: str | None, limit: int
    ) -> list[ScheduledEvent]:
        """Return the first ones that are due. `*` in topic and timer stands for any characters."""
        rows = await read(
            self._connection, self._schema, "list_scheduled", topic and like(topic), key, timer and like(timer), limit
        )
        return [ScheduledEvent(*row) for row in rows]

    async def get(self, event_id: UUID | None, timer: str | None, payload_bytes: int) -> ScheduledDetails | None:
        """Return one, with the first `payload_bytes` of its payload."""
        rows = await read(self._connection, self._schema, "scheduled_event", event_id, timer, payload_bytes)
        return ScheduledDetails(ScheduledEvent(*rows[0][:9]), *rows[0][9:]) if rows else None

    async def cancel(self, event_ids: Collection[UUID], *, reason: str, machine: str) -> int:
        """Cancel all of these and record it, or none; return the number of the action.

        Raises RefusedError, which names one, if not all of them are still to come.
        """
        wanted = sorted(set(event_ids))
        with translated():
            try:
                async with self._connection.transaction():
                    await self._connection.execute(query("status_session", self._schema))
                    rows = await self._connection.fetch(query("cancel_by_id", self._schema), wanted)
                    check_all_there(wanted, {row["event_id"] for row in rows})
                    recorded = json.dumps({"event_ids": list(map(str, wanted))})
                    return cast(
                        "int",
                        await self._connection.fetchval(
                            query("record_cancelled", self._schema), len(wanted), recorded, reason, machine
                        ),
                    )
            except (QueryCanceledError, LockNotAvailableError) as error:
                raise BusyError(
                    "somebody else is moving, cancelling or rescheduling one of these events; nothing was changed, "
                    "try again"
                ) from error


def check_all_there(wanted: Sequence[UUID], found: Collection[UUID]) -> None:
    """Raise RefusedError unless all that are wanted were found."""
    if gone := [event_id for event_id in wanted if event_id not in found]:
        others = f" and {len(gone) - 1:,} more" if len(gone) > 1 else ""
        raise RefusedError(
            f"no event {gone[0]}{others} is to come: it has entered the outbox, was cancelled, or never was; nothing "
            "was changed"
        )
