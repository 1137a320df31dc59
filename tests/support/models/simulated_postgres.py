"""PostgreSQL as far as the scan can tell: xids, snapshots, a sequence, events, receipts, locks and lanes.

Every method is one instant. What is not atomic in the real server is several methods here: a transaction takes its
xid, then ids, then ends for snapshots, and only then gives up its locks, the sequence's before its xid's.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from relay.decide.failing import Retry
from relay.decide.held_back import BlockedKey
from relay.decide.snapshot import Snapshot
from relay.errors import StatementFailedError
from relay.event import EventTuple, PendingEvent
from relay.stages.hold.ports import DueFailure
from tests.support.models.simulated_leases import Clock, SimulatedLeases

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from relay.decide.failing import Verdict
    from relay.decide.lane_scan import LanePosition
    from relay.decide.republishing import ReplayRequest
    from relay.outcome import PublishError
    from relay.stages.republish.ports import Landed
    from relay.stages.scan.ports import LaneRequest, WantedEvents

Place = tuple[int, int]
"""Lane and id of an event."""

LITTLE_IDS = 30
"""Ids above the lowest that may be new, up to which a scan is a look."""
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

    topic: str
    key: bytes | None
    state: str
    attempts: int
    policy: str = "block"
    error: str = ""
    due_at: float = 0.0

    @property
    def blocks(self) -> bool:
        """Whether later events of the key wait."""
        return self.state in ("retrying", "replaying") or (self.state, self.policy) == ("failed", "block")


class Receipt(NamedTuple):
    """Where an event is, by the first of its receipts."""

    partition: int
    offset: int
    at: float


@dataclass
class Replay:
    """A row of outbox.action, and the places that have a receipt of it."""

    request: ReplayRequest
    finished: bool = False
    settled: dict[tuple[int, int], str | None] = field(default_factory=dict)
    """Place -> Kafka's error, if it refused the event."""


class Scanned(NamedTuple):
    """What the statement `scan` returns: its snapshot, by lane the ids of the sweep part, and the fresh events."""

    snapshot: Snapshot
    swept: dict[int, list[int]]
    events: list[PendingEvent]


class Swept(NamedTuple):
    """What the statement `sweep_step` returns: its snapshot, the ids that are settled, and of the unsettled events."""

    snapshot: Snapshot
    settled: list[int]
    events: list[PendingEvent]
    left: list[int]
    """Ids of the others."""


class SimulatedPostgres:
    """One server with one outbox."""

    def __init__(self, lanes: int, clock: Clock | None = None) -> None:
        self.reads: Counter[str] = Counter()
        """How many times events were looked for in each way; a scan may be a look."""
        self.next_xid = FIRST_XID
        self.latest_completed = FIRST_XID - 1
        self.sequence = 0
        self.running: dict[int, Transaction] = {}
        self.unlocking: dict[int, Transaction] = {}
        """Ended for snapshots, but not yet out of pg_locks, where it lacks the sequence's lock already."""
        self.visible: list[PendingEvent] = []
        """Committed events, in id order."""
        self.receipts: dict[Place, Receipt] = {}
        self.receipt_rows: set[tuple[int, UUID]] = set()
        """Highest id and publisher of each row."""
        self.late: set[Place] = set()
        """What receipts name that were written when their publisher did not own all of its lanes any more."""
        self.failures: dict[Place, Failed] = {}
        self.held: dict[Place, tuple[str, bytes | None]] = {}
        """Topic and key of each."""
        self.resolved: set[Place] = set()
        """Events that had a failure or a held row, until a receipt took its place."""
        self.unreadable: set[Place] = set()
        """Events that every statement that returns them fails on."""
        self.retries_are_due = False
        """Whether no retry waits, for a model in which no time passes."""
        self.replays: dict[int, Replay] = {}
        self.committed: dict[bytes, list[int]] = {}
        """Ids of each key in the order in which their transactions committed."""
        self.leases = SimulatedLeases(clock or Clock(), lanes)
        self.lanes = self.leases.rows
        self.replicas = self.leases.replicas

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
        """Enqueue an event whose key is a number, and locked; key k is in lane k mod the number of lanes."""
        assert key in transaction.keys
        self.insert_event(transaction, key % len(self.lanes), TOPIC, b"%d" % key, b"", size)

    def insert_event(
        self, transaction: Transaction, lane: int, topic: str, key: bytes | None, payload: bytes | None, size: int
    ) -> EventTuple:
        """Enqueue an event."""
        transaction.has_sequence_lock = True
        id_ = self.take_id()
        event = EventTuple(lane, id_, UUID(int=id_), topic, key, payload, None, None, 0, size)
        transaction.events.append(event)
        return event

    def commit(self, transaction: Transaction) -> None:
        """Its events become visible, all at once."""
        self._end(transaction)
        for event in transaction.events:
            if event.key is not None:
                self.committed.setdefault(event.key, []).append(event.id)
        if transaction.events:
            self.visible = sorted([*self.visible, *transaction.events], key=lambda event: event.id)

    def have(self, *events: PendingEvent) -> None:
        """Have events that are committed already, whoever wrote them."""
        new = [event for event in events if event not in self.visible]
        self.visible = sorted([*self.visible, *new], key=lambda event: event.id)

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

    def scan(self, lanes: Sequence[LaneRequest]) -> Scanned:
        """The statement `scan`, or `look` when there is little above the lowest id that may be new."""
        snapshot = self.snapshot()
        swept: dict[int, list[int]] = {}
        found: list[PendingEvent] = []
        lowest = min(each.nothing_new_to for each in lanes)
        looks = self.sequence - lowest <= LITTLE_IDS and all(each.nothing_new_to >= each.known_from for each in lanes)
        self.reads["look" if looks else "scan"] += 1
        for request in lanes:
            ended = [floor for xid, floor in request.sweep_start.running if snapshot.ended(xid)]
            start = min([request.sweep_start.floor, *ended])
            if start < request.known_from:
                continue
            above = request.nothing_new_to if looks else start
            if ids := [event.id for event in self._between(request.lane, above, request.taken_to)]:
                swept[request.lane] = ids
            above = max(lowest, request.taken_to) if looks else request.taken_to
            fresh = self._between(request.lane, above, self.sequence)
            found += self._within(fresh, *request.fresh)
        return Scanned(snapshot, swept, found)

    def events_by_id(self, wanted: Sequence[WantedEvents]) -> list[PendingEvent]:
        """The statement `events_by_id`."""
        found: list[PendingEvent] = []
        for lane, ids, size in sorted(wanted):
            events = [event for event in self.visible if event.lane == lane and event.id in ids]
            found += self._within(events, len(events), size)
        return found

    def sweep_step(self, lane: int, above: int, up_to: int, events: int, size: int, settled_from: int) -> Swept:
        """The statement `sweep_step`."""
        self.reads["sweep_step"] += 1
        seen = self._between(lane, above, up_to)
        settled = [event.id for event in seen if event.id > settled_from and self.settled(event)]
        return self._swept([event for event in seen if not self.settled(event)], settled, events, size)

    def range_ids(self, lane: int, above: int, up_to: int) -> tuple[Snapshot, set[int]]:
        """The statement `range_ids`."""
        self.reads["new_step"] += 1
        return self.snapshot(), {event.id for event in self._between(lane, above, up_to)}

    def gap_step(self, lane: int, ids: Collection[int], events: int, size: int) -> Swept:
        """The statement `gap_step`."""
        self.reads["gap_step"] += 1
        return self._swept(
            [event for event in self.visible if event.lane == lane and event.id in ids], [], events, size
        )

    def _swept(self, unsettled: list[PendingEvent], settled: list[int], events: int, size: int) -> Swept:
        found = self._within(unsettled, events, size)
        return Swept(self.snapshot(), settled, found, [event.id for event in unsettled[len(found) :]])

    def highest_settled(self, lane: int) -> int:
        """The highest id of the lane with a receipt, failure or held row."""
        return max((id_ for of, id_ in [*self.receipts, *self.failures, *self.held] if of == lane), default=0)

    def settled(self, event: PendingEvent) -> bool:
        """Whether it has a receipt, failure or held row."""
        place = event.lane, event.id
        return place in self.receipts or place in self.failures or place in self.held

    def pending_ids(self, lane: int, above: int, up_to: int, most: int) -> list[PendingEvent]:
        """The statement `pending_ids`."""
        found = [
            EventTuple(lane, event.id, event.event_id, event.topic, event.key, None, None, None, 0, 0)
            for event in self.visible
            if event.lane == lane and above < event.id <= up_to and not self.settled(event)
        ]
        return list(found[:most])

    def _between(self, lane: int, above: int, up_to: int) -> list[PendingEvent]:
        return [event for event in self.visible if event.lane == lane and above < event.id <= up_to]

    def _within(self, events: Iterable[PendingEvent], most: int, size: int) -> list[PendingEvent]:
        """The first of the events, up to a number and to bytes that only the last one may exceed."""
        found: list[PendingEvent] = []
        for event in events:
            if len(found) == most or size <= 0:
                break
            if (event.lane, event.id) in self.unreadable:
                raise StatementFailedError("invalid byte sequence")
            found.append(event)
            size -= event.size
        return found

    # Failures and held events, as sql/queries/settle.sql and resume.sql do

    def owns(self, replica: UUID, epochs: Mapping[int, int]) -> bool:
        """Whether the lanes are all the replica's, at these epochs."""
        return all(
            lane in self.lanes and (self.lanes[lane].owner, self.lanes[lane].epoch) == (replica, epoch)
            for lane, epoch in epochs.items()
        )

    def hold(self, events: Iterable[PendingEvent]) -> int:
        """The statement `hold`; returns how many rows are new."""
        before = len(self.held)
        for event in events:
            if (event.lane, event.id) not in self.failures and (event.lane, event.id) not in self.late:
                self.held.setdefault((event.lane, event.id), (event.topic, event.key))
        return len(self.held) - before

    def fail(self, event: PendingEvent, verdict: Verdict, error: PublishError) -> None:
        """The statement `fail`."""
        place = event.lane, event.id
        self.held.pop(place, None)
        if place in self.late:
            self.failures.pop(place, None)
            return
        if place in self.failures and self.failures[place].state == "discarded":
            return
        failed = Failed(event.topic, event.key, "failed", verdict.attempts, error=error.name)
        if isinstance(verdict, Retry):
            failed.state, failed.due_at = "retrying", self.leases.now + verdict.delay
        else:
            failed.policy = verdict.policy
        self.failures[place] = failed

    def settle(
        self,
        publisher: UUID,
        runs: Iterable[Mapping[Place, tuple[int, int]]],
        recorded: Iterable[Place],
        owned: Iterable[int] = (),
    ) -> int:
        """The statements `settle` and `settle_recorded`: of each run, the partition and offset of each place.

        They are late if the publisher does not own the lanes `owned` any more. Returns how many places are in runs that
        are new.
        """
        late = any(lane not in self.lanes or self.lanes[lane].owner != publisher for lane in owned)
        for place in recorded:
            if place in self.failures or place in self.held:
                self.resolved.add(place)
            self.failures.pop(place, None)
            self.held.pop(place, None)
        new = 0
        for run in runs:
            row = max((id_ for _, id_ in run), default=0), publisher
            if run and row not in self.receipt_rows:
                self.receipt_rows.add(row)
                new += len(run)
                if late:
                    self.late.update(run)
                for place, (partition, offset) in run.items():
                    self.receipts.setdefault(place, Receipt(partition, offset, self.leases.now))
        return new

    def event_ids(self) -> dict[Place, UUID]:
        """Whose event each id is: one that a fail-over took back may have been used again."""
        return {(event.lane, event.id): event.event_id for event in self.visible}

    def blocking(self, lanes: Iterable[int]) -> list[BlockedKey]:
        """The statement `blocking`."""
        return [
            BlockedKey(lane, failed.topic, failed.key)
            for (lane, _), failed in self.failures.items()
            if lane in lanes and failed.blocks and failed.key is not None
        ]

    def held_topics(self, lanes: Iterable[int]) -> list[tuple[int, str]]:
        """The statement `held_topics`."""
        return sorted({(lane, topic) for (lane, _), (topic, _) in self.held.items() if lane in lanes})

    def has_failures(self, lanes: Iterable[int]) -> bool:
        """The statement `has_failures`."""
        return any(lane in lanes and failed.state != "discarded" for (lane, _), failed in self.failures.items())

    def due_failures(
        self, lanes: Iterable[int], most: int, size: int, paused: Collection[str], under_way: Collection[Place]
    ) -> list[DueFailure]:
        """The statement `due_failures`."""
        due = [event for event in self.visible if event.lane in lanes and self._is_due(event, paused, under_way)]
        return [
            DueFailure(event, self.failures[event.lane, event.id].attempts) for event in self._within(due, most, size)
        ]

    def _is_due(self, event: PendingEvent, paused: Collection[str], under_way: Collection[Place]) -> bool:
        failed = self.failures.get((event.lane, event.id))
        if failed is None or event.topic in paused or (event.lane, event.id) in under_way:
            return False
        return failed.state == "replaying" or (
            failed.state == "retrying" and (self.retries_are_due or failed.due_at <= self.leases.now)
        )

    def still_unreadable(self, lanes: Iterable[int]) -> bool:
        """The statement `still_unreadable`."""
        found = [
            failed
            for (lane, _), failed in self.failures.items()
            if lane in lanes and failed.state in ("retrying", "replaying") and failed.error == "UnreadableEvent"
        ]
        for failed in found:
            failed.state, failed.attempts = "failed", failed.attempts + 1
        return bool(found)

    def held_events(self, lane: int, above: int, most: int, size: int, paused: Collection[str]) -> list[PendingEvent]:
        """The statement `held_events`."""
        blocked = {(topic, key) for _, topic, key in self.blocking([lane])}
        return self._within(
            (
                event
                for event in self.visible
                if event.lane == lane
                and event.id > above
                and (lane, event.id) in self.held
                and event.topic not in paused
                and (event.topic, event.key) not in blocked
            ),
            most,
            size,
        )

    # Replays of delivered events, as sql/queries/replay.sql does

    def open_replays(self) -> list[ReplayRequest]:
        """The statement `open_replays`."""
        return [
            replace(replay.request, positions=dict(replay.request.positions))
            for replay in self.replays.values()
            if not replay.finished
        ]

    def events_to_replay(
        self, request: ReplayRequest, lane: int, above: int, up_to: int, most: int, size: int
    ) -> list[PendingEvent]:
        """The statement `events_to_replay`."""
        settled = self.replays[request.action].settled
        since, until = request.since.timestamp(), request.until.timestamp()
        header = json.dumps(request.headers)
        found = (
            EventTuple._make(event)._replace(headers=header)
            for event in self.visible
            if event.lane == lane
            and above < event.id <= up_to
            and event.topic == request.topic
            and request.key in (None, event.key)
            and (lane, event.id) in self.receipts
            and since <= self.receipts[lane, event.id].at <= until
            and (lane, event.id) not in settled
        )
        return self._within(found, most, size)

    def settle_replayed(self, action: int, landed: Iterable[Landed[object]]) -> None:
        """The statement `settle_replayed`."""
        known = self.event_ids()
        for each in landed:
            place = each.event.lane, each.event.id
            if action in self.replays and known.get(place) == each.event.event_id:
                self.replays[action].settled.setdefault(place, each.error)

    def advance_replay(self, action: int, replica: UUID, positions: Iterable[LanePosition]) -> None:
        """The statement `advance_replay`."""
        replay = self.replays.get(action)
        if replay is None or replay.finished:
            return
        for lane, epoch, position in positions:
            if self.owns(replica, {lane: epoch}):
                replay.request.positions[lane] = position
        replay.finished = not replay.request.open_lanes()

    # Lanes

    def unseen(self) -> list[Place]:
        """Events below their lane's position of which nothing is recorded."""
        return [
            (event.lane, event.id)
            for event in self.visible
            if event.id <= self.lanes[event.lane].position and not self.settled(event)
        ]

    def advance_position(self, replica: UUID, lane: int, epoch: int, position: int) -> bool:
        """Raise a position, fenced; returns whether the lane is still owned."""
        if not self.owns(replica, {lane: epoch}):
            return False
        row = self.lanes[lane]
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
