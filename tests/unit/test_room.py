"""How many more events may be taken."""

from __future__ import annotations

from hypothesis import given, strategies

from relay.decide.reach import Reach
from relay.decide.room import Room
from relay.event import OVERHEAD_BYTES
from tests.support.events import events

ROOMY = 1 << 40


def test_a_lane_that_is_alone_may_hold_a_third() -> None:
    buffer = Room(90, 9_000)
    assert buffer.worth_reading(0)
    assert buffer.allowance(0) == Reach(30, 3_000)


def test_lanes_that_take_at_once_leave_half_of_what_each_holds() -> None:
    buffer = Room(180, ROOMY)
    assert [buffer.allowance(lane, lanes=16).events for lane in range(16)] == [10] * 16
    for lane in range(16):
        buffer.add(lane, events(*range(10), lane=lane))
    assert buffer.events == 160
    assert not any(buffer.worth_reading(lane) for lane in range(16))


def test_events_and_bytes_leave_when_they_are_settled_and_not_before() -> None:
    buffer = Room(100, ROOMY)
    buffer.add(3, events(1, 2, 3, lane=3, size=50))
    assert (buffer.events, buffer.bytes, buffer.lane_bytes(3)) == (
        3,
        3 * (50 + OVERHEAD_BYTES),
        3 * (50 + OVERHEAD_BYTES),
    )
    assert buffer.worth_reading(3)
    assert buffer.allowance(3).events == (97 - 2 * 3) // 3
    buffer.remove({3: (2, 100)})
    assert (buffer.events, buffer.bytes, buffer.settled) == (1, 50 + OVERHEAD_BYTES, 2)
    buffer.remove({3: (1, 50)})
    assert (buffer.events, buffer.bytes, buffer.settled) == (0, 0, 3)


def test_a_lane_that_holds_half_of_what_it_may_has_no_room() -> None:
    buffer = Room(60, ROOMY)
    buffer.add(0, events(*range(10)))
    assert buffer.worth_reading(0)
    buffer.add(0, events(11))
    assert not buffer.worth_reading(0)


def test_what_is_left_then_is_for_those_who_ask_for_little() -> None:
    buffer = Room(60, ROOMY)
    buffer.add(0, events(*range(11)))
    assert not buffer.worth_reading(0)
    room = buffer.leftover(0)
    assert room is not None
    assert room.events == (49 - 22) // 3
    buffer.add(0, events(*range(9)))
    assert buffer.leftover(0) is None, "with 20 of 60 it holds half of what is free"


def test_large_events_fill_the_room_by_their_bytes() -> None:
    buffer = Room(1000, 10_000)
    buffer.add(0, events(1, size=2000))
    assert not buffer.worth_reading(0)


def test_a_full_lane_leaves_its_neighbours_room() -> None:
    buffer = Room(90, ROOMY)
    buffer.add(0, events(*range(30)))
    assert not buffer.worth_reading(0)
    assert buffer.worth_reading(1)
    assert buffer.allowance(1).events == 20


@given(
    takes=strategies.lists(
        strategies.tuples(strategies.integers(0, 15), strategies.integers(0, 3_000)), min_size=1, max_size=60
    )
)
def test_lanes_that_take_no_more_than_their_room_never_exceed_the_bound(takes: list[tuple[int, int]]) -> None:
    """But for the one event that a lane without any may always take."""
    buffer = Room(1_000, ROOMY)
    for lane, wanted in takes:
        if buffer.worth_reading(lane):
            room = buffer.allowance(lane)
            assert room.events >= 1
            buffer.add(lane, events(*range(min(wanted, room.events)), lane=lane))
    assert buffer.events <= 1_000 + 16


def test_a_lane_always_has_room_for_one_event_when_it_is_empty() -> None:
    buffer = Room(4, 1000)
    for lane in range(4):
        buffer.add(lane, events(1, lane=lane, size=100_000))
    assert buffer.worth_reading(5)
    assert buffer.allowance(5) == buffer.leftover(5) == Reach(1, 1)
    buffer.add(5, events(1, lane=5, size=100_000))
    assert not buffer.worth_reading(5)


def test_a_share_is_the_larger_one_of_events_and_bytes() -> None:
    buffer = Room(100, 100 * OVERHEAD_BYTES)
    assert buffer.share(25) == 0.25
    assert buffer.share(25, 25 * OVERHEAD_BYTES) == 0.5
