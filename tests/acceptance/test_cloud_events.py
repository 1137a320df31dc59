"""What the relay publishes as CloudEvents is what the project's official SDK reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from relay.enqueue import Event, enqueue_many
from relay.local import create_topic
from tests.acceptance.test_failures import reached
from tests.support.kafka.consumer import read_topic
from tests.support.postgres.replays import ask, finished

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place
    from tests.support.kafka.consumer import Record

SOURCE = "https://shop.example.com/orders"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def as_cloud_event(record: Record) -> CloudEvent:
    """The record as the SDK reads it, which refuses what is no CloudEvent."""
    headers = {name: value.encode() for name, value in record.headers.items()}
    event = from_binary(KafkaMessage(headers, record.key, record.value or b""), JSONFormat(), CloudEvent)
    assert isinstance(event, CloudEvent)
    return event


def attributes(record: Record) -> dict[str, Any]:
    """Its attributes, without the record's key, which the SDK adds to them."""
    return {name: value for name, value in as_cloud_event(record).get_attributes().items() if name != "partitionkey"}


async def write(here: Place, *events: Event) -> list[datetime]:
    """Commit events; returns when each was written."""
    async with here.connection.transaction():
        await enqueue_many(here.connection, events)
    rows = await here.connection.fetch("SELECT created_at FROM outbox.event ORDER BY id DESC LIMIT $1", len(events))
    return [row["created_at"] for row in reversed(rows)]


def to_ms(when: datetime) -> datetime:
    """The time as precisely as the relay reads it."""
    return datetime.fromtimestamp(round(when.timestamp() * 1_000) / 1_000, UTC)


async def test_the_official_sdk_reads_what_is_published_and_what_is_published_again(here: Place) -> None:
    paid = Event(
        here.topic,
        key="42",
        payload=json.dumps({"order": 42, "state": "paid"}),
        type="order.paid",
        headers={"traceparent": TRACE, "tenant": "grün", "not-an-attribute": "x"},
    )
    plain = Event(here.topic, key=None, payload="text", headers={"content-type": "text/plain"})
    tombstone = Event(here.topic, key="42", payload=None, type="order.removed")
    written = [to_ms(when) for when in await write(here, paid, plain, tombstone)]
    settings = {"cloudevents_sources": f"{here.topic}={SOURCE}"}
    async with here.relay(**settings) as relay:
        await here.settled()
        await finished(here.connection, await ask(here.connection, here.topic))
        await relay.stop()
    records = await read_topic(here.bootstrap_servers, here.topic)
    by_id = {
        str(event.event_id): [record for record in records if record.event_id == event.event_id]
        for event in (paid, plain, tombstone)
    }
    assert [len(found) for found in by_id.values()] == [2, 2, 2]
    (first, again), (second, _), (third, _) = by_id.values()
    common = {"specversion": "1.0", "source": SOURCE}
    assert attributes(first) == {
        **common,
        "id": str(paid.event_id),
        "type": "order.paid",
        "subject": "42",
        "time": written[0],
        "datacontenttype": "application/json",
        "traceparent": TRACE,
        "tenant": "grün",
    }
    assert as_cloud_event(first).get_data() == {"order": 42, "state": "paid"}
    assert attributes(second) == {
        **common,
        "id": str(plain.event_id),
        "type": here.topic,
        "time": written[1],
        "datacontenttype": "text/plain",
    }
    assert as_cloud_event(second).get_data() == "text"
    assert attributes(third) == {
        **common,
        "id": str(tombstone.event_id),
        "type": "order.removed",
        "subject": "42",
        "time": written[2],
    }
    assert third.value is None
    # What is published again is the same occurrence, also by its time, although Kafka's own is that of the replay.
    assert attributes(again) == attributes(first)
    assert again.timestamp > first.timestamp
    assert first.headers["traceparent"] == TRACE
    assert first.headers["not-an-attribute"] == "x"
    assert first.headers["outbox-type"] == "order.paid"


async def test_a_dead_letter_is_the_cloud_event_that_it_would_have_been(here: Place) -> None:
    dead_letters = f"{here.topic}.dead-letter"
    await create_topic(here.bootstrap_servers, dead_letters, partitions=1, configs={"max.message.bytes": 3_000_000})
    await here.connection.execute("SELECT outbox.set_max_event_bytes(3000000)")
    # Just small enough for the topic, if it were not for what a CloudEvent adds.
    largest = 1_048_588 - 400
    huge = Event(here.topic, key="42", payload="x" * largest, type="order.paid")
    (written,) = await write(here, huge)
    async with here.relay(cloudevents_sources=f"{here.topic}={SOURCE}", failure_policy="dead-letter") as relay:
        await reached(here, "outbox.failure WHERE state = 'failed' AND policy = 'dead-letter'", 1)
        assert await relay.metric("refused_batches_total") == 0, "its size was known before it was sent"
        await relay.stop()
    assert await read_topic(here.bootstrap_servers, here.topic) == []
    (letter,) = await read_topic(here.bootstrap_servers, dead_letters)
    assert attributes(letter) == {
        "specversion": "1.0",
        "source": SOURCE,
        "id": str(huge.event_id),
        "type": "order.paid",
        "subject": "42",
        "time": to_ms(written),
        "datacontenttype": "application/json",
    }
    assert "more as a CloudEvent" in letter.headers["outbox-dead-letter-error"]


async def test_topics_that_no_pattern_names_have_none(here: Place) -> None:
    await write(here, Event(here.topic, key="42", payload="{}", type="order.paid", headers={"tenant": "a"}))
    async with here.relay(cloudevents_sources=f"other-{here.topic}={SOURCE}") as relay:
        await here.settled()
        await relay.stop()
    (record,) = await read_topic(here.bootstrap_servers, here.topic)
    assert record.headers.keys() == {"tenant", "outbox-event-id", "outbox-id", "outbox-type"}
