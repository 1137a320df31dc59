"""Where the receipts are: earlier commits, with which this code is compared, wrote one for each event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.postgres.receipts import DELIVERIES

if TYPE_CHECKING:
    import asyncpg


async def deliveries(connection: asyncpg.Connection) -> str:
    """Return what to read FROM: id and delivered_at of each event that has a receipt."""
    return DELIVERIES if await _by_batch(connection) else "outbox.delivery"


async def count_deliveries(connection: asyncpg.Connection) -> int:
    """Count the events that have a receipt."""
    by_batch = "SELECT coalesce(sum(octet_length(ids) / 4), 0) FROM outbox.receipt"
    by_event = "SELECT count(*) FROM outbox.delivery"
    count: int = await connection.fetchval(by_batch if await _by_batch(connection) else by_event)
    return count


async def _by_batch(connection: asyncpg.Connection) -> bool:
    found: bool = await connection.fetchval("SELECT to_regclass('outbox.receipt') IS NOT NULL")
    return found
