"""A replica that does not run for longer than its lease: paused by SIGSTOP, as by a host that stands still."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.postgres.load import Load
from tests.support.relay.replicas import Replicas
from tests.support.servers import shared as servers
from tests.support.waiting import until

if TYPE_CHECKING:
    from relay.local import KafkaServer
    from tests.acceptance.conftest import Place

LEASE = 10.0


@pytest.mark.slow
async def test_a_replica_that_wakes_after_its_lease_sends_nothing_more_and_counts_what_it_had_on_the_wire(
    fragile_here: Place, fragile_kafka: KafkaServer
) -> None:
    here = fragile_here
    # Otherwise the other one finds it all in Kafka, and there is nothing to count.
    off = {"replica_reconcile": "off"}
    async with Replicas(here, replica_lease=LEASE, kafka_request_timeout=2.5, **off) as replicas:
        paused = await replicas.start("paused")
        await replicas.start("other")
        await replicas.own(paused=8, other=8)
        async with Load(here.dsn, here.topic, rate=1_000) as load:
            await load.commit(2_000)
            await asyncio.to_thread(servers.pause, fragile_kafka)

            # On the wire of each partition is one batch, and behind it is one that is not.
            await load.commit(500)

            async def on_the_wire() -> bool:
                return await paused.metric("inflight_events") > 0

            await until("events are in flight", on_the_wire)
            hit = await replicas.pause("paused")
            await asyncio.to_thread(fragile_kafka.resume)
            await load.commit(1_000)
        # The other one has taken over, and published everything.
        await here.settled()
        assert await replicas.owned() == {"other": 16}
        before = await here.records()

        replicas.resume("paused")
        await paused.logged("lease.lost")
        await replicas.own(paused=8, other=8)
        assert await here.records() == before, "it published after it woke"

        repeats = await here.check_everything()
        await replicas.duplicates_in_metrics(len(repeats))
        await replicas.stop_all()

    assert len(repeats) == replicas.duplicates_counted() > 0
    lanes = await here.connection.fetch(
        "SELECT DISTINCT lane FROM outbox.event WHERE id = ANY($1::bigint[]) AND created_at < $2",
        [record.id for record in repeats],
        hit.at,
    )
    assert {row["lane"] for row in lanes} <= hit.lanes
