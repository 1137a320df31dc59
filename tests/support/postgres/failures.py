"""Events that failed and events held behind them, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from tests.support.postgres.outbox import add_event
from tests.support.postgres.receipts import add_receipt

if TYPE_CHECKING:
    import asyncpg


class Event(NamedTuple):
    """Where an event is, and what it belongs to."""

    lane: int
    id: int
    topic: str
    key: bytes | None


async def add(
    connection: asyncpg.Connection,
    key: bytes | None = b"k",
    topic: str = "orders",
    payload: bytes | None = b"x",
    headers: dict[str, str] | None = None,
) -> Event:
    """Insert an event."""
    row = await add_event(connection, key, topic, payload, headers)
    return Event(row["lane"], row["id"], topic, key)


async def add_failed(
    connection: asyncpg.Connection,
    key: bytes | None = b"k",
    topic: str = "orders",
    *,
    state: str = "failed",
    error: str = "MessageSizeTooLargeError",
    policy: str = "block",
    attempts: int = 1,
    seconds_ago: float = 60,
    payload: bytes | None = b"x",
    headers: dict[str, str] | None = None,
) -> Event:
    """Insert an event and its failure, with one entry of history for each attempt."""
    event = await add(connection, key, topic, payload, headers)
    await connection.execute(
        "INSERT INTO outbox.failure (lane, id, topic, key, state, attempts, next_attempt_at, error, detail, failed_at,"
        "                            policy, history)"
        " SELECT $1, $2, $3, $4, $5, $6, CASE WHEN $5 = 'retrying' THEN clock_timestamp() + interval '1 hour' END, $7,"
        "        'told by the broker', clock_timestamp() - make_interval(secs => $8), $9,"
        "        (SELECT jsonb_agg(jsonb_build_object('at', clock_timestamp(), 'attempt', n, 'error', 'try ' || n))"
        "         FROM generate_series(1, $6) AS n)",
        *event,
        state,
        attempts,
        error,
        seconds_ago,
        policy,
    )
    return event


async def add_held(connection: asyncpg.Connection, key: bytes | None = b"k", topic: str = "orders") -> Event:
    """Insert an event that is held back."""
    event = await add(connection, key, topic)
    await connection.execute("INSERT INTO outbox.held (lane, id, topic, key) VALUES ($1, $2, $3, $4)", *event)
    return event


async def deliver(connection: asyncpg.Connection, event: Event, offset: int = 7) -> None:
    """Write the receipt of an event as the relay does: what was recorded about it goes in the same transaction."""
    async with connection.transaction():
        for table in ("failure", "held"):
            await connection.execute(f"DELETE FROM outbox.{table} WHERE lane = $1 AND id = $2", event.lane, event.id)
        await add_receipt(connection, event.id, partition=3, offset=offset)


async def fail_again(connection: asyncpg.Connection, event: Event) -> None:
    """Let the replay of an event fail, as the relay records it."""
    await connection.execute(
        "UPDATE outbox.failure SET state = 'failed', attempts = attempts + 1, failed_at = clock_timestamp()"
        " WHERE lane = $1 AND id = $2",
        event.lane,
        event.id,
    )


async def add_replica(connection: asyncpg.Connection, seconds: float = 3600) -> None:
    """Enter a replica whose lease runs for so long, or ran out so long ago."""
    await connection.execute(
        "INSERT INTO outbox.replica (id, name, version, lease_expires_at)"
        " VALUES ($1, 'one', '0', clock_timestamp() + make_interval(secs => $2))",
        uuid4(),
        seconds,
    )


async def states(connection: asyncpg.Connection) -> dict[int, str]:
    """The states of all failures by their ids."""
    return dict(await connection.fetch("SELECT id, state FROM outbox.failure ORDER BY id"))
