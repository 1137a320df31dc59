"""Whose trouble it is when nothing is acknowledged, and what a topic in trouble goes through until it works again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.decide.stuck import (
    ALIVE_FOR,
    STALLED_AFTER,
    STUCK_AFTER,
    KafkaAway,
    PartitionView,
    TopicView,
    Unanswered,
    Unknown,
    Unnoted,
)
from relay.decide.trouble import (
    LOOK_UP_INTERVAL,
    MAX_SHARE_OF_ROOM,
    PAUSE_AFTER,
    PROBE_FIRST,
    PROBE_MOST,
    Fine,
    Paused,
    Probing,
    TopicTrouble,
    Troubled,
    takes_too_much_room,
)
from relay.decide.trouble_actions import (
    Chill,
    End,
    HoldBack,
    LookUp,
    Pause,
    Probe,
    ResolveAgain,
    Suspect,
    Tell,
    TellMoving,
    TellStalled,
)
from relay.outcome import FailureKind, PublishError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.decide.stuck import Obstacle
    from relay.decide.trouble_actions import Action

INTERVAL = 0.25
"""Seconds between looks."""

REQUEST_TIMEOUT = 8.0
MISSING = PublishError(FailureKind.TOPIC, "topic missing does not exist; create it")
LOST = PublishError(FailureKind.CLUSTER, "the producer was discarded before Kafka answered")
NO_MARKER = "partition 0 of stuck has no leader"
PARTITIONS = 2
ROOM = 80
"""Events that fill the buffer."""

LATEST = 1.0
"""The random number with which tries come latest."""

A = TypeVar("A")


@dataclass
class Lane:
    """What publish has of one partition in its hands."""

    number: int
    waiting: int = 0
    sent_at: list[float] = field(default_factory=list)
    progress: int = 0
    suspect: bool = False
    leaderless: bool = False
    unknown: Unknown | None = None
    """Set while nobody knows whether Kafka has the oldest batch."""
    unnoted_since: float | None = None

    def view(self) -> PartitionView:
        return PartitionView(self.number, self.waiting, self.obstacle, self.progress, self.leaderless, self.suspect)

    @property
    def obstacle(self) -> Obstacle | None:
        if self.sent_at:
            return self.unknown or Unanswered(self.sent_at[0])
        return Unnoted(self.unnoted_since) if self.waiting and self.unnoted_since is not None else None

    def land(self) -> None:
        """What is in flight was answered, or given back."""
        self.sent_at.clear()
        self.unknown = None

    def withdraw(self) -> None:
        """What waits is held back."""
        self.waiting = 0
        self.unnoted_since = None


class Topic:
    """One topic, and all that was done about it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.trouble = TopicTrouble()
        self.partitions = [Lane(number) for number in range(PARTITIONS)]
        self.routed_to: int | None = PARTITIONS
        self.known: int | None = PARTITIONS
        self.unrouted = 0
        self.held = False
        """Whether the gate is closed for it."""
        self.done: list[Action] = []

    def view(self) -> TopicView:
        views = [partition.view() for partition in self.partitions]
        in_hand = [view for view in views if not view.idle or view.leaderless]
        return TopicView(self.name, self.routed_to, self.known, in_hand)

    def act(self, actions: Sequence[Action]) -> None:
        """Do what the actions mean, as the watch does."""
        self.done += actions
        for action in actions:
            match action:
                case Pause() | HoldBack():
                    self.held = True
                    self.unrouted = 0
                    for partition in self.partitions:
                        partition.withdraw()
                case Probe() | End():
                    self.held = False
                case ResolveAgain():
                    self.routed_to = None
                case Suspect(number):
                    self.partitions[number].suspect = True

    def what(self, kind: type[A]) -> list[A]:
        """What was done of this kind."""
        return [action for action in self.done if isinstance(action, kind)]

    @property
    def busy(self) -> set[int]:
        return {partition.number for partition in self.partitions if not partition.view().idle}


class World:
    """Topics, Kafka, and time that passes when a test says so."""

    def __init__(self, *names: str, draw: float = LATEST) -> None:
        self.now = 1000.0
        self.draw = draw
        self.kafka = KafkaAway(REQUEST_TIMEOUT)
        self.topics = {name: Topic(name) for name in names}
        self.away = False
        self.ever_away = False

    def __getitem__(self, name: str) -> Topic:
        return self.topics[name]

    def paused(self, name: str) -> bool:
        return self[name].trouble.paused

    def send(self, name: str, number: int = 0) -> Lane:
        partition = self[name].partitions[number]
        partition.sent_at.append(self.now)
        return partition

    def lose(self, name: str, number: int = 0, error: PublishError | None = None, waits: str | None = None) -> Lane:
        """Nobody knows any more whether Kafka has what is in flight; asked, it says why that `waits`."""
        partition = self[name].partitions[number]
        if partition.sent_at:
            since = partition.unknown.since if partition.unknown is not None else self.now
            partition.unknown = Unknown(since, error or LOST, waits)
        return partition

    def refuse(self, name: str, error: PublishError = MISSING, partition: int | None = None) -> None:
        self[name].act(self[name].trouble.refused(error, self.now, self.draw, partition))

    def acknowledge(self, name: str, *numbers: int) -> None:
        """Kafka takes a batch of these partitions, or of all; what they had in flight before it, too."""
        topic = self[name]
        for partition in topic.partitions:
            if partition.number in numbers or not numbers:
                partition.land()
                partition.suspect = False
                partition.progress += 1
                topic.act(topic.trouble.acknowledged(partition.number, topic.busy))
                self.kafka.acknowledged(self.now)

    def look(self) -> None:
        fine = [topic for topic in self.topics.values() if topic.trouble.fine]
        obstacles = [partition.obstacle for topic in fine for partition in topic.partitions]
        sent = [obstacle.sent_at for obstacle in obstacles if isinstance(obstacle, Unanswered)]
        self.away = self.kafka.look(min(sent, default=None), self.now)
        self.ever_away = self.ever_away or self.away
        waiting = [topic for topic in self.topics.values() if not topic.trouble.fine and topic.unrouted]
        if takes_too_much_room(sum(topic.unrouted for topic in waiting) / ROOM):
            for topic in waiting:
                topic.act(topic.trouble.needs_room(self.now, self.draw))
        for topic in self.topics.values():
            topic.act(topic.trouble.look(topic.view(), self.kafka.alive_since, self.now, self.draw))

    def pass_time(self, seconds: float, flowing: str | None = None) -> None:
        """Let time pass while Kafka goes on acknowledging batches of the topic `flowing`, or nothing."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + INTERVAL)
            if flowing is not None:
                self.acknowledge(flowing)
            self.look()


@pytest.fixture
def world() -> World:
    return World("stuck", "other")


class TestStuck:
    """A batch that stays unanswered."""

    def test_while_others_are_acknowledged_it_is_its_topics_trouble(self, world: World) -> None:
        partition = world.send("stuck")
        world.pass_time(STUCK_AFTER, flowing="other")
        assert world["stuck"].trouble.fine
        world.pass_time(2 * INTERVAL, flowing="other")
        state = world["stuck"].trouble.state
        assert isinstance(state, Troubled)
        assert state.partitions == {0}
        assert "check whether its replicas are in sync" in str(state.error)
        assert partition.suspect
        assert world["stuck"].what(Suspect) == [Suspect(0, str(state.error))]
        assert world["stuck"].what(Tell) == [Tell(state.error)]
        assert world["other"].trouble.fine
        assert not world.ever_away

    def test_its_topic_is_paused_a_little_later_and_its_producer_discarded_only_once(self, world: World) -> None:
        world.send("stuck")
        world.pass_time(STUCK_AFTER + 2 * INTERVAL, flowing="other")
        assert not world.paused("stuck")
        world.pass_time(PAUSE_AFTER + INTERVAL, flowing="other")
        assert world.paused("stuck")
        assert len(world["stuck"].what(Pause)) == 1
        world.pass_time(60, flowing="other")
        assert len(world["stuck"].what(Suspect)) == 1
        assert len(world["stuck"].what(Tell)) == len(world["stuck"].what(Pause)) == 1

    def test_when_nothing_is_acknowledged_at_all_it_is_kafkas_trouble_and_no_topic_is_paused(
        self, world: World
    ) -> None:
        world.acknowledge("other")
        world.send("stuck")
        world.send("other")
        world.pass_time(120)
        assert world["stuck"].trouble.fine
        assert world["other"].trouble.fine
        assert world["stuck"].done == world["other"].done == []
        assert world.away

    def test_kafka_that_answers_within_the_request_timeout_is_not_away(self, world: World) -> None:
        world.send("other")
        world.pass_time(REQUEST_TIMEOUT)
        assert not world.ever_away
        world.pass_time(2 * INTERVAL)
        assert world.away
        world.acknowledge("other")
        world.look()
        assert not world.away

    def test_without_a_leader_it_is_its_topics_trouble_though_nothing_else_is_under_way(self, world: World) -> None:
        """What waits for it may have taken all the room, so that no other topic could show that Kafka works."""
        world["stuck"].partitions[0].leaderless = True
        world.send("stuck")
        world.pass_time(STUCK_AFTER)
        assert world["stuck"].trouble.fine
        world.pass_time(PAUSE_AFTER + 3 * INTERVAL)
        assert world.paused("stuck")
        assert "has no leader" in str(world["stuck"].what(Tell)[0].error)
        world.pass_time(300)
        assert not world.ever_away, "the topic's trouble explains the silence"

    def test_in_several_partitions_of_a_topic_it_is_told_once(self, world: World) -> None:
        for partition in world["stuck"].partitions:
            partition.leaderless = True
            world.send("stuck", partition.number)
        world.pass_time(STUCK_AFTER + 2 * INTERVAL)
        assert [action.partition for action in world["stuck"].what(Suspect)] == [0, 1]
        assert len(world["stuck"].what(Tell)) == 1
        state = world["stuck"].trouble.state
        assert isinstance(state, Troubled)
        assert state.partitions == {0, 1}

    def test_a_moment_without_a_leader_is_nothing_however_old_the_batch_is(self, world: World) -> None:
        """A broker that has just come back names no leaders at first."""
        partition = world.send("stuck")
        for _ in range(5):
            world.pass_time(60)
            partition.leaderless = True
            world.pass_time(STUCK_AFTER - INTERVAL)
            partition.leaderless = False
        assert world["stuck"].trouble.fine

    def test_after_an_outage_everybody_gets_time_before_one_counts_as_stuck(self, world: World) -> None:
        world.send("stuck")
        world.send("other")
        world.pass_time(60)
        world.pass_time(STUCK_AFTER - INTERVAL, flowing="other")
        assert world["stuck"].trouble.fine
        world.acknowledge("stuck")
        world.pass_time(60, flowing="other")
        assert world["stuck"].trouble.fine

    def test_a_pause_in_the_acknowledgements_of_the_others_begins_that_time_again(self, world: World) -> None:
        world.send("stuck")
        for _ in range(5):
            world.pass_time(STUCK_AFTER - ALIVE_FOR - INTERVAL, flowing="other")
            world.pass_time(ALIVE_FOR + 2 * INTERVAL)
        assert world["stuck"].trouble.fine

    def test_a_partition_that_is_suspect_for_its_events_can_be_its_topics_trouble_as_well(self, world: World) -> None:
        world.send("stuck").suspect = True
        world.pass_time(STUCK_AFTER + 2 * INTERVAL, flowing="other")
        assert isinstance(world["stuck"].trouble.state, Troubled)
        assert world["stuck"].what(Suspect) == []


class TestUnknown:
    """A batch of which nobody knows whether Kafka has it; it is looked for, and its partition waits."""

    def test_when_kafka_says_why_it_cannot_be_found_it_is_its_topics_trouble_though_nothing_else_moves(
        self, world: World
    ) -> None:
        """What waits for the topic has taken all the room: no other topic can show that Kafka works."""
        world.send("stuck")
        partition = world.lose("stuck", waits=NO_MARKER)
        world.pass_time(STUCK_AFTER)
        assert world["stuck"].trouble.fine, "a leader is chosen in a moment"
        world.pass_time(2 * INTERVAL)
        state = world["stuck"].trouble.state
        assert isinstance(state, Troubled)
        assert NO_MARKER in str(state.error)
        assert partition.suspect
        world.pass_time(PAUSE_AFTER + INTERVAL)
        assert world.paused("stuck")
        assert not world.ever_away, "it waits for no answer any more"

    def test_a_refusal_of_its_topic_counts_immediately(self, world: World) -> None:
        world.send("stuck")
        world.lose("stuck", error=MISSING)
        world.look()
        assert world["stuck"].what(Tell) == [Tell(MISSING)]
        world.pass_time(PAUSE_AFTER + INTERVAL)
        assert world.paused("stuck")

    def test_while_others_are_acknowledged_it_is_its_topics_trouble_though_kafka_could_not_be_asked(
        self, world: World
    ) -> None:
        world.send("stuck")
        world.lose("stuck")
        world.pass_time(STUCK_AFTER, flowing="other")
        assert world["stuck"].trouble.fine
        world.pass_time(2 * INTERVAL, flowing="other")
        assert isinstance(world["stuck"].trouble.state, Troubled)

    def test_when_kafka_says_nothing_at_all_no_topic_is_paused(self, world: World) -> None:
        world.send("stuck")
        world.lose("stuck")
        world.pass_time(120)
        assert world["stuck"].done == []

    def test_what_kafka_said_before_it_went_away_does_not_count(self, world: World) -> None:
        world.send("stuck")
        world.lose("stuck", waits=NO_MARKER)
        world.pass_time(STUCK_AFTER - INTERVAL)
        world.lose("stuck")
        world.pass_time(120)
        assert world["stuck"].done == []

    def test_its_topic_is_not_tried_before_it_is_found_out_and_works_again_when_it_is_found(self, world: World) -> None:
        world.send("stuck")
        world.lose("stuck", waits=NO_MARKER)
        world.pass_time(300)
        assert world["stuck"].what(Probe) == []
        world.acknowledge("stuck", 0)
        assert world["stuck"].trouble.fine
        assert not world["stuck"].held

    def test_one_that_is_lost_while_its_topic_is_tried_pauses_it_again(self, world: World) -> None:
        """The whole backlog of the topic would fill the buffer meanwhile."""
        world.refuse("stuck", partition=0)
        world.pass_time(PAUSE_AFTER + PROBE_FIRST + 2 * INTERVAL)
        assert world["stuck"].what(Probe) == [Probe()]
        world.send("stuck", 1)
        world.lose("stuck", 1, error=MISSING)
        world.look()
        state = world["stuck"].trouble.state
        assert isinstance(state, Paused)
        assert state.partitions == {0, 1}


class TestUnnoted:
    """A partition to which nothing can be sent, because Kafka does not say where it ends."""

    def test_it_is_its_topics_trouble_though_nothing_is_in_flight_and_nothing_else_moves(self, world: World) -> None:
        partition = world["stuck"].partitions[0]
        partition.waiting, partition.unnoted_since = 3, world.now
        world.pass_time(STUCK_AFTER)
        assert world["stuck"].trouble.fine
        world.pass_time(PAUSE_AFTER + 3 * INTERVAL)
        assert world.paused("stuck")
        assert "has no leader" in str(world["stuck"].what(Tell)[0].error)

    def test_a_partition_without_a_leader_for_which_events_wait_is_its_topics_trouble_as_well(
        self, world: World
    ) -> None:
        """A refused batch waits for its next try, and is not in flight."""
        partition = world["stuck"].partitions[0]
        partition.waiting, partition.leaderless = 3, True
        world.pass_time(STUCK_AFTER + PAUSE_AFTER + 3 * INTERVAL)
        assert world.paused("stuck")
        assert world["stuck"].what(Suspect) == [Suspect(0, str(world["stuck"].what(Tell)[0].error))]


class TestStalled:
    def test_a_partition_in_which_nothing_moves_while_others_go_on_is_named_until_something_does(
        self, world: World
    ) -> None:
        """Good events stood behind refused ones for minutes, and nobody was told."""
        topic = world["stuck"]
        partition = topic.partitions[1]
        partition.waiting = 3
        world.pass_time(STALLED_AFTER, flowing="other")
        partition.waiting, partition.progress = 2, 1
        world.pass_time(STALLED_AFTER, flowing="other")
        assert topic.done == []
        world.pass_time(2 * INTERVAL, flowing="other")
        stalled = TellStalled(1, "partition 1 makes no progress, and 2 events wait for it")
        assert topic.done == [stalled]
        world.pass_time(60, flowing="other")
        assert topic.done == [stalled]
        partition.waiting, partition.progress = 1, 2
        world.pass_time(INTERVAL, flowing="other")
        assert topic.done == [stalled, TellMoving(1)]

    def test_a_partition_does_not_stall_while_kafka_is_away_or_its_topic_in_trouble(self, world: World) -> None:
        world["stuck"].partitions[1].waiting = 3
        world.pass_time(2 * STALLED_AFTER)
        assert world["stuck"].what(TellStalled) == []
        world.refuse("stuck", partition=0)
        for _ in range(round(2 * STALLED_AFTER / INTERVAL)):
            world["stuck"].partitions[1].waiting = 3
            world.pass_time(INTERVAL, flowing="other")
        world["stuck"].act(world["stuck"].trouble.resolved())
        world["stuck"].partitions[1].waiting = 3
        world.pass_time(STALLED_AFTER, flowing="other")
        assert world["stuck"].what(TellStalled) == []
        world.pass_time(2 * INTERVAL, flowing="other")
        assert len(world["stuck"].what(TellStalled)) == 1


class TestRoom:
    """Topics that do not exist, whose events take up the buffer."""

    def test_a_missing_topic_is_paused_immediately_when_its_events_would_fill_the_buffer(self, world: World) -> None:
        topic = world["stuck"]
        topic.routed_to = None
        topic.unrouted = few = round(ROOM * MAX_SHARE_OF_ROOM)
        world.refuse("stuck")
        world.pass_time(INTERVAL, flowing="other")
        assert not world.paused("stuck")
        topic.unrouted = few + 1
        world.pass_time(INTERVAL, flowing="other")
        assert world.paused("stuck")

    def test_missing_topics_are_paused_immediately_when_together_they_would_fill_the_buffer(self) -> None:
        names = [f"missing-{number}" for number in range(round(ROOM * MAX_SHARE_OF_ROOM) + 1)]
        world = World("other", *names)
        for name in names:
            world[name].routed_to, world[name].unrouted = None, 1
            world.refuse(name)
            if name != names[-1]:
                world.look()
                assert not any(world[each].trouble.paused for each in names)
        world.look()
        assert all(world[name].trouble.paused for name in names)

    def test_a_topic_without_trouble_is_not_paused_for_room(self) -> None:
        trouble = TopicTrouble()
        assert trouble.needs_room(1.0, LATEST) == []
        assert trouble.fine

    def test_a_paused_topic_is_not_paused_again_for_room(self, world: World) -> None:
        world.refuse("stuck")
        world.pass_time(PAUSE_AFTER + INTERVAL)
        before = world["stuck"].trouble.state
        assert world["stuck"].trouble.needs_room(world.now, LATEST) == []
        assert world["stuck"].trouble.state == before


class TestEnd:
    """How a trouble ends."""

    def test_a_stuck_topic_works_again_with_its_first_acknowledgement(self, world: World) -> None:
        world.send("stuck")
        world.pass_time(30, flowing="other")
        assert world.paused("stuck")
        world.acknowledge("stuck")
        assert world["stuck"].trouble.fine
        assert world["stuck"].what(End) == [End()]
        assert world["stuck"].what(Probe) == []

    def test_acknowledgements_of_other_partitions_of_the_topic_do_not_end_its_trouble(self, world: World) -> None:
        """Else what waits for the one that takes none would fill the buffer, and stop every topic."""
        lame, healthy = world["stuck"].partitions
        lame.leaderless = True
        world.send("stuck")
        for _ in range(8 * round(STUCK_AFTER + PAUSE_AFTER)):
            world.acknowledge("stuck", healthy.number)
            world.pass_time(INTERVAL)
        assert world.paused("stuck")
        assert len(world["stuck"].what(Tell)) == 1
        lame.sent_at.clear()
        world.acknowledge("stuck", healthy.number)
        assert world.paused("stuck"), "what was in flight is held back now, and no better off"
        world.acknowledge("stuck", lame.number)
        assert world["stuck"].trouble.fine

    def test_a_trouble_of_two_partitions_ends_when_both_work(self, world: World) -> None:
        topic = world["stuck"]
        for partition in topic.partitions:
            world.refuse("stuck", partition=partition.number)
            partition.waiting = 1
        first, second = topic.partitions
        first.waiting = 0
        world.acknowledge("stuck", 0)
        assert not topic.trouble.fine
        second.waiting = 0
        world.acknowledge("stuck", 1)
        assert topic.trouble.fine

    def test_a_partition_that_took_a_batch_works_though_more_events_wait_in_it(self, world: World) -> None:
        topic = world["stuck"]
        for partition in topic.partitions:
            world.refuse("stuck", partition=partition.number)
            partition.waiting = 10
        world.acknowledge("stuck", 0)
        assert not topic.trouble.fine
        world.acknowledge("stuck", 1)
        assert topic.what(End) == [End()]

    def test_a_topic_that_is_not_resolved_is_not_tried_and_works_once_it_is(self, world: World) -> None:
        topic = world["stuck"]
        topic.routed_to = None
        world.refuse("stuck")
        world.pass_time(300, flowing="other")
        assert world.paused("stuck")
        assert topic.what(Probe) == []
        assert topic.what(LookUp) == []
        topic.act(topic.trouble.resolved())
        assert topic.trouble.fine
        assert topic.what(End) == [End()]

    def test_a_topic_without_trouble_that_is_resolved_ends_nothing(self) -> None:
        assert TopicTrouble().resolved() == []

    def test_another_error_is_told_and_the_same_one_is_not(self, world: World) -> None:
        refused = PublishError(FailureKind.TOPIC, "not authorized")
        for error in (MISSING, MISSING, refused):
            world.refuse("stuck", error)
        assert world["stuck"].what(Tell) == [Tell(MISSING), Tell(refused)]


class TestPause:
    """A paused topic, and when it is tried again."""

    def test_nothing_is_added_to_what_hangs_in_the_producer(self, world: World) -> None:
        world.send("stuck")
        world.pass_time(300, flowing="other")
        assert world.paused("stuck")
        assert world["stuck"].what(Probe) == []
        assert world["stuck"].what(End) == []

    def test_a_refused_topic_is_tried_again_after_a_while_and_paused_again_for_longer(self, world: World) -> None:
        topic = world["stuck"]
        world.refuse("stuck")
        assert not world.paused("stuck"), "it may be over in a moment"
        world.pass_time(PAUSE_AFTER + INTERVAL, flowing="other")
        assert world.paused("stuck")
        pauses = []
        for _ in range(6):
            began = world.now
            tries = len(topic.what(Probe))
            while len(topic.what(Probe)) == tries:
                world.pass_time(INTERVAL, flowing="other")
            assert isinstance(topic.trouble.state, Probing)
            pauses.append(world.now - began)
            world.refuse("stuck")
            assert world.paused("stuck")
        assert pauses == sorted(pauses)
        assert pauses[0] == pytest.approx(PROBE_FIRST, abs=2 * INTERVAL)
        assert pauses[-1] == pytest.approx(PROBE_MOST, abs=2 * INTERVAL)
        assert len(topic.what(Tell)) == 1

    def test_a_refusal_that_comes_during_a_pause_prolongs_it_and_is_not_told_again(self, world: World) -> None:
        topic = world["stuck"]
        world.refuse("stuck")
        world.pass_time(PAUSE_AFTER + INTERVAL, flowing="other")
        before = topic.trouble.state
        world.refuse("stuck")
        after = topic.trouble.state
        assert isinstance(before, Paused)
        assert isinstance(after, Paused)
        assert after.probe_at > before.probe_at
        assert topic.done[-1] == HoldBack()
        assert len(topic.what(Tell)) == len(topic.what(Pause)) == 1

    def test_a_try_that_hangs_pauses_the_topic_again(self, world: World) -> None:
        topic = world["stuck"]
        world.refuse("stuck", partition=0)
        world.pass_time(PAUSE_AFTER + PROBE_FIRST + 1, flowing="other")
        assert topic.what(Probe) == [Probe()]
        topic.partitions[0].waiting = 1
        world.pass_time(PAUSE_AFTER + STUCK_AFTER + 2 * INTERVAL, flowing="other")
        assert world.paused("stuck")
        assert len(topic.what(Pause)) == 2

    def test_a_paused_topic_without_a_leader_is_asked_about_and_tried_once_it_has_one(self, world: World) -> None:
        """A try that hangs fills the buffer, and stops the others meanwhile."""
        topic = world["stuck"]
        topic.partitions[0].leaderless = True
        partition = world.send("stuck")
        world.pass_time(STUCK_AFTER + PAUSE_AFTER + 1, flowing="other")
        assert world.paused("stuck")
        partition.sent_at.clear()
        world.pass_time(300, flowing="other")
        assert topic.what(Probe) == []
        assert len(topic.what(LookUp)) == pytest.approx(300 / LOOK_UP_INTERVAL, abs=2)
        partition.leaderless = False
        world.pass_time(INTERVAL, flowing="other")
        partition.waiting = 1
        world.pass_time(PAUSE_AFTER + STUCK_AFTER, flowing="other")
        assert topic.what(Probe) == [Probe()]
        assert not world.paused("stuck"), "it is given time from then on"

    @pytest.mark.parametrize("known", [0, None])
    def test_a_paused_topic_that_kafka_does_not_have_is_not_tried(self, world: World, known: int | None) -> None:
        topic = world["stuck"]
        topic.known = known
        world.refuse("stuck", partition=0)
        world.pass_time(300, flowing="other")
        assert topic.what(Probe) == []
        topic.known = PARTITIONS
        world.pass_time(2 * INTERVAL, flowing="other")
        assert topic.what(Probe) == [Probe()]

    def test_a_try_with_nothing_to_send_ends_the_trouble(self, world: World) -> None:
        world.refuse("stuck")
        world.pass_time(PAUSE_AFTER + PROBE_FIRST + PAUSE_AFTER + STUCK_AFTER + 2, flowing="other")
        assert world["stuck"].trouble.fine

    def test_a_try_during_which_the_number_of_partitions_changed_is_no_end_of_the_trouble(self, world: World) -> None:
        topic = world["stuck"]
        world.refuse("stuck")
        world.pass_time(PAUSE_AFTER + PROBE_FIRST + 1, flowing="other")
        assert topic.what(Probe) == [Probe()]
        topic.known = PARTITIONS + 1
        world.pass_time(PAUSE_AFTER + STUCK_AFTER + INTERVAL, flowing="other")
        assert world.paused("stuck")

    def test_the_pauses_of_a_topic_that_worked_begin_short_again(self, world: World) -> None:
        topic = world["stuck"]
        pauses = []
        for _ in range(2):
            world.refuse("stuck", partition=0)
            world.pass_time(PAUSE_AFTER + INTERVAL, flowing="other")
            state = topic.trouble.state
            assert isinstance(state, Paused)
            pauses.append(state.probe_at - world.now)
            world.acknowledge("stuck")
        assert pauses == pytest.approx([PROBE_FIRST, PROBE_FIRST], abs=INTERVAL)

    def test_an_error_is_kept_without_the_frames_that_it_came_by(self) -> None:
        trouble = TopicTrouble()
        with pytest.raises(PublishError) as caught:
            raise PublishError(FailureKind.TOPIC, "refused")
        assert caught.value.__traceback__ is not None
        trouble.refused(caught.value, 1.0, LATEST)
        assert isinstance(trouble.state, Troubled)
        assert trouble.state.error.__traceback__ is None


class TestMetadata:
    """The number of partitions that Kafka has."""

    def test_a_topic_whose_number_of_partitions_changed_is_resolved_again(self, world: World) -> None:
        topic = world["stuck"]
        topic.known = PARTITIONS + 1
        world.look()
        world.look()
        assert topic.done == [Chill(), ResolveAgain()]

    def test_a_topic_that_is_not_known_at_the_moment_keeps_its_partitions(self, world: World) -> None:
        topic = world["stuck"]
        topic.known = 0
        world.look()
        topic.known = None
        world.look()
        assert topic.done == [Chill()]

    def test_a_paused_topic_is_not_tried_in_the_look_that_finds_other_partitions(self, world: World) -> None:
        topic = world["stuck"]
        world.refuse("stuck")
        world.pass_time(PAUSE_AFTER + INTERVAL)
        topic.known = PARTITIONS + 1
        world.now += PROBE_MOST
        world.look()
        assert topic.what(ResolveAgain) == [ResolveAgain()]
        assert topic.what(Probe) == []


# Any history


@dataclass(frozen=True)
class Step:
    """Something that happens to the topic, and the time until the next look."""

    what: str
    partition: int
    seconds: float


STEPS = st.builds(
    Step,
    st.sampled_from(
        ["look"] * 6
        + ["send", "arrive", "ack", "ack other", "refuse", "refuse all", "give up", "lame", "heal", "lost", "found"]
        + ["resolve", "more partitions", "no room", "lose", "lose for topic", "said", "silent", "unnoted", "noted"]
    ),
    st.integers(0, PARTITIONS - 1),
    st.sampled_from([0.0, INTERVAL, 1.0, 2.5, 6.0, 40.0]),
)


class History(World):
    """One topic to which anything happens, another that shows whether Kafka works, and what must hold meanwhile."""

    def __init__(self, draw: float) -> None:
        super().__init__("any", "other", draw=draw)
        self.seen = 0

    @property
    def topic(self) -> Topic:
        return self["any"]

    def step(self, step: Step) -> None:
        self._publish(step.what, self.topic.partitions[step.partition])
        self._answer(step.what, self.topic.partitions[step.partition])
        self._doubt(step.what, self.topic.partitions[step.partition])
        self._learn(step.what, self.topic.partitions[step.partition])
        self.check()
        self.now += step.seconds
        before = self.topic.trouble.state
        self.look()
        self.check()
        self._check_that_nothing_sticks(before)

    def _publish(self, what: str, partition: Lane) -> None:
        match what:
            case "send" if not self.topic.held:
                self.send("any", partition.number)
            case "arrive" if not self.topic.held:
                partition.waiting += 1
            case "give up":
                partition.land()
            case "no room":
                self.topic.act(self.topic.trouble.needs_room(self.now, self.draw))

    def _answer(self, what: str, partition: Lane) -> None:
        match what:
            case "ack":
                partition.waiting = 0
                self.acknowledge("any", partition.number)
            case "ack other":
                self.acknowledge("other")
            case "refuse":
                partition.land()
                self.refuse("any", partition=partition.number)
            case "refuse all":
                self.refuse("any", PublishError(FailureKind.TOPIC, f"refused at {self.now % 2:.0f}"))

    def _doubt(self, what: str, partition: Lane) -> None:
        match what:
            case "lose":
                self.lose("any", partition.number)
            case "lose for topic":
                self.lose("any", partition.number, MISSING)
            case "said" | "silent" if partition.unknown is not None:
                self.lose("any", partition.number, waits=NO_MARKER if what == "said" else None)
            case "unnoted" if partition.waiting:
                partition.unnoted_since = partition.unnoted_since or self.now
            case "noted":
                partition.unnoted_since = None

    def _learn(self, what: str, partition: Lane) -> None:
        topic = self.topic
        match what:
            case "lame" | "heal":
                partition.leaderless = what == "lame"
            case "lost":
                topic.known = 0
            case "found":
                topic.known = PARTITIONS
            case "more partitions":
                topic.known = PARTITIONS + 1
            case "resolve" if not topic.busy and topic.known:
                topic.routed_to = topic.known
                topic.act(topic.trouble.resolved())

    def check(self) -> None:
        """What was done fits the states, and nothing is done twice."""
        topic = self.topic
        assert topic.held == topic.trouble.paused
        held, in_trouble = False, False
        for action in topic.done:
            match action:
                case Tell():
                    in_trouble = True
                case Pause():
                    assert in_trouble
                    assert not held, "paused twice"
                    held = True
                case HoldBack():
                    assert held
                case Probe():
                    assert held, "resumed twice"
                    held = False
                case End():
                    assert in_trouble, "ended twice"
                    held = in_trouble = False
        assert held == topic.trouble.paused
        assert in_trouble == (not topic.trouble.fine)

    def _check_that_nothing_sticks(self, before: object) -> None:
        """A look at the latest moment at which something has to follow makes it follow."""
        state = self.topic.trouble.state
        match state:
            case Troubled():
                assert self.now - state.since <= PAUSE_AFTER
            case Probing():
                assert self.now - state.since <= PAUSE_AFTER + STUCK_AFTER
            case Paused():
                assert state.probe_at <= self.now + PROBE_MOST
                workable = self.topic.known == self.topic.routed_to and not self.topic.busy
                lame = {partition.number for partition in self.topic.partitions if partition.leaderless}
                if isinstance(before, Paused) and workable and not lame & state.partitions:
                    assert self.now < state.probe_at, "it could be tried, and was not"
            case Fine():
                pass


@given(st.lists(STEPS, max_size=60), st.floats(0, 1, exclude_max=True))
def test_whatever_happens_a_topic_is_resumed_once_for_each_pause_and_no_state_lasts_too_long(
    steps: list[Step], draw: float
) -> None:
    history = History(draw)
    for step in steps:
        history.step(step)


@given(st.lists(STEPS, max_size=30), st.floats(0, 1, exclude_max=True))
def test_whatever_happened_a_paused_topic_is_asked_about_and_works_again_once_kafka_does(
    steps: list[Step], draw: float
) -> None:
    history = History(draw)
    for step in steps:
        history.step(step)
    topic = history.topic
    if topic.trouble.paused and topic.routed_to is not None and topic.known == topic.routed_to:
        asked = len(topic.what(LookUp))
        for partition in topic.partitions:
            partition.leaderless = True
            partition.land()
        history.pass_time(10 * LOOK_UP_INTERVAL)
        if topic.trouble.paused:
            assert len(topic.what(LookUp)) - asked >= 9
    # Kafka is well again: what is in flight is given back, and what goes is acknowledged.
    topic.known = topic.routed_to = PARTITIONS
    for partition in topic.partitions:
        partition.leaderless = False
        partition.land()
        partition.withdraw()
    history.pass_time(PAUSE_AFTER + PROBE_MOST + PAUSE_AFTER + STUCK_AFTER + 4 * INTERVAL, flowing="other")
    assert topic.trouble.fine
    assert not topic.held


EVIDENCE = ["lame", "lose for topic", "said", "unnoted"]
"""What shows that a partition takes nothing although no other batch is acknowledged."""


@given(
    st.lists(STEPS, max_size=30),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(EVIDENCE),
    st.integers(0, PARTITIONS - 1),
)
def test_whatever_happened_a_partition_that_takes_nothing_leaves_the_room_to_others_that_cannot_move_before(
    steps: list[Step], draw: float, evidence: str, number: int
) -> None:
    """What waits for it fills the buffer, so that Kafka acknowledges nothing of any topic from then on."""
    history = History(draw)
    for step in steps:
        history.step(step)
    topic, partition = history.topic, history.topic.partitions[number]
    topic.known = topic.routed_to
    if evidence == "unnoted":
        # What was sent to was noted.
        partition.land()
    for _ in range(round((2 * STUCK_AFTER + 3 * PAUSE_AFTER) / INTERVAL)):
        if not topic.held:
            partition.waiting = ROOM
            if evidence != "unnoted" and not partition.sent_at:
                history.send("any", number)
        if evidence == "said":
            history.lose("any", number)
        history._doubt(evidence, partition)
        history._learn(evidence, partition)
        history.pass_time(INTERVAL)
        history.check()
    # It may be tried again at any time, and is held back again soon.
    assert topic.held or isinstance(topic.trouble.state, Probing)


@given(st.lists(STEPS, max_size=30), st.floats(0, 1, exclude_max=True))
def test_whatever_happened_a_topic_that_is_fine_is_not_blamed_while_kafka_says_nothing(
    steps: list[Step], draw: float
) -> None:
    history = History(draw)
    for step in steps:
        history.step(step)
    if not history.topic.trouble.fine:
        return
    for partition in history.topic.partitions:
        partition.leaderless, partition.unnoted_since = False, None
        if partition.unknown is not None:
            partition.unknown = Unknown(partition.unknown.since, LOST, None)
    history.pass_time(ALIVE_FOR + 2 * INTERVAL)
    if history.topic.trouble.fine:
        told = history.topic.what(Tell)
        history.pass_time(2 * REQUEST_TIMEOUT)
        assert history.topic.trouble.fine
        assert history.topic.what(Tell) == told
