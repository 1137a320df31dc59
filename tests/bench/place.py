"""Where benchmarks run: servers, and a fresh database and topic a round."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import asyncpg

from relay.local import create_topic
from relay.postgres.admin.migrate import migrate
from tests.bench import machine
from tests.bench.process import RelayProcess
from tests.bench.storage import count_deliveries
from tests.support.servers import shared as servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from types import TracebackType

PARTITIONS = 12
KEYS = 100_000
"""Of a backlog."""
# As a small production server would have it; 128 MB would make every round a test of the disk.
POSTGRES_SETTINGS = {"fsync": "on", "shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}

LOOK_INTERVAL = 0.5
"""Seconds between looks at the relay's progress: each costs it a few milliseconds."""


def sql_key(keys: str) -> str:
    """SQL for the 36-byte key of event `i`: the same in each round, and drawn from so many as if at random.

    Drawn in turn, all keys would be new in the first events and none after: what a new key costs would be measured
    there only.
    """
    return f"'order-' || lpad(((hashint8extended(i, 0) & 9223372036854775807) % {keys})::text, 30, '0')"


class Place:
    """PostgreSQL (fsync on) and Kafka for a run of benchmarks; `settings` are further ones of PostgreSQL.

    Benchmarks that compare rounds warm the broker up before, for `warm_up` seconds. Outboxes are made and relays run by
    the code in `code`; by this one's if it is None.
    """

    def __init__(self, warm_up: float = 0, **settings: object) -> None:
        self.warm_up_seconds = warm_up
        self.code: Path | None = None
        self._settings = settings

    def __enter__(self) -> Self:
        # Before the servers make it busy.
        self.machine = machine.describe()
        self._exits = ExitStack()
        with self._exits:
            self.folder = self._exits.enter_context(servers.server_folder())
            settings = {**POSTGRES_SETTINGS, **self._settings}
            self.postgres = self._exits.enter_context(servers.own_postgres_server(self.folder, settings))
            self.kafka = self._exits.enter_context(servers.own_kafka_server(self.folder))
            self.machine |= {"PostgreSQL": asyncio.run(self._postgres_version()), "Kafka": self.kafka.version}
            if self.warm_up_seconds:
                self.machine |= {"broker warmed up for": f"{self.warm_up_seconds:g} s"}
            self._exits = self._exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
        """A new, empty database, dropped afterwards: a connection to it, and its DSN."""
        name = await asyncio.to_thread(servers.create_database, self.postgres)
        dsn = servers.dsn_of(self.postgres, name)
        connection = await asyncpg.connect(dsn)
        try:
            yield connection, dsn
        finally:
            connection.terminate()
            await asyncio.to_thread(servers.drop_database, self.postgres, name)

    async def topic(self) -> str:
        """The name of a new topic."""
        topic = f"bench-{secrets.token_hex(4)}"
        await create_topic(self.kafka.bootstrap_servers, topic, partitions=PARTITIONS)
        return topic

    @asynccontextmanager
    async def outbox(self, topic: str = "") -> AsyncIterator[Outbox]:
        """A new database with an outbox, and a new topic if none is given."""
        topic = topic or await self.topic()
        async with self.database() as (connection, dsn):
            if self.code is None:
                await migrate(connection)
            else:
                await asyncio.to_thread(_migrate_by, self.code, dsn)
            yield Outbox(connection, dsn, topic)

    def relay(self, outbox: Outbox, **settings: str) -> RelayProcess:
        """The relay as a user runs it, with default settings but for where the servers are."""
        servers_of_it = {
            "RELAY_POSTGRES_DSN": outbox.dsn,
            "RELAY_KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
        }
        return RelayProcess({**servers_of_it, **settings}, log=self.folder / "relay.log", code=self.code)

    async def _postgres_version(self) -> str:
        connection = await asyncpg.connect(self.postgres.dsn)
        try:
            return str(await connection.fetchval("SHOW server_version"))
        finally:
            await connection.close()


def _migrate_by(code: Path, dsn: str) -> None:
    environment = {**os.environ, "RELAY_POSTGRES_DSN": dsn}
    subprocess.run(
        [sys.executable, "-m", "relay", "migrate"], cwd=code, env=environment, check=True, stdout=subprocess.DEVNULL
    )


@dataclass(frozen=True)
class Outbox:
    """One round's database and topic."""

    connection: asyncpg.Connection
    dsn: str
    topic: str

    async def fill(self, events: int, keys: int = KEYS, payload_bytes: int = 500, topics: int = 1) -> None:
        """Enqueue a backlog with 36-byte keys, in the server.

        With several topics, event i is for the one called like the topic and i modulo their number: bench-1-0, ...
        """
        await self.connection.execute(
            "INSERT INTO outbox.event (topic, key, payload)"
            " SELECT CASE WHEN $5::bigint > 1 THEN $1 || '-' || i % $5::bigint ELSE $1 END,"
            f"        convert_to({sql_key('$3::bigint')}, 'UTF8'),"
            "        convert_to(rpad(i::text, $4::int, 'x'), 'UTF8')"
            " FROM generate_series(1, $2::bigint) AS i",
            self.topic,
            events,
            keys,
            payload_bytes,
            topics,
        )
        await self.connection.execute("VACUUM ANALYZE outbox.event")
        await self.connection.execute("CHECKPOINT")

    def insert(self, key: str, payload: str) -> str:
        """The INSERT of an event, given SQL for its key and its payload, both text."""
        columns = f"'{self.topic}', convert_to({key}, 'UTF8'), convert_to({payload}, 'UTF8')"
        return f"INSERT INTO outbox.event (topic, key, payload) VALUES ({columns})"

    async def receipts(self) -> int:
        """How many events have one."""
        return await count_deliveries(self.connection)
