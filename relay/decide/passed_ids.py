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

    def __contains__(self, id_: int) -> bool:
        number, place = divmod(id_, IDS)
        bits = self._kept.get(number)
        return bits is not None and bits[place >> 3] >> (place & 7) & 1 == 1

    def add(self, ids: Iterable[int]) -> None:
        """Keep these; those at or below `start` are left out."""
        kept, start = self._kept, self.start
        bits = bytearray()
        first = last = 0
        for id_ in ids:
            if id_ <= start:
                continue
            if not first <= id_ < last:
                number = id_ // IDS
                first, last = number * IDS, (number + 1) * IDS
                if number not in kept:
                    if len(kept) > 2 * MOST_KEPT:
                        # Sparse ids: thousands at once would come to many times as much.
                        self._drop_lowest()
                    kept[number] = bytearray(IDS // 8)
                bits = kept[number]
            place = id_ - first
            bits[place >> 3] |= 1 << (place & 7)
        if len(kept) > MOST_KEPT:
            self._drop_lowest()

    def _drop_lowest(self) -> None:
        for lowest in sorted(self._kept)[: len(self._kept) - MOST_KEPT]:
            del self._kept[lowest]
            self.start = max(self.start, (lowest + 1) * IDS - 1)

    def gaps(self, above: int, up_to: int, most: int) -> Gaps:
        """Return the ids with above < id <= up_to that are not here: the first `most`, and how far they reach."""
        found: list[int] = []
        for number in range((above + 1) // IDS, up_to // IDS + 1):
            for id_ in self._missing(number, above, up_to):
                found.append(id_)
                if len(found) > most:
                    return Gaps(found[:most], found[most] - 1)
        return Gaps(found, up_to)

    def _missing(self, number: int, above: int, up_to: int) -> Iterable[int]:
        """Those of what is kept together under this number."""
        first = number * IDS
        low, high = max(above + 1 - first, 0), min(up_to - first, IDS - 1)
        bits = self._kept.get(number)
        if bits is None:
            yield from range(first + low, first + high + 1)
        # Nearly all are full: to look at each byte would take 16 lanes 50 ms for 5,000,000 ids.
        elif bits != b"\xff" * len(bits):
            for match in _WITH_A_GAP.finditer(bits, low >> 3, (high >> 3) + 1):
                index = match.start()
                byte = bits[index]
                for place in range(max(index * 8, low), min(index * 8 + 7, high) + 1):
                    if not byte >> (place & 7) & 1:
                        yield first + place
