"""Which ids the sampled check looks at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.decide.check_sample import Coverage, Slice


@given(st.floats(0, 0.999), st.integers(1, 50), st.integers(0, 300), st.integers(1, 40))
def test_one_round_looks_at_every_id_that_is_kept(start: float, oldest: int, kept: int, ids: int) -> None:
    coverage = Coverage(start)
    highest = oldest - 1 + kept
    seen: set[int] = set()
    for _ in range(kept // ids + 3):
        for above, up_to in coverage.next(oldest, highest, ids):
            assert 0 < up_to - above <= ids
            seen |= set(range(above + 1, up_to + 1))
    assert seen == set(range(oldest, highest + 1))


def test_each_look_includes_what_is_newest() -> None:
    coverage = Coverage(0.0)
    assert coverage.next(1, 1_000, 10) == [Slice(990, 1_000), Slice(0, 10)]
    assert coverage.next(1, 1_200, 10) == [Slice(1_190, 1_200), Slice(10, 20)]


@pytest.mark.parametrize("oldest", [15, 40])
def test_the_round_goes_on_where_segments_were_dropped_meanwhile(oldest: int) -> None:
    coverage = Coverage(0.0)
    coverage.next(1, 1_000, 20)
    above = max(20, oldest - 1)
    assert coverage.next(oldest, 1_000, 20)[1] == Slice(above, above + 20)


def test_there_is_nothing_to_look_at_in_an_empty_outbox() -> None:
    assert Coverage(0.5).next(1, 0, 10) == []
