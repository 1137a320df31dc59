"""Whether an event fits its topic, known before it is sent: a refusal would cost a search for the culprit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from relay.outcome import FailureKind, PublishError

if TYPE_CHECKING:
    from relay.event import PendingEvent
    from relay.stages.publish.producers import Producer
    from relay.stages.publish.topic import Topic

CHECKED_ANEW = 5.0
"""Seconds for which a topic's limit is believed before an event is failed for it: somebody may just have raised it."""

BATCH_OVERHEAD = 256
"""Bytes that a record batch of one event may need beyond the event and its headers (batch header 61, record framing,
and the relay's own headers)."""

REQUEST_OVERHEAD = 1_024
"""Bytes that a request needs beside the record batch: the names of topic and client, and framing."""


def seems_too_large(topic: Topic, event: PendingEvent) -> bool:
    """Whether the event exceeds the limit as last read."""
    return _exceeds(event, topic.max_bytes) or _exceeds(event, topic.request_bytes, REQUEST_OVERHEAD)


async def read_limit(topic: Topic, producer: Producer) -> None:
    """Read the topic's limit unless that was done just now. Raises PublishError when Kafka cannot be asked."""
    if time.monotonic() - topic.limits_read_at > CHECKED_ANEW:
        topic.took(await producer.limits(topic.name), time.monotonic())


def too_large(topic: Topic, event: PendingEvent) -> PublishError:
    """The error for an event that does not fit."""
    if not _exceeds(event, topic.max_bytes):
        return PublishError(
            FailureKind.EVENT,
            f"the event has {event[9]:,} bytes and the brokers take {topic.request_bytes or 0:,} in a request; raise "
            "their socket.request.max.bytes and replay, or discard",
            "RequestTooLarge",
        )
    return PublishError(
        FailureKind.EVENT,
        f"the event has {event[9]:,} bytes and topic {topic.name} takes {topic.max_bytes or 0:,} in a record batch; "
        "raise its max.message.bytes and replay, or discard",
        "EventTooLarge",
    )


def _exceeds(event: PendingEvent, limit: int | None, overhead: int = 0) -> bool:
    return limit is not None and event[9] + BATCH_OVERHEAD + overhead > limit
