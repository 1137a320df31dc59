"""An event that PostgreSQL cannot give out: found by halving, and failed without being read.

A time that is infinite, text in a database without an encoding: one such row would fail every scan of its lane, and
with it those of all others.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from relay.errors import StatementFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.decide.lane_scan import LaneScan
    from relay.event import PendingEvent
    from relay.stages.scan.ports import UnreadablePort
    from relay.stages.tenure import Tenure

WAIT = 0.1
"""Seconds to wait for a failure to be recorded, before the lane is looked at again."""


class Found(NamedTuple):
    """An event that cannot be read."""

    event: PendingEvent
    first: bool
    """Whether everything before it was taken. If not, that goes first: it would be held behind a failure of its key."""


class Unreadable:
    """Finds such events when a read failed. It throws away what it reads, so no snapshot or xid of it counts."""

    def __init__(self, port: UnreadablePort, tenure: Tenure, fail: Callable[[Tenure, PendingEvent, str], None]) -> None:
        self._port = port
        self._tenure = tenure
        self._fail = fail

    async def find(self, state: LaneScan, above: int, up_to: int, max_events: int, max_bytes: int) -> Found | None:
        """Find the first event that cannot be read, of those that a read of above < id <= up_to would meet.

        The read's bounds are `max_events` and `max_bytes`. None if all of them can be read, so that something else is
        the matter.
        """
        waiting = await self._port.pending_ids(state.lane, above, up_to, max_events)
        if not waiting or await self._readable(state.lane, above, waiting[-1].id, max_events, max_bytes):
            return None
        low, high = 0, len(waiting) - 1
        while low < high:
            middle = (low + high) // 2
            if await self._readable(state.lane, above, waiting[middle].id, max_events, max_bytes):
                low = middle + 1
            else:
                high = middle
        return Found(waiting[low], all(event.id in state.taken for event in waiting[:low]))

    async def fail(self, state: LaneScan, event: PendingEvent, error: StatementFailedError) -> None:
        """Let the event fail; wait a little instead if its failure, or an earlier event's outcome, is not committed.

        An earlier event of the key would be held behind this failure if it came back, or by the lane's next owner.
        """
        if event.id in state.taken or not state.all_settled_below(event.id):
            await asyncio.sleep(WAIT)
            return
        state.take_unread(event.id)
        self._tenure.room.add(state.lane, [event])
        self._fail(self._tenure, event, f"the event cannot be read: {error}")

    async def _readable(self, lane: int, above: int, up_to: int, max_events: int, max_bytes: int) -> bool:
        try:
            await self._port.sweep_step(lane, above, up_to, max_events, max_bytes)
        except StatementFailedError:
            return False
        return True
