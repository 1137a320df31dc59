"""The events of one partition on their way to Kafka: waiting in order, in flight, put back after a refusal."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.event import PendingEvent
    from relay.outcome import Outcome, PublishError
    from relay.retry import Backoff
    from relay.stages.tenure import Tenure

COLD_AFTER = 60.0
"""Seconds without an acknowledgement after which a partition counts as cold again. Brokers forget an idle producer
after `producer.id.expiration.ms` (a day by default); a single batch that goes alone costs nothing at such a pace."""


@dataclass(slots=True, eq=False)
class Flight:
    """A record batch in the producer's hands."""

    tenure: Tenure
    producer: object
    events: list[PendingEvent]
    sent_at: float
    outcome: Outcome | None = None


@dataclass(slots=True, eq=False)
class Partition:
    """What is known of one partition. No I/O: publish acts on it."""

    topic: str
    number: int
    backoff: Backoff
    waiting: deque[PendingEvent] = field(default_factory=deque)
    flights: deque[Flight] = field(default_factory=deque)
    wake_up: asyncio.Event = field(default_factory=asyncio.Event)
    refusal: PublishError | None = None
    """Why the batch at the head was refused; None once one is acknowledged again."""
    _pausing: bool = False
    _producer: object = None
    _warm_until: float = 0.0

    def __repr__(self) -> str:
        return f"<Partition {self.topic}-{self.number} waiting={len(self.waiting)} flights={len(self.flights)}>"

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in flight."""
        return not self.waiting and not self.flights

    def may_send(self, producer: object, now: float) -> bool:
        """Whether the next batch may be handed to `producer`.

        One in flight and one queued behind it, which is safe because the broker refuses a gap in the sequence. But
        on a *cold* partition it has no sequence to compare with, and takes the batch behind a refused one (tried on
        Kafka 4.3.1): the first batch of a producer goes alone until it is acknowledged.
        """
        if not self.waiting or self._pausing or any(flight.outcome for flight in self.flights):
            return False
        warm = producer is self._producer and now < self._warm_until
        return len(self.flights) < (2 if warm else 1)

    def acknowledged(self, flight: Flight, now: float) -> None:
        """The broker has `flight`."""
        self._producer = flight.producer
        self._warm_until = now + COLD_AFTER
        self.refusal = None
        self.backoff.reset()

    def chill(self) -> None:
        """The topic's metadata changed, perhaps because it was made anew: send alone until acknowledged."""
        self._producer = None

    def put_back(self, events: list[PendingEvent]) -> None:
        """Events that were not published go before all others again, in their order."""
        self.waiting.extendleft(reversed(events))

    def refused(self, error: PublishError) -> bool:
        """Pause before the next try; returns whether this is news worth a log line."""
        news = self.refusal is None or str(self.refusal) != str(error)
        self.refusal = error
        # The end of the pause is the timer's word and not the clock's: uvloop's timers fire up to 1.3 ms early, and a
        # partition that is woken and then finds that it is not time yet sleeps for ever.
        self._pausing = True
        asyncio.get_running_loop().call_later(self.backoff.next_delay(), self._resume)
        return news

    def _resume(self) -> None:
        self._pausing = False
        self.wake_up.set()

    def oldest_flight_age(self, now: float | None = None) -> float:
        """Seconds since the oldest batch in flight was sent; 0 when there is none."""
        return (time.monotonic() if now is None else now) - self.flights[0].sent_at if self.flights else 0.0
