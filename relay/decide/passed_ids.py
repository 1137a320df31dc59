"""Which ids a tenure need not look at again, a bit each: what its lanes took, or found settled.

A lane keeps what is known of the last ids in a set, which the scans ask. What is older is kept here, for all lanes
together, since an id is of one lane. When a transaction that was open for long has ended, a sweep looks at the ids that
are missing here, and not at the millions beside them. SCAN.md beside this file has the reasons.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

IDS = 1 << 16
"""Ids that are kept together, 8 kB."""

MOST_KEPT = 512
"""How many times so many are kept at most: 4 MB, for 33 million ids."""

_WITH_A_GAP = re.compile(rb"[^\xff]")


class Gaps(NamedTuple):
    """What a step of a sweep has to look at."""

    ids: list[int]
    """In ascending order."""
    up_to: int
    """No other id up to here can be new."""


class PassedIds:
    """Ids above `start`. An id that is here is never new again to this tenure; what is not here may be."""

    __slots__ = ("_kept", "start")

    def __init__(self) -> None:
        self.start = 0
        """Ids up to here are not kept any more."""
        self._kept: dict[int, bytearray] = {}

    def __repr__(self) -> str:
        return f"<PassedIds {len(self._kept)} x {IDS} from {self.start}>"

    def add(self, ids: Iterable[int]) -> None:
        """Keep these; those at or below `start` are left out."""
        kept, start = self._kept, self.start
        for id_ in ids:
            if id_ <= start:
                continue
            number, place = divmod(id_, IDS)
            bits = kept.get(number)
            if bits is None:
                bits = kept[number] = bytearray(IDS // 8)
            bits[place >> 3] |= 1 << (place & 7)
        while len(kept) > MOST_KEPT:
            lowest = min(kept)
            del kept[lowest]
            self.start = max(self.start, (lowest + 1) * IDS - 1)

    def gaps(self, above: int, up_to: int, most: int) -> Gaps:
        """Return the ids with above < id <= up_to that are not here: the first `most`, and how far they reach."""
        found: list[int] = []
        for number in range((above + 1) // IDS, up_to // IDS + 1):
            first = number * IDS
            for id_ in self._missing(number):
                if above < first + id_ <= up_to:
                    found.append(first + id_)
                    if len(found) > most:
                        return Gaps(found[:most], found[most] - 1)
        return Gaps(found, up_to)

    def _missing(self, number: int) -> Iterable[int]:
        bits = self._kept.get(number)
        if bits is None:
            yield from range(IDS)
            return
        for match in _WITH_A_GAP.finditer(bits):
            index = match.start()
            byte = bits[index]
            for bit in range(8):
                if not byte >> bit & 1:
                    yield index * 8 + bit
