"""An outage of Kafka is no event's fault: with a single attempt allowed, none is spent, however long it lasts."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.postgres.writers import Writers, fill

if TYPE_CHECKING:
    from relay.local import KafkaServer
    from tests.acceptance.conftest import Place

OUTAGE = float(os.environ.get("RELAY_TEST_OUTAGE_SECONDS", "15"))


@pytest.mark.slow
@pytest.mark.timeout(900 + OUTAGE)
async def test_an_outage_spends_no_attempt_and_holds_nothing_back(
    fragile_here: Place, fragile_kafka: KafkaServer
) -> None:
    here = fragile_here
    settings = {"failure_max_attempts": 1, "kafka_request_timeout": 3, "health_max_outage": 5}
    async with Writers(here.dsn, here.topic) as writers, here.relay(**settings) as relay:
        await here.receipts_reach(500)
        await asyncio.to_thread(fragile_kafka.kill)
        began = time.monotonic()
        await relay.logged("kafka.lost")
        await fill(here.connection, here.topic, 5_000)
        while time.monotonic() - began < OUTAGE:
            assert await failures_and_held(here) == (0, 0)
            await asyncio.sleep(0.5)
        assert (await relay.unready_because())[0].startswith("Kafka has been away for ")
        await asyncio.to_thread(fragile_kafka.start)
        await writers.commit(100)
        await writers.end()
        await here.settled(90)
        assert await failures_and_held(here) == (0, 0)
        await relay.ready()
        for happening in ("event.retrying", "event.failed", "events.held", "topic.troubled"):
            assert relay.happened(happening) == [], relay
        await relay.stop()
    assert await here.check_everything() == []


async def failures_and_held(here: Place) -> tuple[int, int]:
    """How many failures and held events there are."""
    row = await here.connection.fetchrow(
        "SELECT (SELECT count(*) FROM outbox.failure) AS failures, (SELECT count(*) FROM outbox.held) AS held"
    )
    return row["failures"], row["held"]
