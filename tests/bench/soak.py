"""Whether anything grows over time at a steady rate: memory, connections, file handles, threads, tasks."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import psutil

from tests.bench.command import output, run
from tests.bench.pgbench import Services, create_accounts
from tests.bench.report import Finding, Report
from tests.bench.usage import Usage

if TYPE_CHECKING:
    from tests.bench.figures import Figures
    from tests.bench.place import Outbox, Place
    from tests.bench.process import RelayProcess

SAMPLES = 120
LEAST_PAUSE = 0.2
CATCH_UP_SECONDS = 60
GROWTHS = {
    "rss_mb": "rss_growth_mb",
    "connections": "connections_growth",
    "file_handles": "file_handles_growth",
    "threads": "threads_growth",
    "tasks": "tasks_growth",
}


async def measure_soak(place: Place, rate: float, seconds: float) -> Report:
    """The relay at a steady rate, sampled all the time."""
    samples, figures = await soak(place, rate, seconds)
    soaked = f"Soak of {seconds / 60:g} min at {rate:g}/s"
    findings = [
        Finding(f"{soaked}: growth of memory", [figures["rss_growth_mb"]], "MB", at_most=16),
        Finding(f"{soaked}: growth of connections", [figures["connections_growth"]], at_most=0),
        Finding(f"{soaked}: growth of file handles", [figures["file_handles_growth"]], at_most=0),
        Finding(f"{soaked}: growth of threads", [figures["threads_growth"]], at_most=0),
        # One more for each request that is under way at that moment.
        Finding(f"{soaked}: growth of tasks", [figures["tasks_growth"]], at_most=3),
        Finding(f"{soaked}: events pending at the end", [figures["lag_events"]], "", at_most=rate),
    ]
    what = f"{rate:g} events/s for {seconds / 60:g} minutes"
    notes = ["growth: the median of the last fifth against that of the second fifth"]
    curves = {
        "RSS MB": {"relay": [(at, sample["rss_mb"]) for at, sample in samples]},
        "connections, file handles, threads, tasks": {
            name: [(at, sample[name]) for at, sample in samples]
            for name in ("connections", "file_handles", "threads", "tasks")
        },
    }
    parameters: dict[str, object] = {"rate": rate, "seconds": seconds}
    return Report(
        "soak",
        what,
        parameters,
        {"soak": [figures]},
        findings,
        notes,
        curves=curves,
        bars=(),
        machine=place.machine,
    )


@click.command
@click.option("--rate", default=2_000.0, show_default=True, help="Events per second.")
@click.option("--minutes", default=2.0, show_default=True, help="60 shows more.")
@output
def soak_command(rate: float, minutes: float, json_file: Any, picture: Path | None) -> None:
    """The relay at a steady rate for a long time: does anything grow?"""
    run(lambda place: measure_soak(place, rate, minutes * 60), json_file, picture)


async def soak(place: Place, rate: float, seconds: float) -> tuple[list[tuple[float, Figures]], Figures]:
    """The samples, as seconds and figures, and what follows from them."""
    async with place.outbox() as outbox:
        await create_accounts(outbox.connection)
        with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
            services = Services(Path(folder), outbox.dsn, outbox.topic, seconds + 3600, rate)
            async with place.relay(outbox) as relay, Usage(place, outbox.connection, relay.pid) as usage:
                samples: list[tuple[float, Figures]] = []
                async with services:
                    begin = time.monotonic()
                    while (at := time.monotonic() - begin) < seconds or len(samples) < 5:
                        relay.check()
                        services.check()
                        samples.append((at, await _sample(outbox, relay)))
                        await asyncio.sleep(max(LEAST_PAUSE, seconds / SAMPLES))
                    pending = await _pending(outbox)
                events = int(await outbox.connection.fetchval("SELECT count(*) FROM outbox.event"))
                async with asyncio.timeout(CATCH_UP_SECONDS):
                    while await outbox.receipts() < events:  # noqa: ASYNC110 receipts tell nobody
                        await asyncio.sleep(0.2)
                await usage.stop()
                loop_delay = await relay.loop_delay()
            figures = await usage.figures(events, events)
    measured = [sample for _, sample in samples]
    growths = {growth: growth_of([sample[name] for sample in measured]) for name, growth in GROWTHS.items()}
    most = {name: max(sample[name] for sample in measured) for name in GROWTHS}
    rates = {"events": float(events), "events_per_second": events / samples[-1][0], "lag_events": float(pending)}
    return samples, {**rates, **figures, **most, **growths, **loop_delay}


def growth_of(values: list[float]) -> float:
    """How much more at the end than after warming up, both as medians of a fifth of the time."""
    fifth = max(1, len(values) // 5)
    return statistics.median(values[-fifth:]) - statistics.median(values[fifth : 2 * fifth])


async def _sample(outbox: Outbox, relay: RelayProcess) -> Figures:
    process = psutil.Process(relay.pid)
    connections = await outbox.connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'outbox-relay%'"
    )
    return {
        "rss_mb": process.memory_info().rss / 1e6,
        "connections": float(connections),
        "file_handles": float(process.num_fds()),
        "threads": float(process.num_threads()),
        "tasks": (await relay.metrics())["relay_loop_tasks"],
    }


async def _pending(outbox: Outbox) -> int:
    # Events first: those that are committed in between must not make it negative.
    events: int = await outbox.connection.fetchval("SELECT count(*) FROM outbox.event")
    return max(0, events - await outbox.receipts())
