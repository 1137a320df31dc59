"""A steady load in many keys: what several replicas share."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Self

from tests.support.postgres.writers import Services

if TYPE_CHECKING:
    import asyncpg

WRITERS = 4
PER_TRANSACTION = 10

# The accounts' locks come first and in one order, so that transactions that share several do not deadlock.
LOCK = "SELECT FROM account WHERE key = ANY($1::text[]) ORDER BY key FOR UPDATE"
CHANGE = """
WITH changed AS (UPDATE account SET number = number + 1 WHERE key = ANY($1::text[]) RETURNING key, number)
INSERT INTO {schema}.event (topic, key, payload)
SELECT $2, convert_to(key, 'UTF8'), convert_to(rpad(number || ' of ' || key, 200), 'UTF8') FROM changed
"""


class Load(Services):
    """`rate` events per second in `keys` keys; each event's payload begins with its number in its key, from 1.

    Every transaction changes ten accounts and enqueues an event for each; now and then one waits before it commits,
    so that ids commit out of order. `committed` counts events.
    """

    def __init__(
        self, dsn: str, topic: str, *, rate: int = 2_000, keys: int = 500, seed: int = 0, schema: str = "outbox"
    ) -> None:
        super().__init__(dsn, topic, [f"{schema}-{number}" for number in range(keys)], WRITERS)
        self._pause = WRITERS * PER_TRANSACTION / rate
        self._random = random.Random(seed)
        self._change = CHANGE.format(schema=schema)
        self._began = 0.0

    async def __aenter__(self) -> Self:
        self._began = time.monotonic()
        return await super().__aenter__()

    @property
    def per_second(self) -> float:
        """What it really was so far, on a machine that cannot keep up."""
        return self.committed / (time.monotonic() - self._began)

    async def _serve(self, connection: asyncpg.Connection, number: int) -> None:
        due = time.monotonic()
        while not self._ending:
            await self._transaction(connection)
            due = max(due + self._pause, time.monotonic() - 1)
            await asyncio.sleep(due - time.monotonic())

    async def _transaction(self, connection: asyncpg.Connection) -> None:
        keys = self._random.sample(self._keys, min(PER_TRANSACTION, len(self._keys)))
        async with connection.transaction():
            await connection.execute(LOCK, keys)
            await connection.execute(self._change, keys, self._topic)
            if self._random.random() < 0.1:
                await asyncio.sleep(self._random.uniform(0, 0.1))
        self.committed += len(keys)
