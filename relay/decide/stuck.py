"""Which batches are stuck, and for whose fault. No I/O, no clock: `now` is monotonic seconds everywhere.

An idempotent batch does not fail while its broker is away: it stays unanswered. Whose trouble that is follows from its
age and from the others. If Kafka acknowledges other batches meanwhile, or if it is known that the partition has no
leader, the partition is *stuck* (`Partitions.stuck`), which is its topic's trouble. If Kafka acknowledges nothing at
all, *Kafka is away* (`KafkaAway`), and no topic is blamed. A partition may also stand still without a batch in flight,
for whatever reason: it is *stalled* (`Partitions.stalled`), and people are told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from relay.decide.trouble_actions import TellMoving, TellStalled
from relay.outcome import FailureKind, PublishError

if TYPE_CHECKING:
    from collections.abc import Sequence

STUCK_AFTER = 3.0
"""Seconds for which a batch may stay unacknowledged while Kafka acknowledges others."""

STALLED_AFTER = 30.0
"""Seconds for which a partition may neither take nor refuse an event that waits for it, while others do."""

ALIVE_FOR = 1.0
"""Seconds without any acknowledgement after which Kafka does not count as working for the others."""


class PartitionView(NamedTuple):
    """What publish has of one partition in its hands."""

    number: int
    waiting: int
    """Number of events."""
    oldest_sent_at: float | None
    """When the oldest unanswered batch was sent (monotonic seconds); None when nothing is in flight."""
    progress: int
    """Changes whenever events leave the partition, to Kafka or as failed."""
    leaderless: bool
    """Whether it is known that no broker leads it."""
    suspect: bool
    """Whether its batches already go through the producer that is kept for such."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self.waiting and self.oldest_sent_at is None


class TopicView(NamedTuple):
    """What publish and its main producer know of one topic."""

    name: str
    routed_to: int | None
    """Number of partitions that its events are routed to; None while that is being found out."""
    known: int | None
    """Number of partitions that the producer knows, 0 when it knows none; None when there is no producer."""
    partitions: Sequence[PartitionView]
    """Those in which events wait or are in flight, or that no broker leads. There is nothing to see in the others."""


class Partitions:
    """What was seen of the partitions of one topic in earlier looks."""

    __slots__ = ("_leaderless_since", "_progress", "_stalled")

    def __init__(self) -> None:
        self._leaderless_since: dict[int, float] = {}
        self._progress: dict[int, tuple[int, float]] = {}
        self._stalled: set[int] = set()

    def stuck(
        self, view: TopicView, others_since: float | None, now: float
    ) -> list[tuple[PartitionView, PublishError]]:
        """The partitions in which a batch stays unanswered through no other topic's fault, and the error of each.

        `others_since` is since when Kafka has acknowledged batches of whatever topic; None while it does not.
        """
        stuck = []
        if self._leaderless_since:
            still = {partition.number for partition in view.partitions if partition.leaderless}
            self._leaderless_since = {number: at for number, at in self._leaderless_since.items() if number in still}
        for partition in view.partitions:
            number, _, oldest_sent_at, _, leaderless, _ = partition
            if oldest_sent_at is None:
                continue
            if leaderless:
                # To know that takes no other's acknowledgement: what waits for this topic may have all the room.
                since, what = self._leaderless_since.setdefault(number, now), "has no leader; bring its brokers back"
            elif others_since is not None:
                since = max(oldest_sent_at, others_since)
                what = "acknowledges nothing while others do; check whether its replicas are in sync"
            else:
                continue
            if now - since > STUCK_AFTER:
                text = f"partition {number} of topic {view.name} {what}"
                stuck.append((partition, PublishError(FailureKind.TOPIC, text, "NotAcknowledged")))
        return stuck

    def stalled(self, view: TopicView, now: float, *, others_move: bool) -> list[TellStalled | TellMoving]:
        """Name each partition in which nothing moves, for whatever reason, once, and once more when something does.

        What waits for it is seen nowhere else. While no others move, nothing counts.
        """
        if not view.partitions and not self._progress:
            return []
        before, self._progress = self._progress, {}
        stalled = set()
        told: list[TellStalled | TellMoving] = []
        for number, waiting, oldest_sent_at, progress, _, _ in view.partitions:
            if not waiting and oldest_sent_at is None:
                # Nothing is expected to move.
                continue
            seen = before.get(number)
            if not others_move or seen is None or seen[0] != progress:
                self._progress[number] = (progress, now)
                continue
            self._progress[number] = seen
            if now - seen[1] > STALLED_AFTER:
                stalled.add(number)
                if number not in self._stalled:
                    error = f"partition {number} makes no progress, and {waiting} events wait for it"
                    told.append(TellStalled(number, error))
        told += [TellMoving(number) for number in sorted(self._stalled - stalled)]
        self._stalled = stalled
        return told


class KafkaAway:
    """Whether Kafka acknowledges anything of any topic."""

    def __init__(self, request_timeout: float) -> None:
        self._request_timeout = request_timeout
        self.last_acknowledged = 0.0
        """When Kafka last acknowledged a batch (monotonic seconds)."""
        self.alive_since: float | None = None
        """Since when it has acknowledged batches without a pause (monotonic seconds); None while it does not."""

    def acknowledged(self, now: float) -> None:
        """Take note that Kafka acknowledged a batch, of whatever topic."""
        self.last_acknowledged = now
        if self.alive_since is None:
            self.alive_since = now

    def look(self, oldest_sent_at: float | None, now: float) -> bool:
        """Whether Kafka is away. The oldest unanswered batch of the topics that are fine was sent at `oldest_sent_at`.

        A topic's own trouble explains the silence of its batches.
        """
        if now - self.last_acknowledged > ALIVE_FOR:
            self.alive_since = None
        waits = oldest_sent_at is not None and now - oldest_sent_at > self._request_timeout
        return waits and self.alive_since is None
