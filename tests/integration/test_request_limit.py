"""A request that is larger than the broker takes: the connection is closed without an answer."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from relay.kafka.administration import Administration
from relay.local import create_topic
from tests.integration.test_publish import in_order, running_relay
from tests.support.kafka.consumer import read_topic
from tests.support.kafka.topics import alter_topic
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.writers import fill
from tests.support.servers import shared as servers
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.local import KafkaServer
    from tests.integration.test_publish import Relaying

LIMIT = 600_000


@pytest.fixture(scope="module")
def narrow_kafka() -> Iterator[KafkaServer]:
    """A Kafka whose brokers take smaller requests than their topics take events."""
    with (
        servers.server_folder() as folder,
        servers.own_kafka_server(folder, {"socket.request.max.bytes": LIMIT}) as server,
    ):
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("readable", [True, False], ids=["its limit is known", "its limit is found out"])
async def test_an_event_above_the_brokers_limit_of_a_request_fails_alone_and_no_topic_stops(
    database: str,
    narrow_kafka: KafkaServer,
    monkeypatch: pytest.MonkeyPatch,
    readable: bool,
) -> None:
    async def unknown(*_: object) -> None:
        return None

    if not readable:
        monkeypatch.setattr(Administration, "request_bytes", unknown)
    kafka = narrow_kafka.bootstrap_servers
    wide, other = (f"test-{secrets.token_hex(6)}" for _ in range(2))
    for topic in (wide, other):
        await create_topic(kafka, topic, partitions=2)
    await alter_topic(kafka, wide, max_message_bytes=2_000_000)
    async with running_relay(database, narrow_kafka) as relaying:
        await fill(relaying.connection, other, 500)
        await relaying.settled(other)
        async with relaying.connection.transaction():
            await relaying.connection.execute(
                "INSERT INTO outbox.event (topic, key, payload)"
                " SELECT $1, 'large', convert_to(repeat('x', $2::int), 'UTF8')",
                wide,
                LIMIT + 100_000,
            )
            await fill(relaying.connection, wide, 500)
            await fill(relaying.connection, other, 500)
        await relaying.settled(other)
        await until("the large one has failed and all others are settled", lambda: decided(relaying))
        failure = await relaying.connection.fetchrow("SELECT topic, state, detail FROM outbox.failure")
        assert (failure["topic"], failure["state"]) == (wide, "failed")
        assert "socket.request.max.bytes" in failure["detail"]
        for topic in (wide, other):
            in_order(await read_topic(kafka, topic))


async def decided(relaying: Relaying) -> bool:
    """Whether there is one failure, and a receipt of each other event."""
    row = await relaying.connection.fetchrow(
        "SELECT (SELECT count(*) FROM outbox.failure) AS failed,"
        f" (SELECT count(*) FROM outbox.event) - (SELECT count(*) FROM {DELIVERIES}) AS open"
    )
    return (row["failed"], row["open"]) == (1, 1)


async def test_many_batches_for_one_broker_are_split_into_requests_that_it_takes(
    database: str, narrow_kafka: KafkaServer
) -> None:
    kafka = narrow_kafka.bootstrap_servers
    topic = f"test-{secrets.token_hex(6)}"
    await create_topic(kafka, topic, partitions=24)
    async with running_relay(database, narrow_kafka) as relaying:
        # A record batch of 64 KiB for each of the partitions is three times what the broker takes.
        async with relaying.connection.transaction():
            await relaying.connection.execute(
                "INSERT INTO outbox.event (topic, key, payload)"
                " SELECT $1, convert_to('k' || i % 500, 'UTF8'), convert_to(repeat('x', 4000), 'UTF8')"
                " FROM generate_series(1, 3000) AS i",
                topic,
            )
        await relaying.settled(topic)
        assert relaying.telemetry.value("kafka_lost_total") == 0
        assert not relaying.telemetry.value("producers_replaced_total")
    records = await read_topic(kafka, topic)
    assert len(records) == 3_000
    in_order(records)
