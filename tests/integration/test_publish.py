"""Publishing on a real broker when what it rests on changes: the producer, the topic, its partitions."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import NewPartitions
from aiokafka.partitioner import murmur2

from relay.decide.limits import TopicLimits
from relay.kafka.administration import Administration
from relay.kafka.producer import KafkaProducer
from relay.local import create_topic
from relay.run.service import Service
from relay.settings import Settings
from relay.stages.publish import publish as module
from relay.telemetry import Telemetry
from tests.support.kafka.consumer import Record, read_topic
from tests.support.kafka.topics import admin, delete_topic
from tests.support.postgres.outbox import migrated
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.writers import fill
from tests.support.promises import check_everything, check_nothing_lost, check_receipts, first_occurrences
from tests.support.relay.process import environment
from tests.support.servers import shared as servers
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from relay.local import KafkaServer
    from relay.stages.publish.partition import Flight
    from relay.stages.publish.ports import Producer
    from tests.conftest import MakeTopic


@dataclass
class Relaying:
    """A relay inside this process, and its outbox."""

    connection: asyncpg.Connection
    service: Service
    telemetry: Telemetry
    bootstrap_servers: str

    @property
    def producer(self) -> Producer:
        """The producer it uses just now."""
        producer = self.service._publish.producers.main.current
        assert producer is not None
        return producer

    @property
    def client(self) -> Any:
        """aiokafka's client of that producer."""
        producer: Any = self.producer
        return producer._producer.client

    async def settled(self, topic: str, at_least: int | None = None) -> None:
        """Wait until all events of a topic have a receipt, or so many of them."""

        async def enough() -> bool:
            row = await self.connection.fetchrow(
                "SELECT count(d.id) AS settled, count(*) AS events FROM outbox.event AS e"
                f" LEFT JOIN {DELIVERIES} AS d USING (id) WHERE e.topic = $1",
                topic,
            )
            return bool(row["settled"] >= (row["events"] if at_least is None else at_least))

        await until(f"the events of {topic} are settled", enough)


@pytest.fixture
async def relaying(database: str, with_outbox: None, kafka: servers.Kafka) -> AsyncIterator[Relaying]:
    """A relay that is told to stop at the end, and must drain."""
    async with running_relay(database, kafka) as relaying:
        yield relaying


@asynccontextmanager
async def running_relay(database: str, kafka: servers.Kafka) -> AsyncIterator[Relaying]:
    """A relay on these servers."""
    settings = Settings.load(
        environment(postgres_dsn=database, kafka_bootstrap_servers=kafka.bootstrap_servers, http_port=0)
    )
    telemetry = Telemetry()
    async with migrated(database) as connection:
        service = Service(settings, telemetry)
        running = asyncio.create_task(service.run())
        try:
            yield Relaying(connection, service, telemetry, kafka.bootstrap_servers)
        finally:
            service.stop("the test is over")
            async with asyncio.timeout(30):
                await running
        assert not telemetry.value("abandoned_events_total")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sender", "metadata"])
async def test_a_producer_of_which_a_task_died_is_replaced_and_costs_nothing_but_repeats(
    relaying: Relaying, make_topic: MakeTopic, task: str
) -> None:
    topic = make_topic(3)
    await fill(relaying.connection, topic, 20_000)
    await relaying.settled(topic, at_least=2_000)
    first = relaying.producer
    in_flight = relaying.service._publish.topics.in_flight
    assert isinstance(first, KafkaProducer)
    inside = first._producer
    died = inside._sender.sender_task if task == "sender" else inside.client._sync_task
    assert died is not None
    died.cancel()
    await relaying.settled(topic)

    assert relaying.producer is not first
    assert relaying.telemetry.value("producers_replaced_total") == 1
    repeats = await check_everything(relaying.connection, relaying.bootstrap_servers, topic)
    assert len(repeats) <= in_flight


@pytest.mark.slow
async def test_what_was_queued_when_the_lease_was_lost_is_never_sent_though_a_new_tenure_began(
    database: str, fragile_kafka: KafkaServer
) -> None:
    topic = f"test-{secrets.token_hex(6)}"
    await create_topic(fragile_kafka.bootstrap_servers, topic, partitions=2)
    async with running_relay(database, fragile_kafka) as relaying:
        publish = relaying.service._publish
        await fill(relaying.connection, topic, 1_000)
        await relaying.settled(topic)
        await asyncio.to_thread(servers.pause, fragile_kafka)
        await fill(relaying.connection, topic, 8_000)

        async def queued() -> list[Flight]:
            """The second batch of each partition waits for the answer to the first."""
            return [partition.flights[1] for partition in publish.topics.partitions() if len(partition.flights) > 1]

        flights = await until("batches are queued", queued)
        tenure = publish.topics.tenure
        await relaying.connection.execute("UPDATE outbox.lane SET epoch = epoch + 1, owner = gen_random_uuid()")
        await relaying.connection.execute("SELECT outbox.wake_up()")

        async def taken_again() -> bool:
            waiting = {event.id for partition in publish.topics.partitions() for event in partition.waiting}
            return publish.topics.tenure is not tenure and {event.id for event in flights[0].events} <= waiting

        await until("a new tenure has taken the events again", taken_again)
        assert relaying.telemetry.value("leases_lost_total") == 1
        await asyncio.to_thread(fragile_kafka.resume)
        await relaying.settled(topic)

        records = await read_topic(fragile_kafka.bootstrap_servers, topic)
        await check_nothing_lost(relaying.connection, topic, records)
    in_order(first_occurrences(records))
    times = Counter(record.id for record in records)
    assert {times[event.id] for event in flights[0].events} == {1}


async def test_times_that_the_broker_refuses_are_learned_where_the_limits_cannot_be_read(
    relaying: Relaying, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreadable(*_: object) -> TopicLimits:
        return TopicLimits()

    monkeypatch.setattr(Administration, "limits", unreadable)
    topic = make_topic(1, **{"message.timestamp.before.max.ms": 600_000})
    await fill(relaying.connection, topic, 1_000)
    await relaying.settled(topic)
    late = "UPDATE outbox.event SET created_at = now() - interval '1 day' WHERE id > 1000 AND id % 3 = 0"
    async with relaying.connection.transaction():
        await fill(relaying.connection, topic, 1_000)
        await relaying.connection.execute(late)
    await relaying.settled(topic)

    assert await relaying.connection.fetchval("SELECT count(*) FROM outbox.failure") == 0
    assert not relaying.telemetry.value("producers_replaced_total")
    assert relaying.telemetry.value("restamped_events_total", topic=topic) == 333
    records = await read_topic(relaying.bootstrap_servers, topic)
    await check_receipts(relaying.connection, topic, records)
    assert len(records) == 2_000
    in_order(records)


async def test_partitions_that_are_added_get_the_keys_that_the_hash_gives_them(
    relaying: Relaying, make_topic: MakeTopic
) -> None:
    topic = make_topic(1)
    await fill(relaying.connection, topic, 1_000)
    await relaying.settled(topic)
    async with admin(relaying.bootstrap_servers) as client:
        answer: Any = await client.create_partitions({topic: NewPartitions(3)})
        assert answer.topic_errors[0][1] == 0

    async def known() -> bool:
        # By itself aiokafka asks every five minutes.
        await relaying.client.force_metadata_update()
        return relaying.producer.known_partition_count(topic) == 3

    await until("the producer knows of three partitions", known)
    await until("publish does too", lambda: count_is(relaying, topic, 3))
    await fill(relaying.connection, topic, 1_000)
    await relaying.settled(topic)

    records = await read_topic(relaying.bootstrap_servers, topic)
    await check_nothing_lost(relaying.connection, topic, records)
    await check_receipts(relaying.connection, topic, records)
    later = [record for record in records if record.id > 1_000]
    assert {record.partition for record in later} == {0, 1, 2}
    assert all(record.partition == (murmur2(record.key) & 0x7FFFFFFF) % 3 for record in later)
    in_order(later)


async def test_a_topic_without_events_for_long_is_forgotten_and_known_again_with_the_next_one(
    relaying: Relaying, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORGOTTEN_AFTER", 0.5)
    topic = make_topic(3)
    topics = relaying.service._publish.topics
    for _ in range(2):
        await fill(relaying.connection, topic, 100)
        await relaying.settled(topic)
        pumps = topics[topic].pumps
        assert topic in relaying.client._topics

        async def forgotten(pumps: list[asyncio.Task[None]] = pumps) -> bool:
            return topic not in topics and all(pump.done() for pump in pumps)

        await until("the topic is forgotten", forgotten)
        assert topic not in relaying.client._topics
    assert (await relaying.connection.fetchval(f"SELECT count(*) FROM {DELIVERIES}")) == 200
    in_order(await read_topic(relaying.bootstrap_servers, topic))


@pytest.mark.slow
async def test_a_topic_that_is_deleted_and_made_again_gets_all_later_events_in_order(
    relaying: Relaying, make_topic: MakeTopic
) -> None:
    topic = make_topic(2)
    await make_again(relaying, topic, waiting=1_000)

    records = await read_topic(relaying.bootstrap_servers, topic)
    assert sorted(record.id for record in records) == list(range(1_001, 2_001))
    in_order(records)


@pytest.mark.slow
async def test_a_topic_that_is_made_again_with_fewer_partitions_gets_all_events_that_waited(
    relaying: Relaying, make_topic: MakeTopic
) -> None:
    """They waited for partitions that there are no more: no event's fault, and no reason to stop."""
    topic = make_topic(6)
    await make_again(relaying, topic, waiting=2_000)

    assert await relaying.connection.fetchval("SELECT count(*) FROM outbox.failure") == 0
    # What was on the wire when the producer was replaced may be there twice.
    records = first_occurrences(await read_topic(relaying.bootstrap_servers, topic))
    assert sorted(record.id for record in records) == list(range(1_001, 3_001))
    assert all(record.partition == (murmur2(record.key) & 0x7FFFFFFF) % 2 for record in records)
    in_order(records)


async def make_again(relaying: Relaying, topic: str, waiting: int) -> None:
    """After 1,000 events delete the topic, commit others, and make it again with two partitions once they wait."""
    await fill(relaying.connection, topic, 1_000)
    await relaying.settled(topic)
    await delete_topic(relaying.bootstrap_servers, topic)
    await fill(relaying.connection, topic, waiting)

    async def troubled() -> bool:
        return not relaying.service._publish.topics[topic].trouble.fine

    await until("publish notices that the topic is gone", troubled)
    await create_topic(relaying.bootstrap_servers, topic, partitions=2)
    await relaying.settled(topic)


def in_order(records: list[Record]) -> None:
    """The ids of each key grow."""
    ids: dict[bytes | None, list[int]] = defaultdict(list)
    for record in records:
        ids[record.key].append(record.id)
    assert all(each == sorted(each) for each in ids.values())


async def count_is(relaying: Relaying, topic: str, count: int) -> bool:
    """Whether events of a topic are routed to so many partitions."""
    router = relaying.service._publish.topics[topic].router
    return router is not None and router.partitions == count
