"""What follows from an event's failure, by its policy: what is recorded, what is held back, which letter is sent."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from relay.decide.failing import Fail, Retry
from relay.decide.room import Room
from relay.outcome import FailureKind, PublishError
from relay.settings import FailureSettings
from relay.stages.hold.failures import Failures
from relay.stages.hold.gate import Gate
from relay.stages.settle.outcomes import Failed, Held, Outcomes
from relay.stages.tenure import Tenure
from relay.telemetry import Telemetry
from tests.support.events import event, ids

if TYPE_CHECKING:
    from relay.decide.failing import Policy
    from relay.event import EventWithOrigin, PendingEvent
    from relay.stages.settle.outcomes import EventOutcome

LANE = 3
FAULTY = PublishError(FailureKind.EVENT, "too large")
UNKNOWN = PublishError(FailureKind.UNKNOWN, "who knows")
BEHIND = event(2, lane=LANE)


class Failing:
    """Failures under one policy, and what they have recorded."""

    def __init__(self, policy: Policy) -> None:
        self.outcomes = Outcomes()
        self.tenure = Tenure(Room(1_000, 1_000_000))
        self.telemetry = Telemetry()
        gate = Gate(self.outcomes)
        gate.serve(self.tenure, lambda _: None)
        self.failures = Failures(
            gate=gate,
            outcomes=self.outcomes,
            settings=FailureSettings(policy=policy, max_attempts=2),
            random=random.random,
            telemetry=self.telemetry,
        )

    def fail(self, event: PendingEvent, error: PublishError, *, allowed: bool = True) -> EventWithOrigin | None:
        """What publish does with an event that was refused alone."""
        failure = self.failures.judge(self.tenure, event, error)
        behind: list[PendingEvent] = [BEHIND] if failure.verdict.blocks else []
        return self.failures.fail(failure, behind=behind, partition=1, allowed=allowed)

    def closed(self, event: PendingEvent) -> bool:
        """Whether later events of its key are held back."""
        return self.tenure.closed_in(LANE).holds_back(event.topic, event.key)

    async def recorded(self) -> list[EventOutcome]:
        """What is to be recorded, in order."""
        found: list[EventOutcome] = []
        while self.outcomes.waiting:
            found += (taken := await self.outcomes.take(100))
            self.outcomes.settled(taken)
        return found


def verdicts(recorded: list[EventOutcome]) -> list[object]:
    return [each.verdict if isinstance(each, Failed) else (type(each), ids(each.events)) for each in recorded]


async def test_under_block_the_key_is_closed_and_what_is_behind_is_held_before_the_failure_is_recorded() -> None:
    failing = Failing("block")
    assert failing.fail(event(1, lane=LANE), FAULTY) is None
    assert failing.closed(BEHIND)
    assert verdicts(await failing.recorded()) == [(Held, [2]), Fail(1, "block")]


async def test_under_skip_the_key_goes_on() -> None:
    failing = Failing("skip")
    assert failing.fail(event(1, lane=LANE), FAULTY) is None
    assert not failing.closed(BEHIND)
    assert verdicts(await failing.recorded()) == [Fail(1, "skip")]


async def test_under_dead_letter_the_key_goes_on_and_nothing_is_recorded_until_kafka_has_the_letter() -> None:
    failing = Failing("dead-letter")
    letter = failing.fail(event(1, lane=LANE), FAULTY)
    assert letter is not None
    assert (letter.id, letter.topic, letter.origin.exempt) == (1, "orders.dead-letter", True)
    assert not failing.closed(BEHIND)
    assert await failing.recorded() == []
    letter.origin.acknowledged(letter, 0, 0)
    assert verdicts(await failing.recorded()) == [Fail(1, "dead-letter")]


@pytest.mark.parametrize("policy", ["block", "skip", "dead-letter"])
async def test_an_unknown_error_is_tried_again_and_its_key_waits_whatever_the_policy_is(policy: Policy) -> None:
    failing = Failing(policy)
    assert failing.fail(event(1, lane=LANE), UNKNOWN) is None
    assert failing.closed(BEHIND)
    held, retry = verdicts(await failing.recorded())
    assert held == (Held, [2])
    assert isinstance(retry, Retry)


async def test_attempts_that_an_event_has_had_count_and_are_spent_once() -> None:
    failing = Failing("skip")
    failing.tenure.attempts[LANE, 1] = 1
    failing.fail(event(1, lane=LANE), UNKNOWN)
    assert verdicts(await failing.recorded()) == [Fail(2, "skip")]
    assert failing.tenure.attempts == {}


@pytest.mark.parametrize(("policy", "recorded", "closed"), [("block", "block", True), ("dead-letter", "skip", False)])
async def test_an_event_that_cannot_be_read_has_no_letter(policy: Policy, recorded: Policy, *, closed: bool) -> None:
    failing = Failing(policy)
    failing.failures.fail_unread(failing.tenure, event(1, lane=LANE), "a time that is infinite")
    assert failing.closed(BEHIND) is closed
    assert verdicts(await failing.recorded()) == [Fail(1, recorded)]
