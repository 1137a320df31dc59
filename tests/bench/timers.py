"""Scheduled events: how fast they enter the outbox, how late, and what that costs the events that flow meanwhile."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import click

from tests.bench.command import output, run
from tests.bench.committing import by_pgbench
from tests.bench.latency import UNCOUNTED, latency
from tests.bench.report import Finding, Report, interleave
from tests.bench.warming import warm_up, warmed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.figures import Figures
    from tests.bench.place import Outbox, Place

KEYS = 1_000
AT_ONCE = 1.0
"""Seconds within which all are due in the series of a burst: more than can be moved meanwhile."""
FIRST_DUE = UNCOUNTED + 4.0
"""Seconds until the first is due: the live events flow by then."""


async def measure_timers(place: Place, timers: int, rate: float, seconds: float, rounds: int) -> Report:
    """Rounds of live events alone, beside scheduled ones that become due meanwhile, and as many at once."""
    await warm_up(place)
    alone, due, at_once = (
        await interleave(
            rounds,
            {
                f"{rate:g}/s alone": lambda: of_live(place, 0, rate, seconds),
                f"beside {timers:,} that become due": lambda: of_live(place, timers, rate, seconds),
                f"beside {timers:,} due at once": lambda: of_live(place, timers, rate, seconds, at_once=True),
            },
        )
    ).values()
    pairs = [(beside, own) for series in (due, at_once) for beside, own in zip(series, alone, strict=True)]
    findings = [
        Finding(
            f"Scheduled events that are due at once: into the outbox, beside {rate:g} live events/s",
            [each["moved_per_second"] for each in at_once],
            "events/s",
            at_least=5_000,
        ),
        Finding(
            f"{timers:,} scheduled events that become due within {seconds:g} s: later than their time, p99",
            [each["late_p99_ms"] for each in due],
            "ms",
            at_most=500,
        ),
        Finding(
            "Live events delivered beside scheduled ones, of those alone",
            [beside["delivered_per_second"] / own["delivered_per_second"] for beside, own in pairs],
            at_least=0.95,
        ),
        Finding("Live events alone: commit to consumer, p50", [each["p50_ms"] for each in alone], "ms"),
        Finding("Beside scheduled events that become due, p50", [each["p50_ms"] for each in due], "ms"),
        Finding(
            "Scheduled events out of the order in which a key's were due",
            [each["disordered"] for each in (*due, *at_once)],
            at_most=0,
        ),
    ]
    what = f"Live events at {rate:g}/s, and {timers:,} scheduled ones of {KEYS:,} keys"
    parameters: dict[str, object] = {"timers": timers, "rate": rate, "seconds": seconds}
    bars = ("moved_per_second", "late_p99_ms", "p50_ms")
    series = {"alone": alone, "become due": due, "due at once": at_once}
    return Report("timers", what, parameters, series, findings, bars=bars, machine=place.machine)


@click.command
@click.option("--timers", default=100_000, show_default=True, help="Scheduled events.")
@click.option("--rate", default=1_000.0, show_default=True, help="Live events per second.")
@click.option("--seconds", default=60.0, show_default=True, help="Time of live events, in which the others are due.")
@click.option("--rounds", default=3, show_default=True)
@warmed
@output
def timers_command(
    timers: int, rate: float, seconds: float, rounds: int, warm_up: float, json_file: Any, picture: Path | None
) -> None:
    """Move scheduled events into the outbox: speed, punctuality, and what it costs live events."""
    run(lambda place: measure_timers(place, timers, rate, seconds, rounds), json_file, picture, warm_up)


async def of_live(place: Place, timers: int, rate: float, seconds: float, *, at_once: bool = False) -> Figures:
    """One round: live events for so many seconds, beside scheduled ones that become due meanwhile, or at once."""
    topic = await place.topic()
    async with place.outbox() as outbox, place.relay(outbox):
        if timers:
            await schedule(outbox, topic, timers, AT_ONCE if at_once else seconds - 4.0)
        figures = await latency(place, outbox.topic, by_pgbench(outbox.dsn, outbox.insert, rate), seconds)
        ended = await outbox.connection.fetchval("SELECT clock_timestamp()")
        delivered = await outbox.connection.fetchval(
            "SELECT count(*) FROM outbox.delivered WHERE topic = $1 AND delivered_at <= $2", outbox.topic, ended
        )
        figures["delivered_per_second"] = delivered / (seconds + min(UNCOUNTED, seconds))
        if timers:
            await all_moved(outbox)
            figures |= await of_moves(outbox, topic, timers)
        return figures


async def schedule(outbox: Outbox, topic: str, timers: int, over: float) -> None:
    """Schedule events that are due one after another, for `over` seconds; they are written in an order of their own."""
    await outbox.connection.execute(
        "CREATE TABLE due AS SELECT gen_random_uuid() AS event_id, n,"
        "  now() + make_interval(secs => $2 + $3 * n / $1) AS deliver_at"
        " FROM generate_series(1, $1::int) AS n".replace("$1", str(timers))
        .replace("$2", str(FIRST_DUE))
        .replace("$3", str(over))
    )
    await outbox.connection.execute(
        "INSERT INTO outbox.scheduled (event_id, topic, key, payload, deliver_at)"
        " SELECT event_id, $1, convert_to('order-' || n % $2, 'UTF8'), convert_to(rpad(n::text, 500, ' '), 'UTF8'),"
        "        deliver_at FROM due ORDER BY md5(n::text)",
        *(topic, KEYS),
    )


async def all_moved(outbox: Outbox) -> None:
    """Wait until nothing is to come."""
    give_up = time.monotonic() + 120
    while await outbox.connection.fetchval("SELECT EXISTS (SELECT FROM outbox.scheduled)"):
        if time.monotonic() > give_up:
            raise TimeoutError("scheduled events do not enter the outbox")
        await asyncio.sleep(0.5)


async def of_moves(outbox: Outbox, topic: str, timers: int) -> Figures:
    """How fast and how late they entered the outbox; raises AssertionError unless each did so once."""
    row = await outbox.connection.fetchrow(
        "SELECT count(*) AS events, count(DISTINCT e.event_id) AS distinct_events,"
        "       extract(epoch FROM max(e.created_at) - min(e.created_at))::float8 AS seconds,"
        "       percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP ("
        "           ORDER BY extract(epoch FROM e.created_at - d.deliver_at)::float8 * 1000) AS late"
        " FROM outbox.event AS e JOIN due AS d ON d.event_id = e.event_id WHERE e.topic = $1",
        topic,
    )
    assert row is not None
    assert (row["events"], row["distinct_events"]) == (timers, timers)
    disordered = await outbox.connection.fetchval(
        "SELECT count(*) FROM ("
        " SELECT d.n, lag(d.n) OVER (PARTITION BY e.key ORDER BY e.id) AS before"
        " FROM outbox.event AS e JOIN due AS d ON d.event_id = e.event_id) AS moved WHERE before > n"
    )
    p50, p99, most = row["late"]
    return {
        "moved_per_second": timers / max(row["seconds"], 1e-3),
        "late_p50_ms": p50,
        "late_p99_ms": p99,
        "late_max_ms": most,
        "disordered": disordered,
    }
