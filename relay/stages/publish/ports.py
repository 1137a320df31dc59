"""What publishing asks of Kafka, and the words that cross this edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Sequence

    from relay.decide.limits import TopicLimits
    from relay.event import PendingEvent
    from relay.outcome import BatchOutcome


class RecordBatch(Protocol):
    """Events packed for one partition."""

    events: list[PendingEvent]
    size: int
    """Bytes of the events' keys, payloads and headers."""
    restamped: int
    """How many of the events go with another time than their own."""


class Producer(Protocol):
    """What publishing needs of Kafka. Every error that a method raises is a PublishError, whose kind says whose fault
    it is."""

    @property
    def died(self) -> asyncio.Future[str]:
        """Done, with why, once this producer will never send again."""

    @property
    def name(self) -> str | None:
        """Under what it was enlisted; None if nobody takes note of producers."""

    def trouble(self) -> str | None:
        """Return why brokers cannot be reached just now, as far as that is known."""

    async def partition_count(self, topic: str) -> int:
        """Ask for the number of the topic's partitions. Raises an error of kind TOPIC when there is no such topic."""

    async def existing(self, topics: Sequence[str]) -> list[str]:
        """Ask which of many topics there are."""

    def known_partition_count(self, topic: str) -> int:
        """Return the number of the topic's partitions from memory; 0 when it is not known."""

    def leaderless(self, topic: str, partition: int) -> bool:
        """Return whether it is known, from memory, that no broker leads the partition."""

    async def refresh_topic(self, topic: str) -> None:
        """Ask for the topic's partitions anew; `known_partition_count` says afterwards what was found.

        Raises an error of kind TOPIC when there is no such topic any more.
        """

    def forget_topic(self, topic: str) -> None:
        """Stop asking for the metadata of a topic that is of no interest for now."""

    async def limits(self, topic: str) -> TopicLimits:
        """Ask what the topic takes: bytes of a record batch and of a request, and times of records."""

    def pack(
        self, waiting: Collection[PendingEvent], most: int, max_bytes: int | None, times: tuple[int, int]
    ) -> RecordBatch:
        """Pack the first of the events that wait, at least one and at most `most`, into a batch of up to `max_bytes`.

        `times` are the earliest and the latest time, in milliseconds since 1970, that the topic takes: an event whose
        own time is not within them goes with the time now.
        """

    async def send(
        self,
        batch: RecordBatch,
        topic: str,
        partition: int,
        allowed: Callable[[], bool],
        done: Callable[[BatchOutcome], None],
    ) -> None:
        """Queue a batch that this producer has packed, to be sent if it is still `allowed` then.

        `done` hears of the outcome, once, unless this method raises: then the batch is not in Kafka. Returns when the
        batch is queued, which takes as long as another one of the partition is.
        """

    async def close(self, timeout: float) -> None:
        """Close within `timeout` seconds, whatever Kafka does."""


class Landed(Protocol):
    """Hears of each record batch whose outcome is known. Must be quick and must not raise."""

    def __call__(
        self, topic: str, partition: int, events: Sequence[PendingEvent], seconds: float, outcome: BatchOutcome, /
    ) -> None:
        """Take note of a batch of these events that was in the producer's hands for `seconds`."""
