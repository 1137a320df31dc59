"""Long sweeps, step by step on a connection of their own, while the other lanes' scans go on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from relay.decide.reach import Reach
from relay.errors import StatementFailedError
from relay.stages.scan.ports import WantedEvents

if TYPE_CHECKING:
    from relay.decide.lane_scan import LaneScan
    from relay.decide.passed_ids import Gaps
    from relay.settings import ScanSettings
    from relay.stages.scan.ports import StepResult, SweepPort
    from relay.stages.scan.reads import LaneReads
    from relay.stages.scan.unreadable import Unreadable
    from relay.telemetry import Telemetry

QUIET_CHECK_INTERVAL = 1.0
"""Seconds between looks for long transactions that have written no event."""

IDLE_INTERVAL = QUIET_CHECK_INTERVAL + 0.01
"""Seconds to pause when there is nothing to sweep; a little more, because timers may fire early."""

MOST_GAPS = 10_000
"""Ids that one step looks for one by one, where all others are known. PostgreSQL needs some 3 us for each."""

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
        self._noted = False
        """Whether what the lanes know was noted in this round."""

    async def run(self) -> None:
        """Sweep until cancelled, or until the tenure drains."""
        checked = 0.0
        while not self._tenure.draining:
            self._begin_round()
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
        self._begin_round()
        return any([await self._turn(state, 1) for state in list(self._tenure.lanes.values())])

    def _begin_round(self) -> None:
        self._reads.sweeping()
        self._noted = False

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
        if left := state.next_left(reach):
            await self._take_left(state, left, reach)
        else:
            await self._look(state, step, reach)
        return True

    async def _look(self, state: LaneScan, step: tuple[int, int], reach: Reach) -> None:
        """Look for what the step may meet, and take of it what fits within `reach`."""
        state.about_to_read(self._tenure.ladder, self._settings.sweep_step_ids)
        value_before = self._tenure.sequence_value
        read = await (self._read_new if state.knows_all else self._read)(state, step, reach)
        if read is None:
            return
        result, end = read
        self._tenure.saw_statement(
            result.snapshot,
            sequence_value=result.sequence_value,
            next_xid=result.next_xid,
            before=value_before,
        )
        if not self._tenure.may_take(state):
            # The lane may be given back at this moment: what is taken now would be published by its next owner too.
            return
        taken = state.absorb_step(
            result.snapshot, end, result.events, result.left, result.settled, reach, self._tenure.ladder
        )
        if taken:
            self._reads.take(state, taken)

    async def _read(self, state: LaneScan, step: tuple[int, int], reach: Reach) -> tuple[StepResult, int] | None:
        """Read a step, or its part before an event that cannot be read; returns up to which id, too."""
        settled_from = state.settled_from(self._tenure.ladder)
        try:
            return await self._port.sweep_step(state.lane, *step, *reach, settled_from), step[1]
        except StatementFailedError as error:
            readable = await self._readable_part(state, step, reach, error)
            if readable is None:
                return None
            return await self._port.sweep_step(state.lane, *readable, *reach, settled_from), readable[1]

    async def _read_new(self, state: LaneScan, step: tuple[int, int], reach: Reach) -> tuple[StepResult, int] | None:
        """Read a step of which it is known what is settled: only the gaps in what is known, where these are few."""
        gaps = await self._gaps(state)
        try:
            if gaps is not None:
                return await self._port.gap_step(state.lane, gaps.ids, *reach), gaps.up_to
            result = await self._port.new_step(state.lane, *step, *reach, state.known.new)
        except StatementFailedError:
            # The steps after this one find out which event cannot be read.
            state.ask_tables()
            return None
        # What is known may have become too much to keep meanwhile: then the next step asks.
        return (result, step[1]) if state.knows_all else None

    async def _gaps(self, state: LaneScan) -> Gaps | None:
        """What the lane's next step has to look at, where that is little."""
        if not state.may_have_gaps(self._settings.sweep_step_ids):
            return None
        if not self._noted:
            self._noted = True
            for each in list(self._tenure.lanes.values()):
                each.known.note()
                # A millisecond for each lane: others go on meanwhile.
                await asyncio.sleep(0)
        return state.gaps(self._settings.sweep_step_ids, MOST_GAPS)

    async def _take_left(self, state: LaneScan, ids: list[int], reach: Reach) -> None:
        """Take what the lane's last step had no room for."""
        try:
            events = await self._port.events_by_id([WantedEvents(state.lane, ids, reach.bytes)])
        except StatementFailedError:
            # The step that looks for it again finds out which event cannot be read.
            state.leave_left()
            return
        if self._tenure.may_take(state) and (taken := state.absorb_left(ids, events, reach)):
            self._reads.take(state, taken)

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
