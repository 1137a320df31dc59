"""What outlives a tenure: what is in Kafka's hands, and what became of it, must not be forgotten with a connection."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Protocol

from relay.decide.check_sample import Coverage
from relay.decide.reconciling import Mode
from relay.retry import Backoff
from relay.stages.claim.totals import Totals
from relay.stages.hold.failures import Failures
from relay.stages.hold.gate import Gate
from relay.stages.housekeeping.check import Check
from relay.stages.publish.doubts import Doubts
from relay.stages.publish.faults import Faults
from relay.stages.publish.pacing import Pacing
from relay.stages.publish.pauses import Pauses
from relay.stages.publish.producers import Keeper, Pair
from relay.stages.publish.publish import Publish
from relay.stages.publish.queues import Topics
from relay.stages.publish.throttle import Throttle
from relay.stages.publish.watch import Watch
from relay.stages.reconcile.notes import Notes
from relay.stages.reconcile.refencing import until_fenceable
from relay.stages.republish.origin import Republished
from relay.stages.settle.outcomes import Outcomes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from relay.outcome import PublishError
    from relay.settings import Settings
    from relay.stages.publish.ports import Landed, Producer
    from relay.stages.reconcile.ports import Enlistment, KafkaReconcilePort
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

NOT_REACHED = (
    "Kafka has not been reached since this replica started, so it owns no lanes while another replica can publish; "
    "its log and its /readyz say why"
)
"""A replica that can publish does not give lanes back for one that never could. One that loses Kafka later keeps its
lanes: most likely all have lost it."""


PRODUCER_SECONDS = 86_400.0
"""A producer is replaced after a day. Kafka forgets a transactional id that was not used for a week
(`transactional.id.expiration.ms`), and then its producer cannot be fenced any more."""


class Connect(Protocol):
    """Makes a producer."""

    def __call__(
        self, on_failure: Callable[[PublishError], None], /, *, enlistment: Enlistment | None
    ) -> Awaitable[Producer]:
        """Try until there is one: `on_failure` hears of failed tries, `enlistment` of the producer in time."""


class Lasting:
    """Publish, what stands around it, and what became of the events that it had. `pipeline.py` shows how they join."""

    def __init__(
        self,
        *,
        connect: Connect,
        hash_keys: Callable[[Sequence[bytes]], Sequence[int]],
        kafka: KafkaReconcilePort,
        settings: Settings,
        telemetry: Telemetry,
        on_landed: Landed | None = None,
    ) -> None:
        """`connect` makes a producer, `hash_keys` is Kafka's hash, by which keys go to partitions; `kafka` is asked
        for what replicas had published that ended. `on_landed` is told of each record batch whose outcome is known."""
        timeout, random_part = settings.kafka.request_timeout, random.random
        self.totals = Totals()
        self.totals.listen_to(telemetry)
        self.check = Check(Coverage(random.SystemRandom().random()), telemetry)

        self.kafka = kafka
        self.notes = notes = _notes(kafka, settings, telemetry)
        self.outcomes = Outcomes(notes)
        self.republished = Republished()
        self.gate = gate = Gate(self.outcomes)
        self.failures = Failures(
            gate=gate, outcomes=self.outcomes, settings=settings.failure, random=random_part, telemetry=telemetry
        )
        keepers = (
            Keeper(
                name=name,
                connect=partial(connect, enlistment=notes),
                backoff=Backoff(random_part, first=0.1, most=10.0),
                telemetry=telemetry,
                replace_after=None if notes is None else PRODUCER_SECONDS,
                outdated=None if notes is None else partial(_until_fenceable, kafka, notes),
            )
            for name in ("main", "side")
        )
        producers = Pair(*keepers)
        topics = Topics(
            hash_keys=hash_keys,
            random=random_part,
            admission=settings.topic.admission(),
            cloud_events=settings.cloud_events(),
            rates=settings.publish.rates(settings.buffer),
        )
        self.publish = Publish(
            producers=producers,
            topics=topics,
            outcomes=self.outcomes,
            failures=self.failures,
            watch=Watch(
                gate=gate, producers=producers, random=random_part, request_timeout=timeout, telemetry=telemetry
            ),
            pauses=Pauses(topics=topics, gate=gate, telemetry=telemetry),
            pacing=Pacing(settings.publish),
            throttle=Throttle(topics=topics, gate=gate, telemetry=telemetry),
            faults=Faults(producers=producers, random=random_part, telemetry=telemetry),
            quiesce_timeout=timeout,
            telemetry=telemetry,
            notes=notes,
            doubts=_doubts(kafka, notes, settings, telemetry),
            on_landed=on_landed,
        )
        if notes is not None:
            notes.on_ended = self._ended
            notes.in_flight = self.publish.topics.places_in_flight

    def _ended(self, reason: str) -> None:
        """Go on as another process: what this one had on its way is others' to find out."""
        self.publish.producers.discard_both(reason)
        self.publish.flights.forget_lost()

    def may_be_in_kafka(self) -> bool:
        """Whether something may be in Kafka that has no receipt."""
        return bool(self.publish.topics.in_flight or self.outcomes.events)

    def cannot_publish(self) -> str | None:
        """Say why nothing can have been published since the process started; None once a producer has connected."""
        return None if self.publish.producers.main.has_connected else NOT_REACHED

    async def wait_recorded(self) -> None:
        """Wait until Kafka has answered for all that it got, and all of that is recorded."""
        await self.publish.wait_landed()
        await self.outcomes.wait_idle()

    def unsettled(self, tenure: Tenure | None) -> int:
        """Number of events that may be in Kafka and have no receipt, `tenure` being the one that goes on, if any."""
        # Of tenures that are over only what Kafka got can be in the way of a receipt any more.
        left = self.publish.topics.in_flight_beside(tenure) + self.outcomes.events_beside(tenure)
        return left + (tenure.room.events if tenure is not None else 0)


def _notes(kafka: KafkaReconcilePort, settings: Settings, telemetry: Telemetry) -> Notes | None:
    if settings.replica.reconcile == "off":
        return None
    return Notes(
        kafka=kafka,
        prefix=settings.transactional_id_prefix(),
        must_fence=settings.replica.reconcile == "require",
        telemetry=telemetry,
    )


async def _until_fenceable(kafka: KafkaReconcilePort, notes: Notes, producer: Producer) -> None:
    await until_fenceable(kafka, notes, producer.name)


def _doubts(kafka: KafkaReconcilePort, notes: Notes | None, settings: Settings, telemetry: Telemetry) -> Doubts | None:
    if notes is None:
        return None
    return Doubts(
        kafka=kafka,
        notes=notes,
        mode=Mode(settings.replica.reconcile),
        most_bytes=settings.replica.reconcile_max_bytes,
        answer_seconds=settings.kafka.request_timeout,
        telemetry=telemetry,
    )
