"""Publishes delivered events again, because a person asked for it: for a consumer that lost data.

Beside the flow and never in its way: on a connection of its own, which is open only while a replay is under way; a few
events at a time, and only while the live ones leave room. The owner of each lane publishes that lane's share in id
order; per key that is the order in which they were committed, because a key's events queue for one partition.

What became of an event is in its own receipt (`outbox.replay_receipt`). Whoever takes the lane over goes on with those
that have none: not above the highest receipt, because partitions answer in any order.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from relay.decide.lane_scan import LanePosition
from relay.decide.reach import Reach, cut_off
from relay.decide.republishing import Allowance, Progress, reach_under_way
from relay.errors import UnreachableError
from relay.event import EventTuple, EventWithOrigin, with_origin
from relay.stages.republish.origin import LaneRepublish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

    from relay.decide.republishing import ReplayRequest
    from relay.event import PendingEvent
    from relay.retry import Backoff
    from relay.settings import BufferSettings, PublishSettings
    from relay.stages.republish.origin import Republished
    from relay.stages.republish.ports import Landed, RepublishPort
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

LOOK_INTERVAL = 0.5
"""Seconds between looks at what is asked for while something is: within it a replay that is cancelled stops."""

BUSY_PAUSE = 0.05
"""Seconds until the next look whether live events leave room."""

STEP_IDS = 50_000
"""Range of ids that one statement looks through for events that match."""


class Republish:
    """The loop: write receipts, look what is asked for, hand in some more."""

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[RepublishPort]],
        tenure: Tenure,
        republished: Republished,
        hand_in: Callable[[list[EventWithOrigin]], None],
        withdraw: Callable[[Callable[[PendingEvent], bool]], object],
        buffer: BufferSettings,
        publish: PublishSettings,
        backoff: Backoff,
        telemetry: Telemetry,
    ) -> None:
        self._connect = connect
        self._tenure = tenure
        self._republished = republished
        self._hand_in = hand_in
        self._withdraw = withdraw
        self._buffer = buffer
        self._publish = publish
        self._backoff = backoff
        self._telemetry = telemetry
        self._lanes: dict[tuple[int, int], LaneRepublish] = {}
        self._allowances: dict[int, Allowance] = {}
        self._refused: set[int] = set()
        self._turn = 0

    async def run(self) -> None:
        """Replay until cancelled.

        No connection, or one that was lost, is no reason to end the tenure: live events go on without. What is known
        here does not depend on it, and if it was the server, the other stages' connections say so.
        """
        while True:
            if self._republished.idle:
                await self._tenure.replay_wake_up.wait()
            self._tenure.replay_wake_up.clear()
            try:
                await self._work_on(await self._connect())
                # Whoever may connect to the database can send the hint, as often as he likes; a look is a connection.
                await asyncio.sleep(LOOK_INTERVAL)
            except UnreachableError as error:
                self._telemetry.emit("replay.waiting", error=error)
                await asyncio.sleep(self._backoff.next_delay())
                self._tenure.replay_may_be_open()

    async def _work_on(self, port: RepublishPort) -> None:
        try:
            await self._work(port)
        finally:
            port.close()
            self._telemetry.gauge("replays_open", 0)

    async def _work(self, port: RepublishPort) -> None:
        look_at = 0.0
        while True:
            self._republished.changed.clear()
            await self._settle(port)
            self._leave_lanes()
            now = time.monotonic()
            if now >= look_at:
                look_at = now + LOOK_INTERVAL
                await self._save(port)
                open_replays = await port.open_replays()
                self._backoff.reset()
                self._adopt(open_replays)
                if not open_replays and self._republished.idle:
                    return
            pause = await self._hand_in_more(port)
            if pause:
                await self._wait(min(pause, look_at - time.monotonic()))

    async def _settle(self, port: RepublishPort) -> None:
        """Write receipts of what landed. Not by the settle stage: theirs would come between those of live events, and
        every change of kind is a statement more."""
        landed = self._republished.take_landed()
        by_action: dict[int, list[Landed[LaneRepublish]]] = defaultdict(list)
        for each in landed:
            by_action[each.replay.request.action].append(each)
        try:
            for action, its in by_action.items():
                await port.settle_replayed(action, its)
        except BaseException:
            self._republished.put_back(landed)
            raise
        for each in landed:
            each.replay.settled(each.event)
        for action, its in by_action.items():
            errors = [each.error for each in its if each.error is not None]
            topic = its[0].event.topic
            self._telemetry.emit("replay.settled", topic=topic, events=len(its) - len(errors), refused=len(errors))
            if errors and action not in self._refused:
                self._refused.add(action)
                self._telemetry.emit("replay.refused", action=action, topic=topic, error=errors[0])

    async def _save(self, port: RepublishPort) -> None:
        """Persist how far the lanes are: what a take-over starts from, and what finishes the replay."""
        moved: dict[int, list[LaneRepublish]] = defaultdict(list)
        for replay in self._lanes.values():
            if replay.progress.position > replay.saved and self._owned(replay):
                moved[replay.request.action].append(replay)
        for action, replays in moved.items():
            positions = [LanePosition(each.state.lane, each.state.epoch, each.progress.position) for each in replays]
            await port.advance_replay(action, self._tenure.replica, positions)
            for each, (_, _, position) in zip(replays, positions, strict=True):
                each.saved = position

    def _adopt(self, requests: Sequence[ReplayRequest]) -> None:
        """Take up what is new, share the rates anew, and stop what is over."""
        self._telemetry.gauge("replays_open", len(requests))
        for action in self._allowances.keys() - {request.action for request in requests}:
            self._end([replay for replay in self._lanes.values() if replay.request.action == action])
            del self._allowances[action]
            self._telemetry.emit("replay.ended", action=action)
        for request in requests:
            if self._tenure.draining:
                break
            mine = request.open_lanes() & {state.lane for state in self._tenure.lanes.values() if not state.releasing}
            new = [lane for lane in mine if (request.action, lane) not in self._lanes]
            for lane in new:
                progress = Progress(request.last_id, request.positions[lane])
                state = self._tenure.lanes[lane]
                self._lanes[request.action, lane] = LaneRepublish(request, state, progress, self._republished)
            if new and request.action not in self._allowances:
                self._allowances[request.action] = Allowance(request.rate)
                self._telemetry.emit("replay.started", action=request.action, topic=request.topic, lanes=sorted(new))
            if mine:
                # What others have finished is known late only, so the parts of all replicas are never more than one.
                self._allowances[request.action].share = len(mine) / len(request.open_lanes())

    def _leave_lanes(self) -> None:
        """Lanes that are given back, or were lost, go on elsewhere."""
        self._end([replay for replay in self._lanes.values() if not self._may_publish(replay)])

    def _end(self, replays: Collection[LaneRepublish]) -> None:
        """Go on with none of these. What of them waits for Kafka need not go there."""
        if replays:
            for each in replays:
                del self._lanes[each.request.action, each.state.lane]
            unwanted: set[object] = set(replays)
            self._withdraw(lambda event: isinstance(event, EventWithOrigin) and event.origin in unwanted)

    async def _hand_in_more(self, port: RepublishPort) -> float:
        """Hand in what there is room for; returns for how long there is nothing to do, 0 to go on at once."""
        pause = LOOK_INTERVAL
        replays = list(self._lanes.values())
        self._turn += 1
        for replay in _from(self._turn, replays):
            if replay.progress.done or replay.request.target in self._tenure.paused:
                continue
            # Only while live events leave room: their scan has just as much to read, then.
            if self._tenure.room.leftover(replay.state.lane) is None:
                pause = min(pause, BUSY_PAUSE)
                continue
            room = self._room(replay)
            if room is None:
                continue
            allowance = self._allowances[replay.request.action]
            allowed = allowance.available(time.monotonic())
            if allowed == 0:
                pause = min(pause, allowance.delay())
                continue
            if allowed is not None:
                room = room._replace(events=min(room.events, allowed))
            allowance.spend(await self._next(port, replay, room))
            pause = 0.0
        return pause

    async def _next(self, port: RepublishPort, replay: LaneRepublish, room: Reach) -> int:
        """Read on in one lane and hand in what was found; returns how many events."""
        progress = replay.progress
        above, lane = progress.cursor, replay.state.lane
        up_to = min(above + STEP_IDS, progress.last_id)
        # What was read once and came back is read again, and with it what is still under way.
        again = [size for id_, size in progress.under_way.items() if id_ > above]
        most = Reach(room.events + len(again), room.bytes + sum(again))
        rows = await port.events_to_replay(replay.request, lane, above, up_to, *most)
        paused = replay.request.target in self._tenure.paused
        if progress.cursor != above or paused or not self._may_publish(replay):
            # Something came back meanwhile, and goes before what was read; or there is nowhere to publish it from here.
            return 0
        now = time.time_ns() // 1_000_000
        events = [_now(row, now, replay) for row in rows if row.id not in progress.under_way]
        replay.handed_in(events)
        progress.read_to(rows[-1].id if cut_off(rows, most) else up_to)
        self._hand_in(events)
        return len(events)

    def _room(self, replay: LaneRepublish) -> Reach | None:
        """What may be handed in; None while less than half of that is free, as a read costs the same."""
        state = replay.state
        reach = reach_under_way(
            lanes=len(self._tenure.lanes),
            max_events=self._buffer.max_events,
            max_bytes=self._buffer.max_bytes,
            events_per_second=self._publish.events_per_second,
            bytes_per_second=self._publish.bytes_per_second,
        )
        events = reach.events - state.replaying
        free_bytes = reach.bytes - sum(each.progress.bytes for each in self._lanes.values() if each.state is state)
        if events * 2 < reach.events or free_bytes * 2 < reach.bytes:
            return None
        return Reach(events, free_bytes)

    def _may_publish(self, replay: LaneRepublish) -> bool:
        return not self._tenure.draining and not replay.state.releasing and self._owned(replay)

    def _owned(self, replay: LaneRepublish) -> bool:
        return self._tenure.lanes.get(replay.state.lane) is replay.state

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._republished.changed.wait()
        except TimeoutError:
            return


def _now(row: PendingEvent, now: int, replay: LaneRepublish) -> EventWithOrigin:
    """The event, for the topic it is to go to, with the time of this publishing, `now` in unix milliseconds.

    It becomes the record's time: Kafka may delete a record with the time of the first delivery as soon as it arrives.
    """
    lane, id_, event_id, _, key, payload, headers, type_, written_ms, size = row
    topic = replay.request.target
    event = with_origin(EventTuple(lane, id_, event_id, topic, key, payload, headers, type_, now, size), replay)
    event.written_ms = written_ms
    return event


def _from(turn: int, replays: Sequence[LaneRepublish]) -> Iterable[LaneRepublish]:
    """All of them, beginning with another one each turn: a rate must not go to the first lane alone."""
    begin = turn % len(replays) if replays else 0
    return [*replays[begin:], *replays[:begin]]
