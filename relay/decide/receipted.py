"""What a sweep reads of receipts, taken apart.

A receipt names ids of all lanes, and each lane has a sweep of its own. So the 16 sweeps after a take-over read the same
receipts one after another: what was taken apart for one is kept for the others.
"""

from __future__ import annotations

import sys
from array import array
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_HEAD = Struct(">qqI")
"""Before the places of each receipt: its lowest id, its highest one, and the number of bytes that follow."""

_PLACE_BYTES = 4

_IDS = 1 << 16
"""Ids that are kept together, a byte each."""

_MOST_KEPT = 64
"""How many times so many are kept: 7 MB with what tells the receipts apart, and more ids than a lane goes through
before it is the next one's turn."""


class ReceiptedIds:
    """The ids that the receipts name which were read so far: what was committed once stays."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[bytearray, set[int]]] = {}
        """By number of the range of ids: a byte for each id, and the receipts that were taken apart."""

    def named(self, ids: Collection[int], receipts: bytes) -> set[int]:
        """Return those of `ids` that a receipt names.

        `receipts` are all that may name some, one behind the other. One that somebody has cut, so that its last place
        is incomplete, names none: its places may be anything.
        """
        ranges = {number: self._range(number) for number in sorted({id_ // _IDS for id_ in ids})}
        position = 0
        while position < len(receipts):
            lowest, highest, size = _HEAD.unpack_from(receipts, position)
            position += _HEAD.size
            places = receipts[position : position + size]
            position += size
            receipt = hash((lowest, places))
            first, last = lowest // _IDS, highest // _IDS
            for number, (flags, known) in ranges.items():
                if first <= number <= last and receipt not in known:
                    known.add(receipt)
                    _mark(flags, lowest - number * _IDS, places)
        return {id_ for id_ in ids if ranges[id_ // _IDS][0][id_ % _IDS]}

    def _range(self, number: int) -> tuple[bytearray, set[int]]:
        # To the end: the first ones are those that were not asked for since long.
        kept = self._kept.pop(number, None) or (bytearray(_IDS), set())
        self._kept[number] = kept
        if len(self._kept) > _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        return kept


def _mark(flags: bytearray, offset: int, text: bytes) -> None:
    """Set the flags of the places of a receipt whose lowest id has the index `offset`."""
    if not text or len(text) % _PLACE_BYTES:
        return
    places = numbers("i", text)
    if min(places) < 0 or offset < 0 or offset + max(places) >= len(flags):
        places = array("i", [place for place in places if place >= 0 and 0 <= offset + place < len(flags)])
    for place in places:
        flags[offset + place] = 1


def numbers(typecode: str, text: bytes) -> array[int]:
    """Return the integers of a text in network order."""
    found = array(typecode)
    found.frombytes(text)
    if sys.byteorder == "little":
        found.byteswap()
    return found
