"""The ladder says which ids a transaction cannot have."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.decide.ladder import NO_FLOOR, Ladder
from relay.decide.snapshot import Snapshot

XIDS = st.integers(1, 60)


def ladder_of(*rungs: tuple[int, int]) -> Ladder:
    ladder = Ladder()
    for xid, value in rungs:
        ladder.add(xid, value)
    return ladder


def rungs_only(ladder: Ladder) -> Ladder:
    """Without the floors that were raised."""
    return ladder_of(*zip(ladder._xids, ladder._values, strict=True))


@st.composite
def ladders(draw: st.DrawFn) -> Ladder:
    """With rungs in any order, as several connections report them, and raised floors."""
    ladder = ladder_of(*draw(st.lists(st.tuples(XIDS, st.integers(0, 200)), max_size=20)))
    for xid, value in draw(st.lists(st.tuples(XIDS, st.integers(0, 200)), max_size=5)):
        ladder.raise_floor(xid, value)
    return ladder


def test_the_floor_is_the_value_of_the_highest_rung_below_the_transaction() -> None:
    ladder = ladder_of((10, 100), (20, 200), (30, 300))
    assert [ladder.floor(xid) for xid in (11, 20, 21, 30, 31, 1000)] == [100, 100, 200, 200, 300, 300]


def test_below_the_first_rung_there_is_no_floor() -> None:
    """Index -1 of a bisection is not the last rung: an old transaction would get the highest floor of all."""
    ladder = ladder_of((10, 100), (20, 200))
    assert ladder.floor(10) == NO_FLOOR
    assert ladder.floor(3) == NO_FLOOR
    assert Ladder().floor(3) == NO_FLOOR


def test_the_rungs_own_transaction_does_not_stand_on_it() -> None:
    """Its value was read before it took its xid, but says nothing about ids of that same transaction."""
    assert ladder_of((10, 100)).floor(10) == NO_FLOOR


def test_a_rung_that_is_reported_late_is_left_out() -> None:
    ladder = ladder_of((20, 200), (10, 100), (30, 150), (40, 400))
    assert [ladder.floor(xid) for xid in (15, 25, 35, 45)] == [NO_FLOOR, 200, 200, 400]


def test_a_rung_takes_the_place_of_those_that_it_makes_superfluous() -> None:
    """While nobody takes an xid, one scan after the other reports the same with a higher value."""
    ladder = ladder_of((10, 100), (20, 200), (30, 200), (20, 250), (20, 300))
    assert [ladder.floor(xid) for xid in (20, 21, 31)] == [100, 300, 300]
    assert len(ladder) == 2


def test_a_raised_floor_counts_for_its_transaction_alone_and_never_lowers_a_floor() -> None:
    ladder = ladder_of((10, 100))
    ladder.raise_floor(5, 50)
    ladder.raise_floor(5, 40)
    ladder.raise_floor(12, 60)
    assert [ladder.floor(xid) for xid in (4, 5, 6, 12)] == [NO_FLOOR, 50, NO_FLOOR, 100]


@given(ladders(), XIDS, st.lists(st.tuples(XIDS, st.integers(0, 200)), max_size=10))
def test_a_floor_never_falls_when_rungs_are_added(ladder: Ladder, xid: int, more: list[tuple[int, int]]) -> None:
    before = ladder.floor(xid)
    for rung in more:
        ladder.add(*rung)
    assert ladder.floor(xid) >= before


@given(ladders(), st.sets(XIDS, min_size=1, max_size=8), st.lists(st.tuples(XIDS, st.integers(0, 200)), max_size=5))
def test_pruning_never_changes_a_floor_that_is_needed(
    ladder: Ladder, needed: set[int], more: list[tuple[int, int]]
) -> None:
    """Neither of the transactions that are named, nor of any that begins after them, now or later."""
    pruned = rungs_only(ladder)
    pruned._raised = dict(ladder._raised)
    pruned.prune(needed)
    for rung in more:
        ladder.add(*rung)
        pruned.add(*rung)
    for xid in needed | set(range(max(needed) + 1, 70)):
        if xid in needed or xid not in ladder._raised:
            assert pruned.floor(xid) == ladder.floor(xid)


@given(ladders(), st.sets(XIDS, min_size=1, max_size=8), XIDS)
def test_pruning_never_raises_a_floor(ladder: Ladder, needed: set[int], xid: int) -> None:
    before = ladder.floor(xid)
    ladder.prune(needed)
    assert ladder.floor(xid) <= before


def test_pruning_leaves_no_more_than_what_is_needed() -> None:
    ladder = ladder_of(*((xid, xid) for xid in range(1000)))
    for xid in range(2000, 3000):
        ladder.raise_floor(xid, 5)
    ladder.prune([100, 500, 995, 2500])
    assert len(ladder) == 5
    assert [ladder.floor(xid) for xid in (100, 500, 995, 2500)] == [99, 499, 994, 999]


@given(ladders(), st.integers(1, 60), st.sets(XIDS, max_size=10), st.lists(st.tuples(XIDS, st.integers(0, 200))))
def test_the_floors_of_a_snapshot_are_those_of_its_transactions_whatever_was_asked_before(
    ladder: Ladder, xmax: int, running: set[int], more: list[tuple[int, int]]
) -> None:
    snapshot = Snapshot(1, xmax, frozenset(running))
    for rung in [None, *more]:
        if rung is not None:
            ladder.add(*rung)
            ladder.raise_floor(*rung)
        floor, low = ladder.floors(snapshot)
        assert floor == rungs_only(ladder).floor(xmax)
        assert dict(low) == {xid: ladder.floor(xid) for xid in running if ladder.floor(xid) < floor}
    ladder.prune({xmax})
    assert ladder.floors(snapshot)[0] == rungs_only(ladder).floor(xmax)


def test_the_floor_of_xmax_and_all_after_it_is_that_of_the_rungs_though_xmax_itself_was_raised() -> None:
    """A later transaction may have taken an id below the floor that was raised for the quiet one at xmax."""
    ladder = ladder_of((10, 5))
    ladder.raise_floor(11, 30)
    assert ladder.floors(Snapshot(11, 11, frozenset())) == (5, [])
    ladder.add(20, 30)
    assert ladder.floors(Snapshot(11, 21, frozenset({11}))) == (30, [])
