"""Events that wait until their topic's partitions are known."""

from __future__ import annotations

from relay.retry import Backoff
from relay.stages.publish.topic import Topic
from tests.support.events import events, ids


def new_topic() -> Topic:
    return Topic("orders", lambda: Backoff(lambda: 0.0), lambda keys: [0] * len(keys))


def test_what_waited_is_routed_in_parts_and_what_comes_meanwhile_goes_behind_it() -> None:
    topic = new_topic()
    topic.route(events(1, 2, 3, 4, 5))
    (partition,) = topic.resolved(1)
    assert topic.route_waiting(2)
    topic.route(events(6))
    assert ids(list(partition.waiting)) == [1, 2]
    assert topic.route_waiting(2)
    assert not topic.route_waiting(2)
    topic.route(events(7))
    assert ids(list(partition.waiting)) == [1, 2, 3, 4, 5, 6, 7]
    assert not topic.unrouted


def test_nothing_is_routed_while_the_number_of_partitions_is_in_question_again() -> None:
    topic = new_topic()
    topic.route(events(1, 2))
    (partition,) = topic.resolved(1)
    topic.route_waiting(1)
    topic.unresolve()
    assert not topic.route_waiting(1)
    topic.route(events(3))
    assert (ids(list(partition.waiting)), ids(list(topic.unrouted))) == ([1], [2, 3])
