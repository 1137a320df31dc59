"""What became of a record batch that was handed to Kafka: a closed union, matched with `assert_never`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from relay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Mapping


class FailureKind(Enum):
    """Whose fault a failure is; it decides what waits for it."""

    CLUSTER = "cluster"
    """Kafka or the way to it: everything waits, nothing is spent."""
    TOPIC = "topic"
    """One topic: its events wait, others go on."""
    EVENT = "event"
    """One event of the batch."""
    TIME = "time"
    """The time of one event of the batch, which its topic does not take: it goes with another one."""
    UNKNOWN = "unknown"
    """Anything else."""


class PublishError(RelayError):
    """Kafka did not take something. `kind` says whose fault it is; the library's error is the cause."""

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
    """The batch is not in Kafka, or nobody knows."""

    error: PublishError
    culprits: Mapping[int, PublishError] = field(default_factory=dict)
    """The events at fault, by their positions in the batch, where the broker named them; empty where it did not."""
    producer_intact: bool = False
    """Whether the producer's sequence has no gap: it can go on."""


BatchOutcome: TypeAlias = Acknowledged | Refused
