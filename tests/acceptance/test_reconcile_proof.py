"""Crashes at full load, beside writers at their worst: what was published is never published again.

RELAY_TEST_CRASH_SECONDS   for how long each run goes on (15)
RELAY_TEST_CRASH_SEED      of what the writers do and when replicas die; printed, so that a run can be repeated

With 300 seconds this takes a quarter of an hour, about.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
import time
from itertools import count, takewhile
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.acceptance.conftest import place
from tests.support.kafka.many import check_many
from tests.support.postgres.outbox import connected
from tests.support.postgres.stress import Writers
from tests.support.relay.process import environment
from tests.support.relay.replicas import Replicas
from tests.support.servers import shared as servers
from tests.support.servers.second_broker import FIRST, SECOND, SecondBroker, create_topic_on
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from relay.local import KafkaServer
    from tests.acceptance.conftest import Place
    from tests.support.relay.process import RelayProcess

pytestmark = pytest.mark.proof

SECONDS = float(os.environ.get("RELAY_TEST_CRASH_SECONDS") or 15)
SEED = int(os.environ.get("RELAY_TEST_CRASH_SEED") or secrets.randbelow(1_000_000))
WRITERS = 8
MANY = 20_000
BULK = """
INSERT INTO outbox.event (topic, key, payload)
SELECT $1, convert_to('bulk-' || $2::int || '-' || i % 200, 'UTF8'), convert_to((i / 200 + 1) || ' of a bulk', 'UTF8')
FROM generate_series(0, 19999) AS i
"""
SETTINGS = {"replica_lease": 6, "kafka_request_timeout": 2}
NAMES = ("one", "two", "three")


@pytest.mark.timeout(900 + 10 * SECONDS)
@pytest.mark.parametrize("mode", ["auto", "off"])
async def test_kill_9_of_the_busiest_owner_every_few_seconds_repeats_nothing_and_off_does(
    here: Place, mode: str
) -> None:
    """Of three replicas, and in the last third of the time of two."""
    async with Replicas(here, replica_reconcile=mode, **SETTINGS) as replicas:
        for name in NAMES:
            await replicas.start(name)
        await replicas_share(replicas)
        writers, killer = Writers(here.dsn, SEED, here.topic), Killer(replicas)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(writers.run(WRITERS, SECONDS))
            ending = asyncio.Event()
            bulk = tasks.create_task(commit_in_bulk(here, ending))
            await killer.kill_for(SECONDS * 2 / 3)
            await killer.retire(NAMES[-1])
            await killer.kill_for(SECONDS / 3)
            await writing
            if mode == "auto" and not killer.found:
                # Few kills in a short run: some may have hit where all had its receipt.
                await killer.kill_for(SECONDS)
            # A statement that is cancelled may be committed later.
            ending.set()
            await bulk
        await here.settled(600)
        await killer.count_found()
        await replicas.stop_all()

    checked = await check_many(here.connection, here.bootstrap_servers, here.topic)
    _tell(f"{mode}, seed {SEED}, {SECONDS:g} s: {killer}, {checked}, {dict(writers.committed)}")
    assert killer.kills
    assert min(writers.committed[kind] for kind in ("several", "savepoint", "prepared")) > 0
    if mode == "off":
        assert checked.repeats > 0, "nothing was in flight: this shows nothing"
    else:
        assert checked.repeats == 0
        assert killer.found > 0, "nothing was in flight: this shows nothing"
        assert replicas.duplicates_counted() == 0


async def test_a_replica_that_is_stopped_beyond_its_lease_with_20_000_in_flight_and_wakes_repeats_nothing(
    fragile_here: Place, fragile_kafka: KafkaServer
) -> None:
    here = fragile_here
    # At most two record batches of a partition are in flight.
    roomy = {"buffer_max_events": 3 * MANY, "kafka_record_batch_bytes": 900_000, "replica_reconcile": "auto"}
    async with Replicas(here, **SETTINGS, **roomy) as replicas:
        stopped = await replicas.start("stopped")
        await replicas.own(stopped=16)
        # What it publishes to is noted before.
        await here.connection.execute(BULK, here.topic, 0)
        await here.settled()
        await asyncio.to_thread(servers.pause, fragile_kafka)
        for number in range(1, 4):
            await here.connection.execute(BULK, here.topic, number)

        async def in_flight() -> bool:
            return await stopped.metric("inflight_events") >= MANY

        await until(f"{MANY} events are in flight", in_flight)
        await replicas.pause("stopped")
        await asyncio.to_thread(fragile_kafka.resume)
        other = await replicas.start("other")
        await replicas.own(other=16)
        await here.connection.execute(BULK, here.topic, 4)
        await here.settled()
        replicas.resume("stopped")
        await stopped.logged("lease.lost")
        await here.connection.execute(BULK, here.topic, 5)
        await replicas.own(other=8, stopped=8)
        await here.settled()
        await replicas.stop_all()
        found = sum(line["found"] for line in other.happened("reconcile.done"))
    checked = await check_many(here.connection, here.bootstrap_servers, here.topic)
    _tell(f"{checked}, {found} found in Kafka")
    assert checked.repeats == 0
    assert replicas.duplicates_counted() == 0


async def test_while_a_partition_of_a_dead_replica_has_no_leader_people_see_why_its_lanes_wait_and_then_they_go_on(
    own_folder: Path, own_kafka: KafkaServer, database: str
) -> None:
    topic = f"test-{secrets.token_hex(6)}"
    with SecondBroker(own_folder / "second", own_kafka) as second:
        await create_topic_on(own_kafka, topic, [FIRST], [SECOND], partitions=2)
        async with place(database, own_kafka.bootstrap_servers, topic) as here:
            async with here.relay(replica_name="dead", **SETTINGS) as dead:
                await here.connection.execute(BULK, here.topic, 0)
                await here.settled()
                await dead.kill()
            second.kill()
            await here.relay_is_gone()
            await here.end_leases()
            reason = f"partition 1 of {topic} has no leader"
            async with here.relay(replica_name="alive", **SETTINGS) as alive:
                await alive.logged("reconcile.held_up")
                assert (await alive.get("/readyz"))[1]["lanes_wait"] == f"replica dead: {reason}"
                shown = await status(here)
                assert f"ended, Kafka is asked what it had published: {reason}" in shown
                assert (
                    f"their events wait while Kafka is asked what it had published in 2 partitions: {reason}" in shown
                )
                await here.connection.execute(BULK, here.topic, 1)
                gave_up = await alive.logged("reconcile.gave_up", timeout=60)
                assert (gave_up["partition"], gave_up["reason"], gave_up["error"]) == (1, "waited", reason)
                await alive.logged("lanes.claimed")
                assert "lanes_wait" not in (await alive.get("/readyz"))[1]
                # Those of the partition that has a leader.
                await here.receipts_reach(MANY + 1, 60)
                await asyncio.to_thread(second.start)
                await here.settled(120)
                await alive.stop()
            assert (await check_many(here.connection, here.bootstrap_servers, topic)).repeats == 0


async def status(here: Place) -> str:
    """What people see, in one line."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "status"),
        env=environment(postgres_dsn=here.dsn) | {"COLUMNS": "1000"},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return " ".join(out.decode().split())


async def replicas_share(replicas: Replicas) -> None:
    """Wait until each owns its share of the lanes."""

    async def look() -> bool:
        owned = await replicas.owned()
        return len(owned) == len(NAMES) and max(owned.values()) <= -(-16 // len(NAMES))

    await until("each owns its share", look)


async def commit_in_bulk(here: Place, ending: asyncio.Event) -> None:
    """20,000 events in one transaction, again and again until the end, so that there is always a backlog."""
    async with connected(here.dsn) as connection:

        async def nearly_done() -> bool:
            pending: int = await connection.fetchval("SELECT count(*) FROM outbox.pending")
            return pending < 2 * MANY

        for number in takewhile(lambda _: not ending.is_set(), count()):
            await connection.execute(BULK, here.topic, number)
            await until("the backlog goes", nearly_done, 300, 0.5)


class Killer:
    """Kills the owner of the most lanes every few seconds, while it has events on the wire, and starts it again."""

    def __init__(self, replicas: Replicas) -> None:
        self.kills = 0
        self.found = 0.0
        """Events that were found in Kafka, by the counters of all processes."""
        self._replicas = replicas
        self._chance = random.Random(f"{SEED} kills")

    def __str__(self) -> str:
        return f"{self.kills} kills, {self.found:g} events found in Kafka"

    async def retire(self, name: str) -> None:
        """Kill it, and do not start it again."""
        self.found += await figure(self._replicas.running[name], "reconcile_found_events_total")
        await self._replicas.kill(name)
        self.kills += 1

    async def kill_for(self, seconds: float) -> None:
        """Go on for so long."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            await asyncio.sleep(self._chance.uniform(1, 3))
            name = await until("one has events on the wire", self._busiest, 60)
            await self._replicas.kill(name)
            await self._replicas.start(name)
            self.kills += 1

    async def count_found(self) -> None:
        """Count what those found that run until the end."""
        for relay in self._replicas.running.values():
            self.found += await figure(relay, "reconcile_found_events_total")

    async def _busiest(self) -> str:
        """Its name; nothing while it has nothing on the wire."""
        lanes = {name: await figure(relay, "lanes_owned") for name, relay in self._replicas.running.items()}
        name = max(lanes, key=lanes.__getitem__)
        victim = self._replicas.running[name]
        # Its counter ends with it.
        found = await figure(victim, "reconcile_found_events_total")
        if not lanes[name] or not await figure(victim, "inflight_events"):
            return ""
        self.found += found
        return name


async def figure(relay: RelayProcess, name: str) -> float:
    """A metric; 0 of a process that has just started."""
    try:
        return await relay.metric(name)
    except aiohttp.ClientConnectionError:
        assert not relay.ended, relay
        return 0.0


def _tell(text: str) -> None:
    """For the report."""
    print(text)  # noqa: T201
