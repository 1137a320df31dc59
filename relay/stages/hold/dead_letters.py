"""Dead letters: a failed event, published to a topic beside its own before the failure is recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from relay.event import EventTuple, with_origin
from relay.headers import DEAD_LETTER_ERROR, DEAD_LETTER_PARTITION, DEAD_LETTER_TOPIC
from relay.names import LONGEST_TOPIC
from relay.outcome import PublishError

if TYPE_CHECKING:
    from relay.event import EventWithOrigin, PendingEvent
    from relay.stages.settle.outcomes import Failed, Outcomes


class DeadLetter:
    """The origin of one dead letter: its event's failure, which is recorded once Kafka has the letter.

    A crash before that fails the event again, and sends another letter. The letter carries all that is to be known of
    it, so a letter that is dropped, as at the end of a tenure, leaves nothing behind.
    """

    exempt = True

    def __init__(self, failure: Failed, outcomes: Outcomes) -> None:
        self._failure = failure
        self._outcomes = outcomes

    def acknowledged(self, _event: PendingEvent, _partition: int, _offset: int) -> None:
        """Record the failure."""
        self._outcomes.add(self._failure)

    def refused(self, _event: PendingEvent, error: PublishError) -> None:
        """Record the failure with both errors: there is nothing left to try."""
        original = self._failure.error
        both = PublishError(error.kind, f"{original}; its dead letter: {error}", original.name)
        self._outcomes.add(self._failure._replace(error=both))

    def withdrawn(self, event: PendingEvent) -> PendingEvent:
        """What is held back for a letter: the event, for the letter's topic, with the size that was taken."""
        (original,) = self._failure.events
        return EventTuple(*event)._replace(size=original.size)


class DeadLetters:
    """Writes dead letters."""

    def __init__(self, outcomes: Outcomes, suffix: str) -> None:
        self._outcomes = outcomes
        self._suffix = suffix

    def obstacle(self, topic: str, *, allowed: bool) -> str | None:
        """Why there can be no dead letter for an event of `topic`, to which events are `allowed` or not; else None."""
        if not allowed:
            return "no dead letter is sent for an event whose topic is not allowed"
        target = topic + self._suffix
        if len(target) > LONGEST_TOPIC:
            return (
                f"its dead letter: the topic name {target} has {len(target)} characters and Kafka takes at most "
                f"{LONGEST_TOPIC}; shorten RELAY_FAILURE_DEAD_LETTER_SUFFIX, or set another policy for the topic"
            )
        return None

    def letter(self, failure: Failed, partition: int) -> EventWithOrigin:
        """The letter for an event that failed on its way to this partition of its topic, or to none (-1)."""
        (event,) = failure.events
        lane, id_, event_id, topic, key, payload, headers, type_, created_ms, size = event
        told = {
            **json.loads(headers or "{}"),
            DEAD_LETTER_TOPIC: topic,
            DEAD_LETTER_PARTITION: str(partition),
            DEAD_LETTER_ERROR: str(failure.error),
        }
        text = json.dumps(told)
        target = topic + self._suffix
        letter = EventTuple(lane, id_, event_id, target, key, payload, text, type_, created_ms, size + len(text))
        return with_origin(letter, DeadLetter(failure, self._outcomes))
