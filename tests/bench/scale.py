"""What several replicas deliver together, and how much more where one of them waits for the broker.

A replica has one produce request under way, with a record batch for each partition that has something. With 12
partitions that is so much that 5 ms more for the round trip hardly slow it: it waits for the CPU, and on two cores a
second one has little to add. With one partition it waits for the broker, and each further replica has a request of its
own under way.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from relay.keys import LANES
from relay.local import create_topic
from relay.postgres.admin.migrate import migrate
from tests.bench.command import output, run
from tests.bench.figures import Figures, median, ratios
from tests.bench.place import KEYS, LOOK_INTERVAL, PARTITIONS, Outbox, sql_key
from tests.bench.process import Tool, cpu_of_tree
from tests.bench.report import Finding, Report, interleave
from tests.bench.storage import deliveries
from tests.bench.warming import BACKLOG, warmed
from tests.support.proxies.delayed_kafka import DelayedKafka

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.place import Place
    from tests.bench.process import RelayProcess

ROUND_TRIP = 0.005
"""Seconds added to each round trip between relay and broker."""
LONGER = f"{ROUND_TRIP * 1000:g} ms"
REPLICAS = (1, 2, 8)
LONGEST = 300.0
"""Seconds for the replicas to share the lanes, and again to drain."""
FILL = f"""
INSERT INTO outbox.event (topic, key, payload)
SELECT $1, convert_to({sql_key(str(KEYS))}, 'UTF8'),
       convert_to(rpad(i::text, 500, 'x'), 'UTF8')
FROM generate_series(1, $2::bigint) AS i
"""


async def measure_scale(place: Place, events: int, rounds: int) -> Report:
    """Rounds of 1, 2 and 8 replicas, and of 1 and 2 far from the broker, in turn."""
    async with AsyncExitStack() as exits:
        kafka = DelayedKafka(place.folder / "delayed")
        exits.push_async_callback(asyncio.to_thread, kafka.stop)
        await asyncio.to_thread(kafka.start)
        line = [
            sys.executable,
            "-m",
            "tests.support.proxies.proxy",
            str(kafka.behind_proxy),
            str(ROUND_TRIP / 2),
            str(kafka.proxy_port),
        ]
        await exits.enter_async_context(Tool(line, ok=(0, -signal.SIGTERM)))
        near = {str(n): partial(_drain, place, kafka, events, n) for n in REPLICAS}
        far = {f"{n}, far": partial(_drain, place, kafka, events, n, far=True) for n in (1, 2)}
        waiting = {
            f"{n}, far, 1 partition": partial(_drain, place, kafka, events // 4, n, far=True, partitions=1)
            for n in (1, 2)
        }
        # As `warm_up` does, at the broker that is used here.
        until = time.monotonic() + place.warm_up_seconds
        while time.monotonic() < until:
            await _drain(place, kafka, BACKLOG, 1)
        series = await interleave(rounds, {**near, **far, **waiting})
    best = max((str(n) for n in REPLICAS), key=lambda name: median(series[name], "events_per_second"))
    findings = [
        Finding("Two replicas against one", ratios(series["2"], series["1"]), at_least=1.1),
        Finding(f"Eight replicas against the best number ({best})", ratios(series["8"], series[best]), at_least=0.9),
        Finding(
            f"Two replicas against one, {LONGER} further from the broker, {PARTITIONS} partitions",
            ratios(series["2, far"], series["1, far"]),
        ),
        Finding(
            f"Two replicas against one, {LONGER} further from the broker, one partition",
            ratios(series["2, far, 1 partition"], series["1, far, 1 partition"]),
            at_least=1.7,
        ),
    ]
    what = (
        f"Draining a backlog of {events:,} events by several replicas; far: {LONGER} more for each round trip to Kafka"
    )
    return Report("scale", what, {"events": events}, series, findings, machine=place.machine)


@click.command
@click.option("--events", default=400_000, show_default=True, help="Backlog to drain.")
@click.option("--rounds", default=3, show_default=True)
@warmed
@output
def scale_command(events: int, rounds: int, warm_up: float, json_file: Any, picture: Path | None) -> None:
    """One, two and eight replicas; one and two with a longer way to the broker."""
    run(lambda place: measure_scale(place, events, rounds), json_file, picture, warm_up)


async def _drain(
    place: Place, kafka: DelayedKafka, events: int, replicas: int, *, far: bool = False, partitions: int = PARTITIONS
) -> Figures:
    """Commit a backlog at once, when so many replicas share the lanes and wait for it."""
    topic = f"bench-{secrets.token_hex(4)}"
    await create_topic(kafka.bootstrap_servers, topic, partitions=partitions)
    async with place.database() as (connection, dsn):
        await migrate(connection)
        outbox = Outbox(connection, dsn, topic)
        servers = kafka.delayed_servers if far else kafka.bootstrap_servers
        async with AsyncExitStack() as exits:
            relays: list[RelayProcess] = [
                await exits.enter_async_context(place.relay(outbox, RELAY_KAFKA_BOOTSTRAP_SERVERS=servers))
                for _ in range(replicas)
            ]
            await _shared(outbox, replicas)
            before = sum(cpu_of_tree(relay.pid) for relay in relays)
            await connection.execute(FILL, topic, events)
            async with asyncio.timeout(LONGEST):
                while sum([await relay.settled() for relay in relays]) < events:
                    for relay in relays:
                        relay.check()
                    await asyncio.sleep(LOOK_INTERVAL)
            cpu = sum(cpu_of_tree(relay.pid) for relay in relays) - before
        return {"events": events, "events_per_second": await _speed(outbox), "relay_cpu_us": cpu / events * 1e6}


async def _shared(outbox: Outbox, replicas: int) -> None:
    """Wait until each owns as many lanes as the others."""
    share = "SELECT count(*) FROM outbox.lane WHERE owner IS NOT NULL GROUP BY owner"
    async with asyncio.timeout(LONGEST):
        while [row[0] for row in await outbox.connection.fetch(share)] != [LANES // replicas] * replicas:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_INTERVAL)


async def _speed(outbox: Outbox) -> float:
    """Events per second by the receipts; not of the first fifth, while PostgreSQL is busy with the backlog itself."""
    seconds: float = await outbox.connection.fetchval(
        "SELECT extract(epoch FROM max(delivered_at)"
        " - percentile_disc(0.2) WITHIN GROUP (ORDER BY delivered_at))::float8"
        f" FROM {await deliveries(outbox.connection)}"
    )
    return 0.8 * await outbox.receipts() / max(seconds, 1e-3)
