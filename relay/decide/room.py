"""The bound between scan and settle: how many more events may be taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.decide.reach import Reach
from relay.event import OVERHEAD_BYTES, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from relay.event import PendingEvent


class Room:
    """Counts events and bytes that were taken and are not settled yet; how full it is decides how much is read.

    It holds nothing and wakes nobody: whoever lets events leave says so to those who wait (`Tenure.leave_room`).

    A lane may hold up to half as much as is free. So one that is alone may hold a third of all, sixteen of the same
    pace an eighteenth each, and one that does not move leaves room for its neighbours: the dynamic thresholds of
    Choudhury and Hahne (IEEE/ACM Transactions on Networking 6, 1998) with alpha = 1/2. With fixed parts the lane that
    was left at the end of a backlog, or that of a hot key, had a sixteenth to itself.

    An event leaves when its receipt is committed, not when Kafka has it.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: dict[int, int] = {}
        self._bytes: dict[int, int] = {}
        self.events = 0
        """Events taken and not settled."""
        self.bytes = 0
        """What they occupy in memory, about."""
        self.settled = 0
        """Events that have left so far."""

    def __repr__(self) -> str:
        return f"<Room events={self.events}/{self._max_events} bytes={self.bytes}/{self._max_bytes}>"

    def worth_reading(self, lane: int) -> bool:
        """Whether it is worth reading: not while the lane holds half of what it may when it is alone.

        A read costs the same for one event as for many. A lane that holds nothing always has room for one event.
        """
        held, held_bytes = self._events.get(lane, 0), self._bytes.get(lane, 0)
        free, free_bytes = self._max_events - self.events, self._max_bytes - self.bytes
        # Alone it could come to hold a third of `free + held`.
        return not held or (held * 6 <= free + held and held_bytes * 6 <= free_bytes + held_bytes)

    def allowance(self, lane: int, lanes: int = 1) -> Reach:
        """What may be taken from a lane that has room, if `lanes` lanes take theirs at once.

        The last event may exceed the bytes.
        """
        events, size = self._rest(lane, lanes)
        return Reach(max(1, events), max(1, size))

    def leftover(self, lane: int, lanes: int = 1) -> Reach | None:
        """What may be taken from a lane by those who read rarely, however little, if `lanes` lanes take theirs at once.

        None when it is nothing.
        """
        if self._events.get(lane, 0) and min(self._rest(lane, lanes)) < 1:
            return None
        return self.allowance(lane, lanes)

    def share(self, events: int, own_bytes: int = 0) -> float:
        """The part of all room that `events` events take, with `own_bytes` bytes of keys, payloads and headers."""
        return max(events / self._max_events, (own_bytes + OVERHEAD_BYTES * events) / self._max_bytes)

    def lane_bytes(self, lane: int) -> int:
        """What the unsettled events of a lane occupy."""
        return self._bytes.get(lane, 0)

    def add(self, lane: int, events: Iterable[PendingEvent]) -> int:
        """Count in events that were taken from a lane; returns the bytes of their keys, payloads and headers."""
        sizes = list(map(size_of, events))
        size = sum(sizes)
        self._count(lane, len(sizes), size + OVERHEAD_BYTES * len(sizes))
        return size

    def remove(self, settled: Mapping[int, tuple[int, int]]) -> None:
        """Count out events that were settled: lane to (events, bytes of their keys, payloads and headers)."""
        for lane, (events, size) in settled.items():
            self._count(lane, -events, -size - OVERHEAD_BYTES * events)
            self.settled += events

    def _rest(self, lane: int, lanes: int) -> tuple[int, int]:
        """The amount after which, once `lanes` lanes have taken it, each holds half of what is still free."""
        free, free_bytes = self._max_events - self.events, self._max_bytes - self.bytes
        held, held_bytes = self._events.get(lane, 0), self._bytes.get(lane, 0)
        return (free - 2 * held) // (2 + lanes), (free_bytes - 2 * held_bytes) // (2 + lanes)

    def _count(self, lane: int, events: int, size: int) -> None:
        self._events[lane] = self._events.get(lane, 0) + events
        self._bytes[lane] = self._bytes.get(lane, 0) + size
        self.events += events
        self.bytes += size
