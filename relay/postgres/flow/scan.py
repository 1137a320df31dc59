"""Reads pending events, for the scan, for long sweeps and for the search for an event that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.decide.snapshot import Snapshot, next_xid
from relay.event import EventTuple
from relay.postgres.flow.statements import Statements
from relay.stages.scan.ports import ScanResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.event import PendingEvent
    from relay.stages.scan.ports import LaneRequest


class ScanConnection(Statements):
    """Fulfils ScanPort, SweepPort and UnreadablePort; used by one stage at a time."""

    async def scan(self, lanes: Sequence[LaneRequest], longest_sweep: int) -> ScanResult:
        """Read the next pending events of several lanes."""
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
            [each.sweep.events for each in lanes],
            [each.sweep.bytes for each in lanes],
            [each.fresh.events for each in lanes],
            [each.fresh.bytes for each in lanes],
            [number[each.sweep_start] for each in lanes],
            [bound.floor for bound in bounds],
            [each[0] for each in running],
            [str(each[1]) for each in running],
            [each[2] for each in running],
            longest_sweep,
            lowest,
        )
        return _result(rows)

    async def snapshot(self) -> Snapshot:
        """The snapshot that a scan would see now."""
        return Snapshot.parse((await self._rows("snapshot"))[0][0])

    async def sweep_step(self, lane: int, above: int, up_to: int, max_events: int, max_bytes: int) -> ScanResult:
        """Read unsettled events of one lane."""
        return _result(await self._events("sweep_step", lane, above, up_to, max_events, max_bytes))

    async def pending_ids(self, lane: int, above: int, up_to: int, max_events: int) -> list[PendingEvent]:
        """The first unsettled events of a lane, without what it may be impossible to read of them."""
        rows = await self._rows("pending_ids", lane, above, up_to, max_events)
        return [EventTuple._make([*row, None, None, None, 0, 0]) for row in rows]

    async def quiet_transactions(self, xids: Sequence[int]) -> list[int]:
        """Those of `xids` that are running and had taken no event id when the statement looked."""
        # pg_locks shows xids without their epoch, as 32 bits.
        full = {str(xid & 0xFFFFFFFF): xid for xid in xids}
        return [full[row[0]] for row in await self._rows("quiet_transactions", list(full))]


def _result(rows: list[PendingEvent]) -> ScanResult:
    """Take what the statement says about itself out of its first row, and leave the events.

    One statement has one type of row and one snapshot, and what is read of the snapshot and the sequence must be of the
    same as the events. So a head row comes first, whose columns only have the names of an event's: the snapshot is in
    `topic`, the sequence's value in `id`, and in `size` how many xids were taken, modulo 2^32.
    """
    head = rows[0]
    del rows[0]
    snapshot = Snapshot.parse(head.topic)
    return ScanResult(snapshot, head.id, next_xid(head.size, snapshot), rows)
