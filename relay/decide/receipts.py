"""How receipts are stored: one row for each run of events that Kafka acknowledged as part of one record batch.

A row names its events by the differences of their ids to the lowest one, as signed integers of four bytes in network
order, in the order of the batch. The offset of an event is that of the row's first place plus the event's number.
"""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SPAN = 131_072
"""The highest id of a row is less than this above its lowest. A CHECK holds every row to it: what was delivered between
two ids is found by a range of `max_id` that is wider by so much."""

MOST_PLACES = 448
"""Places of a row: with these it is stored as a whole, and four rows fill a page."""

LEFT_OUT = -1
"""In the place of an id whose receipt is not to be written. (0 is the lowest id's own difference.)"""


class ReceiptRow(NamedTuple):
    """A row of `outbox.receipt`, as far as it is about the events."""

    max_id: int
    min_id: int
    base_offset: int
    """-1 when the broker did not say, for all places of the row then."""
    ids: bytes


def receipt_rows(ids: Sequence[int], base_offset: int) -> Iterator[ReceiptRow]:
    """Return the rows for events with these ids, in the order of their offsets, which begin with `base_offset`.

    An id of LEFT_OUT gets no receipt. Most batches are one row. An event that is much older than those beside it is in
    a row of its own, as one of a long transaction.
    """
    begin = 0
    count = len(ids)
    while begin < count:
        end, lowest, highest = _run(ids, begin)
        if highest:
            places = array("i", [id_ - lowest if id_ >= 0 else LEFT_OUT for id_ in ids[begin:end]])
            if sys.byteorder == "little":
                places.byteswap()
            yield ReceiptRow(
                highest, lowest, base_offset + begin if base_offset >= 0 else base_offset, places.tobytes()
            )
        begin = end


def _run(ids: Sequence[int], begin: int) -> tuple[int, int, int]:
    """Return where the run of one row ends, and its lowest and highest id; 0 for a run without any."""
    end = min(begin + MOST_PLACES, len(ids))
    run = ids[begin:end]
    lowest, highest = min(run), max(run)
    if lowest >= 0 and highest - lowest < SPAN:
        return end, lowest, highest
    lowest = highest = 0
    for index, id_ in enumerate(run):
        if id_ < 0:
            continue
        low, high = (min(lowest, id_), max(highest, id_)) if highest else (id_, id_)
        if high - low >= SPAN:
            return begin + index, lowest, highest
        lowest, highest = low, high
    return end, lowest, highest
