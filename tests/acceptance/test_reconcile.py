"""A replica that ends without handing over its lanes: what it had published is found in Kafka, and not sent again."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import pytest

from relay.local import create_topic
from tests.acceptance.conftest import place
from tests.support.kafka.consumer import read_topic
from tests.support.postgres.load import Load
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.writers import fill
from tests.support.proxies.delayed_kafka import DelayedKafka
from tests.support.proxies.proxy import Proxy
from tests.support.relay.process import relay_run
from tests.support.relay.replicas import Replicas
from tests.support.servers import shared as servers
from tests.support.servers.shared import server_folder
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from relay.local import KafkaServer
    from tests.acceptance.conftest import Place
    from tests.support.relay.process import RelayProcess
    from tests.support.relay.replicas import Hit

EVENTS = 90_000
ROUNDS = 3


async def unrecorded(here: Place) -> set[int]:
    """Events that are in Kafka and have no receipt."""
    published = {record.id for record in await read_topic(here.bootstrap_servers, here.topic)}
    return published - {row["id"] for row in await here.connection.fetch(f"SELECT id FROM {DELIVERIES}")}


@pytest.mark.parametrize("mode", ["auto", "off"])
async def test_kill_9_under_load_repeats_nothing_and_off_repeats_what_was_in_flight(here: Place, mode: str) -> None:
    settings = {"replica_reconcile": mode, "publish_events_per_second": 20_000}
    in_flight: set[int] = set()
    found = 0.0
    await fill(here.connection, here.topic, EVENTS)
    for _ in range(ROUNDS):
        async with here.relay(**settings) as relay:
            await here.receipts_reach(await here.receipts() + 5_000)
            async with here.without_receipts():
                await more_is_published(here)
                found += await relay.metric("reconcile_found_events_total")
                await relay.kill()
        in_flight |= await unrecorded(here)
        await here.end_leases()
    async with here.relay(**settings) as relay:
        await here.settled()
        found += await relay.metric("reconcile_found_events_total")
        await relay.stop()

    repeated = await here.check_everything()
    assert in_flight, "nothing was in flight: this shows nothing"
    if mode == "off":
        assert {record.id for record in repeated} == in_flight
        assert found == 0
    else:
        assert not repeated
        assert found >= len(in_flight)


LEASE = 6.0
BULK = """
INSERT INTO outbox.event (topic, key, payload)
SELECT $1, convert_to('bulk-' || $2::int || '-' || i % 200, 'UTF8'), convert_to((i / 200 + 1) || ' of a bulk', 'UTF8')
FROM generate_series(0, 19999) AS i
"""
PAIR = {"replica_reconcile": "auto", "replica_lease": LEASE, "kafka_request_timeout": 2}


@pytest.mark.slow
async def test_the_busiest_owner_killed_again_and_again_beside_bulk_commits_repeats_nothing(here: Place) -> None:
    async with Replicas(here, **PAIR) as replicas:
        # One after the other: the first one gets the lane that is left over.
        await replicas.start("one")
        await replicas.own(one=16)
        await replicas.start("two")
        await replicas.own(one=8, two=8)
        await replicas.start("three")
        await replicas.own(one=6, two=5, three=5)
        found = 0.0
        async with Load(here.dsn, here.topic, rate=2_000) as load:
            for number in range(6):
                owned = await replicas.owned()
                busiest = max(owned, key=owned.__getitem__)
                victim = replicas.running[busiest]
                await here.connection.execute(BULK, here.topic, number)
                await on_the_wire(victim)
                # What it counted ends with it.
                found += await victim.metric("reconcile_found_events_total")
                hit = await replicas.kill(busiest)
                await replicas.start(busiest)
                await load.commit(2_000)
                await taken_over(replicas, hit)
        await here.settled(120)
        found += sum([await relay.metric("reconcile_found_events_total") for relay in replicas.running.values()])
        await replicas.stop_all()
    assert not await here.check_everything()
    assert found > 0, "nothing was in flight: this shows nothing"
    assert replicas.duplicates_counted() == 0


@pytest.mark.slow
async def test_a_replica_that_wakes_after_its_lease_has_repeated_nothing(
    fragile_here: Place, fragile_kafka: KafkaServer
) -> None:
    here = fragile_here
    async with Replicas(here, **PAIR) as replicas:
        paused = await replicas.start("paused")
        await replicas.start("other")
        await replicas.own(paused=8, other=8)
        async with Load(here.dsn, here.topic, rate=1_000) as load:
            await load.commit(2_000)
            await asyncio.to_thread(servers.pause, fragile_kafka)
            await load.commit(500)
            await on_the_wire(paused)
            await replicas.pause("paused")
            await asyncio.to_thread(fragile_kafka.resume)
            await load.commit(1_000)
        await here.settled()
        assert await replicas.owned() == {"other": 16}
        replicas.resume("paused")
        await paused.logged("lease.lost")
        await replicas.own(paused=8, other=8)
        await replicas.stop_all()
    repeated = await here.check_everything()
    assert not repeated
    assert replicas.duplicates_counted() == 0


async def test_replicas_that_are_restarted_one_by_one_leave_no_marker_and_ask_kafka_nothing(here: Place) -> None:
    async with Replicas(here, **PAIR) as replicas:
        for name in ("one", "two"):
            await replicas.start(name)
        await replicas.own(one=8, two=8)
        async with Load(here.dsn, here.topic, rate=1_000) as load:
            for name in ("one", "two", "one"):
                await load.commit(500)
                await replicas.stop(name)
                await replicas.start(name)
                await replicas.own(one=8, two=8)
        await here.settled()
        await replicas.stop_all()
        assert not any(relay.happened("reconcile.started") for relay in replicas.all)
    assert not await here.check_everything()
    assert await here.records() == await here.receipts(), "what is more are markers"
    assert await here.connection.fetchval("SELECT count(*) FROM outbox.tail") == 0


@pytest.fixture
async def delayed_here(database: str) -> AsyncIterator[tuple[Place, Proxy, str]]:
    """A place whose Kafka has a second address, which leads through a line that may hang."""
    with server_folder() as folder, DelayedKafka(folder / "kafka") as server:
        topic = f"test-{secrets.token_hex(6)}"
        await create_topic(server.bootstrap_servers, topic, partitions=4)
        await asyncio.to_thread(servers.wait_for_coordinator, server)
        async with (
            Proxy(server.behind_proxy, port=server.proxy_port) as line,
            place(database, server.bootstrap_servers, topic) as here,
        ):
            yield here, line, server.delayed_servers


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "off"])
async def test_bytes_that_arrive_after_the_take_over_are_refused_and_off_repeats_them(
    delayed_here: tuple[Place, Proxy, str], mode: str
) -> None:
    here, line, by_way_of_the_line = delayed_here
    await fill(here.connection, here.topic, 2_000)
    settings = {"replica_reconcile": mode, "publish_events_per_second": 1_000}
    async with relay_run(here.dsn, by_way_of_the_line, **settings) as victim:
        await here.receipts_reach(500)
        line.hang()
        await on_the_wire(victim)
        await victim.kill()
    await here.relay_is_gone()
    await here.end_leases()
    async with here.relay(replica_reconcile=mode) as relay:
        await here.settled()
        before = await here.records()
        line.pass_on()
        if mode == "off":

            async def arrived() -> bool:
                return await here.records() > before

            await until("the held bytes arrive", arrived, 20.0)
        else:
            # They reach the broker before what is published now.
            await here.connection.execute(BULK, here.topic, 0)
        await here.settled()
        await relay.stop()
    repeated = await here.check_everything()
    assert bool(repeated) == (mode == "off")


async def more_is_published(here: Place) -> None:
    before = await here.records()

    async def look() -> bool:
        return await here.records() > before

    await until("Kafka has more events", look)


async def on_the_wire(relay: RelayProcess) -> None:
    """Wait until it has handed events over that Kafka has not acknowledged."""

    async def look() -> bool:
        return await relay.metric("inflight_events") > 0

    await until("events are in flight", look)


async def taken_over(replicas: Replicas, hit: Hit) -> None:
    """Wait until all lanes of a replica that was hit have another owner."""

    async def look() -> bool:
        return float("inf") not in (await replicas.take_overs(hit)).values()

    await until(f"{len(hit.lanes)} lanes are taken over", look, 60.0)
