"""How long to wait before trying again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.retry import Backoff


def test_delays_double_up_to_the_most() -> None:
    backoff = Backoff(lambda: 1.0, first=0.1, most=1.0)
    assert [round(backoff.next_delay(), 3) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_after_a_success_the_next_failure_is_a_first_one() -> None:
    backoff = Backoff(lambda: 1.0, first=0.1, most=1.0)
    backoff.next_delay()
    backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() == 0.1


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 100_000))
def test_a_delay_is_between_half_of_it_and_all_of_it_however_often_it_failed(chance: float, failures: int) -> None:
    backoff = Backoff(lambda: chance, first=0.1, most=10.0, failures=failures)
    full = min(10.0, 0.1 * 2.0 ** min(failures, 50))
    assert full / 2 <= backoff.next_delay() <= full
