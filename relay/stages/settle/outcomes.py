"""What is known about taken events and not recorded yet: they were delivered, failed, or are held back.

Publish adds what Kafka acknowledged, hold adds failures and held events, and settle alone takes what there is: in the
order in which it became known, one kind at a time. An outcome waits here, is being recorded, or is set aside because
PostgreSQL refuses it; what is set aside is tried again before all that came since.

Outcomes leave by `settled` when they are committed or do not matter any more. That of an acknowledged event must never
be lost, whatever becomes of its tenure: the event would be published again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

from relay.decide.receipts import MOST_PLACES
from relay.event import EventWithOrigin, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from relay.decide.failing import Verdict
    from relay.event import PendingEvent
    from relay.outcome import PublishError
    from relay.stages.reconcile.notes import Notes
    from relay.stages.tenure import Tenure


class Delivered(NamedTuple):
    """Events of one record batch that Kafka acknowledged."""

    tenure: Tenure
    events: list[PendingEvent]
    partition: int
    base_offset: int
    """Offset of the first event; the others follow. -1 when the broker did not say."""

    def part(self, begin: int, end: int) -> Delivered:
        """Return the same about the events from index `begin` to before `end` alone."""
        base = self.base_offset
        return self._replace(events=self.events[begin:end], base_offset=base + begin if base >= 0 else base)


class Failed(NamedTuple):
    """An event that failed, or is to be retried."""

    tenure: Tenure
    events: list[PendingEvent]
    """One event."""
    verdict: Verdict
    error: PublishError


class Held(NamedTuple):
    """Events that wait behind a failure of their key, or for their paused topic."""

    tenure: Tenure
    events: list[PendingEvent]


EventOutcome: TypeAlias = Delivered | Failed | Held

NO_KEY = frozenset({None})
"""What events without a key have, which have no order."""


def halves(outcomes: list[EventOutcome]) -> tuple[list[EventOutcome], list[EventOutcome]] | None:
    """Divide outcomes of one kind into two lists of about half of the events each; None for a single event."""
    if len(outcomes) > 1:
        middle = len(outcomes) // 2
        return outcomes[:middle], outcomes[middle:]
    (outcome,) = outcomes
    events = outcome.events
    middle = len(events) // 2
    if not middle:
        return None
    if isinstance(outcome, Delivered):
        return [outcome.part(0, middle)], [outcome.part(middle, len(events))]
    return [outcome._replace(events=events[:middle])], [outcome._replace(events=events[middle:])]


def joined(deliveries: Iterable[Delivered]) -> list[Delivered]:
    """Put together those that follow one another in their partition: fewer receipts, while record batches are small.

    Only for what is recorded for the first time. Whether it was recorded before cannot be told of parts of a receipt.
    """
    found: dict[tuple[str, int, int], Delivered] = {}
    for number, each in enumerate(deliveries):
        topic, partition, base = each.events[0].topic, each.partition, each.base_offset
        if base < 0:
            found[topic, partition, -1 - number] = each
            continue
        before = found.get((topic, partition, base))
        whole = each
        if before is not None and len(before.events) + len(each.events) <= MOST_PLACES:
            del found[topic, partition, base]
            whole = before._replace(events=[*before.events, *each.events])
        found[topic, partition, base + len(each.events)] = whole
    return list(found.values())


class Outcomes:
    """The queue to settle. Outlives tenures, so that an acknowledgement is never lost."""

    def __init__(self, notes: Notes | None = None) -> None:
        """`notes` are told what Kafka has, and of what the receipts are committed."""
        self._notes = notes
        self._waiting: deque[EventOutcome] = deque()
        self._arrived = asyncio.Event()
        self._settling = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._holding: dict[int, int] = {}
        self._failing: dict[int, int] = {}
        self._aside: list[EventOutcome] = []

    @property
    def events(self) -> int:
        """Number of events that are not recorded yet."""
        return sum(len(outcome.events) for outcome in self._waiting) + self._settling

    @property
    def waiting(self) -> bool:
        """Whether there are outcomes that settle has not taken."""
        return bool(self._waiting)

    def events_beside(self, tenure: Tenure | None) -> int:
        """Number of events of other tenures than this one; to be asked while nothing is being recorded."""
        return sum(len(outcome.events) for outcome in self._waiting if outcome.tenure is not tenure)

    def holding(self, lane: int) -> bool:
        """Whether events of this lane are held back whose rows are not committed yet."""
        return self._holding.get(lane, 0) > 0

    def failing(self, lane: int) -> bool:
        """Whether events of this lane failed whose rows are not committed yet."""
        return self._failing.get(lane, 0) > 0

    def acknowledged(self, delivered: Delivered, *, with_origins: bool) -> None:
        """Queue what a batch becomes that Kafka has: receipts, but for events that have an origin, which is told.

        Unless events with an origin may be among them (`with_origins`), none is looked at: this is the hot path.
        """
        events = delivered.events
        if not with_origins or EventWithOrigin not in map(type, events):
            self._note(delivered, len(events))
            self.add(delivered)
            return
        self._note(delivered, sum(not isinstance(event, EventWithOrigin) for event in events))
        base = delivered.base_offset
        begin = 0
        for index, event in enumerate(events):
            if isinstance(event, EventWithOrigin):
                self.add(delivered.part(begin, index))
                begin = index + 1
                event.origin.acknowledged(event, delivered.partition, base + index if base >= 0 else base)
        self.add(delivered.part(begin, len(events)))

    def add(self, outcome: EventOutcome) -> None:
        """Queue an outcome, unless it is one of no event."""
        if not outcome.events:
            return
        self._count_unwritten(outcome, 1)
        self._waiting.append(outcome)
        self._arrived.set()
        self._idle.clear()

    async def take(self, most: int) -> list[EventOutcome]:
        """Wait for outcomes and take some of the first one's kind and tenure, with about `most` events.

        Those of one key are taken in the order in which they were added; others may be left standing in between. Where
        every other event fails, a statement would else record one of them.
        """
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        first = self._waiting[0]
        taken: list[EventOutcome] = []
        while (
            self._waiting
            and self._settling < most
            and self._waiting[0].tenure is first.tenure
            and type(self._waiting[0]) is type(first)
        ):
            taken.append(self._waiting.popleft())
            self._settling += len(taken[-1].events)
        if self._waiting and self._settling < most:
            self._take_past_others(taken, most)
        return taken

    def _take_past_others(self, taken: list[EventOutcome], most: int) -> None:
        first = taken[0]
        left: list[EventOutcome] = []
        keys: set[bytes | None] = set()
        while self._waiting and self._settling < most:
            outcome = self._waiting.popleft()
            its_keys = set(map(key_of, outcome.events)) - NO_KEY
            alike = outcome.tenure is first.tenure and type(outcome) is type(first)
            if alike and keys.isdisjoint(its_keys):
                taken.append(outcome)
                self._settling += len(outcome.events)
            else:
                left.append(outcome)
                keys |= its_keys
        self._waiting.extendleft(reversed(left))

    def put_back(self, outcomes: list[EventOutcome]) -> None:
        """Have outcomes recorded again that may have been committed or not: if they were, it changes nothing."""
        self._waiting.extendleft(reversed(outcomes))
        self._settling = 0

    @property
    def aside(self) -> list[EventOutcome]:
        """The outcomes that cannot be recorded now, of a single event each."""
        return self._aside

    def try_again(self, worth_it: Callable[[EventOutcome], bool]) -> list[EventOutcome]:
        """Take up what was set aside, before anything that came since; returns what is dropped instead."""
        aside, self._aside = self._aside, []
        again = [outcome for outcome in aside if worth_it(outcome)]
        if again:
            self._waiting.extendleft(reversed(again))
            self._arrived.set()
            self._idle.clear()
        dropped = [outcome for outcome in aside if not worth_it(outcome)]
        for outcome in dropped:
            self._count_unwritten(outcome, -1)
        return dropped

    def settled(self, outcomes: list[EventOutcome], but: Sequence[EventOutcome] = ()) -> None:
        """Let go of outcomes that were committed or do not matter any more; set aside those that cannot be recorded.

        Nobody waits for what is set aside (`wait_idle`), and nothing passes it.
        """
        for outcome in but:
            self._count_unwritten(outcome, 1)
            self._recorded(outcome, -1)
        for outcome in outcomes:
            self._count_unwritten(outcome, -1)
            self._recorded(outcome, len(outcome.events))
        self._aside.extend(but)
        self._settling = 0
        if not self._waiting:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until everything is recorded."""
        await self._idle.wait()

    def _note(self, delivered: Delivered, to_record: int) -> None:
        if self._notes is not None:
            topic, records = delivered.events[0].topic, len(delivered.events)
            self._notes.acknowledged(topic, delivered.partition, delivered.base_offset, records, to_record)

    def _recorded(self, outcome: EventOutcome, events: int) -> None:
        if self._notes is not None and isinstance(outcome, Delivered):
            self._notes.recorded(outcome.events[0].topic, outcome.partition, outcome.base_offset, events)

    def _count_unwritten(self, outcome: EventOutcome, by: int) -> None:
        match outcome:
            case Held():
                counts = self._holding
            case Failed():
                counts = self._failing
            case Delivered():
                return
            case _ as never:
                assert_never(never)
        for event in outcome.events:
            counts[event.lane] = counts.get(event.lane, 0) + by
