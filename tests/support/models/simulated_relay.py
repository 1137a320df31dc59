"""The real stages on a simulated PostgreSQL, moved on one instant at a time in any order.

Each port method is a coroutine that stops before, between and after the instants of its statement, so that a
schedule decides what happens meanwhile: the answers of several connections may be on their way at once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from relay.decide.room import Room
from relay.decide.shares import LiveReplica
from relay.settings import ReplicaSettings, ScanSettings, SettleSettings
from relay.stages.claim.claim import Claim
from relay.stages.claim.ports import ClaimedLane, Renewal
from relay.stages.claim.totals import Totals
from relay.stages.scan.ports import ScanResult
from relay.stages.scan.reads import LaneReads
from relay.stages.scan.scan import Scan
from relay.stages.scan.sweep import Sweep
from relay.stages.settle.outcomes import Delivered, Outcomes
from relay.stages.settle.settle import Settle
from relay.stages.tenure import Tenure, TenureLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Sequence
    from uuid import UUID

    from relay.decide.closed import BlockedKey
    from relay.decide.failing import Verdict
    from relay.decide.lane_scan import LanePosition
    from relay.decide.shares import LaneRow
    from relay.decide.snapshot import Snapshot
    from relay.event import PendingEvent
    from relay.outcome import PublishError
    from relay.stages.claim.ports import Report
    from relay.stages.scan.ports import LaneRequest
    from relay.stages.settle.ports import Receipts
    from relay.telemetry import Telemetry
    from tests.support.models.simulated_postgres import SimulatedPostgres, Transaction


class Instant:
    def __await__(self) -> Generator[None, None, None]:
        yield


class SilentTelemetry:
    def emit(self, name: str, **fields: object) -> None:
        pass

    def gauge(self, name: str, value: float) -> None:
        pass


class SimulatedConnection:
    """Every port of the stages. Statements run one instant at a time."""

    def __init__(self, postgres: SimulatedPostgres) -> None:
        self.postgres = postgres

    async def scan(self, lanes: Sequence[LaneRequest], longest_sweep: int) -> ScanResult:
        await Instant()
        snapshot, events = self.postgres.scan(lanes, longest_sweep)
        return await self._result(snapshot, events)

    async def snapshot(self) -> Snapshot:
        await Instant()
        now = self.postgres.snapshot()
        await Instant()
        return now

    async def sweep_step(self, lane: int, above: int, up_to: int, max_events: int, max_bytes: int) -> ScanResult:
        await Instant()
        snapshot, found = self.postgres.sweep_step(lane, above, up_to, max_events, max_bytes)
        return await self._result(snapshot, found)

    async def _result(self, snapshot: Snapshot, events: list[PendingEvent]) -> ScanResult:
        await Instant()
        # Not in the snapshot: xids and the sequence are read as they are at that moment.
        next_xid = self.postgres.next_xid
        await Instant()
        value = self.postgres.sequence
        await Instant()
        return ScanResult(snapshot, value, next_xid, events)

    async def sequence_value(self) -> int:
        await Instant()
        value = self.postgres.sequence
        await Instant()
        return value

    async def quiet_transactions(self, xids: Sequence[int]) -> list[int]:
        await Instant()
        found = self.postgres.quiet(xids)
        await Instant()
        return found

    async def settle(self, receipts: Receipts) -> int:
        transaction = await self._begin()
        settled = set(zip(receipts.lanes, receipts.ids, strict=True))
        new = len(settled - self.postgres.receipts)
        self.postgres.receipts |= settled
        await self._commit(transaction)
        return new

    async def settle_recorded(self, receipts: Receipts, recorded: Sequence[tuple[int, int]]) -> int:
        raise AssertionError("nothing fails here")

    async def settle_checked(self, receipts: Receipts, event_ids: list[UUID]) -> int:
        return await self.settle(receipts)

    async def count_duplicates(self, receipts: Receipts) -> int:
        return 0

    async def hold(self, replica: UUID, events: Sequence[PendingEvent], epochs: dict[int, int]) -> int | None:
        raise AssertionError("nothing is held back here")

    async def fail(self, replica: UUID, event: PendingEvent, verdict: Verdict, error: PublishError, epoch: int) -> bool:
        raise AssertionError("nothing fails here")

    async def blocking(self, lanes: Sequence[int]) -> list[BlockedKey]:
        return []

    async def held_topics(self, lanes: Sequence[int]) -> list[tuple[int, str]]:
        return []

    async def has_failures(self, lanes: Sequence[int]) -> bool:
        return False

    async def register(
        self, replica: UUID, name: str, version: str, lease: float, former: UUID | None, waiting: str | None
    ) -> int:
        transaction = await self._begin()
        self.postgres.replicas[replica] = None
        return await self._commit(transaction)

    async def take_part(self, replica: UUID) -> None:
        raise NotImplementedError("each can publish")

    async def renew(self, replica: UUID, lease: float, report: Report) -> Renewal | None:
        transaction = await self._begin()
        xid = await self._commit(transaction)
        return Renewal(xid, open_replays=False) if replica in self.postgres.replicas else None

    async def live_replicas(self) -> list[LiveReplica]:
        await Instant()
        return [LiveReplica(replica, 1e6, 0.0, draining=False) for replica in self.postgres.replicas]

    async def lanes(self) -> list[LaneRow]:
        await Instant()
        rows = self.postgres.lane_rows()
        await Instant()
        return rows

    async def claim(self, replica: UUID, seen: Sequence[LaneRow]) -> list[ClaimedLane]:
        await Instant()
        claimed = [(row, self.postgres.lanes[row.lane].position) for row in self.postgres.claim(replica, seen)]
        await Instant()
        snapshot = self.postgres.snapshot()
        result = [
            ClaimedLane(row.lane, row.epoch, position, self.postgres.highest_settled(row.lane), snapshot)
            for row, position in claimed
        ]
        await Instant()
        return result

    async def advance_positions(self, replica: UUID, positions: Sequence[LanePosition]) -> None:
        await Instant()
        for lane, epoch, position in positions:
            self.postgres.advance_position(replica, lane, epoch, position)

    async def release(self, replica: UUID, positions: Sequence[LanePosition]) -> None:
        await Instant()
        for lane, epoch, position in positions:
            if self.postgres.advance_position(replica, lane, epoch, position):
                self.postgres.lanes[lane].owner = None
        await Instant()

    async def drain(self, replica: UUID) -> None:
        await Instant()

    async def unregister(self, replica: UUID) -> None:
        await Instant()
        del self.postgres.replicas[replica]

    async def wake_others(self) -> None:
        pass

    async def _begin(self) -> Transaction:
        await Instant()
        transaction = self.postgres.begin()
        await Instant()
        return transaction

    async def _commit(self, transaction: Transaction) -> int:
        self.postgres.commit(transaction)
        await Instant()
        return transaction.xid


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
        )
        self._work: dict[str, Coroutine[Any, Any, object]] = {}
        self.start("claim", self._claim.register(None))
        self.finish("claim")

    def connect(self, postgres: SimulatedPostgres) -> SimulatedConnection:
        return SimulatedConnection(postgres)

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
        if not self.tenure.draining and (requests := self._scan._requests()):
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
        self.start("settle", self._settle._record([Delivered(self.tenure, [event], 0, event.id) for event in events]))

    def begin_beat(self) -> None:
        self.start("claim", self._beat())

    async def _beat(self) -> None:
        await self._claim.beat()
        await self._claim.hand_back()
