"""Whose trouble it is when nothing is acknowledged, and what a topic in trouble goes through until it works again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from relay.decide.admission import Admission
from relay.outcome import FailureKind, PublishError
from relay.retry import Backoff
from relay.run.health import Health
from relay.settings import HealthSettings
from relay.stages.publish import watch as module
from relay.stages.publish.partition import Flight, Partition
from relay.stages.publish.queues import Topics
from relay.stages.publish.watch import (
    ALIVE_FOR,
    LOOK_UP_INTERVAL,
    PAUSE_AFTER,
    STALLED_AFTER,
    STUCK_AFTER,
    WATCH_INTERVAL,
    Troubles,
)
from relay.stages.room import Room
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event, events

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.event import PendingEvent
    from relay.stages.hold.gate import Gate
    from relay.stages.publish.publish import Publish
    from relay.stages.publish.topic import Topic

REQUEST_TIMEOUT = 8.0
PROBE_AFTER = 2.0
MISSING = PublishError(FailureKind.TOPIC, "topic missing does not exist; create it")
PARTITIONS = 2
ROOM = 80
"""Events that fill the buffer."""


class Heard(Telemetry):
    """What the rest of the relay is told."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.happenings: list[tuple[str, Any]] = []
        self.closed: list[str] = []
        self.opened: list[str] = []

    def emit(self, name: str, /, **fields: Any) -> None:
        super().emit(name, **fields)
        self.happenings.append((name, fields.get("topic")))

    def close(self, topic: str, waiting: list[PendingEvent]) -> None:
        self.closed.append(topic)

    def open(self, topic: str) -> None:
        self.opened.append(topic)

    def told(self, happening: str) -> int:
        return sum(name == happening for name, _ in self.happenings)


class FakeProducer:
    """Knows how many partitions topics have."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.without_leader: set[str] = set()

    def known_partition_count(self, topic: str) -> int:
        return self.counts.get(topic, PARTITIONS)

    def leaderless(self, topic: str, partition: int) -> bool:
        return topic in self.without_leader

    def trouble(self) -> str | None:
        return "broker-1:9092: nothing listens on this port"


class FakeProducers:
    """The main producer, and those that were to be replaced."""

    def __init__(self) -> None:
        self.main = SimpleNamespace(current=FakeProducer())
        self.discarded: list[object] = []

    def discard(self, producer: object, reason: str) -> None:
        self.discarded.append(producer)


class FakePublish:
    """Topics and what they have in flight."""

    def __init__(self, *names: str) -> None:
        self.topics = Topics(hash_keys=lambda keys: [0] * len(keys), random=lambda: 0.0, admission=Admission())
        for name in names:
            self.topics.new(name).resolved(PARTITIONS)
        self.producers = FakeProducers()
        self.last_acknowledged = 0.0
        self.resolved_anew: list[str] = []
        self.looked_up: list[str] = []

    def share_of_room(self, *topics: Topic) -> float:
        return sum(len(topic.unrouted) for topic in topics) / ROOM

    def forget_if_idle(self, topic: Topic, now: float) -> None:
        pass

    def look_up(self, topic: Topic) -> None:
        self.looked_up.append(topic.name)

    def resolve_anew(self, topic: Topic) -> None:
        self.resolved_anew.append(topic.name)


class Watched:
    """Troubles over a fake publish, and time that passes when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.now = 1000.0
        # Not the module time itself: the event loop has that clock too.
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.publish = FakePublish(*names)
        self.heard = Heard(lambda: self.now)
        self.health = Health(HealthSettings(), self.now)
        self.health.listen_to(self.heard)
        self.health.kafka_ok()
        self.health.postgres_ok()
        self.troubles = Troubles(
            cast("Gate", self.heard),
            lambda: Backoff(lambda: 1.0, first=PROBE_AFTER, most=30.0),
            REQUEST_TIMEOUT,
            self.heard,
        )

    def topic(self, name: str) -> Topic:
        return self.publish.topics[name]

    def send(self, name: str, producer: object = "main") -> Partition:
        partition = self.topic(name).partitions[0]
        partition.flights.append(Flight(Tenure(Room(1, 1)), producer, events(1), self.now))
        return partition

    def acknowledge(self, name: str) -> None:
        """Kafka takes a batch of the topic; what it had in flight before it too."""
        for partition in self.topic(name).partitions:
            self.acknowledge_of(partition)

    def acknowledge_of(self, partition: Partition) -> None:
        """Kafka takes a batch of the partition; what it had in flight before it too."""
        partition.flights.clear()
        partition.suspect = False
        self.publish.last_acknowledged = self.now
        self.troubles.acknowledged(self.topic(partition.topic), partition, self.now)

    def look(self) -> None:
        self.troubles._watch_kafka(cast("Publish", self.publish), self.now)
        self.troubles._watch_room(cast("Publish", self.publish))
        for topic in self.publish.topics.values():
            self.troubles._watch_topic(cast("Publish", self.publish), topic, self.now)

    def pass_time(self, seconds: float, flowing: str | None = None) -> None:
        """Let time pass while Kafka goes on acknowledging batches of the topic `flowing`, or nothing."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + WATCH_INTERVAL)
            if flowing is not None:
                self.acknowledge(flowing)
            self.look()

    def paused(self, name: str) -> bool:
        trouble = self.topic(name).trouble
        return trouble is not None and trouble.paused


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch, "stuck", "other")


def test_a_batch_that_stays_unacknowledged_while_others_go_is_its_topics_trouble(watched: Watched) -> None:
    partition = watched.send("stuck")
    watched.pass_time(STUCK_AFTER, flowing="other")
    assert watched.topic("stuck").trouble is None
    watched.pass_time(2 * WATCH_INTERVAL, flowing="other")
    trouble = watched.topic("stuck").trouble
    assert trouble is not None
    assert "check whether its replicas are in sync" in str(trouble.error)
    assert partition.suspect
    assert watched.publish.producers.discarded == ["main"]
    assert list(watched.health.troubled_topics()) == ["stuck"]
    assert watched.topic("other").trouble is None
    assert watched.health.ready(watched.now) == []


def test_it_is_paused_a_little_later_and_its_producer_is_discarded_only_once(watched: Watched) -> None:
    watched.send("stuck")
    watched.pass_time(STUCK_AFTER + 2 * WATCH_INTERVAL, flowing="other")
    assert not watched.paused("stuck")
    watched.pass_time(PAUSE_AFTER + WATCH_INTERVAL, flowing="other")
    assert watched.paused("stuck")
    assert watched.heard.closed == ["stuck"]
    watched.pass_time(60, flowing="other")
    assert watched.publish.producers.discarded == ["main"]
    assert watched.heard.told("topic.troubled") == watched.heard.told("topic.paused") == 1


def test_one_that_is_missing_is_paused_at_once_when_its_events_would_fill_the_buffer(watched: Watched) -> None:
    topic = watched.topic("stuck")
    topic.unresolve()
    few = round(ROOM * module.MOST_OF_ROOM)
    topic.route(events(*range(1, few + 1)))
    watched.troubles.begin(topic, MISSING)
    watched.pass_time(WATCH_INTERVAL, flowing="other")
    assert not watched.paused("stuck")
    topic.route(events(few + 1))
    watched.pass_time(WATCH_INTERVAL, flowing="other")
    assert watched.paused("stuck")


def test_topics_that_are_missing_are_paused_at_once_when_together_they_would_fill_the_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = round(ROOM * module.MOST_OF_ROOM)
    names = [f"missing-{number}" for number in range(few + 1)]
    watched = Watched(monkeypatch, "other", *names)
    for name in names:
        topic = watched.topic(name)
        topic.unresolve()
        topic.route(events(1))
        watched.troubles.begin(topic, MISSING)
        if name != names[-1]:
            watched.look()
            assert not any(watched.paused(each) for each in names)
    watched.look()
    assert all(watched.paused(name) for name in names)


def test_of_thousands_of_topics_in_trouble_the_first_are_told_and_the_others_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"missing-{number}" for number in range(3_000)]
    watched = Watched(monkeypatch, *names)
    for name in names:
        watched.topic(name).unresolve()
        watched.troubles.begin(watched.topic(name), MISSING)
    watched.pass_time(PAUSE_AFTER + 2 * WATCH_INTERVAL)
    for happening in ("topic.troubled", "topic.paused"):
        assert watched.heard.told(happening) == 20
        assert watched.heard.told(f"{happening}_too") == 2_980
    assert list(watched.health.troubled_topics()) == names[:20]
    assert watched.health.more_troubled_topics() == 2_980


def test_a_partition_in_which_nothing_moves_while_others_go_on_is_named_until_something_does(watched: Watched) -> None:
    """Good events stood behind refused ones for minutes, and nobody was told."""
    partition = watched.topic("stuck").partitions[1]
    partition.add(events(1, 2, 3))
    watched.pass_time(STALLED_AFTER, flowing="other")
    partition.pop_head()
    watched.pass_time(STALLED_AFTER, flowing="other")
    assert watched.health.troubled_topics() == {}
    watched.pass_time(2 * WATCH_INTERVAL, flowing="other")
    assert watched.health.troubled_topics() == {"stuck": "partition 1 makes no progress, and 2 events wait for it"}
    watched.pass_time(60, flowing="other")
    assert watched.heard.told("partition.stalled") == 1
    partition.pop_head()
    watched.pass_time(WATCH_INTERVAL, flowing="other")
    assert watched.health.troubled_topics() == {}


def test_when_nothing_is_acknowledged_at_all_it_is_kafkas_trouble_and_no_topic_is_paused(watched: Watched) -> None:
    watched.acknowledge("other")
    watched.send("stuck")
    watched.send("other")
    watched.pass_time(120)
    assert watched.topic("stuck").trouble is watched.topic("other").trouble is None
    assert watched.heard.closed == watched.publish.producers.discarded == []
    assert watched.heard.told("kafka.lost") > 0
    (reason,) = watched.health.ready(watched.now)
    assert reason.startswith("Kafka has been away for ")
    assert reason.endswith(": broker-1:9092: nothing listens on this port"), "the cause is known and not told"


def test_a_partition_without_a_leader_is_its_topics_trouble_though_nothing_else_is_under_way(watched: Watched) -> None:
    """What waits for it may have taken all the room, so that no other topic could show that Kafka works."""
    watched.publish.producers.main.current.without_leader.add("stuck")
    watched.send("stuck")
    watched.pass_time(STUCK_AFTER)
    assert watched.topic("stuck").trouble is None
    watched.pass_time(PAUSE_AFTER + 3 * WATCH_INTERVAL)
    assert watched.paused("stuck")
    watched.pass_time(300)
    assert watched.heard.told("kafka.lost") == 0, "the topic's trouble explains the silence"
    assert watched.health.ready(watched.now) == []


def test_a_topic_of_which_several_partitions_are_stuck_is_told_once(watched: Watched) -> None:
    watched.publish.producers.main.current.without_leader.add("stuck")
    for partition in watched.topic("stuck").partitions:
        partition.flights.append(Flight(Tenure(Room(1, 1)), "main", events(1), watched.now))
    watched.pass_time(STUCK_AFTER + 2 * WATCH_INTERVAL)
    assert all(partition.suspect for partition in watched.topic("stuck").partitions)
    assert watched.heard.told("topic.troubled") == 1


def test_a_moment_without_a_leader_is_nothing_however_old_the_batch_is(watched: Watched) -> None:
    """A broker that has just come back names no leaders at first."""
    watched.send("stuck")
    for _ in range(5):
        watched.pass_time(60)
        watched.publish.producers.main.current.without_leader.add("stuck")
        watched.pass_time(STUCK_AFTER - WATCH_INTERVAL)
        watched.publish.producers.main.current.without_leader.clear()
    assert watched.topic("stuck").trouble is None


def test_after_an_outage_everybody_gets_time_before_one_counts_as_stuck(watched: Watched) -> None:
    watched.send("stuck")
    watched.send("other")
    watched.pass_time(60)
    watched.pass_time(STUCK_AFTER - WATCH_INTERVAL, flowing="other")
    assert watched.topic("stuck").trouble is None
    watched.acknowledge("stuck")
    watched.pass_time(60, flowing="other")
    assert watched.topic("stuck").trouble is None


def test_a_pause_in_the_acknowledgements_of_the_others_begins_that_time_anew(watched: Watched) -> None:
    watched.send("stuck")
    for _ in range(5):
        watched.pass_time(STUCK_AFTER - ALIVE_FOR - WATCH_INTERVAL, flowing="other")
        watched.pass_time(ALIVE_FOR + 2 * WATCH_INTERVAL)
    assert watched.topic("stuck").trouble is None


def test_kafka_that_answers_within_the_request_timeout_is_not_away(watched: Watched) -> None:
    watched.send("other")
    watched.pass_time(REQUEST_TIMEOUT)
    assert watched.heard.told("kafka.lost") == 0
    watched.pass_time(2 * WATCH_INTERVAL)
    assert watched.heard.told("kafka.lost") > 0
    watched.acknowledge("other")
    assert watched.health.ready(watched.now) == []


def test_a_stuck_topic_works_again_with_its_first_acknowledgement(watched: Watched) -> None:
    watched.send("stuck")
    watched.pass_time(30, flowing="other")
    assert watched.paused("stuck")
    watched.acknowledge("stuck")
    assert watched.topic("stuck").trouble is None
    assert watched.heard.opened == ["stuck"]
    assert watched.health.troubled_topics() == {}
    assert watched.heard.told("topic.resumed") == 1


def test_that_other_partitions_of_the_topic_take_theirs_does_not_end_its_trouble(watched: Watched) -> None:
    """Else what waits for the one that does not would fill the buffer, and stop every topic."""
    watched.publish.producers.main.current.without_leader.add("stuck")
    lame = watched.send("stuck")
    healthy = watched.topic("stuck").partitions[1]
    for _ in range(8 * round(STUCK_AFTER + PAUSE_AFTER)):
        watched.acknowledge_of(healthy)
        watched.pass_time(WATCH_INTERVAL)
    assert watched.paused("stuck")
    assert watched.heard.told("topic.troubled") == 1
    lame.flights.clear()
    watched.acknowledge_of(healthy)
    assert watched.paused("stuck"), "what was in flight is held back now, and no better off"
    watched.acknowledge_of(lame)
    assert watched.topic("stuck").trouble is None


def test_a_partition_that_is_suspect_for_its_events_can_be_its_topics_trouble_as_well(watched: Watched) -> None:
    partition = watched.send("stuck", "side")
    partition.suspect = True
    watched.pass_time(STUCK_AFTER + 2 * WATCH_INTERVAL, flowing="other")
    assert watched.topic("stuck").trouble is not None
    assert watched.publish.producers.discarded == []


def test_a_trouble_of_two_partitions_ends_when_both_work(watched: Watched) -> None:
    topic = watched.topic("stuck")
    for partition in topic.partitions:
        watched.troubles.begin(topic, MISSING, partition)
        partition.put_back(events(1))
    first, second = topic.partitions
    first.withdraw()
    watched.acknowledge_of(first)
    assert topic.trouble is not None
    second.withdraw()
    watched.acknowledge_of(second)
    assert topic.trouble is None


def test_events_of_a_paused_topic_that_come_back_are_held_like_the_others(watched: Watched) -> None:
    topic = watched.topic("stuck")
    watched.troubles.given_back(topic)
    watched.troubles.begin(topic, MISSING, topic.partitions[0])
    watched.troubles.given_back(topic)
    assert watched.heard.closed == []
    watched.pass_time(PAUSE_AFTER + WATCH_INTERVAL, flowing="other")
    topic.partitions[0].put_back(events(1))
    watched.troubles.given_back(topic)
    assert watched.heard.closed == ["stuck", "stuck"]
    assert topic.idle


def test_what_hangs_in_the_producer_is_waited_for_and_nothing_is_added(watched: Watched) -> None:
    watched.send("stuck")
    watched.pass_time(300, flowing="other")
    assert watched.paused("stuck")
    assert watched.heard.opened == []


def test_a_refused_topic_is_tried_again_after_a_while_and_paused_again_for_longer(watched: Watched) -> None:
    topic = watched.topic("stuck")
    watched.troubles.begin(topic, MISSING)
    assert not watched.paused("stuck"), "it may be over in a moment"
    watched.pass_time(PAUSE_AFTER + WATCH_INTERVAL, flowing="other")
    assert watched.paused("stuck")
    pauses = []
    for _ in range(6):
        began = watched.now
        opened = len(watched.heard.opened)
        while len(watched.heard.opened) == opened:
            watched.pass_time(WATCH_INTERVAL, flowing="other")
        assert not watched.paused("stuck")
        pauses.append(watched.now - began)
        watched.troubles.begin(topic, MISSING)
        assert watched.paused("stuck")
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(PROBE_AFTER, abs=2 * WATCH_INTERVAL)
    assert pauses[-1] == pytest.approx(30.0, abs=2 * WATCH_INTERVAL)
    assert watched.heard.told("topic.troubled") == 1


def test_a_try_that_hangs_pauses_the_topic_again(watched: Watched) -> None:
    topic = watched.topic("stuck")
    watched.troubles.begin(topic, MISSING, topic.partitions[0])
    watched.pass_time(PAUSE_AFTER + PROBE_AFTER + 1, flowing="other")
    assert watched.heard.opened == ["stuck"]
    topic.route([event(5)])
    watched.pass_time(PAUSE_AFTER + STUCK_AFTER + 2 * WATCH_INTERVAL, flowing="other")
    assert watched.paused("stuck")
    assert watched.heard.closed == ["stuck", "stuck"]


def test_a_paused_topic_without_a_leader_is_asked_about_and_tried_once_it_has_one(watched: Watched) -> None:
    """A try that hangs fills the buffer, and stops the others meanwhile."""
    watched.publish.producers.main.current.without_leader.add("stuck")
    partition = watched.send("stuck")
    watched.pass_time(STUCK_AFTER + PAUSE_AFTER + 1, flowing="other")
    assert watched.paused("stuck")
    partition.flights.clear()
    watched.pass_time(300, flowing="other")
    assert watched.heard.opened == []
    assert len(watched.publish.looked_up) == pytest.approx(300 / LOOK_UP_INTERVAL, abs=2)
    watched.publish.producers.main.current.without_leader.clear()
    watched.pass_time(WATCH_INTERVAL, flowing="other")
    watched.topic("stuck").route([event(5)])
    watched.pass_time(PAUSE_AFTER + STUCK_AFTER, flowing="other")
    assert watched.heard.opened == ["stuck"]
    assert not watched.paused("stuck"), "it is given time from then on"


def test_a_paused_topic_that_kafka_does_not_have_is_not_tried(watched: Watched) -> None:
    watched.publish.producers.main.current.counts["stuck"] = 0
    watched.troubles.begin(watched.topic("stuck"), MISSING, watched.topic("stuck").partitions[0])
    watched.pass_time(300, flowing="other")
    assert watched.heard.opened == []
    del watched.publish.producers.main.current.counts["stuck"]
    watched.pass_time(2 * WATCH_INTERVAL, flowing="other")
    assert watched.heard.opened == ["stuck"]


def test_a_try_with_nothing_to_send_ends_the_trouble(watched: Watched) -> None:
    watched.troubles.begin(watched.topic("stuck"), MISSING)
    watched.pass_time(PAUSE_AFTER + PROBE_AFTER + PAUSE_AFTER + STUCK_AFTER + 2, flowing="other")
    assert watched.topic("stuck").trouble is None
    assert watched.health.troubled_topics() == {}


def test_a_topic_that_is_not_resolved_is_not_tried(watched: Watched) -> None:
    topic = watched.topic("stuck")
    topic.unresolve()
    watched.troubles.begin(topic, MISSING)
    watched.pass_time(300, flowing="other")
    assert watched.paused("stuck")
    assert watched.heard.opened == []
    watched.troubles.end(topic)
    assert watched.heard.opened == ["stuck"]


def test_another_error_is_told_and_the_same_one_is_not(watched: Watched) -> None:
    topic = watched.topic("stuck")
    for error in (MISSING, MISSING, PublishError(FailureKind.TOPIC, "not authorized")):
        watched.troubles.begin(topic, error)
    assert watched.heard.told("topic.troubled") == 2
    assert watched.health.troubled_topics() == {"stuck": "not authorized"}


def test_an_end_without_a_trouble_is_no_happening(watched: Watched) -> None:
    watched.troubles.end(watched.topic("other"))
    assert watched.heard.happenings == []
    assert watched.heard.opened == []


def test_the_backoff_of_a_topic_that_worked_begins_anew(watched: Watched) -> None:
    topic = watched.topic("stuck")
    probes = []
    for _ in range(2):
        watched.troubles.begin(topic, MISSING)
        watched.pass_time(PAUSE_AFTER + WATCH_INTERVAL, flowing="other")
        assert topic.trouble is not None
        probes.append(topic.trouble.probe_at - watched.now)
        watched.acknowledge("stuck")
    assert probes == pytest.approx([PROBE_AFTER, PROBE_AFTER], abs=WATCH_INTERVAL)


def test_a_topic_whose_number_of_partitions_changed_is_resolved_anew(watched: Watched) -> None:
    watched.publish.producers.main.current.counts["stuck"] = PARTITIONS + 1
    watched.look()
    assert watched.publish.resolved_anew == ["stuck"]


def test_one_that_is_not_known_at_the_moment_keeps_its_partitions(watched: Watched) -> None:
    watched.publish.producers.main.current.counts["stuck"] = 0
    watched.look()
    watched.publish.producers.main.current = None
    watched.look()
    assert watched.publish.resolved_anew == []


async def test_it_watches_until_cancelled(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_INTERVAL", 0.0)
    watched.troubles.begin(watched.topic("stuck"), MISSING)
    watching = asyncio.create_task(watched.troubles.run(cast("Publish", watched.publish)))
    watched.now += PAUSE_AFTER + 1
    async with asyncio.timeout(5):
        while not watched.paused("stuck"):  # noqa: ASYNC110 the loop under test has no event to wait for
            await asyncio.sleep(0)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
