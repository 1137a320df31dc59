"""Whose fault each error is, for every class of aiokafka: neither a new one nor a changed kind slips by."""

from __future__ import annotations

import inspect
import ssl

import aiokafka.errors as kafka
import pytest

from relay.kafka.errors import translate
from relay.outcome import FailureKind

CLUSTER = """
    AuthenticationFailedError AuthenticationMethodNotSupported BrokerNotAvailableError BrokerResponseError Cancelled
    ClusterAuthorizationFailedError CommitFailedError ConcurrentTransactions CorrelationIdError
    DelegationTokenAuthDisabled DelegationTokenAuthorizationFailed DelegationTokenExpired DelegationTokenNotFound
    DelegationTokenOwnerMismatch DelegationTokenRequestNotAllowed DuplicateSequenceNumber FetchSessionIdNotFound
    GroupAuthorizationFailedError GroupCoordinatorNotAvailableError GroupIdNotFound GroupLoadInProgressError
    IllegalArgumentError IllegalGenerationError IllegalOperation IllegalSaslStateError IllegalStateError
    IncompatibleBrokerVersion InconsistentGroupProtocolError InvalidCommitOffsetSizeError InvalidConfigurationError
    InvalidFetchRequestError InvalidFetchSessionEpoch InvalidGroupIdError InvalidPartitionsError InvalidPrincipalType
    InvalidProducerEpoch InvalidProducerIdMapping InvalidReplicationAssignmentError InvalidReplicationFactorError
    InvalidRequestError InvalidRequiredAcksError InvalidSessionTimeoutError InvalidTransactionTimeout InvalidTxnState
    KafkaConfigurationError KafkaConnectionError KafkaError KafkaProtocolError KafkaStorageError KafkaTimeoutError
    KafkaUnavailableError LeaderNotAvailableError ListenerNotFound LogDirNotFound MemberIdRequired
    MetadataEmptyBrokerList NoBrokersAvailable NoError NoOffsetForPartitionError NodeNotReadyError NonEmptyGroup
    NotControllerError NotCoordinatorForGroupError NotLeaderForPartitionError OffsetMetadataTooLargeError
    OffsetOutOfRangeError OperationNotAttempted OutOfOrderSequenceNumber ProducerClosed ProducerFenced
    QuotaViolationError ReassignmentInProgress RebalanceInProgressError ReplicaNotAvailableError RequestTimedOutError
    SaslAuthenticationFailed SecurityDisabled StaleControllerEpochError StaleLeaderEpochCodeError StaleMetadata
    TooManyInFlightRequests TopicAlreadyExistsError TransactionCoordinatorFenced TransactionalIdAuthorizationFailed
    UnknownMemberIdError UnknownProducerId UnrecognizedBrokerVersion UnsupportedCodecError
    UnsupportedSaslMechanismError UnsupportedVersionError
"""
TOPIC = """
    NotEnoughReplicasAfterAppendError NotEnoughReplicasError TopicAuthorizationFailedError UnknownTopicOrPartitionError
"""
EVENT = """
    InvalidTopicError MessageSizeTooLargeError PolicyViolationError
    RecordListTooLargeError RecordTooLargeError UnsupportedForMessageFormatError
"""
TIME = "InvalidTimestampError"
UNKNOWN = "ConsumerStoppedError CorruptRecordException UnknownError"

EXPECTED = {
    name: kind
    for kind, names in (
        (FailureKind.CLUSTER, CLUSTER),
        (FailureKind.TOPIC, TOPIC),
        (FailureKind.EVENT, EVENT),
        (FailureKind.TIME, TIME),
        (FailureKind.UNKNOWN, UNKNOWN),
    )
    for name in names.split()
}

CLASSES = {
    each.__name__: each
    for each in vars(kafka).values()
    if inspect.isclass(each) and issubclass(each, BaseException) and each.__module__ == kafka.__name__
}


def test_every_error_of_aiokafka_is_classified_here() -> None:
    """A new one: say in relay.kafka.errors whose fault it is, then here."""
    assert CLASSES.keys() == EXPECTED.keys()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_an_error_is_the_fault_of(name: str) -> None:
    error = CLASSES[name]()
    if name == "BrokerResponseError":
        # The base of those that a broker answers with; only they have a number.
        error.errno = 0  # type: ignore[attr-defined]
    translated = translate(error)
    assert translated.kind is EXPECTED[name]
    assert translated.name == name
    assert name in str(translated)


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(111, "refused"), TimeoutError(), ssl.SSLError("expired"), OSError("no route to host")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_network_is_the_clusters(error: OSError) -> None:
    assert translate(error).kind is FailureKind.CLUSTER


@pytest.mark.parametrize("error", [ValueError("bad"), AttributeError("x"), KeyError("y")], ids=repr)
def test_an_error_that_kafka_never_made_is_nobodys(error: Exception) -> None:
    assert translate(error).kind is FailureKind.UNKNOWN


def test_too_few_replicas_in_sync_are_not_retried_in_silence() -> None:
    """Else nobody hears of it: aiokafka retries what it calls retriable for ever, in the way of the others."""
    assert not kafka.NotEnoughReplicasError.retriable
    assert kafka.NotEnoughReplicasAfterAppendError.retriable, "sent anew it would be there twice"


def test_an_invalid_record_is_the_events_fault_though_aiokafka_does_not_know_its_code() -> None:
    assert translate(kafka.for_code(87)()).kind is FailureKind.EVENT


@pytest.mark.parametrize("code", [74, 76, 89, 103, 129])
def test_a_code_of_the_cluster_that_aiokafka_does_not_know_waits_and_has_a_name(code: int) -> None:
    translated = translate(kafka.for_code(code)())
    assert translated.kind is FailureKind.CLUSTER
    assert f"[Error {code}]" in str(translated)
    assert translated.name != "UnknownError"


@pytest.mark.parametrize("code", [999, 12_345])
def test_a_brokers_code_that_nobody_knows_is_unknown(code: int) -> None:
    assert translate(kafka.for_code(code)()).kind is FailureKind.UNKNOWN


def test_a_kind_of_error_that_came_up_after_this_was_written_waits() -> None:
    class NewError(kafka.BrokerResponseError):
        errno = 200

    assert translate(NewError()).kind is FailureKind.CLUSTER


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (kafka.TopicAuthorizationFailedError("orders"), "grant the relay WRITE and DESCRIBE on the topic"),
        (kafka.UnknownTopicOrPartitionError(), "create the topic"),
        (kafka.MessageSizeTooLargeError(), "raise max.message.bytes"),
        (kafka.ClusterAuthorizationFailedError(), "grant the relay IDEMPOTENT_WRITE"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_says_what_to_do(error: Exception, advice: str) -> None:
    assert advice in str(translate(error))
