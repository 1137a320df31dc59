"""Which ids a sampled check looks at next: the newest ids every time, and over time all ids.

A fault by which the relay passes events shows among the newest ids. Damage to older rows is found within one round.
"""

from __future__ import annotations

from typing import NamedTuple


class Slice(NamedTuple):
    """The ids above < id <= up_to."""

    above: int
    up_to: int


class Coverage:
    """Chooses two slices: one right below the highest position, and one that goes round through all retained ids."""

    def __init__(self, start: float = 0.0) -> None:
        """`start`, from 0 to 1, is the part of the retained ids at which the round begins."""
        self._start = start
        self._above: int | None = None

    def next(self, oldest: int, highest: int, ids: int) -> list[Slice]:
        """Return slices of up to `ids` ids each, from `oldest` to `highest`; an empty list if there are no such ids."""
        before = oldest - 1
        if highest <= before:
            return []
        if self._above is None:
            self._above = before + int((highest - before) * self._start)
        above = self._above if before <= self._above < highest else before
        self._above = min(above + ids, highest)
        newest = Slice(max(before, highest - ids), highest)
        going_round = Slice(above, self._above)
        return [newest] if newest == going_round else [newest, going_round]
