"""Every error that publishing with aiokafka can meet, and what it is about: the cluster, a topic or an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import aiokafka.errors as kafka

from relay.kafka.closings import RequestTooLargeError
from relay.kafka.codes import add_codes
from relay.kafka.options import FileError
from relay.kafka.tokens.token import TokenError
from relay.outcome import FailureKind, PublishError, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLUSTER, _TOPIC, _EVENT, _TIME, _UNKNOWN = (
    FailureKind.CLUSTER,
    FailureKind.TOPIC,
    FailureKind.EVENT,
    FailureKind.TIME,
    FailureKind.UNKNOWN,
)


class InvalidRecordError(kafka.BrokerResponseError):
    """The topic does not take such a record: for example a record without a key, in a compacted topic."""

    errno = 87
    message = "INVALID_RECORD"
    description = "This record has failed the validation on the broker."


# A code that aiokafka 0.14 does not know would be an "unknown" error, and tried again for many minutes.
kafka.kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)
add_codes()

# aiokafka's own `.retriable` is no safe guide: KafkaTimeoutError and BrokerNotAvailableError do not have it.
KINDS: dict[type[BaseException], FailureKind] = {
    kafka.TopicAuthorizationFailedError: _TOPIC,
    kafka.UnknownTopicOrPartitionError: _TOPIC,
    kafka.NotEnoughReplicasError: _TOPIC,
    kafka.NotEnoughReplicasAfterAppendError: _TOPIC,
    kafka.MessageSizeTooLargeError: _EVENT,
    kafka.RecordListTooLargeError: _EVENT,
    kafka.RecordTooLargeError: _EVENT,
    kafka.InvalidMessageError: _EVENT,
    kafka.InvalidTimestampError: _TIME,
    InvalidRecordError: _EVENT,
    kafka.InvalidTopicError: _EVENT,
    kafka.PolicyViolationError: _EVENT,
    kafka.UnsupportedForMessageFormatError: _EVENT,
    # Damaged on its way, or really unreadable: the broker does not say which.
    kafka.CorruptRecordException: _UNKNOWN,
    kafka.UnknownError: _UNKNOWN,
}
"""Errors that are not in this table are about the cluster: waiting too often is safe, failing an event for an outage is
not."""

# aiokafka would retry this one in silence for ever, and make the broker's other partitions wait for each try. While
# nothing else is acknowledged, because what waits for this topic has taken all the room, nobody could tell it from an
# outage of Kafka. Nothing was appended, so it may as well be said. (After NotEnoughReplicasAfterAppendError it was:
# aiokafka tries that batch once more, and hears this.)
kafka.NotEnoughReplicasError.retriable = False

_ADVICE: dict[type[BaseException], str] = {
    kafka.TopicAuthorizationFailedError: "grant the relay WRITE and DESCRIBE on the topic",
    kafka.UnknownTopicOrPartitionError: "create the topic",
    kafka.NotEnoughReplicasError: "bring its brokers back, or lower the topic's min.insync.replicas",
    kafka.MessageSizeTooLargeError: "raise max.message.bytes of the topic, or make the event smaller",
    kafka.RecordListTooLargeError: "raise max.message.bytes of the topic, or make the event smaller",
    InvalidRecordError: "a topic with cleanup.policy=compact does not take an event without a key",
    kafka.ClusterAuthorizationFailedError: "grant the relay IDEMPOTENT_WRITE on the cluster, or WRITE on a topic",
}


class Answer(NamedTuple):
    """The broker's words about a batch that it refused, beyond the error's code."""

    culprits: Mapping[int, str | None]
    """The records at fault by their positions in the batch, with the broker's words for each."""
    said: str | None
    """The broker's words for the batch as a whole."""
    producer_intact: bool
    """Whether the producer's sequence has no gap."""


NO_ANSWER = Answer({}, None, producer_intact=False)


def refused(error: BaseException, *, unknown: bool) -> Refused:
    """Return the outcome of a batch with this error, including the Answer that `relay.kafka.sending` has attached.

    `unknown` is whether the batch may be in Kafka nevertheless.
    """
    answer: Answer = getattr(error, "answer", NO_ANSWER)
    return Refused(
        translate(error, answer.said),
        {position: translate(error, words or answer.said) for position, words in answer.culprits.items()},
        answer.producer_intact,
        unknown,
    )


def translate(error: BaseException, said: str | None = None) -> PublishError:
    """Return the relay's error for an error of aiokafka or of the network; `said` are the broker's own words.

    To be raised `from` that error.
    """
    if isinstance(error, RequestTooLargeError):
        return PublishError(error.kind, error.args[0], type(error).__name__)
    if isinstance(error, (FileError, TokenError)):
        # Ours, and a sentence already.
        return PublishError(_CLUSTER, str(error), type(error).__name__)
    kind = _CLUSTER
    for base in type(error).__mro__:
        if base in KINDS:
            kind = KINDS[base]
            break
    else:
        if not isinstance(error, (kafka.KafkaError, OSError, TimeoutError, kafka.IllegalOperation)):
            kind = _UNKNOWN
    text = str(error).strip()
    name = type(error).__name__
    message = text if name in text else f"{name}: {text}" if text else name
    if said:
        message = f"{message}: {said.strip().rstrip('.')}"
    advice = _ADVICE.get(type(error))
    return PublishError(kind, f"{message}; {advice}" if advice else message, name)


def unreachable(error: Exception) -> PublishError:
    """Return the relay's error for any error that kept a producer from being made; the relay waits and tries again."""
    if isinstance(error, PublishError):
        return error
    translated = translate(error)
    return PublishError(_CLUSTER, str(translated), translated.name)
