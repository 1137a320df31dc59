"""The outcome of a record batch that was handed to Kafka: a closed union, matched with `assert_never`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from relay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Mapping


class FailureKind(Enum):
    """What a failure is about; it decides which events wait."""

    CLUSTER = "cluster"
    """Kafka as a whole, or the network to it: all events wait, and no attempt is counted."""
    TOPIC = "topic"
    """One topic: its events wait, and other topics go on."""
    EVENT = "event"
    """One event of the batch."""
    TIME = "time"
    """The time of one event of the batch, which its topic does not take: the event is sent with another time."""
    UNKNOWN = "unknown"
    """Anything else."""


class PublishError(RelayError):
    """Kafka did not take a batch or an event. `kind` says what it is about; the library's error is `__cause__`."""

    def __init__(self, kind: FailureKind, message: str, name: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name or type(self).__name__
        """A short name to group failures by, Kafka's own where it has one: MessageSizeTooLargeError."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker has the batch; its first event is at `base_offset`, -1 when the broker did not say."""

    base_offset: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The batch is not in Kafka, or it is unknown whether it is."""

    error: PublishError
    culprits: Mapping[int, PublishError] = field(default_factory=dict)
    """The events at fault, by their positions in the batch, where the broker named them; empty where it did not."""
    producer_intact: bool = False
    """Whether the producer's sequence has no gap, so that the producer can go on."""
    unknown: bool = False
    """Whether nobody knows if the batch is in Kafka."""


BatchOutcome: TypeAlias = Acknowledged | Refused
