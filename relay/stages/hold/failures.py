"""What follows from an event's failure: the verdict, and then its record, its closed key or its dead letter."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, assert_never

from relay.decide.failing import Fail, Retry, judge, policy_for
from relay.outcome import FailureKind, PublishError
from relay.stages.hold.dead_letters import DeadLetters
from relay.stages.settle.outcomes import Failed
from relay.stages.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.event import EventWithOrigin, PendingEvent
    from relay.settings import FailureSettings
    from relay.stages.hold.gate import Gate
    from relay.stages.settle.outcomes import Outcomes
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry


class Failures:
    """Judges events that Kafka does not take, and has the verdict carried out."""

    def __init__(
        self,
        *,
        gate: Gate,
        outcomes: Outcomes,
        settings: FailureSettings,
        random: Callable[[], float],
        telemetry: Telemetry,
    ) -> None:
        self._gate = gate
        self._outcomes = outcomes
        self._settings = settings
        self._dead_letters = DeadLetters(outcomes, settings.dead_letter_suffix)
        self._random = random
        self._telemetry = telemetry
        self._telling = Telling()

    def judge(self, tenure: Tenure, event: PendingEvent, error: PublishError) -> Failed:
        """Decide what becomes of an event that a scan took, and that was refused alone; it has had an attempt more.

        Only when nothing of its partition is in flight: an earlier event of the key, which may yet fail too or be taken
        again by another owner, would be held back behind this one.
        """
        settings = self._settings
        verdict = judge(
            error.kind,
            tenure.forget_attempts(event.lane, event.id),
            policy_for(event.topic, error.name, settings.rules(), settings.policy),
            settings.max_attempts,
            settings.first_delay,
            settings.most_delay,
            self._random(),
        )
        return Failed(tenure, [event], verdict, error)

    def fail(
        self, failure: Failed, *, behind: list[PendingEvent], partition: int, allowed: bool
    ) -> EventWithOrigin | None:
        """Carry out a verdict; returns the dead letter to publish, if there is to be one.

        If the verdict blocks the event's key, `behind` are the events of the key that were withdrawn from publish's
        queues. `partition` is where the event was to go, -1 for none; `allowed` is whether events may go to its topic.
        """
        (event,) = failure.events
        verdict, error = failure.verdict, failure.error
        match verdict:
            case Retry():
                self._telemetry.emit("event.retrying", topic=event.topic, id=event.id, error=error)
            case Fail():
                self._tell(failure, verdict)
            case _ as never:
                assert_never(never)
        if verdict.blocks:
            self._gate.close_key(event, behind)
        if isinstance(verdict, Fail) and verdict.policy == "dead-letter":
            obstacle = self._dead_letters.obstacle(event.topic, allowed=allowed)
            if obstacle is None:
                return self._dead_letters.letter(failure, partition)
            failure = failure._replace(error=PublishError(error.kind, f"{error}; {obstacle}", error.name))
        self._outcomes.add(failure)
        return None

    def fail_unread(self, tenure: Tenure, event: PendingEvent, why: str) -> None:
        """Have an event failed that cannot be read from PostgreSQL: it can neither be published nor have a letter."""
        error = PublishError(FailureKind.EVENT, why, "UnreadableEvent")
        policy = policy_for(event.topic, error.name, self._settings.rules(), self._settings.policy)
        verdict = Fail(1, "block" if policy == "block" else "skip")
        failure = Failed(tenure, [event], verdict, error)
        self._tell(failure, verdict)
        if verdict.blocks:
            self._gate.close_key(event, [])
        self._outcomes.add(failure)

    def _tell(self, failure: Failed, verdict: Fail) -> None:
        """Log one line per failure, but not thousands: `relay failed list` has them all."""
        (event,) = failure.events
        topic, id_, policy, error = event.topic, event.id, verdict.policy, failure.error
        if self._telling.worth_a_line(time.monotonic()):
            self._telemetry.emit("event.failed", topic=topic, id=id_, policy=policy, error=error)
        else:
            self._telemetry.emit("event.failed_too", topic=topic, id=id_, policy=policy, error=error)
