"""Record batches in the producers' hands: what follows from their outcomes, and what is given up.

Outcomes are acted on in the order in which the batches of a partition were sent, whenever they become known. What a
batch that Kafka has becomes, its events' origins say (`Outcomes`); what follows from a refusal is in `Refusals`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, assert_never

from relay.event import EventWithOrigin
from relay.outcome import Acknowledged, BatchOutcome, FailureKind, PublishError, Refused
from relay.stages.publish.doubts import Lost
from relay.stages.publish.partition import Doubt
from relay.stages.settle.outcomes import Delivered

if TYPE_CHECKING:
    from relay.stages.publish.doubts import Doubts
    from relay.stages.publish.faults import Faults
    from relay.stages.publish.partition import Flight, Partition
    from relay.stages.publish.ports import Landed, Producer
    from relay.stages.publish.producers import Pair
    from relay.stages.publish.queues import Topics
    from relay.stages.publish.refusals import Refusals
    from relay.stages.publish.topic import Topic
    from relay.stages.publish.watch import Watch
    from relay.stages.settle.outcomes import Outcomes
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry


class Flights:
    """Acts on what becomes of flights. Outlives tenures: what is in flight when one ends is settled by the next."""

    def __init__(
        self,
        *,
        topics: Topics,
        producers: Pair,
        outcomes: Outcomes,
        refusals: Refusals,
        watch: Watch,
        faults: Faults,
        quiesce_timeout: float,
        telemetry: Telemetry,
        doubts: Doubts | None = None,
        on_landed: Landed | None = None,
    ) -> None:
        """`doubts` looks for batches of which nobody knows whether Kafka has them; without it they are sent again.

        `on_landed` is told of each flight that ends, acknowledged or refused.
        """
        self._doubts = doubts
        self._topics = topics
        self._producers = producers
        self._outcomes = outcomes
        self._refusals = refusals
        self._watch = watch
        self._faults = faults
        self._quiesce_timeout = quiesce_timeout
        self._telemetry = telemetry
        self._on_landed = on_landed
        self._landed = asyncio.Event()

    def ended(self, partition: Partition, flight: Flight, outcome: BatchOutcome) -> None:
        """Act on the outcome of a flight, and on those that waited for it."""
        try:
            self._end(partition, flight, outcome)
        except Exception as error:  # noqa: BLE001 a callback of the client: nobody else would hear of it
            self._faults.end_tenure(error)

    async def wait_landed(self) -> None:
        """Wait until nothing is in flight."""
        while self._topics.in_flight:
            await self._wait_for_landing()

    async def quiesce(self, producer: Producer) -> None:
        """Wait until nothing of `producer` is in flight, at most a request timeout."""
        try:
            async with asyncio.timeout(self._quiesce_timeout):
                while any(
                    flight.producer is producer and flight.outcome is None and flight.lost is None
                    for partition in self._topics.partitions()
                    if not partition.suspect
                    for flight in partition.flights
                ):
                    await self._wait_for_landing()
        except TimeoutError:
            return

    def abandon(self, producer: Producer) -> None:
        """Give up what `producer`, which is being discarded, has in flight: whether it is in Kafka is to be found out.

        Where that cannot be found out it is sent again.
        """
        error = PublishError(FailureKind.CLUSTER, "the producer was discarded before Kafka answered")
        lost = [
            Lost(partition, flight)
            for partition in self._topics.partitions()
            for flight in partition.flights
            if flight.producer is producer and flight.outcome is None
        ]
        doubts = self._doubts
        if doubts is None or not doubts.can_look(producer):
            for each in lost:
                self._found_out(each, Refused(error))
            return
        for each in lost:
            each.flight.lost = each.flight.lost or Doubt(Refused(error), time.monotonic())
        self._faults.spawn(partial(doubts.look, producer, lost, self._found_out))

    def forget_lost(self) -> None:
        """Let go of lost flights: others find out what became of them."""
        for partition in self._topics.partitions():
            for flight in list(partition.flights):
                if flight.lost is not None and flight.outcome is None:
                    self._found_out(Lost(partition, flight), flight.lost.refused)

    def _found_out(self, lost: Lost, outcome: BatchOutcome) -> None:
        """Act on what became of a flight of a discarded producer."""
        lost.flight.lost = None
        if isinstance(outcome, Refused):
            outcome = replace(outcome, unknown=False)
        self.ended(lost.partition, lost.flight, outcome)

    def discard(self, tenure: Tenure, reason: str) -> None:
        """Have nothing sent any more that is still in the producers' hands, if any of it is of `tenure`."""
        if any(flight.tenure is tenure for flight in self._topics.flights()):
            self._producers.discard_both(reason)

    def _end(self, partition: Partition, flight: Flight, outcome: BatchOutcome) -> None:
        if flight.outcome is not None or flight not in partition.flights:
            return
        if isinstance(outcome, Refused) and self._is_lost(partition, flight, outcome):
            return
        refused: list[tuple[Flight, Refused]] = []
        intact = True
        for each, its_outcome in partition.ended(flight, outcome):
            if self._on_landed is not None:
                in_hand = time.monotonic() - each.sent_at
                self._on_landed(partition.topic, partition.number, each.events, in_hand, its_outcome)
            match its_outcome:
                case Acknowledged(base_offset=offset):
                    # Behind a batch that was refused, its producer's sequence cannot be right.
                    intact = intact and not refused
                    self._acknowledged(partition, each, offset)
                case Refused():
                    intact = intact and its_outcome.producer_intact
                    refused.append((each, its_outcome))
                case _ as never:
                    assert_never(never)
        if refused:
            self._refusals.act_on(partition, refused, intact=intact, last_acknowledged=self._watch.last_acknowledged)
        if partition.waiting:
            partition.wake_up.set()
        self._landed.set()

    def _acknowledged(self, partition: Partition, flight: Flight, base_offset: int) -> None:
        topic = self._topics[partition.topic]
        now = time.monotonic()
        partition.acknowledged(flight, now)
        self._producers.works(flight.producer)
        self._watch.acknowledged(topic, partition, now)
        self._telemetry.emit(
            "publish.acknowledged",
            topic=topic.name,
            events=len(flight.events),
            bytes=flight.size,
            seconds=now - flight.sent_at,
        )
        oldest = flight.events[0]
        if not isinstance(oldest, EventWithOrigin):
            # Of a replay it would say how old the event is. Writers may name any time: one in the future is no age.
            self._telemetry.emit("publish.delivered", age=max(0.0, time.time() - oldest.created_ms / 1000))
        if flight.restamped:
            self._restamped(topic, flight.restamped)
        delivered = Delivered(flight.tenure, flight.events, partition.number, base_offset)
        self._outcomes.acknowledged(delivered, with_origins=topic.with_origins)

    def _restamped(self, topic: Topic, events: int) -> None:
        first_time = not topic.restamped
        topic.restamped += events
        self._telemetry.emit("publish.restamped", topic=topic.name, events=events, first_time=first_time)

    def _is_lost(self, partition: Partition, flight: Flight, refused: Refused) -> bool:
        """Return whether the batch may be in Kafka although it was refused. Then its producer is discarded, and asked.

        A closed producer refuses what it has: that says nothing of a flight which is looked for already.
        """
        if flight.lost is not None:
            return True
        doubts = self._doubts
        if not refused.unknown or doubts is None or not doubts.can_look(flight.producer):
            return False
        flight.lost = Doubt(refused, time.monotonic())
        # It is looked for when the producer's other flights have ended, or are given up.
        self._producers.discard(flight.producer, f"{partition.topic}-{partition.number}: {refused.error}")
        self._landed.set()
        return True

    async def _wait_for_landing(self) -> None:
        self._landed.clear()
        await self._landed.wait()
