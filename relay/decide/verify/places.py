"""Where receipts say that events are, one number for each place."""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

UNKNOWN_PLACE = -1
"""Kafka had the batch already, and did not say where."""

_OFFSET_BITS = 48


def place_of(partition: int, offset: int) -> int:
    """Return the number of a place."""
    return partition << _OFFSET_BITS | offset


def partition_and_offset(place: int) -> tuple[int, int]:
    """Return the place that a number stands for."""
    return place >> _OFFSET_BITS, place & ((1 << _OFFSET_BITS) - 1)


class ReceiptRow(NamedTuple):
    """A receipt of some events of a record batch, as the table has it."""

    max_id: int
    min_id: int
    base_offset: int
    """-1 if Kafka did not say where."""
    kafka_partition: int
    ids: bytes
    """An int4 for each place: the id less `min_id`, or -1 for one that is left out."""

    def events(self) -> Iterator[tuple[int, int]]:
        """Yield a pair (id, place) for each event."""
        start = place_of(self.kafka_partition, max(self.base_offset, 0))
        for number, difference in enumerate(_differences(self.ids)):
            if difference >= 0:
                yield self.min_id + difference, UNKNOWN_PLACE if self.base_offset < 0 else start + number


class Places:
    """The places of events, by id. An event that two owners published has two."""

    def __init__(self, rows: Iterable[ReceiptRow]) -> None:
        self._first: dict[int, int] = {}
        self._more: dict[int, set[int]] = {}
        for row in rows:
            self._add(row)

    def of(self, id_: int) -> int | None:
        """Return a place of the event; None if it has no receipt."""
        return self._first.get(id_)

    def all_of(self, id_: int) -> set[int]:
        """Return all places of the event."""
        place = self._first.get(id_)
        return set() if place is None else {place} | self._more.get(id_, set())

    def __contains__(self, id_: int) -> bool:
        """Return whether the event has a receipt."""
        return id_ in self._first

    def _add(self, row: ReceiptRow) -> None:
        differences = _differences(row.ids)
        known = len(self._first)
        if row.base_offset >= 0 and min(differences, default=0) >= 0:
            # The way of nearly every receipt, without a step in Python for each event.
            start = place_of(row.kafka_partition, row.base_offset)
            new = dict(zip(map(row.min_id.__add__, differences), range(start, start + len(differences)), strict=True))
            if len(new) == len(differences) and (not known or new.keys().isdisjoint(self._first)):
                self._first.update(new)
                return
        for id_, place in row.events():
            if self._first.setdefault(id_, place) != place:
                self._more.setdefault(id_, set()).add(place)


def _differences(ids: bytes) -> array[int]:
    found = array("i")
    if len(ids) % found.itemsize == 0:
        # What somebody has cut names no event.
        found.frombytes(ids)
    if sys.byteorder == "little":
        found.byteswap()
    return found
