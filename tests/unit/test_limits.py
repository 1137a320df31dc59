"""Which times records may have: what is read of a topic's limits, and what is learned from a refusal."""

from __future__ import annotations

import time

from relay.decide.limits import ANY_TIME, LONGEST_MARGIN, TimeLimits, TopicLimits
from relay.decide.room import Room
from relay.kafka.administration import limits_of
from relay.outcome import FailureKind, PublishError
from relay.stages.publish.limits import Limits, now_ms
from relay.stages.publish.partition import Flight
from relay.stages.tenure import Tenure
from tests.support.events import event
from tests.support.producers import MAIN

NOW = 1_800_000_000_000
HOUR = 3_600_000
NO_LIMIT = str(2**63 - 1)


def test_a_topic_without_limits_takes_any_time_since_1970() -> None:
    assert TimeLimits().bounds(NOW) == ANY_TIME
    assert TimeLimits(2**63 - 1, 2**63 - 1).bounds(NOW)[0] == 0


def test_the_bounds_stay_within_the_limits_by_a_margin_for_clocks_and_queues() -> None:
    assert TimeLimits(HOUR, HOUR).bounds(NOW) == (NOW - HOUR + LONGEST_MARGIN, NOW + HOUR - LONGEST_MARGIN)
    assert TimeLimits(1_000, 1_000).bounds(NOW) == (NOW - 899, NOW + 899)


def test_a_refused_time_is_out_of_bounds_from_then_on() -> None:
    limits = TimeLimits()
    limits.learn(NOW - HOUR, NOW)
    limits.learn(NOW - 2 * HOUR, NOW)
    limits.learn(NOW + 5, NOW)
    earliest, latest = limits.bounds(NOW)
    assert NOW - HOUR < earliest < NOW <= latest < NOW + 5


def test_limits_are_those_of_brokers_of_any_version() -> None:
    before_and_after = {"message.timestamp.before.max.ms": "5", "message.timestamp.after.max.ms": "7"}
    one_for_both = {"message.timestamp.difference.max.ms": "6"}
    assert limits_of({"max.message.bytes": "9", **before_and_after}) == TopicLimits(9, before_ms=5, after_ms=7)
    assert limits_of(one_for_both) == TopicLimits(before_ms=6, after_ms=6)
    assert limits_of({**before_and_after, **one_for_both}) == TopicLimits(before_ms=5, after_ms=6)
    assert limits_of({**before_and_after, "message.timestamp.difference.max.ms": NO_LIMIT}) == TopicLimits(
        before_ms=5, after_ms=7
    )


def test_a_topic_that_notes_the_brokers_time_has_no_limits_of_time() -> None:
    limits = limits_of({"message.timestamp.before.max.ms": "5", "message.timestamp.type": "LogAppendTime"})
    assert limits == TopicLimits()


def test_a_refused_time_of_writing_is_learned_from_and_a_refused_time_of_publishing_is_not() -> None:
    limits = Limits("orders")
    old = event(1)._replace(created_ms=now_ms() - HOUR)
    own = Flight(Tenure(Room(1, 1)), MAIN, [old], time.monotonic())
    assert limits.learn_times(own, [old])
    earliest, _ = limits.times()
    assert old.created_ms < earliest

    restamped = Flight(Tenure(Room(1, 1)), MAIN, [old], time.monotonic(), times=(earliest, 2**63))
    assert not limits.learn_times(restamped, [old])
    waited = Flight(Tenure(Room(1, 1)), MAIN, [old], time.monotonic() - 3_600, times=(earliest, 2**63))
    assert limits.learn_times(waited, [old]), "it was the time of publishing an hour ago"


def test_a_topic_that_refuses_the_time_it_is_says_which_clocks_to_set() -> None:
    limits = Limits("orders")
    error = limits.clocks_differ(PublishError(FailureKind.TIME, "out of range", "InvalidTimestampError"))
    assert error.kind is FailureKind.TOPIC
    assert "correct the clocks of the relay's and the brokers' machines" in str(error)
    assert "message.timestamp.before.max.ms" in str(error)
