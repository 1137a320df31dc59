"""Decides which lanes a replica claims and which it gives back, from one look at the replicas and lanes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from uuid import UUID

ORPHAN_AFTER = 0.5
"""Seconds after which a replica claims a free lane beyond its fair share. The replica whose share the lane is has just
died, or is paused: its own lease must not add to that of the lane's last owner."""

GRAIN = 0.01
"""Seconds by which a look follows the end of a lease or intent, so that it has ended by then."""

Replica = TypeVar("Replica")


class Entry(NamedTuple):
    """How a replica is entered on the list."""

    replica: UUID
    name: str
    version: str
    lease: float
    """Seconds."""
    waiting: str | None
    """Why it cannot publish yet, if it cannot."""


class LiveReplica(NamedTuple):
    """A replica whose lease runs."""

    id: UUID
    lease_seconds: float
    """Seconds that are left of the lease."""
    lease_ends: float
    """End of the lease in Unix seconds of the database's clock; every heartbeat moves it."""
    draining: bool
    waiting: bool = False
    """It has never been able to publish. It takes lanes only while nobody is alive who could."""


class LaneRow(NamedTuple):
    """A lane as `outbox.lane` has it, and what people asked for it."""

    lane: int
    epoch: int
    owner: UUID | None
    free: bool
    asked: bool = False
    """Whether its owner at this epoch is asked to give it back."""
    parked: bool = False
    """Whether no replica is to own it for now."""
    reserved_for: UUID | None = None
    """The live replica to which a person moved the lane."""
    intent_seconds: float | None = None
    """Seconds for which a person's request still holds."""


class Plan(NamedTuple):
    """The lanes to claim and to give back now, and when to look again."""

    claim: list[LaneRow]
    give_back: frozenset[int]
    look_in: float
    """Seconds until the next look is due, because something may have changed that no hint tells."""
    cede: bool = False
    """Others can publish and this replica never could: it is to own nothing, whatever it has taken."""


def fair_shares(live: Sequence[Replica], reserved: Mapping[Replica, int], lanes: int) -> dict[Replica, int]:
    """Return how many of `lanes` each replica in `live` should own; `live` is in the order of (started_at, id).

    Each owns at least the lanes that are `reserved` for it. The others are shared as evenly as possible, with one more
    for the first replicas.
    """
    shares = {replica: reserved.get(replica, 0) for replica in live}
    for _ in range(lanes - sum(shares.values()) if shares else 0):
        least = min(shares, key=lambda replica: shares[replica])
        shares[least] += 1
    return shares


def has_dead_owner(live: Sequence[LiveReplica], lanes: Sequence[LaneRow]) -> bool:
    """Return whether a lane has an owner whose lease is over and that keeps it nevertheless, until it is reconciled."""
    alive = {each.id for each in live}
    return any(row.owner is not None and not row.free and row.owner not in alive for row in lanes)


class Sharing:
    """Decides from look to look; remembers since when lanes have been free, and which replicas were silent."""

    def __init__(self, replica: UUID) -> None:
        self._replica = replica
        self._free_since: dict[tuple[int, int], float] = {}
        """Monotonic seconds since which a lane has been free, by (lane, epoch)."""
        self._silent: dict[UUID, float] = {}
        """Replicas that did not claim their share, with the end of their lease at that time (Unix seconds)."""

    def plan(
        self, live: Sequence[LiveReplica], lanes: Sequence[LaneRow], releasing: Collection[int], now: float
    ) -> Plan:
        """Return what this replica should do. `releasing` are lanes it is giving back already; `now` is monotonic."""
        staying = [each for each in live if not each.draining]
        takers = [each.id for each in staying if not each.waiting] or [each.id for each in staying]
        # Whom a lane was moved to may have gone between two statements.
        lanes = [row if row.reserved_for in takers else row._replace(reserved_for=None) for row in lanes]
        owned = [row for row in lanes if row.owner == self._replica]
        if self._replica not in takers:
            # It claims nothing, so no lane that is free concerns it.
            self._note_free([], now)
            cede = bool(owned) and any(each.id == self._replica for each in staying)
            return Plan([], frozenset(row.lane for row in owned), self._look_in(live, lanes, [], now), cede)
        shares = fair_shares(
            takers,
            Counter(row.reserved_for for row in lanes if row.reserved_for is not None),
            sum(not row.parked for row in lanes),
        )
        free = [row for row in lanes if row.free and not row.parked]
        self._note_free(free, now)
        self._note_renewed(live)
        ours = [row for row in free if row.reserved_for == self._replica]
        anybodys = [row for row in free if row.reserved_for is None]
        claim = [*ours, *anybodys][: max(shares[self._replica] - len(owned), len(ours))]
        orphans = [
            row for row in free if row not in claim and now - self._free_since[row.lane, row.epoch] >= ORPHAN_AFTER
        ]
        if orphans:
            holding = Counter(row.owner for row in lanes if not row.free)
            expected = {row.reserved_for for row in orphans}
            self._silent |= {
                each.id: each.lease_ends
                for each in live
                if each.id in shares
                and each.id != self._replica
                and (holding[each.id] < shares[each.id] or each.id in expected)
            }
        claim += orphans
        return Plan(
            claim,
            self._give_back(owned, shares[self._replica], releasing),
            self._look_in(live, lanes, claim, now),
        )

    def _give_back(self, owned: Sequence[LaneRow], share: int, releasing: Collection[int]) -> frozenset[int]:
        back = {row.lane for row in owned if row.asked or row.parked}
        if self._silent:
            # They would not claim what we give back, and we would claim it again.
            return frozenset(back)
        back |= {row.lane for row in owned if row.reserved_for not in (None, self._replica)}
        rest = sorted(
            (row for row in owned if row.lane not in back),
            key=lambda row: (row.reserved_for is not None, row.lane not in releasing, -row.lane),
        )
        surplus = len(owned) - len(back) - share
        return frozenset(back | {row.lane for row in rest[: max(0, surplus)]})

    def _note_free(self, free: Sequence[LaneRow], now: float) -> None:
        self._free_since = {(row.lane, row.epoch): self._free_since.get((row.lane, row.epoch), now) for row in free}

    def _note_renewed(self, live: Sequence[LiveReplica]) -> None:
        ends = {each.id: each.lease_ends for each in live}
        self._silent = {replica: seen for replica, seen in self._silent.items() if ends.get(replica) == seen}

    def _look_in(
        self, live: Sequence[LiveReplica], lanes: Sequence[LaneRow], claim: Sequence[LaneRow], now: float
    ) -> float:
        claimed = {row.lane for row in claim}
        ends = [each.lease_seconds for each in live if each.id != self._replica]
        ends += [row.intent_seconds for row in lanes if row.intent_seconds is not None]
        ends += [
            max(0.0, since + ORPHAN_AFTER - now) for (lane, _), since in self._free_since.items() if lane not in claimed
        ]
        return min(ends, default=float("inf")) + GRAIN
