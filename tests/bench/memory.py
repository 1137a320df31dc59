"""Whether memory depends on how much there is to drain."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from tests.bench.command import output, run
from tests.bench.drain import drain
from tests.bench.figures import median
from tests.bench.report import Finding, Report, interleave

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.place import Place


async def measure_memory(place: Place, small: int, large: int, rounds: int) -> Report:
    """Drain a small and a large backlog in turn; compare the most memory that each took."""
    series = await interleave(
        rounds, {f"{events:,} events": partial(drain, place, events) for events in (small, large)}
    )
    less, more = series.values()
    growth = [many["rss_mb"] - few["rss_mb"] for many, few in zip(more, less, strict=True)]
    findings = [
        Finding(f"Memory while draining {large:,} events", [each["rss_mb"] for each in more], "MB", at_most=160),
        Finding(f"More memory for {large:,} events than for {small:,}", growth, "MB", at_most=16),
    ]
    notes = [f"with {large / small:g} times the events, {median(more, 'rss_mb') / median(less, 'rss_mb'):.2f} of it"]
    what = f"Resident memory of the relay while draining {small:,} and {large:,} events"
    parameters: dict[str, object] = {"small": small, "large": large}
    return Report("memory", what, parameters, series, findings, notes, bars=("rss_mb",), machine=place.machine)


@click.command
@click.option("--small", default=1_000_000, show_default=True, help="The small backlog.")
@click.option("--large", default=5_000_000, show_default=True, help="The large one.")
@click.option("--rounds", default=1, show_default=True)
@output
def memory_command(small: int, large: int, rounds: int, json_file: Any, picture: Path | None) -> None:
    """Memory while draining a small and a large backlog."""
    run(lambda place: measure_memory(place, small, large, rounds), json_file, picture)
