"""Scheduled events with real replicas: none lost, none twice, in order, and on time, whatever dies or stands still."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.conftest import place
from tests.support.postgres.outbox import connected
from tests.support.relay.replicas import Replicas
from tests.support.servers.clocks import postgres_with_a_clock
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic
    from tests.support.servers import shared as servers

KEYS = 97


async def schedule(here: Place, number: int, *, over: float = 0.0, begin: float = -1.0, count_from: int = 1) -> None:
    """Schedule events that are due one after another, from `begin` on for `over` seconds; each key's count up.

    They are written in an order that has nothing to do with that in which they are due.
    """
    await here.connection.execute(
        "INSERT INTO outbox.scheduled (topic, key, payload, deliver_at)"
        " SELECT $1, (n % $3)::text::bytea, (n / $3 + $6)::text::bytea,"
        "        now() + make_interval(secs => $5::float8 + $4::float8 * n / $2)"
        " FROM generate_series(0, $2::int - 1) AS n ORDER BY md5(n::text)",
        *(here.topic, number, KEYS, over, begin, count_from),
    )


async def moved(here: Place) -> int:
    """How many events are in the outbox."""
    count: int = await here.connection.fetchval("SELECT count(*) FROM outbox.event")
    return count


async def to_come(here: Place) -> int:
    """How many are still to come."""
    count: int = await here.connection.fetchval("SELECT count(*) FROM outbox.scheduled")
    return count


async def all_moved(here: Place, timeout: float = 60.0) -> None:
    """Wait until nothing is to come."""

    async def look() -> bool:
        return await to_come(here) == 0

    await until("all scheduled events are in the outbox", look, timeout)


async def check(here: Place, number: int) -> None:
    """Each event is in the outbox once and in Kafka, each key's in the order in which they were due."""
    assert await here.connection.fetchval("SELECT count(DISTINCT event_id) FROM outbox.event") == number
    assert await moved(here) == number
    await here.check_everything()


@pytest.mark.slow
async def test_a_replica_killed_in_the_middle_moves_none_twice_and_loses_none(here: Place) -> None:
    number = 30_000
    await schedule(here, number, begin=-3600.0, over=3000.0)
    async with here.relay(timers_batch_events=50) as relay:

        async def begun() -> bool:
            return await moved(here) > number // 10

        await until("some are moved", begun, 30)
        await relay.kill()
    await here.relay_is_gone()
    in_outbox = await moved(here)
    assert number // 10 < in_outbox < number, "the kill came too late to be in the middle"
    assert in_outbox + await to_come(here) == number
    await here.end_leases()
    async with here.relay() as relay:
        await all_moved(here)
        await here.settled()
        await relay.stop()
    await check(here, number)


@pytest.mark.slow
async def test_a_replica_that_stood_still_and_wakes_up_beside_another_moves_nothing_out_of_order(here: Place) -> None:
    number = 20_000
    async with Replicas(here, replica_lease=5, kafka_request_timeout=2, timers_batch_events=50) as replicas:
        for name in ("a", "b"):
            await replicas.start(name)
        await replicas.own(a=8, b=8)
        await schedule(here, number, begin=0.5, over=12.0)

        async def begun() -> bool:
            return await moved(here) > number // 10

        await until("some are moved", begun, 30)
        await replicas.pause("a")
        await replicas.own(b=16)
        replicas.resume("a")
        await all_moved(here)
        await here.settled()
    await check(here, number)


async def test_an_event_comes_when_it_is_due_also_beside_an_old_transaction(here: Place) -> None:
    """The bound is the promise, 0.5 s, and what a busy machine may add."""
    due = {}
    async with here.relay() as relay, connected(here.dsn) as old, old.transaction(isolation="repeatable_read"):
        await relay.ready()
        await old.execute("SELECT pg_current_xact_id(), count(*) FROM outbox.scheduled")
        for n in range(40):
            row = await here.connection.fetchrow(
                "INSERT INTO outbox.scheduled (topic, key, payload, delay)"
                " VALUES ($1, $2, '1', make_interval(secs => $3)) RETURNING event_id, deliver_at",
                *(here.topic, str(n).encode(), n % 8 / 5),
            )
            due[row["event_id"]] = row["deliver_at"]
            await asyncio.sleep(0.05)  # Spread over time: each is a surprise of its own.
        await all_moved(here)
        await here.settled()
    rows = await here.connection.fetch("SELECT event_id, created_at FROM outbox.event")
    late = sorted((row["created_at"] - due[row["event_id"]]).total_seconds() for row in rows)
    assert len(late) == 40
    assert late[0] >= 0, "before it was due"
    assert late[-1] < 2.0, late
    assert late[20] < 0.5, late


async def test_events_that_are_cancelled_or_moved_while_replicas_run_are_one_or_the_other(here: Place) -> None:
    number = 3_000
    await schedule(here, number, begin=0.5, over=4.0)
    cancelled = 0
    async with here.relay(timers_batch_events=50), connected(here.dsn) as service:
        for row in await here.connection.fetch("SELECT event_id FROM outbox.scheduled ORDER BY deliver_at LIMIT 1000"):
            cancelled += await service.fetchval("SELECT outbox.cancel_scheduled($1)", row["event_id"])
        await all_moved(here)
        await here.settled()
    assert cancelled > 0
    assert await moved(here) == number - cancelled


@pytest.mark.slow
async def test_a_clock_of_postgresql_that_jumps_is_followed_and_nothing_is_lost_or_repeated(
    own_folder: Path, kafka: servers.Kafka, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour, number = 3600, 5 * KEYS
    with postgres_with_a_clock(own_folder, monkeypatch) as (postgres, clock):
        async with place(postgres.dsn, kafka.bootstrap_servers, make_topic(4)) as here, here.relay() as relay:
            await relay.ready()
            await schedule(here, number, begin=hour, over=hour)
            assert await moved(here) == 0

            # Ahead: what was due in one to two hours is due, and no lease of a replica's is left.
            clock.jump(2 * hour + 60)
            await all_moved(here)

            # Back to the right time: what is due in a second comes, and what is due in an hour does not.
            clock.jump(0)
            await schedule(here, number, begin=hour, over=1.0, count_from=7)
            await schedule(here, KEYS, begin=1.0, count_from=6)

            async def some_more() -> bool:
                return await moved(here) >= number + KEYS

            await until("what is due in a second is in the outbox", some_more)
            assert (await moved(here), await to_come(here)) == (number + KEYS, number)
            clock.jump(2 * hour)
            await all_moved(here)
            await here.settled()
            await relay.stop()
            assert await here.check_everything() == [], "a record was repeated"
            assert await moved(here) == 2 * number + KEYS
