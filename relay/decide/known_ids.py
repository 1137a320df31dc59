"""The ids of a lane that a scan leaves aside: those it took, and those that a sweep found settled.

A scan reads events and nothing else; what it must not take again is known here, in memory. SCAN.md beside this file has
the reasons, and what an id may be forgotten for (rule 1). What is known of older ids is passed on to PassedIds, which a
sweep asks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.decide.passed_ids import PassedIds

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Set

MANY_KNOWN = 500
"""Number of known ids up to which none is forgotten: to go through them costs 30 ns each."""

GROWTH = 2
"""How many times as many as were kept have to be known before they are gone through again."""


class KnownIds:
    """The ids of one lane. Complete above `start`, as far as a scan can still meet them."""

    __slots__ = ("_complete_from", "_forget_above", "_ids", "passed", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        """What was settled up to this id may have been forgotten: a sweep that starts below has to ask the tables."""
        self.passed = PassedIds()
        """The older ids, of all lanes of the tenure together once `share` was called."""
        self._complete_from = start
        self._ids: set[int] = set()
        self._forget_above = MANY_KNOWN

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id_: int) -> bool:
        return id_ in self._ids

    def __repr__(self) -> str:
        return f"<KnownIds {len(self._ids)} from {self.start}>"

    @property
    def complete_from(self) -> int:
        """Above it, what is not known here is in `passed`."""
        return max(self._complete_from, self.passed.start)

    def share(self, passed: PassedIds) -> None:
        """Keep older ids there from now on; only while nothing is known yet."""
        self.passed = passed

    def note(self) -> None:
        """Have all that is known in `passed`, too, so that a sweep need not ask each lane."""
        self.passed.add(self._ids)

    def add(self, ids: Iterable[int]) -> None:
        """Know these from now on."""
        self._ids.update(ids)

    def missing(self, ids: Collection[int]) -> list[int]:
        """Return those of `ids` that are not known, in ascending order."""
        return sorted(id_ for id_ in ids if id_ not in self._ids)

    def new(self, ids: Iterable[int]) -> list[int]:
        """Return those of `ids`, all above `complete_from`, that are known nowhere, in ascending order."""
        return sorted(id_ for id_ in ids if id_ not in self._ids and id_ not in self.passed)

    def cut(self, at: int) -> None:
        """Let sweeps that start at `at` or below ask the tables from now on."""
        self.start = max(self.start, at)

    @property
    def many(self) -> bool:
        """Whether it is time to forget some."""
        return len(self._ids) > self._forget_above

    def forget(self, low: int, unsettled: Set[int]) -> None:
        """Forget what no scan can need: ids up to `low`, below which no sweep starts, and those up to `start`.

        The latter are left to `passed`. `unsettled` are the ids whose outcome may be missing in the next snapshot: of
        these, none is forgotten.
        """
        least = max(low, self.start)
        kept = {id_ for id_ in self._ids if id_ > least or id_ in unsettled}
        if low < self.start:
            self.passed.add(id_ for id_ in self._ids if low < id_ <= least)
        self._complete_from = max(self._complete_from, low)
        self._ids = kept
        self._forget_above = max(MANY_KNOWN, GROWTH * len(self._ids))
