"""Events that Kafka does not take: they wait, those behind them wait, others go on."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from relay.local import create_topic
from tests.support.kafka.consumer import read_topic
from tests.support.kafka.topics import alter_topic
from tests.support.postgres.receipts import DELIVERIES
from tests.support.promises import check_everything
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic

LIMIT = 10_000
BEHIND = 300


@pytest.mark.parametrize("delivered_before", [0, 10], ids=["first ever", "later"])
async def test_a_refused_event_is_overtaken_by_none_of_its_key_and_arrives_when_the_limit_is_raised(
    here: Place, make_topic: MakeTopic, delivered_before: int
) -> None:
    topic = make_topic(1, **{"max.message.bytes": LIMIT})
    # Small record batches, so that those behind the refused one come in batches that the broker would take; and
    # compression, so that the relay cannot know the size beforehand and the broker really is asked.
    async with here.relay(kafka_record_batch_bytes=1_024, kafka_compression="gzip") as relay:
        await enqueue_numbers(here, topic, 1, delivered_before)
        await here.receipts_reach(delivered_before)

        too_large = delivered_before + 1
        async with here.connection.transaction():
            await here.connection.execute(
                "INSERT INTO outbox.event (topic, key, payload) VALUES ($1, 'k', $2)",
                topic,
                b"%d " % too_large + secrets.token_bytes(3 * LIMIT),
            )
            await enqueue_numbers(here, topic, too_large + 1, too_large + BEHIND)
        failed = await relay.logged("event.failed")
        assert (failed["topic"], failed["level"], failed["policy"]) == (topic, "error", "block")
        assert failed["error"].endswith("raise max.message.bytes of the topic, or make the event smaller")

        await enqueue_numbers(here, here.topic, 1, 10)
        await here.receipts_reach(delivered_before + 10)

        async def held() -> bool:
            return bool(await here.connection.fetchval("SELECT count(*) = $1 FROM outbox.held", BEHIND))

        await until("those behind it are held back", held)
        assert await here.receipts() == delivered_before + 10
        assert len(relay.happened("event.failed")) == 1, relay

        await alter_topic(here.bootstrap_servers, topic, max_message_bytes=1_000_000)
        await here.connection.execute("UPDATE outbox.failure SET state = 'replaying'")
        await here.receipts_reach(delivered_before + 11 + BEHIND)
        await relay.stop()

    for each in (topic, here.topic):
        assert await check_everything(here.connection, here.bootstrap_servers, each) == []


async def test_an_event_without_a_key_for_a_compacted_topic_fails_and_stops_no_other(
    here: Place, make_topic: MakeTopic
) -> None:
    topic = make_topic(1, **{"cleanup.policy": "compact"})
    async with here.relay() as relay:
        async with here.connection.transaction():
            await enqueue_numbers(here, topic, 1, 20)
            await here.connection.execute("INSERT INTO outbox.event (topic, payload) VALUES ($1, 'no key')", topic)
            await enqueue_numbers(here, topic, 21, 40)
        failed = await relay.logged("event.failed")
        assert (failed["topic"], failed["policy"]) == (topic, "block")
        assert failed["error"].endswith("a topic with cleanup.policy=compact does not take an event without a key")
        await here.receipts_reach(40)
        assert relay.happened("event.retrying") == []
        await relay.stop()
    # As if it had never been written, the others are all there.
    await here.connection.execute("DELETE FROM outbox.failure; DELETE FROM outbox.event WHERE key IS NULL")
    assert await check_everything(here.connection, here.bootstrap_servers, topic) == []


async def test_hundreds_of_refused_events_among_good_ones_fail_without_a_pause_or_a_new_producer(
    here: Place, make_topic: MakeTopic
) -> None:
    topic = make_topic(2, **{"cleanup.policy": "compact"})
    async with here.connection.transaction():
        for first in range(1, 301, 100):
            # In a row, one after the other, and in between.
            await here.connection.execute(
                "INSERT INTO outbox.event (topic, payload) SELECT $1, 'no key' FROM generate_series(1, 50)", topic
            )
            await here.connection.execute(
                "INSERT INTO outbox.event (topic, key, payload)"
                " SELECT $1, CASE WHEN i % 2 = 0 THEN convert_to('k' || i % 7, 'UTF8') END,"
                " convert_to(i::text, 'UTF8') FROM generate_series($2::int, $3::int) AS i",
                topic,
                first,
                first + 99,
            )
    async with here.relay(log_level="debug") as relay:

        async def decided() -> bool:
            row = await here.connection.fetchrow(
                f"SELECT (SELECT count(*) FROM outbox.failure) AS failed, (SELECT count(*) FROM {DELIVERIES}) AS sent"
            )
            return (row["failed"], row["sent"]) == (300, 150)

        await until("all are decided", decided, timeout=90)
        assert relay.happened("producer.replaced") == []
        told, counted = (len(relay.happened(name)) for name in ("event.failed", "event.failed_too"))
        assert (told, counted) == (20, 280)
        await relay.stop()
    records = await read_topic(here.bootstrap_servers, topic)
    good = await here.connection.fetch("SELECT id FROM outbox.event WHERE key IS NOT NULL ORDER BY id")
    assert sorted(record.id for record in records) == [row["id"] for row in good]
    for key in {record.key for record in records}:
        of_key = [record.id for record in records if record.key == key]
        assert of_key == sorted(of_key)


async def test_events_that_waited_for_longer_than_their_topic_takes_are_published_with_the_time_of_publishing(
    here: Place, make_topic: MakeTopic
) -> None:
    topic = make_topic(2, **{"message.timestamp.before.max.ms": 600_000})
    await enqueue_numbers(here, topic, 1, 50)
    await here.connection.execute("UPDATE outbox.event SET created_at = now() - interval '3 days' WHERE id <= 30")
    await here.connection.execute("UPDATE outbox.event SET created_at = now() + interval '3 hours' WHERE id > 40")
    async with here.relay() as relay:
        await here.receipts_reach(50)
        assert relay.happened("event.failed") == relay.happened("event.retrying") == []
        assert [line["topic"] for line in relay.happened("publish.restamped")] == [topic]
        await relay.stop()
    assert await check_everything(here.connection, here.bootstrap_servers, topic) == []
    records = await read_topic(here.bootstrap_servers, topic)
    written = {record.id: record.headers.get("outbox-created-at") for record in records}
    assert [id_ for id_, created in written.items() if created is None] == list(range(31, 41))


async def test_a_missing_topic_is_said_once_stops_no_other_and_gets_its_events_in_order_once_made(here: Place) -> None:
    missing = f"missing-{secrets.token_hex(6)}"
    async with here.relay() as relay:
        for first in range(1, 100, 10):
            await enqueue_numbers(here, missing, first, first + 9)
            await enqueue_numbers(here, here.topic, first, first + 9)
        await here.receipts_reach(100)
        refused = await relay.logged("topic.troubled")
        assert (refused["topic"], refused["error"]) == (missing, f"topic {missing} does not exist; create it")

        await create_topic(here.bootstrap_servers, missing, partitions=3)
        await here.settled()
        assert len(relay.happened("topic.troubled")) == 1
        await relay.stop()

    for each in (missing, here.topic):
        assert await check_everything(here.connection, here.bootstrap_servers, each) == []


async def test_of_hundreds_of_missing_topics_the_first_are_told_and_another_one_flows(here: Place) -> None:
    await here.connection.execute(
        "INSERT INTO outbox.event (topic, key, payload)"
        " SELECT 'missing-' || i, 'k', '1' FROM generate_series(1, 600) AS i"
    )
    async with here.relay() as relay:
        await relay.logged("topic.troubled")
        await enqueue_numbers(here, here.topic, 1, 100)
        await here.receipts_reach(100)

        async def held() -> bool:
            return bool(await here.connection.fetchval("SELECT count(*) = 600 FROM outbox.held"))

        await until("the events for missing topics are held", held)
        _, found = await relay.get("/readyz")
        assert (len(found["troubled_topics"]), found["more_troubled_topics"]) == (20, 580)
        # Twenty in ten seconds; a busy machine may take longer than that.
        assert len(relay.happened("topic.troubled")) <= 100
        await relay.stop()
    await here.connection.execute("DELETE FROM outbox.held; DELETE FROM outbox.event WHERE topic LIKE 'missing-%'")
    assert await check_everything(here.connection, here.bootstrap_servers, here.topic) == []


async def enqueue_numbers(here: Place, topic: str, first: int, last: int, payload_bytes: int = 20) -> None:
    """Events of one key that carry these numbers."""
    await here.connection.execute(
        "INSERT INTO outbox.event (topic, key, payload)"
        " SELECT $1, 'k', convert_to(rpad(i || ' ', $4::int, 'x'), 'UTF8')"
        " FROM generate_series($2::int, $3::int) AS i",
        topic,
        first,
        last,
        payload_bytes,
    )
