"""When a chore is due, and which of its errors are told."""

from __future__ import annotations

from relay.decide.chores import LONGEST_PAUSE, MOST_CAUSES, Pace


def test_a_chore_that_works_is_due_again_after_its_pause() -> None:
    pace = Pace(60.0, 100.0)
    assert pace.due == 100.0
    assert not pace.worked(100.0)
    assert (pace.due, pace.overdue(150.0)) == (160.0, 0.0)


def test_the_pause_of_one_that_does_not_work_out_grows_up_to_a_bound() -> None:
    pace = Pace(60.0, 0.0)
    pauses = []
    for _ in range(20):
        pace.put_off(0.0, "locked", "locked")
        pauses.append(pace.due)
    assert pauses[:4] == [60.0, 120.0, 240.0, 480.0]
    assert set(pauses[4:]) == {60.0 * LONGEST_PAUSE}
    pace.worked(0.0)
    pace.put_off(0.0, "locked", "locked")
    assert pace.due == 60.0, "once it has worked, the pause begins anew"


def test_a_chore_counts_as_put_off_from_the_first_error_until_it_works() -> None:
    pace = Pace(1.0, 0.0)
    pace.put_off(10.0, "locked", "locked")
    pace.put_off(20.0, "view", "view")
    assert (pace.overdue(25.0), pace.error) == (15.0, "view")
    assert pace.worked(30.0), "it was put off before"
    assert (pace.overdue(31.0), pace.error) == (0.0, "")
    assert not pace.worked(40.0)


def test_each_cause_is_told_once_until_it_works() -> None:
    pace = Pace(1.0, 0.0)
    assert pace.put_off(0.0, "locked for 1 s", "locked")
    assert not pace.put_off(1.0, "locked for 2 s", "locked")
    assert pace.put_off(2.0, "view", "view")
    assert not pace.put_off(3.0, "locked for 4 s", "locked")
    pace.worked(4.0)
    assert pace.put_off(5.0, "locked for 1 s", "locked")


def test_causes_without_end_are_told_up_to_a_bound() -> None:
    pace = Pace(1.0, 0.0)
    told = [pace.put_off(0.0, str(n), str(n)) for n in range(100)]
    assert sum(told) == MOST_CAUSES


def test_asking_for_it_soon_does_not_shorten_the_pause_of_one_that_is_put_off() -> None:
    pace = Pace(60.0, 0.0)
    pace.worked(0.0)
    pace.soon(5.0)
    assert pace.due == 5.0
    pace.put_off(5.0, "locked", "locked")
    pace.soon(6.0)
    assert pace.due == 65.0
