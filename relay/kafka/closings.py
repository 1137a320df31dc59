"""Finds requests that are too large: the broker, or a gateway before it, closes the connection without an answer.

Kafka does so above `socket.request.max.bytes`. aiokafka sends such a request again for ever, together with everything
that waits for that broker: one event stopped every topic, and looked like an outage.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from relay.outcome import FailureKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiokafka import AIOKafkaProducer
    from aiokafka.structs import TopicPartition

SUSPICIOUS = 2
"""Number of closed requests in a row, each with several batches, after which each batch is sent alone."""

CLOSED_ALONE = 5
"""Number of closed requests with one batch alone after which the batch is at fault, if the broker has answered other
batches since. A bad network closes some connections, but not only those of one batch."""

CLOSED_UNEXPLAINED = 8
"""Number of closed requests with one batch alone after which the batch is suspected, if the broker has answered nothing
else: perhaps nothing else was sent, or the broker is at fault."""

REQUEST_OVERHEAD = 4_096
"""Bytes of a request beyond its batches: the names of topics and of the client, rounded up."""

_answers: Counter[tuple[str, int]] = Counter()
"""Number of produce requests of this process that each broker has answered, by the broker's address. It counts for all
producers: a suspect batch goes through another producer than the batches that show that the broker works."""


class RequestTooLargeError(KafkaError):
    """The connection is closed whenever this batch is sent, and the broker answers other batches."""

    kind = FailureKind.EVENT

    others = "answers other batches"

    def __init__(self, size: int) -> None:
        super().__init__(
            f"the broker closes the connection without an answer whenever a record batch of {size:,} bytes is sent, "
            f"and {self.others}; raise the broker's socket.request.max.bytes or the limit of the gateway in front of "
            "it, or make the event smaller"
        )


class ClosedWithoutAWordError(RequestTooLargeError):
    """The connection is closed whenever this batch is sent, and no other batch shows whether the broker works."""

    kind = FailureKind.TOPIC
    others = "no other batch was sent that would show whether the broker takes any"


class Closings:
    """The closed connections of one producer, and the batches that are suspected for them."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        accumulator: Any = producer._message_accumulator  # noqa: SLF001
        self._cluster: Any = producer.client.cluster
        self._queues: dict[TopicPartition, Any] = accumulator._batches  # noqa: SLF001
        self._in_a_row: Counter[int] = Counter()
        self._one_by_one: set[int] = set()
        self.request_bytes: int | None = None
        """Maximum bytes of a request that the brokers take; None if it is unknown."""
        drain = accumulator.drain_by_nodes

        def drain_some(ignore_nodes: Iterable[int], muted_partitions: Iterable[TopicPartition] = ()) -> Any:
            if self._one_by_one or self.request_bytes is not None:
                muted_partitions = {*muted_partitions, *self._surplus(set(ignore_nodes), set(muted_partitions))}
            return drain(ignore_nodes=ignore_nodes, muted_partitions=muted_partitions)

        accumulator.drain_by_nodes = drain_some

    def answered(self, node: int) -> None:
        """Take note that the broker answered a produce request."""
        if (address := self._address(node)) is not None:
            _answers[address] += 1
        self._in_a_row.pop(node, None)
        if self._one_by_one and not any(_closed_alone(queued[0]) for queued in self._queues.values() if queued):
            self._one_by_one.clear()

    def closed(self, node: int, batches: dict[TopicPartition, Any]) -> RequestTooLargeError | None:
        """Take note that a request with these batches was closed without an answer; return what is wrong with them."""
        self._in_a_row[node] += 1
        if len(batches) > 1:
            if self._in_a_row[node] >= SUSPICIOUS:
                self._one_by_one.add(node)
            return None
        (batch,) = batches.values()
        answers = _answers[address] if (address := self._address(node)) is not None else 0
        if not _closed_alone(batch):
            batch.answers_before = answers
        batch.closed_alone = _closed_alone(batch) + 1
        self._one_by_one.add(node)
        if batch.closed_alone >= CLOSED_ALONE and answers > batch.answers_before:
            return RequestTooLargeError(_size(batch))
        if batch.closed_alone >= CLOSED_UNEXPLAINED:
            return ClosedWithoutAWordError(_size(batch))
        return None

    def _address(self, node: int) -> tuple[str, int] | None:
        broker = self._cluster.broker_metadata(node)
        return (broker.host, broker.port) if broker is not None else None

    def _surplus(self, ignored: set[int], muted: set[TopicPartition]) -> set[TopicPartition]:
        """Return the partitions whose next batch must not go into the next request to its broker."""
        waiting: dict[int, list[TopicPartition]] = {}
        for where in self._queues:
            leader = self._cluster.leader_for_partition(where)
            if where not in muted and leader not in ignored and leader not in (None, -1):
                waiting.setdefault(leader, []).append(where)
        surplus: set[TopicPartition] = set()
        for node, partitions in waiting.items():
            # Least suspected first: the others must not wait for one that never goes through.
            partitions.sort(key=lambda where: _closed_alone(self._queues[where][0]))
            size = REQUEST_OVERHEAD
            for number, where in enumerate(partitions):
                size += _size(self._queues[where][0])
                too_much = self.request_bytes is not None and size > self.request_bytes
                if number and (too_much or node in self._one_by_one):
                    surplus.add(where)
        return surplus


def _closed_alone(batch: Any) -> int:
    times: int = getattr(batch, "closed_alone", 0)
    return times


def _size(batch: Any) -> int:
    size: int = batch._builder.size()  # noqa: SLF001
    return size
