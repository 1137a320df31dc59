"""The events of one partition on their way to Kafka: waiting in order, in flight, put back after a refusal."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import TYPE_CHECKING, Protocol, TypeVar

from relay.decide.limits import ANY_TIME
from relay.outcome import Acknowledged
from relay.stages.publish.line import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from relay.event import PendingEvent
    from relay.outcome import BatchOutcome, PublishError, Refused
    from relay.retry import Backoff
    from relay.stages.publish.ports import Producer
    from relay.stages.tenure import Tenure

COLD_AFTER = 60.0
"""Seconds without an acknowledgement after which a partition counts as cold again. Brokers forget an idle producer
after `producer.id.expiration.ms` (a day by default); a single batch that goes alone costs nothing at such a pace."""

REFUSED_ALONE = 3
"""So many refusals in a row of one partition, while Kafka acknowledges others, are the partition's trouble."""

MOST_PER_BATCH = 10_000
"""Events; as a rule the bytes of a record batch are the lower limit."""

GROWTH = 4
"""After a refusal, how many times as many events a batch may have as the last one that was acknowledged: where refused
events come one after the other, each must not cost a search through ten thousand."""


class Packed(Protocol):
    """A record batch."""

    @property
    def events(self) -> list[PendingEvent]:
        """The events in it, in order."""


Batch = TypeVar("Batch", bound=Packed)


@dataclass(slots=True, eq=False)
class Doubt:
    """Nobody knows whether Kafka has a record batch. Its producer was discarded, and Kafka is being asked."""

    refused: Refused
    """What becomes of it if Kafka does not have it."""
    since: float
    """Monotonic seconds."""
    waits: str | None = None
    """Why it cannot be found out now, in Kafka's words; None if Kafka could not be asked, or not yet."""


@dataclass(slots=True, eq=False)
class Flight:
    """A record batch in the producer's hands."""

    tenure: Tenure
    producer: Producer
    events: list[PendingEvent]
    sent_at: float
    """When the producer was given it (monotonic seconds)."""
    size: int = 0
    """Bytes of the events' keys, payloads and headers."""
    times: tuple[int, int] = ANY_TIME
    """The earliest and the latest time of its records; an event from before or after goes with the time of packing."""
    restamped: int = 0
    """How many of its events go with the time of packing."""
    outcome: BatchOutcome | None = None
    """What became of it; None until that is known."""
    lost: Doubt | None = None
    """Set while nobody knows whether Kafka has it."""

    def may_begin(self) -> bool:
        """Whether it may still be sent for the first time, also after its tenure's connections were lost."""
        return self.outcome is None and self.tenure.holds_lease()


@dataclass(slots=True, eq=False)
class Partition:
    """What is known of one partition. No I/O: publish acts on it."""

    topic: str
    number: int
    backoff: Backoff
    flights: deque[Flight] = field(default_factory=deque)
    wake_up: asyncio.Event = field(default_factory=asyncio.Event)
    suspect: bool = False
    """A batch was refused or got stuck: until one is acknowledged it goes through the producer that is kept for such,
    so that its refusals and retries do not disturb the others."""
    refusals: int = 0
    """Refusals in a row for what is said to be the cluster's fault."""
    doubtful: int = 0
    """How many events at the head were in a batch that was refused for one of them."""
    most: int = MOST_PER_BATCH
    """Maximum of events per batch: halved with each refusal until the culprit goes alone, and grown with each
    acknowledgement."""
    condemned: deque[tuple[PendingEvent, PublishError]] = field(default_factory=deque)
    """Events among those that wait, in their order, that the broker has named as what it refuses, and why. Each fails
    when no event of its key waits before it: what was written of the key before it goes first."""
    progress: int = 0
    """Grows whenever events leave it, to Kafka or as failed."""
    unnoted_since: float | None = None
    """Since when what waits cannot be sent because Kafka does not say where the partition ends (monotonic seconds)."""
    full_at: int = MOST_PER_BATCH
    """Events in the last batch that was full, that is, that left some waiting."""
    _waiting: Line = field(default_factory=Line)
    _pausing: bool = False
    _producer: Producer | None = None
    _warm_until: float = 0.0
    _refused_since: float = 0.0

    def __repr__(self) -> str:
        return f"<Partition {self.topic}-{self.number} waiting={len(self.waiting)} flights={len(self.flights)}>"

    @property
    def waiting(self) -> Sequence[PendingEvent]:
        """The events that wait, in order. Only the partition itself adds or takes any."""
        return self._waiting

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self.waiting and not self.flights

    def may_send(self, producer: Producer, now: float) -> bool:
        """Whether the next batch may be handed to `producer`.

        One in flight and, if there is enough to fill it, one queued behind it: what is packed sooner goes no sooner,
        because aiokafka has one request under way per broker, and with a hundred partitions the many small batches
        took twice the CPU. The second is safe because the broker refuses a gap in the sequence. But on a *cold*
        partition it has no sequence to compare with, and takes the batch behind a refused one (tried on Kafka 4.3.1):
        the first batch of a producer goes alone until it is acknowledged.
        """
        if not self.waiting or self._pausing:
            return False
        if not self.flights:
            return True
        if any(flight.outcome or flight.producer is not producer for flight in self.flights):
            return False
        warm = producer is self._producer and now < self._warm_until and not self.doubtful and not self.condemned
        return warm and len(self.flights) < 2 and len(self.waiting) >= self.full_at

    def add(self, events: Iterable[PendingEvent]) -> None:
        """Have events wait behind all others."""
        self._waiting.extend(events)
        self.wake_up.set()

    def take_batch(self, pack: Callable[[Collection[PendingEvent], int], Batch], most: int = MOST_PER_BATCH) -> Batch:
        """Take the next record batch out of the queue, of `most` events at most.

        `pack` is given the events that wait and how many of them it may pack at most; it packs the first of them.
        """
        waiting = self._waiting
        batch = pack(waiting, min(most, self.batch_bound()))
        packed = len(batch.events)
        if packed == len(waiting):
            waiting.clear()
        else:
            self.full_at = packed
            for _ in repeat(None, packed):
                waiting.popleft()
        return batch

    def ended(self, flight: Flight, outcome: BatchOutcome) -> list[tuple[Flight, BatchOutcome]]:
        """Note a flight's outcome; returns the flights to act on now, in the order in which they were sent.

        A flight is to be acted on once all before it were acknowledged, and a refused one only together with all that
        are behind it: what is put back must be put back in order. The flights returned are not in flight any more.
        """
        flight.outcome = outcome
        flights = self.flights
        ended: list[tuple[Flight, BatchOutcome]] = []
        while flights and isinstance(known := flights[0].outcome, Acknowledged):
            ended.append((flights.popleft(), known))
        rest = [(each, each.outcome) for each in flights if each.outcome is not None]
        if len(rest) == len(flights):
            ended += rest
            flights.clear()
        return ended

    def acknowledged(self, flight: Flight, now: float) -> None:
        """Note that the broker has `flight`."""
        self.progress += 1
        self._producer = flight.producer
        self._warm_until = now + COLD_AFTER
        self.backoff.reset()
        self.refusals = 0
        self.doubtful = max(0, self.doubtful - len(flight.events))
        if not self.doubtful:
            self.most = min(MOST_PER_BATCH, self.most * GROWTH)
            self.suspect = False

    def refused_alone(self, now: float, others_acknowledged: float) -> bool:
        """Note a refusal that is said to be the cluster's fault; returns whether it is rather this partition's.

        It is after `REFUSED_ALONE` in a row, if Kafka has acknowledged others since the first. Such a partition would
        else be tried for ever, with a producer discarded each time, and nobody would be told of it.
        """
        if not self.refusals:
            self._refused_since = now
        self.refusals += 1
        return self.refusals >= REFUSED_ALONE and others_acknowledged > self._refused_since

    def chill(self) -> None:
        """Send alone until acknowledged: the topic's metadata changed, perhaps because the topic was made anew."""
        self._producer = None

    def put_back(self, events: list[PendingEvent]) -> None:
        """Have events that were not published wait before all others, in their order."""
        self._waiting.extendleft(reversed(events))

    def split(self, refused: int) -> None:
        """Halve the batches until the event is found for which a batch of `refused` events was refused."""
        self.doubtful = max(self.doubtful, refused)
        self.most = max(1, refused // 2)

    def culprit_found(self) -> None:
        """End the search for an event at fault. Whether the next event is any better is not known, so `most` stays."""
        self.doubtful = 0

    def condemn(self, culprits: Sequence[tuple[PendingEvent, PublishError]]) -> None:
        """Have events failed that the broker has named; they wait before all that were condemned already."""
        self.condemned.extendleft(reversed(culprits))
        self.doubtful = 0

    def head_condemned(self) -> PublishError | None:
        """Return why the event at the head is to fail; None if it may go."""
        if self.condemned and self.waiting:
            event, why = self.condemned[0]
            if event is self.waiting[0]:
                return why
        return None

    def take_condemned(self, most: int) -> list[tuple[PendingEvent, PublishError]]:
        """Take out condemned events, `most` at most, that may fail now if nothing is in flight, and why they fail.

        An event with an earlier one of its key before it has to wait until that is published, or has failed as well.
        """
        taken: list[tuple[PendingEvent, PublishError]] = []
        staying: list[PendingEvent] = []
        waiting, condemned = self._waiting, self.condemned
        left: deque[tuple[PendingEvent, PublishError]] = deque()
        keys: set[bytes] = set()
        while condemned and waiting and len(taken) < most:
            event = waiting.popleft()
            key = event.key
            if event is not condemned[0][0]:
                staying.append(event)
            elif key in keys:
                staying.append(event)
                left.append(condemned.popleft())
            else:
                taken.append(condemned.popleft())
            if key is not None:
                keys.add(key)
        waiting.extendleft(reversed(staying))
        condemned.extendleft(reversed(left))
        self.progress += len(taken)
        return taken

    def pop_head(self) -> PendingEvent:
        """Take the event at the head out, because it fails."""
        if self.head_condemned() is not None:
            self.condemned.popleft()
        self.progress += 1
        return self._waiting.popleft()

    def batch_bound(self) -> int:
        """The maximum number of events in the next batch, none of which is condemned."""
        if not self.condemned:
            return self.most
        condemned, _ = self.condemned[0]
        before = 0
        for event in islice(self.waiting, self.most):
            if event is condemned:
                break
            before += 1
        return before

    def back_off(self) -> None:
        """Pause before the next try."""
        # The end of the pause is the timer's word and not the clock's: uvloop's timers fire up to 1.3 ms early, and a
        # partition that is woken and then finds that it is not time yet sleeps for ever.
        self._pausing = True
        asyncio.get_running_loop().call_later(self.backoff.next_delay(), self._resume)

    def _resume(self) -> None:
        self._pausing = False
        self.wake_up.set()

    def withdraw(self, which: Callable[[PendingEvent], bool] | None = None) -> list[PendingEvent]:
        """Take `which` events out of the queue, all by default; returns those to hold back or to drop."""
        if which is None:
            self.condemned.clear()
            self.doubtful = 0
        else:
            self.condemned = deque((event, why) for event, why in self.condemned if not which(event))
        taken = self._waiting.withdraw(which)
        if not self._waiting:
            self.unnoted_since = None
        return taken
