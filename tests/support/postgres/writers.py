"""Services that change their data and enqueue in the same transaction, and a backlog they left."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import asyncpg
from asyncpg import exceptions as pg

from relay.enqueue import enqueue
from tests.support.waiting import until

if TYPE_CHECKING:
    from types import TracebackType

SCHEMA = "CREATE TABLE IF NOT EXISTS account (key text PRIMARY KEY, number bigint NOT NULL)"


async def fill(
    connection: asyncpg.Connection, topic: str, events: int, keys: int = 200, payload_bytes: int = 200
) -> None:
    """Commit a backlog in one transaction; the payloads number each key's events from 1."""
    await connection.execute(
        "INSERT INTO outbox.event (topic, key, payload)"
        " SELECT $1, convert_to('backlog-' || i % $3::int, 'UTF8'),"
        "        convert_to(rpad((i / $3::int + 1) || ' ', $4::int, 'x'), 'UTF8')"
        " FROM generate_series(0, $2::int - 1) AS i",
        topic,
        events,
        keys,
        payload_bytes,
    )


LOST = (OSError, pg.PostgresError, pg.InterfaceError, pg.InternalClientError)


class Services:
    """Several writers at once, over accounts that are there from the start. What each does is for a subclass.

    They go on through restarts of the server, as services do.
    """

    def __init__(self, dsn: str, topic: str, keys: list[str], writers: int) -> None:
        self._dsn = dsn
        self._topic = topic
        self._keys = keys
        self._writers = writers
        self._ending = False
        self.committed = 0
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
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(self._writers)]
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

    async def end(self) -> None:
        """Let every writer finish its transaction."""
        self._ending = True
        await asyncio.gather(*self._tasks)

    async def commit(self, more: int, timeout: float = 30.0) -> None:
        """Wait until so many more are committed."""
        goal = self.committed + more

        async def reached() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return self.committed >= goal

        await until(f"{more} more commits", reached, timeout)

    async def _write(self, number: int) -> None:
        while not self._ending:
            connection = None
            try:
                connection = await asyncpg.connect(self._dsn, timeout=5)
                await self._serve(connection, number)
            except LOST:
                self.broken += 1
                await asyncio.sleep(0.05)
            finally:
                if connection is not None:
                    with suppress(Exception):
                        connection.terminate()

    async def _serve(self, connection: asyncpg.Connection, number: int) -> None:
        """Make one transaction after the other until the end."""
        raise NotImplementedError


class Writers(Services):
    """Each transaction locks an account, counts it up and enqueues the new number. `committed` counts transactions."""

    def __init__(self, dsn: str, topic: str, writers: int = 4, pause: float = 0.004) -> None:
        super().__init__(dsn, topic, [f"account-{number}" for number in range(writers * 5)], writers)
        self._pause = pause
        self._turns = list(range(writers))
        self.slowest = 0.0
        """Seconds of the longest transaction that was committed."""

    async def _serve(self, connection: asyncpg.Connection, number: int) -> None:
        while not self._ending:
            # A step that shares no factor with the number of keys: writers meet at accounts and wait.
            self._turns[number] = (self._turns[number] + 7) % len(self._keys)
            began = time.monotonic()
            await self._change(connection, self._keys[self._turns[number]])
            self.committed += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(self._pause)

    async def _change(self, connection: asyncpg.Connection, key: str) -> None:
        async with connection.transaction():
            new = await connection.fetchval(
                "UPDATE account SET number = number + 1 WHERE key = $1 RETURNING number", key
            )
            await enqueue(connection, self._topic, key=key, payload=f"{new} of {key}")
