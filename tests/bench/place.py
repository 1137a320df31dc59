"""Where benchmarks run: servers, a fresh outbox and topic a round, and the relay as a process of its own."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import asyncpg
import psutil
from prometheus_client.parser import text_string_to_metric_families

from relay.local import create_topic
from relay.local.ports import free_port
from relay.postgres.migrate import migrate
from tests import servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

PARTITIONS = 12


class Place:
    """PostgreSQL (fsync on) and Kafka for a run of benchmarks."""

    def __enter__(self) -> Self:
        self._exits = ExitStack()
        folder = self._exits.enter_context(servers.server_folder())
        # As a small production server would have it; 128 MB would make every round a test of the disk.
        settings = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
        self.postgres = self._exits.enter_context(servers.own_postgres_server(folder, settings))
        self.kafka = self._exits.enter_context(servers.own_kafka_server(folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    @asynccontextmanager
    async def outbox(self) -> AsyncIterator[Outbox]:
        """A new database with an outbox, and a new topic; both gone afterwards as far as that matters."""
        database = await asyncio.to_thread(servers.create_database, self.postgres)
        dsn = servers.dsn_of(self.postgres, database)
        topic = f"bench-{secrets.token_hex(4)}"
        await create_topic(self.kafka.bootstrap_servers, topic, partitions=PARTITIONS)
        connection = await asyncpg.connect(dsn)
        try:
            await migrate(connection)
            yield Outbox(connection, dsn, topic)
        finally:
            await connection.close()
            await asyncio.to_thread(servers.drop_database, self.postgres, database)

    def relay(self, outbox: Outbox, **settings: str) -> RelayProcess:
        """The relay as a user runs it, with default settings but for where the servers are."""
        return RelayProcess(
            {
                "RELAY_POSTGRES_DSN": outbox.dsn,
                "RELAY_KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
                **settings,
            }
        )

    def server_cpu(self) -> tuple[float, float]:
        """Seconds of CPU that PostgreSQL and Kafka have used so far."""
        return _cpu_of_tree(self.postgres.pid), _cpu_of_tree(self.kafka.pid)


@dataclass(frozen=True)
class Outbox:
    """One round's database and topic."""

    connection: asyncpg.Connection
    dsn: str
    topic: str

    async def fill(self, events: int, keys: int = 100_000, payload_bytes: int = 500) -> None:
        """Enqueue a backlog with 36-byte keys, in the server."""
        await self.connection.execute(
            "INSERT INTO outbox.event (topic, key, payload)"
            " SELECT $1, convert_to('order-' || lpad((i * 7919 % $3::bigint)::text, 30, '0'), 'UTF8'),"
            "        convert_to(rpad(i::text, $4::int, 'x'), 'UTF8')"
            " FROM generate_series(1, $2::bigint) AS i",
            self.topic,
            events,
            keys,
            payload_bytes,
        )
        await self.connection.execute("VACUUM ANALYZE outbox.event")
        await self.connection.execute("CHECKPOINT")


class RelayProcess:
    """`relay run` in a process of its own, measured from outside."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.port = free_port()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        self._environment = {
            **inherited,
            "RELAY_HTTP_HOST": "127.0.0.1",
            "RELAY_HTTP_PORT": str(self.port),
            "RELAY_LOG_LEVEL": "warning",
            **settings,
        }

    async def __aenter__(self) -> Self:
        self._process = await asyncio.to_thread(
            subprocess.Popen[bytes], [sys.executable, "-m", "relay", "run"], env=self._environment
        )
        self._seen = psutil.Process(self._process.pid)
        await self.settled()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        if await asyncio.to_thread(self._process.wait, 40) != 0 and kind is None:
            raise RuntimeError(f"the relay ended with {self._process.returncode}")

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        """Resident memory, in MB."""
        return float(self._seen.memory_info().rss / 1e6)

    async def settled(self) -> int:
        """How many events the relay has settled, waiting until it answers at all."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return await asyncio.to_thread(self._metric, "relay_settled_events_total")
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)

    def _metric(self, name: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name:
                    return int(sample.value)
        return 0


def _cpu_of_tree(pid: int) -> float:
    """CPU seconds of a process, its living children, and those it has reaped."""
    total = 0.0
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
        if process is parent:
            total += times.children_user + times.children_system
    return total
