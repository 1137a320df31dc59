"""Judges records of a topic against the events and receipts of the table, and events that the topic does not have.

Every record is looked at, so what is done for each is written for speed: about 2 us.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from relay.decide.verify.findings import Findings
from relay.decide.verify.ids import IdSet
from relay.decide.verify.order import UNKNOWN, KeyOrder
from relay.decide.verify.places import UNKNOWN_PLACE, partition_and_offset, place_of
from relay.headers import DEAD_LETTER_TOPIC, EVENT_ID, ID, REPLAY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from relay.decide.verify.places import Places

MAX_LATE = 10_000
"""Events out of order that are kept, to be looked up among what people asked for."""

_MAX_ID = 2**63 - 1

Bounds: TypeAlias = "Mapping[int, tuple[int, int]]"
"""Of each partition, the first offset that it has and the one after the last."""


class FoundRecord(Protocol):
    """A record as the Kafka client has it."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Read(NamedTuple):
    """Some records of a partition, in order, as a reader of the topic gives them."""

    partition: int
    records: Sequence[FoundRecord]
    passed: int
    """Offsets that lie behind the reader now, of records or of what is no record any more."""


Seen: TypeAlias = "tuple[int, int, bytes | None, bool, bytes | None, bytes | None]"
"""A record that names an event: offset, id, event_id, whether a person had it published again, key, value."""


class Wanted(NamedTuple):
    """An event that the topic should have: (id, key, whether it has no payload)."""

    id: int
    key: bytes | None
    tombstone: bool


class Examiner:
    """What is known so far of one topic."""

    def __init__(self, *, key: bytes | None = None, order: KeyOrder | None = None) -> None:
        """With a key, records of other keys are passed over."""
        self.found = Findings()
        self.records = 0
        """Records that were looked at."""
        self._key = key
        self._order = order or KeyOrder()
        self._seen = IdSet()
        self._in_place = IdSet()

    def sort_out(self, partition: int, records: Iterable[FoundRecord]) -> list[Seen]:
        """Return the records that name an event, and count the others."""
        wanted = self._key
        named: list[Seen] = []
        for record in records:
            if wanted is not None and record.key != wanted:
                continue
            self.records += 1
            headers: dict[str, Any] = dict(record.headers)
            id_ = _number(headers.get(ID))
            if id_ is None or EVENT_ID not in headers:
                self.found.find("foreign", "it has no headers of an outbox", place=(partition, record.offset))
            elif DEAD_LETTER_TOPIC in headers:
                self.found.note("dead_letters")
            else:
                named.append((record.offset, id_, headers[EVENT_ID], REPLAY in headers, record.key, record.value))
        return named

    def judge(
        self,
        partition: int,
        named: Iterable[Seen],
        events: Mapping[int, Sequence[Any]],
        places: Places,
        *,
        pruned: Callable[[int], bool],
        start: int,
    ) -> None:
        """Judge records by the events of the table, rows (id, event_id, key, payload, whether it was erased) by id.

        `start` is the offset at which reading the partition began, `pruned` says whether the table has dropped an id.
        """
        for offset, id_, event_id, replayed, key, value in named:
            event = events.get(id_)
            if event is None or event[1] != event_id:
                self._unknown(id_, event, partition, offset, replayed=replayed, pruned=pruned(id_))
                continue
            if key != event[2] or (value != event[3] and not event[4]):
                what = "its key is another one" if key != event[2] else "its payload is another one"
                self.found.find("changed", what, place=(partition, offset), id_=id_)
            if replayed:
                self.found.note("replayed")
                continue
            place = places.of(id_)
            here = place_of(partition, offset)
            if place is None:
                self.found.note("pending")
            elif place in (here, UNKNOWN_PLACE) or here in places.all_of(id_):
                self._in_place.add(id_)
            elif start > place - (partition << 48) >= 0:
                # What Kafka acknowledged lies before the part that is read.
                self.found.find("repeated", "it came before", place=(partition, offset), id_=id_)
                continue
            if not self._seen.add(id_):
                self.found.find("repeated", "it came before", place=(partition, offset), id_=id_)
            elif key is not None and (later := self._order.passed_by(partition, key, id_)):
                self._came_late(id_, later, partition, offset)

    def _unknown(self, id_: int, event: object, partition: int, offset: int, *, replayed: bool, pruned: bool) -> None:
        if replayed:
            # Perhaps one of another topic, which a person had published in this one.
            self.found.note("replayed")
        elif event is None and pruned:
            self.found.note("pruned")
        else:
            what = "another event has its id" if event else "no event of this outbox and topic has its id"
            self.found.find("unknown", what, place=(partition, offset), id_=id_)

    def missing(self, wanted: Iterable[Wanted], places: Places) -> list[Wanted]:
        """Return the events with a receipt that were not found where it says, and count the others."""
        with_receipt = [event for event in wanted if event.id in places]
        absent = [event for event in with_receipt if event.id not in self._in_place]
        self.found.note("in_place", len(with_receipt) - len(absent))
        return absent

    def judge_missing(self, event: Wanted, places: Places, bounds: Bounds, *, compacted: bool) -> None:
        """Judge an event that is not where its receipt says. `compacted`: a later record may have replaced it."""
        at = sorted(places.all_of(event.id))
        known = [partition_and_offset(place) for place in at if place != UNKNOWN_PLACE]
        first = known[0] if known else None
        if any(partition in bounds and offset < bounds[partition][0] for partition, offset in known):
            self.found.note("retained_away")
        elif not known and any(begin > 0 for begin, _ in bounds.values()):
            # Kafka did not say where it is.
            self.found.note("retained_away")
        elif compacted:
            self.found.note("compacted_away")
        elif event.id in self._seen:
            self.found.find("misplaced", "it is elsewhere in the topic", place=first, id_=event.id)
        else:
            self.found.find("lost", _why_lost(known, bounds), place=first, id_=event.id)

    def settle_late(self, replayed: Callable[[int], bool]) -> None:
        """Judge the events that came after later ones of their key, knowing whether a person had one replayed."""
        for id_, later, partition, offset in self.found.late:
            if replayed(id_):
                self.found.note("replayed_late")
            else:
                self._out_of_order(id_, later, partition, offset)
        self.found.late.clear()

    def _came_late(self, id_: int, later: int, partition: int, offset: int) -> None:
        if later == UNKNOWN:
            self.found.note("order_unknown")
        elif len(self.found.late) < MAX_LATE:
            self.found.late.append((id_, later, partition, offset))
        else:
            self._out_of_order(id_, later, partition, offset)

    def _out_of_order(self, id_: int, later: int, partition: int, offset: int) -> None:
        self.found.find("out_of_order", f"event {later} of its key came before", place=(partition, offset), id_=id_)


class LaterKeys:
    """The keys of events that were told, each in its partition, in 16 MiB whatever their number.

    A key that was not told is taken for one that was with a probability of 1 to 100,000 among a million keys.
    """

    _BITS = 27

    def __init__(self) -> None:
        self._bits = bytearray(1 << (self._BITS - 3))

    def add(self, partition: int, key: bytes) -> None:
        """Tell of a key."""
        for at in self._of(partition, key):
            self._bits[at >> 3] |= 1 << (at & 7)

    def __contains__(self, told: tuple[int, bytes]) -> bool:
        """Return whether (partition, key) was told."""
        return all(self._bits[at >> 3] & (1 << (at & 7)) for at in self._of(*told))

    def _of(self, partition: int, key: bytes) -> list[int]:
        hashed = hash((partition, key, "a")) & ((1 << 54) - 1)
        mask = (1 << self._BITS) - 1
        return [hashed & mask, hashed >> self._BITS, hash((partition, key, "b")) & mask]


def _number(text: object) -> int | None:
    """Return the id that a header's value is."""
    if not isinstance(text, bytes) or not text.isdigit() or len(text) > 19:
        return None
    number = int(text)
    return number if 0 < number <= _MAX_ID else None


def _why_lost(known: Sequence[tuple[int, int]], bounds: Bounds) -> str:
    if not known:
        return "Kafka said that it had it, but not where, and it is nowhere in the topic"
    if all(partition not in bounds for partition, _ in known):
        return "the topic does not have this partition"
    if all(offset >= bounds[partition][1] for partition, offset in known if partition in bounds):
        return "the partition ends before its place: the topic was made again, or its end was lost"
    return "it is not at its place"
