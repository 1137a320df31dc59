"""What the outbox and its relay cost the transactions that write to it."""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tests.bench.command import output, run
from tests.bench.figures import ratios
from tests.bench.pgbench import CLIENTS, Services, create_accounts
from tests.bench.report import Finding, Report, interleave
from tests.bench.usage import Usage
from tests.bench.warming import warm_up, warmed

if TYPE_CHECKING:
    from tests.bench.figures import Figures
    from tests.bench.place import Place

FIGURE = "transactions_per_second"
ADDED = (
    ("CPU of PostgreSQL", "postgres_cpu_percent", "% of a core"),
    ("CPU of all processes", "all_cpu_percent", "% of a core"),
    ("WAL", "wal_bytes_per_second", "bytes/s"),
)
"""What is named at a rate, where both have the same writers."""


async def measure_writers(place: Place, seconds: float, rate: float, rounds: int) -> Report:
    """With the relay and without it, at a rate and as fast as they can; and a plain table instead of the outbox."""
    await warm_up(place)
    full, plain = "outbox.event", "plain_event"
    series = await interleave(
        rounds,
        {
            f"relay, {rate:g}/s": partial(writers, place, seconds, full, rate=rate, relay=True),
            f"no relay, {rate:g}/s": partial(writers, place, seconds, full, rate=rate),
            "relay, fastest": partial(writers, place, seconds, full, relay=True),
            "no relay, fastest": partial(writers, place, seconds, full),
            "plain table, fastest": partial(writers, place, seconds, plain),
        },
    )
    paced, paced_alone, running, alone, without_outbox = series.values()
    slower = _differences(paced, paced_alone, "average_ms")
    findings = [
        Finding(f"Writers at {rate:g}/s: reached with the relay against without", ratios(paced, paced_alone, FIGURE)),
        Finding(f"Writers at {rate:g}/s: longer transactions by the relay, average", slower, "ms"),
        *(
            Finding(
                f"Writers at {rate:g}/s: {what} that the relay adds", _differences(paced, paced_alone, figure), unit
            )
            for what, figure, unit in ADDED
        ),
        Finding(
            "Writers as fast as they can: with the relay against without", ratios(running, alone, FIGURE), "", 0.95
        ),
        Finding("Writers as fast as they can: outbox against a plain table", ratios(alone, without_outbox, FIGURE)),
    ]
    what = f"{CLIENTS} writers that update a row and enqueue, on the relay's own machine"
    notes = ["as fast as they can, writers take all cores, and what the relay and its sessions take is theirs no more"]
    parameters: dict[str, object] = {"seconds": seconds, "rate": rate}
    bars = (FIGURE, "average_ms")
    return Report("writers", what, parameters, series, findings, notes, bars=bars, machine=place.machine)


@click.command
@click.option("--seconds", default=15.0, show_default=True, help="Of each round.")
@click.option("--rate", default=1_000.0, show_default=True, help="Transactions per second, where there is a rate.")
@click.option("--rounds", default=3, show_default=True)
@warmed
@output
def writers_command(
    seconds: float, rate: float, rounds: int, warm_up: float, json_file: Any, picture: Path | None
) -> None:
    """Transactions per second of writers, with the relay running and without, and with a plain table."""
    run(lambda place: measure_writers(place, seconds, rate, rounds), json_file, picture, warm_up)


def _differences(rounds: list[Figures], others: list[Figures], figure: str) -> list[float]:
    return [one[figure] - other[figure] for one, other in zip(rounds, others, strict=True)]


async def writers(place: Place, seconds: float, table: str, *, rate: float = 0, relay: bool = False) -> Figures:
    """One round of writers; a fresh database."""
    async with place.outbox() as outbox, AsyncExitStack() as exits:
        await create_accounts(outbox.connection)
        await outbox.connection.execute("CHECKPOINT")
        pids = [(await exits.enter_async_context(place.relay(outbox))).pid] if relay else []
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="bench-writers-")))
        services = Services(folder, outbox.dsn, outbox.topic, seconds, rate, table)
        async with Usage(place, outbox.connection, *pids) as usage, services:
            figures = {FIGURE: await services.transactions_per_second(), "average_ms": await services.latency_ms()}
            await usage.stop()
        figures |= await usage.shares(seconds)
        if relay:
            written = await outbox.connection.fetchval("SELECT count(*) FROM outbox.event")
            figures["lag_events"] = written - await outbox.receipts()
        return figures
