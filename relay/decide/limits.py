"""What a topic takes: how large a record batch, and which times its records may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

LONGEST_MARGIN = 60_000
"""Milliseconds by which a time stays within a topic's limit, at most: between the relay's clock and the broker's, and
until a batch that waits in line is there."""

ANY_TIME = (0, 2**63 - 1)
"""The earliest and the latest time of a topic without limits. Kafka's own clients know no time before 1970."""

NO_TIME = (1, 0)
"""Bounds that no time is within."""


class TopicLimits(NamedTuple):
    """A topic's limits as they were read; None for what is not limited, or cannot be known."""

    max_bytes: int | None = None
    """Of a record batch: `max.message.bytes`."""
    request_bytes: int | None = None
    """Of a request, by any of the brokers: `socket.request.max.bytes`."""
    before_ms: int | None = None
    """How much earlier than the broker's clock a record's time may be: `message.timestamp.before.max.ms`."""
    after_ms: int | None = None
    """How much later: `message.timestamp.after.max.ms`."""


@dataclass(slots=True)
class TimeLimits:
    """Which times the records of a topic may have, as read, and as learned from refusals. Milliseconds."""

    before: int | None = None
    after: int | None = None

    def bounds(self, now: int) -> tuple[int, int]:
        """The earliest and the latest time that may be sent at `now`; other events go with `now`."""
        earliest, latest = ANY_TIME
        if self.before is not None:
            earliest = max(earliest, now - self.before + _margin(self.before))
        if self.after is not None:
            latest = min(latest, now + self.after - _margin(self.after))
        return earliest, latest

    def learn(self, time: int, now: int) -> None:
        """A record with this time was refused for it."""
        if time <= now:
            self.before = min(now - time, self.before if self.before is not None else now - time)
        else:
            self.after = min(time - now, self.after if self.after is not None else time - now)


def _margin(limit: int) -> int:
    return min(LONGEST_MARGIN, limit // 10 + 1)
