"""The stages against a simulated PostgreSQL, in any order of events: nothing is lost, taken twice or out of order.

And the proof that the model can fail: without any one rule of the scan (relay/decide/SCAN.md), some schedule breaks a
promise.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.decide import known_ids, lane_scan, long_sweep, passed_ids
from relay.decide.known_ids import KnownIds
from relay.decide.ladder import Ladder
from relay.decide.lane_scan import LaneScan
from relay.decide.long_sweep import LongSweep
from relay.decide.sweep_start import SweepStart
from relay.stages import tenure
from relay.stages.scan import sweep
from relay.stages.scan.scan import Scan
from relay.stages.scan.sweep import Sweep
from tests.support.models import simulated_postgres
from tests.support.models.scan_model import LANES, Model
from tests.support.models.simulated_connection import SimulatedConnection
from tests.support.models.simulated_postgres import Scanned, SimulatedPostgres, Swept, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from relay.decide.reach import Reach
    from relay.decide.snapshot import Snapshot
    from relay.event import PendingEvent
    from relay.stages.scan.ports import LaneRequest, StepResult

SIZES = [(12, 3), (3, 12), (6, 40)]
"""Events per scan and ids per step of a sweep: sweeps of many steps, sweeps that their limit cuts off, and few long
sweeps, so that much has to be known."""

MOST_SEEDS = 500
"""Seeds among which one must catch a mutant. The one that needs the most is caught at 302."""


@pytest.fixture(autouse=True)
def forgets_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short schedules prune the ladder and what is known, and sweeps go by gaps among it."""
    monkeypatch.setattr(tenure, "MANY_RUNGS", 3)
    monkeypatch.setattr(known_ids, "MANY_KNOWN", 0)
    monkeypatch.setattr(known_ids, "GROWTH", 0)
    monkeypatch.setattr(passed_ids, "IDS", 16)
    monkeypatch.setattr(passed_ids, "MOST_KEPT", 3)
    monkeypatch.setattr(long_sweep, "NO_GAPS_FOR", 1)
    monkeypatch.setattr(sweep, "MOST_GAPS", 14)


def random_schedule(seed: int, length: int = 700) -> Iterable[int]:
    numbers = random.Random(seed)
    return [numbers.randrange(1 << 16) for _ in range(length)]


def play_random_schedules(seeds: int, batch_events: int, step_ids: int) -> Counter[str]:
    """Returns how many reads of each kind there were."""
    reads: Counter[str] = Counter()
    for seed in range(seeds):
        # Steps of all three kinds; the fixture puts both back.
        sweep.MOST_GAPS = 14 if seed % 2 else 2
        passed_ids.MOST_KEPT = 3 if seed % 3 else 0
        model = Model(random_schedule(seed), batch_events, step_ids)
        model.play()
        reads.update(model.postgres.reads)
    return reads


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
    wanted = {"crashes", "has drained", "runs out", "ends: ", ": sweep", "savepoint", "takes [", "settles [", "holds ["}
    wanted |= {"resumes [", "settled late"}
    for seed in range(50):
        model = Model(random_schedule(seed), *SIZES[0])
        model.play()
        told |= {want for want in wanted if any(want in line for line in model.trace)}
    assert told == wanted


def test_random_schedules_read_in_every_way() -> None:
    reads = sum((play_random_schedules(30, *sizes) for sizes in SIZES), Counter[str]())
    assert reads.keys() == {"look", "scan", "sweep_step", "new_step", "gap_step"}
    assert min(reads.values()) > 20, reads


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
    look_around = SimulatedConnection._look_around
    late: dict[int, int] = {}

    async def committed(self: SimulatedConnection, transaction: Any) -> int:
        xid = await commit(self, transaction)
        late[xid] = self.postgres.sequence
        return xid

    async def read(self: SimulatedConnection) -> tuple[int, int]:
        value, next_xid = await look_around(self)
        late[next_xid - 1] = value
        return value, next_xid

    monkeypatch.setattr(SimulatedConnection, "_commit", committed)
    monkeypatch.setattr(SimulatedConnection, "_look_around", read)
    monkeypatch.setattr(Ladder, "add", lambda self, xid, value: add(self, xid, late[xid]))


def forget_settled_ids_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 1: a receipt that commits while a scan or step is under way is not in its snapshot."""

    def settle(self: LaneScan, ids: Iterable[int]) -> None:
        ids = set(ids)
        self.taken -= ids
        self.resuming -= ids
        self.known._ids -= ids

    monkeypatch.setattr(LaneScan, "settle", settle)


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
    absorb = LaneScan.absorb

    def mutant(
        self: LaneScan,
        snapshot: Snapshot,
        new: list[int],
        swept: list[PendingEvent],
        fresh: list[PendingEvent],
        reach: Reach,
    ) -> list[PendingEvent]:
        before = self.snapshot
        taken = absorb(self, snapshot, new, swept, fresh, reach)
        if self.snapshot is not snapshot and fresh:
            self._take(fresh)
            self.taken_to = fresh[-1][1]
            taken += fresh
        assert self.snapshot in (before, snapshot)
        return taken

    monkeypatch.setattr(LaneScan, "absorb", mutant)


def forget_all_below_the_start_of_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known is pruned at `start` instead of `low`: with a transaction open, the next start may be far below."""
    monkeypatch.setattr(SweepStart, "lowest", property(lambda self: self.floor))


def forget_unsettled_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 1: a step asks the tables, and their receipts may be missing there."""
    forget = KnownIds.forget
    monkeypatch.setattr(KnownIds, "forget", lambda self, low, unsettled: forget(self, low, frozenset()))


def cut_what_is_known_without_a_long_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan trusts what is known below the cut, too."""
    requests = Scan.requests
    monkeypatch.setattr(Scan, "requests", lambda self: [each._replace(known_from=0) for each in requests(self)])


def cut_what_is_known_after_the_request_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan goes by what was known before the last ids were forgotten."""
    scan_once = Scan.scan_once

    async def mutant(self: Scan, requests: list[LaneRequest]) -> tuple[int, bool]:
        for request in requests:
            state = self._tenure.lanes[request.lane]
            state.known.cut(request.taken_to)
            state.known.forget(0, state.taken)
        return await scan_once(self, requests)

    monkeypatch.setattr(Scan, "scan_once", mutant)


def leave_out_of_what_is_known_what_a_step_finds_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receipts of the last owner: the scans after the sweep do not look for them."""
    absorb_step = LaneScan.absorb_step

    def mutant(
        self: LaneScan, snapshot: Snapshot, end: int, swept: list[PendingEvent], left: list[int], _: Any, *rest: Any
    ) -> list[PendingEvent]:
        return absorb_step(self, snapshot, end, swept, left, [], *rest)

    monkeypatch.setattr(LaneScan, "absorb_step", mutant)


def know_what_a_step_found_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a step saw is known, though it took only a part of it."""
    absorb_step = LaneScan.absorb_step

    def mutant(self: LaneScan, snapshot: Snapshot, end: int, swept: list[PendingEvent], *rest: Any) -> Any:
        taken = absorb_step(self, snapshot, end, swept, *rest)
        self.known.add(event.id for event in swept)
        return taken

    monkeypatch.setattr(LaneScan, "absorb_step", mutant)


def go_on_without_what_a_step_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep is thought to be done to the end of a step, though some of what it found is still to be read."""
    leave = LongSweep.leave

    def mutant(self: LongSweep, ids: list[int]) -> None:
        leave(self, ids)
        self.done_to = self.left_to

    monkeypatch.setattr(LongSweep, "leave", mutant)


def go_by_gaps_in_the_sweep_of_a_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last owner had settled is not known, and is taken for new."""

    monkeypatch.setattr(LaneScan, "knows_all", property(lambda self: self.sweep.done_to >= self.known.complete_from))
    monkeypatch.setattr(KnownIds, "complete_from", property(lambda self: self.passed.start))


def go_by_gaps_where_what_was_known_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many ids are kept, and what lies below is taken for new."""
    monkeypatch.setattr(KnownIds, "complete_from", property(lambda self: self._complete_from))


def look_whether_all_is_known_only_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """To note what is known, and what other lanes forget meanwhile, may push out what was kept of lower ids."""
    read_new = Sweep._read_new
    knows_all = LaneScan.knows_all.fget  # type: ignore[attr-defined]
    asking: set[int] = set()

    async def mutant(self: Sweep, state: LaneScan, *rest: Any) -> Any:
        asking.add(id(state))
        try:
            return await read_new(self, state, *rest)
        finally:
            asking.discard(id(state))

    monkeypatch.setattr(Sweep, "_read_new", mutant)
    monkeypatch.setattr(LaneScan, "knows_all", property(lambda self: id(self) in asking or knows_all(self)))


def forget_for_steps_what_scans_do_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is settled below the cut goes, and a step takes it for new."""
    forget = KnownIds.forget

    def mutant(self: KnownIds, low: int, unsettled: Any) -> None:
        shared, self.passed = self.passed, passed_ids.PassedIds()
        self.passed.start = shared.start
        forget(self, low, unsettled)
        self.passed = shared

    monkeypatch.setattr(KnownIds, "forget", mutant)


def pass_what_no_lane_has_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """All ids up to the highest that was taken are thought to have been looked at, those of open transactions too."""

    def mutant(self: KnownIds) -> None:
        self.passed.add(range(self.complete_from + 1, max(self._ids, default=0) + 1))

    monkeypatch.setattr(KnownIds, "note", mutant)


def limit_the_ids_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are known use up the limit, and the ones after them are never met."""
    scan = SimulatedPostgres.scan

    def mutant(self: SimulatedPostgres, lanes: list[LaneRequest]) -> Scanned:
        found = scan(self, lanes)
        return found._replace(swept={lane: ids[:3] for lane, ids in found.swept.items()})

    monkeypatch.setattr(SimulatedPostgres, "scan", mutant)


def read_only_above_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start above `taken_to` hides what there was no room for."""
    scan = SimulatedPostgres.scan

    def mutant(self: SimulatedPostgres, lanes: list[LaneRequest]) -> Scanned:
        found = scan(self, lanes)
        starts = {each.lane: each.sweep_start.start(found.snapshot) for each in lanes}
        return found._replace(events=[event for event in found.events if event.id > starts[event.lane]])

    monkeypatch.setattr(SimulatedPostgres, "scan", mutant)


def look_above_the_floor_of_the_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look starts where nothing is new whichever transaction has ended, not where no later one can have written."""
    monkeypatch.setattr(LaneScan, "nothing_new_to", lambda self, start: start.floor)


def look_above_what_there_was_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lane that has more is looked at above its start."""
    monkeypatch.setattr(LaneScan, "nothing_new_to", lambda self, start: start.lowest)


def look_below_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """All lanes are looked at from one id, and what a lane has forgotten is taken for new."""
    requests = Scan.requests

    def mutant(self: Scan) -> list[LaneRequest]:
        asked = requests(self)
        lowest = min((each.nothing_new_to for each in asked), default=0)
        return [each._replace(nothing_new_to=lowest, known_from=min(each.known_from, lowest)) for each in asked]

    monkeypatch.setattr(Scan, "requests", mutant)


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
        (forget_all_below_the_start_of_the_scan, SIZES[2]),
        (forget_unsettled_ids, SIZES[1]),
        (cut_what_is_known_without_a_long_sweep, SIZES[1]),
        (cut_what_is_known_after_the_request_was_made, SIZES[2]),
        (leave_out_of_what_is_known_what_a_step_finds_settled, SIZES[2]),
        (know_what_a_step_found_no_room_for, SIZES[1]),
        (go_on_without_what_a_step_left, SIZES[1]),
        (go_by_gaps_in_the_sweep_of_a_take_over, SIZES[0]),
        (go_by_gaps_where_what_was_known_was_forgotten, SIZES[0]),
        (look_whether_all_is_known_only_before_it_is_asked, SIZES[0]),
        (forget_for_steps_what_scans_do_not_need, SIZES[0]),
        (pass_what_no_lane_has_taken, SIZES[0]),
        (limit_the_ids_of_a_sweep, SIZES[2]),
        (read_only_above_the_start, SIZES[1]),
        (look_above_the_floor_of_the_ladder, SIZES[0]),
        (look_above_what_there_was_no_room_for, SIZES[0]),
        (look_below_what_is_known, SIZES[0]),
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


def play_a_commit_between_a_steps_snapshot_and_its_answer() -> None:
    """Random schedules hardly ever have it: a lane with receipts above a running transaction's event is taken over."""
    model = Model(repeat(0), *SIZES[2])
    postgres = model.postgres
    slow = postgres.begin()
    model.enqueue(slow, key=0)
    soon = postgres.begin()
    model.enqueue(soon, key=LANES)
    postgres.commit(soon)
    (former,) = model.relays
    while not postgres.receipts:
        model._move(former)
    former.kill()
    model._gone(former)
    (relay,) = model.relays
    relay.begin_beat()
    relay.finish("claim")
    assert relay.tenure.lanes[0].taken_to == soon.events[0].id
    relay.begin_sweep()
    model.advance(relay, "sweep")
    postgres.commit(slow)
    model._come_to_rest()


def test_what_commits_while_a_step_is_under_way_is_found_later() -> None:
    play_a_commit_between_a_steps_snapshot_and_its_answer()


def take_for_settled_what_a_step_could_not_see_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is asked in a later snapshot than what is unsettled of it."""
    statement = SimulatedPostgres.sweep_step
    sweep_step = SimulatedConnection.sweep_step
    unsettled: dict[int, set[int]] = {}

    def noted(self: SimulatedPostgres, lane: int, above: int, up_to: int, *rest: int) -> Swept:
        unsettled[lane] = {event.id for event in self._between(lane, above, up_to) if not self.settled(event)}
        return statement(self, lane, above, up_to, *rest)

    async def mutant(self: SimulatedConnection, *asked: int) -> StepResult:
        found = await sweep_step(self, *asked)
        lane, above, up_to, _, _, settled_from = asked
        there = [event.id for event in self.postgres._between(lane, max(above, settled_from), up_to)]

        return found._replace(settled=[id_ for id_ in there if id_ not in unsettled[lane]])

    monkeypatch.setattr(SimulatedPostgres, "sweep_step", noted)
    monkeypatch.setattr(SimulatedConnection, "sweep_step", mutant)


def test_it_is_lost_if_a_step_asks_what_is_there_after_it_asked_what_is_unsettled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_for_settled_what_a_step_could_not_see_yet(monkeypatch)
    with pytest.raises(Violation, match="position 2 of lane 0 is above unsettled 1"):
        play_a_commit_between_a_steps_snapshot_and_its_answer()


def play_a_former_owner_that_settles_a_held_event_late() -> None:
    """The new owner has swept past the event by then, and a running transaction has the next sweep start below it."""
    model = Model(repeat(0), *SIZES[2])
    postgres = model.postgres
    slow = postgres.begin()
    model.enqueue(slow, key=0)
    soon = postgres.begin()
    model.enqueue(soon, key=LANES)
    postgres.commit(soon)
    (former,) = model.relays
    for begin, stage in ((former.begin_beat, "claim"), (former.begin_sweep, "sweep"), (former.begin_scan, "scan")):
        begin()
        former.finish(stage)
    former.begin_hold(list(former.unsettled))
    former.finish("settle")
    assert former.resume() == soon.events
    model.late += former.unsettled
    former.kill()
    model._gone(former)
    (relay,) = model.relays
    relay.begin_beat()
    relay.finish("claim")
    while relay.tenure.lanes[0].sweep is not None:
        relay.begin_sweep()
        relay.finish("sweep")
    relay.begin_scan()
    relay.finish("scan")
    model.settle_late(soon.events[0])
    postgres.commit(slow)
    relay.begin_scan()
    relay.finish("scan")
    assert slow.events[0] in relay.unsettled
    model._come_to_rest()


def test_what_was_held_when_its_lane_was_taken_over_is_not_taken_once_its_row_is_gone() -> None:
    play_a_former_owner_that_settles_a_held_event_late()


def leave_held_events_out_of_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step says only what has a receipt: a held row may be gone by the time of the next scan, its event resumed."""
    sweep_step = SimulatedPostgres.sweep_step

    def mutant(self: SimulatedPostgres, lane: int, *rest: int) -> Swept:
        found = sweep_step(self, lane, *rest)
        return found._replace(settled=[id_ for id_ in found.settled if (lane, id_) in self.receipts])

    monkeypatch.setattr(SimulatedPostgres, "sweep_step", mutant)


def test_it_is_taken_a_second_time_if_only_what_has_a_receipt_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_held_events_out_of_what_is_known(monkeypatch)
    # A look would take it at once, while it is held, which is once.
    monkeypatch.setattr(simulated_postgres, "LITTLE_IDS", -1)
    with pytest.raises(Violation, match="had been held back and was settled since"):
        play_a_former_owner_that_settles_a_held_event_late()


def play_a_transaction_that_ends_after_a_take_over() -> None:
    """What its last owner had settled above the transaction's event is more than the scans of the lane have to know."""
    model = Model(repeat(0), *SIZES[0])
    postgres = model.postgres
    slow = postgres.begin()
    model.enqueue(slow, key=0)
    for _ in range(8):
        soon = postgres.begin()
        model.enqueue(soon, key=LANES)
        postgres.commit(soon)
    (former,) = model.relays
    while len(postgres.receipts) < 8:
        model._move(former)
    former.kill()
    model._gone(former)
    (relay,) = model.relays
    relay.begin_beat()
    relay.finish("claim")
    while relay.tenure.lanes[0].sweep is not None:
        relay.begin_sweep()
        relay.finish("sweep")
    relay.begin_scan()
    relay.finish("scan")
    postgres.commit(slow)
    model._come_to_rest()
    assert postgres.reads["gap_step"]


def test_a_step_by_gaps_leaves_out_what_the_last_owner_had_settled() -> None:
    play_a_transaction_that_ends_after_a_take_over()


def know_what_the_last_owner_settled_as_far_as_scans_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of the take-over say only what is settled of the last ids."""
    settled_from = LaneScan.settled_from
    monkeypatch.setattr(
        LaneScan, "settled_from", lambda self, ladder: max(self.known.start, settled_from(self, ladder))
    )


def test_it_is_taken_a_second_time_if_only_what_scans_need_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    know_what_the_last_owner_settled_as_far_as_scans_need_it(monkeypatch)
    with pytest.raises(Violation, match="is taken twice"):
        play_a_transaction_that_ends_after_a_take_over()
