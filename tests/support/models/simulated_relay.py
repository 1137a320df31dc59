"""The real stages on a simulated PostgreSQL, moved on one instant at a time in any order."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from relay.decide.room import Room
from relay.settings import ReplicaSettings, ScanSettings, SettleSettings
from relay.stages.claim.claim import Claim
from relay.stages.claim.totals import Totals
from relay.stages.scan.reads import LaneReads
from relay.stages.scan.scan import Scan
from relay.stages.scan.sweep import Sweep
from relay.stages.settle.outcomes import Delivered, Held, Outcomes
from relay.stages.settle.settle import Settle
from relay.stages.tenure import Tenure, TenureLostError
from tests.support.models.simulated_connection import ConnectionWithoutFailures, Instant, SimulatedConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from uuid import UUID

    from relay.decide.held_back import PausedTopic
    from relay.decide.lane_scan import LanePosition, LaneScan
    from relay.decide.shares import LiveReplica
    from relay.event import PendingEvent
    from relay.telemetry import Telemetry
    from tests.support.models.simulated_postgres import SimulatedPostgres


class SilentTelemetry:
    def emit(self, name: str, **fields: object) -> None:
        pass

    def gauge(self, name: str, value: float) -> None:
        pass

    def gauges(self, name: str, label: str, values: Mapping[str, float]) -> None:
        pass


class ScanModelConnection(ConnectionWithoutFailures):
    """What is not about scans takes fewer instants here, so that a schedule has more of a scan in it.

    With all of them, three of the mutants are not caught within the number of schedules that are played.
    """

    async def live_replicas(self) -> list[LiveReplica]:
        await Instant()
        return self.postgres.leases.live()

    async def advance_positions(self, replica: UUID, positions: Sequence[LanePosition]) -> None:
        await Instant()
        for lane, epoch, position in positions:
            self.postgres.advance_position(replica, lane, epoch, position)

    async def drain(self, replica: UUID) -> None:
        await Instant()
        self.postgres.leases.drain(replica)


class SimulatedRelay:
    """One replica: the stages, and of each at most one piece of work under way."""

    def __init__(
        self,
        postgres: SimulatedPostgres,
        on_taken: Callable[[SimulatedRelay, list[PendingEvent]], None],
        batch_events: int,
        step_ids: int,
    ) -> None:
        self.postgres = postgres
        self.port = self.connect(postgres)
        self.outcomes = Outcomes()
        self._on_taken = on_taken
        self.tenure = Tenure(Room(24, 24 * 512 + 60))
        self.unsettled: list[PendingEvent] = []
        """Taken, and not yet on their way to a receipt."""
        self.looks = 0
        telemetry = cast("Telemetry", SilentTelemetry())
        scan = ScanSettings(batch_events=batch_events, sweep_step_ids=step_ids)
        reads = LaneReads(self.tenure, self.hand_on)
        self._scan = Scan(port=self.port, reads=reads, settings=scan, telemetry=telemetry)
        self._sweep = Sweep(port=self.port, reads=reads, settings=scan, telemetry=telemetry)
        self._settle = Settle(
            port=self.port, outcomes=self.outcomes, tenure=self.tenure, settings=SettleSettings(), telemetry=telemetry
        )
        # The lease is not what these tests are about.
        replica = ReplicaSettings(name="simulated", lease=1e6)
        self._claim = Claim(
            port=self.port,
            tenure=self.tenure,
            on_claimed=lambda: None,
            settings=replica,
            totals=Totals(),
            telemetry=telemetry,
            on_paused=self.hear_of_pauses,
        )
        self._work: dict[str, Coroutine[Any, Any, object]] = {}
        self.start("claim", self._claim.register(None))
        self.finish("claim")

    def connect(self, postgres: SimulatedPostgres) -> SimulatedConnection:
        return ScanModelConnection(postgres)

    def hear_of_pauses(self, paused: Sequence[PausedTopic]) -> None:
        """People paused these topics, and no others."""

    def hand_on(self, events: list[PendingEvent]) -> None:
        """These were taken."""
        self._on_taken(self, events)

    @property
    def busy(self) -> list[str]:
        """The stages with work under way."""
        return list(self._work)

    def start(self, stage: str, work: Coroutine[Any, Any, object]) -> None:
        """Let a stage begin; it stops before its first instant."""
        assert stage not in self._work
        self._work[stage] = work
        self.advance(stage)

    def advance(self, stage: str) -> None:
        """One instant further; TenureLostError ends the relay."""
        try:
            self._work[stage].send(None)
        except StopIteration:
            del self._work[stage]
        except TenureLostError:
            del self._work[stage]
            raise

    def finish(self, stage: str) -> None:
        """To the end of what the stage does, without anything between."""
        while stage in self._work:
            self.advance(stage)

    def kill(self) -> None:
        """It is gone; its statements that were under way are not."""
        with suppress(TenureLostError):
            for stage in ("settle", "claim"):
                self.finish(stage)
        for work in self._work.values():
            work.close()
        self._work.clear()
        self.postgres.replicas.pop(self.tenure.replica, None)

    def begin_scan(self) -> None:
        if not self.tenure.draining and (requests := self._scan.requests()):
            self.start("scan", self._scan.scan_once(requests))

    def begin_sweep(self) -> None:
        if not self.tenure.draining and any(lane.sweep for lane in self.tenure.lanes.values()):
            self.start("sweep", self._sweep.step_all())

    def begin_quiet_look(self) -> None:
        self.looks += 1
        self.start("sweep", self._sweep.look_for_quiet_transactions(float(self.looks)))

    def begin_settle(self, events: list[PendingEvent]) -> None:
        """These were acknowledged."""
        for event in events:
            self.unsettled.remove(event)
        self.start("settle", self._settle.record([Delivered(self.tenure, [event], 0, event.id) for event in events]))

    def begin_hold(self, events: list[PendingEvent]) -> None:
        """These are held back, as behind a failure or for a paused topic."""
        for event in events:
            self.unsettled.remove(event)
        self.start("settle", self._settle.record([Held(self.tenure, events)]))

    def resume(self) -> list[PendingEvent]:
        """Held events of the lanes go on, as far as the stage that does so would let them; returns them."""
        resumed: list[PendingEvent] = []
        for event in self.postgres.visible:
            state = self.tenure.lanes.get(event.lane)
            if state is not None and (event.lane, event.id) in self.postgres.held and self._may_resume(state, event.id):
                state.resume([event.id])
                self.tenure.room.add(event.lane, [event])
                resumed.append(event)
        self.unsettled += resumed
        return resumed

    def _may_resume(self, state: LaneScan, id_: int) -> bool:
        free = not self.tenure.draining and not state.releasing and state.taken_over
        return free and id_ not in state.resuming and not state.awaits_settle(id_)

    def resuming(self, event: PendingEvent) -> bool:
        """Whether the event is one that goes on after it was held back."""
        state = self.tenure.lanes.get(event.lane)
        return state is not None and event.id in state.resuming

    def begin_beat(self) -> None:
        self.start("claim", self._beat())

    async def _beat(self) -> None:
        await self._claim.beat()
        await self._claim.hand_back()
