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

if TYPE_CHECKING:
    from tests.bench.figures import Figures
    from tests.bench.place import Place

FIGURE = "transactions_per_second"


async def measure_writers(place: Place, seconds: float, rounds: int) -> Report:
    """Writers as fast as they can: with the relay, without it, and with a plain table instead of the outbox."""
    series = await interleave(
        rounds,
        {
            "relay runs": partial(writers, place, seconds, "outbox.event", relay=True),
            "no relay": partial(writers, place, seconds, "outbox.event", relay=False),
            "plain table": partial(writers, place, seconds, "plain_event", relay=False),
        },
    )
    running, without, plain = series.values()
    findings = [
        Finding("Writers' transactions/s with the relay against without", ratios(running, without, FIGURE), "", 0.95),
        Finding("Writers' transactions/s, outbox against a plain table", ratios(without, plain, FIGURE)),
        Finding("Writers' transactions/s with the relay", [each[FIGURE] for each in running], "/s"),
    ]
    what = f"{CLIENTS} writers that update a row and enqueue, as fast as they can, on the relay's own machine"
    bars = (FIGURE,)
    return Report("writers", what, {"seconds": seconds}, series, findings, bars=bars, machine=place.machine)


@click.command
@click.option("--seconds", default=15.0, show_default=True, help="Of each round.")
@click.option("--rounds", default=5, show_default=True)
@output
def writers_command(seconds: float, rounds: int, json_file: Any, picture: Path | None) -> None:
    """Transactions per second of writers, with the relay running and without, and with a plain table."""
    run(lambda place: measure_writers(place, seconds, rounds), json_file, picture)


async def writers(place: Place, seconds: float, table: str, *, relay: bool) -> Figures:
    """One round of writers; a fresh database."""
    async with place.outbox() as outbox, AsyncExitStack() as exits:
        await create_accounts(outbox.connection)
        await outbox.connection.execute("CHECKPOINT")
        if relay:
            await exits.enter_async_context(place.relay(outbox))
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="bench-writers-")))
        services = Services(folder, outbox.dsn, outbox.topic, seconds, table=table)
        await exits.enter_async_context(services)
        figures = {FIGURE: await services.transactions_per_second(), "average_ms": await services.latency_ms()}
        if relay:
            behind = await outbox.connection.fetchval(
                "SELECT (SELECT count(*) FROM outbox.event) - (SELECT count(*) FROM outbox.delivery)"
            )
            figures["lag_events"] = behind
        return figures
