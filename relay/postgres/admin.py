"""One connection for one command of a person."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from relay.postgres.hosts import connect_to_primary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def admin_connection(dsn: str, connect_timeout: float) -> AsyncIterator[asyncpg.Connection]:
    """Connect, and close at the end. Works through poolers too: it keeps no statement prepared.

    Raises an UnreachableError that says what to check.
    """

    async def connect(dsn: str) -> asyncpg.Connection:
        connection: asyncpg.Connection = await asyncpg.connect(
            dsn,
            timeout=connect_timeout,
            statement_cache_size=0,
            server_settings={"application_name": "relay admin"},
        )
        return connection

    connection, _ = await connect_to_primary(dsn, connect)
    try:
        yield connection
    finally:
        # Bounded: a server that hangs must not keep the command from ending.
        await connection.close(timeout=connect_timeout)
