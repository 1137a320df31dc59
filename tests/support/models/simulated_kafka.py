"""Kafka as far as publish can tell: what lands in a partition, what is refused, and what lands late.

Of a batch that was sent three things are apart: it lands in its partition's log, its answer arrives, and what its
producer leaves behind when it is given up, which may land at any later time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from relay.decide.limits import TopicLimits
from relay.outcome import Acknowledged, FailureKind, PublishError, Refused
from tests.support.models.simulated_connection import Instant
from tests.support.models.simulated_postgres import TOPIC, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from relay.event import PendingEvent
    from relay.outcome import BatchOutcome
    from relay.stages.hold.gate import Gate
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.publish import Publish
    from relay.stages.publish.topic import Topic

PARTITIONS = 4
MOST_PACKED = 2
"""Events per batch."""

ROOM_FOR_SMALL = 256 + 12
"""A limit for record batches that events of 13 bytes exceed and those of 9 do not."""


@dataclass(eq=False)
class Batch:
    """Events packed for one partition, and sent."""

    events: list[PendingEvent]
    size: int
    allowed: Callable[[], bool] = lambda: True
    done: Callable[[BatchOutcome], None] = lambda outcome: None
    where: tuple[str, int] = ("", 0)
    """Topic and partition."""
    landed: bool = False
    base_offset: int = -1
    restamped: int = 0


@dataclass(eq=False)
class SimulatedKafka:
    """One cluster. What lands is told to the schedule."""

    on_landed: Callable[[list[PendingEvent]], None]
    limit: int | None = None
    """Of a record batch, in every topic."""
    topics: dict[str, int] = field(default_factory=lambda: {TOPIC: PARTITIONS})
    """Name -> number of partitions."""
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    """The next offset of each partition that has a record."""
    left_behind: list[deque[Batch]] = field(default_factory=list)
    """What producers that were given up had sent in a partition, and may yet land in order."""

    def land(self, batch: Batch) -> None:
        batch.landed = True
        batch.base_offset = self.ends.get(batch.where, 0)
        self.ends[batch.where] = batch.base_offset + len(batch.events)
        self.on_landed(batch.events)

    def land_late(self, left: deque[Batch]) -> None:
        """The next batch of those that were left behind arrives."""
        self.land(left.popleft())
        if not left:
            self.left_behind.remove(left)

    def fits(self, batch: Batch) -> bool:
        return self.limit is None or all(event.size + 256 <= self.limit for event in batch.events)


class SimulatedProducer:
    """The shared fake of Kafka's producers, whose batches wait for what the schedule lets Kafka do.

    `tests/contract` holds it to what the real one does. All that one sends goes to one topic.
    """

    def __init__(self, kafka: SimulatedKafka) -> None:
        self.kafka = kafka
        self._known: dict[str, int] = {}
        self._died: asyncio.Future[str] | None = None
        self.sent: dict[int, deque[Batch]] = {number: deque() for number in range(PARTITIONS)}
        self._warm: set[int] = set()
        """Partitions whose broker knows this producer's sequence, and refuses a gap in it."""
        self._gap: set[int] = set()

    @property
    def died(self) -> asyncio.Future[str]:
        if self._died is None:
            self._died = asyncio.get_running_loop().create_future()
        return self._died

    def trouble(self) -> str | None:
        return None

    async def partition_count(self, topic: str) -> int:
        await Instant()
        if topic not in self.kafka.topics:
            raise PublishError(FailureKind.TOPIC, f"topic {topic} does not exist; create it")
        self._known[topic] = self.kafka.topics[topic]
        return self._known[topic]

    async def existing(self, topics: Sequence[str]) -> list[str]:
        await Instant()
        return [topic for topic in topics if topic in self.kafka.topics]

    def known_partition_count(self, topic: str) -> int:
        return self._known.get(topic, 0)

    def leaderless(self, topic: str, partition: int) -> bool:
        return False

    async def refresh_topic(self, topic: str) -> None:
        self.forget_topic(topic)
        await self.partition_count(topic)

    def forget_topic(self, topic: str) -> None:
        self._known.pop(topic, None)

    async def close(self, timeout: float) -> None:
        self.give_up()
        if not self.died.done():
            self.died.cancel()

    async def limits(self, topic: str) -> TopicLimits:
        await Instant()
        limits = TopicLimits(self.kafka.limit)
        await Instant()
        return limits

    def pack(self, waiting: Iterable[PendingEvent], most: int, max_bytes: int | None, times: tuple[int, int]) -> Batch:
        batch = Batch([], 0)
        for event in islice(waiting, min(most, MOST_PACKED)):
            if max_bytes is not None and batch.events and event.size + 256 > max_bytes:
                break
            batch.events.append(event)
            batch.size += event.size
            batch.restamped += not times[0] <= event.created_ms <= times[1]
        return batch

    async def send(
        self,
        batch: Batch,
        topic: str,
        partition: int,
        allowed: Callable[[], bool],
        done: Callable[[BatchOutcome], None],
    ) -> None:
        if partition >= self.kafka.topics.get(topic, 0):
            raise PublishError(FailureKind.TOPIC, f"topic {topic} has no partition {partition}", "NoSuchPartition")
        batch.allowed, batch.done, batch.where = allowed, done, (topic, partition)
        self.sent[partition].append(batch)

    def unanswered(self) -> list[int]:
        """The partitions in which a batch waits for its answer."""
        return [number for number, batches in self.sent.items() if batches]

    def land(self, partition: int) -> None:
        """The oldest batch without an answer arrives, and is refused or answered later."""
        batch = self.sent[partition][0]
        if batch.landed:
            self._answer(partition, Acknowledged(batch.base_offset))
        elif partition in self._gap or not batch.allowed():
            self.refuse(partition, FailureKind.CLUSTER)
        elif not self.kafka.fits(batch):
            self.refuse(partition, FailureKind.EVENT)
        else:
            self._warm.add(partition)
            self.kafka.land(batch)

    def refuse(self, partition: int, kind: FailureKind) -> None:
        """Kafka does not take the oldest batch without an answer, which has not landed."""
        if partition in self._warm:
            self._gap.add(partition)
        self._answer(partition, Refused(PublishError(kind, "refused")))

    def give_up(self) -> None:
        """Nobody hears its answers any more."""
        for number, batches in self.sent.items():
            left = deque(batch for batch in batches if not batch.landed)
            if left and number not in self._gap:
                self.kafka.left_behind.append(left)
            batches.clear()

    def _answer(self, partition: int, outcome: BatchOutcome) -> None:
        self.sent[partition].popleft().done(outcome)


class SimulatedProducers:
    """The producer of a replica, and those that are being replaced."""

    def __init__(self, kafka: SimulatedKafka) -> None:
        self._kafka = kafka
        self.current: SimulatedProducer | None = SimulatedProducer(kafka)
        self.discarded: list[SimulatedProducer] = []
        self.main: Any = self
        self.side: Any = self

    @property
    def all(self) -> Iterator[SimulatedProducer]:
        yield from self.discarded
        if self.current is not None:
            yield self.current

    def of(self, partition: Partition) -> SimulatedProducers:
        return self

    def works(self, producer: SimulatedProducer) -> None:
        pass

    def uses(self, producer: SimulatedProducer) -> bool:
        return producer is self.current

    def discard_both(self, reason: str) -> None:
        raise Violation(f"publish had to be begun anew: {reason}")

    def discard(self, producer: SimulatedProducer, reason: str) -> None:
        if producer is self.current:
            self.current = None
            self.discarded.append(producer)

    def replace(self, publish: Publish) -> None:
        """The end of waiting for what is in flight: the rest is given up, and there is a new producer."""
        for producer in self.discarded:
            publish.flights.abandon(producer)  # type: ignore[arg-type]
            producer.give_up()
        self.discarded.clear()
        self.current = SimulatedProducer(self._kafka)

    def give_up(self) -> None:
        """The process is gone."""
        for producer in self.all:
            producer.give_up()


class SimulatedWatch:
    """Holds back the topic when the schedule says so, and as the real one does."""

    def __init__(self, gate: Gate, topic: Topic) -> None:
        self._gate = gate
        self._topic = topic
        self.paused = False
        self.last_acknowledged = 0.0

    def serve(self, topics: Iterable[Topic]) -> None:
        pass

    def acknowledged(self, topic: Topic, partition: Partition, now: float) -> None:
        self.last_acknowledged = now

    def given_back(self, topic: Topic) -> None:
        if self.paused:
            self._gate.close(topic.name, topic.withdraw())

    def refused(self, topic: Topic, error: PublishError, partition: Partition | None = None) -> None:
        self.pause()

    def pause(self) -> None:
        self.paused = True
        self._gate.close(self._topic.name, self._topic.withdraw())

    def unpause(self) -> None:
        self.paused = False
        self._gate.open(self._topic.name)
