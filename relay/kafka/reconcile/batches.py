"""Walks over the record batches at the end of a partition. Decides only; no I/O.

Of each batch only the 61 bytes of its header are read, which are never compressed. Records are unpacked of those
batches alone that a wanted producer wrote: reading is three to four times as fast as a consumer's.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from uuid import UUID

from aiokafka.record.memory_records import MemoryRecords

from relay.headers import EVENT_ID, ID
from relay.stages.reconcile.ports import Found, FoundEvent, Trouble, TroubleKind
from relay.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from relay.stages.reconcile.ports import Tail

HEADER = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length of what follows, leader epoch, magic, CRC, attributes, last offset delta, first and last time,
producer id, producer epoch, base sequence, number of records."""

_LENGTH_ENDS = 12
"""Bytes of a batch up to the end of its length."""
_MAGIC = 2
"""Version of the format. Producers with an id write no other."""
_CONTROL = 0x20
"""The attribute of a marker."""

_MAX_ID = 2**63 - 1
_SEQUENCES = 2**31
"""A producer's sequence numbers begin again at 0 there."""


class Walk:
    """One partition's batches, in the pieces in which they are fetched, from where a Tail begins to its end."""

    def __init__(self, tail: Tail, most_bytes: int) -> None:
        self._tail = tail
        self._most_bytes = most_bytes
        self._expected = tail.begin
        """Offset at which the next batch has to begin, or below."""
        self._markers = {producer: epoch for producer, epoch in tail.ends.items() if epoch is not None}
        """The markers to wait for: producer id -> lowest epoch."""
        self._sequences: dict[int, int] = {}
        """The last sequences to wait for, of producers without a marker."""
        self._up_to: int | None = None
        """Offset up to which at least to read, where no marker says where the end is."""
        self.bytes = 0
        self.trouble: Trouble | None = None
        """Why reading has to end before its end."""
        # One below, because the batch there may be the last one of a producer, all of which has its receipts.
        self.fetch_from = tail.begin - 1 if self.unmarked and tail.begin else tail.begin
        """Offset to fetch from."""

    @property
    def unmarked(self) -> list[int]:
        """The wanted producers that have no marker."""
        return [producer for producer, epoch in self._tail.ends.items() if epoch is None]

    def expect(self, last_sequences: Mapping[int, int]) -> None:
        """Wait for these last sequences of producers without a marker, as far as the leader knows any."""
        self._sequences = {each: last_sequences[each] for each in self.unmarked if each in last_sequences}

    def saw_high_watermark(self, high_watermark: int) -> None:
        """Take note of the end of what can be read. Only the first one after `expect` counts."""
        if self._up_to is None:
            self._up_to = high_watermark

    @property
    def at_end(self) -> bool:
        """Whether all has been read that there was, with nothing but last sequences to wait for."""
        return not self._markers and (not self.unmarked or (self._up_to is not None and self._expected >= self._up_to))

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to read."""
        return self.trouble is not None or (self.at_end and not self._sequences)

    def out_of_range(self) -> None:
        """The log does not have the offset to fetch from."""
        if self.fetch_from < self._tail.begin:
            self.fetch_from = self._tail.begin
        else:
            self._hole("that offset is not in the log")

    def take(self, fetched: bytes) -> list[Found]:
        """Walk over the whole batches in `fetched`, and return what wanted producers wrote."""
        found: list[Found] = []
        size, begin = len(fetched), 0
        wanted, unpack = self._tail.ends, HEADER.unpack_from
        while begin + HEADER.size <= size and not self.ended:
            base, length, _, magic, _, attributes, last, _, _, producer, epoch, sequence, count = unpack(fetched, begin)
            end = begin + _LENGTH_ENDS + length
            if end > size:
                # Kafka cuts the last batch off where the request's limit is.
                break
            if base > self._expected:
                self._hole(f"the next record is at {base}")
            elif magic != _MAGIC or count != last + 1:
                self._hole(f"of the record batch at {base} something is gone, or its format is an old one")
            else:
                if producer in wanted:
                    if attributes & _CONTROL:
                        self._saw_marker(producer, epoch)
                    else:
                        self._unpack(fetched[begin:end], base, found)
                        self._saw_sequence(producer, (sequence + last) % _SEQUENCES)
                self._expected = self.fetch_from = base + last + 1
                begin = end
        self.bytes += begin
        if self.bytes >= self._most_bytes and not self.ended:
            self.trouble = Trouble(TroubleKind.BYTES, f"more than {self._most_bytes:,} bytes of {self._where()}")
        return found

    def _where(self) -> str:
        place = self._tail.place
        return f"partition {place.partition} of {place.topic} were to be read from offset {self._tail.begin} on"

    def _hole(self, why: str) -> None:
        place = self._tail.place
        self.trouble = Trouble(
            TroubleKind.HOLE,
            f"partition {place.partition} of {place.topic} cannot be read from offset {self._expected} on: {why}",
        )

    def _saw_marker(self, producer: int, epoch: int) -> None:
        wanted = self._markers.get(producer)
        if wanted is not None and epoch >= wanted:
            del self._markers[producer]

    def _saw_sequence(self, producer: int, last: int) -> None:
        if self._sequences.get(producer) == last:
            del self._sequences[producer]

    def _unpack(self, batch: bytes, base: int, found: list[Found]) -> None:
        try:
            events = events_of(batch)
        except Exception as error:  # noqa: BLE001 each codec has errors of its own
            self._hole(f"the record batch at {base} cannot be read ({one_line(error)})")
            return
        # A batch may begin below, of which all has its receipts.
        below = max(0, self._tail.begin - base)
        if below < len(events):
            found.append(Found(self._tail.place, base + below, events[below:]))


def events_of(batch: bytes) -> list[FoundEvent | None]:
    """Return the events in a record batch. Raises any error if it cannot be unpacked."""
    records = MemoryRecords(batch).next_batch()
    return [_event(record.key, dict(record.headers)) for record in records] if records is not None else []


def _event(key: bytes | None, headers: dict[str, bytes | None]) -> FoundEvent | None:
    """Return what the headers say; of several with one name the last one is in `headers`, and the relay's."""
    number, event_id = headers.get(ID), headers.get(EVENT_ID)
    if number is None or event_id is None or not number.isdigit() or int(number) > _MAX_ID:
        return None
    try:
        return FoundEvent(int(number), UUID(event_id.decode()), key)
    except ValueError:
        return None
