"""Hints to the relays: NOTIFY, which makes them look at once at what they would find within seconds anyway."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from relay.errors import RelayError
from relay.postgres.errors import running
from relay.postgres.sql import query

if TYPE_CHECKING:
    import asyncpg


async def hint(connection: asyncpg.Connection, statement: str, schema: str) -> None:
    """Send one, after what it tells about has been committed.

    In a transaction of its own, and nobody hears of it if that fails: for another's fault, as when a session that
    listens to something else stays in a transaction until the server's queue is full.
    """
    with suppress(RelayError), running(statement):
        await connection.execute(query(statement, schema))
