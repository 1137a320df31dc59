"""`python -m tests.bench`: each benchmark is a command; prints a table, and JSON with --json."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from tests.bench import machine
from tests.bench.drain import Drained, drain, held_snapshot, spread
from tests.bench.failures import Others, bad_event, missing_topic
from tests.bench.latency import latency
from tests.bench.place import Place

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group()
def main() -> None:
    """Measure the relay on real servers that are started for it."""


@main.command("drain")
@click.option("--events", default=500_000, show_default=True, help="Backlog to drain.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def drain_command(events: int, rounds: int, as_json: bool) -> None:
    """Drain a backlog of 500-byte events with one replica."""
    with Place() as place:
        results = [asyncio.run(drain(place, events)) for _ in range(rounds)]
    _show("drain", {"drain": results}, as_json)


@main.command("held-snapshot")
@click.option("--events", default=500_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def held_snapshot_command(events: int, rounds: int, as_json: bool) -> None:
    """The same with a REPEATABLE READ transaction held open, in turn with rounds without it."""
    free: list[Drained] = []
    held: list[Drained] = []
    with Place() as place:
        for _ in range(rounds):
            free.append(asyncio.run(drain(place, events)))
            held.append(asyncio.run(held_snapshot(place, events)))
    _show("held-snapshot", {"free": free, "held": held}, as_json)
    if not as_json:
        ratios = sorted(one.events_per_second / other.events_per_second for one, other in zip(held, free, strict=True))
        click.echo(f"held / free: {spread(ratios)}")


@main.command("latency")
@click.option("--rate", default=1_000, show_default=True, help="Events per second.")
@click.option("--seconds", default=15, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def latency_command(rate: int, seconds: int, as_json: bool) -> None:
    """Commit to consumer, in milliseconds, at a steady rate and default settings."""
    with Place() as place:
        result = asyncio.run(latency(place, rate, seconds))
    if as_json:
        click.echo(json.dumps({"benchmark": "latency", "machine": machine.describe(), **asdict(result)}, indent=2))
    else:
        click.echo(
            f"{result.events} events at {result.rate:.0f}/s: "
            f"p50 {result.p50_ms:.1f} ms, p99 {result.p99_ms:.1f} ms, max {result.max_ms:.1f} ms"
        )


@main.command("bad-event")
@click.option("--events", default=100_000, show_default=True, help="In 1,000 keys.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def bad_event_command(events: int, rounds: int, as_json: bool) -> None:
    """A backlog with one event of 5 MB that its topic does not take, in turn with rounds without it."""
    without: list[Others] = []
    with_it: list[Others] = []
    with Place() as place:
        for _ in range(rounds):
            without.append(asyncio.run(bad_event(place, events, bad=False)))
            with_it.append(asyncio.run(bad_event(place, events, bad=True)))
    _compare("bad-event", without, with_it, as_json)


@main.command("missing-topic")
@click.option("--events", default=100_000, show_default=True, help="A tenth more is for no topic.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def missing_topic_command(events: int, rounds: int, as_json: bool) -> None:
    """A backlog mixed with events for a topic that does not exist, in turn with rounds without these."""
    without: list[Others] = []
    with_it: list[Others] = []
    with Place() as place:
        for _ in range(rounds):
            without.append(asyncio.run(missing_topic(place, events, missing=False)))
            with_it.append(asyncio.run(missing_topic(place, events, missing=True)))
    _compare("missing-topic", without, with_it, as_json)


def _compare(benchmark: str, without: Sequence[Others], with_it: Sequence[Others], as_json: bool) -> None:
    if as_json:
        rounds = {"without": [asdict(each) for each in without], benchmark: [asdict(each) for each in with_it]}
        click.echo(json.dumps({"benchmark": benchmark, "machine": machine.describe(), "rounds": rounds}, indent=2))
        return
    for name, results in (("without", without), (benchmark, with_it)):
        click.echo(f"{name}: {spread([each.events_per_second for each in results])} events/s")
    pairs = zip(with_it, without, strict=True)
    click.echo(f"ratio: {spread([one.events_per_second / other.events_per_second for one, other in pairs])}")


def _show(benchmark: str, series: dict[str, Sequence[Drained]], as_json: bool) -> None:
    if as_json:
        rounds = {name: [asdict(each) for each in results] for name, results in series.items()}
        click.echo(json.dumps({"benchmark": benchmark, "machine": machine.describe(), "rounds": rounds}, indent=2))
        return
    table = Table("", "events/s", "relay CPU us/event", "PostgreSQL", "Kafka", "RSS MB first", "RSS MB most")
    for name, results in series.items():
        columns = (
            [each.events_per_second for each in results],
            [each.relay_cpu_us for each in results],
            [each.postgres_cpu_us for each in results],
            [each.kafka_cpu_us for each in results],
            [each.rss_first_mb for each in results],
            [each.rss_most_mb for each in results],
        )
        table.add_row(name, *(spread(column) for column in columns))
    console = Console()
    console.print(table)
    console.print(f"median (least to most) of {len(next(iter(series.values())))} rounds; {machine.describe()}")


if __name__ == "__main__":
    main()
