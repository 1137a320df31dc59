"""How many more events may be taken."""

from __future__ import annotations

from relay.decide.lane_scan import Reach
from relay.event import OVERHEAD_BYTES
from relay.stages.buffer import Buffer
from tests.events import events

ROOMY = 1 << 40


def test_a_lane_may_take_its_part_of_the_room() -> None:
    buffer = Buffer(100, 10_000)
    assert buffer.lane_room(0) == Reach(100, 10_000)
    buffer.share_among(4)
    assert buffer.lane_room(0) == Reach(25, 2500)


def test_events_and_bytes_leave_when_they_are_settled_and_not_before() -> None:
    buffer = Buffer(100, ROOMY)
    buffer.add(3, events(1, 2, 3, lane=3, size=50))
    assert (buffer.events, buffer.bytes, buffer.lane_bytes(3)) == (
        3,
        3 * (50 + OVERHEAD_BYTES),
        3 * (50 + OVERHEAD_BYTES),
    )
    assert buffer.lane_room(3) == Reach(97, ROOMY - buffer.bytes)
    buffer.remove({3: (2, 100)})
    assert (buffer.events, buffer.bytes, buffer.settled) == (1, 50 + OVERHEAD_BYTES, 2)
    buffer.remove({3: (1, 50)})
    assert (buffer.events, buffer.bytes, buffer.settled) == (0, 0, 3)


def test_less_than_half_of_its_part_free_is_no_room() -> None:
    buffer = Buffer(10, ROOMY)
    buffer.add(0, events(1, 2, 3, 4, 5))
    assert buffer.lane_room(0) == Reach(5, ROOMY - buffer.bytes)
    buffer.add(0, events(6))
    assert buffer.lane_room(0) is None


def test_large_events_fill_the_room_by_their_bytes() -> None:
    buffer = Buffer(1000, 10_000)
    buffer.add(0, events(1, size=5000))
    assert buffer.lane_room(0) is None


def test_a_full_lane_leaves_its_neighbours_their_room() -> None:
    buffer = Buffer(100, ROOMY)
    buffer.share_among(2)
    buffer.add(0, events(*range(1, 60)))
    assert buffer.lane_room(0) is None
    assert buffer.lane_room(1) == Reach(50, ROOMY // 2)


def test_a_lane_always_has_room_for_one_event_when_it_is_empty() -> None:
    buffer = Buffer(4, 1000)
    buffer.share_among(16)
    room = buffer.lane_room(0)
    assert room is not None
    assert room.events == 1
    assert room.bytes >= 1
    buffer.add(0, events(1, size=100_000))
    assert buffer.lane_room(0) is None


def test_whoever_waits_for_room_hears_of_receipts_and_of_a_larger_part() -> None:
    buffer = Buffer(10, ROOMY)
    buffer.add(0, events(1))
    assert not buffer.changed.is_set()
    buffer.remove({0: (1, 10)})
    assert buffer.changed.is_set()
    buffer.changed.clear()
    buffer.share_among(3)
    assert buffer.changed.is_set()
