"""What must be true of a topic and its outbox, whatever happened on the way."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from tests.support.kafka.consumer import read_topic
from tests.support.postgres.receipts import deliveries

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from tests.support.kafka.consumer import Record


async def check_everything(
    connection: asyncpg.Connection, bootstrap_servers: str, topic: str, schema: str = "outbox"
) -> list[Record]:
    """Check that every event is in Kafka as it was written, in order, and where its receipt says.

    Returns the repeats: records of events that were in their partition already.
    """
    records = await read_topic(bootstrap_servers, topic)
    await check_nothing_lost(connection, topic, records, schema)
    check_first_occurrences_in_order(records)
    await check_receipts(connection, topic, records, schema)
    return repeats(records)


async def check_nothing_lost(
    connection: asyncpg.Connection, topic: str, records: Iterable[Record], schema: str = "outbox"
) -> None:
    """Exactly the committed events are there, each with the key and payload it was written with."""
    rows = await connection.fetch(f"SELECT id, event_id, key, payload FROM {schema}.event WHERE topic = $1", topic)
    written = {(row["id"], row["event_id"], row["key"], row["payload"]) for row in rows}
    there = {(record.id, record.event_id, record.key, record.value) for record in records}
    lost, invented = sorted(written - there), sorted(there - written)
    assert not lost, f"{len(lost)} of {len(written)} events lost, the first: {lost[:3]}"
    assert not invented, f"{len(invented)} records that nobody committed, the first: {invented[:3]}"


def check_first_occurrences_in_order(records: Iterable[Record]) -> None:
    """Each key's first occurrences count up from 1 without a gap, in one partition: the writers' own numbers.

    A payload begins with the number that its transaction gave it while it held the lock on the key's aggregate.
    """
    last: dict[bytes | None, int] = defaultdict(int)
    partition_of: dict[bytes | None, int] = {}
    for record in first_occurrences(records):
        assert record.value is not None
        number = int(record.value.split()[0])
        assert number == last[record.key] + 1, f"after {last[record.key]} of its key: {record}"
        assert partition_of.setdefault(record.key, record.partition) == record.partition, record
        last[record.key] = number


async def check_receipts(
    connection: asyncpg.Connection, topic: str, records: Iterable[Record], schema: str = "outbox"
) -> None:
    """Every event has a receipt, and its partition and offset point at that event."""
    at = {(record.partition, record.offset): record.id for record in records}
    receipts = await connection.fetch(
        f"SELECT e.id, d.kafka_partition, d.kafka_offset FROM {schema}.event AS e"
        f" LEFT JOIN {deliveries(schema)} AS d USING (id) WHERE e.topic = $1",
        topic,
    )
    wrong = [row for row in receipts if at.get((row["kafka_partition"], row["kafka_offset"])) != row["id"]]
    assert not wrong, f"{len(wrong)} of {len(receipts)} receipts missing or wrong, the first: {wrong[:3]}"


def first_occurrences(records: Iterable[Record]) -> list[Record]:
    """The records whose events were not in the topic before, in order per partition."""
    return _split(records)[0]


def repeats(records: Iterable[Record]) -> list[Record]:
    """All other records."""
    return _split(records)[1]


def _split(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    seen: set[int] = set()
    first: list[Record] = []
    again: list[Record] = []
    for record in records:
        (again if record.id in seen else first).append(record)
        seen.add(record.id)
    return first, again
