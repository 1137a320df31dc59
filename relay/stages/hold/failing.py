"""What follows from an event's failure: it is recorded, its key closed, its dead letter sent; held-back ones too."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, assert_never

from relay.decide.admission import LONGEST_NAME
from relay.decide.failing import Fail, Retry, judge, policy_for
from relay.event import EventTuple, PendingEvent
from relay.outcome import FailureKind, PublishError
from relay.stages.republish.origin import RepublishedEvent
from relay.stages.settle.outcomes import Delivered, Failed, Held
from relay.stages.telling import Telling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from relay.settings import FailureSettings
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.topic import Topic
    from relay.stages.republish.origin import Republished
    from relay.stages.settle.outcomes import EventOutcome, Outcomes
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry


class DeadLetter(EventTuple):
    """A failed event on its way to the topic for dead letters, with what is recorded once Kafka has it.

    To publish it is an event like any other. What is to be known of it goes with it, so that one that is dropped, as
    at the end of a tenure, leaves nothing behind.
    """

    failure: Failed

    def as_taken(self) -> PendingEvent:
        """What is held back for it: the event, for the letter's topic, of the size with which the buffer counts it."""
        (event,) = self.failure.events
        return EventTuple(*self)._replace(size=event[9])


class Failing:
    """Closes keys and topics in memory at once, and queues what has to be written."""

    def __init__(
        self,
        outcomes: Outcomes,
        republished: Republished,
        settings: FailureSettings,
        random: Callable[[], float],
        telemetry: Telemetry,
    ) -> None:
        self._outcomes = outcomes
        self._republished = republished
        self._settings = settings
        self._random = random
        self._telemetry = telemetry
        self._tenure: Tenure | None = None
        self._hand_in: Callable[[list[PendingEvent]], None] = lambda _: None
        self._telling = Telling()

    def begin(self, tenure: Tenure, hand_in: Callable[[list[PendingEvent]], None]) -> None:
        """Work for `tenure` from now on; dead letters are handed in to publish."""
        self._tenure = tenure
        self._hand_in = hand_in

    def take(self, events: list[PendingEvent]) -> None:
        """Pass on the events of one lane that may go on; hold the others back."""
        tenure = self._tenure
        if tenure is None or not events:
            return
        go, wait = tenure.closed_in(events[0][0]).divide(events)
        self._hold(tenure, wait)
        self._hand_in(go)

    def fail(
        self, tenure: Tenure, topic: Topic, partition: Partition | None, event: PendingEvent, error: PublishError
    ) -> None:
        """The event, no longer in `partition` of `topic`, was refused alone, for its own or an unknown reason.

        Only when nothing of the partition is in flight: an earlier event of the key, which may yet fail too or be taken
        again by another owner, would be held back behind this one. There is no partition for a topic to which no event
        may go.
        """
        if isinstance(event, RepublishedEvent):
            self._republished.refused(event, error)
            return
        if isinstance(event, DeadLetter):
            # There is nothing left but to record both.
            original = event.failure.error
            both = PublishError(error.kind, f"{original}; its dead letter: {error}", original.name)
            self._outcomes.add(event.failure._replace(error=both))
            return
        lane, id_, *_ = event
        settings = self._settings
        verdict = judge(
            error.kind,
            tenure.attempts.pop((lane, id_), 0),
            policy_for(topic.name, settings.by_pattern(), settings.policy),
            settings.max_attempts,
            settings.first_delay,
            settings.most_delay,
            self._random(),
        )
        failure = Failed(tenure, [event], verdict, error)
        match verdict:
            case Retry():
                self._telemetry.emit("event.retrying", topic=topic.name, id=id_, error=error)
                self._hold_key(tenure, topic, partition, event)
                self._outcomes.add(failure)
            case Fail(policy="block"):
                self._tell(failure, verdict)
                self._hold_key(tenure, topic, partition, event)
                self._outcomes.add(failure)
            case Fail(policy="skip"):
                self._tell(failure, verdict)
                self._outcomes.add(failure)
            case Fail(policy="dead-letter"):
                self._tell(failure, verdict)
                if (obstacle := self._no_letter(topic)) is not None:
                    both = PublishError(error.kind, f"{error}; {obstacle}", error.name)
                    self._outcomes.add(failure._replace(error=both))
                else:
                    # Recorded when Kafka has the dead letter: a crash before that fails the event again, and sends it.
                    self._hand_in([self._dead_letter(failure, partition)])
            case _ as never:
                assert_never(never)  # type: ignore[arg-type]

    def fail_unread(self, tenure: Tenure, event: PendingEvent, why: str) -> None:
        """The event cannot be read from PostgreSQL, so it can be neither published nor sent to another topic."""
        policy = policy_for(event[3], self._settings.by_pattern(), self._settings.policy)
        verdict = Fail(1, "block" if policy == "block" else "skip")
        failure = Failed(tenure, [event], verdict, PublishError(FailureKind.EVENT, why, "UnreadableEvent"))
        self._tell(failure, verdict)
        if verdict.policy == "block" and event[4] is not None:
            tenure.closed_in(event[0]).close_key(event[3], event[4])
        self._outcomes.add(failure)

    def records_of(self, delivery: Delivered) -> Iterator[EventOutcome]:
        """What to record of a delivery: receipts; failures for dead letters; nothing for what was replayed."""
        for each in self._republished.acknowledged(delivery):
            yield from self._without_dead_letters(each)

    def _without_dead_letters(self, delivery: Delivered) -> Iterator[EventOutcome]:
        _, events, _, base = delivery
        # All of one topic: the hot path pays for no look at each.
        if not events[0][3].endswith(self._settings.dead_letter_suffix):
            yield delivery
            return
        for index, event in enumerate(events):
            if isinstance(event, DeadLetter):
                yield event.failure
            else:
                yield delivery._replace(events=[event], base_offset=base + index if base >= 0 else base)

    def close_topic(self, topic: Topic) -> None:
        """Hold back what waits for the topic, and what comes."""
        tenure = self._tenure
        if tenure is not None:
            tenure.pause(topic.name)
            self._hold(tenure, self._republished.without(topic.pull_all()))

    def open_topic(self, name: str) -> None:
        """Let the topic's held events go on."""
        if self._tenure is not None:
            self._tenure.unpause(name)

    def _hold(self, tenure: Tenure, events: list[PendingEvent]) -> None:
        events = [event.as_taken() if isinstance(event, DeadLetter) else event for event in events]
        lanes: dict[int, list[PendingEvent]] = {}
        for event in events:
            lanes.setdefault(event[0], []).append(event)
        for lane, its_events in lanes.items():
            tenure.closed_in(lane).held_back(its_events)
        self._outcomes.add(Held(tenure, events))

    def _no_letter(self, topic: Topic) -> str | None:
        """Why no dead letter can be sent for an event of this topic."""
        if topic.refusal is not None:
            return "no dead letter is sent for an event whose topic is not allowed"
        target = topic.name + self._settings.dead_letter_suffix
        if len(target) > LONGEST_NAME:
            return (
                f"its dead letter: the name of topic {target} has {len(target)} characters and Kafka takes "
                f"{LONGEST_NAME}; shorten RELAY_FAILURE_DEAD_LETTER_SUFFIX, or set another policy for the topic"
            )
        return None

    def _hold_key(self, tenure: Tenure, topic: Topic, partition: Partition | None, event: PendingEvent) -> None:
        key = event[4]
        if key is not None:
            tenure.closed_in(event[0]).close_key(event[3], key)
            self._hold(tenure, self._republished.without(topic.pull_key(partition, key)))

    def _tell(self, failure: Failed, verdict: Fail) -> None:
        """One line per failure, but not thousands: `relay failed list` has them all."""
        (event,) = failure.events
        topic, id_ = event[3], event[1]
        policy, error = verdict.policy, failure.error
        if self._telling.worth_a_line(time.monotonic()):
            self._telemetry.emit("event.failed", topic=topic, id=id_, policy=policy, error=error)
        else:
            self._telemetry.emit("event.failed_too", topic=topic, id=id_, policy=policy, error=error)

    def _dead_letter(self, failure: Failed, partition: Partition | None) -> DeadLetter:
        (event,) = failure.events
        lane, id_, event_id, topic, key, payload, headers, type_, created_ms, size = event
        told = {
            **json.loads(headers or "{}"),
            "outbox-dead-letter-topic": topic,
            "outbox-dead-letter-partition": str(partition.number if partition is not None else -1),
            "outbox-dead-letter-error": str(failure.error),
        }
        target = topic + self._settings.dead_letter_suffix
        text = json.dumps(told)
        letter = DeadLetter(lane, id_, event_id, target, key, payload, text, type_, created_ms, size + len(text))
        letter.failure = failure
        return letter
