"""Signals: the drain, the second signal, the end of the grace period."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.postgres.writers import Writers, fill
from tests.support.relay.process import relay_run
from tests.support.servers import shared as servers
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from relay.local import KafkaServer
    from tests.acceptance.conftest import Place
    from tests.support.relay.process import RelayProcess

BACKLOG = 20_000
AT_ONCE = 15.0
"""Seconds to end without waiting for Kafka: closing a producer that gets no answer is bounded by 4 s."""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_under_load_drains_and_a_later_start_repeats_nothing(
    here: Place, number: signal.Signals
) -> None:
    await fill(here.connection, here.topic, BACKLOG)
    # Slow enough that the signal comes in the middle.
    paced = {"buffer_max_events": 4_000, "publish_events_per_second": 4_000}
    async with Writers(here.dsn, here.topic) as writers:
        async with here.relay(**paced) as relay:
            await here.receipts_reach(BACKLOG // 4)
            relay.signal(number)
            assert await relay.exit_code(25) == 0
        assert relay.happened("service.stopping")[0]["reason"] == number.name
        assert relay.happened("drain.done")
        assert relay.happened("service.stopped")[0]["abandoned_events"] == 0
        assert await here.records() == await here.receipts() < BACKLOG, "the signal came when all was done"
        assert await here.connection.fetchval("SELECT count(owner) FROM outbox.lane") == 0
        assert await here.connection.fetchval("SELECT count(*) FROM outbox.replica") == 0
        await writers.commit(100)

        async with here.relay() as relay:
            await writers.commit(100)
            await here.receipts_reach(BACKLOG)
            await relay.stop()
    async with here.relay() as relay:
        await here.settled()
        await relay.stop()

    assert await here.check_everything() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_before_it_has_begun_ends_it_with_0(tmp_path: Path, number: signal.Signals) -> None:
    # As process 1 of a container it would not even end: there a signal that nobody handles is ignored.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import sys

class Held:
    def find_spec(self, name, *_):
        if name == "relay.settings":
            open({str(pipe)!r}).read()

sys.meta_path.insert(0, Held())
"""
    )
    async with relay_run("postgresql://nobody/", "nobody:9092", code=tmp_path) as relay:

        async def importing_its_settings() -> int:
            try:
                return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                return 0

        writing = await until("the relay imports its settings", importing_its_settings)
        try:
            relay.signal(number)
        finally:
            # Only then: a signal that comes just before the read does not interrupt it, and is handled when it ends.
            os.close(writing)
        assert await relay.exit_code(10) == 0
        assert relay.lines == []


async def test_an_idle_relay_stops_at_once(here: Place) -> None:
    # So long a lease that its beat is not what ends the wait.
    async with here.relay(replica_lease=600) as relay:
        await relay.ready()
        began = time.monotonic()
        await relay.stop()
        assert time.monotonic() - began < 60


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", ["a second signal", "the end of the grace period"])
async def test_a_stop_that_cannot_drain_is_ended_and_what_was_abandoned_is_delivered_later(
    fragile_here: Place, fragile_kafka: KafkaServer, ended_by: str
) -> None:
    here = fragile_here
    await fill(here.connection, here.topic, 1_000)
    grace = 1.0 if ended_by == "the end of the grace period" else 60.0
    async with here.relay(stop_grace=grace) as relay:
        await here.receipts_reach(1_000)
        await asyncio.to_thread(servers.pause, fragile_kafka)
        abandoned = 500
        await hold_events(here, relay, abandoned)
        began = time.monotonic()
        relay.signal(signal.SIGTERM)
        await relay.logged("service.stopping")
        if ended_by == "a second signal":
            relay.signal(signal.SIGTERM)
            grace = 0
        assert await relay.exit_code(grace + AT_ONCE) == 0
        assert time.monotonic() - began >= grace
    stopped = relay.happened("service.stopped")[0]
    assert (stopped["abandoned_events"], stopped["level"]) == (abandoned, "warning")
    assert not relay.happened("drain.done")
    assert not relay.texts()
    # Nobody has to wait for the end of its lease.
    alive = "SELECT count(*) FROM outbox.replica WHERE lease_expires_at > clock_timestamp()"
    assert await here.connection.fetchval(alive) == 0

    await asyncio.to_thread(fragile_kafka.resume)
    async with here.relay() as relay:
        await here.settled()
        await relay.stop()
    assert await here.check_everything() == [], "what Kafka had of them was found"


async def hold_events(here: Place, relay: RelayProcess, count: int) -> None:
    """Enqueue events that Kafka does not acknowledge, and wait until the relay has taken them all."""
    await here.connection.execute(
        "INSERT INTO outbox.event (topic, key, payload)"
        " SELECT $1, convert_to('held-' || i % 50, 'UTF8'), convert_to(i / 50 + 1 || ' ', 'UTF8')"
        " FROM generate_series(0, $2::int - 1) AS i",
        here.topic,
        count,
    )

    async def taken() -> bool:
        return await relay.metric("buffer_events") == count and await relay.metric("inflight_events") > 0

    await until(f"the relay holds {count} events", taken)
