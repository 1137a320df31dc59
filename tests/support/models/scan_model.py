"""A model of writers, PostgreSQL and relays in which any schedule can be played, and which checks every promise.

A schedule is a sequence of numbers; each chooses among what can happen next. Hypothesis makes and shrinks them, and
so does a seeded random generator, which is faster.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from relay.stages.tenure import TenureLostError
from tests.support.models.schedule import EndOfSchedule, Scheduled, check_comes_in_order
from tests.support.models.simulated_postgres import SimulatedPostgres, Transaction, Violation
from tests.support.models.simulated_relay import SimulatedRelay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relay.event import PendingEvent

LANES = 3
KEYS = 5
MOST_WRITERS = 9
MOST_RELAYS = 2
RARELY = 50
"""One in so many."""
ROUNDS_TO_THE_END = 300


class Model(Scheduled):
    """Plays one schedule. `trace` says what happened."""

    def __init__(self, schedule: Iterable[int], batch_events: int, step_ids: int) -> None:
        self._schedule = iter(schedule)
        self.trace: list[str] = []
        self.postgres = SimulatedPostgres(LANES)
        self.writers: list[Transaction] = []
        self.taken_by: dict[int, SimulatedRelay] = {}
        self.first_taken: dict[bytes, int] = {}
        self.relays: list[SimulatedRelay] = []
        self.late: list[PendingEvent] = []
        """Acknowledged to relays that are gone, whose processes have still to settle them."""
        self._batch_events = batch_events
        self._step_ids = step_ids
        self.start_relay()

    def play(self) -> None:
        """To the end of the schedule, and then until everything that was committed must be settled."""
        try:
            while True:
                action = self._pick(self._possible())
                action()
        except EndOfSchedule:
            self._come_to_rest()

    # What can happen

    def _possible(self) -> list[Callable[[], None]]:
        actions: list[Callable[[], None]] = []
        if len(self.writers) < MOST_WRITERS:
            actions += [self.begin] * 3
        if self.writers:
            actions += [self.enqueue] * 4 + [self.commit] * 2 + [self.roll_back]
        if self.postgres.unlocking:
            actions += [self.unlock]
        if self.late:
            actions += [self.settle_late]
        if len(self.relays) < MOST_RELAYS:
            actions.append(self.start_relay)
        for relay in self.relays:
            for stage in relay.busy:
                actions += [partial(self.advance, relay, stage)] * 3
            actions += self._possible_of(relay)
        return actions

    def _possible_of(self, relay: SimulatedRelay) -> list[Callable[[], None]]:
        actions: list[Callable[[], None]] = []
        busy = relay.busy
        if "scan" not in busy:
            actions += [relay.begin_scan] * 3
        if "sweep" not in busy:
            actions += [relay.begin_sweep, relay.begin_quiet_look] * 2
        if "settle" not in busy and relay.unsettled:
            actions += [lambda: self.settle(relay)] * 2 + [lambda: self.hold(relay)]
        if self.postgres.held:
            actions.append(lambda: self.resume(relay))
        if "claim" not in busy:
            actions.append(relay.begin_beat)
            if relay.tenure.draining and not relay.tenure.lanes:
                actions.append(lambda: self.leave(relay))
        if len(self.relays) > 1 and not relay.tenure.draining:
            actions.append(lambda: self.drain(relay))
        actions += [lambda: self.crash(relay), lambda: self.expire(relay)]
        return actions

    def begin(self) -> None:
        """A transaction takes its xid; it may never enqueue anything."""
        self.writers.append(self.postgres.begin())
        self.trace.append(f"begin {self.writers[-1].xid}")

    def enqueue(self, transaction: Transaction | None = None, key: int | None = None) -> None:
        """A transaction locks a key's row and enqueues, unless it would have to wait."""
        transaction = transaction or self._pick(self.writers)
        key = self._number(KEYS) if key is None else key
        if self.postgres.lock_key(transaction, key):
            for _ in range(1 + self._number(5)):
                self.postgres.insert(transaction, key, 1 + self._number(4) * 4)
            self.trace.append(f"enqueue {transaction.xid}: up to {transaction.events[-1].id} key {key}")

    def commit(self, transaction: Transaction | None = None) -> None:
        transaction = transaction or self._pick(self.writers)
        self.writers.remove(transaction)
        self.postgres.commit(transaction)
        self.trace.append(f"commit {transaction.xid}: {[event.id for event in transaction.events]}")

    def roll_back(self) -> None:
        transaction = self._pick(self.writers)
        if transaction.events and self._number(2):
            # To a savepoint: the id is gone, the locks stay.
            self.trace.append(f"savepoint of {transaction.xid}: {transaction.events.pop().id} is gone")
            return
        self.writers.remove(transaction)
        self.postgres.roll_back(transaction)
        self.trace.append(f"rollback {transaction.xid}")

    def unlock(self) -> None:
        """A transaction that has ended leaves pg_locks."""
        self.postgres.unlocking.pop(next(iter(self.postgres.unlocking)))

    def start_relay(self) -> None:
        self.relays.append(SimulatedRelay(self.postgres, self._taken, self._batch_events, self._step_ids))
        self.trace.append("a relay starts")

    def advance(self, relay: SimulatedRelay, stage: str) -> None:
        self.trace.append(f"relay {self.relays.index(relay)}: {stage}")
        self._run(relay, lambda: relay.advance(stage))

    def settle(self, relay: SimulatedRelay) -> None:
        """Kafka acknowledged some events, in any order across keys."""
        events = [event for event in relay.unsettled if self._number(3)]
        if events:
            self.trace.append(f"relay {self.relays.index(relay)} settles {[event.id for event in events]}")
            relay.begin_settle(events)

    def hold(self, relay: SimulatedRelay) -> None:
        """Some events are held back instead."""
        events = [event for event in relay.unsettled if self._number(4) == 0 and not relay.resuming(event)]
        if events:
            self.trace.append(f"relay {self.relays.index(relay)} holds {[event.id for event in events]}")
            relay.begin_hold(events)

    def resume(self, relay: SimulatedRelay) -> None:
        """What is held in its lanes goes on."""
        if resumed := relay.resume():
            self.trace.append(f"relay {self.relays.index(relay)} resumes {[event.id for event in resumed]}")

    def settle_late(self, event: PendingEvent | None = None) -> None:
        """A process whose tenure is over settles what Kafka had acknowledged to it."""
        event = event or self._pick(self.late)
        self.late.remove(event)
        self.trace.append(f"{event.id} is settled late")
        transaction = self.postgres.begin()
        self.postgres.settle(UUID(int=0), [{(event.lane, event.id): (0, event.id)}], [(event.lane, event.id)])
        self.postgres.commit(transaction)

    def drain(self, relay: SimulatedRelay) -> None:
        if self._number(RARELY) == 0:
            self.trace.append(f"relay {self.relays.index(relay)} drains")
            relay.tenure.drain_begun.set()

    def crash(self, relay: SimulatedRelay) -> None:
        if self._number(RARELY) == 0:
            self.trace.append(f"relay {self.relays.index(relay)} crashes")
            self.late += [event for event in relay.unsettled if self._number(2)]
            relay.kill()
            self._gone(relay)

    def expire(self, relay: SimulatedRelay) -> None:
        """Its lease runs out and it does not know: another may claim its lanes from now on."""
        if self._number(RARELY) == 0:
            self.trace.append(f"the lease of relay {self.relays.index(relay)} runs out")
            self.postgres.replicas.pop(relay.tenure.replica, None)
            self._may_be_taken_again(relay)

    def leave(self, relay: SimulatedRelay) -> None:
        self.trace.append(f"relay {self.relays.index(relay)} has drained")
        if relay.unsettled:
            raise Violation(f"a relay has drained and leaves {relay.unsettled} unsettled")
        relay.kill()
        self._gone(relay)

    def _gone(self, relay: SimulatedRelay) -> None:
        self.relays.remove(relay)
        self._may_be_taken_again(relay)
        if not self.relays:
            self.start_relay()

    def _may_be_taken_again(self, relay: SimulatedRelay) -> None:
        self.taken_by = {id_: by for id_, by in self.taken_by.items() if by is not relay or self._settled(id_)}

    # What is promised

    def _taken(self, relay: SimulatedRelay, events: list[PendingEvent]) -> None:
        self.trace.append(f"relay {self.relays.index(relay)} takes {[event.id for event in events]}")
        for event in events:
            if (event.lane, event.id) in self.postgres.resolved:
                raise Violation(f"{event.id} is taken by a scan, though it had been held back and was settled since")
            if relay.tenure.replica in self.postgres.replicas:
                if event.id in self.taken_by:
                    raise Violation(f"{event.id} is taken twice")
                self.taken_by[event.id] = relay
            assert event.key is not None
            check_comes_in_order(event, self.postgres.committed[event.key], self.first_taken, "taken")
        relay.unsettled += events

    def _settled(self, id_: int) -> bool:
        return any((lane, id_) in self.postgres.receipts for lane in self.postgres.lanes)

    def _come_to_rest(self) -> None:
        """Writers end, and the relays go on until nothing is left to do."""
        for transaction in self.writers:
            self.postgres.commit(transaction)
        self.writers.clear()
        self.postgres.unlocking.clear()
        for event in list(self.late):
            self.settle_late(event)
        for _ in range(ROUNDS_TO_THE_END):
            if all((event.lane, event.id) in self.postgres.receipts for event in self.postgres.visible):
                return
            for relay in list(self.relays):
                self._move(relay)
        lost = [event.id for event in self.postgres.visible if (event.lane, event.id) not in self.postgres.receipts]
        raise Violation(f"{lost} are lost, or nothing moves any more")

    def _move(self, relay: SimulatedRelay) -> None:
        """Everything that it can do now, one after the other."""
        for stage in relay.busy:
            self._run(relay, partial(relay.finish, stage))
        for stage, begin in (("scan", relay.begin_scan), ("sweep", relay.begin_sweep), ("claim", relay.begin_beat)):
            self._run(relay, begin)
            self._run(relay, partial(relay.finish, stage))
        if relay not in self.relays:
            return
        relay.resume()
        if relay.unsettled:
            relay.begin_settle(list(relay.unsettled))
            relay.finish("settle")
        if relay.tenure.draining and not relay.tenure.lanes:
            self.leave(relay)

    def _run(self, relay: SimulatedRelay, work: Callable[[], None]) -> None:
        if relay not in self.relays:
            return
        try:
            work()
        except TenureLostError as lost:
            self.trace.append(f"relay {self.relays.index(relay)} ends: {lost}")
            relay.kill()
            self._gone(relay)
