"""The stages against a simulated PostgreSQL, in any order of events: nothing is lost, taken twice or out of order.

And the proof that the model can fail: without any one rule of the scan (relay/decide/SCAN.md), some schedule breaks a
promise.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.decide import lane_scan
from relay.decide.ladder import Ladder
from relay.decide.lane_scan import LaneScan, LongSweep
from relay.decide.sweep_start import SweepStart
from relay.stages import tenure
from relay.stages.scan.sweep import Sweep
from tests.support.models.scan_model import Model
from tests.support.models.simulated_connection import SimulatedConnection
from tests.support.models.simulated_postgres import SimulatedPostgres, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relay.decide.snapshot import Snapshot
    from relay.event import PendingEvent
    from relay.stages.scan.ports import ScanResult

SIZES = [(12, 3), (3, 12)]
"""Events per scan and ids per step of a sweep: sweeps of many steps, and sweeps that their limit cuts off."""

MOST_SEEDS = 500
"""Seeds among which one must catch a mutant. The one that needs the most is caught at 302."""


@pytest.fixture(autouse=True)
def few_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short schedules prune the ladder."""
    monkeypatch.setattr(tenure, "MANY_RUNGS", 3)


def random_schedule(seed: int, length: int = 700) -> Iterable[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(1 << 16) for _ in range(length)]


def play_random_schedules(seeds: int, batch_events: int, step_ids: int) -> None:
    for seed in range(seeds):
        Model(random_schedule(seed), batch_events, step_ids).play()


@pytest.mark.parametrize(("batch_events", "step_ids"), SIZES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(schedule=st.lists(st.integers(0, (1 << 16) - 1), max_size=500))
def test_no_schedule_loses_repeats_or_reorders_an_event(schedule: list[int], batch_events: int, step_ids: int) -> None:
    Model(schedule, batch_events, step_ids).play()


@pytest.mark.parametrize(("batch_events", "step_ids"), SIZES)
def test_no_random_schedule_loses_repeats_or_reorders_an_event(batch_events: int, step_ids: int) -> None:
    play_random_schedules(100, batch_events, step_ids)


def test_random_schedules_reach_what_they_are_for() -> None:
    told: set[str] = set()
    wanted = {"crashes", "has drained", "runs out", "ends: ", ": sweep", "savepoint", "takes [", "settles ["}
    for seed in range(50):
        model = Model(random_schedule(seed), *SIZES[0])
        model.play()
        told |= {want for want in wanted if any(want in line for line in model.trace)}
    assert told == wanted


# Mutants: each takes out one rule.


def read_above_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan that everybody writes first: `id > last`."""
    monkeypatch.setattr(LaneScan, "sweep_start", lambda self, ladder: SweepStart(self.taken_to, ()))


def take_xmax_for_a_bound_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`xid >= xmax` is thought to mean: began after the snapshot, has only ids above the sequence's value then."""
    values: dict[int, int] = {}
    take_snapshot = SimulatedPostgres.snapshot
    floor = Ladder.floor

    def snapshot(self: SimulatedPostgres) -> Snapshot:
        taken = take_snapshot(self)
        values[taken.xmax] = self.sequence
        return taken

    monkeypatch.setattr(SimulatedPostgres, "snapshot", snapshot)
    monkeypatch.setattr(Ladder, "floor", lambda self, xid: values.get(xid, floor(self, xid)))


def find_the_last_rung_below_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index -1 is taken for a rung."""
    floor = Ladder.floor

    def mutant(self: Ladder, xid: int) -> int:
        if self._xids and xid <= self._xids[0]:
            return self._values[-1]
        return floor(self, xid)

    monkeypatch.setattr(Ladder, "floor", mutant)


def read_the_rungs_value_after_its_xid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rung's value is the sequence's when the statement with its xid is over, not one read before it began."""
    add = Ladder.add
    commit = SimulatedConnection._commit
    result = SimulatedConnection._result
    late: dict[int, int] = {}

    async def committed(self: SimulatedConnection, transaction: Any) -> int:
        xid = await commit(self, transaction)
        late[xid] = self.postgres.sequence
        return xid

    async def read(self: SimulatedConnection, *arguments: Any) -> ScanResult:
        found = await result(self, *arguments)
        late[found.next_xid - 1] = found.sequence_value
        return found

    monkeypatch.setattr(SimulatedConnection, "_commit", committed)
    monkeypatch.setattr(SimulatedConnection, "_result", read)
    monkeypatch.setattr(Ladder, "add", lambda self, xid, value: add(self, xid, late[xid]))


def forget_settled_ids_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 1: a receipt that commits while a scan is under way is not in its snapshot."""
    monkeypatch.setattr(LaneScan, "settle", lambda self, ids: self.taken.difference_update(ids))


def advance_past_a_sweep_that_was_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 3, the snapshot."""
    absorb = LaneScan.absorb

    def mutant(self: LaneScan, snapshot: Snapshot, *rest: Any) -> list[PendingEvent]:
        taken = absorb(self, snapshot, *rest)
        self.snapshot = snapshot
        return taken

    monkeypatch.setattr(LaneScan, "absorb", mutant)


def take_fresh_events_after_a_sweep_that_was_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 3, the fresh ones."""

    def mutant(
        self: LaneScan,
        snapshot: Snapshot,
        swept: list[PendingEvent],
        fresh: list[PendingEvent],
        sweep_reach: lane_scan.Reach,
        reach: lane_scan.Reach,
    ) -> list[PendingEvent]:
        new = [event for event in swept if event[1] not in self.taken]
        self._take([*new, *fresh])
        if fresh:
            self.taken_to = fresh[-1][1]
        if not lane_scan.cut_off(swept, sweep_reach):
            self.exhausted = not lane_scan.cut_off(fresh, reach)
            self.snapshot = snapshot
        return [*new, *fresh]

    monkeypatch.setattr(LaneScan, "absorb", mutant)


def let_steps_advance_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 4: what becomes visible between two steps is missed, or overtaken."""
    monkeypatch.setattr(lane_scan, "_anything_ended", lambda before, later: False)


def look_again_only_after_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 4 as it was first: nothing is lost, but the later of two events of one transaction may come first."""
    absorb_step = LaneScan.absorb_step

    def mutant(self: LaneScan, *arguments: Any) -> list[PendingEvent]:
        assert self.sweep is not None
        before = self.sweep.snapshot
        taken = absorb_step(self, *arguments)
        self.sweep.snapshot = before
        return taken

    monkeypatch.setattr(lane_scan, "_anything_ended", lambda before, later: False)
    monkeypatch.setattr(LaneScan, "absorb_step", mutant)


def take_over_without_looking_for_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 5: receipts above the position are taken for fresh events."""

    def mutant(lane: int, epoch: int, position: int, highest_settled: int, snapshot: Snapshot) -> LaneScan:
        return LaneScan(lane, epoch, position, position, LongSweep(snapshot, position, position))

    monkeypatch.setattr(LaneScan, "take_over", mutant)


def leave_running_transactions_out_of_the_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 6."""
    advance = LaneScan.advance_position

    def mutant(self: LaneScan, ladder: Ladder) -> int:
        before = self.snapshot
        if before is not None:
            self.snapshot = replace(before, running=frozenset())
        try:
            return advance(self, ladder)
        finally:
            self.snapshot = before

    monkeypatch.setattr(LaneScan, "advance_position", mutant)


def leave_the_sweep_out_of_the_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 6: sweep still to do."""
    advance = LaneScan.advance_position

    def mutant(self: LaneScan, ladder: Ladder) -> int:
        before = self.sweep
        if before is not None:
            self.sweep = replace(before, done_to=before.end)
        try:
            return advance(self, ladder)
        finally:
            self.sweep = before

    monkeypatch.setattr(LaneScan, "advance_position", mutant)


def forget_that_steps_look_at_nothing_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 6: after the last step, fresh events that the sweep's snapshot sees are still to be read."""
    next_step = LaneScan.next_step

    def mutant(self: LaneScan, step_ids: int) -> tuple[int, int] | None:
        before = self.exhausted
        step = next_step(self, step_ids)
        self.exhausted = before
        return step

    monkeypatch.setattr(LaneScan, "next_step", mutant)


def raise_floors_of_transactions_that_are_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 8: a transaction gives up the sequence's lock before its xid's, when it can be seen already."""
    look = Sweep.look_for_quiet_transactions

    async def mutant(self: Sweep, now: float) -> None:
        await look(self, now)
        quiet = self._reads.take_quiet()
        for xid, value in quiet.items():
            self._tenure.ladder.raise_floor(xid, value)
            self._reads.found_quiet([xid], value)

    monkeypatch.setattr(Sweep, "look_for_quiet_transactions", mutant)


@pytest.mark.parametrize(
    ("mutate", "sizes"),
    [
        (read_above_the_last_one, SIZES[0]),
        (take_xmax_for_a_bound_in_time, SIZES[0]),
        (find_the_last_rung_below_the_first, SIZES[0]),
        (read_the_rungs_value_after_its_xid, SIZES[0]),
        (forget_settled_ids_at_once, SIZES[0]),
        (advance_past_a_sweep_that_was_cut_off, SIZES[1]),
        (take_fresh_events_after_a_sweep_that_was_cut_off, SIZES[1]),
        (let_steps_advance_the_snapshot, SIZES[0]),
        (look_again_only_after_the_last_step, SIZES[0]),
        (take_over_without_looking_for_receipts, SIZES[0]),
        (leave_running_transactions_out_of_the_position, SIZES[0]),
        (leave_the_sweep_out_of_the_position, SIZES[0]),
        (forget_that_steps_look_at_nothing_fresh, SIZES[0]),
        (raise_floors_of_transactions_that_are_ending, SIZES[0]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_some_schedule_catches_a_scan_that_would(
    mutate: Callable[[pytest.MonkeyPatch], None], sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch)
    with pytest.raises(Violation):
        play_random_schedules(MOST_SEEDS, *sizes)
