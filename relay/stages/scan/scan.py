"""Reads the next pending events of the owned lanes and passes them to the gate."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from relay.decide.reach import Reach
from relay.errors import StatementFailedError
from relay.event import ID, LANE
from relay.stages.scan.ports import ID_MAX, LaneRequest, WantedEvents
from relay.stages.tenure import TenureLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from relay.decide.lane_scan import LaneScan
    from relay.decide.snapshot import Snapshot
    from relay.event import PendingEvent
    from relay.settings import ScanSettings
    from relay.stages.scan.ports import ScanPort, ScanResult
    from relay.stages.scan.reads import LaneReads
    from relay.stages.scan.unreadable import Unreadable
    from relay.telemetry import Telemetry


class Part(NamedTuple):
    """What one lane gets of a scan."""

    events: int
    """Its part of the scan's batch."""
    sharers: int
    """Number of lanes that share the room with it."""


class Scan:
    """The loop: poll every few milliseconds while events flow, back off when none do."""

    def __init__(
        self,
        *,
        port: ScanPort,
        reads: LaneReads,
        settings: ScanSettings,
        telemetry: Telemetry,
        clock: Callable[[], float] = time.monotonic,
        unreadable: Unreadable | None = None,
    ) -> None:
        """Without `unreadable`, an event that cannot be read ends the tenure."""
        self._port = port
        self._reads = reads
        self._tenure = reads.tenure
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._unreadable = unreadable
        self._took = 0.0
        """Seconds that the last scan took."""
        self._snapshot: Snapshot | None = None
        self._still = False
        """Whether no transaction had ended between the last two looks."""
        self._pause_over = False

    async def run(self) -> None:
        """Scan until cancelled, or until the tenure drains."""
        pause = self._settings.busy_interval
        while not self._tenure.draining:
            if await self.nothing_new():
                pause = min(pause * 2, self._settings.idle_interval)
                await self._pause(pause)
            elif requests := self.requests():
                found, more = await self.scan_once(requests)
                if more:
                    continue
                # At least as long as the scan took: on a busy machine, looking more often only makes it busier.
                busy = min(max(self._settings.busy_interval, self._took), self._settings.idle_interval)
                pause = busy if found else min(pause * 2, self._settings.idle_interval)
                await self._pause(pause)
            else:
                # No lane has room, or all are being swept.
                self._reads.looking()
                await self._pause(self._settings.idle_interval)

    async def scan_once(self, requests: Sequence[LaneRequest]) -> tuple[int, bool]:
        """Scan once; returns how many events were taken, and whether there is more that would fit."""
        tenure = self._tenure
        started = self._clock()
        self._reads.looking()
        quiet = self._reads.take_quiet()
        states = [tenure.lanes[request.lane] for request in requests]
        try:
            result, new, read = await self._read(requests)
        except StatementFailedError as error:
            if await self._sweep_around_the_unreadable(requests, error):
                return 0, True
            # What could not be read has failed, or was mended, since the scan began. If it had another reason it
            # fails again.
            result, new, read = await self._read(requests)
        for xid, value in quiet.items():
            # Only now is it certain that the transaction was not just ending while we looked at its locks.
            if xid in result.snapshot.running:
                tenure.ladder.raise_floor(xid, value)
        found = found_bytes = 0
        more = False
        swept, fresh = _by_lane(read), _by_lane(result.events)
        for state, request in zip(states, requests, strict=True):
            if not tenure.may_take(state):
                continue
            lane = request.lane
            if self._needs_long_sweep(state, request, result.snapshot):
                continue
            taken = state.absorb(
                result.snapshot, new.get(lane, ()), swept.get(lane, ()), fresh.get(lane, ()), request.fresh
            )
            if taken:
                found_bytes += self._reads.take(state, taken)
                found += len(taken)
            more = more or (not state.exhausted and tenure.room.worth_reading(lane))
        self._reads.looked()
        self._took = self._clock() - started
        self._telemetry.emit("scan.done", events=found, bytes=found_bytes, seconds=self._took)
        return found, more

    async def _read(
        self, requests: Sequence[LaneRequest]
    ) -> tuple[ScanResult, dict[int, list[int]], list[PendingEvent]]:
        """Scan; returns its result, by lane the ids that it met and that were not known, and those events.

        The events are read afterwards, and nothing fresh of their lanes is taken before them. Which they are, only the
        scan's snapshot says.
        """
        tenure = self._tenure
        value_before = tenure.sequence_value
        result = await self._port.scan(requests)
        self._saw(result.snapshot)
        tenure.saw_statement(
            result.snapshot,
            sequence_value=result.sequence_value,
            next_xid=result.next_xid,
            before=value_before,
        )
        new: dict[int, list[int]] = {}
        wanted: list[WantedEvents] = []
        for request in requests:
            state = tenure.lanes.get(request.lane)
            ids = result.swept.get(request.lane)
            if state is not None and ids and (unknown := state.known.missing(ids)):
                new[request.lane] = unknown
                wanted.append(WantedEvents(request.lane, unknown[: request.fresh.events], request.fresh.bytes))
        return result, new, await self._port.events_by_id(wanted) if wanted else []

    async def _sweep_around_the_unreadable(self, requests: Sequence[LaneRequest], error: StatementFailedError) -> bool:
        """Leave lanes with an event that cannot be read to sweeps, which leave out what has failed; return whether
        there was one.

        As if the lane had been taken up to that event, and everything below had to be looked for: by steps, and then by
        a scan from where this one would have begun.
        """
        if self._unreadable is None:
            raise error
        snapshot = await self._port.snapshot()
        self._saw(snapshot)
        any_found = False
        for request in requests:
            # Nothing above what was taken has been read, wherever the sweep starts.
            start = min(request.sweep_start.start(snapshot), request.taken_to)
            state = self._tenure.lanes.get(request.lane)
            if state is None or state.sweep is not None:
                continue
            sweep = state.sweep_reach(request.fresh, self._tenure.room.lane_bytes(request.lane))
            max_events = sweep.events + request.fresh.events
            max_bytes = 2 * (sweep.bytes + request.fresh.bytes)
            found = await self._unreadable.find(state, start, ID_MAX, max_events, max_bytes)
            if found is not None and self._tenure.lanes.get(request.lane) is state:
                if found.first:
                    await self._unreadable.fail(state, found.event, error)
                state.leave_to_sweep(snapshot, start, found.event.id - (0 if found.first else 1))
                self._reads.lane_needs_sweep()
                any_found = True
        return any_found

    async def nothing_new(self) -> bool:
        """Return whether a scan is certain to find nothing: no transaction has ended since all lanes were read.

        Asked for only when that was so the last time. It costs half of a scan, and in a database where others write
        each scan sees another snapshot.
        """
        lanes = self._scannable()
        # What was found out about quiet transactions is for a scan to use.
        reads = self._reads
        if (
            reads.wanted_at_once
            or reads.any_quiet
            or not (self._still and lanes and all(state.exhausted for state in lanes))
        ):
            return False
        snapshot = await self._port.snapshot()
        self._saw(snapshot)
        self._reads.looked()
        # As they are now: one may have been claimed meanwhile.
        return all(state.exhausted and state.snapshot == snapshot for state in self._scannable())

    def requests(self) -> list[LaneRequest]:
        """Return every lane that may be scanned, with what the scan may return of it: for a scan that is sent now."""
        room = self._tenure.room
        ready = [state for state in self._scannable() if room.worth_reading(state.lane)]
        quiet_part, others_part = self._parts(len(ready), sum(not state.exhausted for state in ready))
        requests: list[LaneRequest] = []
        for state in ready:
            part = quiet_part if state.exhausted else others_part
            allowed = room.allowance(state.lane, part.sharers)
            fresh = Reach(min(part.events, allowed.events), allowed.bytes)
            state.about_to_read(self._tenure.ladder, self._settings.sweep_step_ids)
            start = state.sweep_start(self._tenure.ladder)
            requests.append(
                LaneRequest(state.lane, state.taken_to, state.known.start, start, state.nothing_new_to(start), fresh)
            )
        return requests

    def _scannable(self) -> list[LaneScan]:
        return [state for state in self._tenure.lanes.values() if not state.releasing and state.sweep is None]

    def _parts(self, lanes: int, with_more: int) -> tuple[Part, Part]:
        """Return what a lane without more at its last read gets, and what one of the `with_more` others gets."""
        most = self._settings.batch_events
        if with_more in (0, lanes):
            equal = Part(max(1, most // max(1, lanes)), lanes)
            return equal, equal
        # Little, in case it wakes up; when one lane has all of the backlog, it gets over half of each scan. The sharers
        # are such that all lanes together are promised no more than is free.
        quiet = Part(max(1, most // (2 * lanes)), 8 * lanes)
        return quiet, Part(max(1, (most - quiet.events * (lanes - with_more)) // with_more), with_more)

    def _needs_long_sweep(self, state: LaneScan, request: LaneRequest, snapshot: Snapshot) -> bool:
        """Return whether the lane's sweep starts below what is known of it, and have steps go through it then."""
        start = request.sweep_start.start(snapshot)
        if start >= request.known_from:
            return False
        state.start_long_sweep(snapshot, start)
        self._telemetry.emit("sweep.started", lane=state.lane, ids=request.taken_to - start)
        self._reads.lane_needs_sweep()
        return True

    def _saw(self, snapshot: Snapshot) -> None:
        if self._snapshot is not None and snapshot.xmax < self._snapshot.xmax:
            raise TenureLostError(
                f"transaction ids went back from {self._snapshot.xmax} to {snapshot.xmax}: "
                "a crash or fail-over undid commits"
            )
        self._still = snapshot == self._snapshot
        self._snapshot = snapshot

    async def _pause(self, seconds: float) -> None:
        """Wait for a wake-up, or until a lane that has more, or could not be looked at, has room; at most `seconds`."""
        room, wake_up = self._tenure.room, self._tenure.scan_wake_up
        full = [state.lane for state in self._scannable() if not state.exhausted or not room.worth_reading(state.lane)]
        self._pause_over = False
        # A timer: raising TimeoutError would be a tenth of what an idle relay costs.
        timer = asyncio.get_running_loop().call_later(seconds, self._end_pause)
        try:
            while not self._reads.wanted_at_once and not self._pause_over and not any(map(room.worth_reading, full)):
                wake_up.clear()
                await wake_up.wait()
        finally:
            timer.cancel()

    def _end_pause(self) -> None:
        self._pause_over = True
        self._tenure.scan_wake_up.set()


def _by_lane(events: list[PendingEvent]) -> dict[int, list[PendingEvent]]:
    """The events of each lane; they come lane by lane, ids ascending."""
    found: dict[int, list[PendingEvent]] = {}
    lane = -1
    last = 0
    current: list[PendingEvent] = []
    for event in events:
        if event[LANE] != lane:
            lane, last, current = event[LANE], 0, found.setdefault(event[LANE], [])
        if event[ID] <= last:
            raise TenureLostError(f"lane {lane}: PostgreSQL returned id {event[ID]} after {last}")
        last = event[ID]
        current.append(event)
    return found
