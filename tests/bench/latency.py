"""How long an event takes from commit to consumer."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import click
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from relay.enqueue import enqueue
from tests.bench.command import output, run
from tests.bench.place import WARM_UP_EVENTS
from tests.bench.report import Finding, Report, interleave
from tests.bench.usage import Usage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.figures import Figures
    from tests.bench.place import Outbox, Place

WRITERS = 8
WARM_UP = 3.0
"""Seconds at the beginning that do not count; no more than those that do."""
WARM_UP_FROM = 10.0
"""Seconds of a round from which on a backlog and one more round come first, and do not count: a broker that was just
started has no compiled code yet."""
ARRIVE_SECONDS = 60
PAYLOAD_BYTES = 500
SLOW_RATE = 10

Write: TypeAlias = Callable[[asyncpg.Connection, str, bytes], Awaitable[float]]
"""Commits one event, given a connection, the key and the payload; returns when COMMIT came back (perf_counter)."""


async def measure_latency(place: Place, rate: float, seconds: float, rounds: int) -> Report:
    """Rounds at `rate`, at 10/s with and without wake-up, and of a service that needs no relay, in turn."""
    if seconds >= WARM_UP_FROM:
        await place.warm_up(WARM_UP_EVENTS)
        await of_relay(place, rate, seconds)
    series = await interleave(
        rounds,
        {
            f"{rate:g}/s": lambda: of_relay(place, rate, seconds),
            f"{SLOW_RATE}/s": lambda: of_relay(place, SLOW_RATE, seconds),
            f"{SLOW_RATE}/s, wake-up": lambda: of_relay(place, SLOW_RATE, seconds, wake_up=True),
            f"{rate:g}/s, no relay": lambda: of_service(place, rate, seconds),
            f"{SLOW_RATE}/s, no relay": lambda: of_service(place, SLOW_RATE, seconds),
        },
    )
    steady, slow, woken, direct, slow_direct = series.values()
    findings = [
        Finding(f"Commit to consumer at {rate:g}/s, p50", _p50(steady), "ms", at_most=4),
        Finding(f"Commit to consumer at {rate:g}/s, p99", [each["p99_ms"] for each in steady], "ms", at_most=20),
        Finding(f"At {SLOW_RATE}/s with wake-up, p50", _p50(woken), "ms", at_most=4),
        Finding(f"At {SLOW_RATE}/s without wake-up, p50", _p50(slow), "ms"),
        Finding(f"Without a relay at {rate:g}/s: the service sends after COMMIT, p50", _p50(direct), "ms"),
        Finding(f"Without a relay at {SLOW_RATE}/s, p50", _p50(slow_direct), "ms"),
    ]
    what = "From the return of COMMIT until a consumer has the record, default settings"
    parameters: dict[str, object] = {"rate": rate, "seconds": seconds}
    bars = ("p50_ms", "p99_ms")
    return Report("latency", what, parameters, series, findings, bars=bars, machine=place.machine)


@click.command
@click.option("--rate", default=1_000.0, show_default=True, help="Events per second.")
@click.option("--seconds", default=15.0, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@output
def latency_command(rate: float, seconds: float, rounds: int, json_file: Any, picture: Path | None) -> None:
    """Commit to consumer at a steady rate, at 10/s with and without wake-up, and without a relay."""
    run(lambda place: measure_latency(place, rate, seconds, rounds), json_file, picture)


async def of_relay(place: Place, rate: float, seconds: float, *, wake_up: bool = False) -> Figures:
    """One round of the relay: an empty outbox, default settings."""
    async with place.outbox() as outbox, place.relay(outbox) as relay:
        async with Usage(place, outbox.connection, relay.pid) as usage:
            figures = await latency(
                place, outbox.dsn, outbox.topic, enqueue_one(outbox, wake_up=wake_up), rate, seconds
            )
            await usage.stop()
        return {**figures, "rss_mb": max(usage.rss), **await relay.loop_delay()}


async def of_service(place: Place, rate: float, seconds: float) -> Figures:
    """One round without a relay: the service commits the same, and sends to Kafka itself.

    It loses events whenever it dies in between; how fast it is, no relay can be.
    """
    async with place.outbox() as outbox:
        producer = AIOKafkaProducer(
            bootstrap_servers=place.kafka.bootstrap_servers, acks="all", enable_idempotence=True
        )
        await producer.start()
        enqueue = enqueue_one(outbox)

        async def write_and_send(connection: asyncpg.Connection, key: str, payload: bytes) -> float:
            committed = await enqueue(connection, key, payload)
            await producer.send(outbox.topic, payload, key.encode())
            return committed

        try:
            return await latency(place, outbox.dsn, outbox.topic, write_and_send, rate, seconds)
        finally:
            await producer.stop()


def enqueue_one(outbox: Outbox, *, wake_up: bool = False) -> Write:
    """Commit an event as a service does; with `wake_up` it then tells the relay."""

    async def write(connection: asyncpg.Connection, key: str, payload: bytes) -> float:
        async with connection.transaction():
            await enqueue(connection, outbox.topic, key=key, payload=payload)
        return time.perf_counter()

    async def write_and_wake(connection: asyncpg.Connection, key: str, payload: bytes) -> float:
        committed = await write(connection, key, payload)
        await connection.execute("SELECT outbox.wake_up()")
        return committed

    return write_and_wake if wake_up else write


def _p50(rounds: list[Figures]) -> list[float]:
    return [each["p50_ms"] for each in rounds]


async def latency(place: Place, dsn: str, topic: str, write: Write, rate: float, seconds: float) -> Figures:
    """Commit one event per transaction at `rate` a second, and wait for each at a consumer of the topic.

    The writers do not know of each other: the gaps between events are exponentially distributed, the same in each
    round. An event may reach the consumer before COMMIT has returned to its writer; its latency is below 0 then.
    """
    warm_up = min(WARM_UP, seconds)
    committed: dict[bytes, float] = {}
    arrived: dict[bytes, float] = {}
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=place.kafka.bootstrap_servers, auto_offset_reset="earliest")
    await consumer.start()
    consuming = asyncio.create_task(_consume(consumer, arrived))
    try:
        async with asyncio.TaskGroup() as writers:
            for writer in range(WRITERS):
                writers.create_task(_write(dsn, write, writer, rate / WRITERS, seconds + warm_up, committed))
        async with asyncio.timeout(ARRIVE_SECONDS):
            while not (committed.keys() <= arrived.keys() or consuming.done()):  # noqa: ASYNC110 the consumer stays plain
                await asyncio.sleep(0.05)
    finally:
        consuming.cancel()
        with suppress(asyncio.CancelledError):
            await consuming
        await consumer.stop()
    begin = min(committed.values()) + warm_up
    waits = sorted((arrived[name] - at) * 1000 for name, at in committed.items() if at >= begin)
    return {
        "events": len(waits),
        "events_per_second": len(waits) / max(max(committed.values()) - begin, 1e-3),
        "p50_ms": statistics.median(waits),
        "p99_ms": waits[int(len(waits) * 0.99)],
        "max_ms": waits[-1],
        "before_commit_returned": sum(wait < 0 for wait in waits),
    }


async def _write(
    dsn: str, write: Write, writer: int, rate: float, seconds: float, committed: dict[bytes, float]
) -> None:
    gaps = random.Random(writer)
    connection = await asyncpg.connect(dsn)
    try:
        due = begin = time.perf_counter()
        number = 0
        while (due := due + gaps.expovariate(rate)) < begin + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            name = f"{writer}-{number}".encode()
            committed[name] = await write(connection, f"order-{number % 1000:030}", name.ljust(PAYLOAD_BYTES))
            number += 1
    finally:
        await connection.close()


async def _consume(consumer: AIOKafkaConsumer, arrived: dict[bytes, float]) -> None:
    async for record in consumer:
        arrived.setdefault(record.value.rstrip(), time.perf_counter())
