"""What one bad event, many of them, or a topic that does not exist, cost the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click
from aiokafka import AIOKafkaProducer

from relay.local import create_topic
from tests.bench.command import output, run
from tests.bench.drain import speed
from tests.bench.figures import Figures, ratios
from tests.bench.place import LOOK_INTERVAL, PARTITIONS, sql_key
from tests.bench.report import Finding, Report, interleave
from tests.bench.warming import warm_up, warmed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.place import Outbox, Place

KEYS = 1_000
HUGE_BYTES = 5_000_000
MAX_EVENT_BYTES = 10_000_000
TOPICS = 10
"""Those that are there either way."""
INDEXED_BYTES = 8192
"""A record of so much gets an index entry if one is before it: more than Kafka's `log.index.interval.bytes`, 4096."""
DRAIN_SECONDS = 600


async def measure_bad_event(place: Place, events: int, rounds: int) -> Report:
    """A backlog with one event of 5 MB in it, in turn with rounds without."""
    await warm_up(place)
    series = await interleave(
        rounds,
        {
            "without": lambda: bad_event(place, events, bad=False),
            "bad": lambda: bad_event(place, events, bad=True),
        },
    )
    what = "A backlog with an event of 5 MB in its middle that its topic does not take, against none"
    findings = [Finding("Speed of the others beside one bad event", ratios(series["bad"], series["without"]), "", 0.9)]
    return Report("bad-event", what, {"events": events}, series, findings, machine=place.machine)


async def measure_missing_topic(place: Place, events: int, rounds: int) -> Report:
    """A backlog for eleven topics that are all there, in turn with the same while one is missing."""
    await warm_up(place)
    series = await interleave(
        rounds,
        {
            "all there": lambda: missing_topic(place, events, missing=False),
            "one missing": lambda: missing_topic(place, events, missing=True),
        },
    )
    what = f"A backlog for {TOPICS} topics and one that is there or missing; the figures are those of the {TOPICS}"
    ratio = ratios(series["one missing"], series["all there"])
    findings = [Finding("Speed of ten topics' events beside a missing eleventh topic", ratio, "", 0.9)]
    return Report("missing-topic", what, {"events": events}, series, findings, machine=place.machine)


async def measure_refused_events(place: Place, events: int, rounds: int) -> Report:
    """A backlog of which every other event is refused by Kafka for what is in it."""
    await warm_up(place)
    series = await interleave(rounds, {"every other one": lambda: refused_events(place, events)})
    rounds_of_it = series["every other one"]
    findings = [
        Finding(
            "Refused events that are recorded as failed, while as many good ones are delivered",
            [each["failed_per_second"] for each in rounds_of_it],
            "/s",
            200,
        ),
        Finding("Good events beside them", [each["events_per_second"] for each in rounds_of_it], "/s", 200),
    ]
    what = "A backlog of which every other event has no key, for a compacted topic, so that Kafka refuses it"
    return Report("refused-events", what, {"events": events}, series, findings, machine=place.machine)


@click.command
@click.option("--events", default=200_000, show_default=True, help="In 1,000 keys.")
@click.option("--rounds", default=5, show_default=True)
@warmed
@output
def bad_event_command(events: int, rounds: int, warm_up: float, json_file: Any, picture: Path | None) -> None:
    """A backlog with one event of 5 MB that its topic does not take, in turn with rounds without it."""
    run(lambda place: measure_bad_event(place, events, rounds), json_file, picture, warm_up)


@click.command
@click.option("--events", default=220_000, show_default=True, help="For eleven topics.")
@click.option("--rounds", default=5, show_default=True)
@warmed
@output
def missing_topic_command(events: int, rounds: int, warm_up: float, json_file: Any, picture: Path | None) -> None:
    """A backlog for eleven topics that are all there, in turn with the same while one is missing."""
    run(lambda place: measure_missing_topic(place, events, rounds), json_file, picture, warm_up)


@click.command
@click.option("--events", default=20_000, show_default=True, help="Half of them are refused.")
@click.option("--rounds", default=3, show_default=True)
@output
def refused_events_command(events: int, rounds: int, json_file: Any, picture: Path | None) -> None:
    """A backlog of which Kafka refuses every other event for what is in it."""
    run(lambda place: measure_refused_events(place, events, rounds), json_file, picture)


async def refused_events(place: Place, events: int) -> Figures:
    """How fast the refused ones are recorded, and how fast the good ones are delivered beside them."""
    async with place.outbox() as outbox:
        topic = f"{outbox.topic}-compacted"
        await create_topic(
            place.kafka.bootstrap_servers, topic, partitions=PARTITIONS, configs={"cleanup.policy": "compact"}
        )
        await outbox.connection.execute(
            "INSERT INTO outbox.event (topic, key, payload)"
            f" SELECT $1, CASE WHEN i % 2 = 0 THEN convert_to({sql_key('$3::bigint')}, 'UTF8') END,"
            "        convert_to(rpad(i::text, 500, 'x'), 'UTF8') FROM generate_series(1, $2::bigint) AS i",
            topic,
            events,
            KEYS,
        )
        refused = events - events // 2
        failures = "SELECT count(*) FROM outbox.failure WHERE state = 'failed'"
        async with place.relay(outbox) as relay, asyncio.timeout(DRAIN_SECONDS):
            while await outbox.receipts() < events - refused or await outbox.connection.fetchval(failures) < refused:
                relay.check()
                await asyncio.sleep(LOOK_INTERVAL)
        seconds = await outbox.connection.fetchval(
            "SELECT extract(epoch FROM max(failed_at) - min(failed_at))::float8 FROM outbox.failure"
        )
        return {"failed_per_second": refused / max(seconds, 1e-3), **await speed(outbox)}


async def bad_event(place: Place, events: int, *, bad: bool) -> Figures:
    """A backlog in 1,000 keys; with `bad`, an event in its middle that the topic does not take, and its key waits."""
    async with place.outbox() as outbox:
        await outbox.connection.execute("SELECT outbox.set_max_event_bytes($1)", MAX_EVENT_BYTES)
        await outbox.fill(events // 2, KEYS)
        huge = None
        if bad:
            key = await outbox.connection.fetchval("SELECT key FROM outbox.event LIMIT 1")
            huge = await outbox.connection.fetchrow(
                "INSERT INTO outbox.event (topic, key, payload) VALUES ($1, $2, $3) RETURNING id, key",
                outbox.topic,
                key,
                b"x" * HUGE_BYTES,
            )
        await outbox.fill(events - events // 2, KEYS)
        held = 0
        if huge is not None:
            held = await outbox.connection.fetchval(
                "SELECT count(*) FROM outbox.event WHERE id > $1 AND key = $2", huge["id"], huge["key"]
            )
        figures = await _measure(place, outbox, events - held)
        failed = await outbox.connection.fetchval("SELECT count(*) FROM outbox.failure WHERE state = 'failed'")
        if failed != int(bad):
            raise RuntimeError(f"{failed} events failed")
        return figures


async def missing_topic(place: Place, events: int, *, missing: bool) -> Figures:
    """The same backlog for eleven topics either way; how fast the events of the first ten go."""
    async with place.outbox() as outbox:
        names = [f"{outbox.topic}-{number}" for number in range(TOPICS + 1)]
        there = names[:-1] if missing else names
        for name in there:
            await create_topic(place.kafka.bootstrap_servers, name, partitions=PARTITIONS)
        await _begin_indexes(place.kafka.bootstrap_servers, there)
        await outbox.fill(events, KEYS, topics=TOPICS + 1)
        # Of the events 1, 2, ..., those with a remainder of 10 are the last topic's.
        present = events - (events + 1) // (TOPICS + 1)
        return await _measure(place, outbox, present if missing else events, names[-1])


async def _begin_indexes(bootstrap_servers: str, topics: list[str]) -> None:
    """Make the broker write the first entry of each partition's indexes.

    It takes the system milliseconds each, and more with every round: for 120 partitions, seconds of a broker that
    answers nobody.
    """
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, acks="all")
    await producer.start()
    try:
        for _ in range(2):
            for topic in topics:
                sent = [await producer.send(topic, bytes(INDEXED_BYTES), partition=each) for each in range(PARTITIONS)]
                await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def _measure(place: Place, outbox: Outbox, events: int, but: str = "") -> Figures:
    """Until so many events have receipts; the speed of those of other topics than `but`."""
    async with place.relay(outbox) as relay, asyncio.timeout(DRAIN_SECONDS):
        while await outbox.receipts() < events:
            relay.check()
            await asyncio.sleep(LOOK_INTERVAL)
    if but:
        # A receipt is of one topic.
        await outbox.connection.execute(
            "DELETE FROM outbox.receipt AS r USING outbox.event AS e WHERE e.id = r.max_id AND e.topic = $1", but
        )
    return {"events": await outbox.receipts(), **await speed(outbox)}
