"""What Kafka's error codes mean for reading the ends of partitions."""

from __future__ import annotations

import aiokafka.errors as kafka

from relay.stages.reconcile.ports import Place, Trouble, TroubleKind

OUT_OF_RANGE = kafka.OffsetOutOfRangeError.errno
UNKNOWN = frozenset({kafka.UnknownTopicOrPartitionError.errno, 100, 103})
"""The broker has no such partition: it does not lead it, it does not know it yet, or it is gone; metadata says."""
UNAUTHORIZED = frozenset({kafka.TopicAuthorizationFailedError.errno})


def trouble_of(code: int, place: Place) -> Trouble:
    """Return what an error code of a broker means for a partition."""
    if code in UNAUTHORIZED:
        return Trouble(TroubleKind.RIGHTS, f"no right to read topic {place.topic}; grant the relay READ on it")
    name = kafka.for_code(code).__name__
    return Trouble(TroubleKind.WAITS, f"partition {place.partition} of {place.topic} cannot be read now: {name}")
