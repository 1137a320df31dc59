"""What is known about taken events and not recorded yet: acknowledged, failed, or held back."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.decide.failing import Verdict
    from relay.event import PendingEvent
    from relay.outcome import PublishError
    from relay.stages.tenure import Tenure


class Delivery(NamedTuple):
    """Acknowledged events of one record batch."""

    tenure: Tenure
    events: list[PendingEvent]
    partition: int
    base_offset: int
    """Of the first event; the others follow. -1 when the broker did not say."""


class Failure(NamedTuple):
    """An event that failed, or is to be retried."""

    tenure: Tenure
    events: list[PendingEvent]
    """Just the one."""
    verdict: Verdict
    error: PublishError


class HeldBack(NamedTuple):
    """Events that wait behind a failure of their key, or for their paused topic."""

    tenure: Tenure
    events: list[PendingEvent]


Record: TypeAlias = Delivery | Failure | HeldBack


def halves(records: list[Record]) -> tuple[list[Record], list[Record]] | None:
    """The records as two lists of about half of the events each; None for a single event."""
    if len(records) > 1:
        middle = len(records) // 2
        return records[:middle], records[middle:]
    (record,) = records
    middle = len(record.events) // 2
    if not middle:
        return None
    first, second = record._replace(events=record.events[:middle]), record._replace(events=record.events[middle:])
    if isinstance(second, Delivery) and second.base_offset >= 0:
        second = second._replace(base_offset=second.base_offset + middle)
    return [first], [second]


class Records:
    """The queue to settle. Outlives tenures, so that an acknowledgement is never lost."""

    def __init__(self) -> None:
        self._waiting: deque[Record] = deque()
        self._arrived = asyncio.Event()
        self._settling = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._holding: dict[int, int] = {}
        self._failing: dict[int, int] = {}
        self._aside: list[Record] = []

    @property
    def events(self) -> int:
        """Number of events that are not recorded yet."""
        return sum(len(record.events) for record in self._waiting) + self._settling

    @property
    def waiting(self) -> bool:
        """Whether there are records that nobody has taken."""
        return bool(self._waiting)

    def events_beside(self, tenure: Tenure | None) -> int:
        """Those of other tenures than this one, while nothing is being recorded."""
        return sum(len(record.events) for record in self._waiting if record.tenure is not tenure)

    def holding(self, lane: int) -> bool:
        """Whether events of this lane are held back whose rows are not committed yet."""
        return self._holding.get(lane, 0) > 0

    def failing(self, lane: int) -> bool:
        """Whether events of this lane failed whose rows are not committed yet."""
        return self._failing.get(lane, 0) > 0

    def add(self, record: Record) -> None:
        """Something became known."""
        if not record.events:
            return
        self._count_unwritten(record, 1)
        self._waiting.append(record)
        self._arrived.set()
        self._idle.clear()

    async def take(self, most: int) -> list[Record]:
        """Wait for records and take those of one kind and tenure at the head, with about `most` events."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        first = self._waiting[0]
        taken: list[Record] = []
        while (
            self._waiting
            and self._settling < most
            and self._waiting[0].tenure is first.tenure
            and type(self._waiting[0]) is type(first)
        ):
            taken.append(self._waiting.popleft())
            self._settling += len(taken[-1].events)
        return taken

    def put_back(self, records: list[Record]) -> None:
        """Whether these were committed is unknown: they are written again, which changes nothing then."""
        self._waiting.extendleft(reversed(records))
        self._settling = 0

    @property
    def aside(self) -> list[Record]:
        """What cannot be recorded now, of single events."""
        return self._aside

    def try_again(self, worth_it: Callable[[Record], bool]) -> list[Record]:
        """Take up what was set aside, before anything that came since; returns what is dropped instead."""
        aside, self._aside = self._aside, []
        again = [record for record in aside if worth_it(record)]
        if again:
            self._waiting.extendleft(reversed(again))
            self._arrived.set()
            self._idle.clear()
        dropped = [record for record in aside if not worth_it(record)]
        for record in dropped:
            self._count_unwritten(record, -1)
        return dropped

    def settled(self, records: list[Record], but: Sequence[Record] = ()) -> None:
        """These were committed, or do not matter any more; but for some that cannot be for now. Nobody waits for those,
        and nothing passes them."""
        for record in records:
            self._count_unwritten(record, -1)
        for record in but:
            self._count_unwritten(record, 1)
        self._aside.extend(but)
        self._settling = 0
        if not self._waiting:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until everything is recorded."""
        await self._idle.wait()

    def _count_unwritten(self, record: Record, by: int) -> None:
        match record:
            case HeldBack():
                counts = self._holding
            case Failure():
                counts = self._failing
            case Delivery():
                return
            case _ as never:
                assert_never(never)
        for event in record.events:
            counts[event[0]] = counts.get(event[0], 0) + by
