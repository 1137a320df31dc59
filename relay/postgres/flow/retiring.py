"""Retires segments: drops them, or puts a small one in their place with what is still needed.

A segment is looked through and copied while nobody waits; the tables change places in a moment. As in making segments,
no lock is asked for while a transaction that lasts holds one, and HeldUpError names it. Must not be called inside a
transaction.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from relay.errors import SchemaError
from relay.postgres.errors import translated
from relay.postgres.locks import patiently, refuse_while_held
from relay.postgres.sql import DEFAULT_SCHEMA, query
from relay.stages.housekeeping.ports import DueSegment

if TYPE_CHECKING:
    import asyncpg

LONG_SECONDS = 3600.0
"""The longest that looking through a segment, and copying half of it, may take; 5 million events take seconds."""

MOST_PART = 0.5
"""Part of a segment's events that may be kept: copying more would free less room than it takes. As in the statement."""

TRIES = 2
"""How often a segment is looked through in a row if the locks cannot be had; each time they are asked for again."""


async def due_segments(
    connection: asyncpg.Connection, retention: float, *, schema: str = DEFAULT_SCHEMA
) -> list[DueSegment]:
    """Return the segments that have had their time, the oldest first; `retention` in seconds."""
    with translated():
        rows = await connection.fetch(query("due_segments", schema), float(retention))
    return [DueSegment(*row) for row in rows]


async def retire_segment(
    connection: asyncpg.Connection,
    segment: DueSegment,
    retention: float,
    discarded_retention: float,
    *,
    schema: str = DEFAULT_SCHEMA,
) -> int | None:
    """Drop a segment or put a small one in its place; returns how many events are kept, None if it was not done.

    It is not done if it frees too little, or if something has come to need all of it. Raises HeldUpError, and
    SchemaError for an event that nothing is recorded of.
    """
    with translated():
        if await frees_little(connection, segment, retention, discarded_retention, schema=schema):
            return None
        what = f"retiring the segment {segment.name}"
        tables = [f"{schema}.{name}" for name in _tables(segment.lower_id)]
        whole = [f"{schema}.migration"]
        work = partial(_retire, connection, segment, float(retention), float(discarded_retention), schema)
        row = await patiently(connection, what, work, tables, whole, attempts=TRIES)
        if row is None:
            # Another replica is at it.
            return None
        kept, undecided = row
        if undecided is not None:
            raise SchemaError(
                f"the segment {segment.name} is kept: its event {undecided} has no receipt and was not discarded, "
                'although the relay has passed it; see "Segments and other chores" in the run book'
            )
        if kept is None:
            # Something is needed after all; or a transaction has come to last meanwhile, and the function did not try.
            await refuse_while_held(connection, what, tables, whole)
    return None if kept is None else int(kept)


async def frees_little(
    connection: asyncpg.Connection,
    segment: DueSegment,
    retention: float,
    discarded_retention: float,
    *,
    schema: str = DEFAULT_SCHEMA,
) -> bool:
    """Whether more is needed than may be kept, as far as can be told without looking through the segment."""
    ids = segment.upper_id - segment.lower_id
    needed, events = await connection.fetchrow(
        query("segment_needs", schema),
        *(segment.lower_id, segment.upper_id, ids, segment.name, float(retention), float(discarded_retention)),
    )
    # What was kept once is few events among many ids, which statistics have counted.
    there_are = events if segment.kept and events else ids
    return bool(needed > MOST_PART * there_are)


async def _retire(
    connection: asyncpg.Connection, segment: DueSegment, retention: float, discarded_retention: float, schema: str
) -> asyncpg.Record:
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(query("long_statement"))
        row: asyncpg.Record = await connection.fetchrow(
            query("retire_segment", schema), segment.lower_id, retention, discarded_retention, timeout=LONG_SECONDS
        )
        return row


def _tables(lower: int) -> tuple[str, ...]:
    own = (f"event_{lower}", f"receipt_{lower}", f"delivery_{lower}")
    return ("event", "receipt", "former_delivery", "event_default", "receipt_default", *own)
