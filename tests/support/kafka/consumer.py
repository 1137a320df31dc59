"""Reads what is in Kafka."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from aiokafka import AIOKafkaConsumer, TopicPartition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

READ_SECONDS = 60.0


class Record(NamedTuple):
    """One of Kafka's records."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]
    timestamp: int
    """Milliseconds since 1970-01-01 UTC."""

    @property
    def id(self) -> int:
        """The event's id, of the header."""
        return int(self.headers["outbox-id"])

    @property
    def event_id(self) -> UUID:
        """The event's event_id, of the header."""
        return UUID(self.headers["outbox-event-id"])


async def read_topic(bootstrap_servers: str, topic: str) -> list[Record]:
    """Everything that is in a topic now, in order per partition."""
    async with asyncio.timeout(READ_SECONDS):
        return [record async for record in each_record(bootstrap_servers, topic)]


async def each_record(bootstrap_servers: str, topic: str) -> AsyncIterator[Record]:
    """One after the other, what is in a topic now, in order per partition."""
    async with _consumer(bootstrap_servers, topic) as (consumer, partitions):
        ends = await consumer.end_offsets(partitions)
        left = {partition for partition in partitions if ends[partition]}
        while left:
            for partition, records in (await consumer.getmany(*left, timeout_ms=1000)).items():
                for record in records:
                    yield _record(record)
                if await consumer.position(partition) >= ends[partition]:
                    left.discard(partition)


async def count_records(bootstrap_servers: str, topic: str) -> int:
    """How many records a topic has, by its end offsets."""
    async with _consumer(bootstrap_servers, topic) as (consumer, partitions):
        return sum((await consumer.end_offsets(partitions)).values())


def _record(record: Any) -> Record:
    headers = {name: value.decode() for name, value in record.headers}
    return Record(record.topic, record.partition, record.offset, record.key, record.value, headers, record.timestamp)


@asynccontextmanager
async def _consumer(bootstrap_servers: str, topic: str) -> AsyncIterator[tuple[Any, list[Any]]]:
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=8 << 20,
    )
    await consumer.start()
    try:
        # A consumer that subscribes to nothing has asked about no topic yet.
        await consumer._client.add_topic(topic)
        numbers = consumer.partitions_for_topic(topic)
        assert numbers, f"topic {topic} does not exist"
        partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(partitions)
        yield consumer, partitions
    finally:
        await consumer.stop()
