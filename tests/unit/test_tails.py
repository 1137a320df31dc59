"""From which offset on whoever takes over has to read: never above a record that has no committed receipt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from relay.decide.tails import Tail

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject


def test_the_offset_rises_to_the_end_of_what_is_recorded() -> None:
    tail = Tail(100)
    tail.acknowledged(100, 10, 10)
    assert (tail.offset, tail.open) == (100, True)
    assert not tail.recorded(100, 4)
    assert tail.recorded(104, 6)
    assert (tail.offset, tail.open) == (110, False)


def test_receipts_that_are_committed_out_of_order_wait_for_those_before() -> None:
    tail = Tail(0)
    tail.acknowledged(0, 5, 5)
    tail.acknowledged(5, 5, 5)
    assert not tail.recorded(5, 5)
    assert tail.offset == 0
    assert tail.recorded(0, 5)
    assert tail.offset == 10


def test_a_batch_without_receipts_to_write_is_passed_at_once_if_nothing_is_open_before_it() -> None:
    tail = Tail(0)
    tail.acknowledged(0, 5, 0)
    assert tail.offset == 5


def test_a_batch_of_an_unknown_place_does_not_raise_the_offset_and_is_waited_for() -> None:
    tail = Tail(0)
    tail.acknowledged(-1, 3, 3)
    tail.acknowledged(10, 3, 3)
    assert not tail.recorded(10, 3)
    assert tail.recorded(-1, 3)
    assert tail.offset == 13


def test_a_doubt_is_never_passed_until_it_is_resolved() -> None:
    tail = Tail(0)
    tail.acknowledged(0, 5, 5)
    tail.doubt()
    tail.acknowledged(9, 5, 5)
    assert tail.recorded(0, 5)
    assert not tail.recorded(9, 5)
    assert (tail.offset, tail.doubtful) == (5, True)
    tail.resolved()
    assert (tail.offset, tail.doubtful) == (14, False)


def test_what_could_not_be_recorded_after_all_is_waited_for() -> None:
    tail = Tail(0)
    tail.acknowledged(0, 5, 5)
    tail.recorded(3, -1)
    assert not tail.recorded(0, 5)
    assert tail.recorded(3, 1)
    assert tail.offset == 5


def test_in_a_topic_that_was_made_anew_it_begins_from_the_start() -> None:
    tail = Tail(1_000)
    tail.acknowledged(0, 5, 5)
    assert tail.offset == 0
    assert tail.recorded(0, 5)
    assert tail.offset == 5


def test_an_end_that_was_looked_up_counts_only_if_nothing_was_sent_meanwhile() -> None:
    tail = Tail(0, sent=7)
    assert not tail.looked_up(50, 6)
    assert tail.looked_up(50, 7)
    assert not tail.looked_up(40, 7), "it never falls"
    tail.acknowledged(60, 1, 1)
    assert not tail.looked_up(90, 7), "a receipt is open"
    assert tail.offset == 50


@dataclass
class _World:
    """The log as it is, and what of it is recorded."""

    tail: Tail = field(default_factory=lambda: Tail(0))
    end: int = 0
    open: list[int] = field(default_factory=list)
    """Offsets of records without a committed receipt."""
    unrecorded: list[tuple[int, int]] = field(default_factory=list)
    """Begin and number of what was acknowledged and not recorded."""

    def acknowledge(self, count: int) -> None:
        self.tail.acknowledged(self.end, count, count)
        self.unrecorded.append((self.end, count))
        self._append(count)

    def doubt(self, *, in_the_log: bool) -> None:
        self.tail.doubt()
        self._append(int(in_the_log))

    def record(self, index: int, part: int) -> None:
        """Commit receipts of one of those that have none, of its first events."""
        begin, count = self.unrecorded.pop(index)
        part = min(part, count)
        if part < count:
            self.unrecorded.append((begin + part, count - part))
        for offset in range(begin, begin + part):
            self.open.remove(offset)
        self.tail.recorded(begin, part)

    def check(self) -> None:
        assert all(offset >= self.tail.offset for offset in self.open)

    def _append(self, count: int) -> None:
        self.open += range(self.end, self.end + count)
        self.end += count


@given(st.data())
def test_no_order_of_commits_and_no_doubt_makes_the_offset_pass_an_open_record(data: DataObject) -> None:
    world = _World()
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["acknowledged", "others", "recorded", "doubt"])):
            case "acknowledged":
                world.acknowledge(data.draw(st.integers(1, 4)))
            case "others":
                world.end += data.draw(st.integers(1, 4))
            case "doubt":
                world.doubt(in_the_log=data.draw(st.booleans()))
            case _ if world.unrecorded:
                world.record(data.draw(st.integers(0, len(world.unrecorded) - 1)), data.draw(st.integers(1, 4)))
        world.check()
    while world.unrecorded:
        world.record(0, 1)
        world.check()
    assert world.tail.doubtful or not world.tail.open
