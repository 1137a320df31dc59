"""A replay of delivered events: what it is asked to do, how fast it may go, and the progress of each lane."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Any

from relay.decide.reach import Reach
from relay.headers import REPLAY, REPLAY_GROUP, REPLAY_TOPIC
from relay.keys import LANES, key_bytes
from relay.names import is_topic

if TYPE_CHECKING:
    from collections.abc import Iterable

BURST = 0.25
"""Maximum burst of a replay with a rate, in seconds of the rate."""

MOST_EVENTS = 256
"""Maximum number of a lane's events under way: enough for some 10,000 events/s from a replica's only lane. A live event
behind them waits for some milliseconds."""

PART = 4
"""Maximum part of the buffer's room, and of one second of a limited rate, that replayed events under way may take."""


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """A row of `outbox.action` that asks for delivered events to be published again, with its progress."""

    action: int
    topic: str
    key: bytes | None
    since: datetime
    until: datetime
    """Events delivered from `since` to `until`, by PostgreSQL's clock. `until` is never after the request, so that the
    replay ends."""
    rate: float
    """Maximum events per second of all replicas together; 0 = no limit."""
    last_id: int
    """Highest id that the request covers."""
    positions: dict[int, int]
    """By lane: all covered events up to this id are done."""
    to_topic: str | None = None
    """The topic to publish the events to, if it is not their own."""
    group: str | None = None
    """The consumer group that the events are meant for; None: everybody."""

    @property
    def target(self) -> str:
        """The topic that the events are published to."""
        return self.to_topic or self.topic

    @property
    def headers(self) -> dict[str, str]:
        """The headers that each of the events gets beside its own."""
        told = {
            REPLAY: str(self.action),
            REPLAY_TOPIC: None if self.to_topic is None else self.topic,
            REPLAY_GROUP: self.group,
        }
        return {name: value for name, value in told.items() if value is not None}

    @classmethod
    def parse(cls, action: int, filter_: str, progress: str, requested_at: datetime) -> ReplayRequest:
        """Read the JSON of a row. Raises ValueError if it is not a replay: somebody wrote the row by hand.

        One for another topic or for a group has `from_topic` in place of `topic`, which programs that know of neither
        refuse: they would publish it to everybody.
        """
        try:
            wanted: dict[str, Any] = json.loads(filter_)
            reached: dict[str, Any] = json.loads(progress)
            key, to_topic, group = wanted.get("key"), wanted.get("to_topic"), wanted.get("group")
            return cls(
                action,
                str(wanted["topic"] if to_topic is None and group is None else wanted["from_topic"]),
                None if key is None else key_bytes(str(key)),
                _time(wanted["since"]),
                min(_time(wanted["until"]), requested_at),
                _rate(wanted.get("rate")),
                _id(reached["last_id"]),
                {lane: _id(reached["lanes"][str(lane)]) for lane in range(LANES)},
                None if to_topic is None else _topic(to_topic),
                None if group is None else str(group),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a replay of delivered events: {type(error).__name__} {error}") from error

    def open_lanes(self) -> set[int]:
        """Return the lanes that are not done, whoever owns them."""
        return {lane for lane, position in self.positions.items() if position < self.last_id}


def reach_under_way(
    *, lanes: int, max_events: int, max_bytes: int, events_per_second: float, bytes_per_second: float
) -> Reach:
    """What may be under way in one of `lanes` lanes: a part of the buffer, and of what the relay may send in a second.

    A rate of 0 is no limit. Live events queue behind what is under way.
    """
    parts = max(1, lanes) * PART
    events = [MOST_EVENTS, max_events / parts, *([events_per_second / parts] if events_per_second else [])]
    size = [max_bytes / parts, *([bytes_per_second / parts] if bytes_per_second else [])]
    return Reach(max(1, int(min(events))), max(1, int(min(size))))


@dataclass(slots=True)
class Allowance:
    """How many events a replay may send now: a token bucket, because a replay goes on in small portions."""

    rate: float
    """Maximum events per second of all replicas; 0 = no limit."""
    share: float = 1.0
    """This replica's part of the rate, from 0 to 1."""
    _tokens: float = 0.0
    _filled_at: float | None = None

    def available(self, now: float) -> int | None:
        """Return the number of events that may be sent at `now` (monotonic seconds); None for any number."""
        if not self.rate:
            return None
        rate = self.rate * self.share
        if self._filled_at is not None:
            self._tokens = min(max(1.0, rate * BURST), self._tokens + rate * (now - self._filled_at))
        self._filled_at = now
        return int(self._tokens)

    def spend(self, events: int) -> None:
        """Take note that `events` events are being sent."""
        self._tokens -= events

    def delay(self) -> float:
        """Return the seconds after which to ask again when no event may be sent."""
        rate = self.rate * self.share
        return (max(1.0, rate * BURST / 4) - self._tokens) / rate if rate else 0.0


@dataclass(slots=True)
class Progress:
    """The progress of one replay in one lane: which events were read, and which of these are not settled yet."""

    last_id: int
    cursor: int
    """All covered events up to this id were read, and are settled or under way."""
    under_way: dict[int, int] = field(default_factory=dict)
    """Sizes in bytes of the events that have no receipt of this replay yet, by id."""

    @property
    def position(self) -> int:
        """The highest id up to which all covered events are settled."""
        return min([self.cursor, *(id_ - 1 for id_ in self.under_way)])

    @property
    def bytes(self) -> int:
        """The size in bytes of the events under way."""
        return sum(self.under_way.values())

    @property
    def done(self) -> bool:
        """Whether no event is left to read; some may still be under way."""
        return self.cursor >= self.last_id

    def began(self, id_: int, size: int) -> None:
        """Take note that an event was handed in."""
        self.under_way[id_] = size
        self.cursor = max(self.cursor, id_)

    def read_to(self, id_: int) -> None:
        """Take note that no further event up to this id will be handed in."""
        self.cursor = max(self.cursor, id_)

    def settled(self, ids: Iterable[int]) -> None:
        """Take note that the receipts of these events are committed."""
        for id_ in ids:
            self.under_way.pop(id_, None)

    def returned(self, id_: int) -> None:
        """Take note that an event was taken out of its queue before Kafka got it.

        The event is read again, with the events above it that are not under way. Order holds per key: events behind it
        in the queue were taken out too, or are of other keys.
        """
        if self.under_way.pop(id_, None) is not None:
            self.cursor = min(self.cursor, id_ - 1)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    # Near the first and the last year another zone's time may be no date.
    return time.astimezone(UTC)


def _topic(value: object) -> str:
    if not is_topic(str(value)):
        raise ValueError(f"{value!r} is not a topic name")
    return str(value)


def _rate(value: object) -> float:
    rate = float(value or 0)  # type: ignore[arg-type]
    if not isfinite(rate):
        raise ValueError(f"{value!r} is not a rate")
    return max(0.0, rate)


def _id(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is not an id")
    return value
