"""The bound between scan and settle: how many more events may be taken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.decide.lane_scan import Reach
from relay.event import OVERHEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from relay.event import PendingEvent


class Buffer:
    """Counts events and bytes that were taken and are not settled yet; its fullness is the backpressure.

    The room is shared out evenly to the lanes that are owned, so that one that does not move cannot take its
    neighbours' room. An event leaves when its receipt is committed, not when Kafka has it.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._lanes = 1
        self._events: dict[int, int] = {}
        self._bytes: dict[int, int] = {}
        self.settled = 0
        """Events that have left so far."""
        self.changed = asyncio.Event()
        """Set whenever events leave."""

    def __repr__(self) -> str:
        return f"<Buffer events={self.events}/{self._max_events} bytes={self.bytes}/{self._max_bytes}>"

    @property
    def events(self) -> int:
        """Events taken and not settled."""
        return sum(self._events.values())

    @property
    def bytes(self) -> int:
        """What they occupy in memory, about."""
        return sum(self._bytes.values())

    def share_among(self, lanes: int) -> None:
        """Give each of `lanes` owned lanes an equal part from now on."""
        self._lanes = max(1, lanes)
        self.changed.set()

    def lane_room(self, lane: int) -> Reach | None:
        """What may be taken from a lane now; None while less than half of its part is free.

        Half, because a scan costs the same for one event as for many. The last event may exceed the bytes.
        """
        max_events = max(1, self._max_events // self._lanes)
        max_bytes = max(1, self._max_bytes // self._lanes)
        events = max_events - self._events.get(lane, 0)
        size = max_bytes - self._bytes.get(lane, 0)
        if events * 2 < max_events or size * 2 < max_bytes:
            return None
        return Reach(events, size)

    def lane_bytes(self, lane: int) -> int:
        """What the unsettled events of a lane occupy."""
        return self._bytes.get(lane, 0)

    def add(self, lane: int, events: Iterable[PendingEvent]) -> int:
        """Events of a lane were taken; returns the bytes of their keys, payloads and headers."""
        sizes = [event[9] for event in events]
        size = sum(sizes)
        self._events[lane] = self._events.get(lane, 0) + len(sizes)
        self._bytes[lane] = self._bytes.get(lane, 0) + size + OVERHEAD_BYTES * len(sizes)
        return size

    def remove(self, settled: Mapping[int, tuple[int, int]]) -> None:
        """Events were settled: lane to (events, bytes of key, payload and headers)."""
        for lane, (events, size) in settled.items():
            self._events[lane] -= events
            self.settled += events
            self._bytes[lane] -= size + OVERHEAD_BYTES * events
        self.changed.set()
