"""Finds out how many partitions a topic has, and whether a topic in trouble works again.

Publish has a topic resolved before it routes the first event, and again when the watch sees another number of
partitions. The number changes only while the topic is idle: a key may move to another partition.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from relay.outcome import FailureKind, PublishError
from relay.stages.publish.missing import Missing

if TYPE_CHECKING:
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.producers import Keeper
    from relay.stages.publish.topic import Topic
    from relay.stages.publish.watch import Watch

IDLE_CHECK_INTERVAL = 0.05
"""Seconds between looks at whether a topic whose number of partitions changed has become idle."""

ASKED_AT_ONCE = 64
"""Maximum number of topics whose limits Kafka is asked for at a time. After a start, or when somebody has created what
was missing, there may be thousands of them."""


class Resolving:
    """Asks the main producer about topics. The events of a topic wait for the answer, those of others go on."""

    def __init__(self, main: Keeper, watch: Watch) -> None:
        self._main = main
        self._watch = watch
        self._looking_up: set[str] = set()
        self._asking = asyncio.Semaphore(ASKED_AT_ONCE)
        self._missing = Missing(main)

    async def resolve(self, topic: Topic) -> list[Partition]:
        """Try until it is known how many partitions the topic has; return those that are new."""
        backoff = topic.new_backoff()
        while True:
            producer = await self._main.ready()
            try:
                count = await producer.partition_count(topic.name)
                async with self._asking:
                    await topic.limits.read(producer)
            except PublishError as error:
                missing = error.kind is not FailureKind.CLUSTER
                if missing:
                    self._watch.refused(topic, error)
                # Immediately, or the next question is about this topic as well.
                producer.forget_topic(topic.name)
                delay = backoff.next_delay()
                await (self._missing.wait(topic.name, delay) if missing else asyncio.sleep(delay))
                continue
            # Even if nothing lands, this ends: what waits is held back when the topic is paused or the tenure ends.
            while not topic.idle:  # noqa: ASYNC110
                await asyncio.sleep(IDLE_CHECK_INTERVAL)
            new = topic.resolved(count)
            self._watch.resolved(topic)
            return new

    async def look_up(self, topic: Topic) -> None:
        """Have the main producer, if there is one, read the topic's partitions and their leaders again."""
        producer = self._main.current
        if producer is None or topic.name in self._looking_up:
            return
        self._looking_up.add(topic.name)
        try:
            with suppress(PublishError):
                await producer.refresh_topic(topic.name)
        finally:
            self._looking_up.discard(topic.name)
