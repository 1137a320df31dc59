"""Makes segments (partitions of event and delivery) ahead of the writers, and drops those nothing needs any more.

Both work in short transactions that give up after 20 ms of waiting for a lock, and do not even ask while a transaction
that lasts holds one: writers would queue up behind the request. HeldUpError names who stands in the way. They must not
be called inside a transaction.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from relay.errors import HeldUpError, SchemaError
from relay.postgres.errors import translated
from relay.postgres.locks import patiently, refuse_while_held
from relay.postgres.sql import DEFAULT_SCHEMA, query

if TYPE_CHECKING:
    import asyncpg

STRANDED_EVENTS = 100_000
"""How many events are moved out of a DEFAULT partition at a time; readers of it wait for half a second or so."""

LAST_ID = 2**63 - 1
"""Of a bigint, and of the sequence."""

LONG_SECONDS = 3600.0
"""The longest that looking through a segment may take; 5 million events take seconds."""


async def ensure_segments(
    connection: asyncpg.Connection, ids_per_segment: int, ahead: int, *, schema: str = DEFAULT_SCHEMA
) -> list[str]:
    """Make segments until `ahead` whole ones lie above the newest id, and for rows in the DEFAULT partitions.

    Returns the names of those it made. Raises HeldUpError if it could make none because others hold locks.
    """
    created: list[str] = []
    defaults = [f"{schema}.event_default", f"{schema}.delivery_default"]
    whole = [f"{schema}.event", f"{schema}.delivery", f"{schema}.migration"]

    async def add(lower: int, upper: int) -> bool:
        name = await patiently(
            connection,
            f"making the segment event_{lower}",
            lambda: connection.fetchval(query("add_segment", schema), lower, upper),
            defaults,
            whole,
        )
        if name is not None:
            created.append(name)
        return name is not None

    try:
        with translated():
            reached, top = await connection.fetchrow(query("segment_state", schema))
            while (top is None or top <= reached + ahead * ids_per_segment) and (top or reached) < LAST_ID:
                # Writers who have run past the last segment are using the DEFAULT partition: the next segment begins
                # a little further on, so that they need not wait while it is attached.
                lower = top if top is not None and top > reached else reached + 1 + _margin(ids_per_segment)
                top = min(lower + ids_per_segment, LAST_ID)
                if lower >= top or not await add(lower, top):
                    # The end of all ids, or another replica is at it.
                    break
            while stranded := await connection.fetchrow(query("stranded_segment", schema), STRANDED_EVENTS):
                if not await add(*stranded):
                    break
    except HeldUpError:
        # What was made is told first; the next time there is only this to tell.
        if not created:
            raise
    return created


async def prune(connection: asyncpg.Connection, retention_seconds: float, *, schema: str = DEFAULT_SCHEMA) -> list[str]:
    """Drop segments whose events are all settled and older than the retention; returns their names.

    Raises SchemaError if a segment that should be droppable has an event without a receipt that nobody discarded.
    """
    dropped: list[str] = []
    with translated():
        for name, lower in await connection.fetch(query("droppable_segments", schema), float(retention_seconds)):
            try:
                if not await _drop(connection, name, lower, schema):
                    if not dropped:
                        await _check_settled(connection, name, lower, schema)
                    break
            except HeldUpError:
                # What was dropped is told first; the next time there is only this to tell.
                if not dropped:
                    raise
                break
            dropped.append(name)
    return dropped


async def _check_settled(connection: asyncpg.Connection, name: str, lower: int, schema: str) -> None:
    unsettled = await _long(connection, "unsettled_event", lower, schema)
    if unsettled is not None:
        raise SchemaError(
            f"the segment {name} is kept: its event {unsettled} has no receipt and was not discarded, although the "
            'relay has passed it; see "Segments and other chores" in the run book'
        )


async def _drop(connection: asyncpg.Connection, name: str, lower: int, schema: str) -> bool:
    what = f"dropping the segment {name}"
    tables = [f"{schema}.{table}" for table in ("event", "delivery", f"event_{lower}", f"delivery_{lower}")]
    whole = [f"{schema}.migration"]
    dropped = await patiently(
        connection, what, partial(_long, connection, "drop_segment", lower, schema), tables, whole
    )
    if dropped is False:
        # Something is needed after all; or a transaction has come to last meanwhile, and the function did not even try.
        await refuse_while_held(connection, what, tables, whole)
    return bool(dropped)


async def _long(connection: asyncpg.Connection, name: str, lower: int, schema: str) -> object:
    """Run a statement that looks through a whole segment."""
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(query("long_statement"))
        return await connection.fetchval(query(name, schema), lower, timeout=LONG_SECONDS)


def _margin(ids_per_segment: int) -> int:
    """How many ids writers may take while a segment is being attached."""
    return min(10_000, ids_per_segment)
