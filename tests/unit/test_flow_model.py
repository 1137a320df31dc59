"""The whole flow against a simulated PostgreSQL and Kafka: no schedule loses an event or turns two of a key round.

And histories that once did, each of which the model tells once its rule is taken out.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from relay.decide.held_back import Closed
from relay.decide.ladder import Ladder
from relay.decide.lane_scan import LaneScan
from relay.outcome import FailureKind
from relay.stages.hold import resume
from relay.stages.publish.partition import Partition
from relay.stages.publish.publish import Publish
from relay.stages.settle.outcomes import Outcomes
from tests.support.models.flow_model import LARGE, FlowModel
from tests.support.models.simulated_connection import Instant
from tests.support.models.simulated_flow import FlowRelay
from tests.support.models.simulated_kafka import ROOM_FOR_SMALL
from tests.support.models.simulated_postgres import Violation
from tests.unit.test_scan_model import SIZES, forgets_much, random_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relay.decide.snapshot import Snapshot
    from relay.stages.publish.topic import Topic
    from tests.support.models.simulated_postgres import Transaction

__all__ = ["forgets_much"]

LENGTH = 1_000

SHORT = 600
"""Length of schedules in which a mutant is looked for: what is found at all is found early."""

MOST_SCHEDULES = 3_000
"""Schedules among which one must catch a mutant. Of the four mutants each is caught by one of 100 to 250."""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no time but the schedule's."""

    async def sleep(seconds: float) -> None:
        await Instant()

    monkeypatch.setattr(resume, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(Partition, "back_off", lambda self: None)


def play_random_schedules(seeds: Iterable[int], batch_events: int, step_ids: int, length: int = LENGTH) -> None:
    for seed in seeds:
        FlowModel(random_schedule(seed, length), batch_events, step_ids).play()


@pytest.mark.parametrize(("batch_events", "step_ids"), SIZES)
def test_no_random_schedule_loses_or_reorders_an_event(batch_events: int, step_ids: int) -> None:
    play_random_schedules(range(60), batch_events, step_ids)


@pytest.mark.parametrize(("batch_events", "step_ids"), SIZES)
def test_no_random_schedule_of_a_topic_with_a_limited_rate_does_either(
    monkeypatch: pytest.MonkeyPatch, batch_events: int, step_ids: int
) -> None:
    monkeypatch.setattr(FlowRelay, "limited", True)
    play_random_schedules(range(60), batch_events, step_ids)


# Mutants: each takes out one rule.


def take_a_raised_floor_for_one_of_later_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 8: that of the transaction whose xid is a snapshot's xmax counts for all from xmax on."""

    def mutant(self: Ladder, snapshot: Snapshot) -> tuple[int, list[tuple[int, int]]]:
        floor = self.floor(snapshot.xmax)
        running = [(xid, self.floor(xid)) for xid in snapshot.running]
        return floor, [each for each in running if each[1] < floor]

    monkeypatch.setattr(Ladder, "floors", mutant)


def resume_beside_the_sweep_of_the_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last owner had in flight may not be found yet, and goes before what failed or is held."""
    monkeypatch.setattr(LaneScan, "taken_over", True)


def fail_beside_what_is_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier event of the key may be refused too, or be taken again by another owner."""
    turn = Publish.turn

    async def mutant(self: Publish, topic: Topic, partition: Partition, producer: Any) -> bool:
        tenure = self.topics.tenure
        assert tenure is not None
        if partition.may_send(producer, 0.0) and topic.limits.seem_exceeded_by(partition.waiting[0]):
            await self.unpublishable.fail_too_large(topic, partition, producer, tenure)
            return True
        return await turn(self, topic, partition, producer)

    monkeypatch.setattr(Publish, "turn", mutant)


def resume_before_what_is_being_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that comes back from Kafka while its topic is paused is held only once its row is committed."""
    monkeypatch.setattr(Outcomes, "holding", lambda self, lane: False)
    monkeypatch.setattr(Closed, "held_before", lambda self, event: False)


class History:
    """One relay that owns all lanes, and what happens to it step by step."""

    def __init__(self) -> None:
        self.model = FlowModel([], 100, 100)
        self.own_all()

    @property
    def relay(self) -> FlowRelay:
        (relay,) = self.model.relays
        return relay

    def own_all(self) -> None:
        self.relay.begin_beat()
        self.relay.finish("claim")

    def sweep_all(self) -> None:
        while any(lane.sweep for lane in self.relay.tenure.lanes.values()):
            self.relay.begin_sweep()
            self.relay.finish("sweep")

    def read(self) -> None:
        self.sweep_all()
        self.relay.begin_scan()
        self.relay.finish("scan")

    def settle(self) -> None:
        while self.relay.outcomes.waiting:
            self.relay.begin_recording(100)
            self.relay.finish("settle")

    def resume(self) -> None:
        self.relay.begin_resume()
        self.relay.finish("resume")

    def beat(self) -> None:
        self.relay.begin_beat()
        self.relay.finish("claim")

    def write(self, key: int, *sizes: int, transaction: Transaction | None = None) -> Transaction:
        """Enqueue events of a key, in a transaction of their own unless one is given."""
        writing = transaction or self.model.postgres.begin()
        assert self.model.postgres.lock_key(writing, key)
        for size in sizes:
            self.model.postgres.insert(writing, key, size)
        if transaction is None:
            self.model.postgres.commit(writing)
        return writing

    def send(self, key: int) -> None:
        """One turn of the key's partition."""
        self.relay.begin_turn(key)
        self.relay.finish(f"pump {key}")

    def land_and_answer(self, key: int) -> None:
        assert self.relay.producers.current is not None
        for _ in range(2):
            self.relay.producers.current.land(key)

    def kill(self) -> None:
        """The owner is gone, and nothing of what it had sent arrives; another one owns all lanes."""
        relay = self.relay
        relay.kill()
        self.model.kafka.left_behind.clear()
        self.model._gone(relay)
        self.own_all()

    def come_to_rest(self) -> None:
        self.model._come_to_rest()


def a_quiet_transaction_has_the_xid_that_is_xmax() -> None:
    history = History()
    postgres = history.model.postgres
    history.read()
    first, quiet, late = (postgres.begin() for _ in range(3))
    history.write(3, 1, transaction=late)
    history.write(0, 1, transaction=first)
    postgres.commit(first)
    history.read()
    snapshot = history.relay.tenure.lanes[0].snapshot
    assert snapshot is not None
    assert snapshot.xmax == quiet.xid
    history.relay.full.add(0)
    for _ in range(3):
        history.write(1, 1)
        history.read()
        history.relay.publish_all()
        history.settle()
        history.relay.begin_quiet_look()
        history.relay.finish("sweep")
    history.read()
    assert quiet.xid in history.relay.tenure.ladder._raised
    history.relay.full.clear()
    history.beat()
    postgres.commit(late)
    postgres.commit(quiet)
    history.come_to_rest()


def the_owner_is_killed_with_an_event_in_flight_and_a_later_one_held() -> None:
    history = History()
    history.write(0, 1, 1, 1)
    history.read()
    history.send(0)
    history.relay.watch.pause()
    history.settle()
    history.kill()
    history.resume()
    history.relay.publish_all()
    history.come_to_rest()


def an_event_is_too_large_while_an_earlier_one_is_in_flight_and_the_owner_is_killed() -> None:
    history = History()
    history.model.kafka.limit = ROOM_FOR_SMALL
    history.relay.believe(ROOM_FOR_SMALL)
    history.write(0, 1, 1, 1, LARGE)
    history.read()
    history.send(0)
    history.land_and_answer(0)
    history.send(0)
    history.send(0)
    history.settle()
    history.kill()
    history.come_to_rest()


def kafka_gives_an_event_back_while_its_topic_is_paused_and_it_is_resumed_at_once() -> None:
    history = History()
    history.write(0, 1, 1, 1)
    history.read()
    history.send(0)
    history.relay.watch.pause()
    history.settle()
    producer = history.relay.producers.current
    assert producer is not None
    producer.refuse(0, FailureKind.CLUSTER)
    history.relay.watch.unpause()
    history.resume()
    history.relay.publish_all()
    history.come_to_rest()


HISTORIES = [
    (a_quiet_transaction_has_the_xid_that_is_xmax, take_a_raised_floor_for_one_of_later_transactions),
    (
        the_owner_is_killed_with_an_event_in_flight_and_a_later_one_held,
        resume_beside_the_sweep_of_the_take_over,
    ),
    (
        an_event_is_too_large_while_an_earlier_one_is_in_flight_and_the_owner_is_killed,
        fail_beside_what_is_in_flight,
    ),
    (
        kafka_gives_an_event_back_while_its_topic_is_paused_and_it_is_resumed_at_once,
        resume_before_what_is_being_held_back,
    ),
]


@pytest.mark.parametrize("history", [history for history, _ in HISTORIES], ids=lambda history: history.__name__)
def test_nothing_is_lost_or_out_of_order_when(history: Callable[[], None]) -> None:
    history()


@pytest.mark.parametrize(("history", "mutate"), HISTORIES, ids=lambda value: value.__name__)
def test_the_model_says_what_is_wrong_when(
    history: Callable[[], None], mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    with pytest.raises(Violation):
        history()


@pytest.mark.parametrize("mutate", [mutate for _, mutate in HISTORIES], ids=lambda mutate: mutate.__name__)
def test_some_random_schedule_finds_by_itself_a_relay_that_would(
    mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    with pytest.raises(Violation):
        play_random_schedules(range(MOST_SCHEDULES), *SIZES[0], length=SHORT)


@pytest.mark.proof
@pytest.mark.parametrize(("batch_events", "step_ids"), SIZES)
def test_a_long_search_finds_nothing(batch_events: int, step_ids: int) -> None:
    """Other schedules than the short search. RELAY_TEST_SCHEDULES says how many, to look further than CI does."""
    schedules = int(os.environ.get("RELAY_TEST_SCHEDULES", "1500"))
    play_random_schedules(range(MOST_SCHEDULES, MOST_SCHEDULES + schedules), batch_events, step_ids)
