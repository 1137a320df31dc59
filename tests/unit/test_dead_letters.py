"""Dead letters that cannot be sent: they take the place of their events, and leave nothing behind."""

from __future__ import annotations

import gc
import random
import weakref
from typing import TYPE_CHECKING, cast

import pytest

from relay.decide.admission import Admission
from relay.decide.lane_scan import LaneScan
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.keys import LANES
from relay.outcome import FailureKind, PublishError
from relay.retry import Backoff
from relay.settings import FailureSettings, SettleSettings
from relay.stages.hold.failures import Failures
from relay.stages.hold.gate import Gate
from relay.stages.publish.partition import Partition
from relay.stages.publish.queues import Topics
from relay.stages.publish.topic import Topic
from relay.stages.publish.unpublishable import Unpublishable
from relay.stages.settle.outcomes import Delivered, Failed, Outcomes
from relay.stages.settle.settle import Settle
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event
from tests.support.models.simulated_connection import SimulatedConnection
from tests.support.models.simulated_postgres import SimulatedPostgres

if TYPE_CHECKING:
    from relay.event import PendingEvent
    from relay.stages.publish.faults import Faults
    from relay.stages.settle.outcomes import EventOutcome

LANE = 3


def new_topic(name: str) -> Topic:
    return Topic(name, lambda: Backoff(random.random), lambda keys: [0] * len(keys))


class Setting:
    """One lane with one event of `orders` that was taken, and fails under the policy `dead-letter`."""

    def __init__(self) -> None:
        self.postgres = SimulatedPostgres(LANES)
        self.outcomes = Outcomes()
        self.telemetry = Telemetry()
        self.handed_in: list[PendingEvent] = []
        self.errors: list[weakref.ref[PublishError]] = []
        self.tenure = Tenure(Room(1_000, 1_000_000))
        self.tenure.lanes[LANE] = LaneScan.take_over(LANE, 1, 0, 0, Snapshot(1, 1, frozenset()))
        self.postgres.lanes[LANE].owner, self.postgres.lanes[LANE].epoch = self.tenure.replica, 1
        self.gate = Gate(self.outcomes)
        self.gate.serve(self.tenure, self.handed_in.extend)
        failures = Failures(
            gate=self.gate,
            outcomes=self.outcomes,
            settings=FailureSettings(policy="dead-letter"),
            random=random.random,
            telemetry=self.telemetry,
        )
        self.unpublishable = Unpublishable(
            topics=Topics(hash_keys=lambda keys: [0] * len(keys), random=random.random, admission=Admission()),
            failures=failures,
            faults=cast("Faults", None),
            hand_in=self.handed_in.extend,
        )
        self.event = event(5, lane=LANE, topic="orders")
        self.tenure.lanes[LANE].taken.add(5)
        self.tenure.room.add(LANE, [self.event])

    def fail(self, event: PendingEvent, error: str, topic: Topic | None = None) -> None:
        partition = Partition(event.topic, 0, Backoff(random.random))
        refused = PublishError(FailureKind.EVENT, error)
        self.errors.append(weakref.ref(refused))
        self.unpublishable.fail(self.tenure, topic or new_topic(event.topic), partition, event, refused)

    def letter(self) -> PendingEvent:
        """Let the event fail; its dead letter, in publish's hands."""
        self.fail(self.event, "too large")
        return self.handed_in.pop()

    async def acknowledged(self, events: list[PendingEvent]) -> list[EventOutcome]:
        """What is to be recorded of a record batch."""
        self.outcomes.acknowledged(Delivered(self.tenure, events, 0, 100), with_origins=True)
        recorded: list[EventOutcome] = []
        while self.outcomes.events:
            recorded += (taken := await self.outcomes.take(100))
            self.outcomes.settled(taken)
        return recorded

    async def settle(self) -> None:
        settle = Settle(
            port=SimulatedConnection(self.postgres),
            outcomes=self.outcomes,
            tenure=self.tenure,
            settings=SettleSettings(),
            telemetry=self.telemetry,
        )
        while self.outcomes.events:
            taken = await self.outcomes.take(100)
            await settle.record(taken)
            self.outcomes.settled(taken)


@pytest.fixture
def setting() -> Setting:
    return Setting()


async def test_a_dead_letter_that_is_held_back_frees_the_room_that_its_event_took(setting: Setting) -> None:
    letter = setting.letter()
    topic = new_topic(letter.topic)
    topic.route([letter])
    setting.gate.close(topic.name, topic.withdraw())
    await setting.settle()
    assert setting.postgres.held == {(LANE, 5): (letter.topic, letter.key)}, (
        "it does not wait for the dead letters' topic"
    )
    assert (setting.tenure.room.events, setting.tenure.room.bytes) == (0, 0)


async def test_a_dead_letter_that_was_dropped_is_not_remembered(setting: Setting) -> None:
    letter = setting.letter()
    error = setting.errors[-1]
    assert error() is not None
    del letter
    gc.collect()
    assert error() is None


async def test_the_failure_is_recorded_when_kafka_has_the_letter_and_events_beside_it_get_receipts(
    setting: Setting,
) -> None:
    letter = setting.letter()
    before, after = event(1, topic=letter.topic), event(2, topic=letter.topic)
    first, failure, last = await setting.acknowledged([before, letter, after])
    assert isinstance(failure, Failed)
    assert failure.events == [setting.event]
    assert [(each.events, each.base_offset) for each in (first, last) if isinstance(each, Delivered)] == [
        ([before], 100),
        ([after], 102),
    ]


async def test_a_letter_that_is_refused_too_is_recorded_with_both_errors(setting: Setting) -> None:
    setting.fail(setting.letter(), "not allowed")
    (failure,) = await setting.outcomes.take(1)
    assert isinstance(failure, Failed)
    assert failure.events == [setting.event]
    assert str(failure.error) == "too large; its dead letter: not allowed"


async def test_an_event_whose_dead_letter_has_no_legal_topic_is_recorded_as_failed_at_once(setting: Setting) -> None:
    """Else the letter would wait for ever for a topic that nobody can make, and the failure with it."""
    long = "t" * 249
    setting.fail(setting.event._replace(topic=long), "too large")
    assert setting.handed_in == []
    (failure,) = await setting.outcomes.take(1)
    assert isinstance(failure, Failed)
    assert str(failure.error) == (
        f"too large; its dead letter: the topic name {long}.dead-letter has 261 characters "
        "and Kafka takes at most 249; shorten RELAY_FAILURE_DEAD_LETTER_SUFFIX, or set another policy for the topic"
    )


async def test_an_event_for_a_topic_that_is_not_allowed_has_no_dead_letter(setting: Setting) -> None:
    """The writer would else name a topic for the relay to write to after all."""
    topic = new_topic("orders")
    topic.refusal = PublishError(FailureKind.EVENT, "no event may go to topic orders", "TopicNotAllowed")
    setting.fail(setting.event, "no event may go to topic orders", topic)
    assert setting.handed_in == []
    (failure,) = await setting.outcomes.take(1)
    assert isinstance(failure, Failed)
    assert str(failure.error).endswith("no dead letter is sent for an event whose topic is not allowed")
