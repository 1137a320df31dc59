"""The ladder: which event ids a transaction cannot have, judged by its xid.

A rung (xid, value) records that the outbox's sequence stood at `value` *before* any transaction with a larger xid took
its own: `xid` is that of a transaction of the relay's that began later, or the last one taken when a later statement
looked. The default of `outbox.event.id` takes the transaction's xid before it takes an id, so every transaction with a
larger xid than a rung's has only ids above that rung's value.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from relay.decide.snapshot import Snapshot

NO_FLOOR = -1
"""The floor of a transaction of which no rung says anything: below every id."""


class Ladder:
    """Rungs in ascending order of xid and of value, and floors raised for quiet transactions."""

    def __init__(self) -> None:
        self._xids: list[int] = []
        self._values: list[int] = []
        self._raised: dict[int, int] = {}
        self._floors: tuple[Snapshot, int, list[tuple[int, int]]] | None = None

    def __len__(self) -> int:
        """Return the number of rungs and raised floors, which `prune` bounds."""
        return len(self._xids) + len(self._raised)

    def __repr__(self) -> str:
        top = f"{self._xids[-1]}:{self._values[-1]}" if self._xids else "none"
        return f"<Ladder rungs={len(self._xids)} top={top} raised={len(self._raised)}>"

    def add(self, xid: int, value: int) -> None:
        """Add a rung. `value` must have been read in a statement that ended before the xid after `xid` was assigned.

        Rungs that the new one makes superfluous are dropped: those with a higher xid and no higher value. The new rung
        is left out if it is not above the highest one in both respects. Fewer rungs are only more cautious, and several
        connections may report theirs out of order.
        """
        while self._xids and self._xids[-1] >= xid and self._values[-1] <= value:
            self._xids.pop()
            self._values.pop()
        if not self._xids or (xid > self._xids[-1] and value > self._values[-1]):
            self._xids.append(xid)
            self._values.append(value)
            self._floors = None

    def raise_floor(self, xid: int, value: int) -> None:
        """Record that a transaction which is still running can only have ids above `value`."""
        self._raised[xid] = max(value, self._raised.get(xid, value))
        self._floors = None

    def floors(self, snapshot: Snapshot) -> tuple[int, list[tuple[int, int]]]:
        """Return the floor of all transactions from xmax on, and pairs (xid, floor) of running ones with a lower floor.

        The former is that of the rungs alone: a floor that was raised for the transaction whose xid is xmax says
        nothing of those after it, which may have taken lower ids before it takes its first.

        All lanes of a scan ask for the same snapshot: with 200 open transactions it is worked out once in 0.2 ms
        instead of 16 times.
        """
        if self._floors is None or self._floors[0] is not snapshot:
            floor = self._floor_of_rungs(snapshot.xmax)
            running = [(xid, self.floor(xid)) for xid in snapshot.running]
            self._floors = snapshot, floor, [each for each in running if each[1] < floor]
        return self._floors[1:]

    def floor(self, xid: int) -> int:
        """Return the largest value that every event id of transaction `xid` exceeds; NO_FLOOR if none is known.

        The floor is that of this transaction alone: a raised floor says nothing about later transactions.
        """
        return max(self._floor_of_rungs(xid), self._raised.get(xid, NO_FLOOR))

    def _floor_of_rungs(self, xid: int) -> int:
        """Return the largest value that every event id of `xid`, and of all later transactions, exceeds."""
        index = bisect_left(self._xids, xid) - 1
        # -1 would be the *last* rung to Python: the highest floor of all for the oldest transaction.
        return self._values[index] if index >= 0 else NO_FLOOR

    def prune(self, needed: Iterable[int]) -> None:
        """Drop rungs that the floor of none of `needed`, nor of any later transaction, rests on.

        `needed` is every running xid and xmax of the snapshots still in use; at least one.
        """
        self._floors = None
        wanted = set(needed)
        newest = max(wanted)
        keep = {bisect_left(self._xids, xid) - 1 for xid in wanted}
        first_later = bisect_left(self._xids, newest)
        indexes = [i for i in range(len(self._xids)) if i >= first_later or i in keep]
        self._xids = [self._xids[i] for i in indexes]
        self._values = [self._values[i] for i in indexes]
        self._raised = {xid: value for xid, value in self._raised.items() if xid in wanted}
