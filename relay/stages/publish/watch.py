"""Watches what publish has in flight, and acts on topics that take no events: pauses them, tries them, resumes them.

relay/decide/trouble.py decides, and relay/decide/stuck.py tells a topic's trouble from Kafka's. The watch collects what
they look at, and carries out the actions that they return. Its states are those of `TopicTrouble`.

Who calls: publish reports `refused`, `acknowledged` and `given_back`; resolving reports `refused` and `resolved`; `run`
looks by itself. Who may write: the watch alone changes a topic's trouble, and closes and opens the gate for topics. Of
the queues it changes nothing but `Partition.suspect` and, by `chill`, that a partition is cold. What must never happen:
that a look waits for Kafka, because all other topics would wait with it. What takes time, publish does in a task.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol, assert_never

from relay.decide.stuck import KafkaAway, Unanswered
from relay.decide.trouble import takes_too_much_room
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
from relay.stages.publish.views import obstacle_of, view_of
from relay.stages.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from relay.decide.trouble_actions import Action, Answer
    from relay.event import PendingEvent
    from relay.outcome import PublishError
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.ports import Producer
    from relay.stages.publish.queues import Topics
    from relay.stages.publish.topic import Topic
    from relay.stages.publish.views import Metadata
    from relay.telemetry import Telemetry

WATCH_INTERVAL = 0.25
"""Seconds between looks while something is in flight or in trouble."""

IDLE_INTERVAL = 1.0
"""Seconds between looks at other times, at whether topics have other partitions."""

WATCHED_AT_ONCE = 200
"""Topics that are looked at before others have their turn; a writer may have named thousands."""


class Gate(Protocol):
    """What holds back the events of paused topics."""

    def close(self, topic: str, waiting: list[PendingEvent]) -> None:
        """Hold back the topic's events from now on, and those that were `waiting` in publish."""

    def open(self, topic: str) -> None:
        """Let the topic's held events go on."""


class Producers(Protocol):
    """The producers of publish."""

    @property
    def metadata(self) -> Metadata | None:
        """What the main producer knows; None while there is none."""

    def discard(self, producer: Producer, reason: str) -> None:
        """Replace the producer, if it is still in use."""


class Watched(Protocol):
    """What publish has in hand, and what the watch has it do."""

    @property
    def topics(self) -> Topics:
        """All topics that there were events for."""

    def share_of_room(self, *topics: Topic) -> float:
        """The part of the buffer's room that events take which wait until the partitions of these topics are known."""

    def look_up(self, topic: Topic) -> None:
        """Have the main producer ask for the topic's partitions and their leaders; there is nothing to wait for."""

    def resolve_again(self, topic: Topic) -> None:
        """Find out the number of the topic's partitions before more of its events are routed."""

    def forget_if_idle(self, topic: Topic, now: float) -> None:
        """Let go of the topic if it has had no events for long."""


class Watch:
    """Keeps the trouble of all topics, and knows whether Kafka is away. Outlives tenures."""

    def __init__(
        self,
        *,
        gate: Gate,
        producers: Producers,
        random: Callable[[], float],
        request_timeout: float,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gate = gate
        self._producers = producers
        self._random = random
        self._clock = clock
        self._telemetry = telemetry
        self._request_timeout = request_timeout
        self._kafka = KafkaAway(request_timeout)
        self._telling_troubles = Telling()
        self._telling_pauses = Telling()
        self._telling_ends = Telling()

    @property
    def last_acknowledged(self) -> float:
        """When Kafka last acknowledged a batch (monotonic seconds)."""
        return self._kafka.last_acknowledged

    def serve(self, topics: Iterable[Topic]) -> None:
        """Hold back the events of paused topics for the new tenure as well, which the gate serves by now."""
        for topic in topics:
            self.given_back(topic)

    def refused(self, topic: Topic, error: PublishError, partition: Partition | None = None) -> None:
        """Take note that the topic, or one `partition` of it, took no events for `error`."""
        number = partition.number if partition is not None else None
        self._follow(topic, topic.trouble.refused(error, self._clock(), self._random(), number))

    def resolved(self, topic: Topic) -> None:
        """Take note that the topic's partitions were found out: if it was in trouble, it works again."""
        self._follow(topic, topic.trouble.resolved())

    def acknowledged(self, topic: Topic, partition: Partition, now: float) -> None:
        """Take note that Kafka acknowledged a batch of this partition."""
        if not topic.trouble.fine:
            busy = {each.number for each in topic.partitions if not each.idle}
            self._follow(topic, topic.trouble.acknowledged(partition.number, busy))
        self._kafka.acknowledged(now)
        self._telemetry.emit("kafka.connected")

    def given_back(self, topic: Topic) -> None:
        """Hold back events that were in flight and wait again, if their topic is paused."""
        if topic.trouble.paused:
            self._follow(topic, [HoldBack()])

    async def run(self, watched: Watched) -> None:
        """Watch until cancelled."""
        while True:
            busy = watched.topics.in_flight or any(not topic.trouble.fine for topic in watched.topics.values())
            await asyncio.sleep(WATCH_INTERVAL if busy else IDLE_INTERVAL)
            await self.look(watched)

    async def look(self, watched: Watched) -> None:
        """See how Kafka and each topic do, and act on it."""
        now = self._clock()
        topics = watched.topics
        self._telemetry.gauge("inflight_events", topics.in_flight)
        self._telemetry.gauge("troubled_topics", sum(not topic.trouble.fine for topic in topics.values()))
        self._look_at_kafka(topics, now)
        self._make_room(watched, now)
        # There may be thousands that do not exist, and are being asked for: nothing else is to be seen of them.
        for number, topic in enumerate([topic for topic in topics.values() if not topic.missing], 1):
            view = view_of(topic, self._producers.metadata)
            for action in topic.trouble.look(view, self._kafka.alive_since, now, self._random()):
                self._act(watched, topic, action)
            watched.forget_if_idle(topic, now)
            if number % WATCHED_AT_ONCE == 0:
                await asyncio.sleep(0)

    def _look_at_kafka(self, topics: Topics, now: float) -> None:
        fine = (topic for topic in topics.values() if topic.trouble.fine)
        obstacles = (obstacle_of(partition) for topic in fine for partition in topic.partitions if partition.flights)
        oldest = min((each.sent_at for each in obstacles if isinstance(each, Unanswered)), default=None)
        if self._kafka.look(oldest, now):
            metadata = self._producers.metadata
            known = metadata.trouble() if metadata is not None else None
            error = f"no acknowledgement for {self._request_timeout:g} s" + (f": {known}" if known else "")
            self._telemetry.emit("kafka.lost", error=error)

    def _make_room(self, watched: Watched, now: float) -> None:
        waiting = [topic for topic in watched.topics.values() if not topic.trouble.fine and topic.unrouted]
        if takes_too_much_room(watched.share_of_room(*waiting)):
            for topic in waiting:
                self._follow(topic, topic.trouble.needs_room(now, self._random()))

    def _act(self, watched: Watched, topic: Topic, action: Action) -> None:
        match action:
            case Tell() | Pause() | HoldBack() | End():
                self._follow(topic, [action])
            case Probe():
                self._gate.open(topic.name)
            case LookUp():
                watched.look_up(topic)
            case ResolveAgain():
                watched.resolve_again(topic)
            case Chill():
                for partition in topic.partitions:
                    partition.chill()
            case Suspect(number, why):
                self._suspect(topic.partitions[number], why)
            case TellStalled(number, error):
                self._telemetry.emit("partition.stalled", topic=topic.name, partition=number, error=error)
            case TellMoving(number):
                self._telemetry.emit("partition.moves", topic=topic.name, partition=number)
            case _ as never:
                assert_never(never)

    def _suspect(self, partition: Partition, why: str) -> None:
        partition.suspect = True
        if partition.flights:
            self._producers.discard(partition.flights[0].producer, why)

    def _follow(self, topic: Topic, answers: Sequence[Answer]) -> None:
        for answer in answers:
            match answer:
                case Tell(error):
                    self._tell_trouble(topic.name, error)
                case Pause(error):
                    self._tell_pause(topic.name, error)
                    self._gate.close(topic.name, topic.withdraw())
                case HoldBack():
                    self._gate.close(topic.name, topic.withdraw())
                case End():
                    self._tell_end(topic.name)
                    self._gate.open(topic.name)
                case _ as never:
                    assert_never(never)

    def _tell_trouble(self, topic: str, error: PublishError) -> None:
        if self._telling_troubles.worth_a_line(self._clock()):
            self._telemetry.emit("topic.troubled", topic=topic, error=error)
        else:
            self._telemetry.emit("topic.troubled_too", topic=topic, error=error)

    def _tell_pause(self, topic: str, error: PublishError) -> None:
        if self._telling_pauses.worth_a_line(self._clock()):
            self._telemetry.emit("topic.paused", topic=topic, error=error)
        else:
            self._telemetry.emit("topic.paused_too", topic=topic, error=error)

    def _tell_end(self, topic: str) -> None:
        if self._telling_ends.worth_a_line(self._clock()):
            self._telemetry.emit("topic.resumed", topic=topic)
        else:
            self._telemetry.emit("topic.resumed_too", topic=topic)
