"""Which times the records of a topic may have: read beforehand, and learned when the broker refuses one."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from relay.outcome import FailureKind, PublishError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.event import PendingEvent
    from relay.stages.publish.partition import Flight
    from relay.stages.publish.producers import Producer
    from relay.stages.publish.topic import Topic

READ_ANEW = 60.0
"""Seconds for which a topic's limits are believed, while events go with another time than their own because of them."""

JUST_NOW = 10.0
"""Seconds since it was packed for which a record's time is that of its publishing. One that waited for a broker for
hours has become too old on the way."""


def now_ms() -> int:
    """The time by the relay's clock, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def bounds(topic: Topic, event: PendingEvent, producer: Producer) -> tuple[int, int]:
    """The earliest and the latest time of records to be sent now, the first of them that of `event`."""
    earliest, latest = topic.times.bounds(now_ms())
    if not earliest <= event[8] <= latest and time.monotonic() - topic.limits_read_at > READ_ANEW:
        # Nothing depends on it: the broker will say.
        with suppress(PublishError):
            topic.took(await producer.limits(topic.name), time.monotonic())
            return topic.times.bounds(now_ms())
    return earliest, latest


def learn(topic: Topic, flight: Flight, refused: Sequence[PendingEvent]) -> bool:
    """Learn from the times of events that the broker `refused` for them.

    Returns False if there is nothing to learn: they had the time of publishing, and that was just now.
    """
    earliest, latest = flight.times
    own = [event[8] for event in refused if earliest <= event[8] <= latest]
    now = now_ms()
    for each in own:
        topic.times.learn(each, now)
    return bool(own) or time.monotonic() - flight.sent_at > JUST_NOW


def clocks_differ(topic: Topic, error: PublishError) -> PublishError:
    """The topic's trouble when it does not take the time that it is."""
    return PublishError(
        FailureKind.TOPIC,
        f"topic {topic.name} does not take the time it is by the relay's clock; set the clocks of the relay's and the "
        "brokers' machines right, or raise message.timestamp.before.max.ms and message.timestamp.after.max.ms of the "
        f"topic ({error})",
        error.name,
    )
