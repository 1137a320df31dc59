"""Events that are published by hand, so that a test can lose, repeat, move and change what it likes."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid4

from aiokafka import AIOKafkaProducer

from tests.support.postgres.receipts import add_receipt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import asyncpg


class Written(NamedTuple):
    """An event as its record has it."""

    id: int
    event_id: UUID
    key: bytes | None
    payload: bytes | None


class Publisher:
    """Writes events into an outbox and a topic, as a relay would."""

    def __init__(self, connection: asyncpg.Connection, producer: Any, topic: str) -> None:
        self.topic = topic
        self._connection = connection
        self._producer = producer

    async def commit(self, key: str | None = "k", payload: str | None = "x", topic: str | None = None) -> Written:
        """Write an event into the outbox."""
        row = await self._connection.fetchrow(
            "INSERT INTO outbox.event (topic, key, payload) VALUES ($1, $2, $3) RETURNING id, event_id, key, payload",
            topic or self.topic,
            key and key.encode(),
            None if payload is None else payload.encode(),
        )
        return Written(*row)

    async def publish(
        self, event: Written, partition: int = 0, headers: Sequence[tuple[str, bytes]] = (), **changed: Any
    ) -> int:
        """Send its record; return the offset."""
        sent = event._replace(**changed)
        own = [("outbox-event-id", str(sent.event_id).encode()), ("outbox-id", str(sent.id).encode())]
        answer = await self._producer.send_and_wait(
            self.topic, sent.payload, key=sent.key, partition=partition, headers=[*headers, *own]
        )
        return int(answer.offset)

    async def send(self, value: bytes, partition: int = 0) -> None:
        """Send a record of another producer."""
        await self._producer.send_and_wait(self.topic, value, key=b"k", partition=partition)

    async def deliver(self, key: str | None = "k", payload: str | None = "x", partition: int = 0) -> Written:
        """Write an event, its record and its receipt."""
        event = await self.commit(key, payload)
        await self.settle(event, partition, await self.publish(event, partition))
        return event

    async def settle(self, event: Written, partition: int = 0, offset: int = 0) -> None:
        """Write its receipt."""
        await add_receipt(self._connection, event.id, partition=partition, offset=offset)


@asynccontextmanager
async def publishing(connection: asyncpg.Connection, bootstrap_servers: str, topic: str) -> AsyncIterator[Publisher]:
    """A publisher whose producer is stopped at the end."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers)
    await producer.start()
    try:
        yield Publisher(connection, producer, topic)
    finally:
        await producer.stop()


def stranger() -> Written:
    """An event of another outbox."""
    return Written(1_000_000, uuid4(), b"k", json.dumps({"of": "another"}).encode())
