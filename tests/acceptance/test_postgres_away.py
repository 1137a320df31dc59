"""PostgreSQL gone under load: restarted, killed, hanging, or away while the relay stops."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from relay.local import create_topic
from tests.acceptance.conftest import place
from tests.support.kafka.consumer import read_topic
from tests.support.postgres.writers import Writers, fill
from tests.support.relay.process import check_repeats
from tests.support.servers import shared as servers
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.local import KafkaServer, PostgresServer
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic
    from tests.support.relay.process import RelayProcess

BACKLOG = 40_000


@pytest.fixture
async def here(own_postgres: PostgresServer, kafka: servers.Kafka, make_topic: MakeTopic) -> AsyncIterator[Place]:
    """An outbox on a PostgreSQL that may be broken, and a topic with 4 partitions."""
    async with place(own_postgres.dsn, kafka.bootstrap_servers, make_topic(4)) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("how", ["a fast shutdown", "an immediate shutdown", "kill -9"])
async def test_nothing_is_lost_or_reordered_when_postgres_restarts_under_load(
    here: Place, own_postgres: PostgresServer, how: str
) -> None:
    await fill(here.connection, here.topic, BACKLOG)
    paced = here.relay(publish_events_per_second=5_000)
    async with Writers(here.dsn, here.topic) as writers, paced as relay:
        for restart in (1, 2):
            await here.receipts_reach(restart * BACKLOG // 4)
            if how == "an immediate shutdown":
                os.kill(own_postgres.pid, signal.SIGQUIT)
            await asyncio.to_thread(own_postgres.kill if how == "kill -9" else own_postgres.stop)
            await relay.logged("postgres.lost", restart)
            await asyncio.to_thread(own_postgres.start)
            await relay.logged("postgres.connected", restart + 1)
            await here.reconnect()
        assert await here.receipts() < BACKLOG, "it was not under load"
        assert writers.broken
        await writers.commit(100)
        await relay.ready()
        assert len(relay.happened("postgres.lost")) == 2
        await writers.end()
        await here.settled()
        await relay.stop()
        assert not relay.texts()

    check_repeats(relay, await here.check_everything())


@pytest.mark.slow
async def test_nothing_is_lost_or_reordered_when_postgres_hangs_until_the_lease_is_over(
    here: Place, own_postgres: PostgresServer
) -> None:
    settings = {"replica_lease": 4, "kafka_request_timeout": 1.5, "postgres_connect_timeout": 2}
    async with Writers(here.dsn, here.topic) as writers, here.relay(**settings) as relay:
        await here.receipts_reach(500)
        await asyncio.to_thread(servers.pause, own_postgres)
        await relay.logged("lease.lost")
        await relay.logged("postgres.waiting")
        await asyncio.to_thread(own_postgres.resume)
        await relay.logged("postgres.connected", 2)
        await writers.commit(100)
        await writers.end()
        await here.settled()
        await relay.stop()
        assert not relay.texts()

    await here.check_everything()


async def test_a_stop_while_postgres_is_away_ends_at_once_when_nothing_was_in_flight(
    here: Place, own_postgres: PostgresServer
) -> None:
    async with here.relay() as relay:
        await relay.ready()
        await asyncio.to_thread(own_postgres.stop)
        await relay.logged("postgres.lost")
        relay.signal(signal.SIGTERM)
        assert await relay.exit_code(15) == 0
        assert relay.happened("service.stopped")[0]["abandoned_events"] == 0


@pytest.mark.slow
async def test_a_stop_while_postgres_is_away_waits_for_a_kafka_that_answers_later(
    own_postgres: PostgresServer, fragile_kafka: KafkaServer
) -> None:
    async with lost_with_events_in_flight(own_postgres, fragile_kafka) as (here, relay):
        await stop_and_come_back(here, relay, own_postgres)
        await asyncio.to_thread(fragile_kafka.resume)
        assert await relay.exit_code(25) == 0
        assert relay.happened("service.stopped")[0]["abandoned_events"] == 0
        await each_record_has_its_receipt(here)


@pytest.mark.slow
async def test_a_stop_tells_what_it_abandons_of_the_tenure_before(
    own_postgres: PostgresServer, fragile_kafka: KafkaServer
) -> None:
    async with lost_with_events_in_flight(own_postgres, fragile_kafka) as (here, relay):
        await stop_and_come_back(here, relay, own_postgres)
        in_flight = await relay.metric("inflight_events")
        relay.signal(signal.SIGTERM)
        assert await relay.exit_code(15) == 0
        assert relay.happened("service.stopped")[0]["abandoned_events"] == in_flight > 0


@pytest.mark.slow
async def test_a_stop_while_postgres_is_away_waits_to_settle_what_was_acknowledged(
    own_postgres: PostgresServer, fragile_kafka: KafkaServer
) -> None:
    async with lost_with_events_in_flight(own_postgres, fragile_kafka) as (here, relay):

        async def landed() -> bool:
            return await relay.metric("inflight_events") == 0

        await asyncio.to_thread(fragile_kafka.resume)
        await until("they are acknowledged", landed)
        relay.signal(signal.SIGTERM)
        await relay.logged("service.stopping")
        await asyncio.to_thread(own_postgres.start)
        assert await relay.exit_code(25) == 0
        assert relay.happened("service.stopped")[0]["abandoned_events"] == 0
        await here.reconnect()
        await each_record_has_its_receipt(here)

        async with here.relay() as other:
            await here.settled()
            await other.stop()
        assert await here.check_everything() == []


@asynccontextmanager
async def lost_with_events_in_flight(
    own_postgres: PostgresServer, fragile_kafka: KafkaServer
) -> AsyncIterator[tuple[Place, RelayProcess]]:
    """A relay that has events in the hands of a Kafka that is paused, and whose PostgreSQL was killed."""
    topic = f"test-{secrets.token_hex(6)}"
    await create_topic(fragile_kafka.bootstrap_servers, topic)
    async with (
        place(own_postgres.dsn, fragile_kafka.bootstrap_servers, topic) as here,
        Writers(here.dsn, topic) as writers,
        here.relay() as relay,
    ):
        await writers.commit(100)
        await here.receipts_reach(100)
        await asyncio.to_thread(servers.pause, fragile_kafka)
        await writers.commit(100)
        await writers.end()

        async def in_flight() -> bool:
            return await relay.metric("inflight_events") > 0

        await until("events are in flight", in_flight)
        await asyncio.to_thread(own_postgres.kill)
        await relay.logged("postgres.lost")
        yield here, relay


async def stop_and_come_back(here: Place, relay: RelayProcess, postgres: PostgresServer) -> None:
    """The relay is stopped while PostgreSQL is away; then PostgreSQL comes back, and Kafka not yet."""
    relay.signal(signal.SIGTERM)
    await relay.logged("service.stopping")
    await asyncio.to_thread(postgres.start)
    await until("it has registered anew, found no lanes and left", lambda: has_left(here))


async def has_left(here: Place) -> bool:
    """Whether the relay, which was on the list before, is off it, but for what it leaves to others to find out."""
    if here.connection.is_closed():
        await here.reconnect()
    alive = "SELECT count(*) FROM outbox.replica WHERE lease_expires_at > clock_timestamp()"
    return not await here.connection.fetchval(alive)


async def each_record_has_its_receipt(here: Place) -> None:
    """While nothing is published."""
    receipts = await here.receipts()

    async def all_there() -> bool:
        # A broker that was paused for long lets no new client in for a moment.
        with suppress(AssertionError):
            # Not the end offsets: whoever asks Kafka for lost batches leaves markers, which no consumer sees.
            return len(await read_topic(here.bootstrap_servers, here.topic)) == receipts
        return False

    await until("each record has its receipt", all_there)
