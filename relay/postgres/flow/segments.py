"""Makes segments (partitions of event and receipt) ahead of the writers.

In short transactions that give up after 20 ms of waiting for a lock, and do not even ask while a transaction that lasts
holds one: writers would queue up behind the request. HeldUpError names who stands in the way. Must not be called inside
a transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.errors import HeldUpError
from relay.postgres.errors import translated
from relay.postgres.locks import patiently
from relay.postgres.sql import DEFAULT_SCHEMA, query

if TYPE_CHECKING:
    import asyncpg

STRANDED_EVENTS = 100_000
"""How many events are moved out of a DEFAULT partition at a time; readers of it wait for half a second or so."""

LAST_ID = 2**63 - 1
"""Of a bigint, and of the sequence."""


async def ensure_segments(
    connection: asyncpg.Connection, ids_per_segment: int, ahead: int, *, schema: str = DEFAULT_SCHEMA
) -> list[str]:
    """Make segments until `ahead` whole ones lie above the newest id, and for rows in the DEFAULT partitions.

    Returns the names of those it made. Raises HeldUpError if it could make none because others hold locks.
    """
    created: list[str] = []
    defaults = [f"{schema}.event_default", f"{schema}.receipt_default"]
    whole = [f"{schema}.event", f"{schema}.receipt", f"{schema}.migration"]

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


def _margin(ids_per_segment: int) -> int:
    """How many ids writers may take while a segment is being attached."""
    return min(10_000, ids_per_segment)
