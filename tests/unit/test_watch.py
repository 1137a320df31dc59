"""What the watch does about topics in trouble: how it tells, and how it acts on gate, producers and publish."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from relay.decide.admission import Admission
from relay.decide.room import Room
from relay.decide.stuck import STALLED_AFTER, STUCK_AFTER
from relay.decide.trouble import MAX_SHARE_OF_ROOM, PAUSE_AFTER, PROBE_FIRST
from relay.outcome import FailureKind, PublishError, Refused
from relay.run.health import Health
from relay.settings import HealthSettings
from relay.stages.publish.partition import Doubt, Flight
from relay.stages.publish.queues import Topics
from relay.stages.publish.watch import WATCH_INTERVAL, Watch
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event, events, ids
from tests.support.producers import MAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.event import PendingEvent
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.ports import Producer
    from relay.stages.publish.topic import Topic

REQUEST_TIMEOUT = 8.0
MISSING = PublishError(FailureKind.TOPIC, "topic missing does not exist; create it")
PARTITIONS = 2
ROOM = 80
"""Events that fill the buffer."""


class Heard(Telemetry):
    """Telemetry that remembers what it was told."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.happenings: list[str] = []

    def emit(self, name: str, /, **fields: Any) -> None:
        super().emit(name, **fields)
        self.happenings.append(name)

    def times(self, happening: str) -> int:
        return self.happenings.count(happening)


@dataclass
class NotingGate:
    """Notes which topics were closed and opened, and what was held back."""

    closed: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    held: list[int] = field(default_factory=list)

    def close(self, topic: str, waiting: list[PendingEvent]) -> None:
        self.closed.append(topic)
        self.held += ids(waiting)

    def open(self, topic: str) -> None:
        self.opened.append(topic)


class FakeMetadata:
    """Knows how many partitions topics have, and which have no leader."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.without_leader: set[tuple[str, int]] = set()

    def known_partition_count(self, topic: str) -> int:
        return self.counts.get(topic, PARTITIONS)

    def leaderless(self, topic: str, partition: int) -> bool:
        return (topic, partition) in self.without_leader

    def trouble(self) -> str | None:
        return "broker-1:9092: nothing listens on this port"


@dataclass
class FakeProducers:
    """What the main producer knows, and which producers were to be replaced, and why."""

    metadata: FakeMetadata | None = field(default_factory=FakeMetadata)
    discarded: list[tuple[Producer, str]] = field(default_factory=list)

    def discard(self, producer: Producer, reason: str) -> None:
        self.discarded.append((producer, reason))


class FakePublish:
    """Topics and what they have in flight."""

    def __init__(self, *names: str) -> None:
        self.topics = Topics(hash_keys=lambda keys: [0] * len(keys), random=lambda: 0.0, admission=Admission())
        for name in names:
            self.topics.new(name).resolved(PARTITIONS)
        self.resolved_again: list[str] = []
        self.looked_up: list[str] = []
        self.idle: list[str] = []

    def share_of_room(self, *topics: Topic) -> float:
        return sum(len(topic.unrouted) for topic in topics) / ROOM

    def forget_if_idle(self, topic: Topic, now: float) -> None:
        self.idle.append(topic.name)

    def look_up(self, topic: Topic) -> None:
        self.looked_up.append(topic.name)

    def resolve_again(self, topic: Topic) -> None:
        self.resolved_again.append(topic.name)


class Watching:
    """The watch over a fake publish, and time that passes when a test says so."""

    def __init__(self, *names: str) -> None:
        self.now = 1000.0
        self.publish = FakePublish(*names)
        self.gate = NotingGate()
        self.producers = FakeProducers()
        self.heard = Heard(lambda: self.now)
        self.health = Health(HealthSettings(), self.now)
        self.health.kafka_ok()
        self.health.postgres_ok()
        self.health.listen_to(self.heard)
        self.watch = Watch(
            gate=self.gate,
            producers=self.producers,
            random=lambda: 1.0,
            request_timeout=REQUEST_TIMEOUT,
            telemetry=self.heard,
            clock=lambda: self.now,
        )

    @property
    def metadata(self) -> FakeMetadata:
        assert self.producers.metadata is not None
        return self.producers.metadata

    def topic(self, name: str) -> Topic:
        return self.publish.topics[name]

    def send(self, name: str) -> Partition:
        partition = self.topic(name).partitions[0]
        partition.flights.append(Flight(Tenure(Room(1, 1)), MAIN, events(1), self.now))
        return partition

    def acknowledge(self, name: str) -> None:
        """Kafka takes a batch of each of the topic's partitions; what they had in flight before it, too."""
        for partition in self.topic(name).partitions:
            partition.flights.clear()
            partition.suspect = False
            self.watch.acknowledged(self.topic(name), partition, self.now)

    async def pass_time(self, seconds: float, flowing: str | None = None) -> None:
        """Let time pass while Kafka goes on acknowledging batches of the topic `flowing`, or nothing."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + WATCH_INTERVAL)
            if flowing is not None:
                self.acknowledge(flowing)
            await self.watch.look(self.publish)

    async def pause(self, name: str) -> None:
        self.watch.refused(self.topic(name), MISSING, self.topic(name).partitions[0])
        await self.pass_time(PAUSE_AFTER + WATCH_INTERVAL, flowing="other")


@pytest.fixture
def watching() -> Watching:
    return Watching("stuck", "other")


async def test_a_stuck_batch_makes_its_partition_suspect_and_has_its_producer_replaced(watching: Watching) -> None:
    partition = watching.send("stuck")
    await watching.pass_time(STUCK_AFTER + 2 * WATCH_INTERVAL, flowing="other")
    assert partition.suspect
    ((producer, why),) = watching.producers.discarded
    assert producer is MAIN
    assert "check whether its replicas are in sync" in why
    assert watching.health.troubled_topics() == {"stuck": why}
    assert watching.heard.times("topic.troubled") == 1
    assert watching.health.ready(watching.now) == []


async def test_a_lost_batch_is_its_topics_trouble_once_kafka_says_why_it_cannot_be_found(watching: Watching) -> None:
    partition = watching.send("stuck")
    refused = Refused(PublishError(FailureKind.CLUSTER, "no leader"), unknown=True)
    partition.flights[0].lost = Doubt(refused, watching.now, "partition 0 of stuck has no leader")
    await watching.pass_time(STUCK_AFTER + PAUSE_AFTER + 3 * WATCH_INTERVAL)
    assert partition.suspect
    assert watching.topic("stuck").trouble.paused
    await watching.pass_time(2 * REQUEST_TIMEOUT)
    assert watching.heard.times("kafka.lost") == 0


async def test_a_partition_that_cannot_be_noted_is_its_topics_trouble_with_nothing_in_flight(
    watching: Watching,
) -> None:
    partition = watching.topic("stuck").partitions[0]
    partition.add(events(1))
    partition.unnoted_since = watching.now
    await watching.pass_time(STUCK_AFTER + PAUSE_AFTER + 3 * WATCH_INTERVAL)
    assert watching.topic("stuck").trouble.paused
    assert watching.producers.discarded == []
    assert partition.unnoted_since is None, "a later try begins anew"


async def test_a_partition_without_a_leader_is_its_topics_trouble_and_not_kafkas(watching: Watching) -> None:
    watching.metadata.without_leader.add(("stuck", 0))
    watching.send("stuck")
    await watching.pass_time(300)
    assert watching.topic("stuck").trouble.paused
    assert watching.heard.times("kafka.lost") == 0
    assert watching.health.ready(watching.now) == []


async def test_kafka_that_acknowledges_nothing_is_lost_and_its_cause_told(watching: Watching) -> None:
    watching.acknowledge("other")
    watching.send("stuck")
    watching.send("other")
    await watching.pass_time(120)
    assert watching.gate.closed == []
    assert watching.producers.discarded == []
    (reason,) = watching.health.ready(watching.now)
    assert reason.startswith("Kafka has been away for ")
    assert reason.endswith(": broker-1:9092: nothing listens on this port"), "the cause is known and not told"
    watching.acknowledge("other")
    assert watching.health.ready(watching.now) == []


async def test_kafka_can_be_lost_while_there_is_no_producer_that_knows_why(watching: Watching) -> None:
    watching.send("stuck")
    watching.producers.metadata = None
    await watching.pass_time(120)
    (reason,) = watching.health.ready(watching.now)
    assert reason.endswith(": no acknowledgement for 8 s")


async def test_a_paused_topic_is_told_and_its_waiting_events_are_held_back(watching: Watching) -> None:
    topic = watching.topic("stuck")
    topic.partitions[0].put_back(events(7, 8))
    await watching.pause("stuck")
    assert watching.gate.closed == ["stuck"]
    assert watching.gate.held == [7, 8]
    assert topic.idle
    assert watching.heard.times("topic.paused") == 1


async def test_a_topic_that_is_tried_is_opened_and_no_end_is_told(watching: Watching) -> None:
    await watching.pause("stuck")
    await watching.pass_time(PROBE_FIRST + WATCH_INTERVAL, flowing="other")
    assert watching.publish.looked_up != []
    assert watching.gate.opened == ["stuck"]
    assert watching.heard.times("topic.resumed") == 0
    assert watching.health.troubled_topics() != {}


async def test_a_topic_that_works_again_is_opened_and_told(watching: Watching) -> None:
    await watching.pause("stuck")
    watching.acknowledge("stuck")
    assert watching.gate.opened == ["stuck"]
    assert watching.heard.times("topic.resumed") == 1
    assert watching.health.troubled_topics() == {}


async def test_a_topic_that_is_resolved_works_again_and_one_without_trouble_tells_nothing(watching: Watching) -> None:
    watching.watch.resolved(watching.topic("other"))
    assert watching.heard.happenings == []
    assert watching.gate.opened == []
    await watching.pause("stuck")
    watching.watch.resolved(watching.topic("stuck"))
    assert watching.gate.opened == ["stuck"]
    assert watching.topic("stuck").trouble.fine


async def test_events_of_a_paused_topic_that_come_back_are_held_like_the_others(watching: Watching) -> None:
    topic = watching.topic("stuck")
    watching.watch.given_back(topic)
    watching.watch.refused(topic, MISSING, topic.partitions[0])
    watching.watch.given_back(topic)
    assert watching.gate.closed == []
    await watching.pass_time(PAUSE_AFTER + WATCH_INTERVAL, flowing="other")
    topic.partitions[0].put_back(events(1))
    watching.watch.given_back(topic)
    assert watching.gate.closed == ["stuck", "stuck"]
    assert watching.gate.held == [1]
    assert topic.idle
    assert watching.heard.times("topic.paused") == 1


async def test_a_topic_that_is_paused_is_so_for_the_next_tenure_too(watching: Watching) -> None:
    await watching.pause("stuck")
    watching.watch.serve(watching.publish.topics.values())
    assert watching.gate.closed == ["stuck", "stuck"]


async def test_topics_that_are_missing_are_paused_when_together_they_would_fill_the_buffer() -> None:
    few = round(ROOM * MAX_SHARE_OF_ROOM)
    names = [f"missing-{number}" for number in range(few + 1)]
    watching = Watching("other", *names)
    for name in names:
        topic = watching.topic(name)
        topic.unresolve()
        topic.route([event(1)])
        watching.watch.refused(topic, MISSING)
        if name != names[-1]:
            await watching.watch.look(watching.publish)
            assert watching.gate.closed == []
    await watching.watch.look(watching.publish)
    assert watching.gate.closed == names


async def test_of_thousands_of_topics_in_trouble_the_first_are_told_and_the_others_counted() -> None:
    names = [f"missing-{number}" for number in range(3_000)]
    watching = Watching(*names)
    for name in names:
        watching.topic(name).unresolve()
        watching.watch.refused(watching.topic(name), MISSING)
    await watching.pass_time(PAUSE_AFTER + 2 * WATCH_INTERVAL)
    for happening in ("topic.troubled", "topic.paused"):
        assert watching.heard.times(happening) == 20
        assert watching.heard.times(f"{happening}_too") == 2_980
    assert list(watching.health.troubled_topics()) == names[:20]
    assert watching.health.more_troubled_topics() == 2_980
    for name in names:
        watching.watch.resolved(watching.topic(name))
    assert watching.heard.times("topic.resumed") == 20
    assert watching.health.troubled_topics() == {}


async def test_a_stalled_partition_is_shown_until_something_moves_in_it(watching: Watching) -> None:
    partition = watching.topic("stuck").partitions[1]
    partition.put_back(events(1, 2))
    await watching.pass_time(STALLED_AFTER + 2 * WATCH_INTERVAL, flowing="other")
    assert watching.health.troubled_topics() == {"stuck": "partition 1 makes no progress, and 2 events wait for it"}
    assert watching.heard.times("partition.stalled") == 1
    partition.pop_head()
    await watching.pass_time(WATCH_INTERVAL, flowing="other")
    assert watching.health.troubled_topics() == {}


async def test_a_topic_that_has_other_partitions_sends_alone_at_first_and_is_resolved_again(watching: Watching) -> None:
    topic = watching.topic("stuck")
    partition = topic.partitions[0]
    partition.acknowledged(Flight(Tenure(Room(1, 1)), MAIN, events(1), watching.now), watching.now)
    partition.full_at = 1
    watching.send("stuck")
    partition.put_back(events(2))
    assert partition.may_send(MAIN, watching.now)
    watching.metadata.counts["stuck"] = PARTITIONS + 1
    await watching.watch.look(watching.publish)
    assert watching.publish.resolved_again == ["stuck"]
    assert not partition.may_send(MAIN, watching.now), "one behind another, though the topic may be another one"


async def test_a_topic_whose_events_are_all_held_back_is_not_looked_at_while_it_does_not_exist(
    watching: Watching,
) -> None:
    """There may be thousands of them."""
    new = watching.publish.topics.new("new")
    watching.watch.refused(new, MISSING)
    await watching.pass_time(PAUSE_AFTER + 2 * WATCH_INTERVAL)
    assert new.missing
    watching.publish.idle.clear()
    await watching.watch.look(watching.publish)
    assert watching.publish.idle == ["stuck", "other"]


async def test_the_watch_looks_until_it_is_cancelled(watching: Watching) -> None:
    watching.watch.refused(watching.topic("stuck"), MISSING)
    watching.now += PAUSE_AFTER + 1
    paused = asyncio.Event()
    watching.heard.listen("topic.paused", lambda _: paused.set())
    looking = asyncio.create_task(watching.watch.run(watching.publish))
    async with asyncio.timeout(30):
        await paused.wait()
    assert watching.heard.value("troubled_topics") == 1
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
