"""An event that PostgreSQL cannot give out: found by halving, and failed without being read.

A time that is infinite, text in a database without an encoding: one such row would fail every scan of its lane, and
with it those of all others.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple, Protocol

from relay.errors import StatementFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.decide.lane_scan import LaneScan
    from relay.event import PendingEvent
    from relay.postgres.flow.outbox import ScanResult
    from relay.stages.tenure import Tenure

ID_MAX = 2**63 - 1

WAIT = 0.1
"""Seconds until the next look whether a failure is recorded."""


class UnreadablePort(Protocol):
    """What is needed of PostgreSQL to find one."""

    async def sweep_step(self, lane: int, above: int, up_to: int, events: int, size: int) -> ScanResult:
        """Read unsettled events of one lane."""

    async def pending_ids(self, lane: int, above: int, up_to: int, most: int) -> list[PendingEvent]:
        """The first unsettled events of a lane, without what it may be impossible to read of them."""


class Found(NamedTuple):
    """An event that cannot be read."""

    event: PendingEvent
    first: bool
    """Whether everything before it was taken. If not that goes first: behind a failure of its key it would be held."""


class Unreadable:
    """Looks for them when a read failed. What it reads itself is thrown away, so no snapshot or xid counts."""

    def __init__(self, port: UnreadablePort, tenure: Tenure, fail: Callable[[Tenure, PendingEvent, str], None]) -> None:
        self._port = port
        self._tenure = tenure
        self._fail = fail

    async def find(self, state: LaneScan, above: int, up_to: int, events: int, size: int) -> Found | None:
        """The first event that a read of above < id <= up_to with these bounds met and cannot read; None if it can
        read all of them, so that something else is the matter."""
        waiting = await self._port.pending_ids(state.lane, above, up_to, events)
        if not waiting or await self._readable(state.lane, above, waiting[-1][1], events, size):
            return None
        low, high = 0, len(waiting) - 1
        while low < high:
            middle = (low + high) // 2
            if await self._readable(state.lane, above, waiting[middle][1], events, size):
                low = middle + 1
            else:
                high = middle
        return Found(waiting[low], all(event[1] in state.taken for event in waiting[:low]))

    async def fail(self, state: LaneScan, event: PendingEvent, error: StatementFailedError) -> None:
        """Let it have failed, unless it has and that is not committed yet; then wait a little.

        And unless an earlier event is under way: of the same key, it would be held behind this one's failure if it came
        back, or by the next owner.
        """
        if event[1] in state.taken or not state.all_settled_below(event[1]):
            await asyncio.sleep(WAIT)
            return
        state.taken.add(event[1])
        self._tenure.room.add(state.lane, [event])
        self._fail(self._tenure, event, f"the event cannot be read: {error}")

    async def _readable(self, lane: int, above: int, up_to: int, events: int, size: int) -> bool:
        try:
            await self._port.sweep_step(lane, above, up_to, events, size)
        except StatementFailedError:
            return False
        return True
