"""Servers that are not there when the relay starts."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest

from relay.local import create_topic
from relay.local.ports import HOST, free_port
from tests.acceptance.conftest import place
from tests.support.postgres.writers import fill
from tests.support.relay.process import relay_run
from tests.support.waiting import until

if TYPE_CHECKING:
    from relay.local import KafkaServer, PostgresServer
    from tests.acceptance.conftest import Place
    from tests.support.relay.process import RelayProcess

MOST_CPU = 0.15
"""Of one core, while waiting; 0.01 to 0.05 is used (measured). A busy loop takes what it can get."""


@pytest.mark.slow
async def test_absent_servers_are_waited_for_quietly_and_the_flow_begins_when_they_come(
    own_postgres: PostgresServer, fragile_kafka: KafkaServer
) -> None:
    topic = "waited-for"
    await create_topic(fragile_kafka.bootstrap_servers, topic, exist_ok=True)
    async with place(own_postgres.dsn, fragile_kafka.bootstrap_servers, topic) as here:
        await fill(here.connection, topic, 1_000)
    await asyncio.to_thread(own_postgres.stop)
    await asyncio.to_thread(fragile_kafka.stop)

    async with relay_run(own_postgres.dsn, fragile_kafka.bootstrap_servers) as relay:
        await both_waited_for(relay)
        assert [reason.split(":")[0] for reason in await relay.unready_because()] == [
            "PostgreSQL has not been reached yet",
            "Kafka has not been reached yet",
        ]
        assert (await relay.get("/livez"))[0] == 200

        began, used = time.monotonic(), relay.cpu_seconds()
        await asyncio.to_thread(fragile_kafka.start)
        await relay.logged("kafka.connected")
        assert relay.cpu_seconds() - used < MOST_CPU * (time.monotonic() - began)
        assert not relay.happened("postgres.connected")

        await asyncio.to_thread(own_postgres.start)
        async with place(own_postgres.dsn, fragile_kafka.bootstrap_servers, topic) as here:
            await here.settled()
            await relay.ready()
            await relay.stop()
            assert await here.check_everything() == []
        for happening in ("postgres.waiting", "kafka.waiting"):
            errors = [line["error"] for line in relay.happened(happening)]
            assert len(errors) == len(set(errors)), "an error was logged more than once"
        assert not relay.texts()


async def test_a_setting_that_has_its_old_name_is_told_in_the_log() -> None:
    nobody = f"{HOST}:{free_port()}"
    async with relay_run(f"postgresql://postgres@{nobody}/postgres", nobody, health_max_lag=30) as relay:
        line = await relay.logged("settings.old_name")
        assert line["level"] == "warning"
        assert "RELAY_HEALTH_MAX_LAG is the old name of RELAY_HEALTH_MAX_STALL" in line["warning"]
        assert not relay.texts()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_ends_the_wait_for_absent_servers_at_once(number: signal.Signals) -> None:
    nobody = f"{HOST}:{free_port()}"
    async with relay_run(f"postgresql://postgres@{nobody}/postgres", nobody) as relay:
        await both_waited_for(relay)
        relay.signal(number)
        assert await relay.exit_code(15) == 0
        assert relay.happened("service.stopped")[0]["abandoned_events"] == 0
        assert not relay.texts()


@pytest.mark.slow
async def test_a_signal_ends_the_wait_for_kafka_alone_at_once_when_nothing_is_pending(here: Place) -> None:
    async with relay_run(here.dsn, f"{HOST}:{free_port()}") as relay:
        await relay.logged("kafka.waiting")
        await relay.logged("lanes.claimed")
        relay.signal(signal.SIGTERM)
        assert await relay.exit_code(15) == 0
        assert relay.happened("service.stopped")[0]["abandoned_events"] == 0


async def test_a_stop_ends_the_wait_for_a_kafka_that_was_never_reached_though_events_were_taken(here: Place) -> None:
    await fill(here.connection, here.topic, 1_000)
    async with relay_run(here.dsn, f"{HOST}:{free_port()}") as relay:
        await relay.logged("lanes.claimed")

        async def taken() -> bool:
            return await relay.metric("buffer_events") > 0

        await until("events are taken", taken)
        began = time.monotonic()
        relay.signal(signal.SIGTERM)
        assert await relay.exit_code(15) == 0
        assert time.monotonic() - began < 10
        assert relay.happened("service.stopped")[0]["abandoned_events"] == 0
    owned = await here.connection.fetchval("SELECT count(*) FROM outbox.replica")
    assert owned == 0, "others would wait for its lease to end"


async def both_waited_for(relay: RelayProcess) -> None:
    """Wait until it says that it waits."""
    await relay.logged("postgres.waiting")
    await relay.logged("kafka.waiting")
