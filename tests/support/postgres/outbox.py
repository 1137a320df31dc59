"""Databases with an outbox, for tests."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from relay.admin.findings import findings
from relay.postgres.admin.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.postgres.admin.status import Status


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database, closed at the end whatever state it is in."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def migrated(dsn: str, schema: str = "outbox") -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database, in which there is an outbox from now on."""
    async with connected(dsn) as connection:
        await migrate(connection, schema)
        yield connection


async def add_event(
    connection: asyncpg.Connection,
    key: str | bytes | None = "k",
    topic: str = "orders",
    payload: str | bytes | None = "x",
    headers: dict[str, str] | None = None,
) -> asyncpg.Record:
    """Insert one event as a plain writer does; returns its lane and id."""
    row: asyncpg.Record = await connection.fetchrow(
        "INSERT INTO outbox.event (topic, key, payload, headers) VALUES ($1, $2, $3, $4) RETURNING lane, id",
        topic,
        key.encode() if isinstance(key, str) else key,
        payload.encode() if isinstance(payload, str) else payload,
        json.dumps(headers or {}),
    )
    return row


async def add_failure(connection: asyncpg.Connection, event: asyncpg.Record, state: str = "failed") -> None:
    """Record a failure of an event, given as `add_event` returns it."""
    await connection.execute(
        "INSERT INTO outbox.failure (lane, id, topic, state, attempts, error, policy)"
        " VALUES ($1, $2, 'orders', $3, 1, 'MessageSizeTooLarge', 'block')",
        *event,
        state,
    )


def concerns(status: Status) -> list[str]:
    """Return what `relay status` says is wrong."""
    return [str(finding) for finding in findings(status)]
