"""What is known about taken events and not recorded yet: acknowledged, failed, or held back."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

if TYPE_CHECKING:
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

    def settled(self, records: list[Record]) -> None:
        """These were committed, or do not matter any more."""
        for record in records:
            self._count_unwritten(record, -1)
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
