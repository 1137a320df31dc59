"""What a relay and its servers use per event: CPU, memory, WAL, disk, commits, fsyncs."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psutil

from tests.bench.process import cpu_of_tree, rss_mb, rss_of_tree_mb

if TYPE_CHECKING:
    from types import TracebackType

    import asyncpg

    from tests.bench.figures import Figures
    from tests.bench.place import Place

RSS_INTERVAL = 0.2


@dataclass(frozen=True)
class Reading:
    """What had been used so far: seconds of CPU, bytes of WAL, bytes of the database's files."""

    relay: float
    postgres: float
    kafka: float
    wal: int
    disk: int

    @property
    def all(self) -> float:
        """Seconds of CPU of all of them together."""
        return self.relay + self.postgres + self.kafka


class Usage:
    """Watches a relay while it lives, as a context manager; its memory is looked at all the time.

    It may be several, or none: then only the servers are watched.

    Commits and fsyncs count from the beginning until `figures`, everything else from the last `mark` until `stop`.
    """

    def __init__(self, place: Place, connection: asyncpg.Connection, *pids: int) -> None:
        self._place = place
        self._connection = connection
        self._pids = pids
        self.rss: list[float] = []

    async def __aenter__(self) -> Self:
        self._counted = await _counts(self._connection)
        await self.mark()
        self._sampling = asyncio.create_task(self._sample())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sampling.cancel()
        with suppress(asyncio.CancelledError):
            await self._sampling

    async def mark(self) -> None:
        """Count from here."""
        self._from = await self._read()
        self.rss.clear()

    async def stop(self) -> None:
        """Count until here."""
        self._until = await self._read()
        self.rss.append(sum(map(rss_mb, self._pids)))
        self._servers = {
            "postgres_rss_mb": await asyncio.to_thread(rss_of_tree_mb, self._place.postgres.pid),
            "kafka_rss_mb": rss_mb(self._place.kafka.pid),
        }

    async def figures(self, events: int, all_events: int) -> Figures:
        """Per event: `events` between mark and stop, `all_events` from the beginning.

        Ask after the relay has ended: only then are its counts of commits complete.
        """
        first, last = self._from, self._until
        commits, fsyncs = await _counts(self._connection)
        return {
            "relay_cpu_us": (last.relay - first.relay) / events * 1e6,
            "postgres_cpu_us": (last.postgres - first.postgres) / events * 1e6,
            "kafka_cpu_us": (last.kafka - first.kafka) / events * 1e6,
            "all_cpu_us": (last.all - first.all) / events * 1e6,
            "rss_first_mb": self.rss[0],
            "rss_mb": max(self.rss),
            **self._servers,
            "wal_bytes": (last.wal - first.wal) / events,
            # The events themselves are there before.
            "disk_bytes": (last.disk - first.disk) / events,
            "commits": (commits - self._counted[0]) / all_events,
            "wal_fsyncs": (fsyncs - self._counted[1]) / all_events,
        }

    async def shares(self, seconds: float) -> Figures:
        """Per second: percent of a core, bytes of WAL."""
        first, last = self._from, self._until
        commits, fsyncs = await _counts(self._connection)
        relay = {
            "relay_cpu_percent": (last.relay - first.relay) / seconds * 100,
            "rss_mb": max(self.rss, default=0.0),
        }
        return {
            **(relay if self._pids else {}),
            "postgres_cpu_percent": (last.postgres - first.postgres) / seconds * 100,
            "kafka_cpu_percent": (last.kafka - first.kafka) / seconds * 100,
            "all_cpu_percent": (last.all - first.all) / seconds * 100,
            "wal_bytes_per_second": (last.wal - first.wal) / seconds,
            "wal_fsyncs_per_second": (fsyncs - self._counted[1]) / seconds,
            "commits_per_second": (commits - self._counted[0]) / seconds,
        }

    async def _read(self) -> Reading:
        return Reading(
            relay=sum(map(cpu_of_tree, self._pids)),
            postgres=cpu_of_tree(self._place.postgres.pid),
            kafka=cpu_of_tree(self._place.kafka.pid),
            wal=await self._connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"),
            disk=await self._connection.fetchval("SELECT pg_database_size(current_database())"),
        )

    async def _sample(self) -> None:
        while True:
            # A relay that has ended is for others to notice.
            with suppress(psutil.NoSuchProcess):
                self.rss.append(sum(map(rss_mb, self._pids)))
            await asyncio.sleep(RSS_INTERVAL)


async def _counts(connection: asyncpg.Connection) -> tuple[int, int]:
    """Transactions of this database and fsyncs of the WAL so far; 0 fsyncs where PostgreSQL (13) does not tell."""
    version = connection.get_server_version().major
    fsyncs = "SELECT 0"
    if version >= 18:
        fsyncs = "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"
    elif version >= 14:
        fsyncs = "SELECT wal_sync FROM pg_stat_wal"
    row = await connection.fetchrow(
        "SELECT xact_commit + xact_rollback AS commits,"
        f" ({fsyncs})::bigint AS fsyncs FROM pg_stat_database WHERE datname = current_database()"
    )
    return row["commits"], row["fsyncs"]
