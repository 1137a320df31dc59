"""Makes segments (partitions of event and delivery) ahead of the writers, and drops those nothing needs any more.

Both work in short transactions that give up after 50 ms of waiting for a lock: what did not work out is tried again
the next time. They must not be called inside a transaction.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from asyncpg.exceptions import LockNotAvailableError

from relay.errors import SchemaError
from relay.postgres.errors import translated
from relay.postgres.sql import DEFAULT_SCHEMA, query

if TYPE_CHECKING:
    import asyncpg

STRANDED_EVENTS = 100_000
"""How many events are moved out of a DEFAULT partition at a time; readers of it wait for half a second or so."""

DROP_ATTEMPTS = 5
LONG_SECONDS = 3600.0
"""The longest that looking through a segment may take; 5 million events take seconds."""

DROP_PAUSE = 0.2
"""Seconds between attempts to lock the tables, for the writers that were kept waiting to get on."""


async def ensure_segments(
    connection: asyncpg.Connection, ids_per_segment: int, ahead: int, *, schema: str = DEFAULT_SCHEMA
) -> list[str]:
    """Make segments until `ahead` whole ones lie above the newest id, and for rows in the DEFAULT partitions.

    Returns the names of those it made, which may be fewer than needed if the tables were busy.
    """
    created: list[str] = []

    async def add(lower: int, upper: int) -> bool:
        name = await connection.fetchval(query("add_segment", schema), lower, upper)
        if name is not None:
            created.append(name)
        return name is not None

    try:
        with translated():
            reached, top = await connection.fetchrow(query("segment_state", schema))
            while top is None or top <= reached + ahead * ids_per_segment:
                # Writers who have run past the last segment are using the DEFAULT partition: the next segment begins
                # a little further on, so that they need not wait while it is attached.
                lower = top if top is not None and top > reached else reached + 1 + _margin(ids_per_segment)
                top = lower + ids_per_segment
                if not await add(lower, top):
                    # Another replica is at it.
                    return created
            while stranded := await connection.fetchrow(query("stranded_segment", schema), STRANDED_EVENTS):
                if not await add(*stranded):
                    return created
    except LockNotAvailableError:
        pass
    return created


async def prune(connection: asyncpg.Connection, retention_seconds: float, *, schema: str = DEFAULT_SCHEMA) -> list[str]:
    """Drop segments whose events are all settled and older than the retention; returns their names.

    Raises SchemaError if a segment that should be droppable has an event without a receipt that nobody discarded.
    """
    dropped: list[str] = []
    with translated():
        for name, lower in await connection.fetch(query("droppable_segments", schema), float(retention_seconds)):
            if not await _drop(connection, lower, schema):
                if not dropped:
                    await _check_settled(connection, name, lower, schema)
                break
            dropped.append(name)
    return dropped


async def _check_settled(connection: asyncpg.Connection, name: str, lower: int, schema: str) -> None:
    unsettled = await _long(connection, "unsettled_event", lower, schema)
    if unsettled is not None:
        raise SchemaError(
            f"the segment {name} is kept: event {unsettled} in it was passed over, it has no receipt and nobody "
            "discarded it; see the run book, Segments"
        )


async def _drop(connection: asyncpg.Connection, lower: int, schema: str) -> bool:
    for attempt in range(DROP_ATTEMPTS):
        if attempt:
            await asyncio.sleep(DROP_PAUSE)
        try:
            return bool(await _long(connection, "drop_segment", lower, schema))
        except LockNotAvailableError:
            continue
    return False


async def _long(connection: asyncpg.Connection, name: str, lower: int, schema: str) -> object:
    """Run a statement that looks through a whole segment."""
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(query("long_statement"))
        return await connection.fetchval(query(name, schema), lower, timeout=LONG_SECONDS)


def _margin(ids_per_segment: int) -> int:
    """How many ids writers may take while a segment is being attached."""
    return min(10_000, ids_per_segment)
