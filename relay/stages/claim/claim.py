"""Registers the replica, keeps its lease, and claims and releases lanes up to its fair share.

Every third of the lease a *beat* renews it. A *look* sees who owns what, and which topics people paused, and acts on
it: with every beat, when another replica or a person says that something changed, and when a lease that others depend
on, or a pause, has ended. What is said may be missed, so the beats are the guarantee.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import relay
from relay.decide.held_back import Closed
from relay.decide.lane_scan import LanePosition, LaneScan
from relay.decide.shares import Entry, Sharing, has_dead_owner
from relay.errors import RelayError, connection_lost
from relay.stages.claim.duplicates import Duplicates
from relay.stages.claim.ports import Report
from relay.stages.tenure import LanesCededError, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from uuid import UUID

    from relay.decide.held_back import PausedTopic
    from relay.decide.shares import LaneRow
    from relay.settings import ReplicaSettings
    from relay.stages.claim.ports import ClaimPort
    from relay.stages.claim.totals import Totals
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

HEARTBEATS_PER_LEASE = 3
"""Renewals sent within one lease: two may get lost."""

HAND_BACK_INTERVAL = 0.02
"""Seconds between looks (in memory) whether a lane that is to be given back is settled: its next owner waits for it."""

LOOK_AGAIN_AFTER = 0.02
"""Seconds until the next look after lanes were claimed: others may have been faster with some of them or had one
locked, and lanes that were moved here may be more than the share, so that others have to go."""

MOST_LOOK_AGAIN_AFTER = 1.0
"""Maximum seconds until that look, after many tries without success: a lane's row may stay locked for long."""

SHOW_AFTER = 0.5
"""Seconds after which giving lanes back is worth a beat of its own, which shows it to people."""


class Claim:
    """The heartbeat, and the lanes that are claimed and given back with it."""

    def __init__(
        self,
        *,
        port: ClaimPort,
        tenure: Tenure,
        on_claimed: Callable[[], None],
        settings: ReplicaSettings,
        totals: Totals,
        telemetry: Telemetry,
        cannot_publish: Callable[[], str | None] = lambda: None,
        on_paused: Callable[[Sequence[PausedTopic]], None] = lambda _: None,
        register: Callable[[Entry, UUID | None], Awaitable[int]] | None = None,
    ) -> None:
        """For as long as `cannot_publish` says why nothing can have been published, lanes are left to who can.

        `on_paused` hears with each look which topics people paused. `register` enters the replica, in place of its
        former registration, and returns the xid; by default as one that notes nothing of what it publishes.
        """
        self._register = register or self._register_simply
        self._port = port
        self._tenure = tenure
        self._on_claimed = on_claimed
        self._settings = settings
        self._totals = totals
        self._telemetry = telemetry
        self._sharing = Sharing(tenure.replica)
        self._give_back: frozenset[int] = frozenset()
        self._next_look = 0.0
        self._look_delay = LOOK_AGAIN_AFTER
        self._drain_told = False
        self._waiting = False
        self._cannot_publish = cannot_publish
        self._on_paused = on_paused
        self._duplicates = Duplicates(port, tenure, telemetry)
        self._shown: frozenset[int] = frozenset()
        self._show_at = float("inf")

    async def register(self, former: UUID | None) -> None:
        """Begin the tenure: the ladder's first rung, then the registration's lease. No lane is owned yet."""
        tenure = self._tenure
        value = await self._read_sequence()
        waiting = self._cannot_publish()
        self._waiting = waiting is not None
        sent = time.monotonic()
        entry = Entry(tenure.replica, self._settings.name, relay.__version__, self._settings.lease, waiting)
        xid = await self._register(entry, former)
        tenure.register(xid, value, sent + self._settings.lease)
        await self._wake_others()

    async def run(self) -> None:
        """Beat until cancelled, or until the tenure has drained and the replica is off the list.

        LeaseLostError ends the tenure.
        """
        tenure = self._tenure
        interval = self._settings.lease / HEARTBEATS_PER_LEASE
        next_beat = 0.0
        while True:
            now = time.monotonic()
            if now >= min(next_beat, self._show_at):
                next_beat = now + interval
                await self.beat()
                self._telemetry.emit("heartbeat.done", seconds=time.monotonic() - now)
            elif tenure.claim_wake_up.is_set() or now >= self._next_look:
                await self.look()
            await self.hand_back()
            if tenure.draining and not tenure.lanes:
                await self.leave()
                return
            until = min(next_beat, self._next_look, self._show_at) - time.monotonic()
            await self._wait(min(until, HAND_BACK_INTERVAL) if self._give_back else until)

    async def leave(self) -> None:
        """Take the replica off the list: its lanes are free."""
        await self._port.unregister(self._tenure.replica)
        self._tenure.leave()
        await self._wake_others()

    async def leave_to_others(self, expire: Callable[[UUID], Awaitable[None]]) -> None:
        """End the lease and tell the others, who find out what of it is in Kafka before they take the lanes."""
        self._tenure.end_lease()
        await expire(self._tenure.replica)
        await self._wake_others()

    async def beat(self) -> None:
        """Renew the lease, persist positions, then look."""
        tenure = self._tenure
        # Looked at here and not left to the scans: without a recent rung, the sweep of a lane that is claimed next
        # would go back again and again, and lanes without room would not advance their positions.
        value = await self._read_sequence()
        report = self._report()
        sent = time.monotonic()
        renewal = await self._port.renew(tenure.replica, self._settings.lease, report)
        if renewal is None:
            raise LeaseLostError("the lease had run out before it was renewed")
        tenure.extend_lease(sent + self._settings.lease)
        tenure.ladder.add(renewal.xid, value)
        self._shown, self._show_at = frozenset(report.releasing), float("inf")
        if renewal.open_replays:
            tenure.replay_may_be_open()
        if tenure.lanes:
            await self._port.advance_positions(tenure.replica, self._positions(tenure.lanes.values()))
        await self._duplicates.look()
        await self.look()

    async def look(self) -> None:
        """See who owns what; claim what is ours, and begin to give back what is not."""
        tenure = self._tenure
        # What is said from now on may not be in the rows.
        tenure.claim_wake_up.clear()
        if self._waiting and self._cannot_publish() is None:
            self._waiting = False
            await self._port.take_part(tenure.replica)
            await self._wake_others()
        live = await self._port.live_replicas()
        rows = await self._port.lanes()
        paused = await self._port.paused_topics()
        self._check_still_ours(rows)
        # Before lanes are claimed: nothing of a paused topic is to be read as if it were not.
        self._on_paused(paused)
        if has_dead_owner(live, rows):
            tenure.reconcile_may_be_due()
        now = time.monotonic()
        plan = self._sharing.plan(live, rows, self._give_back, now)
        self._give_back = plan.give_back
        self._next_look = now + min([plan.look_in, *(each.seconds for each in paused)])
        if plan.cede and self._waiting and any(state.unsettled for state in tenure.lanes.values()):
            await self._cede()
        if plan.claim and not tenure.draining:
            await self._claim(plan.claim)
        self._telemetry.gauge("lanes_owned", len(tenure.lanes))

    async def hand_back(self) -> None:
        """Stop taking from the lanes that are to be given back, and release those of them that are settled."""
        tenure = self._tenure
        if tenure.draining:
            self._give_back = frozenset(tenure.lanes)
            if not self._drain_told:
                self._drain_told = True
                await self._port.drain(tenure.replica)
                await self._wake_others()
        for state in tenure.lanes.values():
            state.give_back(state.lane in self._give_back)
        ready = [state for state in tenure.lanes.values() if state.releasing and not state.unsettled]
        if ready:
            await self._release(ready)
        if self._give_back <= self._shown:
            self._show_at = float("inf")
        else:
            self._show_at = min(self._show_at, time.monotonic() + SHOW_AFTER)

    async def _cede(self) -> None:
        """Leave the lanes with what was taken from them, which would be settled only once it can be published."""
        if self._cannot_publish() is None:
            # Since the look began. From here on nothing is sent.
            return
        self._tenure.end_lease()
        lanes = sorted(self._tenure.lanes)
        await self.leave()
        self._telemetry.emit("lanes.released", lanes=lanes)
        raise LanesCededError(f"lanes {lanes} are left to another replica, which can publish")

    async def _register_simply(self, entry: Entry, former: UUID | None) -> int:
        return await self._port.register(entry.replica, entry.name, entry.version, entry.lease, former, entry.waiting)

    def _report(self) -> Report:
        return Report(
            sorted(self._give_back),
            self._totals.duplicates,
            self._totals.leases_lost,
            self._totals.topics(time.monotonic()),
        )

    async def _read_sequence(self) -> int:
        before = self._tenure.sequence_value
        self._tenure.saw_sequence(await self._port.sequence_value(), before)
        return self._tenure.sequence_value

    def _check_still_ours(self, rows: Sequence[LaneRow]) -> None:
        tenure = self._tenure
        ours = {row.lane for row in rows if row.owner == tenure.replica and tenure.owns(row.lane, row.epoch)}
        if lost := sorted(set(tenure.lanes) - ours):
            raise LeaseLostError(f"lanes {lost} have another owner")

    async def _claim(self, free: Sequence[LaneRow]) -> None:
        tenure = self._tenure
        claimed = await self._port.claim(tenure.replica, free)
        self._look_delay = LOOK_AGAIN_AFTER if claimed else min(2 * self._look_delay, MOST_LOOK_AGAIN_AFTER)
        self._next_look = time.monotonic() + self._look_delay
        if claimed:
            self._duplicates.claimed(claimed)
        # Before the first scan: what stands behind a failure must not be published by it.
        numbers = [lane.lane for lane in claimed]
        blocking = await self._port.blocking(numbers)
        held = await self._port.held_topics(numbers)
        if await self._port.has_failures(numbers):
            tenure.expect_failures()
        for lane in claimed:
            closed = Closed(
                topics={topic for number, topic in held if number == lane.lane},
                keys={(topic, key) for number, topic, key in blocking if number == lane.lane},
            )
            state = LaneScan.take_over(lane.lane, lane.epoch, lane.position, lane.highest_settled, lane.snapshot)
            tenure.add_lane(state, closed)
        if claimed:
            self._telemetry.emit("lanes.claimed", lanes=sorted(lane.lane for lane in claimed))
            self._on_claimed()

    async def _release(self, states: Sequence[LaneScan]) -> None:
        tenure = self._tenure
        # Whoever owns the lanes next sees these receipts from the beginning, and counts none of them.
        await self._duplicates.look()
        await self._port.release(tenure.replica, self._positions(states))
        for state in states:
            tenure.remove_lane(state.lane)
        self._give_back -= {state.lane for state in states}
        self._telemetry.emit("lanes.released", lanes=sorted(state.lane for state in states))
        await self._wake_others()

    async def _wake_others(self) -> None:
        """Send a hint: without it the others look with their next beat."""
        try:
            await self._port.wake_others()
        except RelayError as error:
            if connection_lost(error):
                raise
            self._telemetry.emit("hint.failed", error=error)
        else:
            self._telemetry.emit("hint.sent")

    def _positions(self, states: Iterable[LaneScan]) -> list[LanePosition]:
        ladder = self._tenure.ladder
        # By lane, the order in which the other connections lock them: otherwise the two could wait for each other.
        return sorted(LanePosition(state.lane, state.epoch, state.advance_position(ladder)) for state in states)

    async def _wait(self, seconds: float) -> None:
        """Wait `seconds`, or until there is something to look at; a drain that begins is such."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._tenure.claim_wake_up.wait()
        except TimeoutError:
            return
