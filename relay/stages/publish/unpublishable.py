"""Events that cannot be published: refused alone, too large for their topic, or for a topic that is not allowed.

`Failures` decides what becomes of them. Here those of their key that wait are taken out of the queues. An event must
never fail while something of its partition is in flight: `Failures.judge` says why.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from relay.event import EventWithOrigin
from relay.outcome import PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.event import PendingEvent
    from relay.stages.hold.failures import Failures
    from relay.stages.publish.faults import Faults
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.ports import Producer
    from relay.stages.publish.queues import Topics
    from relay.stages.publish.topic import Topic
    from relay.stages.tenure import Tenure

FAILED_AT_ONCE = 20
"""Events that fail before others have their turn: each is told, and takes those of its key out of the queue."""


class Unpublishable:
    """Has events failed, one by one."""

    def __init__(
        self,
        *,
        topics: Topics,
        failures: Failures,
        faults: Faults,
        hand_in: Callable[[list[EventWithOrigin]], None],
    ) -> None:
        self._topics = topics
        self._failures = failures
        self._faults = faults
        self._hand_in = hand_in

    def fail(
        self, tenure: Tenure, topic: Topic, partition: Partition | None, event: PendingEvent, error: PublishError
    ) -> None:
        """Have an event failed that was taken from the head of `partition`, or that may not go to its topic at all."""
        if isinstance(event, EventWithOrigin):
            event.origin.refused(event, error)
            return
        failure = self._failures.judge(tenure, event, error)
        letter = self._failures.fail(
            failure,
            behind=topic.withdraw_key(partition, event.key) if failure.verdict.blocks and event.key is not None else [],
            partition=partition.number if partition is not None else -1,
            allowed=topic.refusal is None,
        )
        if letter is not None:
            self._hand_in([letter])

    def turn_away(self, topic: Topic, events: Sequence[PendingEvent]) -> list[PendingEvent]:
        """Have events failed whose topic is not allowed, without asking Kafka; returns those that are exempt."""
        exempt: list[PendingEvent] = []
        refused: list[PendingEvent] = []
        for event in events:
            (exempt if isinstance(event, EventWithOrigin) and event.origin.exempt else refused).append(event)
        if refused and not topic.refused:
            self._faults.spawn(partial(self._fail_refused, topic))
        topic.refused.extend(refused)
        return exempt

    async def fail_too_large(self, topic: Topic, partition: Partition, producer: Producer, tenure: Tenure) -> None:
        """Have the event at the head failed, which seems too large for its topic, if the limit still holds."""
        try:
            await topic.limits.read_sizes_again(producer)
        except PublishError:
            partition.back_off()
            return
        if tenure is self._topics.tenure and partition.waiting and topic.limits.seem_exceeded_by(partition.waiting[0]):
            event = partition.pop_head()
            self.fail(tenure, topic, partition, event, topic.limits.too_large(event))

    async def _fail_refused(self, topic: Topic) -> None:
        while topic.refused and (tenure := self._topics.tenure) is not None and topic.refusal is not None:
            for _ in range(min(FAILED_AT_ONCE, len(topic.refused))):
                self.fail(tenure, topic, None, topic.refused.popleft(), topic.refusal)
                if not topic.refused:
                    break
            await asyncio.sleep(0)
