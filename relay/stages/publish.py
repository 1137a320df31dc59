"""Publishes events to Kafka, in order per partition, with several partitions under way at once."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, assert_never

from relay.outcome import Acknowledged, FailureKind, Outcome, PublishError, Refused
from relay.retry import Backoff
from relay.stages.partition import Flight, Partition
from relay.stages.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from relay.event import PendingEvent
    from relay.health import Health
    from relay.settings import KafkaSettings
    from relay.stages.producing import Producer, ProducerKeeper
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

WATCH_INTERVAL = 0.5
"""Seconds between looks at the age of what is in flight and at the topics' metadata."""

_MOST_PER_BATCH = 10_000


class Delivery(NamedTuple):
    """Acknowledged events of one record batch, on their way to settle."""

    tenure: Tenure
    events: list[PendingEvent]
    partition: int
    base_offset: int
    """Of the first event; the others follow. -1 when the broker did not say."""


class Publish:
    """Outlives tenures: what is in flight when PostgreSQL is lost is still awaited and settled."""

    def __init__(
        self,
        keeper: ProducerKeeper,
        on_delivery: Callable[[Delivery], None],
        hash_key: Callable[[bytes], int],
        random: Callable[[], float],
        settings: KafkaSettings,
        health: Health,
        telemetry: Telemetry,
    ) -> None:
        self._keeper = keeper
        self._on_delivery = on_delivery
        self._hash_key = hash_key
        self._random = random
        self._settings = settings
        self._health = health
        self._telemetry = telemetry
        self._topics: dict[str, Topic] = {}
        self._tenure: Tenure | None = None
        self._tasks: asyncio.TaskGroup | None = None
        # Set whenever a flight ended.
        self._landed = asyncio.Event()

    async def run(self) -> None:
        """Keep a producer and publish until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._keeper.run(self._quiesce, self._abandon))
            self._tasks.create_task(self._watch())

    def begin(self, tenure: Tenure) -> None:
        """Publish what `tenure` hands in from now on."""
        self._tenure = tenure

    def forget(self, tenure: Tenure) -> None:
        """The tenure is over: drop what has not been sent. What is in flight stays there and is settled later."""
        if tenure is self._tenure:
            self._tenure = None
            for topic in self._topics.values():
                topic.unrouted.clear()
                for partition in topic.partitions:
                    partition.waiting.clear()

    def hand_in(self, events: list[PendingEvent]) -> None:
        """Take events of the current tenure, in order per lane."""
        by_topic: dict[str, list[PendingEvent]] = {}
        for event in events:
            name = event[3]
            if name in by_topic:
                by_topic[name].append(event)
            else:
                by_topic[name] = [event]
        for name, its_events in by_topic.items():
            self._topic(name).route(its_events)

    @property
    def in_flight(self) -> int:
        """Events in the producer's hands."""
        return sum(len(flight.events) for partition in self._partitions() for flight in partition.flights)

    def oldest_age(self, now: float) -> float:
        """Seconds since the oldest event in hand was enqueued, at unix time `now`; 0 when there is none."""
        heads = [partition.waiting[0] for partition in self._partitions() if partition.waiting]
        heads += [flight.events[0] for partition in self._partitions() for flight in partition.flights]
        heads += [topic.unrouted[0] for topic in self._topics.values() if topic.unrouted]
        return max(0.0, now - min(event[8] for event in heads) / 1000) if heads else 0.0

    async def wait_landed(self) -> None:
        """Wait until nothing is in flight."""
        while self.in_flight:
            await self._wait_for_landing()

    def discard_in_flight(self, tenure: Tenure, reason: str) -> None:
        """The lease is over: what is still in the producer's hands must not be sent any more."""
        if any(flight.tenure is tenure for partition in self._partitions() for flight in partition.flights):
            self._keeper.discard(self._keeper.current, reason)

    def _partitions(self) -> Iterator[Partition]:
        for topic in self._topics.values():
            yield from topic.partitions

    def _topic(self, name: str) -> Topic:
        topic = self._topics.get(name)
        if topic is None:
            new_backoff = partial(Backoff, self._random, first=0.2, most=15.0)
            topic = self._topics[name] = Topic(name, new_backoff, self._hash_key)
            self._spawn(self._resolve(topic))
        return topic

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        if self._tasks is None:
            raise RuntimeError("publish is not running")
        self._tasks.create_task(work)

    async def _resolve(self, topic: Topic) -> None:
        """Find out how many partitions the topic has; its events wait meanwhile, others go on."""
        backoff = topic.new_backoff()
        while True:
            producer = await self._keeper.ready()
            try:
                count = await producer.partition_count(topic.name)
            except PublishError as error:
                if topic.trouble is None or str(topic.trouble) != str(error):
                    self._telemetry.emit(
                        "publish.refused",
                        topic=topic.name,
                        partition=None,
                        events=len(topic.unrouted),
                        error=error,
                    )
                topic.trouble = error
                producer.forget_topic(topic.name)
                await asyncio.sleep(backoff.next_delay())
                continue
            while not topic.idle:
                await self._wait_for_landing()
            for partition in topic.resolved(count):
                self._spawn(self._pump(partition))
            return

    async def _pump(self, partition: Partition) -> None:
        """Send the batches of one partition for as long as the service runs."""
        while True:
            producer = await self._keeper.ready()
            partition.wake_up.clear()
            tenure = self._tenure
            if tenure is None or not partition.may_send(producer, time.monotonic()):
                await partition.wake_up.wait()
            elif not tenure.holds_lease():
                # Another replica may own these lanes by now; the claim stage ends the tenure.
                partition.waiting.clear()
            else:
                await self._send(partition, producer, tenure)

    async def _send(self, partition: Partition, producer: Producer, tenure: Tenure) -> None:
        batch = producer.pack(partition.waiting, _MOST_PER_BATCH)
        flight = Flight(tenure, producer, batch.events, time.monotonic())
        partition.flights.append(flight)
        try:
            await producer.send(batch, partition.topic, partition.number, partial(self._ended, partition, flight))
        except PublishError as error:
            self._ended(partition, flight, Refused(error))

    def _ended(self, partition: Partition, flight: Flight, outcome: Outcome) -> None:
        """A flight's outcome is known. Outcomes are acted on in the order of the flights."""
        if flight.outcome is not None or flight not in partition.flights:
            return
        flight.outcome = outcome
        while partition.flights and isinstance(partition.flights[0].outcome, Acknowledged):
            first = partition.flights.popleft()
            self._acknowledged(partition, first, first.outcome.base_offset)  # type: ignore[union-attr]
        if partition.flights and all(each.outcome for each in partition.flights):
            self._refused(partition)
        partition.wake_up.set()
        self._landed.set()

    def _acknowledged(self, partition: Partition, flight: Flight, base_offset: int) -> None:
        now = time.monotonic()
        partition.acknowledged(flight, now)
        self._keeper.works()
        self._health.kafka_ok(now)
        self._telemetry.emit("kafka.connected")
        self._telemetry.emit(
            "publish.acknowledged",
            topic=partition.topic,
            events=len(flight.events),
            bytes=sum(event[9] for event in flight.events),
            seconds=now - flight.sent_at,
        )
        self._on_delivery(Delivery(flight.tenure, flight.events, partition.number, base_offset))

    def _refused(self, partition: Partition) -> None:
        """The batch at the head was refused, and what came of those behind it is known too: put all back."""
        first = partition.flights[0]
        back: list[PendingEvent] = []
        while partition.flights:
            flight = partition.flights.popleft()
            match flight.outcome:
                case Acknowledged(base_offset=offset):
                    self._acknowledged(partition, flight, offset)
                case Refused():
                    if flight.tenure is self._tenure:
                        back += flight.events
                case None:
                    raise AssertionError("a flight without an outcome was put back")
                case _ as never:
                    assert_never(never)
        partition.put_back(back)
        error = first.outcome.error  # type: ignore[union-attr]
        if partition.refused(error):
            self._telemetry.emit(
                "publish.refused",
                topic=partition.topic,
                partition=partition.number,
                events=len(first.events),
                error=error,
            )
        # Its sequence has a gap now: every later batch of this partition would fail (aiokafka #1017).
        self._keeper.discard(first.producer, f"{partition.topic}-{partition.number}: {error}")

    async def _quiesce(self, producer: Producer) -> None:
        """Wait until nothing of `producer` is in flight, at most a request timeout."""
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                while any(
                    flight.producer is producer and flight.outcome is None
                    for partition in self._partitions()
                    for flight in partition.flights
                ):
                    await self._wait_for_landing()
        except TimeoutError:
            return

    def _abandon(self, producer: Producer) -> None:
        """`producer` is being discarded: whether what it has in flight is in Kafka stays unknown."""
        error = PublishError(FailureKind.CLUSTER, "the producer was discarded before Kafka answered")
        for partition in self._partitions():
            for flight in list(partition.flights):
                if flight.producer is producer and flight.outcome is None:
                    self._ended(partition, flight, Refused(error))

    async def _wait_for_landing(self) -> None:
        self._landed.clear()
        await self._landed.wait()

    async def _watch(self) -> None:
        """An idempotent batch never fails for a broker that is away: its age tells, and health says so."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            now = time.monotonic()
            oldest = max((partition.oldest_flight_age(now) for partition in self._partitions()), default=0.0)
            self._telemetry.gauge("inflight_events", self.in_flight)
            if oldest > self._settings.request_timeout:
                error = f"no acknowledgement for {self._settings.request_timeout:g} s"
                self._health.kafka_lost(now, error)
                self._telemetry.emit("kafka.lost", error=error)
            self._check_metadata()

    def _check_metadata(self) -> None:
        producer = self._keeper.current
        if producer is None:
            return
        for topic in self._topics.values():
            if topic.router is None:
                continue
            count = producer.known_partition_count(topic.name)
            if count != topic.router.partitions:
                for partition in topic.partitions:
                    partition.chill()
                # 0: not known at the moment, perhaps deleted, perhaps a new producer: what is routed waits there.
                if count:
                    topic.unresolve()
                    self._spawn(self._resolve(topic))
