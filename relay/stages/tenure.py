"""What a replica knows for as long as its connections to PostgreSQL live: ladder, owned lanes, lease.

Any lost connection ends the tenure (relay/decide/SCAN.md, rule 9): after a crash with asynchronous commits, or the
promotion of a lagging standby, ids and xids are used again, and what memory says is wrong. The next tenure starts
from the tables, as at a take-over. Batches that are in Kafka's hands when it ends are settled later, checked
against their event_id.

It begins unregistered. `register` starts the lease, `extend_lease` moves its end, `end_lease` ends it early;
`begin_drain` means that nothing more is taken, `leave` that the replica is off the list. Nothing starts it again.

All stages of the tenure share this object, and it is how they tell each other what happened. Anybody may read; the
methods write, and each is called by few:

* claim: `register`, `extend_lease`, `end_lease`, `leave`, `add_lane`, `remove_lane`, `expect_failures`
* scan, sweep and the heartbeat: `saw_sequence`, `saw_statement`
* settle: `leave_room`, `failure_recorded`, `forget_attempts`
* resume: `note_attempts`, `expect_failures`, `expect_no_failures`;  the gate: `pause`, `unpause`, `pause_as_asked`,
  `throttle_topic`, `unthrottle_topic`
* the session and the service: `begin_drain`, `end_lease`, and what listeners hear

Each `..._wake_up` is one stage's: that stage waits for it and clears it, and the methods that say what happened
(`lanes_may_be_free`, `failure_may_be_due`, `reconcile_may_be_due`, ...) set it. A wake-up may be missed or
come for nothing; every stage also looks by itself now and then.

What must never happen: that an event is published once `holds_lease` is false, because another replica may own its
lane by then; and that a rung joins an xid with a value that no earlier, finished statement has read.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from uuid import uuid4

from relay.decide.held_back import Closed
from relay.decide.ladder import Ladder
from relay.decide.passed_ids import PassedIds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from uuid import UUID

    from relay.decide.lane_scan import LaneScan
    from relay.decide.room import Room
    from relay.decide.snapshot import Snapshot

MANY_RUNGS = 256
"""The ladder is pruned when it has so many rungs and raised floors. Each statement that reads events adds a rung, a
look at the locks may raise the floors of all transactions; a scan rarely needs more than a handful."""


class Tenure:
    """The ladder, the owned lanes and the lease of one registration."""

    def __init__(self, room: Room) -> None:
        self.replica: UUID = uuid4()
        self.room = room
        self.ladder = Ladder()
        self._prune_above = MANY_RUNGS
        self._passed = PassedIds()
        self.lanes: dict[int, LaneScan] = {}
        self.sequence_value = 0
        """The sequence's last value as the last *finished* statement saw it: what a rung may be built on."""
        self.lease_ends = 0.0
        """Monotonic seconds; counted from when the renewal was *sent*, so never later than the database's."""
        self.registered = False
        """Whether the replica was put on the list; the former one of this process is off it then."""
        self.has_left = False
        """Whether it took itself off the list again, with nothing to lose."""
        self.drain_begun = asyncio.Event()
        self.troubled: set[str] = set()
        """Topics whose events are held back because the topics do not take them."""
        self.paused_by_people: frozenset[str] = frozenset()
        """Topics whose events are held back because a person asked for it."""
        self.throttled: set[str] = set()
        """Topics whose events are held back because as many as may wait for their limited rate."""
        self.attempts: dict[tuple[int, int], int] = {}
        """Attempts so far of failed events that are under way again, by (lane, id)."""
        self.snapshot: Snapshot | None = None
        """The latest in which events were read: while it stays the same, no transaction has ended."""
        self.has_failures = False
        """Whether there may be a failure in an owned lane that a person or the clock can make due."""
        self.claim_wake_up = asyncio.Event()
        """Set when lanes may have become free, or may have to be given back."""
        self.scan_wake_up = asyncio.Event()
        """Set when events have left the room, and by the scan's own timers."""
        self.resume_wake_up = asyncio.Event()
        """Set when a failure may have become due, or held events may go on."""
        self.reconcile_wake_up = asyncio.Event()
        """Set when a replica has ended without handing over its lanes."""
        self.replay_wake_up = asyncio.Event()
        """Set when a replay of delivered events is, or may be, under way."""
        self._closed: dict[int, Closed] = {}

    def __repr__(self) -> str:
        return f"<Tenure replica={self.replica} lanes={sorted(self.lanes)} {self.ladder!r}>"

    def register(self, xid: int, value: int, lease_ends: float) -> None:
        """Begin: the replica is on the list, by the transaction `xid`, before which the sequence stood at `value`."""
        self.registered = True
        self.ladder.add(xid, value)
        self.lease_ends = lease_ends

    def leave(self) -> None:
        """Note that the replica is off the list: its lanes are free."""
        self.has_left = True

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken any more."""
        return self.drain_begun.is_set()

    def begin_drain(self) -> None:
        """Take nothing new from now on, and give the lanes back as they are settled."""
        self.drain_begun.set()
        self.lanes_may_be_free()

    def holds_lease(self) -> bool:
        """Whether the lease is certain to be running."""
        return time.monotonic() < self.lease_ends

    async def wait_lease_over(self) -> None:
        """Wait until the lease may be over by our own clock, whatever becomes of the heartbeat."""
        while self.holds_lease():  # noqa: ASYNC110 the end moves with every heartbeat
            await asyncio.sleep(max(0.001, self.lease_ends - time.monotonic()))

    def extend_lease(self, ends: float) -> None:
        """A renewal was answered: the lease runs until `ends` at least. Raises LeaseLostError if it was over already.

        Though the renewal was sent and carried out in time: publish may have seen the end and dropped events by then,
        and later ones of their keys must not go on without them.
        """
        if not self.holds_lease():
            raise LeaseLostError("the lease was over before the answer to its renewal came")
        self.lease_ends = ends

    def end_lease(self) -> None:
        """End the lease, whatever our own clock says: what was not sent yet must not be sent any more."""
        self.lease_ends = 0.0

    def lanes_may_be_free(self) -> None:
        """Have claim look at the lanes: a replica comes, goes or gave some back, or a person wants something."""
        self.claim_wake_up.set()

    def failure_may_be_due(self) -> None:
        """Have resume look at failures and held events: a person marked some, or what stood before them is settled."""
        self.resume_wake_up.set()

    def reconcile_may_be_due(self) -> None:
        """Have reconcile look for a replica that ended without handing over its lanes."""
        self.reconcile_wake_up.set()

    def replay_may_be_open(self) -> None:
        """Have republish look for replays of delivered events: a person asked for one, or one is under way."""
        self.replay_wake_up.set()

    def leave_room(self, settled: Mapping[int, tuple[int, int]]) -> None:
        """Count settled events out of the room, and let the scan see what fits now: lane to (events, bytes)."""
        self.room.remove(settled)
        self.scan_wake_up.set()

    def failure_recorded(self) -> None:
        """Note that a failure was written. If there was none before, resume begins to look for what is due."""
        if not self.has_failures:
            self.has_failures = True
            self.failure_may_be_due()

    def expect_failures(self) -> None:
        """Note that the tables have failures in owned lanes."""
        self.has_failures = True

    def expect_no_failures(self) -> None:
        """Note that they have none, unless one was recorded while that was asked."""
        self.has_failures = False

    def note_attempts(self, lane: int, id_: int, attempts: int) -> None:
        """Remember how many attempts a failed event has had that goes to Kafka again."""
        self.attempts[lane, id_] = attempts

    def forget_attempts(self, lane: int, id_: int) -> int:
        """Return the attempts that an event has had, 0 for one that never failed, and remember them no longer."""
        return self.attempts.pop((lane, id_), 0)

    def saw_sequence(self, value: int, before: int) -> None:
        """Note what a finished statement read of the sequence; when it was sent, `sequence_value` was `before`.

        A value behind that means that ids are used again. Behind `sequence_value` as it is now means nothing:
        another connection's statement began later and was answered sooner.
        """
        if value < before:
            raise SequenceWentBackError(before, value)
        self.sequence_value = max(self.sequence_value, value)

    def saw_statement(self, snapshot: Snapshot, *, sequence_value: int, next_xid: int, before: int) -> None:
        """Note what a finished statement that read events saw; when it was sent, `sequence_value` was `before`.

        It makes a rung: a transaction with `next_xid` or a later xid takes it after the statement began, and its ids
        later still.
        """
        self.saw_sequence(sequence_value, before)
        self.snapshot = snapshot
        self.ladder.add(next_xid - 1, before)
        if len(self.ladder) > self._prune_above:
            # Not at each statement from then on, if hundreds of transactions are open and stand on a rung each: another
            # connection's statement may be under way, whose snapshot nobody knows yet.
            self.ladder.prune(self.wanted_xids() | snapshot.running | {snapshot.xmax})
            self._prune_above = max(MANY_RUNGS, 2 * len(self.ladder))

    def owns(self, lane: int, epoch: int) -> bool:
        """Whether the lane is still owned at this epoch."""
        state = self.lanes.get(lane)
        return state is not None and state.epoch == epoch

    def may_take(self, state: LaneScan) -> bool:
        """Whether events of the lane may be taken: it is still owned in this state, and is not to be given back.

        Otherwise its next owner takes them, and what is taken now would be published twice.
        """
        return not self.draining and not state.releasing and self.lanes.get(state.lane) is state

    def add_lane(self, state: LaneScan, closed: Closed) -> None:
        """Own the lane from now on."""
        state.known.share(self._passed)
        self.lanes[state.lane] = state
        self._closed[state.lane] = closed
        for topic in self.paused:
            closed.close_topic(topic)

    def remove_lane(self, lane: int) -> None:
        """Own the lane no longer."""
        self.lanes.pop(lane, None)
        self._closed.pop(lane, None)

    def closed_in(self, lane: int) -> Closed:
        """What is closed in a lane."""
        closed = self._closed.get(lane)
        if closed is None:
            closed = self._closed[lane] = Closed()
        return closed

    @property
    def paused(self) -> set[str]:
        """Topics whose events are held back, for whatever reason."""
        return self.troubled | self.paused_by_people | self.throttled

    def pause(self, topic: str) -> None:
        """Hold back the events, in all lanes, of a topic that does not take them."""
        self.troubled.add(topic)
        self._close(topic)

    def unpause(self, topic: str) -> None:
        """Let the topic's held events go on, and then its fresh ones, unless a person has paused it as well."""
        self.troubled.discard(topic)
        self.failure_may_be_due()

    def pause_as_asked(self, topics: frozenset[str]) -> None:
        """Hold back the events of just these topics because people ask for it; let those of others go on."""
        before, self.paused_by_people = self.paused_by_people, topics
        for topic in topics - before:
            self._close(topic)
        if before - topics:
            self.failure_may_be_due()

    def throttle_topic(self, topic: str) -> None:
        """Hold back the topic's events in all lanes: as many wait as may."""
        self.throttled.add(topic)
        self._close(topic)

    def unthrottle_topic(self, topic: str) -> None:
        """Let the held events of a topic with a limited rate go on: some have gone."""
        self.throttled.discard(topic)
        self.failure_may_be_due()

    def _close(self, topic: str) -> None:
        for lane in self.lanes:
            self.closed_in(lane).close_topic(topic)

    def running_xids(self) -> set[int]:
        """Transactions that ran when a lane was last read, on whose end its next start depends."""
        return set().union(*(snapshot.running for snapshot in self._snapshots()))

    def wanted_xids(self) -> set[int]:
        """Transactions and snapshot bounds that a lane's next start or position still depends on."""
        return self.running_xids() | {snapshot.xmax for snapshot in self._snapshots()}

    def _snapshots(self) -> Iterable[Snapshot]:
        for state in self.lanes.values():
            if state.snapshot is not None:
                yield state.snapshot
            if state.sweep is not None:
                yield state.sweep.snapshot


class TenureLostError(Exception):
    """This tenure must not go on; the next one starts from the tables."""


class SequenceWentBackError(TenureLostError):
    """The id sequence is behind what was seen before: a crash or a fail-over took commits back."""

    def __init__(self, before: int, now: int) -> None:
        super().__init__(f"the id sequence went back from {before} to {now}: a crash or fail-over took ids back")


class LanesCededError(TenureLostError):
    """The lanes are left to a replica that can publish. This one never could: nothing of them is under way."""


class LeaseLostError(TenureLostError):
    """The lease ran out, or somebody else owns a lane that was ours."""
