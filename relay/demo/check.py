"""Compares the events that arrived with those that were committed. No I/O.

Every change of an order counts its version up under the row's lock, and the event carries it. So the committed
events of an order have the versions 1, 2, 3 ... in commit order, and the row itself says how many there are:
the first occurrences in Kafka must be exactly these, in this order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Findings:
    """The result of the check, in numbers of events."""

    committed: int
    delivered: int
    """Arrived at least once."""
    lost: int
    """Committed and never arrived."""
    out_of_order: int
    """Arrived for the first time after a later one of the same order."""
    duplicates: int
    """Arrived again."""
    uncommitted: int
    """Arrived although their transactions were rolled back."""

    @property
    def ok(self) -> bool:
        """Whether the promise was kept. Duplicates do not break it: delivery is at least once."""
        return self.committed > 0 and not (self.lost or self.out_of_order or self.uncommitted)


class Checker:
    """Takes events in the order in which the consumer sees them."""

    def __init__(self) -> None:
        self.delivered = 0
        self.out_of_order = 0
        self.duplicates = 0
        self.uncommitted = 0
        self._newest: dict[int, int] = {}
        self._skipped: set[tuple[int, int]] = set()

    def arrived(self, order: int, version: int, *, rolled_back: bool = False) -> bool:
        """Take the next event; return whether it is a first occurrence.

        `rolled_back` is the mark that the writer put into an event whose transaction it was going to roll back.
        """
        if rolled_back:
            self.uncommitted += 1
            return False
        newest = self._newest.get(order, 0)
        if version > newest:
            self._skipped.update((order, skipped) for skipped in range(newest + 1, version))
            self._newest[order] = version
        elif (order, version) in self._skipped:
            self._skipped.discard((order, version))
            self.out_of_order += 1
        else:
            self.duplicates += 1
            return False
        self.delivered += 1
        return True

    def findings(self, committed: Mapping[int, int]) -> Findings:
        """Judge the events that have arrived so far, given the versions of all orders in the database."""
        never_happened = {order: newest - committed.get(order, 0) for order, newest in self._newest.items()}
        beyond = sum(extra for extra in never_happened.values() if extra > 0)
        skipped = sum(version <= committed.get(order, 0) for order, version in self._skipped)
        not_reached = sum(max(0, version - self._newest.get(order, 0)) for order, version in committed.items())
        return Findings(
            committed=sum(committed.values()),
            delivered=self.delivered,
            lost=skipped + not_reached,
            out_of_order=self.out_of_order,
            duplicates=self.duplicates,
            uncommitted=self.uncommitted + beyond,
        )
