"""With fewer rights, without transactions and with brokers that come back late a replica works, and loses nothing."""

from __future__ import annotations

import asyncio
import secrets
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer

from relay.kafka.reconcile.reconcile import KafkaReconcile
from relay.local import create_topic
from relay.settings import KafkaSettings
from tests.acceptance.conftest import place
from tests.support.kafka.consumer import read_topic
from tests.support.kafka.topics import alter_topic
from tests.support.postgres.load import Load
from tests.support.servers import shared as servers
from tests.support.servers.secured_kafka import NEWCOMER, PASSWORD, USER, SecuredKafka
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from relay.local import KafkaServer
    from tests.acceptance.conftest import Place
    from tests.support.kafka.consumer import Record
    from tests.support.relay.process import RelayProcess

pytestmark = pytest.mark.slow

TOPICS = "rights-"
STARTS_WITHIN = 3.0
"""Seconds until a replica can publish that does not get all it asks for."""

SETTINGS = {"replica_reconcile": "auto", "kafka_request_timeout": 3}


@pytest.fixture(scope="module")
def secured_kafka() -> Iterator[SecuredKafka]:
    """One user may not read the topics, and the other one may not use a transactional id."""
    with servers.server_folder() as folder, SecuredKafka(folder) as server:
        servers.wait_for_coordinator(server)
        topics = ("--topic", TOPICS, "--resource-pattern-type", "prefixed")
        server.allow("--operation", "Write", *topics, principals=(f"User:{USER}", f"User:{NEWCOMER}"))
        server.allow("--operation", "Read", *topics, principals=(f"User:{NEWCOMER}",))
        ids = ("--transactional-id", "outbox-", "--resource-pattern-type", "prefixed")
        server.allow("--operation", "Write", "--operation", "Describe", *ids)
        yield server


@pytest.mark.parametrize(
    ("user", "unfenced", "gave_up"), [(USER, False, "rights"), (NEWCOMER, True, "unfenced")], ids=["read", "id"]
)
async def test_without_a_right_a_replica_starts_in_time_says_so_and_a_kill_loses_nothing(
    secured_kafka: SecuredKafka, database: str, user: str, unfenced: bool, gave_up: str
) -> None:
    topic = f"{TOPICS}{secrets.token_hex(6)}"
    await create_topic(secured_kafka.bootstrap_servers, topic, partitions=4)
    login = SETTINGS | {
        "kafka_bootstrap_servers": secured_kafka.address("OPENLOGIN"),
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_sasl_mechanism": "SCRAM-SHA-512",
        "kafka_sasl_username": user,
        "kafka_sasl_password": PASSWORD,
    }
    async with place(database, secured_kafka.bootstrap_servers, topic) as here:
        await write(here, 200)
        async with here.relay(**login) as relay:
            await here.receipts_reach(200 * KEYS)
            assert await seconds_to_connect(relay) < STARTS_WITHIN
            said = [line["error"] for line in relay.happened("reconcile.unfenced")]
            assert bool(said) == unfenced
            assert all("grant the relay WRITE and DESCRIBE on it" in error for error in said)
            assert not relay.happened("topic.paused")
            left = await killed_with_events_that_have_no_receipt(here, relay)
        async with here.relay(**login) as relay:
            await here.settled()
            assert (await relay.logged("reconcile.gave_up"))["reason"] == gave_up
            await relay.stop()
        repeated = {record.id for record in await here.check_everything()}
        # Where only the fence is missing, what had arrived is read.
        assert repeated == (set() if unfenced else left)


async def test_without_transactions_a_replica_publishes_in_time(database: str) -> None:
    """A single broker with the default of three replicas for its transactions never has a coordinator."""
    properties = {"transaction.state.log.replication.factor": 3, "transaction.state.log.min.isr": 2}
    with servers.server_folder() as folder, servers.own_kafka_server(folder, properties) as kafka:
        topic = f"test-{secrets.token_hex(6)}"
        await create_topic(kafka.bootstrap_servers, topic, partitions=4)
        async with place(database, kafka.bootstrap_servers, topic) as here:
            await write(here, 10)
            async with here.relay(replica_reconcile="auto") as relay:
                await here.settled()
                assert await seconds_to_connect(relay) < STARTS_WITHIN
                assert relay.happened("reconcile.unfenced")
                # It finds out each minute, and goes on with the producer that it has.
                asking = KafkaReconcile(KafkaSettings(bootstrap_servers=kafka.bootstrap_servers))
                assert not await asking.can_fence("outbox-again", 1.0)
                await asking.close()
                await relay.stop()
            assert await here.check_everything() == []


async def test_a_broker_that_is_killed_and_comes_back_late_costs_no_event_and_repeats_none(
    fragile_here: Place, fragile_kafka: KafkaServer
) -> None:
    here = fragile_here
    async with here.relay(**SETTINGS) as relay, Load(here.dsn, here.topic, rate=2_000) as load:
        await here.receipts_reach(500)
        for outage in range(1, 4):
            await load.commit(2_000)
            await asyncio.to_thread(fragile_kafka.kill)
            await relay.logged("kafka.lost", outage, 60)
            await asyncio.to_thread(fragile_kafka.start)
            before = await here.receipts()
            await here.receipts_reach(before + 2_000, 60)
        await load.end()
        await here.settled(120)
        await relay.stop()
    assert await here.check_everything() == []


async def test_a_tail_that_is_compacted_before_the_take_over_is_published_again_in_order(database: str) -> None:
    """Of a key whose first events are gone, a later one alone must not count as published: it would come too early."""
    configs: dict[str, object] = {"cleanup.policy": "compact", "segment.ms": 100, "min.cleanable.dirty.ratio": 0.001}
    with (
        servers.server_folder() as folder,
        servers.own_kafka_server(folder, {"log.cleaner.backoff.ms": 200}) as kafka,
    ):
        servers.wait_for_coordinator(kafka)
        topic = f"test-{secrets.token_hex(6)}"
        await create_topic(kafka.bootstrap_servers, topic, partitions=2, configs=configs)
        async with place(database, kafka.bootstrap_servers, topic) as here:
            await write(here, 5)
            async with here.relay(**SETTINGS) as relay:
                await here.receipts_reach(5 * KEYS)
                left = await killed_with_events_that_have_no_receipt(here, relay)
            await compacted(here, left)
            # What is published from now on stays.
            await alter_topic(kafka.bootstrap_servers, topic, cleanup_policy="delete")
            ends = await ends_of(here)
            async with here.relay(**SETTINGS) as relay:
                await here.settled()
                assert {line["reason"] for line in relay.happened("reconcile.gave_up")} == {"hole"}
                await relay.stop()
            again = [
                record for record in await records_of_events(here) if record.offset >= ends.get(record.partition, 0)
            ]
    assert {record.id for record in again} == left
    numbers: dict[bytes | None, list[int]] = {}
    for record in again:
        numbers.setdefault(record.key, []).append(int((record.value or b"").split()[0]))
    assert all(each == [6, 7, 8, 9, 10] for each in numbers.values())


async def compacted(here: Place, left: set[int]) -> None:
    """Write records of somebody else, after which segments are closed, until events of `left` are gone."""
    producer = AIOKafkaProducer(bootstrap_servers=here.bootstrap_servers)
    await producer.start()
    try:

        async def look() -> bool:
            for partition in range(2):
                await producer.send_and_wait(here.topic, b"x", key=b"of somebody else", partition=partition)
            there = {record.id for record in await records_of_events(here)}
            return len(left - there) == len(left) - KEYS

        await until("Kafka has compacted the topic", look, 60, 0.2)
    finally:
        await producer.stop()


async def records_of_events(here: Place) -> list[Record]:
    """Without those of somebody else."""
    return [record for record in await read_topic(here.bootstrap_servers, here.topic) if record.headers]


async def ends_of(here: Place) -> dict[int, int]:
    """By partition, the offset behind the last record."""
    records = await read_topic(here.bootstrap_servers, here.topic)
    return {record.partition: record.offset + 1 for record in records}


async def killed_with_events_that_have_no_receipt(here: Place, relay: RelayProcess) -> set[int]:
    """Kill a relay of which Kafka has events, but PostgreSQL no receipts; returns their ids."""
    before = await here.records()
    async with here.without_receipts():
        await write(here, 5)

        async def arrived() -> bool:
            return await here.records() >= before + 5 * KEYS

        await until("Kafka has them", arrived)
        await relay.kill()
    await here.end_leases()
    return {row["id"] for row in await here.connection.fetch("SELECT id FROM outbox.pending")}


async def seconds_to_connect(relay: RelayProcess) -> float:
    """From the start of the relay until it has a producer."""
    began, connected = [
        datetime.fromisoformat((await relay.logged(happening))["timestamp"])
        for happening in ("service.started", "kafka.connected")
    ]
    return (connected - began).total_seconds()


KEYS = 40


async def write(here: Place, per_key: int) -> None:
    """Commit so many more events of each key, numbered on."""
    await here.connection.execute(
        "INSERT INTO outbox.event (topic, key, payload)"
        " SELECT $1, convert_to('key-' || k, 'UTF8'), convert_to(before / $3::bigint + n || ' of its key', 'UTF8')"
        " FROM (SELECT count(*) AS before FROM outbox.event) AS so_far,"
        "      generate_series(1, $2::bigint) AS n, generate_series(1, $3::bigint) AS k ORDER BY n, k",
        here.topic,
        per_key,
        KEYS,
    )
