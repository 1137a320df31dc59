"""A steady load in many keys: what several replicas share."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import asyncpg
from asyncpg import exceptions as pg

from tests.support.postgres.writers import SCHEMA
from tests.support.waiting import until

if TYPE_CHECKING:
    from types import TracebackType

WRITERS = 4
PER_TRANSACTION = 10
LOST = (OSError, pg.PostgresError, pg.InterfaceError, pg.InternalClientError)

# The accounts' locks come first and in one order, so that transactions that share several do not deadlock.
LOCK = "SELECT FROM account WHERE key = ANY($1::text[]) ORDER BY key FOR UPDATE"
CHANGE = """
WITH changed AS (UPDATE account SET number = number + 1 WHERE key = ANY($1::text[]) RETURNING key, number)
INSERT INTO {schema}.event (topic, key, payload)
SELECT $2, convert_to(key, 'UTF8'), convert_to(rpad(number || ' of ' || key, 200), 'UTF8') FROM changed
"""


class Load:
    """`rate` events per second in `keys` keys; each event's payload begins with its number in its key, from 1.

    Every transaction changes ten accounts and enqueues an event for each; now and then one waits before it commits,
    so that ids commit out of order. It goes on through restarts of the server, as services do.
    """

    def __init__(
        self, dsn: str, topic: str, *, rate: int = 2_000, keys: int = 500, seed: int = 0, schema: str = "outbox"
    ) -> None:
        self._dsn = dsn
        self._topic = topic
        self._pause = WRITERS * PER_TRANSACTION / rate
        self._keys = [f"{schema}-{number}" for number in range(keys)]
        self._random = random.Random(seed)
        self._change = CHANGE.format(schema=schema)
        self._ending = False
        self._began = 0.0
        self.committed = 0
        """Events."""
        self.broken = 0
        """Times that a writer lost its connection."""

    async def __aenter__(self) -> Self:
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(SCHEMA)
            await connection.executemany(
                "INSERT INTO account VALUES ($1, 0) ON CONFLICT DO NOTHING", [(key,) for key in self._keys]
            )
        finally:
            await connection.close()
        self._began = time.monotonic()
        self._tasks = [asyncio.create_task(self._write()) for _ in range(WRITERS)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.end()
        else:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def per_second(self) -> float:
        """What it really was so far, on a machine that cannot keep up."""
        return self.committed / (time.monotonic() - self._began)

    async def end(self) -> None:
        """Let every writer finish its transaction."""
        self._ending = True
        await asyncio.gather(*self._tasks)

    async def commit(self, more: int, timeout: float = 30.0) -> None:
        """Wait until so many more events are committed."""
        goal = self.committed + more

        async def reached() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return self.committed >= goal

        await until(f"{more} more events", reached, timeout)

    async def _write(self) -> None:
        while not self._ending:
            connection = None
            try:
                connection = await asyncpg.connect(self._dsn, timeout=5)
                due = time.monotonic()
                while not self._ending:
                    await self._transaction(connection)
                    due = max(due + self._pause, time.monotonic() - 1)
                    await asyncio.sleep(due - time.monotonic())
            except LOST:
                self.broken += 1
                await asyncio.sleep(0.05)
            finally:
                if connection is not None:
                    with suppress(Exception):
                        connection.terminate()

    async def _transaction(self, connection: asyncpg.Connection) -> None:
        keys = self._random.sample(self._keys, min(PER_TRANSACTION, len(self._keys)))
        async with connection.transaction():
            await connection.execute(LOCK, keys)
            await connection.execute(self._change, keys, self._topic)
            if self._random.random() < 0.1:
                await asyncio.sleep(self._random.uniform(0, 0.1))
        self.committed += len(keys)
