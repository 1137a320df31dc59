"""Replicas, leases and lanes of a simulated PostgreSQL: what the statements of sql/queries/lanes.sql do.

Every method is one instant. Time is a number that only a schedule moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay.decide.held_back import PausedTopic
from relay.decide.shares import LaneRow, LiveReplica

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

LEASE = 3.0


class Clock:
    """Stands in for the module `time`. Each replica's clock begins somewhere else, and so does the database's."""

    def __init__(self) -> None:
        self.now = 0.0
        self.offset = 0.0
        """Of whose clock is being looked at."""

    def monotonic(self) -> float:
        return self.now + self.offset


@dataclass
class Registered:
    """A row of outbox.replica."""

    lease_ends: float
    draining: bool = False
    waiting: bool = False
    put_off: dict[str, str] = field(default_factory=dict)
    """Chore -> error."""


@dataclass
class Row:
    """A row of outbox.lane, with its row of outbox.lane_intent."""

    owner: UUID | None = None
    epoch: int = 0
    position: int = 0
    wanted_by: UUID | None = None
    asked_epoch: int | None = None
    until: float = 0.0


class SimulatedLeases:
    """What the statements of sql/queries/lanes.sql do. `clock` is its own."""

    def __init__(self, clock: Clock, lanes: int) -> None:
        self._clock = clock
        self.rows = {lane: Row() for lane in range(lanes)}
        self.replicas: dict[UUID, Registered] = {}
        self.listeners: list[Callable[[], None]] = []
        self.pauses: dict[str, float] = {}
        """Topic -> when its pause ends."""

    @property
    def now(self) -> float:
        return self._clock.now + 5e8

    def notify(self) -> None:
        for hear in self.listeners:
            hear()

    def alive(self, replica: UUID | None) -> bool:
        found = None if replica is None else self.replicas.get(replica)
        return found is not None and found.lease_ends > self.now

    def owns(self, replica: UUID, lane: int) -> bool:
        """Whether nobody else may claim the lane now."""
        return self.rows[lane].owner == replica and self.alive(replica)

    def register(self, replica: UUID, lease: float, former: UUID | None = None, *, waiting: bool = False) -> None:
        if former is not None:
            self.replicas.pop(former, None)
        self.replicas[replica] = Registered(self.now + lease, waiting=waiting)
        self.notify()

    def renew(self, replica: UUID, lease: float) -> bool:
        if not self.alive(replica):
            return False
        self.replicas[replica].lease_ends = self.now + lease
        return True

    def drain(self, replica: UUID) -> None:
        if replica in self.replicas:
            self.replicas[replica].draining = True
            self.replicas[replica].waiting = False
            self.notify()

    def take_part(self, replica: UUID) -> None:
        if replica in self.replicas:
            self.replicas[replica].waiting = False
            self.notify()

    def unregister(self, replica: UUID) -> None:
        self.replicas.pop(replica, None)
        self.notify()

    def forget(self, seconds: float) -> None:
        """Remove the replicas whose lease ended so long ago."""
        for replica in [each for each, row in self.replicas.items() if row.lease_ends < self.now - seconds]:
            del self.replicas[replica]

    def live(self) -> list[LiveReplica]:
        return [
            LiveReplica(replica, row.lease_ends - self.now, row.lease_ends, row.draining, row.waiting)
            for replica, row in self.replicas.items()
            if row.lease_ends > self.now
        ]

    def lanes(self) -> list[LaneRow]:
        return [self._lane(lane, row) for lane, row in self.rows.items()]

    def _lane(self, lane: int, row: Row) -> LaneRow:
        lasting = row.until > self.now
        released = row.asked_epoch is not None
        target = row.wanted_by if lasting and self.alive(row.wanted_by) else None
        if target is not None and self.replicas[target].draining:
            target = None
        return LaneRow(
            lane,
            row.epoch,
            row.owner,
            free=not self.alive(row.owner),
            asked=released and row.asked_epoch == row.epoch,
            parked=released and lasting,
            reserved_for=target,
            intent_seconds=row.until - self.now if lasting else None,
        )

    def ask(self, lane: int, replica: UUID | None, seconds: float) -> None:
        """What `relay lanes` writes."""
        row = self.rows[lane]
        row.wanted_by, row.until = replica, self.now + seconds
        row.asked_epoch = row.epoch if replica is None else None
        self.notify()

    def pause(self, topic: str, seconds: float) -> None:
        """What `relay topics` writes."""
        self.pauses[topic] = self.now + seconds
        self.notify()

    def paused_topics(self) -> list[PausedTopic]:
        return [
            PausedTopic(topic, until - self.now, until, "a test", "me@here")
            for topic, until in sorted(self.pauses.items())
            if until > self.now
        ]

    def claim(self, replica: UUID, seen: Sequence[LaneRow]) -> list[LaneRow]:
        claimed = []
        for each in seen:
            row = self.rows[each.lane]
            parked = self._lane(each.lane, row).parked
            if self.alive(replica) and row.epoch == each.epoch and not parked:
                row.owner, row.epoch = replica, row.epoch + 1
                claimed.append(each._replace(epoch=row.epoch))
        return claimed

    def release(self, replica: UUID, lane: int, epoch: int) -> None:
        row = self.rows[lane]
        if (row.owner, row.epoch) == (replica, epoch):
            row.owner = None
            self.notify()
