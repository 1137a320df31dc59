"""Kafka's error codes that a producer can meet and aiokafka 0.14 does not know.

aiokafka takes an unknown code for UNKNOWN_SERVER_ERROR, which may be about the event: the event is tried alone for a
while and then fails. These codes are about the cluster, for which the relay waits. Source:
org.apache.kafka.common.protocol.Errors of 4.1.
"""

from __future__ import annotations

import aiokafka.errors as kafka

_STALE = {"retriable": True, "invalid_metadata": True}
"""Codes for requests that were based on old metadata: aiokafka reads the metadata and asks again."""

_KNOWN_HERE: dict[int, tuple[str, str, dict[str, bool]]] = {
    74: ("FencedLeaderEpochError", "The leader epoch in the request is older than the broker's", _STALE),
    75: ("UnknownLeaderEpochError", "The leader epoch in the request is newer than the broker's", _STALE),
    76: ("UnsupportedCompressionTypeError", "The broker does not take this compression", {}),
    77: ("StaleBrokerEpochError", "The broker is being replaced", _STALE),
    80: ("PreferredLeaderNotAvailableError", "The preferred leader is not available", _STALE),
    83: ("EligibleLeadersNotAvailableError", "No replica may lead the partition", _STALE),
    88: ("UnstableOffsetCommitError", "There are unstable offsets", {}),
    89: ("ThrottlingQuotaExceededError", "The throttling quota has been exceeded", {}),
    90: ("ProducerFencedError", "There is a newer producer with the same transactional id", {}),
    97: ("PrincipalDeserializationError", "The request was forwarded and its user could not be read", {}),
    100: ("UnknownTopicIdError", "The broker does not host this topic id", _STALE),
    102: ("BrokerIdNotRegisteredError", "The broker is not registered", _STALE),
    103: ("InconsistentTopicIdError", "The topic's id is another in the broker's log", _STALE),
    107: ("IneligibleReplicaError", "The replica may not join those in sync", {}),
    108: ("NewLeaderElectedError", "The partition has a new leader", _STALE),
    120: ("TransactionAbortableError", "The transaction failed and may be aborted", {}),
    129: ("RebootstrapRequiredError", "The client is to bootstrap again", {}),
}


def _error(code: int) -> type[kafka.BrokerResponseError]:
    name, description, how = _KNOWN_HERE[code]
    attributes = {"errno": code, "message": name, "description": description, "__doc__": description, **how}
    return type(name, (kafka.BrokerResponseError,), attributes)


def add_codes() -> None:
    """Teach aiokafka these codes."""
    for code in _KNOWN_HERE:
        if code not in kafka.kafka_errors:
            kafka.kafka_errors[code] = _error(code)
