"""How fast a backlog drains, at what cost, and whether memory stays flat."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.place import Outbox, Place


@dataclass(frozen=True)
class Drained:
    """One round."""

    events: int
    events_per_second: float
    """From the first receipt to the last, by the database's clock."""
    relay_cpu_us: float
    """Microseconds of CPU per event; the same for the servers."""
    postgres_cpu_us: float
    kafka_cpu_us: float
    rss_first_mb: float
    """When a tenth was done."""
    rss_most_mb: float


async def drain(place: Place, events: int) -> Drained:
    """Fill a new outbox, start one replica, and wait until everything has a receipt."""
    async with place.outbox() as outbox:
        await outbox.fill(events)
        return await _measure(place, outbox, events)


async def held_snapshot(place: Place, events: int) -> Drained:
    """The same while a REPEATABLE READ transaction that began before it stays open."""
    async with place.outbox() as outbox:
        await outbox.fill(events)
        holder = await asyncpg.connect(outbox.dsn)
        try:
            await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await holder.fetch("SELECT count(*) FROM outbox.event")
            return await _measure(place, outbox, events)
        finally:
            await holder.close()


async def _measure(place: Place, outbox: Outbox, events: int) -> Drained:
    postgres_before, kafka_before = place.server_cpu()
    rss: list[float] = []
    async with place.relay(outbox) as relay:
        while (settled := await relay.settled()) < events:
            if settled > events / 10:
                rss.append(relay.rss_mb())
            await asyncio.sleep(0.2)
        cpu = relay.cpu()
        rss.append(relay.rss_mb())
        postgres, kafka = place.server_cpu()
    seconds = await outbox.connection.fetchval(
        "SELECT extract(epoch FROM max(delivered_at) - min(delivered_at))::float8 FROM outbox.delivery"
    )
    return Drained(
        events=events,
        events_per_second=events / seconds,
        relay_cpu_us=cpu / events * 1e6,
        postgres_cpu_us=(postgres - postgres_before) / events * 1e6,
        kafka_cpu_us=(kafka - kafka_before) / events * 1e6,
        rss_first_mb=rss[0],
        rss_most_mb=max(rss),
    )


def spread(values: Sequence[float]) -> str:
    """Median, and least to most."""
    digits = 0 if statistics.median(values) >= 1000 else 2 if statistics.median(values) < 10 else 1
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"
