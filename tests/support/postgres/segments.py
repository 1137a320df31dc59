"""Segments retired as housekeeping does it, without a relay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.postgres.flow.retiring import due_segments, retire_segment

if TYPE_CHECKING:
    import asyncpg


async def prune(connection: asyncpg.Connection, retention: float) -> list[str]:
    """Retire every segment that is due; returns the names of those of which nothing is left."""
    retired = await prune_all(connection, retention)
    return [name for name, kept in retired.items() if kept == 0]


async def prune_all(connection: asyncpg.Connection, retention: float, discarded: float = 0) -> dict[str, int | None]:
    """Retire every segment that is due; by its name how many events of it are kept, None for all of them."""
    return {
        segment.name: await retire_segment(connection, segment, retention, discarded)
        for segment in await due_segments(connection, retention)
    }
