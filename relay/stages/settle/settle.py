"""Records what became of events, many per statement: receipts, failures, held rows."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, assert_never

from relay.event import ID, LANE, SIZE, id_of, lane_of
from relay.stages.settle.outcomes import Delivered, Failed, Held, joined
from relay.stages.settle.ports import FailedEvent, Receipts
from relay.stages.settle.unrecorded import Unrecorded
from relay.stages.tenure import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.settings import SettleSettings
    from relay.stages.settle.outcomes import EventOutcome, Outcomes
    from relay.stages.settle.ports import SettlePort
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry


INTERVAL = 0.02
"""Seconds from the beginning of one statement to that of the next while there is little to record. Nobody waits for a
receipt: one commit for what came meanwhile leaves more of the disk and the CPUs to writers and scans."""

MUCH = 1 / 16
"""Part of the buffer from which on events to record are a backlog, whose receipts make room."""


NO_LANE = [-1]
"""What the receipts of a former tenure rest on: they are late, whoever owns the lanes by now."""


class Settle:
    """The loop: one statement at a time, with all of a kind that became known meanwhile."""

    def __init__(
        self,
        *,
        port: SettlePort,
        outcomes: Outcomes,
        tenure: Tenure,
        settings: SettleSettings,
        telemetry: Telemetry,
    ) -> None:
        self._port = port
        self._outcomes = outcomes
        self._tenure = tenure
        self._settings = settings
        self._telemetry = telemetry
        self.unrecorded = Unrecorded(outcomes, tenure, telemetry)

    async def run(self) -> None:
        """Settle until cancelled."""
        next_at = 0.0
        self.unrecorded.begin()
        try:
            while True:
                await asyncio.sleep(max(0.0, next_at - time.monotonic()))
                taken = await self._outcomes.take(self._settings.batch_events)
                busy = self._outcomes.waiting or self._tenure.room.share(self._outcomes.events) >= MUCH
                next_at = 0.0 if busy else time.monotonic() + INTERVAL
                try:
                    aside = await self.unrecorded.record(taken, self.record)
                except BaseException:
                    self._outcomes.put_back(taken)
                    raise
                self._outcomes.settled(taken, but=aside)
        finally:
            self.unrecorded.end()

    async def record(self, outcomes: list[EventOutcome]) -> None:
        """Record outcomes of one kind, at least one. Raises LeaseLostError if a lane has another owner by now."""
        match outcomes[0]:
            case Delivered():
                await self._deliver([each for each in outcomes if isinstance(each, Delivered)])
            case Held():
                await self._hold([each for each in outcomes if isinstance(each, Held)])
            case Failed():
                await self._fail([each for each in outcomes if isinstance(each, Failed)])
            case _ as never:
                assert_never(never)

    async def _deliver(self, deliveries: list[Delivered]) -> None:
        started = time.monotonic()
        publisher = deliveries[0].tenure
        is_former = publisher is not self._tenure
        owned = NO_LANE if is_former else list(publisher.lanes)
        receipts = Receipts(publisher.replica, owned, [], [], [], [], [])
        for _, events, partition, base in deliveries if is_former else joined(deliveries):
            receipts.firsts.append(len(receipts.ids) + 1)
            receipts.partitions.append(partition)
            receipts.bases.append(base)
            receipts.lanes.extend(map(lane_of, events))
            receipts.ids.extend(map(id_of, events))
        if is_former:
            event_ids = [event.event_id for delivery in deliveries for event in delivery.events]
            new = await self._port.settle_checked(receipts, event_ids)
        else:
            recorded = self._recorded(receipts)
            if recorded:
                new = await self._port.settle_recorded(receipts, recorded)
                for each in recorded:
                    self._tenure.forget_attempts(*each)
            else:
                new = await self._port.settle(receipts)
            self._leave_room(deliveries)
        self._telemetry.emit("settle.done", events=new, seconds=time.monotonic() - started)

    async def _hold(self, outcomes: list[Held]) -> None:
        tenure = self._tenure
        if outcomes[0].tenure is not tenure:
            return
        epochs = self._epochs(outcomes)
        events = [event for outcome in outcomes for event in outcome.events]
        new = await self._port.hold(tenure.replica, events, epochs)
        if new is None:
            raise LeaseLostError(f"one of the lanes {sorted(epochs)} has another owner")
        self._leave_room(outcomes)
        if new:
            self._telemetry.emit("events.held", events=new)

    async def _fail(self, outcomes: list[Failed]) -> None:
        tenure = self._tenure
        if outcomes[0].tenure is not tenure:
            return
        epochs = self._epochs(outcomes)
        failures = [FailedEvent(event, each.verdict, each.error) for each in outcomes for event in each.events]
        if not await self._port.fail(tenure.replica, failures, epochs):
            raise LeaseLostError(f"one of the lanes {sorted(epochs)} has another owner")
        self._leave_room(outcomes)
        tenure.failure_recorded()

    def _epochs(self, outcomes: Sequence[EventOutcome]) -> dict[int, int]:
        """Return the epochs at which the outcomes' lanes are owned; -1, which no lane is at, for a lane that is not."""
        owned = self._tenure.lanes
        lanes = {event.lane for outcome in outcomes for event in outcome.events}
        return {lane: owned[lane].epoch if lane in owned else -1 for lane in lanes}

    def _recorded(self, receipts: Receipts) -> list[tuple[int, int]]:
        """Return the (lane, id) that have a failure or held row: it goes in the transaction that writes the receipt."""
        resuming = {lane: state.resuming for lane, state in self._tenure.lanes.items() if state.resuming}
        if not resuming:
            return []
        return [
            (lane, id_)
            for lane, id_ in zip(receipts.lanes, receipts.ids, strict=True)
            if lane in resuming and id_ in resuming[lane]
        ]

    def _leave_room(self, outcomes: Sequence[EventOutcome]) -> None:
        """Let events whose outcomes are committed leave the lanes' taken sets and the buffer."""
        settled: dict[int, list[int]] = {}
        sizes: dict[int, int] = {}
        for outcome in outcomes:
            for event in outcome.events:
                lane = event[LANE]
                if lane in settled:
                    settled[lane].append(event[ID])
                    sizes[lane] += event[SIZE]
                else:
                    settled[lane] = [event[ID]]
                    sizes[lane] = event[SIZE]
        for lane, ids in settled.items():
            if (state := self._tenure.lanes.get(lane)) is not None:
                state.settle(ids)
        self._tenure.leave_room({lane: (len(ids), sizes[lane]) for lane, ids in settled.items()})
