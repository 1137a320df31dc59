"""What one bad event, or a topic that does not exist, costs the others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.place import Outbox, Place

KEYS = 1_000
HUGE_BYTES = 5_000_000
MAX_EVENT_BYTES = 10_000_000


@dataclass(frozen=True)
class Others:
    """How fast the other events went."""

    events: int
    events_per_second: float
    """From the relay's first receipt to its last, by the database's clock."""


async def bad_event(place: Place, events: int, *, bad: bool) -> Others:
    """A backlog in 1,000 keys; with `bad`, an event in its middle that the topic does not take, and its key waits."""
    async with place.outbox() as outbox:
        await outbox.connection.execute("SELECT outbox.set_max_event_bytes($1)", MAX_EVENT_BYTES)
        await outbox.fill(events // 2, KEYS)
        huge = None
        if bad:
            key = await outbox.connection.fetchval("SELECT key FROM outbox.event LIMIT 1")
            huge = await outbox.connection.fetchrow(
                "INSERT INTO outbox.event (topic, key, payload) VALUES ($1, $2, $3) RETURNING id, key",
                outbox.topic,
                key,
                b"x" * HUGE_BYTES,
            )
        await outbox.fill(events - events // 2, KEYS)
        held = 0
        if huge is not None:
            held = await outbox.connection.fetchval(
                "SELECT count(*) FROM outbox.event WHERE id > $1 AND key = $2", huge["id"], huge["key"]
            )
        measured = await _measure(place, outbox, events - held)
        failed = await outbox.connection.fetchval("SELECT count(*) FROM outbox.failure WHERE state = 'failed'")
        if failed != int(bad):
            raise RuntimeError(f"{failed} events failed")
        return measured


async def missing_topic(place: Place, events: int, *, missing: bool) -> Others:
    """A backlog; with `missing`, every tenth event beside it is for a topic that does not exist."""
    async with place.outbox() as outbox:
        await outbox.fill(events, KEYS)
        if missing:
            # In between the others: ids are given anew, in an order of both.
            await outbox.connection.execute(
                "CREATE TEMPORARY TABLE both_topics AS"
                " SELECT topic, key, payload, id * 10 AS place FROM outbox.event"
                " UNION ALL SELECT topic || '-missing', key, payload, id * 10 + 1 FROM outbox.event WHERE id % 10 = 0"
            )
            await outbox.connection.execute("TRUNCATE outbox.event")
            await outbox.connection.execute(
                "INSERT INTO outbox.event (topic, key, payload)"
                " SELECT topic, key, payload FROM both_topics ORDER BY place"
            )
            await outbox.connection.execute("VACUUM ANALYZE outbox.event")
            await outbox.connection.execute("CHECKPOINT")
        return await _measure(place, outbox, events)


async def _measure(place: Place, outbox: Outbox, events: int) -> Others:
    async with place.relay(outbox), asyncio.timeout(300):
        while await outbox.connection.fetchval("SELECT count(*) FROM outbox.delivery") < events:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    seconds: float = await outbox.connection.fetchval(
        "SELECT extract(epoch FROM max(delivered_at) - min(delivered_at))::float8 FROM outbox.delivery"
    )
    return Others(events, events / seconds)
