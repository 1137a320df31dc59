"""What outlives a tenure: what is in Kafka's hands, and what became of it, must not be forgotten with a connection."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from relay.decide.check_sample import Coverage
from relay.retry import Backoff
from relay.stages.claim.totals import Totals
from relay.stages.hold.failures import Failures
from relay.stages.hold.gate import Gate
from relay.stages.housekeeping.check import Check
from relay.stages.publish.faults import Faults
from relay.stages.publish.pacing import Pacing
from relay.stages.publish.producers import Keeper, Pair
from relay.stages.publish.publish import Publish
from relay.stages.publish.queues import Topics
from relay.stages.publish.watch import Watch
from relay.stages.republish.origin import Republished
from relay.stages.settle.outcomes import Outcomes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from relay.outcome import PublishError
    from relay.settings import Settings
    from relay.stages.publish.ports import Producer
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

NOT_REACHED = (
    "Kafka has not been reached since this replica started, so it owns no lanes while another replica can publish; "
    "its log and its /readyz say why"
)
"""A replica that can publish does not give lanes back for one that never could. One that loses Kafka later keeps its
lanes: most likely all have lost it."""


class Lasting:
    """Publish, what stands around it, and what became of the events that it had. `pipeline.py` shows how they join."""

    def __init__(
        self,
        *,
        connect: Callable[[Callable[[PublishError], None]], Awaitable[Producer]],
        hash_keys: Callable[[Sequence[bytes]], Sequence[int]],
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        """`connect` makes a producer, and `hash_keys` is Kafka's hash, by which keys go to partitions."""
        timeout, random_part = settings.kafka.request_timeout, random.random
        self.totals = Totals()
        self.totals.listen_to(telemetry)
        self.check = Check(Coverage(random.SystemRandom().random()), telemetry)

        self.outcomes = Outcomes()
        self.republished = Republished()
        self.gate = gate = Gate(self.outcomes)
        self.failures = Failures(
            gate=gate, outcomes=self.outcomes, settings=settings.failure, random=random_part, telemetry=telemetry
        )
        keepers = (
            Keeper(name=name, connect=connect, backoff=Backoff(random_part, first=0.1, most=10.0), telemetry=telemetry)
            for name in ("main", "side")
        )
        producers = Pair(*keepers)
        self.publish = Publish(
            producers=producers,
            topics=Topics(hash_keys=hash_keys, random=random_part, admission=settings.topic.admission()),
            outcomes=self.outcomes,
            failures=self.failures,
            watch=Watch(
                gate=gate, producers=producers, random=random_part, request_timeout=timeout, telemetry=telemetry
            ),
            pacing=Pacing(settings.publish),
            faults=Faults(producers=producers, random=random_part, telemetry=telemetry),
            quiesce_timeout=timeout,
            telemetry=telemetry,
        )

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
