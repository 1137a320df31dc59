"""Replicas killed and paused under load, again and again.

RELAY_TEST_CHAOS_SEED      the schedule to run; printed, so that a run that failed can be repeated
RELAY_TEST_CHAOS_SECONDS   for how long (45)
RELAY_TEST_CHAOS_RATE      events per second (1000)
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.postgres.load import Load
from tests.support.relay.replicas import Hit, Replicas

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.conftest import Place

SEED = int(os.environ.get("RELAY_TEST_CHAOS_SEED") or secrets.randbelow(1_000_000))
SECONDS = float(os.environ.get("RELAY_TEST_CHAOS_SECONDS") or 45)
RATE = int(os.environ.get("RELAY_TEST_CHAOS_RATE") or 1_000)
LEASE = 9.0
FOUND_WITHIN = 2.5 + LEASE + 5.0
"""Seconds after a lease's end in which its lanes are claimed: less than a beat, and while Kafka is asked what it had
published the replica that asks may be hit, too, so that another one begins anew."""
BUFFER = 4_000
NAMES = ("one", "two", "three", "four")


@pytest.fixture
async def replicas(here: Place) -> AsyncIterator[Replicas]:
    """Four of them, with a lease that ends in test time."""
    settings = {"replica_lease": LEASE, "kafka_request_timeout": 2, "buffer_max_events": BUFFER}
    async with Replicas(here, **settings) as replicas:
        for name in NAMES:
            await replicas.start(name)
        await replicas.own(**dict.fromkeys(NAMES, 4))
        yield replicas


@pytest.mark.proof
@pytest.mark.timeout(900 + SECONDS)
async def test_kill_9_every_few_seconds_and_pauses_beyond_the_lease_repeat_lose_and_reorder_nothing(
    here: Place, replicas: Replicas
) -> None:
    _tell(f"RELAY_TEST_CHAOS_SEED={SEED} RELAY_TEST_CHAOS_SECONDS={SECONDS:g} RELAY_TEST_CHAOS_RATE={RATE}")
    async with Load(here.dsn, here.topic, rate=RATE, seed=SEED) as load:
        chaos = _Chaos(replicas, random.Random(SEED))
        await chaos.run(SECONDS)
        _tell(f"{load.per_second:.0f} events/s, {[f'{hit.how} with {len(hit.lanes)} lanes' for hit in chaos.hits]}")
    await here.settled(120)
    # One that was killed or paused last may not hear a signal yet.
    for relay in replicas.running.values():
        await relay.ready()
    counted = replicas.duplicates_counted()
    await replicas.stop_all()

    assert await here.check_everything() == []
    assert counted == 0
    await _check_taken_over_in_time(replicas, chaos.hits)
    killed = sum(hit.how == "killed" for hit in chaos.hits)
    found = sum(line["found"] for relay in replicas.all for line in relay.happened("reconcile.done"))
    _tell(f"{found} found in Kafka, {killed} killed")
    assert killed >= SECONDS // 8


async def _check_taken_over_in_time(replicas: Replicas, hits: list[Hit]) -> None:
    """Whatever else is hit meanwhile: within the lease that was running, and less than a beat."""
    took = [(await replicas.take_overs(hit), hit) for hit in hits if hit.lanes]
    slowest = sorted((max(each.values()), hit.how, hit.at.isoformat()) for each, hit in took)
    _tell(f"{len(took)} take-overs, the slowest: {slowest[-3:]}")
    assert slowest[-1][0] <= LEASE + FOUND_WITHIN, slowest[-1]


def _tell(text: str) -> None:
    """For the report of a test that failed."""
    print(text)  # noqa: T201


class _Chaos:
    """Kills and pauses by a schedule that comes from the random numbers alone."""

    def __init__(self, replicas: Replicas, numbers: random.Random) -> None:
        self.hits: list[Hit] = []
        self._replicas = replicas
        self._numbers = numbers
        self._paused: str | None = None

    async def run(self, seconds: float) -> None:
        """Go on for so long; in the end all run again."""
        self._end = time.monotonic() + seconds
        # A stream of numbers each, so that the one's timing does not change the other's schedule.
        kills, pauses = (random.Random(self._numbers.random()) for _ in range(2))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._kill(kills))
            tasks.create_task(self._pause(pauses))

    async def _kill(self, numbers: random.Random) -> None:
        while True:
            await asyncio.sleep(numbers.uniform(2, 5))
            if time.monotonic() > self._end:
                return
            name = numbers.choice([name for name in NAMES if name != self._paused])
            self.hits.append(await self._replicas.kill(name))
            await asyncio.sleep(numbers.uniform(0, 1))
            await self._replicas.start(name)

    async def _pause(self, numbers: random.Random) -> None:
        while time.monotonic() < self._end:
            await asyncio.sleep(numbers.uniform(1, 3))
            name = numbers.choice(NAMES)
            if name not in self._replicas.running:
                continue
            self._paused = name
            try:
                self.hits.append(await self._replicas.pause(name))
                await asyncio.sleep(LEASE + numbers.uniform(1, 3))
            finally:
                self._replicas.resume(name)
                self._paused = None
