"""Takes batches back from aiokafka that it has queued and not sent, when they must not be sent any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaProducer
    from aiokafka.structs import TopicPartition


class NotSentError(KafkaError):
    """A queued batch was not sent: the lease was over, and another replica may own its lanes by now."""

    def __str__(self) -> str:
        return "the lease was over before the batch was sent"


def allow_unless(builder: Any, why_not: Callable[[], KafkaError | None]) -> None:
    """Send the batch that `builder` holds for the first time only if `why_not` returns no reason against it then."""
    builder.why_not = why_not


def withdraw(queues: dict[TopicPartition, Any], partition: TopicPartition, error: KafkaError) -> None:
    """Fail the batch at the end of the partition's queue if it was never sent: there is at most one such batch.

    aiokafka takes the next `send_batch` when it has drained this one.
    """
    queued = queues.get(partition)
    if queued and queued[-1].retry_count == 0:
        never_sent = queued.pop()
        if not queued:
            del queues[partition]
        never_sent.drain_ready()
        never_sent.failure(error)


def refuse_unallowed(producer: AIOKafkaProducer) -> None:
    """Make `producer` check each batch right before its first sending, and fail the batches that may not be sent.

    The check has to come at the last moment: a process that was stopped for longer than its lease finds Kafka's answer
    to the batch on the wire before anything else, and aiokafka would then send the queued batch immediately. A batch
    that was sent and not answered is sent again: most likely the broker has it and answers the repeat without storing
    it again, and the duplicate is known.
    """
    # There is no public way to take a batch back.
    accumulator: Any = producer._message_accumulator  # noqa: SLF001
    queues = accumulator._batches  # noqa: SLF001
    drain = accumulator.drain_by_nodes

    def drain_allowed(*arguments: Any, **options: Any) -> Any:
        for partition, queued in list(queues.items()):
            if queued[-1].retry_count == 0 and (error := queued[-1]._builder.why_not()):  # noqa: SLF001
                withdraw(queues, partition, error)
        return drain(*arguments, **options)

    accumulator.drain_by_nodes = drain_allowed
