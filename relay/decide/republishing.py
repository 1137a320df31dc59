"""What a replay of delivered events is asked to do, how fast it may go, and how far a lane is with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from relay.decide.shares import LANES

if TYPE_CHECKING:
    from collections.abc import Iterable

HEX = "hex:"
"""Begins a key that is written as hexadecimal digits, because it is no readable text."""

BURST = 0.25
"""Seconds' worth of a replay's rate that may go at once."""

MOST_EVENTS = 256
"""Events of a lane under way, at most: enough for some 10,000 events/s from a replica's only lane, and a wait of some
milliseconds for a live event that comes behind them."""

PART = 4
"""At most this part of the buffer's room, and of one second's worth of a limited rate, is under way."""


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A row of `outbox.action` that asks for delivered events to be published again, and how far it is."""

    action: int
    topic: str
    key: bytes | None
    since: datetime
    until: datetime
    """Delivered from `since` to `until`, by PostgreSQL's clock; never after the request, so that it ends."""
    rate: float
    """Events per second, of all replicas together; 0: no limit."""
    last_id: int
    """No event above it is meant."""
    positions: dict[int, int]
    """Per lane: everything that is meant up to this id is done."""

    @classmethod
    def parse(cls, action: int, filter_: str, progress: str, requested_at: datetime) -> ReplayRequest:
        """Read the JSON of a row. Raises ValueError for one that was not written by this program, and is none."""
        try:
            wanted: dict[str, Any] = json.loads(filter_)
            reached: dict[str, Any] = json.loads(progress)
            key = wanted.get("key")
            return cls(
                action,
                str(wanted["topic"]),
                None if key is None else key_bytes(str(key)),
                _time(wanted["since"]),
                min(_time(wanted["until"]), requested_at),
                _rate(wanted.get("rate")),
                _id(reached["last_id"]),
                {lane: _id(reached["lanes"][str(lane)]) for lane in range(LANES)},
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a replay of delivered events: {type(error).__name__} {error}") from error

    def open_lanes(self) -> set[int]:
        """Lanes that have something left to do, whoever owns them."""
        return {lane for lane, position in self.positions.items() if position < self.last_id}


def key_bytes(text: str) -> bytes:
    """The key that is written as `text`. Raises ValueError for hexadecimal digits that are none."""
    return bytes.fromhex(text.removeprefix(HEX)) if text.startswith(HEX) else text.encode()


class Limits(NamedTuple):
    """What may be under way in one lane."""

    events: int
    bytes: int

    @classmethod
    def of(
        cls, lanes: int, max_events: int, max_bytes: int, events_per_second: float, bytes_per_second: float
    ) -> Limits:
        """For each of so many `lanes`, a part of the buffer and of what the relay may send in a second (0: any number).

        Live events queue behind it.
        """
        parts = max(1, lanes) * PART
        events = [MOST_EVENTS, max_events / parts, *([events_per_second / parts] if events_per_second else [])]
        size = [max_bytes / parts, *([bytes_per_second / parts] if bytes_per_second else [])]
        return cls(max(1, int(min(events))), max(1, int(min(size))))


@dataclass(slots=True)
class Allowance:
    """How many events may go now: a token bucket, because a replay goes on in small portions."""

    rate: float
    """Events per second; 0: no limit."""
    share: float = 1.0
    """This replica's part of it."""
    _tokens: float = 0.0
    _filled_at: float | None = None

    def available(self, now: float) -> int | None:
        """Events that may go at `now`, monotonic seconds; None: any number."""
        if not self.rate:
            return None
        rate = self.rate * self.share
        if self._filled_at is not None:
            self._tokens = min(max(1.0, rate * BURST), self._tokens + rate * (now - self._filled_at))
        self._filled_at = now
        return int(self._tokens)

    def spend(self, events: int) -> None:
        """These are going."""
        self._tokens -= events

    def delay(self) -> float:
        """Seconds until it is worth asking again, when nothing is available."""
        rate = self.rate * self.share
        return (max(1.0, rate * BURST / 4) - self._tokens) / rate if rate else 0.0


@dataclass(slots=True)
class Progress:
    """How far one lane is with one replay: what was read, and what of it is not settled yet."""

    last_id: int
    cursor: int
    """Everything that is meant up to this id was read, and is settled or under way."""
    under_way: dict[int, int] = field(default_factory=dict)
    """Ids that have no receipt of this replay yet, with their sizes in bytes."""

    @property
    def position(self) -> int:
        """Everything that is meant up to this id is settled."""
        return min([self.cursor, *(id_ - 1 for id_ in self.under_way)])

    @property
    def bytes(self) -> int:
        """What is under way occupies so much."""
        return sum(self.under_way.values())

    @property
    def done(self) -> bool:
        """Whether there is nothing left to read; some of it may still be under way."""
        return self.cursor >= self.last_id

    def began(self, id_: int, size: int) -> None:
        """An event was handed in."""
        self.under_way[id_] = size
        self.cursor = max(self.cursor, id_)

    def read_to(self, id_: int) -> None:
        """There is nothing more to hand in up to this id."""
        self.cursor = max(self.cursor, id_)

    def settled(self, ids: Iterable[int]) -> None:
        """Their receipts are committed."""
        for id_ in ids:
            self.under_way.pop(id_, None)

    def returned(self, id_: int) -> None:
        """An event was taken out of its queue before Kafka got it: it is read again, with those above that are not
        under way. Order holds per key: what stood behind it in the queue was taken out too, or is of another key."""
        if self.under_way.pop(id_, None) is not None:
            self.cursor = min(self.cursor, id_ - 1)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    # Near the first and the last year another zone's time may be no date.
    return time.astimezone(UTC)


def _rate(value: object) -> float:
    rate = float(value or 0)  # type: ignore[arg-type]
    if not isfinite(rate):
        raise ValueError(f"{value!r} is not a rate")
    return max(0.0, rate)


def _id(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is not an id")
    return value
