"""How long an event takes from commit to consumer."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import click
from aiokafka import AIOKafkaProducer

from relay.enqueue import enqueue, wake_up
from tests.bench.arrivals import Arrivals
from tests.bench.command import output, run
from tests.bench.committing import by_calls, by_pgbench
from tests.bench.pgbench import CLIENTS
from tests.bench.report import Finding, Report, interleave
from tests.bench.usage import Usage
from tests.bench.warming import warm_up, warmed

if TYPE_CHECKING:
    from tests.bench.committing import Commit
    from tests.bench.figures import Figures
    from tests.bench.place import Place
    from tests.bench.process import RelayProcess

UNCOUNTED = 3.0
"""Seconds at the beginning that do not count; no more than those that do."""
SLOW_RATE = 10


async def measure_latency(place: Place, rate: float, seconds: float, rounds: int) -> Report:
    """Rounds at `rate`, at 10/s with and without wake-up, and of Kafka alone, in turn."""
    await warm_up(place)
    series = await interleave(
        rounds,
        {
            f"{rate:g}/s": lambda: of_relay(place, rate, seconds),
            f"{SLOW_RATE}/s": lambda: of_relay(place, SLOW_RATE, seconds),
            f"{SLOW_RATE}/s, wake-up": lambda: of_wake_up(place, SLOW_RATE, seconds),
            f"{rate:g}/s, Kafka alone": lambda: of_kafka(place, rate, seconds),
            f"{SLOW_RATE}/s, Kafka alone": lambda: of_kafka(place, SLOW_RATE, seconds),
        },
    )
    steady, slow, woken, direct, slow_direct = series.values()
    findings = [
        Finding(f"Commit to consumer at {rate:g}/s, p50", _p50(steady), "ms", at_most=4),
        Finding(f"Commit to consumer at {rate:g}/s, p99", [each["p99_ms"] for each in steady], "ms", at_most=20),
        Finding(f"At {SLOW_RATE}/s with wake-up, p50", _p50(woken), "ms", at_most=4),
        Finding(f"At {SLOW_RATE}/s without wake-up, p50", _p50(slow), "ms"),
        Finding(f"Kafka alone at {rate:g}/s: from a producer to the consumer, p50", _p50(direct), "ms"),
        Finding(f"Kafka alone at {SLOW_RATE}/s, p50", _p50(slow_direct), "ms"),
    ]
    what = "From the return of COMMIT until a consumer has the record, default settings"
    parameters: dict[str, object] = {"rate": rate, "seconds": seconds}
    bars = ("p50_ms", "p99_ms")
    return Report("latency", what, parameters, series, findings, bars=bars, machine=place.machine)


@click.command
@click.option("--rate", default=1_000.0, show_default=True, help="Events per second.")
@click.option("--seconds", default=15.0, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@warmed
@output
def latency_command(
    rate: float, seconds: float, rounds: int, warm_up: float, json_file: Any, picture: Path | None
) -> None:
    """Commit to consumer at a steady rate, at 10/s with and without wake-up, and of Kafka alone."""
    run(lambda place: measure_latency(place, rate, seconds, rounds), json_file, picture, warm_up)


async def of_relay(place: Place, rate: float, seconds: float) -> Figures:
    """One round of the relay: an empty outbox, default settings."""
    async with place.outbox() as outbox, place.relay(outbox) as relay:
        async with Usage(place, outbox.connection, relay.pid) as usage:
            figures = await latency(place, outbox.topic, by_pgbench(outbox.dsn, outbox.insert, rate), seconds)
            await usage.stop()
        return {**figures, "rss_mb": max(usage.rss), **await relay.loop_delay(), **await steps(relay)}


async def steps(relay: RelayProcess) -> Figures:
    """How long the steps of an event's way took on average since its start."""
    metrics = await relay.metrics()
    means = {
        f"{step}_ms": metrics[f"relay_{step}_seconds_sum"] / max(1, metrics[f"relay_{step}_seconds_count"]) * 1000
        for step in ("scan", "publish", "settle")
    }
    events = metrics["relay_published_events_total"]
    return {**means, "events_per_batch": events / max(1, metrics["relay_publish_seconds_count"])}


async def of_wake_up(place: Place, rate: float, seconds: float) -> Figures:
    """One round of the relay when the library wakes it up after each COMMIT."""
    async with place.outbox() as outbox, place.relay(outbox):
        connection = await asyncpg.connect(outbox.dsn)
        wake_up.use(lambda: asyncpg.connect(outbox.dsn))

        async def write_and_wake(key: str, payload: bytes) -> float:
            async with connection.transaction():
                await enqueue(connection, outbox.topic, key=key, payload=payload, wake_up=True)
            return time.time()

        try:
            return await latency(place, outbox.topic, by_calls([write_and_wake], rate), seconds)
        finally:
            wake_up.stop()
            await connection.close()


async def of_kafka(place: Place, rate: float, seconds: float) -> Figures:
    """One round without PostgreSQL and a relay: from the call of a producer to the consumer."""
    topic = await place.topic()
    producer = AIOKafkaProducer(bootstrap_servers=place.kafka.bootstrap_servers, acks="all", enable_idempotence=True)
    await producer.start()

    async def send(key: str, payload: bytes) -> float:
        begin = time.time()
        await producer.send(topic, payload, key.encode())
        return begin

    try:
        return await latency(place, topic, by_calls([send] * CLIENTS, rate), seconds)
    finally:
        await producer.stop()


def _p50(rounds: list[Figures]) -> list[float]:
    return [each["p50_ms"] for each in rounds]


async def latency(place: Place, topic: str, commit: Commit, seconds: float, uncounted: float = UNCOUNTED) -> Figures:
    """Commit events for `seconds` after some that do not count, and wait for each at a consumer of the topic.

    An event may reach the consumer before COMMIT has returned to its writer; its latency is below 0 then.
    """
    uncounted = min(uncounted, seconds)
    with tempfile.TemporaryDirectory(prefix="bench-latency-") as folder:
        async with Arrivals(place, topic, Path(folder)) as arrivals:
            committed = await commit(seconds + uncounted)
            arrived = await arrivals.of(set(committed))
    begin = min(committed.values()) + uncounted
    waits = sorted((arrived[name] - at) * 1000 for name, at in committed.items() if at >= begin)
    return {
        "events": len(waits),
        "events_per_second": len(waits) / max(max(committed.values()) - begin, 1e-3),
        "p50_ms": statistics.median(waits),
        "p99_ms": waits[int(len(waits) * 0.99)],
        "max_ms": waits[-1],
        "before_commit_returned": sum(wait < 0 for wait in waits),
    }
