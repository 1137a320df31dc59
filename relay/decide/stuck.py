"""Which batches are stuck, and for whose fault. No I/O, no clock: `now` is monotonic seconds everywhere.

An idempotent batch does not fail while its broker is away: it stays unanswered. Whose trouble that is follows from its
age and from the others. If Kafka acknowledges other batches meanwhile, or if Kafka itself has said what is wrong with
the partition, the partition is *stuck* (`Partitions.stuck`), which is its topic's trouble. If Kafka acknowledges
nothing at all and says nothing, *Kafka is away* (`KafkaAway`), and no topic is blamed. A partition may also stand still
for another reason: it is *stalled* (`Partitions.stalled`), and people are told.

| what is in the way (`Obstacle`)                          | its topic is in trouble                                 |
|----------------------------------------------------------|---------------------------------------------------------|
| `Unanswered`: a batch that Kafka has not answered        | after a while, if others are acknowledged               |
| `Unknown`: a batch that Kafka may have; it is looked for | at once, if the topic was refused; after a while, if    |
|                                                          | Kafka says why it cannot be found, or others are        |
|                                                          | acknowledged                                            |
| `Unnoted`: Kafka does not say where the partition ends   | after a while                                           |
| whatever it is, or none: the partition has no leader     | after a while                                           |

What Kafka says counts although no other batch is acknowledged: what waits for this topic may have taken all the room,
so that no other has anything to send. What must never happen is that such a topic counts as fine for as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

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


NO_LEADER = "has no leader; bring its brokers back"


class Unanswered(NamedTuple):
    """The oldest batch in flight waits for Kafka's answer."""

    sent_at: float
    """When the producer was given it (monotonic seconds)."""


class Unknown(NamedTuple):
    """Nobody knows whether Kafka has the oldest batch in flight. It is looked for, and nothing else is sent."""

    since: float
    """Monotonic seconds."""
    refused: PublishError
    """Why it is not known."""
    waits: str | None
    """Why it cannot be found out now, in Kafka's words; None if Kafka could not be asked, or not yet."""


class Unnoted(NamedTuple):
    """What waits cannot be sent: others could not look for it, because Kafka does not say where the partition ends."""

    since: float
    """Monotonic seconds."""


Obstacle: TypeAlias = Unanswered | Unknown | Unnoted
"""What a partition waits for before more can be sent: a closed union, matched with `assert_never`."""


class PartitionView(NamedTuple):
    """What publish has of one partition in its hands."""

    number: int
    waiting: int
    """Number of events."""
    obstacle: Obstacle | None
    """What it waits for; None when nothing is in flight and what waits may be sent."""
    progress: int
    """Changes whenever events leave the partition, to Kafka or as failed."""
    leaderless: bool
    """Whether it is known that no broker leads it."""
    suspect: bool
    """Whether its batches already go through the producer that is kept for such."""

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self.waiting and self.obstacle is None


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
        """The partitions that take nothing through no other topic's fault, and the error of each.

        `others_since` is since when Kafka has acknowledged batches of whatever topic; None while it does not.
        """
        if self._leaderless_since:
            still = {partition.number for partition in view.partitions if partition.leaderless}
            self._leaderless_since = {number: at for number, at in self._leaderless_since.items() if number in still}
        found = ((each, self._error(view.name, each, others_since, now)) for each in view.partitions if not each.idle)
        return [(partition, error) for partition, error in found if error is not None]

    def _error(
        self, topic: str, partition: PartitionView, others_since: float | None, now: float
    ) -> PublishError | None:
        number, obstacle = partition.number, partition.obstacle
        match obstacle:
            case Unknown(refused=refused) if refused.kind is FailureKind.TOPIC:
                return refused
            case _ if partition.leaderless:
                since, what = self._leaderless_since.setdefault(number, now), NO_LEADER
            case Unnoted(since):
                what = NO_LEADER
            case Unknown(since=since, waits=str(waits)):
                what = f"cannot be asked for a batch that it may have: {waits}"
            case Unanswered(at) | Unknown(since=at):
                if others_since is None:
                    return None
                since = max(at, others_since)
                what = "acknowledges nothing while others do; check whether its replicas are in sync"
            case None:
                return None
            case _ as never:
                assert_never(never)
        if now - since <= STUCK_AFTER:
            return None
        return PublishError(FailureKind.TOPIC, f"partition {number} of topic {topic} {what}", "NotAcknowledged")

    def stalled(self, view: TopicView, now: float, *, others_move: bool) -> list[TellStalled | TellMoving]:
        """Name each partition in which nothing moves, for whatever reason, once, and once more when something does.

        What waits for it is seen nowhere else. While no others move, nothing counts.
        """
        if not view.partitions and not self._progress:
            return []
        before, self._progress = self._progress, {}
        stalled = set()
        told: list[TellStalled | TellMoving] = []
        for partition in view.partitions:
            if partition.idle:
                # Nothing is expected to move.
                continue
            number, waiting, progress = partition.number, partition.waiting, partition.progress
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
