"""What one lane remembers, and where it is read from next."""

from __future__ import annotations

import pytest

from relay.decide import known_ids, long_sweep
from relay.decide.ladder import Ladder
from relay.decide.lane_scan import LaneScan
from relay.decide.passed_ids import IDS, MOST_KEPT, PassedIds
from relay.decide.reach import Reach, cut_off
from relay.decide.snapshot import Snapshot
from relay.decide.sweep_start import SweepStart
from tests.support.events import event, events, ids

WIDE = Reach(100, 10_000)
QUIET = Snapshot(50, 50, frozenset())


def snapshot(xmax: int, *running: int) -> Snapshot:
    return Snapshot(min(running, default=xmax), xmax, frozenset(running))


def ladder_of(*rungs: tuple[int, int]) -> Ladder:
    ladder = Ladder()
    for xid, value in rungs:
        ladder.add(xid, value)
    return ladder


def scanned_lane(at: Snapshot = QUIET, *taken: int, position: int = 0) -> LaneScan:
    """A lane after its take-over and a complete scan that took `taken`."""
    lane = LaneScan.take_over(0, 1, position, 0, at)
    assert lane.next_step(1000) is None
    lane.absorb(at, [], [], events(*taken), Reach(1_000, 1_000_000))
    return lane


class TestTakeOver:
    def test_everything_between_the_position_and_the_highest_receipt_is_swept_first(self) -> None:
        lane = LaneScan.take_over(0, 1, 100, 350, QUIET)
        assert lane.taken_to == 350
        assert lane.next_step(200) == (100, 300)
        assert ids(lane.absorb_step(QUIET, 300, events(150), [], [], WIDE, Ladder())) == [150]
        assert lane.next_step(200) == (300, 350)
        assert lane.absorb_step(QUIET, 350, [], [], [], WIDE, Ladder()) == []
        assert lane.next_step(200) is None
        assert lane.sweep is None

    def test_before_the_sweep_is_over_there_is_no_bound_for_a_scan(self) -> None:
        lane = LaneScan.take_over(0, 1, 100, 350, QUIET)
        with pytest.raises(ValueError, match="no complete scan"):
            lane.sweep_start(Ladder())

    def test_the_first_scan_starts_relative_to_the_snapshot_of_the_take_over(self) -> None:
        lane = LaneScan.take_over(0, 1, 100, 100, snapshot(50, 40))
        assert lane.next_step(200) is None
        assert lane.sweep_start(ladder_of((30, 500), (45, 900))) == SweepStart(900, ((40, 500),))

    def test_a_lane_without_receipts_above_its_position_needs_no_step(self) -> None:
        lane = LaneScan.take_over(0, 1, 100, 60, QUIET)
        assert lane.taken_to == 100
        assert lane.next_step(10) is None


class TestBound:
    def test_is_the_floor_of_what_may_still_come_and_the_floors_of_what_was_running(self) -> None:
        lane = scanned_lane(snapshot(50, 20, 40, 48))
        ladder = ladder_of((10, 100), (30, 300), (45, 450))
        bound = lane.sweep_start(ladder)
        assert (bound.floor, sorted(bound.running)) == (450, [(20, 100), (40, 300)])

    def test_does_not_take_xmax_for_the_moment_of_the_snapshot(self) -> None:
        """A rung above xmax says nothing about a transaction that is just at or above xmax: it may be older."""
        assert scanned_lane(snapshot(50)).sweep_start(ladder_of((45, 450), (50, 500), (60, 600))).floor == 450

    def test_starts_at_the_least_floor_of_those_that_have_ended(self) -> None:
        bound = SweepStart(450, ((20, 100), (40, 300)))
        assert bound.start(snapshot(55, 20, 40)) == 450
        assert bound.start(snapshot(55, 20)) == 300
        assert bound.start(snapshot(55, 40)) == 100

    def test_never_lies_below_the_position(self) -> None:
        lane = scanned_lane(snapshot(50, 20), position=200)
        assert lane.sweep_start(ladder_of((10, 100))) == SweepStart(200, ())

    def test_without_a_rung_it_is_the_position(self) -> None:
        lane = scanned_lane(snapshot(50, 20), position=7)
        assert lane.sweep_start(Ladder()) == SweepStart(7, ())


class TestAbsorb:
    def test_events_that_were_taken_are_not_taken_again(self) -> None:
        lane = scanned_lane(QUIET, 1, 2, 3)
        assert lane.known.missing([3, 2, 1]) == []
        assert ids(lane.absorb(QUIET, [], [], events(4), WIDE)) == [4]

    def test_what_was_swept_comes_before_what_is_fresh(self) -> None:
        lane = scanned_lane(QUIET, 5)
        assert lane.known.missing([5, 3, 2]) == [2, 3]
        assert ids(lane.absorb(QUIET, [2, 3], events(2, 3), events(7, 9), WIDE)) == [2, 3, 7, 9]
        assert lane.taken_to == 9

    def test_a_settled_id_stays_taken_until_the_next_scan_begins(self) -> None:
        """Rule 1: the receipt committed while the scan was under way, and is not in its snapshot."""
        lane = scanned_lane(QUIET, 1, 2)
        lane.about_to_read(Ladder(), 100)
        lane.settle([1, 2])
        assert lane.unsettled == 0
        assert lane.known.missing([1, 2]) == []
        assert lane.taken == {1, 2}
        lane.about_to_read(Ladder(), 100)
        assert lane.taken == set()

    def test_a_sweep_that_was_cut_off_advances_nothing_and_takes_nothing_fresh(self) -> None:
        """Rule 3: more of the sweep may be left, and fresh events would overtake it."""
        lane = scanned_lane(QUIET, 9)
        assert ids(lane.absorb(snapshot(60), [2, 3, 4], events(2, 3), events(11), WIDE)) == [2, 3]
        assert (lane.taken_to, lane.snapshot) == (9, QUIET)
        assert lane.known.missing([2, 3, 4, 9]) == [4]
        assert ids(lane.absorb(snapshot(60), [4], events(4), events(11), WIDE)) == [4, 11]
        assert (lane.taken_to, lane.snapshot) == (11, snapshot(60))

    def test_one_that_is_gone_when_it_is_read_by_its_id_holds_nothing_up_for_long(self) -> None:
        """Somebody deleted the event between the two statements."""
        lane = scanned_lane(QUIET, 9)
        assert ids(lane.absorb(snapshot(60), [2, 3], events(3), events(11), WIDE)) == [3, 11]
        assert ids(lane.absorb(snapshot(61), [4], [], events(12), WIDE)) == [], "it may have had no room"
        assert lane.snapshot == snapshot(60)
        assert ids(lane.absorb(snapshot(61), [], [], events(12), WIDE)) == [12]

    def test_fresh_events_wait_when_the_swept_ones_have_used_the_room(self) -> None:
        lane = scanned_lane(QUIET, 9)
        assert ids(lane.absorb(QUIET, [2, 3], events(2, 3), events(11, 12), Reach(3, 10_000))) == [2, 3, 11]
        assert (lane.taken_to, lane.exhausted) == (11, False)
        assert ids(lane.absorb(QUIET, [], [], events(12), WIDE)) == [12]
        assert lane.exhausted

    @pytest.mark.parametrize("room", [Reach(2, 10_000), Reach(100, 20)])
    def test_a_sweep_takes_no_more_than_there_is_room_for(self, room: Reach) -> None:
        lane = scanned_lane(QUIET, 20)
        found = [11, 12, 13, 14]
        assert ids(lane.absorb(snapshot(60), found, events(*found), events(21), room)) == [11, 12]
        assert (lane.taken_to, lane.snapshot, lane.exhausted) == (20, QUIET, False)
        assert ids(lane.absorb(snapshot(60), [13, 14], events(13, 14), [], WIDE)) == [13, 14]
        assert (lane.taken_to, lane.snapshot, lane.exhausted) == (20, snapshot(60), True)

    def test_a_step_may_read_what_was_taken_beside_as_much_as_there_is_room_for(self) -> None:
        assert scanned_lane(QUIET, 1, 2, 3).sweep_reach(Reach(2, 20), 50) == Reach(5, 70)

    def test_fresh_events_wait_when_the_swept_ones_have_used_the_bytes(self) -> None:
        lane = scanned_lane(QUIET, 9)
        assert ids(lane.absorb(QUIET, [2, 3], events(2, 3), events(11, 12), Reach(100, 25))) == [2, 3, 11]
        assert (lane.taken_to, lane.exhausted) == (11, False)

    def test_a_read_is_cut_off_by_rows_and_by_bytes(self) -> None:
        assert cut_off(events(1, 2), Reach(2, 1000))
        assert cut_off(events(1, 2), Reach(9, 20))
        assert not cut_off(events(1, 2), Reach(9, 21))
        assert not cut_off([], Reach(1, 1))


class TestLongSweep:
    def test_what_a_step_left_is_read_by_its_ids_before_the_next_step(self) -> None:
        lane = LaneScan.take_over(0, 1, 0, 500, QUIET)
        taken = lane.absorb_step(QUIET, 300, events(10, 20), [30, 40, 50, 60], [], WIDE, Ladder())
        assert ids(taken) == [10, 20]
        assert lane.next_left(Reach(3, 1_000)) == [30, 40, 50]
        assert lane.advance_position(ladder_of((10, 900))) == 9
        lane.settle([10, 20])
        assert lane.advance_position(ladder_of((10, 900))) == 29
        # 40 is gone, and 50 was beyond the bytes.
        assert ids(lane.absorb_left([30, 40, 50], events(30), Reach(3, 5))) == [30]
        assert lane.next_left(WIDE) == [40, 50, 60]
        assert lane.absorb_left([40], [], WIDE) == []
        assert ids(lane.absorb_left([50, 60], events(50, 60), WIDE)) == [50, 60]
        assert lane.next_left(WIDE) == []
        assert lane.next_step(1000) == (300, 500)

    def test_what_a_step_left_is_looked_for_again_if_it_cannot_be_read(self) -> None:
        lane = LaneScan.take_over(0, 1, 0, 500, QUIET)
        lane.absorb_step(QUIET, 300, events(10), [30, 40], [], WIDE, Ladder())
        lane.leave_left()
        assert lane.next_left(WIDE) == []
        assert lane.next_step(1000) == (29, 500)

    @pytest.mark.parametrize("room", [Reach(2, 10_000), Reach(100, 20)])
    def test_a_step_takes_no_more_than_there_is_room_for(self, room: Reach) -> None:
        lane = LaneScan.take_over(0, 1, 0, 500, QUIET)
        lane._take(events(15, 25, 35, 45))
        found = events(10, 15, 20, 25, 30, 35, 40)
        assert ids(lane.absorb_step(QUIET, 500, found, [45, 50], [], room, Ladder())) == [10, 20]
        assert lane.next_left(WIDE) == [30, 40, 50]
        assert lane.next_step(1000) == (29, 500)

    def test_a_step_of_a_lane_that_is_not_swept_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="not in a long sweep"):
            scanned_lane().absorb_step(QUIET, 5, [], [], [], WIDE, Ladder())

    def test_a_transaction_that_ends_between_two_steps_sends_the_sweep_back(self) -> None:
        """Rule 4: its events below the first step's end would be lost, and overtaken by those above."""
        ladder = ladder_of((10, 100))
        lane = LaneScan.take_over(0, 1, 0, 400, snapshot(50, 20))
        lane.absorb_step(snapshot(50, 20), 200, [], [], [], WIDE, ladder)
        ladder.add(49, 450)
        # Transaction 20 wrote events 150 and 250 for one key, and commits now.
        assert lane.absorb_step(snapshot(60), 400, events(250), [], [], WIDE, ladder) == []
        assert lane.next_step(200) == (100, 300)
        assert ids(lane.absorb_step(snapshot(60), 300, events(150, 250), [], [], WIDE, ladder)) == [150, 250]

    def test_a_transaction_that_cannot_have_ids_so_low_does_not(self) -> None:
        ladder = ladder_of((10, 300), (40, 450))
        lane = LaneScan.take_over(0, 1, 0, 400, snapshot(50, 20))
        lane.absorb_step(snapshot(50, 20), 200, [], [], [], WIDE, ladder)
        assert ids(lane.absorb_step(snapshot(60), 400, events(250, 310), [], [], WIDE, ladder)) == [250, 310]
        assert lane.next_step(200) is None

    def test_without_rungs_the_sweep_of_an_idle_database_comes_to_its_end(self) -> None:
        lane = LaneScan.take_over(0, 1, 0, 400, snapshot(50, 20))
        lane.absorb_step(snapshot(50, 20), 200, [], [], [], WIDE, Ladder())
        lane.absorb_step(snapshot(50, 20), 400, [], [], [], WIDE, Ladder())
        assert lane.next_step(200) is None

    def test_the_scan_after_it_starts_relative_to_the_last_steps_snapshot(self) -> None:
        ladder = ladder_of((10, 100), (40, 450))
        lane = scanned_lane(snapshot(45, 20), 400)
        lane.start_long_sweep(snapshot(50, 30), 100)
        lane.absorb_step(snapshot(60, 30), 400, [], [], [], WIDE, ladder)
        assert lane.next_step(300) is None
        assert lane.snapshot == snapshot(60, 30)
        assert lane.sweep_start(ladder) == SweepStart(450, ((30, 100),))


@pytest.fixture
def _forgets_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_ids, "MANY_KNOWN", 0)
    monkeypatch.setattr(known_ids, "GROWTH", 0)


@pytest.mark.usefixtures("_forgets_at_once")
class TestWhatIsKnown:
    """What a scan leaves aside without a look at the tables."""

    def test_an_id_that_is_settled_is_forgotten_once_no_scan_can_start_below_it(self) -> None:
        lane = scanned_lane(snapshot(50), 3, 5, 8)
        lane.settle([3, 5, 8])
        lane.about_to_read(ladder_of((10, 5)), 1_000)
        assert lane.known.missing([3, 5, 8]) == [3, 5]

    def test_one_that_is_not_settled_never_is(self) -> None:
        lane = scanned_lane(snapshot(50), 3, 5, 8)
        lane.settle([5])
        lane.about_to_read(ladder_of((10, 900)), 2)
        assert lane.known.missing([3, 5, 8]) == [5]
        lane.settle([3])
        assert lane.known.missing([3]) == [], "its receipt may be missing in the snapshot that is under way"

    def test_a_transaction_that_runs_keeps_what_its_end_may_have_looked_at_again(self) -> None:
        """Not only what the next scan would meet: the one after the transaction's end starts far lower."""
        lane = scanned_lane(snapshot(50, 20), 300, 500)
        ladder = ladder_of((10, 100), (30, 400))
        lane.settle([300, 500])
        lane.about_to_read(ladder, 1_000)
        assert lane.sweep_start(ladder).start(snapshot(60, 20)) == 400
        lane.absorb(snapshot(60, 20), [], [], [], WIDE)
        lane.about_to_read(ladder, 1_000)
        assert lane.sweep_start(ladder).start(snapshot(70)) == 100
        assert lane.known.missing([300, 500]) == []

    def test_a_sweep_below_the_last_so_many_ids_has_to_ask_the_tables(self) -> None:
        lane = scanned_lane(snapshot(50, 20), 300, 500, 900)
        lane.settle([300, 900])
        lane.about_to_read(ladder_of((10, 100)), 500)
        assert lane.known.start == 400
        assert lane.known.missing([300, 500, 900]) == [300]
        lane.about_to_read(ladder_of((10, 100)), 800)
        assert lane.known.start == 400, "what was forgotten is not known again"

    def test_what_a_step_finds_settled_is_known_to_the_scans_after_it(self) -> None:
        lane = LaneScan.take_over(0, 1, 0, 50, QUIET)
        assert ids(lane.absorb_step(QUIET, 50, events(10), [], [20, 50], WIDE, Ladder())) == [10]
        assert lane.known.missing([10, 20, 30, 50]) == [30]
        assert lane.taken == {10}, "those that are settled neither hold the position back nor wait for anything"
        assert not lane.awaits_settle(20)

    def test_a_step_that_goes_back_makes_nothing_known(self) -> None:
        lane = LaneScan.take_over(0, 1, 0, 400, snapshot(50, 20))
        ladder = ladder_of((10, 100), (49, 450))
        lane.absorb_step(snapshot(50, 20), 200, [], [], [], WIDE, ladder)
        assert lane.absorb_step(snapshot(60), 400, [], [], [300], WIDE, ladder) == []
        assert lane.known.missing([300]) == [300]

    def test_a_step_is_asked_only_for_what_a_later_scan_or_step_can_meet(self) -> None:
        lane = LaneScan.take_over(0, 1, 10, 400, snapshot(50, 20))
        assert lane.settled_from(Ladder()) == 10
        assert lane.settled_from(ladder_of((10, 100), (30, 450))) == 100
        lane.about_to_read(Ladder(), 50)
        assert lane.settled_from(ladder_of((10, 100), (30, 450))) == 100, "a later step goes by what is missing there"
        lane.known.passed.start = 200
        assert lane.settled_from(ladder_of((10, 100), (30, 450))) == 200
        with pytest.raises(ValueError, match="not in a long sweep"):
            scanned_lane().settled_from(Ladder())


@pytest.mark.usefixtures("_forgets_at_once")
class TestGaps:
    """A long sweep takes for new what is not known, and looks at nothing else where that is little."""

    LADDER = ladder_of((10, 100), (30, 900))

    def swept_lane(self) -> LaneScan:
        """A lane whose sweep is from 100 to 900, because transaction 20 has ended."""
        lane = scanned_lane(snapshot(50, 20), *range(102, 901, 2))
        lane.known.note()
        lane.known.passed.add([101, *range(103, 899, 2)])
        lane.start_long_sweep(snapshot(60), 100)
        return lane

    def test_a_step_has_to_look_at_what_is_missing(self) -> None:
        lane = self.swept_lane()
        assert lane.knows_all
        assert lane.may_have_gaps(50)
        assert lane.gaps(50, 10) == ([899], 900)
        assert not lane.may_have_gaps(800), "one step looks at all of it"

    def test_what_was_forgotten_for_a_scan_is_still_known_to_a_step(self) -> None:
        lane = scanned_lane(snapshot(50, 20), *range(101, 901))
        lane.settle(range(101, 901))
        lane.about_to_read(self.LADDER, 50)
        assert len(lane.known) == 50
        lane.known.note()
        lane.start_long_sweep(snapshot(60), 100)
        assert lane.gaps(50, 10) == ([], 900)

    def test_a_step_that_finds_something_at_a_gap_takes_it_in_order(self) -> None:
        lane = self.swept_lane()
        lane.known.passed = PassedIds()
        lane.known.passed.add(id_ for id_ in range(101, 901) if id_ not in (201, 301, 401))
        gaps = lane.gaps(50, 2)
        assert gaps == ([201, 301], 400)
        taken = lane.absorb_step(snapshot(60), gaps.up_to, events(201, 301), [], [], WIDE, self.LADDER)
        assert ids(taken) == [201, 301]
        assert lane.next_step(1000) == (400, 900)

    def test_where_many_are_missing_steps_ask_the_tables_for_a_while(self) -> None:
        lane = self.swept_lane()
        lane.known.passed = PassedIds()
        assert lane.gaps(50, 50) is None
        assert not lane.may_have_gaps(50)
        lane.absorb_step(snapshot(60), 100 + long_sweep.NO_GAPS_FOR * 50, [], [], [], WIDE, self.LADDER)
        assert lane.may_have_gaps(50)

    def test_nothing_goes_by_gaps_before_the_sweep_of_the_take_over_is_over(self) -> None:
        lane = LaneScan.take_over(0, 1, 0, 900, QUIET)
        lane.known.passed.add(range(1, 901))
        assert not lane.knows_all
        assert not lane.may_have_gaps(50)

    def test_nor_does_it_where_what_was_known_was_forgotten(self) -> None:
        lane = self.swept_lane()
        lane.known.passed.start = 130
        assert not lane.knows_all
        assert not lane.may_have_gaps(50)
        assert lane.gaps(50, 10) is None
        lane.absorb_step(snapshot(60), 150, [], [], [], WIDE, self.LADDER)
        assert lane.gaps(50, 10) == ([899], 900)

    def test_nor_does_it_once_something_cannot_be_read(self) -> None:
        lane = self.swept_lane()
        lane.ask_tables()
        assert not lane.knows_all
        assert not lane.may_have_gaps(50)

    def test_what_is_known_in_either_place_is_not_new(self) -> None:
        lane = self.swept_lane()
        lane.known.passed.add([901])
        lane.known._ids = {903}
        assert lane.known.new([904, 901, 903, 905]) == [904, 905]

    def test_a_step_says_what_a_scan_can_meet_though_bits_are_not_kept_so_far_down(self) -> None:
        at = snapshot(50, 40)
        ladder = ladder_of((30, 100), (45, 400))
        passed = PassedIds()
        lane = LaneScan.take_over(0, 1, 0, 300, at)
        lane.known.share(passed)
        of_other_lanes = [number * IDS + 1 for number in range(MOST_KEPT + 1)]
        passed.add(of_other_lanes)
        assert lane.next_step(50_000) == (0, 300)
        lane.about_to_read(ladder, 50_000)
        settled_by_the_last_owner = [id_ for id_ in (200,) if id_ > lane.settled_from(ladder)]
        assert lane.absorb_step(at, 300, [], [], settled_by_the_last_owner, WIDE, ladder) == []
        assert lane.next_step(50_000) is None
        start = lane.sweep_start(ladder)
        lane.about_to_read(ladder, 50_000)
        assert start.start(snapshot(51)) >= lane.known.start, "a scan reads it, and not a step"
        assert lane.known.missing([200]) == []

    def test_what_had_no_outcome_when_its_lane_went_is_looked_for_before_an_event_that_cannot_be_read(self) -> None:
        passed = PassedIds()
        first = LaneScan.take_over(0, 1, 0, 0, QUIET)
        first.known.share(passed)
        assert first.next_step(5) is None
        first.absorb(QUIET, [], [], events(10), WIDE)
        first.set_aside()
        first.known.note()
        assert not first.unsettled, "the lane may be given back"
        assert first.advance_position(Ladder()) < 10
        again = LaneScan.take_over(0, 2, first.position, 0, QUIET)
        again.known.share(passed)
        assert again.next_step(5) is None
        again.leave_to_sweep(QUIET, 0, 13)
        assert not again.knows_all, "10 has a bit, and nobody took it since"


class TestPosition:
    def test_is_right_below_the_lowest_unsettled_event(self) -> None:
        lane = scanned_lane(QUIET, 3, 5, 8)
        lane.settle([3, 8])
        assert lane.advance_position(ladder_of((10, 900))) == 4

    def test_moves_on_without_events_as_far_as_nothing_can_come(self) -> None:
        lane = scanned_lane(snapshot(50))
        assert lane.advance_position(ladder_of((10, 900))) == 900

    def test_stays_below_what_transactions_may_write_that_still_run(self) -> None:
        """Rule 6: not only of those that have ended."""
        lane = scanned_lane(snapshot(50, 20))
        assert lane.advance_position(ladder_of((10, 100), (30, 900))) == 100

    def test_stays_below_what_is_still_to_be_swept(self) -> None:
        lane = LaneScan.take_over(0, 1, 10, 400, QUIET)
        lane.absorb_step(QUIET, 200, [], [], [], WIDE, Ladder())
        assert lane.advance_position(ladder_of((10, 900))) == 200

    def test_stays_below_fresh_events_that_had_no_room(self) -> None:
        lane = scanned_lane(QUIET)
        lane.absorb(QUIET, [], [], events(3, 5), Reach(1, 1000))
        lane.settle([3])
        assert lane.advance_position(ladder_of((10, 900))) == 3

    def test_stays_below_fresh_events_that_a_long_sweep_did_not_look_at(self) -> None:
        """The last step's snapshot sees events above `taken_to` which only the scan after it reads."""
        lane = scanned_lane(snapshot(30), 100)
        lane.settle([100])
        lane.start_long_sweep(snapshot(50), 10)
        lane.absorb_step(snapshot(50), 100, [], [], [], WIDE, ladder_of((20, 900)))
        assert lane.next_step(1000) is None
        assert lane.advance_position(ladder_of((20, 900))) == 100
        lane.absorb(snapshot(50), [], [], [], WIDE)
        assert lane.advance_position(ladder_of((20, 900))) == 900

    def test_never_goes_back(self) -> None:
        lane = scanned_lane(snapshot(50))
        assert lane.advance_position(ladder_of((10, 900))) == 900
        lane.absorb(snapshot(60, 20), [], [], [event(1000)], WIDE)
        assert lane.advance_position(Ladder()) == 900
