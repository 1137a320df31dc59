"""Kafka gone under load: killed and restarted, or hanging for a while."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest

from relay.local import KafkaServer
from tests.support.postgres.writers import Writers, fill
from tests.support.servers import shared as servers
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place
    from tests.support.relay.process import RelayProcess

BUFFER_EVENTS = 5_000
BACKLOG = 10_000
"""More than the buffer holds."""
BUFFER_BYTES = BUFFER_EVENTS * 2_000
"""More than these events can occupy there, each with 500 bytes of payload."""

LEAST_OUTAGE = float(os.environ.get("RELAY_TEST_OUTAGE_SECONDS", "0"))
"""An outage lasts until the relay has told everybody, and at least so many seconds. How long makes no difference to
anything but the age of what waits."""


@pytest.mark.slow
@pytest.mark.timeout(900 + LEAST_OUTAGE)
@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_nothing_is_lost_repeated_or_reordered_when_kafka_is_away_under_load(
    fragile_here: Place, fragile_kafka: KafkaServer, how: str
) -> None:
    here = fragile_here
    settings = {"kafka_request_timeout": 3, "health_max_outage": 1, "buffer_max_events": BUFFER_EVENTS}
    async with Writers(here.dsn, here.topic) as writers, here.relay(**settings) as relay:
        await here.receipts_reach(500)
        memory = relay.rss()
        lines, broken = len(relay.lines), writers.broken

        began = time.monotonic()
        await asyncio.to_thread(KafkaServer.kill if how == "killed" else servers.pause, fragile_kafka)
        await relay.logged("kafka.lost")
        await writers.commit(300)
        await fill(here.connection, here.topic, BACKLOG, payload_bytes=500)
        await says_that_kafka_is_away(relay)
        await buffer_is_full(relay)
        await writers.commit(300)
        await asyncio.sleep(max(0.0, LEAST_OUTAGE - (time.monotonic() - began)))
        assert relay.rss() - memory < 2 * BUFFER_BYTES
        # Once for each cause: that connections are refused may be known a moment later.
        # Housekeeping goes on, and may be told of, too.
        assert set(told_since(relay, lines)) - {"segment.created"} == {"kafka.lost"}
        causes = [line["error"] for line in relay.happened("kafka.lost")]
        assert len(causes) == len(set(causes))
        assert (await relay.get("/livez"))[0] == 200

        await asyncio.to_thread(fragile_kafka.start if how == "killed" else fragile_kafka.resume)
        await relay.logged("kafka.connected", 2)
        await here.settled(90)
        await relay.ready()
        await writers.commit(100)
        assert writers.broken == broken
        await relay.stop()
        # Lanes are released as they are settled, which may take more than one round.
        assert list(dict.fromkeys(told_since(relay, lines))) == [
            *("kafka.lost", "kafka.connected"),
            *("service.stopping", "lanes.released", "drain.done", "service.stopped"),
        ]
    async with here.relay() as relay:
        await here.settled()
        await relay.stop()

    assert await here.check_everything() == []


def told_since(relay: RelayProcess, lines: int) -> list[str]:
    """What it has logged since there were so many lines; how busy the machine is does not count.

    There, a broker that comes back may lead some partitions seconds before others, which is told as a topic's trouble.
    """
    busy = ("loop.stalled", "topic.troubled", "topic.resumed")
    return [line["happening"] for line in relay.lines[lines:] if line["happening"] not in busy]


async def says_that_kafka_is_away(relay: RelayProcess) -> None:
    """Wait until `/readyz` gives it as a reason."""

    async def said() -> bool:
        return any(reason.startswith("Kafka has been away for ") for reason in await relay.unready_because())

    await until("/readyz says that Kafka is away", said)


async def buffer_is_full(relay: RelayProcess) -> None:
    """Wait until the relay has taken as much as it may; more would be too much."""

    async def full() -> bool:
        events = await relay.metric("buffer_events")
        assert events <= BUFFER_EVENTS
        assert await relay.metric("buffer_bytes") < BUFFER_BYTES
        return events > BUFFER_EVENTS / 2

    await until("the buffer is full", full)
