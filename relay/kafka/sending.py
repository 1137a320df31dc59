"""Sends a producer's requests, and keeps more of the broker's answers than aiokafka's own handler passes on.

aiokafka has no public way to do this. The module replaces one method of the sender, and its handler of one request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiokafka.errors as kafka
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.structs import TopicPartition

from relay.kafka.errors import KINDS, NO_ANSWER, Answer
from relay.kafka.produce import Produce
from relay.kafka.recall import withdraw
from relay.outcome import FailureKind

if TYPE_CHECKING:
    from aiokafka import AIOKafkaProducer
    from aiokafka.protocol.produce import ProduceRequest

    from relay.kafka.closings import Closings

_CONTENT = tuple(error for error, kind in KINDS.items() if kind in (FailureKind.EVENT, FailureKind.TIME))
"""Errors about the content of a batch. The broker gives them before it appends anything."""

_BEFORE_APPENDING = frozenset(error.errno for error in _CONTENT if issubclass(error, kafka.BrokerResponseError)) - {
    # The broker may find that out when it reads what it has written.
    kafka.CorruptRecordException.errno,
} | {
    kafka.UnknownTopicOrPartitionError.errno,
    kafka.NotEnoughReplicasError.errno,
    kafka.TopicAuthorizationFailedError.errno,
    kafka.ClusterAuthorizationFailedError.errno,
    kafka.OutOfOrderSequenceNumber.errno,
    kafka.InvalidProducerEpoch.errno,
    kafka.UnsupportedForMessageFormatError.errno,
    kafka.UnsupportedVersionError.errno,
    76,  # UNSUPPORTED_COMPRESSION_TYPE
    59,  # UNKNOWN_PRODUCER_ID
    90,  # PRODUCER_FENCED
}
"""Codes with which a broker refuses a batch before it appends anything."""

_NAMES_CULPRITS_FROM = 8
"""First version of the produce response with `record_errors` (KIP-467; brokers from 2.4 on)."""


class Refusals:
    """The batches of one producer that the broker refused for their content.

    Such a refusal leaves no gap in the partition's sequence: the sequence is taken back immediately, so that the
    producer can go on. A batch that was queued behind the refused one is withdrawn in the same step, or the broker
    would take it before the refused events.
    """

    def __init__(self, producer: AIOKafkaProducer, closings: Closings) -> None:
        sender: Any = producer._sender  # noqa: SLF001
        self._queues: dict[TopicPartition, Any] = producer._message_accumulator._batches  # noqa: SLF001
        self._sequences: Any = producer._txn_manager  # noqa: SLF001
        self._refused: dict[TopicPartition, int] = {}
        self._heard: dict[TopicPartition, int] = {}

        async def send(node: int, batches: dict[TopicPartition, Any]) -> None:
            await _Handler(sender, batches, self, closings).do(node)
            sender._in_flight.remove(node)  # noqa: SLF001
            sender._muted_partitions.difference_update(batches)  # noqa: SLF001

        sender._send_produce_req = send  # noqa: SLF001

    def heard(self, where: TopicPartition) -> int:
        """Return the number of this partition's refusals that publish has been told of.

        To be read before a batch is handed over.
        """
        return self._heard.get(where, 0)

    def hear(self, where: TopicPartition) -> None:
        """Take note that publish is being told of one more refusal."""
        self._heard[where] = self._refused.get(where, 0)

    def overtakes(self, where: TopicPartition, heard: int) -> bool:
        """Return whether a batch, handed over when `heard` refusals were known, is behind one refused since."""
        return self._refused.get(where, 0) != heard

    def take_back(self, where: TopicPartition, batch: Any) -> None:
        """Take the sequence back by `batch`, of which the broker has nothing, so that the next batch continues it."""
        self._refused[where] = self._refused.get(where, 0) + 1
        self._sequences.increment_sequence_number(where, -batch.record_count)
        withdraw(self._queues, where, BehindRefusedError())


class BehindRefusedError(kafka.KafkaError):
    """A batch was not sent because the batch before it was refused, whose events have to go first."""

    answer = NO_ANSWER._replace(producer_intact=True)

    def __str__(self) -> str:
        return "the batch before it was refused"


class _Handler(SendProduceReqHandler):
    """Sends one produce request, and adds the broker's Answer to the errors that the batches' futures get."""

    _batches: dict[TopicPartition, Any]

    def __init__(self, sender: Any, batches: dict[TopicPartition, Any], refusals: Refusals, closings: Closings) -> None:
        super().__init__(sender, batches)  # type: ignore[no-untyped-call]
        self._refusals = refusals
        self._closings = closings
        self._node = -1
        self._closed = False

    def create_request(self) -> Produce:
        request: ProduceRequest = super().create_request()  # type: ignore[no-untyped-call]
        return Produce(
            transactional_id=request._transactional_id,  # noqa: SLF001
            required_acks=request.required_acks,
            timeout=request._timeout,  # noqa: SLF001
            topics=request._topics,  # noqa: SLF001
        )

    async def do(self, node_id: int) -> None:
        for batch in self._batches.values():
            batch.times_sent = batch._builder.times_sent = times_sent(batch) + 1  # noqa: SLF001
        self._node = node_id
        await super().do(node_id)  # type: ignore[no-untyped-call]

    def _can_retry(self, error: Exception, batch: Any) -> bool:
        if isinstance(error, kafka.KafkaConnectionError) and not self._closed:
            # Of each batch it is asked whether it can be sent again; the connection was closed once.
            self._closed = True
            if (fault := self._closings.closed(self._node, self._batches)) is not None:
                batch.failure(fault)
                return False
        again: bool = super()._can_retry(error, batch)  # type: ignore[no-untyped-call]
        return again

    def handle_response(self, response: Any) -> None:
        self._closings.answered(self._node)
        super().handle_response(response)  # type: ignore[no-untyped-call]
        for topic, partitions in response.topics:
            for number, code, *rest in partitions:
                where = TopicPartition(topic, number)
                if code and where in self._batches:
                    self._batches[where]._builder.refused_with = code  # noqa: SLF001
                    self._refused(where, rest[3:] if response.API_VERSION >= _NAMES_CULPRITS_FROM else ((), None))

    def _refused(self, where: TopicPartition, told: Any) -> None:
        batch = self._batches[where]
        error = batch.future.exception() if batch.future.done() else None
        if not isinstance(error, _CONTENT):
            return
        culprits, said = told
        named = {index: words for index, words in culprits or () if 0 <= index < batch.record_count}
        # Of a batch that was sent before and not answered nobody knows whether the broker has it.
        intact = times_sent(batch) == 1
        error.answer = Answer(named, said, intact)  # type: ignore[attr-defined]
        if intact:
            self._refusals.take_back(where, batch)


def times_sent(batch: Any) -> int:
    """Return how often aiokafka's batch was sent. Its own count goes up when it is taken from the queue."""
    sent: int = getattr(batch, "times_sent", 0)
    return sent


def may_be_in_kafka(builder: Any) -> bool:
    """Return whether the batch that `builder` holds, which has failed, may be in Kafka nevertheless.

    It may if it was sent and not answered, or answered after it may have been appended. That a batch which was sent
    before is refused now says nothing of the first time.
    """
    sent = times_sent(builder)
    return sent > 1 or (sent == 1 and getattr(builder, "refused_with", None) not in _BEFORE_APPENDING)
