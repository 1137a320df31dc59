"""Two owners never publish at once, and first occurrences stay in order: any schedule, on the real claim stage.

The model catches each of the mutants below, which are the mistakes that the rules of owning lanes are there against.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.decide.shares import Sharing
from relay.stages import tenure
from relay.stages.claim import claim
from relay.stages.claim.claim import Claim
from relay.stages.tenure import Tenure
from tests.support.models.ownership_model import OwnershipModel
from tests.support.models.simulated_leases import LEASE, Clock, SimulatedLeases
from tests.support.models.simulated_ownership import SimulatedReplica
from tests.support.models.simulated_postgres import Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from uuid import UUID

    from relay.decide.shares import LaneRow

MOST_SEEDS = 600
"""Seeds among which one must catch a mutant."""


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The stages' clock, which only schedules move."""
    clock = Clock()
    monkeypatch.setattr(claim, "time", clock)
    monkeypatch.setattr(tenure, "time", clock)
    return clock


def random_schedule(seed: int, length: int = 800) -> Iterable[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(1 << 16) for _ in range(length)]


def play(clock: Clock, schedule: Iterable[int]) -> OwnershipModel:
    clock.now = 0.0
    model = OwnershipModel(schedule, clock)
    model.play()
    return model


def play_random_schedules(clock: Clock, seeds: int) -> None:
    for seed in range(seeds):
        play(clock, random_schedule(seed))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(schedule=st.lists(st.integers(0, (1 << 16) - 1), max_size=500))
def test_no_schedule_lets_two_own_a_lane_or_breaks_the_order(clock: Clock, schedule: list[int]) -> None:
    play(clock, schedule)


def test_no_random_schedule_lets_two_own_a_lane_or_breaks_the_order(clock: Clock) -> None:
    play_random_schedules(clock, 150)


def test_random_schedules_reach_what_they_are_for(clock: Clock) -> None:
    told: set[str] = set()
    wanted = {"stopped=True", "paused=True", "cut_off=True", "finds its lease over", "asks for a lane", "is forgotten"}
    wanted |= {"reaches_kafka=False", "leaves its lanes to others"}
    repeats = 0
    for seed in range(40):
        model = play(clock, random_schedule(seed))
        told |= {want for want in wanted if any(want in line for line in model.trace)}
        if any(replica.ceded for replica in model.replicas):
            told.add("leaves its lanes to others")
        repeats += model.repeats
    assert told == wanted
    assert repeats > 0, "no schedule publishes anything twice: none is hard enough"


# Mutants


def now() -> float:
    """By the clock of the replica that is being moved."""
    return cast("float", vars(claim)["time"].monotonic())


def anchor_the_lease_at_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database counts from when the statement is carried out; the answer may come much later."""
    beat = Claim.beat

    async def mutant(self: Claim) -> None:
        await beat(self)
        self._tenure.lease_ends = now() + LEASE

    monkeypatch.setattr(Claim, "beat", mutant)


def release_before_what_was_taken_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next owner finds no receipts and publishes it too."""

    async def mutant(self: Claim) -> None:
        giving_back = [state for state in self._tenure.lanes.values() if state.lane in self._give_back]
        if self._tenure.draining:
            giving_back = list(self._tenure.lanes.values())
        for state in giving_back:
            state.releasing = True
        if giving_back:
            await self._release(giving_back)

    monkeypatch.setattr(Claim, "hand_back", mutant)


def take_from_lanes_that_are_being_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken after the last look is published after the release."""
    monkeypatch.setattr(SimulatedReplica, "may_take_from", lambda self, state: True)


def publish_without_a_look_at_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that stood still for longer than its lease goes on where it was."""
    monkeypatch.setattr(SimulatedReplica, "may_send", lambda self: True)


def claim_without_comparing_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane was seen free, and somebody else has claimed it since."""

    def mutant(self: SimulatedLeases, replica: UUID, seen: Sequence[LaneRow]) -> list[LaneRow]:
        current = [each._replace(epoch=self.rows[each.lane].epoch) for each in seen]
        return original(self, replica, current)

    original = SimulatedLeases.claim
    monkeypatch.setattr(SimulatedLeases, "claim", mutant)


def extend_a_lease_that_was_found_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a renewal that was sent in time came late: publish had dropped what waited, and later events of the
    same keys went on without it. The model found this one in the relay."""

    def mutant(self: Tenure, ends: float) -> None:
        self.lease_ends = ends

    monkeypatch.setattr(Tenure, "extend_lease", mutant)


def renew_a_lease_that_has_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may have claimed the lanes meanwhile. There are two guards; without both:"""
    extend_a_lease_that_was_found_over(monkeypatch)

    def mutant(self: SimulatedLeases, replica: UUID, lease: float) -> bool:
        if replica in self.replicas:
            self.replicas[replica].lease_ends = self.now + lease
        return replica in self.replicas

    monkeypatch.setattr(SimulatedLeases, "renew", mutant)


def judge_leases_by_a_clock_that_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when each replica compared with its own: lanes look free before they are."""

    def mutant(self: SimulatedLeases) -> list[LaneRow]:
        rows = original(self)
        return [
            row._replace(free=row.free or self.replicas[row.owner].lease_ends < self.now + 0.5)  # type: ignore[index]
            for row in rows
        ]

    original = SimulatedLeases.lanes
    monkeypatch.setattr(SimulatedLeases, "lanes", mutant)


def leave_before_everything_is_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off the list, the lanes are free."""

    async def mutant(self: SimulatedReplica, tenancy: Any) -> None:
        if tenancy.tenure.draining:
            await tenancy.claim._port.unregister(tenancy.tenure.replica)
        await original(self, tenancy)

    original = SimulatedReplica._round
    monkeypatch.setattr(SimulatedReplica, "_round", mutant)


def stop_looking_for_leases_that_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lanes of a dead replica wait for somebody's beat, here a rare one."""
    monkeypatch.setattr("tests.support.models.simulated_ownership.BEAT", LEASE * 0.9)
    monkeypatch.setattr(Sharing, "_look_in", lambda *_: float("inf"))


def share_lanes_with_who_cannot_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica with a wrong address of Kafka took its share from one that works."""
    original = SimulatedLeases.live
    monkeypatch.setattr(SimulatedLeases, "live", lambda self: [each._replace(waiting=False) for each in original(self)])


def keep_lanes_whose_events_cannot_be_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are given back once what was taken is settled, which it never is."""

    async def mutant(self: Claim) -> None:
        pass

    monkeypatch.setattr(Claim, "_cede", mutant)


@pytest.mark.parametrize(
    "mutate",
    [
        share_lanes_with_who_cannot_publish,
        keep_lanes_whose_events_cannot_be_published,
        anchor_the_lease_at_the_answer,
        release_before_what_was_taken_is_settled,
        take_from_lanes_that_are_being_given_back,
        publish_without_a_look_at_the_lease,
        claim_without_comparing_epochs,
        renew_a_lease_that_has_run_out,
        judge_leases_by_a_clock_that_is_ahead,
        leave_before_everything_is_drained,
        extend_a_lease_that_was_found_over,
        stop_looking_for_leases_that_end,
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_some_schedule_catches_a_replica_that_would(
    mutate: Callable[[pytest.MonkeyPatch], None], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    with pytest.raises(Violation):
        play_random_schedules(clock, MOST_SEEDS)
