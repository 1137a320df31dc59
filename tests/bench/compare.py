"""This relay, a naive one and Debezium Server, in turn on the same servers."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from aiokafka import AIOKafkaConsumer, TopicPartition

from relay.local.errors import MissingPartError
from tests.bench import debezium
from tests.bench.command import output, run
from tests.bench.committing import by_pgbench
from tests.bench.contenders import CONTENDERS
from tests.bench.figures import ratios
from tests.bench.latency import latency
from tests.bench.place import PARTITIONS
from tests.bench.report import Finding, Report, interleave
from tests.bench.usage import Usage
from tests.bench.warming import warm_up, warmed

if TYPE_CHECKING:
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
LATENCY = ", latency"


async def measure_compare(
    place: Place, events: int, rate: float, seconds: float, rounds: int, *, fetch: bool = True
) -> Report:
    """Drain a backlog, then commit to consumer at a rate; all contenders in turn, twice."""
    notes = [
        f"the naive relay drains {events // NAIVE_SHARE:,} events, and has no latency: it could barely keep up",
        "speed, CPU and WAL are those from when a tenth has arrived in Kafka: starting and warming up do not count",
    ]
    if events < WARM_EVENTS:
        notes.append("in a backlog this small Debezium is still warming up: its speed is too low, its CPU too high")
    names = list(CONTENDERS)
    try:
        await asyncio.to_thread(debezium.java)
        await asyncio.to_thread(debezium.distribution, fetch=fetch)
    except MissingPartError as missing:
        notes.append(f"WITHOUT Debezium Server: {missing}")
        names.remove("Debezium Server")
    drains = {name: partial(drain, place, name, events) for name in names}
    waits = {name: partial(wait, place, name, rate, seconds) for name in names if name != "naive relay"}
    await warm_up(place)
    series = await interleave(rounds, drains)
    for name, found in (await interleave(rounds, waits)).items():
        for figures, more in zip(series[name], found, strict=True):
            figures |= more
    what = f"Draining a backlog of {events:,} events, and commit to consumer at {rate:g}/s, side by side"
    parameters: dict[str, object] = {"events": events, "rate": rate, "seconds": seconds, "debezium": debezium.VERSION}
    bars = ("events_per_second", "relay_cpu_us", "rss_mb", "p50_ms", "p99_ms")
    return Report("compare", what, parameters, series, _findings(series), notes, bars=bars, machine=place.machine)


def _findings(series: dict[str, list[Figures]]) -> list[Finding]:
    ours = series["this relay"]
    findings = [
        Finding("Speed against the naive relay", ratios(ours, series["naive relay"]), "times", at_least=20),
    ]
    if theirs := series.get("Debezium Server"):
        findings += [
            Finding("Speed against Debezium Server", ratios(ours, theirs), "times", at_least=2),
            Finding("CPU per event against Debezium Server", ratios(ours, theirs, "relay_cpu_us")),
            Finding("Memory against Debezium Server", ratios(ours, theirs, "rss_mb")),
            Finding("Latency p50 against Debezium Server", ratios(ours, theirs, "p50_ms"), at_most=1 / 3),
            Finding("Debezium Server: speed", [each["events_per_second"] for each in theirs], "events/s"),
            Finding("Debezium Server: CPU per event", [each["relay_cpu_us"] for each in theirs], "us"),
            Finding("Debezium Server: latency p50", [each["p50_ms"] for each in theirs], "ms"),
        ]
    return findings


@click.command
@click.option("--events", default=1_000_000, show_default=True, help="Backlog to drain.")
@click.option("--rate", default=1_000.0, show_default=True, help="Events per second, for the latency.")
@click.option("--seconds", default=15.0, show_default=True, help="How long, for the latency.")
@click.option("--rounds", default=3, show_default=True)
@warmed
@output
def compare_command(
    events: int, rate: float, seconds: float, rounds: int, warm_up: float, json_file: Any, picture: Path | None
) -> None:
    """This relay, a naive relay and Debezium Server, side by side on the same servers.

    Debezium Server is fetched by Maven the first time (550 MB).
    """
    run(
        lambda place: measure_compare(place, events, rate, seconds, rounds),
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
            marked, begin = 0, 0.0
            async with asyncio.timeout(DRAIN_SECONDS):
                while (count := await arrived.count()) < events:
                    tool.check()
                    # The second time when a tenth is done; a tiny backlog may be done before.
                    if (count and not marked) or (marked < events / 10 <= count < events / 2):
                        await usage.mark()
                        marked, begin = count, time.monotonic()
                    await asyncio.sleep(LOOK_INTERVAL)
            seconds = time.monotonic() - begin if marked else LOOK_INTERVAL
            await usage.stop()
        if count != events:
            raise RuntimeError(f"{name}: {count} records of {events} events")
        figures = await usage.figures(events - marked, events)
    return {"events": events, "events_per_second": (events - marked) / seconds, **figures}


async def wait(place: Place, name: str, rate: float, seconds: float) -> Figures:
    """One round of commit to consumer, once the tool has moved its first event."""
    async with CONTENDERS[name](place) as scene:
        arrived = Arrived(place.kafka.bootstrap_servers, scene.topic)
        async with arrived, scene.tool as tool:
            await _first(scene, arrived)
            tool.check()
            figures = await latency(place, scene.topic, by_pgbench(scene.dsn, scene.insert, rate), seconds)
    return {each: figures[each] for each in ("p50_ms", "p99_ms", "max_ms", "before_commit_returned")}


async def _first(scene: Scene, arrived: Arrived) -> None:
    """Write an event and wait until it has arrived."""
    await scene.connection.execute(scene.insert("'first'", "'first'"))
    async with asyncio.timeout(FIRST_SECONDS):
        while not await arrived.count():  # noqa: ASYNC110 Kafka tells nobody
            await asyncio.sleep(LOOK_INTERVAL)


class Arrived:
    """Counts the records of a topic, by its end offsets."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        self._bootstrap_servers = bootstrap_servers

    async def __aenter__(self) -> Arrived:
        self._consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap_servers)
        await self._consumer.start()
        self._consumer.assign(self._partitions)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._consumer.stop()

    async def count(self) -> int:
        """How many there are now."""
        return sum((await self._consumer.end_offsets(self._partitions)).values())
