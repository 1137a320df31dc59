"""Which events two registrations have published, by their receipts, and in which parts one asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from relay.decide.receipted import numbers

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

PART_RECEIPTS = 512
"""Of others, in one part; with the two numbers below, looking at it takes PostgreSQL some milliseconds."""

PART_PLACES = 4_096
"""The events that these receipts name: to go through them costs the relay some milliseconds, too."""

PART_IDS = 32_768
"""From the first one's highest id to the last one's: tables are read over these ids and over those that they name."""

PART_READ = 1 << 19
"""Ids of which the receipts are gone through for others': 0.2 s where each event has a receipt of its own."""

SMALLEST = 9
"""How often a part can be halved."""

GIVEN_UP_BY = 2
"""How often it is halved at once when it took too long."""

_LAST = UUID(int=(1 << 128) - 1)


class OthersReceipt(NamedTuple):
    """A receipt of another registration that was not committed when a lane of its events was claimed here."""

    max_id: int
    replica: UUID
    late: bool
    """Whether its statement knew that the registration had lost a lane."""
    twice: Sequence[int]
    """Ids of our lanes that have a receipt for another place in Kafka."""
    open: int
    """Number of other events of our lanes that may still get one."""


class SeenLane(NamedTuple):
    """A lane that is owned here, in the snapshot of a look."""

    lane: int
    claim: int
    """The number of its claim."""
    newest_id: int
    """The last id that anybody had taken when it was claimed."""
    position: int
    ids: Collection[int]
    """Of its events, among the ids that are looked at."""


class SeenReceipt(NamedTuple):
    """A receipt in the snapshot of a look."""

    max_id: int
    min_id: int
    replica: UUID
    late: bool
    xid: int
    partition: int
    base_offset: int
    ids: bytes
    unseen: Collection[int]
    """The numbers of the claims that did not see it; empty for one that is there to compare with."""

    def named(self) -> list[tuple[int, int]]:
        """Each id with its number in the receipt. One that somebody has cut names none: its places may be anything."""
        if len(self.ids) % 4:
            return []
        lowest = self.min_id
        return [(lowest + each, number) for number, each in enumerate(numbers("i", self.ids)) if each >= 0]


class Part(NamedTuple):
    """Some of the receipts of others, in the order of highest id and registration."""

    after: tuple[int, UUID]
    """The last one before these."""
    up_to: int
    """No higher id is gone through."""
    receipts: int
    places: int
    ids: int


class Looked(NamedTuple):
    """What a part of the receipts shows."""

    receipts: list[OthersReceipt]
    more: bool
    """Whether some are left out between the last one and the end of what was to be gone through."""


class Parts:
    """Goes through the receipts part by part, round after round. A part that takes too long is tried again, smaller."""

    def __init__(self) -> None:
        self._after: tuple[int, UUID] | None = None
        self._halved = 0

    @property
    def between_rounds(self) -> bool:
        """Whether the next part is the first one of a round."""
        return self._after is None

    def next(self, above: int, up_to: int) -> Part:
        """Return the next part of a round through the receipts with `above` < highest id <= `up_to`."""
        after = self._after or (above, _LAST)
        return Part(
            after,
            min(up_to, after[0] + (PART_READ >> self._halved)),
            max(1, PART_RECEIPTS >> self._halved),
            max(1, PART_PLACES >> self._halved),
            max(1, PART_IDS >> self._halved),
        )

    def looked_at(self, part: Part, looked: Looked, up_to: int, *, quickly: bool) -> None:
        """Go on behind it, and with larger ones if that went `quickly`; behind the last part a round is over."""
        last = max(((each.max_id, each.replica) for each in looked.receipts), default=part.after)
        self._after = last if looked.more else (part.up_to, _LAST)
        if not looked.more and part.up_to >= up_to:
            self._after = None
        if quickly and self._halved:
            self._halved -= 1

    def given_up(self) -> bool:
        """Make it smaller; returns whether that can be done."""
        smaller = self._halved < SMALLEST
        self._halved = min(SMALLEST, self._halved + GIVEN_UP_BY)
        return smaller


def delivered_twice(lanes: Sequence[SeenLane], receipts: Sequence[SeenReceipt]) -> list[OthersReceipt]:
    """Return the receipts of others, with what became of their events. Each is counted at each place but the first.

    Of two late receipts of one event, the later one counts.
    """
    others = [(receipt, receipt.named()) for receipt in receipts if receipt.unseen]
    ids = {id_ for _, named in others for id_, _ in named}
    lane_of = {id_: lane for lane in lanes for id_ in ids.intersection(lane.ids)}
    # An event has two receipts or three: what is looked through for each is short.
    known: dict[int, list[tuple[SeenReceipt, int]]] = {id_: [] for id_ in lane_of}
    for receipt in receipts:
        for id_, number in receipt.named():
            if id_ in known:
                known[id_].append((receipt, number))
    found: list[OthersReceipt] = []
    for receipt, named in others:
        twice: list[int] = []
        open_ = 0
        for id_, number in named:
            lane = lane_of.get(id_)
            if lane is None or lane.claim not in receipt.unseen or id_ > lane.newest_id:
                continue
            for other, at in known[id_]:
                if other is not receipt and _is_second(receipt, number, other, at):
                    twice.append(id_)
                    break
            else:
                open_ += id_ > lane.position
        found.append(OthersReceipt(receipt.max_id, receipt.replica, receipt.late, twice, open_))
    return found


def _is_second(receipt: SeenReceipt, number: int, other: SeenReceipt, at: int) -> bool:
    """Whether the event with this number in `receipt` was published once more than the one of `other`."""
    if other.replica == receipt.replica or (other.late and not (receipt.late and other.xid < receipt.xid)):
        return False
    if other.partition != receipt.partition:
        return True
    # -1: the broker did not say.
    first, second = other.base_offset, receipt.base_offset
    return (first + at if first >= 0 else -1) != (second + number if second >= 0 else -1)
