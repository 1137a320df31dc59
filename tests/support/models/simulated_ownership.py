"""Replicas with the real claim stage on a simulated PostgreSQL.

Every port method stops before its statement and before its answer, so that anything may happen in between: a statement
may be carried out long after it was sent, and its answer may come long after that. Writing, scanning and Kafka are as
simple as can be: an event is a number, a partition is a lane.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from relay.decide.room import Room
from relay.settings import ReplicaSettings
from relay.stages.claim.claim import Claim
from relay.stages.claim.totals import Totals
from relay.stages.tenure import LanesCededError, Tenure, TenureLostError
from tests.support.models.simulated_connection import ConnectionWithoutFailures
from tests.support.models.simulated_leases import LEASE, Clock
from tests.support.models.simulated_postgres import SimulatedPostgres, Violation
from tests.support.models.simulated_relay import SilentTelemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from uuid import UUID

    from relay.telemetry import Telemetry

BEAT = 1.0


class OwnedOutbox:
    """Replicas, leases and lanes of a simulated PostgreSQL, and events that are no more than numbers."""

    def __init__(self, clock: Clock, lanes: int) -> None:
        self.postgres = SimulatedPostgres(lanes, clock)
        self.leases = self.postgres.leases
        self.events: dict[int, list[int]] = {lane: [] for lane in range(lanes)}
        self.receipts: set[tuple[int, int]] = set()


@dataclass(eq=False)
class Tenancy:
    """One tenure of a process: what it took and what it handed to Kafka."""

    tenure: Tenure
    claim: Claim
    queues: dict[int, deque[int]] = field(default_factory=dict)
    next_beat: float = 0.0
    left: bool = False
    """It drained and took itself off the list: nothing of it may ever be published again."""


class SimulatedReplica:
    """One process. Its `wire` outlives its tenures: what is on it lands in order, or the rest of it is lost."""

    def __init__(
        self, name: str, clock: Clock, outbox: OwnedOutbox, offset: float, *, reaches_kafka: bool = True
    ) -> None:
        self.name = name
        self.reaches_kafka = reaches_kafka
        """Whether it has had a producer: who loses it later keeps its lanes."""
        self.ceded = 0
        """How often it left its lanes to others that can publish."""
        self.outbox = outbox
        self.paused = False
        self.cut_off = False
        """PostgreSQL does not answer, nor is it reached."""
        self.stopped = False
        self.wire: deque[tuple[Tenancy, int, int]] = deque()
        self.acknowledged: deque[tuple[Tenancy, int, int]] = deque()
        self.settling: tuple[Tenancy, int, int] | None = None
        self._clock = clock
        self._offset = offset
        self._work: Coroutine[Any, Any, object] | None = None
        self.tenancy = self._begin(None)

    def __repr__(self) -> str:
        return f"<{self.name} {sorted(self.tenancy.tenure.lanes)} wire={len(self.wire)}>"

    @property
    def id(self) -> UUID:
        return self.tenancy.tenure.replica

    @property
    def busy(self) -> bool:
        return self._work is not None

    def look_at_own_clock(self) -> None:
        """From now on the clock is this replica's."""
        self._clock.offset = self._offset

    def _begin(self, former: UUID | None) -> Tenancy:
        self.look_at_own_clock()
        tenure = Tenure(Room(100, 1 << 20))
        settings = ReplicaSettings(name=self.name, lease=LEASE)
        telemetry = cast("Telemetry", SilentTelemetry())
        claim = Claim(
            port=ConnectionWithoutFailures(self.outbox.postgres),
            tenure=tenure,
            on_claimed=lambda: None,
            settings=settings,
            totals=Totals(),
            telemetry=telemetry,
            cannot_publish=lambda: None if self.reaches_kafka else "Kafka is not reached",
        )
        self.outbox.leases.listeners.append(tenure.lanes_may_be_free)
        self.tenancy = Tenancy(tenure, claim)
        self._start(claim.register(former))
        return self.tenancy

    def reach_kafka(self) -> None:
        """From now on it can publish."""
        self.reaches_kafka = True
        self.tenancy.tenure.lanes_may_be_free()

    # The claim stage

    def claim_is_due(self) -> bool:
        """Whether its loop would go on now."""
        self.look_at_own_clock()
        if self.busy:
            return False
        now = self._clock.monotonic()
        claim, tenure = self.tenancy.claim, self.tenancy.tenure
        due = tenure.claim_wake_up.is_set() or now >= min(self.tenancy.next_beat, claim._next_look)
        return due or bool(claim._give_back)

    def go_round(self) -> None:
        """Begin one round of its loop."""
        self._start(self._round(self.tenancy))

    async def _round(self, tenancy: Tenancy) -> None:
        now = self._clock.monotonic()
        tenure, claim = tenancy.tenure, tenancy.claim
        if now >= tenancy.next_beat:
            tenancy.next_beat = now + BEAT
            await claim.beat()
        elif tenure.claim_wake_up.is_set() or now >= claim._next_look:
            await claim.look()
        await claim.hand_back()
        if tenure.draining and not tenure.lanes:
            await claim.leave()
            tenancy.left = self.stopped = True

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        self._work = work
        self.advance()

    def advance(self) -> None:
        """One instant of the statement that is under way."""
        assert self._work is not None
        self.look_at_own_clock()
        try:
            self._work.send(None)
        except StopIteration:
            self._work = None
        except TenureLostError as lost:
            self._work = None
            self.ceded += isinstance(lost, LanesCededError)
            self.begin_anew()

    def begin_anew(self) -> None:
        """The tenure is lost: what was not handed to Kafka is dropped, what was is still on its way."""
        if self._work is not None:
            self._work.close()
            self._work = None
        former = self.tenancy.tenure
        self.outbox.leases.listeners.remove(former.lanes_may_be_free)
        self._begin(former.replica)

    def lease_is_over(self) -> bool:
        """Whether the watch on the lease would end the tenure now."""
        self.look_at_own_clock()
        return self.tenancy.tenure.lease_ends > 0 and not self.tenancy.tenure.holds_lease()

    def crash(self) -> None:
        """It is gone; a statement under way may have been carried out or not."""
        self.stopped = True
        self.outbox.leases.listeners.remove(self.tenancy.tenure.lanes_may_be_free)
        if self._work is not None:
            self._work.close()
            self._work = None

    # The flow

    def scan(self, most: int) -> None:
        """Take pending events of the lanes that may be read."""
        for state in self.tenancy.tenure.lanes.values():
            if self.may_take_from(state):
                state.about_to_read(self.tenancy.tenure.ladder, 1_000)
                pending = [
                    id_
                    for id_ in self.outbox.events[state.lane]
                    if (state.lane, id_) not in self.outbox.receipts and id_ not in state.taken
                ][:most]
                state.taken.update(pending)
                self.tenancy.queues.setdefault(state.lane, deque()).extend(pending)

    def may_take_from(self, state: Any) -> bool:
        """As the scan stage decides it."""
        return not state.releasing and not self.tenancy.tenure.draining

    def may_send(self) -> bool:
        """As the publish stage decides it."""
        return self.tenancy.tenure.holds_lease()

    def publish(self, lane: int, on_sent: Callable[[SimulatedReplica, int, int], None]) -> None:
        """Hand the next event of a lane to Kafka."""
        self.look_at_own_clock()
        if not self.may_send():
            self.tenancy.queues.clear()
            return
        id_ = self.tenancy.queues[lane].popleft()
        on_sent(self, lane, id_)
        self.wire.append((self.tenancy, lane, id_))

    def commit_receipt(self) -> None:
        """The receipt of the oldest acknowledgement commits."""
        self.settling = self.acknowledged.popleft()
        self.outbox.receipts.add(self.settling[1:])

    def hear_of_receipt(self) -> None:
        """The answer that it did."""
        assert self.settling is not None
        tenancy, lane, id_ = self.settling
        self.settling = None
        if tenancy is self.tenancy and (state := tenancy.tenure.lanes.get(lane)) is not None:
            state.settle([id_])

    def violation(self, text: str) -> Violation:
        return Violation(f"{self!r} {text}")
