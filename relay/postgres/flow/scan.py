"""Reads pending events, for the scan, for long sweeps and for the search for an event that cannot be read."""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from relay.decide.receipted import ReceiptedIds, numbers
from relay.decide.snapshot import Snapshot, next_xid
from relay.errors import StatementFailedError
from relay.event import EVENT_ID, ID, LANE, PAYLOAD, SIZE, EventTuple, size_of
from relay.postgres.flow.statements import Statements
from relay.stages.scan.ports import ID_MAX, ScanResult, StepResult, WantedEvents

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    import asyncpg

    from relay.event import PendingEvent
    from relay.stages.scan.ports import LaneRequest


LITTLE_IDS = 250
"""Number of ids that may be new, or were taken lately, up to which a look is worth while."""

MOST_ROWS = 500
"""Rows of a look; with so many, it was not little."""

MOST_BYTES = 8_192
"""Of a payload that a look reads. With those that were taken before, it reads 4 MB at the most."""

_place_of = itemgetter(LANE, ID)


class ScanConnection(Statements):
    """Fulfils ScanPort, SweepPort and UnreadablePort; used by one stage at a time."""

    def __init__(self, connection: asyncpg.Connection, schema: str) -> None:
        super().__init__(connection, schema)
        self._receipted = ReceiptedIds()
        self._newest: int | None = None
        """The last event id that was taken, as of the last scan."""
        self._look_above = -1
        """Up to this id, a look met an event that it could not read."""

    async def scan(self, lanes: Sequence[LaneRequest]) -> ScanResult:
        """Read what several lanes have above their starts: by a look if that is little, which is cheaper."""
        result = await self._look(lanes) if self._is_little(lanes) else None
        if result is None:
            result = await self._scan(lanes)
        self._newest = result.sequence_value
        return result

    def _is_little(self, lanes: Sequence[LaneRequest]) -> bool:
        lowest = min(each.nothing_new_to for each in lanes)
        return (
            self._newest is not None
            and self._newest - lowest <= LITTLE_IDS
            and lowest >= self._look_above
            and all(each.nothing_new_to >= each.known_from for each in lanes)
        )

    async def _look(self, lanes: Sequence[LaneRequest]) -> ScanResult | None:
        """Read everything above the lowest id that may be new; None if it is more than the lanes may give, or a row is
        unreadable.

        A lane is looked at from where nothing was new, whichever transactions have ended: it knows what lies between
        there and its start.
        """
        lowest = min(each.nothing_new_to for each in lanes)
        try:
            rows = await self._events("look", [each.lane for each in lanes], lowest, MOST_ROWS, MOST_BYTES)
        except StatementFailedError:
            # Perhaps an event that failed for this very reason: a scan reads no more than the ids of what is known.
            self._look_above = self._newest or 0
            return None
        if len(rows) > MOST_ROWS:
            return None
        head, *events = rows
        divided = _divided(events, lanes)
        if divided is None:
            return None
        snapshot = Snapshot.parse(head.topic)
        return ScanResult(snapshot, head.id, next_xid(head.size, snapshot), *divided)

    async def _scan(self, lanes: Sequence[LaneRequest]) -> ScanResult:
        # Most lanes have the same bound: each goes to PostgreSQL once, and the lanes say its number.
        bounds = list(dict.fromkeys(lane.sweep_start for lane in lanes))
        number = {bound: index for index, bound in enumerate(bounds, start=1)}
        running = [(number[bound], xid, floor) for bound in bounds for xid, floor in bound.running]
        lowest = min(
            *(each.taken_to for each in lanes), *(bound.floor for bound in bounds), *(floor for _, _, floor in running)
        )
        rows = await self._events(
            "scan",
            [each.lane for each in lanes],
            [each.taken_to for each in lanes],
            [each.known_from for each in lanes],
            [each.fresh.events for each in lanes],
            [each.fresh.bytes for each in lanes],
            [number[each.sweep_start] for each in lanes],
            [bound.floor for bound in bounds],
            [each[0] for each in running],
            [str(each[1]) for each in running],
            [each[2] for each in running],
            lowest,
        )
        head, lists = _split(rows)
        snapshot = Snapshot.parse(head.topic)
        return ScanResult(snapshot, head.id, next_xid(head.size, snapshot), lists, rows)

    async def events_by_id(self, wanted: Sequence[WantedEvents]) -> list[PendingEvent]:
        """Read events by their ids."""
        flat = [(each.lane, id_, each.bytes) for each in wanted for id_ in each.ids]
        lanes, ids, limits = map(list, zip(*flat, strict=True))
        return await self._events("events_by_id", lanes, ids, limits, min(ids), max(ids))

    async def snapshot(self) -> Snapshot:
        """The snapshot that a scan would see now."""
        return Snapshot.parse((await self._rows("snapshot"))[0][0])

    async def sweep_step(
        self, lane: int, above: int, up_to: int, max_events: int, max_bytes: int, settled_from: int = ID_MAX
    ) -> StepResult:
        """Read unsettled events of one lane, and which of the others are settled."""
        step = await self._step(lane, above, up_to)
        return await self._result(lane, step, sorted(step.ids - step.settled), max_events, max_bytes, settled_from)

    async def new_step(
        self,
        lane: int,
        above: int,
        up_to: int,
        max_events: int,
        max_bytes: int,
        new: Callable[[Collection[int]], list[int]],
    ) -> StepResult:
        """Read the new events of one lane, and leave the others aside by their ids."""
        step = await self._ids("range_ids", lane, above, up_to)
        return await self._result(lane, step, new(step.ids), max_events, max_bytes, ID_MAX)

    async def gap_step(self, lane: int, ids: Sequence[int], max_events: int, max_bytes: int) -> StepResult:
        """Read those events of one lane that have one of these ids."""
        step = await self._ids("gap_ids", lane, ids, ids[0] if ids else 0, ids[-1] if ids else 0)
        return await self._result(lane, step, sorted(step.ids), max_events, max_bytes, ID_MAX)

    async def _ids(self, name: str, *asked: object) -> _Step:
        ((value, snapshot, xids, found),) = await self._rows(name, *asked)
        seen = Snapshot.parse(snapshot)
        return _Step(seen, value, next_xid(xids, seen), set(numbers("q", found or b"")), set())

    async def _result(
        self, lane: int, step: _Step, unsettled: list[int], max_events: int, max_bytes: int, settled_from: int
    ) -> StepResult:
        wanted = unsettled[:max_events]
        events = await self.events_by_id([WantedEvents(lane, wanted, max_bytes)]) if wanted else []
        # If none is left, all that was asked for is gone. One that is gone behind the last is asked for again.
        left = unsettled[bisect_right(unsettled, events[-1][ID]) if events else len(wanted) :]
        settled = [id_ for id_ in step.settled if id_ > settled_from]
        return StepResult(step.snapshot, step.sequence_value, step.next_xid, settled, events, left)

    async def pending_ids(self, lane: int, above: int, up_to: int, max_events: int) -> list[PendingEvent]:
        """The first unsettled events of a lane, without what it may be impossible to read of them."""
        step = await self._step(lane, above, up_to)
        unsettled = sorted(step.ids - step.settled)[:max_events]
        rows = await self._rows("events_without_content", [lane] * len(unsettled), unsettled)
        return [EventTuple._make([*row, None, None, None, 0, 0]) for row in rows]

    async def _step(self, lane: int, above: int, up_to: int) -> _Step:
        ((value, snapshot, xids, ids, recorded, receipts),) = await self._rows("sweep_ids", lane, above, up_to)
        seen = Snapshot.parse(snapshot)
        visible = set(numbers("q", ids or b""))
        settled = visible.intersection(numbers("q", recorded or b""))
        settled |= self._receipted.named(visible, receipts or b"")
        return _Step(seen, value, next_xid(xids, seen), visible, settled)

    async def quiet_transactions(self, xids: Sequence[int]) -> list[int]:
        """Those of `xids` that are running and had taken no event id when the statement looked."""
        # pg_locks shows xids without their epoch, as 32 bits.
        full = {str(xid & 0xFFFFFFFF): xid for xid in xids}
        return [full[row[0]] for row in await self._rows("quiet_transactions", list(full))]


class _Step(NamedTuple):
    """What one snapshot shows of the events of a lane, in a range of ids."""

    snapshot: Snapshot
    sequence_value: int
    next_xid: int
    ids: set[int]
    """Of the visible ones."""
    settled: set[int]
    """Of those with a receipt, a failure or a held row."""


def _divided(
    events: list[PendingEvent], lanes: Sequence[LaneRequest]
) -> tuple[dict[int, list[int]], list[PendingEvent]] | None:
    """Divide what a look met into ids by lane that may be new, and fresh events; None if a scan has to read them."""
    asked = {each.lane: each for each in lanes}
    swept: dict[int, list[int]] = {}
    fresh: dict[int, list[PendingEvent]] = {}
    for event in sorted(events, key=_place_of):
        lane, id_ = event[LANE], event[ID]
        request = asked[lane]
        if id_ > request.taken_to:
            if event[PAYLOAD] is None and event[SIZE] > MOST_BYTES:
                return None
            fresh.setdefault(lane, []).append(event)
        elif id_ > request.nothing_new_to:
            swept.setdefault(lane, []).append(id_)
    for lane, found in fresh.items():
        most = asked[lane].fresh
        if len(found) > most.events or sum(map(size_of, found)) > most.bytes:
            return None
    return swept, [event for found in fresh.values() for event in found]


def _split(rows: list[PendingEvent]) -> tuple[PendingEvent, dict[int, list[int]]]:
    """Take the rows that are no events out of a statement's; returns the first, and by lane the ids in the others.

    One statement has one type of row and one snapshot, and what is read of the snapshot and the sequence must be of the
    same as the events. So these rows come first, whose columns only have the names of an event's. In the head row, the
    snapshot is in `topic`, the sequence's value in `id`, and in `size` how many xids were taken, modulo 2^32. In the
    others, `topic` has ids as text: as rows of their own they would cost ten times as much.
    """
    first = next((index for index in range(1, len(rows)) if rows[index][EVENT_ID] is not None), len(rows))
    head, *lists = rows[:first]
    del rows[:first]
    return head, {row.lane: list(map(int, row.topic.split(","))) for row in lists}
