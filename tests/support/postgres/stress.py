"""Writers at their worst, and the real stages against them: everything of the relay but Kafka."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from relay.stages.settle.outcomes import Delivered
from tests.support.relay.stages import HandRelay, relay_connections

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.event import PendingEvent

KEYS = 40
PARTITIONS = 4
LONGEST_PAUSE = 0.012
"""Seconds between the moments that matter: xid, lock, id, commit. Enough for several scans to fall between."""
SCHEMA = "CREATE TABLE account (key text PRIMARY KEY, number bigint NOT NULL)"


class Writers:
    """Transactions that lock an account, count it up and enqueue the new number, in every way PostgreSQL offers.

    The numbers of a key count up in commit order, because the lock is held from before the id to the commit.
    """

    def __init__(self, dsn: str, seed: int, topic: str = "orders") -> None:
        self._dsn = dsn
        self._seed = seed
        self._topic = topic
        self._ending = asyncio.Event()
        self._gids = 0
        self.committed: dict[str, int] = defaultdict(int)
        """Transactions by kind."""

    async def run(self, writers: int, seconds: float) -> None:
        """Write for so long, beside transactions of others that never enqueue anything."""
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(SCHEMA)
            await connection.executemany("INSERT INTO account VALUES ($1, 0)", [(key,) for key in _keys()])
            self._can_prepare = int(await connection.fetchval("SHOW max_prepared_transactions")) > 0
        finally:
            await connection.close()
        async with asyncio.TaskGroup() as tasks:
            for number in range(writers):
                tasks.create_task(self._write(random.Random(f"{self._seed} writer {number}")))
            for number in range(4):
                tasks.create_task(self._be_foreign(random.Random(f"{self._seed} foreign {number}"), number))
            await asyncio.sleep(seconds)
            self._ending.set()

    async def _write(self, chance: random.Random) -> None:
        kinds = [self._plain] * 6 + [self._several, self._rolled_back, self._savepoint, self._copy] * 2
        kinds += [self._many_subtransactions, self._slow]
        if self._can_prepare:
            kinds += [self._prepared]
        connection = await asyncpg.connect(self._dsn)
        try:
            while not self._ending.is_set():
                kind = chance.choice(kinds)
                await connection.execute("BEGIN")
                if chance.random() < 0.5:
                    await connection.execute("SELECT pg_current_xact_id()")
                await _pause(chance)
                await kind(connection, chance)
                self.committed[kind.__name__.strip("_")] += kind != self._rolled_back
                await _pause(chance)
        finally:
            connection.terminate()

    async def _plain(self, connection: asyncpg.Connection, chance: random.Random) -> None:
        await self._enqueue(connection, chance)
        await _pause(chance)
        await connection.execute("COMMIT")

    async def _several(self, connection: asyncpg.Connection, chance: random.Random) -> None:
        """Of one key, with pauses: they may end up on both sides of anything."""
        key = chance.choice(_keys())
        for _ in range(chance.randint(2, 5)):
            await self._enqueue(connection, chance, key)
            await _pause(chance)
        await connection.execute("COMMIT")

    async def _rolled_back(self, connection: asyncpg.Connection, chance: random.Random) -> None:
        await self._enqueue(connection, chance)
        await _pause(chance)
        await connection.execute("ROLLBACK")

    async def _savepoint(self, connection: asyncpg.Connection, chance: random.Random) -> None:
        key = chance.choice(_keys())
        await self._enqueue(connection, chance, key)
        await connection.execute("SAVEPOINT a")
        await self._enqueue(connection, chance, key)
        await _pause(chance)
        await connection.execute("ROLLBACK TO SAVEPOINT a")
        await self._enqueue(connection, chance, key)
        await connection.execute("COMMIT")

    async def _copy(self, connection: asyncpg.Connection, chance: random.Random) -> None:
        key = chance.choice(_keys())
        count = chance.randint(1, 20)
        last = await connection.fetchval(
            "UPDATE account SET number = number + $2 WHERE key = $1 RETURNING number", key, count
        )
        await _pause(chance)
        await connection.copy_records_to_table(
            "event",
            schema_name="outbox",
            columns=["topic", "key", "payload"],
            records=[(self._topic, key.encode(), b"%d" % number) for number in range(last - count + 1, last + 1)],
        )
        await _pause(chance)
        await connection.execute("COMMIT")

    async def _many_subtransactions(self, connection: asyncpg.Connection, chance: random.Random) -> None:
        """More than PostgreSQL keeps in shared memory for a transaction."""
        key = chance.choice(_keys())
        for number in range(66):
            await connection.execute(f"SAVEPOINT s{number}")
            await self._enqueue(connection, chance, key)
            if number % 11 == 0:
                await connection.execute(f"ROLLBACK TO SAVEPOINT s{number}")
            await connection.execute(f"RELEASE SAVEPOINT s{number}")
        await connection.execute("COMMIT")

    async def _slow(self, connection: asyncpg.Connection, chance: random.Random) -> None:
        """Open for seconds after it has taken an id. It locks a key of its own, or all others would wait for it."""
        key = f"slow-{chance.randrange(1 << 30)}"
        await connection.execute("INSERT INTO account VALUES ($1, 0)", key)
        await self._enqueue(connection, chance, key)
        await asyncio.sleep(chance.uniform(0.5, 3.0))
        await self._enqueue(connection, chance, key)
        await connection.execute("COMMIT")

    async def _prepared(self, connection: asyncpg.Connection, chance: random.Random) -> None:
        await self._enqueue(connection, chance)
        self._gids += 1
        gid = f"stress-{self._gids}"
        await connection.execute(f"PREPARE TRANSACTION '{gid}'")
        await _pause(chance)
        await connection.execute(f"{chance.choice(['COMMIT', 'COMMIT', 'ROLLBACK'])} PREPARED '{gid}'")

    async def _enqueue(self, connection: asyncpg.Connection, chance: random.Random, key: str | None = None) -> None:
        key = key or chance.choice(_keys())
        number = await connection.fetchval(
            "UPDATE account SET number = number + 1 WHERE key = $1 RETURNING number", key
        )
        if chance.random() < 0.3:
            await _pause(chance)
        await connection.execute(
            "INSERT INTO outbox.event (topic, key, payload) VALUES ($1, $2, $3)",
            self._topic,
            key.encode(),
            b"%d" % number,
        )

    async def _be_foreign(self, chance: random.Random, number: int) -> None:
        """Open transactions with an xid and without events, and a reader's held snapshot."""
        connection = await asyncpg.connect(self._dsn)
        try:
            while not self._ending.is_set():
                await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                await connection.execute("SELECT count(*) FROM account")
                if number:
                    await connection.execute("SELECT pg_current_xact_id()")
                await asyncio.sleep(chance.uniform(0.1, 4.0))
                await connection.execute(chance.choice(["COMMIT", "ROLLBACK"]))
        finally:
            connection.terminate()


class StressedRelay:
    """The stages in their own loops. A fake publish acknowledges in order per partition, after random delays."""

    def __init__(self, connections: dict[str, asyncpg.Connection], seed: int, name: str) -> None:
        # Small, so that sweeps are long, what is known is cut, limits are met and the buffer fills up.
        self._relay = HandRelay(
            connections, batch_events=200, sweep_step_ids=50, max_events=1500, lease=9.0, hand_on=self._hand_on
        )
        self._chance = random.Random(f"{seed} {name}")
        self.published: dict[int, list[PendingEvent]] = {number: [] for number in range(PARTITIONS)}
        """By partition, in the order of publishing."""
        self._queues: list[asyncio.Queue[list[PendingEvent]]] = [asyncio.Queue() for _ in range(PARTITIONS)]

    async def run(self) -> None:
        """Until it has drained."""
        relay = self._relay
        await relay.claim.register(None)
        async with asyncio.TaskGroup() as stages:
            others = [
                stages.create_task(relay.scan.run()),
                stages.create_task(relay.sweep.run()),
                stages.create_task(relay.settler.run()),
                *(stages.create_task(self._publish(number)) for number in range(PARTITIONS)),
            ]
            await relay.claim.run()
            for task in others:
                task.cancel()

    def drain(self) -> None:
        self._relay.tenure.begin_drain()

    @property
    def taken(self) -> list[PendingEvent]:
        return self._relay.taken

    def value(self, metric: str) -> float:
        return self._relay.telemetry.value(metric) or 0.0

    def _hand_on(self, events: list[PendingEvent]) -> None:
        self._relay.hand_on(events)
        batches: dict[int, list[PendingEvent]] = defaultdict(list)
        for event in events:
            batches[sum(event.key or b"") % PARTITIONS].append(event)
        for number, batch in batches.items():
            self._queues[number].put_nowait(batch)

    async def _publish(self, number: int) -> None:
        published = self.published[number]
        while True:
            batch = await self._queues[number].get()
            await asyncio.sleep(self._chance.uniform(0, 0.02) if self._chance.random() < 0.7 else 0.0)
            base = len(published)
            published += batch
            self._relay.outcomes.add(Delivered(self._relay.tenure, batch, number, base))


@asynccontextmanager
async def stressed_relay(dsn: str, seed: int, name: str) -> AsyncIterator[StressedRelay]:
    async with relay_connections(dsn) as connections:
        yield StressedRelay(connections, seed, name)


async def until_settled(dsn: str, timeout: float) -> int:
    """Wait until nothing is pending, or nothing has changed for `timeout` seconds; returns what is left."""
    connection = await asyncpg.connect(dsn)
    try:
        left, since = -1, time.monotonic()
        while left != 0 and time.monotonic() - since < timeout:
            now: int = await connection.fetchval("SELECT count(*) FROM outbox.pending")
            if now != left:
                left, since = now, time.monotonic()
            await asyncio.sleep(0.1)
        return left
    finally:
        await connection.close()


async def numbers_written(dsn: str) -> dict[str, int]:
    """How far each key has counted, that is, how many events of it were committed."""
    connection = await asyncpg.connect(dsn)
    try:
        return dict(await connection.fetch("SELECT key, number FROM account WHERE number > 0"))
    finally:
        await connection.close()


def _keys() -> list[str]:
    return [f"account-{number}" for number in range(KEYS)]


async def _pause(chance: random.Random) -> None:
    await asyncio.sleep(chance.uniform(0, LONGEST_PAUSE) if chance.random() < 0.8 else 0.0)
