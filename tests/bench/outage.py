"""What an outage of Kafka does to writers, to memory, and to the events."""

from __future__ import annotations

import asyncio
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tests.bench.command import output, run
from tests.bench.drain import drain
from tests.bench.pgbench import ACCOUNTS, Services, create_accounts
from tests.bench.place import LOOK_INTERVAL
from tests.bench.report import Finding, Report
from tests.bench.storage import deliveries
from tests.bench.usage import Usage
from tests.support.kafka.consumer import read_topic

if TYPE_CHECKING:
    import asyncpg

    from tests.bench.figures import Figures
    from tests.bench.place import Outbox, Place
    from tests.bench.process import RelayProcess
    from tests.support.kafka.consumer import Record

LONGEST_RESTART = 300.0
CATCH_UP_SECONDS = 300.0
START = 2.0
"""Seconds at the beginning that do not count: connecting."""
AFTER = 3.0
"""Seconds at the end, to see in the curves that it is over."""


async def measure_outage(place: Place, rate: float, seconds: float, before: float, rounds: int) -> Report:
    """Kafka is killed for `seconds` while writers go on at `rate` transactions a second."""
    found: list[Figures] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        figures, curves = await outage(place, rate, seconds, before)
        found.append(figures)
    notes = ["catching up competes with the writers, and meets a Kafka that was just started"]
    findings = [
        Finding(
            "Writers during an outage of Kafka against before",
            [each["writers_during"] / each["writers_before"] for each in found],
            at_least=0.98,
        ),
        Finding("Memory of the relay, growth by the outage", [each["rss_growth_mb"] for each in found], "MB", None, 32),
        Finding(
            "From Kafka's return to the first receipt",
            [each["first_receipt_seconds"] for each in found],
            "s",
        ),
        Finding(
            "Speed of catching up against draining as many",
            [each["catch_up_per_second"] / each["drain_per_second"] for each in found],
            at_least=0.8,
        ),
        Finding(
            "Speed of catching up against draining as many to a Kafka just started",
            [each["catch_up_per_second"] / each["cold_drain_per_second"] for each in found],
        ),
        Finding(
            "Speed of catching up against draining as many to such a Kafka beside the same writers",
            [each["catch_up_per_second"] / each["cold_drain_beside_writers_per_second"] for each in found],
        ),
        Finding("Lost in the outage", [each["lost"] for each in found], "events", at_most=0),
        Finding("Out of order in the outage", [each["out_of_order"] for each in found], "events", at_most=0),
    ]
    what = f"Kafka is killed for {seconds:g} s, while writers go on at {rate:g}/s"
    parameters: dict[str, object] = {"rate": rate, "seconds": seconds, "before": before}
    return Report(
        "outage",
        what,
        parameters,
        {"outage": found},
        findings,
        notes,
        curves={f"{what}: events/s": curves},
        bars=(),
        machine=place.machine,
    )


@click.command
@click.option("--rate", default=1_000.0, show_default=True, help="Transactions per second of the writers.")
@click.option("--seconds", default=60.0, show_default=True, help="How long Kafka is away.")
@click.option("--before", default=20.0, show_default=True, help="How long it is there before.")
@click.option("--rounds", default=1, show_default=True)
@output
def outage_command(
    rate: float, seconds: float, before: float, rounds: int, json_file: Any, picture: Path | None
) -> None:
    """Kafka is killed and comes back: writers, memory, catching up, nothing lost or out of order."""
    run(lambda place: measure_outage(place, rate, seconds, before, rounds), json_file, picture)


async def outage(
    place: Place, rate: float, seconds: float, before: float
) -> tuple[Figures, dict[str, list[tuple[float, float]]]]:
    """One round; also the speed of writers and relay over time."""
    async with place.outbox() as outbox:
        connection = outbox.connection
        await create_accounts(connection)
        with tempfile.TemporaryDirectory(prefix="bench-outage-") as folder:
            longest = START + before + seconds + LONGEST_RESTART
            services = Services(Path(folder), outbox.dsn, outbox.topic, longest, rate)
            async with place.relay(outbox) as relay, Usage(place, connection, relay.pid) as usage:
                async with services:
                    await asyncio.sleep(min(START, before))
                    begin = await _now(connection)
                    await asyncio.sleep(before)
                    usual = max(usage.rss)
                    await asyncio.to_thread(place.kafka.kill)
                    killed = await _now(connection)
                    await asyncio.sleep(seconds)
                    # Its start takes a lot of CPU from the writers, which is no matter of the relay's.
                    starting = await _now(connection)
                    await asyncio.to_thread(place.kafka.start)
                    back = await _now(connection)
                    await _until_delivered(outbox, relay, back)
                    await asyncio.sleep(min(AFTER, seconds))
                    services.check()
                # All of them: what was committed last, too.
                await _until_delivered(outbox, relay, await _now(connection))
                growth = max(usage.rss) - usual
        figures = {
            "outage_seconds": (back - killed).total_seconds(),
            "writers_before": await _written(connection, begin, killed),
            "writers_during": await _written(connection, killed, starting),
            "rss_mb": usual + growth,
            "rss_growth_mb": growth,
            "first_receipt_seconds": await _first_receipt(connection, starting, back),
            **await _catching_up(connection, back),
            **check_records(await _ids(connection), await read_topic(place.kafka.bootstrap_servers, outbox.topic)),
        }
        curves = {
            "written": await _per_second(connection, "outbox.event", "created_at", begin),
            "delivered": await _per_second(connection, await deliveries(connection), "delivered_at", begin),
        }
    events = max(1, round(figures.pop("caught_up")))
    drained = await drain(place, events, ACCOUNTS)
    # What catching up meets: a broker whose code is not compiled yet.
    await asyncio.to_thread(place.kafka.restart)
    cold = await drain(place, events, ACCOUNTS)
    await asyncio.to_thread(place.kafka.restart)
    drains = {
        "drain_per_second": drained["events_per_second"],
        "cold_drain_per_second": cold["events_per_second"],
        "cold_drain_beside_writers_per_second": await _drain_beside_writers(place, events, rate),
    }
    return {**figures, **drains}, curves


async def _drain_beside_writers(place: Place, events: int, rate: float) -> float:
    """A backlog like that of the outage, which a relay meets when it starts, while the writers go on."""
    async with place.outbox() as outbox:
        await create_accounts(outbox.connection)
        await outbox.fill(events, ACCOUNTS)
        with tempfile.TemporaryDirectory(prefix="bench-outage-") as folder:
            services = Services(Path(folder), outbox.dsn, outbox.topic, CATCH_UP_SECONDS, rate)
            async with services:
                await asyncio.sleep(START)
                begin = await _now(outbox.connection)
                async with place.relay(outbox) as relay:
                    await _until_delivered(outbox, relay, begin)
                services.check()
        return (await _catching_up(outbox.connection, begin))["catch_up_per_second"]


async def _now(connection: asyncpg.Connection) -> datetime:
    now = await connection.fetchval("SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


async def _until_delivered(outbox: Outbox, relay: RelayProcess, until: datetime) -> None:
    """Wait until everything that was written before then has a receipt.

    Looked at as in `drain`; PostgreSQL is asked, which costs it a lot, when nearly all of it must be delivered.
    """
    events: int = await outbox.connection.fetchval("SELECT count(*) FROM outbox.event WHERE created_at < $1", until)
    source = await deliveries(outbox.connection)
    async with asyncio.timeout(CATCH_UP_SECONDS):
        while await relay.settled() < events:
            relay.check()
            await asyncio.sleep(LOOK_INTERVAL)
        while await outbox.connection.fetchval(  # noqa: ASYNC110 receipts tell nobody
            "SELECT EXISTS (SELECT FROM outbox.event AS e WHERE created_at < $1"
            f" AND NOT EXISTS (SELECT FROM {source} AS d WHERE d.id = e.id))",
            until,
        ):
            await asyncio.sleep(LOOK_INTERVAL)


async def _written(connection: asyncpg.Connection, begin: datetime, end: datetime) -> float:
    count: int = await connection.fetchval(
        "SELECT count(*) FROM outbox.event WHERE created_at >= $1 AND created_at < $2", begin, end
    )
    return count / (end - begin).total_seconds()


async def _first_receipt(connection: asyncpg.Connection, starting: datetime, back: datetime) -> float:
    """Seconds from `back` to the first receipt since Kafka was started; negative if it took events before."""
    source = await deliveries(connection)
    first = await connection.fetchval(f"SELECT min(delivered_at) FROM {source} WHERE delivered_at > $1", starting)
    assert isinstance(first, datetime)
    return (first - back).total_seconds()


async def _catching_up(connection: asyncpg.Connection, back: datetime) -> Figures:
    """From the first receipt after `back` to the last of an event that was written before."""
    row = await connection.fetchrow(
        f"WITH late AS (SELECT d.delivered_at, e.created_at FROM {await deliveries(connection)} AS d"
        "              JOIN outbox.event AS e USING (id) WHERE d.delivered_at > $1),"
        " span AS (SELECT min(delivered_at) AS first, max(delivered_at) FILTER (WHERE created_at < $1) AS last"
        "          FROM late)"
        " SELECT count(*)::float8 AS events, extract(epoch FROM max(last) - max(first))::float8 AS seconds"
        " FROM late, span WHERE delivered_at <= last",
        back,
    )
    return {"caught_up": row["events"], "catch_up_per_second": row["events"] / max(row["seconds"] or 0.0, 1e-3)}


async def _ids(connection: asyncpg.Connection) -> set[int]:
    return {row["id"] for row in await connection.fetch("SELECT id FROM outbox.event")}


def check_records(committed: set[int], records: list[Record]) -> Figures:
    """What is missing in Kafka, what came after a later event of its key, and what came again."""
    seen: set[int] = set()
    last: dict[bytes | None, int] = {}
    out_of_order = 0
    for record in records:
        if record.id in seen:
            continue
        seen.add(record.id)
        assert record.value is not None
        number = int(record.value.split()[0])
        out_of_order += number < last.get(record.key, 0)
        last[record.key] = max(number, last.get(record.key, 0))
    return {"lost": len(committed - seen), "out_of_order": out_of_order, "repeats": len(records) - len(seen)}


async def _per_second(
    connection: asyncpg.Connection, table: str, column: str, begin: datetime
) -> list[tuple[float, float]]:
    rows = await connection.fetch(
        f"SELECT floor(extract(epoch FROM {column} - $1))::int AS second, count(*) FROM {table}"
        " GROUP BY second ORDER BY second",
        begin,
    )
    counted = {row["second"]: row["count"] for row in rows if row["second"] >= 0}
    # The last second is not a whole one.
    return [(float(second), float(counted.get(second, 0))) for second in range(max(counted, default=0))]
