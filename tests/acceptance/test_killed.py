"""kill -9 of the relay in the middle of its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.kafka.consumer import read_topic
from tests.support.postgres.receipts import DELIVERIES
from tests.support.postgres.writers import fill
from tests.support.promises import repeats

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place

EVENTS = 100_000


@pytest.mark.slow
async def test_after_kill_9_amid_100_000_events_a_new_start_repeats_only_what_was_in_flight(here: Place) -> None:
    await fill(here.connection, here.topic, EVENTS)
    async with here.relay(publish_events_per_second=20_000, replica_reconcile="off") as relay:
        await here.receipts_reach(EVENTS // 4)
        await relay.kill()
    await here.relay_is_gone()
    receipts = await here.receipts()
    assert EVENTS // 4 <= receipts < EVENTS, "the kill came too late to be in the middle"
    published = await read_topic(here.bootstrap_servers, here.topic)
    assert not repeats(published)
    in_flight = {record.id for record in published} - {
        row["id"] for row in await here.connection.fetch(f"SELECT id FROM {DELIVERIES}")
    }

    await here.end_leases()
    async with here.relay(replica_reconcile="off") as relay:
        await here.settled()
        await relay.stop()

    repeated = await here.check_everything()
    assert {record.id for record in repeated} == in_flight
    assert len(repeated) == len(in_flight) <= 20_000, "more than the buffer holds"
