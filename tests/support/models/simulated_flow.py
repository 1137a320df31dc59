"""The simulated relay with all that comes after the scan: gate, publish on a simulated Kafka, failures, resume."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, TypeVar, cast

from relay.decide.admission import Admission
from relay.decide.limits import TopicLimits
from relay.decide.topic_rates import Pace, Rate
from relay.retry import Backoff
from relay.settings import FailureSettings, PublishSettings, ScanSettings
from relay.stages.hold.failures import Failures
from relay.stages.hold.gate import Gate
from relay.stages.hold.resume import Resume
from relay.stages.publish.faults import Faults
from relay.stages.publish.pacing import Pacing
from relay.stages.publish.pauses import Pauses
from relay.stages.publish.publish import Publish
from relay.stages.publish.queues import Topics
from relay.stages.publish.throttle import Throttle
from relay.stages.publish.topic import Topic
from relay.stages.tenure import TenureLostError
from tests.support.models.simulated_connection import SimulatedConnection
from tests.support.models.simulated_kafka import PARTITIONS, SimulatedProducers, SimulatedWatch
from tests.support.models.simulated_postgres import TOPIC
from tests.support.models.simulated_relay import SilentTelemetry, SimulatedRelay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.decide.held_back import PausedTopic
    from relay.event import PendingEvent
    from relay.stages.publish.ports import Producer
    from relay.stages.publish.producers import Pair
    from relay.stages.publish.watch import Watch
    from relay.telemetry import Telemetry
    from tests.support.models.simulated_kafka import SimulatedKafka
    from tests.support.models.simulated_postgres import SimulatedPostgres

T = TypeVar("T")


def _hash_keys(keys: Sequence[bytes]) -> list[int]:
    return [int(key) for key in keys]


class FlowRelay(SimulatedRelay):
    """One replica with all stages of the flow."""

    limited: ClassVar[bool] = False
    """Whether few events of the topic may wait for its limited rate, and the others are held."""

    def __init__(
        self,
        postgres: SimulatedPostgres,
        kafka: SimulatedKafka,
        on_taken: Callable[[SimulatedRelay, list[PendingEvent]], None],
        batch_events: int,
        step_ids: int,
    ) -> None:
        super().__init__(postgres, on_taken, batch_events, step_ids)
        telemetry = cast("Telemetry", SilentTelemetry())
        scan = ScanSettings(batch_events=batch_events, sweep_step_ids=step_ids)
        self.full: set[int] = set()
        """Lanes without room, though the buffer has some."""
        self.producers = SimulatedProducers(kafka)
        self.topic = Topic(TOPIC, lambda: Backoff(lambda: 0.0), _hash_keys)
        self.topic.resolved(PARTITIONS)
        if self.limited:
            # There is no time: the rate itself is never reached.
            self.topic.pace = Pace(Rate(events=1e12), 3, 1 << 40)
        self.gate = Gate(self.outcomes)
        failures = Failures(
            gate=self.gate,
            outcomes=self.outcomes,
            settings=FailureSettings(max_attempts=2),
            random=lambda: 0.0,
            telemetry=telemetry,
        )
        self.watch = SimulatedWatch(self.gate, self.topic)
        topics = Topics(hash_keys=_hash_keys, random=lambda: 0.0, admission=Admission())
        self.publish = Publish(
            producers=cast("Pair", self.producers),
            outcomes=self.outcomes,
            failures=failures,
            watch=cast("Watch", self.watch),
            pauses=Pauses(topics=topics, gate=self.gate, telemetry=telemetry),
            pacing=Pacing(PublishSettings()),
            throttle=Throttle(topics=topics, gate=self.gate, telemetry=telemetry),
            topics=topics,
            faults=Faults(producers=cast("Pair", self.producers), random=lambda: 0.0, telemetry=telemetry),
            quiesce_timeout=1.0,
            telemetry=telemetry,
        )
        self.publish.topics[TOPIC] = self.topic
        self.gate.serve(self.tenure, self.publish.hand_in)
        self.publish.serve(self.tenure)
        self._resume = Resume(
            port=self.port,
            tenure=self.tenure,
            outcomes=self.outcomes,
            hand_in=self.publish.hand_in,
            try_anew=self.publish.forget_limits,
            settings=scan,
            replays_may_be_over=lambda: None,
        )

    def connect(self, postgres: SimulatedPostgres) -> SimulatedConnection:
        return SimulatedConnection(postgres)

    def hear_of_pauses(self, paused: Sequence[PausedTopic]) -> None:
        self.publish.pauses.obey(paused)

    def believe(self, limit: int | None) -> None:
        """Know the topic's limit from a reading of long ago."""
        self.topic.limits.take(TopicLimits(limit), float("-inf"))

    def hand_on(self, events: list[PendingEvent]) -> None:
        super().hand_on(events)
        self.gate.take(events)

    def kill(self) -> None:
        """It is gone; its statements that were under way are not, and what it had sent may land yet."""
        for stage in ("settle", "claim"):
            with suppress(TenureLostError):
                self.finish(stage)
        super().kill()
        self.producers.give_up()

    def begin_scan(self) -> None:
        if not self.tenure.draining:
            requests = [request for request in self._scan.requests() if request.lane not in self.full]
            if requests:
                self.start("scan", self._scan.scan_once(requests))

    def begin_recording(self, most: int) -> None:
        if self.outcomes.waiting:
            self.start("settle", self._settle_some(most))

    async def _settle_some(self, most: int) -> None:
        taken = await self.outcomes.take(most)
        await self._settle.record(taken)
        self.outcomes.settled(taken)

    def look_at_limit(self) -> None:
        """Let held events go on if there is room for some, as a loop of publish does."""
        self.publish._throttle._look(TOPIC)

    def begin_resume(self) -> None:
        if not self.tenure.draining:
            self.start("resume", self._resume_all())

    async def _resume_all(self) -> None:
        if self.tenure.has_failures:
            await self._resume.resume_failures()
        for state in await self._resume._openable():
            await self._resume.resume_held(state)

    def sendable(self) -> list[int]:
        """The partitions in which something may be done now."""
        producer = self.producers.current
        return [
            partition.number
            for partition in self.topic.partitions
            if producer is not None
            and f"pump {partition.number}" not in self._work
            and partition.may_send(cast("Producer", producer), time.monotonic())
        ]

    def publish_all(self) -> None:
        """All that waits goes to Kafka, which takes what fits."""
        while True:
            if self.producers.current is None:
                self.producers.replace(self.publish)
            answers = [(producer, number) for producer in self.producers.all for number in producer.unanswered()]
            sendable = self.sendable()
            if not answers and not sendable:
                return
            for number in sendable:
                self.begin_turn(number)
                self.finish(f"pump {number}")
            for producer, number in answers:
                if producer.sent[number]:
                    producer.land(number)

    def begin_turn(self, number: int) -> None:
        """One turn of a partition's pump."""
        partition = self.topic.partitions[number]
        producer = cast("Producer", self.producers.current)
        self.start(f"pump {number}", self.publish.turn(self.topic, partition, producer))
