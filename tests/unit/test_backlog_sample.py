"""The sample of pending events: exact for few, and bounded, even and of the right size for many."""

from __future__ import annotations

from itertools import pairwise

import pytest

from relay.decide.backlog_sample import MOST_SLICES, SLICE_IDS, Pending, estimate, slices


@pytest.mark.parametrize("ids", [0, 1, SLICE_IDS, SLICE_IDS + 1, SLICE_IDS * MOST_SLICES])
def test_few_ids_are_looked_at_as_a_whole(ids: int) -> None:
    found = list(slices(1_000, 1_000 + ids))
    assert [id_ for above, up_to in found for id_ in range(above + 1, up_to + 1)] == list(range(1_001, 1_001 + ids))
    assert all(0 < up_to - above <= SLICE_IDS for above, up_to in found)


@pytest.mark.parametrize("ids", [SLICE_IDS * MOST_SLICES + 1, 1_000_000, 2**62])
def test_of_many_ids_the_first_the_last_and_some_between_are_looked_at(ids: int) -> None:
    found = list(slices(7, 7 + ids))
    assert len(found) == MOST_SLICES
    assert found[0] == (7, 7 + SLICE_IDS)
    assert found[-1] == (7 + ids - SLICE_IDS, 7 + ids)
    gaps = [later[0] - earlier[1] for earlier, later in pairwise(found)]
    assert min(gaps) >= 0
    assert max(gaps) - min(gaps) <= 1


def test_what_was_seen_is_scaled_to_all_ids_and_the_oldest_counts() -> None:
    seen = [("orders", 100, 60.0), ("bills", 10, 50.0), ("orders", 140, 20.0)]
    assert estimate(0, 10_000, 1_000, seen) == {"orders": Pending(2_400.0, 60.0), "bills": Pending(100.0, 50.0)}
    assert estimate(0, 1_000, 1_000, seen)["orders"] == Pending(240.0, 60.0)
    assert estimate(5, 5, 0, []) == {}
