"""Replayed events among live ones in publish's hands: told apart, whatever becomes of them."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from relay.decide.lane_scan import LaneScan
from relay.decide.republishing import Progress, ReplayRequest
from relay.decide.snapshot import Snapshot
from relay.event import EventTuple, PendingEvent
from relay.outcome import FailureKind, PublishError
from relay.retry import Backoff
from relay.settings import FailureSettings
from relay.stages.hold.failing import Failing
from relay.stages.publish.partition import Partition
from relay.stages.publish.topic import Topic
from relay.stages.republish.origin import LaneRepublish, Republished, RepublishedEvent
from relay.stages.room import Room
from relay.stages.settle.outcomes import Delivered, EventOutcome, Failed, Held, Outcomes
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = datetime(2026, 5, 17, tzinfo=UTC)


def live(id_: int, key: bytes | None = b"k") -> PendingEvent:
    return EventTuple(3, id_, uuid4(), "orders", key, b"x", "{}", None, 0, 10)


def request(action: int = 7, last_id: int = 1_000) -> ReplayRequest:
    return ReplayRequest(action, "orders", None, NOW, NOW, 0.0, last_id, dict.fromkeys(range(16), 0))


def lane(number: int = 3) -> LaneScan:
    return LaneScan.take_over(number, 1, 0, 0, Snapshot.parse("10:10:"))


class Bench:
    """A lane with a replay, and what failing and publish would report about its events."""

    def __init__(self) -> None:
        self.republished = Republished()
        self.outcomes = Outcomes()
        self.tenure = Tenure(Room(1_000, 1_000_000))
        self.failing = Failing(self.outcomes, self.republished, FailureSettings(), random.random, Telemetry())
        self.failing.begin(self.tenure, lambda _: None)
        self.state = lane()
        self.tenure.lanes[3] = self.state
        self.topic = Topic("orders", lambda: Backoff(random.random), lambda key: key[0])
        self.replay = LaneRepublish(request(), self.state, Progress(1_000, 0))

    def again(self, *ids: int, key: bytes | None = b"k") -> list[RepublishedEvent]:
        """Hand in replayed events."""
        events = []
        for id_ in ids:
            event = RepublishedEvent(*live(id_, key))
            event.replay = self.replay
            events.append(event)
        self.republished.handed_in(self.replay, events)
        return events

    def acknowledged(self, events: Sequence[PendingEvent], base_offset: int = 100) -> list[EventOutcome]:
        """What is to be recorded of a record batch."""
        return list(self.failing.records_of(Delivered(self.tenure, list(events), 2, base_offset)))

    async def recorded(self) -> list[EventOutcome]:
        """What failing recorded, of all kinds."""
        found: list[EventOutcome] = []
        while self.outcomes.events:
            taken = await self.outcomes.take(1_000)
            self.outcomes.settled(taken)
            found += taken
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_while_nothing_is_replayed_a_delivery_passes_through_as_it_is(bench: Bench) -> None:
    delivery = Delivered(bench.tenure, [live(1), live(2)], 2, 100)
    assert next(iter(bench.republished.acknowledged(delivery))) is delivery


@pytest.mark.parametrize("base", [100, -1])
def test_receipts_of_live_events_keep_their_offsets_and_replayed_ones_get_their_own(bench: Bench, base: int) -> None:
    one, two, three = bench.again(1, 2, 3)
    batch = [one, live(11), live(12), two, three, live(13)]
    found = bench.acknowledged(batch, base)
    assert [
        ([event[1] for event in each.events], each.base_offset) for each in found if isinstance(each, Delivered)
    ] == [
        ([11, 12], base + 1 if base >= 0 else -1),
        ([13], base + 5 if base >= 0 else -1),
    ]
    landed = bench.republished.take_landed()
    offsets = [base, base + 3, base + 4] if base >= 0 else [-1] * 3
    assert [(each.event.id, each.partition, each.offset, each.error) for each in landed] == [
        (id_, 2, offset, None) for id_, offset in zip((1, 2, 3), offsets, strict=True)
    ]


def test_a_lane_is_not_given_back_before_its_replayed_events_are_settled(bench: Bench) -> None:
    events = bench.again(1, 2)
    assert bench.state.unsettled == 2
    bench.acknowledged(events)
    assert bench.state.unsettled == 2
    landed = bench.republished.take_landed()
    assert not bench.republished.idle or landed
    bench.republished.settled(landed)
    assert bench.state.unsettled == 0
    assert bench.replay.progress.position == 2
    assert bench.republished.idle


async def test_a_replayed_event_that_is_refused_fails_nothing_and_closes_no_key(bench: Bench) -> None:
    (event,) = bench.again(1)
    partition = Partition("orders", 0, Backoff(random.random))
    partition.waiting.append(live(11))
    bench.failing.fail(
        bench.tenure, bench.topic, partition, event, PublishError(FailureKind.EVENT, "too large", "Large")
    )
    assert await bench.recorded() == []
    assert not bench.tenure.closed_in(3)
    assert [event[1] for event in partition.waiting] == [11]
    assert [(each.event.id, each.error) for each in bench.republished.take_landed()] == [(1, "Large: too large")]


async def test_a_live_event_that_fails_holds_back_live_ones_of_its_key_and_no_replayed_one(bench: Bench) -> None:
    partition = Partition("orders", 0, Backoff(random.random))
    partition.waiting.extend([*bench.again(1, 2), live(11), *bench.again(3, key=b"other"), live(12)])
    bench.failing.fail(bench.tenure, bench.topic, partition, live(10), PublishError(FailureKind.EVENT, "too large"))
    held = [each for each in await bench.recorded() if isinstance(each, Held)]
    assert [event[1] for each in held for event in each.events] == [11, 12]
    assert [event[1] for event in partition.waiting] == [3]
    assert bench.replay.progress.cursor == 0, "what was taken out is not read again"
    assert bench.state.replaying == 1


async def test_those_of_its_key_that_wait_for_the_topics_partitions_are_held_back_too(bench: Bench) -> None:
    partition = Partition("orders", 0, Backoff(random.random))
    partition.waiting.append(live(11))
    bench.topic.route([*bench.again(1), live(12), live(13, b"other"), live(14)])
    bench.failing.fail(bench.tenure, bench.topic, partition, live(10), PublishError(FailureKind.EVENT, "too large"))
    held = [each for each in await bench.recorded() if isinstance(each, Held)]
    assert [event[1] for each in held for event in each.events] == [11, 12, 14]
    assert [event[1] for event in bench.topic.unrouted] == [13]


async def test_a_topic_that_is_paused_gives_replayed_events_back_to_be_read_again(bench: Bench) -> None:
    topic = Topic("orders", lambda: Backoff(random.random), lambda key: key[0])
    topic.route([*bench.again(1, 2), live(11)])
    bench.failing.close_topic(topic)
    held = [each for each in await bench.recorded() if isinstance(each, Held)]
    assert [event[1] for each in held for event in each.events] == [11]
    assert (bench.replay.progress.cursor, bench.state.replaying, bench.republished.idle) == (0, 0, True)


async def test_a_failure_of_a_live_event_is_recorded_while_a_replay_is_under_way(bench: Bench) -> None:
    bench.again(1)
    partition = Partition("orders", 0, Backoff(random.random))
    bench.failing.fail(bench.tenure, bench.topic, partition, live(10), PublishError(FailureKind.EVENT, "too large"))
    assert [type(each) for each in await bench.recorded()] == [Failed]


async def test_whoever_waits_hears_of_what_landed_and_of_what_came_back(bench: Bench) -> None:
    (one, two) = bench.again(1, 2)
    bench.acknowledged([one])
    await asyncio.wait_for(bench.republished.changed.wait(), 1)
    bench.republished.changed.clear()
    assert bench.republished.without([two, live(11)])[0][1] == 11
    await asyncio.wait_for(bench.republished.changed.wait(), 1)
