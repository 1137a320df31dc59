"""The order service: its writers change orders and enqueue events about the changes, in the same transaction.

`change` is what a service of yours would do. The rest makes the relay's work hard on purpose: transactions and
savepoints that are rolled back, slow transactions that commit long after they took their place in the outbox, and
another program's long transaction.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import asyncpg

from relay.demo.child import report, run_child
from relay.demo.pace import Pace
from relay.enqueue import Event, enqueue, enqueue_many
from relay.postgres.sql import query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ORDERS = 2_000
WRITERS = 16
SLOW_WRITERS = 2
SLOW_SECONDS = (0.5, 2.0)
REPORT_SECONDS = (3.0, 6.0)
REPORT_PAUSE = 4.0
TELL_INTERVAL = 0.05
WAIT_STEP = 0.1
"""Maximum seconds between two checks whether to finish."""

CHANGES = (("item added", 1250), ("item removed", -1250), ("paid", 0), ("address changed", 0), ("shipped", 0))


Changed: TypeAlias = tuple[int, int]
"""An order and its version."""


class Rollback(Exception):  # noqa: N818 not an error: it is how a transaction is told to roll back
    """Raised to roll back."""


class OrderService:
    """Writers with a connection each, paced together; reports to the parent what was committed and when."""

    def __init__(self, topic: str, pace: Pace, finish: asyncio.Event, chance: random.Random) -> None:
        self._topic = topic
        self._pace = pace
        self._finish = finish
        self._chance = chance
        self._committed: list[tuple[int, int, float]] = []
        # The fields of relay.demo.progress.Counts.
        self._counts = dict.fromkeys(("committed", "rolled_back", "savepoints", "slow", "foreign"), 0)
        self._kinds: list[tuple[Callable[[asyncpg.Connection], Awaitable[list[Changed]]], int, int]] = [
            # what, how many events it commits, how often of 100 times
            (self._one_order, 1, 66),
            (self._several_orders, 5, 16),
            (self._with_savepoint, 2, 9),
            (self._rolled_back, 0, 9),
        ]

    async def write(self, connection: asyncpg.Connection) -> None:
        """Write as one writer: transactions of all kinds at the common pace."""
        weights = [weight for *_, weight in self._kinds]
        while not self._finish.is_set():
            ((work, events, _),) = self._chance.choices(self._kinds, weights)
            await self._wait(self._pace.wait(events, time.monotonic()))
            await self._transaction(connection, work)

    async def write_slowly(self, connection: asyncpg.Connection) -> None:
        """Write as one slow writer: each transaction stays open for a while after its event got its id."""
        while not self._finish.is_set():
            await self._transaction(connection, self._slow)
            self._counts["slow"] += 1

    async def report_slowly(self, connection: asyncpg.Connection) -> None:
        """Run long transactions that write no event, as reports and dumps do."""
        while not self._finish.is_set():
            await self._wait(REPORT_PAUSE)
            async with connection.transaction(isolation="repeatable_read"):
                await connection.fetch(query("demo_report"))
                await self._wait(self._chance.uniform(*REPORT_SECONDS))
            self._counts["foreign"] += 1

    def tell(self) -> None:
        """Report the events that were committed since the last report."""
        committed, self._committed = self._committed, []
        report(committed=committed, counts={**self._counts, "writers": WRITERS + SLOW_WRITERS})

    async def _transaction(
        self, connection: asyncpg.Connection, work: Callable[[asyncpg.Connection], Awaitable[list[Changed]]]
    ) -> None:
        try:
            async with connection.transaction():
                changed = await work(connection)
        except Rollback:
            self._counts["rolled_back"] += 1
            return
        now = time.monotonic()
        self._counts["committed"] += 1
        self._committed += [(order, version, now) for order, version in changed]

    async def change(self, connection: asyncpg.Connection, order: int, *, rolled_back: bool = False) -> tuple[int, int]:
        """Change an order and enqueue an event about it. The UPDATE comes first, because it locks the order."""
        what, cents = self._chance.choice(CHANGES)
        row = await connection.fetchrow(query("demo_change_order"), order, cents)
        assert row is not None  # noqa: S101 orders are never deleted
        payload = _payload(order, row["version"], what, row["cents"], rolled_back=rolled_back)
        await enqueue(connection, self._topic, key=_key(order), payload=payload, type=_type(what))
        return order, row["version"]

    async def _one_order(self, connection: asyncpg.Connection) -> list[Changed]:
        return [await self.change(connection, self._an_order())]

    async def _several_orders(self, connection: asyncpg.Connection) -> list[Changed]:
        what, cents = self._chance.choice(CHANGES)
        orders = self._chance.sample(range(1, ORDERS + 1), 5)
        rows = await connection.fetch(query("demo_change_orders"), orders, cents)
        events = [
            Event(
                self._topic,
                key=_key(row["id"]),
                payload=_payload(row["id"], row["version"], what, row["cents"], rolled_back=False),
                type=_type(what),
            )
            for row in rows
        ]
        await enqueue_many(connection, events)
        return [(row["id"], row["version"]) for row in rows]

    async def _with_savepoint(self, connection: asyncpg.Connection) -> list[Changed]:
        # The other one has the larger id: whoever locks two orders locks them in this order, so nobody deadlocks.
        order, other = sorted(self._chance.sample(range(1, ORDERS + 1), 2))
        first = await self.change(connection, order)
        with suppress(Rollback):
            # A transaction inside a transaction is a savepoint.
            async with connection.transaction():
                await self._undone(connection, other)
        self._counts["savepoints"] += 1
        return [first, await self.change(connection, order)]

    async def _rolled_back(self, connection: asyncpg.Connection) -> list[Changed]:
        return await self._undone(connection, self._an_order())

    async def _undone(self, connection: asyncpg.Connection, order: int) -> NoReturn:
        await self.change(connection, order, rolled_back=True)
        raise Rollback

    async def _slow(self, connection: asyncpg.Connection) -> list[Changed]:
        rolled_back = self._chance.random() < 0.25
        changed = await self.change(connection, self._an_order(), rolled_back=rolled_back)
        await self._wait(self._chance.uniform(*SLOW_SECONDS))
        if rolled_back:
            raise Rollback
        return [changed]

    def _an_order(self) -> int:
        return self._chance.randrange(1, ORDERS + 1)

    async def _wait(self, seconds: float) -> None:
        """Sleep, but no longer than until it is time to finish."""
        while seconds > 0 and not self._finish.is_set():
            await asyncio.sleep(min(seconds, WAIT_STEP))
            seconds -= WAIT_STEP


def _key(order: int) -> str:
    return f"order-{order}"


def _type(what: str) -> str:
    return f"order.{what.replace(' ', '-')}"


def _payload(order: int, version: int, what: str, cents: int, *, rolled_back: bool) -> str:
    # rolled_back is for the checking consumer: it must never see one.
    return json.dumps({"order": order, "version": version, "change": what, "cents": cents, "rolled_back": rolled_back})


async def main(told: dict[str, Any], finish: asyncio.Event) -> None:
    """Create the orders, say `ready`, write until it is time to finish."""
    connections = [await asyncpg.connect(told["dsn"]) for _ in range(WRITERS + SLOW_WRITERS + 1)]
    try:
        first, *_ = connections
        await first.execute(query("demo_create_orders"))
        await first.execute(query("demo_place_orders"), ORDERS)
        report(ready=True)
        service = OrderService(
            told["topic"],
            Pace(told["rate"], time.monotonic()),
            finish,
            random.Random(),  # noqa: S311 no secrets
        )
        async with asyncio.TaskGroup() as writers:
            teller = asyncio.ensure_future(_tell_regularly(service))
            for connection in connections[:WRITERS]:
                writers.create_task(service.write(connection))
            for connection in connections[WRITERS:-1]:
                writers.create_task(service.write_slowly(connection))
            writers.create_task(service.report_slowly(connections[-1]))
        teller.cancel()
        service.tell()
    finally:
        for connection in connections:
            connection.terminate()


async def _tell_regularly(service: OrderService) -> None:
    while True:
        await asyncio.sleep(TELL_INTERVAL)
        service.tell()


if __name__ == "__main__":
    run_child(main)
