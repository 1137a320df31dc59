"""What publish does about events that Kafka does not take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.event import EventWithOrigin

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.event import PendingEvent
    from relay.outcome import PublishError
    from relay.stages.hold.failures import Failures
    from relay.stages.publish.partition import Partition
    from relay.stages.publish.topic import Topic
    from relay.stages.tenure import Tenure


class Refusals:
    """Has refused events failed, and takes what is held back behind them out of the queues."""

    def __init__(self, failures: Failures, hand_in: Callable[[list[EventWithOrigin]], None]) -> None:
        self._failures = failures
        self._hand_in = hand_in

    def fail(
        self, tenure: Tenure, topic: Topic, partition: Partition | None, event: PendingEvent, error: PublishError
    ) -> None:
        """Have an event failed that was taken from its queue: of `partition`, or of the topic if none may go there.

        Only when nothing of the partition is in flight: `Failures.judge` says why.
        """
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
