"""How long new events wait while what committed late is looked for: a transaction that was long, or a large one."""

from __future__ import annotations

import asyncio
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import asyncpg
import click

from relay.keys import lane_of_key
from tests.bench.command import output, run
from tests.bench.committing import by_pgbench
from tests.bench.latency import latency
from tests.bench.place import Outbox
from tests.bench.report import Finding, Report, interleave
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.committing import Insert
    from tests.bench.figures import Figures
    from tests.bench.place import Place

RATE = 200
"""New events per second, of other keys and another topic."""
BEFORE = 2.0
"""Seconds of them that do not count, and then those until the writer commits."""
PART = 50_000
"""Events that pass in one transaction."""
PAYLOAD_BYTES = 100
FEW = 10
"""Events of the transaction that is long and not large."""
LONGEST = 900.0
"""Seconds until what passed has been delivered."""
LOOK_INTERVAL = 0.5
KEYS = 1_000
"""Of the transaction, and of what passes it."""
NEW_KEYS = 100
"""Of the new events where all else has one key: none is of its lane."""

INSERT = """
INSERT INTO outbox.event (topic, key, payload)
SELECT $1, convert_to('late-' || (i % $4::bigint), 'UTF8'), convert_to(rpad(i::text, $3::int, 'x'), 'UTF8')
FROM generate_series(1, $2::bigint) AS i
"""


async def measure_late_commit(place: Place, passed: int, own: int, seconds: float, rounds: int) -> Report:
    """Rounds of a long transaction that others pass, of a large one, and of a large one with one key, in turn."""
    series = await interleave(
        rounds,
        {
            "long": lambda: of_late_commit(place, FEW, passed, seconds),
            "large": lambda: of_late_commit(place, own, 0, seconds),
            "one key": lambda: of_late_commit(place, own, 0, seconds, keys=1),
        },
    )
    long, large, one_key = series.values()
    findings = [
        Finding(f"{name}, {figure}", [each[f"{figure}_ms"] / 1000 for each in rounds_of], "s", at_most=most)
        for name, rounds_of in (
            (f"New events behind a transaction that {passed:,} ids passed", long),
            (f"New events behind a commit of {own:,} events", large),
            (f"New events in other lanes than {own:,} events of one key", one_key),
        )
        for figure, most in (("p50", None), ("p99", None), ("max", 1))
    ]
    what = f"{RATE} new events/s of other keys for {seconds:g} s, while a transaction commits"
    parameters: dict[str, object] = {"passed": passed, "own": own, "seconds": seconds}
    bars = ("p50_ms", "p99_ms")
    return Report("late-commit", what, parameters, series, findings, bars=bars, machine=place.machine)


@click.command
@click.option("--passed", default=5_000_000, show_default=True, help="Ids that pass the long transaction.")
@click.option("--own", default=1_000_000, show_default=True, help="Events of the large transaction.")
@click.option("--seconds", default=30.0, show_default=True)
@click.option("--rounds", default=1, show_default=True)
@output
def late_commit_command(
    passed: int, own: int, seconds: float, rounds: int, json_file: Any, picture: Path | None
) -> None:
    """Commit a transaction that was open for long, and a large one, beside new events of other keys."""
    run(lambda place: measure_late_commit(place, passed, own, seconds, rounds), json_file, picture)


def _in_other_lanes(outbox: Outbox) -> Insert:
    lane = lane_of_key(b"late-0")
    others = (key for number in count() if lane_of_key((key := f"other-{number}").encode()) != lane)
    names = ", ".join(f"'{key}'" for key in islice(others, NEW_KEYS))
    return lambda _, payload: outbox.insert(f"(ARRAY[{names}])[1 + :order % {NEW_KEYS}]", payload)


async def of_late_commit(place: Place, own: int, passed: int, seconds: float, keys: int = KEYS) -> Figures:
    """One round: `own` events of a transaction during which `passed` others are committed and delivered.

    With one key, the new events are all of other lanes.
    """
    topic, other = await place.topic(), await place.topic()
    async with place.outbox(topic) as outbox, place.relay(outbox):
        writer = await asyncpg.connect(outbox.dsn)
        try:
            transaction = writer.transaction()
            await transaction.start()
            await writer.execute(INSERT, topic, own, PAYLOAD_BYTES, keys)
            for _ in range(0, passed, PART):
                await outbox.connection.execute(INSERT, topic, PART, PAYLOAD_BYTES, keys)

            async def delivered() -> bool:
                return await outbox.receipts() >= passed

            await until(f"{passed} receipts", delivered, LONGEST, LOOK_INTERVAL)
            new = Outbox(outbox.connection, outbox.dsn, other)
            commit_new = by_pgbench(new.dsn, new.insert if keys > 1 else _in_other_lanes(new), RATE)

            async def commit_late() -> None:
                await asyncio.sleep(2 * BEFORE)
                await transaction.commit()

            async def commit(for_seconds: float) -> dict[str, float]:
                late = asyncio.create_task(commit_late())
                try:
                    return await commit_new(for_seconds)
                finally:
                    await late

            return await latency(place, other, commit, seconds, BEFORE)
        finally:
            await writer.close()
