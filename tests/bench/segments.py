"""Old segments that go although one of their events failed: how long it takes, and how long a writer waits then."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import asyncpg
import click

from relay.postgres.connect import open_connection
from relay.postgres.flow.retiring import due_segments, retire_segment
from tests.bench.command import output, run
from tests.bench.report import Finding, Report, interleave

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.figures import Figures
    from tests.bench.place import Outbox, Place

WRITERS = 4
PAUSE = 0.005
"""Seconds between two commits of a writer."""
ALONE = 10.0
"""Seconds of writers without anything beside them."""
IDS_OF_A_RECEIPT = 400

EVENTS = """
INSERT INTO outbox.event (id, topic, key, payload)
SELECT n, $1, convert_to('order-' || n % 100000, 'UTF8'), convert_to(rpad(n::text, $4::int, 'x'), 'UTF8')
FROM generate_series($2::bigint, $3::bigint) AS n
"""
RECEIPTS = """
INSERT INTO outbox.receipt (max_id, min_id, base_offset, kafka_partition, replica, ids)
SELECT max(n), min(n), min(n), 0, gen_random_uuid(), string_agg(int4send((n - first)::int), '' ORDER BY n)
FROM (SELECT n, min(n) OVER (PARTITION BY n / $3) AS first FROM generate_series($1::bigint, $2::bigint) AS n
      WHERE n <> 1) AS named
GROUP BY n / $3
"""


async def measure_segments(place: Place, events: int, segment: int, payload_bytes: int, rounds: int) -> Report:
    """Rounds of writers alone, and beside the segments that are retired, one event of the oldest having failed."""
    (series,) = (
        await interleave(rounds, {"retired": lambda: of_segments(place, events, segment, payload_bytes)})
    ).values()
    findings = [
        Finding("Longest commit of a writer without anything beside it", [each["alone_ms"] for each in series], "ms"),
        Finding(
            "Longest commit while segments are retired", [each["longest_ms"] for each in series], "ms", at_most=100
        ),
        Finding("The oldest segment is retired within", [each["oldest_seconds"] for each in series], "s"),
        Finding("Events that are left of it", [each["kept"] for each in series], at_least=1, at_most=None),
    ]
    what = f"{events:,} delivered events in segments of {segment:,} ids; the first one failed"
    parameters: dict[str, object] = {"events": events, "segment": segment, "payload_bytes": payload_bytes}
    bars = ("alone_ms", "longest_ms", "oldest_seconds")
    return Report("segments", what, parameters, {"retired": series}, findings, bars=bars, machine=place.machine)


@click.command
@click.option("--events", default=10_000_000, show_default=True)
@click.option("--segment", default=5_000_000, show_default=True, help="Ids per segment.")
@click.option("--payload-bytes", default=300, show_default=True)
@click.option("--rounds", default=1, show_default=True)
@output
def segments_command(
    events: int, segment: int, payload_bytes: int, rounds: int, json_file: Any, picture: Path | None
) -> None:
    """Retire old segments beside writers: how long these wait."""
    run(lambda place: measure_segments(place, events, segment, payload_bytes, rounds), json_file, picture)


async def of_segments(place: Place, events: int, segment: int, payload_bytes: int) -> Figures:
    """One round on an outbox of its own."""
    async with place.outbox() as outbox:
        await fill(outbox, events, segment, payload_bytes)
        waits: list[float] = []
        writers = [asyncio.create_task(write(outbox, waits)) for _ in range(WRITERS)]
        housekeeping = await open_connection(outbox.dsn, 10, "outbox-relay housekeeping")
        try:
            await asyncio.sleep(ALONE)
            alone = max(waits)
            waits.clear()
            oldest, *others = await due_segments(housekeeping, 0)
            began = time.monotonic()
            kept = await retire_segment(housekeeping, oldest, 0, 0)
            seconds = time.monotonic() - began
            for each in others:
                await retire_segment(housekeeping, each, 0, 0)
            longest = max(waits)
        finally:
            for each_writer in writers:
                each_writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)
            await housekeeping.close()
        left = await outbox.connection.fetch("SELECT lower_id, kept FROM outbox.segment ORDER BY lower_id LIMIT 1")
        if [tuple(row) for row in left] != [(1, True)]:
            raise AssertionError(f"the oldest segment is still there: {left}")
        return {
            "alone_ms": alone * 1000,
            "longest_ms": longest * 1000,
            "oldest_seconds": seconds,
            "kept": float(kept or 0),
            "transactions": float(len(waits)),
        }


async def fill(outbox: Outbox, events: int, segment: int, payload_bytes: int) -> None:
    """Write events with their receipts into segments, and let the first event fail."""
    connection = outbox.connection
    await connection.execute("DROP TABLE outbox.event_1, outbox.receipt_1")
    for lower in range(1, events + 2 * segment, segment):
        await connection.fetchval("SELECT outbox.add_segment($1, $2)", lower, lower + segment)
    part = 200_000
    for first in range(1, events + 1, part):
        last = min(first + part - 1, events)
        await connection.execute(EVENTS, outbox.topic, first, last, payload_bytes)
        await connection.execute(RECEIPTS, first, last, IDS_OF_A_RECEIPT)
    await connection.execute(
        "INSERT INTO outbox.failure (lane, id, topic, key, state, attempts, error, policy)"
        " SELECT lane, id, topic, key, 'failed', 1, 'MessageSizeTooLarge', 'block' FROM outbox.event WHERE id = 1"
    )
    above = (events + segment - 1) // segment * segment + 1
    await connection.execute("SELECT setval('outbox.event_id', $1)", above)
    await connection.execute("UPDATE outbox.lane SET position = $1", above)
    await connection.execute("VACUUM ANALYZE outbox.event")


async def write(outbox: Outbox, waits: list[float]) -> None:
    """Commit events one by one, and note how many seconds each took."""
    connection = await asyncpg.connect(outbox.dsn)
    try:
        number = 0
        while True:
            began = time.monotonic()
            await connection.execute(
                "INSERT INTO outbox.event (topic, key, payload) VALUES ($1, $2, 'x')",
                *(outbox.topic, b"order-%d" % number),
            )
            waits.append(time.monotonic() - began)
            number += 1
            await asyncio.sleep(PAUSE)
    finally:
        connection.terminate()
