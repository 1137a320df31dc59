"""When timers look for what is due."""

from __future__ import annotations

from typing import Any

import pytest

from relay.decide.due_looks import CLOCK_LOOK, WIDEST, WIDEST_SLOW, DueLooks


def looks(**looked: Any) -> DueLooks:
    """Looks, of which the first was at 100.0 and took 10 ms."""
    made = DueLooks(0.2, 500)
    note(made, 100.0, **looked)
    return made


def note(made: DueLooks, now: float, **looked: Any) -> None:
    """Note a look that ended at `now`."""
    given = {"moved": 0, "waiting": 0, "next_in": None, **looked}
    made.looked(now - 0.01, now, **given)


def test_the_first_look_is_at_once() -> None:
    made = DueLooks(0.2, 500)
    assert made.wanted(0.0, something_ended=False)
    assert made.wait(0.0) == 0


def test_while_nothing_ends_nothing_is_asked_until_the_first_is_due() -> None:
    made = looks(next_in=3.0)
    assert not made.wanted(102.9, something_ended=False)
    assert made.wait(102.9) == pytest.approx(0.1)
    assert made.wanted(103.0, something_ended=False)


def test_without_any_nothing_is_asked_but_for_a_clock_that_was_set() -> None:
    made = looks()
    assert not made.wanted(100.0 + CLOCK_LOOK - 0.1, something_ended=False)
    assert made.wanted(100.0 + CLOCK_LOOK, something_ended=False)


def test_the_end_of_a_transaction_wants_a_look_after_the_interval() -> None:
    made = looks(next_in=3.0)
    assert not made.wanted(100.1, something_ended=True)
    assert made.wanted(100.2, something_ended=True)
    assert made.wait(100.0) == pytest.approx(0.2)


def test_if_more_is_due_the_next_look_is_after_a_pause_as_long_as_the_last_one() -> None:
    made = looks(moved=500, next_in=-2.0)
    assert not made.wanted(100.005, something_ended=True)
    assert made.wanted(100.01, something_ended=False)


def test_what_waits_is_looked_at_again_with_growing_pauses() -> None:
    made = looks(waiting=3, next_in=-2.0)
    now, pauses = 100.0, []
    for _ in range(12):
        pauses.append(made.wait(now))
        assert not made.wanted(now, something_ended=False)
        now = made._due
        note(made, now, waiting=3, next_in=-2.0)
    assert pauses[0] == pytest.approx(0.05)
    assert pauses == sorted(pauses)
    assert made._pause == CLOCK_LOOK


def test_a_batch_is_widened_while_most_of_it_waits() -> None:
    made = looks(waiting=500, next_in=-2.0)
    assert made.at_most == 2000
    for _ in range(10):
        note(made, 101.0, waiting=500, next_in=-2.0)
    assert made.at_most == 500 * WIDEST
    note(made, 102.0, moved=600, waiting=500, next_in=-2.0)
    assert made.at_most == 500


def test_while_looks_are_slow_each_moves_more_within_bounds() -> None:
    made = DueLooks(0.2, 500)
    for _ in range(10):
        made.looked(100.0, 100.2, moved=400, waiting=0, next_in=-1.0)
    assert made.at_most == 500 * WIDEST_SLOW
    made.looked(100.0, 100.01, moved=400, waiting=0, next_in=-1.0)
    assert made.at_most == 500


def test_looks_that_take_long_take_a_tenth_of_the_time() -> None:
    made = DueLooks(0.2, 500)
    made.looked(100.0, 100.3, moved=0, waiting=0, next_in=60.0)
    assert not made.wanted(103.2, something_ended=True)
    assert made.wanted(103.31, something_ended=True)


def test_lanes_that_were_claimed_are_looked_at_at_once() -> None:
    made = looks()
    made.forget()
    assert made.wanted(100.0, something_ended=False)


def test_after_a_failure_it_waits() -> None:
    made = looks(next_in=0.001)
    made.failed(100.1, 1.0)
    assert not made.wanted(100.9, something_ended=True)
    assert made.wait(100.2) == pytest.approx(0.9)
    assert made.wanted(101.1, something_ended=False)
