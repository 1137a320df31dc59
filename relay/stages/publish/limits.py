"""What a topic takes: how large an event, and which times of records. Read beforehand, and learned from refusals.

A refusal would cost a search for the event at fault, so publish asks here before it sends. Each topic owns one
`Limits`. Nobody else writes what was read, or when: who has a reason to doubt it calls `forget`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from relay.decide.limits import TimeLimits, TopicLimits
from relay.outcome import FailureKind, PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.event import PendingEvent
    from relay.stages.publish.partition import Flight

SIZES_BELIEVED_FOR = 5.0
"""Seconds for which the limits are believed before an event fails for its size: somebody may just have raised them."""

TIMES_BELIEVED_FOR = 60.0
"""Seconds for which the limits are believed while events go with another time than their own because of them."""

BATCH_OVERHEAD = 256
"""Bytes that a record batch of one event may need beyond the event and its headers (batch header 61, record framing,
and the relay's own headers)."""

REQUEST_OVERHEAD = 1_024
"""Bytes that a request needs beside the record batch: the names of topic and client, and framing."""

JUST_NOW = 10.0
"""Seconds since it was packed for which a record's time is that of its publishing. One that waited for a broker for
hours has become too old on the way."""

_NEVER = float("-inf")


class LimitsPort(Protocol):
    """What limits are read from."""

    async def limits(self, topic: str) -> TopicLimits:
        """Ask Kafka what the topic takes. Raises PublishError when Kafka cannot be asked."""


class Limits:
    """The limits of one topic, as last read and as learned since."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._sizes = TopicLimits()
        self._times = TimeLimits()
        self._read_at = _NEVER
        self.added_bytes: Callable[[PendingEvent], int] = _nothing
        """Bytes by which a record is larger than its event, beside the relay's own headers."""

    @property
    def max_bytes(self) -> int | None:
        """Bytes of the largest record batch that the topic takes; None when not known."""
        return self._sizes.max_bytes

    async def read(self, port: LimitsPort) -> None:
        """Ask Kafka for the limits. Raises PublishError when it cannot be asked."""
        self.take(await port.limits(self._topic), time.monotonic())

    def take(self, limits: TopicLimits, now: float) -> None:
        """Believe `limits`, read at `now` (monotonic seconds). What was learned goes: it may have been changed."""
        self._sizes = limits
        self._times = TimeLimits(limits.before_ms, limits.after_ms)
        self._read_at = now

    def forget(self) -> None:
        """Read the limits again before an event fails for them: somebody has most likely raised one."""
        self._read_at = _NEVER

    def seem_exceeded_by(self, event: PendingEvent) -> bool:
        """Whether the event is larger than the limits as last read."""
        return self._exceeds_batch(event) or self._exceeds(event, self._sizes.request_bytes, REQUEST_OVERHEAD)

    async def read_sizes_again(self, port: LimitsPort) -> None:
        """Read the limits unless that was done just now. Raises PublishError when Kafka cannot be asked."""
        if self._older_than(SIZES_BELIEVED_FOR):
            await self.read(port)

    def too_large(self, event: PendingEvent) -> PublishError:
        """Name the limit that the event exceeds, as the error that it fails with."""
        if not self._exceeds_batch(event):
            return PublishError(
                FailureKind.EVENT,
                f"the event has {self._size_of(event)} and the brokers take {self._sizes.request_bytes or 0:,} in a "
                "request; raise their socket.request.max.bytes and replay, or discard",
                "RequestTooLarge",
            )
        return PublishError(
            FailureKind.EVENT,
            f"the event has {self._size_of(event)} and topic {self._topic} takes {self.max_bytes or 0:,} in a record "
            "batch; raise its max.message.bytes and replay, or discard",
            "EventTooLarge",
        )

    def times(self) -> tuple[int, int]:
        """The earliest and the latest time of records to be sent now, in milliseconds since 1970."""
        return self._times.bounds(now_ms())

    async def times_for(self, event: PendingEvent, port: LimitsPort) -> tuple[int, int]:
        """The earliest and the latest time of records to be sent now, the first of which is of `event`.

        If the event's own time is not within them and they are old, they are read again.
        """
        earliest, latest = self.times()
        if not earliest <= event.created_ms <= latest and self._older_than(TIMES_BELIEVED_FOR):
            # Nothing depends on it: the broker will say.
            with suppress(PublishError):
                await self.read(port)
                return self.times()
        return earliest, latest

    def learn_times(self, flight: Flight, refused: Sequence[PendingEvent]) -> bool:
        """Learn from the times of events of `flight` that the broker `refused` for them.

        Returns False if there is nothing to learn: they had the time of publishing, and that was just now.
        """
        earliest, latest = flight.times
        own = [event.created_ms for event in refused if earliest <= event.created_ms <= latest]
        now = now_ms()
        for each in own:
            self._times.learn(each, now)
        return bool(own) or time.monotonic() - flight.sent_at > JUST_NOW

    def clocks_differ(self, error: PublishError) -> PublishError:
        """Say, as the topic's trouble, that the topic does not take the time that it is."""
        return PublishError(
            FailureKind.TOPIC,
            f"topic {self._topic} does not take the current time of the relay's clock; correct the clocks of the "
            "relay's and the brokers' machines, or raise message.timestamp.before.max.ms and "
            f"message.timestamp.after.max.ms of the topic ({error})",
            error.name,
        )

    def _exceeds_batch(self, event: PendingEvent) -> bool:
        return self._exceeds(event, self.max_bytes, 0)

    def _exceeds(self, event: PendingEvent, limit: int | None, overhead: int) -> bool:
        return limit is not None and event.size + self.added_bytes(event) + BATCH_OVERHEAD + overhead > limit

    def _size_of(self, event: PendingEvent) -> str:
        added = self.added_bytes(event)
        return f"{event.size:,} bytes" + (f", up to {added:,} more as a CloudEvent," if added else "")

    def _older_than(self, seconds: float) -> bool:
        return time.monotonic() - self._read_at > seconds


def now_ms() -> int:
    """The time by the relay's clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _nothing(_event: PendingEvent) -> int:
    return 0
