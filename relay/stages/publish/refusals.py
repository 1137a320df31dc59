"""What publish does about a refused batch: tries it again, halves it to find its culprit, or sends it otherwise.

Whose fault a refusal is (`FailureKind`) decides what waits: the partition, the topic, or one event, which then fails.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, assert_never

from relay.outcome import FailureKind, PublishError, Refused
from relay.stages.publish.line import withdrawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.event import PendingEvent
    from relay.stages.publish.partition import Flight, Partition
    from relay.stages.publish.pauses import Pauses
    from relay.stages.publish.producers import Pair
    from relay.stages.publish.queues import Topics
    from relay.stages.publish.unpublishable import Unpublishable
    from relay.stages.publish.watch import Watch
    from relay.telemetry import Telemetry


class Refusals:
    """Acts on refusals of record batches."""

    def __init__(
        self,
        *,
        topics: Topics,
        producers: Pair,
        watch: Watch,
        pauses: Pauses,
        unpublishable: Unpublishable,
        telemetry: Telemetry,
    ) -> None:
        self._topics = topics
        self._producers = producers
        self._watch = watch
        self._pauses = pauses
        self._unpublishable = unpublishable
        self._telemetry = telemetry

    def act_on(
        self,
        partition: Partition,
        refused: Sequence[tuple[Flight, Refused]],
        *,
        intact: bool,
        last_acknowledged: float,
    ) -> None:
        """Act on the refusal of the first of these flights; the others were refused behind it.

        `intact` is whether the producer's sequence has no gap, so that the producer can go on; `last_acknowledged` is
        when Kafka last took anything (monotonic seconds).
        """
        first, outcome = refused[0]
        error = outcome.error
        back: list[PendingEvent] = []
        for flight, _ in refused:
            if flight.tenure is self._topics.tenure:
                back += flight.events
            else:
                withdrawn(flight.events)
        self._telemetry.emit(
            "publish.refused",
            topic=partition.topic,
            partition=partition.number,
            events=len(first.events),
            error=error,
        )
        partition.put_back(back)
        match error.kind:
            case FailureKind.CLUSTER:
                self._refused_by_cluster(error, partition, first, last_acknowledged)
            case FailureKind.TOPIC:
                partition.suspect = True
                partition.back_off()
                self._watch.refused(self._topics[partition.topic], error, partition)
            case FailureKind.TIME:
                self._refused_for_time(outcome, partition, first)
            case FailureKind.EVENT | FailureKind.UNKNOWN:
                # A producer that can go on disturbs nobody with further refusals: they are answers like others.
                partition.suspect = partition.suspect or not intact
                self._refused_for_event(outcome, partition, first)
            case _ as never:
                assert_never(never)
        self._pauses.given_back(self._topics[partition.topic])
        if not intact:
            # Its sequence has a gap now: every later batch of this partition would fail (aiokafka #1017).
            self._producers.discard(first.producer, f"{partition.topic}-{partition.number}: {error}")

    def _refused_by_cluster(
        self, error: PublishError, partition: Partition, flight: Flight, last_acknowledged: float
    ) -> None:
        """Try again, unless the partition is refused for a reason that is not its own, while others are not."""
        partition.back_off()
        topic = self._topics[partition.topic]
        # Not if the producer was discarded for another's refusal: then nobody said anything of this one.
        if self._producers.uses(flight.producer) and partition.refused_alone(time.monotonic(), last_acknowledged):
            partition.suspect = True
            self._watch.refused(topic, _refused_alone(error, partition), partition)
        else:
            self._watch.given_back(topic)

    def _refused_for_event(self, outcome: Refused, partition: Partition, flight: Flight) -> None:
        """Find the event at fault, and have it failed."""
        if flight.tenure is not self._topics.tenure:
            return
        if outcome.culprits:
            partition.condemn([(flight.events[at], why) for at, why in sorted(outcome.culprits.items())])
        elif len(flight.events) > 1:
            partition.split(len(flight.events))
        else:
            partition.culprit_found()
            topic = self._topics[partition.topic]
            self._unpublishable.fail(flight.tenure, topic, partition, partition.pop_head(), outcome.error)

    def _refused_for_time(self, outcome: Refused, partition: Partition, flight: Flight) -> None:
        """Learn which times the topic takes. No event fails for its time.

        An outage may have been longer than the topic takes, or the database's clock is ahead of the broker's.
        """
        topic = self._topics[partition.topic]
        named = [flight.events[at] for at in outcome.culprits] or flight.events
        if len(named) > 1 and not outcome.culprits:
            partition.split(len(named))
        elif topic.limits.learn_times(flight, named):
            partition.culprit_found()
        else:
            partition.back_off()
            self._watch.refused(topic, topic.limits.clocks_differ(outcome.error), partition)


def _refused_alone(error: PublishError, partition: Partition) -> PublishError:
    text = f"partition {partition.number} of topic {partition.topic} refuses events while others take them: {error}"
    return PublishError(FailureKind.TOPIC, text, error.name)
