"""How many segments are made ahead, by the rate at which ids are taken."""

from __future__ import annotations

from relay.decide.ahead import MOST_AHEAD, Ahead


def after(ahead: Ahead, ids_per_second: int, seconds: int, start: int = 0) -> int:
    """What is wanted after so long at that rate, looked at once a minute."""
    for now in range(0, seconds + 1, 60):
        wanted = ahead.segments(float(now), start + now * ids_per_second)
    return wanted


def test_what_the_setting_says_is_the_least() -> None:
    assert after(Ahead(5_000_000, 2), 10, 3600) == 2


def test_enough_for_four_hours_of_the_present_rate() -> None:
    assert after(Ahead(5_000_000, 2), 5_000, 3600) == 15


def test_there_is_a_bound_but_for_what_the_setting_says() -> None:
    assert after(Ahead(5_000_000, 2), 1_000_000, 3600) == MOST_AHEAD
    assert after(Ahead(5_000_000, 100), 1_000_000, 3600) == 100


def test_a_bulk_load_of_a_moment_is_no_rate() -> None:
    ahead = Ahead(1_000, 2)
    assert ahead.segments(0.0, 0) == 2
    assert ahead.segments(60.0, 1_000_000) == 2


def test_a_rate_of_the_past_is_forgotten() -> None:
    ahead = Ahead(5_000_000, 2)
    assert after(ahead, 5_000, 3600) == 15
    for minute in range(61, 130):
        wanted = ahead.segments(minute * 60.0, 3600 * 5_000)
    assert wanted == 2


def test_ids_that_went_back_are_another_beginning() -> None:
    ahead = Ahead(5_000_000, 2)
    assert after(ahead, 5_000, 3600) == 15
    assert ahead.segments(3660.0, 7) == 2
