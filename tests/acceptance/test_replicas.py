"""Several replicas share the lanes: restarted one by one, joined by another, cut off from the database."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest

from relay.postgres.admin.status import read_status
from relay.run.lasting import NOT_REACHED
from tests.support.kafka.arrivals import Arrivals
from tests.support.postgres.load import Load
from tests.support.postgres.writers import fill
from tests.support.proxies.proxy import Proxy
from tests.support.relay.replicas import Replicas
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place

LEASE = 6.0
FOUND_WITHIN = 3.5
"""Seconds after the end of a lease of twice that: less than its beat."""
NAMES = ("one", "two", "three")


@pytest.mark.slow
async def test_a_rolling_restart_under_load_repeats_nothing_and_leaves_no_gap(here: Place) -> None:
    async with Replicas(here, replica_lease=30, kafka_request_timeout=3) as replicas:
        for name in NAMES:
            # One after the other: who registers first owns one more.
            await (await replicas.start(name)).logged("lanes.claimed")
        await replicas.own(one=6, two=5, three=5)
        async with (
            Load(here.dsn, here.topic, rate=1_000) as load,
            Arrivals(here.bootstrap_servers, here.topic) as arrivals,
        ):
            await load.commit(1_000)
            began = time.monotonic()
            # As much time as the restarts will take: what the machine alone makes of the load.
            await asyncio.sleep(10)
            restarting = time.monotonic()
            for name in NAMES:
                await replicas.stop(name)
                relay = await replicas.start(name)
                await relay.logged("lanes.claimed")
            await load.commit(1_000)
            ended = time.monotonic()
            without, during = arrivals.longest_gap(began, restarting), arrivals.longest_gap(restarting, ended)
        await here.settled()
        await replicas.stop_all()

    assert await here.check_everything() == []
    assert during <= without + 10, f"a lane stood still for {during:.2f} s, without restarts for {without:.2f} s"


@pytest.mark.slow
async def test_a_second_replica_under_full_backlog_has_its_share_within_two_heartbeats(here: Place) -> None:
    events, lease = 150_000, 15.0
    await fill(here.connection, here.topic, events)
    # So fast that the buffer is full and the backlog lasts.
    settings = {"publish_events_per_second": 12_000, "buffer_max_events": 6_000}
    async with Replicas(here, replica_lease=lease, kafka_request_timeout=3, **settings) as replicas:
        await replicas.start("first")
        await here.receipts_reach(1_000)
        await replicas.start("second")
        await replicas.own(first=8, second=8)
        assert await here.receipts() < events * 0.9, "there was no backlog any more"
        seconds = await here.connection.fetchval(
            "SELECT extract(epoch FROM max(h.at) - max(r.started_at))::float8 FROM lane_history AS h"
            " JOIN outbox.replica AS r ON r.id = h.owner WHERE r.name = 'second'"
        )
        await here.settled(180)
        await replicas.stop_all()

    assert await here.check_everything() == []
    assert seconds <= 2 * lease / 3 + 0.5, f"it took {seconds:.1f} s"


@pytest.mark.slow
async def test_a_replica_that_never_reached_kafka_takes_no_lane_from_one_that_works(here: Place) -> None:
    async with (
        Proxy(_port_of(here.bootstrap_servers)) as line,
        Replicas(here, replica_lease=LEASE, kafka_request_timeout=3) as replicas,
        Load(here.dsn, here.topic, rate=500) as load,
    ):
        await line.refuse()
        await replicas.start("works")
        await replicas.own(works=16)
        wrong = await replicas.start("wrong", bootstrap_servers=f"127.0.0.1:{line.port}")

        async def told() -> bool:
            return [each.replica for each in (await read_status(here.connection)).put_off] == ["wrong"]

        await until("status says that it waits", told)
        # Longer than a beat, in which it would be noticed and have its share.
        before = await here.receipts()
        await here.receipts_reach(before + int(500 * LEASE))
        status = await read_status(here.connection)
        (waits,) = status.put_off
        assert waits.error == NOT_REACHED
        assert {each.name: (len(each.lanes), each.draining) for each in status.replicas} == {
            "works": (16, False),
            "wrong": (0, False),
        }
        assert await here.connection.fetchval("SELECT count(DISTINCT owner) FROM lane_history") == 1
        assert (await wrong.get("/livez"))[0] == 200

        await line.accept()
        await replicas.own(works=8, wrong=8)
        await wrong.ready()
        assert (await read_status(here.connection)).put_off == []
        await load.end()
        await here.settled()
        await replicas.stop_all()

    assert await here.check_everything() == []


@pytest.mark.slow
async def test_a_replica_that_never_reached_kafka_owns_the_lanes_until_another_can_publish(here: Place) -> None:
    await fill(here.connection, here.topic, 1_000)
    async with (
        Proxy(_port_of(here.bootstrap_servers)) as line,
        Replicas(here, replica_lease=LEASE, kafka_request_timeout=3) as replicas,
    ):
        await line.refuse()
        wrong_address = f"127.0.0.1:{line.port}"
        wrong = await replicas.start("wrong", bootstrap_servers=wrong_address)
        await replicas.own(wrong=16)
        await replicas.start("too", bootstrap_servers=wrong_address)
        await wrong.logged("kafka.waiting")

        async def taken() -> bool:
            return await wrong.metric("buffer_events") > 0

        await until("it has taken events", taken)
        await replicas.start("works")
        await replicas.own(works=16)
        await here.settled()

        await line.accept()

        async def shared() -> bool:
            return sorted((await replicas.owned()).values()) == [5, 5, 6]

        await until("all three have their share", shared)
        await replicas.stop_all()

    assert await here.check_everything() == []


@pytest.mark.slow
async def test_a_replica_that_postgres_does_not_answer_stops_at_its_leases_end_and_the_other_takes_over(
    here: Place,
) -> None:
    lease = 2 * LEASE
    async with (
        Proxy(urlsplit(here.dsn).port or 0) as line,
        Replicas(
            here, replica_lease=lease, kafka_request_timeout=3, postgres_connect_timeout=2, replica_reconcile="off"
        ) as replicas,
    ):
        # So slow that it would still have something to publish when its lease is over.
        cut_off = await replicas.start("cut_off", dsn=_by_way_of(line, here.dsn), publish_events_per_second=200)
        await replicas.start("other")
        await replicas.own(cut_off=8, other=8)
        await fill(here.connection, here.topic, 20_000)
        await here.receipts_reach(8_000)
        hit = await replicas.hit("cut off", "cut_off")
        line.hang()
        hung = time.monotonic()
        acknowledged = await cut_off.metric("published_events_total")
        await cut_off.logged("lease.lost")
        assert time.monotonic() - hung < lease + FOUND_WITHIN

        # One more that was on the wire then may still be acknowledged.
        await replicas.own(other=16)
        after = await cut_off.metric("published_events_total")
        assert after > acknowledged, "it had nothing to publish"
        assert await cut_off.metric("buffer_events") > 0
        assert max((await replicas.take_overs(hit)).values()) < lease + FOUND_WITHIN
        await here.settled()
        assert await cut_off.metric("published_events_total") == after, "it published after its lease"

        line.pass_on()
        await cut_off.logged("postgres.connected", 2)
        await replicas.own(cut_off=8, other=8)
        repeats = await here.check_everything()
        await replicas.duplicates_in_metrics(len(repeats))
        await replicas.stop_all()

    assert len(repeats) == replicas.duplicates_counted() > 0


@pytest.mark.slow
async def test_a_replica_that_postgres_refuses_until_its_lease_is_over_knows_that_it_lost_it(here: Place) -> None:
    async with (
        Proxy(urlsplit(here.dsn).port or 0) as line,
        Replicas(here, replica_lease=LEASE, kafka_request_timeout=3, postgres_connect_timeout=2) as replicas,
    ):
        refused = await replicas.start("refused", dsn=_by_way_of(line, here.dsn))
        await replicas.start("other")
        await replicas.own(refused=8, other=8)
        await fill(here.connection, here.topic, 1_000)
        await here.settled()
        await line.refuse()
        await refused.logged("postgres.lost")
        assert not refused.happened("lease.lost")
        await replicas.own(other=16)
        await refused.logged("lease.lost")

        await line.accept()
        await replicas.own(refused=8, other=8)
        await fill(here.connection, here.topic, 1_000)
        await here.settled()
        assert len(refused.happened("lease.lost")) == 1
        await replicas.stop_all()


def _port_of(bootstrap_servers: str) -> int:
    return int(bootstrap_servers.rpartition(":")[2])


def _by_way_of(proxy: Proxy, dsn: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")))
