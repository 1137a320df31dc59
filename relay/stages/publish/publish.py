"""Publishes events to Kafka, in order per partition, with several partitions under way at once."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, assert_never

from relay.decide.routing import KnownKeys
from relay.errors import describe
from relay.event import EventWithOrigin
from relay.outcome import Acknowledged, BatchOutcome, FailureKind, PublishError, Refused
from relay.retry import Backoff
from relay.stages.publish.guarded import keep_running
from relay.stages.publish.line import withdrawn
from relay.stages.publish.partition import Flight, Partition
from relay.stages.publish.queues import Topics
from relay.stages.publish.refusals import Refusals
from relay.stages.publish.resolving import Resolving
from relay.stages.publish.topic import Topic
from relay.stages.settle.outcomes import Delivered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from relay.decide.admission import Admission
    from relay.event import PendingEvent
    from relay.stages.hold.failures import Failures
    from relay.stages.publish.pacing import Pacing
    from relay.stages.publish.ports import Producer
    from relay.stages.publish.producers import Pair
    from relay.stages.publish.watch import Troubles
    from relay.stages.settle.outcomes import Outcomes
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

ROUTED_AT_ONCE = 1_000
"""Events: about a millisecond, if all their keys are new."""

FORGOTTEN_AFTER = 600.0
"""Seconds without events after which a topic is forgotten: whoever names a new one each day must not fill memory."""

REFUSED_AT_ONCE = 20
"""Events that fail before others have their turn: each is told, and takes those of its key out of the queue."""


class Publish:
    """Outlives tenures: what is in flight when PostgreSQL is lost is still awaited and settled."""

    def __init__(
        self,
        *,
        producers: Pair,
        outcomes: Outcomes,
        failures: Failures,
        troubles: Troubles,
        pacing: Pacing,
        hash_keys: Callable[[Sequence[bytes]], Sequence[int]],
        random: Callable[[], float],
        quiesce_timeout: float,
        telemetry: Telemetry,
        admission: Admission,
    ) -> None:
        self._admission = admission
        self.producers = producers
        self._outcomes = outcomes
        self._refusals = Refusals(failures, self.hand_in_with_origins)
        self._troubles = troubles
        self._pacing = pacing
        self._hash_keys = hash_keys
        self._known_keys = KnownKeys()
        self._random = random
        self._quiesce_timeout = quiesce_timeout
        self._telemetry = telemetry
        self._tenure: Tenure | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._landed = asyncio.Event()
        self._fault: Exception | None = None
        self._faulty = asyncio.Event()
        self._resolving = Resolving(producers.main, troubles)
        self.topics = Topics()
        self.last_acknowledged = 0.0
        """Monotonic seconds."""

    async def run(self) -> None:
        """Keep the producers and publish until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            # The main one at once, so that health knows Kafka; the other when something is refused.
            self.producers.main.want()
            for keeper in (self.producers.main, self.producers.side):
                self._spawn(partial(keeper.run, self._quiesce, self._abandon), self._tell_fault)
            self._spawn(partial(self._troubles.run, self), self._tell_fault)

    async def raise_faults(self) -> None:
        """Wait for a fault in what the current tenure's events go through, and raise it: they may be stuck or lost from
        memory, and are read again by the next tenure."""
        await self._faulty.wait()
        if self._fault is not None:
            raise self._fault

    def serve(self, tenure: Tenure) -> None:
        """Publish what `tenure` hands in from now on."""
        self._tenure = tenure
        self._fault = None
        self._faulty.clear()
        self._troubles.begin_tenure(self)

    def forget(self, tenure: Tenure) -> None:
        """The tenure is over: drop what has not been sent. What is in flight stays there and is settled later."""
        if tenure is self._tenure:
            self._tenure = None
            self.topics.withdraw()

    def hand_in_with_origins(self, events: list[EventWithOrigin]) -> None:
        """Take events that no scan took, in order per lane: their origins hear what becomes of them."""
        for name in {event.topic for event in events}:
            self._topic(name).with_origins = True
        self.hand_in(list(events))

    def hand_in(self, events: list[PendingEvent]) -> None:
        """Take events that scans of the current tenure took, in order per lane."""
        by_topic: dict[str, list[PendingEvent]] = {}
        for event in events:
            name = event[3]
            if name in by_topic:
                by_topic[name].append(event)
            else:
                by_topic[name] = [event]
        for name, its_events in by_topic.items():
            topic = self._topic(name)
            if topic.refusal is not None:
                its_events = self._refuse(topic, its_events)
            topic.route(its_events)

    def forget_limits(self, topics: set[str]) -> None:
        """Read these topics' limits again before failing an event for them: somebody has most likely raised one."""
        for name in topics:
            self._topic(name).limits.forget()

    @property
    def tenure(self) -> Tenure | None:
        """The tenure that hands in."""
        return self._tenure

    async def ready(self) -> None:
        """Wait until there is a producer."""
        await self.producers.main.ready()

    async def wait_landed(self) -> None:
        """Wait until nothing is in flight."""
        while self.topics.in_flight:
            await self._wait_for_landing()

    def discard_in_flight(self, tenure: Tenure, reason: str) -> None:
        """The lease is over: what is still in the producers' hands must not be sent any more."""
        if any(flight.tenure is tenure for flight in self.topics.flights()):
            self.producers.discard_both(reason)

    def share_of_room(self, *topics: Topic) -> float:
        """The part of the buffer's room that is taken by events whose topics' partitions are not known."""
        events = [event for topic in topics for event in topic.unrouted]
        return self._tenure.room.share(len(events), sum(event[9] for event in events)) if self._tenure else 0.0

    def forget_if_idle(self, topic: Topic, now: float) -> None:
        """Let go of a topic that has had no events for long, and of what Kafka's client keeps of it."""
        if not topic.forgettable:
            topic.idle_since = None
        elif topic.idle_since is None:
            topic.idle_since = now
        elif now - topic.idle_since > FORGOTTEN_AFTER:
            del self.topics[topic.name]
            for pump in topic.pumps:
                pump.cancel()
            self._troubles.forget(topic)
            for keeper in (self.producers.main, self.producers.side):
                if keeper.current is not None:
                    keeper.current.forget_topic(topic.name)

    def resolve_anew(self, topic: Topic) -> None:
        """The number of partitions is in question."""
        topic.unresolve()
        self._spawn(partial(self._resolve, topic))

    def look_up(self, topic: Topic) -> None:
        """Have the main producer ask for the topic's partitions and their leaders; nothing to wait for."""
        self._spawn(partial(self._resolving.look_up, topic))

    def _topic(self, name: str) -> Topic:
        topic = self.topics.get(name)
        if topic is None:
            new_backoff = partial(Backoff, self._random, first=0.2, most=15.0)
            topic = self.topics[name] = Topic(name, new_backoff, self._hash_keys, self._known_keys)
            refusal = self._admission.refusal(name)
            if refusal is None:
                self._spawn(partial(self._resolve, topic))
            else:
                text = f"no event may go to topic {name}: {refusal}"
                topic.refusal = PublishError(FailureKind.EVENT, text, "TopicNotAllowed")
        return topic

    def _refuse(self, topic: Topic, events: list[PendingEvent]) -> list[PendingEvent]:
        """Have the events fail, without asking Kafka; returns those among them that are exempt."""
        exempt: list[PendingEvent] = []
        refused: list[PendingEvent] = []
        for event in events:
            (exempt if isinstance(event, EventWithOrigin) and event.origin.exempt else refused).append(event)
        if exempt and not topic.wanted:
            topic.wanted = True
            self._spawn(partial(self._resolve, topic))
        if not topic.refused and refused:
            self._spawn(partial(self._fail_refused, topic))
        topic.refused.extend(refused)
        return exempt

    async def _fail_refused(self, topic: Topic) -> None:
        while topic.refused and self._tenure is not None and topic.refusal is not None:
            for _ in range(min(REFUSED_AT_ONCE, len(topic.refused))):
                self._refusals.fail(self._tenure, topic, None, topic.refused.popleft(), topic.refusal)
                if not topic.refused:
                    break
            await asyncio.sleep(0)

    def _spawn(
        self, work: Callable[[], Awaitable[None]], failed: Callable[[Exception], None] | None = None
    ) -> asyncio.Task[None]:
        if self._tasks is None:
            raise RuntimeError("publish is not running")
        backoff = Backoff(self._random, first=0.5, most=30.0)
        return self._tasks.create_task(keep_running(work, failed or self._end_tenure, backoff))

    def _tell_fault(self, error: Exception) -> None:
        self._telemetry.emit("publish.fault", error=describe(error))

    def _end_tenure(self, error: Exception) -> None:
        """There is a fault in the way of the current tenure's events. What is in flight lands, or is given up."""
        self._tell_fault(error)
        self._fault = error
        self._faulty.set()
        self.producers.discard_both("a fault in the relay itself")

    async def _resolve(self, topic: Topic) -> None:
        """Find out the topic's partitions, and send on what waited for that."""
        for partition in await self._resolving.resolve(topic):
            topic.pumps.append(self._spawn(partial(self._pump, topic, partition)))
        while topic.route_waiting(ROUTED_AT_ONCE):  # noqa: ASYNC110 it only lets others have their turn
            await asyncio.sleep(0)

    async def _pump(self, topic: Topic, partition: Partition) -> None:
        """Send the batches of one partition for as long as the service runs."""
        while True:
            producer = await self.producers.of(partition).ready()
            partition.wake_up.clear()
            if not await self.turn(topic, partition, producer):
                await partition.wake_up.wait()

    async def turn(self, topic: Topic, partition: Partition, producer: Producer) -> bool:
        """Do what can be done for a partition now; returns whether there may be more before something happens."""
        tenure = self._tenure
        if tenure is None or not partition.may_send(producer, time.monotonic()):
            return False
        if not tenure.holds_lease():
            # Another replica may own these lanes by now; the claim stage ends the tenure.
            partition.withdraw()
            return True
        if await self._pacing.had_to_wait():
            return True
        condemned, too_large = partition.head_condemned(), topic.limits.seem_exceeded_by(partition.waiting[0])
        if partition.flights and (condemned is not None or too_large):
            # An earlier event of its key may be among them. If that is refused, or this process killed, the earlier one
            # would find its key closed by the later one's failure, and be published after it.
            return False
        if condemned is not None:
            self._refusals.fail(tenure, topic, partition, partition.pop_head(), condemned)
            # A thousand such in a row must not keep the loop from its heartbeat.
            await asyncio.sleep(0)
        elif too_large:
            await self._fail_too_large(topic, partition, producer, tenure)
        else:
            await self._send(topic, partition, producer, tenure)
        return True

    async def _send(self, topic: Topic, partition: Partition, producer: Producer, tenure: Tenure) -> None:
        bounds = await topic.limits.times_for(partition.waiting[0], producer)
        if not partition.waiting or tenure is not self._tenure:
            return
        pack = partial(producer.pack, max_bytes=topic.limits.max_bytes, times=bounds)
        batch = partition.take_batch(pack)
        self._pacing.charge(batch.events)
        flight = Flight(tenure, producer, batch.events, time.monotonic(), batch.size, bounds, batch.restamped)
        partition.flights.append(flight)
        try:
            done = partial(self._ended, partition, flight)
            await producer.send(batch, partition.topic, partition.number, flight.may_begin, done)
        except PublishError as error:
            self._ended(partition, flight, Refused(error))

    async def _fail_too_large(self, topic: Topic, partition: Partition, producer: Producer, tenure: Tenure) -> None:
        """The event at the head seems too large for its topic: fail it without sending, if the limit still holds."""
        try:
            await topic.limits.read_sizes_again(producer)
        except PublishError:
            partition.back_off()
            return
        if tenure is self._tenure and partition.waiting and topic.limits.seem_exceeded_by(partition.waiting[0]):
            event = partition.pop_head()
            self._refusals.fail(tenure, topic, partition, event, topic.limits.too_large(event))
            # A thousand such in a row must not keep the loop from its heartbeat.
            await asyncio.sleep(0)

    def _ended(self, partition: Partition, flight: Flight, outcome: BatchOutcome) -> None:
        """A flight's outcome is known. Outcomes are acted on in the order of the flights."""
        try:
            self._end(partition, flight, outcome)
        except Exception as error:  # noqa: BLE001 a callback of the client: nobody else would hear of it
            self._end_tenure(error)

    def _end(self, partition: Partition, flight: Flight, outcome: BatchOutcome) -> None:
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
        now = self.last_acknowledged = time.monotonic()
        partition.acknowledged(flight, now)
        self.producers.works(flight.producer)
        self._troubles.acknowledged(self.topics[partition.topic], partition, now)
        self._telemetry.emit(
            "publish.acknowledged",
            topic=partition.topic,
            events=len(flight.events),
            bytes=flight.size,
            seconds=now - flight.sent_at,
        )
        if flight.restamped:
            self._restamped(self.topics[partition.topic], flight.restamped)
        self._outcomes.acknowledged(
            Delivered(flight.tenure, flight.events, partition.number, base_offset),
            with_origins=self.topics[partition.topic].with_origins,
        )

    def _restamped(self, topic: Topic, events: int) -> None:
        first_time = not topic.restamped
        topic.restamped += events
        self._telemetry.emit("publish.restamped", topic=topic.name, events=events, first_time=first_time)

    def _refused(self, partition: Partition) -> None:
        """The batch at the head was refused, and what came of those behind it is known too."""
        flights = list(partition.flights)
        partition.flights.clear()
        back: list[PendingEvent] = []
        for flight in flights:
            match flight.outcome:
                case Acknowledged(base_offset=offset):
                    self._acknowledged(partition, flight, offset)
                case Refused():
                    if flight.tenure is self._tenure:
                        back += flight.events
                    else:
                        withdrawn(flight.events)
                case None:
                    raise AssertionError("a flight without an outcome was put back")
                case _ as never:
                    assert_never(never)
        first = flights[0]
        error = first.outcome.error  # type: ignore[union-attr]
        self._telemetry.emit(
            "publish.refused",
            topic=partition.topic,
            partition=partition.number,
            events=len(first.events),
            error=error,
        )
        partition.put_back(back)
        intact = all(isinstance(each.outcome, Refused) and each.outcome.producer_intact for each in flights)
        self._act_on(first.outcome, partition, first, intact)  # type: ignore[arg-type]
        if not intact:
            # Its sequence has a gap now: every later batch of this partition would fail (aiokafka #1017).
            self.producers.discard(first.producer, f"{partition.topic}-{partition.number}: {error}")

    def _act_on(self, outcome: Refused, partition: Partition, flight: Flight, intact: bool) -> None:
        topic = self.topics[partition.topic]
        error = outcome.error
        match error.kind:
            case FailureKind.CLUSTER:
                partition.back_off()
                # Not if the producer was discarded for another's refusal: then nobody said anything of this one.
                if self.producers.uses(flight.producer) and partition.refused_alone(
                    time.monotonic(), self.last_acknowledged
                ):
                    partition.suspect = True
                    self._troubles.begin(topic, _refused_alone(error, partition), partition)
                else:
                    self._troubles.given_back(topic)
            case FailureKind.TOPIC:
                partition.suspect = True
                partition.back_off()
                self._troubles.begin(topic, error, partition)
            case FailureKind.TIME:
                self._refused_for_time(outcome, partition, flight)
            case FailureKind.EVENT | FailureKind.UNKNOWN:
                # A producer that can go on disturbs nobody with further refusals: they are answers like others.
                partition.suspect = partition.suspect or not intact
                if flight.tenure is not self._tenure:
                    return
                if outcome.culprits:
                    partition.condemn([(flight.events[at], why) for at, why in sorted(outcome.culprits.items())])
                elif len(flight.events) > 1:
                    partition.split(len(flight.events))
                else:
                    partition.culprit_found()
                    self._refusals.fail(flight.tenure, topic, partition, partition.pop_head(), error)
            case _ as never:
                assert_never(never)

    def _refused_for_time(self, outcome: Refused, partition: Partition, flight: Flight) -> None:
        """Records of the batch had times that the topic does not take. No event fails for that.

        An outage may have been longer than the topic takes, or the database's clock is ahead of the broker's.
        """
        topic = self.topics[partition.topic]
        named = [flight.events[at] for at in outcome.culprits] or flight.events
        if len(named) > 1 and not outcome.culprits:
            partition.split(len(named))
        elif topic.limits.learn_times(flight, named):
            partition.culprit_found()
        else:
            partition.back_off()
            self._troubles.begin(topic, topic.limits.clocks_differ(outcome.error), partition)

    async def _quiesce(self, producer: Producer) -> None:
        """Wait until nothing of `producer` is in flight, at most a request timeout."""
        try:
            async with asyncio.timeout(self._quiesce_timeout):
                while any(
                    flight.producer is producer and flight.outcome is None
                    for partition in self.topics.partitions()
                    if not partition.suspect
                    for flight in partition.flights
                ):
                    await self._wait_for_landing()
        except TimeoutError:
            return

    def _abandon(self, producer: Producer) -> None:
        """`producer` is being discarded: whether what it has in flight is in Kafka stays unknown."""
        error = PublishError(FailureKind.CLUSTER, "the producer was discarded before Kafka answered")
        for partition in self.topics.partitions():
            for flight in list(partition.flights):
                if flight.producer is producer and flight.outcome is None:
                    self._ended(partition, flight, Refused(error))

    async def _wait_for_landing(self) -> None:
        self._landed.clear()
        await self._landed.wait()


def _refused_alone(error: PublishError, partition: Partition) -> PublishError:
    text = f"partition {partition.number} of topic {partition.topic} refuses events while others take them: {error}"
    return PublishError(FailureKind.TOPIC, text, error.name)
