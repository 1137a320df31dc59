"""One topic: its partitions once they are known, the events that wait until then, and its trouble if it has any."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay.decide.routing import KnownKeys, Router
from relay.decide.trouble import TopicTrouble
from relay.event import KEY, key_of, size_of
from relay.stages.publish.limits import Limits
from relay.stages.publish.line import Line
from relay.stages.publish.partition import Partition

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from relay.decide.topic_rates import Pace
    from relay.event import PendingEvent
    from relay.outcome import PublishError
    from relay.retry import Backoff


@dataclass(slots=True, eq=False)
class Topic:
    """Routes events to partitions; while the number of partitions is not known they wait here, in order."""

    name: str
    new_backoff: Callable[[], Backoff]
    hash_keys: Callable[[Sequence[bytes]], Sequence[int]]
    known_keys: KnownKeys = field(default_factory=KnownKeys)
    router: Router | None = None
    partitions: list[Partition] = field(default_factory=list)
    unrouted: Line = field(default_factory=Line)
    trouble: TopicTrouble = field(default_factory=TopicTrouble)
    """Whether it takes no events, and since when. The watch alone writes it."""
    refusal: PublishError | None = None
    """Why no event may go to it, unless its origin is exempt: a dead letter whose event's own topic is allowed."""
    wanted: bool = False
    """Whether there was such an event."""
    refused: Line = field(default_factory=Line)
    """Events that are to fail for that, in order."""
    limits: Limits = field(init=False)
    """What the topic takes."""
    pumps: list[asyncio.Task[None]] = field(default_factory=list)
    """One per partition, which sends its batches."""
    pace: Pace | None = None
    """The limit that the settings give it, if they do."""
    idle_since: float | None = None
    """Since when it could have been forgotten (monotonic seconds)."""
    restamped: int = 0
    """Events that were published with another time than their own."""
    with_origins: bool = False
    """Whether an event that has an origin was ever handed in for it: only then its batches are searched for such."""

    def __post_init__(self) -> None:
        self.limits = Limits(self.name)

    @property
    def idle(self) -> bool:
        """Whether none of its events waits or is in flight in a partition."""
        return all(partition.idle for partition in self.partitions)

    def waiting(self) -> tuple[int, int]:
        """The number of its events that wait in memory, and their bytes."""
        lines = [self.unrouted, *(partition.waiting for partition in self.partitions if partition.waiting)]
        return sum(map(len, lines)), sum(size_of(event) for line in lines for event in line)

    @property
    def missing(self) -> bool:
        """It is paused because there is no such topic, and nothing of it is in hand."""
        return self.trouble.paused and self.router is None and not self.partitions and not self.unrouted

    @property
    def forgettable(self) -> bool:
        """Whether nothing of it is under way, in trouble, or being asked."""
        settled = self.router is not None or (self.refusal is not None and not self.wanted)
        return settled and self.trouble.fine and not self.unrouted and not self.refused and self.idle

    def resolved(self, count: int) -> list[Partition]:
        """Route to `count` partitions from now on; returns those that are new. What waited for this is routed next.

        Only for an idle topic: a key may move to another partition.
        """
        self.router = Router(count, self.hash_keys, self.known_keys)
        new = [Partition(self.name, number, self.new_backoff()) for number in range(len(self.partitions), count)]
        self.partitions += new
        return new

    def route_waiting(self, most: int) -> bool:
        """Route up to `most` events of those that waited until the partitions were known; returns whether any is left.

        In parts, because there may be a buffer full of them, and what comes meanwhile waits behind them.
        """
        if self.router is None:
            return False
        self._route(self.router, [self.unrouted.popleft() for _ in range(min(most, len(self.unrouted)))])
        return bool(self.unrouted)

    def unresolve(self) -> None:
        """Have what comes from now on wait: the number of partitions is in question."""
        self.router = None

    def route(self, events: Sequence[PendingEvent]) -> None:
        """Put events, in order, behind those that wait for their partitions."""
        if self.router is None or self.unrouted:
            self.unrouted.extend(events)
        else:
            self._route(self.router, events)

    def _route(self, router: Router, events: Sequence[PendingEvent]) -> None:
        partition_of = router.partitions_of(set(map(key_of, events)))
        turn = router.next_turn()
        by_partition: dict[int, list[PendingEvent]] = {}
        for event in events:
            key = event[KEY]
            number = turn if key is None else partition_of[key]
            if number in by_partition:
                by_partition[number].append(event)
            else:
                by_partition[number] = [event]
        for number, its_events in by_partition.items():
            self.partitions[number].add(its_events)

    def withdraw_key(self, partition: Partition | None, key: bytes) -> list[PendingEvent]:
        """Take out the events of a key, which go to `partition` if it is known, that are not in flight."""
        of_key = _has_key(key)
        left = partition.withdraw(of_key) if partition is not None else []
        return left + self.refused.withdraw(of_key) + self.unrouted.withdraw(of_key)

    def withdraw(self, which: Callable[[PendingEvent], bool] | None = None) -> list[PendingEvent]:
        """Take out `which` events that are not in flight, all by default; returns those to hold back or to drop."""
        left = self.refused.withdraw(which) + self.unrouted.withdraw(which)
        for partition in self.partitions:
            left += partition.withdraw(which)
        return left


def _has_key(key: bytes) -> Callable[[PendingEvent], bool]:
    # Asked of every event that waits, for each one that fails.
    return lambda event: event[KEY] == key
