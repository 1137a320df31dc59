"""Many writers in every shape against the real stages on a real server; Kafka is played.

Prints its seed; RELAY_TEST_SEED repeats it, as far as a real server lets one repeat anything.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest

from relay.decide import known_ids
from relay.decide.lane_scan import LaneScan
from relay.decide.sweep_start import SweepStart
from tests.support.postgres.outbox import migrated
from tests.support.postgres.stress import StressedRelay, Writers, numbers_written, stressed_relay, until_settled

if TYPE_CHECKING:
    from collections.abc import Sequence

WRITERS = 28
SECONDS = 16.0


class Verdict(NamedTuple):
    """What became of the promises."""

    lost: int
    twice: int
    out_of_order: int


@pytest.fixture(autouse=True)
def _forgets_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_ids, "MANY_KNOWN", 0)
    monkeypatch.setattr(known_ids, "GROWTH", 0)


@pytest.fixture
def seed() -> int:
    """Of this run; printed when the test fails."""
    seed = int(os.environ.get("RELAY_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"RELAY_TEST_SEED={seed}")  # noqa: T201 to repeat a failure
    return seed


@pytest.mark.slow
async def test_nothing_is_lost_repeated_or_reordered_and_lanes_move_between_two_replicas(
    database: str, seed: int
) -> None:
    async with migrated(database):
        pass
    writers = Writers(database, seed)
    async with stressed_relay(database, seed, "first") as first, stressed_relay(database, seed, "second") as second:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(first.run())
            writing = tasks.create_task(writers.run(WRITERS, SECONDS))
            await asyncio.sleep(SECONDS / 4)
            tasks.create_task(second.run())
            await asyncio.sleep(SECONDS / 2)
            first.drain()
            await writing
            left = await until_settled(database, timeout=15)
            second.drain()
        verdict = judge(await numbers_written(database), [first, second])
        told = dict(writers.committed)
        sweeps = first.value("sweeps_total") + second.value("sweeps_total")
        print(f"{told}; {len(first.taken)} + {len(second.taken)} events, {sweeps:g} long sweeps")  # noqa: T201
        assert left == 0
        assert verdict == Verdict(0, 0, 0)
        assert min(len(first.taken), len(second.taken)) > 1000, "one of them had next to nothing to do"
        assert sweeps > 10, "no long sweeps: nothing is tested of them"
        assert min(told[kind] for kind in ("prepared", "many_subtransactions", "slow", "savepoint", "copy")) > 0


@pytest.mark.slow
async def test_a_scan_from_the_last_id_on_breaks_the_promise(
    database: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else the test above could not fail."""
    monkeypatch.setattr(LaneScan, "sweep_start", lambda self, ladder: SweepStart(self.taken_to, ()))
    async with migrated(database):
        pass
    async with stressed_relay(database, seed, "only") as relay, asyncio.TaskGroup() as tasks:
        tasks.create_task(relay.run())
        await Writers(database, seed).run(WRITERS, 4.0)
        await until_settled(database, timeout=1.5)
        relay.drain()
    assert judge(await numbers_written(database), [relay]).lost > 0


def judge(written: dict[str, int], relays: Sequence[StressedRelay]) -> Verdict:
    """Compare what was published, one replica after the other, with what the writers counted.

    A lane's owners follow one another, so first come all events of a key that one of them published.
    """
    published: dict[str, list[int]] = defaultdict(list)
    for relay in relays:
        for events in relay.published.values():
            for event in events:
                assert event.key is not None
                assert event.payload is not None
                published[event.key.decode()].append(int(event.payload))
    lost = twice = out_of_order = 0
    for key, last in written.items():
        numbers = published[key]
        lost += len(set(range(1, last + 1)) - set(numbers))
        twice += sum(count - 1 for count in Counter(numbers).values())
        out_of_order += sum(later < earlier for earlier, later in pairwise(numbers))
    assert set(published) <= set(written)
    return Verdict(lost, twice, out_of_order)
