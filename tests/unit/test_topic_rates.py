"""Limits on the rate of single topics: which there are, when a batch may go, and how much may wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.decide.topic_rates import BURST, PART, WAIT_SECONDS, Pace, Rate, Rates


def test_a_topic_has_the_first_limit_of_each_kind_that_matches_and_others_have_none() -> None:
    limits = [("orders", Rate(events=500)), ("orders*", Rate(bytes=2e6)), ("orders", Rate(events=9))]
    rates = Rates(limits, 8_000, 32_000_000)
    orders = rates.pace_of("orders")
    assert orders is not None
    assert orders.rate == Rate(500, 2e6)
    assert (orders.max_events, orders.max_bytes) == (1_000, 4_000_000)
    assert rates.pace_of("audit") is None
    assert rates.pace_of("orders") is not orders, "each topic has the rate for itself"
    assert not Rates()


def test_what_may_wait_is_never_more_than_a_part_of_the_buffer_nor_less_than_an_event() -> None:
    fast = Rates([("*", Rate(events=1e9))], 8_000, 100).pace_of("a")
    slow = Rates([("*", Rate(events=0.1))], 1, 1).pace_of("a")
    assert fast is not None
    assert slow is not None
    assert (fast.max_events, fast.max_bytes) == (8_000 // PART, 100 // PART)
    assert (slow.max_events, slow.max_bytes, slow.most_per_batch) == (1, 1, 1)


@given(
    rate=st.floats(1, 5_000),
    steps=st.lists(st.tuples(st.floats(0, 3), st.integers(1, 500)), min_size=1, max_size=60),
)
def test_no_more_goes_than_the_rate_a_burst_and_a_batch(rate: float, steps: list[tuple[float, int]]) -> None:
    pace = Pace(Rate(events=rate), 1_000, 1_000)
    now = sent = 0.0
    for step, wanted in steps:
        now += step
        if pace.delay(now):
            assert pace.delay(now) > BURST
            continue
        events = min(wanted, pace.most_per_batch)
        pace.charge(events, 0, now)
        sent += events
        assert sent <= rate * (now + BURST) + pace.most_per_batch + 1e-6


def test_bytes_count_as_events_do_and_the_slower_limit_wins() -> None:
    pace = Pace(Rate(events=100, bytes=1_000), 1_000, 10_000)
    pace.charge(1, 5_000, now=0.0)
    assert pace.delay(0.0) == 5.0
    assert pace.delay(4.95) == 0


def test_a_time_without_events_saves_nothing_up() -> None:
    pace = Pace(Rate(events=10), 20, 1_000)
    pace.charge(10, 0, now=1_000.0)
    assert pace.delay(1_000.0) == 1.0


@pytest.mark.parametrize(
    ("sizes", "waiting", "fit"),
    [
        ([1] * 20, (0, 0), 10),
        ([1] * 20, (4, 4), 6),
        ([1] * 20, (10, 10), 0),
        ([1] * 20, (30, 30), 0),
        ([40, 40, 40], (0, 0), 2),
        ([40, 40, 40], (1, 70), 0),
        # Larger than all that may wait: alone it may.
        ([500, 1], (0, 0), 1),
        ([500, 1], (1, 1), 0),
    ],
)
def test_so_many_of_the_next_events_may_wait(sizes: list[int], waiting: tuple[int, int], fit: int) -> None:
    assert Pace(Rate(events=5), 10, 100).fitting(sizes, *waiting) == fit


def test_there_is_room_again_when_half_has_gone() -> None:
    pace = Pace(Rate(events=5), 10, 100)
    assert pace.has_room_again(5, 50)
    assert not pace.has_room_again(6, 0)
    assert not pace.has_room_again(0, 51)


def test_a_rate_is_written_as_people_write_it() -> None:
    assert str(Rate(events=500)) == "500/s"
    assert str(Rate(bytes=2_000_000)) == "2MB/s"
    assert str(Rate(events=0.5, bytes=10_000)) == "0.5/s and 10kB/s"
    assert WAIT_SECONDS > BURST
