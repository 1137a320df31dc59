"""Events with an origin among those of scans in publish's hands: each origin hears what becomes of its events."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import pytest

from relay.decide.admission import Admission
from relay.decide.lane_scan import LaneScan
from relay.decide.republishing import Progress, ReplayRequest
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.event import with_origin
from relay.outcome import FailureKind, PublishError
from relay.retry import Backoff
from relay.settings import FailureSettings
from relay.stages.hold.failures import Failures
from relay.stages.hold.gate import Gate
from relay.stages.publish.line import withdrawn
from relay.stages.publish.queues import Topics
from relay.stages.publish.topic import Topic
from relay.stages.publish.unpublishable import Unpublishable
from relay.stages.republish.origin import LaneRepublish, Republished
from relay.stages.settle.outcomes import Delivered, Failed, Held, Outcomes
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event, ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.event import EventWithOrigin, PendingEvent
    from relay.stages.publish.faults import Faults
    from relay.stages.settle.outcomes import EventOutcome

NOW = datetime(2026, 5, 17, tzinfo=UTC)
LANE = 3
TOO_LARGE = PublishError(FailureKind.EVENT, "too large", "Large")


def live(id_: int, key: bytes | None = b"k") -> PendingEvent:
    return event(id_, lane=LANE, key=key)


class Bench:
    """A lane with a replay, a topic with one partition, and what refuses and records."""

    def __init__(self) -> None:
        self.outcomes = Outcomes()
        self.tenure = Tenure(Room(1_000, 1_000_000))
        self.gate = Gate(self.outcomes)
        self.gate.serve(self.tenure, lambda _: None)
        failures = Failures(
            gate=self.gate,
            outcomes=self.outcomes,
            settings=FailureSettings(),
            random=random.random,
            telemetry=Telemetry(),
        )
        self.unpublishable = Unpublishable(
            topics=Topics(hash_keys=lambda keys: [0] * len(keys), random=random.random, admission=Admission()),
            failures=failures,
            faults=cast("Faults", None),
            hand_in=lambda _: None,
        )
        self.topic = Topic("orders", lambda: Backoff(random.random), lambda keys: [0] * len(keys))
        (self.partition,) = self.topic.resolved(1)
        self.state = LaneScan.take_over(LANE, 1, 0, 0, Snapshot.parse("10:10:"))
        self.tenure.lanes[LANE] = self.state
        self.republished = Republished()
        request = ReplayRequest(7, "orders", None, NOW, NOW, 0.0, 1_000, dict.fromkeys(range(16), 0))
        self.replay = LaneRepublish(request, self.state, Progress(1_000, 0), self.republished)

    def again(self, *numbers: int, key: bytes | None = b"k") -> list[EventWithOrigin]:
        """Events that the replay has handed in."""
        events = [with_origin(event(number, lane=LANE, key=key), self.replay) for number in numbers]
        self.replay.handed_in(events)
        return events

    def acknowledged(self, events: Sequence[PendingEvent], base_offset: int = 100) -> None:
        """Kafka has a record batch."""
        self.outcomes.acknowledged(Delivered(self.tenure, list(events), 2, base_offset), with_origins=True)

    def fail(self, event: PendingEvent) -> None:
        """An event is refused alone."""
        self.unpublishable.fail(self.tenure, self.topic, self.partition, event, TOO_LARGE)

    async def recorded(self) -> list[EventOutcome]:
        """What is to be recorded, of all kinds."""
        found: list[EventOutcome] = []
        while self.outcomes.events:
            taken = await self.outcomes.take(1_000)
            self.outcomes.settled(taken)
            found += taken
        return found

    async def held(self) -> list[int]:
        """The events that are held back."""
        return [id_ for each in await self.recorded() if isinstance(each, Held) for id_ in ids(each.events)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_event_with_an_origin_is_equal_to_the_event(bench: Bench) -> None:
    assert with_origin(event(1), bench.replay) == event(1)


@pytest.mark.parametrize("with_origins", [False, True])
async def test_a_batch_without_such_events_is_recorded_as_it_is(bench: Bench, *, with_origins: bool) -> None:
    delivered = Delivered(bench.tenure, [live(1), live(2)], 2, 100)
    bench.outcomes.acknowledged(delivered, with_origins=with_origins)
    (recorded,) = await bench.recorded()
    assert recorded is delivered


@pytest.mark.parametrize("base", [100, -1])
async def test_receipts_of_live_events_keep_their_offsets_and_republished_ones_get_their_own(
    bench: Bench, base: int
) -> None:
    one, two, three = bench.again(1, 2, 3)
    bench.acknowledged([one, live(11), live(12), two, three, live(13)], base)
    assert [(ids(each.events), each.base_offset) for each in await bench.recorded() if isinstance(each, Delivered)] == [
        ([11, 12], base + 1 if base >= 0 else -1),
        ([13], base + 5 if base >= 0 else -1),
    ]
    landed = bench.republished.take_landed()
    offsets = [base, base + 3, base + 4] if base >= 0 else [-1] * 3
    assert [(each.event.id, each.partition, each.offset, each.error) for each in landed] == [
        (id_, 2, offset, None) for id_, offset in zip((1, 2, 3), offsets, strict=True)
    ]


def test_a_lane_is_not_given_back_before_its_republished_events_are_settled(bench: Bench) -> None:
    events = bench.again(1, 2)
    assert bench.state.unsettled == 2
    bench.acknowledged(events)
    assert bench.state.unsettled == 2
    landed = bench.republished.take_landed()
    assert len(landed) == 2
    for each in landed:
        each.replay.settled(each.event)
    assert bench.state.unsettled == 0
    assert bench.replay.progress.position == 2
    assert bench.republished.idle


async def test_a_republished_event_that_is_refused_fails_nothing_and_closes_no_key(bench: Bench) -> None:
    (refused,) = bench.again(1)
    bench.topic.route([live(11)])
    bench.fail(refused)
    assert await bench.recorded() == []
    assert not bench.tenure.closed_in(LANE)
    assert ids(list(bench.partition.waiting)) == [11]
    assert [(each.event.id, each.error) for each in bench.republished.take_landed()] == [(1, "Large: too large")]


async def test_a_live_event_that_fails_holds_back_live_ones_of_its_key_and_no_republished_one(bench: Bench) -> None:
    bench.topic.route([*bench.again(1, 2), live(11), *bench.again(3, key=b"other"), live(12)])
    bench.fail(live(10))
    assert await bench.held() == [11, 12]
    assert ids(list(bench.partition.waiting)) == [3]
    assert bench.replay.progress.cursor == 0, "what was taken out is not read again"
    assert bench.state.replaying == 1


async def test_events_of_its_key_that_wait_for_the_topics_partitions_are_held_back_too(bench: Bench) -> None:
    bench.topic.route([live(11)])
    bench.topic.unresolve()
    bench.topic.route([*bench.again(1), live(12), live(13, b"other"), live(14)])
    bench.fail(live(10))
    assert await bench.held() == [11, 12, 14]
    assert ids(list(bench.topic.unrouted)) == [13]


async def test_a_topic_that_is_paused_gives_republished_events_back_to_be_read_again(bench: Bench) -> None:
    bench.topic.route([*bench.again(1, 2), live(11)])
    bench.gate.close("orders", bench.topic.withdraw())
    assert await bench.held() == [11]
    assert (bench.replay.progress.cursor, bench.state.replaying, bench.republished.idle) == (0, 0, True)


async def test_a_failure_of_a_live_event_is_recorded_while_a_replay_is_under_way(bench: Bench) -> None:
    bench.again(1)
    bench.fail(live(10))
    assert [type(each) for each in await bench.recorded()] == [Failed]


async def test_the_replay_hears_of_what_landed_and_of_what_came_back(bench: Bench) -> None:
    one, two = bench.again(1, 2)
    bench.acknowledged([one])
    await asyncio.wait_for(bench.republished.changed.wait(), 30)
    bench.republished.changed.clear()
    assert ids(withdrawn([two, live(11)])) == [11]
    await asyncio.wait_for(bench.republished.changed.wait(), 30)
