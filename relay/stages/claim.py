"""Registers the replica, keeps its lease, and claims and releases lanes up to its fair share."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

import relay
from relay.decide.closed import Closed
from relay.decide.lane_scan import LaneScan
from relay.decide.shares import fair_share
from relay.stages.tenure import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from uuid import UUID

    from relay.postgres.outbox import ClaimedLane, LaneRow
    from relay.settings import ReplicaSettings
    from relay.stages.tenure import Tenure
    from relay.telemetry import Telemetry

HEARTBEATS_PER_LEASE = 3

HAND_BACK_INTERVAL = 0.05
"""Seconds between looks at lanes that are to be given back: their next owner waits for them."""


class ClaimPort(Protocol):
    """What claiming needs of PostgreSQL; every write is fenced by owner and epoch."""

    async def sequence_value(self) -> int:
        """The last id taken."""

    async def register(self, replica: UUID, name: str, version: str, lease: float, former: UUID | None) -> int:
        """Enter the replica; returns the transaction's xid."""

    async def renew(self, replica: UUID, lease: float) -> int | None:
        """Extend the lease; returns the transaction's xid, None when it had run out."""

    async def live_replicas(self) -> list[UUID]:
        """Replicas with a running lease, in the order of their claim to one lane more."""

    async def lanes(self) -> list[LaneRow]:
        """All lanes."""

    async def claim(self, replica: UUID, seen: Sequence[LaneRow]) -> list[ClaimedLane]:
        """Claim lanes that nobody claimed since they were seen."""

    async def blocking(self, lanes: Sequence[int]) -> list[tuple[int, str, bytes | None]]:
        """Closed keys (lane, topic, key), and topics with held rows (lane, topic, None)."""

    async def has_failures(self, lanes: Sequence[int]) -> bool:
        """Whether there is a failure that may have to be acted on."""

    async def advance_positions(self, replica: UUID, positions: Sequence[tuple[int, int, int]]) -> None:
        """Raise (lane, epoch, position)."""

    async def release(self, replica: UUID, positions: Sequence[tuple[int, int, int]]) -> None:
        """Give back (lane, epoch, position)."""

    async def unregister(self, replica: UUID) -> None:
        """Take the replica off the list."""

    async def forget_replicas(self) -> None:
        """Remove replicas that have been gone for long."""


class Claim:
    """The heartbeat and what hangs on it."""

    def __init__(
        self,
        port: ClaimPort,
        tenure: Tenure,
        on_claimed: Callable[[], None],
        settings: ReplicaSettings,
        telemetry: Telemetry,
    ) -> None:
        self._port = port
        self._tenure = tenure
        self._on_claimed = on_claimed
        self._settings = settings
        self._telemetry = telemetry
        self._surplus = 0

    async def register(self, former: UUID | None) -> None:
        """Begin the tenure: the ladder's first rung, then the registration's lease. No lane is owned yet."""
        tenure = self._tenure
        value = await self._look_at_sequence()
        sent = time.monotonic()
        xid = await self._port.register(
            tenure.replica, self._settings.name, relay.__version__, self._settings.lease, former
        )
        tenure.ladder.add(xid, value)
        tenure.lease_ends = sent + self._settings.lease
        await self._port.forget_replicas()

    async def run(self) -> None:
        """Beat until cancelled, or until the tenure has drained and the replica is off the list.

        LeaseLostError ends the tenure.
        """
        tenure = self._tenure
        interval = self._settings.lease / HEARTBEATS_PER_LEASE
        next_beat = 0.0
        while True:
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + interval
                await self.beat()
                self._telemetry.emit("heartbeat.done", seconds=time.monotonic() - now)
            if tenure.draining:
                self._surplus = len(tenure.lanes)
            await self._hand_back()
            if tenure.draining and not tenure.lanes:
                await self._port.unregister(tenure.replica)
                return
            pause = HAND_BACK_INTERVAL if self._surplus else next_beat - time.monotonic()
            if tenure.draining:
                await asyncio.sleep(pause)
            else:
                await self._wait_for_drain(pause)

    async def beat(self) -> None:
        """Renew the lease, persist positions, then claim or release towards the fair share."""
        tenure = self._tenure
        # Looked at here and not left to the scans: without a recent rung, the sweep of a lane that is claimed next
        # would go back again and again, and lanes without room would not advance their positions.
        value = await self._look_at_sequence()
        sent = time.monotonic()
        xid = await self._port.renew(tenure.replica, self._settings.lease)
        if xid is None:
            raise LeaseLostError("the lease had run out before it was renewed")
        tenure.lease_ends = sent + self._settings.lease
        tenure.ladder.add(xid, value)
        if tenure.lanes:
            await self._port.advance_positions(tenure.replica, self._positions(tenure.lanes.values()))
        live = await self._port.live_replicas()
        rows = await self._port.lanes()
        self._check_still_ours(rows)
        missing = 0 if tenure.draining else fair_share(tenure.replica, live) - len(tenure.lanes)
        self._surplus = max(0, -missing)
        if missing > 0:
            await self._claim([row for row in rows if row.free and row.lane not in tenure.lanes][:missing])
        self._telemetry.gauge("lanes_owned", len(tenure.lanes))

    async def _look_at_sequence(self) -> int:
        before = self._tenure.sequence_value
        self._tenure.saw_sequence(await self._port.sequence_value(), before)
        return self._tenure.sequence_value

    def _check_still_ours(self, rows: Sequence[LaneRow]) -> None:
        tenure = self._tenure
        ours = {row.lane for row in rows if row.owner == tenure.replica and tenure.owns(row.lane, row.epoch)}
        if lost := sorted(set(tenure.lanes) - ours):
            raise LeaseLostError(f"lanes {lost} have another owner")

    async def _claim(self, free: Sequence[LaneRow]) -> None:
        if not free:
            return
        tenure = self._tenure
        claimed = await self._port.claim(tenure.replica, free)
        # Before the first scan: what stands behind a failure must not be published by it.
        blocking = await self._port.blocking([lane.lane for lane in claimed])
        tenure.has_failures = tenure.has_failures or await self._port.has_failures([lane.lane for lane in claimed])
        for lane in claimed:
            closed = Closed(
                topics={topic for number, topic, key in blocking if number == lane.lane and key is None},
                keys={(topic, key) for number, topic, key in blocking if number == lane.lane and key is not None},
            )
            state = LaneScan.take_over(lane.lane, lane.epoch, lane.position, lane.highest_settled, lane.snapshot)
            tenure.add_lane(state, closed)
        if claimed:
            tenure.share_room()
            self._telemetry.emit("lanes.claimed", lanes=sorted(lane.lane for lane in claimed))
            self._on_claimed()

    async def _hand_back(self) -> None:
        """Stop taking from as many lanes as are too many, and release those of them that are settled."""
        states = sorted(self._tenure.lanes.values(), key=lambda state: (not state.releasing, -state.lane))
        for index, state in enumerate(states):
            state.releasing = index < self._surplus
        ready = [state for state in states if state.releasing and not state.unsettled]
        if ready:
            await self._release(ready)
            self._surplus -= len(ready)

    async def _release(self, states: Sequence[LaneScan]) -> None:
        tenure = self._tenure
        await self._port.release(tenure.replica, self._positions(states))
        for state in states:
            tenure.remove_lane(state.lane)
        tenure.share_room()
        self._telemetry.emit("lanes.released", lanes=sorted(state.lane for state in states))

    def _positions(self, states: Iterable[LaneScan]) -> list[tuple[int, int, int]]:
        ladder = self._tenure.ladder
        return [(state.lane, state.epoch, state.advance_position(ladder)) for state in states]

    async def _wait_for_drain(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._tenure.drain_begun.wait()
        except TimeoutError:
            return
