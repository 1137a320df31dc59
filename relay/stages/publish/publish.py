"""Publishes events to Kafka, in order per partition, with several partitions under way at once.

Gate, resume and republish hand events in. An event waits in its topic until the topic's partitions are known, then in
its partition's line, and is then in flight: in one of at most two record batches that a producer has for the partition.
From there it goes to `Outcomes` (acknowledged), or back to the head of the line (refused), where it may have to fail.
Events that are not in flight leave by `withdraw` when their topic is paused, their key closed, or the tenure over.

Only this room writes its queues and flights. It must never send a batch that Kafka could take although it refused the
one before, and never fail an event while something of its partition is in flight.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

from relay.event import TOPIC, size_of
from relay.outcome import FailureKind, PublishError, Refused
from relay.stages.publish.flights import Flights
from relay.stages.publish.partition import MOST_PER_BATCH, Flight
from relay.stages.publish.refusals import Refusals
from relay.stages.publish.resolving import Resolving
from relay.stages.publish.unpublishable import FAILED_AT_ONCE, Unpublishable

if TYPE_CHECKING:
    from relay.event import EventWithOrigin, PendingEvent
    from relay.stages.hold.failures import Failures
    from relay.stages.publish.doubts import Doubts
    from relay.stages.publish.faults import Faults
    from relay.stages.publish.pacing import Pacing
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.pauses import Pauses
    from relay.stages.publish.ports import Landed, Producer
    from relay.stages.publish.producers import Pair
    from relay.stages.publish.queues import Topics
    from relay.stages.publish.throttle import Throttle
    from relay.stages.publish.topic import Topic
    from relay.stages.publish.watch import Watch
    from relay.stages.reconcile.notes import Notes
    from relay.stages.settle.outcomes import Outcomes
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

ROUTED_AT_ONCE = 1_000
"""Events: about a millisecond, if all their keys are new."""

FORGOTTEN_AFTER = 600.0
"""Seconds without events after which a topic is forgotten: whoever names a new one each day must not fill memory."""


class Publish:
    """The pump of each partition. Outlives tenures: what is in flight when one ends is still awaited, and settled."""

    def __init__(
        self,
        *,
        producers: Pair,
        topics: Topics,
        outcomes: Outcomes,
        failures: Failures,
        watch: Watch,
        pauses: Pauses,
        pacing: Pacing,
        throttle: Throttle,
        faults: Faults,
        quiesce_timeout: float,
        telemetry: Telemetry,
        notes: Notes | None = None,
        doubts: Doubts | None = None,
        on_landed: Landed | None = None,
    ) -> None:
        """With `notes`, nothing is sent to a partition that is not noted.

        With `doubts`, nothing is sent again of which nobody knows whether Kafka has it.
        """
        self._notes = notes
        self.producers = producers
        self.topics = topics
        self._watch = watch
        self.pauses = pauses
        self._pacing = pacing
        self._throttle = throttle
        self._faults = faults
        self._telemetry = telemetry
        self._resolving = Resolving(producers.main, watch)
        self.unpublishable = Unpublishable(
            topics=topics, failures=failures, faults=faults, hand_in=self.hand_in_with_origins
        )
        refusals = Refusals(
            topics=topics,
            producers=producers,
            watch=watch,
            pauses=pauses,
            unpublishable=self.unpublishable,
            telemetry=telemetry,
        )
        self.flights = Flights(
            topics=topics,
            producers=producers,
            outcomes=outcomes,
            refusals=refusals,
            watch=watch,
            faults=faults,
            quiesce_timeout=quiesce_timeout,
            telemetry=telemetry,
            doubts=doubts,
            on_landed=on_landed,
        )

    async def run(self) -> None:
        """Keep the producers and publish until cancelled."""
        # The main one at once, so that health knows Kafka; the other when something is refused.
        self.producers.main.want()
        keepers = (self.producers.main, self.producers.side)
        await self._faults.run(
            *(partial(keeper.run, self.flights.quiesce, self.flights.abandon) for keeper in keepers),
            partial(self._watch.run, self),
            *([self._throttle.run] if self.topics.limited else []),
        )

    async def ready(self) -> None:
        """Wait until there is a producer."""
        await self.producers.main.ready()

    async def raise_faults(self) -> None:
        """Wait for a fault in what the current tenure's events go through, and raise it."""
        await self._faults.wait()

    def serve(self, tenure: Tenure) -> None:
        """Publish what `tenure` hands in from now on."""
        self.topics.tenure = tenure
        self._faults.forget()
        self._watch.serve(self.topics.values())

    def forget(self, tenure: Tenure) -> None:
        """End a tenure: drop what has not been sent. What is in flight stays there and is settled later."""
        if tenure is self.topics.tenure:
            self.topics.tenure = None
            self.topics.withdraw()

    def hand_in(self, events: list[PendingEvent]) -> None:
        """Take events that scans of the current tenure took, or that resume has read again, in order per lane."""
        by_topic: dict[str, list[PendingEvent]] = {}
        for event in events:
            name = event[TOPIC]
            if name in by_topic:
                by_topic[name].append(event)
            else:
                by_topic[name] = [event]
        for name, its_events in by_topic.items():
            topic = self._topic(name)
            allowed = its_events if topic.refusal is None else self._turn_away(topic, its_events)
            topic.route(self._throttle.admit(topic, allowed))
            self.pauses.given_back(topic)

    def hand_in_with_origins(self, events: list[EventWithOrigin]) -> None:
        """Take events that no scan took, in order per lane: their origins hear what becomes of them."""
        for name in {event.topic for event in events}:
            self._topic(name).with_origins = True
        self.hand_in(list(events))

    def forget_limits(self, topics: set[str]) -> None:
        """Read these topics' limits again before failing an event for them: somebody has most likely raised one."""
        for name in topics:
            self._topic(name).limits.forget()

    async def wait_landed(self) -> None:
        """Wait until nothing is in flight."""
        await self.flights.wait_landed()

    def discard_in_flight(self, tenure: Tenure, reason: str) -> None:
        """End a lease: what of its tenure is still in the producers' hands must not be sent any more."""
        self.flights.discard(tenure, reason)

    async def pump(self, topic: Topic, partition: Partition) -> None:
        """Send the batches of one partition for as long as the service runs."""
        while True:
            producer = await self.producers.of(partition).ready()
            partition.wake_up.clear()
            if not await self.turn(topic, partition, producer):
                await partition.wake_up.wait()

    async def turn(self, topic: Topic, partition: Partition, producer: Producer) -> bool:
        """Do what can be done for a partition now; returns whether there may be more before something happens."""
        tenure = self.topics.tenure
        if tenure is None or not partition.may_send(producer, time.monotonic()):
            return False
        if not tenure.holds_lease():
            # Another replica may own these lanes by now; the claim stage ends the tenure.
            partition.withdraw()
            return True
        if await self._pacing.had_to_wait() or (topic.pace is not None and await self._throttle.had_to_wait(topic)):
            return True
        too_large = topic.limits.seem_exceeded_by(partition.waiting[0])
        if partition.flights and (partition.condemned or too_large):
            # An earlier event of its key may be among them. If that is refused, or this process killed, the earlier one
            # would find its key closed by the later one's failure, and be published after it.
            return False
        if partition.condemned and (culprits := partition.take_condemned(FAILED_AT_ONCE)):
            for event, why in culprits:
                self.unpublishable.fail(tenure, topic, partition, event, why)
        elif too_large:
            await self.unpublishable.fail_too_large(topic, partition, producer, tenure)
        else:
            await self._send(topic, partition, producer, tenure)
            return bool(partition.waiting)
        # A thousand failures in a row must not keep the loop from its heartbeat.
        await asyncio.sleep(0)
        return True

    async def _send(self, topic: Topic, partition: Partition, producer: Producer, tenure: Tenure) -> None:
        if self._notes is not None and not self._notes.noted(partition.topic, partition.number):
            await self._begin(self._notes, topic, partition)
            return
        bounds = await topic.limits.times_for(partition.waiting[0], producer)
        # Kafka may have been asked. Meanwhile the tenure may have ended, or what was in flight may have been refused:
        # then it waits at the head again, and may have to fail.
        if tenure is not self.topics.tenure or not partition.may_send(producer, time.monotonic()):
            return
        if partition.head_condemned() is not None or self.producers.of(partition).current is not producer:
            return
        most = topic.pace.most_per_batch if topic.pace is not None else MOST_PER_BATCH
        batch = partition.take_batch(partial(producer.pack, max_bytes=topic.limits.max_bytes, times=bounds), most)
        if self._notes is not None and not self._notes.may_send(partition.topic, partition.number):
            partition.put_back(batch.events)
            return
        self._pacing.charge(batch.events)
        flight = Flight(tenure, producer, batch.events, time.monotonic(), batch.size, bounds, batch.restamped)
        partition.flights.append(flight)
        if topic.pace is not None:
            self._throttle.sent(topic, batch.events)
        try:
            done = partial(self.flights.ended, partition, flight)
            await producer.send(batch, partition.topic, partition.number, flight.may_begin, done)
        except PublishError as error:
            self.flights.ended(partition, flight, Refused(error))

    async def _begin(self, notes: Notes, topic: Topic, partition: Partition) -> None:
        """Have the topic noted, so that others know what to look through if this process ends without a word."""
        try:
            await notes.begin(topic.name, len(topic.partitions))
        except PublishError as error:
            # Of this partition Kafka has said nothing.
            partition.unnoted_since = None
            partition.back_off()
            if error.kind is not FailureKind.CLUSTER:
                self._watch.refused(topic, error, partition)
        else:
            if notes.noted(topic.name, partition.number):
                partition.unnoted_since = None
                return
            # It has no leader: it could not be sent to either.
            partition.unnoted_since = partition.unnoted_since or time.monotonic()
            partition.back_off()

    def _topic(self, name: str) -> Topic:
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics.new(name)
            self._telemetry.expect("topic", name)
            if topic.refusal is None:
                self._faults.spawn(partial(self._resolve, topic))
        return topic

    def _turn_away(self, topic: Topic, events: list[PendingEvent]) -> list[PendingEvent]:
        exempt = self.unpublishable.turn_away(topic, events)
        if exempt and not topic.wanted:
            topic.wanted = True
            self._faults.spawn(partial(self._resolve, topic))
        return exempt

    async def _resolve(self, topic: Topic) -> None:
        """Find out the topic's partitions, and send on what waited for that."""
        for partition in await self._resolving.resolve(topic):
            topic.pumps.append(self._faults.spawn(partial(self.pump, topic, partition)))
        while topic.route_waiting(ROUTED_AT_ONCE):  # noqa: ASYNC110 it only lets others have their turn
            await asyncio.sleep(0)

    # What the watch has publish do.

    def share_of_room(self, *topics: Topic) -> float:
        """The part of the buffer's room that is taken by events whose topics' partitions are not known."""
        tenure = self.topics.tenure
        events = [event for topic in topics for event in topic.unrouted]
        return tenure.room.share(len(events), sum(map(size_of, events))) if tenure is not None else 0.0

    def resolve_again(self, topic: Topic) -> None:
        """Find out the number of partitions again, which is in question."""
        topic.unresolve()
        self._faults.spawn(partial(self._resolve, topic))

    def look_up(self, topic: Topic) -> None:
        """Have the main producer ask for the topic's partitions and their leaders; nothing to wait for."""
        self._faults.spawn(partial(self._resolving.look_up, topic))

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
            for keeper in (self.producers.main, self.producers.side):
                if keeper.current is not None:
                    keeper.current.forget_topic(topic.name)
