"""A database with replicas, leases and lanes: what the statements of sql/queries/lanes.sql do, each in one instant.

Time is a number that only the schedule moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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


@dataclass
class Row:
    """A row of outbox.lane, with its row of outbox.lane_intent."""

    owner: UUID | None = None
    epoch: int = 0
    wanted_by: UUID | None = None
    asked_epoch: int | None = None
    until: float = 0.0


class SimulatedDatabase:
    """What the statements of sql/queries/lanes.sql do. `clock` is its own."""

    def __init__(self, clock: Clock, lanes: int) -> None:
        self._clock = clock
        self.rows = {lane: Row() for lane in range(lanes)}
        self.replicas: dict[UUID, Registered] = {}
        self.events: dict[int, list[int]] = {lane: [] for lane in range(lanes)}
        self.receipts: set[tuple[int, int]] = set()
        self.listeners: list[Callable[[], None]] = []
        self._xid = 700

    @property
    def now(self) -> float:
        return self._clock.now + 5e8

    def xid(self) -> int:
        self._xid += 1
        return self._xid

    def notify(self) -> None:
        for hear in self.listeners:
            hear()

    def alive(self, replica: UUID | None) -> bool:
        found = None if replica is None else self.replicas.get(replica)
        return found is not None and found.lease_ends > self.now

    def owns(self, replica: UUID, lane: int) -> bool:
        """Whether nobody else may claim the lane now."""
        return self.rows[lane].owner == replica and self.alive(replica)

    def register(self, replica: UUID, *, waiting: bool) -> None:
        self.replicas[replica] = Registered(self.now + LEASE, waiting=waiting)
        self.notify()

    def renew(self, replica: UUID) -> bool:
        if not self.alive(replica):
            return False
        self.replicas[replica].lease_ends = self.now + LEASE
        return True

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
