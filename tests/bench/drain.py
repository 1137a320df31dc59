"""How fast a backlog drains, at what cost, and whether speed and memory stay flat."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import click

from tests.bench.command import output, run
from tests.bench.figures import Figures, ratios
from tests.bench.place import KEYS, LOOK_INTERVAL
from tests.bench.report import Finding, Report, interleave
from tests.bench.storage import deliveries
from tests.bench.usage import Usage
from tests.bench.warming import warm_up, warmed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.place import Outbox, Place

LONGEST = 3600.0
"""Seconds in which a backlog must be drained."""

BENCHMARK = "Draining a backlog of 500-byte events, one replica, default settings"


async def measure_drain(place: Place, events: int, rounds: int) -> Report:
    """Rounds of `drain`."""
    await warm_up(place)
    series = await interleave(rounds, {"drain": lambda: drain(place, events)})
    drained = series["drain"]
    findings = [
        Finding(
            f"Draining a backlog of {events:,} events, one replica",
            [each["events_per_second"] for each in drained],
            "events/s",
            at_least=60_000,
        ),
        Finding("CPU of the relay per event while draining", [each["relay_cpu_us"] for each in drained], "us", None, 9),
        Finding("CPU of PostgreSQL per event while draining", [each["postgres_cpu_us"] for each in drained], "us"),
        Finding("CPU of all processes per event while draining", [each["all_cpu_us"] for each in drained], "us"),
        Finding("WAL per event while draining", [each["wal_bytes"] for each in drained], "bytes", at_most=20),
        Finding(
            "Disk per delivered event beyond the event itself",
            [each["disk_bytes"] for each in drained],
            "bytes",
            at_most=16,
        ),
        Finding("Speed in the last fifth against the second", [each["last_to_second"] for each in drained], "", 0.9),
    ]
    return Report("drain", BENCHMARK, {"events": events}, series, findings, machine=place.machine)


async def measure_held_snapshot(place: Place, events: int, rounds: int) -> Report:
    """Rounds of `drain` and `held_snapshot` in turn."""
    await warm_up(place)
    series = await interleave(
        rounds, {"free": lambda: drain(place, events), "held": lambda: drain(place, events, held=True)}
    )
    findings = [
        Finding(
            f"Draining {events:,} events beside a REPEATABLE READ transaction, against without",
            ratios(series["held"], series["free"]),
            at_least=0.95,
        ),
        Finding(
            "Beside it, the last fifth against the second",
            [each["last_to_second"] for each in series["held"]],
            at_least=0.9,
        ),
    ]
    what = f"{BENCHMARK}; held: a REPEATABLE READ transaction is open all the time"
    return Report("held-snapshot", what, {"events": events}, series, findings, machine=place.machine)


@click.command
@click.option("--events", default=1_000_000, show_default=True, help="Backlog to drain.")
@click.option("--rounds", default=3, show_default=True)
@warmed
@output
def drain_command(events: int, rounds: int, warm_up: float, json_file: Any, picture: Path | None) -> None:
    """Drain a backlog with one replica: speed, cost, memory."""
    run(lambda place: measure_drain(place, events, rounds), json_file, picture, warm_up)


@click.command
@click.option("--events", default=2_000_000, show_default=True, help="Backlog to drain.")
@click.option("--rounds", default=3, show_default=True)
@warmed
@output
def held_snapshot_command(events: int, rounds: int, warm_up: float, json_file: Any, picture: Path | None) -> None:
    """The same with a REPEATABLE READ transaction held open, in turn with rounds without it."""
    run(lambda place: measure_held_snapshot(place, events, rounds), json_file, picture, warm_up)


async def drain(place: Place, events: int, keys: int = KEYS, *, held: bool = False) -> Figures:
    """Fill a new outbox, start one replica, and wait until everything has a receipt.

    With `held`, a REPEATABLE READ transaction that began before it stays open.
    """
    async with place.outbox() as outbox:
        await outbox.fill(events, keys)
        if not held:
            return await measure(place, outbox, events)
        holder = await asyncpg.connect(outbox.dsn)
        try:
            await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await holder.fetch("SELECT count(*) FROM outbox.event")
            return await measure(place, outbox, events)
        finally:
            await holder.close()


async def measure(place: Place, outbox: Outbox, events: int) -> Figures:
    """Drain what is there. CPU and WAL count from when a tenth is done: starting is no part of draining."""
    marked = 0
    async with place.relay(outbox) as relay, Usage(place, outbox.connection, relay.pid) as usage:
        async with asyncio.timeout(LONGEST):
            while (settled := await relay.settled()) < events:
                relay.check()
                if not marked and events / 10 <= settled < events / 2:
                    await usage.mark()
                    marked = settled
                await asyncio.sleep(LOOK_INTERVAL)
        await usage.stop()
        loop_delay = await relay.loop_delay()
    figures = await usage.figures(events - marked, events)
    return {"events": events, **await speed(outbox), **figures, **loop_delay}


async def speed(outbox: Outbox) -> Figures:
    """Events per second from the first receipt to the last, and how the last fifth compares with the second.

    By the database's clock. The first fifth has starting and most of the new keys in it, and would flatter the last.
    """
    row = await outbox.connection.fetchrow(
        "SELECT count(*)::float8 AS events,"
        " percentile_disc(ARRAY[0, 0.2, 0.4, 0.8, 1]) WITHIN GROUP (ORDER BY extract(epoch FROM delivered_at)::float8)"
        f" AS at FROM {await deliveries(outbox.connection)}"
    )
    begin, fifth, two_fifths, four_fifths, end = row["at"]
    return {
        "events_per_second": row["events"] / max(end - begin, 1e-3),
        "last_to_second": max(two_fifths - fifth, 1e-3) / max(end - four_fifths, 1e-3),
    }
