"""PostgreSQL as far as the scan can tell: xids, snapshots, a sequence, events, receipts, locks and lanes.

Every method is one instant. What is not atomic in the real server is several methods here: a transaction takes its
xid, then ids, then ends for snapshots, and only then gives up its locks, the sequence's before its xid's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast
from uuid import UUID

from relay.decide.closed import BlockedKey
from relay.decide.shares import LaneRow
from relay.decide.snapshot import Snapshot
from relay.event import EventTuple, PendingEvent
from relay.stages.hold.ports import DueFailure

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from relay.stages.scan.ports import LaneRequest

FIRST_XID = 700
TOPIC = "orders"


class Violation(AssertionError):  # noqa: N818 it is an assertion with a name
    """The relay broke a promise."""


@dataclass(eq=False)
class Transaction:
    """A transaction that has its xid."""

    xid: int
    events: list[PendingEvent] = field(default_factory=list)
    keys: set[int] = field(default_factory=set)
    """Whose rows it has locked, as a writer must before it enqueues."""
    has_sequence_lock: bool = False


@dataclass
class Failed:
    """A row of outbox.failure."""

    key: bytes
    state: str
    attempts: int


@dataclass
class Lane:
    """A row of outbox.lane."""

    owner: UUID | None = None
    epoch: int = 0
    position: int = 0


class Read(NamedTuple):
    """The rows of one statement and the snapshot they were read in."""

    snapshot: Snapshot
    events: list[PendingEvent]


class SimulatedPostgres:
    """One server with one outbox whose keys are small numbers; key k is in lane k mod `lanes`."""

    def __init__(self, lanes: int) -> None:
        self.next_xid = FIRST_XID
        self.latest_completed = FIRST_XID - 1
        self.sequence = 0
        self.running: dict[int, Transaction] = {}
        self.unlocking: dict[int, Transaction] = {}
        """Ended for snapshots, but not yet out of pg_locks, where it lacks the sequence's lock already."""
        self.visible: list[PendingEvent] = []
        """Committed events, in id order."""
        self.receipts: set[tuple[int, int]] = set()
        self.failures: dict[tuple[int, int], Failed] = {}
        self.held: dict[tuple[int, int], bytes] = {}
        self.committed: dict[bytes, list[int]] = {}
        """Ids of each key in the order in which their transactions committed."""
        self.lanes = {lane: Lane() for lane in range(lanes)}
        self.replicas: dict[UUID, None] = {}

    # Transactions

    def begin(self) -> Transaction:
        """Take an xid."""
        transaction = Transaction(self.next_xid)
        self.running[self.next_xid] = transaction
        self.next_xid += 1
        return transaction

    def lock_key(self, transaction: Transaction, key: int) -> bool:
        """Lock the row of the key's aggregate; False when another transaction has it."""
        if any(key in other.keys for other in self.running.values() if other is not transaction):
            return False
        transaction.keys.add(key)
        return True

    def take_id(self) -> int:
        """Call nextval."""
        self.sequence += 1
        return self.sequence

    def insert(self, transaction: Transaction, key: int, size: int) -> None:
        """Enqueue an event; its key must be locked."""
        assert key in transaction.keys
        transaction.has_sequence_lock = True
        id_ = self.take_id()
        lane = key % len(self.lanes)
        name = b"%d" % key
        transaction.events.append(EventTuple(lane, id_, UUID(int=id_), TOPIC, name, b"", None, None, 0, size))

    def commit(self, transaction: Transaction) -> None:
        """Its events become visible, all at once."""
        self._end(transaction)
        for event in transaction.events:
            self.committed.setdefault(cast("bytes", event.key), []).append(event.id)
        self.visible = sorted([*self.visible, *transaction.events], key=lambda event: event.id)

    def roll_back(self, transaction: Transaction) -> None:
        """Nothing of it remains but the gap in the ids."""
        self._end(transaction)

    def _end(self, transaction: Transaction) -> None:
        del self.running[transaction.xid]
        self.unlocking[transaction.xid] = transaction
        self.latest_completed = max(self.latest_completed, transaction.xid)

    def snapshot(self) -> Snapshot:
        """What pg_current_snapshot() would say now."""
        xmax = self.latest_completed + 1
        running = frozenset(xid for xid in self.running if xid < xmax)
        return Snapshot(min(running, default=xmax), xmax, running)

    def quiet(self, xids: Iterable[int]) -> list[int]:
        """Those of `xids` that pg_locks lists, and lists without the sequence's lock."""
        listed = {**self.unlocking, **self.running}
        return [
            xid for xid in xids if xid in listed and not (xid in self.running and self.running[xid].has_sequence_lock)
        ]

    # Reading, as sql/queries/scan.sql does

    def scan(self, lanes: Sequence[LaneRequest], longest_sweep: int) -> Read:
        """The statement `scan`."""
        snapshot = self.snapshot()
        found: list[PendingEvent] = []
        for request in lanes:
            ended = [floor for xid, floor in request.bound.running if snapshot.ended(xid)]
            start = min([request.bound.floor, *ended])
            if request.taken_to - start > longest_sweep:
                continue
            found += self._read(request.lane, start, request.taken_to, *request.sweep, pending=True)
            found += self._read(request.lane, request.taken_to, self.sequence, *request.fresh, pending=False)
        return Read(snapshot, found)

    def sweep_step(self, lane: int, above: int, up_to: int, events: int, size: int) -> Read:
        """The statement `sweep_step`."""
        return Read(self.snapshot(), self._read(lane, above, up_to, events, size, pending=True))

    def highest_settled(self, lane: int) -> int:
        """The highest id of the lane with a receipt, failure or held row."""
        return max((id_ for of, id_ in [*self.receipts, *self.failures, *self.held] if of == lane), default=0)

    def settled(self, event: PendingEvent) -> bool:
        """Whether it has a receipt, failure or held row."""
        place = event.lane, event.id
        return place in self.receipts or place in self.failures or place in self.held

    def _read(self, lane: int, above: int, up_to: int, events: int, size: int, *, pending: bool) -> list[PendingEvent]:
        found: list[PendingEvent] = []
        for event in self.visible:
            if event.lane != lane or not above < event.id <= up_to:
                continue
            if pending and self.settled(event):
                continue
            if len(found) == events or size <= 0:
                break
            found.append(event)
            size -= event.size
        return found

    # Failures and held events, as sql/queries/settle.sql and resume.sql do: one topic, policy `block`

    def owns(self, replica: UUID, epochs: Mapping[int, int]) -> bool:
        """Whether the lanes are all the replica's, at these epochs."""
        return all((self.lanes[lane].owner, self.lanes[lane].epoch) == (replica, epochs[lane]) for lane in epochs)

    def hold(self, events: Iterable[PendingEvent]) -> None:
        """The statement `hold`."""
        for event in events:
            if (event.lane, event.id) not in self.failures:
                self.held[event.lane, event.id] = cast("bytes", event.key)

    def fail(self, event: PendingEvent, state: str, attempts: int) -> None:
        """The statement `fail`."""
        self.held.pop((event.lane, event.id), None)
        self.failures[event.lane, event.id] = Failed(cast("bytes", event.key), state, attempts)

    def settle(self, settled: Iterable[tuple[int, int]], recorded: Iterable[tuple[int, int]]) -> int:
        """The statements `settle` and `settle_recorded`; returns how many receipts are new."""
        for place in recorded:
            self.failures.pop(place, None)
            self.held.pop(place, None)
        new = set(settled) - self.receipts
        self.receipts |= new
        return len(new)

    def blocking(self, lanes: Iterable[int]) -> list[BlockedKey]:
        """The statement `blocking`."""
        return [BlockedKey(lane, TOPIC, failed.key) for (lane, _), failed in self.failures.items() if lane in lanes]

    def due_failures(self, lanes: Iterable[int], most: int, under_way: Collection[tuple[int, int]]) -> list[DueFailure]:
        """The statement `due_failures`; whatever is to be retried is due."""
        found = [
            DueFailure(event, self.failures[event.lane, event.id].attempts)
            for event in self.visible
            if event.lane in lanes
            and (event.lane, event.id) in self.failures
            and self.failures[event.lane, event.id].state != "failed"
            and (event.lane, event.id) not in under_way
        ]
        return found[:most]

    def held_events(self, lane: int, above: int, most: int) -> list[PendingEvent]:
        """The statement `held_events`."""
        blocked = {key for _, _, key in self.blocking([lane])}
        found = [
            event
            for event in self.visible
            if event.lane == lane and event.id > above and (lane, event.id) in self.held and event.key not in blocked
        ]
        return found[:most]

    # Lanes

    def lane_rows(self) -> list[LaneRow]:
        """The statement `lanes`."""
        return [
            LaneRow(number, lane.epoch, lane.owner, lane.owner not in self.replicas)
            for number, lane in self.lanes.items()
        ]

    def claim(self, replica: UUID, seen: Sequence[LaneRow]) -> list[LaneRow]:
        """The statement `claim`."""
        claimed = []
        for row in seen:
            lane = self.lanes[row.lane]
            if lane.epoch == row.epoch:
                lane.owner, lane.epoch = replica, lane.epoch + 1
                claimed.append(LaneRow(row.lane, lane.epoch, replica, free=False))
        return claimed

    def advance_position(self, replica: UUID, lane: int, epoch: int, position: int) -> bool:
        """Raise a position, fenced; returns whether the lane is still owned."""
        row = self.lanes[lane]
        if (row.owner, row.epoch) != (replica, epoch):
            return False
        row.position = max(row.position, position)
        self.check_position(lane)
        return True

    def check_position(self, lane: int) -> None:
        """Everything up to the position is settled, and nothing new can appear there."""
        position = self.lanes[lane].position
        if position > self.sequence:
            raise Violation(f"position {position} of lane {lane} is above every id")
        for event in self.visible:
            if event.lane == lane and event.id <= position and not self.settled(event):
                raise Violation(f"position {position} of lane {lane} is above unsettled {event.id}")
        for transaction in self.running.values():
            for event in transaction.events:
                if event.lane == lane and event.id <= position:
                    raise Violation(f"position {position} of lane {lane} is above {event.id}, which may yet commit")
