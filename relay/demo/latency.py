"""The latency from commit to consumer: matches two processes' times of an event, and counts. No I/O."""

from __future__ import annotations

from collections import Counter, deque
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

PER_MS = 10
"""Counters per millisecond: tenths are exact enough, and memory does not grow with the number of events."""
RECENT_EVENTS = 2_000


class Latencies:
    """Latencies in ms between two moments of each event, which may be told in either order.

    Both moments are in seconds of the monotonic clock, which all processes of a machine share.
    """

    def __init__(self) -> None:
        self._committed: dict[Hashable, float] = {}
        self._arrived: dict[Hashable, float] = {}
        self._counts: Counter[int] = Counter()
        self._recent: deque[float] = deque(maxlen=RECENT_EVENTS)

    def committed(self, event: Hashable, at: float) -> float | None:
        """Note when COMMIT returned to the writer, in seconds; return the latency in ms if it is known now."""
        arrived = self._arrived.pop(event, None)
        if arrived is None:
            self._committed[event] = at
            return None
        return self._add(at, arrived)

    def arrived(self, event: Hashable, at: float) -> float | None:
        """Note when the consumer had the event, in seconds; return the latency in ms if it is known now."""
        committed = self._committed.pop(event, None)
        if committed is None:
            self._arrived[event] = at
            return None
        return self._add(committed, at)

    def percentile(self, percent: float) -> float | None:
        """Return the latency in ms that this share of all events did not exceed; None before the first event."""
        rank = ceil(self._counts.total() * percent / 100)
        for tenths in sorted(self._counts):
            rank -= self._counts[tenths]
            if rank <= 0:
                return tenths / PER_MS
        return None

    def recent(self, percent: float) -> float | None:
        """Return the latency in ms that this share of the latest events did not exceed; None before the first event."""
        if not self._recent:
            return None
        return round(sorted(self._recent)[ceil(len(self._recent) * percent / 100) - 1], 1)

    def _add(self, committed: float, arrived: float) -> float:
        # The relay may be faster than the answer to the writer's COMMIT.
        ms = max(0.0, arrived - committed) * 1000
        self._counts[round(ms * PER_MS)] += 1
        self._recent.append(ms)
        return ms
