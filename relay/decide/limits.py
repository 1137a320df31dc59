"""The limits of a topic: the size of a record batch, and the times that its records may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

LONGEST_MARGIN = 60_000
"""Maximum distance in milliseconds that a time keeps from a topic's limit. It covers the difference between the relay's
and the broker's clocks, and the time for which a batch waits in line."""

ANY_TIME = (0, 2**63 - 1)
"""The earliest and the latest time (ms) of a topic without limits. Kafka's own clients know no time before 1970."""

NO_TIME = (1, 0)
"""Bounds (ms) that exclude every time."""


class TopicLimits(NamedTuple):
    """A topic's limits as they were read; None for a limit that does not exist or cannot be known."""

    max_bytes: int | None = None
    """Maximum size of a record batch: `max.message.bytes`."""
    request_bytes: int | None = None
    """Maximum size of a request that every broker takes: `socket.request.max.bytes`."""
    before_ms: int | None = None
    """Milliseconds by which a record's time may precede the broker's clock: `message.timestamp.before.max.ms`."""
    after_ms: int | None = None
    """Milliseconds by which a record's time may follow the broker's clock: `message.timestamp.after.max.ms`."""


@dataclass(slots=True)
class TimeLimits:
    """The times (ms) that a topic's records may have, as read from Kafka and as learned from refusals."""

    before: int | None = None
    after: int | None = None

    def bounds(self, now: int) -> tuple[int, int]:
        """Return the earliest and the latest time (ms) that may be sent at `now`; other events are sent with `now`."""
        earliest, latest = ANY_TIME
        if self.before is not None:
            earliest = max(earliest, now - self.before + _margin(self.before))
        if self.after is not None:
            latest = min(latest, now + self.after - _margin(self.after))
        return earliest, latest

    def learn(self, time: int, now: int) -> None:
        """Learn that a record was refused for this time (ms)."""
        if time <= now:
            self.before = min(now - time, self.before if self.before is not None else now - time)
        else:
            self.after = min(time - now, self.after if self.after is not None else time - now)


def _margin(limit: int) -> int:
    return min(LONGEST_MARGIN, limit // 10 + 1)
