"""NOTIFY that fails: a hint is lost, and nothing else."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from asyncpg.exceptions import PostgresError

from relay.postgres.admin.migrate import make_roles
from tests.acceptance.conftest import place
from tests.support.postgres.writers import Writers, fill
from tests.support.relay.process import relay_run
from tests.support.servers import shared as servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic

EVENTS = 100


@asynccontextmanager
async def full_queue(dsn: str) -> AsyncIterator[None]:
    """The server's NOTIFY queue is full: of another application, whose listener stays in a transaction."""
    listener, talker = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        await listener.execute("LISTEN other_application")
        async with listener.transaction():
            await listener.execute("SELECT 1")
            with pytest.raises(PostgresError, match="too many notifications"):
                await talk_for_ever(talker)
            yield
    finally:
        listener.terminate()
        talker.terminate()


async def talk_for_ever(connection: asyncpg.Connection) -> None:
    while True:
        await connection.execute("SELECT pg_notify('other_application', repeat('x', 7900))")


async def test_a_full_notify_queue_costs_a_log_line_and_start_flow_and_stop_work(
    own_folder: Path, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    with servers.own_postgres_server(own_folder) as server:
        async with place(server.dsn, kafka.bootstrap_servers, make_topic(4)) as here:
            if here.connection.get_server_version().major < 17:
                pytest.skip("before PostgreSQL 17 the queue has 8 GiB")
            await here.connection.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        async with place(server.dsn, kafka.bootstrap_servers, make_topic(4)) as here, full_queue(here.dsn):
            await start_flow_and_stop(here, here.dsn)


async def test_a_relay_that_may_not_notify_starts_works_and_stops(here: Place) -> None:
    parts = urlsplit(here.dsn)
    await make_roles(here.connection)
    await here.connection.execute(
        "CREATE ROLE outbox_silent LOGIN PASSWORD 'x' IN ROLE outbox_relay;"
        " REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC"
    )
    try:
        dsn = urlunsplit(parts._replace(netloc=f"outbox_silent:x@{parts.netloc.rpartition('@')[2]}"))
        await start_flow_and_stop(here, dsn)
    finally:
        await here.connection.execute("DROP ROLE outbox_silent")


async def start_flow_and_stop(here: Place, dsn: str) -> None:
    settings = {"replica_lease": 6, "kafka_request_timeout": 3}
    async with (
        relay_run(dsn, here.bootstrap_servers, replica_name="one", **settings) as one,
        relay_run(dsn, here.bootstrap_servers, replica_name="two", **settings) as two,
    ):
        for relay in (one, two):
            await relay.logged("lanes.claimed")
        async with Writers(here.dsn, here.topic) as writers:
            await writers.commit(EVENTS)
            await writers.end()
        await here.settled()
        await one.stop()
        await fill(here.connection, here.topic, EVENTS)
        await here.settled()
        await two.stop()
        for relay in (one, two):
            lines = [line for line in relay.happened("hint.failed") if line["level"] == "warning"]
            assert len(lines) == 1
            assert not relay.happened("tenure.failing")
            assert not relay.texts()
    assert await here.check_everything() == []
