"""Which segments that are due are worth a look."""

from __future__ import annotations

from relay.decide.retiring import PAUSE, Retiring
from relay.stages.housekeeping.ports import DueSegment

FIRST = DueSegment("event_1", 1, 11, kept=False)
SECOND = DueSegment("event_11", 11, 21, kept=False)


def test_what_was_looked_at_in_vain_is_left_alone_for_a_while() -> None:
    retiring = Retiring()
    assert retiring.worth_a_look([FIRST, SECOND], 0.0) == [FIRST, SECOND]
    retiring.leave(FIRST, 5.0)
    assert retiring.worth_a_look([FIRST, SECOND], 5.0 + PAUSE - 1) == [SECOND]
    assert retiring.worth_a_look([FIRST, SECOND], 5.0 + PAUSE) == [FIRST, SECOND]


def test_a_small_one_is_looked_at_each_time() -> None:
    retiring = Retiring()
    small = DueSegment("event_1", 1, 21, kept=True)
    retiring.leave(small, 0.0)
    assert retiring.worth_a_look([small], 1.0) == [small]


def test_what_is_over_is_forgotten() -> None:
    retiring = Retiring()
    for number in range(100):
        retiring.leave(DueSegment("", number, number + 1, kept=False), 0.0)
    retiring.worth_a_look([], PAUSE)
    assert not retiring._left
