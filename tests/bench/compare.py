"""This relay, a naive one, Debezium Server and Kafka Connect with Debezium, in turn on the same servers."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.bench import connect, debezium
from tests.bench.command import output, run
from tests.bench.committing import by_pgbench
from tests.bench.contenders import CONTENDERS, STREAMING, what_is_missing
from tests.bench.figures import ratios
from tests.bench.latency import latency
from tests.bench.place import PARTITIONS
from tests.bench.report import Finding, Report, interleave
from tests.bench.usage import Usage
from tests.bench.warming import warm_up, warmed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.bench.contenders import Scene
    from tests.bench.figures import Figures
    from tests.bench.place import Place

NAIVE_SHARE = 50
"""The naive relay gets this part of the backlog, or it would take all day."""
LOOK_INTERVAL = 0.05
WARM_EVENTS = 500_000
DRAIN_SECONDS = 900
FIRST_SECONDS = 60.0
READ_MS = 3_000
"""With nothing to read for so long, all is read."""
QUIET_SECONDS = 3.0
"""So long nothing more may arrive of what comes in transactions, before all of it counts as arrived."""

AT_A_RATE = (
    *("p50_ms", "p99_ms", "max_ms", "before_commit_returned"),
    *("relay_cpu_percent", "postgres_cpu_percent", "kafka_cpu_percent", "all_cpu_percent", "wal_bytes_per_second"),
)
"""The figures of a round of `wait`; those of PostgreSQL include what the writers cost it."""

OURS = "this relay"
SPEED = {"Debezium Server": 2, "Kafka Connect": 2.3}
COSTS: tuple[tuple[str, str, Mapping[str, float]], ...] = (
    ("CPU per event", "relay_cpu_us", {}),
    ("CPU of all processes per event", "all_cpu_us", {"Debezium Server": 0.6, "Kafka Connect": 0.4}),
    ("CPU of PostgreSQL per event", "postgres_cpu_us", {}),
    ("Memory", "rss_mb", {}),
    ("Latency p50", "p50_ms", {"Debezium Server": 1 / 3, "Kafka Connect": 0.8}),
)
"""What is divided by that of each Debezium, with the targets."""
NAMED = (
    ("speed", "events_per_second", "events/s"),
    ("CPU per event", "relay_cpu_us", "us"),
    ("CPU of all processes per event", "all_cpu_us", "us"),
    ("CPU of PostgreSQL per event", "postgres_cpu_us", "us"),
    ("WAL per event", "wal_bytes", "bytes"),
    ("disk per event", "disk_bytes", "bytes"),
    ("latency p50", "p50_ms", "ms"),
)
"""Rows of each contender, as far as it has the figure."""


async def measure_compare(
    place: Place,
    events: int,
    rate: float,
    seconds: float,
    rounds: int,
    *,
    only: Sequence[str] = tuple(CONTENDERS),
    fetch: bool = True,
) -> Report:
    """Drain a backlog, then commit to consumer at a rate; contenders in turn, twice: all, or this relay and others."""
    notes = [
        f"the naive relay drains {events // NAIVE_SHARE:,} events, and has no latency: it could barely keep up",
        "speed, CPU and WAL are those from when a tenth has arrived in Kafka: starting and warming up do not count",
    ]
    if events < WARM_EVENTS:
        notes.append("in a backlog this small Debezium is still warming up: its speed is too low, its CPU too high")
    names = []
    for name in only:
        if missing := await asyncio.to_thread(what_is_missing, name, fetch=fetch):
            notes.append(f"WITHOUT {name}: {missing}")
        else:
            names.append(name)
    drains = {name: partial(drain, place, name, events) for name in names}
    waits = {name: partial(wait, place, name, rate, seconds) for name in names if name != "naive relay"}
    await warm_up(place)
    series = await interleave(rounds, drains)
    for name, found in (await interleave(rounds, waits)).items():
        for figures, more in zip(series[name], found, strict=True):
            figures |= more
    what = f"Draining a backlog of {events:,} events, and commit to consumer at {rate:g}/s, side by side"
    parameters: dict[str, object] = {"events": events, "rate": rate, "seconds": seconds, "debezium": debezium.VERSION}
    parameters |= {"connect": connect.VERSION, "connector": connect.DEBEZIUM_VERSION}
    bars = ("events_per_second", "relay_cpu_us", "all_cpu_us", "rss_mb", "p50_ms", "p99_ms")
    return Report("compare", what, parameters, series, _findings(series), notes, bars=bars, machine=place.machine)


def _findings(series: dict[str, list[Figures]]) -> list[Finding]:
    ours = series[OURS]
    findings = []
    if theirs := series.get("naive relay"):
        findings.append(Finding("Speed against the naive relay", ratios(ours, theirs), "times", at_least=20))
    for name in STREAMING:
        if theirs := series.get(name):
            findings += [
                Finding(f"Speed against {name}", ratios(ours, theirs), "times", at_least=SPEED.get(name)),
                *(
                    Finding(f"{what} against {name}", ratios(ours, theirs, figure), at_most=targets.get(name))
                    for what, figure, targets in COSTS
                ),
            ]
    for name, found in series.items():
        findings += [
            Finding(f"{name[0].upper()}{name[1:]}: {what}", [each[figure] for each in found], unit)
            for what, figure, unit in NAMED
            if figure in found[0]
        ]
    return findings


@click.command
@click.option("--events", default=1_000_000, show_default=True, help="Backlog to drain.")
@click.option("--rate", default=1_000.0, show_default=True, help="Events per second, for the latency.")
@click.option("--seconds", default=15.0, show_default=True, help="How long, for the latency.")
@click.option("--rounds", default=3, show_default=True)
@click.option(
    "--against",
    multiple=True,
    type=click.Choice([name for name in CONTENDERS if name != OURS]),
    help="Only this relay and this one; may be repeated.",
)
@warmed
@output
def compare_command(
    events: int,
    rate: float,
    seconds: float,
    rounds: int,
    against: tuple[str, ...],
    warm_up: float,
    json_file: Any,
    picture: Path | None,
) -> None:
    """This relay, a naive relay, Debezium Server and Kafka Connect with Debezium, on the same servers.

    Debezium Server is fetched by Maven the first time (550 MB), Debezium's connector for Kafka Connect without (30 MB).
    """
    only = (OURS, *against) if against else tuple(CONTENDERS)
    run(
        lambda place: measure_compare(place, events, rate, seconds, rounds, only=only),
        json_file,
        picture,
        warm_up,
        # Debezium's setting; it is the same server for all.
        wal_level="logical",
    )


async def drain(place: Place, name: str, events: int) -> Figures:
    """One round: the backlog is written, then the tool is started. Measured at Kafka, the same way for all."""
    if name == "naive relay":
        events = max(1, events // NAIVE_SHARE)
    async with CONTENDERS[name](place) as scene:
        await scene.fill(events)
        arrived = Arrived(place.kafka.bootstrap_servers, scene.topic)
        async with arrived, scene.tool as tool, Usage(place, scene.connection, tool.pid) as usage:
            quiet = QUIET_SECONDS if scene.in_transactions else 0.0
            marked = count = 0
            begin = end = time.monotonic()
            async with asyncio.timeout(DRAIN_SECONDS):
                while count < events or time.monotonic() < end + quiet:
                    tool.check()
                    if (found := await arrived.count()) != count:
                        count, end = found, time.monotonic()
                        if count >= events:
                            await usage.stop()
                        # The second time when a tenth is done; a tiny backlog may be done before.
                        elif (count and not marked) or (marked < events / 10 <= count < events / 2):
                            await usage.mark()
                            marked, begin = count, time.monotonic()
                    await asyncio.sleep(LOOK_INTERVAL)
            records = await arrived.records() if scene.in_transactions else count
        if records != events:
            raise RuntimeError(f"{name}: {records} records of {events} events")
        seconds = max(end - begin, LOOK_INTERVAL)
        # Markers are among what has arrived, in equal shares from the beginning to the end.
        counted = round(events - marked * events / count)
        figures = await usage.figures(counted, events)
    return {"events": events, "events_per_second": counted / seconds, **figures}


async def wait(place: Place, name: str, rate: float, seconds: float) -> Figures:
    """One round of commit to consumer, once the tool has moved events for as long: a Java that just started is slow."""
    async with CONTENDERS[name](place) as scene:
        arrived = Arrived(place.kafka.bootstrap_servers, scene.topic)
        async with arrived, scene.tool as tool:
            await _first(scene, arrived)
            tool.check()
            commit = by_pgbench(scene.dsn, scene.insert, rate)
            async with Usage(place, scene.connection, tool.pid) as usage:
                found = await latency(place, scene.topic, commit, seconds, uncounted=seconds)
                await usage.stop()
            shares = await usage.shares(2 * seconds)
    return {each: value for each, value in {**found, **shares}.items() if each in AT_A_RATE}


async def _first(scene: Scene, arrived: Arrived) -> None:
    """Write an event and wait until it has arrived."""
    await scene.connection.execute(scene.insert("'first'", "'first'"))
    async with asyncio.timeout(FIRST_SECONDS):
        while not await arrived.count():  # noqa: ASYNC110 Kafka tells nobody
            await asyncio.sleep(LOOK_INTERVAL)


class Arrived:
    """Counts the records of a topic, by its end offsets; the markers of transactions are among them."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        self._bootstrap_servers = bootstrap_servers

    async def __aenter__(self) -> Arrived:
        self._consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap_servers, isolation_level="read_committed")
        await self._consumer.start()
        self._consumer.assign(self._partitions)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._consumer.stop()

    async def count(self) -> int:
        """How many there are now."""
        return sum((await self._consumer.end_offsets(self._partitions)).values())

    async def records(self) -> int:
        """Read them all: how many there are without the markers of transactions."""
        await self._consumer.seek_to_beginning(*self._partitions)
        records = 0
        while found := await self._consumer.getmany(timeout_ms=READ_MS):
            records += sum(map(len, found.values()))
        return records
