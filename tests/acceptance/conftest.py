"""What acceptance tests run in: an outbox of their own, on servers they share or on servers they may break."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import pytest

from relay.local import create_topic
from tests.support.kafka.consumer import count_records
from tests.support.postgres.outbox import connected, migrated
from tests.support.postgres.receipts import DELIVERIES
from tests.support.promises import check_everything
from tests.support.relay.process import relay_run
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from relay.local import KafkaServer
    from tests.conftest import MakeTopic
    from tests.support.kafka.consumer import Record
    from tests.support.relay.process import RelayProcess
    from tests.support.servers import shared as servers


@dataclass
class Place:
    """An outbox, a topic, and a connection to look at the outbox with."""

    dsn: str
    bootstrap_servers: str
    topic: str
    connection: asyncpg.Connection

    def relay(self, **settings: object) -> AbstractAsyncContextManager[RelayProcess]:
        """The relay, running here."""
        return relay_run(self.dsn, self.bootstrap_servers, **settings)

    async def reconnect(self) -> None:
        """A new connection to look with: the server was restarted."""
        self.connection.terminate()
        self.connection = await asyncpg.connect(self.dsn, timeout=10)

    @asynccontextmanager
    async def without_receipts(self) -> AsyncIterator[None]:
        """Nothing gets a receipt meanwhile. The relay is killed in it; at its end its sessions are ended, too."""
        async with connected(self.dsn) as blocker, blocker.transaction():
            await blocker.execute("LOCK TABLE outbox.receipt IN SHARE MODE")
            yield
            await blocker.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'outbox-relay%'"
            )
            await self.relay_is_gone()

    async def receipts(self) -> int:
        """How many events have a receipt."""
        count: int = await self.connection.fetchval(f"SELECT count(DISTINCT id) FROM {DELIVERIES}")
        return count

    async def unsettled(self) -> int:
        """How many events are neither in Kafka for sure nor given up: pending, held back or failed."""
        count: int = await self.connection.fetchval(
            "SELECT (SELECT count(*) FROM outbox.pending) + (SELECT count(*) FROM outbox.held)"
            " + (SELECT count(*) FROM outbox.failure WHERE state <> 'discarded')"
        )
        return count

    async def records(self) -> int:
        """How many records are in the topic."""
        return await count_records(self.bootstrap_servers, self.topic)

    async def settled(self, timeout: float = 60.0) -> None:
        """Wait until every event has a receipt."""

        async def all_settled() -> bool:
            return await self.unsettled() == 0

        await until("every event has a receipt", all_settled, timeout)

    async def receipts_reach(self, count: int, timeout: float = 30.0) -> None:
        """Wait until so many events have a receipt."""

        async def reached() -> bool:
            return await self.receipts() >= count

        await until(f"{count} receipts", reached, timeout)

    async def relay_is_gone(self) -> None:
        """Wait until PostgreSQL has noticed that the relay is dead: from then on, nothing it sent can commit."""

        async def gone() -> bool:
            alive: int = await self.connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'outbox-relay%'"
            )
            return alive == 0

        await until("PostgreSQL notices that the relay is gone", gone)

    async def end_leases(self) -> None:
        """Let the leases of dead replicas end now, for tests that are not about how long that takes."""
        await self.connection.execute("UPDATE outbox.replica SET lease_expires_at = clock_timestamp()")

    async def check_everything(self) -> list[Record]:
        """Check that every event is in Kafka, in order, and where its receipt says; returns the repeats."""
        return await check_everything(self.connection, self.bootstrap_servers, self.topic)


@asynccontextmanager
async def place(dsn: str, bootstrap_servers: str, topic: str) -> AsyncIterator[Place]:
    """An outbox in the database, and who looks at it."""
    async with migrated(dsn) as connection:
        made = Place(dsn, bootstrap_servers, topic, connection)
        try:
            yield made
        finally:
            made.connection.terminate()


@pytest.fixture
async def here(database: str, with_outbox: None, kafka: servers.Kafka, make_topic: MakeTopic) -> AsyncIterator[Place]:
    """An outbox and a topic with 4 partitions on the session's servers."""
    async with place(database, kafka.bootstrap_servers, make_topic(4)) as made:
        yield made


@pytest.fixture
async def fragile_here(database: str, with_outbox: None, fragile_kafka: KafkaServer) -> AsyncIterator[Place]:
    """An outbox on the session's PostgreSQL, and a topic with 4 partitions on a Kafka that may be broken."""
    topic = f"test-{secrets.token_hex(6)}"
    await create_topic(fragile_kafka.bootstrap_servers, topic, partitions=4)
    async with place(database, fragile_kafka.bootstrap_servers, topic) as made:
        yield made
