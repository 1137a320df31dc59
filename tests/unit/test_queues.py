"""What publish has of all topics in its hands."""

from __future__ import annotations

import pytest

from relay.decide.admission import Admission
from relay.decide.room import Room
from relay.stages.publish.partition import Flight
from relay.stages.publish.queues import Topics
from relay.stages.tenure import Tenure
from tests.support.events import event, events, ids
from tests.support.producers import MAIN

NOW = 1_000.0


@pytest.fixture
def topics() -> Topics:
    """One with two partitions, and one whose partitions are not known yet."""
    topics = Topics(hash_keys=lambda keys: [0] * len(keys), random=lambda: 0.0, admission=Admission())
    topics.new("known").resolved(2)
    topics.new("unknown")
    return topics


def test_what_is_in_flight_is_counted_by_tenure(topics: Topics) -> None:
    former, current = Tenure(Room(1, 1)), Tenure(Room(1, 1))
    first, second = topics.partitions()
    first.flights.append(Flight(former, MAIN, events(1, 2), NOW))
    second.flights.append(Flight(current, MAIN, events(3, 4, 5), NOW))
    assert len(list(topics.flights())) == 2
    assert topics.in_flight == 5
    assert topics.in_flight_beside(current) == 2
    assert topics.in_flight_beside(former) == 3


def test_what_is_not_in_flight_can_be_taken_back(topics: Topics) -> None:
    first, _ = topics.partitions()
    first.flights.append(Flight(Tenure(Room(1, 1)), MAIN, events(1), NOW))
    first.add(events(2, 3))
    topics["unknown"].route(events(4, 5))
    assert ids(topics.withdraw(lambda each: each.id in (1, 3, 4))) == [3, 4]
    assert ids(topics.withdraw()) == [2, 5]
    assert topics.in_flight == 1


@pytest.mark.parametrize("where", ["waiting", "in flight", "unrouted"])
def test_the_age_is_that_of_the_oldest_wherever_it_is(topics: Topics, where: str) -> None:
    assert topics.oldest_age(NOW) == 0.0
    first, second = topics.partitions()
    young, old = event(1)._replace(created_ms=998_000), event(2)._replace(created_ms=990_000)
    first.add([young])
    match where:
        case "waiting":
            second.add([old])
        case "in flight":
            second.flights.append(Flight(Tenure(Room(1, 1)), MAIN, [old], NOW))
        case _:
            topics["unknown"].route([old])
    assert topics.oldest_age(NOW) == 10.0
    assert topics.oldest_age(900.0) == 0.0, "its clock is ahead of ours"
