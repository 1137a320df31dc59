"""What passes between scan and publish, and what is held back."""

from __future__ import annotations

import pytest

from relay.decide.held_back import Closed
from relay.decide.lane_scan import LaneScan
from relay.decide.room import Room
from relay.decide.snapshot import Snapshot
from relay.stages.hold.gate import Gate
from relay.stages.settle.outcomes import Held, Outcomes
from relay.stages.tenure import Tenure
from tests.support.events import event, ids

LANE = 3


class Door:
    """A gate, what it passes on, and what it has recorded."""

    def __init__(self) -> None:
        self.outcomes = Outcomes()
        self.gate = Gate(self.outcomes)
        self.tenure = Tenure(Room(1_000, 1_000_000))
        self.tenure.add_lane(LaneScan.take_over(LANE, 1, 0, 0, Snapshot(1, 1, frozenset())), Closed())
        self.passed: list[int] = []
        self.gate.serve(self.tenure, lambda events: self.passed.extend(ids(events)))

    def take(self, *numbers: int, key: bytes | None = b"k", topic: str = "orders") -> None:
        """A scan took events."""
        self.gate.take([event(number, lane=LANE, key=key, topic=topic) for number in numbers])

    async def held(self) -> list[int]:
        """What was held back since."""
        found: list[int] = []
        while self.outcomes.waiting:
            taken = await self.outcomes.take(100)
            self.outcomes.settled(taken)
            assert all(isinstance(each, Held) for each in taken)
            found += [id_ for each in taken for id_ in ids(each.events)]
        return found


@pytest.fixture
def door() -> Door:
    return Door()


async def test_events_pass_as_long_as_nothing_is_closed(door: Door) -> None:
    door.take(1, 2)
    assert (door.passed, await door.held()) == ([1, 2], [])


async def test_events_of_a_closed_key_are_held_back_and_others_pass(door: Door) -> None:
    failed = event(1, lane=LANE)
    door.gate.close_key(failed, [event(2, lane=LANE)])
    door.take(3)
    door.take(4, key=b"other")
    door.take(5, key=None)
    assert (door.passed, await door.held()) == ([4, 5], [2, 3])


async def test_an_event_without_a_key_closes_nothing(door: Door) -> None:
    door.gate.close_key(event(1, lane=LANE, key=None), [])
    door.take(2, key=None)
    assert (door.passed, await door.held()) == ([2], [])


async def test_events_of_a_closed_topic_are_held_back_in_all_lanes_and_those_that_waited_too(door: Door) -> None:
    door.gate.close("orders", [event(1, lane=LANE), event(2, lane=LANE + 1)])
    door.take(3)
    door.take(4, topic="another")
    assert (door.passed, await door.held()) == ([4], [1, 2, 3])
    assert door.tenure.paused == {"orders"}


async def test_a_topic_that_opens_stays_closed_until_its_held_events_are_handed_in(door: Door) -> None:
    """Fresh ones would go before them."""
    door.gate.close("orders", [event(1, lane=LANE)])
    door.gate.open("orders")
    door.take(2)
    assert (door.passed, await door.held()) == ([], [1, 2])
    assert (door.tenure.paused, door.tenure.resume_wake_up.is_set()) == (set(), True)


async def test_what_is_held_back_during_a_pass_over_the_held_rows_is_noted(door: Door) -> None:
    closed = door.tenure.closed_in(LANE)
    closed.begin_pass()
    closed.look_again_from(10)
    door.gate.close_key(event(3, lane=LANE), [event(5, lane=LANE)])
    assert closed.held_before(event(6, lane=LANE))
    assert closed.look_again_from(10) == 4


async def test_a_new_tenure_begins_with_nothing_closed(door: Door) -> None:
    door.gate.close_key(event(1, lane=LANE), [])
    door.gate.serve(Tenure(Room(1, 1)), lambda events: door.passed.extend(ids(events)))
    door.take(2)
    assert door.passed == [2]


async def test_a_topic_that_people_paused_stays_closed_though_its_trouble_ends(door: Door) -> None:
    door.gate.close("orders", [])
    door.gate.close_as_asked(frozenset({"orders"}), [])
    door.gate.open("orders")
    door.take(1)
    assert (door.tenure.paused, await door.held()) == ({"orders"}, [1])
    door.gate.close_as_asked(frozenset(), [])
    assert (door.tenure.paused, door.tenure.resume_wake_up.is_set()) == (set(), True)


async def test_a_lane_that_is_claimed_while_people_have_paused_a_topic_holds_its_events_back(door: Door) -> None:
    door.gate.close_as_asked(frozenset({"orders"}), [])
    door.tenure.add_lane(LaneScan.take_over(LANE, 2, 0, 0, Snapshot(1, 1, frozenset())), Closed())
    door.take(1)
    assert (door.passed, await door.held()) == ([], [1])
