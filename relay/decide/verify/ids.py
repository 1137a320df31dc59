"""A set of ids that takes a bit for each id between those that are in it: millions of events in some megabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_PAGE = 16
"""Of an id, the bits that are its place in a page: a page has 8 KiB."""
_MASK = (1 << _PAGE) - 1


class IdSet:
    """A set of ids."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def add(self, id_: int) -> bool:
        """Add an id; False if it was there already."""
        page = self._pages.get(id_ >> _PAGE)
        if page is None:
            page = self._pages[id_ >> _PAGE] = bytearray((_MASK + 1) >> 3)
        at, bit = (id_ & _MASK) >> 3, 1 << (id_ & 7)
        if page[at] & bit:
            return False
        page[at] |= bit
        return True

    def __contains__(self, id_: int) -> bool:
        """Return whether an id was added."""
        page = self._pages.get(id_ >> _PAGE)
        return page is not None and bool(page[(id_ & _MASK) >> 3] & (1 << (id_ & 7)))


def ranges(ids: Sequence[int], gap: int) -> list[tuple[int, int]]:
    """Return ascending ids as ranges (above, up to), none of which leaves out `gap` ids one after the other."""
    found: list[tuple[int, int]] = []
    for id_ in ids:
        if found and id_ - found[-1][1] <= gap:
            found[-1] = found[-1][0], id_
        else:
            found.append((id_ - 1, id_))
    return found
