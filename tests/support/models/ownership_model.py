"""A model of owning lanes in which any schedule can be played, and which checks what owners promise.

A schedule is a sequence of numbers; each chooses among what can happen next: time passes, a statement is carried out
or answered, a replica takes, publishes or settles, dies, stands still, is cut off from PostgreSQL, drains, is started;
somebody moves or releases a lane; a replica that could not reach Kafka does.

What is checked at every step:

* Nobody hands an event to Kafka but the owner of its lane, while its lease runs by the database's clock. So two never
  do it at once. What was handed over before may land at any time later: that is the at-least-once window.
* First occurrences in Kafka are in order, whatever lands late.
* An event is handed over again only after the lease of who did it first has run out, or that process is gone, with the
  event not settled. Where lanes change hands because somebody gave them back, nothing is published twice.

At the end everything is healed but the way to Kafka of replicas that never reached it: within a lease and a second
every lane has an owner that can publish, and every event arrives. Then that is healed, too, and everybody has its
share.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.support.models.schedule import EndOfSchedule, Scheduled
from tests.support.models.simulated_leases import LEASE, Clock
from tests.support.models.simulated_ownership import OwnedOutbox, SimulatedReplica
from tests.support.models.simulated_postgres import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.support.models.simulated_ownership import Tenancy

Action = tuple[str, "Callable[[], None]"]

LANES = 4
MOST_REPLICAS = 3
RARELY = 40
"""One in so many."""
TAKE_OVER = LEASE + 1.0
MOST_ROUNDS = 500
MOST_INSTANTS = 50


class OwnershipModel(Scheduled):
    """Plays one schedule. `trace` says what happened."""

    def __init__(self, schedule: Iterable[int], clock: Clock) -> None:
        self._schedule = iter(schedule)
        self._clock = clock
        self.trace: list[str] = []
        self.outbox = OwnedOutbox(clock, LANES)
        self.leases = self.outbox.leases
        self.replicas: list[SimulatedReplica] = []
        self.log: dict[int, list[int]] = {lane: [] for lane in range(LANES)}
        """What is in Kafka, by lane."""
        self.handed: dict[tuple[int, int], Tenancy] = {}
        """Who handed over each event last."""
        self.repeats = 0
        self._started = 0
        self._written = 0
        self._start_one(reaches_kafka=True)

    def play(self) -> None:
        """To the end of the schedule, and then until everything must have arrived."""
        try:
            while True:
                name, action = self._pick(self._possible())
                self.trace.append(f"{self._clock.now:.2f} {name}")
                action()
        except EndOfSchedule:
            self._come_to_rest()

    # What can happen

    def _possible(self) -> list[Action]:
        actions: list[Action] = [("time passes", self.pass_time)] * 6 + [("an event", self.write)] * 2
        if len(self.replicas) < MOST_REPLICAS:
            actions += [("a replica starts", self.start)] * 2
        actions += [("somebody asks for a lane", self.ask)]
        for replica in self.replicas:
            actions += [(f"{replica.name} {name}", action) for name, action in self._possible_of(replica)]
        return actions

    def _possible_of(self, replica: SimulatedReplica) -> list[Action]:
        actions: list[Action] = []
        if replica.wire:
            # Kafka does not care whether the process still lives.
            actions += [("lands", partial(self.land, replica))] * 2
        if replica.stopped:
            return [*actions, ("is forgotten", partial(self.forget, replica))]
        if replica.paused:
            return [*actions, ("wakes", partial(self.turn, replica, "paused", on=False))]
        if replica.lease_is_over():
            actions += [("finds its lease over", replica.begin_anew)] * 3
        if replica.busy and not replica.cut_off:
            actions += [("goes on with a statement", replica.advance)] * 8
        if replica.claim_is_due():
            actions += [("looks at its lanes", replica.go_round)] * 4
        queued = [lane for lane, queue in replica.tenancy.queues.items() if queue and replica.reaches_kafka]
        actions += [(f"publishes from {lane}", partial(replica.publish, lane, self._handed_over)) for lane in queued]
        if replica.tenancy.tenure.lanes and not replica.cut_off:
            actions += [("scans", partial(replica.scan, 2))] * 2
        if replica.settling is not None:
            actions += [("hears of a receipt", replica.hear_of_receipt)] * 3
        elif replica.acknowledged and not replica.cut_off:
            actions += [("commits a receipt", replica.commit_receipt)] * 3
        actions += [("may die, stand still, be cut off, drain or reach Kafka", partial(self.hit, replica))]
        return actions

    def pass_time(self) -> None:
        self._clock.now += (0.01, 0.1, 0.3, 0.6)[self._number(4)]

    def write(self) -> None:
        """An event is committed."""
        self._written += 1
        self.outbox.events[self._number(LANES)].append(self._written)

    def start(self) -> None:
        self._start_one(reaches_kafka=bool(self._number(4)))

    def _start_one(self, *, reaches_kafka: bool) -> None:
        self._started += 1
        # Clocks that have nothing to do with each other.
        offset = 1e4 * self._started
        replica = SimulatedReplica(f"r{self._started}", self._clock, self.outbox, offset, reaches_kafka=reaches_kafka)
        self.replicas.append(replica)

    def ask(self) -> None:
        """Somebody moves a lane, releases it for a time, or just once."""
        if self._number(3):
            return
        targets = [replica.id for replica in self.replicas] + [None, None]
        self.leases.ask(self._number(LANES), self._pick(targets), (0.0, 2.0, 8.0)[self._number(3)])

    def hit(self, replica: SimulatedReplica) -> None:
        """Something happens to a replica, rarely."""
        match self._number(RARELY):
            case 0:
                replica.crash()
            case 1 | 2:
                self.turn(replica, "paused", on=True)
            case 3 | 4 | 5:
                self.turn(replica, "cut_off", on=not replica.cut_off)
            case 6:
                replica.tenancy.tenure.begin_drain()
            case 7:
                self.discard_producer(replica)
            case 8 | 9 | 10 if not replica.reaches_kafka:
                replica.reach_kafka()
            case _:
                return
        state = f"stopped={replica.stopped} paused={replica.paused} cut_off={replica.cut_off}"
        self.trace.append(f"  {replica!r} {state} reaches_kafka={replica.reaches_kafka}")

    def discard_producer(self, replica: SimulatedReplica) -> None:
        """What has not landed never will; it goes before what waits, unless it was another tenure's."""
        while replica.wire:
            tenancy, lane, id_ = replica.wire.pop()
            if tenancy is replica.tenancy and lane in tenancy.queues:
                tenancy.queues[lane].appendleft(id_)
                del self.handed[lane, id_]

    def turn(self, replica: SimulatedReplica, what: str, *, on: bool) -> None:
        setattr(replica, what, on)

    def forget(self, replica: SimulatedReplica) -> None:
        """What was on the wire of a process that is gone has landed or is lost."""
        if not self._number(3):
            self.replicas.remove(replica)

    def land(self, replica: SimulatedReplica) -> None:
        """Kafka appends the next event of a wire."""
        tenancy, lane, id_ = replica.wire.popleft()
        self.log[lane].append(id_)
        first = list(dict.fromkeys(self.log[lane]))
        if first != sorted(first):
            raise Violation(f"lane {lane} is in Kafka as {self.log[lane]}")
        if not replica.stopped:
            replica.acknowledged.append((tenancy, lane, id_))

    # What is promised

    def _handed_over(self, replica: SimulatedReplica, lane: int, id_: int) -> None:
        if not self.leases.owns(replica.id, lane):
            raise replica.violation(f"publishes {id_} of lane {lane}, which is not its own")
        before = self.handed.get((lane, id_))
        if before is not None:
            self.repeats += 1
            if before.left or before is replica.tenancy or self.leases.alive(before.tenure.replica):
                raise replica.violation(f"publishes {id_} of lane {lane} again, which nobody lost")
        self.handed[lane, id_] = replica.tenancy

    def _come_to_rest(self) -> None:
        """After a last death, in every other schedule, everything is healed; then every promise about time holds."""
        owners = [replica for replica in self.replicas if replica.tenancy.tenure.lanes and not replica.stopped]
        if owners and self._written % 2:
            owners[0].crash()
        self._heal()
        able = [replica for replica in self.replicas if replica.reaches_kafka]
        if able:
            self._rest(able)
        for replica in self.replicas:
            if not replica.reaches_kafka:
                replica.reach_kafka()
        self._rest(self.replicas)

    def _rest(self, owners: list[SimulatedReplica]) -> None:
        """Wait until `owners` share the lanes and everything has arrived."""
        healed = self._clock.now
        owned = False
        for _ in range(MOST_ROUNDS):
            for replica in self.replicas:
                self._claim(replica)
                self._relay(replica)
            wanted = {replica.id for replica in owners if self.leases.alive(replica.id)}
            owned = owned or all(row.owner in wanted for row in self.leases.rows.values())
            if not owned and self._clock.now > healed + TAKE_OVER:
                raise Violation(
                    f"long after the leases of the dead have ended, a lane has no live owner: {self.leases.rows}"
                )
            if owned and self._all_arrived() and self._all_even(owners):
                return
            self._clock.now += 0.05
        raise Violation(f"{self.replicas} come to no rest: {self.log} of {self.outbox.events}")

    def _heal(self) -> None:
        for replica in list(self.replicas):
            while replica.wire:
                self.land(replica)
            if replica.tenancy.tenure.draining and not replica.stopped:
                replica.crash()
            replica.paused = replica.cut_off = False
        self.replicas = [replica for replica in self.replicas if not replica.stopped]
        if not self.replicas:
            self._start_one(reaches_kafka=True)
        for row in self.leases.rows.values():
            row.until = min(row.until, self.leases.now)
        self.leases.notify()

    def _claim(self, replica: SimulatedReplica) -> None:
        """All that its claim stage would do by now."""
        if replica.lease_is_over():
            replica.begin_anew()
        for _ in range(MOST_INSTANTS):
            if replica.busy:
                replica.advance()
            elif replica.claim_is_due():
                replica.go_round()
            else:
                return

    def _relay(self, replica: SimulatedReplica) -> None:
        """All that the others would do."""
        replica.scan(4)
        for lane in list(replica.tenancy.queues):
            while replica.reaches_kafka and replica.tenancy.queues.get(lane):
                replica.publish(lane, self._handed_over)
        while replica.wire:
            self.land(replica)
        if replica.settling is not None:
            replica.hear_of_receipt()
        while replica.acknowledged:
            replica.commit_receipt()
            replica.hear_of_receipt()

    def _all_arrived(self) -> bool:
        return all(set(self.outbox.events[lane]) == set(self.log[lane]) for lane in range(LANES))

    def _all_even(self, owners: list[SimulatedReplica]) -> bool:
        owned = [sum(row.owner == replica.id for row in self.leases.rows.values()) for replica in owners]
        return sum(owned) == LANES and max(owned) - min(owned) <= 1
