"""How long an event takes from commit to consumer."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
from aiokafka import AIOKafkaConsumer

from relay.enqueue import enqueue

if TYPE_CHECKING:
    from tests.bench.place import Outbox, Place

WRITERS = 8
WARM_UP = 2.0
"""Seconds at the beginning that do not count."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the return of COMMIT to the consumer having the record."""

    events: int
    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float


async def latency(place: Place, rate: float, seconds: float) -> Latency:
    """Enqueue one event per transaction at `rate` a second; measure each."""
    committed: dict[bytes, float] = {}
    arrived: dict[bytes, float] = {}
    async with place.outbox() as outbox, place.relay(outbox):
        consumer = AIOKafkaConsumer(
            outbox.topic, bootstrap_servers=place.kafka.bootstrap_servers, auto_offset_reset="earliest"
        )
        await consumer.start()
        consuming = asyncio.create_task(_consume(consumer, arrived))
        try:
            await asyncio.gather(
                *(_write(outbox, writer, rate / WRITERS, seconds + WARM_UP, committed) for writer in range(WRITERS))
            )
            async with asyncio.timeout(30):
                while len(arrived) < len(committed):  # noqa: ASYNC110 the consumer's loop stays as plain as it is
                    await asyncio.sleep(0.05)
        finally:
            consuming.cancel()
            with suppress(asyncio.CancelledError):
                await consuming
            await consumer.stop()
    begin = min(committed.values()) + WARM_UP
    # An event may reach the consumer before COMMIT has returned to its writer.
    waits = sorted(max(0.0, arrived[key] - at) * 1000 for key, at in committed.items() if at >= begin)
    return Latency(
        events=len(waits),
        rate=len(waits) / seconds,
        p50_ms=statistics.median(waits),
        p99_ms=waits[int(len(waits) * 0.99)],
        max_ms=waits[-1],
    )


async def _write(outbox: Outbox, writer: int, rate: float, seconds: float, committed: dict[bytes, float]) -> None:
    connection = await asyncpg.connect(outbox.dsn)
    try:
        begin = time.perf_counter() + writer / (rate * WRITERS)
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
            name = f"{writer}-{number}".encode()
            async with connection.transaction():
                await enqueue(connection, outbox.topic, key=f"order-{number % 1000:030}", payload=name.ljust(500))
            committed[name] = time.perf_counter()
    finally:
        await connection.close()


async def _consume(consumer: AIOKafkaConsumer, arrived: dict[bytes, float]) -> None:
    async for record in consumer:
        arrived.setdefault(record.value.rstrip(), time.perf_counter())
