"""The shared fake of every port that PostgreSQL fulfils; `tests/contract` holds it to what the real adapters do.

Each port method is a coroutine that stops before, between and after the instants of its statement, so that a
schedule decides what happens meanwhile: the answers of several connections may be on their way at once.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from relay.decide.duplicates import Looked
from relay.stages.claim.ports import ClaimedLane, Renewal
from relay.stages.scan.ports import ID_MAX, ScanResult, StepResult, WantedEvents

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Sequence
    from uuid import UUID

    from relay.decide.duplicates import Part
    from relay.decide.held_back import BlockedKey, PausedTopic
    from relay.decide.lane_scan import LanePosition
    from relay.decide.republishing import ReplayRequest
    from relay.decide.shares import LaneRow, LiveReplica
    from relay.decide.snapshot import Snapshot
    from relay.event import PendingEvent
    from relay.stages.claim.ports import LaneClaim, Report
    from relay.stages.hold.ports import DueFailure
    from relay.stages.republish.ports import Landed
    from relay.stages.scan.ports import LaneRequest
    from relay.stages.settle.ports import FailedEvent, Receipts
    from tests.support.models.simulated_postgres import SimulatedPostgres, Transaction

T = TypeVar("T")


class Instant:
    """Lets a schedule, or the event loop, do something else."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class SimulatedConnection:
    """Every port of the stages on a simulated PostgreSQL. Statements run one instant at a time."""

    def __init__(self, postgres: SimulatedPostgres) -> None:
        self.postgres = postgres

    # ScanPort, SweepPort and UnreadablePort

    async def scan(self, lanes: Sequence[LaneRequest]) -> ScanResult:
        await Instant()
        snapshot, swept, events = self.postgres.scan(lanes)
        return ScanResult(snapshot, *await self._look_around(), swept, events)

    async def events_by_id(self, wanted: Sequence[WantedEvents]) -> list[PendingEvent]:
        return await self._run(lambda: self.postgres.events_by_id(wanted))

    async def snapshot(self) -> Snapshot:
        return await self._run(self.postgres.snapshot)

    async def sweep_step(
        self, lane: int, above: int, up_to: int, max_events: int, max_bytes: int, settled_from: int = ID_MAX
    ) -> StepResult:
        await Instant()
        found = self.postgres.sweep_step(lane, above, up_to, max_events, max_bytes, settled_from)
        return StepResult(found.snapshot, *await self._look_around(), found.settled, found.events, found.left)

    async def new_step(
        self,
        lane: int,
        above: int,
        up_to: int,
        max_events: int,
        max_bytes: int,
        new: Callable[[Collection[int]], list[int]],
    ) -> StepResult:
        await Instant()
        snapshot, ids = self.postgres.range_ids(lane, above, up_to)
        around = await self._look_around()
        unsettled = new(ids)
        events = self.postgres.events_by_id([WantedEvents(lane, unsettled[:max_events], max_bytes)])
        return StepResult(snapshot, *around, [], events, unsettled[len(events) :])

    async def gap_step(self, lane: int, ids: Sequence[int], max_events: int, max_bytes: int) -> StepResult:
        await Instant()
        found = self.postgres.gap_step(lane, ids, max_events, max_bytes)
        return StepResult(found.snapshot, *await self._look_around(), found.settled, found.events, found.left)

    async def _look_around(self) -> tuple[int, int]:
        """The sequence's value and the next xid. They are not in the snapshot, but as they are at that moment."""
        await Instant()
        next_xid = self.postgres.next_xid
        await Instant()
        value = self.postgres.sequence
        await Instant()
        return value, next_xid

    async def pending_ids(self, lane: int, above: int, up_to: int, max_events: int) -> list[PendingEvent]:
        return await self._run(lambda: self.postgres.pending_ids(lane, above, up_to, max_events))

    async def sequence_value(self) -> int:
        return await self._run(lambda: self.postgres.sequence)

    async def quiet_transactions(self, xids: Sequence[int]) -> list[int]:
        return await self._run(lambda: self.postgres.quiet(xids))

    # SettlePort

    async def settle(self, receipts: Receipts) -> int:
        return await self._write(lambda: self.postgres.settle(receipts.publisher, _runs(receipts), [], receipts.owned))

    async def settle_recorded(self, receipts: Receipts, recorded: Sequence[tuple[int, int]]) -> int:
        return await self._write(
            lambda: self.postgres.settle(receipts.publisher, _runs(receipts), recorded, receipts.owned)
        )

    async def settle_checked(self, receipts: Receipts, event_ids: list[UUID]) -> int:
        def statement() -> int:
            known = self.postgres.event_ids()
            places = zip(receipts.lanes, receipts.ids, strict=True)
            still = {place for place, id_ in zip(places, event_ids, strict=True) if known.get(place) == id_}
            runs = [{place: run[place] for place in run if place in still} for run in _runs(receipts)]
            return self.postgres.settle(receipts.publisher, runs, still, receipts.owned)

        return await self._write(statement)

    async def hold(self, replica: UUID, events: Sequence[PendingEvent], epochs: dict[int, int]) -> int | None:
        return await self._write(lambda: self.postgres.hold(events) if self.postgres.owns(replica, epochs) else None)

    async def fail(self, replica: UUID, failures: Sequence[FailedEvent], epochs: dict[int, int]) -> bool:
        def statement() -> bool:
            owned = self.postgres.owns(replica, epochs)
            if owned:
                for failure in failures:
                    self.postgres.fail(*failure)
            return owned

        return await self._write(statement)

    # ResumePort

    async def blocking(self, lanes: Sequence[int]) -> list[BlockedKey]:
        return await self._run(lambda: self.postgres.blocking(lanes))

    async def others_receipts(
        self,
        replica: UUID,
        claims: Sequence[LaneClaim],
        lately: Sequence[LaneClaim],
        known: Collection[tuple[int, UUID]],
        part: Part,
    ) -> Looked:
        return Looked([], more=False)

    async def held_topics(self, lanes: Sequence[int]) -> list[tuple[int, str]]:
        return await self._run(lambda: self.postgres.held_topics(lanes))

    async def has_failures(self, lanes: Sequence[int]) -> bool:
        return await self._run(lambda: self.postgres.has_failures(lanes))

    async def due_failures(
        self,
        lanes: Sequence[int],
        max_events: int,
        max_bytes: int,
        paused: Sequence[str],
        under_way: Sequence[tuple[int, int]],
    ) -> list[DueFailure]:
        return await self._run(lambda: self.postgres.due_failures(lanes, max_events, max_bytes, paused, under_way))

    async def held_events(
        self, lane: int, above: int, max_events: int, max_bytes: int, paused: Sequence[str]
    ) -> list[PendingEvent]:
        return await self._run(lambda: self.postgres.held_events(lane, above, max_events, max_bytes, paused))

    async def still_unreadable(self, lanes: Sequence[int], why: str) -> bool:
        return await self._write(lambda: self.postgres.still_unreadable(lanes))

    # ClaimPort

    async def register(
        self, replica: UUID, name: str, version: str, lease: float, former: UUID | None, waiting: str | None
    ) -> int:
        transaction = await self._begin()
        self.postgres.leases.register(replica, lease, former, waiting=waiting is not None)
        return await self._commit(transaction)

    async def take_part(self, replica: UUID) -> None:
        await self._run(lambda: self.postgres.leases.take_part(replica))

    async def renew(self, replica: UUID, lease: float, report: Report) -> Renewal | None:
        transaction = await self._begin()
        renewed = self.postgres.leases.renew(replica, lease)
        open_replays = any(not replay.finished for replay in self.postgres.replays.values())
        xid = await self._commit(transaction)
        return Renewal(xid, open_replays) if renewed else None

    async def live_replicas(self) -> list[LiveReplica]:
        return await self._run(self.postgres.leases.live)

    async def lanes(self) -> list[LaneRow]:
        return await self._run(self.postgres.leases.lanes)

    async def paused_topics(self) -> list[PausedTopic]:
        return await self._run(self.postgres.leases.paused_topics)

    async def claim(self, replica: UUID, seen: Sequence[LaneRow]) -> list[ClaimedLane]:
        await Instant()
        claimed = [(row, self.postgres.lanes[row.lane].position) for row in self.postgres.leases.claim(replica, seen)]
        await Instant()
        snapshot = self.postgres.snapshot()
        result = [
            ClaimedLane(
                row.lane, row.epoch, position, self.postgres.highest_settled(row.lane), snapshot, self.postgres.sequence
            )
            for row, position in claimed
        ]
        await Instant()
        return result

    async def advance_positions(self, replica: UUID, positions: Sequence[LanePosition]) -> None:
        def statement() -> None:
            for lane, epoch, position in positions:
                self.postgres.advance_position(replica, lane, epoch, position)

        await self._run(statement)

    async def release(self, replica: UUID, positions: Sequence[LanePosition]) -> None:
        def statement() -> None:
            for lane, epoch, position in positions:
                self.postgres.advance_position(replica, lane, epoch, position)
                self.postgres.leases.release(replica, lane, epoch)

        await self._run(statement)

    async def drain(self, replica: UUID) -> None:
        await self._run(lambda: self.postgres.leases.drain(replica))

    async def unregister(self, replica: UUID) -> None:
        await self._run(lambda: self.postgres.leases.unregister(replica))

    async def wake_others(self) -> None:
        await self._run(self.postgres.leases.notify)

    # RepublishPort

    async def open_replays(self) -> list[ReplayRequest]:
        return await self._run(self.postgres.open_replays)

    async def events_to_replay(
        self, request: ReplayRequest, lane: int, above: int, up_to: int, max_events: int, max_bytes: int
    ) -> list[PendingEvent]:
        return await self._run(
            lambda: self.postgres.events_to_replay(request, lane, above, up_to, max_events, max_bytes)
        )

    async def settle_replayed(self, action: int, landed: Sequence[Landed[object]]) -> None:
        await self._write(lambda: self.postgres.settle_replayed(action, landed))

    async def advance_replay(self, action: int, replica: UUID, positions: Sequence[LanePosition]) -> None:
        await self._write(lambda: self.postgres.advance_replay(action, replica, positions))

    def close(self) -> None:
        """Nothing is to be closed."""

    # CheckPort

    async def check_range(self) -> tuple[int, int]:
        return await self._run(lambda: (1, max(lane.position for lane in self.postgres.lanes.values())))

    async def check_kept(self, most_events: int) -> list[tuple[int, int]]:
        # It drops no segment.
        return await self._run(list)

    async def check_slice(self, above: int, up_to: int) -> list[tuple[int, int]]:
        return await self._run(lambda: [each for each in self.postgres.unseen() if above < each[1] <= up_to])

    async def check_again(self, events: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
        return await self._run(lambda: [each for each in self.postgres.unseen() if each in events])

    # A statement that reads, and one that writes

    async def _run(self, statement: Callable[[], T]) -> T:
        await Instant()
        found = statement()
        await Instant()
        return found

    async def _write(self, statement: Callable[[], T]) -> T:
        transaction = await self._begin()
        answer = statement()
        await self._commit(transaction)
        return answer

    async def _begin(self) -> Transaction:
        await Instant()
        transaction = self.postgres.begin()
        await Instant()
        return transaction

    async def _commit(self, transaction: Transaction) -> int:
        self.postgres.commit(transaction)
        await Instant()
        return transaction.xid


class ConnectionWithoutFailures(SimulatedConnection):
    """For models in which Kafka takes everything: nothing may be recorded as failed, though some may be held back.

    What would be read of failures takes no instant, so that a schedule has more in it of what the model is about.
    """

    async def fail(self, replica: UUID, failures: Sequence[FailedEvent], epochs: dict[int, int]) -> bool:
        raise AssertionError("nothing fails here")

    async def blocking(self, lanes: Sequence[int]) -> list[BlockedKey]:
        return []

    async def held_topics(self, lanes: Sequence[int]) -> list[tuple[int, str]]:
        return []

    async def has_failures(self, lanes: Sequence[int]) -> bool:
        return False

    async def paused_topics(self) -> list[PausedTopic]:
        return []


def _runs(receipts: Receipts) -> list[dict[tuple[int, int], tuple[int, int]]]:
    """Partition and offset of each event, by run."""
    places = zip(receipts.lanes, receipts.ids, strict=True)
    return [
        {
            place: (partition, base + index if base >= 0 else base)
            for index, place in enumerate(islice(places, len(ids)))
        }
        for ids, partition, base in receipts.runs()
    ]
