"""Limits on the rate of single topics: which topic has one, when its next batch may go, and how much may wait for that.

A limited topic must not slow others. What waits for it in memory is bounded by what it may send in some seconds; what
comes beyond that is held in PostgreSQL, as for a paused topic, until half of it has gone. No I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

BURST = 0.1
"""Seconds by which sending may be ahead of the rate: several partitions send at the same time."""

WAIT_SECONDS = 2.0
"""Seconds of its rate for which events of a limited topic may wait in memory: a stop or a hand-over waits for them."""

PART = 4
"""A limited topic may take one part in so many of the buffer, at most."""

NO_LIMIT = 1 << 62


class Rate(NamedTuple):
    """How much of a topic one replica may publish per second; 0 = no limit."""

    events: float = 0.0
    bytes: float = 0.0

    def __str__(self) -> str:
        """As people write it."""
        parts = [f"{self.events:g}/s"] if self.events else []
        if self.bytes:
            size, unit = (self.bytes / 1_000_000, "MB") if self.bytes >= 1_000_000 else (self.bytes / 1_000, "kB")
            parts.append(f"{size:g}{unit}/s")
        return " and ".join(parts)


@dataclass(slots=True)
class Pace:
    """A topic's virtual clock (GCRA), and the bounds on what waits for it in memory. `now` is monotonic seconds."""

    rate: Rate
    max_events: int
    """Number of events that may wait."""
    max_bytes: int
    _due: float = 0.0

    @property
    def most_per_batch(self) -> int:
        """The maximum number of events in a record batch: one that takes minutes of the rate would come as a flood."""
        return max(1, int(self.rate.events * BURST)) if self.rate.events else NO_LIMIT

    def delay(self, now: float) -> float:
        """Return the seconds until the next batch may be sent; 0 if it may now."""
        wait = self._due - now
        return wait if wait > BURST else 0.0

    def charge(self, events: int, size: int, now: float) -> None:
        """Take note that so many events of together `size` bytes are being sent."""
        cost = events / self.rate.events if self.rate.events else 0.0
        if self.rate.bytes:
            cost = max(cost, size / self.rate.bytes)
        self._due = max(now, self._due) + cost

    def fitting(self, sizes: Sequence[int], waiting: int, waiting_bytes: int) -> int:
        """Return how many of the next events, of these sizes, may wait in memory beside those that do."""
        room, room_bytes = self.max_events - waiting, self.max_bytes - waiting_bytes
        fit = 0
        for size in sizes[: max(0, room)]:
            # One alone may be larger than all that may wait.
            if size > room_bytes and (waiting or fit):
                break
            fit += 1
            room_bytes -= size
        return fit

    def has_room_again(self, waiting: int, waiting_bytes: int) -> bool:
        """Whether half of what may wait has gone: less is not worth a pass over held events."""
        return waiting * 2 <= self.max_events and waiting_bytes * 2 <= self.max_bytes


@dataclass(frozen=True, slots=True)
class Rates:
    """The limits by shell-style patterns of topics such as `orders.*`; the first match counts, of each kind."""

    limits: Sequence[tuple[str, Rate]] = ()
    max_events: int = NO_LIMIT
    """Of the buffer."""
    max_bytes: int = NO_LIMIT

    def __bool__(self) -> bool:
        return bool(self.limits)

    def pace_of(self, topic: str) -> Pace | None:
        """Return a new pace for the topic; None if it has no limit."""
        found = [rate for pattern, rate in self.limits if fnmatchcase(topic, pattern)]
        events = next((rate.events for rate in found if rate.events), 0.0)
        size = next((rate.bytes for rate in found if rate.bytes), 0.0)
        if not events and not size:
            return None
        most, most_bytes = max(1, self.max_events // PART), max(1, self.max_bytes // PART)
        if events:
            most = min(most, max(1, int(events * WAIT_SECONDS)))
        if size:
            most_bytes = min(most_bytes, max(1, int(size * WAIT_SECONDS)))
        return Pace(Rate(events, size), most, most_bytes)
