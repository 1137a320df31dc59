"""What the demo measures: latencies, rates, and the pace of its writers."""

from __future__ import annotations

import pytest

from relay.demo.latency import Latencies
from relay.demo.pace import CATCH_UP_SECONDS, Pace
from relay.demo.progress import Rate


def test_a_latency_is_known_once_both_moments_were_told_in_either_order() -> None:
    latencies = Latencies()
    assert latencies.committed("first", 10.0) is None
    assert latencies.arrived("first", 10.002) == pytest.approx(2.0)
    assert latencies.arrived("second", 20.004) is None
    assert latencies.committed("second", 20.0) == pytest.approx(4.0)
    assert (latencies.percentile(50), latencies.percentile(100)) == (2.0, 4.0)


def test_an_event_that_arrives_before_its_commit_has_returned_has_no_latency_below_zero() -> None:
    latencies = Latencies()
    latencies.committed("event", 10.001)
    assert latencies.arrived("event", 10.0) == 0.0


def test_percentiles_are_of_the_events_and_not_of_the_values() -> None:
    latencies = Latencies()
    for event in range(100):
        latencies.committed(event, 0.0)
        latencies.arrived(event, 0.001 if event < 98 else 0.5)
    assert latencies.percentile(50) == latencies.percentile(98) == 1.0
    assert latencies.percentile(99) == 500.0
    assert latencies.recent(50) == pytest.approx(1.0)
    assert latencies.recent(99) == pytest.approx(500.0)


def test_without_events_there_is_no_percentile() -> None:
    assert Latencies().percentile(50) is None
    assert Latencies().recent(99) is None


def test_a_rate_is_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.per_second() == 0.0
    for second in range(10):
        rate.update(100 * second, float(second))
    assert rate.per_second() == 100.0
    for second in range(10, 20):
        rate.update(900, float(second))
    assert rate.per_second() == 0.0


def test_writers_are_spread_evenly_at_the_wanted_rate() -> None:
    pace = Pace(100.0, now=0.0)
    assert [pace.wait(1, 0.0) for _ in range(3)] == pytest.approx([0.0, 0.01, 0.02])
    assert pace.wait(5, 0.0) == pytest.approx(0.03)
    assert pace.wait(0, 0.0) == pytest.approx(0.08)


def test_writers_that_were_held_up_catch_up_with_a_second_of_it_only() -> None:
    pace = Pace(100.0, now=0.0)
    at_once = 0
    while pace.wait(1, 60.0) == 0.0:
        at_once += 1
    assert at_once == pytest.approx(100 * CATCH_UP_SECONDS, abs=1)
