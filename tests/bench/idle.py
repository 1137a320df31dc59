"""What a relay with nothing to do costs."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from tests.bench.command import output, run
from tests.bench.report import Finding, Report, interleave
from tests.bench.usage import Usage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.figures import Figures
    from tests.bench.place import Place

SETTLE_SECONDS = 12.0
"""Two heartbeats and a check of the segments: what happens once has happened."""
HISTORY = 100_000
LONGEST = 300.0
"""Seconds to deliver it."""


async def measure_idle(
    place: Place, seconds: float, history: int, rounds: int, settle: float = SETTLE_SECONDS
) -> Report:
    """Nothing to do: in a new outbox, in one with delivered events, and for two replicas that share the lanes."""
    series = await interleave(
        rounds,
        {
            "one replica, 16 lanes": partial(idle, place, seconds, 0, 1, settle),
            f"after {history:,} events": partial(idle, place, seconds, history, 1, settle),
            "two replicas, both": partial(idle, place, seconds, 0, 2, settle),
        },
    )
    one = next(iter(series.values()))
    findings = [
        Finding("Idle: transactions in PostgreSQL", [each["commits_per_second"] for each in one], "/s", at_most=10),
        Finding("Idle: CPU of the relay", [each["relay_cpu_percent"] for each in one], "% of a core", at_most=0.5),
        Finding("Idle: CPU of PostgreSQL", [each["postgres_cpu_percent"] for each in one], "% of a core"),
        Finding("Idle: WAL", [each["wal_bytes_per_second"] for each in one], "bytes/s"),
    ]
    what = f"Nothing to do for {seconds:g} s; each statement of an idle relay is a transaction of its own"
    bars = ("commits_per_second", "relay_cpu_percent", "wal_bytes_per_second")
    return Report("idle", what, {"seconds": seconds}, series, findings, bars=bars, machine=place.machine)


@click.command
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--history", default=HISTORY, show_default=True, help="Events that were delivered before.")
@click.option("--rounds", default=1, show_default=True)
@output
def idle_command(seconds: float, history: int, rounds: int, json_file: Any, picture: Path | None) -> None:
    """Statements, CPU and WAL of a relay with nothing to do."""
    run(lambda place: measure_idle(place, seconds, history, rounds), json_file, picture)


async def idle(place: Place, seconds: float, history: int, replicas: int, settle: float) -> Figures:
    """One round; the figures are those of all replicas together."""
    async with place.outbox() as outbox, AsyncExitStack() as exits:
        if history:
            await outbox.fill(history)
        running = [await exits.enter_async_context(place.relay(outbox)) for _ in range(replicas)]
        async with asyncio.timeout(LONGEST):
            while await outbox.receipts() < history:  # noqa: ASYNC110 receipts tell nobody
                await asyncio.sleep(0.2)
        await asyncio.sleep(settle)
        usage = Usage(place, outbox.connection, *(relay.pid for relay in running))
        async with usage:
            begin = time.monotonic()
            await asyncio.sleep(seconds)
            await usage.stop()
            return await usage.shares(time.monotonic() - begin)
