"""Takes back from aiokafka what it has queued and not sent, when it must not be sent any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaProducer


class NotSentError(KafkaError):
    """A queued batch was not sent: the lease was over, and another replica may own its lanes by now."""

    def __str__(self) -> str:
        return "the lease was over before the batch was sent"


def allow_only_while(builder: Any, allowed: Callable[[], bool]) -> None:
    """The batch that `builder` holds is sent for the first time only if `allowed` says so then."""
    builder.allowed = allowed


def refuse_unallowed(producer: AIOKafkaProducer) -> None:
    """Have `producer` ask, whenever it is about to send, and fail what was never sent and may not be (NotSentError).

    At the last moment, because a process that was stopped for longer than its lease finds Kafka's answer to the batch
    on the wire before anything else, and aiokafka would send the queued one at once. A batch that was sent and not
    answered goes on: most likely the broker has it, answers the repeat without storing it again, and the duplicate
    is known.
    """
    # There is no public way to take a batch back.
    accumulator: Any = producer._message_accumulator  # noqa: SLF001
    queues = accumulator._batches  # noqa: SLF001
    drain = accumulator.drain_by_nodes

    def drain_allowed(*arguments: Any, **options: Any) -> Any:
        for partition, queued in list(queues.items()):
            # At most one was never sent: aiokafka takes the next `send_batch` when it has drained this one.
            if queued[-1].retry_count == 0 and not queued[-1]._builder.allowed():  # noqa: SLF001
                never_sent = queued.pop()
                if not queued:
                    del queues[partition]
                never_sent.drain_ready()
                never_sent.failure(NotSentError())
        return drain(*arguments, **options)

    accumulator.drain_by_nodes = drain_allowed
