"""Receipts in a database, read and written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg


def deliveries(schema: str = "outbox") -> str:
    """Return what to read FROM: id, kafka_partition, kafka_offset, delivered_at; a row for each place of an event."""
    return f"{schema}.receipts(0, 9223372036854775806, '-infinity', 'infinity')"


DELIVERIES = deliveries()

DELIVERY_OF_EACH = (
    "INSERT INTO outbox.receipt (max_id, min_id, base_offset, kafka_partition, replica, ids)"
    " SELECT e.id, e.id, {offset}, 0, gen_random_uuid(), '\\x00000000' FROM {events} AS e"
)


async def add_receipt(
    connection: asyncpg.Connection,
    id_: int,
    *,
    partition: int = 0,
    offset: int = 0,
    replica: UUID | None = None,
    late: bool = False,
) -> None:
    """Write a receipt of one event."""
    await connection.execute(
        "INSERT INTO outbox.receipt (max_id, min_id, base_offset, kafka_partition, replica, late, ids)"
        " VALUES ($1, $1, $2, $3, $4, $5, '\\x00000000')",
        id_,
        offset,
        partition,
        replica or uuid4(),
        late,
    )


async def add_receipts(connection: asyncpg.Connection) -> None:
    """Write receipts for all events that have none, one each, at the offset that is the event's id."""
    events = f"(SELECT id FROM outbox.event WHERE id NOT IN (SELECT id FROM {DELIVERIES}))"
    await connection.execute(DELIVERY_OF_EACH.format(offset="e.id", events=events))


async def forget_receipt(connection: asyncpg.Connection, id_: int) -> None:
    """Delete the receipt of an event, which must be of that one alone."""
    assert await connection.execute("DELETE FROM outbox.receipt WHERE max_id = $1 AND min_id = $1", id_) == "DELETE 1"
