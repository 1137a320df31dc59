"""Long sweeps, step by step on a connection of their own, while the other lanes' scans go on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from relay.decide.lane_scan import Reach
from relay.errors import StatementFailedError

if TYPE_CHECKING:
    from relay.decide.lane_scan import LaneScan
    from relay.settings import ScanSettings
    from relay.stages.scan.ports import SweepPort
    from relay.stages.scan.reads import LaneReads
    from relay.stages.scan.unreadable import Unreadable
    from relay.telemetry import Telemetry

QUIET_CHECK_INTERVAL = 1.0
"""Seconds between looks for long transactions that have written no event."""

IDLE_INTERVAL = QUIET_CHECK_INTERVAL + 0.01
"""Seconds to pause when there is nothing to sweep; a little more, because timers may fire early."""

TURN_STEPS = 20
"""Steps that a lane may take in a row. In turns, most lanes of a bulk transaction get back to their fresh events before
the last one does; if they all went on step by step, they would all wait for as long as the last one."""


class Sweep:
    """Takes the steps of long sweeps; about once a second it looks for transactions that would cause needless ones."""

    def __init__(
        self,
        *,
        port: SweepPort,
        reads: LaneReads,
        settings: ScanSettings,
        telemetry: Telemetry,
        unreadable: Unreadable | None = None,
    ) -> None:
        """Without `unreadable`, an event that cannot be read ends the tenure."""
        self._port = port
        self._reads = reads
        self._tenure = reads.tenure
        self._settings = settings
        self._telemetry = telemetry
        self._unreadable = unreadable
        self._first_seen: dict[int, float] = {}
        """When a running transaction was first seen, in monotonic seconds."""
        self._looked_at: dict[int, int] = {}
        """The sequence's value at the last look at a transaction."""
        self._started: dict[int, float] = {}
        """When a lane's long sweep began, in monotonic seconds."""

    async def run(self) -> None:
        """Sweep until cancelled, or until the tenure drains."""
        checked = 0.0
        while not self._tenure.draining:
            self._reads.sweeping()
            progress = False
            for state in list(self._tenure.lanes.values()):
                progress = await self._turn(state, TURN_STEPS) or progress
                if time.monotonic() - checked >= QUIET_CHECK_INTERVAL:
                    await self.look_for_quiet_transactions(time.monotonic())
                    checked = time.monotonic()
            if not progress:
                await self._wait_for_work()

    async def step_all(self) -> bool:
        """Take one step of every lane in a long sweep that has room; returns whether there was any."""
        self._reads.sweeping()
        return any([await self._turn(state, 1) for state in list(self._tenure.lanes.values())])

    async def _turn(self, state: LaneScan, steps: int) -> bool:
        """Take up to `steps` steps of a lane that is in a long sweep, while it gets on; returns whether it took any."""
        for done in range(steps):
            if state.sweep is None or not self._tenure.may_take(state):
                return done > 0
            done_to = state.sweep.done_to
            if not await self._step(state):
                return done > 0
            if state.sweep is not None and state.sweep.done_to <= done_to:
                # It went back, or it waits for what is before an event that cannot be read.
                return True
        return True

    async def _step(self, state: LaneScan) -> bool:
        taken_over = state.taken_over
        step = state.next_step(self._settings.sweep_step_ids)
        if step is None:
            if not taken_over:
                # It was not looked at until now.
                self._tenure.failure_may_be_due()
            started = self._started.pop(state.lane, None)
            if started is not None:
                self._telemetry.emit("sweep.done", lane=state.lane, seconds=round(time.monotonic() - started, 3))
            self._reads.look_at_once()
            return True
        if not self._tenure.room.worth_reading(state.lane):
            return False
        room = self._tenure.room.allowance(state.lane, len(self._tenure.lanes))
        self._started.setdefault(state.lane, time.monotonic())
        reach = Reach(min(room.events, self._settings.batch_events), room.bytes)
        most = state.sweep_reach(reach, self._tenure.room.lane_bytes(state.lane))
        state.about_to_read(self._tenure.ladder, self._settings.sweep_step_ids)
        settled_from = state.settled_from(self._tenure.ladder)
        value_before = self._tenure.sequence_value
        try:
            result = await self._port.sweep_step(state.lane, *step, most.events, most.bytes, settled_from)
        except StatementFailedError as error:
            readable = await self._readable_part(state, step, most, error)
            if readable is None:
                return True
            step = readable
            result = await self._port.sweep_step(state.lane, *step, most.events, most.bytes, settled_from)
        self._tenure.saw_statement(
            result.snapshot,
            sequence_value=result.sequence_value,
            next_xid=result.next_xid,
            before=value_before,
        )
        if not self._tenure.may_take(state):
            # The lane may be given back at this moment: what is taken now would be published by its next owner too.
            return True
        taken = state.absorb_step(
            result.snapshot, step[1], result.events, result.settled, most, reach, self._tenure.ladder
        )
        if taken:
            self._reads.take(state, taken)
        return True

    async def _readable_part(
        self, state: LaneScan, step: tuple[int, int], most: Reach, error: StatementFailedError
    ) -> tuple[int, int] | None:
        """Return the part of a step before an event that cannot be read; None, and the event fails, if there is none.

        Return the whole step if everything in it can be read: the event has failed, or was mended, since the read
        began. If the read failed for another reason, it fails again.
        """
        if self._unreadable is None:
            raise error
        found = await self._unreadable.find(state, *step, most.events, most.bytes)
        if found is None:
            return step
        if not found.first:
            return step[0], found.event.id - 1
        if self._tenure.lanes.get(state.lane) is state and not state.releasing:
            await self._unreadable.fail(state, found.event, error)
        return None

    async def look_for_quiet_transactions(self, now: float) -> None:
        """Hand the scan those transactions, open for a second or more, that have taken no event id so far.

        Their floor may rise to the sequence's value from *before* the look, once a later snapshot shows that they
        are still running (SCAN.md, rule 8). Without it a foreign transaction that stays open for an hour costs a sweep
        of an hour's events when it ends, and holds every lane's position back.
        """
        running = self._tenure.running_xids()
        # Of an earlier statement than the look: whatever takes its first id after that, takes one above.
        value = self._tenure.sequence_value
        self._first_seen = {xid: self._first_seen.get(xid, now) for xid in running}
        self._looked_at = {xid: at for xid, at in self._looked_at.items() if xid in running}
        old = [
            xid
            for xid, since in self._first_seen.items()
            if now - since >= QUIET_CHECK_INTERVAL and self._looked_at.get(xid, -1) < value
        ]
        if old:
            quiet = await self._port.quiet_transactions(old)
            self._reads.found_quiet(quiet, value)
            # While nobody takes ids, a look at the same transactions would find the same.
            self._looked_at.update(dict.fromkeys(old, value))

    async def _wait_for_work(self) -> None:
        sweeping = any(state.sweep is not None for state in self._tenure.lanes.values())
        # A sweep under way lacks only room, which comes with the next receipts.
        await self._reads.lane_sent(self._settings.busy_interval if sweeping else IDLE_INTERVAL)
