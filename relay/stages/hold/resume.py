"""Puts failed events back when it is their time, and held ones once nothing stands before them.

In no lane before the sweep of its take-over is over: an earlier event of the key, which the last owner had in flight,
may not have been found yet. Later sweeps are no reason to wait (`LaneScan.taken_over` says why).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.errors import StatementFailedError
from relay.event import id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from relay.decide.held_back import Closed, TopicKey
    from relay.decide.lane_scan import LaneScan
    from relay.event import PendingEvent
    from relay.settings import ScanSettings
    from relay.stages.hold.ports import DueFailure, ResumePort
    from relay.stages.settle.outcomes import Outcomes
    from relay.stages.tenure import Tenure

RESUME_INTERVAL = 0.5
"""Seconds until the next look while there are failures or held events; without any there is nothing to look for."""

LONGEST_INTERVAL = 4.0
"""What it doubles to while nothing happens: a failure may wait for a person for a week, who wakes us up."""

MOST_READS = 200
"""Reads per pass and lane, so that a lane whose keys stay busy does not keep the others waiting."""


class Resume:
    """The loop. One pass over a lane's held rows at a time."""

    def __init__(
        self,
        *,
        port: ResumePort,
        tenure: Tenure,
        outcomes: Outcomes,
        hand_in: Callable[[list[PendingEvent]], None],
        try_anew: Callable[[set[str]], None],
        settings: ScanSettings,
        replays_may_be_over: Callable[[], None],
    ) -> None:
        self._port = port
        self._tenure = tenure
        self._outcomes = outcomes
        self._hand_in = hand_in
        self._try_anew = try_anew
        self._settings = settings
        self._replays_may_be_over = replays_may_be_over
        self._resumed = False
        self._turn = 0

    async def run(self) -> None:
        """Resume until cancelled."""
        tenure = self._tenure
        pause = RESUME_INTERVAL
        while not tenure.draining:
            progress = False
            if tenure.has_failures:
                progress = await self.resume_failures()
            for state in self._in_turn(await self._openable()):
                progress = await self.resume_held(state) or progress
            if progress or await self._woken_up_within(pause):
                pause = RESUME_INTERVAL
            else:
                pause = min(pause * 2, LONGEST_INTERVAL)

    def _in_turn(self, states: list[LaneScan]) -> list[LaneScan]:
        """All of them, beginning with another one each time: of a topic with a limited rate the first may take all."""
        self._turn += 1
        begin = self._turn % len(states) if states else 0
        return [*states[begin:], *states[:begin]]

    async def _openable(self) -> list[LaneScan]:
        """Lanes in which something is closed that nothing blocks any more."""
        tenure = self._tenure
        closed = {
            state.lane: tenure.closed_in(state.lane)
            for state in tenure.lanes.values()
            if state.taken_over and not state.releasing and tenure.closed_in(state.lane)
        }
        if not closed:
            return []
        blocked: dict[int, set[TopicKey]] = {lane: set() for lane in closed}
        for lane, topic, key in await self._port.blocking(list(closed)):
            blocked[lane].add((topic, key))
        return [
            state
            for lane, state in list(tenure.lanes.items())
            # One that was given back and claimed again meanwhile is another one.
            if lane in closed and state.taken_over and closed[lane].can_open(tenure.paused, blocked[lane])
        ]

    async def resume_failures(self) -> bool:
        """Hand in failures that are due; returns whether there were any."""
        tenure = self._tenure
        lanes: dict[int, LaneScan] = {}
        events = size = 0
        for state in tenure.lanes.values():
            reach = tenure.room.leftover(state.lane, len(tenure.lanes))
            if reach is not None and state.taken_over and not state.releasing:
                lanes[state.lane] = state
                events += reach.events
                size += reach.bytes
        if not lanes:
            return False
        under_way = [(state.lane, id_) for state in lanes.values() for id_ in state.resuming]
        due = await self._due(list(lanes), min(events, self._settings.batch_events), size, under_way)
        self._try_anew({event.topic for event, _ in due})
        for event, attempts in due:
            if self._resume(lanes[event.lane], [event]):
                tenure.note_attempts(event.lane, event.id, attempts)
                self._resumed = True
        if not due and not under_way:
            # Nothing that a person or the clock could make due: stop asking until the next failure. That may be
            # recorded while we ask and be missing in the answer, so the answer never takes the flag down.
            tenure.expect_no_failures()
            if await self._port.has_failures(sorted(tenure.lanes)):
                tenure.expect_failures()
            if self._resumed:
                self._resumed = False
                self._replays_may_be_over()
        return bool(due)

    async def _due(
        self, lanes: list[int], max_events: int, max_bytes: int, under_way: list[tuple[int, int]]
    ) -> list[DueFailure]:
        try:
            return await self._port.due_failures(lanes, max_events, max_bytes, sorted(self._tenure.paused), under_way)
        except StatementFailedError as error:
            # All others were read before. Somebody had one of these published again without having mended it.
            if await self._port.still_unreadable(lanes, str(error)):
                return []
            raise

    async def resume_held(self, state: LaneScan) -> bool:
        """One pass over the held rows of a lane; returns whether it handed in any.

        What blocks is read *before* the rows: a key that is released half-way through would otherwise go on without
        those of its events that the pass had already gone by.
        """
        if self._outcomes.failing(state.lane):
            # What that failure blocks is in no table yet.
            return False
        closed = self._tenure.closed_in(state.lane)
        closed.begin_pass()
        try:
            return await self._pass_over_held(state, closed)
        finally:
            closed.leave_pass()

    async def _pass_over_held(self, state: LaneScan, closed: Closed) -> bool:
        tenure = self._tenure
        paused = sorted(tenure.paused)
        blocked = {(topic, key) for _, topic, key in await self._port.blocking([state.lane])}
        above: int | None = None
        handed_in = False
        for _ in range(MOST_READS):
            if tenure.draining or state.releasing:
                break
            room = tenure.room.leftover(state.lane, len(tenure.lanes))
            # Rows that are not committed yet are missed by the read, and must keep their keys closed.
            complete = not self._outcomes.holding(state.lane)
            if room is None or not complete:
                await asyncio.sleep(self._settings.busy_interval)
            if complete:
                above = closed.look_again_from(above or 0)
            if room is None or above is None:
                # Before the first look, what is held back was not noted: it may go before anything that is read.
                continue
            most = min(room.events, self._settings.batch_events)
            # As of now: one that is settled while the read is under way is still held in its snapshot. If it was held
            # back again, the pass looks again from there.
            under_way = set(state.resuming)
            closed_now = sorted({*paused, *closed.topics_since})
            events = await self._port.held_events(state.lane, above, most, room.bytes, closed_now)
            if tenure.lanes.get(state.lane) is not state:
                break
            free = [
                event
                for event in events
                if event.id not in under_way
                and (event.topic, event.key) not in blocked
                and not closed.closed_since(event.topic, event.key)
                and not closed.held_before(event)
            ]
            handed_in = self._resume(state, free) or handed_in
            if events:
                above = events[-1].id
            elif complete and closed.nothing_held_since:
                closed.end_pass(paused, blocked)
                break
        return handed_in

    def _resume(self, state: LaneScan, events: list[PendingEvent]) -> bool:
        if self._tenure.draining or state.releasing:
            return False
        # A row may be seen before settle hears that it was committed. What is handed in then would count as settled as
        # soon as settle does hear; until then it is left to the next look.
        new = [event for event in events if not state.awaits_settle(event.id)]
        if new:
            state.resume(map(id_of, new))
            self._tenure.room.add(state.lane, new)
            self._hand_in(new)
        return bool(new)

    async def _woken_up_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._tenure.resume_wake_up.wait()
        except TimeoutError:
            return False
        finally:
            self._tenure.resume_wake_up.clear()
        return True
