"""PostgreSQL gone under load: restarted, killed, hanging, or away while the relay stops."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from typing import TYPE_CHECKING

import pytest

from relay.local import create_topic
from relay.session import FLIGHT_WAIT
from tests import servers
from tests.acceptance.conftest import place
from tests.relay_process import check_repeats
from tests.waiting import until
from tests.writers import Writers, fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.local import KafkaServer, PostgresServer
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic

BACKLOG = 40_000


@pytest.fixture
async def here(own_postgres: PostgresServer, kafka: servers.Kafka, make_topic: MakeTopic) -> AsyncIterator[Place]:
    """An outbox on a PostgreSQL that may be broken, and a topic with 4 partitions."""
    async with place(own_postgres.dsn, kafka.bootstrap_servers, make_topic(4)) as made:
        yield made


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


async def test_a_stop_while_postgres_is_away_waits_for_a_kafka_that_answers_later(
    own_postgres: PostgresServer, fragile_kafka: KafkaServer
) -> None:
    topic = f"test-{secrets.token_hex(6)}"
    await create_topic(fragile_kafka.bootstrap_servers, topic)
    async with place(own_postgres.dsn, fragile_kafka.bootstrap_servers, topic) as here:
        await fill(here.connection, topic, 100)
        async with here.relay() as relay:
            await here.settled()
            await asyncio.to_thread(servers.pause, fragile_kafka)
            await fill(here.connection, topic, 100)

            async def in_flight() -> bool:
                return await relay.metric("inflight_events") > 0

            await until("events are in flight", in_flight)
            await asyncio.to_thread(own_postgres.kill)
            await relay.logged("postgres.lost")
            relay.signal(signal.SIGTERM)
            await relay.logged("service.stopping")
            await asyncio.to_thread(own_postgres.start)
            await relay.logged("postgres.connected", 2)
            # Longer than it waits before it registers anew, finds no lanes and has nothing to drain.
            await asyncio.sleep(FLIGHT_WAIT + 1)
            await asyncio.to_thread(fragile_kafka.resume)
            assert await relay.exit_code(25) == 0
            assert relay.happened("service.stopped")[0]["abandoned_events"] == 0
        await here.reconnect()
        assert await here.records() == await here.receipts()


async def test_a_stop_while_postgres_is_away_waits_to_settle_what_was_acknowledged(
    own_postgres: PostgresServer, fragile_kafka: KafkaServer
) -> None:
    topic = f"test-{secrets.token_hex(6)}"
    await create_topic(fragile_kafka.bootstrap_servers, topic)
    async with place(own_postgres.dsn, fragile_kafka.bootstrap_servers, topic) as here:
        await fill(here.connection, topic, 100)
        async with here.relay() as relay:
            await here.settled()
            await asyncio.to_thread(servers.pause, fragile_kafka)
            async with Writers(here.dsn, topic) as writers:
                await writers.commit(100)

            async def in_flight() -> bool:
                return await relay.metric("inflight_events") > 0

            async def landed() -> bool:
                return not await in_flight()

            await until("events are in flight", in_flight)
            await asyncio.to_thread(own_postgres.kill)
            await relay.logged("postgres.lost")
            await asyncio.to_thread(fragile_kafka.resume)
            await until("they are acknowledged", landed)
            relay.signal(signal.SIGTERM)
            await relay.logged("service.stopping")
            await asyncio.to_thread(own_postgres.start)
            assert await relay.exit_code(25) == 0
            assert relay.happened("service.stopped")[0]["abandoned_events"] == 0
        await here.reconnect()
        assert await here.records() == await here.receipts()

        async with here.relay() as relay:
            await here.settled()
            await relay.stop()
        assert await here.check_everything() == []
