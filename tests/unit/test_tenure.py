"""What a tenure makes of what its statements saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from relay.decide.held_back import Closed
from relay.decide.ladder import Ladder
from relay.decide.lane_scan import LaneScan
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.stages.tenure import MANY_RUNGS, Tenure
from tests.support.events import events

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest


def tenure_with(snapshot: Snapshot) -> Tenure:
    """With one lane, last read in this snapshot."""
    tenure = Tenure(Room(1, 1))
    state = LaneScan.take_over(3, 1, 0, 0, snapshot)
    state.next_step(1)
    tenure.add_lane(state, Closed())
    return tenure


def see(tenure: Tenure, numbers: Iterable[int], running: Iterable[int] = ()) -> None:
    """One statement after the other, between which somebody takes an xid and an id."""
    for number in numbers:
        snapshot = Snapshot(1, number, frozenset(running))
        tenure.saw_statement(snapshot, sequence_value=number, next_xid=number, before=number - 1)


def test_the_ladder_stays_small_whichever_statements_make_its_rungs() -> None:
    """Also those of long sweeps, when no lane is scanned for an hour."""
    tenure = tenure_with(Snapshot(10, 10, frozenset()))
    see(tenure, range(10, 20 * MANY_RUNGS))
    assert len(tenure.ladder) <= MANY_RUNGS + 1


def test_while_many_transactions_stay_open_it_is_not_pruned_at_each_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    """That would take away what another statement that is under way rests on, every time: a sweep would go back."""
    open_ones = range(10, 10 + 2 * MANY_RUNGS)
    tenure = tenure_with(Snapshot(10, open_ones[-1] + 1, frozenset(open_ones)))
    see(tenure, open_ones, open_ones)
    prunes: list[int] = []
    prune = Ladder.prune

    def counted(self: Ladder, needed: Iterable[int]) -> None:
        prunes.append(len(self))
        prune(self, needed)

    monkeypatch.setattr(Ladder, "prune", counted)
    see(tenure, range(1_000, 1_000 + 4 * MANY_RUNGS), open_ones)
    assert 1 <= len(prunes) <= 4
    # Of one of them, and of a new one.
    assert [tenure.ladder.floor(xid) for xid in (300, 5_000)] == [299, 2_022]


def test_pruning_leaves_what_the_statement_itself_rests_on() -> None:
    """It is seen before its snapshot is that of a lane."""
    tenure = tenure_with(Snapshot(10, 10, frozenset()))
    see(tenure, range(10, 10 + MANY_RUNGS - 1))
    before = len(tenure.ladder)
    late = Snapshot(100, 400, frozenset({100, 200}))
    tenure.saw_statement(late, sequence_value=500, next_xid=400, before=499)
    tenure.saw_statement(late, sequence_value=501, next_xid=401, before=500)
    assert len(tenure.ladder) < before
    assert [tenure.ladder.floor(xid) for xid in (100, 200)] == [99, 199]


def test_the_scan_that_waits_for_room_hears_of_receipts() -> None:
    tenure = Tenure(Room(10, 1_000_000))
    tenure.room.add(0, events(1))
    assert not tenure.scan_wake_up.is_set()
    tenure.leave_room({0: (1, 10)})
    assert tenure.scan_wake_up.is_set()
    assert tenure.room.events == 0


def test_the_first_failure_has_resume_look_and_the_others_do_not_hurry_it() -> None:
    tenure = Tenure(Room(10, 1_000_000))
    tenure.failure_recorded()
    assert tenure.has_failures
    assert tenure.resume_wake_up.is_set()
    tenure.resume_wake_up.clear()
    tenure.failure_recorded()
    assert not tenure.resume_wake_up.is_set()
