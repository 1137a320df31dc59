"""Which ids a sampled check looks at next: over time all of them, and what is newest every time.

A hole through which the relay passes events shows in what it has passed just now; damage done to older rows takes as
long to be found as one round takes.
"""

from __future__ import annotations

from typing import NamedTuple


class Slice(NamedTuple):
    """The ids above < id <= up_to."""

    above: int
    up_to: int


class Coverage:
    """One slice right below the highest position, and one that goes round through everything that is retained."""

    def __init__(self, start: float = 0.0) -> None:
        """`start`, from 0 to 1: where the round begins."""
        self._start = start
        self._above: int | None = None

    def next(self, oldest: int, highest: int, ids: int) -> list[Slice]:
        """Up to `ids` ids each, of those from `oldest` on and up to `highest`; none when there are none."""
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
