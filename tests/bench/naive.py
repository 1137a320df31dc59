"""The relay that a team writes in an afternoon, for comparison: `python -m tests.bench.naive DSN BOOTSTRAP_SERVERS`.

It claims a batch of rows with SKIP LOCKED, awaits each send, and marks the batch delivered. It is right as long as one
of it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import asyncpg
from aiokafka import AIOKafkaProducer

BATCH = 100
IDLE_SECONDS = 0.1

TABLE = """
    CREATE TABLE outbox_event (
        id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        topic        text        NOT NULL,
        key          bytea,
        payload      bytea,
        delivered_at timestamptz
    );
    CREATE INDEX ON outbox_event (id) WHERE delivered_at IS NULL
"""
CLAIM = """
    SELECT id, topic, key, payload FROM outbox_event
    WHERE delivered_at IS NULL ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
MARK = "UPDATE outbox_event SET delivered_at = now() WHERE id = ANY($1)"


async def relay(dsn: str, bootstrap_servers: str) -> None:
    """Relay until cancelled."""
    connection = await asyncpg.connect(dsn)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        while True:
            async with connection.transaction():
                rows = await connection.fetch(CLAIM, BATCH)
                for row in rows:
                    await producer.send_and_wait(row["topic"], row["payload"], key=row["key"])
                if rows:
                    await connection.execute(MARK, [row["id"] for row in rows])
            if not rows:
                await asyncio.sleep(IDLE_SECONDS)
    finally:
        await producer.stop()
        await connection.close()


async def main() -> None:
    """Until SIGTERM."""
    running = asyncio.create_task(relay(*sys.argv[1:]))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    asyncio.run(main())
