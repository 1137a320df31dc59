"""Requests for which the broker, or a gateway before it, closes the connection without a word: they are too large.

Kafka does so above `socket.request.max.bytes`. aiokafka sends the same again for ever, together with all that waits for
that broker: one event stopped every topic, and looked like an outage.
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
"""Requests in a row with several batches whose connection was closed; then each batch goes alone."""

CLOSED_ALONE = 5
"""Requests with a batch alone whose connection was closed, after which it is at fault, if the broker has answered
others meanwhile. An unlucky network closes some, not these and no others."""

CLOSED_UNEXPLAINED = 8
"""The same if the broker has answered nothing else, perhaps because nothing else was sent: it may be the broker."""

REQUEST_OVERHEAD = 4_096
"""Bytes of a request beside its batches: the names of topics and of the client, rounded up."""

_answers: Counter[tuple[str, int]] = Counter()
"""Produce requests that each broker has answered, by its address, whichever producer of this process had sent them:
what is suspected goes through another one than what shows that the broker works."""


class RequestTooLargeError(KafkaError):
    """The connection is closed whenever this batch is sent, and others are answered."""

    kind = FailureKind.EVENT

    others = "answers other batches"

    def __init__(self, size: int) -> None:
        super().__init__(
            f"the broker closes the connection without an answer whenever a record batch of {size:,} bytes is sent, "
            f"and {self.others}; raise the broker's socket.request.max.bytes or the limit of the gateway in front of "
            "it, or make the event smaller"
        )


class ClosedWithoutAWordError(RequestTooLargeError):
    """The same, but nothing else was sent that could show that the broker works."""

    kind = FailureKind.TOPIC
    others = "no other batch was sent that would show whether the broker takes any"


class Closings:
    """What is known of closed connections, of one producer."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        accumulator: Any = producer._message_accumulator  # noqa: SLF001
        self._cluster: Any = producer.client.cluster
        self._queues: dict[TopicPartition, Any] = accumulator._batches  # noqa: SLF001
        self._in_a_row: Counter[int] = Counter()
        self._one_by_one: set[int] = set()
        self.request_bytes: int | None = None
        """What the brokers take in a request; None when that is not known."""
        drain = accumulator.drain_by_nodes

        def drain_some(ignore_nodes: Iterable[int], muted_partitions: Iterable[TopicPartition] = ()) -> Any:
            if self._one_by_one or self.request_bytes is not None:
                muted_partitions = {*muted_partitions, *self._surplus(set(ignore_nodes), set(muted_partitions))}
            return drain(ignore_nodes=ignore_nodes, muted_partitions=muted_partitions)

        accumulator.drain_by_nodes = drain_some

    def answered(self, node: int) -> None:
        """The broker answered a produce request."""
        if (address := self._address(node)) is not None:
            _answers[address] += 1
        self._in_a_row.pop(node, None)
        if self._one_by_one and not any(_closed_alone(queued[0]) for queued in self._queues.values() if queued):
            self._one_by_one.clear()

    def closed(self, node: int, batches: dict[TopicPartition, Any]) -> RequestTooLargeError | None:
        """The connection was closed before a request with these was answered; what is wrong with them, if anything."""
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
        """The partitions whose next batch is not for the next request to its broker."""
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
