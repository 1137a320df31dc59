"""Several outboxes in one database, each with replicas of its own: nothing of one reaches the other."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from relay.postgres import checks
from relay.postgres.admin.migrate import migrate
from relay.postgres.sql import migrations
from tests.support.postgres.load import Load
from tests.support.postgres.outbox import connected
from tests.support.promises import check_everything
from tests.support.relay.process import relay_run
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from tests.conftest import MakeTopic
    from tests.support.relay.process import RelayProcess
    from tests.support.servers import shared as servers

SCHEMAS = ("billing", "shop")


class Outbox:
    """One of them: its schema, its topic, its relay."""

    def __init__(self, connection: asyncpg.Connection, schema: str, topic: str, relay: RelayProcess) -> None:
        self.connection = connection
        self.schema = schema
        self.topic = topic
        self.relay = relay

    async def count(self, what: str) -> int:
        """Rows of one of its tables or views."""
        count: int = await self.connection.fetchval(f"SELECT count(*) FROM {self.schema}.{what}")
        return count

    async def enqueue(self) -> None:
        """Commit one event."""
        await self.connection.execute(f"SELECT {self.schema}.enqueue($1, 'k', '1')", self.topic)

    async def delivered(self, count: int, timeout: float = 30.0) -> None:
        """Wait until so many events have a receipt."""

        async def reached() -> bool:
            return await self.count("delivered") >= count

        await until(f"{count} events of {self.schema} are delivered", reached, timeout)

    async def settled(self) -> None:
        """Wait until nothing is pending."""

        async def none_pending() -> bool:
            return await self.count("pending") == 0

        await until(f"nothing is pending in {self.schema}", none_pending, 60)

    async def says(self, **metrics: float) -> None:
        """Wait until its relay's metrics are these."""

        async def said() -> bool:
            return {name: await self.relay.metric(name) for name in metrics} == metrics

        await until(f"the relay of {self.schema} says {metrics}", said)

    async def owns_all(self) -> None:
        """Wait until its relay owns all of its lanes."""

        async def owned() -> bool:
            return await self.count("lane WHERE owner IS NOT NULL") == 16

        await until(f"all lanes of {self.schema} are owned", owned)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """To a database with both."""
    async with connected(database) as made:
        for schema in SCHEMAS:
            await migrate(made, schema)
        yield made


@asynccontextmanager
async def two_relays(
    connection: asyncpg.Connection, dsn: str, bootstrap_servers: str, make_topic: MakeTopic, **settings: object
) -> AsyncIterator[tuple[Outbox, Outbox]]:
    """One for each outbox, owning all of its lanes."""
    one, other = SCHEMAS
    async with (
        relay_run(dsn, bootstrap_servers, postgres_schema=one, **settings) as relay,
        relay_run(dsn, bootstrap_servers, postgres_schema=other, **settings) as other_relay,
    ):
        made = Outbox(connection, one, make_topic(4), relay), Outbox(connection, other, make_topic(4), other_relay)
        for each in made:
            await each.owns_all()
        yield made


@pytest.mark.slow
async def test_each_relay_has_all_lanes_of_its_own_outbox_and_delivers_its_events_alone(
    connection: asyncpg.Connection, database: str, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    async with two_relays(connection, database, kafka.bootstrap_servers, make_topic) as outboxes:
        one, other = outboxes
        async with (
            Load(database, one.topic, rate=400, schema=one.schema) as load,
            Load(database, other.topic, rate=400, schema=other.schema) as other_load,
        ):
            await load.commit(500)
            # What happens to the one does not happen to the other.
            await one.relay.stop()
            await other_load.commit(500)
            async with relay_run(database, kafka.bootstrap_servers, postgres_schema=one.schema) as again:
                await one.owns_all()
                await load.commit(500)
                await load.end()
                await other_load.end()
                await one.settled()
                await other.settled()
                written = other_load.committed
                await other.says(lanes_owned=16, settled_events_total=written, scanned_events_total=written)
                assert await again.metric("lanes_owned") == 16
                assert await again.metric("settled_events_total") < load.committed
                await again.stop()
        await other.relay.stop()
        for each in outboxes:
            assert await check_everything(connection, kafka.bootstrap_servers, each.topic, each.schema) == []


async def test_a_wake_up_wakes_the_relay_of_its_own_outbox_only(
    connection: asyncpg.Connection, database: str, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    async with two_relays(connection, database, kafka.bootstrap_servers, make_topic, scan_idle_interval=600) as (
        one,
        other,
    ):
        before = await other.relay.metric("scan_seconds_count")
        for number in range(1, 51):
            await one.enqueue()
            await connection.execute(f"SELECT {one.schema}.wake_up()")
            await one.delivered(number)
        # Its pauses double up to the idle interval: 17 times at most.
        assert await other.relay.metric("scan_seconds_count") - before <= 20
        await other.enqueue()
        await connection.execute(f"SELECT {other.schema}.wake_up()")
        await other.delivered(1)


async def test_an_outbox_that_is_broken_or_of_another_version_leaves_the_other_alone(
    connection: asyncpg.Connection, database: str, kafka: servers.Kafka, make_topic: MakeTopic
) -> None:
    async with two_relays(connection, database, kafka.bootstrap_servers, make_topic) as (one, other):
        for each in (one, other):
            await each.enqueue()
            await each.delivered(1)
        # Its events are gone, its list of migrations is not to be trusted, its ids come out of order.
        await connection.execute(f"ALTER TABLE {one.schema}.event RENAME TO lost")
        await connection.execute(f"UPDATE {one.schema}.migration SET checksum = repeat('0', 64) WHERE version = 1")
        await connection.execute(f"ALTER SEQUENCE {one.schema}.event_id CACHE 20")
        # Whoever took them may give them back: a relay that has worked waits for that.
        await one.relay.unready_for("the flow keeps failing: migration 0001 outbox was applied with a different text")

        await other.enqueue()
        await other.delivered(2)
        await other.relay.ready()
        assert (await checks.schema_state(connection, other.schema)).version == migrations()[-1].version
        assert await migrate(connection, other.schema) == []
        await checks.check_sequence(connection, other.schema)
        assert not await other.relay.metric("postgres_lost_total")
        await one.relay.stop()
        await other.relay.stop()
        assert await asyncio.wait_for(other.count("pending"), 10) == 0
